//! The submitting half.

use std::sync::Arc;

use super::slots::{Shared, in_flight};
use super::{RingMemory, Wake};
use crate::dma::Epoch;
use crate::pci::Doorbell;
use crate::primitive::atomic::{Ordering, fence};

/// Why a burst could not begin: nothing was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The queue is closed: failed, shut down, gone.
    Queue,
    /// This process is a forked child: the queue is its parent's.
    Fork,
}

/// Flag in `used.flags`: the device wants no notifications (2.7.8, without EVENT_IDX).
const NO_NOTIFY: u16 = 1;

/// The submitting half of a queue. One thread at a time uses it.
pub struct Submitter<T, M: RingMemory> {
    /// Dropped before `shared`, which may be the last to hold the function.
    doorbell: Doorbell,
    shared: Arc<Shared<T, M>>,
    /// Requests committed, published or not.
    position: u64,
    /// Requests published.
    published: u64,
    free_head: u32,
    /// The free tail as last seen.
    free_tail: u32,
    event_idx: bool,
    epoch: u64,
    doorbell_value: u16,
    wake: Arc<Wake>,
    /// Entries taken back because the queue was closed under a burst.
    withdrawn: Vec<T>,
}

impl<T, M: RingMemory> Submitter<T, M> {
    pub(super) fn new(
        shared: Arc<Shared<T, M>>,
        event_idx: bool,
        (doorbell, doorbell_value): (Doorbell, u16),
        wake: Arc<Wake>,
    ) -> Self {
        let epoch = shared.epoch.word().load(Ordering::Relaxed);
        let free_tail = shared.count();
        Self {
            shared,
            position: 0,
            published: 0,
            free_head: 0,
            free_tail,
            event_idx,
            epoch,
            doorbell,
            doorbell_value,
            wake,
            withdrawn: Vec::new(),
        }
    }

    /// Slots of the queue: the most requests in flight.
    pub fn capacity(&self) -> u32 {
        self.shared.count()
    }

    /// Requests accepted so far.
    pub fn accepted(&self) -> u64 {
        self.published
    }

    /// Whether the queue still is what this half was made for.
    ///
    /// # Errors
    /// It is closed, or this process is a forked child.
    #[inline(always)]
    pub fn check(&self) -> Result<(), Closed> {
        // Relaxed: a close that this does not see yet is seen after the fence in publish (C).
        let epoch = self.shared.epoch.word().load(Ordering::Relaxed);
        if epoch == self.epoch { Ok(()) } else { Err(self.why_closed()) }
    }

    #[cold]
    fn why_closed(&self) -> Closed {
        // Acquire: pairs with the Release of the closing: the caller sees what led to it.
        fence(Ordering::Acquire);
        if self.shared.epoch.is_child() { Closed::Fork } else { Closed::Queue }
    }

    /// Runs `f`, which commits any number of requests, then publishes them together: one release
    /// store, one full fence, at most one doorbell and one wake-up. A panic in `f` publishes what
    /// was committed before it.
    ///
    /// Afterwards [`withdrawn`](Self::withdrawn) may have entries: the queue was closed meanwhile.
    ///
    /// # Errors
    /// The queue is closed; `f` was not called. In a forked child nothing but the wiped page is
    /// looked at.
    #[inline]
    pub fn burst<R>(&mut self, f: impl FnOnce(&mut Burst<'_, T, M>) -> R) -> Result<R, Closed> {
        self.check()?;
        Ok(self.burst_unchecked(f))
    }

    /// As [`burst`](Self::burst), for a caller that has [checked](Self::check) just before, and
    /// commits nothing if the answer was no.
    #[inline(always)]
    pub fn burst_unchecked<R>(&mut self, f: impl FnOnce(&mut Burst<'_, T, M>) -> R) -> R {
        let mut burst = Burst { submitter: self };
        f(&mut burst)
        // Burst's Drop publishes. `f` only has a reference to it and can't forget it.
    }

    /// Whether there are [`withdrawn`](Self::withdrawn) entries.
    #[inline(always)]
    pub fn has_withdrawn(&self) -> bool {
        !self.withdrawn.is_empty()
    }

    /// Entries that this half took back because the queue was reaped while it published them: the
    /// poll thread has not seen them, and the caller must end them.
    ///
    /// Where the second value is true the device could not be stopped and may still write to the
    /// entries' memory: they must be forgotten (`mem::forget`), not dropped.
    pub fn withdrawn(&mut self) -> (Vec<T>, bool) {
        let kept = Epoch::is_kept(self.epoch, self.shared.epoch.word().load(Ordering::Relaxed));
        (std::mem::take(&mut self.withdrawn), kept)
    }

    #[inline]
    fn publish(&mut self) {
        let old = self.published;
        let new = self.position;
        if old == new {
            return;
        }
        let shared = &*self.shared;
        self.published = new;
        // Release: pairs with the completer's Acquire (ordering.rs, Slots).
        shared.published.store(new, Ordering::Release);
        // Release: pairs with the device's Acquire (A).
        shared.memory.publish_avail(new as u16);
        // (A), (C), (D), (E): before it what we published, after it what others may have stored.
        fence(Ordering::SeqCst);
        if shared.epoch.word().load(Ordering::Relaxed) != self.epoch {
            return self.publish_closed(old, new);
        }
        self.notify(old, new);
    }

    /// Rings the doorbell where the device wants that, and wakes the poll thread where it sleeps.
    #[inline(always)]
    fn notify(&self, old: u64, new: u64) {
        let shared = &*self.shared;
        let kick = if self.event_idx {
            // Read once; a lying device harms nobody but itself: it misses a notification.
            let event = shared.memory.avail_event();
            (new as u16).wrapping_sub(event).wrapping_sub(1) < (new as u16).wrapping_sub(old as u16)
        } else {
            shared.memory.used_flags() & NO_NOTIFY == 0
        };
        if kick {
            self.doorbell.ring(self.doorbell_value);
        }
        self.wake.wake_fenced();
    }

    /// (C): the queue was closed. Once it is being reaped, takes back what the poll thread has not
    /// taken, and leaves the doorbell alone, for the device may not be set up again; before that the poll
    /// thread will find it all.
    #[cold]
    fn publish_closed(&mut self, old: u64, new: u64) {
        if !Epoch::is_reaped(self.epoch, self.shared.epoch.word().load(Ordering::Relaxed)) {
            return self.notify(old, new);
        }
        let (shared, count) = (&*self.shared, new - old);
        for back in (1..=count).rev() {
            // The slots of the burst stand in the free ring where we took them from. An entry there
            // can have been overwritten only if the poll thread has completed a request of this
            // burst; it has then seen all of them as published, and takes the rest itself.
            let place = self.free_head.wrapping_sub(back as u32) & shared.mask;
            let index = shared.free_ring[place as usize].load(Ordering::Relaxed);
            let state = in_flight(self.published - back);
            let slot = shared.slots.get(usize::from(index));
            self.withdrawn.extend(slot.and_then(|slot| shared.withdraw(slot, state)));
        }
    }
}

/// The requests of one burst, while it is being filled.
pub struct Burst<'a, T, M: RingMemory> {
    submitter: &'a mut Submitter<T, M>,
}

impl<T, M: RingMemory> Burst<'_, T, M> {
    /// A free slot, or `None`: the ring is full. The caller writes the slot's descriptors, then
    /// commits; until then it may give up without a trace.
    #[inline(always)]
    pub fn vacancy(&mut self) -> Option<Vacancy<'_, T, M>> {
        self.slots().vacancy()
    }

    /// The same, as a value that may be handed to a function without the burst being in memory for it.
    #[inline(always)]
    pub fn slots(&mut self) -> Slots<'_, T, M> {
        Slots { submitter: &mut *self.submitter }
    }
}

