//! AES-GCM, in pieces. Ref: NIST SP 800-38D, 7.1 and 7.2.
//!
//! ```text
//!   H  = E(0)                        the key of GHASH
//!   J0 = IV | 1, 32 bits             where the IV has 12 bytes; one of 16 is J0 itself
//!   ciphertext = plaintext ^ E(J0 + 1), E(J0 + 2) ...      the last 32 bits count, and wrap
//!   tag = E(J0) ^ GHASH(AAD, zeros | ciphertext, zeros | lengths in bits, 64 each)
//! ```
//!
//! It is written here, over aws-lc's counter mode and the crate `ghash`, because aws-lc's own wants a
//! message at once, knows no J0 and verifies no shorter tag. The ciphertext is what is authenticated, so
//! a message can be verified before any of it is decrypted.

use aws_lc_rs::cipher::{AES_128, AES_192, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use ghash::GHash;
use ghash::universal_hash::UniversalHash;
use zeroize::Zeroizing;

use super::BLOCK;

/// The key of a session, for AES and for GHASH.
#[derive(Debug)]
pub(super) struct Gcm {
    key: EncryptingKey,
    ghash: GHash,
}

/// A message under way.
pub(crate) struct Run<'k> {
    key: &'k EncryptingKey,
    ghash: GHash,
    /// The first counter of the data.
    start: [u8; BLOCK],
    counter: [u8; BLOCK],
    /// E(J0).
    mask: Zeroizing<[u8; BLOCK]>,
    aad_len: u64,
    len: u64,
}

impl Gcm {
    /// `None` where `key` has no length that AES has.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        let algorithm = match key.len() {
            16 => &AES_128,
            24 => &AES_192,
            32 => &AES_256,
            _ => return None,
        };
        let key = EncryptingKey::ctr(UnboundCipherKey::new(algorithm, key).ok()?).ok()?;
        let h = Zeroizing::new(block(&key, [0; BLOCK])?);
        Some(Self { ghash: GHash::new(&(*h).into()), key })
    }

    /// `None` where the IV has neither 12 nor 16 bytes.
    pub(super) fn begin(&self, iv: &[u8]) -> Option<Run<'_>> {
        let mut first = [0; BLOCK];
        match iv.len() {
            12 => {
                first[..12].copy_from_slice(iv);
                first[15] = 1;
            }
            16 => first.copy_from_slice(iv),
            _ => return None,
        }
        let mask = Zeroizing::new(block(&self.key, first)?);
        let start = advanced(first, 1);
        let ghash = self.ghash.clone();
        Some(Run { key: &self.key, ghash, start, counter: start, mask, aad_len: 0, len: 0 })
    }
}

/// AES of a block: counter mode over zeros.
fn block(key: &EncryptingKey, input: [u8; BLOCK]) -> Option<[u8; BLOCK]> {
    let mut output = [0; BLOCK];
    key.less_safe_encrypt(&mut output[..], EncryptionContext::Iv128(FixedLength::from(input))).ok()?;
    Some(output)
}

fn low(counter: [u8; BLOCK]) -> u32 {
    u128::from_be_bytes(counter) as u32
}

/// The counter some blocks later: its last 32 bits wrap.
fn advanced(counter: [u8; BLOCK], blocks: u32) -> [u8; BLOCK] {
    let high = u128::from_be_bytes(counter) & !u128::from(u32::MAX);
    (high | u128::from(low(counter).wrapping_add(blocks))).to_be_bytes()
}

impl Run<'_> {
    /// Authenticates a piece of the AAD. All but the last must be whole blocks.
    pub(crate) fn aad(&mut self, piece: &[u8]) {
        self.ghash.update_padded(piece);
        self.aad_len += piece.len() as u64;
    }

    /// Authenticates a piece of the ciphertext. All but the last must be whole blocks.
    pub(crate) fn authenticate(&mut self, piece: &[u8]) {
        self.ghash.update_padded(piece);
        self.len += piece.len() as u64;
    }

    /// Encrypts or decrypts a piece. All but the last must be whole blocks.
    pub(crate) fn transform(&mut self, mut piece: &mut [u8]) -> Option<()> {
        while !piece.is_empty() {
            // aws-lc counts in 128 bits: it has to stop where the last 32 wrap.
            let blocks = u32::MAX - low(self.counter);
            let most = (blocks as usize).saturating_add(1).saturating_mul(BLOCK);
            let (now, later) = piece.split_at_mut(piece.len().min(most));
            self.key
                .less_safe_encrypt(now, EncryptionContext::Iv128(FixedLength::from(self.counter)))
                .ok()?;
            self.counter = advanced(self.counter, now.len().div_ceil(BLOCK) as u32);
            piece = later;
        }
        Some(())
    }

    /// The data come once more, from the first on.
    pub(crate) fn rewind(&mut self) {
        self.counter = self.start;
    }

    /// The whole tag.
    pub(crate) fn tag(&self) -> [u8; BLOCK] {
        let mut ghash = self.ghash.clone();
        let lengths = u128::from(self.aad_len * 8) << 64 | u128::from(self.len * 8);
        ghash.update(&[lengths.to_be_bytes().into()]);
        let hash: [u8; BLOCK] = ghash.finalize().into();
        (u128::from_be_bytes(hash) ^ u128::from_be_bytes(*self.mask)).to_be_bytes()
    }
}
