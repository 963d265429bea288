//! The two halves of a queue, against each other and against a device.
#![cfg(ringbell_loom)]

use std::sync::Arc;

use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use ringbell_drivers::virtqueue::Wake;
use ringbell_loom::{Device, Flag, drain, model, submit};

#[test]
fn every_request_comes_back_once_with_its_entry() {
    loom::model(|| {
        let mut m = model::<Box<u32>>(true);
        let mut device = Device::new(&m.memory);
        let mut submitter = m.submitter;
        let program = thread::spawn(move || {
            assert!(submit(&mut submitter, Box::new(1)));
            assert!(submit(&mut submitter, Box::new(2)));
        });
        let hardware = thread::spawn(move || {
            device.serve_one(true);
        });
        let mut seen = drain(&mut m.completer);
        program.join().unwrap();
        hardware.join().unwrap();
        seen.extend(drain(&mut m.completer));
        let values: Vec<u32> = seen.iter().map(|entry| **entry).collect();
        assert!(values.is_empty() || values == [1], "{values:?}");
        // What the device did not take is still there.
        m.completer.close();
        m.completer.reap(false, |entry| seen.push(entry));
        assert_eq!(seen.len(), 2);
        assert_ne!(seen[0], seen[1]);
    });
}

#[test]
fn a_slot_is_used_again_only_after_its_entry_has_left() {
    loom::model(|| {
        let mut m = model::<Box<u32>>(true);
        let mut device = Device::new(&m.memory);
        assert!(submit(&mut m.submitter, Box::new(0)));
        assert!(submit(&mut m.submitter, Box::new(1)));
        device.serve_one(true);
        let mut submitter = m.submitter;
        let program = thread::spawn(move || submit(&mut submitter, Box::new(2)));
        let seen = drain(&mut m.completer);
        assert_eq!(seen.len(), 1);
        let accepted = program.join().unwrap();
        let mut rest = Vec::new();
        m.completer.close();
        m.completer.reap(false, |entry| rest.push(*entry));
        rest.sort_unstable();
        assert_eq!(rest, if accepted { vec![1, 2] } else { vec![1] });
    });
}

fn kick(event_idx: bool) {
    loom::model(move || {
        let m = model::<Box<u32>>(event_idx);
        let mut device = Device::new(&m.memory);
        let mut submitter = m.submitter;
        device.busy();
        let program = thread::spawn(move || assert!(submit(&mut submitter, Box::new(1))));
        let sleeps = device.may_sleep(event_idx);
        program.join().unwrap();
        // A device that sleeps has been rung; one that does not has seen the request.
        assert!(!sleeps || m.doorbell.is_up(), "a notification was lost");
        m.completer.close();
        let mut completer = m.completer;
        completer.reap(false, drop);
    });
}

#[test]
fn no_notification_is_lost_with_event_indexes() {
    kick(true);
}

#[test]
fn no_notification_is_lost_with_flags() {
    kick(false);
}

fn interrupt(event_idx: bool) {
    loom::model(move || {
        let mut m = model::<Box<u32>>(event_idx);
        let mut device = Device::new(&m.memory);
        // One before, so that used_event has to move.
        assert!(submit(&mut m.submitter, Box::new(0)));
        assert!(device.serve_one(event_idx).is_some());
        assert_eq!(drain(&mut m.completer).len(), 1);
        assert!(submit(&mut m.submitter, Box::new(1)));
        let hardware = thread::spawn(move || device.serve_one(event_idx) == Some(true));
        let sleeps = m.completer.arm();
        let interrupted = hardware.join().unwrap();
        assert!(!sleeps || interrupted, "an interrupt was lost");
        assert_eq!(drain(&mut m.completer).len(), 1);
    });
}

#[test]
fn no_interrupt_is_lost_with_event_indexes() {
    interrupt(true);
}

#[test]
fn no_interrupt_is_lost_with_flags() {
    interrupt(false);
}

#[test]
fn the_poll_thread_never_sleeps_on_a_submission() {
    loom::model(|| {
        let mut m = model::<Box<u32>>(true);
        let mut submitter = m.submitter;
        let program = thread::spawn(move || assert!(submit(&mut submitter, Box::new(1))));
        // As the poll core does: say so, look at everything once more, sleep.
        m.wake.prepare();
        let sleeps_without_timer = m.completer.arm() && m.completer.in_flight() == 0;
        program.join().unwrap();
        assert!(!sleeps_without_timer || m.signal.is_up(), "a wake-up was lost");
        m.wake.awake();
        m.completer.close();
        m.completer.reap(false, drop);
    });
}

#[test]
fn a_message_wakes_the_poll_thread() {
    loom::model(|| {
        let m = model::<Box<u32>>(true);
        let message = Flag::default();
        let (sent, wake) = (message.clone(), Arc::clone(&m.wake));
        let sender = thread::spawn(move || {
            sent.0.store(true, Ordering::Release);
            wake.wake();
        });
        m.wake.prepare();
        let sleeps = !message.0.load(Ordering::Relaxed);
        sender.join().unwrap();
        assert!(!sleeps || m.signal.is_up(), "a message was slept over");
    });
}

