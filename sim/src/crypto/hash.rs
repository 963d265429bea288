//! Hashes: SHA-1, SHA-2 and SHA-3.

use aws_lc_rs::digest;
use sha3::{Digest, Sha3_224};

use super::digest::Running;
use crate::wire;

/// An algorithm that the device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Sha3_224,
    Sha3_256,
    Sha3_384,
    Sha3_512,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 9] = [
        Self::Sha1,
        Self::Sha224,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
        Self::Sha3_224,
        Self::Sha3_256,
        Self::Sha3_384,
        Self::Sha3_512,
    ];

    /// The algorithm of the specification, where the device has it.
    pub(crate) fn from_wire(algo: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.to_wire() == algo)
    }

    pub(crate) fn to_wire(self) -> u32 {
        match self {
            Self::Sha1 => wire::HASH_SHA1,
            Self::Sha224 => wire::HASH_SHA_224,
            Self::Sha256 => wire::HASH_SHA_256,
            Self::Sha384 => wire::HASH_SHA_384,
            Self::Sha512 => wire::HASH_SHA_512,
            Self::Sha3_224 => wire::HASH_SHA3_224,
            Self::Sha3_256 => wire::HASH_SHA3_256,
            Self::Sha3_384 => wire::HASH_SHA3_384,
            Self::Sha3_512 => wire::HASH_SHA3_512,
        }
    }

    /// Length of the digest in bytes.
    pub(crate) fn len(self) -> u32 {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 | Self::Sha3_224 => 28,
            Self::Sha256 | Self::Sha3_256 => 32,
            Self::Sha384 | Self::Sha3_384 => 48,
            Self::Sha512 | Self::Sha3_512 => 64,
        }
    }

    pub(crate) fn begin(self) -> Running {
        let algorithm = match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha224 => &digest::SHA224,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
            // The one that aws-lc-rs has not.
            Self::Sha3_224 => return Running::Sha3_224(Box::new(Sha3_224::new())),
            Self::Sha3_256 => &digest::SHA3_256,
            Self::Sha3_384 => &digest::SHA3_384,
            Self::Sha3_512 => &digest::SHA3_512,
        };
        Running::Hash(digest::Context::new(algorithm))
    }
}

/// A session's hash.
#[derive(Debug)]
pub(crate) struct Hash {
    pub(crate) algorithm: Algorithm,
    /// Bytes of the digest that are wanted, the leftmost.
    pub(crate) result_len: u32,
}

#[cfg(test)]
mod tests {
    use super::super::hex;
    use super::*;

    /// FIPS 180-4 and FIPS 202, the examples "abc" and of 448 bits, as NIST publishes them.
    #[test]
    fn the_published_digests_come_out_of_any_pieces() {
        const LONG: &[u8] = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        for (algorithm, message, digest) in [
            (Algorithm::Sha1, &b"abc"[..], "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (Algorithm::Sha1, LONG, "84983e441c3bd26ebaae4aa1f95129e5e54670f1"),
            (Algorithm::Sha224, b"abc", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
            (Algorithm::Sha256, LONG, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"),
            (
                Algorithm::Sha384,
                b"abc",
                "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
            ),
            (
                Algorithm::Sha512,
                b"abc",
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
            (Algorithm::Sha3_224, b"abc", "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf"),
            (Algorithm::Sha3_256, b"abc", "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
            (
                Algorithm::Sha3_384,
                b"abc",
                "ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c2596da7cf0e49be4b298d88cea927ac7f539f1edf228376d25",
            ),
            (
                Algorithm::Sha3_512,
                b"abc",
                "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0",
            ),
        ] {
            for cut in 0..=message.len() {
                let mut running = algorithm.begin();
                running.update(&message[..cut]).unwrap();
                running.update(&message[cut..]).unwrap();
                let output = running.finish().unwrap();
                assert_eq!(output.as_slice(), hex(digest), "{algorithm:?}");
                assert_eq!(output.as_slice().len(), algorithm.len() as usize);
            }
            assert_eq!(Algorithm::from_wire(algorithm.to_wire()), Some(algorithm));
        }
        // None, MD5, SHAKE128, SHAKE256, beyond.
        for algo in [0, 1, 11, 12, 13, u32::MAX] {
            assert_eq!(Algorithm::from_wire(algo), None);
        }
    }
}
