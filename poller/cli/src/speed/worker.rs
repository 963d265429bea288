//! One submitting thread: its contexts, their deliveries, its bursts.
//!
//! ```text
//!   ready ---- burst ----> in flight ---- callback: inbox, unpark ----> collected
//!     ^                               \-- wait fd: epoll        ---/        |
//!     +------------------ checked, filled again, other variant ------------+
//! ```

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use hdrhistogram::Histogram;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use ringbell::clock::ticks;
use ringbell::{Completion, Delivery, Device, OwnedQueue, Refused, Request, Status, WaitCtx};

use super::work::{self, Job, Key, Pool};
use super::{Counts, Plan, histogram};
use crate::cli::Wake;
use crate::error::{Error, Result};

/// No delivery for so long means that one was lost: every request has a deadline far below.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Longest sleep before a look at whether the run is over.
const NAP: Duration = Duration::from_millis(100);
/// Looks at the inbox before the worker sleeps.
const SPINS: u32 = 200;

/// Where callbacks put deliveries: the number of the context and the tick of the delivery.
pub(super) struct Inbox {
    deliveries: ArrayQueue<(u32, u64)>,
    count: CachePadded<AtomicU64>,
    asleep: CachePadded<AtomicBool>,
    thread: OnceLock<Thread>,
}

impl Inbox {
    /// For so many contexts.
    pub(super) fn new(contexts: usize) -> Self {
        Self {
            deliveries: ArrayQueue::new(contexts),
            count: CachePadded::new(AtomicU64::new(0)),
            asleep: CachePadded::new(AtomicBool::new(false)),
            thread: OnceLock::new(),
        }
    }

    /// This thread is the one that sleeps.
    pub(super) fn is_of_this_thread(&self) {
        let _ = self.thread.set(std::thread::current());
    }

    /// The number of a context that has a delivery.
    pub(super) fn pop(&self) -> Option<u32> {
        self.deliveries.pop().map(|(number, _)| number)
    }

    /// On the poll thread: small, never blocks.
    pub(super) fn deliver(&self, number: u32) {
        self.count.fetch_add(1, Ordering::Relaxed);
        // It has room for every context, and each has one request at a time.
        let _ = self.deliveries.push((number, ticks()));
        self.wake();
    }

    fn wake(&self) {
        // First the delivery, then the look; the worker raises the flag first, then looks (sleep).
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed)
            && self.asleep.swap(false, Ordering::Relaxed)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Sleeps until a delivery or [`wake`](Self::wake), or a nap long.
    pub(super) fn sleep(&self) {
        for _ in 0..SPINS {
            if !self.deliveries.is_empty() {
                return;
            }
            std::hint::spin_loop();
        }
        self.asleep.store(true, Ordering::Relaxed);
        // See wake.
        fence(Ordering::SeqCst);
        if self.deliveries.is_empty() {
            std::thread::park_timeout(NAP);
        }
        self.asleep.store(false, Ordering::Relaxed);
    }
}

/// How a worker learns of deliveries.
enum Source {
    Callbacks,
    Fds { epoll: Epoll, events: Vec<EpollEvent> },
}

/// Where a worker submits.
enum Lane {
    /// A queue of its own: bursts without a lock.
    Owned(OwnedQueue),
    /// The queues that all share.
    Shared,
}

struct Slot {
    ctx: WaitCtx,
    job: Job,
    /// Tick of the submission.
    started: u64,
}

/// One submitting thread.
pub(super) struct Worker {
    slots: Vec<Slot>,
    /// Requests that wait to be submitted, filled.
    ready: Vec<(u32, Request)>,
    in_flight: usize,
    /// Requests that may still be accepted.
    budget: u64,
    lane: Lane,
    source: Source,
    inbox: Arc<Inbox>,
    pool: Arc<Pool>,
    key: Key,
    /// Deliveries collected and not looked at: context, tick.
    batch: Vec<(u32, u64)>,
    result: Outcome,
}

/// What a worker brings back.
pub(super) struct Outcome {
    pub(super) counts: Counts,
    /// In ticks.
    pub(super) latency: Histogram<u64>,
    /// When the last delivery was looked at.
    pub(super) end: Instant,
    /// Why the first request failed.
    pub(super) first_error: Option<String>,
    /// Why it could not go on.
    pub(super) stopped_by: Option<String>,
}

