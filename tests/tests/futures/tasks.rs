//! A hand-written executor, as small as they come: tasks polled one by one, wake-ups counted.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Counts wake-ups.
#[derive(Default)]
pub struct Wakes(AtomicU64);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A waker and its count.
pub struct Bell {
    wakes: Arc<Wakes>,
    pub waker: Waker,
}

impl Bell {
    pub fn new() -> Self {
        let wakes = Arc::new(Wakes::default());
        Self { waker: Waker::from(Arc::clone(&wakes)), wakes }
    }

    /// Wake-ups so far.
    pub fn wakes(&self) -> u64 {
        self.wakes.0.load(Ordering::SeqCst)
    }

    /// Wakers of this one that somebody else keeps.
    pub fn kept(&self) -> usize {
        Arc::strong_count(&self.wakes) - 2
    }

    /// Polls once; `None` where it pends.
    pub fn poll<F: Future + Unpin>(&self, future: &mut F) -> Option<F::Output> {
        match Pin::new(future).poll(&mut Context::from_waker(&self.waker)) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Tasks on this thread.
#[derive(Default)]
pub struct Executor {
    tasks: Vec<(Option<Task>, Bell, u64)>,
    /// Polls so far.
    pub polls: u64,
}

impl Executor {
    pub fn spawn(&mut self, task: impl Future<Output = ()> + 'static) {
        self.tasks.push((Some(Box::pin(task)), Bell::new(), u64::MAX));
    }

    /// Polls every task that was woken since its last poll, or never polled; returns how many are left.
    pub fn turn(&mut self) -> usize {
        for (place, bell, seen) in &mut self.tasks {
            let wakes = bell.wakes();
            if let Some(task) = place
                && *seen != wakes
            {
                *seen = wakes;
                self.polls += 1;
                if bell.poll(task).is_some() {
                    *place = None;
                }
            }
        }
        self.tasks.iter().filter(|(task, ..)| task.is_some()).count()
    }
}
