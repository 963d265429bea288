//! Sessions of hashes. Ref: VIRTIO 1.2, 5.9.7.2.1, HASH session.
//!
//! ```text
//!   body   algo, hash_result_len | fill, 48 bytes        no key
//! ```

use super::{Creation, Refusal};
use crate::crypto::hash::{Algorithm, Hash};
use crate::sessions::Kind;
use crate::wire::{self, HashSession};

pub(super) fn create(creation: Creation<'_>) -> Result<Kind, Refusal> {
    let body: HashSession = creation.body()?;
    let (algo, result_len) = (body.algo.get(), body.hash_result_len.get());
    let algorithm =
        Algorithm::from_wire(algo).ok_or(Refusal::Status(wire::NOTSUPP, "there is no such algorithm"))?;
    creation.check_header(algo)?;
    if !(1..=algorithm.len()).contains(&result_len) {
        return Err(Refusal::Status(wire::ERR, "the digest is not so long"));
    }
    Ok(Kind::Hash(Hash { algorithm, result_len }))
}
