//! The hot path alone, for counting: `enqueue` and `drain` of bursts of 64-byte AES-128-CBC requests
//! on a device that does no arithmetic and is stepped in between (not counted).
//!
//! ```text
//! cargo run --release -p ringbell-tests --example hot_path -- [BURST] [ROUNDS]
//! valgrind --tool=callgrind --toggle-collect='*enqueue*' ... (see tests/instructions)
//! ```

use std::cell::RefCell;

use ringbell::clock::ticks;
use ringbell::sim::Sim;
use ringbell::{Cipher, Device, DeviceOptions, ManualPoller, OwnedQueue, PollerConfig, Request, WaitCtx};

thread_local! {
    static DONE: RefCell<Vec<Request>> = const { RefCell::new(Vec::new()) };
}

/// One burst: every request with its context.
#[inline(never)]
fn enqueue(queue: &mut OwnedQueue, requests: &mut Vec<Request>, contexts: &[WaitCtx]) {
    queue.burst(|burst| {
        for ctx in contexts {
            if let Some(request) = requests.pop() {
                burst.submit(request, ctx).expect("the ring has room");
            }
        }
    });
}

/// The callbacks run in here; each moves its request out.
#[inline(never)]
fn drain(poller: &mut ManualPoller) -> usize {
    poller.poll()
}

fn main() {
    let argument = |index: usize, default: usize| {
        std::env::args().nth(index).map_or(default, |text| text.parse().expect("a number"))
    };
    let (burst, rounds) = (argument(1, 32), argument(2, 200_000));
    let sim = Sim::stepped("compute=none".parse().expect("options")).expect("a simulator");
    let device = Device::from_function(sim.function(), &DeviceOptions::default()).expect("a device");
    // Under callgrind every callback is slow.
    let config = PollerConfig { slow_callback: std::time::Duration::from_secs(1), ..Default::default() };
    let mut poller = ManualPoller::new([&device], config).expect("a poller");
    let key = device.cipher_key(Cipher::Aes128Cbc, &[7; 16]).expect("a key");
    key.prepare().expect("a session");
    let mut queue = device.owned_queue().expect("a queue");
    let contexts: Vec<WaitCtx> = (0..burst)
        .map(|_| {
            WaitCtx::with_callback(|delivery| {
                if let Some(done) = delivery.take() {
                    DONE.with_borrow_mut(|list| list.push(done.into_request()));
                }
            })
        })
        .collect();
    let mut requests: Vec<Request> =
        (0..burst).map(|_| key.encrypt(&[0; 16], device.buffer(64).expect("memory"))).collect();
    DONE.with_borrow_mut(|list| list.reserve(burst));

    let (mut in_ticks, mut out_ticks) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    for _ in 0..rounds {
        let a = ticks();
        enqueue(&mut queue, &mut requests, &contexts);
        let b = ticks();
        while sim.step() > 0 {}
        let c = ticks();
        let mut done = drain(&mut poller);
        let d = ticks();
        while done < burst {
            done += poller.poll();
        }
        in_ticks.push(b - a);
        out_ticks.push(d - c);
        DONE.with_borrow_mut(|list| requests.append(list));
    }
    let per_op = |list: &mut Vec<u64>, at: f64| {
        list.sort_unstable();
        list[(list.len() as f64 * at) as usize] as f64 / burst as f64
    };
    for (name, list) in [("enqueue", &mut in_ticks), ("drain", &mut out_ticks)] {
        println!(
            "{name}: {:.1} ticks an operation (p10 {:.1}, p90 {:.1})",
            per_op(list, 0.5),
            per_op(list, 0.1),
            per_op(list, 0.9)
        );
    }
    let stats = device.stats();
    assert_eq!(stats.accepted, (burst * rounds) as u64);
    assert_eq!(stats.completed, stats.accepted);
}