impl Outcome {
    /// Counts and checks one.
    pub(super) fn look_at(&mut self, job: &mut Job, pool: &Pool, completion: &Completion) {
        let counts = &mut self.counts;
        match completion.result() {
            Ok(_) => {
                counts.completed += 1;
                if pool.checked() {
                    counts.verified += 1;
                    counts.mismatches += u64::from(!job.verify(pool, completion));
                }
            }
            Err(fault) => {
                counts.errors += 1;
                self.first_error.get_or_insert_with(|| fault.to_string());
            }
        }
    }
}

impl Worker {
    /// A worker for these jobs, with its contexts and requests.
    pub(super) fn new(
        plan: &Plan,
        device: &Device,
        key: &Key,
        pool: &Arc<Pool>,
        jobs: Vec<Job>,
        budget: u64,
        owned: bool,
    ) -> Result<Self> {
        let inbox = Arc::new(Inbox::new(jobs.len()));
        let epoll = |e: nix::Error| Error::failed("wait by fds", e.desc());
        let source = match plan.wake {
            // Futures have a worker of their own.
            Wake::Callback | Wake::Future => Source::Callbacks,
            Wake::Fd => Source::Fds {
                epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(epoll)?,
                events: vec![EpollEvent::empty(); jobs.len()],
            },
        };
        let mut slots = Vec::with_capacity(jobs.len());
        let mut ready = Vec::with_capacity(jobs.len());
        for (number, job) in (0..).zip(jobs) {
            let ctx = match &source {
                Source::Callbacks => {
                    let inbox = Arc::clone(&inbox);
                    WaitCtx::with_callback(move |_: &Delivery<'_>| inbox.deliver(number))
                }
                Source::Fds { epoll: watched, .. } => {
                    let ctx = WaitCtx::with_fd().map_err(|e| Error::library("make a wait fd", e))?;
                    if let Some(fd) = ctx.fd() {
                        watched
                            .add(fd.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, u64::from(number)))
                            .map_err(epoll)?;
                    }
                    ctx
                }
            };
            let mut request = work::request(key, &job, pool)?;
            job.fill(pool, &mut request);
            ready.push((number, request));
            slots.push(Slot { ctx, job, started: 0 });
        }
        let lane = if owned {
            Lane::Owned(device.owned_queue().map_err(|e| Error::library("take a queue", e))?)
        } else {
            Lane::Shared
        };
        let latency = histogram()?;
        Ok(Self {
            batch: Vec::with_capacity(slots.len()),
            slots,
            ready,
            in_flight: 0,
            budget,
            lane,
            source,
            inbox,
            pool: Arc::clone(pool),
            key: key.clone(),
            result: Outcome {
                counts: Counts::default(),
                latency,
                end: Instant::now(),
                first_error: None,
                stopped_by: None,
            },
        })
    }

    /// Keeps everything in flight until `stop` or the end of the budget, then waits for the rest.
    pub(super) fn run(mut self, stop: &AtomicBool) -> Outcome {
        self.inbox.is_of_this_thread();
        let mut last_delivery = Instant::now();
        loop {
            let over = stop.load(Ordering::Relaxed) || self.result.stopped_by.is_some() || self.budget == 0;
            if !over {
                self.submit(stop);
            }
            if self.in_flight == 0 {
                let over = stop.load(Ordering::Relaxed) || self.result.stopped_by.is_some();
                if over || self.budget == 0 || self.ready.is_empty() {
                    break;
                }
                continue;
            }
            self.collect();
            if !self.batch.is_empty() {
                self.look_at_batch();
                last_delivery = Instant::now();
            } else if last_delivery.elapsed() > PATIENCE {
                let lost = format!("{} requests were not delivered in {PATIENCE:?}", self.in_flight);
                self.result.stopped_by.get_or_insert(lost);
                break;
            }
        }
        if matches!(self.source, Source::Callbacks) {
            self.result.counts.callbacks = self.inbox.count.load(Ordering::Acquire);
        }
        self.result.end = last_delivery;
        self.result
    }

