use std::time::{Duration, Instant};

use super::driver::{ALL, EVENT_IDX, INDIRECT, header};
use super::{Driver, Part};
use crate::{Compute, Order, Quirks, Sim, SimConfig};

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// NIST SP 800-38A.
fn plain() -> Vec<u8> {
    hex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
    )
}
fn key() -> Vec<u8> {
    hex("2b7e151628aed2a6abf7158809cf4f3c")
}
/// F.2.1 CBC-AES128.
fn cbc() -> Vec<u8> {
    hex(
        "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b273bed6b8e3c1743b7116e69e222295163ff1caa1681fac09120eca307586e1a7",
    )
}
fn iv() -> Vec<u8> {
    hex("000102030405060708090a0b0c0d0e0f")
}
/// F.5.1 CTR-AES128.
fn ctr() -> Vec<u8> {
    hex(
        "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee",
    )
}
/// F.1.1 ECB-AES128.
fn ecb() -> Vec<u8> {
    hex(
        "3ad77bb40d7a3660a89ecaf32466ef97f5d3d58503b9699de785895a96fdbaaf43b1cd7f598ece23881b00e3ed0306887b0c785e27e8ad3f8223207104725dd4",
    )
}

struct Request {
    status_at: u64,
    out_at: u64,
    len: usize,
    head: u16,
}

/// Submits a request cut into descriptors of `cut` bytes (0: one for each part).
fn submit(
    driver: &mut Driver,
    queue: usize,
    request: &[u8],
    iv: &[u8],
    data: &[u8],
    cut: usize,
    indirect: bool,
) -> Request {
    let input: Vec<u8> = [request, iv, data].concat();
    let in_at = driver.put(&input);
    let out_at = driver.put(&vec![0xee; data.len() + 1]);
    let mut parts: Vec<Part> = Vec::new();
    let mut add = |at: u64, len: usize, writable: bool| {
        let step = if cut == 0 { len.max(1) } else { cut };
        for from in (0..len).step_by(step) {
            parts.push((at + from as u64, step.min(len - from) as u32, writable));
        }
    };
    if cut == 0 {
        add(in_at, 72, false);
        add(in_at + 72, iv.len(), false);
        add(in_at + 72 + iv.len() as u64, data.len(), false);
        add(out_at, data.len(), true);
        add(out_at + data.len() as u64, 1, true);
    } else {
        add(in_at, input.len(), false);
        add(out_at, data.len() + 1, true);
    }
    let head = driver.submit(queue, &parts, indirect);
    Request { status_at: out_at + data.len() as u64, out_at, len: data.len(), head }
}

impl Request {
    fn status(&self, driver: &Driver) -> u8 {
        driver.get(self.status_at, 1)[0]
    }
    fn output(&self, driver: &Driver) -> Vec<u8> {
        driver.get(self.out_at, self.len)
    }
}

fn finish(driver: &mut Driver, queue: usize) -> (u32, u32) {
    driver.wait_for(|driver| {
        driver.sim.step();
        driver.poll(queue)
    })
}

fn vectors_pass(sim: Sim, features: u64) {
    let driver = &mut Driver::new(sim, features);
    for (algo, cipher) in [(3, cbc()), (4, ctr()), (2, ecb())] {
        let iv = match algo {
            2 => Vec::new(),
            3 => iv(),
            _ => hex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"),
        };
        let encrypt = driver.create(algo, 1, &key()).unwrap();
        let decrypt = driver.create(algo, 2, &key()).unwrap();
        for cut in [0, 1, 7, 16, 71, 73] {
            for (opcode, session, from, to) in
                [(0, encrypt, plain(), &cipher), (1, decrypt, cipher.clone(), &plain())]
            {
                let request = header(opcode, algo, session, iv.len() as u32, 64, 64);
                let indirect = driver.features & INDIRECT != 0;
                for indirect in [false, indirect] {
                    let sent = submit(driver, 0, &request, &iv, &from, cut, indirect);
                    assert_eq!(finish(driver, 0), (u32::from(sent.head), 65));
                    assert_eq!(sent.status(driver), 0);
                    assert_eq!(&sent.output(driver), to, "algo {algo} cut {cut} indirect {indirect}");
                }
            }
        }
        assert_eq!(driver.destroy(encrypt), 0);
        assert_eq!(driver.destroy(encrypt), 4, "INVSESS");
        assert_eq!(driver.destroy(decrypt), 0);
    }
    let stats = driver.sim.stats();
    assert_eq!(
        (stats.taken, stats.completed, stats.faults, stats.sessions),
        (stats.completed, stats.completed, 0, 0)
    );
    assert_eq!(stats.bad_kicks, 0);
}

