//! A wait context's claim: submit, complete, cancel, detach and free, against each other.
#![cfg(ringbell_loom)]

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use ringbell_drivers::claim::{Mailbox, Shared};
use ringbell_loom::context::{complete, context};

#[test]
fn a_request_is_delivered_or_detached_and_never_both() {
    loom::model(|| {
        let (shared, calls, dropped) = context();
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
        let (shared, calls, _) = context();
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
        let (shared, calls, dropped) = context();
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
        let (shared, _, dropped) = context();
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
        let (shared, _, _) = context();
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
        let (shared, _, _) = context();
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
        let (shared, calls, _) = context();
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
        let (shared, _, _) = context();
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

/// What goes through a mailbox: loom sees who touches it when.
struct Letter(UnsafeCell<u32>, Arc<AtomicU32>);

// SAFETY: the model's point: loom reports it where accesses overlap.
unsafe impl Send for Letter {}

impl Drop for Letter {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_mailbox_hands_over_what_was_written_before() {
    loom::model(|| {
        let burnt = Arc::new(AtomicU32::new(0));
        let mailbox = Arc::new(Mailbox::default());
        let (other, drops) = (Arc::clone(&mailbox), Arc::clone(&burnt));
        let poll = thread::spawn(move || {
            // The first is not taken in time, or is: either way it has one owner.
            for value in [7, 8] {
                let letter = Box::new(Letter(UnsafeCell::new(0), Arc::clone(&drops)));
                // SAFETY: the model's point: the taker comes after.
                letter.0.with_mut(|place| unsafe { *place = value });
                if let Some(before) = other.put(letter) {
                    // SAFETY: as above.
                    assert_eq!(before.0.with_mut(|place| unsafe { *place }), 7);
                }
            }
        });
        let read = |letter: Box<Letter>| {
            // SAFETY: as above.
            letter.0.with_mut(|place| unsafe { *place })
        };
        let first = mailbox.take().map(read);
        poll.join().unwrap();
        let second = mailbox.take().map(read);
        assert!(matches!((first, second), (None | Some(7), Some(8)) | (Some(8), None)));
        drop(mailbox);
        assert_eq!(burnt.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn who_finds_a_letter_in_a_mailbox_can_read_it() {
    loom::model(|| {
        let burnt = Arc::new(AtomicU32::new(0));
        let mailbox = Arc::new(Mailbox::default());
        let put = |mailbox: &Mailbox<Letter>, burnt: &Arc<AtomicU32>| {
            let letter = Box::new(Letter(UnsafeCell::new(0), Arc::clone(burnt)));
            // SAFETY: the model's point: whoever takes it comes after.
            letter.0.with_mut(|place| unsafe { *place = 7 });
            if let Some(before) = mailbox.put(letter) {
                // SAFETY: as above.
                assert_eq!(before.0.with_mut(|place| unsafe { *place }), 7);
            }
        };
        let (other, drops) = (Arc::clone(&mailbox), Arc::clone(&burnt));
        // A submitter that ends what it has withdrawn.
        let program = thread::spawn(move || put(&other, &drops));
        put(&mailbox, &burnt);
        program.join().unwrap();
        drop(mailbox);
        assert_eq!(burnt.load(Ordering::Relaxed), 2);
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
