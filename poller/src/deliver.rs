//! Delivering: result, status, then the wake-up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::eventfd::EventFd;
use ringbell_drivers::claim::Seen;
use ringbell_drivers::engine::DeviceStatus;
use ringbell_drivers::wait::Waiter;

use crate::body::{Body, InFlight};
use crate::context::{ContextCalling, ContextClaim, Delivery, Status, Wake};
use crate::device::Inner;
use crate::owned::SubmitSide;
use crate::request::{Answer, Fault};
use crate::state::DeviceState;
use crate::stats::QueueCounters;

/// What one drain counts: all entries, and among them those that did not end with an answer.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) entries: u64,
    pub(crate) errors: u64,
    pub(crate) detached: u64,
    /// Back from quarantine: the request had ended before.
    pub(crate) unclaimed: u64,
    pub(crate) panics: u64,
}

/// Delivers an ended request to its context: result, status, then the wake-up.
///
/// A panic of the callback (or of what it owns, where this ends the context) goes through; it is
/// counted as delivered before.
#[inline(always)]
pub(crate) fn deliver(
    claim: ContextClaim,
    mut body: Box<Body>,
    outcome: Result<Answer, Fault>,
    tally: &mut Tally,
    fds: &mut Vec<Arc<EventFd>>,
) {
    let Some(seen) = claim.look() else { return given_up(claim, body, tally) };
    body.outcome = outcome;
    claim.set_status(if outcome.is_ok() { Status::Ok } else { Status::Err });
    if !matches!(claim.wake(), Wake::Callback(_)) {
        return deliver_otherwise(claim, seen, body, tally, fds);
    }
    let calling = match claim.begin(seen) {
        Ok(calling) => calling,
        // Detached since the look above.
        Err(claim) => return given_up(claim, body, tally),
    };
    if outcome.is_err() {
        tally.errors += 1;
    }
    if let Wake::Callback(callback) = calling.shared().wake() {
        callback(&Delivery::new(calling.shared(), body));
    }
}

/// Delivers to a context without a callback, or with more than that.
#[inline(never)]
fn deliver_otherwise(
    claim: ContextClaim,
    seen: Seen,
    body: Box<Body>,
    tally: &mut Tally,
    fds: &mut Vec<Arc<EventFd>>,
) {
    let answered = body.outcome.is_ok();
    let is_waited_for = matches!(claim.wake(), Wake::Waiter);
    let calling = match claim.begin(seen) {
        Ok(calling) => calling,
        Err(claim) => return given_up(claim, body, tally),
    };
    if !answered {
        tally.errors += 1;
    }
    if is_waited_for {
        // Inside the call, for which `take` waits: the context is idle by now.
        calling.post(body);
    } else {
        tell(&calling, body, fds);
    }
}

/// Tells by a wait fd, in the end.
#[inline(never)]
fn tell(calling: &ContextCalling, body: Box<Body>, fds: &mut Vec<Arc<EventFd>>) {
    let context = calling.shared();
    match context.wake() {
        Wake::Waiter => calling.post(body),
        Wake::Fd(fd) => {
            calling.post(body);
            fds.push(Arc::clone(fd));
        }
        Wake::Both(callback, fd) => {
            fds.push(Arc::clone(fd));
            callback(&Delivery::new(context, body));
        }
        Wake::Callback(callback) => callback(&Delivery::new(context, body)),
    }
}

#[cold]
#[inline(never)]
fn given_up(claim: ContextClaim, body: Box<Body>, tally: &mut Tally) {
    // First the buffers, then the context: when it is idle, everything is back.
    drop(body);
    drop(claim);
    tally.detached += 1;
}

/// Delivers outside of a drain, one by one.
#[cold]
pub(crate) fn deliver_caught(
    claim: ContextClaim,
    body: Box<Body>,
    outcome: Result<Answer, Fault>,
    tally: &mut Tally,
    fds: &mut Vec<Arc<EventFd>>,
) {
    tally.entries += 1;
    let called = catch_unwind(AssertUnwindSafe(|| deliver(claim, body, outcome, tally, fds)));
    if called.is_err() {
        tally.panics += 1;
    }
}

impl Tally {
    #[inline(always)]
    pub(crate) fn add_to(&self, counters: &QueueCounters) {
        let complete = &counters.complete;
        complete.completed.add(self.entries - self.errors - self.detached - self.unclaimed);
        if self.errors | self.detached | self.panics != 0 {
            complete.errors.add(self.errors);
            complete.detached.add(self.detached);
            complete.panics.add(self.panics);
        }
    }
}

/// What the device's status becomes.
pub(crate) fn outcome(status: DeviceStatus) -> Result<Answer, Fault> {
    match status {
        DeviceStatus::Ok => Ok(Answer::Yes),
        DeviceStatus::BadMessage | DeviceStatus::KeyRejected => Ok(Answer::No),
        other => Err(Fault::Device(other)),
    }
}

impl Tally {
    /// Ends an entry of a stopped device. Where it could not be stopped the memory is kept for good.
    pub(crate) fn count_end(
        &mut self,
        entry: InFlight,
        fault: Fault,
        kept: bool,
        device: &Inner,
        fds: &mut Vec<Arc<EventFd>>,
    ) {
        let InFlight { claim, body } = entry;
        if kept {
            let bytes = body.size() as u64;
            device.leaked_bytes.fetch_add(bytes, Ordering::Relaxed);
            if let Some(claim) = claim {
                let told = body.without_buffers();
                deliver_caught(claim, told, Err(fault), self, fds);
            }
            std::mem::forget(body);
        } else if let Some(claim) = claim {
            deliver_caught(claim, body, Err(fault), self, fds);
        }
    }
}

/// Requests that a submit half took back because its queue was reaped under its burst. They are a
/// message to the poll thread, which ends them as all others.
pub(crate) struct Withdrawn {
    entries: Vec<InFlight>,
    kept: bool,
    counters: Arc<QueueCounters>,
}

impl Withdrawn {
    #[cold]
    pub(crate) fn take(side: &mut SubmitSide) -> Self {
        let (entries, kept) = side.submitter.withdrawn();
        Self { entries, kept, counters: Arc::clone(&side.counters) }
    }

    fn end(self, device: &Inner, fds: &mut Vec<Arc<EventFd>>) -> (Tally, Arc<QueueCounters>) {
        let fault = match device.state.get() {
            DeviceState::Closed => Fault::Shutdown,
            _ => Fault::DeviceFailed,
        };
        let mut tally = Tally::default();
        for entry in self.entries {
            tally.count_end(entry, fault, self.kept, device, fds);
        }
        (tally, self.counters)
    }

    /// Delivers them, on the poll thread.
    #[cold]
    pub(crate) fn deliver(self, device: &Inner, fds: &mut Vec<Arc<EventFd>>) {
        let (tally, counters) = self.end(device, fds);
        tally.add_to(&counters);
    }

    /// Delivers them on the submitting thread, since there is no poll thread any more. The caller holds
    /// no lock.
    #[cold]
    pub(crate) fn deliver_here(self, device: &Inner) {
        let mut fds = Vec::new();
        let (tally, counters) = self.end(device, &mut fds);
        Waiter::without_io_uring().signal_all(&fds);
        let submit = &counters.submit;
        submit.withdrawn.add_shared(tally.errors);
        submit.withdrawn_detached.add_shared(tally.detached);
        submit.withdrawn_panics.add_shared(tally.panics);
    }
}
