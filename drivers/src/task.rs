//! A value that is claimed, with a place for the result, and who waits for that: a future's task, or a
//! thread that blocks.
//!
//! Result and waiter share one word, so that a delivery is one exchange and both sides meet in it:
//!
//! ```text
//!                 the waiter                                   the poll thread, in the call
//!    EMPTY --> LOCKED --------> WAITS                          exchange: the result is in
//!      |    (its waker goes       |                              old was WAITS: wake it
//!      |     into the cell)       |                              old was LOCKED: whoever has the
//!      |                          |                              lock finds the result
//!      +--------> result <--------+
//!   and back to EMPTY when it is taken
//! ```
//!
//! The lock is a bit of its own, which stays beside a result that comes meanwhile: the result may be taken by
//! another, who waits for the next one before whoever has the lock gives it back.
//!
//! The waker stays in the cell, for a task mostly waits again: waiting costs no reference count then. It is
//! read in two places: under the lock, and by a delivery that has found WAITS, after the word has changed.
//! It is written under the lock alone, and only while no call runs (`calls` of [`crate::claim`]), which a
//! delivery is part of.
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
use crate::primitive::atomic::{AtomicPtr, Ordering};

/// States of the word that are no result. Results are aligned to more.
const EMPTY: usize = 0;
const WAITS: usize = 1;
/// This one is a bit of results, too.
const LOCKED: usize = 2;

/// A value, the result of its claim, and the waker of who waits for that. To be had through a [`Shared`]
/// alone.
pub struct Posted<T, R> {
    value: T,
    word: AtomicPtr<R>,
    waker: UnsafeCell<Option<Waker>>,
    owns: PhantomData<Box<R>>,
}

// SAFETY: results are moved between threads, and no reference to one is shared; the value is shared; the
// waker's cell is written by one thread at a time, and not while another reads (see the module).
unsafe impl<T: Send, R: Send> Send for Posted<T, R> {}
// SAFETY: as for Send.
unsafe impl<T: Send + Sync, R: Send> Sync for Posted<T, R> {}

impl<T, R> Posted<T, R> {
    const ALIGNED: () = assert!(align_of::<R>() > LOCKED, "results are told from states by their address");

    /// With no result, and nobody waiting.
    pub fn new(value: T) -> Self {
        let () = Self::ALIGNED;
        Self {
            value,
            word: AtomicPtr::new(without_provenance_mut(EMPTY)),
            waker: UnsafeCell::new(None),
            owns: PhantomData,
        }
    }

    fn is_result(word: *mut R) -> bool {
        word.addr() > WAITS | LOCKED
    }

    /// The box that a word with a result is.
    ///
    /// # Safety
    /// The word was this thread's to exchange for another, and is used for this once.
    unsafe fn result(word: *mut R) -> Box<R> {
        // SAFETY: only `put` stores results, each from Box::into_raw, and each leaves by one exchange only,
        // so this is its one owner.
        unsafe { Box::from_raw(word.map_addr(|address| address & !LOCKED)) }
    }

