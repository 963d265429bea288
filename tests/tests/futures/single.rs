//! One request at a time: `TaskCtx::run`, `TaskCtx::ended`, `request.await`.

use std::cell::Cell;
use std::future::IntoFuture;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use ringbell::{
    Answer, Clock, Device, DeviceOptions, DeviceState, Fault, ManualClock, PollerConfig, Reason, Status,
    TaskCtx, Unfinished, WaitCtx,
};

use super::common::{small, stepped, zero_key};
use super::tasks::{Bell, Executor};
use super::{Bench, CIPHER, ZEROS, assert_accounts, bench, bench_with};

// ---- running ----

#[test]
fn the_first_poll_submits_and_the_delivery_wakes_once() {
    let mut bench = bench("");
    let (mut ctx, bell) = (TaskCtx::new(&bench.device), Bell::new());
    assert_eq!(ctx.status(), Status::Unsupported);
    let mut running = ctx.run(bench.request());
    assert_eq!((bench.stats().accepted, running.is_in_flight()), (0, false));
    assert!(bell.poll(&mut running).is_none());
    assert_eq!((bench.stats().accepted, bell.wakes(), running.is_in_flight()), (1, 0, true));
    assert!(bell.poll(&mut running).is_none(), "a poll too many changes nothing");
    bench.finish();
    assert_eq!(bell.wakes(), 1);
    let done = bell.poll(&mut running).unwrap().unwrap();
    assert_eq!(done.result(), Ok(Answer::Yes));
    assert_eq!(done.request().output()[..16], ZEROS);
    assert!(bell.poll(&mut running).is_none(), "it resolves once");
    drop(running);
    assert_eq!((ctx.status(), ctx.is_busy()), (Status::Ok, false));
    bench.finish();
    assert_eq!(bell.wakes(), 1);
    let stats = bench.stats();
    assert_eq!((stats.accepted, stats.completed, stats.detached), (1, 1, 0));
}

#[test]
fn a_context_runs_one_request_after_another_and_wakes_whoever_polls() {
    let mut bench = bench("");
    let mut ctx = TaskCtx::new(&bench.device);
    let mut request = bench.request();
    for round in 0..10 {
        // Another task each time, and two within a round.
        let (first, second) = (Bell::new(), Bell::new());
        let mut running = ctx.run(request);
        assert!(first.poll(&mut running).is_none());
        assert!(second.poll(&mut running).is_none());
        bench.finish();
        assert_eq!((first.wakes(), second.wakes()), (0, 1), "the last one to poll is woken: {round}");
        request = second.poll(&mut running).unwrap().unwrap().into_request();
        request.input_mut().fill(0);
    }
    assert_eq!(bench.stats().completed, 10);
}

#[test]
fn a_request_that_is_done_before_the_first_poll_returns_resolves_at_once() {
    // The future's own first poll cannot be interrupted here; a request submitted by hand can be.
    let mut bench = bench("");
    let (mut ctx, bell) = (TaskCtx::new(&bench.device), Bell::new());
    bench.request().submit(&ctx).unwrap();
    bench.finish();
    assert_eq!(bell.poll(&mut ctx.ended()).unwrap().unwrap().result(), Ok(Answer::Yes));
    assert_eq!(bell.wakes(), 0);
}

#[test]
fn a_request_can_be_awaited_without_a_context() {
    let mut bench = bench("");
    let bell = Bell::new();
    let mut future = bench.request().into_future();
    assert!(bell.poll(&mut future).is_none());
    bench.finish();
    assert_eq!(bell.wakes(), 1);
    assert_eq!(bell.poll(&mut future).unwrap().unwrap().request().output()[..16], ZEROS);
}

#[test]
fn a_request_refused_for_good_comes_back_inside_the_error() {
    let mut bench = bench("");
    let (mut ctx, bell) = (TaskCtx::new(&bench.device), Bell::new());
    let mut bad = bench.bad();
    bad.input_mut().fill(7);
    let refused = bell.poll(&mut ctx.run(bad)).unwrap().unwrap_err();
    assert_eq!((refused.reason(), ctx.status()), (Some(Reason::IvLength), Status::Err));
    assert!(refused.to_string().contains("IV"), "{refused}");
    let mut request = refused.into_request().unwrap();
    assert_eq!(request.input(), [7; 64]);
    // Repaired, it runs.
    request.set_iv(&[0; 16]);
    let mut running = ctx.run(request);
    assert!(bell.poll(&mut running).is_none());
    bench.finish();
    assert!(bell.poll(&mut running).unwrap().is_ok());
    assert_eq!((bench.stats().refused, bell.kept()), (1, 1));
}

