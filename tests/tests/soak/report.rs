//! The figures that a soak prints at its end.

use std::collections::BTreeMap;
use std::fmt;

use ringbell::Stats;
use ringbell::sim::FaultKind;

use crate::slots::{Tally, lock};

#[derive(Default)]
pub struct Report {
    pub operations: u64,
    pub lives: u64,
    pub failed: u64,
    /// Of these, devices without a fault that none is brought back from.
    pub failed_unasked: u64,
    struck: BTreeMap<&'static str, u64>,
    ends: BTreeMap<String, u64>,
    pub total: Stats,
}

impl Report {
    pub fn add(&mut self, stats: &Stats, tally: &Tally) {
        let total = &mut self.total;
        total.accepted += stats.accepted;
        total.completed += stats.completed;
        total.errors += stats.errors;
        total.detached += stats.detached;
        total.eagain += stats.eagain;
        total.refused += stats.refused;
        total.expired += stats.expired;
        total.canceled += stats.canceled;
        total.panics += stats.panics;
        total.faults += stats.faults;
        total.recoveries += stats.recoveries;
        total.stray_writes += stats.stray_writes;
        for (end, count) in lock(&tally.faults).iter() {
            *self.ends.entry(end.clone()).or_default() += count;
        }
    }

    pub fn struck(&mut self, kind: FaultKind, count: u64) {
        *self.struck.entry(kind.name()).or_default() += count;
    }

    pub fn strikes(&self, kind: FaultKind) -> u64 {
        self.struck.get(kind.name()).copied().unwrap_or(0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = &self.total;
        writeln!(
            f,
            "{} actions in {} lives: {} accepted = {} completed + {} errors + {} detached",
            self.operations, self.lives, t.accepted, t.completed, t.errors, t.detached
        )?;
        writeln!(
            f,
            "{} EAGAIN, {} refused, {} panics; {} faults, {} recoveries, {} devices failed ({} unasked)",
            t.eagain, t.refused, t.panics, t.faults, t.recoveries, self.failed, self.failed_unasked
        )?;
        let list = |f: &mut fmt::Formatter<'_>, name: &str, counts: Vec<(&str, u64)>| {
            write!(f, "{name}:")?;
            counts.iter().filter(|count| count.1 > 0).try_for_each(|(name, n)| write!(f, " {name} {n}"))?;
            writeln!(f)
        };
        list(f, "struck", self.struck.iter().map(|(name, count)| (*name, *count)).collect())?;
        list(f, "ended", self.ends.iter().map(|(name, count)| (name.as_str(), *count)).collect())
    }
}
