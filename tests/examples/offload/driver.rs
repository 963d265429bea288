//! The driver alone: a burst is submitted, a device that does no arithmetic is stepped, the burst is drained.
//! Measured are the first and the last, on one thread.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use ringbell::clock::ticks;
use ringbell::sim::Sim;
use ringbell::{Device, DeviceOptions, ManualPoller, OwnedQueue, PollerConfig, Request, WaitCtx};

use crate::work::{IV, Key, Work};

/// Operations of a chunk: one figure of the median is the mean over so many.
const CHUNK: usize = 2048;
const CHUNKS: usize = 25;

thread_local! {
    static DONE: RefCell<Vec<Request>> = const { RefCell::new(Vec::new()) };
}

pub struct Driver {
    sim: Sim,
    poller: ManualPoller,
    queue: OwnedQueue,
    requests: Vec<Request>,
    contexts: Vec<WaitCtx>,
    iv: [u8; 16],
    iv_len: usize,
}

impl Driver {
    /// With so many requests submitted together, which divide [`CHUNK`].
    pub fn new(work: Work, size: usize, burst: usize) -> Self {
        let sim = Sim::stepped("compute=none".parse().expect("options")).expect("a simulator");
        let options = DeviceOptions::default();
        let device = Device::from_function(sim.function(), &options).expect("a device");
        let config = PollerConfig { slow_callback: Duration::from_secs(1), ..Default::default() };
        let poller = ManualPoller::new([&device], config).expect("a poller");
        let key = Key::new(work, &device);
        let queue = device.owned_queue().expect("a queue");
        let contexts = (0..burst).map(|_| {
            WaitCtx::with_callback(|delivery| {
                if let Some(done) = delivery.take() {
                    DONE.with_borrow_mut(|list| list.push(done.into_request()));
                }
            })
        });
        let contexts: Vec<_> = contexts.collect();
        let requests = (0..burst).map(|_| key.request(work, size, &device)).collect();
        DONE.set(Vec::with_capacity(burst));
        Self { sim, poller, queue, requests, contexts, iv: IV, iv_len: work.iv_len() }
    }

    /// Nanoseconds of an operation, a fresh IV and the callback included.
    pub fn measure(mut self) -> f64 {
        self.chunk();
        let (start, first_tick) = (Instant::now(), ticks());
        let mut chunks: Vec<f64> = (0..CHUNKS).map(|_| self.chunk()).collect();
        let ticks = ticks().wrapping_sub(first_tick) as f64;
        let nanos_per_tick = start.elapsed().as_nanos() as f64 / ticks;
        chunks.sort_by(f64::total_cmp);
        chunks[CHUNKS / 2] * nanos_per_tick
    }

    /// Ticks of an operation, the mean of a chunk of bursts.
    fn chunk(&mut self) -> f64 {
        let (burst, mut all) = (self.contexts.len(), 0);
        for _ in 0..CHUNK / burst {
            let begin = ticks();
            self.enqueue();
            let enqueued = ticks();
            while self.sim.step() > 0 {}
            let drain = ticks();
            let mut done = self.poller.poll();
            let drained = ticks();
            while done < burst {
                done += self.poller.poll();
            }
            all += (enqueued - begin) + (drained - drain);
            DONE.with_borrow_mut(|list| self.requests.append(list));
        }
        all as f64 / CHUNK as f64
    }

    #[inline(never)]
    fn enqueue(&mut self) {
        let Self { queue, requests, contexts, iv, iv_len, .. } = self;
        queue.burst(|burst| {
            for ctx in contexts.iter() {
                let Some(mut request) = requests.pop() else { break };
                if *iv_len > 0 {
                    iv[0] = iv[0].wrapping_add(1);
                    request.set_iv(&iv[..*iv_len]);
                }
                burst.submit(request, ctx).expect("the ring has room");
            }
        });
    }
}
