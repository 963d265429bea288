//! The simulator's handle, the thread that it runs on, and its doorbells.
//!
//! ```text
//!   Sim ----+                                   device thread
//!           +--> Owner --> Core <-----------------+      (threaded mode only)
//!   functions +             ^
//!   doorbells --------------+
//! ```
//!
//! The thread and the doorbells hold the core, handles and functions hold the owner. When the last
//! owner goes, the thread is stopped and joined; a doorbell that is left rings in vain.

use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use ringbell_drivers::pci::{PciFunction, Ring};

use crate::config::SimConfig;
use crate::device::{Device, Effect};
use crate::error::SimError;
use crate::faults::{Fault, FaultKind};
use crate::function::SimFunction;
use crate::stats::SimStats;

/// How often an idle device looks at its queues again before it asks for kicks and sleeps: a few
/// microseconds, about what a kick and a wake-up cost.
const SPINS: u32 = 128;

/// Waits shorter than this are spun: the system's timer is not finer.
const SHORT_WAIT: Duration = Duration::from_micros(60);

/// A simulated device, and the way to its inside for tests: clock, steps, counts.
///
/// Clones are handles to the same device. What a driver sees is [`function`](Self::function).
///
/// ```
/// use ringbell_sim::Sim;
/// let sim = Sim::threaded("queues=2".parse()?)?;
/// assert_eq!(sim.function().interrupts().msix, 4);
/// assert_eq!(sim.stats().kicks, 0);
/// # Ok::<(), ringbell_sim::SimError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sim {
    owner: Arc<Owner>,
}

impl Sim {
    /// A device that runs on a thread of its own, named `ringbell-sim`. It sleeps when there is
    /// nothing to do. The thread ends when the last handle and the last function are dropped.
    ///
    /// # Errors
    /// Options out of range, or no thread.
    pub fn threaded(config: SimConfig) -> Result<Self, SimError> {
        let core = Core::new(config, false)?;
        let runner = Arc::clone(&core);
        let thread = thread::Builder::new().name("ringbell-sim".to_owned()).spawn(move || runner.run())?;
        // Set before anyone can have a doorbell.
        let _ = core.thread.set(thread.thread().clone());
        Ok(Self { owner: Arc::new(Owner { core, thread: Some(thread), pid: std::process::id() }) })
    }

    /// A device without a thread: it does something when [`step`](Self::step) is called, and its
    /// clock is moved by [`advance`](Self::advance). The control queue alone is served inside its
    /// doorbell.
    ///
    /// # Errors
    /// Options out of range.
    pub fn stepped(config: SimConfig) -> Result<Self, SimError> {
        let core = Core::new(config, true)?;
        Ok(Self { owner: Arc::new(Owner { core, thread: None, pid: std::process::id() }) })
    }

    /// The device as its driver sees it.
    pub fn function(&self) -> Arc<dyn PciFunction> {
        Arc::new(SimFunction::new(Arc::clone(&self.owner)))
    }

    /// The options that it was made with.
    pub fn config(&self) -> SimConfig {
        self.owner.core.device().config.clone()
    }

    /// Takes every available request from all data queues, kicked or not, and completes those
    /// whose latency has passed on the device's clock. Returns how many were completed.
    ///
    /// For a device made by [`stepped`](Self::stepped); a threaded one answers 0 and does nothing.
    pub fn step(&self) -> usize {
        self.step_n(usize::MAX)
    }

    /// As [`step`](Self::step), with at most `max` completions. Over several calls, each queue is
    /// the first in turn.
    pub fn step_n(&self, max: usize) -> usize {
        let core = &self.owner.core;
        if core.stepped { core.device().step(max) } else { 0 }
    }

    /// Moves the clock of a device made by [`stepped`](Self::stepped); others have a real one.
    pub fn advance(&self, by: Duration) {
        self.owner.core.device().advance(by);
    }

