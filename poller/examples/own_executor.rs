//! Futures on an executor written by hand: Ringbell needs nothing of one but a waker.
//!
//! ```text
//! cargo run -p ringbell --example own_executor -- [DEVICE] [TASKS] [REQUESTS]
//! ```
//!
//! The executor has a list of tasks and a queue of those that were woken. The poll thread of Ringbell puts a
//! task's number into the queue and unparks the executor's thread.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};
use std::thread::Thread;

use ringbell::{Cipher, CipherKey, Device, Poller, TaskCtx};

/// The numbers of the tasks that are to be polled.
struct Ready {
    queue: Mutex<VecDeque<usize>>,
    thread: Thread,
}

/// The waker of one task.
struct TaskWaker {
    number: usize,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    /// On Ringbell's poll thread, so it is small and does not block (the lock is held for a few
    /// instructions).
    fn wake(self: Arc<Self>) {
        self.ready.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.number);
        self.ready.thread.unpark();
    }
}

/// Runs all tasks to their ends on this thread.
fn run<'a>(tasks: impl Iterator<Item = Pin<Box<dyn Future<Output = ()> + 'a>>>) {
    let ready = Arc::new(Ready { queue: Mutex::default(), thread: std::thread::current() });
    let mut tasks: Vec<_> = tasks
        .enumerate()
        .map(|(number, task)| {
            let waker = Arc::new(TaskWaker { number, ready: Arc::clone(&ready) });
            // Each is polled once to begin with.
            Arc::clone(&waker).wake();
            Some((task, Waker::from(waker)))
        })
        .collect();
    let mut left = tasks.len();
    while left > 0 {
        let next = ready.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(number) = next else {
            // An unpark that came since the look at the queue makes this return at once.
            std::thread::park();
            continue;
        };
        if let Some(place) = tasks.get_mut(number)
            && let Some((task, waker)) = place
            && task.as_mut().poll(&mut Context::from_waker(waker)).is_ready()
        {
            *place = None;
            left -= 1;
        }
    }
}

/// Encrypts `count` times, one after another.
async fn work(key: &CipherKey, count: u32) -> ringbell::Result<u64> {
    let device = key.device();
    // The context is used again and again: nothing is allocated for an operation.
    let mut ctx = TaskCtx::new(device);
    let mut request = key.encrypt(&[0; 16], device.buffer_from(&[7; 1024])?);
    let mut answered = 0;
    for _ in 0..count {
        // Without room (EAGAIN) this waits for room; it is an error only where the request never can be done.
        let done = ctx.run(request).await?;
        answered += u64::from(done.result().is_ok());
        request = done.into_request();
    }
    Ok(answered)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "sim:queue-size=16".to_owned());
    let tasks: u32 = arguments.next().as_deref().unwrap_or("100").parse()?;
    let count: u32 = arguments.next().as_deref().unwrap_or("100").parse()?;

    let device = Device::open(&address)?;
    let poller = Poller::spawn(&device, Default::default())?;
    let key = device.cipher_key(Cipher::Aes128Cbc, &[0x2b; 16])?;

    let (answered, failed) = (Cell::new(0), Cell::new(0));
    run((0..tasks).map(|_| -> Pin<Box<dyn Future<Output = ()> + '_>> {
        Box::pin(async {
            match work(&key, count).await {
                Ok(number) => answered.set(answered.get() + number),
                Err(error) => {
                    eprintln!("{error}");
                    failed.set(failed.get() + 1);
                }
            }
        })
    }));
    println!("{} requests by {tasks} tasks on one thread", answered.get());
    poller.shutdown();
    if failed.get() == 0 { Ok(()) } else { Err("some tasks failed".into()) }
}
