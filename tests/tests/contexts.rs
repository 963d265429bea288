//! Wait contexts and pollers, contract by contract: statuses, room, callbacks, giving up, deadlines,
//! wait fds, shutdown, several devices, sessions.

mod common;

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{FOR_EVER, run, small, stepped, submit, wait_until, zero_key};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use ringbell::sim::Sim;
use ringbell::{
    Answer, Cipher, CipherKey, Clock, Device, DeviceOptions, DeviceState, Fault, IdlePolicy, ManualClock,
    ManualPoller, Poller, PollerBuilder, PollerConfig, Reason, Request, Status, WaitCtx,
};

const CIPHER: Cipher = Cipher::Aes128Ctr;

struct Bench {
    sim: Sim,
    device: Device,
    poller: ManualPoller,
    key: CipherKey,
}

fn bench_with(sim: &str, config: PollerConfig) -> Bench {
    let (sim, device, poller) = stepped(sim, &DeviceOptions::default(), config);
    let key = zero_key(&device, CIPHER);
    Bench { sim, device, poller, key }
}

fn bench(sim: &str) -> Bench {
    bench_with(sim, PollerConfig::default())
}

impl Bench {
    fn request(&self) -> Request {
        small(&self.device, &self.key, 64)
    }

    fn finish(&mut self) {
        while self.sim.step() > 0 || self.poller.poll() > 0 {}
    }

    /// Fills the queue; one context for each request.
    fn fill(&self) -> Vec<WaitCtx> {
        let depth = self.device.capabilities().queue_depth;
        let contexts: Vec<_> = (0..depth).map(|_| WaitCtx::new()).collect();
        contexts.iter().for_each(|ctx| submit(self.request(), ctx));
        contexts
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

fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut set = [PollFd::new(fd, PollFlags::POLLIN)];
    nix::poll::poll(&mut set, PollTimeout::ZERO).unwrap();
    set[0].any().unwrap()
}

/// The eventfd's counter, `None` where it is not readable.
fn counter(ctx: &WaitCtx) -> Option<u64> {
    let mut bytes = [0; 8];
    match nix::unistd::read(ctx.fd().unwrap(), &mut bytes) {
        Ok(8) => Some(u64::from_ne_bytes(bytes)),
        Err(nix::errno::Errno::EAGAIN) => None,
        other => panic!("{other:?}"),
    }
}

// ---- statuses ----

#[test]
fn a_fresh_context_says_unsupported_and_has_nothing() {
    for ctx in [WaitCtx::new(), WaitCtx::with_fd().unwrap(), WaitCtx::with_callback(|_| ())] {
        assert_eq!(ctx.status(), Status::Unsupported);
        assert!(!ctx.is_busy() && ctx.take().is_none() && !ctx.detach() && !ctx.release());
    }
}

#[test]
fn the_numbers_of_the_statuses_are_those_of_the_async_api() {
    let numbers = [Status::Unsupported, Status::Err, Status::Ok, Status::Eagain].map(|status| status as i32);
    assert_eq!(numbers, [0, 1, 2, 3]);
}

#[test]
fn the_status_follows_the_request_from_submit_to_delivery() {
    let mut bench = bench("");
    let ctx = WaitCtx::new();
    submit(bench.request(), &ctx);
    assert_eq!((ctx.status(), ctx.is_busy()), (Status::Ok, true));
    assert!(ctx.take().is_none(), "in flight");
    bench.finish();
    assert_eq!((ctx.status(), ctx.is_busy()), (Status::Ok, false));
    assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes));
    assert!(ctx.take().is_none(), "it was taken");

    let bad = bench.key.encrypt(&[0; 15], bench.device.buffer(16).unwrap());
    assert_eq!(bad.submit(&ctx).unwrap_err().reason(), Reason::IvLength);
    assert_eq!((ctx.status(), ctx.is_busy()), (Status::Err, false));

    let others = bench.fill();
    assert_eq!(bench.request().submit(&ctx).unwrap_err().reason(), Reason::RingFull);
    assert_eq!((ctx.status(), ctx.is_busy()), (Status::Eagain, false));
    bench.finish();
    submit(bench.request(), &ctx);
    assert_eq!(ctx.status(), Status::Ok);
    bench.device.cancel(&ctx);
    bench.poller.poll();
    assert_eq!(ctx.status(), Status::Err);
    drop(others);
}

#[test]
fn the_status_is_set_before_the_callback_runs() {
    let mut bench = bench("");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&seen);
    let ctx = WaitCtx::with_callback(move |delivery| {
        list.lock().unwrap().push((delivery.status(), delivery.take().unwrap().result()));
    });
    submit(bench.request(), &ctx);
    bench.finish();
    submit(bench.request(), &ctx);
    bench.device.cancel(&ctx);
    bench.poller.poll();
    let seen = seen.lock().unwrap();
    assert_eq!(*seen, [(Status::Ok, Ok(Answer::Yes)), (Status::Err, Err(Fault::Canceled))]);
}

#[test]
fn a_submit_on_a_busy_context_is_refused_and_leaves_status_and_data_alone() {
    let mut bench = bench("");
    let ctx = WaitCtx::new();
    submit(bench.request(), &ctx);
    let mut second = bench.request();
    second.input_mut().fill(9);
    let refused = second.submit(&ctx).unwrap_err();
    assert_eq!((refused.reason(), refused.status()), (Reason::ContextBusy, Status::Err));
    assert_eq!(ctx.status(), Status::Ok);
    let second = refused.into_request();
    assert_eq!(second.input(), [9; 64]);
    // Also where the second could never work.
    let bad = bench.key.encrypt(&[], bench.device.buffer(16).unwrap());
    assert_eq!(bad.submit(&ctx).unwrap_err().reason(), Reason::ContextBusy);
    assert_eq!(ctx.status(), Status::Ok);
    bench.finish();
    assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes));
    submit(second, &ctx);
    bench.finish();
    let stats = bench.device.stats();
    assert_eq!((stats.accepted, stats.refused, stats.completed), (2, 2, 2));
}

// ---- room ----

