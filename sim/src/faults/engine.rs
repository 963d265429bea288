//! The faults of a device: which of them strike a request, a reset, a command, an interrupt.

use super::fault::{Arg, Fault, FaultKind, Often};
use super::ghosts::Ghost;
use super::request::Marks;
use super::rule::Rule;
use crate::rng::Rng;

/// What a strike leaves to do to the device, which then has all its parts at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Into the error state; `true`: what is in flight will be written after the reset.
    Break(bool),
    /// It forgets its sessions.
    Forget,
    /// The configuration changes.
    Change,
    /// The function goes.
    Remove,
}

/// What strikes a request.
#[derive(Debug, Default)]
pub(crate) struct Strike {
    pub(crate) marks: Option<Box<Marks>>,
    /// The device stops before it is served.
    pub(crate) stops: bool,
}

/// All faults, and what they have made of the device.
#[derive(Debug)]
pub(crate) struct Faults {
    pub(super) rules: Vec<Rule>,
    /// Gives each rule its own source.
    seeds: Rng,
    /// For what no single rule decides.
    pub(super) rng: Rng,
    struck: [u64; FaultKind::ALL.len()],
    deeds: Vec<Deed>,
    /// HW_READY is off.
    pub(crate) not_ready: bool,
    /// A device reset was asked for and does not finish.
    pub(crate) hung: bool,
    /// The function is gone.
    pub(crate) removed: bool,
    /// What is to be written after the next reset.
    pub(super) ghosts: Vec<Ghost>,
    /// The reset came: they wait for bus mastering.
    pub(super) haunted: bool,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Self {
        // Apart from the source of everything else, which starts at the seed.
        let mut seeds = Rng::new(!seed);
        Self {
            rules: Vec::new(),
            rng: Rng::new(seeds.next()),
            seeds,
            struck: [0; FaultKind::ALL.len()],
            deeds: Vec::new(),
            not_ready: false,
            hung: false,
            removed: false,
            ghosts: Vec::new(),
            haunted: false,
        }
    }

