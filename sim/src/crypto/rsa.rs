//! RSA: raw, and with the paddings of PKCS#1 v1.5. Ref: RFC 8017, 5, 7.2, 8.2 and 9.2, A.1.
//!
//! ```text
//!   raw          a number of k bytes, below the modulus
//!   encryption   00 02 | at least 8 random bytes, none of them 0 | 00 | message
//!   signature    00 01 | at least 8 bytes ff                     | 00 | DigestInfo: prefix, digest
//! ```
//!
//! The crate `rsa` has the arithmetic and looks at keys; paddings are made here: its decryption answers a
//! padding that is wrong by a made-up message, where a device answers by its status.
//!
//! Keys are bounded, so that no driver can keep the device busy for long: a modulus of 1024 to 4096 bits,
//! a public exponent below 2^33, a private one below the modulus, and two primes of half its length, which
//! are not looked at for being prime. What a key says of exponents and the coefficient of the primes is not
//! used but worked out anew.

use std::convert::Infallible;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand;
use pkcs1::{RsaPrivateKeyRef, RsaPublicKeyRef};
use rsa::hazmat::{rsa_decrypt_and_check, rsa_encrypt};
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::traits::PublicKeyParts;
use rsa::{BoxedUint, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use crate::wire;

/// Bits of a modulus.
const BITS: std::ops::RangeInclusive<usize> = 1024..=4096;
/// Bytes of the longest modulus.
pub(crate) const LONGEST: usize = 512;
/// A padding has so many bytes at least.
const LEAST_PADDING: usize = 11;

/// The hash whose digests are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    /// The hash of the specification, where the device has it.
    pub(crate) fn from_wire(hash: u32) -> Option<Self> {
        match hash {
            wire::RSA_MD5 => Some(Self::Md5),
            wire::RSA_SHA1 => Some(Self::Sha1),
            wire::RSA_SHA224 => Some(Self::Sha224),
            wire::RSA_SHA256 => Some(Self::Sha256),
            wire::RSA_SHA384 => Some(Self::Sha384),
            wire::RSA_SHA512 => Some(Self::Sha512),
            _ => None,
        }
    }

    /// What stands before a digest (9.2, note 1), and the length of that.
    fn prefix(self) -> (&'static [u8], usize) {
        match self {
            Self::Md5 => (b"\x30\x20\x30\x0c\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x05\x05\x00\x04\x10", 16),
            Self::Sha1 => (b"\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14", 20),
            Self::Sha224 => {
                (b"\x30\x2d\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x04\x05\x00\x04\x1c", 28)
            }
            Self::Sha256 => {
                (b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20", 32)
            }
            Self::Sha384 => {
                (b"\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30", 48)
            }
            Self::Sha512 => {
                (b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40", 64)
            }
        }
    }
}

/// How a number is made of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    Raw,
    /// Without a hash, what is signed is padded as it is.
    Pkcs1(Option<Hash>),
}

#[derive(Debug)]
enum Key {
    Public(PublicKey),
    Private(Box<PrivateKey>),
}

/// A session's key with its padding. The private parts are wiped when it is dropped.
#[derive(Debug)]
pub(crate) struct Rsa {
    key: Key,
    pub(crate) padding: Padding,
}

/// Bytes that come out, wiped when they are dropped.
pub(crate) type Bytes = Zeroizing<Vec<u8>>;

impl Rsa {
    /// A public key, an RSAPublicKey in DER; or what is wrong with it.
    pub(crate) fn public(der: &[u8], padding: Padding) -> Result<Self, &'static str> {
        let parts = RsaPublicKeyRef::try_from(der).map_err(|_| "it is no RSAPublicKey in DER")?;
        let bits = checked_bits(parts.modulus.as_bytes())?;
        let n = number(parts.modulus.as_bytes(), bits)?;
        let e = exponent(parts.public_exponent.as_bytes())?;
        let key = PublicKey::new_with_size_limits(n, e, BITS).map_err(|_| "the public key is none")?;
        Ok(Self { key: Key::Public(key), padding })
    }

    /// A private key, an RSAPrivateKey of two primes in DER; or what is wrong with it.
    pub(crate) fn private(der: &[u8], padding: Padding) -> Result<Self, &'static str> {
        let parts = RsaPrivateKeyRef::try_from(der).map_err(|_| "it is no RSAPrivateKey in DER")?;
        if parts.other_prime_infos.is_some() {
            return Err("the key has more than two primes");
        }
        let bits = checked_bits(parts.modulus.as_bytes())?;
        let n = number(parts.modulus.as_bytes(), bits)?;
        let e = exponent(parts.public_exponent.as_bytes())?;
        let [d, p, q] =
            [parts.private_exponent, parts.prime1, parts.prime2].map(|part| number(part.as_bytes(), bits));
        let key = PrivateKey::from_components(n, e, d?, vec![p?, q?])
            .map_err(|_| "the numbers are no private key")?;
        Ok(Self { key: Key::Private(Box::new(key)), padding })
    }

    fn parts(&self) -> &PublicKey {
        match &self.key {
            Key::Public(key) => key,
            Key::Private(key) => key.as_public_key(),
        }
    }

    /// Bytes of the modulus.
    pub(crate) fn len(&self) -> usize {
        self.parts().size()
    }

    /// The operation of the public key on a number of at most that many bytes; `None` where it is not
    /// below the modulus.
    fn public_operation(&self, data: &[u8]) -> Option<Bytes> {
        let key = self.parts();
        let number = self.below_modulus(data)?;
        self.bytes(&rsa_encrypt(key, &number).ok()?)
    }

    /// The operation of the private key; `None` also where there is none.
    fn private_operation(&self, data: &[u8]) -> Option<Bytes> {
        let Key::Private(key) = &self.key else { return None };
        let number = self.below_modulus(data)?;
        let result = Zeroizing::new(rsa_decrypt_and_check(&**key, None::<&mut NoRandomness>, &number).ok()?);
        self.bytes(&result)
    }

    fn below_modulus(&self, data: &[u8]) -> Option<Zeroizing<BoxedUint>> {
        let n = self.parts().n().as_ref();
        if data.len() > self.len() {
            return None;
        }
        let number = Zeroizing::new(BoxedUint::from_be_slice(data, n.bits_precision()).ok()?);
        (*number < *n).then_some(number)
    }

    /// As many bytes as the modulus has.
    fn bytes(&self, number: &BoxedUint) -> Option<Bytes> {
        let bytes = Zeroizing::new(number.to_be_bytes());
        let all = self.len();
        let mut out = Zeroizing::new(vec![0; all]);
        let from = bytes.len().checked_sub(all)?;
        out.copy_from_slice(&bytes[from..]);
        Some(out)
    }

    /// Encrypts; `None` where the data cannot be.
    pub(crate) fn encrypt(&self, data: &[u8]) -> Option<Bytes> {
        match self.padding {
            Padding::Raw => self.public_operation(data),
            Padding::Pkcs1(_) => {
                let all = self.len();
                let ps = all.checked_sub(data.len() + 3).filter(|ps| ps + 3 >= LEAST_PADDING)?;
                let mut block = Zeroizing::new(vec![0; all]);
                block[1] = 2;
                rand::fill(&mut block[2..2 + ps]).ok()?;
                for byte in &mut block[2..2 + ps] {
                    while *byte == 0 {
                        rand::fill(std::slice::from_mut(byte)).ok()?;
                    }
                }
                block[3 + ps..].copy_from_slice(data);
                self.public_operation(&block)
            }
        }
    }

    /// Decrypts; `None` where the data cannot be, or their padding is none, or the key is public.
    pub(crate) fn decrypt(&self, data: &[u8]) -> Option<Bytes> {
        let block = self.private_operation(data)?;
        match self.padding {
            Padding::Raw => Some(block),
            Padding::Pkcs1(_) => {
                let [0, 2, rest @ ..] = &block[..] else { return None };
                let end = rest.iter().position(|byte| *byte == 0).filter(|ps| ps + 3 >= LEAST_PADDING)?;
                Some(Zeroizing::new(rest[end + 1..].to_vec()))
            }
        }
    }

    /// Signs a digest; `None` where it is none of the hash, or the key is public or raw.
    pub(crate) fn sign(&self, digest: &[u8]) -> Option<Bytes> {
        self.private_operation(&self.to_be_signed(digest)?)
    }

    /// Whether that is the signature of a digest.
    pub(crate) fn verify(&self, signature: &[u8], digest: &[u8]) -> bool {
        let (Some(wanted), true) = (self.to_be_signed(digest), signature.len() == self.len()) else {
            return false;
        };
        let signed = self.public_operation(signature);
        signed.is_some_and(|signed| verify_slices_are_equal(&signed, &wanted).is_ok())
    }

    /// The block that is signed.
    fn to_be_signed(&self, digest: &[u8]) -> Option<Bytes> {
        let Padding::Pkcs1(hash) = self.padding else { return None };
        let prefix = match hash.map(Hash::prefix) {
            Some((prefix, len)) if len == digest.len() => prefix,
            Some(_) => return None,
            None => &[],
        };
        let all = self.len();
        let ps = all.checked_sub(prefix.len() + digest.len() + 3).filter(|ps| ps + 3 >= LEAST_PADDING)?;
        let mut block = Zeroizing::new(vec![0xff; all]);
        (block[0], block[1], block[2 + ps]) = (0, 1, 0);
        block[3 + ps..][..prefix.len()].copy_from_slice(prefix);
        block[all - digest.len()..].copy_from_slice(digest);
        Some(block)
    }
}

/// Bits of a modulus, if they are in range.
fn checked_bits(modulus: &[u8]) -> Result<u32, &'static str> {
    let bits = match modulus {
        [first, rest @ ..] => 8 * rest.len() + (u8::BITS - first.leading_zeros()) as usize,
        [] => 0,
    };
    if BITS.contains(&bits) { Ok(bits as u32) } else { Err("the modulus has not 1024 to 4096 bits") }
}

fn number(bytes: &[u8], bits: u32) -> Result<BoxedUint, &'static str> {
    BoxedUint::from_be_slice(bytes, bits).map_err(|_| "a number is longer than the modulus")
}

fn exponent(bytes: &[u8]) -> Result<BoxedUint, &'static str> {
    BoxedUint::from_be_slice(bytes, 64).map_err(|_| "the public exponent is too large")
}

/// For the private operation, which is not blinded: its randomness would be for nothing here, where the
/// driver that measures the time has given the key.
enum NoRandomness {}

impl TryRng for NoRandomness {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        match *self {}
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        match *self {}
    }

    fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Infallible> {
        match *self {}
    }
}

impl TryCryptoRng for NoRandomness {}
