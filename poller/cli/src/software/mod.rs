//! Software to judge results by.
//!
//! On purpose not what the simulator computes with, which is aws-lc, with CCM, GCM and XTS of its own on top: a
//! judge that used the same code would not see its mistakes. So these are the RustCrypto crates. Where the
//! simulator has one of them, too (the GHASH of GCM, SHA3-224), they are judged by libcrypto, in the tests of
//! the repository. RSA is the other way round: the simulator's is RustCrypto's, and the judge is aws-lc.

mod rsa;

use aes::cipher::block_padding::NoPadding;
use aes::cipher::consts::{U12, U16};
use aes::cipher::{
    Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, BlockSizeUser,
    KeyInit, KeyIvInit, StreamCipher,
};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::AesGcm;
use aes_gcm::aead::{self, Payload};
use ccm::Ccm;
use chacha20poly1305::ChaCha20Poly1305;
use cmac::Cmac;
use hmac::Hmac;
use ringbell::{Aead, Cipher, Direction, Hash, Mac};
use sha2::Digest;
use xts_mode::Xts128;

pub(crate) use rsa::{Judge, Vector};

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
                    engine.encrypt_padded::<NoPadding>(data, len).ok().map(drop)
                }
                Direction::Decrypt => {
                    let engine = <$decryptor>::$new($($argument),*).ok()?;
                    engine.decrypt_padded::<NoPadding>(data).ok().map(drop)
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
        Cipher::Aes128Xts => xts::<Aes128>(direction, key, iv, data),
        Cipher::Aes256Xts => xts::<Aes256>(direction, key, iv, data),
        _ => None,
    }
}

fn xts<C>(direction: Direction, key: &[u8], tweak: &[u8], data: &mut [u8]) -> Option<()>
where
    C: KeyInit + BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16>,
{
    let (first, second) = key.split_at(key.len() / 2);
    let xts = Xts128::new(C::new_from_slice(first).ok()?, C::new_from_slice(second).ok()?);
    let tweak = Array(tweak.try_into().ok()?);
    if data.len() < 16 {
        return None; // The crate panics.
    }
    match direction {
        Direction::Encrypt => xts.encrypt_sector(data, tweak),
        Direction::Decrypt => xts.decrypt_sector(data, tweak),
    }
    Some(())
}

/// Ciphertext and tag, with a nonce of 12 bytes and a tag of 16. `None` where key or nonce are not the
/// algorithm's, or there is no software for it.
pub(crate) fn seal(aead: Aead, key: &[u8], nonce: &[u8], aad: &[u8], data: &[u8]) -> Option<Vec<u8>> {
    fn with<A: aead::Aead + KeyInit>(key: &[u8], nonce: &[u8], payload: Payload<'_, '_>) -> Option<Vec<u8>> {
        A::new_from_slice(key).ok()?.encrypt(nonce.try_into().ok()?, payload).ok()
    }
    let payload = Payload { msg: data, aad };
    match aead {
        Aead::Aes128Gcm => with::<AesGcm<Aes128, U12>>(key, nonce, payload),
        Aead::Aes192Gcm => with::<AesGcm<Aes192, U12>>(key, nonce, payload),
        Aead::Aes256Gcm => with::<AesGcm<Aes256, U12>>(key, nonce, payload),
        Aead::Aes128Ccm => with::<Ccm<Aes128, U16, U12>>(key, nonce, payload),
        Aead::Aes192Ccm => with::<Ccm<Aes192, U16, U12>>(key, nonce, payload),
        Aead::Aes256Ccm => with::<Ccm<Aes256, U16, U12>>(key, nonce, payload),
        Aead::ChaCha20Poly1305 => with::<ChaCha20Poly1305>(key, nonce, payload),
        _ => None,
    }
}

/// The digest of `data`; `None` where there is no software for it.
pub(crate) fn hash(hash: Hash, data: &[u8]) -> Option<Vec<u8>> {
    Some(match hash {
        Hash::Sha1 => sha1::Sha1::digest(data).to_vec(),
        Hash::Sha224 => sha2::Sha224::digest(data).to_vec(),
        Hash::Sha256 => sha2::Sha256::digest(data).to_vec(),
        Hash::Sha384 => sha2::Sha384::digest(data).to_vec(),
        Hash::Sha512 => sha2::Sha512::digest(data).to_vec(),
        Hash::Sha3_224 => sha3::Sha3_224::digest(data).to_vec(),
        Hash::Sha3_256 => sha3::Sha3_256::digest(data).to_vec(),
        Hash::Sha3_384 => sha3::Sha3_384::digest(data).to_vec(),
        Hash::Sha3_512 => sha3::Sha3_512::digest(data).to_vec(),
        _ => return None,
    })
}