#[test]
fn a_queue_closed_under_a_burst_ends_each_request_once() {
    loom::model(|| {
        let m = model::<Box<u32>>(true);
        let mut submitter = m.submitter;
        let program = thread::spawn(move || {
            let accepted = submitter.burst(|burst| {
                let mut accepted = 0;
                for value in 0..2 {
                    if let Some(vacancy) = burst.vacancy() {
                        vacancy.commit(Box::new(value));
                        accepted += 1;
                    }
                }
                accepted
            });
            let (withdrawn, kept) = submitter.withdrawn();
            assert!(!kept);
            (accepted.unwrap_or(0), withdrawn.len())
        });
        let mut completer = m.completer;
        completer.close();
        let mut reaped = 0;
        completer.reap(false, |_| reaped += 1);
        let (accepted, withdrawn) = program.join().unwrap();
        // Box's drop and loom's leak check see to "at most once"; this to "at least once".
        assert_eq!(accepted, reaped + withdrawn);
        drop(completer);
    });
}

#[test]
fn a_burst_is_not_withdrawn_before_the_device_is_stopped() {
    loom::model(|| {
        let m = model::<Box<u32>>(true);
        let mut submitter = m.submitter;
        let program = thread::spawn(move || {
            let accepted = submit(&mut submitter, Box::new(1));
            (accepted, submitter.withdrawn().0.len())
        });
        // Closed, not reaped: the device may have the request, so nobody may have it back.
        m.completer.close();
        let (accepted, withdrawn) = program.join().unwrap();
        assert_eq!(withdrawn, 0);
        let mut completer = m.completer;
        let mut reaped = 0;
        completer.reap(false, |_| reaped += 1);
        assert_eq!(reaped, u32::from(accepted));
    });
}

#[test]
fn a_waiter_for_room_is_told_or_finds_it() {
    loom::model(|| {
        let mut m = model::<Box<u32>>(true);
        let mut device = Device::new(&m.memory);
        assert!(submit(&mut m.submitter, Box::new(0)));
        assert!(submit(&mut m.submitter, Box::new(1)));
        device.serve_one(true);
        let room = Arc::clone(&m.room);
        let mut submitter = m.submitter;
        let told = Arc::new(AtomicU32::new(0));
        let tell = Arc::clone(&told);
        let program = thread::spawn(move || {
            room.register(move || {
                tell.fetch_add(1, Ordering::Relaxed);
            });
            submit(&mut submitter, Box::new(2))
        });
        assert_eq!(drain(&mut m.completer).len(), 1);
        let accepted = program.join().unwrap();
        assert!(accepted || told.load(Ordering::Relaxed) == 1, "a waiter was left beside a free slot");
        m.completer.close();
        m.completer.reap(false, drop);
        assert_eq!(told.load(Ordering::Relaxed), 1, "the end of the device is announced too");
    });
}

#[test]
fn a_burst_that_the_device_answers_while_the_queue_closes_ends_once() {
    loom::model(|| {
        let m = model::<Box<u32>>(true);
        let mut device = Device::new(&m.memory);
        let mut submitter = m.submitter;
        let program = thread::spawn(move || {
            let accepted = submitter.burst(|burst| {
                let mut accepted = 0;
                while let Some(vacancy) = burst.vacancy() {
                    vacancy.commit(Box::new(accepted));
                    accepted += 1;
                }
                accepted
            });
            (accepted.unwrap_or(0), submitter.withdrawn().0.len())
        });
        let mut completer = m.completer;
        // Completed requests go back into the free ring, where a withdrawal looks for its own.
        device.serve_one(true);
        let mut ended = drain(&mut completer).len();
        completer.close();
        device.serve_one(true);
        ended += drain(&mut completer).len();
        // Here the device is stopped.
        completer.reap(false, |_| ended += 1);
        let (accepted, withdrawn) = program.join().unwrap();
        assert_eq!(accepted as usize, ended + withdrawn);
    });
}

// A second sleep of the poll thread is not modelled: loom lets a later load see the flag that a waker
// swapped out before that sleep, which the language forbids (nothing comes between a swap and what it
// read), and tells of a sleep for ever that cannot be.
#[test]
fn of_two_wakers_one_signals() {
    loom::model(|| {
        let signal = Flag::default();
        let wake = Arc::new(Wake::new(signal.clone()));
        let sent = Arc::new(AtomicU32::new(0));
        let senders = [1, 2].map(|_| {
            let (wake, sent) = (Arc::clone(&wake), Arc::clone(&sent));
            thread::spawn(move || {
                sent.fetch_add(1, Ordering::Relaxed);
                wake.wake();
            })
        });
        wake.prepare();
        let seen = sent.load(Ordering::Relaxed);
        for sender in senders {
            sender.join().unwrap();
        }
        assert!(seen == 2 || signal.is_up(), "a message was slept over");
    });
}

#[test]
fn a_waiter_for_room_hears_of_the_end_or_finds_it() {
    loom::model(|| {
        let mut m = model::<Box<u32>>(true);
        assert!(submit(&mut m.submitter, Box::new(0)));
        assert!(submit(&mut m.submitter, Box::new(1)));
        let room = Arc::clone(&m.room);
        let submitter = m.submitter;
        let told = Arc::new(AtomicU32::new(0));
        let tell = Arc::clone(&told);
        let program = thread::spawn(move || {
            room.register(move || {
                tell.fetch_add(1, Ordering::Relaxed);
            });
            submitter.check().is_err()
        });
        let mut completer = m.completer;
        completer.close();
        // Not yet reaped, which announces once more: a device may take long to stop.
        let told_early = told.load(Ordering::Relaxed);
        let found = program.join().unwrap();
        assert!(found || told.load(Ordering::Relaxed) == 1, "a waiter was left beside a closed queue");
        completer.reap(false, drop);
        assert!(told.load(Ordering::Relaxed) == 1 && told_early <= 1);
    });
}
