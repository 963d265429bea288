//! The bodies of the fuzz targets. Each must return, whatever the bytes, without a panic.

mod faulty_device;
mod hostile_device;
mod hostile_driver;
mod others;
mod program;

use ringbell::sim::{Fault, SimConfig};

pub use faulty_device::faulty_device;
pub use hostile_device::hostile_device;
pub use hostile_driver::hostile_driver;

/// Addresses, the simulator's options and its faults: text from anywhere.
pub fn address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(address) = text.parse::<ringbell::address::Address>() {
        let printed = address.to_string();
        assert_eq!(printed.parse::<ringbell::address::Address>().ok(), Some(address), "{text}");
    }
    // Pure values: no device is made here that the text could make large.
    if let Ok(config) = text.parse::<SimConfig>() {
        assert_eq!(config.to_string().parse::<SimConfig>().ok(), Some(config), "{text}");
    }
    if let Ok(fault) = text.parse::<Fault>() {
        assert_eq!(fault.to_string().parse::<Fault>().ok(), Some(fault), "{text}");
    }
}
