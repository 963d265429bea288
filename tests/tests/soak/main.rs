//! Random traffic under random faults, for long. The stepped soak goes by its own time and plays the
//! same for a seed; the threaded one is real.
//!
//! `RINGBELL_SOAK_OPS` requests accepted (50 000 unless told otherwise), `RINGBELL_SOAK_SEED`,
//! `RINGBELL_SOAK_SECONDS` for the threaded one (3). Figures are printed: `--nocapture`.

#[path = "../common/mod.rs"]
mod common;
mod report;
mod slots;
mod stepped;
mod threaded;

use std::time::{Duration, Instant};

use ringbell::sim::FaultKind;

fn from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

#[test]
fn stepped_traffic_under_faults() {
    quiet_about_panics_on_purpose();
    let requests = from_env("RINGBELL_SOAK_OPS", 50_000);
    let seed = from_env("RINGBELL_SOAK_SEED", 1);
    let start = Instant::now();
    let report = stepped::run(seed, requests);
    let rate = report.total.accepted as f64 / start.elapsed().as_secs_f64();
    println!("soak, seed {seed}: {rate:.0} requests/s\n{report}");
    let operations = report.operations;
    if operations >= 200_000 {
        let (total, least) = (&report.total, operations / 100_000);
        assert!(total.completed > operations / 10, "little was done");
        assert!(total.recoveries > 10 * least && total.canceled > 100 * least && total.expired > least);
        assert!(total.detached > 100 * least && total.panics > 50 * least);
    }
    if operations >= 5_000_000 {
        for &kind in FaultKind::ALL {
            assert!(report.strikes(kind) > 0, "{} never struck", kind.name());
        }
    }
}

#[test]
fn threads_under_faults() {
    quiet_about_panics_on_purpose();
    let time = Duration::from_secs(from_env("RINGBELL_SOAK_SECONDS", 3));
    let seed = from_env("RINGBELL_SOAK_SEED", 1);
    println!("threads, seed {seed}\n{}", threaded::run(seed, time));
}

/// Callbacks panic on purpose, thousands of times.
fn quiet_about_panics_on_purpose() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if common::panic_text(info.payload()) != "on purpose" {
                before(info);
            }
        }));
    });
}
