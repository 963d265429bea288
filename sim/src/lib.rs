//! A simulated virtio-crypto PCI function in this process, written from the specification: the
//! device side of ringbell's tests, and what `sim:` opens.
//!
//! ```text
//!   Sim, its thread, doorbells     sim         options, errors, counts   config, error, stats
//!   the seam (PciFunction)         function
//!   config space, BARs             pci         registers                 registers
//!   the device under its lock      device      interrupts                interrupts
//!   a queue's rings                ring        a descriptor chain        chain
//!   mapped memory                  dma         requests                  control, data
//!   sessions, arithmetic           sessions, crypto  what is offered     services
//!   layouts                        wire
//!   what goes wrong on purpose     faults
//! ```
//!
//! Nothing here is shared with the driver's side but the traits of `ringbell_drivers::pci` and
//! the access to shared memory: layouts and ring rules are read from the specification a second
//! time. The driver is not trusted: what it gets wrong ends in DEVICE_NEEDS_RESET, and
//! [`SimStats::last_fault`] says why.
//!
//! The device is in one of two modes. [`Sim::threaded`] runs it on a thread of its own, in real
//! time. [`Sim::stepped`] runs it inside the calls of a test, which moves its clock by hand, so that
//! nothing depends on time.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod chain;
mod clock;
mod config;
mod control;
mod crypto;
mod data;
mod device;
mod dma;
mod error;
mod faults;
mod function;
mod interrupts;
mod pci;
mod registers;
mod ring;
mod rng;
mod services;
mod sessions;
mod sim;
mod stats;
pub mod wire;
mod worker;

#[cfg(test)]
mod tests;

pub use config::{Compute, Order, Quirks, SimConfig};
pub use error::{DriverError, SimError};
pub use faults::{Fault, FaultKind};
pub use services::Services;
pub use sim::Sim;
pub use stats::SimStats;
