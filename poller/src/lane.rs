//! One device under a poller, and the messages to it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::eventfd::EventFd;

use crate::context::{ContextClaim, is_claim_of};
use crate::device::{Device, Inner, Message};
use crate::queue_lane::QueueLane;
use crate::request::Fault;

/// One device under the poller.
pub(crate) struct Lane {
    pub(crate) device: Device,
    pub(crate) queues: Vec<QueueLane>,
    /// Stopped: nothing is in flight any more.
    pub(crate) ended: bool,
}

impl Lane {
    pub(crate) fn inner(&self) -> &Inner {
        self.device.inner()
    }
}

#[cold]
pub(crate) fn take_messages(lane: &mut Lane, fds: &mut Vec<Arc<EventFd>>) {
    let device = Arc::clone(lane.device.inner());
    // First the flag, then the messages: one that comes in between raises the flag again.
    device.has_messages.swap(false, Ordering::AcqRel);
    while let Some(message) = device.messages.pop() {
        match message {
            Message::Cancel(ctx, generation) => {
                for queue in &mut lane.queues {
                    let mut found = Vec::new();
                    queue.side.completer.ring().for_each_in_flight(|entry| {
                        let ours = |claim: &mut ContextClaim| is_claim_of(claim, &ctx, generation);
                        if let Some(claim) = entry.claim.take_if(ours) {
                            found.push((claim, entry.body.without_buffers()));
                        }
                    });
                    if !found.is_empty() {
                        let canceled = queue.end_early(found, Fault::Canceled, fds);
                        queue.side.counters.complete.canceled.add(canceled);
                    }
                }
            }
        }
    }
}
