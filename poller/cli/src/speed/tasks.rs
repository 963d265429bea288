//! One submitting thread whose contexts are futures: a task for each, and a small executor for all of them.
//!
//! ```text
//!   task:  fill -- run(request).await -- check --+        woken (poll thread) --> inbox, unpark
//!            ^                                   |        executor: inbox --> poll the task
//!            +-----------------------------------+
//! ```

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use ringbell::clock::ticks;
use ringbell::{Device, Request, TaskCtx};

use super::work::{self, Job, Key, Pool};
use super::worker::{Inbox, Outcome, PATIENCE};
use super::{Counts, histogram};
use crate::error::Result;

/// One submitting thread.
pub(super) struct TaskWorker {
    slots: Vec<(TaskCtx, Job, Request)>,
    budget: u64,
    pool: Arc<Pool>,
    key: Key,
    result: Outcome,
}

/// What the tasks of a worker share.
struct Shared<'a> {
    stop: &'a AtomicBool,
    /// Requests that may still be submitted.
    budget: Cell<u64>,
    in_flight: Cell<u64>,
    last_delivery: Cell<Instant>,
    pool: &'a Pool,
    key: &'a Key,
    result: RefCell<&'a mut Outcome>,
}

/// The waker of a task: puts its number where the executor looks.
struct TaskWaker {
    number: u32,
    scheduled: AtomicBool,
    inbox: Arc<Inbox>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        // Once in the inbox is enough, and all that there is room for.
        if !self.scheduled.swap(true, Ordering::AcqRel) {
            self.inbox.deliver(self.number);
        }
    }
}

impl TaskWorker {
    /// A worker for these jobs, with its contexts and requests.
    pub(super) fn new(
        device: &Device,
        key: &Key,
        pool: &Arc<Pool>,
        jobs: Vec<Job>,
        budget: u64,
    ) -> Result<Self> {
        let slot = |job: Job| Ok((TaskCtx::new(device), work::request(key, &job, pool)?, job));
        let slots = jobs.into_iter().map(slot).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            slots: slots.into_iter().map(|(ctx, request, job)| (ctx, job, request)).collect(),
            budget,
            pool: Arc::clone(pool),
            key: key.clone(),
            result: Outcome {
                counts: Counts::default(),
                latency: histogram()?,
                end: Instant::now(),
                first_error: None,
                stopped_by: None,
            },
        })
    }

    /// Keeps everything in flight until `stop` or the end of the budget, then waits for the rest.
    pub(super) fn run(self, stop: &AtomicBool) -> Outcome {
        let Self { slots, budget, pool, key, mut result } = self;
        let inbox = Arc::new(Inbox::new(slots.len()));
        inbox.is_of_this_thread();
        let shared = Shared {
            stop,
            budget: Cell::new(budget),
            in_flight: Cell::new(0),
            last_delivery: Cell::new(Instant::now()),
            pool: &pool,
            key: &key,
            result: RefCell::new(&mut result),
        };
        let mut live = slots.len();
        let mut tasks = Vec::with_capacity(live);
        for (number, (ctx, job, request)) in (0..).zip(slots) {
            let wake =
                Arc::new(TaskWaker { number, scheduled: AtomicBool::new(false), inbox: Arc::clone(&inbox) });
            let waker = Waker::from(Arc::clone(&wake));
            // The first poll of all.
            wake.wake_by_ref();
            let task: Pin<Box<dyn Future<Output = ()> + '_>> = Box::pin(task(&shared, ctx, job, request));
            tasks.push(Some((task, wake, waker)));
        }
        let mut told = false;
        while live > 0 {
            if !told && shared.is_over() {
                told = true;
                tasks.iter().flatten().for_each(|(_, wake, _)| wake.wake_by_ref());
            }
            let Some(number) = inbox.pop() else {
                if shared.last_delivery.get().elapsed() > PATIENCE {
                    shared.give_up();
                    break;
                }
                inbox.sleep();
                continue;
            };
            let Some(place) = tasks.get_mut(number as usize) else { continue };
            let Some((task, wake, waker)) = place else { continue };
            // Before the poll: what wakes it from now on wants another one.
            wake.scheduled.swap(false, Ordering::AcqRel);
            if task.as_mut().poll(&mut Context::from_waker(waker)).is_ready() {
                *place = None;
                live -= 1;
            }
        }
        drop(tasks);
        let end = shared.last_delivery.get();
        result.end = end;
        result
    }
}

impl Shared<'_> {
    /// Whether one more request is to be submitted.
    fn goes_on(&self) -> bool {
        let left = self.budget.get();
        let goes_on = left > 0 && !self.is_over();
        if goes_on {
            self.budget.set(left - 1);
        }
        goes_on
    }

    /// Whether the run is over, whatever is left of the budget.
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
            || self.result.try_borrow().is_ok_and(|result| result.stopped_by.is_some())
    }

    /// What is in flight was not delivered, or found no room, for too long.
    fn give_up(&self) {
        let lost = self.in_flight.get();
        if let Ok(mut result) = self.result.try_borrow_mut() {
            let why = format!("{lost} requests were not delivered in {PATIENCE:?}");
            result.stopped_by.get_or_insert(why);
        }
    }
}

/// Runs the requests of one context, one after another.
async fn task(shared: &Shared<'_>, mut ctx: TaskCtx, mut job: Job, mut request: Request) {
    while shared.goes_on() {
        job.fill(shared.pool, &mut request);
        let started = ticks();
        shared.in_flight.set(shared.in_flight.get() + 1);
        let outcome = {
            let mut running = pin!(ctx.run(request));
            poll_fn(|cx| match running.as_mut().poll(cx) {
                Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                // At the end of the run nobody waits for room any more.
                Poll::Pending if shared.is_over() && !running.is_in_flight() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            })
            .await
        };
        let now = ticks();
        shared.in_flight.set(shared.in_flight.get() - 1);
        if outcome.is_some() {
            shared.last_delivery.set(Instant::now());
        }
        let Ok(mut result) = shared.result.try_borrow_mut() else { return };
        let completion = match outcome {
            None => return,
            Some(Ok(completion)) => completion,
            Some(Err(unfinished)) => {
                result.stopped_by.get_or_insert_with(|| unfinished.to_string());
                return;
            }
        };
        result.counts.submitted += 1;
        result.counts.callbacks += 1;
        // Other threads' ticks may be a little behind.
        result.latency.saturating_record(now.saturating_sub(started).max(1));
        result.look_at(&mut job, shared.pool, &completion);
        request = completion.into_request();
        if request.input().is_empty() {
            // Its buffers are with the device still.
            match work::request(shared.key, &job, shared.pool) {
                Ok(new) => request = new,
                Err(_) => return,
            }
        }
    }
}
