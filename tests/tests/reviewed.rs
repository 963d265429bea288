//! What a hostile reader of the recovery found once, and what holds since.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;
use ringbell::sim::Sim;
use ringbell::*;
use ringbell_drivers::dma::Arena;
use ringbell_drivers::pci::PciFunction;
use ringbell_tests::bytes::Bytes;
use ringbell_tests::hostile::{Hostile, Nature};

fn deaf() -> (Sim, Arc<Hostile>) {
    let sim = Sim::stepped("queue-size=16".parse().unwrap()).unwrap();
    let h = Hostile::new(sim.function(), Nature { deaf: true, ..Nature::HONEST });
    (sim, h)
}

#[test]
fn a_session_whose_creation_was_answered_by_a_lie_is_made_again() {
    let (_sim, h) = deaf();
    let device = Device::from_function(h.clone(), &DeviceOptions::default()).unwrap();
    let mut poller = ManualPoller::new([&device], PollerConfig::default()).unwrap();
    let key = device.cipher_key(Cipher::Aes128Cbc, &[1; 16]).unwrap();
    let ctx = WaitCtx::new();
    let r = key.encrypt(&[0; 16], device.buffer_from(&[0; 16]).unwrap()).submit(&ctx).unwrap_err();
    assert_eq!(r.reason(), Reason::SessionPending);
    poller.poll();
    // id 1, status 0x77
    h.answer(&mut Bytes::new(&[1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0]));
    for _ in 0..10 {
        poller.poll();
    }
    let mut request = Some(r.into_request());
    let start = Instant::now();
    let mut commands = 0;
    while start.elapsed() < Duration::from_secs(3) {
        match request.take().unwrap().submit(&ctx) {
            Ok(()) => return,
            Err(r) => {
                assert_eq!(r.reason(), Reason::SessionPending);
                request = Some(r.into_request());
            }
        }
        poller.poll();
        if h.command().is_some() {
            commands += 1;
            h.answer(&mut Bytes::new(&[1, 0]));
        }
    }
    panic!("EAGAIN for ever; commands seen after it: {commands}; prepare: {:?}", key.prepare());
}

#[test]
fn fresh_rings_stand_on_other_memory_than_the_last_ones() {
    let sim = Sim::threaded("queue-size=16".parse().unwrap()).unwrap();
    let h = Hostile::new(sim.function(), Nature::HONEST);
    let device = Device::from_function(h.clone(), &DeviceOptions::default()).unwrap();
    let mut poller =
        ManualPoller::new([&device], PollerConfig { recovery_tries: 100, ..Default::default() }).unwrap();
    for n in 1..=4 {
        sim.inject("needs-reset@0".parse().unwrap());
        let start = Instant::now();
        while device.stats().recoveries < n && start.elapsed() < Duration::from_secs(3) {
            poller.poll();
        }
    }
    for q in 0..2 {
        let at: Vec<u64> = h.enabled().iter().filter(|(n, _)| *n == q).map(|(_, a)| *a).collect();
        assert!(at.windows(2).all(|w| w[0] != w[1]), "queue {q}");
    }
}

#[test]
fn a_deadline_holds_though_every_callback_is_slow() {
    // A callback of 2 ms that submits again, beside a request that is dropped.
    let device = Device::open("sim:queues=1,fault=drop@1").unwrap();
    let config = PollerConfig {
        request_timeout: Duration::from_millis(8),
        stall_limit: Duration::from_millis(100),
        ..Default::default()
    };
    let key = device.cipher_key(Cipher::Aes128Cbc, &[1; 16]).unwrap();
    key.prepare().unwrap();
    let poller = Poller::spawn(&device, config).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let s = Arc::clone(&stop);
    let count = Arc::new(AtomicU32::new(0));
    let c = Arc::clone(&count);
    let slow = WaitCtx::with_callback(move |d| {
        c.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2));
        if !s.load(Ordering::Relaxed)
            && let Some(done) = d.take()
        {
            let _ = done.into_request().submit(d);
        }
    });
    let lost = WaitCtx::new();
    let make = || key.encrypt(&[0; 16], device.buffer_from(&[0; 16]).unwrap());
    make().submit(&lost).unwrap();
    make().submit(&slow).unwrap();
    let start = Instant::now();
    while lost.is_busy() && start.elapsed() < Duration::from_secs(3) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    poller.shutdown();
    assert!(took < Duration::from_secs(1), "a deadline of 8 ms took {took:?}");
}

