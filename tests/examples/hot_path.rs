//! The hot path alone, for counting: bursts of 64-byte AES-128-CBC requests on a device that does no
//! arithmetic and is stepped in between (not counted). What is counted has two parts: `in`, which submits
//! (and polls the tasks until they pend), and `out`, which drains (and polls the tasks that were woken).
//!
//! | mode | requests are | completions come |
//! |---|---|---|
//! | `callback` | submitted to an owned queue in a burst | by callback |
//! | `future` | the same | to tasks that await them |
//! | `set` | the same | to one task that awaits all of them |
//! | `shared-callback` | submitted to the shared queue one by one | by callback |
//! | `shared-future` | run by tasks, each of which does it again and again | to those tasks |
//!
//! ```text
//! cargo run --release -p ringbell-tests --example hot_path -- [BURST] [ROUNDS] [MODE]
//! valgrind --tool=callgrind --toggle-collect='hot_path::callback_in' ... (see tests/instructions)
//! ```

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_core::Stream;
use ringbell::clock::ticks;
use ringbell::sim::Sim;
use ringbell::{
    Cipher, CipherKey, Device, DeviceOptions, Ended, ManualPoller, OwnedQueue, PollerConfig, Request,
    RequestSet, TaskCtx, WaitCtx,
};

thread_local! {
    static DONE: RefCell<Vec<Request>> = const { RefCell::new(Vec::new()) };
}

// ---- callbacks ----

/// One burst: every request with its context.
#[inline(never)]
fn callback_in(queue: &mut OwnedQueue, requests: &mut Vec<Request>, contexts: &[WaitCtx]) {
    queue.burst(|burst| {
        for ctx in contexts {
            if let Some(request) = requests.pop() {
                burst.submit(request, ctx).expect("the ring has room");
            }
        }
    });
}

/// One by one.
#[inline(never)]
fn shared_callback_in(requests: &mut Vec<Request>, contexts: &[WaitCtx]) {
    for ctx in contexts {
        if let Some(request) = requests.pop() {
            request.submit(ctx).expect("the ring has room");
        }
    }
}

/// The callbacks run in here; each moves its request out.
#[inline(never)]
fn callback_out(poller: &mut ManualPoller) -> usize {
    poller.poll()
}

/// The same, but for what the optimizer would make one function of.
#[inline(never)]
fn shared_callback_out(poller: &mut ManualPoller) -> usize {
    std::hint::black_box(poller.poll())
}

fn callbacks(burst: usize) -> Vec<WaitCtx> {
    let context = |_| {
        WaitCtx::with_callback(|delivery| {
            if let Some(completion) = delivery.take() {
                DONE.with_borrow_mut(|list| list.push(completion.into_request()));
            }
        })
    };
    (0..burst).map(context).collect()
}

// ---- tasks ----

/// A task that is to be polled.
struct Ready(AtomicBool);

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// Who is ready, and how a task's executor is told; one for each task.
struct Wakers(Vec<(Arc<Ready>, Waker)>);

impl Wakers {
    fn new(tasks: usize) -> Self {
        let one = |_| {
            let ready = Arc::new(Ready(AtomicBool::new(true)));
            (Arc::clone(&ready), Waker::from(ready))
        };
        Self((0..tasks).map(one).collect())
    }

    /// All of a small executor: looks at every task and polls those that were woken.
    fn poll<F: Future + Unpin>(&self, tasks: &mut [F], mut ended: impl FnMut(F::Output)) {
        for (task, (ready, waker)) in tasks.iter_mut().zip(&self.0) {
            if ready.0.load(Ordering::Relaxed) && ready.0.swap(false, Ordering::Acquire) {
                let context = &mut Context::from_waker(waker);
                if let Poll::Ready(output) = Pin::new(task).poll(context) {
                    ended(output);
                }
            }
        }
    }

    fn wake_all(&self) {
        self.0.iter().for_each(|(ready, _)| ready.0.store(true, Ordering::Release));
    }
}