/// The code of `data`; `None` where the key is not the algorithm's, or there is no software for it.
pub(crate) fn mac(mac: Mac, key: &[u8], data: &[u8]) -> Option<Vec<u8>> {
    fn with<M: hmac::Mac + KeyInit>(key: &[u8], data: &[u8]) -> Option<Vec<u8>> {
        let code = <M as KeyInit>::new_from_slice(key).ok()?.chain_update(data);
        Some(code.finalize().into_bytes().to_vec())
    }
    match mac {
        Mac::HmacSha1 => with::<Hmac<sha1::Sha1>>(key, data),
        Mac::HmacSha224 => with::<Hmac<sha2::Sha224>>(key, data),
        Mac::HmacSha256 => with::<Hmac<sha2::Sha256>>(key, data),
        Mac::HmacSha384 => with::<Hmac<sha2::Sha384>>(key, data),
        Mac::HmacSha512 => with::<Hmac<sha2::Sha512>>(key, data),
        Mac::CmacAes128 => with::<Cmac<Aes128>>(key, data),
        Mac::CmacAes192 => with::<Cmac<Aes192>>(key, data),
        Mac::CmacAes256 => with::<Cmac<Aes256>>(key, data),
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

    /// IEEE 1619, vector 2.
    #[test]
    fn xts_gives_the_published_vector() {
        let key = bytes(&("11".repeat(16) + &"22".repeat(16)));
        let tweak = bytes("33333333330000000000000000000000");
        let mut data = vec![0x44; 32];
        compute(Cipher::Aes128Xts, Direction::Encrypt, &key, &tweak, &mut data).unwrap();
        assert_eq!(data, bytes("c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0"));
        assert!(compute(Cipher::Aes128Xts, Direction::Encrypt, &key, &tweak, &mut data[..15]).is_none());
    }

    /// Each of its kind once, wired to its name: AES-GCM's specification (McGrew, Viega), test case 2; RFC
    /// 3610, packet vector 1 has another tag, so CCM by its length alone; RFC 8439, 2.8.2.
    #[test]
    fn aead_hash_and_mac_are_wired_to_their_names() {
        let sealed = seal(Aead::Aes128Gcm, &[0; 16], &[0; 12], &[], &[0; 16]).unwrap();
        assert_eq!(sealed, bytes("0388dace60b6a392f328c2b971b2fe78ab6e47d42cec13bdf53a67b21257bddf"));
        let key: Vec<u8> = (0x80..0xa0).collect();
        let (nonce, aad) = (bytes("070000004041424344454647"), bytes("50515253c0c1c2c3c4c5c6c7"));
        let sealed = seal(Aead::ChaCha20Poly1305, &key, &nonce, &aad, b"Ladies and Gentl").unwrap();
        assert!(sealed.starts_with(&bytes("d31a8d34648e60db7b86afbc53ef7ec2")));
        for aead in Aead::ALL {
            let sealed = seal(aead, &vec![1; aead.key_len()], &[2; 12], &[3; 13], &[4; 65]).unwrap();
            assert_eq!(sealed.len(), 65 + 16, "{aead}");
            assert!(seal(aead, &[1; 15], &[2; 12], &[], &[]).is_none(), "{aead}");
            assert!(seal(aead, &vec![1; aead.key_len()], &[2; 13], &[], &[]).is_none(), "{aead}");
        }
        for function in Hash::ALL {
            assert_eq!(hash(function, b"abc").unwrap().len(), function.output_len(), "{function}");
        }
        for code in Mac::ALL {
            let key = vec![1; *code.key_lens().start()];
            assert_eq!(mac(code, &key, b"abc").unwrap().len(), code.output_len(), "{code}");
        }
        let code = mac(Mac::HmacSha256, b"Jefe", b"what do ya want for nothing?").unwrap();
        assert_eq!(code, bytes("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"));
        let code = mac(Mac::CmacAes128, &bytes(KEY), &bytes(PLAIN)).unwrap();
        assert_eq!(code, bytes("070a16b46b4d4144f79bdd9dd04a287c"));
    }
}
