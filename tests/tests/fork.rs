//! What a forked child may do with what it inherited: nothing, and with a clear answer each time. It
//! never reaches the parent's rings, is never killed by a signal, and its end changes nothing for the
//! parent.
//!
//! A binary of its own, without the test harness: the child is a copy of one thread of a process with
//! others, so it does a few calls and leaves by `_exit`.

mod common;

use std::future::{Future, IntoFuture};
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::{run, small, stepped, zero_key};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, alarm, fork};
use ringbell::sim::{Sim, SimConfig};
use ringbell::{
    Answer, Cipher, CipherKey, Clock, Completion, Device, DeviceOptions, DeviceState, DmaBuffer, Error,
    Fault, ManualClock, ManualPoller, OwnedQueue, Poller, PollerConfig, Reason, Request, RequestSet,
    RunningAlone, Status, Unfinished, WaitCtx,
};

const CIPHER: Cipher = Cipher::Aes128Cbc;

/// Everything that a program can hold. `threaded` is served by a poll thread; `manual` has a request
/// in flight that its simulator has completed, so that a poll would find it.
struct Handles {
    sim: Sim,
    threaded: Device,
    poller: Poller,
    key: CipherKey,
    request: Request,
    done: Completion,
    buffer: DmaBuffer,
    owned: OwnedQueue,
    ctx: WaitCtx,
    alone: Device,
    manual_sim: Sim,
    manual: ManualPoller,
    manual_device: Device,
    manual_ctx: WaitCtx,
    calls: Arc<AtomicU64>,
    broken: Broken,
    awaited: Awaited,
}

/// Futures and a set on a device whose ring is full of theirs.
struct Awaited {
    sim: Sim,
    poller: ManualPoller,
    in_flight: RunningAlone,
    waits_for_room: RunningAlone,
    set: RequestSet,
}

/// Polls once.
fn poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn awaited() -> Awaited {
    let (sim, device, poller) = stepped("queue-size=8", &DeviceOptions::default(), PollerConfig::default());
    let key = zero_key(&device, CIPHER);
    let mut in_flight = small(&device, &key, 64).into_future();
    assert!(poll(&mut in_flight).is_none());
    let mut set = RequestSet::new(&device, 7).unwrap();
    (0..7).for_each(|tag| set.push(tag, small(&device, &key, 64)).unwrap());
    let mut waits_for_room = small(&device, &key, 64).into_future();
    assert!(poll(&mut waits_for_room).is_none() && !waits_for_room.is_in_flight());
    Awaited { sim, poller, in_flight, waits_for_room, set }
}

impl Awaited {
    /// In the parent: all of it ends as if there had been no child.
    fn check(&mut self) {
        assert_eq!(self.sim.step(), 8);
        assert_eq!(self.poller.poll(), 8);
        assert_eq!(poll(&mut self.in_flight).unwrap().unwrap().result(), Ok(Answer::Yes));
        assert_eq!(std::iter::from_fn(|| self.set.try_next()).count(), 7);
        assert!(poll(&mut self.waits_for_room).is_none());
        assert_eq!(self.sim.step() + self.poller.poll(), 2);
        assert_eq!(poll(&mut self.waits_for_room).unwrap().unwrap().result(), Ok(Answer::Yes));
    }
}

/// A device that is being reset, and goes on with that when its clock does.
struct Broken {
    sim: Sim,
    device: Device,
    poller: ManualPoller,
    clock: ManualClock,
    key: CipherKey,
    request: Request,
    lost: WaitCtx,
}

fn broken() -> Broken {
    let clock = ManualClock::new();
    let config = PollerConfig { clock: Clock::Manual(clock.clone()), ..Default::default() };
    let options = DeviceOptions { control_timeout: Duration::from_millis(5), ..Default::default() };
    let (sim, device, mut poller) = stepped("", &options, config);
    let key = zero_key(&device, CIPHER);
    let lost = WaitCtx::with_fd().unwrap();
    common::submit(small(&device, &key, 64), &lost);
    let request = small(&device, &key, 64);
    sim.inject("reset-fails@0:x2".parse().unwrap());
    for _ in 0..100 {
        if device.state() == DeviceState::Resetting {
            return Broken { sim, device, poller, clock, key, request, lost };
        }
        clock.advance(Duration::from_millis(10));
        poller.poll();
    }
    panic!("the fault is not seen");
}

impl Broken {
    /// In the parent: the recovery that was under way comes to its end.
    fn check(&mut self) {
        assert_eq!(self.device.state(), DeviceState::Resetting);
        for _ in 0..200 {
            self.clock.advance(Duration::from_millis(10));
            self.poller.poll();
        }
        assert_eq!((self.device.state(), self.device.stats().recoveries), (DeviceState::Ready, 1));
        assert_eq!(self.lost.take_ready().unwrap().result(), Err(Fault::DeviceFailed));
        common::submit(small(&self.device, &self.key, 64), &self.lost);
        assert_eq!(self.sim.step(), 1);
        self.poller.poll();
        assert_eq!(self.lost.take_ready().unwrap().result(), Ok(Answer::Yes));
    }
}