#[test]
fn a_request_of_another_device_is_refused() {
    let (bench, other) = (bench(""), bench(""));
    let (mut ctx, bell) = (TaskCtx::new(&bench.device), Bell::new());
    let refused = bell.poll(&mut ctx.run(other.request())).unwrap().unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::OtherDevice));
}

#[test]
fn an_executor_runs_many_tasks_that_run_many_requests() {
    let mut bench = bench("order=shuffle,seed=5");
    let mut executor = Executor::default();
    let done = Rc::new(Cell::new(0));
    for _ in 0..20 {
        let (mut ctx, mut request, done) = (TaskCtx::new(&bench.device), bench.request(), Rc::clone(&done));
        executor.spawn(async move {
            for _ in 0..10 {
                request.input_mut().fill(0);
                let completion = ctx.run(request).await.unwrap();
                assert_eq!(completion.request().output()[..16], ZEROS);
                request = completion.into_request();
                done.set(done.get() + 1);
            }
        });
    }
    while executor.turn() > 0 {
        bench.sim.step();
        bench.poller.poll();
    }
    assert_eq!((done.get(), bench.stats().completed), (200, 200));
    // One poll to submit, and one for each wake-up, of which there is one for each request.
    assert_eq!(executor.polls, 20 * 11);
}

// ---- room ----

#[test]
fn without_room_a_future_waits_and_is_woken_when_there_is_some() {
    let mut bench = bench("queue-size=8");
    let others = bench.fill();
    let (mut ctx, bell) = (TaskCtx::new(&bench.device), Bell::new());
    let mut running = ctx.run(bench.request());
    assert!(bell.poll(&mut running).is_none());
    assert!(!running.is_in_flight());
    let eagain = bench.stats().eagain;
    bench.poller.poll();
    assert_eq!((bell.wakes(), bench.stats().eagain), (0, eagain), "nobody tries while nothing is free");
    assert_eq!(bench.sim.step_n(1), 1);
    bench.poller.poll();
    assert_eq!(bell.wakes(), 1);
    assert!(bell.poll(&mut running).is_none());
    assert!(running.is_in_flight());
    bench.finish();
    assert_eq!(bell.wakes(), 2, "for room, and for the delivery");
    assert_eq!(bell.poll(&mut running).unwrap().unwrap().result(), Ok(Answer::Yes));
    assert!(others.iter().all(|ctx| ctx.take().is_some()));
    assert_eq!(bench.stats().completed, 9);
}

#[test]
fn a_future_polled_again_and_again_waits_for_room_once() {
    let mut bench = bench("queue-size=8");
    let others = bench.fill();
    let (mut ctx, bell) = (TaskCtx::new(&bench.device), Bell::new());
    let mut running = ctx.run(bench.request());
    for _ in 0..100 {
        assert!(bell.poll(&mut running).is_none());
    }
    assert_eq!(bell.kept(), 1, "one waker is kept, not a hundred");
    assert_eq!(bench.sim.step_n(1), 1);
    bench.poller.poll();
    assert_eq!(bell.wakes(), 1);
    drop((running, others));
}

#[test]
fn a_full_ring_and_many_tasks_go_on_without_spinning() {
    let mut bench = bench("queue-size=8");
    let mut executor = Executor::default();
    const TASKS: u64 = 50;
    const EACH: u64 = 5;
    for _ in 0..TASKS {
        let (mut ctx, mut request) = (TaskCtx::new(&bench.device), bench.request());
        executor.spawn(async move {
            for _ in 0..EACH {
                request = ctx.run(request).await.unwrap().into_request();
            }
        });
    }
    while executor.turn() > 0 {
        let polls = executor.polls;
        executor.turn();
        assert_eq!(executor.polls, polls, "a task was woken and nothing had happened");
        assert_eq!(bench.sim.step_n(1), 1, "somebody is always in flight: none sleeps beside a free slot");
        bench.poller.poll();
    }
    let stats = bench.stats();
    assert_eq!((stats.accepted, stats.completed), (TASKS * EACH, TASKS * EACH));
}

