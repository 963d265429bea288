//! The poll thread.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::unistd::Pid;
use ringbell_drivers::clock::ticks;
use ringbell_drivers::{Error, Result};

use crate::config::{IdlePolicy, PollerConfig};
use crate::core::Core;
use crate::device::Device;

/// What a poller's handle and its thread share.
#[derive(Default)]
struct Control {
    stop: AtomicBool,
    sleeps: AtomicU64,
}

/// A poll thread: drains the completions of its devices and wakes their contexts.
///
/// Dropping it shuts it down, as [`shutdown`](Self::shutdown) does. It blocks all signals.
pub struct Poller {
    devices: Vec<Device>,
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
    thread_id: ThreadId,
}

/// A poller in the making: which devices, and how.
#[derive(Debug, Default)]
pub struct PollerBuilder {
    devices: Vec<Device>,
    config: PollerConfig,
}

impl PollerBuilder {
    /// No devices, default configuration.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a device.
    #[must_use]
    pub fn device(mut self, device: &Device) -> Self {
        self.devices.push(device.clone());
        self
    }

    /// Sets the configuration.
    #[must_use]
    pub fn config(mut self, config: PollerConfig) -> Self {
        self.config = config;
        self
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// No device, a device that has a poller already, a configuration out of range, a core that this
    /// process may not use, or the system's.
    pub fn spawn(self) -> Result<Poller> {
        self.config.check()?;
        let idle = self.config.idle;
        let core_number = self.config.core;
        let name = self.config.thread_name.clone();
        let control = Arc::new(Control::default());
        let shared = Arc::clone(&control);
        let (started, ready) = std::sync::mpsc::channel();
        let (give_core, core) = std::sync::mpsc::channel();
        let run = move || {
            let told = started.send(prepare_thread(core_number)).is_ok();
            // The core comes when the thread is known to be fit, and not at all where that fails.
            if let (true, Ok(core)) = (told, core.recv()) {
                run(core, &shared, idle);
            }
        };
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(run)
            .map_err(|e| Error::io("start the poll thread", e))?;
        ready.recv().map_err(|_| Error::Down("without a poll thread: it died"))??;
        let core = Core::new(self.devices.clone(), self.config)?;
        give_core.send(core).map_err(|_| Error::Down("without a poll thread: it died"))?;
        let thread_id = thread.thread().id();
        Ok(Poller { devices: self.devices, control, thread: Some(thread), thread_id })
    }
}

impl Poller {
    /// Starts a poll thread for one device.
    ///
    /// # Errors
    /// As for [`PollerBuilder::spawn`].
    pub fn spawn(device: &Device, config: PollerConfig) -> Result<Self> {
        PollerBuilder::new().device(device).config(config).spawn()
    }

    /// How often the thread has gone to sleep.
    pub fn sleeps(&self) -> u64 {
        self.control.sleeps.load(Ordering::Relaxed)
    }

    /// Refuses new requests, waits for those in flight, at most the grace time of the configuration,
    /// stops the devices, ends the rest with `ERR`, and returns when the thread has ended.
    ///
    /// Inside a callback it only asks for all that, and returns: the poll thread does it afterwards.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // In a forked child there is no thread to tell or to join.
        if self.devices.iter().any(|device| device.inner().is_child()) {
            std::mem::forget(thread);
            return;
        }
        self.control.stop.store(true, Ordering::Release);
        for device in &self.devices {
            device.inner().engine().wake().wake();
        }
        if std::thread::current().id() != self.thread_id && thread.join().is_err() {
            tracing::error!("the poll thread panicked");
        }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").field("devices", &self.devices).finish_non_exhaustive()
    }
}

/// Blocks all signals, and pins the thread where asked.
fn prepare_thread(core: Option<usize>) -> Result<()> {
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None)
        .map_err(|e| Error::io("block signals in the poll thread", e))?;
    if let Some(core) = core {
        let mut set = CpuSet::new();
        set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).map_err(|e| {
            Error::io_with(format!("pin the poll thread to core {core}"), e, "see taskset -pc $$")
        })?;
    }
    Ok(())
}

/// Empty passes after which an adaptive poller backs off: it pauses twice as long between looks.
const SPINS: u32 = 32;
/// The most pauses between two looks, about a microsecond: a latency that nobody notices who has
/// waited for ten already.
const PAUSES: u32 = 32;

fn run(mut core: Core, control: &Control, idle: IdlePolicy) {
    let patience = match idle {
        IdlePolicy::Spin => u64::MAX,
        IdlePolicy::Adaptive(limit) => core.rate().ticks_in(limit),
        IdlePolicy::Interrupt => 0,
    };
    let mut last_work = ticks();
    let mut empty = 0_u32;
    loop {
        let work = core.pass();
        // Also while there is work: callbacks that submit again must not keep a shutdown waiting.
        if control.stop.load(Ordering::Acquire) {
            core.close();
            if core.is_over() {
                return;
            }
        }
        if work > 0 {
            empty = 0;
            continue;
        }
        if empty == 0 {
            last_work = ticks();
        }
        empty = empty.wrapping_add(1).max(1);
        let pauses = 1 << (empty / SPINS).min(PAUSES.ilog2());
        // A look at the counter costs as much as a few pauses.
        let look = pauses > 4 || empty.is_multiple_of(SPINS);
        if patience == u64::MAX {
            std::hint::spin_loop();
        } else if patience == 0 || (look && ticks().wrapping_sub(last_work) > patience) {
            control.sleeps.fetch_add(1, Ordering::Relaxed);
            // (E): a stop that the look above did not see is seen once the flag is up.
            let closing = core.is_closing();
            let result = core.sleep(None, || !closing && control.stop.load(Ordering::Relaxed));
            if let Err(error) = result {
                tracing::warn!(%error, "the poll thread cannot sleep, it goes on polling");
                std::thread::sleep(Duration::from_micros(50));
            }
            empty = 0;
        } else {
            (0..pauses).for_each(|_| std::hint::spin_loop());
        }
    }
}
