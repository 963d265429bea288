//! A stepped device with its poller, in its own time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringbell::sim::Sim;
use ringbell::{
    Answer, Cipher, CipherKey, Clock, Device, DeviceOptions, DeviceState, ManualClock, ManualPoller,
    PollerConfig, Reason, Request, Status, WaitCtx,
};

use crate::common::{self, assert_all_back, small, submit, zero_key};

pub const CIPHER: Cipher = Cipher::Aes128Ctr;
pub const ROUND: Duration = Duration::from_millis(20);

pub struct Bench {
    pub sim: Sim,
    pub device: Device,
    pub poller: Option<ManualPoller>,
    pub clock: ManualClock,
    pub key: CipherKey,
    pub free: usize,
}

pub fn options() -> DeviceOptions {
    DeviceOptions { control_timeout: Duration::from_millis(5), check_memory: true, ..Default::default() }
}

pub fn config(clock: &ManualClock) -> PollerConfig {
    PollerConfig {
        clock: Clock::Manual(clock.clone()),
        request_timeout: Duration::from_millis(800),
        ..Default::default()
    }
}

pub fn bench_with(sim: &str, options: &DeviceOptions) -> Bench {
    let clock = ManualClock::new();
    let (sim, device, poller) = common::stepped(sim, options, config(&clock));
    let key = zero_key(&device, CIPHER);
    let free = device.free_bytes();
    Bench { sim, device, poller: Some(poller), clock, key, free }
}

pub fn bench() -> Bench {
    bench_with("queue-size=8,queues=2", &options())
}

impl Bench {
    pub fn request(&self) -> Request {
        small(&self.device, &self.key, 64)
    }

    pub fn inject(&self, fault: &str) {
        self.sim.inject(fault.parse().unwrap());
    }

    /// The device and the poller once; time passes where neither has anything to do.
    pub fn round(&mut self) {
        let Some(poller) = &mut self.poller else { return };
        if self.sim.step() + poller.poll() == 0 {
            self.clock.advance(ROUND);
            self.sim.advance(ROUND);
            if self.device.state() == DeviceState::Resetting {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    pub fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        for _ in 0..3000 {
            if condition(self) {
                return;
            }
            self.round();
        }
        panic!("it never comes: {what}; {:?} {:?}", self.device.state(), self.device.stats());
    }

    pub fn until_state(&mut self, state: DeviceState) {
        self.until(&format!("{state:?}"), |bench| bench.device.state() == state);
    }

    /// Submits, again while there is no room for the moment.
    pub fn submit_patiently(&mut self, request: Request, ctx: &WaitCtx) {
        let mut request = Some(request);
        self.until("room", |_| match request.take().map(|request| request.submit(ctx)) {
            None | Some(Ok(())) => true,
            Some(Err(refused)) => {
                assert_eq!(refused.status(), Status::Eagain, "{refused}");
                request = Some(refused.into_request());
                false
            }
        });
    }

    /// Into a recovery that goes on until time passes: the first try fails, then there is a pause.
    pub fn go_into_recovery(&mut self) {
        self.inject("reset-fails@0:x2");
        self.until_state(DeviceState::Resetting);
    }

    /// Until nothing is under way, and some ticks more; then sessions are there.
    pub fn settle(&mut self) {
        for _ in 0..20 {
            self.until("quiet", |bench| {
                let stats = bench.device.stats();
                stats.quarantined == 0
                    && stats.accepted == stats.deliveries + stats.detached
                    && !matches!(bench.device.state(), DeviceState::Resetting | DeviceState::Suspect)
            });
            self.round();
        }
        if self.device.state() == DeviceState::Ready {
            self.key.prepare().unwrap();
        }
    }

    /// Counters balance, memory is back, and a full ring of requests is answered.
    pub fn check(&mut self) {
        let stats = self.device.stats();
        assert_eq!(stats.accepted, stats.deliveries + stats.detached, "{stats:?}");
        assert_eq!((stats.leaked_bytes, stats.stray_writes, stats.quarantined), (0, 0, 0), "{stats:?}");
        assert_eq!(self.sim.stats().last_fault, None);
        assert_all_back(&self.device, self.free);
        if self.device.state() != DeviceState::Ready {
            return;
        }
        let all: Vec<_> = (0..16).map(|_| WaitCtx::new()).collect();
        all.iter().for_each(|ctx| submit(self.request(), ctx));
        let refused = self.request().submit(&WaitCtx::new()).unwrap_err();
        assert_eq!(refused.reason(), Reason::RingFull);
        self.settle();
        all.iter().for_each(|ctx| assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes)));
    }
}

pub fn counting() -> (Arc<AtomicU64>, impl Fn() + Send + Sync + Clone + 'static) {
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    (count, move || {
        counter.fetch_add(1, Ordering::SeqCst);
    })
}

pub fn get(count: &AtomicU64) -> u64 {
    count.load(Ordering::SeqCst)
}