#[test]
fn without_a_session_a_future_waits_for_it() {
    let (sim, device, mut poller) = stepped("", &DeviceOptions::default(), PollerConfig::default());
    let key = device.cipher_key(CIPHER, &[0; 16]).unwrap();
    let (mut ctx, bell) = (TaskCtx::new(&device), Bell::new());
    let mut running = ctx.run(small(&device, &key, 64));
    assert!(bell.poll(&mut running).is_none());
    while bell.wakes() == 0 {
        assert!(poller.poll() > 0, "the session's creation is answered");
    }
    assert!(bell.poll(&mut running).is_none());
    sim.step();
    poller.poll();
    assert_eq!(bell.poll(&mut running).unwrap().unwrap().request().output()[..16], ZEROS);
}

// ---- dropping ----

/// A future dropped at a point of its life: nothing that it had stays, and the context is good for the next.
fn drop_at(point: &str) {
    let mut bench = bench("queue-size=8");
    let free = bench.device.free_bytes();
    let (mut ctx, bell) = (TaskCtx::new(&bench.device), Bell::new());
    let others = if point == "while it waits for room" { bench.fill() } else { Vec::new() };
    let mut running = ctx.run(bench.request());
    let (mut accepted, mut detached, mut wakes) = (others.len() as u64, 0, 0);
    match point {
        "before its first poll" => {}
        "while it waits for room" => assert!(bell.poll(&mut running).is_none()),
        "in flight" => {
            assert!(bell.poll(&mut running).is_none());
            (accepted, detached) = (1, 1);
        }
        "answered by the device" => {
            assert!(bell.poll(&mut running).is_none());
            bench.sim.step();
            (accepted, detached) = (1, 1);
        }
        "cancelled" => {
            assert!(bell.poll(&mut running).is_none());
            running.cancel();
            bench.poller.poll();
            (accepted, wakes) = (1, 1);
        }
        "delivered" => {
            assert!(bell.poll(&mut running).is_none());
            bench.finish();
            (accepted, wakes) = (1, 1);
        }
        "resolved" => {
            assert!(bell.poll(&mut running).is_none());
            bench.finish();
            drop(bell.poll(&mut running).unwrap());
            (accepted, wakes) = (1, 1);
        }
        _ => unreachable!("{point}"),
    }
    drop(running);
    if point != "resolved" {
        assert_eq!(bell.kept(), 0, "{point}: a waker was left behind");
    }
    // The next one goes its own way, at once where there is room.
    let mut next = ctx.run(bench.request());
    let other = Bell::new();
    assert!(other.poll(&mut next).is_none());
    assert_eq!(next.is_in_flight(), others.is_empty(), "{point}");
    bench.finish();
    while other.wakes() == 1 && !next.is_in_flight() {
        assert!(other.poll(&mut next).is_none());
        bench.finish();
    }
    let done = other.poll(&mut next).unwrap().unwrap();
    assert_eq!(done.result(), Ok(Answer::Yes), "{point}");
    assert_eq!(done.request().output()[..16], ZEROS, "{point}");
    drop((next, done, others));
    drop(ctx);
    assert_eq!((bell.wakes(), other.kept()), (wakes, 0), "{point}: who was dropped is not woken");
    let stats = bench.stats();
    assert_accounts(&stats);
    assert_eq!((stats.accepted, stats.detached), (accepted + 1, detached), "{point}");
    assert_eq!(bench.device.free_bytes(), free, "{point}: a buffer is lost");
}

#[test]
fn a_future_may_be_dropped_at_every_point_of_its_life() {
    for point in [
        "before its first poll",
        "while it waits for room",
        "in flight",
        "answered by the device",
        "cancelled",
        "delivered",
        "resolved",
    ] {
        drop_at(point);
    }
}

#[test]
fn what_a_dropped_future_had_in_flight_stays_with_the_device_and_the_next_is_not_refused() {
    let mut bench = bench("");
    let free = bench.device.free_bytes();
    let (mut ctx, bell) = (TaskCtx::new(&bench.device), Bell::new());
    for _ in 0..3 {
        assert!(bell.poll(&mut ctx.run(bench.request())).is_none());
    }
    let mut last = ctx.run(bench.request());
    assert!(bell.poll(&mut last).is_none());
    assert!(bench.device.free_bytes() < free, "the device has the buffers");
    bench.finish();
    assert_eq!(bell.wakes(), 1, "for the last one alone");
    drop(bell.poll(&mut last).unwrap().unwrap());
    drop(last);
    let stats = bench.stats();
    assert_eq!((stats.accepted, stats.completed, stats.detached, stats.refused), (4, 1, 3, 0));
    assert_eq!(bench.device.free_bytes(), free);
}

