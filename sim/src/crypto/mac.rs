//! Message authentication codes: HMAC over SHA-1 and SHA-2, and CMAC of AES.

use aws_lc_rs::{cmac, hmac};

use super::digest::Running;
use crate::wire;

/// An algorithm that the device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    HmacSha1,
    HmacSha224,
    HmacSha256,
    HmacSha384,
    HmacSha512,
    CmacAes,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 6] = [
        Self::HmacSha1,
        Self::HmacSha224,
        Self::HmacSha256,
        Self::HmacSha384,
        Self::HmacSha512,
        Self::CmacAes,
    ];

    /// The algorithm of the specification, where the device has it.
    pub(crate) fn from_wire(algo: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.to_wire() == algo)
    }

    pub(crate) fn to_wire(self) -> u32 {
        match self {
            Self::HmacSha1 => wire::MAC_HMAC_SHA1,
            Self::HmacSha224 => wire::MAC_HMAC_SHA_224,
            Self::HmacSha256 => wire::MAC_HMAC_SHA_256,
            Self::HmacSha384 => wire::MAC_HMAC_SHA_384,
            Self::HmacSha512 => wire::MAC_HMAC_SHA_512,
            Self::CmacAes => wire::MAC_CMAC_AES,
        }
    }

    /// Length of the code in bytes.
    pub(crate) fn len(self) -> u32 {
        match self {
            Self::HmacSha1 => 20,
            Self::HmacSha224 => 28,
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
            Self::CmacAes => 16,
        }
    }
}

enum Key {
    Hmac(Box<hmac::Key>),
    Cmac(cmac::Key),
}

/// A session's key, which the library wipes when it is dropped.
pub(crate) struct Mac {
    key: Key,
    pub(crate) algorithm: Algorithm,
    /// Bytes of the code that are wanted, the leftmost.
    pub(crate) result_len: u32,
}

impl Mac {
    /// `None` where `key` has no length that the algorithm has: HMAC takes any, CMAC those of AES.
    pub(crate) fn new(algorithm: Algorithm, key: &[u8], result_len: u32) -> Option<Self> {
        let hmac = match algorithm {
            Algorithm::HmacSha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Algorithm::HmacSha224 => hmac::HMAC_SHA224,
            Algorithm::HmacSha256 => hmac::HMAC_SHA256,
            Algorithm::HmacSha384 => hmac::HMAC_SHA384,
            Algorithm::HmacSha512 => hmac::HMAC_SHA512,
            Algorithm::CmacAes => {
                let cmac = match key.len() {
                    16 => cmac::AES_128,
                    24 => cmac::AES_192,
                    32 => cmac::AES_256,
                    _ => return None,
                };
                let key = Key::Cmac(cmac::Key::new(cmac, key).ok()?);
                return Some(Self { key, algorithm, result_len });
            }
        };
        Some(Self { key: Key::Hmac(Box::new(hmac::Key::new(hmac, key))), algorithm, result_len })
    }

    pub(crate) fn begin(&self) -> Running {
        match &self.key {
            Key::Hmac(key) => Running::Hmac(hmac::Context::with_key(key)),
            Key::Cmac(key) => Running::Cmac(Box::new(cmac::Context::with_key(key))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::hex;
    use super::*;

    fn check(algorithm: Algorithm, key: &[u8], message: &[u8], code: &str) {
        let mac = Mac::new(algorithm, key, algorithm.len()).unwrap();
        for cut in 0..=message.len() {
            let mut running = mac.begin();
            running.update(&message[..cut]).unwrap();
            running.update(&message[cut..]).unwrap();
            let output = running.finish().unwrap();
            assert_eq!(output.as_slice(), hex(code), "{algorithm:?}");
            assert_eq!(output.as_slice().len(), algorithm.len() as usize);
        }
        assert_eq!(Algorithm::from_wire(algorithm.to_wire()), Some(algorithm));
    }

    /// RFC 2202 (SHA-1) and RFC 4231 (SHA-2), test case 2; a key longer than a block, test case 6.
    #[test]
    fn hmac_gives_the_published_codes() {
        let (key, message) = (b"Jefe", b"what do ya want for nothing?");
        for (algorithm, code) in [
            (Algorithm::HmacSha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
            (Algorithm::HmacSha224, "a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44"),
            (Algorithm::HmacSha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (
                Algorithm::HmacSha384,
                "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
            ),
            (
                Algorithm::HmacSha512,
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
            ),
        ] {
            check(algorithm, key, message, code);
        }
        check(
            Algorithm::HmacSha256,
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        );
    }

    /// NIST SP 800-38B, D.1 and D.3: no message, one block, 40 bytes.
    #[test]
    fn cmac_gives_the_published_codes() {
        let message =
            hex("6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51 30c81c46a35ce411");
        let key = hex("2b7e151628aed2a6abf7158809cf4f3c");
        check(Algorithm::CmacAes, &key, &[], "bb1d6929e95937287fa37d129b756746");
        check(Algorithm::CmacAes, &key, &message[..16], "070a16b46b4d4144f79bdd9dd04a287c");
        check(Algorithm::CmacAes, &key, &message, "dfa66747de9ae63030ca32611497c827");
        let key = hex("603deb1015ca71be2b73aef0857d7781 1f352c073b6108d72d9810a30914dff4");
        check(Algorithm::CmacAes, &key, &message[..16], "28a7023f452e8f82bd4bf28d8c37c35c");
        for len in [0, 15, 17, 64] {
            assert!(Mac::new(Algorithm::CmacAes, &vec![0; len], 16).is_none());
        }
        assert!(Mac::new(Algorithm::HmacSha1, &[], 20).is_some(), "HMAC takes any");
    }
}
