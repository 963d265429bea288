//! The soak on a stepped simulator, in its own time: lives of a device, each with traffic in epochs,
//! random faults in each, and everything checked at the end of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringbell::sim::{FaultKind, Sim};
use ringbell::{
    CipherKey, Clock, Device, DeviceOptions, DeviceState, Direction, ManualClock, ManualPoller, OwnedQueue,
    PollerConfig, Reason, WaitCtx,
};

use crate::common::{Rng, stepped};
use crate::report::Report;
use crate::slots::{Context, Flight, KeyData, Manner, Tally, get, lock};

const ROUND: Duration = Duration::from_millis(20);
const ENDLESS: u32 = 20_000;
/// Operations of an epoch, and epochs of a life.
const EPOCH: u64 = 3000;
const EPOCHS: u32 = 12;

/// Faults that a device is brought back from, or that are nobody's affair. `@N` comes in between.
const ONCE: &[&str] = &[
    "stall",
    "stall:once",
    "drop",
    "drop:x3",
    "duplicate",
    "bad-id:range",
    "bad-id:free",
    "bad-len",
    "used-jump:ahead",
    "used-jump:back",
    "status-garbage",
    "op-error:ERR",
    "op-error:each:x6",
    "op-error:INVSESS",
    "reorder",
    "slow",
    "slow:1500ms",
    "needs-reset",
    "reset-hang:x1",
    "reset-fails:x1",
    "reset-fails:x3",
    "control-hang",
    "session-lost",
    "sessions-full:x2",
    "irq-lost",
    "irq-storm",
    "config-change",
    "config-change:not-ready",
    "bad-config:queue-size-0:x1",
    "bad-config:generation:x1",
    "write-after-reset",
];

/// Faults of a whole life, in the simulator's options.
const LIFELONG: &[&str] = &[
    "",
    "",
    "",
    ",fault=drop:1/2000",
    ",fault=op-error:each:1/200",
    ",fault=slow:2ms:1/50",
    ",fault=reorder",
    ",fault=session-lost:1/3000",
    ",fault=irq-lost:1/2",
];

/// Faults that no device is brought back from: now and then a life ends by one.
const DEADLY: &[&str] = &["reset-fails", "remove", "control-hang:always", "bad-config:queue-size-0"];

struct World {
    sim: Sim,
    device: Device,
    poller: ManualPoller,
    clock: ManualClock,
    all: Arc<Vec<KeyData>>,
    keys: Vec<CipherKey>,
    owned: Vec<OwnedQueue>,
    contexts: Vec<Context>,
    tally: Arc<Tally>,
    waiters: Vec<Arc<AtomicU64>>,
    free: usize,
    depth: usize,
    queues: usize,
    /// Free memory may be written: the device was told to.
    stray: bool,
    deadly: bool,
    rng: Rng,
    done: u64,
}

/// Lives until so many requests were accepted.
pub fn run(seed: u64, requests: u64) -> Report {
    let mut report = Report::default();
    let mut rng = Rng::new(seed);
    let all = Arc::new(crate::slots::keys(&mut rng));
    while report.total.accepted < requests {
        let life = rng.next();
        let left = requests - report.total.accepted;
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            World::new(life, &all).live(left, &mut report);
        }));
        if let Err(panic) = caught {
            println!("seed {seed}: RINGBELL_SOAK_SEED={seed}, life {life} after {}", report.operations);
            std::panic::resume_unwind(panic);
        }
        report.lives += 1;
    }
    report
}

impl World {
    fn new(life: u64, all: &Arc<Vec<KeyData>>) -> Self {
        let mut rng = Rng::new(life);
        let clock = ManualClock::new();
        let config = PollerConfig {
            clock: Clock::Manual(clock.clone()),
            request_timeout: Duration::from_millis(800),
            stall_limit: Duration::from_secs(2),
            budget: 1 + rng.below(100),
            ..Default::default()
        };
        let size = [8, 16, 64][rng.below(3)];
        let options = DeviceOptions {
            queue_size: size,
            indirect: !rng.one_in(4),
            event_idx: rng.one_in(2),
            control_timeout: Duration::from_millis(2),
            arena_bytes: 2 << 20,
            huge_pages: false,
            check_memory: true,
        };
        let queues = 1 + rng.below(3);
        let fault = LIFELONG[rng.below(LIFELONG.len())];
        let order = if rng.one_in(3) { ",order=shuffle" } else { "" };
        let text = format!("seed={life},queues={queues},queue-size={size}{order}{fault}");
        let (sim, device, poller) = stepped(&text, &options, config);
        let keys: Vec<_> = all.iter().map(|key| key.open(&device)).collect();
        let owned = (1..queues).map(|_| device.owned_queue().unwrap()).collect();
        let tally = Arc::new(Tally::default());
        let depth = device.capabilities().queue_depth as usize;
        let mut world = Self {
            free: device.free_bytes(),
            sim,
            device,
            poller,
            clock,
            all: Arc::clone(all),
            keys,
            owned,
            contexts: Vec::new(),
            tally,
            waiters: Vec::new(),
            depth,
            queues,
            stray: false,
            deadly: false,
            rng,
            done: 0,
        };
        for _ in 0..(2 * depth * queues).min(150) {
            let context = world.context();
            world.contexts.push(context);
        }
        world
    }

