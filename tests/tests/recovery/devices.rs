//! Devices: ends of pollers during a recovery, waiters, tries, neighbours, owners that sleep, devices
//! that are broken from the beginning.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringbell::sim::{FaultKind, Sim};
use ringbell::{
    Answer, Device, DeviceOptions, DeviceState, Fault, ManualClock, ManualPoller, PollerConfig, Reason,
    Status, WaitCtx,
};

use crate::bench::*;
use crate::common::{self, small, submit, zero_key};

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
    let faults = [("reset-fails@0:x2", DeviceState::Ready), ("reset-fails@0:always", DeviceState::Failed)];
    for (fresh, (fault, state)) in [false, true].into_iter().flat_map(|fresh| faults.map(|f| (fresh, f))) {
        let mut bench = bench();
        // The second time with a key whose sessions are not created again: there are none yet.
        if fresh {
            bench.key = bench.device.cipher_key(CIPHER, &[9; 16]).unwrap();
        }
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
            assert_eq!(get(&told), 1, "once");
        }
        assert_eq!(bench.device.state(), state);
        assert_eq!(ctx.status() == Status::Ok, state == DeviceState::Ready);
    }
}

/// Whoever looks at the state when he is told, and waits again while it is `Resetting`, is told again.
fn wait_until_it_is_over(device: &Device, log: &Arc<Mutex<Vec<DeviceState>>>) {
    let (handle, list) = (device.clone(), Arc::clone(log));
    device.on_room(move || {
        let state = handle.state();
        list.lock().unwrap().push(state);
        if state == DeviceState::Resetting {
            wait_until_it_is_over(&handle, &list);
        }
    });
}

#[test]
fn the_last_word_to_who_waits_comes_when_the_device_is_ready() {
    let mut bench = bench();
    bench.key = bench.device.cipher_key(CIPHER, &[9; 16]).unwrap();
    bench.go_into_recovery();
    let log = Arc::default();
    wait_until_it_is_over(&bench.device, &log);
    bench.until_state(DeviceState::Ready);
    // Nothing becomes free from here on.
    assert_eq!(log.lock().unwrap().last(), Some(&DeviceState::Ready), "{log:?}");
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
