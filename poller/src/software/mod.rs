//! The work of a failed device, done on the poll thread by software: the queue of what waits for it.

#[cfg(feature = "failover")]
mod ccm;
#[cfg(feature = "failover")]
mod compute;
#[cfg(not(feature = "failover"))]
mod none;
#[cfg(feature = "failover")]
mod rsa;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::eventfd::EventFd;
use ringbell_drivers::engine::Purpose;

use crate::body::InFlight;
use crate::context::{ContextClaim, Status, Target};
use crate::deliver::{Tally, deliver_caught};
use crate::device::{Inner, lock};
use crate::owned::refuse;
use crate::refusal::{Reason, Refused};
use crate::request::{Fault, Request};
use crate::stats::QueueCounters;

#[cfg(feature = "failover")]
pub(crate) use compute::{compute, compute_chain};
#[cfg(not(feature = "failover"))]
pub(crate) use none::{compute, compute_chain};

/// Bytes done in one pass, but at least one request: other devices of the poller wait for it.
const BUDGET: usize = 64 << 10;

/// How much of the budget a request takes: its bytes, or all of it where few bytes are much work.
fn effort(entry: &InFlight) -> usize {
    match entry.body.purpose() {
        Purpose::Rsa { .. } => BUDGET,
        _ => entry.body.size(),
    }
}

/// Requests that wait for software.
pub(crate) struct Software {
    waiting: Mutex<VecDeque<InFlight>>,
    /// Written under the lock.
    open: AtomicBool,
    /// How many, for a look without the lock.
    count: AtomicUsize,
    capacity: usize,
    pub(crate) counters: QueueCounters,
}

impl Software {
    /// Closed. Open, it holds as many as the device's queues did.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            open: AtomicBool::new(false),
            count: AtomicUsize::new(0),
            capacity,
            counters: QueueCounters::default(),
        }
    }

    /// From now on it takes requests.
    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Requests that wait.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Takes a request that the device has returned undone, if its input is there still; else gives
    /// it back.
    pub(crate) fn take_over(&self, entry: InFlight) -> Option<InFlight> {
        if !entry.body.has_kept_input() || entry.claim.is_none() {
            return Some(entry);
        }
        let mut waiting = lock(&self.waiting);
        waiting.push_back(entry);
        self.count.store(waiting.len(), Ordering::Relaxed);
        None
    }

    /// Submits a request to software: as to a ring.
    #[cold]
    pub(crate) fn submit<T: Target>(&self, device: &Inner, request: Request, ctx: &T) -> Result<(), Refused> {
        let body = &request.0;
        if let Some(reason) = body.invalid() {
            return Err(refuse(request, ctx, reason));
        }
        if !body.is_for(device) {
            return Err(refuse(request, ctx, Reason::OtherDevice));
        }
        let Some(claim) = ctx.claim() else { return Err(Refused::new(request, Reason::ContextBusy)) };
        let claim = claim.0;
        let mut waiting = lock(&self.waiting);
        let reason = match () {
            () if !self.is_open() => Some(Reason::DeviceDown),
            () if waiting.len() >= self.capacity => Some(Reason::RingFull),
            () => None,
        };
        if let Some(reason) = reason {
            drop(waiting);
            claim.set_status(reason.status());
            return Err(Refused::new(request, reason));
        }
        claim.set_status(Status::Ok);
        waiting.push_back(InFlight { claim: Some(claim), body: request.0 });
        self.count.store(waiting.len(), Ordering::Relaxed);
        self.counters.submit.accepted.add(1);
        drop(waiting);
        device.engine().wake().wake();
        Ok(())
    }

    /// Does some of what waits. Returns how many.
    #[cold]
    pub(crate) fn work(&self, device: &Inner, fds: &mut Vec<Arc<EventFd>>) -> usize {
        let entries: Vec<InFlight> = {
            let mut waiting = lock(&self.waiting);
            let mut left = BUDGET;
            let mut fits = |entry: &InFlight| {
                let fits = left != 0;
                left = left.saturating_sub(effort(entry));
                fits
            };
            let count = waiting.iter().take_while(|entry| fits(entry)).count();
            let taken = waiting.drain(..count).collect();
            self.count.store(waiting.len(), Ordering::Relaxed);
            taken
        };
        let done = entries.len();
        let mut tally = Tally::default();
        for InFlight { claim, mut body } in entries {
            let outcome = body.do_by_software();
            if let Some(claim) = claim {
                deliver_caught(claim, body, outcome, &mut tally, fds);
            }
        }
        if done > 0 {
            tally.add_to(&self.counters);
            device.engine().room().announce();
        }
        done
    }

    /// Ends those that wait whose claim `choose` wants.
    #[cold]
    pub(crate) fn cancel(
        &self,
        device: &Inner,
        fds: &mut Vec<Arc<EventFd>>,
        choose: impl Fn(&ContextClaim) -> bool,
    ) {
        let found: Vec<InFlight> = {
            let mut waiting = lock(&self.waiting);
            let all = std::mem::take(&mut *waiting).into_iter();
            let (found, left): (Vec<_>, Vec<_>) =
                all.partition(|entry| entry.claim.as_ref().is_some_and(&choose));
            *waiting = left.into();
            self.count.store(waiting.len(), Ordering::Relaxed);
            found
        };
        if found.is_empty() {
            return;
        }
        let canceled = self.end(found, Fault::Canceled, device, fds);
        device.engine().room().announce();
        self.counters.complete.canceled.add(canceled);
    }

    /// Takes no more, and ends what waits.
    pub(crate) fn close(&self, device: &Inner, fds: &mut Vec<Arc<EventFd>>) {
        let left = {
            let mut waiting = lock(&self.waiting);
            self.open.store(false, Ordering::Release);
            self.count.store(0, Ordering::Relaxed);
            std::mem::take(&mut *waiting)
        };
        self.end(left, Fault::Shutdown, device, fds);
    }

    fn end(
        &self,
        entries: impl IntoIterator<Item = InFlight>,
        fault: Fault,
        device: &Inner,
        fds: &mut Vec<Arc<EventFd>>,
    ) -> u64 {
        let mut tally = Tally::default();
        for entry in entries {
            tally.count_end(entry, fault, false, device, fds);
        }
        tally.add_to(&self.counters);
        tally.errors
    }
}
