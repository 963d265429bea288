//! A task that waits for a claim's result: registering, delivery, dropping, using the context again; and a
//! task that waits for room.
#![cfg(ringbell_loom)]

use std::sync::Arc;
use std::task::{Wake, Waker};

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use ringbell_drivers::claim::{Claim, Shared};
use ringbell_drivers::room::Room;
use ringbell_drivers::task::Posted;
use ringbell_loom::{Device, drain, model, submit};

/// Counts wake-ups.
struct Bell(AtomicU32);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn bell() -> (Arc<Bell>, Waker) {
    let bell = Arc::new(Bell(AtomicU32::new(0)));
    (Arc::clone(&bell), Waker::from(bell))
}

impl Bell {
    fn wakes(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A result: loom sees who touches it when, and it counts its drops.
struct Letter {
    number: UnsafeCell<u32>,
    burnt: Arc<AtomicU32>,
}

// SAFETY: the model's point: loom reports it where accesses overlap.
unsafe impl Send for Letter {}

impl Drop for Letter {
    fn drop(&mut self) {
        self.burnt.fetch_add(1, Ordering::Relaxed);
    }
}

impl Letter {
    fn read(&self) -> u32 {
        // SAFETY: the model's point: the taker comes after the writer.
        self.number.with(|number| unsafe { *number })
    }
}

type Context = Shared<Posted<(), Letter>>;

fn context() -> Context {
    Shared::new(Posted::new(()))
}

/// What the poll thread does with an ended request. True where it was delivered.
fn deliver(claim: Claim<Posted<(), Letter>>, number: u32, burnt: &Arc<AtomicU32>) -> bool {
    let Some(seen) = claim.look() else { return false };
    let Ok(calling) = claim.begin(seen) else { return false };
    let letter = Box::new(Letter { number: UnsafeCell::new(0), burnt: Arc::clone(burnt) });
    // SAFETY: the model's point: the taker comes after.
    letter.number.with_mut(|place| unsafe { *place = number });
    calling.post(letter);
    true
}

fn counter() -> Arc<AtomicU32> {
    Arc::new(AtomicU32::new(0))
}

#[test]
fn a_task_finds_its_result_or_is_woken_for_it() {
    loom::model(|| {
        let (context, burnt) = (context(), counter());
        let claim = context.claim().unwrap();
        let (bell, waker) = bell();
        let other = Arc::clone(&burnt);
        let poll = thread::spawn(move || deliver(claim, 1, &other));
        let found = context.poll(&waker);
        assert!(poll.join().unwrap());
        assert!(found.is_some() || bell.wakes() == 1, "a task was left asleep beside its result");
        let late = context.poll(&waker);
        assert!(found.is_some() != late.is_some(), "the result is taken once");
        assert_eq!(found.or(late).unwrap().read(), 1);
        drop((context, waker));
        assert_eq!((burnt.load(Ordering::Relaxed), Arc::strong_count(&bell)), (1, 1));
    });
}

#[test]
fn another_task_takes_the_wait_over_while_the_first_is_being_woken() {
    loom::model(|| {
        let (context, burnt) = (context(), counter());
        let claim = context.claim().unwrap();
        let ((first, waker), (second, other)) = (bell(), bell());
        assert!(context.poll(&waker).is_none());
        let count = Arc::clone(&burnt);
        let poll = thread::spawn(move || deliver(claim, 1, &count));
        let found = context.poll(&other);
        assert!(poll.join().unwrap());
        assert!(found.is_some() || first.wakes() + second.wakes() > 0);
        if found.is_none() && second.wakes() == 0 {
            // The first one was woken by the delivery, before the second had registered: it found nothing
            // only where it looked before that.
            assert_eq!(first.wakes(), 1);
            panic!("the second polled last and was not woken");
        }
    });
}

#[test]
fn a_context_used_again_while_its_last_wake_up_goes_on_wakes_the_right_task_in_the_end() {
    loom::model(|| {
        let (context, burnt) = (context(), counter());
        let claim = context.claim().unwrap();
        let ((_, waker), (second, other)) = (bell(), bell());
        assert!(context.poll(&waker).is_none());
        let count = Arc::clone(&burnt);
        let poll = thread::spawn(move || deliver(claim, 1, &count));
        // The result is there; the poll thread may be in the middle of waking the first task.
        if let Some(letter) = context.take() {
            assert_eq!(letter.read(), 1);
            let claim = context.claim().unwrap();
            let registered = context.poll(&other);
            assert!(registered.is_none());
            poll.join().unwrap();
            let woken_early = second.wakes();
            assert!(deliver(claim, 2, &burnt));
            // Where it could not register it was told at once to come again.
            assert!(second.wakes() == 1 && woken_early <= 1 || second.wakes() > woken_early);
            assert_eq!(context.poll(&other).unwrap().read(), 2);
        } else {
            poll.join().unwrap();
        }
    });
}

#[test]
fn a_task_that_gives_up_is_not_delivered_to_or_its_result_is_dropped() {
    loom::model(|| {
        let (context, burnt) = (context(), counter());
        let claim = context.claim().unwrap();
        let (bell, waker) = bell();
        assert!(context.poll(&waker).is_none());
        drop(waker);
        let count = Arc::clone(&burnt);
        let poll = thread::spawn(move || deliver(claim, 1, &count));
        context.give_up();
        let delivered = poll.join().unwrap();
        assert!(bell.wakes() <= u32::from(delivered));
        assert!(context.is_clean(), "the device has returned it, and no call runs");
        assert_eq!(burnt.load(Ordering::Relaxed), u32::from(delivered), "a result was left in the context");
        drop(context);
        assert_eq!(Arc::strong_count(&bell), 1, "a waker was left behind");
    });
}

#[test]
fn after_a_task_gave_up_the_next_gets_its_own_result() {
    loom::model(|| {
        let (context, burnt) = (context(), counter());
        let claim = context.claim().unwrap();
        let (_, waker) = bell();
        assert!(context.poll(&waker).is_none());
        let count = Arc::clone(&burnt);
        let poll = thread::spawn(move || deliver(claim, 1, &count));
        // As TaskCtx: where it is not clean the next has another context.
        if context.give_up() || context.is_clean() {
            let claim = context.claim().expect("a clean context is free");
            let (bell, waker) = bell();
            assert!(context.poll(&waker).is_none(), "the result of the one that was given up");
            assert!(deliver(claim, 2, &burnt));
            poll.join().unwrap();
            assert!(bell.wakes() >= 1);
            assert_eq!(context.poll(&waker).unwrap().read(), 2);
        } else {
            poll.join().unwrap();
        }
    });
}

#[test]
fn the_last_handle_may_go_while_the_result_comes() {
    loom::model(|| {
        let (context, burnt) = (context(), counter());
        let claim = context.claim().unwrap();
        let (bell, waker) = bell();
        assert!(context.poll(&waker).is_none());
        drop(waker);
        let count = Arc::clone(&burnt);
        let poll = thread::spawn(move || deliver(claim, 1, &count));
        context.give_up();
        drop(context);
        let delivered = poll.join().unwrap();
        assert_eq!(burnt.load(Ordering::Relaxed), u32::from(delivered), "a result is lost");
        assert_eq!(Arc::strong_count(&bell), 1, "a waker is lost");
    });
}

#[test]
fn of_two_threads_that_wait_one_is_woken_or_one_finds_it_and_one_gets_it() {
    loom::model(|| {
        let (context, burnt) = (context(), counter());
        let claim = context.claim().unwrap();
        let ((first, waker), (second, another)) = (bell(), bell());
        let other = context.clone();
        let waiter = thread::spawn(move || other.poll(&another).is_some());
        let count = Arc::clone(&burnt);
        let poll = thread::spawn(move || deliver(claim, 1, &count));
        let mine = context.poll(&waker).is_some();
        let theirs = waiter.join().unwrap();
        poll.join().unwrap();
        assert!(!(mine && theirs), "it was taken twice");
        assert!(mine || theirs || first.wakes() + second.wakes() > 0, "both were left asleep");
        assert_eq!(context.take().is_some(), !(mine || theirs));
    });
}

#[test]
fn a_new_waiter_leaves_the_last_one_alone_while_that_is_being_woken_whoever_took_the_result() {
    loom::model(|| {
        let (context, burnt) = (context(), counter());
        let claim = context.claim().unwrap();
        let ((_, waker), (_, another)) = (bell(), bell());
        assert!(context.poll(&waker).is_none());
        let other = context.clone();
        let poll = thread::spawn(move || deliver(claim, 1, &burnt));
        let taker = thread::spawn(move || other.take().is_some());
        // Writes its waker into the cell, or finds that it may not: loom reports it where that overlaps.
        let mine = context.poll(&another).is_some();
        let theirs = taker.join().unwrap();
        poll.join().unwrap();
        assert!(!(mine && theirs));
    });
}

#[test]
fn a_thread_that_waits_hears_of_a_detach_or_sees_it() {
    loom::model(|| {
        let context = context();
        let claim = context.claim().unwrap();
        let (bell, waker) = bell();
        let other = context.clone();
        let program = thread::spawn(move || {
            assert!(other.detach());
            other.wake_waiter();
        });
        assert!(context.poll(&waker).is_none());
        let seen = !context.is_awaited();
        program.join().unwrap();
        assert!(seen || bell.wakes() == 1, "a waiter was left asleep");
        drop(claim);
    });
}

// ---- room ----

#[test]
fn a_task_that_waits_for_room_is_woken_or_finds_it() {
    loom::model(|| {
        let mut m = model::<Box<u32>>(true);
        let mut device = Device::new(&m.memory);
        assert!(submit(&mut m.submitter, Box::new(0)));
        assert!(submit(&mut m.submitter, Box::new(1)));
        device.serve_one(true);
        let room = Arc::clone(&m.room);
        let mut submitter = m.submitter;
        let (bell, waker) = bell();
        let program = thread::spawn(move || {
            let mut ticket = None;
            room.register_task(&mut ticket, &waker);
            let accepted = submit(&mut submitter, Box::new(2));
            if accepted {
                ticket.into_iter().for_each(|ticket| room.leave(ticket));
            }
            accepted
        });
        assert_eq!(drain(&mut m.completer).len(), 1);
        let accepted = program.join().unwrap();
        assert!(accepted || bell.wakes() == 1, "a task was left asleep beside a free slot");
        m.completer.close();
        m.completer.reap(false, drop);
        assert_eq!(Arc::strong_count(&bell), 1, "a waker was left behind");
    });
}

#[test]
fn a_task_that_leaves_while_room_is_announced_leaves_no_waker() {
    loom::model(|| {
        let room = Arc::new(Room::new());
        let ((gone, waker), (stays, other)) = (bell(), bell());
        let (mut ticket, mut kept) = (None, None);
        room.register_task(&mut ticket, &waker);
        room.register_task(&mut kept, &other);
        drop(waker);
        let announcer = Arc::clone(&room);
        let poll = thread::spawn(move || announcer.announce());
        room.leave(ticket.unwrap());
        poll.join().unwrap();
        assert_eq!((Arc::strong_count(&gone), stays.wakes(), room.waiting()), (1, 1, 0));
        assert!(gone.wakes() <= 1);
    });
}
