//! RSA, raw and with PKCS #1 v1.5. Ref: RFC 8017, 5, 7.2, 8.2.
//!
//! By the crate `rsa`, blinded. A key is read for each request, since nobody is in a hurry who has lost the
//! device.

use std::ops::RangeInclusive;

use ::rsa::hazmat::{rsa_decrypt_and_check, rsa_encrypt};
use ::rsa::rand_core::{TryCryptoRng, TryRng};
use ::rsa::traits::PublicKeyParts;
use ::rsa::{BoxedUint, Pkcs1v15Encrypt, Pkcs1v15Sign, PrivateKey, PublicKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use pkcs1::der::Decode;
use pkcs1::{RsaPrivateKeyRef, RsaPublicKeyRef};
use ringbell_drivers::engine::{RSA_BITS, RsaHash, RsaOperation, RsaPadding};

const BITS: RangeInclusive<usize> = RSA_BITS;

/// aws-lc's random numbers.
struct Random;

impl TryRng for Random {
    type Error = Unspecified;

    fn try_next_u32(&mut self) -> Result<u32, Unspecified> {
        let mut bytes = [0; 4];
        rand::fill(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Unspecified> {
        let mut bytes = [0; 8];
        rand::fill(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Unspecified> {
        rand::fill(bytes)
    }
}

impl TryCryptoRng for Random {}

/// With a key in PKCS #1; of a verification the last `digest_len` bytes are the digest. `None` where it
/// cannot be done, `Some(None)` where a signature does not verify.
pub(super) fn compute(
    padding: RsaPadding,
    operation: RsaOperation,
    key: &[u8],
    data: &[u8],
    digest_len: usize,
) -> Option<Option<Vec<u8>>> {
    match (operation, padding) {
        (RsaOperation::Encrypt, RsaPadding::Raw) => {
            let key = public(key)?;
            let number = below(&key, data)?;
            bytes(&key, &rsa_encrypt(&key, &number).ok()?).map(Some)
        }
        (RsaOperation::Encrypt, RsaPadding::Pkcs1(_)) => {
            public(key)?.encrypt(&mut Random, Pkcs1v15Encrypt, data).ok().map(Some)
        }
        (RsaOperation::Decrypt, RsaPadding::Raw) => decrypt(&private(key)?, data).map(Some),
        (RsaOperation::Decrypt, RsaPadding::Pkcs1(_)) => {
            unpad(&decrypt(&private(key)?, data)?).map(|data| Some(data.to_vec()))
        }
        (RsaOperation::Sign, RsaPadding::Pkcs1(hash)) => {
            private(key)?.sign_with_rng(&mut Random, scheme(hash)?, data).ok().map(Some)
        }
        (RsaOperation::Verify, RsaPadding::Pkcs1(hash)) => {
            let (signature, digest) = data.split_at(data.len().checked_sub(digest_len)?);
            let right = public(key)?.verify(scheme(hash)?, digest, signature).is_ok();
            Some(right.then(Vec::new))
        }
        // Raw RSA does not sign.
        _ => None,
    }
}

fn number(bytes: &[u8], bits: usize) -> Option<BoxedUint> {
    BoxedUint::from_be_slice(bytes, bits as u32).ok()
}

/// Bits of a modulus.
fn bits(modulus: &[u8]) -> usize {
    8 * modulus.len() - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize)
}

fn public(der: &[u8]) -> Option<PublicKey> {
    let parts = RsaPublicKeyRef::from_der(der).ok()?;
    let (n, e) = (parts.modulus.as_bytes(), parts.public_exponent.as_bytes());
    PublicKey::new_with_size_limits(number(n, bits(n))?, number(e, 64)?, BITS).ok()
}

fn private(der: &[u8]) -> Option<PrivateKey> {
    let parts = RsaPrivateKeyRef::from_der(der).ok()?;
    let (n, e) = (parts.modulus.as_bytes(), parts.public_exponent.as_bytes());
    let bits = bits(n);
    if !BITS.contains(&bits) || parts.other_prime_infos.is_some() {
        return None;
    }
    let [d, p, q] =
        [parts.private_exponent, parts.prime1, parts.prime2].map(|part| number(part.as_bytes(), bits));
    PrivateKey::from_components(number(n, bits)?, number(e, 64)?, d?, vec![p?, q?]).ok()
}

/// Data as a number below the modulus.
fn below(key: &impl PublicKeyParts, data: &[u8]) -> Option<BoxedUint> {
    let n = key.n().as_ref();
    let number = BoxedUint::from_be_slice(data, n.bits_precision()).ok()?;
    (number < *n).then_some(number)
}

/// A number as the bytes of the modulus.
fn bytes(key: &impl PublicKeyParts, number: &BoxedUint) -> Option<Vec<u8>> {
    let bytes = number.to_be_bytes();
    bytes.get(bytes.len().checked_sub(key.size())?..).map(<[u8]>::to_vec)
}

fn decrypt(key: &PrivateKey, data: &[u8]) -> Option<Vec<u8>> {
    let number = below(key, data)?;
    bytes(key, &rsa_decrypt_and_check(key, Some(&mut Random), &number).ok()?)
}

/// What stands behind the padding of an encryption. The crate's own answers a wrong padding by a made-up
/// message, devices answer by an error.
fn unpad(block: &[u8]) -> Option<&[u8]> {
    let [0, 2, rest @ ..] = block else { return None };
    let padding = rest.iter().position(|byte| *byte == 0).filter(|padding| *padding >= 8)?;
    rest.get(padding + 1..)
}

/// A signature's padding: what stands before the digest (9.2, note 1).
fn scheme(hash: RsaHash) -> Option<Pkcs1v15Sign> {
    let prefix: &[u8] = match hash {
        RsaHash::Sha1 => b"\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14",
        RsaHash::Sha224 => b"\x30\x2d\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x04\x05\x00\x04\x1c",
        RsaHash::Sha256 => b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20",
        RsaHash::Sha384 => b"\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30",
        RsaHash::Sha512 => b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40",
        _ => return None,
    };
    Some(Pkcs1v15Sign { hash_len: Some(hash.hash().output_len()), prefix: prefix.into() })
}

#[cfg(test)]
mod tests {
    use super::super::compute::tests::bytes as hex;
    use super::*;

    const MESSAGE: &[u8] = b"what do ya want for nothing?";
    const DIGEST: &str = "b381e7fec653fc3ab9b178272366b8ac87fed8d31cb25ed1d0e1f3318644c89c";
    const DIGEST_SHA1: &str = "8f820394f95335182045da24f34de52bf8bc3432";
    /// `openssl genrsa 1024`, as PKCS #1.
    const PRIVATE: &str = "\
        3082025c02010002818100a8f9695653069b90748737b8cfc7deb719ecb7e41bd5072f4f178fd3e6aebfa963e952370b\
        07141eba538750405c580f9c3c7407cdbc8ec1ba7dfaa90bd419522f36add4d725b6033598eb8c8320525d7bd83949c7\
        8150d76735f1495084c41febd6395f51792242ab1576ff1de5d5e9c762c65a9d5a5a978e234fafdcc113cb0203010001\
        0281805afe54b763e67f077f79018cc877bd7ba4be5118c9d422165be53852c83afa83618657fbc4387fa13c7d96b4a4\
        b415c7f23eabcd38017e6edcdad28d0e0d9dc43f8f4548f3d79a42983b37b88f95e030f6ad331eeb7644503ee2187a06\
        05f89da865695dd1b1defbaf52fb645dc0823aff766b5938180db73b171f5d7fd9b281024100df43df89bf1d33cf7cd7\
        eb56b3c072f5ded7ba147f7eef727775eb1ae64903166a3ae07cb0a8259bbc0b4e0e0fb4ac8d120b5e6c6a58334027b8\
        edfe75dd8bf1024100c1bfc31ef42aa4e35c62c29ce06aedd56a1f7165660802d0e0e09cdb10c7acb34421712d2cbab2\
        cc24b2bf2fb83e37ee68e7cb2a26001c07dd283d0adc6f477b024060b4c287a4bb5e6cba33c0612ebce64eaf769bc833\
        2d65441c907c048bc90648583d266d7c0b6936daadbee282550d0491d350d3ff00333acfb9df847fc335d1024049b753\
        5ee8997d0900729707271fa803e60fb68e54e6c16385dc0ff20d8d5b390db8079e9f811d5c2cae51adaf5504e4d1c737\
        767ee4d5c56c30ce20dec3fc17024100d035ac5e51e4906bf349e91c1b42fd879421e417184dddc7e732cb3a7915511b\
        7ddb747142e1e2e53aced13f5cef2a331f570b0115bedd4972648d2360bd939c";
    /// Its public half.
    const PUBLIC: &str = "\
        30818902818100a8f9695653069b90748737b8cfc7deb719ecb7e41bd5072f4f178fd3e6aebfa963e952370b07141eba\
        538750405c580f9c3c7407cdbc8ec1ba7dfaa90bd419522f36add4d725b6033598eb8c8320525d7bd83949c78150d767\
        35f1495084c41febd6395f51792242ab1576ff1de5d5e9c762c65a9d5a5a978e234fafdcc113cb0203010001";
    /// `openssl pkeyutl -sign -pkeyopt digest:sha256` of the digest of MESSAGE.
    const SIGNATURE: &str = "\
        047e2152464d744365ab34bf3c01c0e918bff0ff07ab510e83b09e39c53e1fbc7fb79ece22a0d6ee704503e672be2a9b\
        b680df4ed4b770cba879ca824b1680523330de2feb136bf50331f67991ffdae7e6852ca3e76fd4cc50d83ec3c807e3ef\
        e0c26df227e3a29a602ac18bc029fe99071a98e5ec20e838cd72fe5ce26ce111";
    /// The same with SHA-1.
    const SIGNATURE_SHA1: &str = "\
        775a3ab54a09b7fbc7b95add9f1759f22977e68c62139310edba4b5da603eda27bc7e95f3baa6c7cc08a461b1f4489a8\
        b5e0f74edfdc861c460860f940eac7ebfb3030aac9f45177c9df068f10d7cd2b89876fc02a7996d6fd1306ade585476f\
        dbfc4b7947a31284980bbc0c7c1cdf06b2d81a46f07ce8c19f27c805c5e8b0f0";
    /// `openssl pkeyutl -encrypt` of MESSAGE.
    const ENCRYPTED: &str = "\
        492e3932c66534b65b0b94e5e02c7a09933eb71b063bc0fd263ee870f6848de90e463d8d515200ad81e7c843647a0d94\
        dac23cebef2dcbaedda31ee12e18ff6652ba8acbad7df3bdb1a26b2c1ad8363289d0897fe73ea83551279297ed7c9ef0\
        3119320869bfed68257ed5dfd6e80dac8792b0bfe0f978426ee25f399bada128";
    /// `openssl pkeyutl -encrypt -pkeyopt rsa_padding_mode:none` of `raw()`.
    const RAW: &str = "\
        3684be9eaef7b20b90ca3b683da02f6bca3925525ae6538356f543e2ec2f772c1ff74ef6fe278307e9027bf16972287e\
        8d0c39f6547781b2e8ff45e337b6633f0032b03bf08644d27a614a3f376f9805c9f58661b9d169de2258bea128ffc1aa\
        3114628ac409bfa7dbdbd8dbf8de71231b202a26abf43ceacee663a7ed4b1edc";
    const SHA256: RsaPadding = RsaPadding::Pkcs1(RsaHash::Sha256);

    /// Two zeros, then 1, 8, 15 ... up to the length of the modulus.
    fn raw() -> Vec<u8> {
        [0, 0].into_iter().chain((0..126).map(|number: u8| number.wrapping_mul(7).wrapping_add(1))).collect()
    }

    fn with(padding: RsaPadding, operation: RsaOperation, key: &str, data: &[u8]) -> Option<Vec<u8>> {
        compute(padding, operation, &hex(key), data, 0).map(Option::unwrap)
    }

    #[test]
    fn what_openssl_signed_and_encrypted_comes_out() {
        let sha1 = RsaPadding::Pkcs1(RsaHash::Sha1);
        for (padding, digest, signature) in [(SHA256, DIGEST, SIGNATURE), (sha1, DIGEST_SHA1, SIGNATURE_SHA1)]
        {
            let signed = with(padding, RsaOperation::Sign, PRIVATE, &hex(digest)).unwrap();
            assert_eq!(signed, hex(signature), "{padding}");
            let both = [signed, hex(digest)].concat();
            let verify = |both: &[u8]| {
                compute(padding, RsaOperation::Verify, &hex(PUBLIC), both, hex(digest).len()).unwrap()
            };
            assert_eq!(verify(&both), Some(Vec::new()));
            for wrong in [0, 60, 128, both.len() - 1] {
                let mut both = both.clone();
                both[wrong] ^= 1;
                assert_eq!(verify(&both), None, "{padding}: byte {wrong}");
            }
        }
        assert_eq!(with(SHA256, RsaOperation::Decrypt, PRIVATE, &hex(ENCRYPTED)).unwrap(), MESSAGE);
        assert_eq!(with(RsaPadding::Raw, RsaOperation::Encrypt, PUBLIC, &raw()).unwrap(), hex(RAW));
        assert_eq!(with(RsaPadding::Raw, RsaOperation::Decrypt, PRIVATE, &hex(RAW)).unwrap(), raw());
    }

    #[test]
    fn encryption_is_undone_and_never_the_same_twice() {
        let encrypt = || with(SHA256, RsaOperation::Encrypt, PUBLIC, MESSAGE).unwrap();
        let (first, second) = (encrypt(), encrypt());
        assert_ne!(first, second);
        for sealed in [first, second] {
            assert_eq!(with(SHA256, RsaOperation::Decrypt, PRIVATE, &sealed).unwrap(), MESSAGE);
        }
        let longest = [7; 128 - 11];
        let sealed = with(SHA256, RsaOperation::Encrypt, PUBLIC, &longest).unwrap();
        assert_eq!(with(SHA256, RsaOperation::Decrypt, PRIVATE, &sealed).unwrap(), longest);
        assert_eq!(with(SHA256, RsaOperation::Encrypt, PUBLIC, &[7; 128 - 10]), None);
    }

    #[test]
    fn what_a_device_rejects_is_rejected() {
        // No padding, a padding that is too short, a number above the modulus, a key that is none, no digest.
        let not_padded = with(RsaPadding::Raw, RsaOperation::Encrypt, PUBLIC, &raw()).unwrap();
        assert_eq!(with(SHA256, RsaOperation::Decrypt, PRIVATE, &not_padded), None);
        let mut block = vec![9; 128];
        block[..2].copy_from_slice(&[0, 2]);
        for (end, right) in [(9, false), (10, true)] {
            let mut block = block.clone();
            block[end] = 0;
            let sealed = with(RsaPadding::Raw, RsaOperation::Encrypt, PUBLIC, &block).unwrap();
            let opened = with(SHA256, RsaOperation::Decrypt, PRIVATE, &sealed);
            assert_eq!(opened.is_some(), right, "a padding of {} bytes", end - 2);
        }
        assert_eq!(with(RsaPadding::Raw, RsaOperation::Encrypt, PUBLIC, &[0xff; 128]), None);
        assert_eq!(with(RsaPadding::Raw, RsaOperation::Decrypt, PRIVATE, &[0xff; 128]), None);
        assert_eq!(with(SHA256, RsaOperation::Sign, PUBLIC, &hex(DIGEST)), None);
        assert_eq!(with(SHA256, RsaOperation::Sign, PRIVATE, &hex(DIGEST_SHA1)), None);
        assert_eq!(with(RsaPadding::Raw, RsaOperation::Sign, PRIVATE, &raw()), None);
    }
}
