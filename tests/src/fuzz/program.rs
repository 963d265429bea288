//! What the bytes make a program do with a device, and what must hold when all has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringbell::{
    Answer, Cipher, CipherKey, Clock, Completion, Device, DeviceOptions, DeviceState, Direction, ManualClock,
    ManualPoller, OwnedQueue, PollerConfig, Stats, Status, WaitCtx,
};
use ringbell_drivers::pci::PciFunction;

use super::others::{self, Others};
use crate::bytes::Bytes;

/// What callbacks count.
#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    delivered: AtomicU64,
    /// Requests that callbacks may submit again.
    again: AtomicU64,
    told: AtomicU64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// How a context tells; one of each in turn.
const KINDS: usize = 4;
const CONTEXTS: usize = 20;

fn context(kind: usize, counts: &Arc<Counts>) -> WaitCtx {
    let own = Arc::clone(counts);
    match kind % KINDS {
        0 => WaitCtx::with_callback(move |_| add(&own.delivered)),
        // Submits again what it gets, now and then.
        1 => WaitCtx::with_callback(move |delivery| {
            add(&own.delivered);
            let left = own.again.load(Ordering::Relaxed);
            if left > 0
                && let Some(done) = delivery.take()
            {
                own.again.store(left - 1, Ordering::Relaxed);
                if done.into_request().submit(delivery).is_ok() {
                    add(&own.accepted);
                }
            }
        }),
        2 => WaitCtx::new(),
        _ => WaitCtx::with_fd().unwrap_or_default(),
    }
}

fn tells(kind: usize) -> bool {
    kind % KINDS < 2
}

/// A program: a device, a poller that it polls, contexts, keys.
pub(super) struct Program {
    device: Device,
    poller: ManualPoller,
    clock: ManualClock,
    keys: Vec<CipherKey>,
    others: Option<Others>,
    /// Which of the others a context has in flight.
    other_at: [Option<usize>; CONTEXTS],
    contexts: Vec<WaitCtx>,
    owned: Option<OwnedQueue>,
    counts: Arc<Counts>,
    detached: u64,
    registered: u64,
    /// Bytes of DMA memory that were free at first.
    free: usize,
    /// What the first key makes of zeros, where the device can be believed.
    pub(super) truth: Option<Vec<u8>>,
}

impl Program {
    /// Opens the device; `None` where that fails, which is no fault.
    pub(super) fn open(function: Arc<dyn PciFunction>, bytes: &mut Bytes) -> Option<Self> {
        let shape = bytes.byte();
        let mut options = DeviceOptions {
            arena_bytes: 64 << 10,
            huge_pages: false,
            queue_size: if shape & 1 == 0 { 16 } else { 8 },
            control_timeout: Duration::from_micros(200),
            indirect: shape & 2 == 0,
            ..DeviceOptions::default()
        };
        options.event_idx = shape & 4 == 0;
        options.check_memory = shape & 32 == 0;
        let device = Device::from_function(function, &options).ok()?;
        let free = device.free_bytes();
        let clock = ManualClock::new();
        let config = PollerConfig {
            clock: Clock::Manual(clock.clone()),
            budget: if shape & 8 == 0 { 256 } else { 2 },
            recovery_tries: u32::from(shape >> 6),
            failover: shape & 0xc0 == 0x40,
            ..PollerConfig::default()
        };
        let poller = ManualPoller::new([&device], config).ok()?;
        let counts = Arc::new(Counts::default());
        let contexts = (0..CONTEXTS).map(|kind| context(kind, &counts)).collect();
        let mut program = Self {
            device,
            poller,
            clock,
            keys: Vec::new(),
            others: None,
            other_at: [None; CONTEXTS],
            contexts,
            owned: None,
            counts,
            detached: 0,
            registered: 0,
            free,
            truth: None,
        };
        program.new_key(0);
        if shape & 16 == 0
            && let Some(key) = program.keys.first()
        {
            // So that most bytes are not spent on waiting for the session.
            let _ = key.prepare_for(Direction::Encrypt, Duration::from_micros(300));
        }
        Some(program)
    }

    fn new_key(&mut self, which: u8) {
        let cipher = [Cipher::Aes128Cbc, Cipher::Aes256Ctr, Cipher::Aes192Ecb][usize::from(which % 3)];
        let key = [1 + which / 3; 32];
        if let Ok(key) = self.device.cipher_key(cipher, &key[..cipher.key_len()]) {
            self.keys.push(key);
        }
    }

