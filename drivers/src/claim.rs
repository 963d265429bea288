//! Counted references whose in-flight claim is a part of the count.
//!
//! A wait context is held by its program (any number of handles) and, while a request is in flight,
//! by the ring. An `Arc` cloned for each request would cost two more atomic operations than this
//! does: here submitting is one exchange (nobody else has claimed it: claimed) and completing is
//! one exchange before the callback and one after it, and those three also keep the memory alive.
//!
//! ```text
//!   one word:   | generation 32 | DETACHED 1 | BUSY 1 | calls 6 | handles 24 |
//!
//!            claim()                begin()               drop(Calling)
//!    idle  ---------->  BUSY  --------------->  calls+1  --------------->  idle
//!                        |  ^  (BUSY cleared: the callback may claim again)
//!               detach() |  |
//!                        v  |
//!                  BUSY|DETACHED  -- begin() refuses, drop(Claim) -->  idle
//!
//!   The block is freed by whoever brings handles, BUSY and calls to zero together.
//! ```
//!
//! The generation counts claims, so that a late cancel names the claim it meant.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;

use crate::primitive::atomic::{AtomicPtr, AtomicU64, Ordering};
use crate::primitive::yield_now;

const HANDLE: u64 = 1;
const HANDLES: u64 = (1 << 24) - 1;
const CALL: u64 = 1 << 24;
const CALLS: u64 = 0x3f << 24;
const BUSY: u64 = 1 << 30;
const DETACHED: u64 = 1 << 31;
const GENERATION: u64 = 1 << 32;

struct Block<T> {
    word: AtomicU64,
    value: T,
}

/// A counted reference to a value that at most one request at a time can claim.
///
/// Cloning gives another handle. The value is dropped when the last handle, the claim and the
/// running calls are gone, on the thread where that happens.
pub struct Shared<T> {
    block: NonNull<Block<T>>,
    owns: PhantomData<Block<T>>,
}

