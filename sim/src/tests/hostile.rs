use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringbell_drivers::dma::SharedMemory;

use super::Driver;
use super::driver::{ALL, EVENT_IDX, INDIRECT, VERSION_1, header};
use crate::rng::Rng;
use crate::{DriverError, Fault, FaultKind, Order, Quirks, Sim, SimConfig};

fn stepped() -> Driver {
    Driver::new(Sim::stepped(SimConfig { queue_size: 16, ..SimConfig::default() }).unwrap(), ALL)
}

/// The device is in its error state, said so by interrupt, and does nothing more.
fn broken(driver: &mut Driver, why: fn(&DriverError) -> bool) {
    driver.sim.step();
    assert_eq!(driver.status(), 0x4f, "{:?}", driver.sim.stats());
    let stats = driver.sim.stats();
    assert!(why(stats.last_fault.as_ref().unwrap()), "{:?}", stats.last_fault);
    assert!(driver.interrupted(0), "config interrupt");
    assert_eq!((driver.poll(0), driver.sim.step()), (None, 0));
    assert_eq!(stats.taken, stats.completed + stats.dropped, "{stats:?}");
    // A reset leads out.
    driver.start(ALL);
    assert!(driver.create(3, 1, &[0; 16]).is_ok());
}

#[test]
fn loops_and_wrong_indices_break_the_device() {
    let mut driver = stepped();
    driver.raw_descriptor(0, 0, (0, 16, false), 1, 1);
    driver.raw_descriptor(0, 1, (0, 16, false), 1, 0);
    driver.publish(0, 0);
    broken(&mut driver, |e| matches!(e, DriverError::ChainTooLong { limit: 16, .. }));

    driver.publish(0, 16);
    broken_head(&mut driver);
    driver.raw_descriptor(0, 3, (0, 16, false), 1, 16);
    driver.publish(0, 3);
    broken(&mut driver, |e| matches!(e, DriverError::NoDescriptor { index: 16, .. }));

    let avail = driver.queues[0].avail;
    driver.memory.store_u16(avail + 2, 17, Ordering::Release).unwrap();
    broken(&mut driver, |e| matches!(e, DriverError::AvailableIndex { ahead: 17, .. }));
}

fn broken_head(driver: &mut Driver) {
    // The head is refused as it is taken: it does not count as a request.
    broken(driver, |e| matches!(e, DriverError::NoDescriptor { index: 16, entries: 16, .. }));
}

#[test]
fn wrong_indirect_tables_break_the_device() {
    let mut driver = stepped();
    let indirect = |e: &DriverError| matches!(e, DriverError::Indirect { .. });
    driver.raw_descriptor(0, 0, (8192, 32, false), 4 | 1, 1);
    driver.publish(0, 0);
    broken(&mut driver, indirect);
    for len in [0, 8, 24] {
        driver.raw_descriptor(0, 0, (8192, len, false), 4, 0);
        driver.publish(0, 0);
        broken(&mut driver, indirect);
    }
    // Nested.
    let mut table = [0; 16];
    table[12] = 4;
    let place = driver.put(&table);
    driver.raw_descriptor(0, 0, (place, 16, false), 4, 0);
    driver.publish(0, 0);
    broken(&mut driver, indirect);
    // A loop inside, and more than the queue has.
    let mut table = [0; 16];
    table[..8].copy_from_slice(&driver.iova.to_le_bytes());
    table[8] = 1;
    table[12] = 1;
    let place = driver.put(&table);
    driver.raw_descriptor(0, 0, (place, 16, false), 4, 0);
    driver.publish(0, 0);
    broken(&mut driver, |e| matches!(e, DriverError::ChainTooLong { limit: 1, .. }));
    let long: Vec<_> = (0..17).map(|_| (0, 1, false)).collect();
    driver.submit(0, &long, true);
    broken(&mut driver, |e| matches!(e, DriverError::ChainTooLong { limit: 16, .. }));
    // Not agreed on.
    driver.start(!INDIRECT);
    driver.submit(0, &[(0, 72, false), (0, 1, true)], true);
    broken(&mut driver, indirect);
}

