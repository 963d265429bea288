//! Submitting: a burst on an owned queue, or a burst of one on a shared queue.

use std::fmt;
use std::sync::Arc;

use ringbell_drivers::claim::Mailbox;
use ringbell_drivers::virtio_crypto::{DataBurst, DataSlots, DataSubmitter};
use ringbell_drivers::virtqueue::Closed;

use crate::body::{Body, Gate, InFlight};
use crate::context::{ContextClaim, Status, Target};
use crate::deliver::Withdrawn;
use crate::device::{Inner, Message};
use crate::refusal::{Reason, Refused};
use crate::request::Request;
use crate::stats::QueueCounters;

/// The submit half of a queue, as the shared queues and the owned ones have it.
pub(crate) struct SubmitSide {
    pub(crate) submitter: DataSubmitter<InFlight>,
    pub(crate) counters: Arc<QueueCounters>,
    /// Number of the queue.
    pub(crate) index: usize,
}

impl SubmitSide {
    /// Takes the queue's new submit half after a recovery, if there is one. The old rings go with the
    /// old half.
    #[cold]
    pub(crate) fn renew(&mut self, device: &Inner) -> bool {
        match device.renewed.get(self.index).and_then(Mailbox::take) {
            Some(submitter) => {
                self.submitter = *submitter;
                true
            }
            None => false,
        }
    }
}

/// Why a closed queue does not take a request.
#[derive(Clone, Copy)]
pub(crate) enum Shut {
    For(Reason),
    /// The device is failed and software does its work.
    Software,
}

/// A queue that one thread has for itself: bursts without a lock.
///
/// Callbacks run on the poll thread and cannot submit to it. Dropping it makes the queue shared
/// again.
pub struct OwnedQueue {
    device: Arc<Inner>,
    index: usize,
    side: Option<SubmitSide>,
}

impl OwnedQueue {
    pub(crate) fn new(device: Arc<Inner>, index: usize, side: SubmitSide) -> Self {
        Self { device, index, side: Some(side) }
    }

    /// Requests that the queue holds.
    pub fn capacity(&self) -> u32 {
        self.side.as_ref().map_or(0, |side| side.submitter.capacity())
    }

    /// Submits one request; see [`Request::submit`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn submit<T: Target>(&mut self, request: Request, ctx: &T) -> Result<(), Refused> {
        let (device, side) = self.parts();
        let outcome = submit_one(device, side, request, ctx);
        if let Err(refused) = &outcome {
            let mut refusals = Refusals::default();
            refusals.count(refused.reason());
            refusals.add_to(side);
        }
        if side.submitter.has_withdrawn() {
            device.send(Message::End(Withdrawn::take(side)));
        }
        outcome
    }

    #[inline(always)]
    fn parts(&mut self) -> (&Inner, &mut SubmitSide) {
        match &mut self.side {
            Some(side) => (&self.device, side),
            None => unreachable!("the queue is given back in Drop only"),
        }
    }

    /// Calls `f`, which submits any number of requests; they are published to the device together
    /// when it returns: one fence, at most one doorbell.
    ///
    /// `f` runs in any case: on a device that is down its submits are refused.
    #[inline(always)]
    pub fn burst<R>(&mut self, f: impl FnOnce(&mut OwnedBurst<'_, '_, '_>) -> R) -> R {
        let (device, side) = self.parts();
        let down = side.open(device).err();
        let before = side.submitter.accepted();
        // Settles in its Drop: also when `f` panics, after what it had submitted was published.
        let mut settle = Settle { device, side, before, refused: Refusals::default() };
        let Settle { side, refused, .. } = &mut settle;
        side.submitter.burst_unchecked(|ring| f(&mut OwnedBurst { ring, device, down, refused }))
    }
}

/// The end of a burst: counts, and ends what was withdrawn.
struct Settle<'a> {
    device: &'a Inner,
    side: &'a mut SubmitSide,
    before: u64,
    refused: Refusals,
}

impl Drop for Settle<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.side.count_accepted(self.before);
        if self.refused.any() {
            self.refused.add_to(self.side);
        }
        if self.side.submitter.has_withdrawn() {
            self.device.send(Message::End(Withdrawn::take(self.side)));
        }
    }
}

impl Shut {
    /// The same as a reason, where software takes over: for the next try.
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::For(reason) => reason,
            Self::Software => Reason::Resetting,
        }
    }

    /// What becomes of a request that the queue does not take.
    #[cold]
    pub(crate) fn submit<T: Target>(self, device: &Inner, request: Request, ctx: &T) -> Result<(), Refused> {
        match self {
            Self::For(reason) => Err(refuse(request, ctx, reason)),
            Self::Software => device.software.submit(device, request, ctx),
        }
    }
}

impl Drop for OwnedQueue {
    fn drop(&mut self) {
        if let Some(side) = self.side.take()
            && !self.device.is_child()
        {
            self.device.give_back(self.index, side);
        }
    }
}

impl fmt::Debug for OwnedQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedQueue").field("index", &self.index).finish_non_exhaustive()
    }
}

/// What a burst refused.
#[derive(Clone, Copy, Default)]
struct Refusals {
    eagain: u64,
    refused: u64,
}

impl Refusals {
    #[inline(always)]
    fn any(self) -> bool {
        self.eagain | self.refused != 0
    }

    #[cold]
    fn add_to(self, side: &SubmitSide) {
        side.counters.submit.eagain.add(self.eagain);
        side.counters.submit.refused.add(self.refused);
    }

    #[cold]
    fn count(&mut self, reason: Reason) {
        match reason.status() {
            Status::Eagain => self.eagain += 1,
            _ => self.refused += 1,
        }
    }
}

