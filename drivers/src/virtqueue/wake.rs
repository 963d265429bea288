//! Waking the poll thread: one flag, one eventfd.

use std::fmt;

use crate::primitive::atomic::{AtomicU32, Ordering, fence};

/// What a sleeping poll thread waits on, from the waker's side: an eventfd.
pub trait Signal: Send + Sync {
    /// Makes it readable. Must not block.
    fn signal(&self);
}

/// Whether the poll thread of a device sleeps, and how to wake it.
pub struct Wake {
    asleep: AtomicU32,
    signal: Box<dyn Signal>,
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wake").field("asleep", &self.asleep).finish_non_exhaustive()
    }
}

impl Wake {
    /// Awake; `signal` will be used when not.
    pub fn new(signal: impl Signal + 'static) -> Self {
        Self { asleep: AtomicU32::new(0), signal: Box::new(signal) }
    }

    /// The poll thread is about to sleep. After this, and before it sleeps, it looks once more for
    /// submissions, completions and messages (ordering.rs, (E)).
    pub fn prepare(&self) {
        self.asleep.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The poll thread is awake again.
    pub fn awake(&self) {
        self.asleep.store(0, Ordering::Relaxed);
    }

    /// Wakes the poll thread if it sleeps. For a caller that has just executed a full fence after
    /// storing what the poll thread is to see.
    #[inline]
    pub fn wake_fenced(&self) {
        if self.asleep.load(Ordering::Relaxed) != 0 {
            self.wake_slowly();
        }
    }

    /// Wakes the poll thread if it sleeps.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        self.wake_fenced();
    }

    #[cold]
    fn wake_slowly(&self) {
        // One of several wakers signals; the eventfd stays readable until the poll thread reads it.
        if self.asleep.swap(0, Ordering::Relaxed) != 0 {
            self.signal.signal();
        }
    }
}
