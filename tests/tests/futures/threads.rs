//! Threads that block: `WaitCtx::wait`, `Request::run_blocking`, `RequestSet::wait`.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use ringbell::{
    Answer, Cipher, Device, DeviceOptions, Fault, Poller, PollerConfig, Reason, RequestSet, Unfinished,
    WaitCtx,
};

use super::common::{FOR_EVER, small, wait_until, zero_key};
use super::{CIPHER, ZEROS, assert_accounts, bench};

/// A context of each kind.
fn kinds() -> [(&'static str, WaitCtx); 5] {
    [
        ("none", WaitCtx::new()),
        ("callback", WaitCtx::with_callback(|_| ())),
        ("fd", WaitCtx::with_fd().unwrap()),
        ("both", WaitCtx::with_callback_and_fd(|_| ()).unwrap()),
        ("slow callback", WaitCtx::with_callback(|_| std::thread::sleep(Duration::from_millis(5)))),
    ]
}

#[test]
fn contexts_of_every_kind_can_be_waited_for() {
    let device = Device::open("sim:latency=2ms").unwrap();
    let poller = Poller::spawn(&device, PollerConfig::default()).unwrap();
    let key = zero_key(&device, CIPHER);
    for (kind, ctx) in kinds() {
        for _ in 0..5 {
            assert!(ctx.wait(FOR_EVER).is_none(), "{kind}: there is nothing to wait for");
            small(&device, &key, 64).submit(&ctx).unwrap();
            let done = ctx.wait(FOR_EVER).unwrap_or_else(|| panic!("{kind}: it was not delivered"));
            assert_eq!(done.result(), Ok(Answer::Yes), "{kind}");
            assert_eq!(done.request().output()[..16], ZEROS, "{kind}");
        }
        // The fd is not readable for what was taken.
        assert!(ctx.fd().is_none_or(|fd| !ringbell_drivers::wait::is_ready(fd.as_fd())), "{kind}");
    }
    poller.shutdown();
    assert_accounts(&device.stats());
    assert_eq!(device.stats().completed, 25);
}

#[test]
fn a_wait_ends_with_its_limit_and_the_request_stays_in_flight() {
    let mut bench = bench("");
    for (kind, ctx) in kinds() {
        bench.request().submit(&ctx).unwrap();
        assert!(ctx.wait(Duration::ZERO).is_none(), "{kind}");
        let start = Instant::now();
        assert!(ctx.wait(Duration::from_millis(20)).is_none(), "{kind}");
        assert!(start.elapsed() >= Duration::from_millis(20), "{kind}: too early");
        assert!(ctx.is_busy());
        bench.finish();
        assert_eq!(ctx.wait(Duration::ZERO).unwrap().result(), Ok(Answer::Yes), "{kind}");
    }
}

#[test]
fn a_thread_that_waits_sleeps() {
    let bench = bench("");
    for (kind, ctx) in kinds() {
        bench.request().submit(&ctx).unwrap();
        let used = || getrusage(UsageWho::RUSAGE_THREAD).unwrap();
        let before = used();
        let limit = Duration::from_millis(300);
        assert!(ctx.wait(limit).is_none());
        let after = used();
        let time = (after.user_time() - before.user_time()) + (after.system_time() - before.system_time());
        // One that spun would have used all of it, or been interrupted.
        assert!(time.num_milliseconds() < 100, "{kind}: {time} of processor time in {limit:?}");
        let slept = after.voluntary_context_switches() - before.voluntary_context_switches();
        assert!(slept >= 1, "{kind}");
    }
}

#[test]
fn a_wait_ends_when_the_request_is_given_up_by_another_thread() {
    let bench = bench("");
    for release in [false, true] {
        let ctx = WaitCtx::new();
        bench.request().submit(&ctx).unwrap();
        let (other, ended) = (ctx.clone(), Arc::new(AtomicBool::new(false)));
        let end = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let none = other.wait(FOR_EVER).is_none();
            end.store(true, Ordering::SeqCst);
            none
        });
        assert!(if release { ctx.release() } else { ctx.detach() });
        wait_until("the end of the wait", || ended.load(Ordering::SeqCst));
        assert!(thread.join().unwrap());
    }
}

#[test]
fn of_several_threads_that_wait_for_one_context_one_gets_the_request_and_all_go_on() {
    let device = Device::open("sim:latency=5ms").unwrap();
    let poller = Poller::spawn(&device, PollerConfig::default()).unwrap();
    let key = zero_key(&device, CIPHER);
    let ctx = WaitCtx::new();
    small(&device, &key, 64).submit(&ctx).unwrap();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let ctx = ctx.clone();
            std::thread::spawn(move || ctx.wait(FOR_EVER).is_some())
        })
        .collect();
    let got: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(got.iter().filter(|got| **got).count(), 1, "{got:?}");
    poller.shutdown();
}

