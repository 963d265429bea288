//! "Room again": what a program that was refused with `EAGAIN` waits for.
//!
//! Register, then check once more, then sleep. The other side frees, then looks for waiters. Between
//! the two steps of each side stands a full fence (ordering.rs, (D)), so at least one of them sees
//! the other: a waiter is never left asleep beside a free slot.

use crate::primitive::atomic::{AtomicU32, Ordering, fence};
use crate::primitive::{Mutex, lock};

type Waiter = Box<dyn FnOnce() + Send>;

/// The waiters for room of one device: ring slots, DMA memory, sessions, or its end.
#[derive(Default)]
pub struct Room {
    waiting: AtomicU32,
    waiters: Mutex<Vec<Waiter>>,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl Room {
    /// Nobody waits.
    pub fn new() -> Self {
        Self { waiting: AtomicU32::new(0), waiters: Mutex::new(Vec::new()) }
    }

    /// Calls `waiter` once, when something has become free after this call, or when the device
    /// fails, goes away or is shut down. It runs on whichever thread frees (the poll thread, or one
    /// that drops a buffer), so it must be small and must not block.
    ///
    /// After registering, try once more: what was freed before the call is not announced again.
    pub fn register(&self, waiter: impl FnOnce() + Send + 'static) {
        let mut waiters = lock(&self.waiters);
        waiters.push(Box::new(waiter));
        // Relaxed: the fence below orders it against the caller's second try.
        self.waiting.store(1, Ordering::Relaxed);
        drop(waiters);
        fence(Ordering::SeqCst);
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
            std::mem::take(&mut *waiters)
        };
        for waiter in waiters {
            // One that panics must not keep the others asleep, nor end the poll thread.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(waiter)).is_err() {
                tracing::error!("a waiter for room panicked");
            }
        }
    }
}
