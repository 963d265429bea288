//! The programs. Each panics where something is not as it should be, and prints what it measured.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::ForkResult;
use ringbell::{
    Answer, Device, DeviceOptions, DeviceState, Direction, Fault, IdlePolicy, Poller, PollerBuilder,
    PollerConfig, Stats, Status, WaitCtx,
};
use ringbell_drivers::Error;
use ringbell_drivers::pci::{PciFunction, config};
use ringbell_tests::meddler::{self, Meddler};
use ringbell_tests::probe::Timing;

use crate::work::{Desk, LONG, device, function, key};

/// A program that works on one device.
type Program = fn(&str);

/// The programs that take one address.
pub(crate) const NAMES: [(&str, Program); 12] = [
    ("idle", idle),
    ("interrupts", interrupts),
    ("full", full),
    ("astray", astray),
    ("works", works),
    ("error-state", error_state),
    ("reset", reset),
    ("forked", forked),
    ("probe", probe),
    ("without-sys", without_sys),
    ("until-asked", until_asked),
    ("until-asked-spinning", until_asked_spinning),
];

/// Accepted, and all of it ended.
fn check_accounting(stats: &Stats) {
    assert_eq!(stats.accepted, stats.deliveries + stats.detached, "{stats:?}");
    assert_eq!(stats.deliveries, stats.completed + stats.errors, "{stats:?}");
}

/// Two devices under one poller: what one encrypts the other decrypts, while both are busy.
pub(crate) fn two(first: &str, second: &str) {
    const ROUNDS: u64 = 3000;
    let devices = [device(first), device(second)];
    let poller = PollerBuilder::new().device(&devices[0]).device(&devices[1]).spawn().expect("a poller");
    let keys = [key(&devices[0]), key(&devices[1])];
    let desks = [Desk::new(16), Desk::new(16)];
    let plain = |round: u64| -> Vec<u8> { (0..256_u64).map(|i| (i ^ round) as u8).collect() };
    for round in 0..ROUNDS / 16 {
        for slot in 0..16 {
            let data = plain(round * 16 + slot);
            for (desk, key) in desks.iter().zip(&keys) {
                let buffer = key.device().buffer_from(&data).expect("memory");
                let iv = (round * 16 + slot).to_le_bytes().repeat(2);
                let request = key.encrypt(&iv, buffer);
                key.device().submit_wait(request, desk.context(slot as usize), LONG).expect("accepted");
            }
        }
        // Each result goes through the other device and has to come back as what it was.
        let mut secrets: Vec<Vec<Vec<u8>>> = Vec::new();
        for desk in &desks {
            let mut all = Vec::new();
            for _ in 0..16 {
                let done = desk.next();
                assert_eq!(done.result(), Ok(Answer::Yes));
                all.push(done.request().output().to_vec());
            }
            all.sort();
            secrets.push(all);
        }
        assert_eq!(secrets[0], secrets[1], "the devices disagree in round {round}");
        if round % 16 == 0 {
            for (slot, secret) in secrets[0].iter().enumerate() {
                let which = slot % 2;
                let buffer = devices[which].buffer_from(secret).expect("memory");
                // The order is not known: the IV changes the first block alone.
                let request = keys[which].decrypt(&[0; 16], buffer);
                devices[which].submit_wait(request, desks[which].context(0), LONG).expect("accepted");
                let done = desks[which].next();
                let output = done.request().output().to_vec();
                let found = (0..16).any(|s| plain(round * 16 + s)[16..] == output[16..]);
                assert!(found, "round {round}: no plain text comes back");
            }
        }
    }
    poller.shutdown();
    for device in &devices {
        let stats = device.stats();
        check_accounting(&stats);
        assert!(stats.completed >= ROUNDS / 16 * 16 && stats.errors == 0, "{stats:?}");
        println!("{} completed {}", device.address(), stats.completed);
    }
}

fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("usage");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}

/// What an idle adaptive poller costs in ten seconds, and that it wakes.
pub(crate) fn idle(address: &str) {
    let device = device(address);
    let poller = Poller::spawn(&device, PollerConfig::default()).expect("a poller");
    let (key, desk) = (key(&device), Desk::new(1));
    desk.run(&key, &[1; 64]).expect("an answer");
    std::thread::sleep(Duration::from_millis(300));
    let (before, sleeps, start) = (cpu_time(), poller.sleeps(), Instant::now());
    std::thread::sleep(Duration::from_secs(10));
    let (used, idle, slept) = (cpu_time() - before, start.elapsed(), poller.sleeps() - sleeps);
    let (start, before) = (Instant::now(), interrupts_of(address));
    // So long that the poller, which the submission wakes, is asleep again when the answer comes.
    desk.run(&key, &vec![2; 1 << 20]).expect("an answer");
    println!(
        "idle_us {} cpu_us {} sleeps {slept} answer_us {} interrupts {}",
        idle.as_micros(),
        used.as_micros(),
        start.elapsed().as_micros(),
        interrupts_of(address) - before
    );
    poller.shutdown();
    check_accounting(&device.stats());
}

