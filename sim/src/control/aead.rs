//! Sessions of AEAD. Ref: VIRTIO 1.2, 5.9.7.2.1, AEAD session.
//!
//! ```text
//!   body   algo, key_len, tag_len, aad_len, op, padding | fill, 32 bytes        key   key_len bytes
//! ```
//!
//! `aad_len` is not looked at: a request has its own (see `data/aead.rs`).

use super::{Creation, MAX_CIPHER_KEY, Refusal};
use crate::crypto::Direction;
use crate::crypto::aead::{Aead, Algorithm};
use crate::sessions::Kind;
use crate::wire::{self, AeadSession};

pub(super) fn create(mut creation: Creation<'_>) -> Result<Kind, Refusal> {
    let refusal = |why| Refusal::Status(wire::ERR, why);
    let body: AeadSession = creation.body()?;
    let (algo, tag_len) = (body.algo.get(), body.tag_len.get());
    let key = creation.key(body.key_len.get(), MAX_CIPHER_KEY)?;
    let algorithm =
        Algorithm::from_wire(algo).ok_or(Refusal::Status(wire::NOTSUPP, "there is no such algorithm"))?;
    creation.check_header(algo)?;
    let direction = match body.op.get() {
        wire::OP_ENCRYPT => Direction::Encrypt,
        wire::OP_DECRYPT => Direction::Decrypt,
        _ => return Err(refusal("there is no such direction")),
    };
    if !algorithm.has_tag_of(tag_len) {
        return Err(refusal("the algorithm has no tags of that length"));
    }
    let aead = Aead::new(algorithm, direction, &key, tag_len)
        .ok_or(refusal("the algorithm has no keys of that length"))?;
    Ok(Kind::Aead(Box::new(aead)))
}
