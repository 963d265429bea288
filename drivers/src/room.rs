//! "Room again": what a program that was refused with `EAGAIN` waits for.
//!
//! Register, then check once more, then sleep. The other side frees, then looks for waiters. Between
//! the two steps of each side stands a full fence (ordering.rs, (D)), so at least one of them sees
//! the other: a waiter is never left asleep beside a free slot.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

use crate::primitive::atomic::{AtomicU32, Ordering, fence};
use crate::primitive::{Mutex, lock};

enum Waiter {
    Call(Box<dyn FnOnce() + Send>),
    Task(Waker),
}

/// Those who wait, in the order in which they came.
#[derive(Default)]
struct Waiters {
    list: BTreeMap<u64, Waiter>,
    next: u64,
}

impl Waiters {
    fn add(&mut self, waiter: Waiter) -> u64 {
        let number = self.next;
        self.next += 1;
        self.list.insert(number, waiter);
        number
    }
}

/// A task's place among the waiters: no two are the same in the life of a [`Room`].
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// The waiters for room of one device: ring slots, DMA memory, sessions, or its end.
#[derive(Default)]
pub struct Room {
    waiting: AtomicU32,
    waiters: Mutex<Waiters>,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl Room {
    /// Nobody waits.
    pub fn new() -> Self {
        Self { waiting: AtomicU32::new(0), waiters: Mutex::new(Waiters::default()) }
    }

    /// Calls `waiter` once, when something has become free after this call, or when the device
    /// fails, goes away or is shut down. It runs on whichever thread frees (the poll thread, or one
    /// that drops a buffer), so it must be small and must not block.
    ///
    /// After registering, try once more: what was freed before the call is not announced again.
    pub fn register(&self, waiter: impl FnOnce() + Send + 'static) {
        let mut waiters = lock(&self.waiters);
        waiters.add(Waiter::Call(Box::new(waiter)));
        // Relaxed: the fence below orders it against the caller's second try.
        self.waiting.store(1, Ordering::Relaxed);
        drop(waiters);
        fence(Ordering::SeqCst);
    }

    /// As [`register`](Self::register), for a task, which can change its mind: it has a ticket, and
    /// with that it is among the waiters once, however often it calls this. Who drops a ticket
    /// without [`leave`](Self::leave) is woken some time.
    pub fn register_task(&self, ticket: &mut Option<Ticket>, waker: &Waker) {
        let mut waiters = lock(&self.waiters);
        let place = ticket.as_ref().and_then(|Ticket(number)| waiters.list.get_mut(number));
        let old = match place {
            Some(Waiter::Task(old)) if old.will_wake(waker) => None,
            Some(place) => Some(std::mem::replace(place, Waiter::Task(waker.clone()))),
            None => {
                *ticket = Some(Ticket(waiters.add(Waiter::Task(waker.clone()))));
                None
            }
        };
        // As in register.
        self.waiting.store(1, Ordering::Relaxed);
        drop(waiters);
        fence(Ordering::SeqCst);
        // An executor's code, maybe: not under the lock.
        drop(old);
    }

    /// The task waits no more; of its waker nothing is left here. One that is being woken at this
    /// moment may be woken still.
    pub fn leave(&self, ticket: Ticket) {
        let gone = lock(&self.waiters).list.remove(&ticket.0);
        drop(gone);
    }

    /// Those who wait now.
    pub fn waiting(&self) -> usize {
        lock(&self.waiters).list.len()
    }

    /// Tells all waiters. For the slow paths: it contains the fence.
    pub fn announce(&self) {
        fence(Ordering::SeqCst);
        self.announce_fenced();
    }

    /// As [`announce`](Self::announce), for a caller that has just executed a full fence.
    #[inline]
    pub fn announce_fenced(&self) {
        if self.waiting.load(Ordering::Relaxed) != 0 {
            self.announce_slowly();
        }
    }

    #[cold]
    fn announce_slowly(&self) {
        let waiters = {
            let mut waiters = lock(&self.waiters);
            self.waiting.store(0, Ordering::Relaxed);
            std::mem::take(&mut waiters.list)
        };
        for waiter in waiters.into_values() {
            let tell = || match waiter {
                Waiter::Call(call) => call(),
                Waiter::Task(waker) => waker.wake(),
            };
            // One that panics must not keep the others asleep, nor end the poll thread.
            if catch_unwind(AssertUnwindSafe(tell)).is_err() {
                tracing::error!("a waiter for room panicked");
            }
        }
    }
}

#[cfg(all(test, not(ringbell_loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU64);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn task() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (Arc::clone(&count), Waker::from(count))
    }

    #[test]
    fn a_task_that_registers_again_and_again_waits_once() {
        let room = Room::new();
        let ((first, waker), (second, other)) = (task(), task());
        let mut ticket = None;
        for _ in 0..3 {
            room.register_task(&mut ticket, &waker);
        }
        room.register_task(&mut ticket, &other);
        assert_eq!(room.waiting(), 1);
        assert_eq!(Arc::strong_count(&first), 2, "the waker that was replaced is gone");
        room.announce();
        room.announce();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (0, 1));
        // What it has is of no use any more: it gets another.
        room.register_task(&mut ticket, &waker);
        assert_eq!(room.waiting(), 1);
    }

    #[test]
    fn of_a_task_that_left_nothing_stays_and_the_others_are_told() {
        let room = Room::new();
        let ((gone, waker), (stays, other)) = (task(), task());
        let (mut ticket, mut kept) = (None, None);
        room.register_task(&mut ticket, &waker);
        room.register_task(&mut kept, &other);
        room.leave(ticket.take().unwrap());
        drop(waker);
        assert_eq!((room.waiting(), Arc::strong_count(&gone)), (1, 1));
        room.announce();
        assert_eq!((gone.0.load(Ordering::Relaxed), stays.0.load(Ordering::Relaxed)), (0, 1));
        room.leave(kept.unwrap());
    }
}