// SAFETY: like Arc: the block is shared by threads (T: Sync), and the last of them drops the value
// (T: Send). Nobody outside this process writes it.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as for Send.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// A first handle to `value`.
    pub fn new(value: T) -> Self {
        let block = Box::new(Block { word: AtomicU64::new(HANDLE), value });
        Self { block: NonNull::from(Box::leak(block)), owns: PhantomData }
    }

    #[inline]
    fn block(&self) -> &Block<T> {
        // SAFETY: this handle is part of the count, so the block is not freed; only shared
        // references to it exist until then.
        unsafe { self.block.as_ref() }
    }

    /// Claims the value for a request; `None` while another has it.
    #[inline]
    pub fn claim(&self) -> Option<Claim<T>> {
        let word = &self.block().word;
        let mut old = word.load(Ordering::Relaxed);
        loop {
            if old & BUSY != 0 {
                return None;
            }
            let new = (old | BUSY).wrapping_add(GENERATION);
            // Acquire: pairs with the Release of the claim's end, whose writes to the value (status,
            // result) come before ours.
            match word.compare_exchange_weak(old, new, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(Claim { block: self.block, owns: PhantomData }),
                Err(now) => old = now,
            }
        }
    }

    /// Whether a request has it claimed. Already history when it returns.
    pub fn is_claimed(&self) -> bool {
        self.block().word.load(Ordering::Acquire) & BUSY != 0
    }

    /// Whether a call is to come, or runs: claimed and not given up, or being called.
    pub fn is_awaited(&self) -> bool {
        // Acquire: where the call is over, what it wrote is visible.
        let word = self.block().word.load(Ordering::Acquire);
        word & (BUSY | DETACHED) == BUSY || word & CALLS != 0
    }

    /// Whether a request is in flight that was not given up.
    pub fn is_in_flight(&self) -> bool {
        self.block().word.load(Ordering::Acquire) & (BUSY | DETACHED) == BUSY
    }

    /// Whether nothing of any claim is left: neither a request in flight, given up or not, nor a call
    /// that runs. What calls wrote is visible then.
    #[inline]
    pub fn is_idle(&self) -> bool {
        // Acquire: pairs with the Release at the end of claims and calls.
        self.block().word.load(Ordering::Acquire) & (BUSY | CALLS) == 0
    }

    /// The generation of the present claim, where there is one.
    pub fn generation(&self) -> Option<u32> {
        let word = self.block().word.load(Ordering::Acquire);
        (word & BUSY != 0).then_some(generation(word))
    }

    /// Gives the claimed request up: true means that no call will be made for it, false that there
    /// is none, or that its call has begun or is over. Never waits.
    pub fn detach(&self) -> bool {
        let word = &self.block().word;
        let mut old = word.load(Ordering::Relaxed);
        loop {
            if old & BUSY == 0 || old & DETACHED != 0 {
                return false;
            }
            // AcqRel: what this thread did before is visible to the one that finds DETACHED, and
            // the other way round.
            match word.compare_exchange_weak(old, old | DETACHED, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
    }

    /// Detaches, then waits until no call for this value runs on another thread. Inside such a call
    /// it returns at once. Afterwards the poll thread touches the value no more.
    ///
    /// The wait is as long as the rest of the callback, which is small by contract.
    pub fn quiesce(&self) -> bool {
        let mut detached = false;
        loop {
            detached |= self.detach();
            // Acquire: pairs with the Release in Calling's drop.
            let word = self.block().word.load(Ordering::Acquire);
            // A call that runs may submit again: what it submits is given up in the next round.
            let is_given_up = word & BUSY == 0 || word & DETACHED != 0;
            if is_given_up && (word & CALLS == 0 || is_calling(self.block.as_ptr().cast())) {
                return detached;
            }
            yield_now();
        }
    }

    /// Waits until no call for this value runs on another thread. Inside such a call it returns at
    /// once. As long as the rest of the callback, which is small by contract.
    pub fn wait_for_calls(&self) {
        // Acquire: pairs with the Release in Calling's drop.
        while self.block().word.load(Ordering::Acquire) & CALLS != 0
            && !is_calling(self.block.as_ptr().cast())
        {
            yield_now();
        }
    }

    /// Whether a call for this value runs.
    pub(crate) fn is_called(&self) -> bool {
        // Acquire: pairs with the Release in Calling's drop.
        self.block().word.load(Ordering::Acquire) & CALLS != 0
    }

    /// Whether both are handles to one value.
    #[inline]
    pub fn is_same(&self, other: &Self) -> bool {
        self.block == other.block
    }
}

fn generation(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Frees the block if nothing holds it in state `word`, which the caller has just brought about by
/// an AcqRel exchange that gave up the caller's own share.
#[inline]
fn free_if_unheld<T>(block: NonNull<Block<T>>, word: u64) {
    if word & (HANDLES | CALLS | BUSY) == 0 {
        free(block);
    }
}

#[cold]
#[inline(never)]
fn free<T>(block: NonNull<Block<T>>) {
    // SAFETY: made by Box::leak in `new`. Handles, claim and calls are all zero; each of them is
    // only ever raised by the owner of another, so they stay zero, and exactly one exchange brought
    // them there. That exchange was AcqRel, so all other threads' accesses come before this.
    drop(unsafe { Box::from_raw(block.as_ptr()) });
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        // Relaxed: a new handle is made from one that is held; nothing is published by it.
        let old = self.block().word.fetch_add(HANDLE, Ordering::Relaxed);
        if old & HANDLES > HANDLES / 2 {
            // As Arc does: only a loop of mem::forget comes here, and going on would free early.
            std::process::abort();
        }
        Self { block: self.block, owns: PhantomData }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let old = self.block().word.fetch_sub(HANDLE, Ordering::AcqRel);
        free_if_unheld(self.block, old - HANDLE);
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.block().value
    }
}

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.block().word.load(Ordering::Relaxed);
        f.debug_struct("Shared")
            .field("handles", &(word & HANDLES))
            .field("busy", &(word & BUSY != 0))
            .field("detached", &(word & DETACHED != 0))
            .finish_non_exhaustive()
    }
}

/// The claim of the one request in flight. Dropping it ends the request without a call.
pub struct Claim<T> {
    block: NonNull<Block<T>>,
    owns: PhantomData<Block<T>>,
}

