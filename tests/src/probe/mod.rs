//! What a virtio-crypto device does, seen through its registers, rings and memory: a fixed list of
//! experiments by a driver of its own, and one line of text for each observation.
//!
//! The same probe runs against the simulator and, in a virtual machine, against QEMU's device; the
//! two answers are compared line by line. Nothing of ringbell's virtio code is used, so that a
//! mistake there does not hide one here.
//!
//! ```text
//!   run                     mod.rs
//!   the function, registers function.rs
//!   sessions                sessions.rs       requests by name: request.rs
//!   requests                data.rs
//!   rings                   rings.rs
//!   interrupts, kicks       interrupts.rs     the driver: raw.rs
//! ```
//!
//! Never destroys a session that is not there: that kills QEMU 7.2 (said to be mended in 2024).

mod data;
mod function;
mod interrupts;
mod parts;
mod raw;
mod request;
mod rings;
mod sessions;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ringbell_drivers::Result;
use ringbell_drivers::pci::PciFunction;

use raw::Raw;

/// How long the probe waits.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For something that is expected: after that it counts as not happening.
    pub patience: Duration,
    /// For something that is not: an interrupt, a completion after an error.
    pub quiet: Duration,
}

impl Timing {
    /// For a device in this process.
    pub const SIMULATOR: Self =
        Self { patience: Duration::from_millis(1000), quiet: Duration::from_millis(20) };
    /// For a device that an emulator runs.
    pub const EMULATED: Self =
        Self { patience: Duration::from_millis(500), quiet: Duration::from_millis(60) };
}

/// Where the lines go.
struct Report<'r> {
    line: &'r mut dyn FnMut(&str),
    section: &'static str,
}

impl Report<'_> {
    /// One observation.
    fn say(&mut self, what: impl fmt::Display, seen: impl fmt::Display) {
        (self.line)(&format!("{}: {what}: {seen}", self.section));
    }
}

/// Runs all experiments on `function`, which nobody else uses meanwhile, and hands each line to
/// `line`.
///
/// # Errors
/// The function cannot be set up at all.
///
/// # Panics
/// The device does something that no experiment is prepared for.
pub fn run(function: Arc<dyn PciFunction>, timing: Timing, line: &mut dyn FnMut(&str)) -> Result<()> {
    let mut report = Report { line, section: "pci" };
    function::pci(&*function, &mut report)?;
    let mut raw = Raw::new(function, timing)?;
    report.section = "registers";
    function::registers(&mut raw, &mut report);
    report.section = "status";
    function::status(&mut raw, &mut report);
    report.section = "sessions";
    sessions::run(&mut raw, &mut report);
    report.section = "data";
    data::run(&mut raw, &mut report);
    report.section = "rings";
    rings::run(&mut raw, &mut report);
    report.section = "interrupts";
    interrupts::run(&mut raw, &mut report);
    Ok(())
}