    fn finish(&self, index: usize, done: &Completion) {
        add(&self.counts.delivered);
        let Some(truth) = &self.truth else { return };
        if done.result() == Ok(Answer::Yes) {
            let output: Vec<u8> = done.request().outputs().flatten().copied().collect();
            let truth = match self.other_at[index] {
                Some(which) => {
                    let truth = &others::truths()[which];
                    assert_eq!(truth.answer, Answer::Yes, "a yes to what is not so");
                    &truth.output
                }
                None => truth,
            };
            assert_eq!(output, truth[..output.len()], "a wrong result with the status of a right one");
        }
    }

    /// What a context without a callback has got.
    fn take(&self, index: usize) {
        let ctx = &self.contexts[index];
        if tells(index) {
            return;
        }
        if let Some(done) = ctx.take_ready() {
            let wanted = if done.result().is_ok() { Status::Ok } else { Status::Err };
            assert_eq!(ctx.status(), wanted, "the status is that of the delivery");
            self.finish(index, &done);
        }
    }

    fn submit(&mut self, bytes: &mut Bytes) {
        let index = bytes.below(CONTEXTS);
        let (how, len) = (bytes.byte(), bytes.byte());
        self.take(index);
        let Some(key) = self.keys.get(usize::from(how >> 4) % self.keys.len().max(1)) else { return };
        let len = usize::from(len) * if how & 1 == 0 { 16 } else { 5 };
        let Ok(mut input) = self.device.buffer(len) else { return };
        input.fill(0);
        let output = if how & 2 == 0 { None } else { self.device.buffer(len).ok() };
        // With a truth to compare with, only what has that one is asked.
        let (direction, key) = match (&self.truth, self.keys.first()) {
            (Some(_), Some(first)) => (Direction::Encrypt, first),
            _ if how & 4 == 0 => (Direction::Encrypt, key),
            _ => (Direction::Decrypt, key),
        };
        let iv = &[0; 16][..key.cipher().iv_len()];
        let request = key.request(direction, iv, input, output);
        let ctx = &self.contexts[index];
        let before = ctx.status();
        let busy = ctx.is_busy();
        let sent = match &mut self.owned {
            Some(owned) if how & 8 == 0 => owned.submit(request, ctx),
            _ => request.submit(ctx),
        };
        match sent {
            Ok(()) => {
                assert!(!busy, "a context carries one request");
                add(&self.counts.accepted);
                self.other_at[index] = None;
            }
            Err(_) if busy => assert_eq!(ctx.status(), before, "a refusal leaves a busy context alone"),
            Err(refused) => assert_eq!(ctx.status(), refused.status()),
        }
    }

    /// A request with a chain of its own.
    fn submit_other(&mut self, bytes: &mut Bytes) {
        let index = bytes.below(CONTEXTS);
        let (which, shape) = (bytes.below(others::COUNT), bytes.byte());
        self.take(index);
        let others = self.others.get_or_insert_with(|| Others::new(&self.device));
        let Some(request) = others.request(&self.device, which, shape) else { return };
        let ctx = &self.contexts[index];
        let (before, busy) = (ctx.status(), ctx.is_busy());
        let sent = match &mut self.owned {
            Some(owned) if shape & 0x80 == 0 => owned.submit(request, ctx),
            _ => request.submit(ctx),
        };
        match sent {
            Ok(()) => {
                assert!(!busy, "a context carries one request");
                add(&self.counts.accepted);
                self.other_at[index] = Some(which);
            }
            Err(_) if busy => assert_eq!(ctx.status(), before, "a refusal leaves a busy context alone"),
            Err(refused) => assert_eq!(ctx.status(), refused.status()),
        }
    }

    fn burst(&mut self, bytes: &mut Bytes) {
        let (count, first) = (bytes.below(6), bytes.below(CONTEXTS));
        for index in 0..count {
            self.take((first + index) % CONTEXTS);
        }
        let (Some(owned), Some(key)) = (&mut self.owned, self.keys.first()) else { return };
        let other_at = &mut self.other_at;
        let accepted = owned.burst(|burst| {
            let mut accepted = 0;
            for index in 0..count {
                let Ok(mut buffer) = self.device.buffer(32) else { break };
                buffer.fill(0);
                let request = key.encrypt(&[0; 16], buffer);
                let at = (first + index) % CONTEXTS;
                if burst.submit(request, &self.contexts[at]).is_ok() {
                    accepted += 1;
                    other_at[at] = None;
                }
            }
            accepted
        });
        self.counts.accepted.fetch_add(accepted, Ordering::Relaxed);
    }