#[test]
fn a_cancel_of_work_for_software_tells_who_waits_for_room() {
    let sim = Sim::stepped("queue-size=8".parse().unwrap()).unwrap();
    let options = DeviceOptions { queue_size: 8, ..Default::default() };
    let device = Device::from_function(sim.function(), &options).unwrap();
    let mut poller = ManualPoller::new(
        [&device],
        PollerConfig { failover: true, recovery_tries: 0, ..Default::default() },
    )
    .unwrap();
    let key = device.cipher_key(Cipher::Aes128Cbc, &[1; 16]).unwrap();
    sim.inject("needs-reset@0".parse().unwrap());
    while device.state() != DeviceState::Failed {
        poller.poll();
    }
    let ctxs: Vec<WaitCtx> = (0..64).map(|_| WaitCtx::new()).collect();
    let make = || key.encrypt(&[0; 16], device.buffer_from(&[0; 16]).unwrap());
    let mut n = 0;
    let refused = loop {
        match make().submit(&ctxs[n]) {
            Ok(()) => n += 1,
            Err(r) => break r,
        }
    };
    assert_eq!(refused.reason(), Reason::RingFull);
    let told = Arc::new(AtomicBool::new(false));
    let t = Arc::clone(&told);
    device.on_room(move || t.store(true, Ordering::SeqCst));
    let refused = refused.into_request().submit(&ctxs[n]).unwrap_err();
    for ctx in &ctxs[..n] {
        device.cancel(ctx);
    }
    for _ in 0..10 {
        poller.poll();
    }
    assert!(ctxs[..n].iter().all(|c| !c.is_busy()));
    let told = told.load(Ordering::SeqCst);
    let ok = refused.into_request().submit(&ctxs[n]).is_ok();
    assert!(told, "{n} were cancelled, there is room ({ok}), nobody was told");
}

#[test]
fn a_function_asked_back_while_it_recovers_is_given_back() {
    let sim = Sim::threaded("".parse().unwrap()).unwrap();
    let h =
        Hostile::new(sim.function(), Nature { interrupts: sim.function().interrupts(), ..Nature::HONEST });
    let device = Device::from_function(h.clone(), &DeviceOptions::default()).unwrap();
    let config = PollerConfig {
        idle: IdlePolicy::Interrupt,
        recovery_pause: Duration::from_millis(300),
        ..Default::default()
    };
    let poller = Poller::spawn(&device, config).unwrap();
    // The first try fails: one read of the status register's neighbour, the number of queues, is zero.
    h.lie(&mut Bytes::new(&[1, 18, 0, 1]));
    sim.inject("needs-reset@0".parse().unwrap());
    let start = Instant::now();
    while device.state() != DeviceState::Resetting && start.elapsed() < Duration::from_secs(3) {
        std::thread::yield_now();
    }
    assert_eq!(device.state(), DeviceState::Resetting);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(device.state(), DeviceState::Resetting);
    h.ask_back();
    std::thread::sleep(Duration::from_millis(1500));
    let state = device.state();
    poller.shutdown();
    assert_eq!(state, DeviceState::Failed, "the kernel has asked for the function");
}

#[test]
fn sixteen_queues_come_back_with_default_options() {
    let sim = Sim::threaded("queues=16".parse().unwrap()).unwrap();
    let device = Device::from_function(sim.function(), &DeviceOptions::default()).unwrap();
    let poller = Poller::spawn(&device, PollerConfig::default()).unwrap();
    sim.inject("needs-reset@0".parse().unwrap());
    let start = Instant::now();
    while device.stats().recoveries == 0
        && device.state() != DeviceState::Failed
        && start.elapsed() < Duration::from_secs(10)
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    let state = device.state();
    poller.shutdown();
    assert_eq!(state, DeviceState::Ready);
}

