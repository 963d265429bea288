//! AES-CCM, in pieces. Ref: NIST SP 800-38C, 6 and appendix A; RFC 3610.
//!
//! ```text
//!   L = 15 - bytes of the nonce                  the message has fewer than 2^(8 L) bytes
//!   B0     = flags | nonce | length, L bytes     flags: AAD 0x40, (tag - 2) / 2 << 3, L - 1
//!   Ctr(i) = L - 1 | nonce | i, L bytes
//!   tag    = E(Ctr(0)) ^ CBC-MAC(B0 | length of AAD, AAD, zeros | plaintext, zeros)
//!   ciphertext = plaintext ^ E(Ctr(1)), E(Ctr(2)) ...
//! ```
//!
//! It is written here, over aws-lc's counter mode and CBC: the crate `ccm` has the lengths of nonce and
//! tag in its types, 147 combinations with those of the key, and wants a message at once. The plaintext
//! is what is authenticated: to verify a message it has to be decrypted, and a second time to give it
//! away.

use aws_lc_rs::cipher::{AES_128, AES_192, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use zeroize::Zeroizing;

use super::BLOCK;

/// AAD of so many bytes and more has a longer length in front.
const LONG_AAD: u64 = 0xff00;

/// The key of a session.
#[derive(Debug)]
pub(super) struct Ccm {
    ctr: EncryptingKey,
    cbc: EncryptingKey,
}

/// A message under way.
pub(crate) struct Run<'k> {
    key: &'k Ccm,
    mac: CbcMac<'k>,
    /// Ctr(1).
    start: [u8; BLOCK],
    counter: [u8; BLOCK],
    /// E(Ctr(0)).
    mask: Zeroizing<[u8; BLOCK]>,
}

impl Ccm {
    /// `None` where `key` has no length that AES has.
    pub(super) fn new(key: &[u8]) -> Option<Self> {
        let algorithm = match key.len() {
            16 => &AES_128,
            24 => &AES_192,
            32 => &AES_256,
            _ => return None,
        };
        let unbound = || UnboundCipherKey::new(algorithm, key).ok();
        Some(Self { ctr: EncryptingKey::ctr(unbound()?).ok()?, cbc: EncryptingKey::cbc(unbound()?).ok()? })
    }

    /// `None` where the nonce has not 7 to 13 bytes, or leaves no room for so long a message.
    pub(super) fn begin(&self, nonce: &[u8], aad_len: u64, len: u64, tag_len: usize) -> Option<Run<'_>> {
        if !(7..=13).contains(&nonce.len()) || len > longest(nonce.len()) {
            return None;
        }
        let l = 15 - nonce.len();
        let with_aad = if aad_len == 0 { 0 } else { 0x40 };
        let mut first = [0; BLOCK];
        first[0] = with_aad | (((tag_len as u8 - 2) / 2) << 3) | (l as u8 - 1);
        first[1..=nonce.len()].copy_from_slice(nonce);
        first[BLOCK - l..].copy_from_slice(&len.to_be_bytes()[8 - l..]);
        let mut mac = CbcMac::new(&self.cbc);
        mac.update(&first)?;
        match aad_len {
            0 => {}
            1..LONG_AAD => mac.update(&(aad_len as u16).to_be_bytes())?,
            _ => {
                mac.update(&[0xff, 0xfe])?;
                mac.update(&u32::try_from(aad_len).ok()?.to_be_bytes())?;
            }
        }
        let mut counter = [0; BLOCK];
        counter[0] = l as u8 - 1;
        counter[1..=nonce.len()].copy_from_slice(nonce);
        let mut mask = Zeroizing::new([0; BLOCK]);
        let context = EncryptionContext::Iv128(FixedLength::from(counter));
        self.ctr.less_safe_encrypt(&mut mask[..], context).ok()?;
        counter[BLOCK - 1] = 1;
        Some(Run { key: self, mac, start: counter, counter, mask })
    }
}

