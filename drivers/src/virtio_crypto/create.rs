//! Control requests (5.9.7.2): creating a session of each kind, and destroying one.
//!
//! ```text
//!   0          16                       72
//!   | header   | parameters, 56 bytes   | key        readable
//!   | session id, status |                           writable
//! ```

use zerocopy::{Immutable, IntoBytes};

use super::config::{aead_number, algorithm_of, hash_number, mac_number, rsa_numbers};
use super::wire::{
    self, ControlHeader, CreateAeadSession, CreateCipherSession, CreateHashSession, CreateMacSession,
    CreateRsaSession, DestroySession, algorithm, opcode, operation,
};
use crate::algorithm::Direction;
use crate::engine::{Purpose, SessionSpec};

/// Bytes of a control request, the key not counted.
pub(super) const REQUEST: usize = 72;

fn direction_of(direction: Direction) -> u32 {
    match direction {
        Direction::Encrypt => operation::ENCRYPT,
        Direction::Decrypt => operation::DECRYPT,
    }
}

fn header(opcode: u32, algo: u32) -> ControlHeader {
    ControlHeader { opcode: opcode.into(), algo: algo.into(), ..Default::default() }
}

/// Writes what is asked for, and the key behind it; returns the bytes written.
fn put(buffer: &mut [u8], request: &(impl IntoBytes + Immutable), key: &[u8]) -> u32 {
    let bytes = request.as_bytes();
    let end = bytes.len() + key.len();
    buffer[..bytes.len()].copy_from_slice(bytes);
    buffer[bytes.len()..end].copy_from_slice(key);
    end as u32
}

/// Writes the request that creates the session of `spec`; returns its length with the key.
pub(super) fn fill(buffer: &mut [u8], spec: &SessionSpec) -> u32 {
    let key = &*spec.key;
    let key_len = (key.len() as u32).into();
    match spec.purpose {
        Purpose::Cipher(cipher, direction) => {
            let algo = algorithm_of(cipher);
            let request = CreateCipherSession {
                header: header(opcode::CIPHER_CREATE_SESSION, algo),
                algo: algo.into(),
                key_len,
                op: direction_of(direction).into(),
                op_type: wire::SYM_OP_CIPHER.into(),
                ..Default::default()
            };
            put(buffer, &request, key)
        }
        Purpose::Hash(hash) => {
            let algo = hash_number(hash);
            let request = CreateHashSession {
                header: header(opcode::HASH_CREATE_SESSION, algo),
                algo: algo.into(),
                hash_result_len: (hash.output_len() as u32).into(),
                ..Default::default()
            };
            put(buffer, &request, &[])
        }
        Purpose::Mac(mac) => {
            let algo = mac_number(mac);
            let request = CreateMacSession {
                header: header(opcode::MAC_CREATE_SESSION, algo),
                algo: algo.into(),
                hash_result_len: (mac.output_len() as u32).into(),
                auth_key_len: key_len,
                ..Default::default()
            };
            put(buffer, &request, key)
        }
        Purpose::Aead { aead, direction, tag_len, aad_len } => {
            let algo = aead_number(aead);
            let request = CreateAeadSession {
                header: header(opcode::AEAD_CREATE_SESSION, algo),
                algo: algo.into(),
                key_len,
                tag_len: tag_len.into(),
                aad_len: aad_len.into(),
                op: direction_of(direction).into(),
                ..Default::default()
            };
            put(buffer, &request, key)
        }
        Purpose::Rsa { private, padding } => {
            let (padding_algo, hash_algo) = rsa_numbers(padding);
            let request = CreateRsaSession {
                header: header(opcode::AKCIPHER_CREATE_SESSION, algorithm::RSA),
                algo: algorithm::RSA.into(),
                key_type: if private { wire::rsa::PRIVATE } else { wire::rsa::PUBLIC }.into(),
                key_len,
                padding_algo: padding_algo.into(),
                hash_algo: hash_algo.into(),
                ..Default::default()
            };
            put(buffer, &request, key)
        }
    }
}

/// Writes the request that destroys a session; returns its length.
pub(super) fn fill_destroy(buffer: &mut [u8], purpose: Purpose, id: u64) -> u32 {
    let opcode = match purpose {
        Purpose::Cipher(..) => opcode::CIPHER_DESTROY_SESSION,
        Purpose::Hash(_) => opcode::HASH_DESTROY_SESSION,
        Purpose::Mac(_) => opcode::MAC_DESTROY_SESSION,
        Purpose::Aead { .. } => opcode::AEAD_DESTROY_SESSION,
        Purpose::Rsa { .. } => opcode::AKCIPHER_DESTROY_SESSION,
    };
    let request = DestroySession { header: header(opcode, 0), session_id: id.into(), ..Default::default() };
    put(buffer, &request, &[])
}
