//! Random interleavings against a model: every accepted request is delivered exactly once or was
//! detached, counters add up, no slot and no buffer is lost, no memory is handed out twice.
//!
//! The seeded runs are single-threaded and deterministic: a simulator stepped by hand, a poller
//! without a thread, clocks moved by hand. Two more run on threads.

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{FOR_EVER, Rng, oracle, small, stepped, wait_until, zero_key};
use ringbell::sim::Sim;
use ringbell::{
    Answer, Cipher, CipherKey, Clock, Completion, Delivery, Device, DeviceOptions, DeviceState, Direction,
    DmaBuffer, Fault, ManualClock, ManualPoller, OwnedQueue, Poller, PollerConfig, Reason, Refused, Request,
    Stats, Status, WaitCtx,
};

const TIMEOUT: u64 = 800;

/// What a callback tells: which context, of which request, how.
struct Event {
    context: usize,
    status: Status,
    done: Completion,
}

type Events = Arc<Mutex<Vec<Event>>>;

/// A request in flight, as the model knows it.
struct Flight {
    serial: u64,
    len: usize,
    separate: bool,
    ranges: Vec<(usize, usize)>,
    detached: bool,
    canceled: bool,
    since: u64,
}

struct Context {
    /// `None`: all handles were dropped while a request was in flight.
    handle: Option<WaitCtx>,
    flight: Option<Flight>,
    status: Status,
    fd: bool,
}

/// Memory that the device may still write to although the request has ended.
struct Limbo {
    ranges: Vec<(usize, usize)>,
    /// What the poller had taken from the rings before it ended the request.
    drained_then: u64,
}

struct World {
    rng: Rng,
    sim: Sim,
    device: Device,
    poller: Option<ManualPoller>,
    key: CipherKey,
    keystream: Vec<u8>,
    clock: ManualClock,
    now: u64,
    owned: Vec<OwnedQueue>,
    contexts: Vec<Context>,
    events: Events,
    /// Buffers in the model's hands, each filled with a number.
    idle: Vec<(DmaBuffer, u8)>,
    limbo: Vec<Limbo>,
    waiters: Vec<Arc<AtomicU64>>,
    next_serial: u64,
    // What the device's counters must say.
    accepted: u64,
    completed: u64,
    errors: u64,
    detached: u64,
    eagain: u64,
    refused: u64,
    canceled: u64,
    expired: u64,
    /// Requests that the poller has taken from the rings.
    drained: u64,
    /// The same, before the last pass.
    drained_before: u64,
    queues: usize,
    depth: u64,
}

fn pattern(serial: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    Rng::new(serial).fill(&mut data);
    data
}

fn range(buffer: &DmaBuffer) -> (usize, usize) {
    let start = buffer.as_ptr().addr();
    (start, start + buffer.capacity())
}

impl World {
    fn new(seed: u64, queues: usize, size: u16, indirect: bool, event_idx: bool) -> Self {
        let clock = ManualClock::new();
        let config = PollerConfig {
            clock: Clock::Manual(clock.clone()),
            request_timeout: Duration::from_millis(TIMEOUT),
            stall_limit: Duration::from_secs(1 << 30),
            budget: 1 + (seed as usize * 7) % 100,
            grace: Duration::ZERO,
            ..Default::default()
        };
        let options = DeviceOptions { queue_size: size, indirect, event_idx, ..Default::default() };
        let text = format!("order=shuffle,seed={seed},queues={queues},queue-size={size}");
        let (sim, device, poller) = stepped(&text, &options, config);
        let key = zero_key(&device, Cipher::Aes128Ctr);
        let keystream = oracle(Cipher::Aes128Ctr, Direction::Encrypt, &[0; 16], &[0; 16], &[0; 8192]);
        let depth = device.capabilities().queue_depth.into();
        assert_eq!(depth, if indirect { u64::from(size) } else { u64::from(size / 4) });
        // One queue stays shared.
        let owned = (1..queues).map(|_| device.owned_queue().unwrap()).collect();
        let mut world = Self {
            rng: Rng::new(seed),
            sim,
            device,
            poller: Some(poller),
            key,
            keystream,
            clock,
            now: 0,
            owned,
            contexts: Vec::new(),
            events: Arc::default(),
            idle: Vec::new(),
            limbo: Vec::new(),
            waiters: Vec::new(),
            next_serial: 1,
            accepted: 0,
            completed: 0,
            errors: 0,
            detached: 0,
            eagain: 0,
            refused: 0,
            canceled: 0,
            expired: 0,
            drained: 0,
            drained_before: 0,
            queues,
            depth,
        };
        for _ in 0..(2 * depth as usize * queues + 4).min(160) {
            world.add_context();
        }
        world
    }

