//! A value that is claimed, with a place for the result, and who waits for that: a future's task, or a
//! thread that blocks.
//!
//! Result and waiter share one word, so that a delivery is one exchange and both sides meet in it:
//!
//! ```text
//!            the waiter, its waker in the cell      the poll thread, in the call
//!    EMPTY ------------------------------> WAITS      swap: the result is in
//!      |                                     |        old was WAITS: wake
//!      +------------> result <---------------+
//!   and back to EMPTY when it is taken
//! ```
//!
//! The waker stays in the cell, for a task mostly waits again: waiting costs no reference count then. The
//! cell has a lock for waiters (of which there is one, but where threads wait for a context together). It is
//! read under the lock, and by a delivery that has found WAITS. It is written under the lock alone, when the
//! word is not WAITS and no call runs (`calls` of [`crate::claim`]): a delivery that has found WAITS before
//! is over then, and none finds it until the writer says so.
//!
//! A task that loses interest [gives the request up](Shared::give_up). Until the device has returned it, or
//! the call that had begun is over, something of it may still come: the value must not be claimed before it
//! [is clean](Shared::is_clean), or one request's result would be taken for the other's.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::without_provenance_mut;
use std::task::Waker;

use crate::claim::{Calling, Shared};
use crate::primitive::UnsafeCell;
use crate::primitive::atomic::{AtomicBool, AtomicPtr, Ordering};

/// States of the word that are no result. Results are aligned to more.
const EMPTY: usize = 0;
const WAITS: usize = 1;

/// A value, the result of its claim, and the waker of who waits for that. To be had through a [`Shared`]
/// alone.
pub struct Posted<T, R> {
    value: T,
    word: AtomicPtr<R>,
    /// Whether somebody has the cell.
    locked: AtomicBool,
    waker: UnsafeCell<Option<Waker>>,
    owns: PhantomData<Box<R>>,
}

// SAFETY: results are moved between threads, and no reference to one is shared; the value is shared; the
// waker's cell is written by one thread at a time, and not while another reads (see the module).
unsafe impl<T: Send, R: Send> Send for Posted<T, R> {}
// SAFETY: as for Send.
unsafe impl<T: Send + Sync, R: Send> Sync for Posted<T, R> {}

impl<T, R> Posted<T, R> {
    const ALIGNED: () = assert!(align_of::<R>() > WAITS, "results are told from states by their address");

    /// With no result, and nobody waiting.
    pub fn new(value: T) -> Self {
        let () = Self::ALIGNED;
        Self {
            value,
            word: AtomicPtr::new(without_provenance_mut(EMPTY)),
            locked: AtomicBool::new(false),
            waker: UnsafeCell::new(None),
            owns: PhantomData,
        }
    }

    #[inline(always)]
    fn is_result(word: *mut R) -> bool {
        word.addr() > WAITS
    }

    /// Puts a result in; returns the word as it was.
    #[inline(always)]
    fn put(&self, result: Box<R>) -> *mut R {
        // AcqRel: pairs with the Acquire of whoever takes it, and with the Release of WAITS, for the waker.
        self.word.swap(Box::into_raw(result), Ordering::AcqRel)
    }

    #[inline]
    fn take(&self) -> Option<Box<R>> {
        self.take_from(self.word.load(Ordering::Relaxed))
    }

    /// Takes the result that the word was just found to be, if it was one.
    #[inline(always)]
    fn take_from(&self, word: *mut R) -> Option<Box<R>> {
        if !Self::is_result(word) {
            return None;
        }
        // Acquire: pairs with the Release in `put`. Another taker may be faster.
        self.change(word, EMPTY).then(|| {
            // SAFETY: only `put` stores results here, each from Box::into_raw, and each leaves by one
            // exchange only, so this is its one owner.
            unsafe { Box::from_raw(word) }
        })
    }

    /// From one state of the word to another, unless it has changed meanwhile.
    #[inline(always)]
    fn change(&self, from: *mut R, to: usize) -> bool {
        let to = without_provenance_mut(to);
        self.word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Takes the lock of the cell. False: another has it.
    #[inline(always)]
    fn lock(&self) -> bool {
        // Acquire: pairs with the Release in `unlock`. Release, also where it fails: a waiter that finds it
        // taken, or that gives it back, looks around and sees what `wake_waiter` comes after.
        !self.locked.swap(true, Ordering::AcqRel)
    }

    #[inline(always)]
    fn unlock(&self) {
        // Release: the waker. Acquire: what one did before it found the lock taken (`wake_waiter`).
        self.locked.swap(false, Ordering::AcqRel);
    }

    /// Under the lock: leaves WAITS. False: a result has come.
    fn wait_no_more(&self, word: *mut R) -> bool {
        match word.addr() {
            EMPTY => true,
            WAITS => self.change(word, EMPTY),
            _ => false,
        }
    }
}

impl<T, R> Deref for Posted<T, R> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T, R> Drop for Posted<T, R> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl<T: fmt::Debug, R> fmt::Debug for Posted<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Posted").field("value", &self.value).finish_non_exhaustive()
    }
}

