//! One size, with a poll thread and submitting threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ringbell::clock::ticks;
use ringbell::{Device, IdlePolicy, Poller, PollerConfig};

use super::tasks::TaskWorker;
use super::work::{self, Pool};
use super::worker::{Outcome, Worker};
use super::{Counts, Fate, Interrupt, Limit, Measured, Plan, Progress, histogram};
use crate::cli::{Idle, Wake};
use crate::error::{Error, Result};

/// A submitting thread in the making.
enum Submitter {
    Plain(Box<Worker>),
    Tasks(Box<TaskWorker>),
}

impl Submitter {
    fn run(self, stop: &AtomicBool) -> Outcome {
        match self {
            Self::Plain(worker) => worker.run(stop),
            Self::Tasks(worker) => worker.run(stop),
        }
    }
}

/// Measures one size.
pub(super) fn measure(plan: &Plan, interrupt: &Interrupt) -> Result<Measured> {
    let device = Device::open_with(&plan.device.text, &work::options(plan))
        .map_err(|e| Error::library(&format!("open device {}", plan.device.text), e))?;
    let poller =
        Poller::spawn(&device, config(plan)).map_err(|e| Error::library("start the poll thread", e))?;
    let workers = workers(plan, &device)?;

    let stop = Arc::new(AtomicBool::new(false));
    let (start, first_tick) = (Instant::now(), ticks());
    let threads = start_all(workers, &stop)?;
    let interrupted = watch(plan, interrupt, start, &threads);
    stop.store(true, Ordering::Relaxed);

    let mut counts = Counts::default();
    let mut latency = histogram()?;
    let (mut end, mut first_error, mut stopped_by) = (start, None, None);
    for thread in threads {
        let outcome = thread.join().map_err(|_| Error::failed("measure", "a submitting thread panicked"))?;
        counts.add(&outcome.counts);
        latency.add(&outcome.latency).map_err(|e| Error::failed("add histograms up", e))?;
        end = end.max(outcome.end);
        first_error = first_error.or(outcome.first_error);
        stopped_by = stopped_by.or(outcome.stopped_by);
    }
    let ticks_per_second = ticks().wrapping_sub(first_tick) as f64 / start.elapsed().as_secs_f64();
    let fate = Fate::of(&device, || std::thread::sleep(Duration::from_millis(1)));
    // After it nothing is counted any more.
    poller.shutdown();
    let stats = device.stats();
    if plan.wake == Wake::Future {
        // A future waits for room by itself: only the library knows how often there was none.
        counts.eagain = stats.eagain;
    }
    let lost = counts.check(&stats).err();
    let trouble = lost.or_else(|| counts.trouble(first_error.as_deref(), &fate)).or(stopped_by);
    Ok(Measured {
        elapsed: end.saturating_duration_since(start),
        counts,
        fate,
        latency,
        ticks_per_second,
        cycles: None,
        trouble,
        interrupted,
    })
}

fn config(plan: &Plan) -> PollerConfig {
    PollerConfig {
        idle: match plan.idle {
            Idle::Spin => IdlePolicy::Spin,
            Idle::Adaptive => IdlePolicy::ADAPTIVE,
            Idle::Interrupt => IdlePolicy::Interrupt,
        },
        core: plan.core,
        failover: plan.failover,
        // The callbacks are known to be small: what takes long is the machine, with more threads
        // than cores.
        slow_callback: Duration::from_millis(50),
        ..Default::default()
    }
}

/// The workers, with an equal share of contexts and requests each.
fn workers(plan: &Plan, device: &Device) -> Result<Vec<Submitter>> {
    let key = work::key(plan, device)?;
    let (pool, jobs) = Pool::new(plan)?;
    let pool = Arc::new(pool);
    let mut jobs = jobs.into_iter();
    let owned = plan.threads <= usize::from(device.capabilities().queues);
    let share = |all: u64, number: usize| {
        let (number, threads) = (number as u64, plan.threads as u64);
        all / threads + u64::from(number < all % threads)
    };
    (0..plan.threads)
        .map(|number| {
            let contexts = share(plan.in_flight as u64, number) as usize;
            let budget = match plan.limit {
                Limit::Time(_) => u64::MAX,
                Limit::Ops(ops) => share(ops, number),
            };
            let jobs = jobs.by_ref().take(contexts).collect();
            if plan.wake == Wake::Future {
                return TaskWorker::new(device, &key, &pool, jobs, budget)
                    .map(|worker| Submitter::Tasks(Box::new(worker)));
            }
            Worker::new(plan, device, &key, &pool, jobs, budget, owned)
                .map(|worker| Submitter::Plain(Box::new(worker)))
        })
        .collect()
}

fn start_all(workers: Vec<Submitter>, stop: &Arc<AtomicBool>) -> Result<Vec<JoinHandle<Outcome>>> {
    let mut threads = Vec::with_capacity(workers.len());
    for worker in workers {
        let seen = Arc::clone(stop);
        let named = std::thread::Builder::new().name("ringbell-submit".to_owned());
        match named.spawn(move || worker.run(&seen)) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                stop.store(true, Ordering::Relaxed);
                return Err(Error::failed("start a submitting thread", error));
            }
        }
    }
    Ok(threads)
}

/// Waits for the end of the run. True where a signal ended it.
fn watch(plan: &Plan, interrupt: &Interrupt, start: Instant, threads: &[JoinHandle<Outcome>]) -> bool {
    let progress = Progress::new(plan);
    loop {
        let elapsed = start.elapsed();
        let nap = match plan.limit {
            Limit::Time(time) if elapsed >= time => return false,
            Limit::Time(time) => (time - elapsed).min(Duration::from_millis(100)),
            Limit::Ops(_) => Duration::from_millis(10),
        };
        std::thread::sleep(nap);
        if threads.iter().all(JoinHandle::is_finished) {
            return false;
        }
        if interrupt.came() {
            return true;
        }
        progress.tick(start.elapsed(), plan.limit);
    }
}
