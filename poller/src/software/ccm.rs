//! AES-CCM. Ref: NIST SP 800-38C, 6.1, 6.2 and appendix A.
//!
//! ```text
//!   B      flags, nonce, length of the data | length of AAD, AAD, zeros | data, zeros
//!   T      the last block of B in CBC, from an IV of zeros
//!   CTR    flags, nonce, 0
//!   sealed CTR over  T | data  ->  T ^ S0 | ciphertext; the tag, shortened, goes to the end
//! ```
//!
//! Not the crate `ccm`: there the lengths of nonce and tag are types, 49 pairs of them for each key size.

use aws_lc_rs::cipher::{EncryptingKey, EncryptionContext};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::iv::FixedLength;

use super::compute::aes_key;

const BLOCK: usize = 16;

/// Ciphertext and tag; `None` for lengths that there are not.
pub(super) fn seal(key: &[u8], nonce: &[u8], aad: &[u8], tag_len: usize, data: Vec<u8>) -> Option<Vec<u8>> {
    let tag = tag(key, nonce, aad, tag_len, &data)?;
    let mut sealed = stream(key, nonce, tag, &data)?;
    // The tag from the front to the back.
    sealed.rotate_left(BLOCK);
    sealed.truncate(data.len() + tag_len);
    Some(sealed)
}

/// The plaintext; `Some(None)` where the tag is another.
pub(super) fn open(
    key: &[u8],
    nonce: &[u8],
    aad: &[u8],
    tag_len: usize,
    mut data: Vec<u8>,
) -> Option<Option<Vec<u8>>> {
    let given = data.split_off(data.len().checked_sub(tag_len)?);
    let mut first = [0; BLOCK];
    first.get_mut(..tag_len)?.copy_from_slice(&given);
    let opened = stream(key, nonce, first, &data)?;
    let (given, data) = opened.split_at(BLOCK);
    let right = verify_slices_are_equal(&given[..tag_len], &tag(key, nonce, aad, tag_len, data)?[..tag_len]);
    Some(right.is_ok().then(|| data.to_vec()))
}

/// A block that begins with flags and the nonce, and its last bytes, which have the rest.
fn block(flags: u8, nonce: &[u8], rest: u64) -> Option<[u8; BLOCK]> {
    if !(7..=13).contains(&nonce.len()) {
        return None;
    }
    let room = BLOCK - 1 - nonce.len();
    if room < 8 && rest >> (8 * room) != 0 {
        return None;
    }
    let mut block = [0; BLOCK];
    block[8..].copy_from_slice(&rest.to_be_bytes());
    // At room 8 the number ends where the nonce begins; at less its leading zeros are written over.
    block[0] = flags | (room - 1) as u8;
    block[1..=nonce.len()].copy_from_slice(nonce);
    Some(block)
}

/// The tag, not shortened and not encrypted.
fn tag(key: &[u8], nonce: &[u8], aad: &[u8], tag_len: usize, data: &[u8]) -> Option<[u8; BLOCK]> {
    if !(4..=BLOCK).contains(&tag_len) || !tag_len.is_multiple_of(2) {
        return None;
    }
    let flags = if aad.is_empty() { 0 } else { 0x40 } | (((tag_len - 2) / 2) as u8) << 3;
    let mut blocks = Vec::with_capacity(3 * BLOCK + 10 + aad.len() + data.len());
    blocks.extend_from_slice(&block(flags, nonce, data.len() as u64)?);
    if !aad.is_empty() {
        match aad.len() {
            len @ ..0xff00 => blocks.extend_from_slice(&(len as u16).to_be_bytes()),
            len => {
                blocks.extend_from_slice(&[0xff, 0xfe]);
                blocks.extend_from_slice(&u32::try_from(len).ok()?.to_be_bytes());
            }
        }
        blocks.extend_from_slice(aad);
        blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
    }
    blocks.extend_from_slice(data);
    blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
    let context = EncryptionContext::Iv128(FixedLength::from([0; BLOCK]));
    EncryptingKey::cbc(aes_key(key)?).ok()?.less_safe_encrypt(&mut blocks, context).ok()?;
    blocks.last_chunk().copied()
}

/// The key stream over a block and the data.
fn stream(key: &[u8], nonce: &[u8], first: [u8; BLOCK], data: &[u8]) -> Option<Vec<u8>> {
    let mut all = Vec::with_capacity(BLOCK + data.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(data);
    let context = EncryptionContext::Iv128(FixedLength::from(block(0, nonce, 0)?));
    EncryptingKey::ctr(aes_key(key)?).ok()?.less_safe_encrypt(&mut all, context).ok()?;
    Some(all)
}
