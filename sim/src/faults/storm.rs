//! `irq-storm`: interrupts without a cause.

use std::collections::BTreeSet;
use std::time::Duration;

use super::engine::Faults;
use super::fault::{FaultKind, Often};
use crate::device::Device;

/// Most interrupts of a vector in a round of the device.
const MOST: u64 = 64;
/// As many are raised in each round where there is no end of them.
const STEADY: u64 = 16;
/// A device with nothing else to do has a round so often.
const PACE: Duration = Duration::from_micros(100);

impl Faults {
    /// How many interrupts of each vector are raised in this round.
    fn gusts(&mut self) -> u64 {
        let mut gusts = 0;
        for rule in self.rules.iter_mut().filter(|rule| rule.kind == FaultKind::IrqStorm && rule.on) {
            gusts += match rule.often() {
                Often::Times(_) => rule.take(MOST),
                Often::Always | Often::Chance(_) if rule.strikes() => STEADY,
                Often::Always | Often::Chance(_) => 0,
            };
            if rule.left() == 0 {
                rule.end();
            }
        }
        // Together, too, they are no more than that.
        let gusts = gusts.min(MOST);
        self.count_more(FaultKind::IrqStorm, gusts);
        gusts
    }

    /// How soon the device has to have a round, if it has to.
    pub(crate) fn pace(&self) -> Option<Duration> {
        let storms = self.rules.iter().any(|rule| rule.kind == FaultKind::IrqStorm && rule.on);
        storms.then_some(PACE)
    }
}

impl Device {
    /// One round of a storm, if there is one.
    pub(crate) fn storm(&mut self) {
        let gusts = self.faults.gusts();
        if gusts == 0 {
            return;
        }
        let vectors: BTreeSet<u16> =
            self.queues.iter().map(|queue| queue.vector).chain([self.common.msix_config]).collect();
        let (bus_master, intx_allowed) = (self.space.bus_master(), self.space.intx_allowed());
        for vector in vectors {
            for _ in 0..gusts {
                self.interrupts.raise_without_cause(vector, bus_master, intx_allowed);
            }
        }
    }
}
