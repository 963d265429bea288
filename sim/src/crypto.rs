//! The arithmetic: AES in ECB, CBC and CTR mode, in place, in pieces.

use std::cell::Cell;

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;

use crate::wire;

/// AES' block, and the length of an IV, in bytes.
pub(crate) const BLOCK: usize = 16;

/// Mode of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Ecb,
    Cbc,
    Ctr,
}

impl Mode {
    /// The mode of an algorithm of the specification, where the device has it.
    pub(crate) fn from_wire(algo: u32) -> Option<Self> {
        match algo {
            wire::CIPHER_AES_ECB => Some(Self::Ecb),
            wire::CIPHER_AES_CBC => Some(Self::Cbc),
            wire::CIPHER_AES_CTR => Some(Self::Ctr),
            _ => None,
        }
    }

    pub(crate) fn to_wire(self) -> u32 {
        match self {
            Self::Ecb => wire::CIPHER_AES_ECB,
            Self::Cbc => wire::CIPHER_AES_CBC,
            Self::Ctr => wire::CIPHER_AES_CTR,
        }
    }

    /// Length of the IV in bytes.
    pub(crate) fn iv_len(self) -> u32 {
        match self {
            Self::Ecb => 0,
            Self::Cbc | Self::Ctr => BLOCK as u32,
        }
    }

    /// Whether data must be whole blocks.
    pub(crate) fn whole_blocks(self) -> bool {
        self != Self::Ctr
    }
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Encrypt,
    Decrypt,
}

#[derive(Debug)]
enum Key {
    Encrypt(EncryptingKey),
    Decrypt(DecryptingKey),
}

/// An expanded key with its mode and direction. aws-lc-rs wipes it when it is dropped.
#[derive(Debug)]
pub(crate) struct Cipher {
    key: Key,
    pub(crate) mode: Mode,
    pub(crate) direction: Direction,
    /// QEMU: the IV that the next request starts with, if it brings none.
    pub(crate) kept_iv: Cell<[u8; BLOCK]>,
}

impl Cipher {
    /// `None` where `key` has no length that AES has.
    pub(crate) fn new(mode: Mode, direction: Direction, key: &[u8]) -> Option<Self> {
        let algorithm = match key.len() {
            16 => &AES_128,
            24 => &AES_192,
            32 => &AES_256,
            _ => return None,
        };
        let key = UnboundCipherKey::new(algorithm, key).ok()?;
        let key = match (mode, direction) {
            // The same both ways.
            (Mode::Ctr, _) => EncryptingKey::ctr(key).map(Key::Encrypt),
            (Mode::Ecb, Direction::Encrypt) => EncryptingKey::ecb(key).map(Key::Encrypt),
            (Mode::Ecb, Direction::Decrypt) => DecryptingKey::ecb(key).map(Key::Decrypt),
            (Mode::Cbc, Direction::Encrypt) => EncryptingKey::cbc(key).map(Key::Encrypt),
            (Mode::Cbc, Direction::Decrypt) => DecryptingKey::cbc(key).map(Key::Decrypt),
        }
        .ok()?;
        Some(Self { key, mode, direction, kept_iv: Cell::new([0; BLOCK]) })
    }

    /// Transforms `data` in place and moves `iv` on, so that the next piece of the same request can
    /// follow. All pieces but the last must be whole blocks.
    #[inline]
    pub(crate) fn apply(&self, iv: &mut [u8; BLOCK], data: &mut [u8]) -> Option<()> {
        let whole = data.len() - data.len() % BLOCK;
        let last = match data[..whole].last_chunk::<BLOCK>() {
            Some(block) => *block,
            None => *iv,
        };
        match &self.key {
            Key::Encrypt(key) => {
                let context = match self.mode {
                    Mode::Ecb => EncryptionContext::None,
                    Mode::Cbc | Mode::Ctr => EncryptionContext::Iv128(FixedLength::from(*iv)),
                };
                key.less_safe_encrypt(data, context).ok()?;
            }
            Key::Decrypt(key) => {
                let context = match self.mode {
                    Mode::Ecb => DecryptionContext::None,
                    Mode::Cbc | Mode::Ctr => DecryptionContext::Iv128(FixedLength::from(*iv)),
                };
                key.decrypt(data, context).ok()?;
            }
        }
        *iv = match (self.mode, self.direction) {
            (Mode::Ecb, _) => *iv,
            (Mode::Ctr, _) => u128::from_be_bytes(*iv).wrapping_add((whole / BLOCK) as u128).to_be_bytes(),
            // The last ciphertext block: the output here, the input there.
            (Mode::Cbc, Direction::Encrypt) => {
                data[..whole].last_chunk::<BLOCK>().map_or(*iv, |block| *block)
            }
            (Mode::Cbc, Direction::Decrypt) => last,
        };
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let plain: Vec<u8> = (0..160_u8).collect();
        let iv = [0xff; BLOCK];
        for mode in [Mode::Ecb, Mode::Cbc, Mode::Ctr] {
            for key in [16, 24, 32] {
                let key: Vec<u8> = (0..key).collect();
                let encrypt = Cipher::new(mode, Direction::Encrypt, &key).unwrap();
                let decrypt = Cipher::new(mode, Direction::Decrypt, &key).unwrap();
                let mut whole = plain.clone();
                encrypt.apply(&mut iv.clone(), &mut whole).unwrap();
                assert_ne!(whole, plain);
                for cut in [16, 32, 144] {
                    let mut pieces = plain.clone();
                    let mut next = iv;
                    encrypt.apply(&mut next, &mut pieces[..cut]).unwrap();
                    encrypt.apply(&mut next, &mut pieces[cut..]).unwrap();
                    assert_eq!(pieces, whole, "{mode:?}");
                    let mut next = iv;
                    decrypt.apply(&mut next, &mut pieces[..cut]).unwrap();
                    decrypt.apply(&mut next, &mut pieces[cut..]).unwrap();
                    assert_eq!(pieces, plain, "{mode:?}");
                }
            }
        }
        assert!(Cipher::new(Mode::Cbc, Direction::Encrypt, &[0; 17]).is_none());
    }
}
