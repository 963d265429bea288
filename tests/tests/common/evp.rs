//! libcrypto, the oracle of the operations that are no plain ciphers.

use openssl::cipher::{Cipher as EvpCipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use openssl::hash::MessageDigest;
use openssl::md::{Md, MdRef};
use openssl::pkey::{PKey, Private};
use openssl::pkey_ctx::PkeyCtx;
use openssl::rsa::{Padding, Rsa};
use openssl::sign::Signer;
use openssl::symm::Cipher as SymmCipher;
use ringbell::{Aead, Hash, Mac, RsaHash};

fn cipher(aead: Aead) -> &'static CipherRef {
    match aead {
        Aead::Aes128Gcm => EvpCipher::aes_128_gcm(),
        Aead::Aes192Gcm => EvpCipher::aes_192_gcm(),
        Aead::Aes256Gcm => EvpCipher::aes_256_gcm(),
        Aead::Aes128Ccm => EvpCipher::aes_128_ccm(),
        Aead::Aes192Ccm => EvpCipher::aes_192_ccm(),
        Aead::Aes256Ccm => EvpCipher::aes_256_ccm(),
        Aead::ChaCha20Poly1305 => EvpCipher::chacha20_poly1305(),
        other => unreachable!("{other}"),
    }
}

/// Ciphertext and tag.
pub fn seal(aead: Aead, key: &[u8], nonce: &[u8], aad: &[u8], data: &[u8], tag_len: usize) -> Vec<u8> {
    let mut ctx = CipherCtx::new().expect("libcrypto");
    ctx.encrypt_init(Some(cipher(aead)), None, None).expect("libcrypto");
    ctx.set_iv_length(nonce.len()).expect("libcrypto");
    if aead.is_ccm() {
        ctx.set_tag_length(tag_len).expect("libcrypto");
    }
    ctx.encrypt_init(None, Some(key), Some(nonce)).expect("libcrypto");
    if aead.is_ccm() {
        ctx.set_data_len(data.len()).expect("libcrypto");
    }
    if !aad.is_empty() {
        ctx.cipher_update(aad, None).expect("libcrypto");
    }
    let mut out = vec![0; data.len() + 32];
    // CCM takes the data in one, also where there is none.
    let mut len = if data.is_empty() && !aead.is_ccm() {
        0
    } else {
        ctx.cipher_update(data, Some(&mut out)).expect("libcrypto")
    };
    len += ctx.cipher_final(&mut out[len..]).expect("libcrypto");
    assert_eq!(len, data.len());
    out.truncate(len);
    let mut tag = vec![0; tag_len];
    ctx.tag(&mut tag).expect("libcrypto");
    out.extend(tag);
    out
}

fn digest_of(hash: Hash) -> MessageDigest {
    match hash {
        Hash::Sha1 => MessageDigest::sha1(),
        Hash::Sha224 => MessageDigest::sha224(),
        Hash::Sha256 => MessageDigest::sha256(),
        Hash::Sha384 => MessageDigest::sha384(),
        Hash::Sha512 => MessageDigest::sha512(),
        Hash::Sha3_224 => MessageDigest::sha3_224(),
        Hash::Sha3_256 => MessageDigest::sha3_256(),
        Hash::Sha3_384 => MessageDigest::sha3_384(),
        Hash::Sha3_512 => MessageDigest::sha3_512(),
        other => unreachable!("{other}"),
    }
}

pub fn hash(hash: Hash, data: &[u8]) -> Vec<u8> {
    openssl::hash::hash(digest_of(hash), data).expect("libcrypto").to_vec()
}

pub fn mac(mac: Mac, key: &[u8], data: &[u8]) -> Vec<u8> {
    let sign = |mut signer: Signer<'_>| {
        signer.update(data).expect("libcrypto");
        signer.sign_to_vec().expect("libcrypto")
    };
    let cmac = |cipher: SymmCipher| {
        let key = PKey::cmac(&cipher, key).expect("libcrypto");
        sign(Signer::new_without_digest(&key).expect("libcrypto"))
    };
    match mac {
        Mac::CmacAes128 => cmac(SymmCipher::aes_128_cbc()),
        Mac::CmacAes192 => cmac(SymmCipher::aes_192_cbc()),
        Mac::CmacAes256 => cmac(SymmCipher::aes_256_cbc()),
        hmac => {
            let key = PKey::hmac(key).expect("libcrypto");
            sign(Signer::new(digest_of(hmac.hash().expect("an HMAC")), &key).expect("libcrypto"))
        }
    }
}

/// The sizes of the kept keys, in bits: also those that are no whole bytes.
pub const RSA_SIZES: [usize; 7] = [1024, 1025, 1536, 2047, 2048, 3072, 4096];

/// The PEM of a kept key: `2048`, or `2048-e3` with 3 as the public exponent.
pub fn rsa_pem(name: &str) -> String {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data/rsa");
    std::fs::read_to_string(folder.join(format!("{name}.pem"))).expect("a key")
}

pub fn rsa_key(bits: usize) -> Rsa<Private> {
    Rsa::private_key_from_pem(rsa_pem(&bits.to_string()).as_bytes()).expect("libcrypto")
}

fn md(hash: RsaHash) -> &'static MdRef {
    match hash {
        RsaHash::Sha1 => Md::sha1(),
        RsaHash::Sha224 => Md::sha224(),
        RsaHash::Sha256 => Md::sha256(),
        RsaHash::Sha384 => Md::sha384(),
        RsaHash::Sha512 => Md::sha512(),
        other => unreachable!("{other:?}"),
    }
}

/// The signature of a digest with PKCS #1 padding.
pub fn rsa_sign(key: &Rsa<Private>, hash: RsaHash, digest: &[u8]) -> Vec<u8> {
    let key = PKey::from_rsa(key.clone()).expect("libcrypto");
    let mut ctx = PkeyCtx::new(&key).expect("libcrypto");
    ctx.sign_init().expect("libcrypto");
    ctx.set_rsa_padding(Padding::PKCS1).expect("libcrypto");
    ctx.set_signature_md(md(hash)).expect("libcrypto");
    let mut signature = Vec::new();
    ctx.sign_to_vec(digest, &mut signature).expect("libcrypto");
    signature
}

/// Whether a signature of a digest verifies.
pub fn rsa_verify(key: &Rsa<Private>, hash: RsaHash, digest: &[u8], signature: &[u8]) -> bool {
    let key = PKey::from_rsa(key.clone()).expect("libcrypto");
    let mut ctx = PkeyCtx::new(&key).expect("libcrypto");
    ctx.verify_init().expect("libcrypto");
    ctx.set_rsa_padding(Padding::PKCS1).expect("libcrypto");
    ctx.set_signature_md(md(hash)).expect("libcrypto");
    ctx.verify(digest, signature).unwrap_or(false)
}

/// With the public key.
pub fn rsa_encrypt(key: &Rsa<Private>, padding: Padding, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; key.size() as usize];
    let len = key.public_encrypt(data, &mut out, padding).expect("libcrypto");
    out.truncate(len);
    out
}

/// With the private key.
pub fn rsa_decrypt(key: &Rsa<Private>, padding: Padding, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; key.size() as usize];
    let len = key.private_decrypt(data, &mut out, padding).expect("libcrypto");
    out.truncate(len);
    out
}
