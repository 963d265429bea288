//! Sessions of message authentication codes. Ref: VIRTIO 1.2, 5.9.7.2.1, MAC session.
//!
//! ```text
//!   body   algo, hash_result_len, auth_key_len, padding | fill, 40 bytes        key   auth_key_len bytes
//! ```

use super::{Creation, MAX_AUTH_KEY, Refusal};
use crate::crypto::mac::{Algorithm, Mac};
use crate::sessions::Kind;
use crate::wire::{self, MacSession};

pub(super) fn create(mut creation: Creation<'_>) -> Result<Kind, Refusal> {
    let refusal = |why| Refusal::Status(wire::ERR, why);
    let body: MacSession = creation.body()?;
    let (algo, result_len) = (body.algo.get(), body.hash_result_len.get());
    let key = creation.key(body.auth_key_len.get(), MAX_AUTH_KEY)?;
    let algorithm =
        Algorithm::from_wire(algo).ok_or(Refusal::Status(wire::NOTSUPP, "there is no such algorithm"))?;
    creation.check_header(algo)?;
    if !(1..=algorithm.len()).contains(&result_len) {
        return Err(refusal("the code is not so long"));
    }
    let mac = Mac::new(algorithm, &key, result_len).ok_or(refusal("AES has no keys of that length"))?;
    Ok(Kind::Mac(Box::new(mac)))
}
