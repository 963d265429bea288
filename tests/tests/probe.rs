//! The simulator gives the probe the answers that are kept in `data/`: with `quirks=qemu` those of
//! QEMU 7.2's device, without those of `sim.txt`, whose differences from QEMU's are then
//! `diff tests/data/qemu-7.2-virtio-crypto.txt tests/data/sim.txt`.
//!
//! QEMU's were made in a virtual machine by `examples/probe.rs`, those of the simulator too:
//!
//! ```text
//! cargo run --release -p ringbell-tests --example probe -- sim: > tests/data/sim.txt
//! ```

use ringbell::sim::Sim;
use ringbell_tests::probe::{self, Timing};

/// A cipher that QEMU's backend has, does not announce, and the simulator lacks.
const NOT_SIMULATED: [&str; 1] = ["3des"];

fn compare(options: &str, expected: &str, without: &[&str]) {
    let sim = Sim::threaded(options.parse().unwrap()).unwrap();
    let mut lines = Vec::new();
    probe::run(sim.function(), Timing::SIMULATOR, &mut |line| lines.push(line.to_owned())).unwrap();
    let counts = |line: &str| !without.iter().any(|word| line.contains(word));
    let seen: Vec<&str> = lines.iter().map(String::as_str).filter(|line| counts(line)).collect();
    let wanted: Vec<&str> = expected.lines().filter(|line| counts(line)).collect();
    let differences: Vec<String> = wanted
        .iter()
        .zip(&seen)
        .filter(|(wanted, seen)| wanted != seen)
        .map(|(wanted, seen)| format!("expected  {wanted}\n    seen  {seen}"))
        .collect();
    assert!(differences.is_empty(), "sim:{options}\n{}", differences.join("\n"));
    assert_eq!(seen.len(), wanted.len(), "lines");
}

#[test]
fn with_its_quirks_the_simulator_is_like_qemu() {
    compare("quirks=qemu", include_str!("../data/qemu-7.2-virtio-crypto.txt"), &NOT_SIMULATED);
}

#[test]
fn without_them_it_is_like_itself() {
    compare("", include_str!("../data/sim.txt"), &[]);
}
