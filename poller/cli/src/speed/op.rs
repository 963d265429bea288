//! The operations by their names: `aes-128-cbc`, `aes-128-gcm`, `sha256`, `hmac-sha256`, `rsa-2048-sign`.

use std::fmt;

use ringbell::{Aead, Algorithm, Capabilities, Cipher, Device, Direction, Hash, Mac, RsaHash, RsaPadding};
use ringbell_drivers::algorithm::RsaOperation;

use crate::error::{Error, Result};

/// Associated data of a request to an AEAD: as many as a record of TLS has.
pub(crate) const AAD: &[u8; 13] = b"ringbell, aad";
/// The hash function of RSA's signatures.
const HASH: RsaHash = RsaHash::Sha256;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Cipher(Cipher, Direction),
    Aead(Aead, Direction),
    Hash(Hash),
    Mac(Mac),
    Rsa(Rsa),
}

/// An operation of RSA, with the test key of that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rsa {
    bits: usize,
    raw: bool,
    pub(crate) operation: RsaOperation,
}

impl Rsa {
    fn all() -> impl Iterator<Item = Self> {
        use RsaOperation::{Decrypt, Encrypt, Sign, Verify};
        let kinds = [
            (false, Sign),
            (false, Verify),
            (false, Encrypt),
            (false, Decrypt),
            (true, Encrypt),
            (true, Decrypt),
        ];
        let of_size =
            move |bits| kinds.into_iter().map(move |(raw, operation)| Self { bits, raw, operation });
        [1024, 2048, 3072, 4096].into_iter().flat_map(of_size)
    }

    /// Bytes of the modulus.
    pub(crate) fn size(self) -> usize {
        self.bits / 8
    }

    pub(crate) fn is_raw(self) -> bool {
        self.raw
    }

    pub(crate) fn padding(self) -> RsaPadding {
        if self.raw { RsaPadding::Raw } else { RsaPadding::Pkcs1(HASH) }
    }

    /// The private key, in PEM: for tests and measurements, and known to everybody.
    pub(crate) fn test_key(self) -> &'static str {
        match self.bits {
            1024 => include_str!("keys/rsa-1024-test-key.pem"),
            2048 => include_str!("keys/rsa-2048-test-key.pem"),
            3072 => include_str!("keys/rsa-3072-test-key.pem"),
            _ => include_str!("keys/rsa-4096-test-key.pem"),
        }
    }
}

impl fmt::Display for Rsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raw = if self.raw { "raw-" } else { "" };
        let operation = match self.operation {
            RsaOperation::Encrypt => "encrypt",
            RsaOperation::Decrypt => "decrypt",
            RsaOperation::Sign => "sign",
            RsaOperation::Verify => "verify",
        };
        write!(f, "rsa-{}-{raw}{operation}", self.bits)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cipher(cipher, _) => cipher.fmt(f),
            Self::Aead(aead, _) => aead.fmt(f),
            Self::Hash(hash) => hash.fmt(f),
            Self::Mac(mac) => mac.fmt(f),
            Self::Rsa(rsa) => rsa.fmt(f),
        }
    }
}

impl Op {
    /// All that there are, offered or not.
    fn all() -> impl Iterator<Item = Self> {
        let ciphers = Cipher::ALL.into_iter().map(|cipher| Self::Cipher(cipher, Direction::Encrypt));
        let aeads = Aead::ALL.into_iter().map(|aead| Self::Aead(aead, Direction::Encrypt));
        let hashes = Hash::ALL.into_iter().map(Self::Hash);
        let macs = Mac::ALL.into_iter().map(Self::Mac);
        ciphers.chain(aeads).chain(hashes).chain(macs).chain(Rsa::all().map(Self::Rsa))
    }

    /// What a device offers, in the order of their kinds.
    pub(crate) fn offered(capabilities: &Capabilities) -> impl Iterator<Item = Self> {
        Self::all().filter(|op| capabilities.offers(op.algorithm()))
    }