    /// Puts a result in, under whoever has the lock; returns the word as it was.
    #[inline]
    fn put(&self, result: Box<R>) -> *mut R {
        let result = Box::into_raw(result);
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let new = result.map_addr(|address| address | word.addr() & LOCKED);
            // AcqRel: pairs with the exchange in `take`, either way round; and with the Release of WAITS,
            // for the waker.
            match self.word.compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(old) => return old,
                Err(now) => word = now,
            }
        }
    }

    #[inline]
    fn take(&self) -> Option<Box<R>> {
        self.take_from(self.word.load(Ordering::Relaxed))
    }

    /// Takes the result that the word was just found to be, if it was one.
    #[inline(always)]
    fn take_from(&self, word: *mut R) -> Option<Box<R>> {
        let mut word = word;
        while Self::is_result(word) {
            let empty = without_provenance_mut(EMPTY | word.addr() & LOCKED);
            // Acquire: pairs with the Release in `put`. Another taker may be faster.
            match self.word.compare_exchange(word, empty, Ordering::Acquire, Ordering::Relaxed) {
                // SAFETY: this exchange took it out.
                Ok(word) => return Some(unsafe { Self::result(word) }),
                Err(now) => word = now,
            }
        }
        None
    }

    /// Takes the lock of the cell. Err: a result is there, or another has the lock.
    #[inline(always)]
    fn lock(&self) -> Result<(), *mut R> {
        let mut word = self.word.load(Ordering::Relaxed);
        while word.addr() <= WAITS {
            let locked = without_provenance_mut(LOCKED);
            // Acquire: what the last one with the lock wrote; and (a delivery's exchange and what follows
            // it are one release sequence) that the call of a delivery that may read has begun.
            match self.word.compare_exchange(word, locked, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
        Err(word)
    }

    /// Gives the lock back. False: a result has come meanwhile, and nobody was woken for it.
    #[inline]
    fn unlock(&self, state: usize) -> bool {
        let mut word = without_provenance_mut::<R>(LOCKED);
        loop {
            let has_result = Self::is_result(word);
            let new = if has_result {
                word.map_addr(|address| address & !LOCKED)
            } else {
                without_provenance_mut(state)
            };
            // Release: the waker, for the delivery that finds WAITS and for the next with the lock.
            match self.word.compare_exchange(word, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return !has_result,
                Err(now) => word = now,
            }
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
                // SAFETY: WAITS was ours to find, so nobody has the lock, and whoever gets it does not
                // write while this call runs. Its Release came before our Acquire.
                if let Some(waker) = unsafe { &*waker } {
                    waker.wake_by_ref();
                }
            });
        } else if Posted::<T, R>::is_result(old) {
            // SAFETY: the exchange in `put` took it out.
            drop(unsafe { Posted::<T, R>::result(old) });
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
            // SAFETY: as in `post`.
            drop(unsafe { Posted::<T, R>::result(old) });
        }
    }

    /// Takes the result, or makes sure that the waiter is woken when there is one.
    ///
    /// One waiter at a time: of several, one is woken.
    #[inline(always)]
    pub fn poll(&self, waker: &Waker) -> Option<Box<R>> {
        if let Err(word) = self.lock() {
            // A result; or another waiter at the same moment, and one is enough.
            return self.take_from(word);
        }
        let is_known = self.waker.with(|known| {
            // SAFETY: under the lock nobody writes but this thread.
            unsafe { &*known }.as_ref().is_some_and(|known| known.will_wake(waker))
        });
        if !is_known {
            self.replace_waker(waker);
        }
        if self.unlock(WAITS) { None } else { self.take_late() }
    }

    #[cold]
    fn take_late(&self) -> Option<Box<R>> {
        Posted::take(self)
    }

    /// Under the lock: the waiter is another than before.
    #[cold]
    #[inline(never)]
    fn replace_waker(&self, waker: &Waker) {
        if self.is_called() {
            // The call may be waking the other one at this moment. It is over soon: come again.
            return waker.wake_by_ref();
        }
        let new = Some(waker.clone());
        // SAFETY: this thread has the lock, and no call runs that could read: one that begins from now on
        // finds LOCKED, or what comes after it.
        let old = self.waker.with_mut(|place| unsafe { std::mem::replace(&mut *place, new) });
        drop(old);
    }

    /// Wakes who waits, without a result: there will be none.
    pub fn wake_waiter(&self) {
        if self.lock().is_ok() {
            // SAFETY: under the lock nobody writes but this thread.
            let waker = self.waker.with(|waker| unsafe { (*waker).clone() });
            self.unlock(EMPTY);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Nobody waits any more; the waker goes, unless a call runs at this moment: then it goes with the
    /// next one, or with the value.
    pub fn forget_waiter(&self) {
        if self.lock().is_ok() {
            if !self.is_called() {
                // SAFETY: as in `replace_waker`.
                let old = self.waker.with_mut(|place| unsafe { (*place).take() });
                self.unlock(EMPTY);
                drop(old);
            } else {
                self.unlock(EMPTY);
            }
        }
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
