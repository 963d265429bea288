//! One device, its simulator and its poller in one cell of the matrix: requests that are followed
//! from submit to their end, rounds of the device and the poller, what has to hold afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringbell::sim::Sim;
use ringbell::{
    Answer, Cipher, CipherKey, Clock, Completion, Device, DeviceOptions, DeviceState, DeviceStatus,
    Direction, Fault, ManualClock, ManualPoller, OwnedBurst, OwnedQueue, PollerConfig, Reason, Refused,
    Request, Stats, Status, WaitCtx,
};

use crate::common::{Rng, assert_all_back, oracle, stepped};

/// Time that passes in a round in which nothing happens.
const ROUND: Duration = Duration::from_millis(20);
/// Rounds without anything to do until the world counts as quiet: 400 ms, some ticks of the poller.
const CALM: u32 = 20;
/// Rounds until a wait counts as one without end: 60 s.
const ENDLESS: u32 = 3000;
/// Tries of a patient submit: 6 s.
const PATIENCE: u32 = 300;

const CIPHER: Cipher = Cipher::Aes128Ctr;
const LEN: usize = 64;

/// How the contexts of a cell are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    Callback,
    Fd,
}

/// Entries of each queue.
pub const DEPTH: usize = 8;

/// A request that is followed.
pub struct Tracked {
    /// Requests of one group are shown together.
    group: usize,
    ctx: WaitCtx,
    calls: Arc<AtomicU64>,
    plain: Vec<u8>,
    expected: Vec<u8>,
    separate: bool,
    accepted: bool,
    /// How it ended, one letter; see `crate::LEGEND`.
    end: Option<char>,
}

pub struct World {
    pub sim: Sim,
    pub device: Device,
    pub poller: Option<ManualPoller>,
    pub clock: ManualClock,
    /// With live sessions.
    pub key: CipherKey,
    /// Without.
    pub other: CipherKey,
    key_bytes: [[u8; 16]; 2],
    pub owned: Option<OwnedQueue>,
    wake: Wake,
    rng: Rng,
    requests: Vec<Tracked>,
    /// Ends of requests that were looked at and dropped.
    free: usize,
    /// The last submit was refused because its session was not there.
    session_pending: bool,
    accepted: u64,
    eagain: u64,
    refused: u64,
    ended: [u64; 3],
}

/// How a poller of the matrix works, but for what a kind of fault wants otherwise.
pub fn poller_config() -> PollerConfig {
    PollerConfig {
        request_timeout: Duration::from_millis(800),
        stall_limit: Duration::from_secs(2),
        ..Default::default()
    }
}

impl World {
    pub fn new(
        sim: &str,
        wake: Wake,
        options: &DeviceOptions,
        mut config: PollerConfig,
        with_owned: bool,
    ) -> Self {
        let clock = ManualClock::new();
        config.clock = Clock::Manual(clock.clone());
        let queues = if with_owned { 2 } else { 1 };
        let comma = if sim.is_empty() { "" } else { "," };
        let text = format!("queue-size={DEPTH},queues={queues},seed=5{comma}{sim}");
        let (sim, device, poller) = stepped(&text, options, config);
        let mut rng = Rng::new(7);
        let key_bytes = [0; 2].map(|_| <[u8; 16]>::try_from(rng.bytes(16)).unwrap());
        let [key, other] = key_bytes.each_ref().map(|bytes| device.cipher_key(CIPHER, bytes).unwrap());
        key.prepare().unwrap();
        let owned = with_owned.then(|| device.owned_queue().unwrap());
        let free = device.free_bytes();
        Self {
            sim,
            device,
            poller: Some(poller),
            clock,
            key,
            other,
            key_bytes,
            owned,
            wake,
            rng,
            requests: Vec::new(),
            free,
            session_pending: false,
            accepted: 0,
            eagain: 0,
            refused: 0,
            ended: [0; 3],
        }
    }

    pub fn inject(&self, fault: &str) {
        self.sim.inject(fault.parse().unwrap_or_else(|error| panic!("{fault}: {error}")));
    }

    // ---- submitting ----