    /// The operation of that name, where the device offers it, the other way round with `decrypt`.
    pub(crate) fn read(name: &str, decrypt: bool, device: &Device) -> Result<Self> {
        let capabilities = device.capabilities();
        let offers = || {
            let names: Vec<_> = Self::offered(&capabilities).map(|op| op.to_string()).collect();
            format!("device {} offers {}", device.address(), names.join(", "))
        };
        let Some(op) = Self::all().find(|op| op.to_string().eq_ignore_ascii_case(name)) else {
            let why = format!("there is none of that name; {}", offers());
            return Err(Error::usage(format!("use operation '{name}'"), why));
        };
        if !capabilities.offers(op.algorithm()) {
            let why = format!("device {} does not offer it; {}", device.address(), offers());
            return Err(Error::failed(format!("use {op}"), why));
        }
        match op {
            Self::Cipher(cipher, _) if decrypt => Ok(Self::Cipher(cipher, Direction::Decrypt)),
            Self::Aead(aead, _) if decrypt => Ok(Self::Aead(aead, Direction::Decrypt)),
            Self::Rsa(rsa) if decrypt => {
                let why = format!("the operation is part of the name: rsa-{}-decrypt", rsa.bits);
                Err(Error::usage(format!("measure {op} with --decrypt"), why))
            }
            Self::Hash(_) | Self::Mac(_) if decrypt => {
                Err(Error::usage(format!("measure {op} with --decrypt"), "it has no direction"))
            }
            op => Ok(op),
        }
    }

    /// What a device has to offer for it.
    fn algorithm(self) -> Algorithm {
        match self {
            Self::Cipher(cipher, _) => Algorithm::Cipher(cipher),
            Self::Aead(aead, _) => Algorithm::Aead(aead),
            Self::Hash(hash) => Algorithm::Hash(hash),
            Self::Mac(mac) => Algorithm::Mac(mac),
            Self::Rsa(rsa) => Algorithm::Rsa(rsa.padding()),
        }
    }

    /// "encrypt" or "decrypt"; nothing for what has no direction.
    pub(crate) fn direction(self) -> &'static str {
        match self {
            Self::Cipher(_, Direction::Encrypt) | Self::Aead(_, Direction::Encrypt) => "encrypt",
            Self::Cipher(_, Direction::Decrypt) | Self::Aead(_, Direction::Decrypt) => "decrypt",
            Self::Hash(_) | Self::Mac(_) | Self::Rsa(_) => "",
        }
    }

    /// Bytes of the input and of the output for a request of `size` bytes; a digest, a code and an answer
    /// stand in no buffer.
    pub(crate) fn lengths(self, size: usize) -> (usize, usize) {
        match self {
            Self::Cipher(..) => (size, size),
            Self::Aead(_, Direction::Encrypt) => (size, size + 16),
            Self::Aead(_, Direction::Decrypt) => (size + 16, size),
            Self::Hash(_) | Self::Mac(_) => (size, 0),
            Self::Rsa(rsa) => match (rsa.operation, rsa.raw) {
                (RsaOperation::Verify, _) => (size + 32, 0),
                (RsaOperation::Sign, _) | (RsaOperation::Encrypt, false) => (32, size),
                (RsaOperation::Encrypt, true) | (RsaOperation::Decrypt, _) => (size, size),
            },
        }
    }

    /// Bytes of the IV or nonce.
    pub(crate) fn iv_len(self) -> usize {
        match self {
            Self::Cipher(cipher, _) => cipher.iv_len(),
            Self::Aead(..) => 12,
            Self::Hash(_) | Self::Mac(_) | Self::Rsa(_) => 0,
        }
    }

    /// Why it cannot be done with `size` bytes on a device that takes that much.
    pub(crate) fn refuses(self, size: usize, device: &Device) -> Option<String> {
        let capabilities = device.capabilities();
        let longest = |most: u64, what: &str| {
            Some(format!("device {} takes {most} bytes at most{what}", device.address()))
        };
        match self {
            Self::Cipher(cipher, _) if !size.is_multiple_of(cipher.granule()) => {
                Some(format!("{cipher} takes multiples of {} bytes", cipher.granule()))
            }
            Self::Cipher(..) if size as u64 > capabilities.max_request => {
                longest(capabilities.max_request, "")
            }
            Self::Cipher(..) => None,
            _ => {
                let (input, output) = self.lengths(size);
                let beside = self.iv_len() + AAD.len() + 64; // or a digest
                let all = (input + output + beside) as u64;
                let most = capabilities.max_size;
                if all > most { longest(most, ", input and output together") } else { None }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_operations_have_one_name() {
        let mut names: Vec<_> = Op::all().map(|op| op.to_string()).collect();
        for name in ["aes-256-xts", "chacha20-poly1305", "sha3-224", "cmac-aes-192", "rsa-3072-raw-decrypt"] {
            assert!(names.iter().any(|one| one == name), "{name}");
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert_eq!(count, 11 + 7 + 9 + 8 + 24);
    }
}
