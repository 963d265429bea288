//! Recovery at the points of a request's and a device's life: giving up while the device is being
//! reset, callbacks that do what callbacks do meanwhile, the ends of pollers, neighbours, sleepers.
//! What each fault ends with by itself is the matrix's affair (`faults`).

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{FOR_EVER, assert_all_back, run, small, submit, wait_until, zero_key};
use ringbell::sim::{FaultKind, Sim};
use ringbell::{
    Answer, Cipher, CipherKey, Clock, Delivery, Device, DeviceOptions, DeviceState, Fault, ManualClock,
    ManualPoller, Poller, PollerConfig, Reason, Request, Status, WaitCtx,
};

const CIPHER: Cipher = Cipher::Aes128Ctr;
const ROUND: Duration = Duration::from_millis(20);

struct Bench {
    sim: Sim,
    device: Device,
    poller: Option<ManualPoller>,
    clock: ManualClock,
    key: CipherKey,
    free: usize,
}

fn options() -> DeviceOptions {
    DeviceOptions { control_timeout: Duration::from_millis(5), check_memory: true, ..Default::default() }
}

fn config(clock: &ManualClock) -> PollerConfig {
    PollerConfig {
        clock: Clock::Manual(clock.clone()),
        request_timeout: Duration::from_millis(800),
        ..Default::default()
    }
}

fn bench_with(sim: &str, options: &DeviceOptions) -> Bench {
    let clock = ManualClock::new();
    let (sim, device, poller) = common::stepped(sim, options, config(&clock));
    let key = zero_key(&device, CIPHER);
    let free = device.free_bytes();
    Bench { sim, device, poller: Some(poller), clock, key, free }
}

fn bench() -> Bench {
    bench_with("queue-size=8,queues=2", &options())
}

impl Bench {
    fn request(&self) -> Request {
        small(&self.device, &self.key, 64)
    }

    fn inject(&self, fault: &str) {
        self.sim.inject(fault.parse().unwrap());
    }