    fn add_context(&mut self) {
        let context = self.contexts.len();
        let events = Arc::clone(&self.events);
        let callback = move |delivery: &Delivery<'_>| {
            let done = delivery.take().expect("a delivery has its request");
            events.lock().unwrap().push(Event { context, status: delivery.status(), done });
        };
        let fd = context.is_multiple_of(3);
        let handle = if fd {
            WaitCtx::with_callback_and_fd(callback).unwrap()
        } else {
            WaitCtx::with_callback(callback)
        };
        self.contexts.push(Context { handle: Some(handle), flight: None, status: Status::Unsupported, fd });
    }

    // ---- memory ----

    fn live_ranges(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let held = self.contexts.iter().filter_map(|context| context.flight.as_ref()).flat_map(|f| &f.ranges);
        // Nothing was taken from a ring since then: the device must have this memory still.
        let drained = self.drained;
        let limbo =
            self.limbo.iter().filter(move |limbo| limbo.drained_then == drained).flat_map(|l| &l.ranges);
        held.chain(limbo).copied().chain(self.idle.iter().map(|(buffer, _)| range(buffer)))
    }

    fn buffer(&mut self, len: usize) -> Option<DmaBuffer> {
        match self.device.buffer(len) {
            Ok(buffer) => {
                let (start, end) = range(&buffer);
                assert_eq!(buffer.len(), len);
                for (other, other_end) in self.live_ranges() {
                    assert!(end <= other || other_end <= start, "memory was handed out twice");
                }
                Some(buffer)
            }
            Err(error) => {
                assert!(matches!(error, ringbell::Error::NoRoom(_)), "{error}");
                None
            }
        }
    }

    fn check_idle(&mut self) {
        for (buffer, number) in &self.idle {
            assert!(
                buffer.iter().all(|byte| byte == number),
                "somebody wrote to a buffer in the program's hands"
            );
        }
    }

    // ---- submitting ----

    fn request(&mut self) -> Option<(Request, Flight)> {
        let serial = self.next_serial;
        self.next_serial += 1;
        let len = match self.rng.below(8) {
            0 => 0,
            1 => self.rng.below(8192),
            _ => self.rng.below(200),
        };
        let separate = self.rng.one_in(2);
        let mut input = self.buffer(len)?;
        input.copy_from_slice(&pattern(serial, len));
        let mut ranges = vec![range(&input)];
        let output = if separate {
            // A place in `idle`, so that the second buffer is checked against the first.
            self.idle.push((input, 0));
            let output = self.buffer(len);
            input = self.idle.pop().unwrap().0;
            Some(output?)
        } else {
            None
        };
        ranges.extend(output.as_ref().map(range));
        let request = self.key.request(Direction::Encrypt, &[0; 16], input, output);
        let (detached, canceled, since) = (false, false, self.now);
        Some((request, Flight { serial, len, separate, ranges, detached, canceled, since }))
    }

    fn outstanding(&self) -> u64 {
        self.accepted - self.drained
    }

    /// Notes what a submit on context `index` answered.
    fn submitted(&mut self, index: usize, flight: Flight, result: Result<(), Refused>) {
        let was_busy = self.contexts[index].flight.is_some();
        let outstanding = self.outstanding();
        let closed = self.poller.is_none();
        let context = &mut self.contexts[index];
        match result {
            Ok(()) => {
                assert!(!was_busy && !closed);
                context.status = Status::Ok;
                context.flight = Some(flight);
                self.accepted += 1;
                if self.queues == 1 {
                    assert!(outstanding < self.depth, "accepted beyond the capacity");
                }
            }
            Err(refused) => {
                let reason = refused.reason();
                match reason {
                    Reason::ContextBusy => assert!(was_busy),
                    Reason::RingFull => {
                        assert!(!was_busy && !closed);
                        assert!(
                            outstanding >= self.depth,
                            "EAGAIN with {outstanding} of {} in flight",
                            self.depth
                        );
                        context.status = Status::Eagain;
                    }
                    Reason::DeviceDown => {
                        assert!(closed && !was_busy);
                        context.status = Status::Err;
                    }
                    other => panic!("refused: {other:?}"),
                }
                if refused.status() == Status::Eagain {
                    self.eagain += 1
                } else {
                    self.refused += 1
                }
                let request = refused.into_request();
                assert_eq!(
                    request.input(),
                    pattern(flight.serial, flight.len),
                    "a refused request has changed"
                );
                let (input, output) = request.into_buffers();
                assert_eq!(range(&input.unwrap()), flight.ranges[0]);
                assert_eq!(output.is_some(), flight.separate);
            }
        }
        let context = &self.contexts[index];
        if let Some(handle) = &context.handle {
            assert_eq!(handle.status(), context.status);
            assert_eq!(handle.is_busy(), context.flight.is_some());
        }
    }

    fn pick(&mut self) -> Option<usize> {
        let index = self.rng.below(self.contexts.len());
        self.contexts[index].handle.is_some().then_some(index)
    }

    fn submit_shared(&mut self) {
        let Some(index) = self.pick() else { return };
        let Some((request, flight)) = self.request() else { return };
        let handle = self.contexts[index].handle.clone().unwrap();
        let result = request.submit(&handle);
        self.submitted(index, flight, result);
    }

    fn submit_burst(&mut self) {
        if self.owned.is_empty() {
            return self.submit_shared();
        }
        let mut wanted = Vec::new();
        for _ in 0..self.rng.below(12) {
            let Some(index) = self.pick() else { continue };
            let Some((request, flight)) = self.request() else { continue };
            // In flight for the overlap check until its answer is known.
            wanted.push((index, request, flight, self.contexts[index].handle.clone().unwrap()));
        }
        let queue = self.rng.below(self.owned.len());
        let mut answers = Vec::new();
        self.owned[queue].burst(|burst| {
            for (index, request, flight, handle) in wanted {
                answers.push((index, flight, burst.submit(request, &handle)));
            }
        });
        for (index, flight, result) in answers {
            self.submitted(index, flight, result);
        }
    }

    // ---- what comes back ----

    fn poll(&mut self) {
        let before: Vec<_> = std::mem::take(&mut self.waiters);
        let Some(poller) = &mut self.poller else { return };
        let taken = poller.poll() as u64;
        self.drained_before = self.drained;
        self.drained += taken;
        self.take_events();
        for waiter in before {
            let told = waiter.load(Ordering::SeqCst);
            assert!(told <= 1, "a waiter is told once");
            if taken > 0 {
                assert_eq!(told, 1, "{taken} completions, and a waiter for room was not told");
            } else if told == 0 {
                self.waiters.push(waiter);
            }
        }
        self.settle();
    }

    fn take_events(&mut self) {
        let events = std::mem::take(&mut *self.events.lock().unwrap());
        for Event { context: index, status, done } in events {
            let context = &mut self.contexts[index];
            let flight = context.flight.take().expect("a delivery without a request in flight");
            assert!(!flight.detached, "a detached request was delivered");
            if let Some(handle) = &context.handle {
                assert_eq!(handle.status(), status);
            }
            if context.fd
                && let Some(handle) = &context.handle
            {
                let mut bytes = [0; 8];
                assert_eq!(nix::unistd::read(handle.fd().unwrap(), &mut bytes), Ok(8), "the wait fd");
                assert_eq!(u64::from_ne_bytes(bytes), 1);
            }
            context.status = status;
            let kept = match done.result() {
                Ok(answer) => {
                    assert_eq!((answer, status), (Answer::Yes, Status::Ok));
                    self.completed += 1;
                    let plain = pattern(flight.serial, flight.len);
                    let expected: Vec<_> = plain.iter().zip(&self.keystream).map(|(a, b)| a ^ b).collect();
                    assert!(done.request().output() == expected, "wrong result");
                    if flight.separate {
                        assert!(done.request().input() == plain);
                    }
                    false
                }
                Err(fault) => {
                    assert_eq!(status, Status::Err);
                    self.errors += 1;
                    match fault {
                        Fault::Canceled => {
                            assert!(flight.canceled);
                            self.canceled += 1;
                            true
                        }
                        Fault::TimedOut => {
                            assert!(self.now - flight.since >= TIMEOUT, "expired early");
                            self.expired += 1;
                            true
                        }
                        Fault::Shutdown => {
                            assert!(self.poller.is_none());
                            assert_eq!(done.request().input().len(), flight.len);
                            false
                        }
                        other => panic!("{other:?}; the device says: {:?}", self.sim.stats()),
                    }
                }
            };
            if kept {
                assert!(done.request().input().is_empty() && done.request().output().is_empty());
                self.limbo.push(Limbo { ranges: flight.ranges, drained_then: self.drained_before });
            }
            if self.contexts[index].handle.is_none() {
                self.replace(index);
            }
        }
    }

    /// Finds the detached requests that have ended: their contexts are idle.
    fn settle(&mut self) {
        for index in 0..self.contexts.len() {
            let context = &mut self.contexts[index];
            let Some(flight) = context.flight.as_ref().filter(|flight| flight.detached) else { continue };
            if context.handle.as_ref().is_some_and(|handle| !handle.is_busy()) {
                let (ranges, drained_then) = (flight.ranges.clone(), self.drained_before);
                // Ended early by a cancel or a deadline, the memory may be with the device still.
                if flight.canceled || self.now - flight.since >= TIMEOUT {
                    self.limbo.push(Limbo { ranges, drained_then });
                }
                context.flight = None;
                context.status = context.handle.as_ref().unwrap().status();
                self.detached += 1;
            }
        }
    }

    /// A context whose handles are gone is not used again: a new one takes its place.
    fn replace(&mut self, index: usize) {
        let events = Arc::clone(&self.events);
        let handle = WaitCtx::with_callback(move |delivery| {
            let done = delivery.take().expect("a delivery has its request");
            events.lock().unwrap().push(Event { context: index, status: delivery.status(), done });
        });
        self.contexts[index] =
            Context { handle: Some(handle), flight: None, status: Status::Unsupported, fd: false };
    }

    // ---- giving up ----

    fn cancel(&mut self) {
        let Some(index) = self.pick() else { return };
        let context = &mut self.contexts[index];
        self.device.cancel(context.handle.as_ref().unwrap());
        if let Some(flight) = &mut context.flight {
            flight.canceled = true;
        }
    }

    fn detach(&mut self) {
        let Some(index) = self.pick() else { return };
        let context = &mut self.contexts[index];
        let expected = context.flight.as_ref().is_some_and(|flight| !flight.detached);
        assert_eq!(context.handle.as_ref().unwrap().detach(), expected);
        if let Some(flight) = &mut context.flight {
            flight.detached = true;
        }
    }

    fn drop_handles(&mut self) {
        let Some(index) = self.pick() else { return };
        // A detached one is watched by its handle.
        if self.contexts[index].flight.as_ref().is_some_and(|flight| !flight.detached) {
            self.contexts[index].handle = None;
        }
    }

    fn wait_for_room(&mut self) {
        let told = Arc::new(AtomicU64::new(0));
        let waiter = Arc::clone(&told);
        self.device.on_room(move || {
            waiter.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(told.load(Ordering::SeqCst), 0, "nothing has become free since");
        self.waiters.push(told);
    }

    fn hold_or_drop_a_buffer(&mut self) {
        if self.rng.one_in(2) && !self.idle.is_empty() {
            let index = self.rng.below(self.idle.len());
            self.idle.swap_remove(index);
        } else {
            let len = self.rng.below(4000);
            if let Some(mut buffer) = self.buffer(len) {
                let number = self.rng.next() as u8;
                let capacity = buffer.capacity();
                buffer.set_len(capacity).unwrap();
                buffer.fill(number);
                self.idle.push((buffer, number));
            }
        }
    }

    fn act(&mut self) {
        match self.rng.below(100) {
            0..=29 => self.submit_shared(),
            30..=44 => self.submit_burst(),
            45..=59 => {
                let max = self.rng.below(8);
                self.sim.step_n(max);
            }
            60..=79 => self.poll(),
            80..=84 => self.cancel(),
            85..=88 => self.detach(),
            89 => self.drop_handles(),
            90..=92 => self.wait_for_room(),
            93..=96 => self.hold_or_drop_a_buffer(),
            97 => self.check_idle(),
            98 => {
                let by = self.rng.below(800) as u64;
                self.now += by;
                self.clock.advance(Duration::from_millis(by));
            }
            _ => {
                if self.rng.one_in(4) {
                    self.drain();
                    self.check_counters();
                }
            }
        }
    }

    fn drain(&mut self) {
        // Messages first: a pass with nothing completed takes them.
        self.poll();
        while self.outstanding() > 0 {
            self.sim.step();
            let before = self.drained;
            self.poll();
            assert!(self.drained > before, "{} requests are lost", self.outstanding());
        }
    }

    fn check_counters(&mut self) {
        assert!(self.contexts.iter().all(|context| context.flight.is_none()), "a quiet moment");
        let stats = self.device.stats();
        assert_balanced(&stats);
        assert_eq!(stats.accepted, self.accepted);
        assert_eq!(stats.completed, self.completed);
        assert_eq!(stats.errors, self.errors);
        assert_eq!(stats.detached, self.detached);
        assert_eq!(stats.eagain, self.eagain);
        assert_eq!(stats.refused, self.refused);
        assert_eq!((stats.quarantined, stats.panics, stats.leaked_bytes), (0, 0, 0));
        assert_eq!(self.poller.as_ref().map_or(0, ManualPoller::in_flight), 0);
        assert!(self.sim.stats().last_fault.is_none(), "{:?}", self.sim.stats().last_fault);
        self.limbo.clear();
    }

    /// After everything has ended each queue takes exactly its capacity.
    fn check_capacity(&mut self) {
        let mut filled = Vec::new();
        let (device, key) = (self.device.clone(), self.key.clone());
        let mut fill = |submit: &mut dyn FnMut(Request, &WaitCtx) -> Result<(), Refused>, depth: u64| {
            let mut count = 0;
            loop {
                let ctx = WaitCtx::new();
                match submit(small(&device, &key, 16), &ctx) {
                    Ok(()) => count += 1,
                    Err(refused) => {
                        assert_eq!(refused.reason(), Reason::RingFull);
                        break;
                    }
                }
                filled.push(ctx);
            }
            assert_eq!(count, depth, "a slot is lost, or there is one too many");
        };
        fill(&mut |request, ctx| request.submit(ctx), self.depth);
        for queue in &mut self.owned {
            assert_eq!(u64::from(queue.capacity()), self.depth);
            fill(&mut |request, ctx| queue.submit(request, ctx), self.depth);
        }
        self.accepted += filled.len() as u64;
        self.eagain += 1 + self.owned.len() as u64;
        self.drain();
        for ctx in filled {
            assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes));
            self.completed += 1;
        }
        self.check_counters();
    }

    /// Shuts down in the middle of traffic.
    fn shut_down(&mut self) {
        for _ in 0..3 {
            self.submit_shared();
            self.submit_burst();
        }
        let before = std::mem::take(&mut self.waiters);
        let poller = self.poller.take().unwrap();
        if self.rng.one_in(2) {
            poller.shutdown()
        } else {
            drop(poller)
        }
        assert_eq!(self.device.state(), DeviceState::Closed);
        self.take_events();
        self.settle();
        assert!(
            before.iter().all(|waiter| waiter.load(Ordering::SeqCst) == 1),
            "a waiter was not told of the end"
        );
        assert!(self.contexts.iter().all(|context| context.flight.is_none()), "a request has no end");
        self.check_counters();
        for _ in 0..5 {
            self.submit_shared();
            self.submit_burst();
        }
        self.check_counters();
        self.check_idle();
    }
}