/// The free slots of a burst.
pub struct Slots<'a, T, M: RingMemory> {
    submitter: &'a mut Submitter<T, M>,
}

impl<'a, T, M: RingMemory> Slots<'a, T, M> {
    /// See [`Burst::vacancy`].
    #[inline(always)]
    pub fn vacancy(self) -> Option<Vacancy<'a, T, M>> {
        let submitter = self.submitter;
        if submitter.free_head == submitter.free_tail {
            // Acquire: pairs with the completer's Release: the slot's entry has been moved out.
            submitter.free_tail = submitter.shared.free_tail.load(Ordering::Acquire);
            if submitter.free_head == submitter.free_tail {
                return None;
            }
        }
        let place = submitter.free_head & submitter.shared.mask;
        // SAFETY: the ring has mask + 1 places.
        let slot = unsafe { submitter.shared.free_ring.get_unchecked(place as usize) };
        let slot = slot.load(Ordering::Relaxed);
        Some(Vacancy { submitter, slot })
    }
}

impl<T, M: RingMemory> Drop for Burst<'_, T, M> {
    #[inline]
    fn drop(&mut self) {
        self.submitter.publish();
    }
}

/// A free slot, on its way to be filled. At most one at a time exists for a queue.
pub struct Vacancy<'a, T, M: RingMemory> {
    submitter: &'a mut Submitter<T, M>,
    /// Below the number of slots: the free ring holds nothing else.
    slot: u16,
}

impl<T, M: RingMemory> Vacancy<'_, T, M> {
    /// Number of the slot, below the queue's capacity.
    #[inline(always)]
    pub fn slot(&self) -> u16 {
        self.slot
    }

    /// The rings, for writing the slot's descriptors.
    #[inline(always)]
    pub fn memory(&self) -> &M {
        &self.submitter.shared.memory
    }

    /// Puts the request, whose descriptors are written, into the slot. It is published at the end of
    /// the burst.
    #[inline(always)]
    pub fn commit(self, entry: T) {
        let submitter = self.submitter;
        let shared = &*submitter.shared;
        // SAFETY: the free ring holds indices below the number of slots: it was filled so, and the
        // completer puts in only what it has checked against the slots.
        let cell = unsafe { shared.slots.get_unchecked(usize::from(self.slot)) };
        // SAFETY: the slot is free (it stands in the free ring between head and tail) and was taken
        // by nobody else: this half alone takes slots, and `&mut` makes it one thread and one
        // vacancy. The completer does not read it before the store of `state` below.
        cell.entry.with_mut(|pointer| unsafe { (*pointer).write(entry) });
        // Release: pairs with the Acquire in drain and withdraw.
        cell.state.store(in_flight(submitter.position), Ordering::Release);
        shared.memory.put_avail(submitter.position as u16, self.slot << shared.shift);
        submitter.position += 1;
        submitter.free_head = submitter.free_head.wrapping_add(1);
    }
}
