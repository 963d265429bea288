//! The algorithms that devices work by: names, lengths, what fits what.
//!
//! No device is named here; each driver maps these to its own numbers.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A cipher and its key size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Cipher {
    /// AES-128 in ECB mode.
    Aes128Ecb,
    /// AES-192 in ECB mode.
    Aes192Ecb,
    /// AES-256 in ECB mode.
    Aes256Ecb,
    /// AES-128 in CBC mode.
    Aes128Cbc,
    /// AES-192 in CBC mode.
    Aes192Cbc,
    /// AES-256 in CBC mode.
    Aes256Cbc,
    /// AES-128 in CTR mode.
    Aes128Ctr,
    /// AES-192 in CTR mode.
    Aes192Ctr,
    /// AES-256 in CTR mode.
    Aes256Ctr,
    /// AES-128 in XTS mode: two keys of 128 bits.
    Aes128Xts,
    /// AES-256 in XTS mode: two keys of 256 bits.
    Aes256Xts,
}

/// A mode of operation of a block cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Mode {
    /// Electronic codebook: no IV, whole blocks.
    Ecb,
    /// Cipher block chaining: IV of a block, whole blocks.
    Cbc,
    /// Counter: the IV is the first counter block, any length.
    Ctr,
    /// For storage (IEEE 1619): the IV is the tweak; a request is a data unit of 16 bytes or more.
    Xts,
}

impl Cipher {
    /// All ciphers, in the order of their names.
    pub const ALL: [Self; 11] = [
        Self::Aes128Cbc,
        Self::Aes128Ctr,
        Self::Aes128Ecb,
        Self::Aes128Xts,
        Self::Aes192Cbc,
        Self::Aes192Ctr,
        Self::Aes192Ecb,
        Self::Aes256Cbc,
        Self::Aes256Ctr,
        Self::Aes256Ecb,
        Self::Aes256Xts,
    ];

    /// The name, as OpenSSL writes it in lower case: `aes-128-cbc`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128Ecb => "aes-128-ecb",
            Self::Aes192Ecb => "aes-192-ecb",
            Self::Aes256Ecb => "aes-256-ecb",
            Self::Aes128Cbc => "aes-128-cbc",
            Self::Aes192Cbc => "aes-192-cbc",
            Self::Aes256Cbc => "aes-256-cbc",
            Self::Aes128Ctr => "aes-128-ctr",
            Self::Aes192Ctr => "aes-192-ctr",
            Self::Aes256Ctr => "aes-256-ctr",
            Self::Aes128Xts => "aes-128-xts",
            Self::Aes256Xts => "aes-256-xts",
        }
    }

    /// The mode of operation.
    pub const fn mode(self) -> Mode {
        match self {
            Self::Aes128Ecb | Self::Aes192Ecb | Self::Aes256Ecb => Mode::Ecb,
            Self::Aes128Cbc | Self::Aes192Cbc | Self::Aes256Cbc => Mode::Cbc,
            Self::Aes128Ctr | Self::Aes192Ctr | Self::Aes256Ctr => Mode::Ctr,
            Self::Aes128Xts | Self::Aes256Xts => Mode::Xts,
        }
    }

    /// Bytes of the key: 16, 24 or 32; for XTS 32 or 64.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Ecb | Self::Aes128Cbc | Self::Aes128Ctr => 16,
            Self::Aes192Ecb | Self::Aes192Cbc | Self::Aes192Ctr => 24,
            Self::Aes256Ecb | Self::Aes256Cbc | Self::Aes256Ctr | Self::Aes128Xts => 32,
            Self::Aes256Xts => 64,
        }
    }

    /// Checks a key.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it does not have [`key_len`](Self::key_len) bytes, and for XTS where its
    /// halves are the same, which the mode does not allow (SP 800-38E, FIPS 140-3 IG C.I).
    pub fn check_key(self, key: &[u8]) -> Result<()> {
        check_len(self, key.len(), &[self.key_len()])?;
        let (first, second) = key.split_at(key.len() / 2);
        if self.mode() == Mode::Xts && is_same(first, second) {
            return Err(Error::Invalid(format!(
                "the two halves of a key for {self} are the same; take two keys that are not"
            )));
        }
        Ok(())
    }

    /// Bytes of the IV: 16, or 0 for ECB.
    pub const fn iv_len(self) -> usize {
        match self.mode() {
            Mode::Ecb => 0,
            Mode::Cbc | Mode::Ctr | Mode::Xts => 16,
        }
    }

    /// Lengths of data are multiples of this: 16, or 1 for CTR and XTS.
    pub const fn granule(self) -> usize {
        match self.mode() {
            Mode::Ecb | Mode::Cbc => 16,
            Mode::Ctr | Mode::Xts => 1,
        }
    }

    /// The least bytes of data: 0, or 16 for XTS.
    pub const fn least(self) -> usize {
        match self.mode() {
            Mode::Ecb | Mode::Cbc | Mode::Ctr => 0,
            Mode::Xts => 16,
        }
    }
}

