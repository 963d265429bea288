//! The arithmetic, a room for each service.
//!
//! ```text
//!   AES in ECB, CBC and CTR mode     cipher          XTS                  xts
//!   what hash and MAC share          digest          hash, mac
//!   AES-GCM, AES-CCM, ChaCha20       aead            gcm, ccm            RSA   rsa
//! ```
//!
//! All of it knows nothing of requests and memory: it gets slices. Data come in pieces wherever the
//! algorithm allows, in place, so that the device's memory does not grow with what a driver asks for;
//! only ChaCha20-Poly1305 wants the whole message. Keys are wiped when they are dropped: aws-lc does
//! that for its own, the others say so themselves.

pub(crate) mod aead;
mod ccm;
pub(crate) mod cipher;
pub(crate) mod digest;
mod gcm;
pub(crate) mod hash;
pub(crate) mod mac;
pub(crate) mod rsa;
mod xts;

/// AES' block, and the length of an IV, in bytes.
pub(crate) const BLOCK: usize = 16;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Encrypt,
    Decrypt,
}

/// Bytes of text in hexadecimal, for vectors.
#[cfg(test)]
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