fn assert_balanced(stats: &Stats) {
    assert_eq!(stats.accepted, stats.deliveries + stats.detached, "{stats:?}");
    assert_eq!(stats.deliveries, stats.completed + stats.errors, "{stats:?}");
}

fn random_run(seed: u64, queues: usize, size: u16, indirect: bool, event_idx: bool, actions: usize) -> Stats {
    let mut world = World::new(seed, queues, size, indirect, event_idx);
    let free = world.device.free_bytes();
    for _ in 0..actions {
        world.act();
    }
    world.drain();
    world.check_counters();
    world.check_capacity();
    world.idle.clear();
    assert_eq!(world.device.free_bytes(), free, "a buffer is lost");
    for _ in 0..actions / 10 {
        world.act();
    }
    world.shut_down();
    world.idle.clear();
    common::assert_all_back(&world.device, free);
    // The counts of the poller's own doing agree with what was seen; a detached request that was
    // cancelled too is no delivery.
    let stats = world.device.stats();
    assert!(stats.canceled >= world.canceled && stats.expired >= world.expired);
    stats
}

#[test]
fn random_interleavings_lose_nothing_and_deliver_nothing_twice() {
    let mut seen = Stats::default();
    let mut seed = 0;
    for size in [8, 64, 256] {
        for queues in 1..=3 {
            for indirect in [true, false] {
                for event_idx in [true, false] {
                    for _ in 0..2 {
                        seed += 1;
                        let caught = std::panic::catch_unwind(|| {
                            random_run(seed, queues, size, indirect, event_idx, 3000)
                        });
                        match caught {
                            Ok(stats) => {
                                seen.accepted += stats.accepted;
                                seen.detached += stats.detached;
                                seen.canceled += stats.canceled;
                                seen.expired += stats.expired;
                                seen.eagain += stats.eagain;
                            }
                            Err(panic) => {
                                println!(
                                    "seed {seed}: {queues} queues of {size}, indirect {indirect}, event_idx {event_idx}"
                                );
                                std::panic::resume_unwind(panic);
                            }
                        }
                    }
                }
            }
        }
    }
    // The runs went where they were to go.
    assert!(seen.accepted > 10_000 && seen.eagain > 500, "{seen:?}");
    assert!(seen.detached > 500 && seen.canceled > 500 && seen.expired > 20, "{seen:?}");
}

