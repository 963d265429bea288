//! A queue that is given fresh rings after a fault, while its owner is in the middle of something.
#![cfg(ringbell_loom)]

use std::sync::Arc;

use loom::thread;
use ringbell_drivers::claim::Mailbox;
use ringbell_drivers::virtqueue::Closed;
use ringbell_loom::{Device, drain, model, submit};

/// A burst goes on over the whole of a recovery: closed, collected, the next epoch begun. Its request
/// ends once, on one side or the other, and the old half finds out.
#[test]
fn a_burst_over_a_recovery_ends_once_and_its_half_is_closed() {
    loom::model(|| {
        let mut m = model::<Box<u32>>(true);
        let (renewing, mut submitter) = {
            let spare = model::<Box<u32>>(true);
            (m.page.clone(), std::mem::replace(&mut m.submitter, spare.submitter))
        };
        let program = thread::spawn(move || {
            let accepted = submit(&mut submitter, Box::new(1));
            let (withdrawn, kept) = submitter.withdrawn();
            (accepted, withdrawn.len(), kept, submitter)
        });
        m.completer.close();
        let mut reaped = 0;
        m.completer.reap(false, |_| reaped += 1);
        assert!(renewing.epoch(1).is_some());
        let (accepted, withdrawn, kept, submitter) = program.join().unwrap();
        assert_eq!(usize::from(accepted), reaped + withdrawn, "lost, or ended twice");
        assert!(!kept);
        assert_eq!(submitter.check(), Err(Closed::Queue));
    });
}

/// The owner finds its queue closed, fetches the new half and submits with it, while the poll thread
/// recovers: each request is in one ring, and what is in the new one comes back.
#[test]
fn the_owner_goes_on_with_the_half_that_the_poll_thread_left() {
    loom::model(|| {
        let mut m = model::<Box<u32>>(true);
        let mailbox = Arc::new(Mailbox::default());
        let fetch = Arc::clone(&mailbox);
        let spare = model::<Box<u32>>(true);
        let mut submitter = std::mem::replace(&mut m.submitter, spare.submitter);
        let program = thread::spawn(move || {
            if submitter.check().is_err()
                && let Some(new) = fetch.take()
            {
                submitter = *new;
            }
            let accepted = submit(&mut submitter, Box::new(7));
            (accepted, submitter.withdrawn().0.len())
        });
        m.completer.close();
        let mut ended = 0;
        m.completer.reap(false, |_| ended += 1);
        let mut new = m.renew();
        drop(mailbox.put(Box::new(new.submitter)));
        let (accepted, withdrawn) = program.join().unwrap();
        let mut device = Device::new(&new.memory);
        device.serve_one(true);
        let returned = drain(&mut new.completer).len();
        assert_eq!(usize::from(accepted), ended + withdrawn + returned, "lost, or ended twice");
    });
}
