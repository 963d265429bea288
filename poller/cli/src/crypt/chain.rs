//! How a stream is cut into requests: the IV of each, and the padding of the last.
//!
//! ```text
//!   CBC, encrypting   IV of a chunk = last block of the chunk before, once it is encrypted: serial
//!   CBC, decrypting   the same block is there as input: all chunks at once
//!   CTR               first counter + blocks before, modulo 2^128 (NIST SP 800-38A, 6.5)
//!   ECB               no IV
//!   padding           ECB and CBC: 1 to 16 bytes of that value (PKCS #7, RFC 5652, 6.3)
//! ```

use ringbell::{Cipher, Direction, Mode};

/// Bytes of a block of AES.
pub(super) const BLOCK: usize = 16;

/// The state between two chunks.
pub(super) struct Chain {
    pub(super) cipher: Cipher,
    pub(super) direction: Direction,
    padded: bool,
    /// IV of the next chunk: to be made (decrypting, CTR), or to be submitted (CBC, encrypting).
    iv: [u8; BLOCK],
}

impl Chain {
    /// At the beginning. CTR has no padding.
    pub(super) fn new(cipher: Cipher, direction: Direction, padded: bool, iv: &[u8]) -> Self {
        let mut first = [0; BLOCK];
        let len = iv.len().min(BLOCK);
        first[..len].copy_from_slice(&iv[..len]);
        Self { cipher, direction, padded: padded && cipher.mode() != Mode::Ctr, iv: first }
    }

    /// "encrypt" or "decrypt".
    pub(super) fn verb(&self) -> &'static str {
        if self.direction == Direction::Decrypt { "decrypt" } else { "encrypt" }
    }

    /// Whether a chunk can only be submitted when the one before is done.
    pub(super) fn serial(&self) -> bool {
        self.cipher.mode() == Mode::Cbc && self.direction == Direction::Encrypt
    }

    /// Whether padding is taken off the end.
    pub(super) fn strips(&self) -> bool {
        self.padded && self.direction == Direction::Decrypt
    }

    /// The padding after `filled` bytes at the end of the input, where there is one: its length and
    /// the value of its bytes.
    pub(super) fn padding(&self, filled: usize) -> Option<u8> {
        (self.padded && self.direction == Direction::Encrypt).then(|| (BLOCK - filled % BLOCK) as u8)
    }

    /// Whether the last chunk may have `len` bytes.
    pub(super) fn can_end_with(&self, len: usize) -> bool {
        len.is_multiple_of(self.cipher.granule())
    }

    /// The IV of the chunk with this input, where it is known before the one before is done.
    pub(super) fn iv_of_input(&mut self, input: &[u8]) -> [u8; BLOCK] {
        let iv = self.iv;
        match (self.cipher.mode(), self.direction) {
            (Mode::Cbc, Direction::Decrypt) => self.keep_last(input),
            (Mode::Ctr, _) => {
                let blocks = input.len().div_ceil(BLOCK) as u128;
                self.iv = u128::from_be_bytes(iv).wrapping_add(blocks).to_be_bytes();
            }
            _ => {}
        }
        iv
    }

    /// The IV of the next chunk of a serial chain.
    pub(super) fn iv(&self) -> [u8; BLOCK] {
        self.iv
    }

    /// A chunk of a serial chain is done.
    pub(super) fn done(&mut self, output: &[u8]) {
        if self.serial() {
            self.keep_last(output);
        }
    }

    fn keep_last(&mut self, data: &[u8]) {
        if let Some(last) = data.last_chunk::<BLOCK>() {
            self.iv = *last;
        }
    }
}

/// Bytes of padding at the end of the last chunk; `None` where it is none.
pub(super) fn padding_of(last: &[u8]) -> Option<usize> {
    let block = last.last_chunk::<BLOCK>()?;
    let count = usize::from(block[BLOCK - 1]);
    let good =
        (1..=BLOCK).contains(&count) && block[BLOCK - count..].iter().all(|b| usize::from(*b) == count);
    good.then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_wraps_as_a_whole() {
        let mut chain = Chain::new(Cipher::Aes128Ctr, Direction::Encrypt, true, &[0xff; 16]);
        assert_eq!(chain.iv_of_input(&[0; 33]), [0xff; 16]);
        assert_eq!(chain.iv_of_input(&[0; 16])[15], 2);
        assert!(chain.padding(3).is_none());
    }

    #[test]
    fn padding_is_put_on_and_recognised() {
        let chain = Chain::new(Cipher::Aes128Cbc, Direction::Encrypt, true, &[0; 16]);
        assert_eq!((chain.padding(0), chain.padding(1), chain.padding(31)), (Some(16), Some(15), Some(1)));
        let mut block = [7; 16];
        assert_eq!(padding_of(&block), Some(7));
        block[9] = 6;
        assert_eq!(padding_of(&block), None);
        assert_eq!(padding_of(&[16; 16]), Some(16));
        for wrong in [0, 17, 255] {
            assert_eq!(padding_of(&[wrong; 16]), None);
        }
        assert_eq!(padding_of(&[1; 15]), None);
    }
}
