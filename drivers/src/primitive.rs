//! The one place where the concurrency primitives of this workspace come from.
//!
//! An ordinary build gets `std`'s; a build with `--cfg ringbell_loom` gets loom's, so that the
//! models in `tests/` run the real code of the rings, the contexts and the poll thread's sleep
//! through every interleaving. Code that takes part in a model uses nothing but this module.

#[cfg(not(ringbell_loom))]
mod imp {
    pub use core::hint::spin_loop;
    pub use std::sync::{Condvar, Mutex, MutexGuard};
    pub use std::thread::yield_now;

    /// Atomic types and [`fence`](atomic::fence).
    pub mod atomic {
        pub use core::sync::atomic::{
            AtomicBool, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
        };
    }

    /// `UnsafeCell` with loom's interface: access by closure, so that a model sees its extent.
    #[derive(Debug, Default)]
    #[repr(transparent)]
    pub struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        /// A cell that holds `value`.
        #[inline]
        pub const fn new(value: T) -> Self {
            Self(core::cell::UnsafeCell::new(value))
        }

        /// Calls `f` with a pointer for reading.
        #[inline(always)]
        pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        /// Calls `f` with a pointer for writing.
        #[inline(always)]
        pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

#[cfg(ringbell_loom)]
mod imp {
    pub use loom::cell::UnsafeCell;
    pub use loom::hint::spin_loop;
    pub use loom::sync::{Condvar, Mutex, MutexGuard};
    pub use loom::thread::yield_now;

    /// Atomic types and [`fence`](atomic::fence).
    pub mod atomic {
        pub use loom::sync::atomic::{
            AtomicBool, AtomicPtr, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
        };
    }
}

pub use imp::*;

/// Locks a mutex, whether or not a thread panicked while it held it.
///
/// What our locks guard is consistent between any two statements (the code under them calls
/// nothing of the user's), so a poisoned lock carries no broken state.
#[inline]
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex.lock() {
        Ok(guard) => guard,
        Err(poisoned) => poisoned.into_inner(),
    }
}
