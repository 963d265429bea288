//! The soak on threads, in real time: a poll thread, submitting threads of both sorts, random faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringbell::sim::{FaultKind, Sim};
use ringbell::{
    CipherKey, Device, DeviceOptions, DeviceState, OwnedQueue, Poller, PollerConfig, Reason, Request, WaitCtx,
};

use crate::common::{FOR_EVER, Rng, wait_until};
use crate::report::Report;
use crate::slots::{Context, Flight, KeyData, Manner, Tally, check_memory, get, keys, lock};

const FAULTS: &[&str] = &[
    "fault=drop:1/3000",
    "fault=slow:1ms:1/300,fault=op-error:each:1/100",
    "fault=needs-reset:1/2000",
    "fault=bad-id:1/3000,fault=irq-lost:1/3",
    "fault=used-jump:1/4000,fault=drop:1/4000",
    "fault=session-lost:1/1000,fault=sessions-full@5000:x2",
    "fault=status-garbage:1/3000,fault=duplicate:1/5000",
    "fault=stall@2000:once,fault=reset-hang@6000:x1,fault=reset-fails@9000:x3",
    "fault=irq-storm@1000:x500,fault=config-change@3000,fault=reorder,fault=control-hang@6000",
    "fault=bad-config@2000:queue-size-0:x1,fault=config-change@6000:not-ready",
];

/// Devices one after the other until the time is over; each has some of it.
pub fn run(seed: u64, time: Duration) -> Report {
    let mut report = Report::default();
    let mut rng = Rng::new(seed);
    let all = Arc::new(keys(&mut rng));
    let each = time / FAULTS.len() as u32;
    for faults in FAULTS {
        let address = format!("queues=3,queue-size=64,seed={},{faults}", rng.next() % 1000);
        one(&address, rng.next(), each, &all, &mut report);
        report.lives += 1;
    }
    report
}

fn one(address: &str, seed: u64, time: Duration, all: &Arc<Vec<KeyData>>, report: &mut Report) {
    let options = DeviceOptions {
        check_memory: true,
        control_timeout: Duration::from_millis(20),
        ..Default::default()
    };
    let config = PollerConfig {
        request_timeout: Duration::from_millis(20),
        stall_limit: Duration::from_millis(40),
        ..Default::default()
    };
    // As `Device::open("sim:...")`, with a handle to ask what struck.
    let sim = Sim::threaded(address.parse().unwrap()).unwrap();
    let device = Device::from_function(sim.function(), &options).unwrap();
    let poller = Poller::spawn(&device, config).unwrap();
    let opened: Vec<_> = all.iter().map(|key| key.open(&device)).collect();
    let tally = Arc::new(Tally::default());
    let over = AtomicBool::new(false);
    let free = device.free_bytes();
    thread::scope(|scope| {
        for number in 0..4 {
            let worker = Worker {
                device: &device,
                all,
                keys: &opened,
                over: &over,
                rng: Rng::new(seed ^ number),
                tally: &tally,
            };
            let queue = (number == 0).then(|| device.owned_queue().unwrap());
            scope.spawn(move || worker.work(queue));
        }
        let start = Instant::now();
        while start.elapsed() < time && device.state() != DeviceState::Failed {
            thread::sleep(Duration::from_millis(1));
        }
        over.store(true, Ordering::SeqCst);
    });
    tally.check();
    // What was detached has no one who waits for it.
    wait_until("the quiet moment", || {
        let stats = device.stats();
        stats.accepted == stats.deliveries + stats.detached && stats.quarantined == 0
    });
    let stats = device.stats();
    assert_eq!(stats.accepted, get(&tally.accepted), "{address}: {stats:?}");
    assert_eq!(stats.detached, get(&tally.detached), "{address}: {stats:?}");
    assert_eq!((stats.eagain, stats.refused), (get(&tally.eagain), get(&tally.refused)), "{address}");
    assert_eq!(stats.completed, get(&tally.completed), "{address}: {stats:?}");
    assert_eq!(stats.errors, get(&tally.errors), "{address}: {stats:?}");
    assert_eq!((stats.leaked_bytes, stats.stray_writes), (0, 0), "{address}: {stats:?}");
    let state = device.state();
    poller.shutdown();
    check_memory(&device, free);
    report.operations += stats.accepted + stats.eagain + stats.refused;
    report.failed += u64::from(state == DeviceState::Failed);
    report.add(&stats, &tally);
    FaultKind::ALL.iter().for_each(|&kind| report.struck(kind, sim.struck(kind)));
    assert_eq!(sim.stats().last_fault, None, "{address}: what the device says of its driver");
}

struct Worker<'a> {
    device: &'a Device,
    all: &'a Arc<Vec<KeyData>>,
    keys: &'a [CipherKey],
    over: &'a AtomicBool,
    rng: Rng,
    tally: &'a Arc<Tally>,
}

impl Worker<'_> {
    fn work(mut self, mut queue: Option<OwnedQueue>) {
        const MANNERS: [Manner; 6] =
            [Manner::Take, Manner::Take, Manner::Leave, Manner::Again, Manner::Fd, Manner::Nothing];
        let contexts: Vec<_> =
            (0..48).map(|number| Context::new(MANNERS[number % 6], self.all, self.tally)).collect();
        while !self.over.load(Ordering::SeqCst) {
            let context = &contexts[self.rng.below(contexts.len())];
            context.harvest();
            match self.rng.below(1000) {
                0 => context.detach(),
                1..4 => context.cancel(self.device),
                4..300 if queue.is_some() => self.burst(queue.as_mut().unwrap(), &contexts),
                _ => self.submit(context),
            }
        }
        drop(queue);
        // Each has an end, by a deadline at the latest.
        wait_until("the ends", || {
            contexts.iter().for_each(Context::harvest);
            contexts.iter().all(|context| !context.ctx.is_busy() && lock(&context.slot.flight).is_none())
        });
    }

    fn submit(&mut self, context: &Context) {
        let flight = Flight::random(&mut self.rng);
        let Some(request) = flight.request(self.device, self.all, self.keys) else { return };
        let how = |request: Request, ctx: &WaitCtx| request.submit(ctx);
        let Some((reason, request)) = context.submit(request, flight, how) else { return };
        if reason == Reason::RingFull && !self.rng.one_in(4) {
            thread::yield_now();
            return;
        }
        // Register, try once more, sleep: somebody wakes this thread, or it is a bug.
        let me = thread::current();
        let told = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&told);
        self.device.on_room(move || {
            tell.store(true, Ordering::SeqCst);
            me.unpark();
        });
        if context.submit(request, flight, how).is_some() {
            let start = Instant::now();
            while !told.load(Ordering::SeqCst) {
                thread::park_timeout(Duration::from_secs(1));
                assert!(start.elapsed() < FOR_EVER, "nobody tells of room: {reason:?}");
            }
        }
    }

    fn burst(&mut self, queue: &mut OwnedQueue, contexts: &[Context]) {
        let count = self.rng.below(16);
        queue.burst(|burst| {
            for _ in 0..count {
                let flight = Flight::random(&mut self.rng);
                let Some(request) = flight.request(self.device, self.all, self.keys) else { continue };
                let context = &contexts[self.rng.below(contexts.len())];
                context.submit(request, flight, |request, ctx| burst.submit(request, ctx));
            }
        });
    }
}
