//! All operations against libcrypto, byte for byte, on simulated devices with a thread.

#[path = "../common/mod.rs"]
mod common;

mod aead;
mod ciphers;
mod hash;
mod mac;
mod rsa;
mod rsa_keys;

use common::Rng;
use ringbell::{Device, DeviceOptions, Poller};

/// A device with room for large requests.
fn device(address: &str) -> (Device, Poller) {
    let options = DeviceOptions { arena_bytes: 24 << 20, ..Default::default() };
    let device = Device::open_with(address, &options).unwrap();
    let poller = Poller::spawn(&device, Default::default()).unwrap();
    (device, poller)
}

/// Lengths of data: small ones, those around blocks and pages, and now and then some MiB.
fn length(rng: &mut Rng, round: usize) -> usize {
    match round % 32 {
        0 => (1 << 20) + rng.below(3 << 20),
        1..=4 => [63, 64, 65, 127, 128, 4095, 4096, 4097, 65_535, 65_536, 65_537][rng.below(11)],
        5..=16 => rng.below(300),
        _ => {
            let largest = 1 << (4 + rng.below(13));
            rng.below(largest + 1)
        }
    }
}
