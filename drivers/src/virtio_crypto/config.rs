//! What the device offers (5.9.3, 5.9.5).

use std::collections::HashSet;
use std::time::Duration;

use zerocopy::{FromZeros, IntoBytes};

use super::wire::{self, algorithm, rsa, service};
use crate::algorithm::{Aead, Algorithm, Cipher, Hash, Mac, Mode, RsaHash, RsaPadding};
use crate::error::{Error, Result};
use crate::virtio::Transport;

/// The longest request that fits the lengths on the wire, with room for a status byte.
const LONGEST: u64 = (u32::MAX / 2) as u64;

/// The configuration, read once and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) data_queues: u16,
    pub(super) ciphers: Vec<Cipher>,
    pub(super) hashes: Vec<Hash>,
    pub(super) macs: Vec<Mac>,
    pub(super) aeads: Vec<Aead>,
    pub(super) rsa: Vec<RsaPadding>,
    /// The longest key of a MAC, in bytes.
    pub(super) max_mac_key: usize,
    /// The most bytes of a cipher's source, or destination.
    pub(super) max_request: u64,
    /// The most bytes of the variable-length part of a request, in all.
    pub(super) max_size: u64,
}

/// The cipher's number (5.9.3.1).
pub(super) const fn algorithm_of(cipher: Cipher) -> u32 {
    match cipher.mode() {
        Mode::Ecb => algorithm::AES_ECB,
        Mode::Cbc => algorithm::AES_CBC,
        Mode::Ctr => algorithm::AES_CTR,
        Mode::Xts => algorithm::AES_XTS,
    }
}

/// The hash function's number (5.9.3.2).
pub(super) const fn hash_number(hash: Hash) -> u32 {
    match hash {
        Hash::Sha1 => algorithm::SHA1,
        Hash::Sha224 => algorithm::SHA_224,
        Hash::Sha256 => algorithm::SHA_256,
        Hash::Sha384 => algorithm::SHA_384,
        Hash::Sha512 => algorithm::SHA_512,
        Hash::Sha3_224 => algorithm::SHA3_224,
        Hash::Sha3_256 => algorithm::SHA3_256,
        Hash::Sha3_384 => algorithm::SHA3_384,
        Hash::Sha3_512 => algorithm::SHA3_512,
    }
}

/// The MAC's number (5.9.3.3).
pub(super) const fn mac_number(mac: Mac) -> u32 {
    match mac {
        Mac::HmacSha1 => algorithm::HMAC_SHA1,
        Mac::HmacSha224 => algorithm::HMAC_SHA_224,
        Mac::HmacSha256 => algorithm::HMAC_SHA_256,
        Mac::HmacSha384 => algorithm::HMAC_SHA_384,
        Mac::HmacSha512 => algorithm::HMAC_SHA_512,
        Mac::CmacAes128 | Mac::CmacAes192 | Mac::CmacAes256 => algorithm::CMAC_AES,
    }
}

/// The AEAD's number (5.9.3.4).
pub(super) const fn aead_number(aead: Aead) -> u32 {
    match aead {
        Aead::Aes128Gcm | Aead::Aes192Gcm | Aead::Aes256Gcm => algorithm::GCM,
        Aead::Aes128Ccm | Aead::Aes192Ccm | Aead::Aes256Ccm => algorithm::CCM,
        Aead::ChaCha20Poly1305 => algorithm::CHACHA20_POLY1305,
    }
}

/// Padding and hash function of an RSA session (5.9.7.2.1).
pub(super) const fn rsa_numbers(padding: RsaPadding) -> (u32, u32) {
    match padding {
        RsaPadding::Raw => (rsa::RAW_PADDING, rsa::NO_HASH),
        RsaPadding::Pkcs1(hash) => {
            let hash = match hash {
                RsaHash::Sha1 => rsa::SHA1,
                RsaHash::Sha224 => rsa::SHA224,
                RsaHash::Sha256 => rsa::SHA256,
                RsaHash::Sha384 => rsa::SHA384,
                RsaHash::Sha512 => rsa::SHA512,
            };
            (rsa::PKCS1_PADDING, hash)
        }
    }
}

/// All paddings.
fn paddings() -> impl Iterator<Item = RsaPadding> {
    [RsaPadding::Raw].into_iter().chain(RsaHash::ALL.map(RsaPadding::Pkcs1))
}

