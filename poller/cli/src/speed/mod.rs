//! `ringbell speed`: the main job as a measurement.
//!
//! ```text
//!   run       one size with a poll thread: sets up, starts the workers, adds up
//!     worker  one submitting thread: its contexts, its deliveries, its burst
//!     tasks   the same with futures, and an executor for them
//!   phased    one size without a poll thread: burst, device, drain; in TSC ticks
//!   op        the operations by their names
//!   work      what is asked of the device, and what has to come out
//!   report    one object or one line for each size
//!   plot      all sizes as a figure
//! ```

mod op;
mod phased;
mod plot;
mod report;
mod run;
mod tasks;
mod work;
mod worker;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ringbell::{Device, DeviceOptions, DeviceState, Stats};

use crate::cli::{Idle, SpeedArgs, Wake};
use crate::device::DeviceName;
use crate::error::{Error, Result};
use op::Op;

/// Bytes of a request, unless told otherwise.
const DEFAULT_SIZE: usize = 1024;

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    Time(Duration),
    Ops(u64),
}

/// What is to be measured, for one size.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) device: DeviceName,
    pub(crate) op: Op,
    /// Bytes of a request; of RSA, of the modulus.
    pub(crate) size: usize,
    pub(crate) in_flight: usize,
    pub(crate) threads: usize,
    pub(crate) limit: Limit,
    pub(crate) wake: Wake,
    pub(crate) idle: Idle,
    pub(crate) core: Option<usize>,
    pub(crate) phased: bool,
    pub(crate) failover: bool,
    /// Show progress on the terminal.
    pub(crate) progress: bool,
}

/// Ticks for each operation: the median over chunks of bursts, and the spread.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cycles {
    pub(crate) p10: f64,
    pub(crate) median: f64,
    pub(crate) p90: f64,
}

/// What was measured.
pub(crate) struct Measured {
    pub(crate) elapsed: Duration,
    pub(crate) counts: Counts,
    /// The device before it was shut down, and what it has been through.
    pub(crate) fate: Fate,
    /// In TSC ticks.
    pub(crate) latency: Histogram<u64>,
    pub(crate) ticks_per_second: f64,
    /// Of enqueue and dequeue.
    pub(crate) cycles: Option<(Cycles, Cycles)>,
    /// Why the result is no success, in words; it is printed all the same.
    pub(crate) trouble: Option<String>,
    /// It was stopped by a signal.
    pub(crate) interrupted: bool,
}

/// What became of the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate {
    pub(crate) state: DeviceState,
    pub(crate) faults: u64,
    pub(crate) recoveries: u64,
    pub(crate) failed_over: u64,
}

/// How long a device that is suspect or being reset has to become ready or failed: the poller's stall
/// limit and all its tries are shorter.
const SETTLE: Duration = Duration::from_secs(30);

impl Fate {
    /// Waits until it is decided; `wait` lets the poller work for a moment.
    pub(crate) fn of(device: &Device, mut wait: impl FnMut()) -> Self {
        let start = Instant::now();
        let undecided = |state| matches!(state, DeviceState::Suspect | DeviceState::Resetting);
        while undecided(device.state()) && start.elapsed() < SETTLE {
            wait();
        }
        let stats = device.stats();
        Self {
            state: device.state(),
            faults: stats.faults,
            recoveries: stats.recoveries,
            failed_over: stats.failed_over,
        }
    }

    /// Whether the device had a fault and came back.
    fn came_back(&self) -> bool {
        self.recoveries > 0 && self.state == DeviceState::Ready
    }
}

/// What the command itself counts, independently of the library.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) submitted: u64,
    pub(crate) completed: u64,
    pub(crate) callbacks: u64,
    pub(crate) eagain: u64,
    pub(crate) errors: u64,
    pub(crate) verified: u64,
    pub(crate) mismatches: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.submitted += other.submitted;
        self.completed += other.completed;
        self.callbacks += other.callbacks;
        self.eagain += other.eagain;
        self.errors += other.errors;
        self.verified += other.verified;
        self.mismatches += other.mismatches;
    }

    /// Whether every accepted request was delivered once, and the library says the same.
    pub(crate) fn check(&self, stats: &Stats) -> Result<(), String> {
        let ours = (self.submitted, self.callbacks, self.completed, self.errors);
        let theirs = (stats.accepted, stats.deliveries, stats.completed, stats.errors);
        if self.submitted != self.callbacks || self.callbacks != self.completed + self.errors {
            Err(format!(
                "{} requests were accepted, {} delivered, {} completed, {} ended with errors: \
                 some were lost or delivered twice",
                ours.0, ours.1, ours.2, ours.3
            ))
        } else if ours != theirs || self.eagain != stats.eagain {
            Err(format!(
                "accepted, delivered, completed, errors, EAGAIN were counted as {ours:?} {}, \
                 and by the library as {theirs:?} {}",
                self.eagain, stats.eagain
            ))
        } else {
            Ok(())
        }
    }

    /// What of it is no success. Requests that were lost to a fault are none, but where the device
    /// came back (or software took its place) that is what was to be shown.
    pub(crate) fn trouble(&self, first_error: Option<&str>, fate: &Fate) -> Option<String> {
        let first = first_error.unwrap_or("no reason is known");
        let goes_on = self.completed > 0 && (fate.came_back() || fate.failed_over > 0);
        let excused = if goes_on { self.errors } else { 0 };
        if self.mismatches > 0 {
            Some(format!("{} of {} results are wrong", self.mismatches, self.verified))
        } else if fate.state == DeviceState::Failed && fate.failed_over == 0 {
            Some(format!(
                "the device failed and did not come back; {} of {} requests ended with errors, the first: \
                 {first}",
                self.errors, self.submitted
            ))
        } else if self.errors > excused {
            Some(format!(
                "{} of {} requests ended with errors, the first: {first}",
                self.errors, self.submitted
            ))
        } else {
            None
        }
    }
}