#[test]
fn memory_that_is_not_mapped_breaks_the_device() {
    let mut driver = stepped();
    let unmapped = |e: &DriverError| matches!(e, DriverError::NotMapped { .. });
    let end = driver.memory.len() as u64;
    let base = 0_u64.wrapping_sub(driver.iova);
    for part in [
        (end - 8, 16, false),
        (end, 1, false),
        (base, 16, true),
        (u64::MAX - 4, 16, false),
        (0, u32::MAX, false),
        (base.wrapping_sub(8), 16, true),
    ] {
        driver.submit(0, &[part], false);
        broken(&mut driver, unmapped);
    }
    driver.raw_descriptor(0, 0, (end, 16, false), 4, 0);
    driver.publish(0, 0);
    broken(&mut driver, unmapped);
    // After an unmap, rings and all.
    let mapping = driver.mapping.clone();
    driver.function.unmap_dma(&mapping).unwrap();
    assert!(driver.function.unmap_dma(&mapping).is_err());
    driver.publish(0, 0);
    driver.sim.step();
    assert_eq!(driver.status(), 0x4f);
    let again = driver.function.map_dma(driver.memory.fd(), 0, end).unwrap();
    assert_ne!(again.segments[0].iova, driver.iova, "no address is given twice");
}

#[test]
fn wrong_chains_break_the_device() {
    let mut driver = stepped();
    let place = driver.put(&header(0, 3, 1, 16, 64, 64));
    driver.submit(0, &[(place, 1, true), (place, 72, false)], false);
    broken(&mut driver, |e| matches!(e, DriverError::ReadableAfterWritable { .. }));
    let place = 8192;
    for parts in
        [vec![(place, 72, false)], vec![(place, 71, false), (8192, 1, true)], vec![(8192, 100, true)]]
    {
        driver.submit(0, &parts, true);
        broken(&mut driver, |e| matches!(e, DriverError::Truncated { .. }));
    }
    // Just what is needed: the status is written, an empty descriptor is harmless.
    let place = driver.put(&header(0, 3, 1, 16, 64, 64));
    let status = driver.put(&[0xee]);
    let head = driver.submit(0, &[(place, 72, false), (place, 0, false), (status, 1, true)], false);
    assert_eq!((driver.sim.step(), driver.poll(0)), (1, Some((u32::from(head), 1))));
    assert_eq!(driver.get(status, 1), [1]);
    // 2^32 bytes.
    let sim = Sim::stepped(SimConfig { queue_size: 2048, ..SimConfig::default() }).unwrap();
    let mut driver = Driver::new(sim, ALL);
    let len = driver.memory.len() as u32;
    let parts: Vec<_> = (0..1024).map(|_| (0, len, false)).collect();
    driver.submit(0, &parts, false);
    broken(&mut driver, |e| matches!(e, DriverError::TooManyBytes { .. }));
}

#[test]
fn qemu_takes_no_empty_descriptor() {
    let mut driver = Driver::new(Sim::stepped("quirks=qemu".parse().unwrap()).unwrap(), ALL);
    driver.submit(0, &[(4096, 72, false), (0, 0, false), (4096, 1, true)], false);
    broken(&mut driver, |e| matches!(e, DriverError::ZeroLength { .. }));
}

#[test]
fn rings_that_are_not_aligned_break_the_device() {
    for register in [32, 40, 48] {
        let mut driver = Driver::bare(Sim::stepped(SimConfig::default()).unwrap());
        driver.w8(20, 3);
        driver.accept(driver.offered());
        driver.w8(20, 11);
        driver.setup_queue(0);
        driver.w16(22, 0);
        driver.w16(58, 1); // queue reset, to set it up again
        assert_eq!(driver.r16(28), 0);
        for at in [32, 40, 48] {
            driver.w32(at, driver.iova as u32 + u32::from(at == register));
            driver.w32(at + 4, (driver.iova >> 32) as u32);
        }
        driver.w16(28, 1);
        driver.w8(20, 15);
        driver.sim.step();
        assert_eq!(driver.status(), 0x4f);
        assert!(matches!(driver.sim.stats().last_fault, Some(DriverError::Setup { .. })));
    }
}