#[test]
fn no_session_made_after_a_reset_is_destroyed_for_one_of_before() {
    // A device that forgets its sessions at a reset and counts ids from 1 each time.
    let (_sim, h) = deaf();
    let device = Device::from_function(h.clone(), &DeviceOptions::default()).unwrap();
    let mut poller =
        ManualPoller::new([&device], PollerConfig { recovery_tries: 100, ..Default::default() }).unwrap();
    let ctx = WaitCtx::new();
    let mut next = 0_u64;
    let mut log = Vec::new();
    let serve = |h: &Hostile, next: &mut u64, log: &mut Vec<(u32, u64)>| {
        while let Some((op, id)) = h.command() {
            let created = op & 0xff == 2;
            if created {
                *next += 1;
                log.push((op, *next));
            } else {
                log.push((op, id));
            }
            let mut bytes = vec![1, 1];
            if created {
                bytes.extend(next.to_le_bytes());
                bytes.extend([0; 8]);
            } else {
                bytes.push(0);
            }
            h.answer(&mut Bytes::new(&bytes));
        }
    };
    let live = |n: u8, poller: &mut ManualPoller, next: &mut u64, log: &mut Vec<(u32, u64)>| {
        let key = device.cipher_key(Cipher::Aes128Cbc, &[n; 16]).unwrap();
        let mut r = Some(key.encrypt(&[0; 16], device.buffer_from(&[0; 16]).unwrap()));
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            match r.take().unwrap().submit(&ctx) {
                Ok(()) => {
                    poller.poll();
                    h.answer(&mut Bytes::new(&[0, 0]));
                    while ctx.is_busy() {
                        poller.poll();
                    }
                    ctx.take();
                    return key;
                }
                Err(x) => r = Some(x.into_request()),
            }
            poller.poll();
            serve(&h, next, log);
        }
        panic!("no session");
    };
    for n in 1..=64 {
        drop(live(n, &mut poller, &mut next, &mut log));
    }
    let held: Vec<_> = (100..138).map(|n| live(n, &mut poller, &mut next, &mut log)).collect();
    let mut held = held;
    let gone = held.split_off(20);
    drop(gone);
    // Idle ones are evicted: more destructions than the control ring holds, and no answer.
    let more: Vec<_> =
        (0..10).map(|n| device.cipher_key(Cipher::Aes128Cbc, &[200 + n; 16]).unwrap()).collect();
    // Now a fault, and the device comes back with ids from 1.
    h.lie(&mut Bytes::new(&[1, 20, 0x4f, 1]));
    let before = device.stats().recoveries;
    log.clear();
    next = 0;
    let start = Instant::now();
    while device.stats().recoveries == before && start.elapsed() < Duration::from_secs(3) {
        poller.poll();
    }
    for _ in 0..20 {
        poller.poll();
        serve(&h, &mut next, &mut log);
    }
    let mut made = std::collections::HashSet::new();
    for (op, id) in &log {
        if op & 0xff == 2 {
            made.insert(*id);
        } else {
            assert!(!made.contains(id), "session {id}, made after the reset, is destroyed");
        }
    }
    drop((held, more));
}

#[test]
fn after_a_lie_on_the_control_queue_an_idle_poller_sleeps() {
    // As a, then: does an idle poller sleep for ever?
    let sim = Sim::threaded("queue-size=16".parse().unwrap()).unwrap();
    let h = Hostile::new(
        sim.function(),
        Nature { deaf: true, interrupts: sim.function().interrupts(), ..Nature::HONEST },
    );
    let device = Device::from_function(h.clone() as Arc<dyn PciFunction>, &DeviceOptions::default()).unwrap();
    let poller = Poller::spawn(&device, PollerConfig::default()).unwrap();
    let key = device.cipher_key(Cipher::Aes128Cbc, &[1; 16]).unwrap();
    let ctx = WaitCtx::new();
    key.encrypt(&[0; 16], device.buffer_from(&[0; 16]).unwrap()).submit(&ctx).unwrap_err();
    let start = Instant::now();
    while h.command().is_none() && start.elapsed() < Duration::from_secs(1) {}
    h.answer(&mut Bytes::new(&[1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0]));
    std::thread::sleep(Duration::from_millis(300));
    let before = poller.sleeps();
    std::thread::sleep(Duration::from_secs(2));
    let sleeps = poller.sleeps() - before;
    poller.shutdown();
    assert!(sleeps <= 1, "an idle poller went to sleep {sleeps} times in 2 s");
}

/// A burst held open over two recoveries, doorbells meanwhile.
#[test]
fn a_burst_held_open_over_recoveries_ends_each_request_once() {
    let sim = Sim::threaded("queue-size=16".parse().unwrap()).unwrap();
    let device = Device::from_function(sim.function(), &DeviceOptions::default()).unwrap();
    let mut poller =
        ManualPoller::new([&device], PollerConfig { recovery_tries: 100, ..Default::default() }).unwrap();
    let key = device.cipher_key(Cipher::Aes128Cbc, &[1; 16]).unwrap();
    key.prepare().unwrap();
    let mut queue = device.owned_queue().unwrap();
    let ctxs: Vec<WaitCtx> = (0..64).map(|_| WaitCtx::new()).collect();
    let make = || key.encrypt(&[0; 16], device.buffer_from(&[0; 16]).unwrap());
    let mut accepted = 0;
    let fail = |poller: &mut ManualPoller| {
        let before = device.stats().recoveries;
        sim.inject("needs-reset@0".parse().unwrap());
        let start = Instant::now();
        while device.stats().recoveries == before && start.elapsed() < Duration::from_secs(3) {
            poller.poll();
        }
        for _ in 0..200 {
            poller.poll();
            std::thread::sleep(Duration::from_micros(50));
        }
    };
    queue.burst(|b| {
        for round in 0..3 {
            for i in 0..4 {
                if b.submit(make(), &ctxs[round * 4 + i]).is_ok() {
                    accepted += 1;
                }
            }
            fail(&mut poller);
        }
    });
    poller.poll();
    let s = device.stats();
    assert_eq!(s.accepted, accepted);
    assert_eq!(s.accepted, s.deliveries);
    queue.submit(make(), &ctxs[20]).unwrap();
    let start = Instant::now();
    while ctxs[20].is_busy() && start.elapsed() < Duration::from_secs(3) {
        poller.poll();
    }
    assert_eq!(ctxs[20].take().unwrap().result(), Ok(Answer::Yes));
}