#[test]
fn by_hand_a_context_is_busy_until_the_device_has_returned_what_was_given_up() {
    let mut bench = bench("");
    let (mut ctx, bell) = (TaskCtx::new(&bench.device), Bell::new());
    assert!(bell.poll(&mut ctx.run(bench.request())).is_none());
    let refused = bench.request().submit(&ctx).unwrap_err();
    assert_eq!(refused.reason(), Reason::ContextBusy);
    bench.finish();
    refused.into_request().submit(&ctx).unwrap();
    assert!(bell.poll(&mut ctx.ended()).is_none());
    bench.finish();
    assert_eq!(bell.poll(&mut ctx.ended()).unwrap().unwrap().result(), Ok(Answer::Yes));
}

#[test]
fn a_future_that_is_leaked_does_not_give_its_result_to_the_next() {
    let mut bench = bench("");
    let (mut ctx, bell) = (TaskCtx::new(&bench.device), Bell::new());
    let mut first = bench.request();
    first.input_mut().fill(0xff);
    let mut leaked = ctx.run(first);
    assert!(bell.poll(&mut leaked).is_none());
    std::mem::forget(leaked);
    // Nobody has given it up.
    let refused = bell.poll(&mut ctx.run(bench.request())).unwrap().unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::ContextBusy));
    bench.finish();
    let mut next = ctx.run(bench.request());
    assert!(bell.poll(&mut next).is_none(), "what is there is not its own");
    bench.finish();
    assert_eq!(bell.poll(&mut next).unwrap().unwrap().request().output()[..16], ZEROS);
    assert_accounts(&bench.stats());
}

#[test]
fn a_dropped_context_gives_its_request_up() {
    let mut bench = bench("");
    let (ctx, bell) = (TaskCtx::new(&bench.device), Bell::new());
    bench.request().submit(&ctx).unwrap();
    let mut ctx = ctx;
    assert!(bell.poll(&mut ctx.ended()).is_none());
    assert_eq!(bell.kept(), 0, "nobody waits");
    drop(ctx);
    bench.finish();
    let stats = bench.stats();
    assert_eq!((stats.accepted, stats.detached, bell.wakes()), (1, 1, 0));
}

/// Drops of this count.
struct Token(Arc<()>);

impl Wake for Token {
    fn wake(self: Arc<Self>) {
        assert!(Arc::strong_count(&self.0) > 0);
    }
}

#[test]
fn a_task_dropped_while_it_waits_for_room_is_freed_at_once_and_so_is_its_device() {
    let mut bench = bench("queue-size=8");
    let others = bench.fill();
    let token = Arc::new(());
    let waker = Waker::from(Arc::new(Token(Arc::clone(&token))));
    let mut future = bench.request().into_future();
    let pinned = std::pin::Pin::new(&mut future);
    assert!(std::future::Future::poll(pinned, &mut std::task::Context::from_waker(&waker)).is_pending());
    drop((future, waker));
    assert_eq!(Arc::strong_count(&token), 1, "the waker is gone before any room was announced");
    bench.finish();
    drop(others);
    // Nothing keeps the device: its memory is unmapped when the last handle goes.
    let Bench { sim, device, poller, key } = bench;
    poller.shutdown();
    drop((device, key));
    assert_eq!(Arc::strong_count(&sim.function()), function_alone());
}

/// Counts to a simulator's function that are held without a device.
fn function_alone() -> usize {
    let sim = ringbell::sim::Sim::stepped("".parse().unwrap()).unwrap();
    Arc::strong_count(&sim.function())
}

