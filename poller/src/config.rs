//! What can be chosen: of a device, of a poller.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringbell_drivers::dma::ArenaOptions;
use ringbell_drivers::{Error, Result};

/// How a device is opened.
///
/// ```
/// use ringbell::{Device, DeviceOptions};
/// let options = DeviceOptions { arena_bytes: 64 << 20, ..Default::default() };
/// let device = Device::open_with("sim:", &options)?;
/// assert!(device.buffer(32 << 20).is_ok());
/// # Ok::<(), ringbell::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Bytes of DMA memory: rings and buffers. 6 MiB by default, which is within the usual
    /// locked-memory limit of 8 MiB; 64 KiB to 64 GiB.
    pub arena_bytes: usize,
    /// Use huge pages for it when there are some. True by default.
    pub huge_pages: bool,
    /// The most descriptors of a ring: a power of two from 8 to 32768; the device may have fewer.
    /// 1024 by default.
    pub queue_size: u16,
    /// How long the device may take to reset or to create a session. 1 s by default.
    pub control_timeout: Duration,
    /// Use indirect descriptors where the device has them: a request then takes one ring entry, not
    /// four. True by default.
    pub indirect: bool,
    /// Use event indexes where the device has them: fewer notifications. True by default.
    pub event_idx: bool,
    /// Fill free DMA memory with a pattern and check it when it is handed out again: a device that
    /// writes where it must not is found, logged, and counted in
    /// [`Stats::stray_writes`](crate::Stats::stray_writes). For tests: it costs a pass over each
    /// buffer. False by default.
    pub check_memory: bool,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        let driver = ringbell_drivers::virtio_crypto::OpenOptions::default();
        Self {
            arena_bytes: driver.arena.bytes,
            huge_pages: driver.arena.huge_pages,
            queue_size: driver.queue_size,
            control_timeout: driver.limit,
            indirect: driver.indirect,
            event_idx: driver.event_idx,
            check_memory: driver.arena.check,
        }
    }
}

impl DeviceOptions {
    pub(crate) fn for_driver(&self) -> ringbell_drivers::virtio_crypto::OpenOptions {
        ringbell_drivers::virtio_crypto::OpenOptions {
            arena: ArenaOptions {
                bytes: self.arena_bytes,
                huge_pages: self.huge_pages,
                check: self.check_memory,
            },
            queue_size: self.queue_size,
            limit: self.control_timeout,
            indirect: self.indirect,
            event_idx: self.event_idx,
        }
    }
}

/// What the poll thread does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Never sleeps: the lowest latency, a whole core.
    Spin,
    /// Spins as long as this without a completion, then sleeps until an interrupt, a submission or
    /// a timer. The default, with 50 us.
    Adaptive(Duration),
    /// Sleeps as soon as there is nothing to drain.
    Interrupt,
}

impl IdlePolicy {
    /// The default: adaptive, 50 us.
    pub const ADAPTIVE: Self = Self::Adaptive(Duration::from_micros(50));
}

/// How a poller works.
#[derive(Clone, Debug)]
pub struct PollerConfig {
    /// What it does when idle.
    pub idle: IdlePolicy,
    /// Completions taken from one queue before the next queue has its turn: 1 to 65536, 256 by
    /// default.
    pub budget: usize,
    /// How long a request may take before it ends with `ERR` and its slot goes into quarantine. At
    /// least 8 ms; 1 s by default. A request ends at most an eighth of it later.
    pub request_timeout: Duration,
    /// How long a queue with work in flight may go without any completion before the device is
    /// reset. 2 s by default.
    pub stall_limit: Duration,
    /// A callback that runs longer than this is counted and warned of. 10 us by default.
    pub slow_callback: Duration,
    /// How often a device that had a fault is tried to be brought back before it is failed. A fault soon
    /// after a recovery counts as a try that failed; after as many requests as the queues hold, or a
    /// minute, it is forgotten. 5 by default; 0: the first fault fails the device.
    pub recovery_tries: u32,
    /// The pause before the second try; each further one is four times as long, at most 1 s. The first
    /// try is made at once. 10 ms by default.
    pub recovery_pause: Duration,
    /// When a device is failed, do its work on the poll thread by software: what is submitted from
    /// then on, and what is in flight at that moment with a separate output, so that its input is
    /// there still. False by default. Needs the feature `failover` of this crate, which is on by default.
    pub failover: bool,
    /// How long a shutdown waits for requests in flight before it ends them with `ERR`. 1 s by
    /// default.
    pub grace: Duration,
    /// Pin the poll thread to this core.
    pub core: Option<usize>,
    /// Name of the poll thread, at most 15 bytes.
    pub thread_name: String,
    /// Where deadlines get their time from.
    pub clock: Clock,
}

