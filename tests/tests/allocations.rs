//! In the steady state an operation allocates nothing: counted by an allocator of this binary's own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};

use ringbell::sim::Sim;
use ringbell::{
    Cipher, Device, DeviceOptions, ManualPoller, PollerConfig, Request, RequestSet, TaskCtx, WaitCtx,
};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: passes everything to the system's allocator; the counter is an atomic.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static DONE: RefCell<Vec<Request>> = const { RefCell::new(Vec::new()) };
}

/// Allocations while `rounds` bursts go through an owned queue, then as many requests through the
/// shared one. The device is stepped by hand, so nothing else runs.
fn allocations(rounds: usize) -> u64 {
    const BURST: usize = 32;
    let sim = Sim::stepped("".parse().unwrap()).unwrap();
    let device = Device::from_function(sim.function(), &DeviceOptions::default()).unwrap();
    let mut poller = ManualPoller::new([&device], PollerConfig::default()).unwrap();
    let key = device.cipher_key(Cipher::Aes256Cbc, &[1; 32]).unwrap();
    key.prepare().unwrap();
    let mut queue = Some(device.owned_queue().unwrap());
    let contexts: Vec<WaitCtx> = (0..BURST)
        .map(|_| {
            WaitCtx::with_callback(|delivery| {
                let request = delivery.take().unwrap().into_request();
                DONE.with_borrow_mut(|list| list.push(request));
            })
        })
        .collect();
    let mut requests: Vec<Request> =
        (0..BURST).map(|_| key.encrypt(&[2; 16], device.buffer(256).unwrap())).collect();
    DONE.with_borrow_mut(|list| list.reserve(BURST));
    let mut count = 0;
    for round in 0..2 * rounds {
        if round == rounds {
            queue = None; // shared from here on
        }
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        match &mut queue {
            Some(queue) => queue.burst(|burst| {
                for (request, ctx) in requests.drain(..).zip(&contexts) {
                    burst.submit(request, ctx).unwrap();
                }
            }),
            None => {
                for (request, ctx) in requests.drain(..).zip(&contexts) {
                    request.submit(ctx).unwrap();
                }
            }
        }
        let submitted = ALLOCATIONS.load(Ordering::Relaxed);
        while sim.step() > 0 {}
        let stepped = ALLOCATIONS.load(Ordering::Relaxed);
        while poller.in_flight() > 0 {
            poller.poll();
        }
        DONE.with_borrow_mut(|list| requests.append(list));
        let drained = ALLOCATIONS.load(Ordering::Relaxed);
        // The first rounds may still grow something.
        if round % rounds > 2 {
            count += (submitted - before) + (drained - stepped);
        }
    }
    assert_eq!(device.stats().completed, (2 * rounds * BURST) as u64);
    count
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Allocations while tasks run `rounds` requests each with a context, and then a set takes as many.
fn allocations_of_futures(rounds: usize) -> u64 {
    const TASKS: usize = 32;
    let sim = Sim::stepped("".parse().unwrap()).unwrap();
    let device = Device::from_function(sim.function(), &DeviceOptions::default()).unwrap();
    let mut poller = ManualPoller::new([&device], PollerConfig::default()).unwrap();
    let key = device.cipher_key(Cipher::Aes256Cbc, &[1; 32]).unwrap();
    key.prepare().unwrap();
    let request = || key.encrypt(&[2; 16], device.buffer(256).unwrap());
    let mut tasks: Vec<Task> = (0..TASKS)
        .map(|_| -> Task {
            let (mut ctx, mut request) = (TaskCtx::new(&device), request());
            Box::pin(async move {
                for _ in 0..rounds {
                    request = ctx.run(request).await.unwrap().into_request();
                }
            })
        })
        .collect();
    let mut set = RequestSet::new(&device, TASKS).unwrap();
    let mut requests: Vec<Request> = (0..TASKS).map(|_| request()).collect();
    let mut count = 0;
    let mut context = Context::from_waker(Waker::noop());
    // The first poll submits, each of the others takes and submits again.
    for round in 0..=2 * rounds {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        if round <= rounds {
            let pending = |task: &mut Task| usize::from(task.as_mut().poll(&mut context).is_pending());
            let left: usize = tasks.iter_mut().map(pending).sum();
            assert_eq!(left, if round == rounds { 0 } else { TASKS });
        } else {
            requests.drain(..).for_each(|request| set.push(0, request).unwrap());
        }
        let submitted = ALLOCATIONS.load(Ordering::Relaxed);
        while sim.step() > 0 {}
        if round == rounds {
            tasks = Vec::new();
        }
        let stepped = ALLOCATIONS.load(Ordering::Relaxed);
        while poller.in_flight() > 0 {
            poller.poll();
        }
        while let Some((_, done)) = set.try_next() {
            requests.push(done.into_request());
        }
        let drained = ALLOCATIONS.load(Ordering::Relaxed);
        // The first rounds may still grow something.
        if round % (rounds + 1) > 2 {
            count += (submitted - before) + (drained - stepped);
        }
    }
    assert_eq!(device.stats().completed, (2 * rounds * TASKS) as u64);
    count
}

// One test: another one's allocations would be counted as well.
#[test]
fn an_operation_allocates_nothing() {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    assert_eq!(allocations(500), 0);
    assert_eq!(allocations_of_futures(500), 0, "awaited");
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > before, "the counter works");
}
