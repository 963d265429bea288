//! Requests that end before the device is through with them (cancel, deadline, reset), against the
//! completion, the submitter, a detach and the free of their context.
#![cfg(ringbell_loom)]

use loom::sync::atomic::Ordering;
use loom::thread;
use ringbell_loom::context::{Context, Entry, Poll, complete, context};
use ringbell_loom::{Device, Model, Shared, model, submit};

type Submitter = ringbell_drivers::virtqueue::Submitter<Entry, Shared>;

/// Submits a request of `context`; true where it was accepted.
fn send(submitter: &mut Submitter, context: &Context) -> bool {
    context.claim().is_some_and(|claim| submit(submitter, Entry(Some(claim))))
}

/// A queue with one request of a context in flight.
fn one_in_flight() -> (Model<Entry>, Device, Context) {
    let mut m = model::<Entry>(true);
    let device = Device::new(&m.memory);
    let (context, _, _) = context();
    assert!(send(&mut m.submitter, &context));
    (m, device, context)
}

#[test]
fn a_deadline_a_completion_and_a_free_end_a_request_once() {
    loom::model(|| {
        let (m, mut device, context) = one_in_flight();
        let mut submitter = m.submitter;
        let mut poll = Poll::new(m.completer);
        let hardware = thread::spawn(move || device.serve_one(true));
        let poller = thread::spawn(move || {
            poll.drain();
            poll.tick(0, 0);
            poll.drain();
            poll
        });
        let freed = context.quiesce();
        // SAFETY: the model's point: quiesce has returned, so no call runs or will run.
        let touched = context.touched.with(|touched| unsafe { *touched });
        assert_eq!(touched, u32::from(!freed));
        hardware.join().unwrap();
        let mut poll = poller.join().unwrap();
        poll.drain();
        assert_eq!((poll.delivered, poll.given_up), (touched, u32::from(freed)));
        assert_eq!(poll.back, poll.early, "what has ended early comes back once");
        // The device has returned it: context and slot are free.
        assert!(send(&mut submitter, &context));
        assert_eq!(poll.completer.in_flight(), 1);
        poll.finish();
        assert_eq!(poll.delivered, touched + 1);
    });
}

#[test]
fn an_early_end_sees_a_submission_whole_or_not_at_all() {
    loom::model(|| {
        let mut m = model::<Entry>(true);
        let (first, _, _) = context();
        let (second, _, _) = context();
        assert!(send(&mut m.submitter, &first));
        let (mut submitter, other) = (m.submitter, second.clone());
        let program = thread::spawn(move || send(&mut submitter, &other));
        let mut poll = Poll::new(m.completer);
        let generation = second.generation();
        poll.tick(0, 0);
        if let Some(generation) = generation.or_else(|| second.generation()) {
            poll.cancel(&second, generation);
        }
        assert!(program.join().unwrap());
        let early = poll.early;
        poll.finish();
        assert!((1..=2).contains(&early));
        assert_eq!((poll.delivered, poll.back), (2, early));
    });
}

#[test]
fn no_deadline_passes_early() {
    loom::model(|| {
        let m = model::<Entry>(true);
        let (context, _, _) = context();
        let mut submitter = m.submitter;
        let other = context.clone();
        let program = thread::spawn(move || assert!(send(&mut submitter, &other)));
        let mut poll = Poll::new(m.completer);
        poll.tick(0, 10);
        // What was published by now may have been found by the first tick; nothing else.
        let published = poll.completer.published();
        poll.tick(10, 10);
        assert!(u64::from(poll.early) <= published, "it was seen by one tick only");
        program.join().unwrap();
        poll.tick(20, 10);
        poll.tick(30, 10);
        assert_eq!(poll.early, 1, "nor does it wait for ever");
        poll.finish();
        assert_eq!((poll.delivered, poll.back), (1, 1));
    });
}