impl Default for PollerConfig {
    fn default() -> Self {
        Self {
            idle: IdlePolicy::ADAPTIVE,
            budget: 256,
            request_timeout: Duration::from_secs(1),
            stall_limit: Duration::from_secs(2),
            slow_callback: Duration::from_micros(10),
            recovery_tries: 5,
            recovery_pause: Duration::from_millis(10),
            failover: false,
            grace: Duration::from_secs(1),
            core: None,
            thread_name: "ringbell-poll".to_owned(),
            clock: Clock::System,
        }
    }
}

impl PollerConfig {
    pub(crate) fn check(&self) -> Result<()> {
        let bad = |why: String| Err(Error::Invalid(format!("cannot make a poller: {why}")));
        if !(1..=65536).contains(&self.budget) {
            return bad(format!("a budget of {} is outside of 1 to 65536", self.budget));
        }
        if self.request_timeout < Duration::from_millis(8) {
            return bad(format!("a request timeout of {:?} is below 8 ms", self.request_timeout));
        }
        if self.stall_limit < Duration::from_millis(8) {
            return bad(format!("a stall limit of {:?} is below 8 ms", self.stall_limit));
        }
        if self.failover && !cfg!(feature = "failover") {
            return bad("failover needs this crate's feature of that name".to_owned());
        }
        if self.thread_name.contains('\0') {
            return bad("its thread's name contains a zero byte".to_owned());
        }
        Ok(())
    }

    /// How often deadlines, stalls and the device's health are looked at: twice in an eighth of the
    /// shorter limit (a request is found up to one look late, and ended up to one look late), and at
    /// least eight times a second.
    pub(crate) fn tick(&self) -> Duration {
        (self.request_timeout.min(self.stall_limit) / 16).min(Duration::from_millis(125))
    }
}

/// Where a poller gets its time from.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The system's monotonic clock.
    #[default]
    System,
    /// A clock that is moved by hand, for tests.
    Manual(ManualClock),
}

impl Clock {
    pub(crate) fn reader(&self) -> ClockReader {
        match self {
            Self::System => ClockReader::System(Instant::now()),
            Self::Manual(clock) => ClockReader::Manual(clock.clone()),
        }
    }
}

/// A clock in use: durations since it was made.
#[derive(Debug)]
pub(crate) enum ClockReader {
    System(Instant),
    Manual(ManualClock),
}

impl ClockReader {
    pub(crate) fn now(&self) -> Duration {
        match self {
            Self::System(start) => start.elapsed(),
            Self::Manual(clock) => Duration::from_nanos(clock.0.load(Ordering::Acquire)),
        }
    }

    pub(crate) fn is_manual(&self) -> bool {
        matches!(self, Self::Manual(_))
    }
}

/// A clock that stands still until it is moved.
///
/// A poller that goes by it looks at it at each pass; one that sleeps does not see it move, so use
/// it with a [`ManualPoller`](crate::ManualPoller).
#[derive(Clone, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// At zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(nanos, Ordering::AcqRel);
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManualClock({} ns)", self.0.load(Ordering::Relaxed))
    }
}