#[test]
fn a_full_ring_says_eagain_and_room_is_told_after_a_completion() {
    let mut bench = bench("queue-size=8");
    let contexts = bench.fill();
    assert_eq!(contexts.len(), 8);
    let (told, tell) = counting();
    bench.device.on_room(tell);
    let ctx = WaitCtx::new();
    let refused = bench.request().submit(&ctx).unwrap_err();
    assert_eq!(
        (refused.reason(), refused.status(), ctx.status()),
        (Reason::RingFull, Status::Eagain, Status::Eagain)
    );
    bench.poller.poll();
    // The refused request still holds its buffer: nothing is free.
    assert_eq!(get(&told), 0, "nothing has become free");
    assert_eq!(bench.sim.step_n(1), 1);
    bench.poller.poll();
    assert_eq!(get(&told), 1);
    refused.into_request().submit(&ctx).unwrap();
    bench.finish();
    assert_eq!(get(&told), 1, "a waiter is told once");
}

#[test]
fn room_is_told_when_a_quarantined_slot_comes_back_and_not_when_it_is_cancelled() {
    let mut bench = bench("queue-size=8");
    let contexts = bench.fill();
    bench.device.cancel(&contexts[3]);
    bench.poller.poll();
    assert_eq!(contexts[3].status(), Status::Err);
    let ctx = WaitCtx::new();
    let refused = bench.request().submit(&ctx).unwrap_err();
    assert_eq!(refused.status(), Status::Eagain, "a quarantined slot counts as taken");
    let (told, tell) = counting();
    bench.device.on_room(tell);
    bench.poller.poll();
    assert_eq!(get(&told), 0);
    bench.finish();
    assert_eq!(get(&told), 1);
    assert!(refused.into_request().submit(&ctx).is_ok());
}

#[test]
fn room_is_told_after_a_completion_whose_callback_panics() {
    let mut bench = bench("queue-size=8");
    let contexts: Vec<_> = (0..8).map(|_| WaitCtx::with_callback(|_| panic!("on purpose"))).collect();
    contexts.iter().for_each(|ctx| submit(bench.request(), ctx));
    let (told, tell) = counting();
    bench.device.on_room(tell);
    assert_eq!(bench.sim.step_n(1), 1);
    bench.poller.poll();
    assert_eq!(get(&told), 1);
    assert_eq!(bench.device.stats().panics, 1);
}

#[test]
fn room_is_told_when_a_buffer_is_dropped() {
    let bench = bench("");
    let buffer = bench.device.buffer(64).unwrap();
    let (told, tell) = counting();
    bench.device.on_room(tell);
    assert_eq!(get(&told), 0);
    drop(buffer);
    assert_eq!(get(&told), 1);
}

#[test]
fn room_is_told_on_shutdown_and_on_a_fault() {
    let clock = ManualClock::new();
    let config =
        PollerConfig { clock: Clock::Manual(clock.clone()), recovery_tries: 0, ..Default::default() };
    for fault in [false, true] {
        let mut bench = bench_with("queue-size=8", config.clone());
        let contexts = bench.fill();
        let ctx = WaitCtx::new();
        assert_eq!(bench.request().submit(&ctx).unwrap_err().status(), Status::Eagain);
        let (told, tell) = counting();
        bench.device.on_room(tell);
        if fault {
            for _ in 0..100 {
                clock.advance(Duration::from_millis(125));
                bench.poller.poll();
            }
            assert_eq!(bench.device.state(), DeviceState::Failed);
        } else {
            drop(bench.poller);
            assert_eq!(bench.device.state(), DeviceState::Closed);
        }
        assert_eq!(get(&told), 1);
        assert!(contexts.iter().all(|ctx| ctx.status() == Status::Err && !ctx.is_busy()));
        let refused = small(&bench.device, &bench.key, 16).submit(&ctx).unwrap_err();
        assert_eq!((refused.reason(), ctx.status()), (Reason::DeviceDown, Status::Err));
    }
}

#[test]
fn without_a_session_submit_says_eagain_and_room_is_told_when_it_is_there() {
    let (sim, device, mut poller) = stepped("", &DeviceOptions::default(), PollerConfig::default());
    let key = device.cipher_key(CIPHER, &[1; 16]).unwrap();
    let ctx = WaitCtx::new();
    let refused = small(&device, &key, 16).submit(&ctx).unwrap_err();
    assert_eq!((refused.reason(), ctx.status()), (Reason::SessionPending, Status::Eagain));
    let (told, tell) = counting();
    device.on_room(tell);
    while get(&told) == 0 {
        assert!(poller.poll() > 0, "the session's creation is answered");
    }
    refused.into_request().submit(&ctx).unwrap();
    sim.step();
    poller.poll();
    assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes));
}

// ---- callbacks ----

#[test]
fn a_callback_may_submit_again_with_its_delivery() {
    let mut bench = bench("queue-size=8");
    let left = Arc::new(AtomicU64::new(100));
    let count = Arc::clone(&left);
    let ctx = WaitCtx::with_callback(move |delivery| {
        if count.fetch_sub(1, Ordering::SeqCst) > 1 {
            delivery.take().unwrap().into_request().submit(delivery).unwrap();
        }
    });
    submit(bench.request(), &ctx);
    bench.finish();
    assert_eq!(get(&left), 0);
    assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes));
    let stats = bench.device.stats();
    assert_eq!((stats.accepted, stats.completed), (100, 100));
}

#[test]
fn a_callback_may_submit_to_a_full_ring_for_its_own_slot_is_free() {
    let mut bench = bench("queue-size=8");
    let (again, count) = counting();
    let make = || {
        let count = count.clone();
        WaitCtx::with_callback(move |delivery| {
            if let Some(done) = delivery.take()
                && done.into_request().submit(delivery).is_ok()
            {
                count();
            }
        })
    };
    let contexts: Vec<_> = (0..8).map(|_| make()).collect();
    contexts.iter().for_each(|ctx| submit(bench.request(), ctx));
    for round in 1..=5 {
        bench.sim.step();
        assert_eq!(bench.poller.poll(), 8);
        assert_eq!(get(&again), 8 * round);
    }
    assert_eq!(bench.device.stats().eagain, 0);
}

#[test]
fn a_pass_takes_no_more_than_its_budget_from_a_queue() {
    let mut bench = bench_with("", PollerConfig { budget: 4, ..Default::default() });
    let contexts: Vec<_> = (0..10).map(|_| WaitCtx::new()).collect();
    contexts.iter().for_each(|ctx| submit(bench.request(), ctx));
    bench.sim.step();
    assert_eq!([0; 4].map(|_| bench.poller.poll()), [4, 4, 2, 0]);
}

