//! The bodies of the fuzz targets. Each must return, whatever the bytes, without a panic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ringbell::sim::{Sim, SimConfig};
use ringbell::{
    Cipher, Clock, Device, DeviceOptions, Direction, ManualClock, ManualPoller, PollerConfig, WaitCtx,
};
use ringbell_drivers::dma::SharedMemory;
use ringbell_drivers::pci::PciFunction;

use crate::hostile::{Bytes, Hostile};

/// Addresses and the simulator's options: text from anywhere.
pub fn address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(address) = text.parse::<ringbell::address::Address>() {
        let printed = address.to_string();
        assert_eq!(printed.parse::<ringbell::address::Address>().ok(), Some(address), "{text}");
    }
    if let Ok(config) = text.parse::<SimConfig>() {
        assert_eq!(config.to_string().parse::<SimConfig>().ok(), Some(config), "{text}");
    }
}

/// The simulator's configuration, a pure value: no device is made here that the text could make
/// large.
fn small_sim() -> Option<Sim> {
    Sim::stepped(SimConfig { queue_size: 16, ..SimConfig::default() }).ok()
}

/// A device whose registers and memory the bytes write, against the driver and the poller. However
/// it lies, every accepted request is delivered exactly once.
pub fn hostile_device(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    // The first bytes choose lies about registers (often none, so that the rings are reached).
    let lies: Vec<u8> =
        if bytes.byte() & 1 == 0 { Vec::new() } else { (0..96).map(|_| bytes.byte()).collect() };
    let Some(sim) = small_sim() else { return };
    let function = Hostile::new(sim.function(), &lies);
    let options = DeviceOptions {
        arena_bytes: 64 << 10,
        huge_pages: false,
        queue_size: 16,
        control_timeout: Duration::from_micros(200),
        indirect: bytes.byte() & 1 == 0,
        event_idx: bytes.byte() & 1 == 0,
        check_memory: true,
    };
    let Ok(device) = Device::from_function(Arc::clone(&function) as Arc<dyn PciFunction>, &options) else {
        return;
    };
    let clock = ManualClock::new();
    let config = PollerConfig { clock: Clock::Manual(clock.clone()), ..PollerConfig::default() };
    let Ok(mut poller) = ManualPoller::new([&device], config) else { return };
    let Ok(key) = device.cipher_key(Cipher::Aes128Cbc, &[1; 16]) else { return };
    let _ = key.prepare_for(Direction::Encrypt, Duration::from_micros(500));
    let delivered = Arc::new(AtomicU64::new(0));
    let contexts: Vec<WaitCtx> = (0..20)
        .map(|_| {
            let delivered = Arc::clone(&delivered);
            WaitCtx::with_callback(move |_| {
                delivered.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    let (mut accepted, mut steps) = (0, 0);
    while !bytes.is_empty() && steps < 512 {
        steps += 1;
        let ctx = &contexts[usize::from(bytes.byte()) % contexts.len()];
        match bytes.byte() % 10 {
            0..=3 => {
                let len = usize::from(bytes.byte()) * 16;
                if let Ok(buffer) = device.buffer(len) {
                    accepted += u64::from(key.encrypt(&[0; 16], buffer).submit(ctx).is_ok());
                }
            }
            4 => {
                sim.step_n(usize::from(bytes.byte() % 4));
            }
            5 => {
                poller.poll();
            }
            6 => {
                // Where the rings stand: the arena's first pages, word by word.
                let offset = (bytes.word() as usize % 16384) & !1;
                let data = bytes.word().to_le_bytes();
                function.scribble(offset, &data);
            }
            7 => {
                let offset = bytes.word() as usize;
                let data = [bytes.byte(); 64];
                function.scribble(offset, &data);
            }
            8 => device.cancel(ctx),
            _ => clock.advance(Duration::from_millis(u64::from(bytes.byte()) * 4)),
        }
    }
    clock.advance(Duration::from_secs(10));
    poller.shutdown();
    let stats = device.stats();
    assert_eq!(stats.accepted, accepted);
    assert_eq!(stats.deliveries, accepted, "every accepted request is delivered once: {stats:?}");
    assert_eq!(delivered.load(Ordering::Relaxed), accepted);
    assert_eq!(stats.deliveries, stats.completed + stats.errors);
}

/// A driver that writes any registers and any memory, against the simulator.
pub fn hostile_driver(data: &[u8]) {
    const COMMON: u64 = 0;
    let mut bytes = Bytes::new(data);
    let Some(sim) = small_sim() else { return };
    let function = sim.function();
    let Ok(memory) = SharedMemory::create(64 << 10, false) else { return };
    let Ok(mapping) = function.map_dma(memory.fd(), 0, memory.len() as u64) else { return };
    let Some(base) = mapping.segments.first().map(|segment| segment.iova) else { return };
    let _ = function.write_config(4, &6_u16.to_le_bytes());
    let write = |at: u64, data: &[u8]| {
        let _ = function.write_bar(4, COMMON + at, data);
    };
    // A proper beginning, so that the rings are reached; the bytes may undo it.
    for status in [0_u8, 1, 3] {
        write(20, &[status]);
    }
    let features = bytes.byte();
    write(8, &0_u32.to_le_bytes());
    write(12, &(u32::from(features & 3) << 28).to_le_bytes());
    write(8, &1_u32.to_le_bytes());
    write(12, &3_u32.to_le_bytes());
    write(20, &[11]);
    for queue in 0..2_u16 {
        write(22, &queue.to_le_bytes());
        write(24, &16_u16.to_le_bytes());
        let area = base + u64::from(queue) * 0x2000;
        for (at, address) in [(32, area), (40, area + 0x400), (48, area + 0x800)] {
            write(at, &(address as u32).to_le_bytes());
            write(at + 4, &((address >> 32) as u32).to_le_bytes());
        }
        write(28, &1_u16.to_le_bytes());
    }
    write(20, &[15]);
    let bells: Vec<_> = (0..2).filter_map(|queue| function.doorbell(4, 0x3000 + queue * 4).ok()).collect();
    let mut steps = 0;
    while !bytes.is_empty() && steps < 512 {
        steps += 1;
        match bytes.byte() % 8 {
            0 | 1 => {
                // A descriptor in one of the tables, mostly into our memory.
                let place = usize::from(bytes.byte() % 2) * 0x2000 + usize::from(bytes.byte() % 16) * 16;
                let mut address = u64::from(bytes.word());
                if bytes.byte() & 7 != 0 {
                    address = base + address % 0x1_0000;
                }
                let mut descriptor = [0; 16];
                descriptor[..8].copy_from_slice(&address.to_le_bytes());
                let len = if bytes.byte() & 7 == 0 { bytes.word() } else { u32::from(bytes.byte()) };
                descriptor[8..12].copy_from_slice(&len.to_le_bytes());
                descriptor[12] = bytes.byte() & 7;
                descriptor[14] = bytes.byte() % 18;
                let _ = memory.write(place, &descriptor);
            }
            2 => {
                // Publish a chain.
                let queue = usize::from(bytes.byte() % 2) * 0x2000 + 0x400;
                let index = memory.load_u16(queue + 2, Ordering::Relaxed).unwrap_or(0);
                let head = u16::from(bytes.byte() % 18);
                let _ = memory.store_u16(queue + 4 + 2 * usize::from(index % 16), head, Ordering::Relaxed);
                let step = if bytes.byte() == 0 { bytes.byte() } else { 1 };
                let _ = memory.store_u16(queue + 2, index.wrapping_add(step.into()), Ordering::Release);
            }
            3 => {
                let offset = bytes.word() as usize % memory.len();
                let data = [bytes.byte(), bytes.byte(), bytes.byte(), bytes.byte()];
                let _ = memory.write(offset.min(memory.len() - 4), &data);
            }
            4 => {
                for (queue, bell) in (0..).zip(&bells) {
                    bell.ring(queue);
                }
            }
            5 => {
                sim.step();
            }
            6 => {
                let at = u64::from(bytes.byte());
                let data = bytes.word().to_le_bytes();
                let len = [1, 2, 4][usize::from(bytes.byte() % 3)];
                let bar = if bytes.byte() & 15 == 0 { 1 } else { 4 };
                let _ = function.write_bar(bar, at / len as u64 * len as u64, &data[..len]);
            }
            _ => {
                let mut data = [0; 4];
                let _ = function.read_bar(4, u64::from(bytes.word()) % 0x5000 / 4 * 4, &mut data);
                let _ = function.read_config(bytes.word() as u16, &mut data);
            }
        }
    }
    sim.step();
    let _ = function.unmap_dma(&mapping);
    sim.step();
}