#[test]
fn a_waker_that_panics_is_counted_and_the_others_are_woken() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("on purpose");
        }
    }
    let mut bench = bench("");
    let (mut bad, mut good) = (TaskCtx::new(&bench.device), TaskCtx::new(&bench.device));
    let (waker, bell) = (Waker::from(Arc::new(Panics)), Bell::new());
    let mut first = bad.run(bench.request());
    let mut cx = std::task::Context::from_waker(&waker);
    assert!(std::future::Future::poll(std::pin::Pin::new(&mut first), &mut cx).is_pending());
    let mut second = good.run(bench.request());
    assert!(bell.poll(&mut second).is_none());
    bench.finish();
    assert_eq!((bench.stats().panics, bench.stats().completed, bell.wakes()), (1, 2, 1));
    assert!(bell.poll(&mut second).unwrap().is_ok() && bell.poll(&mut first).unwrap().is_ok());
}

// ---- requests submitted by hand ----

#[test]
fn the_end_of_a_burst_can_be_awaited_request_by_request() {
    let mut bench = bench("");
    let bell = Bell::new();
    let mut queue = bench.device.owned_queue().unwrap();
    let mut contexts: Vec<_> = (0..5).map(|_| TaskCtx::new(&bench.device)).collect();
    for round in 1..=3 {
        queue.burst(|burst| {
            for ctx in &contexts {
                burst.submit(bench.request(), ctx).unwrap();
            }
        });
        let mut futures: Vec<_> = contexts.iter_mut().map(TaskCtx::ended).collect();
        assert!(futures.iter_mut().all(|future| bell.poll(future).is_none()));
        bench.finish();
        assert_eq!(bell.wakes(), 5 * round);
        for future in &mut futures {
            assert_eq!(bell.poll(future).unwrap().unwrap().result(), Ok(Answer::Yes));
        }
        drop(futures);
        for ctx in &mut contexts {
            assert!(bell.poll(&mut ctx.ended()).unwrap().is_none(), "there is none any more");
        }
    }
}

#[test]
fn dropping_the_wait_for_an_end_gives_nothing_up() {
    let mut bench = bench("");
    let (mut ctx, bell) = (TaskCtx::new(&bench.device), Bell::new());
    bench.request().submit(&ctx).unwrap();
    assert!(bell.poll(&mut ctx.ended()).is_none());
    assert_eq!(bell.kept(), 0);
    bench.finish();
    assert_eq!(bell.wakes(), 0);
    assert!(ctx.take().is_some());
}

#[test]
fn after_a_refused_submission_there_is_no_end_to_wait_for() {
    let bench = bench("");
    let (mut ctx, bell) = (TaskCtx::new(&bench.device), Bell::new());
    assert!(bench.bad().submit(&ctx).is_err());
    assert!(bell.poll(&mut ctx.ended()).unwrap().is_none());
}

// ---- faults, cancel, shutdown, recovery ----

#[test]
fn a_cancelled_request_resolves_with_the_fault() {
    let mut bench = bench("");
    let (mut ctx, bell) = (TaskCtx::new(&bench.device), Bell::new());
    let mut running = ctx.run(bench.request());
    running.cancel();
    bench.poller.poll();
    assert!(bell.poll(&mut running).is_none(), "before its submission there is nothing to cancel");
    running.cancel();
    bench.poller.poll();
    assert_eq!(bell.wakes(), 1);
    let done = bell.poll(&mut running).unwrap().unwrap();
    assert_eq!(done.result(), Err(Fault::Canceled));
    drop(running);
    assert_eq!(bench.stats().quarantined, 1);
    bench.finish();
    assert_eq!((bench.stats().quarantined, bell.wakes()), (0, 1));
}

#[test]
fn a_request_that_expires_resolves_with_the_fault() {
    let clock = ManualClock::new();
    let config = PollerConfig { clock: Clock::Manual(clock.clone()), ..Default::default() };
    let mut bench = bench_with("", config);
    let (mut ctx, bell) = (TaskCtx::new(&bench.device), Bell::new());
    let mut running = ctx.run(bench.request());
    assert!(bell.poll(&mut running).is_none());
    for _ in 0..200 {
        if bell.wakes() > 0 {
            break;
        }
        clock.advance(Duration::from_millis(10));
        bench.poller.poll();
    }
    assert_eq!(bell.poll(&mut running).unwrap().unwrap().result(), Err(Fault::TimedOut));
}