#[test]
fn a_panic_in_a_callback_is_caught_and_counted_and_the_others_go_on() {
    let mut bench = bench("");
    let (calls, count) = counting();
    let contexts: Vec<_> = (0..9)
        .map(|number| {
            let count = count.clone();
            WaitCtx::with_callback_and_fd(move |_| {
                count();
                assert!(number % 3 != 1, "on purpose");
            })
            .unwrap()
        })
        .collect();
    contexts.iter().for_each(|ctx| submit(bench.request(), ctx));
    bench.finish();
    assert_eq!(get(&calls), 9);
    for ctx in &contexts {
        assert_eq!((ctx.status(), counter(ctx), ctx.is_busy()), (Status::Ok, Some(1), false));
        assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes));
    }
    let stats = bench.device.stats();
    assert_eq!((stats.accepted, stats.completed, stats.errors, stats.panics), (9, 9, 0, 3));
    submit(bench.request(), &contexts[0]);
    bench.finish();
    assert_eq!(bench.device.stats().completed, 10);
}

#[test]
fn a_panic_in_the_callback_of_a_cancelled_request_is_counted_once_as_an_error() {
    let mut bench = bench("");
    let ctx = WaitCtx::with_callback(|_| panic!("on purpose"));
    submit(bench.request(), &ctx);
    bench.device.cancel(&ctx);
    bench.finish();
    let stats = bench.device.stats();
    assert_eq!((stats.errors, stats.panics, stats.deliveries, stats.canceled), (1, 1, 1, 1));
}

#[test]
fn a_slow_callback_is_counted() {
    let mut bench = bench("");
    let ctx = WaitCtx::with_callback(|_| std::thread::sleep(Duration::from_millis(1)));
    submit(bench.request(), &ctx);
    bench.finish();
    assert_eq!(bench.device.stats().slow_callbacks, 1);
}