/// In the time that the length takes: where they differ is nobody's to learn.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

fn check_len(what: impl fmt::Display, len: usize, wanted: &[usize]) -> Result<()> {
    if wanted.contains(&len) {
        return Ok(());
    }
    let wanted = wanted.iter().map(usize::to_string).collect::<Vec<_>>().join(" or ");
    Err(Error::Invalid(format!("a key of {len} bytes does not fit {what}, which takes {wanted}")))
}

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Hash {
    /// SHA-1. Broken for signatures; here for what still needs it.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// SHA3-224.
    Sha3_224,
    /// SHA3-256.
    Sha3_256,
    /// SHA3-384.
    Sha3_384,
    /// SHA3-512.
    Sha3_512,
}

impl Hash {
    /// All of them.
    pub const ALL: [Self; 9] = [
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

    /// The name, as OpenSSL writes it in lower case: `sha256`, `sha3-256`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha224 => "sha224",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Sha3_224 => "sha3-224",
            Self::Sha3_256 => "sha3-256",
            Self::Sha3_384 => "sha3-384",
            Self::Sha3_512 => "sha3-512",
        }
    }

    /// Bytes of the digest: 20 to 64.
    pub const fn output_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 | Self::Sha3_224 => 28,
            Self::Sha256 | Self::Sha3_256 => 32,
            Self::Sha384 | Self::Sha3_384 => 48,
            Self::Sha512 | Self::Sha3_512 => 64,
        }
    }
}

/// A message authentication code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Mac {
    /// HMAC with SHA-1.
    HmacSha1,
    /// HMAC with SHA-224.
    HmacSha224,
    /// HMAC with SHA-256.
    HmacSha256,
    /// HMAC with SHA-384.
    HmacSha384,
    /// HMAC with SHA-512.
    HmacSha512,
    /// CMAC with AES-128 (SP 800-38B).
    CmacAes128,
    /// CMAC with AES-192.
    CmacAes192,
    /// CMAC with AES-256.
    CmacAes256,
}

impl Mac {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::CmacAes128,
        Self::CmacAes192,
        Self::CmacAes256,
        Self::HmacSha1,
        Self::HmacSha224,
        Self::HmacSha256,
        Self::HmacSha384,
        Self::HmacSha512,
    ];

    /// The longest key for HMAC, in bytes: any device has its own limit, see
    /// [`Capabilities::max_mac_key`](crate::engine::Capabilities::max_mac_key).
    pub const LONGEST_KEY: usize = 1024;

    /// The name: `hmac-sha256`, `cmac-aes-128`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HmacSha1 => "hmac-sha1",
            Self::HmacSha224 => "hmac-sha224",
            Self::HmacSha256 => "hmac-sha256",
            Self::HmacSha384 => "hmac-sha384",
            Self::HmacSha512 => "hmac-sha512",
            Self::CmacAes128 => "cmac-aes-128",
            Self::CmacAes192 => "cmac-aes-192",
            Self::CmacAes256 => "cmac-aes-256",
        }
    }

    /// The hash function of an HMAC.
    pub const fn hash(self) -> Option<Hash> {
        match self {
            Self::HmacSha1 => Some(Hash::Sha1),
            Self::HmacSha224 => Some(Hash::Sha224),
            Self::HmacSha256 => Some(Hash::Sha256),
            Self::HmacSha384 => Some(Hash::Sha384),
            Self::HmacSha512 => Some(Hash::Sha512),
            Self::CmacAes128 | Self::CmacAes192 | Self::CmacAes256 => None,
        }
    }

    /// Bytes of the code: 16 to 64.
    pub const fn output_len(self) -> usize {
        match self.hash() {
            Some(hash) => hash.output_len(),
            None => 16,
        }
    }

    /// Bytes that a key may have: exactly 16, 24 or 32 for CMAC; 1 to [`LONGEST_KEY`](Self::LONGEST_KEY)
    /// for HMAC.
    pub const fn key_lens(self) -> RangeInclusive<usize> {
        match self {
            Self::CmacAes128 => 16..=16,
            Self::CmacAes192 => 24..=24,
            Self::CmacAes256 => 32..=32,
            _ => 1..=Self::LONGEST_KEY,
        }
    }

    /// Checks a key.
    ///
    /// # Errors
    /// [`Error::Invalid`] where its length is not one of [`key_lens`](Self::key_lens).
    pub fn check_key(self, key: &[u8]) -> Result<()> {
        let lens = self.key_lens();
        if lens.contains(&key.len()) {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "a key of {} bytes does not fit {self}, which takes {}",
            key.len(),
            range(&lens)
        )))
    }
}