    fn context(&mut self) -> Context {
        let manner = match self.rng.below(40) {
            0..=13 => Manner::Take,
            14..=17 => Manner::Leave,
            18..=25 => Manner::Again,
            26 => Manner::Panic,
            27..=32 => Manner::Fd,
            _ => Manner::Nothing,
        };
        Context::new(manner, &self.all, &self.tally)
    }

    fn live(&mut self, left: u64, report: &mut Report) {
        let mut epochs = 0;
        while self.device.stats().accepted < left && epochs < EPOCHS && self.is_alive() {
            self.inject();
            let end = self.done + EPOCH;
            while self.done < end && self.is_alive() {
                self.act();
            }
            self.settle();
            self.check();
            if self.is_alive() && self.rng.one_in(4) {
                self.check_capacity();
            }
            epochs += 1;
        }
        report.operations += self.done;
        report.add(&self.device.stats(), &self.tally);
        FaultKind::ALL.iter().for_each(|&kind| report.struck(kind, self.sim.struck(kind)));
        if self.device.state() == DeviceState::Failed {
            report.failed += 1;
            report.failed_unasked += u64::from(!self.deadly);
        }
    }

    fn is_alive(&self) -> bool {
        self.device.state() != DeviceState::Failed
    }

    fn inject(&mut self) {
        for _ in 0..self.rng.below(3) {
            let fault = ONCE[self.rng.below(ONCE.len())];
            self.inject_one(fault);
        }
        if self.rng.one_in(60) {
            let fault = DEADLY[self.rng.below(DEADLY.len())];
            self.deadly = true;
            self.inject_one(fault);
        }
    }

    fn inject_one(&mut self, fault: &str) {
        let at = self.rng.below(800);
        let (kind, argument) = fault.split_once(':').unwrap_or((fault, ""));
        let colon = if argument.is_empty() { "" } else { ":" };
        self.stray |= kind == "write-after-reset";
        self.sim.inject(format!("{kind}@{at}{colon}{argument}").parse().expect("a fault"));
    }

    // ---- operations ----

    fn act(&mut self) {
        match self.rng.below(200) {
            0..=99 => self.submit(),
            100..=119 => self.burst(),
            120..=144 => {
                let most = 1 + self.rng.below(32);
                self.sim.step_n(most);
                self.done += 1;
            }
            145..=169 => {
                self.poller.poll();
                self.done += 1;
            }
            170..=189 => {
                let index = self.rng.below(self.contexts.len());
                self.contexts[index].harvest();
                self.done += 1;
            }
            190..=193 => {
                let index = self.rng.below(self.contexts.len());
                self.contexts[index].cancel(&self.device);
                self.done += 1;
            }
            194..=196 => {
                let index = self.rng.below(self.contexts.len());
                self.contexts[index].detach();
                self.done += 1;
            }
            197 => self.drop_context(),
            _ => {
                let by = Duration::from_millis(self.rng.below(60) as u64);
                self.clock.advance(by);
                self.sim.advance(by);
                self.done += 1;
            }
        }
    }

    fn submit(&mut self) {
        self.done += 1;
        let index = self.rng.below(self.contexts.len());
        let flight = Flight::random(&mut self.rng);
        let Some(request) = flight.request(&self.device, &self.all, &self.keys) else { return };
        let refused = self.contexts[index].submit(request, flight, |request, ctx| request.submit(ctx));
        let Some((reason, request)) = refused else { return };
        assert!(reason != Reason::Resetting || self.device.state() == DeviceState::Resetting);
        if !self.rng.one_in(8) {
            return;
        }
        // Register, then try once more: from there on nobody may sleep for ever.
        let waiter = self.wait_for_room();
        let refused = self.contexts[index].submit(request, flight, |request, ctx| request.submit(ctx));
        if refused.is_some() {
            self.waiters.push(waiter);
        }
    }

    fn wait_for_room(&self) -> Arc<AtomicU64> {
        let told = Arc::new(AtomicU64::new(0));
        let waiter = Arc::clone(&told);
        self.device.on_room(move || {
            waiter.fetch_add(1, Ordering::SeqCst);
        });
        told
    }

    fn burst(&mut self) {
        let Some(number) = (!self.owned.is_empty()).then(|| self.rng.below(self.owned.len())) else {
            return self.submit();
        };
        let count = self.rng.below(20);
        self.done += count as u64 + 1;
        let (rng, contexts, all, keys) = (&mut self.rng, &self.contexts, &self.all, &self.keys);
        let (device, sim, poller) = (&self.device, &self.sim, &mut self.poller);
        self.owned[number].burst(|burst| {
            for _ in 0..count {
                let flight = Flight::random(rng);
                let Some(request) = flight.request(device, all, keys) else { continue };
                let context = &contexts[rng.below(contexts.len())];
                context.submit(request, flight, |request, ctx| burst.submit(request, ctx));
                // The device and the poller go on meanwhile.
                if rng.one_in(30) {
                    sim.step_n(4);
                    poller.poll();
                }
            }
        });
    }