#[test]
fn what_the_callback_takes_is_not_waited_for() {
    let device = Device::open("sim:latency=1ms").unwrap();
    let poller = Poller::spawn(&device, PollerConfig::default()).unwrap();
    let key = zero_key(&device, CIPHER);
    let (sender, taken) = mpsc::channel();
    let send = move |delivery: &ringbell::Delivery<'_>| sender.send(delivery.take().unwrap()).unwrap();
    let send = Arc::new(std::sync::Mutex::new(send));
    let other = Arc::clone(&send);
    let alone = WaitCtx::with_callback(move |delivery| send.lock().unwrap()(delivery));
    let both = WaitCtx::with_callback_and_fd(move |delivery| other.lock().unwrap()(delivery)).unwrap();
    for ctx in [alone, both] {
        small(&device, &key, 64).submit(&ctx).unwrap();
        assert!(ctx.wait(FOR_EVER).is_none());
        assert!(taken.recv().unwrap().result().is_ok());
    }
    poller.shutdown();
}

#[test]
fn a_request_runs_to_its_end_on_this_thread() {
    let device = Device::open("sim:").unwrap();
    let poller = Poller::spawn(&device, PollerConfig::default()).unwrap();
    // Without a session: there is no room at first.
    let key = device.cipher_key(Cipher::Aes128Ctr, &[0; 16]).unwrap();
    for _ in 0..20 {
        let done = small(&device, &key, 64).run_blocking(FOR_EVER).unwrap();
        assert_eq!(done.request().output()[..16], ZEROS);
    }
    let bad = key.encrypt(&[0; 3], device.buffer(16).unwrap());
    let refused = bad.run_blocking(FOR_EVER).unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::IvLength));
    assert!(refused.into_request().is_some());
    poller.shutdown();
    let down = small(&device, &key, 64).run_blocking(FOR_EVER).unwrap_err();
    assert_eq!(down.reason(), Some(Reason::DeviceDown));
}

#[test]
fn a_request_whose_time_is_over_is_given_up_or_comes_back() {
    let mut bench = bench("queue-size=8");
    let limit = Duration::from_millis(10);
    let free = bench.device.free_bytes();
    let unfinished = bench.request().run_blocking(limit).unwrap_err();
    assert!(matches!(unfinished, Unfinished::GivenUp(given) if given == limit), "{unfinished}");
    assert!(unfinished.into_request().is_none());
    bench.finish();
    assert_eq!((bench.stats().detached, bench.device.free_bytes()), (1, free));
    // Without room it was never accepted.
    let others = bench.fill();
    let unfinished = bench.request().run_blocking(limit).unwrap_err();
    assert_eq!(unfinished.reason(), Some(Reason::RingFull));
    assert!(unfinished.into_request().is_some());
    bench.finish();
    drop(others);
    assert_accounts(&bench.stats());
}

#[test]
fn a_thread_may_wait_for_a_set() {
    let device = Device::open("sim:latency=1ms").unwrap();
    let poller = Poller::spawn(&device, PollerConfig::default()).unwrap();
    let key = zero_key(&device, CIPHER);
    let mut set = RequestSet::new(&device, 8).unwrap();
    assert!(set.wait(FOR_EVER).is_none(), "it is empty");
    let mut seen = [0; 100];
    for (tag, _) in seen.iter().enumerate() {
        while set.len() == set.capacity() {
            let (tag, done) = set.wait(FOR_EVER).unwrap();
            assert!(tag < 100 && done.result().is_ok());
        }
        set.push(tag as u64, small(&device, &key, 64)).unwrap();
    }
    while let Some((tag, _)) = set.wait(FOR_EVER) {
        seen[tag as usize] += 1;
    }
    assert!(seen[92..].iter().all(|count| *count == 1), "the last eight were taken here: {seen:?}");
    poller.shutdown();
    assert_eq!(device.stats().completed, 100);
}

#[test]
fn at_a_shutdown_a_thread_that_waits_is_told() {
    let sim = ringbell::sim::Sim::stepped("".parse().unwrap()).unwrap();
    let device = Device::from_function(sim.function(), &DeviceOptions::default()).unwrap();
    let config = PollerConfig { grace: Duration::ZERO, ..Default::default() };
    let poller = Poller::spawn(&device, config).unwrap();
    let key = zero_key(&device, CIPHER);
    let request = small(&device, &key, 64);
    let thread = std::thread::spawn(move || request.run_blocking(FOR_EVER).unwrap().result());
    wait_until("a submission", || device.stats().accepted == 1);
    poller.shutdown();
    assert_eq!(thread.join().unwrap(), Err(Fault::Shutdown));
}