// SAFETY: as for Shared.
unsafe impl<T: Send + Sync> Send for Claim<T> {}
// SAFETY: as for Shared.
unsafe impl<T: Send + Sync> Sync for Claim<T> {}

impl<T> Claim<T> {
    #[inline]
    fn block(&self) -> &Block<T> {
        // SAFETY: BUSY is set and this is its owner, so the block is not freed.
        unsafe { self.block.as_ref() }
    }

    /// Whether the request was given up: `None` where it was, else what
    /// [`begin`](Self::begin) starts from.
    #[inline(always)]
    pub fn look(&self) -> Option<Seen> {
        let word = self.block().word.load(Ordering::Relaxed);
        (word & DETACHED == 0).then_some(Seen(word))
    }

    /// The generation of this claim.
    pub fn generation(&self) -> u32 {
        generation(self.block().word.load(Ordering::Relaxed))
    }

    /// Whether it is a claim on the value of `handle`.
    pub fn is_of(&self, handle: &Shared<T>) -> bool {
        self.block == handle.block
    }

    /// Ends the claim and begins its one call. What was written to the value before is visible to
    /// whoever claims it next, which the callback itself may do.
    ///
    /// # Errors
    /// Gives the claim back where the request was detached: no call may be made.
    #[inline]
    pub fn begin(self, seen: Seen) -> Result<Calling<T>, Self> {
        let word = &self.block().word;
        let mut old = seen.0;
        loop {
            if old & DETACHED != 0 {
                return Err(self);
            }
            // BUSY is set (this is its owner), so taking it away is a subtraction.
            let new = old.wrapping_add(CALL.wrapping_sub(BUSY));
            // Release: pairs with the Acquire of the next claim and of is_claimed. Acquire: a
            // detach that came before is seen with all that came before it.
            match word.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        let block = self.block;
        std::mem::forget(self);
        let outer = set_calling(block.as_ptr().cast());
        Ok(Calling { shared: std::mem::ManuallyDrop::new(Shared { block, owns: PhantomData }), outer })
    }
}

impl<T> Deref for Claim<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.block().value
    }
}

impl<T> Drop for Claim<T> {
    fn drop(&mut self) {
        let word = &self.block().word;
        let mut old = word.load(Ordering::Relaxed);
        loop {
            let new = old & !(BUSY | DETACHED);
            match word.compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return free_if_unheld(self.block, new),
                Err(now) => old = now,
            }
        }
    }
}

impl<T> fmt::Debug for Claim<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claim")
    }
}

/// A look at a claim that was not given up at that moment.
#[derive(Clone, Copy, Debug)]
pub struct Seen(u64);

/// The call of a request that has ended, while it runs.
pub struct Calling<T> {
    /// A handle that is counted under `calls`, not under `handles`: never dropped as a handle.
    shared: std::mem::ManuallyDrop<Shared<T>>,
    outer: *const (),
}

impl<T> Calling<T> {
    /// The value, as a handle that the callback may clone or claim again.
    #[inline]
    pub fn shared(&self) -> &Shared<T> {
        &self.shared
    }
}

impl<T> Drop for Calling<T> {
    #[inline]
    fn drop(&mut self) {
        set_calling(self.outer);
        // Release: pairs with the Acquire in quiesce. Acquire: for the free.
        let old = self.shared.block().word.fetch_sub(CALL, Ordering::AcqRel);
        free_if_unheld(self.shared.block, old - CALL);
    }
}

impl<T> fmt::Debug for Calling<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Calling")
    }
}

/// Which block this thread is calling for: `quiesce` inside the callback must not wait for itself.
mod current {
    #[cfg(ringbell_loom)]
    use loom::thread_local;
    use std::cell::Cell;

    #[cfg(not(ringbell_loom))]
    thread_local! {
        pub(super) static CALLING: Cell<*const ()> = const { Cell::new(std::ptr::null()) };
    }
    #[cfg(ringbell_loom)]
    thread_local! {
        pub(super) static CALLING: Cell<*const ()> = Cell::new(std::ptr::null());
    }
}

#[inline]
fn set_calling(block: *const ()) -> *const () {
    // try_with: a thread that is ending has no cell any more, and no call to protect.
    current::CALLING.try_with(|cell| cell.replace(block)).unwrap_or(std::ptr::null())
}