#[test]
fn what_the_callback_owns_is_dropped_with_the_last_handle_and_not_before_the_delivery() {
    let mut bench = bench("");
    let token = Arc::new(());
    let (calls, count) = counting();
    let owned = Arc::clone(&token);
    let ctx = WaitCtx::with_callback(move |_| {
        let _keep = &owned;
        count();
    });
    submit(bench.request(), &ctx);
    drop(ctx);
    assert_eq!(Arc::strong_count(&token), 2, "the request in flight keeps it");
    bench.finish();
    assert_eq!(get(&calls), 1, "the callback comes although no handle is left");
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn the_last_handle_may_be_dropped_inside_the_callback() {
    let mut bench = bench("");
    let token = Arc::new(());
    let place: Arc<Mutex<Option<WaitCtx>>> = Arc::default();
    let (calls, count) = counting();
    let (own_place, own_token) = (Arc::clone(&place), Arc::clone(&token));
    let ctx = WaitCtx::with_callback(move |_| {
        drop(own_place.lock().unwrap().take());
        assert_eq!(Arc::strong_count(&own_token), 2, "what the callback owns is alive while it runs");
        count();
    });
    let request = bench.request();
    let mut slot = place.lock().unwrap();
    *slot = Some(ctx);
    submit(request, slot.as_ref().unwrap());
    drop(slot);
    bench.finish();
    assert_eq!((get(&calls), bench.device.stats().panics), (1, 0));
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn release_inside_its_own_callback_returns_at_once() {
    let mut bench = bench("");
    let (calls, count) = counting();
    let ctx = WaitCtx::with_callback(move |delivery| {
        assert!(!delivery.context().release(), "nothing is in flight any more");
        delivery.take().unwrap().into_request().submit(delivery).unwrap();
        assert!(delivery.context().release(), "the new request is given up");
        count();
    });
    submit(bench.request(), &ctx);
    bench.finish();
    let stats = bench.device.stats();
    assert_eq!((get(&calls), stats.panics, stats.accepted, stats.completed, stats.detached), (1, 0, 2, 1, 1));
}

#[test]
fn release_on_another_thread_returns_after_the_running_callback_has() {
    let device = Device::open("sim:").unwrap();
    let poller = Poller::spawn(&device, Default::default()).unwrap();
    let key = zero_key(&device, CIPHER);
    for _ in 0..20 {
        let (inside, asked, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let (i, a, d) = (Arc::clone(&inside), Arc::clone(&asked), Arc::clone(&done));
        let ctx = WaitCtx::with_callback(move |_| {
            i.store(true, Ordering::SeqCst);
            wait_until("the release", || a.load(Ordering::SeqCst));
            // The other thread is in release, or about to be: give it every chance to return early.
            (0..200).for_each(|_| std::thread::yield_now());
            d.store(true, Ordering::SeqCst);
        });
        submit(small(&device, &key, 16), &ctx);
        wait_until("the callback", || inside.load(Ordering::SeqCst));
        asked.store(true, Ordering::SeqCst);
        assert!(!ctx.release(), "its delivery has begun");
        assert!(done.load(Ordering::SeqCst), "release returned while the callback was running");
    }
    poller.shutdown();
}

#[test]
fn a_context_whose_result_was_taken_by_polling_is_free_for_the_next_request() {
    let device = Device::open("sim:").unwrap();
    let config = PollerConfig { idle: IdlePolicy::Spin, ..Default::default() };
    let poller = Poller::spawn(&device, config).unwrap();
    let key = zero_key(&device, CIPHER);
    let ctx = WaitCtx::new();
    let mut request = small(&device, &key, 16);
    for round in 0..20_000 {
        request.submit(&ctx).unwrap_or_else(|refused| panic!("round {round}: {refused}"));
        let done = loop {
            if let Some(done) = ctx.take() {
                break done;
            }
            std::hint::spin_loop();
        };
        assert!(!ctx.detach(), "round {round}: it was taken, and then given up too");
        request = done.into_request();
    }
    poller.shutdown();
    assert_eq!(device.stats().completed, 20_000);
}

// ---- giving up ----

#[test]
fn a_detached_request_is_not_delivered_and_its_buffers_return_with_the_device() {
    let mut bench = bench("");
    let free = bench.device.free_bytes();
    let token = Arc::new(());
    let (calls, count) = counting();
    let owned = Arc::clone(&token);
    let ctx = WaitCtx::with_callback_and_fd(move |_| {
        let _keep = &owned;
        count();
    })
    .unwrap();
    submit(bench.request(), &ctx);
    assert!(ctx.detach());
    assert!(!ctx.detach(), "it is given up once");
    assert!(ctx.is_busy());
    assert!(bench.device.free_bytes() < free, "the device may still write to the buffer");
    assert_eq!(bench.request().submit(&ctx).unwrap_err().reason(), Reason::ContextBusy);
    bench.poller.poll();
    assert!(ctx.is_busy() && bench.device.free_bytes() < free);
    bench.finish();
    assert!(!ctx.is_busy() && ctx.take().is_none());
    assert_eq!((get(&calls), counter(&ctx), bench.device.free_bytes()), (0, None, free));
    let stats = bench.device.stats();
    assert_eq!((stats.accepted, stats.deliveries, stats.detached), (1, 0, 1));
    submit(bench.request(), &ctx);
    bench.finish();
    assert_eq!(get(&calls), 1, "the context is good for another request");
    drop(ctx);
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn what_the_callback_of_a_detached_request_owns_lives_until_the_device_has_returned_it() {
    let mut bench = bench("");
    let token = Arc::new(());
    let owned = Arc::clone(&token);
    let ctx = WaitCtx::with_callback(move |_| drop(Arc::clone(&owned)));
    submit(bench.request(), &ctx);
    assert!(ctx.detach());
    drop(ctx);
    assert_eq!(Arc::strong_count(&token), 2);
    bench.finish();
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn after_its_delivery_a_request_cannot_be_detached() {
    let mut bench = bench("");
    let ctx = WaitCtx::new();
    submit(bench.request(), &ctx);
    bench.finish();
    assert!(!ctx.detach());
    assert!(ctx.take().is_some());
}

#[test]
fn a_cancelled_request_is_delivered_once_and_its_buffers_return_with_the_device() {
    let mut bench = bench("");
    let free = bench.device.free_bytes();
    let (calls, count) = counting();
    let ctx = WaitCtx::with_callback(move |_| count());
    submit(bench.request(), &ctx);
    bench.device.cancel(&ctx);
    bench.device.cancel(&ctx);
    bench.poller.poll();
    assert_eq!((get(&calls), ctx.status(), ctx.is_busy()), (1, Status::Err, false));
    let done = ctx.take().unwrap();
    assert_eq!(done.result(), Err(Fault::Canceled));
    assert!(done.request().output().is_empty() && done.request().input().is_empty());
    let refused = done.into_request().submit(&ctx).unwrap_err();
    assert_eq!((refused.reason(), refused.status()), (Reason::NoData, Status::Err));
    drop(refused);
    assert!(bench.device.free_bytes() < free, "the device may still write to the buffer");
    assert_eq!(bench.device.stats().quarantined, 1);
    assert_eq!(bench.poller.in_flight(), 0);
    bench.finish();
    assert_eq!((get(&calls), bench.device.free_bytes()), (1, free));
    let stats = bench.device.stats();
    assert_eq!((stats.accepted, stats.errors, stats.canceled, stats.quarantined), (1, 1, 1, 0));
}

#[test]
fn a_cancel_of_nothing_and_a_cancel_too_late_do_nothing() {
    let mut bench = bench("");
    let ctx = WaitCtx::new();
    bench.device.cancel(&ctx);
    bench.poller.poll();
    submit(bench.request(), &ctx);
    bench.finish();
    bench.device.cancel(&ctx);
    bench.poller.poll();
    assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes));
    assert_eq!(bench.device.stats().canceled, 0);
}

#[test]
fn a_cancel_meant_for_one_request_does_not_hit_the_next_one_of_the_context() {
    let mut bench = bench("");
    let again = Arc::new(AtomicBool::new(true));
    let first = Arc::clone(&again);
    let victim = WaitCtx::with_callback(move |delivery| {
        if first.swap(false, Ordering::SeqCst) {
            delivery.take().unwrap().into_request().submit(delivery).unwrap();
        }
    });
    let (device, other) = (bench.device.clone(), victim.clone());
    let canceller = WaitCtx::with_callback(move |_| device.cancel(&other));
    // In one drain: first the canceller asks, then the victim is delivered and goes out again.
    submit(bench.request(), &canceller);
    submit(bench.request(), &victim);
    assert_eq!(bench.sim.step(), 2);
    assert_eq!(bench.poller.poll(), 2);
    bench.poller.poll();
    assert!(victim.is_busy(), "the second request is in flight");
    bench.finish();
    assert_eq!(victim.take().unwrap().result(), Ok(Answer::Yes));
    assert_eq!(bench.device.stats().canceled, 0);
}

#[test]
fn a_request_both_detached_and_cancelled_is_not_delivered_and_counts_as_detached_alone() {
    let mut bench = bench("");
    let free = bench.device.free_bytes();
    let (calls, count) = counting();
    let ctx = WaitCtx::with_callback(move |_| count());
    submit(bench.request(), &ctx);
    assert!(ctx.detach());
    bench.device.cancel(&ctx);
    bench.poller.poll();
    assert!(bench.device.free_bytes() < free);
    bench.finish();
    let stats = bench.device.stats();
    assert_eq!((get(&calls), stats.deliveries, stats.detached, bench.device.free_bytes()), (0, 0, 1, free));
    assert!(stats.canceled <= stats.errors, "cancelled requests are among the errors: {stats:?}");
}

// ---- devices that complete out of order ----

/// Keeps a queue of 8 full on a device that completes one at a time at random, until a request has
/// been overtaken by more than 16 others.
fn overtaken(bench: &mut Bench) -> Option<WaitCtx> {
    let contexts: Vec<_> = (0..8).map(|_| WaitCtx::new()).collect();
    let mut since = [0_u32; 8];
    contexts.iter().for_each(|ctx| submit(bench.request(), ctx));
    for round in 0..2000 {
        assert_eq!(bench.sim.step_n(1), 1);
        bench.poller.poll();
        assert_eq!(bench.device.state(), DeviceState::Ready, "round {round}");
        for (ctx, since) in contexts.iter().zip(&mut since) {
            *since += 1;
            if let Some(done) = ctx.take() {
                assert_eq!(done.result(), Ok(Answer::Yes), "after {since} rounds");
                submit(done.into_request(), ctx);
                *since = 0;
            }
        }
        if let Some(old) = since.iter().position(|since| *since > 16) {
            return Some(contexts[old].clone());
        }
    }
    None
}

#[test]
fn a_request_overtaken_by_more_than_a_ring_of_others_is_completed() {
    let mut bench = bench("queue-size=8,order=shuffle,seed=3");
    let old = overtaken(&mut bench).expect("one is overtaken");
    assert!(old.is_busy());
    bench.finish();
    assert_eq!(bench.device.state(), DeviceState::Ready);
    assert_eq!(old.take().unwrap().result(), Ok(Answer::Yes));
}

#[test]
fn a_request_overtaken_by_more_than_a_ring_of_others_can_be_cancelled() {
    let mut bench = bench("queue-size=8,order=shuffle,seed=3");
    let old = overtaken(&mut bench).expect("one is overtaken");
    bench.device.cancel(&old);
    bench.poller.poll();
    assert_eq!((old.is_busy(), old.status()), (false, Status::Err));
    assert_eq!(old.take().unwrap().result(), Err(Fault::Canceled));
}

#[test]
fn a_request_overtaken_by_more_than_a_ring_of_others_expires() {
    let (clock, config) = with_clock(800, 1_000_000);
    let mut bench = bench_with("queue-size=8,order=shuffle,seed=3", config);
    let old = overtaken(&mut bench).expect("one is overtaken");
    for _ in 0..10 {
        clock.advance(Duration::from_millis(100));
        bench.poller.poll();
    }
    assert!(!old.is_busy());
    assert_eq!(old.take().unwrap().result(), Err(Fault::TimedOut));
}

// ---- deadlines ----

fn with_clock(request_timeout: u64, stall_limit: u64) -> (ManualClock, PollerConfig) {
    let clock = ManualClock::new();
    let config = PollerConfig {
        clock: Clock::Manual(clock.clone()),
        request_timeout: Duration::from_millis(request_timeout),
        stall_limit: Duration::from_millis(stall_limit),
        // How a device comes back is looked at elsewhere.
        recovery_tries: 0,
        ..Default::default()
    };
    (clock, config)
}

/// Polls every `step` ms from 1 ms on until the context is idle: when that was.
fn when_idle(clock: &ManualClock, poller: &mut ManualPoller, ctx: &WaitCtx, step: u64) -> u64 {
    poller.poll();
    for now in (step..1_000_000).step_by(step as usize) {
        clock.advance(Duration::from_millis(step));
        poller.poll();
        if !ctx.is_busy() {
            return now;
        }
    }
    panic!("it never ended");
}

#[test]
fn a_deadline_is_never_early_and_at_most_a_tick_late() {
    // Whatever the phase between the submission and the poller's ticks.
    for phase in [0, 1, 50, 99, 100] {
        let (clock, config) = with_clock(800, 1_000_000);
        let mut bench = bench_with("", config);
        clock.advance(Duration::from_millis(phase));
        bench.poller.poll();
        let ctx = WaitCtx::new();
        submit(bench.request(), &ctx);
        let ended = when_idle(&clock, &mut bench.poller, &ctx, 1);
        assert!((800..=900).contains(&ended), "phase {phase}: ended after {ended} ms of 800, a tick is 100");
        assert_eq!(ctx.take().unwrap().result(), Err(Fault::TimedOut));
        assert_eq!(ctx.status(), Status::Err);
        assert_eq!(bench.device.stats().expired, 1);
    }
}

#[test]
fn a_deadline_is_at_most_a_tick_late_where_polls_are_rare() {
    // One tick (100 ms), and the time to the next poll.
    for step in [60, 90, 150, 400] {
        let (clock, config) = with_clock(800, 1_000_000);
        let mut bench = bench_with("", config);
        let ctx = WaitCtx::new();
        submit(bench.request(), &ctx);
        let ended = when_idle(&clock, &mut bench.poller, &ctx, step);
        assert!(
            (800..=900 + step).contains(&ended),
            "polled every {step} ms: ended after {ended} ms of 800, a tick is 100"
        );
    }
}

#[test]
fn an_expired_request_ends_alone_and_the_device_is_suspect_until_its_slot_is_back() {
    let (clock, config) = with_clock(800, 1_000_000);
    let mut bench = bench_with("queues=2,queue-size=8", config);
    let free = bench.device.free_bytes();
    let (mut a, mut b) = (bench.device.owned_queue().unwrap(), bench.device.owned_queue().unwrap());
    let (stuck, other) = (WaitCtx::new(), WaitCtx::new());
    // owned_queue gives the last queue first: `b` is queue 0.
    a.submit(bench.request(), &stuck).unwrap();
    b.submit(bench.request(), &other).unwrap();
    assert_eq!(bench.sim.step_n(1), 1, "queue 0 has the first turn");
    bench.poller.poll();
    assert!(stuck.is_busy() && !other.is_busy());
    let ended = when_idle(&clock, &mut bench.poller, &stuck, 1);
    assert!(ended >= 800);
    assert_eq!(stuck.take().unwrap().result(), Err(Fault::TimedOut));
    assert_eq!(bench.device.state(), DeviceState::Suspect);
    assert_eq!(bench.device.stats().quarantined, 1);
    // Others go on: queue 1 has the turn after this empty step, then queue 0 again.
    drop(other.take());
    b.submit(bench.request(), &other).unwrap();
    while bench.sim.step_n(1) == 0 {}
    bench.poller.poll();
    if other.is_busy() {
        bench.finish();
    }
    assert_eq!(other.take().unwrap().result(), Ok(Answer::Yes));
    bench.finish();
    assert_eq!(bench.device.stats().quarantined, 0);
    assert!(stuck.take().is_none(), "it is delivered once");
    for _ in 0..3 {
        clock.advance(Duration::from_millis(100));
        bench.poller.poll();
    }
    assert_eq!(bench.device.state(), DeviceState::Ready);
    assert_eq!(bench.device.free_bytes(), free);
    // The slot is not lost.
    let contexts: Vec<_> = (0..8).map(|_| WaitCtx::new()).collect();
    contexts.iter().for_each(|ctx| a.submit(small(&bench.device, &bench.key, 16), ctx).unwrap());
    bench.finish();
    let stats = bench.device.stats();
    assert_eq!((stats.accepted, stats.completed, stats.errors, stats.expired), (11, 10, 1, 1));
}

#[test]
fn a_queue_without_progress_for_the_stall_limit_fails_the_device() {
    let (clock, config) = with_clock(800, 2000);
    let mut bench = bench_with("queue-size=8", config);
    let free = bench.device.free_bytes();
    let contexts = bench.fill();
    bench.poller.poll();
    let mut now = 0;
    while bench.device.state() != DeviceState::Failed {
        assert!(now < 4000, "no progress for {now} ms, the limit is 2000");
        now += 10;
        clock.advance(Duration::from_millis(10));
        bench.poller.poll();
    }
    assert!(now >= 2000, "failed after {now} ms already");
    let refused = bench.request().submit(&contexts[0]).unwrap_err();
    assert_eq!((refused.reason(), refused.status()), (Reason::DeviceDown, Status::Err));
    drop(refused);
    for ctx in contexts {
        assert!(!ctx.is_busy());
        assert_eq!(ctx.status(), Status::Err);
        assert!(ctx.take().unwrap().result().is_err());
    }
    let stats = bench.device.stats();
    assert_eq!((stats.accepted, stats.errors, stats.completed, stats.quarantined), (8, 8, 0, 0));
    common::assert_all_back(&bench.device, free);
}

#[test]
fn the_stall_limit_holds_also_where_requests_may_take_long() {
    let (clock, config) = with_clock(60_000, 2000);
    let mut bench = bench_with("", config);
    let ctx = WaitCtx::new();
    submit(bench.request(), &ctx);
    let ended = when_idle(&clock, &mut bench.poller, &ctx, 10);
    assert!((2000..=4000).contains(&ended), "no progress for {ended} ms, the limit is 2000");
    assert_eq!(bench.device.state(), DeviceState::Failed);
}

#[test]
fn progress_keeps_the_stall_limit_away() {
    let (clock, config) = with_clock(8_000, 2000);
    let mut bench = bench_with("queue-size=8", config);
    let contexts = bench.fill();
    for _ in 0..80 {
        clock.advance(Duration::from_millis(500));
        assert_eq!(bench.sim.step_n(1), 1);
        bench.poller.poll();
        for ctx in &contexts {
            if ctx.take().is_some() {
                submit(small(&bench.device, &bench.key, 16), ctx);
            }
        }
    }
    assert_eq!(bench.device.state(), DeviceState::Ready);
    assert_eq!(bench.device.stats().errors, 0);
}

// ---- wait fds ----

#[test]
fn a_wait_fd_is_readable_exactly_once_for_each_delivery() {
    let mut bench = bench("");
    let ctx = WaitCtx::with_fd().unwrap();
    let refused = bench.key.encrypt(&[], bench.device.buffer(16).unwrap()).submit(&ctx).unwrap_err();
    assert!(!readable(ctx.fd().unwrap()), "a refused request is not delivered: {refused}");
    for _ in 0..3 {
        submit(bench.request(), &ctx);
        assert!(!readable(ctx.fd().unwrap()));
        bench.finish();
        assert!(readable(ctx.fd().unwrap()));
        assert_eq!(counter(&ctx), Some(1));
        assert!(!readable(ctx.fd().unwrap()));
        assert!(ctx.take().is_some());
    }
    submit(bench.request(), &ctx);
    bench.device.cancel(&ctx);
    bench.finish();
    assert_eq!(counter(&ctx), Some(1));
    submit(bench.request(), &ctx);
    bench.finish();
    assert!(ctx.take_ready().is_some());
    assert!(!readable(ctx.fd().unwrap()), "take_ready makes it unreadable");
}

#[test]
fn a_context_with_callback_and_fd_gets_both_once() {
    let mut bench = bench("");
    let (calls, count) = counting();
    let ctx = WaitCtx::with_callback_and_fd(move |_| count()).unwrap();
    submit(bench.request(), &ctx);
    bench.finish();
    assert_eq!((get(&calls), counter(&ctx), counter(&ctx)), (1, Some(1), None));
}

#[test]
fn many_wait_fds_of_one_pass_are_all_readable_once() {
    for count in [15, 16, 17, 64, 200] {
        let mut bench = bench("");
        let contexts: Vec<_> = (0..count).map(|_| WaitCtx::with_fd().unwrap()).collect();
        contexts.iter().for_each(|ctx| submit(bench.request(), ctx));
        assert_eq!(bench.sim.step(), count);
        assert_eq!(bench.poller.poll(), count);
        for (number, ctx) in contexts.iter().enumerate() {
            assert_eq!((counter(ctx), counter(ctx)), (Some(1), None), "{number} of {count}");
        }
    }
}

#[test]
fn wait_fds_are_readable_after_a_shutdown() {
    for count in [1, 40] {
        let bench = bench("");
        let contexts: Vec<_> = (0..count).map(|_| WaitCtx::with_fd().unwrap()).collect();
        contexts.iter().for_each(|ctx| submit(bench.request(), ctx));
        drop(bench.poller);
        for ctx in &contexts {
            assert_eq!((counter(ctx), ctx.status()), (Some(1), Status::Err));
            assert_eq!(ctx.take().unwrap().result(), Err(Fault::Shutdown));
        }
    }
}

// ---- shutdown ----

fn config_without_grace() -> PollerConfig {
    PollerConfig { grace: Duration::ZERO, ..Default::default() }
}

#[test]
fn a_poller_dropped_with_work_in_flight_ends_all_of_it_with_err() {
    let device = Device::open("sim:latency=60s").unwrap();
    let poller = Poller::spawn(&device, config_without_grace()).unwrap();
    let key = zero_key(&device, CIPHER);
    let free = device.free_bytes();
    let (calls, count) = counting();
    let contexts: Vec<_> = (0..50)
        .map(|_| {
            let count = count.clone();
            WaitCtx::with_callback(move |_| count())
        })
        .collect();
    contexts.iter().for_each(|ctx| submit(small(&device, &key, 64), ctx));
    drop(poller);
    assert_eq!((get(&calls), device.state()), (50, DeviceState::Closed));
    for ctx in &contexts {
        assert_eq!((ctx.status(), ctx.is_busy()), (Status::Err, false));
        let done = ctx.take().unwrap();
        assert_eq!(done.result(), Err(Fault::Shutdown));
        assert_eq!(done.request().input().len(), 64, "the device was reset: the buffers are back");
    }
    common::assert_all_back(&device, free);
    let refused = small(&device, &key, 64).submit(&contexts[0]).unwrap_err();
    assert_eq!((refused.reason(), contexts[0].status()), (Reason::DeviceDown, Status::Err));
}

#[test]
fn a_shutdown_waits_for_what_is_in_flight_within_its_grace() {
    let device = Device::open("sim:latency=20ms").unwrap();
    let config = PollerConfig {
        grace: FOR_EVER,
        request_timeout: FOR_EVER,
        stall_limit: FOR_EVER,
        ..Default::default()
    };
    let poller = Poller::spawn(&device, config).unwrap();
    let key = zero_key(&device, CIPHER);
    let contexts: Vec<_> = (0..20).map(|_| WaitCtx::new()).collect();
    contexts.iter().for_each(|ctx| submit(small(&device, &key, 64), ctx));
    poller.shutdown();
    for ctx in &contexts {
        assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes));
    }
    assert_eq!(device.stats().completed, 20);
}

#[test]
fn a_shutdown_asked_for_inside_a_callback_is_handed_over() {
    let device = Device::open("sim:").unwrap();
    let place = Arc::new(Mutex::new(None));
    let poller = Poller::spawn(&device, config_without_grace()).unwrap();
    *place.lock().unwrap() = Some(poller);
    let key = zero_key(&device, CIPHER);
    let (returned, count) = counting();
    let own = Arc::clone(&place);
    let ctx = WaitCtx::with_callback(move |_| {
        let poller: Option<Poller> = own.lock().unwrap().take();
        poller.unwrap().shutdown();
        count();
    });
    submit(small(&device, &key, 16), &ctx);
    wait_until("the shutdown", || device.state() == DeviceState::Closed);
    assert_eq!(get(&returned), 1, "it returned inside the callback");
    assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes));
}