fn handles() -> Handles {
    let sim = Sim::threaded(SimConfig { queues: 2, ..Default::default() }).unwrap();
    let threaded = Device::from_function(sim.function(), &DeviceOptions::default()).unwrap();
    let poller = Poller::spawn(&threaded, PollerConfig::default()).unwrap();
    let key = zero_key(&threaded, CIPHER);
    let ctx = WaitCtx::with_fd().unwrap();
    let done = run(small(&threaded, &key, 64), &ctx);
    let (manual_sim, manual_device, manual) = stepped("", &DeviceOptions::default(), PollerConfig::default());
    let calls = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&calls);
    let manual_ctx = WaitCtx::with_callback_and_fd(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    })
    .unwrap();
    let manual_key = zero_key(&manual_device, CIPHER);
    common::submit(small(&manual_device, &manual_key, 64), &manual_ctx);
    assert_eq!(manual_sim.step(), 1);
    Handles {
        request: small(&threaded, &key, 32),
        buffer: threaded.buffer_from(&[7; 100]).unwrap(),
        owned: threaded.owned_queue().unwrap(),
        ctx,
        done,
        key,
        poller,
        threaded,
        sim,
        alone: Device::open("sim:").unwrap(),
        manual_sim,
        manual,
        manual_device,
        manual_ctx,
        calls,
        broken: broken(),
        awaited: awaited(),
    }
}

/// The parent's devices work as before, and nothing of the child's was seen.
fn check_parent(handles: &mut Handles, before: &(u64, u64)) {
    let stats = handles.sim.stats();
    assert_eq!((stats.resets, stats.sessions), (1, 2), "the child reset the device or ended its sessions");
    assert_eq!(handles.threaded.stats().accepted, before.0);
    assert_eq!(handles.manual_sim.stats().completed, before.1);
    assert!(handles.manual_ctx.is_busy(), "the request is in flight still");
    let ctx = WaitCtx::new();
    assert_eq!(run(small(&handles.threaded, &handles.key, 256), &ctx).result(), Ok(Answer::Yes));
    handles.owned.submit(small(&handles.threaded, &handles.key, 16), &ctx).unwrap();
    common::wait_until("a completion", || !ctx.is_busy());
    assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes));
    assert_eq!(handles.buffer[..], [7; 100]);
    handles.broken.check();
    handles.awaited.check();
}

fn is_forked<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Forked))
}

