//! The completing half: the poll thread's.

use std::sync::Arc;
use std::time::Duration;

use super::RingMemory;
use super::slots::{Shared, is_published};
use crate::dma::Epoch;
use crate::error::Lie;
use crate::primitive::atomic::{Ordering, fence};
use crate::room::Room;

/// Flag in `avail.flags`: the driver wants no interrupts (2.7.6, without EVENT_IDX).
const NO_INTERRUPT: u16 = 1;

/// What a drain did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Requests completed.
    pub completed: usize,
    /// The lie that ended it early: the queue must be closed.
    pub lie: Option<Lie>,
}

/// The completing half of a queue. One thread at a time uses it, the poll thread; only it ends
/// requests.
pub struct Completer<T, M: RingMemory> {
    shared: Arc<Shared<T, M>>,
    last_used: u16,
    /// Requests that the device has returned.
    completed: u64,
    free_tail: u32,
    event_idx: bool,
    room: Arc<Room>,
    /// Reaped: entries may belong to the submit half now, so nothing is touched any more.
    reaped: bool,
    /// For each slot: the state that a tick saw there first, and when.
    ages: Box<[(u64, Duration)]>,
}

impl<T, M: RingMemory> Completer<T, M> {
    pub(super) fn new(shared: Arc<Shared<T, M>>, event_idx: bool, room: Arc<Room>) -> Self {
        let free_tail = shared.count();
        let ages = vec![(0, Duration::ZERO); free_tail as usize].into_boxed_slice();
        let completer =
            Self { shared, last_used: 0, completed: 0, free_tail, event_idx, room, reaped: false, ages };
        completer.suppress();
        completer
    }

    /// Slots of the queue: the most requests in flight.
    pub fn capacity(&self) -> u32 {
        self.shared.count()
    }

    /// Requests published to the device so far: a burst changes it.
    #[inline]
    pub fn published(&self) -> u64 {
        self.shared.published.load(Ordering::Acquire)
    }