#[test]
fn the_nist_vectors_come_out_in_stepped_mode_however_the_request_is_cut() {
    vectors_pass(Sim::stepped(SimConfig::default()).unwrap(), ALL);
}

#[test]
fn the_nist_vectors_come_out_in_threaded_mode() {
    vectors_pass(Sim::threaded(SimConfig::default()).unwrap(), ALL);
}

#[test]
fn the_nist_vectors_come_out_without_event_idx_and_indirect() {
    let config = SimConfig { features_off: EVENT_IDX | INDIRECT, ..SimConfig::default() };
    vectors_pass(Sim::threaded(config.clone()).unwrap(), ALL);
    vectors_pass(Sim::stepped(config).unwrap(), ALL);
}

#[test]
fn large_requests_go_through_in_pieces() {
    let driver = &mut Driver::new(Sim::stepped(SimConfig::default()).unwrap(), ALL);
    let encrypt = driver.create(3, 1, &[7; 32]).unwrap();
    let decrypt = driver.create(3, 2, &[7; 32]).unwrap();
    let data: Vec<u8> = (0..100_000).map(|at: u32| (at.wrapping_mul(at) >> 7) as u8).collect();
    let request = header(0, 3, encrypt, 16, 100_000, 100_000);
    let sent = submit(driver, 0, &request, &iv(), &data, 4096, true);
    assert_eq!(finish(driver, 0).1, 100_001);
    let cipher = sent.output(driver);
    assert_ne!(cipher, data);
    let request = header(1, 3, decrypt, 16, 100_000, 100_000);
    let sent = submit(driver, 0, &request, &iv(), &cipher, 5000, true);
    assert_eq!((finish(driver, 0).1, sent.status(driver)), (100_001, 0));
    assert!(sent.output(driver) == data);
}

#[test]
fn wrong_requests_are_answered_by_their_status() {
    let driver = &mut Driver::new(Sim::stepped(SimConfig::default()).unwrap(), ALL);
    let session = driver.create(3, 1, &key()).unwrap();
    let mut chained = header(0, 3, session, 16, 64, 64);
    chained[64] = 2;
    for (request, status) in [
        (header(0, 3, session, 16, 64, 64), 0),
        (header(0x100, 3, session, 16, 64, 64), 4),
        (header(0x500, 3, session, 16, 64, 64), 3),
        (header(2, 3, session, 16, 64, 64), 3),
        (chained, 3),
        (header(0, 3, session ^ 1 << 40, 16, 64, 64), 4),
        (header(0, 3, session + 1, 16, 64, 64), 4),
        (header(1, 3, session, 16, 64, 64), 1),
        (header(0, 4, session, 16, 64, 64), 1),
        (header(0, 3, session, 0, 64, 64), 1),
        (header(0, 3, session, 16, 63, 63), 1),
        (header(0, 3, session, 16, 64, 48), 1),
        (header(0, 3, session, 16, 80, 80), 1),
        (header(0, 3, session, 16, u32::MAX, u32::MAX), 1),
        (header(0, 3, session, 16, 0, 0), 0),
    ] {
        let sent = submit(driver, 0, &request, &iv(), &plain(), 0, false);
        let len = finish(driver, 0).1;
        assert_eq!(sent.status(driver), status, "{request:?}");
        let full = if request[28] == 0 { 1 } else { 65 };
        assert_eq!(len, if status == 0 { full } else { 1 });
        if status != 0 || full == 1 {
            assert_eq!(sent.output(driver), vec![0xee; 64], "nothing is written");
        }
    }
    assert_eq!(driver.sim.stats().faults, 0);
    // Sessions.
    assert_eq!(driver.create(12, 1, &key()), Err(3));
    assert_eq!(driver.create(13, 1, &key()), Err(1));
    assert_eq!(driver.create(3, 1, &[0; 17]), Err(1));
    assert_eq!(driver.create(3, 1, &[0; 65]), Err(1));
    assert_eq!(driver.create(3, 3, &key()), Err(1));
}

