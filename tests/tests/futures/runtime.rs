//! On tokio's executors, with a poll thread and a device that answers by itself.

use std::time::Duration;

use ringbell::{Cipher, CipherKey, Device, Direction, Fault, Poller, PollerConfig, RequestSet, TaskCtx};

use super::assert_accounts;
use super::common::{FOR_EVER, Rng, oracle};

const KEY: [u8; 32] = [0x5a; 32];
const CIPHER: Cipher = Cipher::Aes256Cbc;

fn runtime(threads: usize) -> tokio::runtime::Runtime {
    let mut builder = match threads {
        0 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 0 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build().unwrap()
}

fn served(address: &str) -> (Device, Poller, CipherKey) {
    let device = Device::open(address).unwrap();
    let poller = Poller::spawn(&device, PollerConfig::default()).unwrap();
    let key = device.cipher_key(CIPHER, &KEY).unwrap();
    (device, poller, key)
}

/// Runs `count` requests with random data, each of which is checked; now and then one is dropped in the
/// middle.
async fn client(key: CipherKey, seed: u64, count: usize) -> (u64, u64) {
    let device = key.device().clone();
    let mut rng = Rng::new(seed);
    let mut ctx = TaskCtx::new(&device);
    let (mut done, mut dropped) = (0, 0);
    for _ in 0..count {
        let (data, iv) = (rng.bytes(16 * (1 + rng.clone().below(20))), rng.bytes(16));
        let request = key.encrypt(&iv, device.buffer_from(&data).unwrap());
        if rng.one_in(4) {
            let mut running = std::pin::pin!(ctx.run(request));
            let once =
                std::future::poll_fn(|cx| std::task::Poll::Ready(running.as_mut().poll(cx).is_ready()));
            if once.await {
                done += 1;
                continue;
            }
            if rng.one_in(2) {
                tokio::task::yield_now().await;
            }
            dropped += 1;
            continue;
        }
        let completion = if rng.one_in(3) { request.await } else { ctx.run(request).await }.unwrap();
        assert!(completion.result().is_ok());
        assert_eq!(completion.request().output(), oracle(CIPHER, Direction::Encrypt, &KEY, &iv, &data));
        done += 1;
    }
    (done, dropped)
}

#[test]
fn many_tasks_on_tokio_get_their_own_results_and_all_of_them() {
    for (threads, address) in
        [(0, "sim:queue-size=16"), (3, "sim:queue-size=16,queues=2"), (2, "sim:order=shuffle,seed=4")]
    {
        let (device, poller, key) = served(address);
        let runtime = runtime(threads);
        let (done, dropped) = runtime.block_on(async {
            let tasks: Vec<_> = (0..60).map(|seed| tokio::spawn(client(key.clone(), seed, 40))).collect();
            let mut sum = (0, 0);
            for task in tasks {
                let (done, dropped) = tokio::time::timeout(FOR_EVER, task).await.unwrap().unwrap();
                sum = (sum.0 + done, sum.1 + dropped);
            }
            sum
        });
        drop(runtime);
        poller.shutdown();
        let stats = device.stats();
        assert_accounts(&stats);
        assert_eq!(done + dropped, 60 * 40);
        // A dropped one may have waited for room, been given up, or been delivered before.
        assert!(stats.completed >= done && stats.accepted <= done + dropped, "{stats:?}");
        assert_eq!(stats.errors, 0, "{address}: {stats:?}");
    }
}

#[test]
fn a_timeout_cancels_and_the_task_goes_on() {
    let (device, poller, key) = served("sim:latency=500ms");
    key.prepare().unwrap();
    runtime(0).block_on(async {
        let mut ctx = TaskCtx::new(&device);
        let mut running = std::pin::pin!(ctx.run(key.encrypt(&[0; 16], device.buffer(64).unwrap())));
        if let Ok(done) = tokio::time::timeout(Duration::from_millis(5), running.as_mut()).await {
            panic!("{done:?} in no time");
        }
        running.cancel();
        assert_eq!(running.await.unwrap().result(), Err(Fault::Canceled));
    });
    poller.shutdown();
    assert_accounts(&device.stats());
}

#[test]
fn a_runtime_that_ends_drops_its_tasks_and_their_requests_are_given_up() {
    let sim = ringbell::sim::Sim::stepped("".parse().unwrap()).unwrap();
    let device = Device::from_function(sim.function(), &Default::default()).unwrap();
    let poller =
        Poller::spawn(&device, PollerConfig { grace: Duration::ZERO, ..Default::default() }).unwrap();
    let key = device.cipher_key(CIPHER, &KEY).unwrap();
    key.prepare().unwrap();
    let runtime = runtime(2);
    for _ in 0..10 {
        let request = key.encrypt(&[0; 16], device.buffer(64).unwrap());
        drop(runtime.spawn(async move { request.await.map(drop) }));
    }
    super::common::wait_until("ten submissions", || device.stats().accepted == 10);
    drop(runtime);
    sim.step();
    super::common::wait_until("their return", || device.stats().detached == 10);
    poller.shutdown();
    assert_accounts(&device.stats());
}

#[test]
fn tasks_live_through_faults_of_the_device() {
    // One that loses all that is in flight and comes back, and one that forgets a single request.
    for (address, recoveries) in
        [("sim:fault=needs-reset@500,queue-size=32", 1), ("sim:fault=drop@400,queue-size=32", 0)]
    {
        let (device, poller, key) = served(address);
        let lost = runtime(2).block_on(async {
            let client = |key: CipherKey| async move {
                let device = key.device().clone();
                let mut ctx = TaskCtx::new(&device);
                let mut lost = 0;
                for _ in 0..50 {
                    let request = key.encrypt(&[0; 16], device.buffer(64).unwrap());
                    lost += u64::from(ctx.run(request).await.unwrap().result().is_err());
                }
                lost
            };
            let tasks: Vec<_> = (0..40).map(|_| tokio::spawn(client(key.clone()))).collect();
            let mut lost = 0;
            for task in tasks {
                lost += tokio::time::timeout(FOR_EVER, task).await.unwrap().unwrap();
            }
            lost
        });
        poller.shutdown();
        let stats = device.stats();
        assert_accounts(&stats);
        assert_eq!((stats.accepted, stats.errors), (2000, lost), "{address}");
        assert!(lost > 0 && stats.recoveries >= recoveries, "{address}: {stats:?}");
    }
}

#[test]
fn a_set_is_a_stream_for_a_task_on_tokio() {
    let (device, poller, key) = served("sim:queue-size=16");
    let sum = runtime(2).block_on(async {
        let mut set = RequestSet::new(&device, 8).unwrap();
        let (mut next, mut sum) = (0, 0);
        key.prepare().unwrap();
        while next < 500 || !set.is_empty() {
            while next < 500 && set.len() < set.capacity() {
                set.push(next, key.encrypt(&[0; 16], device.buffer(64).unwrap())).unwrap();
                next += 1;
            }
            let (tag, done) = set.next().await.unwrap();
            assert!(done.result().is_ok());
            sum += tag;
        }
        sum
    });
    assert_eq!(sum, 499 * 500 / 2);
    poller.shutdown();
}