    /// Submits what is ready. With nothing in flight there will be no delivery to try again after,
    /// so then it waits for room.
    fn submit(&mut self, stop: &AtomicBool) {
        self.burst();
        let start = Instant::now();
        while self.in_flight == 0 && !self.ready.is_empty() && self.result.stopped_by.is_none() {
            let room = Arc::new(AtomicBool::new(false));
            let (flag, thread) = (Arc::clone(&room), std::thread::current());
            self.key.device().on_room(move || {
                flag.store(true, Ordering::Release);
                thread.unpark();
            });
            self.burst();
            while self.in_flight == 0 && self.result.stopped_by.is_none() && !room.load(Ordering::Acquire) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::park_timeout(NAP);
            }
            if start.elapsed() > PATIENCE {
                let why = format!("there was no room for a request in {PATIENCE:?}");
                self.result.stopped_by.get_or_insert(why);
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// One burst of all that is ready, until the first that is refused.
    fn burst(&mut self) {
        let Self { slots, ready, lane, budget, in_flight, result, .. } = self;
        let most = usize::try_from(*budget).unwrap_or(usize::MAX).min(ready.len());
        let first = ready.len() - most;
        let mut one =
            |number: u32,
             request: Request,
             submit: &mut dyn FnMut(Request, &WaitCtx) -> Result<(), Refused>| {
                let slot = &mut slots[number as usize];
                slot.started = ticks();
                match submit(request, &slot.ctx) {
                    Ok(()) => {
                        result.counts.submitted += 1;
                        *budget -= 1;
                        *in_flight += 1;
                        None
                    }
                    Err(refused) => {
                        if refused.status() == Status::Eagain {
                            result.counts.eagain += 1;
                        } else {
                            result.stopped_by.get_or_insert_with(|| refused.to_string());
                        }
                        Some((number, refused.into_request()))
                    }
                }
            };
        let mut back = None;
        match lane {
            Lane::Owned(queue) => queue.burst(|burst| {
                while back.is_none() && ready.len() > first {
                    let Some((number, request)) = ready.pop() else { break };
                    back = one(number, request, &mut |request, ctx| burst.submit(request, ctx));
                }
            }),
            Lane::Shared => {
                while back.is_none() && ready.len() > first {
                    let Some((number, request)) = ready.pop() else { break };
                    back = one(number, request, &mut |request, ctx| request.submit(ctx));
                }
            }
        }
        ready.extend(back);
    }

    /// Waits for deliveries and puts them in the batch; now and then there is none.
    fn collect(&mut self) {
        match &mut self.source {
            Source::Callbacks => {
                if self.inbox.deliveries.is_empty() {
                    self.inbox.sleep();
                }
                while let Some(delivery) = self.inbox.deliveries.pop() {
                    self.batch.push(delivery);
                    if self.batch.len() == self.batch.capacity() {
                        break;
                    }
                }
            }
            Source::Fds { epoll, events } => {
                let nap = EpollTimeout::try_from(NAP).unwrap_or(EpollTimeout::NONE);
                let count = epoll.wait(events, nap).unwrap_or(0);
                let now = ticks();
                self.batch.extend(events.iter().take(count).map(|event| (event.data() as u32, now)));
            }
        }
    }

    /// Takes, checks and fills again what was delivered.
    fn look_at_batch(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        for (number, tick) in batch.drain(..) {
            let slot = &mut self.slots[number as usize];
            let completion = match self.source {
                Source::Callbacks => slot.ctx.take(),
                Source::Fds { .. } => slot.ctx.take_ready(),
            };
            let Some(completion) = completion else { continue };
            if matches!(self.source, Source::Fds { .. }) {
                self.result.counts.callbacks += 1;
            }
            self.in_flight -= 1;
            // Other threads' ticks may be a little behind.
            self.result.latency.saturating_record(tick.saturating_sub(slot.started).max(1));
            if let Some(request) = self.look_at(number, completion) {
                self.ready.push((number, request));
            }
        }
        self.batch = batch;
    }

    /// Counts and checks one; its request again, filled, unless there is no memory for it any more.
    fn look_at(&mut self, number: u32, completion: Completion) -> Option<Request> {
        let slot = &mut self.slots[number as usize];
        self.result.look_at(&mut slot.job, &self.pool, &completion);
        let mut request = completion.into_request();
        if request.input().is_empty() {
            // Its buffers are with the device still.
            request = work::request(&self.key, &slot.job, &self.pool).ok()?;
        }
        slot.job.fill(&self.pool, &mut request);
        Some(request)
    }
}