/// Longest message with a nonce of so many bytes. (With 7 it is 2^64 - 1.)
pub(crate) fn longest(nonce_len: usize) -> u64 {
    let bits = 8 * 15_usize.saturating_sub(nonce_len);
    if bits < 64 { (1 << bits) - 1 } else { u64::MAX }
}

impl Run<'_> {
    /// Authenticates a piece of the AAD.
    pub(crate) fn aad(&mut self, piece: &[u8]) -> Option<()> {
        self.mac.update(piece)
    }

    /// The AAD has been all.
    pub(crate) fn end_aad(&mut self) -> Option<()> {
        self.mac.pad()
    }

    /// Authenticates a piece of the plaintext.
    pub(crate) fn authenticate(&mut self, piece: &[u8]) -> Option<()> {
        self.mac.update(piece)
    }

    /// Encrypts or decrypts a piece. All but the last must be whole blocks.
    pub(crate) fn transform(&mut self, piece: &mut [u8]) -> Option<()> {
        let blocks = piece.len().div_ceil(BLOCK) as u128;
        let context = EncryptionContext::Iv128(FixedLength::from(self.counter));
        self.key.ctr.less_safe_encrypt(piece, context).ok()?;
        // The length of the message sees to it that the count stays in its L bytes.
        self.counter = u128::from_be_bytes(self.counter).wrapping_add(blocks).to_be_bytes();
        Some(())
    }

    /// The data come once more, from the first on.
    pub(crate) fn rewind(&mut self) {
        self.counter = self.start;
    }

    /// The whole tag: its first bytes are the shorter ones.
    pub(crate) fn tag(&mut self) -> Option<[u8; BLOCK]> {
        self.mac.pad()?;
        Some((u128::from_be_bytes(*self.mac.state) ^ u128::from_be_bytes(*self.mask)).to_be_bytes())
    }
}

/// CBC-MAC of what comes in any pieces.
struct CbcMac<'k> {
    key: &'k EncryptingKey,
    state: Zeroizing<[u8; BLOCK]>,
    /// The beginning of a block.
    held: Zeroizing<[u8; BLOCK]>,
    fill: usize,
}

impl<'k> CbcMac<'k> {
    fn new(key: &'k EncryptingKey) -> Self {
        Self { key, state: Zeroizing::new([0; BLOCK]), held: Zeroizing::new([0; BLOCK]), fill: 0 }
    }

    fn update(&mut self, mut data: &[u8]) -> Option<()> {
        if self.fill != 0 {
            let (now, later) = data.split_at(data.len().min(BLOCK - self.fill));
            self.held[self.fill..self.fill + now.len()].copy_from_slice(now);
            self.fill += now.len();
            data = later;
            if self.fill < BLOCK {
                return Some(());
            }
            self.fill = 0;
            let block = *self.held;
            self.blocks(&block)?;
        }
        let whole = data.len() - data.len() % BLOCK;
        self.blocks(&data[..whole])?;
        self.fill = data.len() - whole;
        self.held[..self.fill].copy_from_slice(&data[whole..]);
        Some(())
    }

    /// Zeros up to the next block.
    fn pad(&mut self) -> Option<()> {
        if self.fill == 0 {
            return Some(());
        }
        self.update(&[0; BLOCK][self.fill..])
    }

    /// The last block of the ciphertext is the state.
    fn blocks(&mut self, data: &[u8]) -> Option<()> {
        let mut copy = Zeroizing::new([0; 32 * BLOCK]);
        for piece in data.chunks(copy.len()) {
            let copy = &mut copy[..piece.len()];
            copy.copy_from_slice(piece);
            let context = EncryptionContext::Iv128(FixedLength::from(*self.state));
            self.key.less_safe_encrypt(copy, context).ok()?;
            *self.state = *copy.last_chunk()?;
        }
        Some(())
    }
}
