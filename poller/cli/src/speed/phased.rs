//! One size, in phases: a burst is submitted, the device is left alone until it has finished, the
//! burst is drained. What enqueue and dequeue cost the processor is then measured without the
//! device's, and without a second thread's cache traffic.
//!
//! ```text
//!   ticks |--- enqueue: one burst ---|   device   |--- dequeue: poll, callbacks ---|   checks
//! ```
//!
//! A `sim:` device is stepped by hand between the two; others are waited for.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use ringbell::clock::ticks;
use ringbell::sim::Sim;
use ringbell::{
    Completion, Delivery, Device, ManualPoller, OwnedQueue, PollerConfig, Request, Status, WaitCtx,
};

use super::work::{self, Job, Pool};
use super::{Counts, Cycles, Fate, Interrupt, Limit, Measured, Plan, Progress, histogram};
use crate::error::{Error, Result};

/// Operations of a chunk: one figure of the median is the mean over so many.
const CHUNK: u64 = 2048;
/// How long a device may take for a burst.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the callbacks have taken. They all run on this thread, inside of the poll, so that what they
/// cost is a store into a place of the thread's own: an atomic exchange would be a quarter of all that
/// is measured.
#[derive(Default)]
struct Taken {
    /// The context's number, and what was in it.
    completions: Vec<(u32, Option<Completion>)>,
    deliveries: u64,
}

thread_local! {
    static TAKEN: RefCell<Taken> = RefCell::default();
}

fn deliveries() -> u64 {
    TAKEN.with_borrow(|taken| taken.deliveries)
}

struct Slot {
    ctx: WaitCtx,
    job: Job,
}

/// Measures one size.
pub(super) fn measure(plan: &Plan, interrupt: &Interrupt) -> Result<Measured> {
    if let Some(core) = plan.core {
        pin(core)?;
    }
    let (sim, device) = open(plan)?;
    let config = PollerConfig {
        budget: plan.in_flight.max(256),
        slow_callback: Duration::from_millis(50),
        ..Default::default()
    };
    let poller = ManualPoller::new(std::slice::from_ref(&device), config)
        .map_err(|e| Error::library("make a poller", e))?;
    let queue = device.owned_queue().map_err(|e| Error::library("take a queue", e))?;
    let key = work::key(plan, &device)?;
    let (pool, jobs) = Pool::new(plan)?;
    TAKEN.set(Taken { completions: Vec::with_capacity(plan.in_flight), deliveries: 0 });
    let mut slots = Vec::with_capacity(plan.in_flight);
    let mut requests = Vec::with_capacity(plan.in_flight);
    for (number, job) in (0..).zip(jobs) {
        let ctx = WaitCtx::with_callback(move |delivery: &Delivery<'_>| {
            TAKEN.with_borrow_mut(|taken| {
                taken.deliveries += 1;
                taken.completions.push((number, delivery.take()));
            });
        });
        let mut request = work::request(&key, &job, &pool)?;
        job.fill(&pool, &mut request);
        requests.push(Some(request));
        slots.push(Slot { ctx, job });
    }
    let latency = histogram()?;
    let run = Run {
        sim,
        poller,
        queue,
        work: Work { pool, slots, requests, counts: Counts::default(), first_error: None },
        latency,
        stopped_by: None,
        chunks: Chunks::default(),
    };
    run.go(plan, interrupt, &device)
}

fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).map_err(|e| {
        Error::failed(format!("pin the thread to core {core}"), format!("{}; see taskset -pc $$", e.desc()))
    })
}

/// The device, and where it is one of ours: its simulator, to be stepped.
fn open(plan: &Plan) -> Result<(Option<Sim>, Device)> {
    let attempted = format!("open device {}", plan.device.text);
    let options = work::options(plan);
    let Some(config) = &plan.device.sim else {
        let device = Device::open_with(&plan.device.text, &options);
        return Ok((None, device.map_err(|e| Error::library(&attempted, e))?));
    };
    let sim = Sim::stepped(config.clone()).map_err(|e| Error::failed(&*attempted, e))?;
    let device =
        Device::from_function(sim.function(), &options).map_err(|e| Error::library(&attempted, e))?;
    Ok((Some(sim), device))
}

/// The contexts and requests, and what came of them.
struct Work {
    pool: Pool,
    slots: Vec<Slot>,
    requests: Vec<Option<Request>>,
    counts: Counts,
    first_error: Option<String>,
}

struct Run {
    sim: Option<Sim>,
    poller: ManualPoller,
    queue: OwnedQueue,
    work: Work,
    latency: Histogram<u64>,
    stopped_by: Option<String>,
    chunks: Chunks,
}

impl Run {
    fn go(mut self, plan: &Plan, interrupt: &Interrupt, device: &Device) -> Result<Measured> {
        let progress = Progress::new(plan);
        let (start, first_tick) = (Instant::now(), ticks());
        let mut interrupted = false;
        let mut looked_at = start;
        loop {
            let burst = match plan.limit {
                Limit::Time(_) => self.work.slots.len(),
                Limit::Ops(ops) => usize::try_from(ops - self.work.counts.submitted)
                    .map_or(self.work.slots.len(), |left| left.min(self.work.slots.len())),
            };
            if burst == 0 || self.stopped_by.is_some() {
                break;
            }
            self.burst(burst);
            let now = Instant::now();
            if matches!(plan.limit, Limit::Time(time) if now - start >= time) {
                break;
            }
            if now - looked_at > Duration::from_millis(100) {
                looked_at = now;
                progress.tick(now - start, plan.limit);
                if interrupt.came() {
                    interrupted = true;
                    break;
                }
            }
        }
        let elapsed = start.elapsed();
        let ticks_per_second = ticks().wrapping_sub(first_tick) as f64 / elapsed.as_secs_f64();
        drop(progress);
        let fate = Fate::of(device, || {
            let _ = self.poller.poll();
        });
        self.poller.shutdown();
        // What the shutdown has ended.
        self.work.look_at_all();
        self.work.counts.callbacks = deliveries();
        let (counts, first_error) = (&self.work.counts, self.work.first_error.as_deref());
        let lost = counts.check(&device.stats()).err();
        let trouble = lost.or_else(|| counts.trouble(first_error, &fate)).or(self.stopped_by);
        Ok(Measured {
            elapsed,
            counts: self.work.counts,
            fate,
            latency: self.latency,
            ticks_per_second,
            cycles: self.chunks.finish(),
            trouble,
            interrupted,
        })
    }