/// Authenticated encryption with associated data, and its key size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Aead {
    /// AES-128 in GCM.
    Aes128Gcm,
    /// AES-192 in GCM.
    Aes192Gcm,
    /// AES-256 in GCM.
    Aes256Gcm,
    /// AES-128 in CCM.
    Aes128Ccm,
    /// AES-192 in CCM.
    Aes192Ccm,
    /// AES-256 in CCM.
    Aes256Ccm,
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305,
}

impl Aead {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 7] = [
        Self::Aes128Ccm,
        Self::Aes128Gcm,
        Self::Aes192Ccm,
        Self::Aes192Gcm,
        Self::Aes256Ccm,
        Self::Aes256Gcm,
        Self::ChaCha20Poly1305,
    ];

    /// The name, as OpenSSL writes it in lower case: `aes-128-gcm`, `chacha20-poly1305`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes-128-gcm",
            Self::Aes192Gcm => "aes-192-gcm",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::Aes128Ccm => "aes-128-ccm",
            Self::Aes192Ccm => "aes-192-ccm",
            Self::Aes256Ccm => "aes-256-ccm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }

    /// Bytes of the key: 16, 24 or 32.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes128Ccm => 16,
            Self::Aes192Gcm | Self::Aes192Ccm => 24,
            Self::Aes256Gcm | Self::Aes256Ccm | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Bytes that a nonce may have: 12, or 7 to 13 for CCM.
    pub const fn nonce_lens(self) -> RangeInclusive<usize> {
        if self.is_ccm() { 7..=13 } else { 12..=12 }
    }

    /// Bytes that a tag may have: 12 to 16 for GCM; 4, 6, 8, 10, 12, 14 or 16 for CCM; 16 for
    /// ChaCha20-Poly1305.
    pub const fn tag_lens(self) -> &'static [usize] {
        match self {
            Self::Aes128Gcm | Self::Aes192Gcm | Self::Aes256Gcm => &[12, 13, 14, 15, 16],
            Self::Aes128Ccm | Self::Aes192Ccm | Self::Aes256Ccm => &[4, 6, 8, 10, 12, 14, 16],
            Self::ChaCha20Poly1305 => &[16],
        }
    }

    /// Whether it is a CCM.
    pub const fn is_ccm(self) -> bool {
        matches!(self, Self::Aes128Ccm | Self::Aes192Ccm | Self::Aes256Ccm)
    }

    /// The most bytes of data with a nonce of `nonce` bytes: for CCM what its length field holds, else
    /// what the counter of 32 bits allows.
    pub const fn longest(self, nonce: usize) -> u64 {
        match self {
            Self::Aes128Ccm | Self::Aes192Ccm | Self::Aes256Ccm => {
                // The length field has 15 - nonce bytes (SP 800-38C, A.1).
                if nonce < 8 { u64::MAX } else { (1 << (8 * (15 - nonce))) - 1 }
            }
            _ => ((1 << 32) - 2) * 16,
        }
    }

    /// Checks a key.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it does not have [`key_len`](Self::key_len) bytes.
    pub fn check_key(self, key: &[u8]) -> Result<()> {
        check_len(self, key.len(), &[self.key_len()])
    }

    /// Checks the length of a tag.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it is not one of [`tag_lens`](Self::tag_lens).
    pub fn check_tag_len(self, len: usize) -> Result<()> {
        if self.tag_lens().contains(&len) {
            return Ok(());
        }
        let lens: Vec<_> = self.tag_lens().iter().map(usize::to_string).collect();
        Err(Error::Invalid(format!("{self} has no tags of {len} bytes; it has {}", lens.join(", "))))
    }
}

/// The hash function of an RSA signature (RFC 8017, 9.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RsaHash {
    /// SHA-1. Broken for signatures; here for what still needs it.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl RsaHash {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Sha1, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512];

    /// As a hash function.
    pub const fn hash(self) -> Hash {
        match self {
            Self::Sha1 => Hash::Sha1,
            Self::Sha224 => Hash::Sha224,
            Self::Sha256 => Hash::Sha256,
            Self::Sha384 => Hash::Sha384,
            Self::Sha512 => Hash::Sha512,
        }
    }
}