/// Interrupts of a function that the kernel has handed on since it was opened.
fn interrupts_of(address: &str) -> u64 {
    let table = std::fs::read_to_string("/proc/interrupts").expect("/proc/interrupts");
    let ours = table.lines().filter(|line| line.contains("vfio") && line.contains(address));
    // After the number of the interrupt stands a count for each processor.
    let counts =
        ours.flat_map(|line| line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()));
    counts.sum()
}

/// Interrupts alone wake this poller: one request after another, then a full ring.
pub(crate) fn interrupts(address: &str) {
    const ALONE: usize = 2000;
    let device = device(address);
    let config = PollerConfig { idle: IdlePolicy::Interrupt, ..Default::default() };
    let poller = Poller::spawn(&device, config).expect("a poller");
    let (key, desk) = (key(&device), Desk::new(1));
    let start = Instant::now();
    for round in 0..ALONE {
        assert_eq!(desk.run(&key, &[round as u8; 64]), Ok(Answer::Yes));
    }
    let each = start.elapsed() / ALONE as u32;
    let interrupts = interrupts_of(address);
    println!("alone {ALONE} each_us {} sleeps {} interrupts {interrupts}", each.as_micros(), poller.sleeps());
    // One that is not opened again comes once.
    assert!(interrupts > 50, "{interrupts} interrupts for {ALONE} requests, {} sleeps", poller.sleeps());
    poller.shutdown();
    check_accounting(&device.stats());
}

/// A ring that is full says EAGAIN, goes on when there is room, and loses nothing.
pub(crate) fn full(address: &str) {
    let options = DeviceOptions { queue_size: 16, ..Default::default() };
    let device = Device::open_with(address, &options).unwrap_or_else(|e| panic!("{e}"));
    // Nobody polls yet: what is accepted stays.
    let (key, desk) = (key(&device), Desk::new(64));
    let depth = device.capabilities().queue_depth as usize;
    let mut accepted = 0;
    let mut refused = Vec::new();
    for slot in 0..64 {
        let request = key.encrypt(&[7; 16], device.buffer_from(&[slot as u8; 128]).expect("memory"));
        match request.submit(desk.context(slot)) {
            Ok(()) => accepted += 1,
            Err(no) => {
                assert_eq!(no.status(), Status::Eagain);
                assert_eq!(desk.context(slot).status(), Status::Eagain);
                refused.push((slot, no.into_request()));
            }
        }
    }
    assert_eq!((accepted, depth), (depth, 16), "the ring holds what it says");
    let poller = Poller::spawn(&device, PollerConfig::default()).expect("a poller");
    for (slot, request) in refused {
        device.submit_wait(request, desk.context(slot), LONG).expect("room again");
    }
    for _ in 0..64 {
        assert_eq!(desk.next().result(), Ok(Answer::Yes));
    }
    poller.shutdown();
    let stats = device.stats();
    check_accounting(&stats);
    assert_eq!((stats.accepted, stats.completed), (64, 64));
    assert!(stats.eagain >= 48, "{stats:?}");
    println!("depth {depth} eagain {}", stats.eagain);
}

/// DMA to where nothing is mapped: the IOMMU stops it, and all else lives on.
pub(crate) fn astray(address: &str) {
    stray_request(address, false);
    stray_request(address, true);
    works(address);
}