    /// A request with the first key (or the other one) and what it is followed by.
    pub fn make(&mut self, group: usize, other: bool) -> (Request, Tracked) {
        let plain = self.rng.bytes(LEN);
        let iv: [u8; 16] = self.rng.bytes(16).try_into().unwrap();
        let bytes = &self.key_bytes[usize::from(other)];
        let expected = oracle(CIPHER, Direction::Encrypt, bytes, &iv, &plain);
        let separate = self.rng.one_in(2);
        let input = self.device.buffer_from(&plain).expect("a buffer");
        let output = separate.then(|| {
            let mut output = self.device.buffer(LEN).expect("a buffer");
            output.fill(0);
            output
        });
        let key = if other { &self.other } else { &self.key };
        let request = key.request(Direction::Encrypt, &iv, input, output);
        let calls = Arc::new(AtomicU64::new(0));
        let ctx = match self.wake {
            Wake::Callback => {
                let calls = Arc::clone(&calls);
                WaitCtx::with_callback(move |delivery| {
                    assert!(matches!(delivery.status(), Status::Ok | Status::Err));
                    calls.fetch_add(1, Ordering::SeqCst);
                })
            }
            Wake::Fd => WaitCtx::with_fd().unwrap(),
        };
        let tracked = Tracked { group, ctx, calls, plain, expected, separate, accepted: false, end: None };
        (request, tracked)
    }

    /// Notes the answer to a submit. With `EAGAIN` the request comes back.
    pub fn note(&mut self, mut tracked: Tracked, answer: Result<(), Refused>) -> Option<(Request, Tracked)> {
        self.session_pending = false;
        match answer {
            Ok(()) => {
                self.accepted += 1;
                tracked.accepted = true;
            }
            Err(refused) => {
                assert_eq!(tracked.ctx.status(), refused.status(), "a refusal and its context");
                assert!(!tracked.ctx.is_busy(), "a refused request's context");
                let reason = refused.reason();
                let state = self.device.state();
                let request = refused.into_request();
                assert_eq!(request.input(), tracked.plain, "a refused request has changed");
                if reason.status() == Status::Eagain {
                    self.eagain += 1;
                    self.session_pending = reason == Reason::SessionPending;
                    if reason == Reason::Resetting {
                        assert_eq!(state, DeviceState::Resetting, "refused with Resetting");
                    }
                    return Some((request, tracked));
                }
                self.refused += 1;
                match reason {
                    Reason::DeviceDown => {
                        assert!(matches!(state, DeviceState::Failed | DeviceState::Closed), "{state:?}")
                    }
                    Reason::SessionRefused => {}
                    other => panic!("refused: {other:?}"),
                }
                tracked.end = Some('x');
            }
        }
        self.requests.push(tracked);
        None
    }

    /// One request to the shared queue that has to be accepted at once.
    pub fn submit(&mut self, group: usize) {
        let (request, tracked) = self.make(group, false);
        let answer = request.submit(&tracked.ctx);
        if let Some((request, tracked)) = self.note(tracked, answer) {
            let state = self.device.state();
            panic!("EAGAIN in state {state:?}: {request:?}, {:?}", tracked.ctx);
        }
    }

    /// The same from another thread, which has ended when this returns. `EAGAIN` is tried again
    /// later: the caller hands what comes back to [`again`](Self::again).
    pub fn submit_elsewhere(&mut self, group: usize) -> Option<(Request, Tracked)> {
        let (request, tracked) = self.make(group, false);
        let ctx = &tracked.ctx;
        let answer = std::thread::scope(|scope| scope.spawn(|| request.submit(ctx)).join().unwrap());
        self.note(tracked, answer)
    }

    /// One request into a burst; what is refused with `EAGAIN` comes back.
    pub fn push(&mut self, group: usize, burst: &mut OwnedBurst<'_, '_, '_>) -> Option<(Request, Tracked)> {
        let (request, tracked) = self.make(group, false);
        let answer = burst.submit(request, &tracked.ctx);
        self.note(tracked, answer)
    }

    /// One request, again and again while the answer is `EAGAIN`, with rounds in between.
    pub fn submit_patiently(&mut self, group: usize, other: bool) {
        let made = self.make(group, other);
        self.again(Some(made), false);
    }