    /// One burst, in its three phases.
    fn burst(&mut self, size: usize) {
        let Self { queue, work: Work { slots, requests, .. }, .. } = self;
        let mut refused = None;
        let begin = ticks();
        queue.burst(|burst| {
            for (slot, place) in slots.iter().zip(requests.iter_mut()).take(size) {
                if let Some(request) = place.take()
                    && let Err(error) = burst.submit(request, &slot.ctx)
                {
                    refused = Some(error);
                    break;
                }
            }
        });
        let enqueued = ticks();
        let mut accepted = size as u64;
        if let Some(refused) = refused {
            accepted =
                self.work.requests.iter().take(size).filter(|place| place.is_none()).count() as u64 - 1;
            if refused.status() == Status::Eagain {
                self.work.counts.eagain += 1;
            }
            self.stopped_by.get_or_insert_with(|| refused.to_string());
        }
        self.work.counts.submitted += accepted;
        let ready = self.wait_for_device(accepted);

        let before = deliveries();
        let drain_begin = ticks();
        let mut drained = 0;
        while drained < ready {
            let count = self.poller.poll() as u64;
            if count == 0 && self.poller.in_flight() == 0 {
                break; // The device has failed meanwhile: everything has ended with errors.
            }
            drained += count;
        }
        let end = ticks();
        self.latency.saturating_record_n(end.wrapping_sub(begin).max(1), accepted.max(1));
        // A request that came too late was ended by its deadline, outside of the phases.
        let whole = ready == accepted && deliveries() - before == accepted;
        if whole && size == self.work.slots.len() {
            self.chunks.add(enqueued.wrapping_sub(begin), end.wrapping_sub(drain_begin), accepted);
        }
        self.work.look_at_all();
    }

    /// Waits until the device has finished the burst; how many of it.
    fn wait_for_device(&mut self, burst: u64) -> u64 {
        let start = Instant::now();
        loop {
            if let Some(sim) = &self.sim {
                sim.step();
            }
            let ready = self.poller.ready();
            if ready >= burst {
                return ready;
            }
            match &self.sim {
                Some(sim) => sim.advance(sim.config().latency.max(Duration::from_nanos(1))),
                None => std::hint::spin_loop(),
            }
            if start.elapsed() > PATIENCE {
                let why = format!("the device has finished {ready} of {burst} requests after {PATIENCE:?}");
                self.stopped_by.get_or_insert(why);
                return ready;
            }
        }
    }
}

impl Work {
    /// Counts and checks what was delivered, and fills the requests again.
    fn look_at_all(&mut self) {
        let Self { slots, requests, pool, counts, first_error } = self;
        let mut taken = TAKEN.with_borrow_mut(|taken| std::mem::take(&mut taken.completions));
        for (number, completion) in taken.drain(..) {
            let number = number as usize;
            let (Some(slot), Some(completion)) = (slots.get_mut(number), completion) else { continue };
            match completion.result() {
                Ok(_) => {
                    counts.completed += 1;
                    if pool.checked() {
                        counts.verified += 1;
                        counts.mismatches += u64::from(!slot.job.verify(pool, &completion));
                    }
                }
                Err(fault) => {
                    counts.errors += 1;
                    first_error.get_or_insert_with(|| fault.to_string());
                }
            }
            let mut request = completion.into_request();
            slot.job.fill(pool, &mut request);
            requests[number] = Some(request);
        }
        TAKEN.with_borrow_mut(|place| place.completions = taken);
    }
}

/// Ticks of chunks of bursts. Medians over them are not moved by a preemption here and there.
#[derive(Default)]
struct Chunks {
    enqueue: Vec<f64>,
    dequeue: Vec<f64>,
    current: (u64, u64, u64),
}

impl Chunks {
    fn add(&mut self, enqueue: u64, dequeue: u64, ops: u64) {
        self.current.0 += enqueue;
        self.current.1 += dequeue;
        self.current.2 += ops;
        if self.current.2 >= CHUNK {
            self.close();
        }
    }

    fn close(&mut self) {
        let (enqueue, dequeue, ops) = std::mem::take(&mut self.current);
        self.enqueue.push(enqueue as f64 / ops as f64);
        self.dequeue.push(dequeue as f64 / ops as f64);
    }

    /// `None` where there was not one whole burst.
    fn finish(mut self) -> Option<(Cycles, Cycles)> {
        if self.enqueue.is_empty() && self.current.2 > 0 {
            self.close();
        }
        Some((Cycles::of(self.enqueue)?, Cycles::of(self.dequeue)?))
    }
}

impl Cycles {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let at = |tenths: usize| values.get((values.len().checked_sub(1)?) * tenths / 10).copied();
        Some(Self { p10: at(1)?, median: at(5)?, p90: at(9)? })
    }
}
