//! One queue under the poller: taking its completions, and watching for slow callbacks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::eventfd::EventFd;
use ringbell_drivers::clock::ticks;
use ringbell_drivers::engine::DeviceStatus;
use ringbell_drivers::virtqueue::Drained;

use crate::body::{Body, InFlight};
use crate::context::ContextClaim;
use crate::deliver::{Tally, deliver, deliver_caught, outcome};
use crate::device::CompleteSide;
use crate::request::{Answer, Fault};
use crate::stats::QueueCounters;

/// One queue under the poller.
pub(crate) struct QueueLane {
    pub(crate) side: CompleteSide,
    /// Slots whose request has ended and which the device still holds.
    pub(crate) quarantined: u32,
    /// What had been returned at the last tick, and since when nothing has.
    pub(crate) last_returned: u64,
    pub(crate) no_progress_since: Option<Duration>,
    /// The device has announced completions while it had no request.
    pub(crate) suspicious: bool,
}

impl QueueLane {
    pub(crate) fn new(side: CompleteSide) -> Self {
        Self { side, quarantined: 0, last_returned: 0, no_progress_since: None, suspicious: false }
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.side.completer.in_flight()
    }

    /// Requests that somebody waits for.
    pub(crate) fn waited_for(&self) -> u32 {
        self.in_flight().saturating_sub(self.quarantined)
    }

    /// Ends those in flight early whose claim `choose` wants. Returns how many were delivered.
    pub(crate) fn end_where(
        &mut self,
        fault: Fault,
        fds: &mut Vec<Arc<EventFd>>,
        choose: impl Fn(&ContextClaim) -> bool,
    ) -> u64 {
        let mut found = Vec::new();
        self.side.completer.ring().for_each_in_flight(|entry| {
            if let Some(claim) = entry.claim.take_if(|claim| choose(claim)) {
                found.push((claim, entry.body.without_buffers()));
            }
        });
        if found.is_empty() { 0 } else { self.end_early(found, fault, fds) }
    }

    /// Ends requests early: their claims were taken out, their buffers stay. Returns how many were
    /// delivered; the others had been given up.
    pub(crate) fn end_early(
        &mut self,
        ended: Vec<(ContextClaim, Box<Body>)>,
        fault: Fault,
        fds: &mut Vec<Arc<EventFd>>,
    ) -> u64 {
        let mut tally = Tally::default();
        self.quarantined += ended.len() as u32;
        self.side.counters.complete.quarantined.set(self.quarantined.into());
        for (claim, body) in ended {
            deliver_caught(claim, body, Err(fault), &mut tally, fds);
        }
        tally.add_to(&self.side.counters);
        tally.errors
    }
}

/// Looks for slow callbacks: a batch is timed as a whole, and only while some were slow each alone.
pub(crate) struct SlowWatch {
    limit: u64,
    /// Completions that are still timed one by one.
    closely: u32,
    warned_at: Option<Duration>,
    since_warning: u64,
}

/// Completions timed one by one after a slow batch.
const CLOSELY: u32 = 1024;
/// At most one warning in this time.
const WARN_EVERY: Duration = Duration::from_secs(1);

/// Takes one queue's completions, up to the budget.
#[inline]
pub(crate) fn drain(
    queue: &mut QueueLane,
    budget: usize,
    fds: &mut Vec<Arc<EventFd>>,
    slow: &mut SlowWatch,
) -> Drained {
    let mut tally = Tally::default();
    let begin = ticks();
    let closely = slow.closely != 0;
    let drained = if closely {
        drain_closely(queue, budget, &mut tally, fds, slow)
    } else {
        drain_caught(queue, budget, &mut tally, |entry, status, tally| one(entry, status, tally, fds))
    };
    if drained.completed == 0 {
        return drained;
    }
    let elapsed = ticks().wrapping_sub(begin);
    if elapsed > slow.limit && !closely {
        // Longer than each could have taken: at least one was slow. Else maybe none was; the next
        // ones are timed one by one.
        slow.closely = CLOSELY;
        let certain = elapsed > slow.limit.saturating_mul(drained.completed as u64);
        slow.count(u64::from(certain), &queue.side.counters);
    }
    tally.entries = drained.completed as u64;
    tally.add_to(&queue.side.counters);
    if tally.unclaimed != 0 {
        queue.quarantined -= tally.unclaimed as u32;
        queue.side.counters.complete.quarantined.set(queue.quarantined.into());
    }
    drained
}

