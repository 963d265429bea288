//! Requests: given up at each point of a recovery; callbacks that do what callbacks do meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringbell::sim::Sim;
use ringbell::{
    Answer, Delivery, Device, DeviceState, Fault, Poller, PollerConfig, Reason, Request, Status, WaitCtx,
};

use crate::bench::*;
use crate::common::{FOR_EVER, run, small, submit, wait_until, zero_key};

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

/// Wherever a callback runs that panics, it is caught and counted.
#[test]
fn a_panic_in_a_callback_is_counted_also_for_what_a_burst_pushed_after_a_recovery() {
    let mut bench = bench();
    let mut queue = bench.device.owned_queue().unwrap();
    let ctx = WaitCtx::with_callback(|_| panic!("on purpose"));
    queue.burst(|burst| {
        bench.inject("needs-reset@0");
        bench.until("the fault", |bench| bench.device.stats().faults == 1);
        bench.until_state(DeviceState::Ready);
        bench.key.prepare().unwrap();
        burst.submit(bench.request(), &ctx).unwrap();
    });
    bench.settle();
    let stats = bench.device.stats();
    assert_eq!((stats.accepted, stats.deliveries, stats.panics), (1, 1, 1), "{stats:?}");
}

/// On which thread callbacks run: the one that polls, also for what a burst pushed after a recovery,
/// into a ring that is not there any more.
#[test]
fn callbacks_run_on_the_thread_that_polls() {
    let mut bench = bench();
    let mut queue = bench.device.owned_queue().unwrap();
    let polling = std::thread::current().id();
    let request = bench.request();
    let (filling, recovered) = (AtomicBool::new(false), AtomicBool::new(false));
    let ran_on = Arc::new(Mutex::new(None));
    let place = Arc::clone(&ran_on);
    let ctx = WaitCtx::with_callback(move |_| *place.lock().unwrap() = Some(std::thread::current().id()));
    std::thread::scope(|scope| {
        let (ctx, filling, recovered) = (&ctx, &filling, &recovered);
        scope.spawn(move || {
            queue.burst(|burst| {
                filling.store(true, Ordering::SeqCst);
                wait_until("the recovery", || recovered.load(Ordering::SeqCst));
                burst.submit(request, ctx).unwrap();
            });
        });
        wait_until("the burst", || filling.load(Ordering::SeqCst));
        bench.inject("needs-reset@0");
        bench.until("the fault", |bench| bench.device.stats().faults == 1);
        bench.until_state(DeviceState::Ready);
        bench.key.prepare().unwrap();
        recovered.store(true, Ordering::SeqCst);
    });
    bench.settle();
    assert_eq!(*ran_on.lock().unwrap(), Some(polling), "a callback ran on the thread that submits");
}
