//! The queues that all threads share, each under a short lock; and what a recovery does to them.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ringbell_drivers::virtio_crypto::DataSubmitter;

use crate::body::InFlight;
use crate::context::{Status, Target};
use crate::deliver::Withdrawn;
use crate::device::{Inner, Message, lock};
use crate::owned::{self, SubmitSide};
use crate::refusal::{Reason, Refused};
use crate::request::Request;

/// Where the submit half of a queue is.
pub(crate) enum Place {
    Shared(SubmitSide),
    Owned,
    /// Nowhere: it was dropped with its rings, the device is being brought back.
    Gone,
}

impl Inner {
    /// Makes an owned queue shared again.
    pub(crate) fn give_back(&self, index: usize, side: SubmitSide) {
        if let Some(queue) = self.shared.get(index) {
            *lock(queue) = Place::Shared(side);
        }
        self.engine().room().announce();
    }

    /// Drops the closed submit halves that nobody is using: their rings' memory is needed.
    pub(crate) fn drop_halves(&self) {
        for (queue, renewed) in self.shared.iter().zip(&self.renewed) {
            drop(renewed.take());
            // One that is in use goes when its user finds out.
            let Ok(mut place) = queue.try_lock() else { continue };
            if let Place::Shared(side) = &*place
                && !side.submitter.has_withdrawn()
            {
                let dropped = std::mem::replace(&mut *place, Place::Gone);
                drop(place);
                drop(dropped);
            }
        }
    }

    /// Hands a queue's new submit half to those who share it, or leaves it for its owner.
    pub(crate) fn renew(&self, index: usize, submitter: DataSubmitter<InFlight>) {
        let (Some(queue), Some(renewed), Some(counters)) =
            (self.shared.get(index), self.renewed.get(index), self.counters.get(index))
        else {
            return;
        };
        let mut place = lock(queue);
        if matches!(*place, Place::Gone) {
            let counters = Arc::clone(counters);
            *place = Place::Shared(SubmitSide { submitter, counters, index });
        } else {
            drop(place);
            drop(renewed.put(Box::new(submitter)));
        }
    }

    /// Submits one request to a shared queue.
    #[inline]
    pub(crate) fn submit<T: Target>(&self, request: Request, ctx: &T) -> Result<(), Refused> {
        self.submit_shared(request, ctx).inspect_err(|refused| {
            let counter = if refused.status() == Status::Eagain { &self.eagain } else { &self.refused };
            counter.add_shared(1);
        })
    }

    /// To the first shared queue that has room, each under its lock.
    fn submit_shared<T: Target>(&self, request: Request, ctx: &T) -> Result<(), Refused> {
        // Before any lock: in a child a lock may be held by a thread that is not there.
        if self.is_child() {
            return Err(owned::refuse(request, ctx, Reason::Forked));
        }
        let count = self.shared.len();
        let first = if count == 1 { 0 } else { thread_number() % count };
        let mut request = request;
        let (mut full, mut gone) = (false, false);
        for index in (first..count).chain(0..first) {
            let Some(queue) = self.shared.get(index) else { continue };
            let mut guard = lock(queue);
            gone |= matches!(*guard, Place::Gone);
            if let Place::Shared(side) = &mut *guard {
                let outcome = owned::submit_one(self, side, request, ctx);
                let withdrawn = side.submitter.has_withdrawn().then(|| Withdrawn::take(side));
                // No lock is held while a callback runs.
                drop(guard);
                if let Some(withdrawn) = withdrawn {
                    self.send(Message::End(withdrawn));
                }
                match outcome {
                    // Another queue may have room.
                    Err(refused) if refused.reason() == Reason::RingFull => {
                        full = true;
                        request = refused.into_request();
                    }
                    outcome => return outcome,
                }
            }
        }
        if gone {
            return self.why_shut().submit(self, request, ctx);
        }
        let reason = if full { Reason::RingFull } else { Reason::NoSharedQueue };
        Err(owned::refuse(request, ctx, reason))
    }
}

/// A small number of this thread's own, to spread threads over queues.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    }
    NUMBER
        .try_with(|cell| {
            cell.get().unwrap_or_else(|| {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                cell.set(Some(number));
                number
            })
        })
        .unwrap_or(0)
}
