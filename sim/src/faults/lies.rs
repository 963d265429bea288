//! `bad-config`: what the device says of itself is wrong.
//!
//! A lie is for one setting-up. It ends with the next reset, or the next walk over the capabilities
//! (a driver that could not find the registers cannot reset the device), after it was told.

use ringbell_drivers::pci::config;

use super::engine::Faults;
use super::fault::{Arg, FaultKind, Lie, Often};
use super::rule::Rule;
use crate::pci::{CAP_COMMON, CAP_DEVICE, CAP_MSIX, CAP_NOTIFY, NO_BAR, VIRTIO_BAR_SIZE};
use crate::wire::CommonConfig;

/// The structures that a driver needs: one of them is announced wrongly.
const STRUCTURES: [u16; 3] = [CAP_COMMON, CAP_DEVICE, CAP_NOTIFY];

impl Lie {
    /// The bytes of config space that are wrong.
    fn in_config(self, structure: usize) -> Option<(u16, [u8; 4], usize)> {
        let capability = STRUCTURES[structure % STRUCTURES.len()];
        match self {
            Self::Capability => Some((capability + 12, (2 * VIRTIO_BAR_SIZE as u32).to_le_bytes(), 4)),
            Self::Bar => Some((capability + 4, [NO_BAR, 0, 0, 0], 1)),
            // The last one goes on with the first.
            Self::Loop => Some((CAP_COMMON + 1, [CAP_MSIX as u8, 0, 0, 0], 1)),
            _ => None,
        }
    }
}

impl Rule {
    /// What lies from now on.
    pub(super) fn choose_lie(&mut self) {
        let lies = match self.often() {
            // It is used up when it is told.
            Often::Times(_) => self.left() != 0,
            _ => self.strikes(),
        };
        let (which, structure) = (self.rng.below(Lie::ALL.len()), self.rng.below(STRUCTURES.len()));
        let lie = if let Some(Arg::Lie(lie)) = self.arg { lie } else { Lie::ALL[which].1 };
        (self.told, self.lie) = (false, lies.then_some((lie, structure)));
    }

    /// The device is set up anew.
    pub(super) fn next_lie(&mut self) {
        if self.told && matches!(self.often(), Often::Times(_)) {
            self.take(1);
        }
        self.choose_lie();
    }
}

impl Faults {
    /// A lie is told: whether for the first time.
    fn tell(rule: &mut Rule) -> bool {
        !std::mem::replace(&mut rule.told, true)
    }

    /// Config space is read: `data` is what stands at `offset`.
    pub(crate) fn lie_in_config(&mut self, offset: u16, data: &mut [u8]) {
        let at = |place: u16| usize::from(place).checked_sub(usize::from(offset));
        let walk = at(config::CAPABILITIES).is_some_and(|at| at < data.len());
        self.each(|_, rule| {
            if rule.kind != FaultKind::BadConfig {
                return false;
            }
            let in_config = rule.lie.and_then(|(lie, structure)| lie.in_config(structure)).is_some();
            if walk && rule.told && in_config {
                rule.next_lie();
            }
            let Some((place, bytes, len)) = rule.lie.and_then(|(lie, structure)| lie.in_config(structure))
            else {
                return false;
            };
            let mut read = false;
            for (place, byte) in (place..).zip(&bytes[..len]) {
                if let Some(there) = at(place).and_then(|at| data.get_mut(at)) {
                    *there = *byte;
                    read = true;
                }
            }
            read && Self::tell(rule)
        });
    }

    /// Common configuration is read, `len` bytes from `at` on; the selected queue is there.
    pub(crate) fn lie_in_common(&mut self, at: usize, len: usize, common: &mut CommonConfig) {
        let touches = |field: usize| at < field + 2 && field < at + len;
        self.each(|_, rule| {
            match rule.lie {
                Some((Lie::QueueSize0, _)) if touches(24) => common.queue_size = 0.into(),
                Some((Lie::QueueSize65535, _)) if touches(24) => common.queue_size = 65535.into(),
                Some((Lie::Notify, _)) if touches(30) => common.queue_notify_off = 0x4000.into(),
                _ => return false,
            }
            Self::tell(rule)
        });
    }

    /// `config_generation` is read: whether it moves.
    pub(crate) fn lie_in_generation(&mut self) -> bool {
        let mut lies = false;
        self.each(|_, rule| {
            let generation = matches!(rule.lie, Some((Lie::Generation, _)));
            lies |= generation;
            generation && Self::tell(rule)
        });
        lies
    }
}