#[test]
fn a_callback_of_a_shutdown_may_submit_and_is_refused() {
    let bench = bench("");
    let reasons = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&reasons);
    let ctx = WaitCtx::with_callback(move |delivery| {
        let refused = delivery.take().unwrap().into_request().submit(delivery).unwrap_err();
        list.lock().unwrap().push((refused.reason(), delivery.status()));
    });
    submit(bench.request(), &ctx);
    drop(bench.poller);
    assert_eq!(*reasons.lock().unwrap(), [(Reason::DeviceDown, Status::Err)]);
    assert_eq!(bench.device.stats().panics, 0);
}

#[test]
fn a_burst_whose_poller_ends_while_it_is_filled_ends_each_request_once() {
    let bench = bench("");
    let free = bench.device.free_bytes();
    let mut queue = bench.device.owned_queue().unwrap();
    let (calls, count) = counting();
    let make = || {
        let count = count.clone();
        WaitCtx::with_callback_and_fd(move |_| count()).unwrap()
    };
    let contexts: Vec<_> = (0..6).map(|_| make()).collect();
    let requests: Vec<_> = contexts.iter().map(|_| bench.request()).collect();
    let mut poller = Some(bench.poller);
    let mut accepted = 0;
    queue.burst(|burst| {
        for (number, (request, ctx)) in requests.into_iter().zip(&contexts).enumerate() {
            if number == 3 {
                drop(poller.take());
            }
            match burst.submit(request, ctx) {
                Ok(()) => accepted += 1,
                Err(refused) => assert_eq!(refused.status(), Status::Err),
            }
        }
    });
    assert!(accepted >= 3);
    let stats = bench.device.stats();
    assert_eq!(
        (get(&calls), stats.accepted, stats.deliveries, stats.errors),
        (accepted, accepted, accepted, accepted)
    );
    for ctx in &contexts {
        assert_eq!((ctx.is_busy(), ctx.status()), (false, Status::Err));
        if let Some(done) = ctx.take() {
            assert_eq!((done.result(), counter(ctx)), (Err(Fault::Shutdown), Some(1)));
        }
    }
    common::assert_all_back(&bench.device, free);
}