#[test]
fn a_late_cancel_leaves_the_next_request_alone() {
    loom::model(|| {
        let (m, mut device, context) = one_in_flight();
        let generation = context.generation().unwrap();
        device.serve_one(true);
        let (mut submitter, other) = (m.submitter, context.clone());
        let program = thread::spawn(move || u32::from(send(&mut submitter, &other)));
        let mut poll = Poll::new(m.completer);
        poll.drain();
        assert_eq!(poll.delivered, 1);
        poll.cancel(&context, generation);
        assert_eq!(poll.early, 0, "a cancel hit another request");
        let again = program.join().unwrap();
        poll.finish();
        assert_eq!(poll.delivered, 1 + again);
    });
}

#[test]
fn a_context_that_was_cancelled_submits_again_while_its_slot_is_in_quarantine() {
    loom::model(|| {
        let (m, mut device, context) = one_in_flight();
        let generation = context.generation().unwrap();
        let (mut submitter, other) = (m.submitter, context.clone());
        let program = thread::spawn(move || u32::from(send(&mut submitter, &other)));
        let mut poll = Poll::new(m.completer);
        poll.cancel(&context, generation);
        assert_eq!((poll.early, poll.delivered), (1, 1));
        device.serve_one(true);
        poll.drain();
        let again = program.join().unwrap();
        device.serve_one(true);
        poll.drain();
        assert_eq!((poll.delivered, poll.back), (1 + again, 1));
        assert_eq!(poll.completer.in_flight(), 0);
        poll.finish();
    });
}

#[test]
fn a_context_that_is_dropped_lives_until_its_early_end() {
    loom::model(|| {
        let mut m = model::<Entry>(true);
        let (context, calls, dropped) = context();
        assert!(send(&mut m.submitter, &context));
        let mut poll = Poll::new(m.completer);
        let poller = thread::spawn(move || {
            poll.tick(0, 0);
            poll
        });
        drop(context);
        let mut poll = poller.join().unwrap();
        // The entry is in quarantine, and no part of the context's life.
        assert_eq!((calls.load(Ordering::Relaxed), dropped.load(Ordering::Relaxed)), (1, 1));
        poll.finish();
        assert_eq!((poll.delivered, poll.back), (1, 1));
    });
}

#[test]
fn a_reset_a_deadline_and_a_burst_end_each_request_once() {
    loom::model(|| {
        let m = model::<Entry>(true);
        let contexts = [context(), context()];
        let handles = contexts.each_ref().map(|(context, _, _)| context.clone());
        let mut submitter = m.submitter;
        let program = thread::spawn(move || {
            let accepted = submitter.burst(|burst| {
                for context in &handles {
                    let claim = context.claim().unwrap();
                    burst.vacancy().unwrap().commit(Entry(Some(claim)));
                }
            });
            // The submitting thread ends what it takes back.
            let withdrawn = submitter.withdrawn().0;
            let delivered = withdrawn.into_iter().filter_map(|entry| entry.0).map(complete);
            (accepted.is_ok(), delivered.filter(|delivered| *delivered).count() as u32)
        });
        let mut poll = Poll::new(m.completer);
        poll.tick(0, 0);
        poll.finish();
        let (accepted, withdrawn) = program.join().unwrap();
        let calls: Vec<_> = contexts.iter().map(|(_, calls, _)| calls.load(Ordering::Relaxed)).collect();
        assert_eq!(calls, if accepted { [1, 1] } else { [0, 0] });
        assert_eq!(poll.delivered + withdrawn, calls.iter().sum());
        assert!(contexts.iter().all(|(context, _, _)| !context.is_claimed()));
    });
}

#[test]
fn a_reset_against_a_detach() {
    loom::model(|| {
        let (m, _, context) = one_in_flight();
        let mut poll = Poll::new(m.completer);
        let poller = thread::spawn(move || {
            poll.finish();
            poll
        });
        let detached = context.detach();
        let poll = poller.join().unwrap();
        assert_eq!((poll.delivered, poll.given_up), (u32::from(!detached), u32::from(detached)));
        assert!(!context.is_claimed(), "the context can be used again");
    });
}
