//! What the two halves share: the slots, the free ring, the published count, the epoch.

use std::mem::MaybeUninit;

use crossbeam_utils::CachePadded;

use super::RingMemory;
use crate::dma::Epoch;
use crate::primitive::UnsafeCell;
use crate::primitive::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// State of a slot: 0 while it is free, else the number of the request, counted from 0 since the
/// queue was made, shifted left, with bit 0 set. It does not wrap in the life of a machine, so a slot
/// may stay in flight for any time.
#[inline(always)]
pub(super) const fn in_flight(position: u64) -> u64 {
    position << 1 | 1
}

/// Whether a slot in this state is in flight and among the first `published` requests.
#[inline(always)]
pub(super) const fn is_published(state: u64, published: u64) -> bool {
    state & 1 == 1 && state >> 1 < published
}

/// A slot: the entry of the request in flight, and its state.
pub(super) struct Slot<T> {
    pub(super) state: AtomicU64,
    pub(super) entry: UnsafeCell<MaybeUninit<T>>,
}

pub(super) struct Shared<T, M> {
    pub(super) memory: M,
    pub(super) shift: u32,
    /// Number of slots minus one; the number is a power of two.
    pub(super) mask: u32,
    pub(super) slots: Box<[Slot<T>]>,
    /// Indices of free slots: a ring that the completer fills and the submitter empties.
    pub(super) free_ring: Box<[AtomicU16]>,
    pub(super) epoch: Epoch,
    /// Requests published to the device since the queue was made. Written by the submitter.
    pub(super) published: CachePadded<AtomicU64>,
    /// End of the free ring. Written by the completer.
    pub(super) free_tail: CachePadded<AtomicU32>,
}

// SAFETY: an entry is written by the submitter while the slot is free, and read by whoever takes
// the slot out of its in-flight state (the completer; after a close, the winner of a
// compare-exchange), ordered by `state` and the free ring (ordering.rs, Slots). So the halves may
// live on two threads, where T may move to another thread.
unsafe impl<T: Send, M: Send + Sync> Send for Shared<T, M> {}
// SAFETY: as for Send.
unsafe impl<T: Send, M: Send + Sync> Sync for Shared<T, M> {}

impl<T, M: RingMemory> Shared<T, M> {
    pub(super) fn new(memory: M, shift: u32, count: u32, epoch: Epoch) -> Self {
        assert!(count.is_power_of_two() && count <= 1 << 15, "a ring size is a power of two");
        let slot = |_| Slot { state: AtomicU64::new(0), entry: UnsafeCell::new(MaybeUninit::uninit()) };
        Self {
            memory,
            shift,
            mask: count - 1,
            slots: (0..count).map(slot).collect(),
            free_ring: (0..count).map(|index| AtomicU16::new(index as u16)).collect(),
            epoch,
            published: CachePadded::new(AtomicU64::new(0)),
            free_tail: CachePadded::new(AtomicU32::new(count)),
        }
    }

    /// Slots of the queue.
    pub(super) fn count(&self) -> u32 {
        self.mask + 1
    }

    /// Moves the entry out of a slot.
    ///
    /// # Safety
    /// The caller has seen the slot in flight with Acquire and is the only one who takes it out of
    /// that state: the completer of a live queue, or the winner of [`withdraw`](Self::withdraw).
    #[inline(always)]
    pub(super) unsafe fn take(&self, slot: &Slot<T>) -> T {
        // SAFETY: in flight means written (Release store of `state` after the write); the caller
        // is the only one who reads it, and reads it once.
        slot.entry.with(|pointer| unsafe { pointer.read().assume_init() })
    }

    /// After a close: takes the entry of a slot if it is in flight as `state` says. Both halves may
    /// try; one wins.
    pub(super) fn withdraw(&self, slot: &Slot<T>, state: u64) -> Option<T> {
        // Acquire: pairs with the Release store of the state, so the entry is visible.
        slot.state.compare_exchange(state, 0, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        // SAFETY: this exchange took the slot out of its in-flight state.
        Some(unsafe { self.take(slot) })
    }
}