    /// One step of the program.
    pub(super) fn step(&mut self, bytes: &mut Bytes) {
        let what = bytes.byte();
        if what >= 240 {
            return self.submit_other(bytes);
        }
        match what % 20 {
            0..=4 => self.submit(bytes),
            5 => self.burst(bytes),
            6..=9 => {
                self.poller.poll();
            }
            10 => {
                let _ = self.poller.wait(Some(Duration::ZERO));
                self.poller.poll();
            }
            11 => self.clock.advance(Duration::from_millis(u64::from(bytes.byte()) * 4)),
            12 => self.device.cancel(&self.contexts[bytes.below(CONTEXTS)]),
            13 => self.detached += u64::from(self.contexts[bytes.below(CONTEXTS)].detach()),
            14 => self.detached += u64::from(self.contexts[bytes.below(CONTEXTS)].release()),
            15 => self.take(bytes.below(CONTEXTS)),
            16 => {
                // Dropped by its program: what it has in flight goes on.
                let index = bytes.below(CONTEXTS);
                if tells(index) {
                    self.contexts[index] = context(index, &self.counts);
                }
            }
            17 => self.owned = if self.owned.is_some() { None } else { self.device.owned_queue().ok() },
            18 => {
                let over = matches!(self.device.state(), DeviceState::Failed | DeviceState::Closed);
                if !over && self.registered < 64 {
                    let counts = Arc::clone(&self.counts);
                    self.device.on_room(move || add(&counts.told));
                    self.registered += 1;
                }
                self.counts.again.store(bytes.below(8) as u64, Ordering::Relaxed);
            }
            _ => {
                let which = bytes.byte();
                if which & 1 == 0 && self.keys.len() < 6 {
                    self.new_key(which >> 1);
                } else if self.keys.len() > 1 {
                    self.keys.pop();
                }
            }
        }
    }

    /// Time passes for the poller.
    pub(super) fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
        self.poller.poll();
    }

    /// Ends all, and says what must hold then. Returns the counts.
    pub(super) fn end(self) -> Stats {
        let Self {
            device,
            poller,
            clock,
            keys,
            others,
            contexts,
            owned,
            counts,
            detached,
            registered,
            free,
            ..
        } = self;
        assert!(poller.in_flight() <= counts.accepted.load(Ordering::Relaxed));
        counts.again.store(0, Ordering::Relaxed);
        clock.advance(Duration::from_secs(10));
        poller.shutdown();
        assert!(matches!(device.state(), DeviceState::Failed | DeviceState::Closed));
        for (index, ctx) in contexts.iter().enumerate() {
            assert!(!ctx.is_busy(), "nothing is in flight");
            assert!(!ctx.detach());
            if !tells(index) && ctx.take().is_some() {
                add(&counts.delivered);
            }
        }
        if let (Some(key), Ok(buffer)) = (keys.first(), device.buffer(16)) {
            let refused = key.encrypt(&[0; 16][..key.cipher().iv_len()], buffer).submit(&contexts[0]);
            assert_eq!(refused.err().map(|refused| refused.status()), Some(Status::Err), "it is over");
        }
        let stats = device.stats();
        let accepted = counts.accepted.load(Ordering::Relaxed);
        assert_eq!(stats.accepted, accepted, "{stats:?}");
        assert_eq!(stats.detached, detached, "{stats:?}");
        assert_eq!(stats.deliveries + stats.detached, accepted, "each ends once: {stats:?}");
        assert_eq!(stats.deliveries, stats.completed + stats.errors, "{stats:?}");
        assert_eq!(counts.delivered.load(Ordering::Relaxed), stats.deliveries, "{stats:?}");
        assert_eq!(stats.panics, 0);
        assert_eq!(counts.told.load(Ordering::Relaxed), registered, "who waits for room is told once");
        let had_long_keys = others.is_some();
        // Requests, with buffers and keys, are in contexts.
        drop((contexts, keys, others, owned));
        let large = if had_long_keys { LARGE_CONTROL_BUFFERS } else { 0 };
        let kept = CONTROL_BUFFERS + large + stats.leaked_bytes as usize;
        assert!(
            device.free_bytes() + kept >= free,
            "{} of {free} bytes are back: {stats:?}",
            device.free_bytes()
        );
        stats
    }
}

/// The control queue keeps the buffers of its commands, a few hundred bytes each.
const CONTROL_BUFFERS: usize = 4096;

/// Those with long keys have larger ones: at most as many as its ring holds commands.
const LARGE_CONTROL_BUFFERS: usize = 8 * 4224;
