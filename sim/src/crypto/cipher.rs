//! Ciphers: AES in ECB, CBC, CTR and XTS mode, in place, in pieces.

use std::cell::Cell;

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;

use super::xts::Xts;
use super::{BLOCK, Direction};
use crate::wire;

/// Mode of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Ecb,
    Cbc,
    Ctr,
    Xts,
}

impl Mode {
    /// The mode of an algorithm of the specification, where the device has it.
    pub(crate) fn from_wire(algo: u32) -> Option<Self> {
        match algo {
            wire::CIPHER_AES_ECB => Some(Self::Ecb),
            wire::CIPHER_AES_CBC => Some(Self::Cbc),
            wire::CIPHER_AES_CTR => Some(Self::Ctr),
            wire::CIPHER_AES_XTS => Some(Self::Xts),
            _ => None,
        }
    }

    pub(crate) fn to_wire(self) -> u32 {
        match self {
            Self::Ecb => wire::CIPHER_AES_ECB,
            Self::Cbc => wire::CIPHER_AES_CBC,
            Self::Ctr => wire::CIPHER_AES_CTR,
            Self::Xts => wire::CIPHER_AES_XTS,
        }
    }

    /// Length of the IV in bytes.
    pub(crate) fn iv_len(self) -> u32 {
        match self {
            Self::Ecb => 0,
            Self::Cbc | Self::Ctr | Self::Xts => BLOCK as u32,
        }
    }

    /// Whether data can have so many bytes: whole blocks in ECB and CBC mode, one at least with XTS.
    #[inline]
    pub(crate) fn has_data_of(self, len: usize) -> bool {
        match self {
            Self::Ecb | Self::Cbc => len.is_multiple_of(BLOCK),
            Self::Ctr => true,
            Self::Xts => len >= BLOCK,
        }
    }
}

#[derive(Debug)]
enum Key {
    Encrypt(EncryptingKey),
    Decrypt(DecryptingKey),
    Xts(Box<Xts>),
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
    /// `None` where `key` has no length that AES has; XTS takes two keys.
    pub(crate) fn new(mode: Mode, direction: Direction, key: &[u8]) -> Option<Self> {
        if mode == Mode::Xts {
            let key = Key::Xts(Box::new(Xts::new(direction, key)?));
            return Some(Self { key, mode, direction, kept_iv: Cell::new([0; BLOCK]) });
        }
        let algorithm = match key.len() {
            16 => &AES_128,
            24 => &AES_192,
            32 => &AES_256,
            _ => return None,
        };
        let key = UnboundCipherKey::new(algorithm, key).ok()?;
        let key = match (mode, direction) {
            // The same both ways. (XTS has gone its own way.)
            (Mode::Ctr | Mode::Xts, _) => EncryptingKey::ctr(key).map(Key::Encrypt),
            (Mode::Ecb, Direction::Encrypt) => EncryptingKey::ecb(key).map(Key::Encrypt),
            (Mode::Ecb, Direction::Decrypt) => DecryptingKey::ecb(key).map(Key::Decrypt),
            (Mode::Cbc, Direction::Encrypt) => EncryptingKey::cbc(key).map(Key::Encrypt),
            (Mode::Cbc, Direction::Decrypt) => DecryptingKey::cbc(key).map(Key::Decrypt),
        }
        .ok()?;
        Some(Self { key, mode, direction, kept_iv: Cell::new([0; BLOCK]) })
    }

    /// Makes of a request's IV what [`apply`](Self::apply) wants: with XTS that is the first tweak.
    #[inline]
    pub(crate) fn start(&self, iv: &mut [u8; BLOCK]) -> Option<()> {
        match &self.key {
            Key::Xts(key) => key.start(iv),
            Key::Encrypt(_) | Key::Decrypt(_) => Some(()),
        }
    }

    /// Transforms `data` in place and moves `iv` on, so that the next piece of the same request can
    /// follow. All pieces but the last must be whole blocks, and with XTS the last one block at least.
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
                    Mode::Cbc | Mode::Ctr | Mode::Xts => EncryptionContext::Iv128(FixedLength::from(*iv)),
                };
                key.less_safe_encrypt(data, context).ok()?;
            }
            Key::Decrypt(key) => {
                let context = match self.mode {
                    Mode::Ecb => DecryptionContext::None,
                    Mode::Cbc | Mode::Ctr | Mode::Xts => DecryptionContext::Iv128(FixedLength::from(*iv)),
                };
                key.decrypt(data, context).ok()?;
            }
            Key::Xts(key) => return key.apply(iv, data),
        }
        *iv = match (self.mode, self.direction) {
            (Mode::Ecb | Mode::Xts, _) => *iv,
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
        for (mode, keys) in [
            (Mode::Ecb, [16, 24, 32]),
            (Mode::Cbc, [16, 24, 32]),
            (Mode::Ctr, [16, 24, 32]),
            (Mode::Xts, [32, 48, 64]),
        ] {
            for key in keys {
                let key: Vec<u8> = (0..key).collect();
                let encrypt = Cipher::new(mode, Direction::Encrypt, &key).unwrap();
                let decrypt = Cipher::new(mode, Direction::Decrypt, &key).unwrap();
                let mut whole = plain.clone();
                let mut iv = iv;
                encrypt.start(&mut iv).unwrap();
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