    /// Lets something go wrong, from now on: its `N` counts from this moment, so that `@0` is at
    /// once and `@1` the next request.
    ///
    /// ```
    /// # use ringbell_sim::{FaultKind, Sim};
    /// let sim = Sim::stepped(Default::default())?;
    /// sim.inject("drop@10:x3".parse()?);
    /// sim.inject(FaultKind::Slow.into());
    /// assert_eq!(sim.struck(FaultKind::Drop), 0);
    /// # Ok::<(), ringbell_sim::SimError>(())
    /// ```
    pub fn inject(&self, fault: Fault) {
        let core = &self.owner.core;
        core.device().inject(fault);
        // A storm may begin.
        core.apply(Effect::Wake);
    }

    /// How often faults of that kind struck: a request, an answer, an interrupt that it spoilt, or
    /// a state that it began.
    pub fn struck(&self, kind: FaultKind) -> u64 {
        self.owner.core.device().struck(kind)
    }

    /// What happened so far.
    pub fn stats(&self) -> SimStats {
        let core = &self.owner.core;
        SimStats {
            kicks: core.kick_count.load(Ordering::Relaxed),
            bad_kicks: core.bad_kicks.load(Ordering::Relaxed),
            ..core.device().stats()
        }
    }
}

#[cfg(test)]
impl Sim {
    pub(crate) fn core_for_test(&self) -> std::sync::Weak<Core> {
        Arc::downgrade(&self.owner.core)
    }
}

/// Stops the thread when the last handle goes.
pub(crate) struct Owner {
    pub(crate) core: Arc<Core>,
    thread: Option<JoinHandle<()>>,
    pid: u32,
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner").field("threaded", &self.thread.is_some()).finish_non_exhaustive()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        if self.pid != std::process::id() {
            // A forked child: the thread is not here, and its handle must not be touched.
            mem::forget(thread);
            return;
        }
        // Pairs with the load in `run`.
        self.core.stop.store(true, Ordering::Release);
        thread.thread().unpark();
        let _ = thread.join();
    }
}

/// What a doorbell looks at without the lock. Relaxed: one of another thread may be a little late,
/// as on a bus.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// The function answers memory accesses, doorbells among them.
    memory_enabled: AtomicBool,
    /// There is no function any more: doorbells vanish.
    removed: AtomicBool,
}

impl Gate {
    /// The function is gone.
    pub(crate) fn remove(&self) {
        self.removed.store(true, Ordering::Relaxed);
        self.memory_enabled.store(false, Ordering::Relaxed);
    }
}

/// What handles, doorbells and the thread share.
#[derive(Debug)]
pub(crate) struct Core {
    device: Mutex<Device>,
    /// Threads that want the lock for a register access: the device thread lets them in.
    waiting: AtomicU32,
    /// A bit for each queue that was kicked and not looked at since.
    kicks: [AtomicU64; 2],
    kick_count: AtomicU64,
    bad_kicks: AtomicU64,
    gate: Arc<Gate>,
    /// A kick of the control queue that came without bus mastering (stepped mode).
    control_held: AtomicBool,
    stop: AtomicBool,
    thread: OnceLock<Thread>,
    stepped: bool,
    /// Index of the control queue.
    control: u16,
    /// Doorbells ring whatever is written to them.
    any_value: bool,
    /// Rounds of the device thread, to see that it sleeps.
    #[cfg(test)]
    pub(crate) rounds: AtomicU64,
    pub(crate) address: String,
}

