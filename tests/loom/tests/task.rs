//! A result and who waits for it: the word of a posted value, against each other.
#![cfg(ringbell_loom)]

use std::sync::Arc;
use std::task::{Wake, Waker};

use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use ringbell_drivers::claim::{Claim, Shared};
use ringbell_drivers::task::Posted;

type Post = Posted<(), u64>;

struct Count(AtomicU32);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn waiter() -> (Arc<Count>, Waker) {
    let count = Arc::new(Count(AtomicU32::new(0)));
    (Arc::clone(&count), Waker::from(count))
}

/// What the poll thread does with a request that has ended.
fn deliver(claim: Claim<Post>, result: u64) {
    let seen = claim.look().unwrap();
    let Ok(calling) = claim.begin(seen) else { unreachable!("nobody gives it up") };
    calling.post(Box::new(result));
}

#[test]
fn a_result_is_found_by_a_task_or_the_task_is_woken() {
    loom::model(|| {
        let shared = Shared::new(Post::new(()));
        let claim = shared.claim().unwrap();
        let poll = thread::spawn(move || deliver(claim, 1));
        let (count, waker) = waiter();
        let found = shared.poll(&waker);
        poll.join().unwrap();
        match found {
            Some(result) => assert_eq!(*result, 1),
            None => {
                assert_eq!(count.0.load(Ordering::Relaxed), 1, "nobody was woken");
                assert_eq!(shared.take().as_deref(), Some(&1));
            }
        }
    });
}

/// Two threads wait on one context at once. One is still in the cell when its delivery is over, and the
/// other has taken the result, has submitted again and goes there as well.
#[test]
fn a_waiter_that_is_late_does_not_open_the_cell_for_another() {
    loom::model(|| {
        let shared = Shared::new(Post::new(()));
        let claim = shared.claim().unwrap();
        let late = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (_count, waker) = waiter();
                shared.poll(&waker).is_some()
            })
        };
        deliver(claim, 1);
        if shared.take().is_some() {
            let claim = shared.claim().unwrap();
            let poll = thread::spawn(move || deliver(claim, 2));
            let (_count, waker) = waiter();
            let _ = shared.poll(&waker);
            poll.join().unwrap();
        }
        late.join().unwrap();
    });
}