#[test]
fn a_device_on_its_thread_breaks_and_recovers_too() {
    let mut driver =
        Driver::new(Sim::threaded(SimConfig { queue_size: 16, ..SimConfig::default() }).unwrap(), ALL);
    driver.raw_descriptor(0, 0, (0, 16, false), 1, 0);
    driver.publish(0, 0);
    driver.wait_for(|driver| (driver.status() == 0x4f).then_some(()));
    driver.wait_for(|driver| driver.interrupted(0).then_some(()));
    driver.start(ALL);
    assert!(driver.create(3, 1, &[0; 16]).is_ok());
}

/// Another thread scribbles over rings, tables and requests while the device works on them: what
/// was checked is what is used.
#[test]
fn memory_that_changes_under_the_device_is_harmless() {
    let config = SimConfig { queue_size: 8, ..SimConfig::default() };
    let mut driver = Driver::new(Sim::threaded(config).unwrap(), ALL);
    let memory = SharedMemory::map(driver.memory.fd(), 0, driver.memory.len() as u64).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = Rng::new(3);
            let start = Instant::now();
            // The limit is for a test that fails.
            while start.elapsed() < Duration::from_secs(30) && !stop.load(Ordering::Relaxed) {
                let at = 4096 + rng.below(1024);
                let value = if rng.below(2) == 0 { rng.next() & 7 } else { rng.next() };
                memory.write(at, &value.to_le_bytes()[..1 + rng.below(8)]).unwrap();
            }
        });
        let mut round = 0_usize;
        // Until it has been broken often enough, and a device is never stuck.
        driver.wait_for(|driver| {
            if driver.status() & 0x40 != 0 || round.is_multiple_of(500) {
                driver.start(ALL);
            }
            driver.submit(0, &[(4096, 200, false), (4096 + 512, 300, true)], round.is_multiple_of(2));
            driver.kick(round % 2);
            driver.poll(0);
            round += 1;
            (driver.sim.stats().faults >= 200).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
    });
    driver.start(ALL);
    assert!(driver.create(3, 1, &[0; 16]).is_ok());
}

/// Faults that a driver of noise can be started with.
fn some_faults(rng: &mut Rng) -> Vec<Fault> {
    let mut one = || {
        let kind = FaultKind::ALL[rng.below(FaultKind::ALL.len())];
        let stubborn = matches!(
            kind,
            FaultKind::Remove | FaultKind::BadConfig | FaultKind::ResetHang | FaultKind::ResetFails
        );
        let often = ["", ":once", ":x3", ":1/2", ":always"][rng.below(5)];
        let word = if stubborn || kind == FaultKind::ControlHang { "@99999" } else { often };
        format!("{kind}{word}").parse().unwrap()
    };
    vec![one(), one(), one()]
}