/// A drain in which panics of callbacks are caught: once for all of them, and again after each.
#[inline(always)]
fn drain_caught(
    queue: &mut QueueLane,
    budget: usize,
    tally: &mut Tally,
    mut each: impl FnMut(InFlight, DeviceStatus, &mut Tally),
) -> Drained {
    let mut all = Drained::default();
    loop {
        let before = queue.side.completer.ring().returned();
        let left = budget - all.completed;
        let caught = catch_unwind(AssertUnwindSafe(|| {
            queue.side.completer.drain(left, |entry, status| each(entry, status, tally))
        }));
        match caught {
            Ok(drained) => {
                all.completed += drained.completed;
                all.lie = drained.lie;
                return all;
            }
            Err(_) => {
                tally.panics += 1;
                all.completed += queue.side.completer.ring().returned().saturating_sub(before) as usize;
                if all.completed >= budget {
                    return all;
                }
            }
        }
    }
}

/// A drain that times each callback.
#[cold]
#[inline(never)]
fn drain_closely(
    queue: &mut QueueLane,
    budget: usize,
    tally: &mut Tally,
    fds: &mut Vec<Arc<EventFd>>,
    slow: &mut SlowWatch,
) -> Drained {
    let mut slow_ones = 0;
    let mut last = ticks();
    let drained = drain_caught(queue, budget, tally, |entry, status, tally| {
        one(entry, status, tally, fds);
        let now = ticks();
        slow_ones += u64::from(now.wrapping_sub(last) > slow.limit);
        last = now;
    });
    slow.closely = slow.closely.saturating_sub(drained.completed as u32);
    slow.count(slow_ones, &queue.side.counters);
    drained
}

#[inline(always)]
fn one(entry: InFlight, status: DeviceStatus, tally: &mut Tally, fds: &mut Vec<Arc<EventFd>>) {
    match entry {
        InFlight { claim: Some(claim), body } if status == DeviceStatus::Ok => {
            deliver(claim, body, Ok(Answer::Yes), tally, fds);
        }
        entry => one_rare(entry, status, tally, fds),
    }
}

#[cold]
#[inline(never)]
fn one_rare(entry: InFlight, status: DeviceStatus, tally: &mut Tally, fds: &mut Vec<Arc<EventFd>>) {
    let InFlight { claim, mut body } = entry;
    match status {
        DeviceStatus::InvalidSession => body.session_lost(),
        DeviceStatus::NotSupported => body.not_supported(),
        _ => {}
    }
    if status != DeviceStatus::Ok {
        body.forget_unproven();
    }
    match claim {
        Some(claim) => deliver(claim, body, outcome(status), tally, fds),
        // It has ended early; now its buffers are back.
        None => tally.unclaimed += 1,
    }
}

impl SlowWatch {
    /// Callbacks above `limit` counter ticks are slow.
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, closely: 0, warned_at: None, since_warning: 0 }
    }

    fn count(&mut self, slow: u64, counters: &QueueCounters) {
        if slow != 0 {
            counters.complete.slow_callbacks.add(slow);
            self.since_warning += slow;
        }
    }

    /// Warns, at most once a second.
    pub(crate) fn report(&mut self, now: Duration) {
        let due = self.warned_at.is_none_or(|at| now.saturating_sub(at) >= WARN_EVERY);
        if self.since_warning > 0 && due {
            tracing::warn!(callbacks = self.since_warning, "callbacks are slow and delay all others");
            self.since_warning = 0;
            self.warned_at = Some(now);
        }
    }
}