// ---- on threads ----

/// One context of a submitting thread: what it was accepted for and what came.
#[derive(Default)]
struct Tally {
    accepted: AtomicU64,
    called: AtomicU64,
}

/// Four threads submit, callbacks submit again, another thread cancels and one more detaches; the
/// poller is shut down in the middle.
fn stress(address: &str, seed: u64, config: PollerConfig, rounds: u64) {
    let device = Device::open(address).unwrap();
    let poller = Poller::spawn(&device, config).unwrap();
    let key = zero_key(&device, Cipher::Aes256Ctr);
    let free = device.free_bytes();
    let over = Arc::new(AtomicBool::new(false));
    let down = Arc::new(AtomicBool::new(false));
    let after = Arc::new(AtomicU64::new(0));
    let shared: Arc<Mutex<HashMap<usize, WaitCtx>>> = Arc::default();
    let tallies: Vec<_> = (0..64).map(|_| Arc::new(Tally::default())).collect();
    let contexts: Vec<_> = tallies
        .iter()
        .enumerate()
        .map(|(number, tally)| {
            let (tally, down, after, over) =
                (Arc::clone(tally), Arc::clone(&down), Arc::clone(&after), Arc::clone(&over));
            let callback = move |delivery: &Delivery<'_>| {
                if down.load(Ordering::SeqCst) {
                    after.fetch_add(1, Ordering::SeqCst);
                }
                tally.called.fetch_add(1, Ordering::SeqCst);
                // Every third context goes on by itself. (The request's buffers are gone after a
                // cancel: that submit is refused.)
                if number % 3 == 0
                    && !over.load(Ordering::SeqCst)
                    && let Some(done) = delivery.take()
                    && done.into_request().submit(delivery).is_ok()
                {
                    tally.accepted.fetch_add(1, Ordering::SeqCst);
                }
            };
            let ctx = if number % 2 == 0 {
                WaitCtx::with_callback_and_fd(callback).unwrap()
            } else {
                WaitCtx::with_callback(callback)
            };
            shared.lock().unwrap().insert(number, ctx.clone());
            ctx
        })
        .collect();
    let mut threads = Vec::new();
    for thread in 0..4 {
        let (device, key, over) = (device.clone(), key.clone(), Arc::clone(&over));
        let mine: Vec<_> = (0..16)
            .map(|n| (contexts[16 * thread + n].clone(), Arc::clone(&tallies[16 * thread + n])))
            .collect();
        threads.push(std::thread::spawn(move || {
            let mut rng = Rng::new(seed * 10 + thread as u64);
            let mut down = 0;
            while down < 100 {
                let (ctx, tally) = &mine[rng.below(16)];
                drop(ctx.take_ready());
                let Ok(mut buffer) = device.buffer(rng.below(600)) else {
                    std::thread::yield_now();
                    continue;
                };
                buffer.fill(thread as u8);
                match key.encrypt(&[7; 16], buffer).submit(ctx) {
                    Ok(()) => {
                        tally.accepted.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(refused) => match refused.reason() {
                        Reason::DeviceDown => down += 1,
                        Reason::RingFull => std::thread::yield_now(),
                        Reason::ContextBusy => {}
                        other => panic!("{other:?}"),
                    },
                }
                if over.load(Ordering::SeqCst) && rng.one_in(4) {
                    std::thread::yield_now();
                }
            }
        }));
    }
    let canceller = {
        let (device, over, shared) = (device.clone(), Arc::clone(&over), Arc::clone(&shared));
        std::thread::spawn(move || {
            let mut rng = Rng::new(seed * 10 + 9);
            while !over.load(Ordering::SeqCst) {
                let ctx = shared.lock().unwrap()[&rng.below(64)].clone();
                if rng.one_in(4) {
                    ctx.detach();
                } else {
                    device.cancel(&ctx);
                }
                std::thread::yield_now();
            }
        })
    };
    // In the middle of traffic, by count.
    wait_until("traffic", || device.stats().accepted >= rounds || device.state() == DeviceState::Failed);
    assert_ne!(device.state(), DeviceState::Failed, "{address}: no fault was made here");
    poller.shutdown();
    down.store(true, Ordering::SeqCst);
    let stopped = device.stats();
    over.store(true, Ordering::SeqCst);
    for thread in threads {
        thread.join().unwrap();
    }
    canceller.join().unwrap();
    let stats = device.stats();
    assert_balanced(&stats);
    // A submit that was under way when the queue was reaped may be accepted, and is then ended by
    // its own thread; nothing else comes after shutdown has returned.
    assert!(stats.accepted - stopped.accepted <= 4, "{stopped:?} {stats:?}");
    assert!(
        after.load(Ordering::SeqCst) <= stats.accepted - stopped.accepted,
        "callbacks after the shutdown"
    );
    assert_eq!((stats.panics, stats.quarantined, stats.leaked_bytes), (0, 0, 0));
    let sum = |f: fn(&Tally) -> &AtomicU64| {
        tallies.iter().map(|tally| f(tally).load(Ordering::SeqCst)).sum::<u64>()
    };
    assert_eq!(sum(|tally| &tally.accepted), stats.accepted);
    assert_eq!(sum(|tally| &tally.called), stats.deliveries);
    assert!(contexts.iter().all(|ctx| !ctx.is_busy()));
    for tally in &tallies {
        let (accepted, called) = (tally.accepted.load(Ordering::SeqCst), tally.called.load(Ordering::SeqCst));
        assert!(called <= accepted, "{called} calls for {accepted} requests");
    }
    for ctx in &contexts {
        drop(ctx.take());
    }
    common::assert_all_back(&device, free);
}

#[test]
fn four_threads_callbacks_cancels_and_a_shutdown_lose_nothing() {
    for (number, address) in
        ["sim:", "sim:queues=3,order=shuffle", "sim:queue-size=8,order=shuffle", "sim:latency=20us"]
            .iter()
            .enumerate()
    {
        stress(
            address,
            number as u64,
            PollerConfig { request_timeout: FOR_EVER, ..Default::default() },
            20_000,
        );
    }
}

#[test]
fn shutdowns_without_grace_in_the_middle_of_traffic_lose_nothing() {
    for seed in 0..30 {
        let address =
            ["sim:latency=200us,order=shuffle", "sim:queues=2", "sim:queue-size=16"][seed as usize % 3];
        stress(address, 100 + seed, PollerConfig { grace: Duration::ZERO, ..Default::default() }, 500);
    }
}