fn is_calling(block: *const ()) -> bool {
    current::CALLING.try_with(|cell| cell.get() == block).unwrap_or(false)
}

/// A place for one boxed result.
pub struct Mailbox<R> {
    pointer: AtomicPtr<R>,
    owns: PhantomData<Box<R>>,
}

impl<R> Default for Mailbox<R> {
    fn default() -> Self {
        Self { pointer: AtomicPtr::new(std::ptr::null_mut()), owns: PhantomData }
    }
}

impl<R> Mailbox<R> {
    /// Puts `result` in and returns what had not been taken.
    #[inline]
    pub fn put(&self, result: Box<R>) -> Option<Box<R>> {
        // AcqRel: pairs with the swap in `take`, either way round.
        Self::own(self.pointer.swap(Box::into_raw(result), Ordering::AcqRel))
    }

    /// Takes what is there.
    #[inline]
    pub fn take(&self) -> Option<Box<R>> {
        if self.pointer.load(Ordering::Relaxed).is_null() {
            return None;
        }
        Self::own(self.pointer.swap(std::ptr::null_mut(), Ordering::Acquire))
    }

    fn own(pointer: *mut R) -> Option<Box<R>> {
        // SAFETY: only `put` stores pointers here, each from Box::into_raw, and each leaves by one
        // swap only, so this is its one owner.
        (!pointer.is_null()).then(|| unsafe { Box::from_raw(pointer) })
    }
}

impl<R> Drop for Mailbox<R> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl<R> fmt::Debug for Mailbox<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mailbox")
    }
}

// SAFETY: a mailbox moves boxes between threads and shares no reference to what is in them.
unsafe impl<R: Send> Send for Mailbox<R> {}
// SAFETY: as for Send.
unsafe impl<R: Send> Sync for Mailbox<R> {}

#[cfg(all(test, not(ringbell_loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_value_is_claimed_once_and_again_after_its_call_has_begun() {
        let shared = Shared::new(());
        let claim = shared.claim().unwrap();
        assert!(shared.claim().is_none());
        let seen = claim.look().unwrap();
        let calling = claim.begin(seen).unwrap();
        let again = calling.shared().claim().unwrap();
        drop(calling);
        assert!(shared.is_claimed());
        drop(again);
        assert!(!shared.is_claimed());
    }

    #[test]
    fn a_detached_claim_makes_no_call_and_frees_the_value_for_another() {
        let shared = Shared::new(());
        let claim = shared.claim().unwrap();
        let first = shared.generation().unwrap();
        assert!(shared.detach());
        assert!(!shared.detach(), "it is given up once");
        assert!(claim.look().is_none());
        drop(claim);
        assert!(!shared.detach(), "nothing is in flight");
        let claim = shared.claim().unwrap();
        assert_ne!(claim.generation(), first);
        let seen = claim.look().unwrap();
        assert!(claim.begin(seen).is_ok());
    }

    #[test]
    fn the_value_lives_until_handle_claim_and_call_are_gone() {
        let token = Arc::new(());
        let shared = Shared::new(Arc::clone(&token));
        let claim = shared.claim().unwrap();
        drop(shared);
        assert_eq!(Arc::strong_count(&token), 2);
        let seen = claim.look().unwrap();
        let calling = claim.begin(seen).unwrap();
        assert_eq!(Arc::strong_count(&token), 2);
        drop(calling);
        assert_eq!(Arc::strong_count(&token), 1);
    }

    #[test]
    fn quiesce_inside_the_call_returns_at_once() {
        let shared = Shared::new(());
        let claim = shared.claim().unwrap();
        let seen = claim.look().unwrap();
        let calling = claim.begin(seen).unwrap();
        assert!(!shared.quiesce());
        drop(calling);
        assert!(!shared.quiesce());
    }

    #[test]
    fn a_mailbox_returns_what_was_not_taken() {
        let mailbox = Mailbox::default();
        assert!(mailbox.put(Box::new(1)).is_none());
        assert_eq!(mailbox.put(Box::new(2)).as_deref(), Some(&1));
        assert_eq!(mailbox.take().as_deref(), Some(&2));
        assert!(mailbox.take().is_none());
    }
}