type Case = (&'static str, fn(Handles) -> bool);

const CASES: &[Case] = &[
    ("a shared submit in the child is refused with ERR and gives the request back", |h| {
        let refused = h.request.submit(&h.ctx).unwrap_err();
        let right = (refused.reason(), refused.status(), h.ctx.status());
        right == (Reason::Forked, Status::Err, Status::Err) && !h.ctx.is_busy()
    }),
    ("an owned submit and a burst in the child are refused with ERR", |mut h| {
        let refused = h.owned.submit(h.request, &h.ctx).unwrap_err();
        let first = refused.reason() == Reason::Forked && h.ctx.status() == Status::Err;
        let request = refused.into_request();
        let reason = h.owned.burst(|burst| burst.submit(request, &h.ctx).unwrap_err().reason());
        first && reason == Reason::Forked
    }),
    ("a submit that waits is refused in the child and does not wait", |h| {
        let refused = h.threaded.submit_wait(h.request, &h.ctx, common::FOR_EVER).unwrap_err();
        refused.reason() == Reason::Forked
    }),
    ("buffers, keys, queues and pollers in the child are errors", |h| {
        is_forked(h.threaded.buffer(16))
            && is_forked(h.threaded.buffer_from(&[1; 16]))
            && is_forked(h.threaded.cipher_key(CIPHER, &[1; 16]))
            && is_forked(h.threaded.owned_queue())
            && Poller::spawn(&h.alone, PollerConfig::default()).is_err()
            && ManualPoller::new(std::slice::from_ref(&h.alone), PollerConfig::default()).is_err()
    }),
    ("the sessions of a key are no longer there for the child", |h| is_forked(h.key.prepare())),
    ("cancel, detach and waiting for room return at once in the child", |h| {
        h.manual_device.cancel(&h.manual_ctx);
        h.manual_ctx.detach();
        let told = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&told);
        h.threaded.on_room(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        // Nobody is to sleep for ever in the child either.
        told.load(Ordering::SeqCst) == 1
    }),
    ("a poller without a thread takes nothing from the parent's ring in the child", |mut h| {
        h.manual.poll() == 0 && h.calls.load(Ordering::SeqCst) == 0
    }),
    ("a poller without a thread counts nothing of the parent's ring in the child", |mut h| {
        let _ = h.manual.in_flight();
        h.manual.ready() == 0
    }),
    ("a poller without a thread does not sleep in the child", |mut h| {
        let _ = h.manual.wait(Some(std::time::Duration::from_millis(1)));
        h.calls.load(Ordering::SeqCst) == 0
    }),
    ("a poller without a thread can be shut down in the child and does nothing", |h| {
        h.manual.shutdown();
        h.calls.load(Ordering::SeqCst) == 0
    }),
    ("a poll thread's handle can be shut down in the child and does nothing", |h| {
        h.poller.shutdown();
        true
    }),
    ("what the child looks at does not harm", |h| {
        let _ =
            (h.threaded.address().len(), h.threaded.state(), h.threaded.stats(), h.threaded.capabilities());
        let _ = (format!("{:?} {:?} {:?}", h.threaded, h.key, h.request), h.poller.sleeps());
        let _ = (h.ctx.status(), h.ctx.take().is_none(), h.done.result(), h.threaded.free_bytes());
        true
    }),
    ("the bytes of an inherited buffer do not kill the child", |h| {
        // Whatever they are there.
        let sum: u64 = h.buffer.iter().map(|byte| u64::from(*byte)).sum();
        std::hint::black_box(sum) < u64::MAX
    }),
    ("the bytes of an inherited request do not kill the child", |mut h| {
        h.request.input_mut().fill(1);
        std::hint::black_box(h.request.output().len()) <= 32
    }),
    ("a device that is being reset refuses the child and is left alone", |h| {
        let Broken { sim, device, mut poller, clock, key, request, lost } = h.broken;
        let ctx = WaitCtx::new();
        let refused = request.submit(&ctx).unwrap_err();
        let right = (refused.reason(), refused.status(), ctx.status());
        let mut ends = 0;
        for _ in 0..100 {
            clock.advance(Duration::from_millis(20));
            ends += poller.poll();
        }
        let (still, resets) = (device.state(), sim.stats().resets);
        let prepared = is_forked(key.prepare());
        poller.shutdown();
        drop((device, key, lost, refused));
        right == (Reason::Forked, Status::Err, Status::Err)
            && prepared
            && (ends, still) == (0, DeviceState::Resetting)
            && sim.stats().resets == resets
    }),
    ("futures of every kind end with an error in the child, and a set is at its end", |mut h| {
        let awaited = &mut h.awaited;
        let forked = matches!(poll(&mut awaited.in_flight), Some(Err(Unfinished::Forked)));
        let reason = |output: Option<Result<Completion, Unfinished>>| match output {
            Some(Err(unfinished)) => unfinished.reason(),
            _ => None,
        };
        let waiting = reason(poll(&mut awaited.waits_for_room));
        let ended = matches!(poll(&mut awaited.set.next()), Some(None));
        let pushed = awaited.set.try_next().is_none() && !awaited.set.is_empty();
        let fresh = reason(poll(&mut h.request.into_future()));
        forked && waiting == Some(Reason::Forked) && fresh == Some(Reason::Forked) && ended && pushed
    }),
    ("a request that is to run on the child's thread is refused and does not wait", |h| {
        let unfinished = h.request.run_blocking(common::FOR_EVER).unwrap_err();
        unfinished.reason() == Some(Reason::Forked) && is_forked::<()>(Err(unfinished.into()))
    }),
    ("dropping every handle in the child does nothing", |h| {
        drop(h);
        true
    }),
];

fn main() {
    // The interface of the harness that cargo and others rely on: a filter, and --list.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter = arguments.iter().find(|argument| !argument.starts_with('-')).cloned().unwrap_or_default();
    let chosen: Vec<_> = CASES
        .iter()
        .filter(|(name, _)| name.replace(' ', "_").contains(&filter) || name.contains(&filter))
        .collect();
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{}: test", name.replace(' ', "_")));
        return;
    }
    println!("\nrunning {} tests", chosen.len());
    let mut failed = 0;
    for (name, child) in &chosen {
        let mut handles = Some(handles());
        let before = {
            let h = handles.as_ref().unwrap();
            (h.threaded.stats().accepted, h.manual_sim.stats().completed)
        };
        std::io::stdout().flush().unwrap();
        // SAFETY: the child does a few calls, none of which waits for a thread that it does not have
        // (that is what is tested, and SIGALRM ends it if one does), and leaves by _exit.
        let status = match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                alarm::set(20);
                let h = handles.take().unwrap();
                let good =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| child(h))).unwrap_or(false);
                // SAFETY: leaves at once, without running anything of the parent's.
                unsafe { nix::libc::_exit(if good { 0 } else { 1 }) }
            }
            ForkResult::Parent { child } => waitpid(child, None).unwrap(),
        };
        let handles = handles.as_mut().unwrap();
        let ended = match status {
            WaitStatus::Exited(_, 0) => "ok".to_owned(),
            WaitStatus::Exited(_, code) => format!("FAILED: wrong answers in the child (exit {code})"),
            WaitStatus::Signaled(_, signal, _) => format!("FAILED: the child was killed by {signal}"),
            other => format!("FAILED: {other:?}"),
        };
        println!("test {name} ... {ended}");
        failed += usize::from(ended != "ok");
        check_parent(handles, &before);
    }
    println!(
        "\ntest result: {}. {} passed; {failed} failed\n",
        if failed == 0 { "ok" } else { "FAILED" },
        chosen.len() - failed
    );
    std::process::exit(i32::from(failed != 0));
}
