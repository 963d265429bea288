//! Prints what a virtio-crypto device does, line by line: a simulated one, or a real function that
//! is bound to vfio-pci.
//!
//! ```text
//! cargo run --release -p ringbell-tests --example probe -- sim:quirks=qemu
//! cargo run --release -p ringbell-tests --example probe -- 0000:00:04.0
//! ```

use std::process::ExitCode;

use ringbell::address::Address;
use ringbell::sim::Sim;
use ringbell_drivers::vfio::VfioFunction;
use ringbell_tests::probe::{self, Timing};

fn main() -> ExitCode {
    let Some(Ok(address)) = std::env::args().nth(1).map(|text| text.parse::<Address>()) else {
        eprintln!("usage: probe sim:OPTIONS | 0000:00:04.0");
        return ExitCode::from(2);
    };
    let print = &mut |line: &str| println!("{line}");
    let done = match &address {
        Address::Sim(options) => {
            let sim = Sim::threaded(options.parse().expect("options")).expect("a simulator");
            probe::run(sim.function(), Timing::SIMULATOR, print)
        }
        Address::Pci(bdf) => {
            VfioFunction::open(*bdf).and_then(|function| probe::run(function, Timing::EMULATED, print))
        }
        other => {
            eprintln!("cannot probe {other}: only sim: and PCI functions");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
