//! The device itself: everything that a lock guards, and the work on the queues.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use crate::chain::{Chain, Rules};
use crate::clock::{Clock, nanos};
use crate::config::{Order, SimConfig};
use crate::data::Scratch;
use crate::dma::DmaMap;
use crate::error::DriverError;
use crate::faults::Faults;
use crate::interrupts::Interrupts;
use crate::pci::{self, ConfigSpace};
use crate::registers::Common;
use crate::ring::{Pending, Queue};
use crate::rng::Rng;
use crate::sessions::Sessions;
use crate::sim::Gate;
use crate::stats::SimStats;
use crate::worker::Worker;
use crate::{control, wire};

/// Requests of a queue that are served before the next queue has its turn (and, in threaded mode,
/// before the lock may be taken by someone else).
const BUDGET: usize = 64;

/// More than so much effort ends a turn as well: it takes some ten milliseconds.
const EFFORT: u64 = 4 << 20;

/// How much may be done on a queue before the next thing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// Requests.
    pub(crate) max: usize,
    /// Bytes, or what takes as long.
    effort: u64,
}

impl Turn {
    /// Whether there is anything left of it, after so many requests.
    #[inline]
    pub(crate) fn goes_on(self, done: usize, scratch: &Scratch) -> bool {
        done < self.max && scratch.effort < self.effort
    }
}

/// What remains to be done when the lock is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    /// The driver rang a doorbell.
    Notify {
        queue: u16,
        value: u16,
    },
    /// The device may go on.
    Wake,
    /// The device looks at all its queues, as if they were kicked.
    Start,
}

/// The device. One lock guards it; the driver's register accesses and the device's work take turns.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) config: SimConfig,
    pub(crate) space: ConfigSpace,
    pub(crate) msix_table: Vec<u8>,
    pub(crate) common: Common,
    pub(crate) interrupts: Interrupts,
    pub(crate) dma: DmaMap,
    /// Data queues, then the control queue.
    pub(crate) queues: Vec<Queue>,
    /// MSI-X vectors.
    pub(crate) vectors: u16,
    pub(crate) sessions: Sessions,
    chain: Chain,
    pub(crate) scratch: Scratch,
    pub(crate) rng: Rng,
    pub(crate) clock: Clock,
    /// `config.latency`.
    pub(crate) latency: u64,
    /// The queue that has its turn first.
    turn: usize,
    pub(crate) stats: SimStats,
    /// What goes wrong on purpose.
    pub(crate) faults: Faults,
    /// What doorbells look at without the lock.
    pub(crate) gate: Arc<Gate>,
}

impl Device {
    pub(crate) fn new(config: SimConfig, stepped: bool, gate: Arc<Gate>) -> Self {
        let count = config.queues + 1;
        let qemu = config.quirks.qemu();
        let vectors = if qemu { 2 } else { count + 1 };
        let mut rng = Rng::new(config.seed);
        let sessions = Sessions::new(Rng::new(rng.next()), qemu);
        let mut device = Self {
            space: ConfigSpace::new(count, vectors, qemu),
            msix_table: msix_table(vectors),
            common: Common::new(),
            interrupts: Interrupts::new(qemu),
            dma: DmaMap::new(),
            queues: (0..count).map(|index| Queue::new(index, config.queue_size, qemu)).collect(),
            vectors,
            sessions,
            chain: Chain::default(),
            scratch: Scratch::new(),
            rng,
            clock: Clock::new(stepped),
            latency: nanos(config.latency),
            turn: 0,
            stats: SimStats::default(),
            faults: Faults::new(config.seed),
            gate,
            config,
        };
        device.add_faults();
        device
    }

    /// Features that are offered.
    pub(crate) fn offered(&self) -> u64 {
        let all = wire::F_INDIRECT_DESC
            | wire::F_EVENT_IDX
            | wire::F_VERSION_1
            | wire::F_ACCESS_PLATFORM
            | wire::F_RING_RESET;
        all & !self.config.features_off
    }

    fn agreed(&self, feature: u64) -> bool {
        self.common.driver_features & feature != 0
    }

    fn event_idx(&self) -> bool {
        self.agreed(wire::F_EVENT_IDX)
    }