/// Rings, tables and requests of noise, half of it plausible. Whatever comes, the device answers or
/// goes to its error state.
#[test]
fn garbage_never_panics() {
    let mut faults = 0;
    let mut completed = 0;
    for seed in 0..400_u64 {
        let mut rng = Rng::new(seed);
        let config = SimConfig {
            queue_size: 1 << (rng.below(5) + 2),
            seed,
            order: if seed % 3 == 0 { Order::Shuffle } else { Order::Fifo },
            quirks: if seed % 4 == 1 { Quirks::Qemu } else { Quirks::None },
            faults: if seed % 2 == 0 { some_faults(&mut rng) } else { Vec::new() },
            ..SimConfig::default()
        };
        let wanted = if seed % 5 == 0 { VERSION_1 | 1 << 33 | INDIRECT } else { ALL };
        let mut driver = Driver::new(Sim::stepped(config).unwrap(), wanted);
        let session = driver.create(3, 1, &[1; 16]).unwrap();
        for _ in 0..30 {
            if driver.status() & 0x40 != 0 {
                faults += 1;
                driver.start(wanted);
            }
            let queue = rng.below(driver.queues.len());
            let size = driver.queues[queue].size;
            // Something to read: noise, or nearly a request.
            let mut bytes: Vec<u8> = (0..256).map(|_| rng.next() as u8).collect();
            if rng.below(4) != 0 {
                let lens = [0, 16, 32, 64, 65, rng.next() as u32];
                let mut len = || lens[rng.below(6)];
                let request = header(len() & 1, 3, session, 16, len(), len());
                bytes[..72].copy_from_slice(&request);
            }
            let place = driver.put(&bytes);
            for index in 0..size {
                let part = match rng.below(16) {
                    0 => (rng.next(), rng.next() as u32, rng.below(2) == 0),
                    1 => (place, 0, rng.below(2) == 0),
                    2 => (driver.queues[queue].desc as u64, u32::from(size) * 16, false),
                    _ => (place + rng.below(2) as u64, 1 + rng.below(255) as u32, index % 4 > 1),
                };
                let flags = match rng.below(16) {
                    0 => rng.next() as u16,
                    1 => 4,
                    n => u16::from(n < 12),
                };
                let next = if rng.below(12) == 0 { rng.next() as u16 } else { (index + 1) % size };
                driver.raw_descriptor(queue, index, part, flags, next);
            }
            let head =
                if rng.below(20) == 0 { rng.next() as u16 } else { rng.below(usize::from(size)) as u16 };
            driver.publish(queue, head);
            if rng.below(20) == 0 {
                let avail = driver.queues[queue].avail;
                driver.memory.store_u16(avail + 2, rng.next() as u16, Ordering::Release).unwrap();
            }
            driver.kick(queue);
            driver.sim.step();
            for _ in 0..size {
                driver.poll(queue);
            }
        }
        completed += driver.sim.stats().completed;
    }
    assert!(faults > 100 && completed > 100, "{faults} faults, {completed} completed");
}

/// Noise into all registers, in all widths.
#[test]
fn garbage_in_registers_never_panics() {
    let sim = Sim::stepped(SimConfig { queues: 3, queue_size: 8, ..SimConfig::default() }).unwrap();
    let mut driver = Driver::new(sim, !EVENT_IDX);
    let mut rng = Rng::new(9);
    for round in 0..200_000_u32 {
        let len = 1 << rng.below(4);
        let region = [0, 0, 0, 0x1000, 0x2000, 0x3000][rng.below(6)];
        let offset = (region + rng.below(64) as u64) / len as u64 * len as u64;
        let value = if rng.below(2) == 0 { rng.next() } else { rng.next() & 0xf };
        if rng.below(3) == 0 {
            let mut data = value.to_le_bytes();
            driver.function.read_bar(4, offset, &mut data[..len]).unwrap();
        } else {
            driver.function.write_bar(4, offset, &value.to_le_bytes()[..len]).unwrap();
        }
        if round % 64 == 0 {
            let at = rng.below(252) as u16;
            driver.function.write_config(at, &value.to_le_bytes()[..4]).unwrap();
            driver.function.read_config(at, &mut [0; 4]).unwrap();
            driver.function.write_config(4, &6_u16.to_le_bytes()).unwrap();
        }
        driver.sim.step();
    }
    driver.start(ALL);
    assert!(driver.create(3, 1, &[0; 16]).is_ok());
    assert!(driver.function.read_bar(4, 0x4000, &mut [0]).is_err());
    assert!(driver.function.read_bar(4, 1, &mut [0; 2]).is_err());
    assert!(driver.function.read_config(255, &mut [0; 2]).is_err());
    assert!(driver.function.doorbell(4, 0x3010).is_err());
}