/// One burst; then each task asks for the end of its request, and pends.
#[inline(never)]
fn future_in<'a>(
    queue: &mut OwnedQueue,
    requests: &mut Vec<Request>,
    contexts: &'a mut [TaskCtx],
    tasks: &mut Vec<Ended<'a>>,
    wakers: &Wakers,
) {
    queue.burst(|burst| {
        for ctx in &*contexts {
            if let Some(request) = requests.pop() {
                burst.submit(request, ctx).expect("the ring has room");
            }
        }
    });
    tasks.extend(contexts.iter_mut().map(TaskCtx::ended));
    wakers.poll(tasks, |_| unreachable!("the device has not answered"));
}

/// The drain wakes the tasks; each moves its request out.
#[inline(never)]
fn future_out(poller: &mut ManualPoller, tasks: &mut [Ended<'_>], wakers: &Wakers) -> usize {
    let count = poller.poll();
    wakers.poll(tasks, |completion| {
        let completion = completion.expect("a completion");
        DONE.with_borrow_mut(|list| list.push(completion.into_request()));
    });
    count
}

/// One burst into a set; then its task asks for the next end, and pends.
#[inline(never)]
fn set_in(queue: &mut OwnedQueue, requests: &mut Vec<Request>, set: &mut RequestSet, waker: &Waker) {
    queue.burst(|burst| {
        while let Some(request) = requests.pop() {
            set.push_in(burst, 0, request).expect("the ring and the set have room");
        }
    });
    let next = Pin::new(set).poll_next(&mut Context::from_waker(waker));
    assert!(next.is_pending(), "the device has not answered");
}

/// The drain wakes the task, which takes all that has ended.
#[inline(never)]
fn set_out(
    poller: &mut ManualPoller,
    requests: &mut Vec<Request>,
    set: &mut RequestSet,
    (ready, waker): &(Arc<Ready>, Waker),
) -> usize {
    let count = poller.poll();
    if ready.0.swap(false, Ordering::Acquire) {
        let context = &mut Context::from_waker(waker);
        while let Poll::Ready(Some((_, completion))) = Pin::new(&mut *set).poll_next(context) {
            requests.push(completion.into_request());
        }
    }
    count
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A task that runs a request again and again.
async fn run(mut ctx: TaskCtx, mut request: Request) {
    loop {
        let completion = ctx.run(request).await.expect("accepted");
        assert!(completion.result().is_ok());
        request = completion.into_request();
    }
}

/// The first poll of each task submits.
#[inline(never)]
fn shared_future_in(tasks: &mut [Task], wakers: &Wakers) {
    wakers.poll(tasks, |()| ());
}

/// The drain wakes the tasks. Each that is polled takes its completion and submits again, so this is all
/// that a request costs.
#[inline(never)]
fn shared_future_out(poller: &mut ManualPoller, tasks: &mut [Task], wakers: &Wakers) -> usize {
    let count = poller.poll();
    wakers.poll(tasks, |()| ());
    count
}

// ---- the run ----

/// Ticks of all rounds.
struct Ticks {
    burst: usize,
    parts: [Vec<u64>; 2],
}

impl Ticks {
    fn add(&mut self, part: usize, since: u64) {
        self.parts[part].push(ticks() - since);
    }

    fn print(&mut self) {
        let burst = self.burst as f64;
        for (name, list) in ["in", "out"].iter().zip(&mut self.parts) {
            list.sort_unstable();
            let at = |at: f64| list.get((list.len() as f64 * at) as usize).map_or(0.0, |t| *t as f64 / burst);
            println!("{name}: {:.1} ticks an operation (p10 {:.1}, p90 {:.1})", at(0.5), at(0.1), at(0.9));
        }
    }
}

fn main() {
    let argument = |index: usize| std::env::args().nth(index);
    let number = |index, default| argument(index).map_or(default, |text| text.parse().expect("a number"));
    let (burst, rounds) = (number(1, 32), number(2, 200_000));
    let mode = argument(3).unwrap_or_else(|| "callback".to_owned());
    let sim = Sim::stepped("compute=none".parse().expect("options")).expect("a simulator");
    let device = Device::from_function(sim.function(), &DeviceOptions::default()).expect("a device");
    // Under callgrind every callback is slow.
    let config = PollerConfig { slow_callback: std::time::Duration::from_secs(1), ..Default::default() };
    let mut poller = ManualPoller::new([&device], config).expect("a poller");
    let key = device.cipher_key(Cipher::Aes128Cbc, &[7; 16]).expect("a key");
    key.prepare().expect("a session");
    DONE.with_borrow_mut(|list| list.reserve(burst));
    let mut took = Ticks { burst, parts: [Vec::with_capacity(rounds), Vec::with_capacity(rounds)] };
    let step = || while sim.step() > 0 {};
    let request = |key: &CipherKey| key.encrypt(&[0; 16], device.buffer(64).expect("memory"));
    let mut requests: Vec<Request> = (0..burst).map(|_| request(&key)).collect();
    let wakers = Wakers::new(burst);
    match mode.as_str() {
        "callback" | "shared-callback" => {
            let contexts = callbacks(burst);
            let mut queue = (mode == "callback").then(|| device.owned_queue().expect("a queue"));
            for _ in 0..rounds {
                let begin = ticks();
                match &mut queue {
                    Some(queue) => callback_in(queue, &mut requests, &contexts),
                    None => shared_callback_in(&mut requests, &contexts),
                }
                took.add(0, begin);
                step();
                let begin = ticks();
                let mut done = match queue {
                    Some(_) => callback_out(&mut poller),
                    None => shared_callback_out(&mut poller),
                };
                took.add(1, begin);
                while done < burst {
                    done += poller.poll();
                }
                DONE.with_borrow_mut(|list| requests.append(list));
            }
        }
        "future" => {
            let mut contexts: Vec<TaskCtx> = (0..burst).map(|_| TaskCtx::new(&device)).collect();
            let mut queue = device.owned_queue().expect("a queue");
            for _ in 0..rounds {
                let mut tasks = Vec::with_capacity(burst);
                wakers.wake_all();
                let begin = ticks();
                future_in(&mut queue, &mut requests, &mut contexts, &mut tasks, &wakers);
                took.add(0, begin);
                step();
                let begin = ticks();
                let mut done = future_out(&mut poller, &mut tasks, &wakers);
                took.add(1, begin);
                while done < burst {
                    done += future_out(&mut poller, &mut tasks, &wakers);
                }
                DONE.with_borrow_mut(|list| requests.append(list));
            }
        }
        "set" => {
            let mut set = RequestSet::new(&device, burst).expect("a set");
            let mut queue = device.owned_queue().expect("a queue");
            for _ in 0..rounds {
                let begin = ticks();
                set_in(&mut queue, &mut requests, &mut set, &wakers.0[0].1);
                took.add(0, begin);
                step();
                let begin = ticks();
                let mut done = set_out(&mut poller, &mut requests, &mut set, &wakers.0[0]);
                took.add(1, begin);
                while done < burst {
                    done += set_out(&mut poller, &mut requests, &mut set, &wakers.0[0]);
                }
            }
        }
        "shared-future" => {
            let task = |request| -> Task { Box::pin(run(TaskCtx::new(&device), request)) };
            let mut tasks: Vec<Task> = requests.drain(..).map(task).collect();
            shared_future_in(&mut tasks, &wakers);
            for _ in 1..rounds {
                step();
                let begin = ticks();
                let mut done = shared_future_out(&mut poller, &mut tasks, &wakers);
                took.add(1, begin);
                while done < burst {
                    done += shared_future_out(&mut poller, &mut tasks, &wakers);
                }
            }
            step();
            while poller.poll() > 0 {}
        }
        other => panic!("there is no mode {other}"),
    }
    took.print();
    let stats = device.stats();
    assert_eq!(stats.accepted, (burst * rounds) as u64);
    assert_eq!(stats.completed, stats.accepted);
}