    /// Drops the handles of a context, with what it has in flight.
    fn drop_context(&mut self) {
        self.done += 1;
        let new = self.context();
        let index = self.rng.below(self.contexts.len());
        self.contexts[index].harvest();
        let old = std::mem::replace(&mut self.contexts[index], new);
        if !old.slot.manner.has_callback() && lock(&old.slot.flight).is_some() {
            crate::slots::add(&self.tally.unseen);
        }
    }

    // ---- the end of an epoch ----

    fn round(&mut self) {
        if self.sim.step() + self.poller.poll() == 0 {
            self.clock.advance(ROUND);
            self.sim.advance(ROUND);
            if self.device.state() == DeviceState::Resetting {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    fn settle(&mut self) {
        let mut calm = 0;
        for _ in 0..ENDLESS {
            self.round();
            let quiet = self.poller.in_flight() == 0
                && self.device.stats().quarantined == 0
                && self.device.state() != DeviceState::Resetting;
            calm = if quiet { calm + 1 } else { 0 };
            if calm == 15 {
                return;
            }
        }
        panic!("no end: {:?} {:?} {:?}", self.device.state(), self.device.stats(), self.sim.stats());
    }

    fn check(&mut self) {
        self.contexts.iter().for_each(Context::harvest);
        self.tally.check();
        for context in &self.contexts {
            assert!(!context.ctx.is_busy(), "a request has no end: {:?}", context.slot.manner);
            assert!(lock(&context.slot.flight).is_none(), "never told: {:?}", context.slot.manner);
        }
        let (stats, tally) = (self.device.stats(), &self.tally);
        assert_eq!(stats.accepted, stats.deliveries + stats.detached, "{stats:?}");
        assert_eq!(stats.deliveries, stats.completed + stats.errors, "{stats:?}");
        assert_eq!(stats.accepted, get(&tally.accepted), "{stats:?}");
        assert_eq!(stats.detached, get(&tally.detached), "{stats:?}");
        assert_eq!(stats.eagain, get(&tally.eagain), "{stats:?}");
        assert_eq!(stats.refused, get(&tally.refused), "{stats:?}");
        assert_eq!(stats.panics, get(&tally.panics), "{stats:?}");
        let (completed, errors) = (get(&tally.completed), get(&tally.errors));
        assert_eq!(stats.deliveries, completed + errors + get(&tally.unseen), "{stats:?}");
        assert!(stats.completed >= completed && stats.errors >= errors, "{stats:?}");
        assert_eq!((stats.quarantined, stats.leaked_bytes, stats.failed_over), (0, 0, 0), "{stats:?}");
        assert!(self.stray || stats.stray_writes == 0, "free memory was written: {stats:?}");
        assert_eq!(self.sim.stats().last_fault, None, "what the device says of its driver");
        for waiter in self.waiters.drain(..) {
            assert_eq!(waiter.load(Ordering::SeqCst), 1, "a waiter for room was not told, or twice");
        }
        crate::slots::check_memory(&self.device, self.free);
        if !self.is_alive() {
            let flight = Flight::random(&mut self.rng);
            let request = flight.request(&self.device, &self.all, &self.keys).expect("a request");
            assert!(request.submit(&WaitCtx::new()).is_err(), "accepted by a failed device");
            crate::slots::add(&self.tally.refused);
        }
    }

    /// Each queue takes exactly its depth.
    fn check_capacity(&mut self) {
        let prepared = [Direction::Encrypt, Direction::Decrypt]
            .map(|direction| self.keys[0].prepare_for(direction, Duration::from_millis(5)));
        if prepared.iter().any(Result::is_err) || self.device.state() == DeviceState::Resetting {
            // A fault that was under way still.
            self.settle();
            return self.check();
        }
        let mut held = Vec::new();
        for queue in 0..self.queues {
            let mut count = 0;
            loop {
                let context = Context::new(Manner::Take, &self.all, &self.tally);
                let flight = Flight::first_key(&mut self.rng);
                let request = flight.request(&self.device, &self.all, &self.keys).expect("memory");
                let refused = context.submit(request, flight, |request, ctx| match queue {
                    0 => request.submit(ctx),
                    _ => self.owned[queue - 1].submit(request, ctx),
                });
                match refused.map(|(reason, _)| reason) {
                    None => count += 1,
                    Some(Reason::RingFull) => break,
                    other => panic!("refused: {other:?}"),
                }
                held.push(context);
            }
            assert_eq!(count, self.depth, "a slot is lost, or there is one too many");
        }
        self.done += held.len() as u64;
        self.settle();
        self.check();
    }
}