/// A histogram of ticks: three digits, up to some minutes.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_max(1 << 40, 3).map_err(|e| Error::failed("make a histogram", e))
}

/// SIGINT and SIGTERM as something to be asked for: the run then ends early and is reported.
pub(crate) struct Interrupt(SignalFd);

impl Interrupt {
    fn new() -> Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGTERM);
        let made = signals
            .thread_block()
            .and_then(|()| SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC));
        made.map(Self).map_err(|e| Error::failed("watch for signals", e.desc()))
    }

    /// Whether a signal has come since the last look.
    pub(crate) fn came(&self) -> bool {
        matches!(self.0.read_signal(), Ok(Some(_)))
    }
}

/// Measures every size and prints each result as soon as it is there.
pub(crate) fn run(args: &SpeedArgs) -> Result<()> {
    let device = DeviceName::read(&args.device)?;
    let interrupt = Interrupt::new()?;
    let opened = Device::open_with(&device.text, &DeviceOptions::default())
        .map_err(|e| Error::library(&format!("open device {}", device.text), e))?;
    if args.op == "list" {
        plot::refuse_with_list(args)?;
        return report::operations(args, &opened);
    }
    let plans = plans(args, &device, &opened)?;
    drop(opened);
    let mut plot = plot::Plot::open(args)?;
    let mut report = report::Report::new(args.json);
    for plan in &plans {
        let measured =
            if plan.phased { phased::measure(plan, &interrupt)? } else { run::measure(plan, &interrupt)? };
        report.print(plan, &measured)?;
        if let Some(plot) = &mut plot {
            plot.add(plan, &measured);
        }
        let attempted = || format!("vouch for {} with {} bytes", plan.op, plan.size);
        if let Some(why) = measured.trouble {
            return Err(Error::failed(attempted(), why));
        }
        if measured.interrupted {
            return Err(Error::failed("finish the measurement", "it was interrupted"));
        }
    }
    plot.map_or(Ok(()), plot::Plot::finish)
}

fn plans(args: &SpeedArgs, device: &DeviceName, opened: &Device) -> Result<Vec<Plan>> {
    let op = Op::read(&args.op, args.decrypt, opened)?;
    let (in_flight, threads) = (args.in_flight as usize, args.threads as usize);
    let wrong = |what: &str, why: String| Err(Error::usage(format!("measure with {what}"), why));
    if in_flight < threads {
        let why = format!("each of {threads} threads needs a request; raise --in-flight");
        return wrong(&format!("--in-flight {in_flight}"), why);
    }
    if args.phased && threads > 1 {
        return wrong(&format!("--phased --threads {threads}"), "a phased run has one thread".to_owned());
    }
    if args.phased && args.wake != Wake::Callback {
        let what = format!("--phased --wake {}", args.wake.name());
        return wrong(&what, "a phased run drains by callbacks".to_owned());
    }
    let depth = opened.capabilities().queue_depth as usize;
    if args.phased && in_flight > depth {
        let why = format!("a burst has to fit in the queue of {depth} requests; lower --in-flight");
        return wrong(&format!("--phased --in-flight {in_flight}"), why);
    }
    let sizes = match (op, args.sizes.as_slice()) {
        (Op::Rsa(rsa), []) => vec![rsa.size()],
        (Op::Rsa(_), [size, ..]) => {
            let why = format!("the size of {op} is that of its modulus; drop --size");
            return wrong(&format!("--size {size}"), why);
        }
        (_, []) => vec![DEFAULT_SIZE],
        (_, sizes) => sizes.to_vec(),
    };
    for size in &sizes {
        if let Some(why) = op.refuses(*size, opened) {
            return wrong(&format!("--size {size}"), why);
        }
    }
    let plan = |size: &usize| Plan {
        device: device.clone(),
        op,
        size: *size,
        in_flight,
        threads,
        limit: args.ops.map_or(Limit::Time(args.seconds), Limit::Ops),
        wake: args.wake,
        idle: args.idle,
        core: args.core,
        phased: args.phased,
        failover: args.failover,
        progress: !args.json && std::io::stderr().is_terminal(),
    };
    Ok(sizes.iter().map(plan).collect())
}

/// Says how a run goes, on a terminal.
pub(crate) struct Progress(Option<indicatif::ProgressBar>);

impl Progress {
    pub(crate) fn new(plan: &Plan) -> Self {
        if !plan.progress {
            return Self(None);
        }
        let bar = indicatif::ProgressBar::new_spinner();
        bar.set_message(format!("{} {} bytes", plan.op, plan.size));
        Self(Some(bar))
    }

    /// To be called about ten times a second.
    pub(crate) fn tick(&self, elapsed: Duration, limit: Limit) {
        if let Some(bar) = &self.0 {
            if let Limit::Time(time) = limit {
                bar.set_prefix(format!("{:.1}/{:.1} s", elapsed.as_secs_f64(), time.as_secs_f64()));
            }
            bar.tick();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