/// How RSA pads (RFC 8017).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RsaPadding {
    /// Not at all: numbers as long as the modulus. For encryption and decryption only, and for those who
    /// pad themselves.
    Raw,
    /// PKCS #1 v1.5: for encryption (7.2), and for signatures (8.2) of digests of this hash function.
    Pkcs1(RsaHash),
}

impl fmt::Display for RsaPadding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw => f.write_str("raw RSA"),
            Self::Pkcs1(hash) => write!(f, "RSA with PKCS #1 padding and {}", hash.hash()),
        }
    }
}

/// Sizes of RSA keys, in bits of the modulus.
pub const RSA_BITS: RangeInclusive<usize> = 1024..=4096;

/// What is done with an RSA key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RsaOperation {
    /// With the public key.
    Encrypt,
    /// With the private key.
    Decrypt,
    /// With the private key, of a digest.
    Sign,
    /// With the public key, of a signature and a digest.
    Verify,
}

/// Which way a session works. Devices bind it to the session, so each key has up to two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Plaintext to ciphertext.
    Encrypt,
    /// Ciphertext to plaintext.
    Decrypt,
}

/// An algorithm that a device offers, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Algorithm {
    /// A cipher.
    Cipher(Cipher),
    /// A hash function.
    Hash(Hash),
    /// A message authentication code.
    Mac(Mac),
    /// Authenticated encryption.
    Aead(Aead),
    /// RSA with this padding.
    Rsa(RsaPadding),
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cipher(cipher) => cipher.fmt(f),
            Self::Hash(hash) => hash.fmt(f),
            Self::Mac(mac) => mac.fmt(f),
            Self::Aead(aead) => aead.fmt(f),
            Self::Rsa(padding) => padding.fmt(f),
        }
    }
}

/// A range of lengths, in words.
fn range(lens: &RangeInclusive<usize>) -> String {
    if lens.start() == lens.end() {
        lens.start().to_string()
    } else {
        format!("{} to {}", lens.start(), lens.end())
    }
}

macro_rules! named {
    ($type:ty, $what:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $type {
            type Err = Error;

            /// Reads a name, in any case.
            fn from_str(text: &str) -> Result<Self> {
                Self::ALL.into_iter().find(|one| one.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
                    Error::Invalid(format!(
                        concat!("'{}' is no ", $what, " of Ringbell's; there are {}"),
                        text,
                        Self::ALL.map(Self::name).join(", ")
                    ))
                })
            }
        }
    };
}

named!(Cipher, "cipher");
named!(Hash, "hash function");
named!(Mac, "MAC");
named!(Aead, "AEAD");

#[cfg(all(test, not(ringbell_loom)))]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_wrong_ones_list_the_right_ones() {
        for cipher in Cipher::ALL {
            assert_eq!(cipher.name().to_uppercase().parse::<Cipher>().unwrap(), cipher);
        }
        Hash::ALL.into_iter().for_each(|hash| assert_eq!(hash.name().parse::<Hash>().unwrap(), hash));
        Mac::ALL.into_iter().for_each(|mac| assert_eq!(mac.name().parse::<Mac>().unwrap(), mac));
        Aead::ALL.into_iter().for_each(|aead| assert_eq!(aead.name().parse::<Aead>().unwrap(), aead));
        let error = "aes-129-gcm".parse::<Aead>().unwrap_err().to_string();
        assert!(error.contains("chacha20-poly1305"), "{error}");
        let names = Cipher::ALL.map(Cipher::name);
        assert!(names.is_sorted(), "{names:?}");
    }

    #[test]
    fn keys_of_the_wrong_length_and_equal_halves_are_refused() {
        assert!(Cipher::Aes128Xts.check_key(&[7; 32]).is_err(), "equal halves");
        let mut key = [7; 32];
        key[31] = 8;
        Cipher::Aes128Xts.check_key(&key).unwrap();
        Cipher::Aes256Cbc.check_key(&[7; 32]).unwrap();
        assert!(Cipher::Aes256Cbc.check_key(&[7; 31]).is_err());
        Mac::HmacSha256.check_key(&[1]).unwrap();
        assert!(Mac::HmacSha256.check_key(&[]).is_err());
        assert!(Mac::CmacAes192.check_key(&[1; 16]).is_err());
        assert!(Aead::Aes128Gcm.check_key(&[1; 32]).is_err());
        Aead::Aes128Ccm.check_tag_len(8).unwrap();
        assert!(Aead::Aes128Ccm.check_tag_len(9).is_err());
        assert_eq!(Aead::Aes128Ccm.longest(13), 65535);
    }
}