#[test]
fn the_session_table_has_an_end() {
    for (quirks, full) in [(Quirks::None, 5), (Quirks::Qemu, 1)] {
        let driver =
            &mut Driver::new(Sim::stepped(SimConfig { quirks, ..SimConfig::default() }).unwrap(), ALL);
        let ids: Vec<u64> = (0..256).map(|_| driver.create(3, 1, &key()).unwrap()).collect();
        assert_eq!(driver.create(3, 1, &key()), Err(full));
        assert_eq!(ids[5] < 256, quirks == Quirks::Qemu);
        assert_eq!(driver.destroy(ids[5]), 0);
        driver.create(3, 1, &key()).unwrap();
        assert_eq!(driver.sim.stats().sessions, 256);
        driver.start(ALL);
        assert_eq!(driver.sim.stats().sessions, if quirks == Quirks::Qemu { 256 } else { 0 });
        assert_eq!(driver.destroy(12345), if quirks == Quirks::Qemu { 1 } else { 4 });
    }
}

#[test]
fn ids_follow_from_the_seed() {
    let id = |seed| {
        let sim = Sim::stepped(SimConfig { seed, ..SimConfig::default() }).unwrap();
        Driver::new(sim, ALL).create(3, 1, &key()).unwrap()
    };
    assert_eq!(id(1), id(1));
    assert_ne!(id(1), id(2));
}

#[test]
fn qemu_looks_at_the_session_for_the_direction_and_reports_the_whole_length() {
    let driver = &mut Driver::new("quirks=qemu".parse().and_then(Sim::stepped).unwrap(), ALL);
    assert_eq!(driver.r32(0x200c), 8, "AES-CBC alone");
    let decrypt = driver.create(3, 2, &key()).unwrap();
    let sent = submit(driver, 0, &header(0, 3, decrypt, 16, 64, 64), &iv(), &cbc(), 0, false);
    assert_eq!(finish(driver, 0).1, 65);
    assert_eq!(sent.output(driver), plain());
    let sent = submit(driver, 0, &header(0, 3, 77, 16, 64, 64), &iv(), &cbc(), 0, false);
    assert_eq!((finish(driver, 0).1, sent.status(driver)), (65, 4));
    assert_ne!(driver.create(4, 1, &key()), Err(3), "CTR is accepted");
    submit(driver, 0, &header(0, 3, decrypt, 16, 64, 48), &iv(), &cbc(), 0, false);
    assert_eq!(driver.sim.step(), 0);
    assert_eq!(driver.status() & 0x40, 0x40);
    assert_eq!(driver.poll(0), None, "the request is dropped");
}

#[test]
fn without_compute_the_destination_is_left_alone() {
    let driver = &mut Driver::new("compute=none".parse().and_then(Sim::stepped).unwrap(), ALL);
    assert_eq!(driver.sim.config().compute, Compute::None);
    let session = driver.create(3, 1, &key()).unwrap();
    let sent = submit(driver, 0, &header(0, 3, session, 16, 64, 64), &iv(), &plain(), 0, true);
    assert_eq!((finish(driver, 0).1, sent.status(driver)), (65, 0));
    assert_eq!(sent.output(driver), vec![0xee; 64]);
    let sent = submit(driver, 0, &header(0, 3, 1, 16, 64, 64), &iv(), &plain(), 0, true);
    assert_eq!((finish(driver, 0).1, sent.status(driver)), (1, 4));
}

fn some(driver: &mut Driver, session: u64, queue: usize, count: usize) -> Vec<u32> {
    let request = header(0, 3, session, 16, 64, 64);
    (0..count).map(|_| u32::from(submit(driver, queue, &request, &iv(), &plain(), 0, true).head)).collect()
}