    /// Whether there are any. The only question that a device without faults asks.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        !self.rules.is_empty()
    }

    /// How often faults of a kind struck.
    pub(crate) fn struck(&self, kind: FaultKind) -> u64 {
        self.struck[kind as usize]
    }

    /// How often faults struck.
    pub(crate) fn struck_all(&self) -> u64 {
        self.struck.iter().sum()
    }

    fn count(&mut self, kind: FaultKind) {
        self.count_more(kind, 1);
    }

    pub(super) fn count_more(&mut self, kind: FaultKind, more: u64) {
        self.struck[kind as usize] += more;
    }

    /// What is to be done.
    pub(super) fn take_deeds(&mut self) -> Vec<Deed> {
        std::mem::take(&mut self.deeds)
    }

    /// Whether there is anything to be done.
    #[inline]
    pub(crate) fn pending(&self) -> bool {
        !self.deeds.is_empty()
    }

    /// Adds a fault that counts from `taken` requests on. What is `@0` strikes at once: there is no
    /// device any more, or it lies, or (where it is set up, which is `live`) it changes its state.
    pub(crate) fn add(&mut self, fault: &Fault, taken: u64, live: bool) {
        let rng = Rng::new(self.seeds.next());
        let mut rule = Rule::new(fault, taken, rng);
        let strikes = rule.at_once
            && match rule.kind {
                FaultKind::BadConfig => {
                    rule.begun = true;
                    rule.choose_lie();
                    false
                }
                FaultKind::Remove => {
                    let strikes = rule.strikes();
                    if strikes {
                        self.strike_device(&rule);
                    }
                    strikes
                }
                _ => live && self.set_up_rule(&mut rule),
            };
        if strikes {
            self.count(rule.kind);
        }
        self.rules.push(rule);
    }

    /// A rule `@0` sees that the driver has set the device up: whether it strikes. It could not do so
    /// earlier: drivers begin with a reset, which would end it.
    fn set_up_rule(&mut self, rule: &mut Rule) -> bool {
        match rule.kind {
            FaultKind::NeedsReset | FaultKind::ConfigChange => {
                let strikes = rule.strikes();
                if strikes {
                    self.strike_device(rule);
                }
                strikes
            }
            FaultKind::ResetHang
            | FaultKind::ResetFails
            | FaultKind::ControlHang
            | FaultKind::SessionsFull
            | FaultKind::IrqStorm
            | FaultKind::WriteAfterReset => self.begin(rule),
            _ => false,
        }
    }

    /// A rule whose state has not begun begins it: whether that is a strike.
    fn begin(&mut self, rule: &mut Rule) -> bool {
        if std::mem::replace(&mut rule.begun, true) {
            return false;
        }
        match rule.kind {
            FaultKind::ControlHang | FaultKind::SessionsFull => {
                rule.on = true;
                self.deeds.push(Deed::Forget);
            }
            // What counts is each interrupt.
            FaultKind::IrqStorm => {
                rule.on = true;
                return false;
            }
            _ => self.strike_device(rule),
        }
        true
    }

    /// A strike at the device itself.
    fn strike_device(&mut self, rule: &Rule) {
        self.not_ready |= rule.arg == Some(Arg::NotReady);
        self.deeds.push(match rule.kind {
            FaultKind::ConfigChange => Deed::Change,
            FaultKind::Remove => Deed::Remove,
            kind => Deed::Break(kind == FaultKind::WriteAfterReset),
        });
    }

    /// Does something with each rule, which counts as a strike where the answer is yes: whether any
    /// was.
    pub(super) fn each(&mut self, mut strikes: impl FnMut(&mut Self, &mut Rule) -> bool) -> bool {
        let mut rules = std::mem::take(&mut self.rules);
        let mut any = false;
        for rule in &mut rules {
            if strikes(self, rule) {
                any = true;
                self.count(rule.kind);
            }
        }
        self.rules = rules;
        any
    }

    /// The driver has set the device up: DRIVER_OK.
    pub(crate) fn set_up(&mut self) {
        self.each(|faults, rule| rule.at_once && faults.set_up_rule(rule));
    }

    /// Request number `number` was taken.
    pub(crate) fn request(&mut self, number: u64) -> Strike {
        let mut strike = Strike::default();
        self.each(|faults, rule| number >= rule.from && faults.request_rule(rule, &mut strike));
        strike
    }

    /// Whether a rule strikes a request, and how.
    fn request_rule(&mut self, rule: &mut Rule, strike: &mut Strike) -> bool {
        match rule.kind {
            FaultKind::Stall if rule.word.is_none() => {
                let begins = !rule.on && rule.strikes();
                rule.on |= begins;
                if rule.on {
                    strike.marks().stall = true;
                }
                return begins;
            }
            FaultKind::ControlHang | FaultKind::SessionsFull | FaultKind::IrqStorm => {
                return self.begin(rule);
            }
            FaultKind::ResetHang
            | FaultKind::ResetFails
            | FaultKind::BadConfig
            | FaultKind::WriteAfterReset => {
                let begins = self.begin(rule);
                strike.stops |= begins;
                return begins;
            }
            FaultKind::IrqLost => return false,
            // Those two strike before any request, and then at each set-up.
            FaultKind::NeedsReset | FaultKind::ConfigChange if rule.at_once => return false,
            _ => {}
        }
        if !rule.strikes() {
            return false;
        }
        match rule.kind {
            FaultKind::Stall => strike.marks().stall = true,
            FaultKind::Drop => strike.marks().lost = true,
            FaultKind::Duplicate => strike.marks().twice = true,
            FaultKind::BadId => strike.marks().id = Some(rule.wrong_id()),
            FaultKind::BadLen => strike.marks().len = Some(rule.wrong_len()),
            FaultKind::UsedJump => strike.marks().jump = Some(rule.jump()),
            FaultKind::StatusGarbage => strike.marks().garbage = Some(rule.garbage()),
            FaultKind::OpError => strike.marks().status = Some(rule.status()),
            FaultKind::Reorder => strike.marks().shuffle = true,
            FaultKind::Slow => strike.marks().delay += rule.delay(),
            FaultKind::SessionLost => strike.marks().session_lost = true,
            FaultKind::ConfigChange => self.strike_device(rule),
            FaultKind::NeedsReset | FaultKind::Remove => {
                self.strike_device(rule);
                strike.stops = true;
            }
            _ => {}
        }
        true
    }

    /// Whether completions may change their order: then requests are not completed one by one.
    pub(crate) fn reorders(&self) -> bool {
        self.rules.iter().any(|rule| rule.kind == FaultKind::Reorder)
    }

    /// A command was taken from the control queue: whether it is never answered.
    pub(crate) fn swallows_command(&mut self) -> bool {
        self.each(|_, rule| rule.kind == FaultKind::ControlHang && rule.on && rule.strikes())
    }

    /// A session is to be created: whether there is no room.
    pub(crate) fn refuses_session(&mut self) -> bool {
        self.each(|_, rule| rule.kind == FaultKind::SessionsFull && rule.on && rule.strikes())
    }

    /// A queue's interrupt is to be raised after `taken` requests: whether it is lost.
    pub(crate) fn loses_interrupt(&mut self, taken: u64) -> bool {
        self.each(|_, rule| rule.kind == FaultKind::IrqLost && taken >= rule.from && rule.strikes())
    }

    /// The driver wrote 0 to device status: whether that does nothing.
    pub(crate) fn device_reset_hangs(&mut self) -> bool {
        self.hung = self.each(|_, rule| {
            let hangs = matches!(rule.kind, FaultKind::ResetHang | FaultKind::ResetFails);
            hangs && rule.begun && rule.strikes()
        });
        self.hung
    }

    /// The function is to be reset: whether that fails.
    pub(crate) fn function_reset_fails(&mut self) -> bool {
        let fails = self.each(|_, rule| rule.kind == FaultKind::ResetFails && rule.begun && rule.strikes());
        if !fails {
            for rule in self.rules.iter_mut().filter(|rule| rule.kind == FaultKind::ResetHang && rule.begun) {
                rule.end();
            }
        }
        fails
    }

    /// A reset is done: states that last are over, but those that are for always.
    pub(crate) fn after_reset(&mut self) {
        self.hung = false;
        self.not_ready =
            self.rules.iter().any(|rule| rule.arg == Some(Arg::NotReady) && rule.always() && self.not_ready);
        for rule in &mut self.rules {
            match rule.kind {
                FaultKind::Stall => rule.on = false,
                // Where a number was given, so many commands are swallowed, over resets too.
                FaultKind::ControlHang if rule.word.is_none() => rule.on = false,
                FaultKind::IrqStorm if rule.on && matches!(rule.often(), Often::Times(_)) => rule.end(),
                FaultKind::BadConfig if rule.begun => rule.next_lie(),
                _ => {}
            }
        }
        self.haunted = !self.ghosts.is_empty();
    }
}

impl Strike {
    fn marks(&mut self) -> &mut Marks {
        self.marks.get_or_insert_default()
    }
}
