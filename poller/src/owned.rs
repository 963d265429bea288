//! Submitting: a burst on an owned queue, or a burst of one on a shared queue.

use std::fmt;
use std::sync::Arc;

use ringbell_drivers::virtio_crypto::CipherBurst;
use ringbell_drivers::virtqueue::Closed;

use crate::context::{Status, Target};
use crate::core::deliver_withdrawn;
use crate::device::{Inner, SubmitSide};
use crate::request::{InFlight, Reason, Refused, Request, live_session};

/// A queue that one thread has for itself: bursts without a lock.
///
/// Callbacks run on the poll thread and cannot submit to it. Dropping it makes the queue shared
/// again.
pub struct OwnedQueue {
    device: Arc<Inner>,
    index: usize,
    /// `None` only while it is dropped.
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
        match &mut self.side {
            Some(side) => submit_one(&self.device, side, request, ctx),
            None => Err(refuse(request, ctx, Reason::DeviceDown)),
        }
    }

    /// Calls `f`, which submits any number of requests; they are published to the device together
    /// when it returns: one fence, at most one doorbell.
    ///
    /// `f` runs in any case: on a device that is down its submits are refused.
    #[inline]
    pub fn burst<R>(&mut self, f: impl FnOnce(&mut OwnedBurst<'_, '_, '_>) -> R) -> R {
        let device = &*self.device;
        let mut f = Some(f);
        let mut run = |burst: &mut OwnedBurst<'_, '_, '_>| f.take().map(|f| f(burst));
        let mut result = None;
        if let Some(side) = &mut self.side {
            let mut counts = Counts::default();
            let published = side.submitter.burst(|ring| {
                let mut burst = OwnedBurst { ring: Some(ring), device, down: Reason::DeviceDown, counts };
                result = run(&mut burst);
                counts = burst.counts;
            });
            counts.add_to(side);
            if side.submitter.has_withdrawn() {
                deliver_withdrawn(&self.device, side);
            }
            if let Err(closed) = published {
                let mut burst = OwnedBurst { ring: None, device, down: closed.into(), counts };
                result = run(&mut burst);
                burst.counts.add_to(side);
            }
        }
        match result {
            Some(result) => result,
            // `run` was called exactly once above: `side` is there until Drop, and a burst either
            // runs its closure or returns Closed.
            None => unreachable!("a burst runs its closure"),
        }
    }
}

impl From<Closed> for Reason {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Queue => Self::DeviceDown,
            Closed::Fork => Self::Forked,
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

/// What a burst counts, in registers.
#[derive(Clone, Copy, Default)]
struct Counts {
    accepted: u64,
    eagain: u64,
    refused: u64,
}

impl Counts {
    #[inline]
    fn add_to(self, side: &SubmitSide) {
        let submit = &side.counters.submit;
        submit.accepted.add(self.accepted);
        if self.eagain | self.refused != 0 {
            submit.eagain.add(self.eagain);
            submit.refused.add(self.refused);
        }
    }

    #[cold]
    fn count(&mut self, reason: Reason) {
        match reason.status() {
            Status::Eagain => self.eagain += 1,
            _ => self.refused += 1,
        }
    }
}

/// A burst of an [`OwnedQueue`], while it is filled.
pub struct OwnedBurst<'a, 'b, 'c> {
    /// `None` where the queue is closed.
    ring: Option<&'a mut CipherBurst<'b, 'c, InFlight>>,
    device: &'a Inner,
    down: Reason,
    counts: Counts,
}

impl OwnedBurst<'_, '_, '_> {
    /// Submits one request with the burst; see [`Request::submit`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn submit<T: Target>(&mut self, request: Request, ctx: &T) -> Result<(), Refused> {
        let Some(ring) = &mut self.ring else {
            self.counts.count(self.down);
            return Err(refuse(request, ctx, self.down));
        };
        match push(self.device, ring, request, ctx) {
            Ok(()) => {
                self.counts.accepted += 1;
                Ok(())
            }
            Err(refused) => {
                self.counts.count(refused.reason());
                Err(refused)
            }
        }
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
    ring: &mut CipherBurst<'_, '_, InFlight>,
    request: Request,
    ctx: &T,
) -> Result<(), Refused> {
    let Some(claim) = ctx.claim() else {
        return Err(Refused::new(request, Reason::ContextBusy));
    };
    let claim = claim.0;
    let body = request.0;
    let reason = 'refuse: {
        if let Some(reason) = body.invalid() {
            break 'refuse reason;
        }
        if !std::ptr::eq(&**body.key.device.inner(), device) {
            break 'refuse Reason::OtherDevice;
        }
        let session_id = match live_session(device, &body) {
            Ok(id) => id,
            Err(reason) => break 'refuse reason,
        };
        let Some(slot) = ring.vacancy() else { break 'refuse Reason::RingFull };
        let Some(job) = body.job(session_id) else { break 'refuse Reason::NoData };
        // Before the request is published, so that an ERR that follows at once is not overwritten.
        claim.set_status(Status::Ok);
        ring.push(slot, &job, InFlight { claim: Some(claim), body });
        return Ok(());
    };
    Err(refuse_claimed(Request(body), claim, reason))
}

#[cold]
#[inline(never)]
fn refuse_claimed(request: Request, claim: crate::context::ContextClaim, reason: Reason) -> Refused {
    claim.set_status(reason.status());
    drop(claim);
    Refused::new(request, reason)
}

/// A burst of one.
#[inline]
pub(crate) fn submit_one<T: Target>(
    device: &Inner,
    side: &mut SubmitSide,
    request: Request,
    ctx: &T,
) -> Result<(), Refused> {
    // Looked at before the closure takes the request, so that it is still here when it is refused.
    if let Err(closed) = side.submitter.check() {
        side.counters.submit.refused.add(1);
        return Err(refuse(request, ctx, closed.into()));
    }
    let mut outcome = Ok(());
    let mut request = Some(request);
    let closed = side.submitter.burst(|ring| {
        if let Some(request) = request.take() {
            outcome = push(device, ring, request, ctx);
        }
    });
    if let (Err(closed), Some(request)) = (closed, request) {
        side.counters.submit.refused.add(1);
        return Err(refuse(request, ctx, closed.into()));
    }
    let submit = &side.counters.submit;
    match &outcome {
        Ok(()) => submit.accepted.add(1),
        Err(refused) if refused.status() == Status::Eagain => submit.eagain.add(1),
        Err(_) => submit.refused.add(1),
    }
    if side.submitter.has_withdrawn() {
        deliver_withdrawn(device, side);
    }
    outcome
}