/// A request whose source, or whose destination alone, is where nothing is mapped.
fn stray_request(address: &str, destination: bool) {
    const HALF: usize = 512 << 10;
    // Half of the memory is said to lie 1 GiB further than it does.
    let meddler = Meddler::new(function(address), 1 << 30);
    let options = DeviceOptions { arena_bytes: 2 * HALF, queue_size: 64, ..Default::default() };
    let device = Device::from_function(meddler.clone(), &options).expect("a device");
    let poller = Poller::spawn(&device, PollerConfig::default()).expect("a poller");
    let (key, desk) = (key(&device), Desk::new(4));
    // Rings, and what fits beside them, are where they are said to be.
    assert_eq!(desk.run(&key, &[1; 64]), Ok(Answer::Yes));
    // Buffers out of the second half are what remains once the first is used up.
    let mut held = Vec::new();
    let stray = loop {
        let buffer = device.buffer(16 << 10).expect("memory");
        if buffer.iova() >= 1 << 30 {
            break buffer;
        }
        held.push(buffer);
    };
    println!("a request on memory at {:#x}, which is not mapped", stray.iova());
    let meant = || {
        meddler.with_memory(|file| {
            let mut bytes = vec![0; HALF];
            file.read_exact_at(&mut bytes, HALF as u64).expect("read");
            bytes
        })
    };
    let before = meant();
    let request = if destination {
        key.request(Direction::Encrypt, &[7; 16], held.pop().expect("a buffer"), Some(stray))
    } else {
        key.encrypt(&[7; 16], stray)
    };
    request.submit(desk.context(1)).map_err(|r| r.to_error()).expect("accepted");
    let done = desk.next();
    assert!(done.result().is_err(), "it cannot have worked: {:?}", done.result());
    println!("it ended with {:?}, the device is {:?}", done.result(), device.state());
    assert_eq!(before, meant(), "the memory that was meant has changed");
    assert!(desk.is_quiet());
    poller.shutdown();
    check_accounting(&device.stats());
}

/// Opens the device, and it works.
pub(crate) fn works(address: &str) {
    let device = device(address);
    let poller = Poller::spawn(&device, PollerConfig::default()).expect("a poller");
    assert_eq!(Desk::new(1).run(&key(&device), &[3; 4096]), Ok(Answer::Yes));
    poller.shutdown();
    println!("{address} works");
}

/// Bytes of a request like no other here.
const WRONG: u32 = 4112;

/// Before the next doorbell the lengths of the request of [`WRONG`] bytes are made to differ.
fn break_next(meddler: &Meddler) {
    meddler.before_next_ring(|file| {
        // The request's parameters: iv_len 16, src_len, dst_len.
        let pattern = [16, WRONG, WRONG].map(u32::to_le_bytes).concat();
        let at = meddler::find(file, &pattern).expect("the request is in memory");
        file.write_all_at(&(WRONG + 16).to_le_bytes(), at + 8).expect("write");
    });
}

/// The device's error state, by requests with wrong lengths: all in flight ends with ERR, once, and the
/// device comes back, with the same handles. So often that its 256 sessions would be used up if those
/// of before a reset, which it keeps, were not destroyed.
pub(crate) fn error_state(address: &str) {
    const COUNT: usize = 8;
    const ROUNDS: u64 = 140;
    let meddler = Meddler::new(function(address), 0);
    let device = Device::from_function(meddler.clone(), &DeviceOptions::default()).expect("a device");
    // Faults so close together would have the device failed after five.
    let config =
        PollerConfig { recovery_tries: u32::MAX, recovery_pause: Duration::ZERO, ..Default::default() };
    let poller = Poller::spawn(&device, config).expect("a poller");
    let (key, desk) = (key(&device), Desk::new(COUNT));
    let right = desk.answer(&key, &[1; 64]);
    break_next(&meddler);
    let mut owned = device.owned_queue().expect("a queue");
    owned.burst(|burst| {
        for slot in 0..COUNT {
            let len = if slot == 0 { WRONG as usize } else { 64 };
            let request = key.encrypt(&[7; 16], device.buffer_from(&vec![5; len]).expect("memory"));
            burst.submit(request, desk.context(slot)).map_err(|r| r.to_error()).expect("accepted");
        }
    });
    let start = Instant::now();
    let results: Vec<_> = (0..COUNT).map(|_| desk.next().result()).collect();
    println!("after {} us: {results:?}, the device is {:?}", start.elapsed().as_micros(), device.state());
    assert!(results.contains(&Err(Fault::DeviceFailed)), "{results:?}");
    assert!(results.iter().all(|r| matches!(r, Err(Fault::DeviceFailed) | Ok(Answer::Yes))), "{results:?}");
    assert!(desk.is_quiet(), "an end came twice");
    // The owner's next burst is on the new rings.
    drop(owned);
    assert_eq!(desk.answer(&key, &[1; 64]), right);
    let start = Instant::now();
    for round in 1..ROUNDS {
        break_next(&meddler);
        let buffer = device.buffer_from(&[5; WRONG as usize]).expect("memory");
        device
            .submit_wait(key.encrypt(&[7; 16], buffer), desk.context(0), LONG)
            .map_err(|r| r.to_error())
            .expect("accepted");
        assert_eq!(desk.next().result(), Err(Fault::DeviceFailed), "round {round}");
        assert_eq!(desk.answer(&key, &[1; 64]), right, "round {round}");
    }
    let stats = device.stats();
    println!(
        "{} recoveries, {} us each",
        stats.recoveries,
        start.elapsed().as_micros() / u128::from(ROUNDS - 1)
    );
    assert_eq!((stats.faults, stats.recoveries), (ROUNDS, ROUNDS), "{stats:?}");
    poller.shutdown();
    check_accounting(&device.stats());
    drop((key, device, desk, meddler));
    works(address);
}