    /// Requests that the device has, quarantined ones among them.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        // At most the number of slots.
        self.published().saturating_sub(self.completed) as u32
    }

    /// Requests that the device has returned so far: progress changes it.
    pub fn returned(&self) -> u64 {
        self.completed
    }

    /// How many completions the device has announced that were not drained, at most the requests
    /// outstanding. Takes nothing.
    pub fn ready(&self) -> u32 {
        let ready = self.shared.memory.used_index().wrapping_sub(self.last_used);
        u32::from(ready).min(self.in_flight())
    }

    /// Takes up to `budget` completions. For each: `inspect(slot, id, len, entry)` reads the slot's
    /// result, then the entry leaves the slot, the slot is free (visibly, so that the callback can
    /// submit), and `each` gets both. A panic in `each` leaves the queue as after that completion.
    ///
    /// Everything the device wrote is read once and checked here: the used index against what is
    /// outstanding, the id against the slots, the slot's state against what was published.
    #[inline]
    pub fn drain<I>(
        &mut self,
        budget: usize,
        mut inspect: impl FnMut(u16, u32, u32, &T) -> Result<I, Lie>,
        mut each: impl FnMut(T, I),
    ) -> Drained {
        // Acquire: pairs with the device's Release (B).
        let used = self.shared.memory.used_index();
        let claimed = used.wrapping_sub(self.last_used);
        if claimed == 0 || self.reaped {
            return Drained::default();
        }
        // Acquire, after the used index: ordering.rs, Slots.
        let published = self.shared.published.load(Ordering::Acquire);
        // At most the number of slots.
        let outstanding = published.saturating_sub(self.completed) as u32;
        if u32::from(claimed) > outstanding {
            return Drained { completed: 0, lie: Some(Lie::UsedIndex { used, claimed, outstanding }) };
        }
        let goal = usize::from(claimed).min(budget) as u32;
        let mut pass = Pass {
            shared: &self.shared,
            published,
            taken: 0,
            free_tail: self.free_tail,
            last_used: self.last_used,
        };
        // Writes the counts back, also when `each` panics.
        let pass = WriteBack {
            pass: &mut pass,
            last_used: &mut self.last_used,
            completed: &mut self.completed,
            free_tail: &mut self.free_tail,
            room: &self.room,
        };
        let mut lie = None;
        while pass.pass.taken < goal {
            match pass.pass.one(&mut inspect) {
                Ok((entry, result)) => each(entry, result),
                Err(told) => {
                    lie = Some(told);
                    break;
                }
            }
        }
        Drained { completed: pass.pass.taken as usize, lie }
    }

    /// Calls `f` for the entry of each request in flight, published or not. `f` may take out of the entry
    /// what it wants to deliver early; the entry itself, with the buffers, stays with the device.
    pub fn for_each_in_flight(&mut self, mut f: impl FnMut(&mut T)) {
        self.visit(|_, entry| f(entry), |_| true);
    }

    /// One tick of the clock that deadlines are told by: calls `expired` for the entry of each
    /// request that a tick has found at least `limit` ago. The first tick that finds a request
    /// starts its clock, so nothing expires early. One that stays in quarantine expires again.
    pub fn tick(&mut self, now: Duration, limit: Duration, mut expired: impl FnMut(&mut T)) {
        let mut ages = std::mem::take(&mut self.ages);
        let published = self.published();
        for (slot, age) in self.shared.slots.iter().zip(ages.iter_mut()) {
            let state = slot.state.load(Ordering::Acquire);
            if !is_published(state, published) {
                *age = (0, now);
            } else if age.0 != state {
                *age = (state, now);
            }
        }
        self.visit(
            |_, entry| expired(entry),
            |index| {
                ages.get(index)
                    .is_some_and(|(state, since)| *state != 0 && now.saturating_sub(*since) >= limit)
            },
        );
        self.ages = ages;
    }

    /// Time in which nobody looked does not count: the clocks of all requests in flight stand still for
    /// `absence`.
    pub fn excuse(&mut self, absence: Duration) {
        self.ages.iter_mut().for_each(|(_, since)| *since += absence);
    }

    fn visit(&mut self, mut f: impl FnMut(u16, &mut T), choose: impl Fn(usize) -> bool) {
        if self.reaped {
            return;
        }
        for (index, slot) in self.shared.slots.iter().enumerate() {
            // Acquire: pairs with the commit's Release.
            let state = slot.state.load(Ordering::Acquire);
            if state & 1 == 1 && choose(index) {
                // SAFETY: in flight, seen with Acquire, on a queue that is not reaped: the submitter
                // does not touch the entry after its commit, and this half is borrowed exclusively.
                slot.entry.with_mut(|pointer| f(index as u16, unsafe { (*pointer).assume_init_mut() }));
            }
        }
    }

    /// Asks the device for no interrupts: the thread is polling.
    pub fn suppress(&self) {
        // With EVENT_IDX the device interrupts once used_event is passed: left where it is, that is
        // once in 65536 completions, which costs less than moving it along.
        if !self.event_idx {
            self.shared.memory.set_avail_flags(NO_INTERRUPT);
        }
    }

    /// Asks the device for an interrupt at the next completion, and looks once more (B). True means
    /// armed, and nothing has been completed: the thread may sleep.
    #[must_use]
    pub fn arm(&self) -> bool {
        if self.event_idx {
            self.shared.memory.set_used_event(self.last_used);
        } else {
            self.shared.memory.set_avail_flags(0);
        }
        fence(Ordering::SeqCst);
        self.shared.memory.used_index() == self.last_used
    }

    /// Closes the queue: submitters are refused from now on. Requests in flight may still be drained;
    /// once the device is stopped [`reap`](Self::reap) ends the rest.
    pub fn close(&self) {
        self.shared.epoch.mark(Epoch::CLOSED);
        self.room.announce_fenced();
    }

    /// Takes every entry that is in flight, published or not, of a queue that was closed. A submitter
    /// that is in the middle of a burst takes back what this does not find.
    ///
    /// The device must have been stopped (reset, or cut off from memory), so that the buffers in the
    /// entries are free; where that could not be done, `kept` says so, and `f` must forget the
    /// entries (`mem::forget`), not drop them.
    pub fn reap(&mut self, kept: bool, mut f: impl FnMut(T)) {
        self.reaped = true;
        let kept = if kept { Epoch::KEPT } else { 0 };
        self.shared.epoch.mark(Epoch::CLOSED | Epoch::REAPED | kept);
        for slot in &self.shared.slots {
            let state = slot.state.load(Ordering::Relaxed);
            if state & 1 == 1
                && let Some(entry) = self.shared.withdraw(slot, state)
            {
                f(entry);
            }
        }
        // Nothing is in flight any more, whatever the device writes and whoever still publishes.
        self.completed = u64::MAX;
        self.room.announce();
    }
}