#[test]
fn a_shutdown_ends_what_is_in_flight_and_refuses_what_waits_for_room() {
    let mut bench = bench("queue-size=8");
    let mut contexts: Vec<_> = (0..12).map(|_| TaskCtx::new(&bench.device)).collect();
    let bells: Vec<_> = (0..12).map(|_| Bell::new()).collect();
    let mut futures: Vec<_> = contexts.iter_mut().map(|ctx| ctx.run(bench.request())).collect();
    for (future, bell) in futures.iter_mut().zip(&bells) {
        assert!(bell.poll(future).is_none());
    }
    let Bench { poller, device, .. } = &mut bench;
    let fresh = ringbell::ManualPoller::new([&Device::open("sim:").unwrap()], PollerConfig::default());
    drop(std::mem::replace(poller, fresh.unwrap()));
    assert_eq!(device.state(), DeviceState::Closed);
    for (number, (future, bell)) in futures.iter_mut().zip(&bells).enumerate() {
        assert_eq!(bell.wakes(), 1, "{number}");
        match bell.poll(future).unwrap() {
            Ok(done) => assert_eq!((done.result(), number < 8), (Err(Fault::Shutdown), true)),
            Err(unfinished) => {
                assert_eq!((unfinished.reason(), number < 8), (Some(Reason::DeviceDown), false))
            }
        }
    }
    let stats = bench.stats();
    assert_eq!((stats.accepted, stats.errors), (8, 8));
    drop(futures);
    assert!(bells.iter().all(|bell| bell.kept() <= 1));
}

#[test]
fn over_a_recovery_what_was_in_flight_is_lost_and_what_waits_goes_on() {
    let clock = ManualClock::new();
    let config = PollerConfig { clock: Clock::Manual(clock.clone()), ..Default::default() };
    // Of a simulator that hangs the driver wants to know it soon.
    let options = DeviceOptions { control_timeout: Duration::from_millis(5), ..Default::default() };
    let (sim, device, poller) = stepped("queue-size=8", &options, config);
    let key = zero_key(&device, CIPHER);
    let mut bench = Bench { sim, device, poller, key };
    let (mut ctx, bell) = (TaskCtx::new(&bench.device), Bell::new());
    let mut lost = ctx.run(bench.request());
    assert!(bell.poll(&mut lost).is_none());
    bench.sim.inject("reset-fails@0:x2".parse().unwrap());
    let (mut waits, other) = (bench.request().into_future(), Bell::new());
    let (mut waited, mut done) = (false, None);
    for _ in 0..1000 {
        if bench.device.state() == DeviceState::Resetting && !waited {
            assert!(other.poll(&mut waits).is_none() && !waits.is_in_flight(), "it is being brought back");
            waited = true;
        } else if waited && other.wakes() > 0 {
            done = other.poll(&mut waits);
        }
        if done.is_some() {
            break;
        }
        clock.advance(Duration::from_millis(10));
        bench.sim.step();
        bench.poller.poll();
    }
    assert_eq!(bell.poll(&mut lost).unwrap().unwrap().result(), Err(Fault::DeviceFailed));
    assert_eq!(done.unwrap().unwrap().result(), Ok(Answer::Yes));
    assert_eq!((bench.device.state(), bench.stats().recoveries), (DeviceState::Ready, 1));
    assert_accounts(&bench.stats());
}

#[test]
fn a_failed_device_refuses() {
    let bench = bench("");
    let bell = Bell::new();
    drop(bench.poller);
    let unfinished = bell.poll(&mut small(&bench.device, &bench.key, 64).into_future()).unwrap().unwrap_err();
    assert!(matches!(&unfinished, Unfinished::Refused(refused) if refused.status() == Status::Err));
    assert!(matches!(ringbell::Error::from(unfinished), ringbell::Error::Down(_)));
}

#[test]
fn futures_and_the_types_they_give_can_be_sent() {
    fn send<T: Send>(_: &T) {}
    fn sync<T: Sync>(_: &T) {}
    let (sim, device, poller) = stepped("", &DeviceOptions::default(), PollerConfig::default());
    let key = zero_key(&device, CIPHER);
    let mut ctx = TaskCtx::new(&device);
    send(&ctx);
    sync(&ctx);
    send(&ctx.ended());
    send(&ctx.run(small(&device, &key, 64)));
    send(&small(&device, &key, 64).into_future());
    send(&ringbell::RequestSet::new(&device, 1).unwrap());
    sync(&WaitCtx::new());
    drop((sim, poller));
}