#[test]
fn latency_runs_on_the_simulators_own_clock() {
    let driver = &mut Driver::new("latency=10us,queues=2".parse().and_then(Sim::stepped).unwrap(), ALL);
    let session = driver.create(3, 1, &key()).unwrap();
    some(driver, session, 0, 2);
    assert_eq!(driver.sim.step(), 0);
    assert_eq!(driver.sim.stats().taken, 2);
    driver.sim.advance(Duration::from_nanos(9_999));
    some(driver, session, 1, 1);
    assert_eq!(driver.sim.step(), 0);
    driver.sim.advance(Duration::from_nanos(1));
    assert_eq!(driver.sim.step_n(1), 1);
    assert_eq!(driver.sim.step(), 1);
    assert_eq!((driver.poll(0).is_some(), driver.poll(1)), (true, None));
    driver.sim.advance(Duration::from_micros(10));
    assert_eq!(driver.sim.step(), 1);
    // What is in flight at a reset is dropped.
    some(driver, session, 0, 3);
    driver.sim.step();
    driver.start(ALL);
    driver.sim.advance(Duration::from_secs(1));
    assert_eq!(driver.sim.step(), 0);
    assert_eq!((driver.sim.stats().dropped, driver.poll(0)), (3, None));
}

#[test]
fn latency_in_real_time_is_at_least_what_was_asked_for() {
    for latency in [Duration::from_micros(20), Duration::from_millis(3)] {
        let config = SimConfig { latency, ..SimConfig::default() };
        let driver = &mut Driver::new(Sim::threaded(config).unwrap(), ALL);
        let session = driver.create(3, 1, &key()).unwrap();
        for _ in 0..5 {
            let start = Instant::now();
            some(driver, session, 0, 3);
            for _ in 0..3 {
                driver.wait_for(|driver| driver.poll(0));
            }
            assert!(start.elapsed() >= latency);
        }
    }
}