impl Offer {
    /// Reads the configuration and checks it against the transport.
    pub(super) fn read(transport: &Transport, limit: Duration) -> Result<Self> {
        let bad = |why: String| Error::NotUsable { device: transport.function().address().to_owned(), why };
        let mut config = wire::Config::new_zeroed();
        let count = transport.read_device_config(config.as_mut_bytes(), limit)?;
        if count < 8 {
            return Err(bad(format!("its configuration has {count} bytes, not even the number of queues")));
        }
        if config.status.get() & wire::STATUS_HW_READY == 0 {
            return Err(bad(
                "it says that its hardware is not ready; start its backend and try again".to_owned()
            ));
        }
        // The control queue comes after the data queues (5.9.2). 0 counts as 1: the specification
        // asks for at least one, and some devices leave the field empty.
        let claimed = config.max_dataqueues.get().max(1);
        let queues = u32::from(transport.queues()?);
        if claimed >= queues {
            return Err(bad(format!(
                "it claims {claimed} data queues and a control queue, but has {queues} queues in all"
            )));
        }
        let serves = |number: u32| config.crypto_services.get() >> number & 1 == 1;
        // A mask of a service that is not there says nothing.
        let has = |number: u32, mask: u64, bit: u32| serves(number) && mask >> bit & 1 == 1;
        let wide = |low: zerocopy::little_endian::U32, high: zerocopy::little_endian::U32| {
            u64::from(low.get()) | u64::from(high.get()) << 32
        };
        let cipher_mask = wide(config.cipher_algo_l, config.cipher_algo_h);
        let mac_mask = wide(config.mac_algo_l, config.mac_algo_h);
        // 0: the device states no limit.
        let stated = |limit: u32, len: usize| limit == 0 || len <= limit as usize;
        let longest_key = config.max_cipher_key_len.get();
        let max_mac_key = match config.max_auth_key_len.get() as usize {
            0 => Mac::LONGEST_KEY,
            stated => stated.min(Mac::LONGEST_KEY),
        };
        let cipher = |cipher: &Cipher| {
            has(service::CIPHER, cipher_mask, algorithm_of(*cipher)) && stated(longest_key, cipher.key_len())
        };
        let hash = |hash: &Hash| has(service::HASH, config.hash_algo.get().into(), hash_number(*hash));
        let mac = |mac: &Mac| {
            has(service::MAC, mac_mask, mac_number(*mac)) && *mac.key_lens().start() <= max_mac_key
        };
        // The limit of cipher keys is theirs, too (5.9.5.2).
        let aead = |aead: &Aead| {
            has(service::AEAD, config.aead_algo.get().into(), aead_number(*aead))
                && stated(longest_key, aead.key_len())
        };
        let rsa = has(service::AKCIPHER, config.akcipher_algo.get().into(), algorithm::RSA);
        let max_size = config.max_size.get();
        Ok(Self {
            data_queues: claimed as u16,
            ciphers: Cipher::ALL.into_iter().filter(cipher).collect(),
            hashes: Hash::ALL.into_iter().filter(hash).collect(),
            macs: Mac::ALL.into_iter().filter(mac).collect(),
            aeads: Aead::ALL.into_iter().filter(aead).collect(),
            rsa: paddings().filter(|_| rsa).collect(),
            max_mac_key,
            // 0 or absent: no limit stated. Else it limits the variable-length part of a request,
            // which is IV, source and destination together (5.9.4). Lengths on the wire have 32 bits.
            max_request: match max_size {
                0 => LONGEST,
                size => (size.saturating_sub(16) / 2).min(LONGEST),
            },
            max_size: match max_size {
                0 => u64::from(u32::MAX),
                size => size.min(u32::MAX.into()),
            },
        })
    }

    /// Whether it offers an algorithm.
    pub(super) fn has(&self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::Cipher(cipher) => self.ciphers.contains(&cipher),
            Algorithm::Hash(hash) => self.hashes.contains(&hash),
            Algorithm::Mac(mac) => self.macs.contains(&mac),
            Algorithm::Aead(aead) => self.aeads.contains(&aead),
            Algorithm::Rsa(padding) => self.rsa.contains(&padding),
        }
    }

    /// The algorithms of the same kind, less those that were refused, for a message.
    pub(super) fn like(&self, algorithm: Algorithm, refused: &HashSet<Algorithm>) -> String {
        let all: Vec<Algorithm> = match algorithm {
            Algorithm::Cipher(_) => self.ciphers.iter().copied().map(Algorithm::Cipher).collect(),
            Algorithm::Hash(_) => self.hashes.iter().copied().map(Algorithm::Hash).collect(),
            Algorithm::Mac(_) => self.macs.iter().copied().map(Algorithm::Mac).collect(),
            Algorithm::Aead(_) => self.aeads.iter().copied().map(Algorithm::Aead).collect(),
            Algorithm::Rsa(_) => self.rsa.iter().copied().map(Algorithm::Rsa).collect(),
        };
        let left = all.iter().filter(|one| !refused.contains(one)).map(Algorithm::to_string);
        let left: Vec<_> = left.collect();
        let nothing = match algorithm {
            Algorithm::Cipher(_) => "no cipher at all",
            Algorithm::Hash(_) => "no hash function",
            Algorithm::Mac(_) => "no MAC",
            Algorithm::Aead(_) => "no AEAD",
            Algorithm::Rsa(_) => "no RSA",
        };
        if left.is_empty() { nothing.to_owned() } else { left.join(", ") }
    }
}
