//! The simulator's faults, in any combination at any moment, under a program that does anything.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ringbell::sim::{Fault, FaultKind, Order, Sim, SimConfig};
use ringbell_drivers::pci::PciFunction;

use super::program::Program;
use crate::bytes::Bytes;
use crate::hostile::{Hostile, Nature};

/// Words that some kinds of fault take.
const ARGS: [&str; 24] = [
    "once",
    "x2",
    "x3",
    "always",
    "1/2",
    "1/5",
    "range",
    "free",
    "ahead",
    "back",
    "0",
    "1",
    "7",
    "255",
    "4294967295",
    "ERR",
    "INVSESS",
    "each",
    "10us",
    "not-ready",
    "queue-size-0",
    "notify",
    "generation",
    "loop",
];

/// A fault by the bytes; `None` where its kind takes no such word.
fn fault(bytes: &mut Bytes) -> Option<Fault> {
    let kind = FaultKind::ALL[bytes.below(FaultKind::ALL.len())];
    let (at, how) = (bytes.byte(), bytes.byte());
    let mut text = kind.name().to_owned();
    if at & 1 == 1 {
        text += &format!("@{}", at >> 1 & 15);
    }
    // One word or two, or the kind's default.
    if how & 1 == 1 {
        text += &format!(":{}", ARGS[usize::from(how >> 1) % ARGS.len()]);
    }
    if at & 0xc0 == 0xc0 {
        text += &format!(":{}", ARGS[bytes.below(ARGS.len())]);
    }
    let fault = text.parse::<Fault>().ok()?;
    assert_eq!(fault.to_string().parse::<Fault>().ok().as_ref(), Some(&fault), "{text}");
    Some(fault)
}

/// Requests, cancels, time and faults as the bytes say: every accepted request ends once, with the
/// right result where it has one, and all memory comes back.
pub fn faulty_device(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let shape = bytes.byte();
    let faults: Vec<_> = (0..shape >> 6).filter_map(|_| fault(&mut bytes)).collect();
    let mut late_writes = faults.iter().any(is_late_write);
    let config = SimConfig {
        queues: 1 + u16::from(shape & 1),
        queue_size: 16,
        seed: u64::from(shape >> 1 & 3),
        latency: if shape & 8 == 0 { Duration::ZERO } else { Duration::from_millis(3) },
        order: if shape & 16 == 0 { Order::Fifo } else { Order::Shuffle },
        faults,
        ..SimConfig::default()
    };
    let Ok(sim) = Sim::stepped(config) else { return };
    // It changes nothing: it counts mappings.
    let honest = sim.function();
    let nature = Nature { interrupts: honest.interrupts(), ..Nature::HONEST };
    let function = Hostile::new(honest, nature);
    if let Some(mut program) = Program::open(Arc::clone(&function) as Arc<dyn PciFunction>, &mut bytes) {
        program.truth = (shape & 32 == 0 && !late_writes).then(|| truth().clone());
        let mut steps = 0;
        while !bytes.is_empty() && steps < 512 {
            steps += 1;
            match bytes.byte() {
                0..=143 => program.step(&mut bytes),
                144..=191 => {
                    sim.step_n(bytes.below(8));
                }
                192..=207 => {
                    let by = Duration::from_millis(u64::from(bytes.byte()) * 4);
                    sim.advance(by);
                    program.advance(by);
                }
                _ => {
                    if let Some(fault) = fault(&mut bytes) {
                        late_writes |= is_late_write(&fault);
                        if late_writes {
                            program.truth = None;
                        }
                        sim.inject(fault);
                    }
                }
            }
        }
        let stats = program.end();
        assert!(late_writes || stats.stray_writes == 0, "free memory was written: {stats:?}");
    }
    assert_eq!(function.mapped(), 0, "memory is still mapped");
}

/// It writes to memory that is somebody else's by then.
fn is_late_write(fault: &Fault) -> bool {
    fault.kind() == FaultKind::WriteAfterReset
}

/// What the program's first key makes of zeros, by a device without faults.
fn truth() -> &'static Vec<u8> {
    static TRUTH: OnceLock<Vec<u8>> = OnceLock::new();
    TRUTH.get_or_init(|| {
        use ringbell::{Cipher, Device, DeviceOptions, ManualPoller, WaitCtx};
        let sim = Sim::stepped(SimConfig::default()).expect("a simulator");
        let device = Device::from_function(sim.function(), &DeviceOptions::default()).expect("a device");
        let mut poller = ManualPoller::new([&device], ringbell::PollerConfig::default()).expect("a poller");
        let key = device.cipher_key(Cipher::Aes128Cbc, &[1; 16]).expect("a key");
        key.prepare().expect("a session");
        let mut buffer = device.buffer(255 * 16).expect("memory");
        buffer.fill(0);
        let ctx = WaitCtx::new();
        key.encrypt(&[0; 16], buffer).submit(&ctx).expect("accepted");
        sim.step();
        poller.poll();
        ctx.take().expect("an answer").request().output().to_vec()
    })
}
