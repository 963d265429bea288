//! What faults do to the device: its way through requests where there are any, its error state, its
//! end.

use std::mem::offset_of;

use tracing::warn;

use super::engine::Deed;
use super::fault::{Fault, FaultKind};
use crate::config::Order;
use crate::device::{Device, Turn};
use crate::error::DriverError;
use crate::ring::Pending;
use crate::wire::{self, CommonConfig};

impl Device {
    /// Adds the faults that the options name: before anything else happens.
    pub(crate) fn add_faults(&mut self) {
        for fault in self.config.faults.clone() {
            self.inject(fault);
        }
    }

    /// Lets something go wrong, from now on.
    pub(crate) fn inject(&mut self, fault: Fault) {
        self.faults.add(&fault, self.stats.taken, self.live());
        self.do_deeds();
    }

    pub(crate) fn struck(&self, kind: FaultKind) -> u64 {
        self.faults.struck(kind)
    }

    /// The driver has set DRIVER_OK, and the device has not refused it.
    pub(crate) fn set_up(&mut self) {
        if self.live() {
            self.faults.set_up();
            self.do_deeds();
        }
    }

    /// The driver writes device status: whether nothing comes of it.
    pub(crate) fn status_hangs(&mut self, value: u8) -> bool {
        if value == 0 { self.faults.device_reset_hangs() } else { self.faults.hung }
    }

    /// The driver reads common configuration, `len` bytes from `at` on.
    pub(crate) fn lie(&mut self, at: usize, len: usize, common: &mut CommonConfig) {
        if (at..at + len).contains(&offset_of!(CommonConfig, config_generation))
            && self.faults.lie_in_generation()
        {
            self.common.generation = self.common.generation.wrapping_add(1);
            common.config_generation = self.common.generation;
        }
        // A queue that is not there has size 0: that is no lie.
        if common.queue_size.get() != 0 {
            self.faults.lie_in_common(at, len, common);
        }
    }

    /// Serves a data queue of a device with faults.
    pub(crate) fn serve_faulty(
        &mut self,
        index: usize,
        turn: Turn,
        done: &mut usize,
    ) -> Result<(), DriverError> {
        let now = self.clock.now();
        let shuffle = self.config.order == Order::Shuffle;
        // As without faults: one by one, or all that there is and then those that are due.
        let together = self.latency != 0 || shuffle || self.faults.reorders();
        loop {
            if !together && !turn.goes_on(*done, &self.scratch) {
                return Ok(());
            }
            let head = self.queues[index].take()?;
            if let Some(head) = head
                && !self.take_struck(index, head, now)
            {
                // It goes out of service with what it has in flight.
                return Ok(());
            }
            if together && head.is_some() {
                continue;
            }
            while turn.goes_on(*done, &self.scratch) {
                let rng = if shuffle { &mut self.rng } else { &mut self.faults.rng };
                let Some(pending) = self.queues[index].next_due(now, shuffle, rng) else { break };
                *done += usize::from(self.complete_any(index, pending)?);
            }
            if head.is_none() {
                return Ok(());
            }
        }
    }

    /// A request was taken: `false` where the device stops here.
    fn take_struck(&mut self, index: usize, head: u16, now: u64) -> bool {
        self.stats.taken += 1;
        let strike = self.faults.request(self.stats.taken);
        // Sessions are forgotten before the request is served. Where the device stops, what it has
        // completed is published first.
        if self.faults.pending() && !strike.stops {
            self.do_deeds();
        }
        let queue = &mut self.queues[index];
        queue.lost.remove(&head);
        if strike.stops || strike.marks.as_ref().is_some_and(|marks| marks.stall) {
            queue.stalled.push(head);
            return !strike.stops;
        }
        let delay = strike.marks.as_ref().map_or(0, |marks| marks.delay);
        let ready_at = now.saturating_add(self.latency).saturating_add(delay);
        queue.hold(Pending { head, ready_at, marks: strike.marks });
        true
    }

    /// Does a request: whether it was completed.
    fn complete_any(&mut self, index: usize, pending: Pending) -> Result<bool, DriverError> {
        let rules = self.rules();
        let mut marks = pending.marks;
        if self.faults.not_ready {
            marks.get_or_insert_default().status = Some(wire::ERR);
        }
        let Some(marks) = marks else {
            return self.worker(index).complete(pending.head, rules).map(|()| true);
        };
        let mut rng = self.faults.rng.clone();
        let completed = self.worker(index).complete_struck(pending.head, &marks, rules, &mut rng);
        self.faults.rng = rng;
        completed
    }

    /// Does what strikes have left to do.
    pub(crate) fn do_deeds(&mut self) {
        for deed in self.faults.take_deeds() {
            match deed {
                Deed::Break(haunted) => {
                    if haunted {
                        self.conjure();
                    }
                    warn!("a fault that was asked for: the device needs a reset");
                    self.break_down();
                }
                Deed::Forget => self.sessions.clear(),
                Deed::Change => {
                    self.common.generation = self.common.generation.wrapping_add(1);
                    self.raise(self.common.msix_config, wire::ISR_CONFIG);
                }
                Deed::Remove => self.remove(),
            }
        }
    }

    /// The function is gone: nothing reaches it, it reaches nothing.
    fn remove(&mut self) {
        warn!("a fault that was asked for: the function is gone");
        self.faults.removed = true;
        self.common.broken = true;
        self.lose_in_flight();
        self.sessions.clear();
        self.interrupts.reset();
        // Without memory space BARs read as all ones and writes vanish, without bus mastering there
        // is no DMA and no message.
        self.space.set_command(0);
        self.gate.remove();
    }
}
