//! The operations, and what they are done with.

use std::fmt;

use ringbell::{
    Aead, AeadKey, Cipher, CipherKey, Device, Direction, DmaBuffer, Hash, Hasher, Mac, MacKey, Request,
    RsaHash, RsaKey, RsaPadding,
};
use ringbell_drivers::algorithm::RsaOperation;

/// What is done: ciphers encrypt, AEAD seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Cipher(Cipher),
    Aead(Aead),
    Hash(Hash),
    Mac(Mac),
    Rsa(Rsa),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rsa {
    pub bits: usize,
    pub raw: bool,
    pub operation: RsaOperation,
}

/// Of which kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Cipher,
    Aead,
    Hash,
    Mac,
    Rsa,
}

impl Kind {
    pub fn title(self) -> &'static str {
        match self {
            Self::Cipher => "cipher, encrypting",
            Self::Aead => "AEAD, sealing",
            Self::Hash => "hash function",
            Self::Mac => "MAC",
            Self::Rsa => "RSA",
        }
    }
}

pub const KEY: [u8; 64] = *b"no secret: it has 64 bytes, and the halves of it are not equal..";
pub const IV: [u8; 16] = *b"every one of 16.";
pub const AAD: [u8; 13] = *b"thirteen byte";
pub const TAG: usize = 16;
/// Of which signatures are made.
pub const DIGEST: [u8; 32] = [7; 32];

/// The key of that size, in PEM. For tests: everybody knows it.
pub fn rsa_key(bits: usize) -> &'static [u8] {
    match bits {
        1024 => include_bytes!("../../../poller/cli/src/speed/keys/rsa-1024-test-key.pem"),
        2048 => include_bytes!("../../../poller/cli/src/speed/keys/rsa-2048-test-key.pem"),
        3072 => include_bytes!("../../../poller/cli/src/speed/keys/rsa-3072-test-key.pem"),
        _ => include_bytes!("../../../poller/cli/src/speed/keys/rsa-4096-test-key.pem"),
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cipher(cipher) => cipher.fmt(f),
            Self::Aead(aead) => aead.fmt(f),
            Self::Hash(hash) => hash.fmt(f),
            Self::Mac(mac) => mac.fmt(f),
            Self::Rsa(Rsa { bits, raw, operation }) => {
                let raw = if *raw { "raw-" } else { "" };
                write!(f, "rsa-{bits}-{raw}{}", format!("{operation:?}").to_lowercase())
            }
        }
    }
}

impl Work {
    pub fn all() -> impl Iterator<Item = Self> {
        use RsaOperation::{Decrypt, Encrypt, Sign, Verify};
        let rsa = [1024, 2048, 3072, 4096].into_iter().flat_map(|bits| {
            [
                (Sign, false),
                (Verify, false),
                (Encrypt, false),
                (Decrypt, false),
                (Encrypt, true),
                (Decrypt, true),
            ]
            .map(|(operation, raw)| Self::Rsa(Rsa { bits, raw, operation }))
        });
        let ciphers = Cipher::ALL.into_iter().map(Self::Cipher);
        let aeads = Aead::ALL.into_iter().map(Self::Aead);
        let (hashes, macs) = (Hash::ALL.into_iter().map(Self::Hash), Mac::ALL.into_iter().map(Self::Mac));
        ciphers.chain(aeads).chain(hashes).chain(macs).chain(rsa)
    }

    pub fn kind(self) -> Kind {
        match self {
            Self::Cipher(_) => Kind::Cipher,
            Self::Aead(_) => Kind::Aead,
            Self::Hash(_) => Kind::Hash,
            Self::Mac(_) => Kind::Mac,
            Self::Rsa(_) => Kind::Rsa,
        }
    }

    /// Whether the result is never the same twice.
    pub fn is_randomised(self) -> bool {
        matches!(self, Self::Rsa(Rsa { raw: false, operation: RsaOperation::Encrypt, .. }))
    }

    /// Bytes of the IV or nonce.
    pub fn iv_len(self) -> usize {
        match self {
            Self::Cipher(cipher) => cipher.iv_len(),
            Self::Aead(_) => 12,
            _ => 0,
        }
    }
}

/// The key of a MAC.
pub fn mac_key(mac: Mac) -> &'static [u8] {
    const { &KEY }.get(..if mac.hash().is_some() { 32 } else { *mac.key_lens().start() }).expect("a key")
}

/// What is worked on.
pub fn data(size: usize) -> Vec<u8> {
    (0..size).map(|number| (number * 7) as u8).collect()
}

/// The key at a device, its sessions live.
pub enum Key {
    Cipher(CipherKey),
    Aead(AeadKey),
    Hash(Hasher),
    Mac(MacKey),
    Rsa(RsaKey, Vec<Vec<u8>>),
}

impl Key {
    pub fn new(work: Work, device: &Device) -> Self {
        match work {
            Work::Cipher(cipher) => {
                let key = device.cipher_key(cipher, &KEY[..cipher.key_len()]).expect("a key");
                key.prepare().expect("sessions");
                Self::Cipher(key)
            }
            Work::Aead(aead) => {
                let key = device.aead_key(aead, &KEY[..aead.key_len()]).expect("a key");
                key.prepare(AAD.len()).expect("sessions");
                Self::Aead(key)
            }
            Work::Hash(hash) => {
                let hasher = device.hasher(hash).expect("a hash function");
                hasher.prepare().expect("a session");
                Self::Hash(hasher)
            }
            Work::Mac(mac) => {
                let key = device.mac_key(mac, mac_key(mac)).expect("a key");
                key.prepare().expect("a session");
                Self::Mac(key)
            }
            Work::Rsa(rsa) => {
                let padding = if rsa.raw { RsaPadding::Raw } else { RsaPadding::Pkcs1(RsaHash::Sha256) };
                let key = device.rsa_key(padding, rsa_key(rsa.bits)).expect("a key");
                key.prepare().expect("sessions");
                Self::Rsa(key, crate::libcrypto::rsa_inputs(rsa))
            }
        }
    }

    /// A request with buffers of its own, filled.
    pub fn request(&self, work: Work, size: usize, device: &Device) -> Request {
        let filled = |bytes: &[u8]| -> DmaBuffer { device.buffer_from(bytes).expect("memory") };
        let (input, empty) = (data(size), |len| device.buffer(len).expect("memory"));
        match (self, work) {
            (Self::Cipher(key), _) => {
                let iv = &IV[..work.iv_len()];
                key.request(Direction::Encrypt, iv, filled(&input), Some(empty(size)))
            }
            (Self::Aead(key), _) => {
                let iv = &IV[..work.iv_len()];
                key.seal_into(iv, &AAD, filled(&input), empty(size + TAG)).expect("a request")
            }
            (Self::Hash(hasher), _) => hasher.digest(filled(&input)).expect("a request"),
            (Self::Mac(key), _) => key.compute(filled(&input)).expect("a request"),
            (Self::Rsa(key, inputs), Work::Rsa(rsa)) => match rsa.operation {
                RsaOperation::Encrypt => key.encrypt(filled(&inputs[0])),
                RsaOperation::Decrypt => key.decrypt(filled(&inputs[0])),
                RsaOperation::Sign => key.sign(filled(&inputs[0])),
                RsaOperation::Verify => key.verify(filled(&inputs[0]), filled(&inputs[1])),
            }
            .expect("a request"),
            _ => unreachable!("the key was made for the work"),
        }
    }
}
