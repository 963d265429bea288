//! A device whose every byte a fuzzer writes, against the driver and the poller.

use std::sync::Arc;
use std::time::Duration;

use ringbell::sim::{Sim, SimConfig};
use ringbell_drivers::pci::{DmaReach, Interrupts, PciFunction};

use super::program::Program;
use crate::bytes::Bytes;
use crate::hostile::{Hostile, Nature, is_bus_master};

/// Registers, config space, rings, status bytes, control replies and interrupts are what the bytes
/// say, at any time. However it lies, every accepted request ends once, and all memory comes back.
pub fn hostile_device(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let shape = bytes.byte();
    let config = SimConfig { queues: 1 + u16::from(shape & 1), queue_size: 16, ..SimConfig::default() };
    let Ok(sim) = Sim::stepped(config) else { return };
    let honest = sim.function();
    let vectors = u16::from(shape >> 1 & 3);
    let nature = Nature {
        reach: if shape & 8 == 0 { DmaReach::Software } else { DmaReach::Translated },
        interrupts: Interrupts { msix: vectors.min(2), intx: shape & 6 != 6 },
        split: shape & 16 != 0,
        stubborn: shape & 32 != 0,
        deaf: shape & 64 != 0,
    };
    let function = Hostile::new(Arc::clone(&honest), nature);
    if shape & 128 != 0 {
        for _ in 0..=bytes.below(4) {
            function.lie(&mut bytes);
        }
    }
    if let Some(mut program) = Program::open(Arc::clone(&function) as Arc<dyn PciFunction>, &mut bytes) {
        let mut steps = 0;
        while !bytes.is_empty() && steps < 512 {
            steps += 1;
            match bytes.byte() {
                0..=143 => program.step(&mut bytes),
                144..=223 => function.act(&mut bytes),
                _ => {
                    sim.step_n(bytes.below(4));
                    sim.advance(Duration::from_micros(1));
                }
            }
        }
        program.end();
    }
    assert_eq!(function.mapped(), 0, "memory is still mapped");
    assert!(nature.stubborn || !is_bus_master(&*honest), "DMA is still allowed");
}