#[test]
fn a_panic_while_a_burst_is_filled_loses_nothing_of_it() {
    let mut bench = bench("");
    let mut queue = bench.device.owned_queue().unwrap();
    let ctx = WaitCtx::new();
    let request = bench.request();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        queue.burst(|burst| {
            burst.submit(request, &ctx).unwrap();
            panic!("on purpose");
        });
    }));
    assert!(caught.is_err());
    bench.finish();
    assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes));
    let stats = bench.device.stats();
    assert_eq!((stats.accepted, stats.deliveries), (1, 1), "accepted = deliveries + detached");
    queue.submit(bench.request(), &ctx).unwrap();
    bench.finish();
    let stats = bench.device.stats();
    assert_eq!((stats.accepted, stats.deliveries), (2, 2));
}

#[test]
fn a_poller_that_cannot_be_made_leaves_its_devices_without_one() {
    let (taken, free) = (Device::open("sim:").unwrap(), Device::open("sim:").unwrap());
    let first = Poller::spawn(&taken, Default::default()).unwrap();
    let error = PollerBuilder::new().device(&free).device(&taken).spawn().unwrap_err();
    assert!(error.to_string().contains("poller already"), "{error}");
    let second = Poller::spawn(&free, Default::default()).expect("the device without a poller can have one");
    let ctx = WaitCtx::new();
    let key = zero_key(&free, CIPHER);
    assert_eq!(run(small(&free, &key, 16), &ctx).result(), Ok(Answer::Yes));
    first.shutdown();
    second.shutdown();
}