    /// Tries again what was refused with `EAGAIN`.
    pub fn again(&mut self, mut refused: Option<(Request, Tracked)>, to_owned: bool) {
        for _ in 0..PATIENCE {
            let Some((request, tracked)) = refused else { return };
            let answer = match self.owned.as_mut().filter(|_| to_owned) {
                Some(queue) => queue.submit(request, &tracked.ctx),
                None => request.submit(&tracked.ctx),
            };
            refused = self.note(tracked, answer);
            if refused.is_some() {
                self.round();
            }
        }
        let Some((_, mut tracked)) = refused else { return };
        tracked.end = Some('a');
        self.requests.push(tracked);
    }

    // ---- going on ----

    /// At most one completion by the device, one pass of the poller; where neither had anything to
    /// do, time passes.
    pub fn round(&mut self) -> bool {
        let Some(poller) = &mut self.poller else { return false };
        if self.sim.step_n(1) + poller.poll() > 0 {
            return true;
        }
        self.clock.advance(ROUND);
        self.sim.advance(ROUND);
        if self.session_pending || self.device.state() == DeviceState::Resetting {
            // The control queue and resets are waited for in real time.
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }

    pub fn rounds(&mut self, count: u32) {
        for _ in 0..count {
            self.round();
        }
    }

    fn is_quiet(&self) -> bool {
        let stats = self.device.stats();
        self.requests.iter().all(|request| !request.ctx.is_busy())
            && self.poller.as_ref().is_none_or(|poller| poller.in_flight() == 0)
            && stats.quarantined == 0
            && self.device.state() != DeviceState::Resetting
    }

    /// Rounds until nothing is in flight, in quarantine or being reset, and for some ticks more.
    pub fn settle(&mut self) {
        let mut calm = 0;
        for _ in 0..ENDLESS {
            let busy = self.round();
            calm = if !busy && self.is_quiet() { calm + 1 } else { 0 };
            if calm == CALM {
                return;
            }
        }
        panic!(
            "no end: {:?}, {} in flight, {:?}, the device: {:?}",
            self.device.state(),
            self.poller.as_ref().map_or(0, ManualPoller::in_flight),
            self.device.stats(),
            self.sim.stats()
        );
    }

    /// The same where there is a poller still.
    pub fn settle_if_open(&mut self) {
        if self.poller.is_some() {
            self.settle();
        }
    }

    // ---- what has to hold ----

    /// Looks at how each request ended; the letters of all since the last call, a point between groups.
    pub fn ends(&mut self) -> String {
        let mut text = String::new();
        let mut requests = std::mem::take(&mut self.requests);
        requests.sort_by_key(|request| request.group);
        let mut group = requests.first().map_or(0, |request| request.group);
        for tracked in requests {
            if tracked.group != group {
                text.push('.');
                group = tracked.group;
            }
            text.push(self.end(&tracked));
        }
        text
    }

    fn end(&mut self, tracked: &Tracked) -> char {
        let told = match self.wake {
            Wake::Callback => tracked.calls.load(Ordering::SeqCst),
            Wake::Fd => counter(&tracked.ctx),
        };
        let done = tracked.ctx.take();
        assert!(!tracked.ctx.is_busy(), "a request has no end");
        if !tracked.accepted {
            assert!(told == 0 && done.is_none(), "a refused request was delivered");
            return tracked.end.unwrap();
        }
        assert_eq!(told, 1, "deliveries of one request");
        let done = done.expect("a delivered request is in its context");
        let result = done.result();
        let status = if result.is_ok() { Status::Ok } else { Status::Err };
        assert_eq!(tracked.ctx.status(), status, "the context of {result:?}");
        let whole = !done.request().input().is_empty();
        self.ended[0] += 1;
        self.ended[1] += u64::from(result.is_ok());
        self.ended[2] += u64::from(result == Err(Fault::TimedOut));
        if whole && tracked.separate {
            assert_eq!(done.request().input(), tracked.plain, "a separate input has changed");
        }
        assert!(!done.by_software());
        letter(&done, &tracked.expected, whole)
    }

    /// The counters against what was seen. Everything that was accepted was looked at.
    pub fn check_stats(&mut self, stray: bool) -> Stats {
        assert!(self.requests.is_empty());
        let stats = self.device.stats();
        let [deliveries, completed, expired] = self.ended;
        assert_eq!(stats.accepted, self.accepted, "{stats:?}");
        assert_eq!((stats.deliveries, stats.detached), (self.accepted, 0), "{stats:?}");
        assert_eq!((stats.deliveries, stats.completed), (deliveries, completed), "{stats:?}");
        assert_eq!(stats.errors, deliveries - completed, "{stats:?}");
        assert_eq!((stats.eagain, stats.refused), (self.eagain, self.refused), "{stats:?}");
        assert_eq!((stats.expired, stats.canceled, stats.quarantined), (expired, 0, 0), "{stats:?}");
        assert_eq!((stats.panics, stats.failed_over, stats.leaked_bytes), (0, 0, 0), "{stats:?}");
        if !stray {
            assert_eq!(stats.stray_writes, 0, "free memory was written");
        }
        assert_eq!(self.poller.as_ref().map_or(0, ManualPoller::in_flight), 0);
        assert_eq!(self.sim.stats().last_fault, None, "what the device says of its driver");
        stats
    }

    /// All memory is back. On a device that failed the rings may be gone too.
    pub fn check_memory(&self) {
        if self.device.state() == DeviceState::Failed {
            assert!(self.device.free_bytes() + 8 * 256 >= self.free, "a buffer is lost");
        } else {
            assert_all_back(&self.device, self.free);
        }
    }

    /// No slot is lost: each queue takes as many requests as it has entries, not one more, and they
    /// end well.
    pub fn check_full_rings(&mut self) {
        self.submit_patiently(0, false);
        self.settle();
        assert_eq!(self.ends(), "+", "a request after it all");
        let queues = if self.owned.is_some() { 2 } else { 1 };
        for queue in 0..queues {
            for number in 0..=DEPTH {
                let (request, tracked) = self.make(queue, false);
                let answer = match self.owned.as_mut().filter(|_| queue == 1) {
                    Some(owned) => owned.submit(request, &tracked.ctx),
                    None => request.submit(&tracked.ctx),
                };
                let reason = answer.as_ref().err().map(Refused::reason);
                assert_eq!(
                    reason,
                    (number == DEPTH).then_some(Reason::RingFull),
                    "request {number} of queue {queue}: a slot is lost, or there is one too many"
                );
                drop(self.note(tracked, answer));
            }
        }
        self.settle();
        let all = "+".repeat(DEPTH);
        assert_eq!(self.ends(), vec![all; queues].join("."), "full rings after it all");
    }
}

/// How its device is opened.
pub fn device_options() -> DeviceOptions {
    DeviceOptions {
        control_timeout: Duration::from_millis(5),
        check_memory: true,
        huge_pages: false,
        arena_bytes: 1 << 20,
        ..Default::default()
    }
}

/// The wait fd's counter; 0 where it is not readable.
fn counter(ctx: &WaitCtx) -> u64 {
    let mut bytes = [0; 8];
    match nix::unistd::read(ctx.fd().unwrap(), &mut bytes) {
        Ok(8) => u64::from_ne_bytes(bytes),
        Err(nix::errno::Errno::EAGAIN) => 0,
        other => panic!("{other:?}"),
    }
}

fn letter(done: &Completion, expected: &[u8], whole: bool) -> char {
    let by_buffers = |with: char, without: char| if whole { with } else { without };
    match done.result() {
        Ok(Answer::Yes) => {
            assert!(done.request().output() == expected, "not what libcrypto says");
            '+'
        }
        Ok(Answer::No) => 'n',
        Err(Fault::Device(DeviceStatus::InvalidSession)) => 'i',
        Err(Fault::Device(_)) => 'e',
        Err(Fault::TimedOut) => {
            assert!(!whole, "the device has the buffers of what timed out");
            'T'
        }
        Err(Fault::DeviceFailed) => by_buffers('F', 'f'),
        Err(Fault::Shutdown) => by_buffers('S', 's'),
        other => panic!("{other:?}"),
    }
}