/// The function's own reset, or a clear word that it has none.
pub(crate) fn reset(address: &str) {
    let function = function(address);
    function.set_bus_master(true).expect("bus mastering");
    let command = || {
        let mut bytes = [0; 2];
        function.read_config(config::COMMAND, &mut bytes).expect("config space");
        u16::from_le_bytes(bytes)
    };
    assert_ne!(command() & config::COMMAND_BUS_MASTER, 0);
    match function.reset() {
        Ok(()) => println!("reset"),
        Err(Error::NotUsable { why, .. }) => println!("no reset: {why}"),
        Err(error) => panic!("{error}"),
    }
    assert_eq!(command() & config::COMMAND_BUS_MASTER, 0, "bus mastering is off after a reset");
    drop(function);
    works(address);
}

/// A forked child gets errors, harms nothing, and the parent goes on.
pub(crate) fn forked(address: &str) {
    let device = device(address);
    let poller = Poller::spawn(&device, PollerConfig::default()).expect("a poller");
    let (key, desk) = (key(&device), Desk::new(1));
    assert_eq!(desk.run(&key, &[1; 64]), Ok(Answer::Yes));
    let kept = device.buffer(64).expect("memory");
    // SAFETY: the child touches the handles of this module and ends; the library is made for that.
    match unsafe { nix::unistd::fork() }.expect("fork") {
        ForkResult::Child => {
            assert!(matches!(device.buffer(64), Err(Error::Forked)));
            let ctx = WaitCtx::new();
            let refused = key.encrypt(&[7; 16], kept).submit(&ctx).expect_err("forked");
            assert_eq!(refused.status(), Status::Err);
            drop((refused, key, desk, device, poller));
            std::process::exit(0);
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).expect("wait"), WaitStatus::Exited(child, 0));
        }
    }
    assert_eq!(desk.run(&key, &[2; 64]), Ok(Answer::Yes));
    drop(kept);
    poller.shutdown();
    drop((key, desk, device));
    works(address);
}

/// A device that is open needs no /sys any more, not even to be closed.
pub(crate) fn without_sys(address: &str) {
    let run = |program: &str, arguments: &[&str]| {
        let status = std::process::Command::new(program).args(arguments).status();
        assert!(status.expect("a program").success(), "{program}");
    };
    let device = device(address);
    let poller = Poller::spawn(&device, PollerConfig::default()).expect("a poller");
    run("umount", &["-l", "/sys"]);
    assert_eq!(Desk::new(1).run(&key(&device), &[3; 4096]), Ok(Answer::Yes));
    poller.shutdown();
    drop(device);
    run("mount", &["-t", "sysfs", "sysfs", "/sys"]);
    works(address);
}

/// What the device does, line by line.
pub(crate) fn probe(address: &str) {
    ringbell_tests::probe::run(function(address), Timing::EMULATED, &mut |line| println!("{line}"))
        .unwrap_or_else(|e| panic!("{e}"));
}

/// Keeps the device busy until the kernel asks for it; then everything ends, and it is closed.
pub(crate) fn until_asked(address: &str) {
    serve_until_asked(address, IdlePolicy::ADAPTIVE);
}

/// The same under a poller that never sleeps, and so never waits for anything.
pub(crate) fn until_asked_spinning(address: &str) {
    serve_until_asked(address, IdlePolicy::Spin);
}

fn serve_until_asked(address: &str, idle: IdlePolicy) {
    let device = device(address);
    let config = PollerConfig { idle, ..Default::default() };
    let poller = Poller::spawn(&device, config).expect("a poller");
    let key = key(&device);
    let ended = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&ended);
    let ctx = WaitCtx::with_callback(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    println!("busy");
    let start = Instant::now();
    let mut accepted = 0;
    while device.state() == DeviceState::Ready {
        assert!(start.elapsed() < LONG, "nobody asked");
        let buffer = device.buffer(1024).expect("memory");
        if key.encrypt(&[7; 16], buffer).submit(&ctx).is_ok() {
            accepted += 1;
            while ended.load(Ordering::SeqCst) < accepted && device.state() == DeviceState::Ready {
                std::thread::sleep(Duration::from_micros(100));
            }
            ctx.take();
        }
    }
    poller.shutdown();
    assert_eq!(ended.load(Ordering::SeqCst), accepted);
    check_accounting(&device.stats());
    println!("asked after {accepted} requests, the device is {:?}", device.state());
}