/// One drain: the counts of the completer, in registers.
struct Pass<'a, T, M: RingMemory> {
    shared: &'a Shared<T, M>,
    published: u64,
    taken: u32,
    free_tail: u32,
    last_used: u16,
}

impl<T, M: RingMemory> Pass<'_, T, M> {
    #[inline(always)]
    fn one<I>(
        &mut self,
        inspect: &mut impl FnMut(u16, u32, u32, &T) -> Result<I, Lie>,
    ) -> Result<(T, I), Lie> {
        let shared = self.shared;
        let (id, len) = shared.memory.used_element(self.last_used);
        // Bits below the shift, which a head does not have, come to the top, above any mask.
        let index = id.rotate_right(shared.shift);
        if index > shared.mask {
            return Err(Lie::UnknownChain { id });
        }
        // SAFETY: index <= mask, and there are mask + 1 slots.
        let slot = unsafe { shared.slots.get_unchecked(index as usize) };
        // Acquire: pairs with the commit's Release: the entry is visible.
        let state = slot.state.load(Ordering::Acquire);
        if !is_published(state, self.published) {
            return Err(Lie::NotOutstanding { id });
        }
        // SAFETY: in flight, seen with Acquire, on a queue that is not reaped: written, and this
        // half alone reads it; the reference ends before the entry is taken.
        let result = slot
            .entry
            .with(|pointer| inspect(index as u16, id, len, unsafe { (*pointer).assume_init_ref() }))?;
        // SAFETY: as above; the state is cleared right here.
        let entry = unsafe { shared.take(slot) };
        slot.state.store(0, Ordering::Relaxed);
        let place = self.free_tail & shared.mask;
        // SAFETY: the ring has mask + 1 places.
        let place = unsafe { shared.free_ring.get_unchecked(place as usize) };
        place.store(index as u16, Ordering::Relaxed);
        self.free_tail = self.free_tail.wrapping_add(1);
        // Release: pairs with the Acquire in vacancy.
        shared.free_tail.store(self.free_tail, Ordering::Release);
        self.last_used = self.last_used.wrapping_add(1);
        self.taken += 1;
        Ok((entry, result))
    }
}

/// Gives the counts of a pass back to the completer when it ends, however it does, and tells those
/// who wait for room.
struct WriteBack<'a, 'b, T, M: RingMemory> {
    pass: &'a mut Pass<'b, T, M>,
    last_used: &'a mut u16,
    completed: &'a mut u64,
    free_tail: &'a mut u32,
    room: &'a Room,
}

impl<T, M: RingMemory> Drop for WriteBack<'_, '_, T, M> {
    #[inline(always)]
    fn drop(&mut self) {
        *self.last_used = self.pass.last_used;
        *self.completed += u64::from(self.pass.taken);
        *self.free_tail = self.pass.free_tail;
        // (D)
        fence(Ordering::SeqCst);
        self.room.announce_fenced();
    }
}