    /// The device and the poller once; time passes where neither has anything to do.
    fn round(&mut self) {
        let Some(poller) = &mut self.poller else { return };
        if self.sim.step() + poller.poll() == 0 {
            self.clock.advance(ROUND);
            self.sim.advance(ROUND);
            if self.device.state() == DeviceState::Resetting {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        for _ in 0..3000 {
            if condition(self) {
                return;
            }
            self.round();
        }
        panic!("it never comes: {what}; {:?} {:?}", self.device.state(), self.device.stats());
    }

    fn until_state(&mut self, state: DeviceState) {
        self.until(&format!("{state:?}"), |bench| bench.device.state() == state);
    }

    /// Submits, again while there is no room for the moment.
    fn submit_patiently(&mut self, request: Request, ctx: &WaitCtx) {
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
    fn go_into_recovery(&mut self) {
        self.inject("reset-fails@0:x2");
        self.until_state(DeviceState::Resetting);
    }

    /// Until nothing is under way, and some ticks more; then sessions are there.
    fn settle(&mut self) {
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
    fn check(&mut self) {
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

fn counting() -> (Arc<AtomicU64>, impl Fn() + Send + Sync + Clone + 'static) {
    let count = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&count);
    (count, move || {
        counter.fetch_add(1, Ordering::SeqCst);
    })
}

fn get(count: &AtomicU64) -> u64 {
    count.load(Ordering::SeqCst)
}

// ---- giving up, at each point of a request's life ----

#[derive(Clone, Copy, Debug, PartialEq)]
enum Point {
    Submitted,
    /// The device has it, and has gone into its error state.
    Broken,
    /// The device is being reset.
    Resetting,
    /// It has timed out, its slot is in quarantine.
    TimedOut,
    /// It was delivered by the recovery.
    Delivered,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Cancel,
    Detach,
    Release,
    Drop,
    CancelThenDetach,
    DetachThenDrop,
}

fn give_up(point: Point, action: Action, fault: &str) {
    let mut bench = bench();
    let (calls, count) = counting();
    let token = Arc::new(());
    let owned = Arc::clone(&token);
    let results = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&results);
    let target = WaitCtx::with_callback(move |delivery| {
        let _keep = &owned;
        list.lock().unwrap().push(delivery.take().unwrap().result());
        count();
    });
    let other = WaitCtx::new();
    submit(bench.request(), &target);
    submit(bench.request(), &other);
    match point {
        Point::Submitted => bench.inject(fault),
        Point::Broken => {
            bench.inject(fault);
            bench.sim.step();
        }
        Point::Resetting => {
            bench.inject(fault);
            bench.until_state(DeviceState::Resetting);
        }
        Point::TimedOut => {
            bench.inject("stall@1");
            bench.until("the deadline", |bench| bench.device.stats().expired == 2);
        }
        Point::Delivered => {
            bench.inject(fault);
            bench.until("the end", |_| !target.is_busy());
        }
    }
    let busy = target.is_busy();
    let mut given_up = false;
    match action {
        Action::Cancel => bench.device.cancel(&target),
        Action::Detach => given_up = target.detach(),
        Action::Release => given_up = target.release(),
        Action::Drop => drop(target.clone()),
        Action::CancelThenDetach => {
            bench.device.cancel(&target);
            given_up = target.detach();
        }
        Action::DetachThenDrop => given_up = target.detach(),
    }
    let gives_up = !matches!(action, Action::Cancel | Action::Drop);
    assert_eq!(given_up, busy && gives_up, "what is in flight can be given up");
    if matches!(action, Action::Drop | Action::DetachThenDrop) {
        drop(target);
    } else {
        // Used again at the end.
        bench.settle();
        assert!(!target.is_busy());
        bench.until_state(DeviceState::Ready);
        submit(bench.request(), &target);
        bench.settle();
        assert_eq!(results.lock().unwrap().pop(), Some(Ok(Answer::Yes)));
        assert_eq!(get(&calls), 1 + u64::from(!given_up), "deliveries");
        calls.fetch_sub(1, Ordering::SeqCst);
        drop(target);
    }
    bench.settle();
    bench.until_state(DeviceState::Ready);
    assert_eq!(get(&calls), u64::from(!given_up), "deliveries");
    assert_eq!(Arc::strong_count(&token), 1, "what the callback owns is gone with it");
    assert_eq!(bench.device.stats().detached, u64::from(given_up));
    for result in &*results.lock().unwrap() {
        let fault = result.expect_err("the device was broken");
        match fault {
            Fault::Canceled => assert_eq!(action, Action::Cancel),
            Fault::DeviceFailed => assert_ne!(point, Point::TimedOut),
            Fault::TimedOut => assert_eq!(point, Point::TimedOut),
            other => panic!("{other:?}"),
        }
    }
    assert!(other.take().unwrap().result().is_err());
    drop(other);
    bench.check();
}

#[test]
fn a_request_can_be_given_up_at_each_point_of_a_recovery() {
    let points = [Point::Submitted, Point::Broken, Point::Resetting, Point::TimedOut, Point::Delivered];
    let actions = [
        Action::Cancel,
        Action::Detach,
        Action::Release,
        Action::Drop,
        Action::CancelThenDetach,
        Action::DetachThenDrop,
    ];
    for point in points {
        for action in actions {
            for fault in ["needs-reset@0", "reset-hang@0:x1", "reset-fails@0:x2", "reset-fails@0:x4"] {
                if point == Point::Resetting && fault == "needs-reset@0" {
                    // Its reset is over at once: nobody sees it being reset.
                    continue;
                }
                let caught = std::panic::catch_unwind(|| give_up(point, action, fault));
                caught.unwrap_or_else(|_| panic!("{action:?} at {point:?} with {fault}"));
            }
        }
    }
}

#[test]
fn a_context_may_be_released_and_dropped_inside_the_callback_of_a_fault() {
    let mut bench = bench();
    let place: Arc<Mutex<Option<WaitCtx>>> = Arc::default();
    let token = Arc::new(());
    let (calls, count) = counting();
    let (own_place, own_token) = (Arc::clone(&place), Arc::clone(&token));
    let ctx = WaitCtx::with_callback(move |delivery| {
        let _keep = &own_token;
        assert_eq!(delivery.status(), Status::Err);
        let ctx = own_place.lock().unwrap().take().unwrap();
        assert!(!ctx.release(), "nothing is in flight any more");
        drop(ctx);
        count();
    });
    submit(bench.request(), &ctx);
    *place.lock().unwrap() = Some(ctx);
    bench.inject("needs-reset@0");
    bench.until("the callback", |_| get(&calls) == 1);
    bench.settle();
    assert_eq!((get(&calls), Arc::strong_count(&token), bench.device.stats().panics), (1, 1, 0));
    bench.check();
}

// ---- callbacks ----

#[test]
fn a_callback_of_a_fault_may_submit_again_and_comes_through_in_the_end() {
    for fault in ["needs-reset@0", "reset-hang@0:x1", "reset-fails@0:x2", "bad-id@1", "stall@1"] {
        let mut bench = bench();
        let answers: Arc<Mutex<Vec<Option<Reason>>>> = Arc::default();
        let ends = Arc::new(Mutex::new(Vec::new()));
        let kept: Arc<Mutex<Option<Request>>> = Arc::default();
        let (list, ends_list, keep) = (Arc::clone(&answers), Arc::clone(&ends), Arc::clone(&kept));
        let spare = Mutex::new(Some(bench.request()));
        let ctx = WaitCtx::with_callback(move |delivery: &Delivery<'_>| {
            ends_list.lock().unwrap().push(delivery.take().unwrap().result());
            // Its own buffers may be with the device still: another request, once.
            let Some(request) = spare.lock().unwrap().take() else { return };
            let answer = request.submit(delivery);
            let reason = answer.as_ref().err().map(|refused| refused.reason());
            list.lock().unwrap().push(reason);
            *keep.lock().unwrap() = answer.err().map(|refused| refused.into_request());
        });
        submit(bench.request(), &ctx);
        bench.inject(fault);
        bench.until("the first end", |_| !ends.lock().unwrap().is_empty());
        let answer = answers.lock().unwrap()[0];
        let refused_for = [Reason::Resetting, Reason::SessionPending];
        assert!(answer.is_none_or(|reason| refused_for.contains(&reason)), "{fault}: {answer:?}");
        if let Some(request) = kept.lock().unwrap().take() {
            assert_eq!(ctx.status(), Status::Eagain, "{fault}");
            let (told, tell) = counting();
            bench.device.on_room(tell);
            bench.until("room", |_| get(&told) == 1);
            bench.submit_patiently(request, &ctx);
        }
        bench.settle();
        bench.until_state(DeviceState::Ready);
        let ends = std::mem::take(&mut *ends.lock().unwrap());
        assert_eq!(ends.len(), 2, "{fault}: {ends:?}");
        assert!(ends[0].is_err(), "{fault}");
        if fault != "stall@1" {
            assert_eq!(ends[1], Ok(Answer::Yes), "{fault}");
        }
        drop(ctx);
        bench.check();
    }
}

#[test]
fn callbacks_that_panic_during_a_recovery_change_nothing() {
    let mut bench = bench();
    let (calls, count) = counting();
    let contexts: Vec<_> = (0..16)
        .map(|number| {
            let count = count.clone();
            WaitCtx::with_callback(move |_| {
                count();
                assert!(number % 2 == 0, "on purpose");
            })
        })
        .collect();
    contexts.iter().for_each(|ctx| submit(bench.request(), ctx));
    bench.inject("needs-reset@0");
    bench.until("the ends", |_| get(&calls) == 16);
    bench.settle();
    let stats = bench.device.stats();
    assert_eq!((stats.panics, stats.errors, stats.recoveries, get(&calls)), (8, 16, 1, 16));
    contexts.iter().for_each(|ctx| assert_eq!(ctx.take().unwrap().result(), Err(Fault::DeviceFailed)));
    drop(contexts);
    bench.check();
}

/// Real time: a callback that blocks holds its poller up, and nothing else goes wrong.
#[test]
fn a_callback_that_blocks_while_its_device_has_a_fault_delays_and_loses_nothing() {
    let sim = Sim::threaded("queue-size=64".parse().unwrap()).unwrap();
    let device = Device::from_function(sim.function(), &options()).unwrap();
    let config = PollerConfig {
        request_timeout: Duration::from_millis(40),
        stall_limit: Duration::from_millis(60),
        ..Default::default()
    };
    let poller = Poller::spawn(&device, config).unwrap();
    let key = zero_key(&device, CIPHER);
    for fault in ["needs-reset@1", "drop@1", "used-jump@2", "reset-hang@3:x1"] {
        let (calls, count) = counting();
        let contexts: Vec<_> = (0..32)
            .map(|number| {
                let count = count.clone();
                WaitCtx::with_callback(move |_| {
                    if number == 0 {
                        std::thread::sleep(Duration::from_millis(100));
                    }
                    count();
                })
            })
            .collect();
        sim.inject(fault.parse().unwrap());
        let mut accepted = 0;
        for ctx in &contexts {
            match device.submit_wait(small(&device, &key, 64), ctx, FOR_EVER) {
                Ok(()) => accepted += 1,
                Err(refused) => panic!("{fault}: {refused}"),
            }
        }
        wait_until("the ends", || contexts.iter().all(|ctx| !ctx.is_busy()));
        wait_until("the recovery", || {
            device.state() == DeviceState::Ready && device.stats().quarantined == 0
        });
        assert_eq!(get(&calls), accepted, "{fault}");
        // A recovery holds when enough requests were answered since.
        let ctx = WaitCtx::new();
        for _ in 0..200 {
            assert_eq!(run(small(&device, &key, 16), &ctx).result(), Ok(Answer::Yes), "{fault}");
        }
    }
    let stats = device.stats();
    assert_eq!(stats.accepted, stats.deliveries);
    assert_eq!((stats.faults, stats.recoveries, stats.panics, stats.leaked_bytes), (4, 4, 0, 0), "{stats:?}");
    poller.shutdown();
}

// ---- ends of pollers, waiters ----

#[test]
fn a_shutdown_during_a_recovery_ends_everything() {
    for by_drop in [false, true] {
        for fault in ["reset-fails@0:x2", "reset-hang@0", "reset-fails@0"] {
            let mut bench = bench();
            let (calls, count) = counting();
            let contexts: Vec<_> = (0..5)
                .map(|_| {
                    let count = count.clone();
                    WaitCtx::with_callback(move |_| count())
                })
                .collect();
            contexts.iter().for_each(|ctx| submit(bench.request(), ctx));
            let waiting = bench.request();
            bench.inject(fault);
            bench.until_state(DeviceState::Resetting);
            let (told, tell) = counting();
            let late = WaitCtx::new();
            let refused = waiting.submit(&late).unwrap_err();
            assert_eq!((refused.reason(), late.status()), (Reason::Resetting, Status::Eagain));
            bench.device.on_room(tell);
            let poller = bench.poller.take().unwrap();
            if by_drop {
                drop(poller)
            } else {
                poller.shutdown()
            }
            assert_eq!(bench.device.state(), DeviceState::Closed, "{fault}");
            assert_eq!((get(&calls), get(&told)), (5, 1), "{fault}");
            for ctx in &contexts {
                let result = ctx.take().unwrap().result();
                assert!(matches!(result, Err(Fault::DeviceFailed | Fault::Shutdown)), "{fault}: {result:?}");
            }
            let refused = refused.into_request().submit(&late).unwrap_err();
            assert_eq!((refused.reason(), late.status()), (Reason::DeviceDown, Status::Err));
            drop((refused, contexts));
            bench.check();
        }
    }
}

#[test]
fn who_waits_for_room_is_told_once_when_the_device_is_back_or_has_failed() {
    for (fault, state) in
        [("reset-fails@0:x2", DeviceState::Ready), ("reset-fails@0:always", DeviceState::Failed)]
    {
        let mut bench = bench();
        bench.inject(fault);
        bench.until_state(DeviceState::Resetting);
        let ctx = WaitCtx::new();
        let refused = bench.request().submit(&ctx).unwrap_err();
        assert_eq!((refused.reason(), ctx.status()), (Reason::Resetting, Status::Eagain));
        // Also what the reset has freed is room, so that there may be more than one word.
        let mut refused = Some(refused);
        while let Some(request) = refused.take().map(|refused| refused.into_request()) {
            let (told, tell) = counting();
            bench.device.on_room(tell);
            bench.until("a word", |_| get(&told) == 1);
            refused = request.submit(&ctx).err().filter(|refused| refused.status() == Status::Eagain);
            bench.round();
            assert_eq!(get(&told), 1, "once");
        }
        assert_eq!(bench.device.state(), state);
        assert_eq!(ctx.status() == Status::Ok, state == DeviceState::Ready);
    }
}

#[test]
fn without_tries_a_fault_fails_the_device_at_once() {
    let clock = ManualClock::new();
    let config = PollerConfig { recovery_tries: 0, ..config(&clock) };
    let (sim, device, poller) = common::stepped("", &options(), config);
    let key = zero_key(&device, CIPHER);
    let free = device.free_bytes();
    let mut bench = Bench { sim, device, poller: Some(poller), clock, key, free };
    let ctx = WaitCtx::new();
    submit(bench.request(), &ctx);
    bench.inject("bad-id@1");
    bench.until_state(DeviceState::Failed);
    assert_eq!(ctx.take().unwrap().result(), Err(Fault::DeviceFailed));
    let stats = bench.device.stats();
    assert_eq!((stats.faults, stats.recoveries, stats.leaked_bytes), (1, 0, 0));
    assert_eq!(bench.request().submit(&ctx).unwrap_err().reason(), Reason::DeviceDown);
}

#[test]
fn faults_in_quick_succession_fail_the_device_and_faults_far_between_do_not() {
    for answered in [0, 16] {
        let mut bench = bench();
        let mut faults = 0;
        while faults < 40 && bench.device.state() == DeviceState::Ready {
            if answered > 0 {
                bench.settle();
            }
            let contexts: Vec<_> = (0..answered).map(|_| WaitCtx::new()).collect();
            contexts.iter().for_each(|ctx| submit(bench.request(), ctx));
            bench.settle();
            bench.inject("needs-reset@0");
            faults += 1;
            bench.until("the fault", |bench| bench.device.stats().faults == faults);
            bench.until("its end", |bench| bench.device.state() != DeviceState::Resetting);
        }
        if answered == 0 {
            assert_eq!(bench.device.state(), DeviceState::Failed, "after {faults}");
            assert!(faults <= 6, "five tries");
        } else {
            assert_eq!((bench.device.state(), faults), (DeviceState::Ready, 40));
        }
    }
}

// ---- neighbours and sleepers ----

/// Another device of the same poller completes a request in every pass, whatever the first goes
/// through, and no pass takes long.
#[test]
fn a_neighbour_under_the_same_poller_does_not_miss_a_beat() {
    const LIMIT: Duration = Duration::from_millis(200);
    let mut late = Vec::new();
    for fault in [
        "needs-reset@1",
        "bad-id@1",
        "drop@1",
        "reset-hang@1",
        "reset-fails@1:x5",
        "reset-fails@1",
        "control-hang@1",
        "control-hang@1:always",
        "session-lost@1",
        "bad-config@1:generation",
        "bad-config@1:queue-size-0",
        "remove@1",
    ] {
        let clock = ManualClock::new();
        let sims = [1, 2].map(|_| Sim::stepped("queue-size=8".parse().unwrap()).unwrap());
        let options = DeviceOptions { control_timeout: LIMIT, ..options() };
        let devices = sims.each_ref().map(|sim| Device::from_function(sim.function(), &options).unwrap());
        let mut poller = ManualPoller::new(&devices, config(&clock)).unwrap();
        let keys = devices.each_ref().map(|device| zero_key(device, CIPHER));
        let (struck, beat) = (WaitCtx::new(), WaitCtx::new());
        sims[0].inject(fault.parse().unwrap());
        submit(small(&devices[0], &keys[0], 16), &struck);
        submit(small(&devices[1], &keys[1], 16), &beat);
        let (mut longest, mut at) = (Duration::ZERO, DeviceState::Ready);
        for round in 0..400 {
            sims[0].step();
            assert_eq!(sims[1].step(), 1, "{fault}, round {round}");
            let start = Instant::now();
            poller.poll();
            if start.elapsed() > longest {
                (longest, at) = (start.elapsed(), devices[0].state());
            }
            let done = beat.take().unwrap_or_else(|| panic!("{fault}: a beat is missed, round {round}"));
            assert_eq!(done.result(), Ok(Answer::Yes));
            submit(done.into_request(), &beat);
            clock.advance(Duration::from_millis(10));
            // The first one is used all the time, as far as it takes requests.
            if !struck.is_busy() {
                drop(struck.take());
                let _ = small(&devices[0], &keys[0], 16).submit(&struck);
            }
        }
        assert!(sims[0].stats().struck > 0, "{fault}");
        if longest > LIMIT / 4 {
            late.push(format!("{fault}: a pass took {longest:?}, after it the device was {at:?}"));
        }
        assert_eq!(devices[1].state(), DeviceState::Ready, "{fault}");
        assert_eq!((devices[1].stats().faults, devices[1].stats().errors), (0, 0), "{fault}");
    }
    assert!(late.is_empty(), "{late:#?}");
}

#[test]
fn an_owned_queue_whose_owner_sleeps_through_two_recoveries_goes_on() {
    let mut bench = bench();
    let mut queue = bench.device.owned_queue().unwrap();
    let contexts: Vec<_> = (0..3).map(|_| WaitCtx::new()).collect();
    for ctx in &contexts {
        queue.submit(bench.request(), ctx).unwrap();
    }
    for faults in 1..=2 {
        bench.inject("needs-reset@0");
        bench.until("a fault", |bench| bench.device.stats().faults == faults);
        bench.settle();
    }
    for ctx in &contexts {
        assert_eq!(ctx.take().unwrap().result(), Err(Fault::DeviceFailed));
        queue.submit(bench.request(), ctx).map_err(|refused| refused.to_error()).unwrap();
    }
    assert_eq!(queue.capacity(), 8);
    bench.settle();
    contexts.iter().for_each(|ctx| assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes)));
    drop((queue, contexts));
    // Shared again, with all its slots.
    bench.check();
}

#[test]
fn a_burst_filled_across_two_recoveries_ends_each_request_once() {
    let mut bench = bench();
    let mut queue = bench.device.owned_queue().unwrap();
    let (calls, count) = counting();
    let contexts: Vec<_> = (0..6)
        .map(|_| {
            let count = count.clone();
            WaitCtx::with_callback(move |_| count())
        })
        .collect();
    let mut accepted = 0;
    queue.burst(|burst| {
        for (number, ctx) in contexts.iter().enumerate() {
            if number == 2 || number == 4 {
                let before = bench.device.stats().faults;
                bench.inject("needs-reset@0");
                bench.until("a fault", |bench| bench.device.stats().faults > before);
                bench.until_state(DeviceState::Ready);
            }
            accepted += u64::from(burst.submit(bench.request(), ctx).is_ok());
        }
    });
    bench.settle();
    assert_eq!(get(&calls), accepted);
    for ctx in contexts {
        queue.submit(bench.request(), &ctx).map_err(|refused| refused.to_error()).unwrap();
        bench.settle();
        assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes));
    }
    drop(queue);
    bench.check();
}