#[test]
fn prepare_waits_while_software_takes_over() {
    let sim = Sim::threaded("".parse().unwrap()).unwrap();
    let device = Device::from_function(
        sim.function(),
        &DeviceOptions { control_timeout: Duration::from_millis(100), ..Default::default() },
    )
    .unwrap();
    let poller =
        Poller::spawn(&device, PollerConfig { failover: true, recovery_tries: 1, ..Default::default() })
            .unwrap();
    let key = device.cipher_key(Cipher::Aes128Cbc, &[1; 16]).unwrap();
    sim.inject("reset-fails@0:always".parse().unwrap());
    let start = Instant::now();
    while device.state() == DeviceState::Ready && start.elapsed() < Duration::from_secs(3) {
        std::thread::yield_now();
    }
    let outcome = key.prepare_for(Direction::Encrypt, Duration::from_secs(3));
    poller.shutdown();
    assert!(outcome.is_ok(), "{outcome:?}");
}

#[test]
fn an_arena_of_the_programs_own_memory_gives_no_buffer_that_nobody_chose() {
    let sim = Sim::threaded("".parse().unwrap()).unwrap();
    let file = memfd_create(c"registered", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    ftruncate(&file, 1 << 16).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
    // SAFETY: nobody else uses the file.
    let memory = unsafe { UserMemory::map(file.as_fd(), 0, 1 << 16) }.unwrap();
    let arena = Arena::over(sim.function(), memory, Arc::default()).unwrap();
    let chosen = arena.range(0..4096).unwrap();
    // It would stand on the same bytes, and two slices of them could be written at once.
    let error = arena.buffer(4096).unwrap_err();
    assert!(error.to_string().contains("range"), "{error}");
    drop(chosen);
    assert!(arena.range(0..4096).is_ok());
}

/// QEMU says ERR where it has no room. However often it has said so, an idle session is to make room.
#[test]
fn a_session_that_waited_long_for_room_gets_that_of_one_that_is_idle() {
    let device = Device::open("sim:quirks=qemu").unwrap();
    let _poller = Poller::spawn(&device, PollerConfig::default()).unwrap();
    let limit = Duration::from_secs(60);
    let mut keys: Vec<CipherKey> = (0..=255_u8)
        .map(|number| {
            let key = device.cipher_key(Cipher::Aes128Cbc, &[number; 16]).unwrap();
            key.prepare_for(Direction::Encrypt, limit).unwrap();
            key
        })
        .collect();
    let one_more = device.cipher_key(Cipher::Aes256Cbc, &[1; 32]).unwrap();
    // Asks again and again.
    let error = one_more.prepare_for(Direction::Encrypt, Duration::from_millis(200)).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    keys.pop();
    one_more.prepare_for(Direction::Encrypt, Duration::from_secs(5)).unwrap();
}

#[test]
fn an_rsa_key_is_refused_where_the_arena_has_no_room_for_it_and_the_device_goes_on() {
    // The rings leave less than a control request with a long key takes.
    let options = DeviceOptions { arena_bytes: 64 << 10, queue_size: 32, ..DeviceOptions::default() };
    let device = Device::open_with("sim:queues=9,queue-size=32", &options).unwrap();
    let _poller = Poller::spawn(&device, PollerConfig::default()).unwrap();
    let pem = include_bytes!("../data/rsa-2048.pem");
    let error = device.rsa_key(RsaPadding::Raw, pem).and_then(|key| key.prepare()).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    let key = device.cipher_key(Cipher::Aes128Cbc, &[1; 16]).unwrap();
    key.prepare().unwrap();
    assert_eq!((device.state(), device.stats().faults), (DeviceState::Ready, 0));
}
