//! Published test vectors through the device: NIST's, IEEE's, those of RFCs, and Wycheproof's.

#[path = "../common/mod.rs"]
mod common;

mod aead;
mod ciphers;
mod hash;
mod mac;
mod rsa;
mod xts;

use ringbell::{Device, Poller};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    assert_eq!(digits.len() % 2, 0);
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

fn device() -> (Device, Poller) {
    let device = Device::open("sim:").unwrap();
    let poller = Poller::spawn(&device, Default::default()).unwrap();
    (device, poller)
}