    pub(crate) fn rules(&self) -> Rules {
        Rules { indirect: self.agreed(wire::F_INDIRECT_DESC), qemu: self.qemu() }
    }

    /// Whether it has QEMU's peculiarities.
    pub(crate) fn qemu(&self) -> bool {
        self.config.quirks.qemu()
    }

    /// Whether the device may work on its queues.
    fn running(&self) -> bool {
        self.live() && self.space.bus_master()
    }

    /// Whether the driver has set the device up, and it is well.
    pub(crate) fn live(&self) -> bool {
        let wanted = wire::STATUS_FEATURES_OK | wire::STATUS_DRIVER_OK;
        self.common.status & wanted == wanted && !self.common.broken
    }

    /// Kicks have to wait: the device is set up, but must not do DMA.
    pub(crate) fn held(&self) -> bool {
        self.live() && !self.space.bus_master()
    }

    // ---- resets, errors ----

    /// A device reset (2.4). Everything in flight is dropped.
    pub(crate) fn reset(&mut self, why: &str) {
        debug!(why, "device reset");
        self.lose_in_flight();
        self.stats.resets += 1;
        self.common = Common::after_reset(&self.common);
        self.interrupts.reset();
        for queue in &mut self.queues {
            queue.reset(self.config.queue_size);
        }
        // QEMU's backend keeps them.
        if !self.qemu() {
            self.sessions.clear();
        }
        if self.faults.any() {
            self.faults.after_reset();
            self.haunt();
        }
    }

    /// What is in flight will never be completed.
    pub(crate) fn lose_in_flight(&mut self) {
        let control = self.control_index();
        for (index, queue) in self.queues.iter_mut().enumerate() {
            let lost = queue.lose_in_flight() as u64;
            self.stats.dropped += if index == control { 0 } else { lost };
        }
    }

    /// A function level reset: also config space goes back to its defaults.
    pub(crate) fn reset_function(&mut self) {
        self.space = ConfigSpace::new(self.config.queues + 1, self.vectors, self.qemu());
        self.reset("the function was reset");
        self.msix_table = msix_table(self.vectors);
    }

    /// A reset of one queue (2.6.1). What it has in flight is dropped.
    pub(crate) fn reset_queue(&mut self, index: usize) {
        let control = self.control_index();
        if let Some(queue) = self.queues.get_mut(index) {
            debug!(queue = index, "queue reset");
            let lost = queue.in_flight() as u64;
            self.stats.dropped += if index == control { 0 } else { lost };
            let registers = (queue.desc, queue.avail, queue.used);
            queue.reset(self.config.queue_size);
            if self.config.quirks.qemu() {
                (queue.desc, queue.avail, queue.used) = registers;
            }
        }
    }

    /// The command register was written: without bus mastering, QEMU takes DRIVER_OK back.
    pub(crate) fn command_written(&mut self) {
        if self.qemu() && !self.space.bus_master() {
            self.common.status &= !wire::STATUS_DRIVER_OK;
        }
        self.haunt();
    }

    /// The driver did what it must not: the device needs a reset (2.1.2).
    pub(crate) fn fault(&mut self, error: DriverError) {
        warn!(%error, "the device needs a reset");
        self.stats.last_fault = Some(error);
        self.break_down();
    }

    /// Into the error state (2.1.2).
    pub(crate) fn break_down(&mut self) {
        self.common.status |= wire::STATUS_NEEDS_RESET;
        self.common.broken = true;
        self.stats.faults += 1;
        self.lose_in_flight();
        if self.common.status & wire::STATUS_DRIVER_OK != 0 {
            // QEMU counts it as a change of the configuration, and shows both causes.
            let isr = wire::ISR_CONFIG | if self.qemu() { wire::ISR_QUEUE } else { 0 };
            self.common.generation = self.common.generation.wrapping_add(self.qemu().into());
            self.raise(self.common.msix_config, isr);
        }
    }

    pub(crate) fn raise(&mut self, vector: u16, isr: u8) {
        self.interrupts.raise(vector, isr, self.space.bus_master(), self.space.intx_allowed());
    }

    /// A mapping is gone: rings are looked up again at their next use.
    pub(crate) fn forget_rings(&mut self) {
        for queue in &mut self.queues {
            queue.view = None;
        }
    }

    // ---- the clock ----