impl Core {
    fn new(config: SimConfig, stepped: bool) -> Result<Arc<Self>, SimError> {
        config.validate()?;
        let gate = Arc::new(Gate::default());
        Ok(Arc::new(Self {
            waiting: AtomicU32::new(0),
            kicks: [AtomicU64::new(0), AtomicU64::new(0)],
            kick_count: AtomicU64::new(0),
            bad_kicks: AtomicU64::new(0),
            control_held: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            thread: OnceLock::new(),
            stepped,
            control: config.queues,
            any_value: config.quirks.qemu(),
            #[cfg(test)]
            rounds: AtomicU64::new(0),
            address: format!("sim:{config}"),
            device: Mutex::new(Device::new(config, stepped, Arc::clone(&gate))),
            gate,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Device> {
        // What the lock guards is consistent between any two statements: a panic breaks nothing.
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device, for anyone but its thread.
    pub(crate) fn device(&self) -> MutexGuard<'_, Device> {
        // Relaxed: it is a wish; the lock orders everything.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let device = self.lock();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        device
    }

    /// Does what a register access left to do, after the lock was released.
    pub(crate) fn apply(&self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Notify { queue, value } => self.notify(queue, value),
            Effect::Wake => self.wake(),
            Effect::Start => (0..=self.control).for_each(|queue| self.kick(queue)),
        }
    }

    /// The command register changed.
    pub(crate) fn set_memory_enabled(&self, on: bool) {
        self.gate.memory_enabled.store(on, Ordering::Relaxed);
    }

    /// Stepped mode: serves the control queue now, or when bus mastering is on again.
    fn kick_control(&self) {
        let mut device = self.device();
        let held = device.held();
        // Relaxed: it is only touched under the lock.
        self.control_held.store(held, Ordering::Relaxed);
        if !held {
            device.step_control();
        }
    }

    /// The device may go on.
    fn wake(&self) {
        if self.stepped && self.control_held.load(Ordering::Relaxed) {
            self.kick_control();
        }
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// A write of `value` to the doorbell of `queue`.
    fn notify(&self, queue: u16, value: u16) {
        let enabled = queue <= self.control && self.gate.memory_enabled.load(Ordering::Relaxed);
        let right = enabled && value == queue;
        if !right && self.gate.removed.load(Ordering::Relaxed) {
            return;
        }
        if !right {
            self.bad_kicks.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(queue, value, "doorbell with a wrong value or without memory space");
        }
        // QEMU does not look at the value.
        if right || enabled && self.any_value {
            self.kick_count.fetch_add(u64::from(right), Ordering::Relaxed);
            self.kick(queue);
        }
    }

    /// Lets the device look at a queue.
    fn kick(&self, queue: u16) {
        if self.stepped {
            if queue == self.control {
                self.kick_control();
            }
            return;
        }
        // Pairs with the swap in `take_kicks`; unpark orders it before the thread's next look.
        self.kicks[usize::from(queue / 64)].fetch_or(1 << (queue % 64), Ordering::Release);
        self.wake();
    }

    /// Hands the kicks to the device.
    fn take_kicks(&self, device: &mut Device) {
        if device.held() {
            // Without bus mastering nothing can be done: they wait.
            return;
        }
        for (word, kicks) in self.kicks.iter().enumerate() {
            if kicks.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // Pairs with the fetch_or in `notify`.
            let mut bits = kicks.swap(0, Ordering::Acquire);
            while bits != 0 {
                device.kicked(64 * word + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }

    /// The device thread.
    fn run(&self) {
        // Signals are the program's affair. It can't fail with these arguments.
        let _ = SigSet::all().thread_block();
        let mut spins = 0;
        let mut device = self.lock();
        // Pairs with the store in the owner's drop.
        while !self.stop.load(Ordering::Acquire) {
            #[cfg(test)]
            self.rounds.fetch_add(1, Ordering::Relaxed);
            self.take_kicks(&mut device);
            let done = device.round();
            if self.waiting.load(Ordering::Relaxed) != 0 {
                drop(device);
                thread::yield_now();
                device = self.lock();
                continue;
            }
            if done != 0 {
                spins = 0;
                continue;
            }
            if device.awake() && spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
                continue;
            }
            spins = 0;
            if device.arm() {
                continue;
            }
            let due = device.until_due();
            drop(device);
            self.sleep(due);
            device = self.lock();
        }
    }

    /// Waits for a kick, or until something is due. May return early.
    fn sleep(&self, due: Option<Duration>) {
        match due {
            None => thread::park(),
            Some(due) if due > SHORT_WAIT => thread::park_timeout(due - SHORT_WAIT),
            Some(due) => {
                let start = Instant::now();
                let kicked = || self.kicks.iter().any(|kicks| kicks.load(Ordering::Relaxed) != 0);
                while start.elapsed() < due && !kicked() && !self.stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }
        }
    }
}

/// The doorbell of one queue.
pub(crate) struct Bell {
    core: Arc<Core>,
    queue: u16,
}

impl Bell {
    pub(crate) fn new(core: Arc<Core>, queue: u16) -> Self {
        Self { core, queue }
    }
}

impl Ring for Bell {
    #[inline]
    fn ring(&self, value: u16) {
        self.core.notify(self.queue, value);
    }
}
