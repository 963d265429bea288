//! One fault at work: how far it is, and whether it strikes on this occasion.

use std::time::Duration;

use super::fault::{Arg, Fault, FaultKind, Jump, Lie, Often, STATUSES, WrongId};
use crate::clock::nanos;
use crate::config::Delay;
use crate::rng::Rng;

/// A fault with what it has done so far.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(super) kind: FaultKind,
    pub(super) arg: Option<Arg>,
    /// How often, where the fault says so; each kind has its own meaning of none.
    pub(super) word: Option<Often>,
    /// The first request that is struck.
    pub(super) from: u64,
    /// It is `@0`: it strikes before any request.
    pub(super) at_once: bool,
    often: Often,
    /// Strikes left, where they are counted.
    left: u64,
    pub(super) rng: Rng,
    /// Its state began: error state, hanging control queue, storm, ...
    pub(super) begun: bool,
    /// A state that lasts is on.
    pub(super) on: bool,
    /// Strikes so far: what comes in turn.
    turn: usize,
    /// What lies at this set-up, of which structure, and whether the driver has read it.
    pub(super) lie: Option<(Lie, usize)>,
    pub(super) told: bool,
}

impl Rule {
    /// A fault that counts from `base` requests on.
    pub(super) fn new(fault: &Fault, base: u64, rng: Rng) -> Self {
        let kind = fault.kind();
        let often = fault.often.unwrap_or(match kind {
            FaultKind::Reorder
            | FaultKind::ResetHang
            | FaultKind::ResetFails
            | FaultKind::ControlHang
            | FaultKind::SessionsFull
            | FaultKind::IrqLost
            | FaultKind::BadConfig
            | FaultKind::WriteAfterReset => Often::Always,
            FaultKind::IrqStorm => Often::Times(1000),
            _ => Often::Times(1),
        });
        // An interrupt can be lost without a request before it; the others need one to strike.
        let number = if kind == FaultKind::IrqLost { fault.at() } else { fault.at().max(1) };
        Self {
            kind,
            arg: fault.arg,
            word: fault.often,
            from: base.saturating_add(number),
            at_once: fault.at() == 0,
            often,
            left: if let Often::Times(times) = often { times } else { u64::MAX },
            rng,
            begun: false,
            on: false,
            turn: 0,
            lie: None,
            told: false,
        }
    }

    /// Whether it strikes on this occasion, which it then has used.
    pub(super) fn strikes(&mut self) -> bool {
        let strikes = match self.often {
            Often::Times(_) => self.left != 0,
            Often::Always => true,
            Often::Chance(one_in) => self.rng.next().is_multiple_of(one_in),
        };
        if strikes && let Often::Times(_) = self.often {
            self.left -= 1;
        }
        strikes
    }

    /// Whether it strikes on all occasions, over resets too.
    pub(super) fn always(&self) -> bool {
        self.word == Some(Often::Always)
    }

    /// How often it strikes.
    pub(super) fn often(&self) -> Often {
        self.often
    }

    /// How many strikes are left.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Takes up to `most` of the strikes that are left at once.
    pub(super) fn take(&mut self, most: u64) -> u64 {
        let taken = self.left.min(most);
        self.left -= taken;
        taken
    }

    /// Nothing is left of it.
    pub(super) fn end(&mut self) {
        (self.left, self.often, self.on) = (0, Often::Times(0), false);
    }

    pub(super) fn delay(&self) -> u64 {
        let delay = match self.arg {
            Some(Arg::Delay(Delay(delay))) => delay,
            _ => Duration::from_millis(100),
        };
        nanos(delay)
    }

    pub(super) fn wrong_id(&self) -> WrongId {
        if let Some(Arg::Id(id)) = self.arg { id } else { WrongId::Range }
    }

    pub(super) fn wrong_len(&self) -> u32 {
        if let Some(Arg::Len(len)) = self.arg { len } else { u32::MAX }
    }

    pub(super) fn jump(&self) -> Jump {
        if let Some(Arg::Jump(jump)) = self.arg { jump } else { Jump::Ahead }
    }

    pub(super) fn garbage(&self) -> u8 {
        if let Some(Arg::Garbage(status)) = self.arg { status } else { 119 }
    }

    /// The status that this strike's request fails with.
    pub(super) fn status(&mut self) -> u8 {
        self.turn += 1;
        match self.arg {
            Some(Arg::Status(status)) => status,
            Some(Arg::EachStatus) => STATUSES[(self.turn - 1) % STATUSES.len()].1,
            _ => crate::wire::ERR,
        }
    }
}