#[test]
fn an_owned_queue_dropped_during_a_recovery_is_shared_afterwards() {
    let mut bench = bench();
    let mut queue = bench.device.owned_queue().unwrap();
    let ctx = WaitCtx::new();
    queue.submit(bench.request(), &ctx).unwrap();
    bench.go_into_recovery();
    let refused = queue.submit(bench.request(), &WaitCtx::new()).unwrap_err();
    assert_eq!((refused.reason(), refused.status()), (Reason::Resetting, Status::Eagain));
    drop((queue, refused));
    let taken = bench.device.owned_queue().unwrap();
    bench.settle();
    assert!(ctx.take().unwrap().result().is_err());
    drop(taken);
    bench.check();
}

// ---- sessions ----

/// No room at the device is for the moment: who holds the key gets `EAGAIN`, and in the end its session.
#[test]
fn a_session_that_finds_no_room_after_a_reset_is_made_when_there_is_some() {
    let mut bench = bench();
    bench.inject("needs-reset@0");
    bench.inject("sessions-full@0:x2");
    bench.until("the fault", |bench| bench.device.stats().faults == 1);
    bench.until_state(DeviceState::Ready);
    let ctx = WaitCtx::new();
    bench.submit_patiently(bench.request(), &ctx);
    bench.settle();
    assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes));
    drop(ctx);
    bench.check();
}