impl SubmitSide {
    /// Whether the queue takes requests: also after a recovery, on its new rings.
    #[inline(always)]
    fn open(&mut self, device: &Inner) -> Result<(), Shut> {
        match self.submitter.check() {
            Ok(()) => Ok(()),
            Err(closed) => self.open_again(closed, device),
        }
    }

    #[cold]
    #[inline(never)]
    fn open_again(&mut self, closed: Closed, device: &Inner) -> Result<(), Shut> {
        if closed == Closed::Fork {
            return Err(Shut::For(Reason::Forked));
        }
        // Twice: the new half may have come between the two looks.
        for _ in 0..2 {
            if self.renew(device) && self.submitter.check().is_ok() {
                return Ok(());
            }
            match device.why_shut() {
                Shut::For(Reason::Resetting) => {}
                shut => return Err(shut),
            }
        }
        Err(Shut::For(Reason::Resetting))
    }

    /// Counts what has been published since the queue had accepted `before`.
    #[inline(always)]
    fn count_accepted(&self, before: u64) {
        self.counters.submit.accepted.add(self.submitter.accepted() - before);
    }
}

/// A burst of an [`OwnedQueue`], while it is filled.
pub struct OwnedBurst<'a, 'b, 'c> {
    ring: &'a mut DataBurst<'b, 'c, InFlight>,
    device: &'a Inner,
    /// Why nothing may be pushed: the queue is closed.
    down: Option<Shut>,
    refused: &'a mut Refusals,
}

impl OwnedBurst<'_, '_, '_> {
    /// Submits one request with the burst; see [`Request::submit`].
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    pub fn submit<T: Target>(&mut self, request: Request, ctx: &T) -> Result<(), Refused> {
        let result = match self.down {
            None => push(self.device, self.ring, request, ctx),
            Some(shut) => shut.submit(self.device, request, ctx),
        };
        if let Err(refused) = &result {
            self.refused.count(refused.reason());
        }
        result
    }
}

/// Refuses a request before it was looked at: sets the context's status, unless it is busy.
#[cold]
pub(crate) fn refuse<T: Target>(request: Request, ctx: &T, reason: Reason) -> Refused {
    match ctx.claim() {
        Some(claim) => {
            claim.0.set_status(reason.status());
            Refused::new(request, reason)
        }
        None => Refused::new(request, Reason::ContextBusy),
    }
}

/// The heart of submitting: claim the context, check, write the slot, commit.
#[inline(always)]
fn push<T: Target>(
    device: &Inner,
    ring: &mut DataBurst<'_, '_, InFlight>,
    request: Request,
    ctx: &T,
) -> Result<(), Refused> {
    let Some(claim) = ctx.claim() else {
        return Err(Refused::new(request, Reason::ContextBusy));
    };
    let claim = claim.0;
    let mut body = request.0;
    let reason = 'refuse: {
        if body.gate() != Gate::Open {
            return push_other(device, ring.slots(), body, claim);
        }
        if !body.is_for(device) {
            break 'refuse Reason::OtherDevice;
        }
        let Some(session_id) = body.session_id() else { break 'refuse body.without_session(device) };
        let Some(mut vacancy) = ring.vacancy() else { break 'refuse Reason::RingFull };
        // Before the request is published, so that an ERR that follows at once is not overwritten.
        claim.set_status(Status::Ok);
        body.use_session(session_id);
        vacancy.write(body.job(), session_id);
        vacancy.commit(InFlight { claim: Some(claim), body });
        return Ok(());
    };
    Err(refuse_claimed(Request(body), claim, reason))
}

/// As `push`, for a request with a chain of its own, or one that can never be accepted. Cold as far as
/// `push` is concerned, which shall not pay for it.
#[cold]
#[inline(never)]
fn push_other(
    device: &Inner,
    slots: DataSlots<'_, InFlight>,
    mut body: Box<Body>,
    claim: ContextClaim,
) -> Result<(), Refused> {
    let reason = 'refuse: {
        if let Some(reason) = body.invalid() {
            break 'refuse reason;
        }
        if !body.is_for(device) {
            break 'refuse Reason::OtherDevice;
        }
        let Some(session_id) = body.session_id() else { break 'refuse body.without_session(device) };
        let Some(mut vacancy) = slots.vacancy() else { break 'refuse Reason::RingFull };
        let Some(chain) = body.chain_job() else { break 'refuse Reason::NoData };
        // As in `push`.
        claim.set_status(Status::Ok);
        vacancy.write_chain(chain, session_id);
        body.use_session(session_id);
        vacancy.commit(InFlight { claim: Some(claim), body });
        return Ok(());
    };
    Err(refuse_claimed(Request(body), claim, reason))
}

#[cold]
#[inline(never)]
fn refuse_claimed(request: Request, claim: ContextClaim, reason: Reason) -> Refused {
    claim.set_status(reason.status());
    drop(claim);
    Refused::new(request, reason)
}

/// A burst of one. A refusal is the caller's to count. Afterwards there may be withdrawn entries, to
/// be delivered without a lock.
#[inline]
pub(crate) fn submit_one<T: Target>(
    device: &Inner,
    side: &mut SubmitSide,
    request: Request,
    ctx: &T,
) -> Result<(), Refused> {
    if let Err(shut) = side.open(device) {
        return shut.submit(device, request, ctx);
    }
    let before = side.submitter.accepted();
    let outcome = side.submitter.burst_unchecked(|ring| push(device, ring, request, ctx));
    side.count_accepted(before);
    outcome
}