#[test]
fn a_shuffled_order_is_a_permutation_that_follows_from_the_seed() {
    let order = |seed| {
        let config = SimConfig { seed, order: Order::Shuffle, ..SimConfig::default() };
        let driver = &mut Driver::new(Sim::stepped(config).unwrap(), ALL);
        let session = driver.create(3, 1, &key()).unwrap();
        let mut sent = some(driver, session, 0, 40);
        assert_eq!(driver.sim.step_n(10) + driver.sim.step(), 40);
        let order: Vec<u32> = (0..40).map(|_| driver.poll(0).unwrap().0).collect();
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_ne!(order, sent);
        sent.sort_unstable();
        assert_eq!(sorted, sent);
        order
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
}

#[test]
fn interrupts_come_when_asked_for_and_only_then() {
    for off in [0, EVENT_IDX] {
        let config = SimConfig { features_off: off, ..SimConfig::default() };
        let driver = &mut Driver::new(Sim::stepped(config).unwrap(), ALL);
        let session = driver.create(3, 1, &key()).unwrap();
        assert!(driver.interrupted(2), "control queue: {:?}", driver.sim.stats());
        // Vectors: 0 config, 1 the data queue.
        driver.want_interrupt(0);
        some(driver, session, 0, 2);
        driver.sim.step();
        assert!(driver.interrupted(1));
        if off == 0 {
            // used_event lies behind now.
            some(driver, session, 0, 2);
            driver.sim.step();
            assert!(!driver.interrupted(1));
        } else {
            let avail = driver.queues[0].avail;
            driver.memory.store_u16(avail, 1, std::sync::atomic::Ordering::Relaxed).unwrap();
            some(driver, session, 0, 2);
            driver.sim.step();
            assert!(!driver.interrupted(1));
        }
        assert!(!driver.interrupted(0));
    }
}

#[test]
fn no_kick_is_lost_by_a_device_that_falls_asleep() {
    for off in [0, EVENT_IDX] {
        let config = SimConfig { features_off: off, queues: 2, ..SimConfig::default() };
        let driver = &mut Driver::new(Sim::threaded(config).unwrap(), ALL);
        let session = driver.create(3, 1, &key()).unwrap();
        let request = header(0, 3, session, 16, 64, 64);
        let input = driver.put(&[request, iv(), plain()].concat());
        let output = driver.put(&[0; 65]);
        let parts = [(input, 152, false), (output, 65, true)];
        for round in 0..20_000_usize {
            let queue = round % 2;
            let burst = round % 5 + 1;
            for _ in 0..burst {
                driver.submit(queue, &parts, false);
            }
            for _ in 0..burst {
                driver.wait_for(|driver| driver.poll(queue));
            }
            if round % 1000 == 0 {
                // Long enough for the device to fall asleep.
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        let stats = driver.sim.stats();
        assert_eq!((stats.completed, stats.faults), (60_000, 0));
        assert_eq!(stats.kicks, driver.queues.iter().map(|queue| queue.kicks).sum::<u64>());
    }
}

#[test]
fn an_idle_device_sleeps_and_goes_with_its_last_handle() {
    let driver = &mut Driver::new(Sim::threaded(SimConfig::default()).unwrap(), ALL);
    let session = driver.create(3, 1, &key()).unwrap();
    some(driver, session, 0, 3);
    let core = driver.sim.core_for_test();
    let rounds = || core.upgrade().unwrap().rounds.load(std::sync::atomic::Ordering::Relaxed);
    // It falls asleep at some time; a device that spins never stands still that long.
    driver.wait_for(|_| {
        let before = rounds();
        std::thread::sleep(Duration::from_millis(20));
        (rounds() == before).then_some(())
    });
    let doorbell = driver.function.doorbell(4, 0x3000).unwrap();
    let sim = Sim::stepped(SimConfig::default()).unwrap();
    *driver = Driver::new(sim, ALL);
    assert_eq!(core.strong_count(), 1, "the thread has let go of the device; the doorbell rings in vain");
    doorbell.ring(0);
    drop(doorbell);
    assert!(core.upgrade().is_none());
}

/// What a request costs the device; figures for a reader: `cargo test --release -- --ignored speed`.
#[test]
#[ignore = "prints figures, decides nothing"]
fn speed_of_the_device() {
    for (config, len, count) in [
        ("compute=none", 64, 32),
        ("compute=none", 16_384, 32),
        ("", 64, 32),
        ("", 16_384, 32),
        ("", 1 << 20, 2),
    ] {
        let driver = &mut Driver::new(config.parse().and_then(Sim::stepped).unwrap(), ALL);
        let session = driver.create(3, 1, &key()).unwrap();
        let request = header(0, 3, session, 16, len, len);
        let input = driver.put(&[request, iv(), vec![1; len as usize]].concat());
        let output = driver.put(&vec![0; len as usize + 1]);
        let parts = [
            (input, 88, false),
            (input + 88, len, false),
            (output, len, true),
            (output + u64::from(len), 1, true),
        ];
        let tables: Vec<_> = (0..count).map(|_| driver.submit(0, &parts, true)).collect();
        let mut spent = Duration::ZERO;
        let mut done = 0;
        while spent < Duration::from_millis(300) {
            let start = Instant::now();
            let n = driver.sim.step();
            spent += start.elapsed();
            done += n;
            for head in &tables[..n] {
                driver.poll(0).unwrap();
                driver.publish(0, *head);
            }
        }
        let each = spent.as_nanos() as f64 / done as f64;
        println!("{config:14} {len:8} bytes: {each:10.1} ns each, {:8.1} MB/s", f64::from(len) * 1e3 / each);
    }
    let cipher = crate::crypto::cipher::Cipher::new(
        crate::crypto::cipher::Mode::Cbc,
        crate::crypto::Direction::Encrypt,
        &key(),
    )
    .unwrap();
    let mut data = vec![0; 16_384];
    let start = Instant::now();
    for _ in 0..5000 {
        cipher.apply(&mut [0; 16], &mut data).unwrap();
    }
    println!("aws-lc alone, 16 KiB: {:.1} MB/s", 16_384.0 * 5000.0 / start.elapsed().as_micros() as f64);
}
