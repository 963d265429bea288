//! AES in software, to judge results by.
//!
//! From the RustCrypto crates on purpose: the simulator computes with aws-lc, and a judge that used
//! the same code would not see its mistakes.

use aes::cipher::block_padding::NoPadding;
use aes::cipher::{BlockDecryptMut, BlockEncryptMut, KeyInit, KeyIvInit, StreamCipher};
use aes::{Aes128, Aes192, Aes256};
use ringbell::{Cipher, Direction};

/// Encrypts or decrypts `data` in place, without padding. `None` where key, IV or length are not
/// the cipher's, or there is no software for it.
pub(crate) fn compute(
    cipher: Cipher,
    direction: Direction,
    key: &[u8],
    iv: &[u8],
    data: &mut [u8],
) -> Option<()> {
    macro_rules! mode {
        ($encryptor:ty, $decryptor:ty, $new:ident ( $($argument:expr),* )) => {
            match direction {
                Direction::Encrypt => {
                    let len = data.len();
                    let engine = <$encryptor>::$new($($argument),*).ok()?;
                    engine.encrypt_padded_mut::<NoPadding>(data, len).ok().map(drop)
                }
                Direction::Decrypt => {
                    let engine = <$decryptor>::$new($($argument),*).ok()?;
                    engine.decrypt_padded_mut::<NoPadding>(data).ok().map(drop)
                }
            }
        };
    }
    macro_rules! cbc {
        ($aes:ty) => {
            mode!(cbc::Encryptor<$aes>, cbc::Decryptor<$aes>, new_from_slices(key, iv))
        };
    }
    macro_rules! ecb {
        ($aes:ty) => {
            mode!(ecb::Encryptor<$aes>, ecb::Decryptor<$aes>, new_from_slice(key))
        };
    }
    macro_rules! ctr {
        ($aes:ty) => {{ ctr::Ctr128BE::<$aes>::new_from_slices(key, iv).ok()?.try_apply_keystream(data).ok() }};
    }
    match cipher {
        Cipher::Aes128Cbc => cbc!(Aes128),
        Cipher::Aes192Cbc => cbc!(Aes192),
        Cipher::Aes256Cbc => cbc!(Aes256),
        Cipher::Aes128Ecb => ecb!(Aes128),
        Cipher::Aes192Ecb => ecb!(Aes192),
        Cipher::Aes256Ecb => ecb!(Aes256),
        Cipher::Aes128Ctr => ctr!(Aes128),
        Cipher::Aes192Ctr => ctr!(Aes192),
        Cipher::Aes256Ctr => ctr!(Aes256),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "2b7e151628aed2a6abf7158809cf4f3c";
    const PLAIN: &str = "6bc1bee22e409f96e93d7e117393172a";

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
    }

    /// NIST SP 800-38A, F.1.1, F.2.1, F.5.1: the first block.
    #[test]
    fn the_published_vectors_come_out() {
        let cases = [
            (Cipher::Aes128Ecb, "", "3ad77bb40d7a3660a89ecaf32466ef97"),
            (Cipher::Aes128Cbc, "000102030405060708090a0b0c0d0e0f", "7649abac8119b246cee98e9b12e9197d"),
            (Cipher::Aes128Ctr, "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", "874d6191b620e3261bef6864990db6ce"),
        ];
        for (cipher, iv, expected) in cases {
            let mut data = bytes(PLAIN);
            compute(cipher, Direction::Encrypt, &bytes(KEY), &bytes(iv), &mut data).unwrap();
            assert_eq!(data, bytes(expected), "{cipher}");
            compute(cipher, Direction::Decrypt, &bytes(KEY), &bytes(iv), &mut data).unwrap();
            assert_eq!(data, bytes(PLAIN), "{cipher}");
        }
    }

    #[test]
    fn all_ciphers_of_the_library_are_there_and_refuse_what_is_not_theirs() {
        for cipher in Cipher::ALL {
            let key = vec![1; cipher.key_len()];
            let iv = vec![2; cipher.iv_len()];
            let mut data = vec![3; 64];
            assert!(compute(cipher, Direction::Encrypt, &key, &iv, &mut data).is_some(), "{cipher}");
            assert!(compute(cipher, Direction::Encrypt, &key[1..], &iv, &mut data).is_none(), "{cipher}");
            if cipher.granule() == 16 {
                assert!(compute(cipher, Direction::Encrypt, &key, &iv, &mut data[1..]).is_none(), "{cipher}");
            }
        }
    }
}