    pub(crate) fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
    }

    /// How long until the next completion is due; `None` where none is waited for.
    pub(crate) fn until_due(&self) -> Option<Duration> {
        if !self.running() {
            return None;
        }
        let due = self.queues.iter().filter_map(|queue| queue.pending.front()).map(|p| p.ready_at).min();
        let due = due.map(|due| Duration::from_nanos(due.saturating_sub(self.clock.now())));
        due.into_iter().chain(self.faults.pace()).min()
    }

    // ---- work ----

    fn control_index(&self) -> usize {
        self.queues.len() - 1
    }

    /// The driver kicked a queue: the device looks at it from now on.
    pub(crate) fn kicked(&mut self, index: usize) {
        let event_idx = self.event_idx();
        if !self.running() {
            return;
        }
        if let Some(queue) = self.queues.get_mut(index).filter(|queue| queue.enabled) {
            // The flags of the used ring are written where it is: it has to be known.
            match queue.attach(&self.dma) {
                Ok(()) => queue.wake(event_idx),
                Err(error) => self.fault(error),
            }
        }
    }

    /// Whether the device is looking at any queue.
    pub(crate) fn awake(&self) -> bool {
        self.queues.iter().any(|queue| queue.awake)
    }

    /// One round over the queues that are awake or have something due: how much was done.
    pub(crate) fn round(&mut self) -> usize {
        if !self.running() {
            return 0;
        }
        let control = self.control_index();
        let mut done = 0;
        if self.faults.any() {
            self.storm();
        }
        for index in 0..=control {
            if index == control {
                if self.queues[index].awake {
                    done += self.guarded(index, |device| device.serve_control(BUDGET));
                }
            } else if self.queues[index].awake || self.queues[index].in_flight() != 0 {
                done += self
                    .guarded(index, |device| device.serve_data(index, Turn { max: BUDGET, effort: EFFORT }));
            }
        }
        done
    }

    /// Asks for kicks on all queues that are awake: whether any stays awake.
    pub(crate) fn arm(&mut self) -> bool {
        let event_idx = self.event_idx();
        let mut awake = false;
        for index in 0..self.queues.len() {
            if self.queues[index].awake {
                match self.queues[index].arm(event_idx) {
                    Ok(more) => awake |= more,
                    Err(error) => {
                        self.fault(error);
                        return false;
                    }
                }
            }
        }
        awake
    }

    /// Stepped mode: takes all there is, completes at most `max` of what is due.
    pub(crate) fn step(&mut self, max: usize) -> usize {
        if !self.running() {
            return 0;
        }
        let (count, event_idx) = (self.control_index(), self.event_idx());
        let mut done = 0;
        if self.faults.any() {
            self.storm();
        }
        for offset in 0..count {
            let index = (self.turn + offset) % count;
            if self.queues[index].enabled && self.live() {
                done += self.guarded(index, |device| {
                    device.serve_data(index, Turn { max: max - done, effort: u64::MAX })
                });
                self.rearm(index, event_idx);
            }
        }
        self.turn = (self.turn + 1) % count;
        done
    }

    /// Stepped mode: serves the control queue, inside its doorbell.
    pub(crate) fn step_control(&mut self) {
        let (index, event_idx) = (self.control_index(), self.event_idx());
        while self.running() && self.queues[index].enabled {
            let done = self.guarded(index, |device| device.serve_control(usize::MAX));
            if done == 0 && !self.rearm(index, event_idx) {
                return;
            }
        }
    }

    /// Stepped mode: the device never stays awake, it wants a kick for the next request. Whether
    /// there is one already.
    fn rearm(&mut self, index: usize, event_idx: bool) -> bool {
        if !self.running() {
            return false;
        }
        match self.queues[index].sleep(event_idx) {
            Ok(more) => more,
            Err(error) => {
                self.fault(error);
                false
            }
        }
    }

    /// Does some work on a queue, then publishes what was completed (also before an error) and
    /// raises its interrupt.
    #[inline]
    fn guarded(
        &mut self,
        index: usize,
        work: impl FnOnce(&mut Self) -> (usize, Result<(), DriverError>),
    ) -> usize {
        let (done, result) = match self.queues[index].attach(&self.dma) {
            Ok(()) => work(self),
            Err(error) => (0, Err(error)),
        };
        let event_idx = self.event_idx();
        let queue = &mut self.queues[index];
        queue.publish();
        if queue.wants_interrupt(event_idx) {
            let vector = queue.vector;
            if !self.faults.any() || !self.faults.loses_interrupt(self.stats.taken) {
                self.raise(vector, wire::ISR_QUEUE);
            }
        }
        if let Err(error) = result {
            self.fault(error);
        }
        if self.faults.pending() {
            self.do_deeds();
        }
        done
    }

    fn serve_control(&mut self, max: usize) -> (usize, Result<(), DriverError>) {
        let mut done = 0;
        let result = self.control_requests(max, &mut done);
        (done, result)
    }

    fn control_requests(&mut self, max: usize, done: &mut usize) -> Result<(), DriverError> {
        let (index, rules) = (self.control_index(), self.rules());
        let Self { queues, dma, sessions, chain, config, stats, faults, .. } = self;
        let queue = &mut queues[index];
        while *done < max {
            let Some(head) = queue.take()? else { break };
            if faults.any() && faults.swallows_command() {
                queue.stalled.push(head);
                continue;
            }
            chain.walk(queue, head, dma, rules)?;
            let len = control::serve(queue.index, chain, dma, sessions, faults, config)?;
            queue.push_used(u32::from(head), len)?;
            stats.control += 1;
            *done += 1;
        }
        Ok(())
    }

    fn serve_data(&mut self, index: usize, turn: Turn) -> (usize, Result<(), DriverError>) {
        let mut done = 0;
        self.scratch.effort = 0;
        let result = if self.faults.any() {
            self.serve_faulty(index, turn, &mut done)
        } else if self.latency == 0 && self.config.order == Order::Fifo {
            self.immediate(index, turn, &mut done)
        } else {
            self.delayed(index, turn, &mut done)
        };
        (done, result)
    }

    /// Takes and completes at once.
    #[inline]
    fn immediate(&mut self, index: usize, turn: Turn, done: &mut usize) -> Result<(), DriverError> {
        let rules = self.rules();
        let mut worker = self.worker(index);
        while turn.goes_on(*done, worker.scratch) {
            let Some(head) = worker.queue.take()? else { break };
            worker.stats.taken += 1;
            worker.complete(head, rules)?;
            *done += 1;
        }
        Ok(())
    }

    /// Takes all there is, completes what is due, in the order asked for.
    fn delayed(&mut self, index: usize, turn: Turn, done: &mut usize) -> Result<(), DriverError> {
        let (rules, now) = (self.rules(), self.clock.now());
        let ready_at = now.saturating_add(self.latency);
        let shuffle = self.config.order == Order::Shuffle;
        // Taken by value for the time of the work: the worker borrows the rest.
        let mut rng = self.rng.clone();
        let mut worker = self.worker(index);
        let result = (|| {
            while let Some(head) = worker.queue.take()? {
                worker.stats.taken += 1;
                worker.queue.pending.push_back(Pending { head, ready_at, marks: None });
            }
            while turn.goes_on(*done, worker.scratch) {
                let Some(next) = worker.queue.next_due(now, shuffle, &mut rng) else { break };
                worker.complete(next.head, rules)?;
                *done += 1;
            }
            Ok(())
        })();
        self.rng = rng;
        result
    }

    #[inline]
    pub(crate) fn worker(&mut self, index: usize) -> Worker<'_> {
        let Self { queues, dma, sessions, chain, scratch, config, stats, .. } = self;
        Worker { queue: &mut queues[index], dma, sessions, chain, scratch, config, stats }
    }

    /// The counts.
    pub(crate) fn stats(&self) -> SimStats {
        SimStats {
            interrupts: self.interrupts.raised,
            sessions: self.sessions.live(),
            struck: self.faults.struck_all(),
            device_status: if self.faults.removed { 0xff } else { self.common.status },
            ..self.stats.clone()
        }
    }
}

/// A table whose entries are masked, as after a reset.
fn msix_table(vectors: u16) -> Vec<u8> {
    let mut table = vec![0; pci::MSIX_BAR_SIZE as usize];
    for entry in table.chunks_mut(16).take(usize::from(vectors)) {
        entry[12] = 1;
    }
    table
}
