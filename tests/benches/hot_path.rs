//! The hot path beside a bare ring: what the contracts cost.
//!
//! `ringbell` submits a burst of 64-byte requests on an owned queue and drains it, callbacks included,
//! on a device that does no arithmetic. `bare_ring` moves the same descriptors through a ring of
//! plain memory with nothing around it: no contexts, no checks, no callbacks. The device's own work
//! is outside of the measured time in both.
//!
//! ```text
//! cargo bench -p ringbell-tests
//! ```

use std::hint::black_box;
use std::sync::atomic::{AtomicU16, Ordering, fence};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringbell::sim::Sim;
use ringbell::{Cipher, Device, DeviceOptions, ManualPoller, PollerConfig, Request, WaitCtx};

thread_local! {
    static DONE: std::cell::RefCell<Vec<Request>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn ringbell(c: &mut Criterion) {
    let mut group = c.benchmark_group("enqueue_and_drain");
    for burst in [1_usize, 32] {
        group.throughput(Throughput::Elements(burst as u64));
        group.bench_with_input(BenchmarkId::new("ringbell", burst), &burst, |b, &burst| {
            let sim = Sim::stepped("compute=none".parse().expect("options")).expect("a simulator");
            let device = Device::from_function(sim.function(), &DeviceOptions::default()).expect("a device");
            let mut poller = ManualPoller::new([&device], PollerConfig::default()).expect("a poller");
            let key = device.cipher_key(Cipher::Aes128Cbc, &[7; 16]).expect("a key");
            key.prepare().expect("a session");
            let mut queue = device.owned_queue().expect("a queue");
            let take_back = |delivery: &ringbell::Delivery<'_>| {
                if let Some(done) = delivery.take() {
                    DONE.with_borrow_mut(|list| list.push(done.into_request()));
                }
            };
            let contexts: Vec<WaitCtx> = (0..burst).map(|_| WaitCtx::with_callback(take_back)).collect();
            let mut requests: Vec<Request> =
                (0..burst).map(|_| key.encrypt(&[0; 16], device.buffer(64).expect("memory"))).collect();
            b.iter_custom(|rounds| {
                let mut total = Duration::ZERO;
                for _ in 0..rounds {
                    let start = Instant::now();
                    queue.burst(|ring| {
                        for (request, ctx) in requests.drain(..).zip(&contexts) {
                            ring.submit(request, ctx).expect("room");
                        }
                    });
                    total += start.elapsed();
                    while sim.step() > 0 {}
                    let start = Instant::now();
                    let done = poller.poll();
                    total += start.elapsed();
                    assert_eq!(done, burst);
                    DONE.with_borrow_mut(|list| requests.append(list));
                }
                total
            });
        });
        group.bench_with_input(BenchmarkId::new("bare_ring", burst), &burst, |b, &burst| {
            let mut ring = BareRing::new();
            b.iter_custom(|rounds| {
                let mut total = Duration::ZERO;
                for _ in 0..rounds {
                    let start = Instant::now();
                    ring.enqueue(burst);
                    total += start.elapsed();
                    ring.device();
                    let start = Instant::now();
                    black_box(ring.drain());
                    total += start.elapsed();
                }
                total
            });
        });
    }
    group.finish();
}

/// The least that a ring can be: prepared headers, descriptors, two indices, one fence.
struct BareRing {
    headers: Vec<[u64; 24]>,
    available: Vec<AtomicU16>,
    used: Vec<(u32, u32)>,
    available_index: AtomicU16,
    used_index: AtomicU16,
    seen: u16,
    free: Vec<u16>,
}

const SIZE: usize = 1024;

impl BareRing {
    fn new() -> Self {
        Self {
            headers: vec![[0; 24]; SIZE],
            available: (0..SIZE).map(|_| AtomicU16::new(0)).collect(),
            used: vec![(0, 0); SIZE],
            available_index: AtomicU16::new(0),
            used_index: AtomicU16::new(0),
            seen: 0,
            free: (0..SIZE as u16).collect(),
        }
    }

    #[inline(never)]
    fn enqueue(&mut self, burst: usize) {
        let mut index = self.available_index.load(Ordering::Relaxed);
        for _ in 0..burst {
            let slot = self.free.pop().expect("room");
            let header = &mut self.headers[usize::from(slot)];
            for (word, value) in
                [(1, 88), (2, 4096), (3, 64), (4, 8192), (5, 64), (8, 3), (9, 7), (11, 64), (12, 64)]
            {
                header[word] = black_box(value);
            }
            self.available[usize::from(index) % SIZE].store(slot, Ordering::Relaxed);
            index = index.wrapping_add(1);
        }
        self.available_index.store(index, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// The device: returns everything.
    fn device(&mut self) {
        let end = self.available_index.load(Ordering::Acquire);
        let mut index = self.used_index.load(Ordering::Relaxed);
        while index != end {
            let slot = self.available[usize::from(index) % SIZE].load(Ordering::Relaxed);
            self.used[usize::from(index) % SIZE] = (slot.into(), 65);
            index = index.wrapping_add(1);
        }
        self.used_index.store(index, Ordering::Release);
    }

    #[inline(never)]
    fn drain(&mut self) -> u32 {
        let end = self.used_index.load(Ordering::Acquire);
        let mut sum = 0;
        while self.seen != end {
            let (slot, len) = self.used[usize::from(self.seen) % SIZE];
            sum += len;
            self.free.push(slot as u16);
            self.seen = self.seen.wrapping_add(1);
        }
        sum
    }
}

criterion_group!(benches, ringbell);
criterion_main!(benches);