// ---- from the beginning ----

#[test]
fn a_device_that_lies_from_the_beginning_is_not_opened_and_says_why() {
    for lie in ["queue-size-0", "queue-size-65535", "capability", "notify", "bar", "loop", "generation"] {
        let sim = Sim::stepped(format!("fault=bad-config@0:{lie}").parse().unwrap()).unwrap();
        let start = Instant::now();
        match Device::from_function(sim.function(), &options()) {
            Err(error) => assert!(!error.to_string().is_empty(), "{lie}"),
            Ok(device) => panic!("{lie}: opened {:?}", device.capabilities()),
        }
        assert!(start.elapsed() < Duration::from_secs(2), "{lie}");
        assert!(sim.struck(FaultKind::BadConfig) > 0, "{lie}");
    }
}

#[test]
fn nobody_waits_for_ever_for_a_device_that_is_broken_from_the_beginning() {
    for fault in ["reset-fails@0", "reset-hang@0", "control-hang@0:always", "needs-reset@0", "remove@0"] {
        let sim = Sim::stepped(format!("fault={fault}").parse().unwrap()).unwrap();
        let start = Instant::now();
        if let Ok(device) = Device::from_function(sim.function(), &options()) {
            let key = device.cipher_key(CIPHER, &[0; 16]).unwrap();
            let _ = key.prepare();
            let clock = ManualClock::new();
            let mut poller = ManualPoller::new([&device], config(&clock)).unwrap();
            let over = AtomicBool::new(false);
            let ctx = WaitCtx::new();
            for _ in 0..200 {
                if small(&device, &key, 16).submit(&ctx).is_ok() {
                    over.store(true, Ordering::SeqCst);
                }
                sim.step();
                poller.poll();
                drop(ctx.take());
                clock.advance(ROUND);
                if device.state() == DeviceState::Resetting || !over.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            poller.shutdown();
            let stats = device.stats();
            assert_eq!(stats.accepted, stats.deliveries, "{fault}");
            assert_eq!(stats.leaked_bytes, 0, "{fault}");
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{fault}");
    }
}