impl<T, R> Calling<Posted<T, R>> {
    /// Puts the result in and wakes who waits for it.
    #[inline]
    pub fn post(&self, result: Box<R>) {
        let posted = &**self.shared();
        let old = posted.put(result);
        if old.addr() == WAITS {
            posted.waker.with(|waker| {
                // SAFETY: the Release of WAITS came before our Acquire, and who has the lock from then on
                // does not write while this call runs.
                if let Some(waker) = unsafe { &*waker } {
                    waker.wake_by_ref();
                }
            });
        } else if Posted::<T, R>::is_result(old) {
            // SAFETY: as in `take`.
            drop(unsafe { Box::from_raw(old) });
        }
    }
}

impl<T, R> Shared<Posted<T, R>> {
    /// Takes the result.
    #[inline]
    pub fn take(&self) -> Option<Box<R>> {
        Posted::take(self)
    }

    /// Whether there is a result. Already history when it returns.
    pub fn has_result(&self) -> bool {
        Posted::<T, R>::is_result(self.word.load(Ordering::Relaxed))
    }

    /// Puts a result in, and wakes nobody: for values whose call tells by itself.
    pub fn put(&self, result: Box<R>) {
        let old = Posted::put(self, result);
        if Posted::<T, R>::is_result(old) {
            // SAFETY: as in `Posted::take`.
            drop(unsafe { Box::from_raw(old) });
        }
    }

    /// Takes the result, or makes sure that the waiter is woken when there is one.
    ///
    /// One waiter at a time: of several, one is woken.
    #[inline(always)]
    pub fn poll(&self, waker: &Waker) -> Option<Box<R>> {
        let word = self.word.load(Ordering::Relaxed);
        if Posted::<T, R>::is_result(word) { self.take_from(word) } else { self.register(waker) }
    }

    #[inline(always)]
    fn register(&self, waker: &Waker) -> Option<Box<R>> {
        if !self.lock() {
            // Another waiter at the same moment, and one is enough; or one that leaves, or is told that there
            // will be nothing. Threads that share a context look around from time to time.
            return None;
        }
        // Acquire: the call of a delivery that has found WAITS has begun before its result was taken.
        let word = self.word.load(Ordering::Acquire);
        let is_known = self.waker.with(|known| {
            // SAFETY: nobody but who has the lock writes, and this thread has it.
            unsafe { &*known }.as_ref().is_some_and(|known| known.will_wake(waker))
        });
        let waits = if is_known {
            word.addr() == WAITS || word.addr() == EMPTY && self.change(word, WAITS)
        } else {
            self.register_anew(word, waker)
        };
        self.unlock();
        if waits { None } else { self.take_late() }
    }

    #[cold]
    fn take_late(&self) -> Option<Box<R>> {
        Posted::take(self)
    }

    /// Under the lock: the waiter is another than before. False: a result is there.
    #[cold]
    #[inline(never)]
    fn register_anew(&self, word: *mut R, waker: &Waker) -> bool {
        if !self.wait_no_more(word) {
            return false;
        }
        if self.is_called() {
            // The call may be waking the other one at this moment. It is over soon: come again.
            waker.wake_by_ref();
            return true;
        }
        let new = Some(waker.clone());
        // SAFETY: this thread has the lock, the word is not WAITS, and no call runs: nobody reads until the
        // change below.
        let old = self.waker.with_mut(|place| unsafe { std::mem::replace(&mut *place, new) });
        let waits = self.change(without_provenance_mut(EMPTY), WAITS);
        drop(old);
        waits
    }

    /// Wakes who waits, without a result: there will be none. Who is about to wait sees what this thread did
    /// before.
    pub fn wake_waiter(&self) {
        // Taken: by a waiter, which looks around once it has given it back; or by one that wakes as well.
        if self.lock() {
            // SAFETY: nobody but who has the lock writes, and this thread has it.
            let waker = self.waker.with(|waker| unsafe { (*waker).clone() });
            self.unlock();
            waker.into_iter().for_each(Waker::wake);
        }
    }

    /// Nobody waits any more; the waker goes, unless a call runs at this moment: then it goes with the
    /// next one, or with the value.
    pub fn forget_waiter(&self) {
        if !self.lock() {
            return;
        }
        // As in `register`. Where a result is there, nobody waits.
        let word = self.word.load(Ordering::Acquire);
        let quiet = Posted::<T, R>::is_result(word) || self.wait_no_more(word);
        let old = if quiet && !self.is_called() {
            // SAFETY: as in `register_anew`.
            self.waker.with_mut(|place| unsafe { (*place).take() })
        } else {
            None
        };
        self.unlock();
        drop(old);
    }

    /// Nobody waits any more, and the request in flight is given up. Never waits. True where the value
    /// [is clean](Self::is_clean) already.
    pub fn give_up(&self) -> bool {
        self.detach();
        // What was delivered meanwhile goes at once, with its buffers.
        drop(Posted::take(self));
        self.forget_waiter();
        self.is_clean()
    }

    /// Whether nothing of earlier requests can come any more; what has come is dropped then.
    #[inline]
    pub fn is_clean(&self) -> bool {
        let idle = self.is_idle();
        if idle {
            drop(Posted::take(self));
        }
        idle
    }
}