#[test]
fn a_poller_that_cannot_have_its_core_leaves_its_device_ready_for_another() {
    let device = Device::open("sim:").unwrap();
    let config = PollerConfig { core: Some(1_000_000), ..Default::default() };
    let error = Poller::spawn(&device, config).unwrap_err();
    assert!(error.to_string().contains("core 1000000"), "{error}");
    assert_eq!(device.state(), DeviceState::Ready);
    Poller::spawn(&device, Default::default()).expect("a poller that can be had").shutdown();
}

#[test]
fn configurations_out_of_range_are_refused() {
    let device = Device::open("sim:").unwrap();
    let d = PollerConfig::default;
    for config in [
        PollerConfig { budget: 0, ..d() },
        PollerConfig { budget: 65_537, ..d() },
        PollerConfig { request_timeout: Duration::from_millis(7), ..d() },
        PollerConfig { stall_limit: Duration::from_millis(7), ..d() },
        PollerConfig { thread_name: "a\0b".to_owned(), ..d() },
    ] {
        assert!(Poller::spawn(&device, config.clone()).is_err(), "{config:?}");
    }
    assert!(PollerBuilder::new().spawn().is_err(), "a poller without devices");
    assert!(Poller::spawn(&device, d()).is_ok());
}

// ---- threads, devices, sessions ----

