//! Sessions of ciphers. Ref: VIRTIO 1.2, 5.9.7.2.1, symmetric algorithms.
//!
//! ```text
//!   body   algo, keylen, op, padding | fill, 32 bytes | op_type, padding        key   keylen bytes
//! ```

use super::{Creation, MAX_CIPHER_KEY, Refusal};
use crate::crypto::Direction;
use crate::crypto::cipher::{Cipher, Mode};
use crate::sessions::Kind;
use crate::wire::{self, CipherSession};

pub(super) fn create(mut creation: Creation<'_>) -> Result<Kind, Refusal> {
    let qemu = creation.qemu;
    let refuse = |status, why| Err(Refusal::Status(status, why));
    let body: CipherSession = creation.body()?;
    if body.op_type.get() != wire::SYM_OP_CIPHER {
        return refuse(wire::NOTSUPP, "it is not a plain cipher");
    }
    let key = creation.key(body.keylen.get(), MAX_CIPHER_KEY)?;
    let algo = body.algo.get();
    let Some(mode) = Mode::from_wire(algo) else {
        let status = if qemu { wire::ERR } else { wire::NOTSUPP };
        return refuse(status, "there is no such algorithm");
    };
    creation.check_header(algo)?;
    let direction = match body.op.get() {
        wire::OP_ENCRYPT => Direction::Encrypt,
        wire::OP_DECRYPT => Direction::Decrypt,
        // What is not encryption is decryption.
        _ if qemu => Direction::Decrypt,
        _ => return refuse(wire::ERR, "there is no such direction"),
    };
    // AES-192 twice is no XTS of the standard; QEMU takes it.
    if !qemu && mode == Mode::Xts && key.len() == 48 {
        return refuse(wire::ERR, "XTS has no keys of that length");
    }
    match Cipher::new(mode, direction, &key) {
        Some(cipher) => Ok(Kind::Cipher(cipher)),
        None => refuse(wire::ERR, "AES has no keys of that length"),
    }
}
