//! Asymmetric sessions: RSA. Ref: VIRTIO 1.2, 5.9.7.2.1, AKCIPHER session.
//!
//! ```text
//!   body   algo, key_type, key_len | padding_algo, hash_algo | fill, 36 bytes
//!   key    key_len bytes, PKCS#1 in DER: RSAPublicKey or RSAPrivateKey
//! ```

use super::{Creation, Refusal};
use crate::crypto::rsa::{Hash, Padding, Rsa};
use crate::sessions::Kind;
use crate::wire::{self, RsaSession};

/// Longest key, in bytes: a private one of 4096 bits has some 2350.
const MAX_KEY: u32 = 4096;

pub(super) fn create(mut creation: Creation<'_>) -> Result<Kind, Refusal> {
    let refusal = |status, why| Refusal::Status(status, why);
    // QEMU's backend has no word for what it has not.
    let unknown = if creation.qemu { wire::ERR } else { wire::NOTSUPP };
    let body: RsaSession = creation.body()?;
    let key = creation.key(body.key_len.get(), MAX_KEY)?;
    if body.algo.get() != wire::AKCIPHER_RSA {
        return Err(refusal(unknown, "there is no such algorithm"));
    }
    creation.check_header(wire::AKCIPHER_RSA)?;
    let padding =
        padding(&body, creation.qemu).ok_or(refusal(unknown, "there is no such padding, or hash"))?;
    let key = match body.key_type.get() {
        wire::AKCIPHER_KEY_TYPE_PUBLIC => Rsa::public(&key, padding),
        wire::AKCIPHER_KEY_TYPE_PRIVATE => Rsa::private(&key, padding),
        _ => Err("there is no such type of key"),
    };
    key.map(|key| Kind::Rsa(Box::new(key))).map_err(|why| refusal(wire::ERR, why))
}

/// The padding that a session asks for, where the device has it.
fn padding(body: &RsaSession, qemu: bool) -> Option<Padding> {
    let hash = match (body.padding_algo.get(), body.hash_algo.get()) {
        // The hash is ignored.
        (wire::RSA_RAW_PADDING, _) => return Some(Padding::Raw),
        (wire::RSA_PKCS1_PADDING, wire::RSA_NO_HASH) => None,
        (wire::RSA_PKCS1_PADDING, hash) => Some(Hash::from_wire(hash)?),
        _ => return None,
    };
    // QEMU refuses to encrypt without one, too.
    let known = !qemu || matches!(hash, Some(Hash::Md5 | Hash::Sha1 | Hash::Sha256 | Hash::Sha512));
    known.then_some(Padding::Pkcs1(hash))
}