#[test]
fn under_every_idle_policy_no_wake_up_is_lost() {
    for idle in
        [IdlePolicy::Spin, IdlePolicy::ADAPTIVE, IdlePolicy::Adaptive(Duration::ZERO), IdlePolicy::Interrupt]
    {
        for address in ["sim:", "sim:latency=50us"] {
            let device = Device::open(address).unwrap();
            // With these limits a lost wake-up is not mended by a timer.
            let config = PollerConfig {
                idle,
                request_timeout: FOR_EVER * 8,
                stall_limit: FOR_EVER * 8,
                ..Default::default()
            };
            let poller = Poller::spawn(&device, config).unwrap();
            let key = zero_key(&device, CIPHER);
            let ctx = WaitCtx::new();
            let mut request = small(&device, &key, 16);
            for _ in 0..300 {
                request = run(request, &ctx).into_request();
            }
            assert_eq!(device.stats().completed, 300);
            poller.shutdown();
        }
    }
}

#[test]
fn two_devices_under_one_poller_and_one_context_for_both() {
    let devices = [Device::open("sim:seed=1").unwrap(), Device::open("sim:seed=2,queues=3").unwrap()];
    let poller = PollerBuilder::new().device(&devices[0]).device(&devices[1]).spawn().unwrap();
    let ctx = WaitCtx::new();
    let keys = devices.each_ref().map(|device| zero_key(device, CIPHER));
    for round in 0..20 {
        let (device, key) = (&devices[round % 2], &keys[round % 2]);
        assert_eq!(run(small(device, key, 64), &ctx).result(), Ok(Answer::Yes));
    }
    assert_eq!(devices.each_ref().map(|device| device.stats().accepted), [10, 10]);
    poller.shutdown();
    assert!(devices.iter().all(|device| device.state() == DeviceState::Closed));
}

#[test]
fn two_pollers_live_side_by_side_and_end_alone() {
    let devices = [Device::open("sim:").unwrap(), Device::open("sim:").unwrap()];
    let [first, second] = devices.each_ref().map(|device| Poller::spawn(device, Default::default()).unwrap());
    let keys = devices.each_ref().map(|device| zero_key(device, CIPHER));
    let ctx = WaitCtx::new();
    assert!(run(small(&devices[0], &keys[0], 16), &ctx).result().is_ok());
    first.shutdown();
    assert_eq!(devices.each_ref().map(Device::state), [DeviceState::Closed, DeviceState::Ready]);
    assert!(run(small(&devices[1], &keys[1], 16), &ctx).result().is_ok());
    second.shutdown();
}

#[test]
fn a_fault_of_one_device_leaves_the_other_one_of_the_poller_alone() {
    let (clock, config) = with_clock(800, 2000);
    let sims = [1, 2].map(|_| Sim::stepped("queue-size=8".parse().unwrap()).unwrap());
    let devices =
        sims.each_ref().map(|sim| Device::from_function(sim.function(), &DeviceOptions::default()).unwrap());
    let mut poller = ManualPoller::new(&devices, config).unwrap();
    let keys = devices.each_ref().map(|device| zero_key(device, CIPHER));
    let (stuck, fine) = (WaitCtx::new(), WaitCtx::new());
    submit(small(&devices[0], &keys[0], 16), &stuck);
    submit(small(&devices[1], &keys[1], 16), &fine);
    let mut delivered = 0;
    for _ in 0..100 {
        clock.advance(Duration::from_millis(100));
        sims[1].step();
        poller.poll();
        if let Some(done) = fine.take() {
            assert_eq!(done.result(), Ok(Answer::Yes));
            delivered += 1;
            submit(done.into_request(), &fine);
        }
    }
    assert_eq!(delivered, 100);
    assert_eq!(devices.each_ref().map(Device::state), [DeviceState::Failed, DeviceState::Ready]);
    assert!(stuck.take().unwrap().result().is_err());
}

#[test]
fn requests_without_a_poller_wait_for_one() {
    let device = Device::open("sim:").unwrap();
    let key = zero_key(&device, CIPHER);
    let ctx = WaitCtx::new();
    submit(small(&device, &key, 16), &ctx);
    let poller = Poller::spawn(&device, Default::default()).unwrap();
    wait_until("the delivery", || !ctx.is_busy());
    assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes));
    assert!(Poller::spawn(&device, Default::default()).is_err(), "a device has one poller");
    poller.shutdown();
}

#[test]
fn the_same_key_uses_the_same_sessions_and_a_shutdown_ends_them() {
    let mut bench = bench("");
    assert_eq!((bench.sim.stats().sessions, bench.sim.stats().control), (2, 2));
    let ctx = WaitCtx::new();
    for _ in 0..5 {
        let again = zero_key(&bench.device, CIPHER);
        submit(small(&bench.device, &again, 16), &ctx);
        bench.finish();
    }
    assert_eq!(bench.sim.stats().control, 2, "no session was made for a key that has some");
    let other = bench.device.cipher_key(CIPHER, &[9; 16]).unwrap();
    other.prepare().unwrap();
    assert_eq!(bench.sim.stats().sessions, 4);
    drop(bench.poller);
    assert_eq!(bench.sim.stats().sessions, 0);
}

#[test]
fn idle_sessions_make_room_when_the_device_is_full_and_pinned_ones_stay() {
    let mut bench = {
        let (sim, device, poller) =
            stepped("quirks=qemu", &DeviceOptions::default(), PollerConfig::default());
        let key = zero_key(&device, Cipher::Aes128Cbc);
        Bench { sim, device, poller, key }
    };
    let ctx = WaitCtx::new();
    // QEMU holds 256 sessions; this makes more, one after the other.
    for number in 0..300_u32 {
        let mut bytes = [3; 16];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        let key = bench.device.cipher_key(Cipher::Aes128Cbc, &bytes).unwrap();
        key.prepare().unwrap();
    }
    let stats = bench.sim.stats();
    assert!(stats.sessions <= 256 && stats.faults == 0, "{stats:?}");
    // The first key is held all the time: its session is there still.
    let control = bench.sim.stats().control;
    submit(small(&bench.device, &bench.key, 16), &ctx);
    bench.finish();
    assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes));
    assert_eq!(bench.sim.stats().control, control);
}
