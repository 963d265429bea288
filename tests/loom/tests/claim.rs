//! A wait context's claim: submit, complete, cancel, detach and free, against each other.
#![cfg(ringbell_loom)]

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use ringbell_drivers::claim::{Claim, Mailbox, Shared};

/// What a context owns: counts calls, and lets loom see who touches it when.
struct Value {
    calls: Arc<AtomicU32>,
    dropped: Arc<AtomicU32>,
    /// Touched by each call, and by its owner after `quiesce`.
    touched: UnsafeCell<u32>,
}

// SAFETY: the model's point: loom reports it where accesses to `touched` overlap.
unsafe impl Sync for Value {}

impl Drop for Value {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

fn value() -> (Shared<Value>, Arc<AtomicU32>, Arc<AtomicU32>) {
    let (calls, dropped) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let shared = Shared::new(Value {
        calls: Arc::clone(&calls),
        dropped: Arc::clone(&dropped),
        touched: UnsafeCell::new(0),
    });
    (shared, calls, dropped)
}

/// What the poll thread does with an ended request. True where it was delivered.
fn complete(claim: Claim<Value>) -> bool {
    let Some(seen) = claim.look() else { return false };
    match claim.begin(seen) {
        Ok(calling) => {
            calling.shared().calls.fetch_add(1, Ordering::Relaxed);
            // SAFETY: the model's point: loom reports it if an owner touches it at the same time.
            calling.shared().touched.with_mut(|touched| unsafe { *touched += 1 });
            true
        }
        Err(_) => false,
    }
}

#[test]
fn a_request_is_delivered_or_detached_and_never_both() {
    loom::model(|| {
        let (shared, calls, dropped) = value();
        let claim = shared.claim().unwrap();
        let poll = thread::spawn(move || complete(claim));
        let detached = shared.detach();
        let delivered = poll.join().unwrap();
        assert!(detached != delivered);
        assert_eq!(calls.load(Ordering::Relaxed), u32::from(delivered));
        assert!(shared.claim().is_some(), "the context can be used again");
        drop(shared);
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn after_quiesce_no_call_touches_the_value() {
    loom::model(|| {
        let (shared, calls, _) = value();
        let claim = shared.claim().unwrap();
        let poll = thread::spawn(move || complete(claim));
        let detached = shared.quiesce();
        // SAFETY: the model's point: quiesce has returned, so no call runs or will run.
        let touched = shared.touched.with(|touched| unsafe { *touched });
        assert_eq!(touched, calls.load(Ordering::Relaxed));
        assert_eq!(touched, u32::from(!detached));
        poll.join().unwrap();
    });
}

#[test]
fn the_value_is_dropped_once_whoever_is_last() {
    loom::model(|| {
        let (shared, calls, dropped) = value();
        let claim = shared.claim().unwrap();
        let poll = thread::spawn(move || complete(claim));
        drop(shared);
        assert!(poll.join().unwrap(), "a dropped handle does not give the request up");
        assert_eq!((calls.load(Ordering::Relaxed), dropped.load(Ordering::Relaxed)), (1, 1));
    });
}

#[test]
fn two_handles_and_a_call_drop_the_value_once() {
    loom::model(|| {
        let (shared, _, dropped) = value();
        let claim = shared.claim().unwrap();
        let other = shared.clone();
        let poll = thread::spawn(move || complete(claim));
        let owner = thread::spawn(move || drop(other));
        drop(shared);
        poll.join().unwrap();
        owner.join().unwrap();
        assert_eq!(dropped.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn two_submitters_do_not_both_claim() {
    loom::model(|| {
        let (shared, _, _) = value();
        let other = shared.clone();
        let thread = thread::spawn(move || other.claim());
        let mine = shared.claim();
        let theirs = thread.join().unwrap();
        assert!(mine.is_some() != theirs.is_some());
    });
}

#[test]
fn the_next_claim_sees_what_the_last_one_wrote() {
    loom::model(|| {
        let (shared, _, _) = value();
        let claim = shared.claim().unwrap();
        let poll = thread::spawn(move || {
            // The poll thread stores result and status under its claim, then begins the call.
            // SAFETY: the model's point: loom reports it if the next claim does not come after.
            claim.touched.with_mut(|touched| unsafe { *touched += 1 });
            let seen = claim.look().unwrap();
            drop(claim.begin(seen).unwrap());
        });
        // loom does not put the other thread before a plain load that comes first: let it go ahead.
        thread::yield_now();
        if let Some(next) = shared.claim() {
            // SAFETY: as above.
            next.touched.with_mut(|touched| unsafe { *touched += 1 });
        }
        poll.join().unwrap();
    });
}

#[test]
fn a_release_gives_up_what_the_callback_submits_again() {
    loom::model(|| {
        let (shared, calls, _) = value();
        let claim = shared.claim().unwrap();
        let poll = thread::spawn(move || {
            let Some(seen) = claim.look() else { return };
            let Ok(calling) = claim.begin(seen) else { return };
            calling.shared().calls.fetch_add(1, Ordering::Relaxed);
            let again = calling.shared().claim();
            drop(calling);
            if let Some(again) = again {
                complete(again);
            }
        });
        shared.quiesce();
        let after = calls.load(Ordering::Relaxed);
        poll.join().unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), after, "a call was made after the release");
    });
}

#[test]
fn a_detach_meets_the_next_claim_of_a_callback_or_none() {
    loom::model(|| {
        let (shared, _, _) = value();
        let claim = shared.claim().unwrap();
        let first = claim.generation();
        let poll = thread::spawn(move || {
            let seen = claim.look()?;
            let calling = claim.begin(seen).ok()?;
            // Submitted again from the callback.
            calling.shared().claim()
        });
        let detached = shared.detach();
        match poll.join().unwrap() {
            // The detach came first, or (after the second claim) hit that one.
            None => assert!(detached),
            Some(second) => {
                assert_ne!(second.generation(), first);
                assert_eq!(second.look().is_none(), detached);
            }
        }
    });
}

#[test]
fn what_is_put_into_a_mailbox_is_taken_once() {
    loom::model(|| {
        let mailbox = Arc::new(Mailbox::default());
        let other = Arc::clone(&mailbox);
        let poll = thread::spawn(move || drop(other.put(Box::new(7))));
        let first = mailbox.take();
        poll.join().unwrap();
        let second = mailbox.take();
        assert!(first.is_some() != second.is_some());
    });
}

#[test]
fn a_waiting_taker_finds_what_the_callback_left() {
    struct Context(Mailbox<u32>);
    loom::model(|| {
        let shared = Shared::new(Context(Mailbox::default()));
        let claim = shared.claim().unwrap();
        let announced = Arc::new(AtomicU32::new(0));
        let announce = Arc::clone(&announced);
        let poll = thread::spawn(move || {
            let seen = claim.look().unwrap();
            let calling = claim.begin(seen).unwrap();
            announce.store(1, Ordering::Release); // the callback's unpark
            calling.shared().0.put(Box::new(7)); // what it has not taken
        });
        if announced.load(Ordering::Acquire) == 1 {
            let taken = shared.0.take().or_else(|| {
                shared.wait_for_calls();
                shared.0.take()
            });
            assert!(taken.is_some(), "announced, and not there");
        }
        poll.join().unwrap();
    });
}
