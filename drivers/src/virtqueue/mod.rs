//! A split virtqueue (VIRTIO 1.2, 2.7), driver side, in two halves.
//!
//! ```text
//!      any program thread                                   the poll thread
//!   +-------------------------+                        +------------------------+
//!   | Submitter<T>            |   slots: T in flight   | Completer<T>           |
//!   |  avail position         |   +---+---+---+---+    |  last used index       |
//!   |  free head, cached tail |-->| T |   | T | T |--->|  free tail             |
//!   |  burst -> one publish,  |   +---+---+---+---+    |  drain -> check, take, |
//!   |  one fence, one kick    |<--- free ring --------<|  free, call            |
//!   +-----------|-------------+     published ->       +----------^-------------+
//!               |                   epoch (both)                  |
//!   ============|=================================================|============ DMA memory
//!               v                                                 |
//!     descriptors, available ring                             used ring
//!               |                                                 ^
//!               +------------------> the device ------------------+
//! ```
//!
//! The halves meet only in the free ring, each slot's state, the published count and the epoch
//! word. `T` is the caller's entry, which holds the request's buffers: it goes in by move and comes
//! out by move, once. The queue knows nothing of requests; a driver writes its descriptors through
//! the slot's index.
//!
//! What the device writes (used index, ids, lengths, avail_event) is read once, checked, and used
//! from the copy; a [`Lie`](crate::Lie) ends the queue. All reasoning about fences is in
//! `ordering.rs`.
//!
//! Both halves are generic over [`RingMemory`], so that loom runs this code over its own atomics.

mod complete;
mod memory;
#[cfg(doc)]
pub mod ordering;
mod slots;
mod submit;
mod wake;

pub use complete::{Completer, Drained};
pub use memory::{Descriptor, RingAddresses, RingMemory, SplitRing};
pub use submit::{Burst, Closed, Slots, Submitter, Vacancy};
pub use wake::{Signal, Wake};

use std::sync::Arc;

use crate::dma::Epoch;
use crate::pci::Doorbell;
use crate::room::Room;

/// What a queue is made with.
pub struct QueueParts<M> {
    /// The rings.
    pub memory: M,
    /// log2 of the descriptors that a slot has in the ring's own table: 0 with indirect tables.
    /// Slot `n` then is the chain with head `n << shift`.
    pub shift: u32,
    /// EVENT_IDX was negotiated (2.7.7.1).
    pub event_idx: bool,
    /// The doorbell, and the value that names this queue.
    pub doorbell: (Doorbell, u16),
    /// The queue's epoch word.
    pub epoch: Epoch,
    /// Who sleeps waiting for submissions.
    pub wake: Arc<Wake>,
    /// Who waits for room.
    pub room: Arc<Room>,
}

/// Makes the two halves of a queue. Every slot is free.
///
/// The rings must be zeroed, and the device must not use them before.
pub fn queue<T, M: RingMemory>(parts: QueueParts<M>) -> (Submitter<T, M>, Completer<T, M>) {
    let count = u32::from(parts.memory.size()) >> parts.shift;
    let shared = Arc::new(slots::Shared::new(parts.memory, parts.shift, count, parts.epoch));
    let submitter = Submitter::new(Arc::clone(&shared), parts.event_idx, parts.doorbell, parts.wake);
    let completer = Completer::new(shared, parts.event_idx, parts.room);
    (submitter, completer)
}
