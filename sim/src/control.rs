//! Requests on the control queue: sessions. Ref: VIRTIO 1.2, 5.9.7.2.
//!
//! ```text
//!   readable   control request, 72 bytes | key
//!   writable   create: session id, status, padding, 16 bytes; destroy: status, 1 byte
//! ```

use tracing::debug;
use zerocopy::{FromBytes, FromZeros, IntoBytes};
use zeroize::Zeroizing;

use crate::chain::{Chain, Cursor};
use crate::config::{Quirks, SimConfig};
use crate::crypto::{Cipher, Direction, Mode};
use crate::dma::DmaMap;
use crate::error::DriverError;
use crate::faults::Faults;
use crate::sessions::Sessions;
use crate::wire::{self, CipherSession, ControlRequest, DestroySession, SessionInput};

/// Longest cipher key that the config announces, in bytes.
pub(crate) const MAX_CIPHER_KEY: u32 = 64;

const REQUEST: u64 = size_of::<ControlRequest>() as u64;

/// Serves one request: how many bytes were written.
pub(crate) fn serve(
    queue: u16,
    chain: &Chain,
    dma: &DmaMap,
    sessions: &mut Sessions,
    faults: &mut Faults,
    config: &SimConfig,
) -> Result<u32, DriverError> {
    let truncated = || DriverError::Truncated {
        queue,
        head: chain.head,
        readable: chain.readable_len,
        writable: chain.writable_len,
    };
    let mut request = ControlRequest::new_zeroed();
    let mut cursor = chain.readable();
    cursor.read(dma, request.as_mut_bytes()).ok_or_else(truncated)?;
    let opcode = request.header.opcode.get();
    let one_byte = match opcode {
        wire::CIPHER_DESTROY_SESSION => Some(destroy(&request, sessions, config)),
        wire::HASH_DESTROY_SESSION
        | wire::MAC_DESTROY_SESSION
        | wire::AEAD_DESTROY_SESSION
        | wire::AKCIPHER_DESTROY_SESSION => Some(match config.quirks {
            // QEMU looks at the id alone.
            Quirks::Qemu => destroy(&request, sessions, config),
            Quirks::None => wire::NOTSUPP,
        }),
        _ => None,
    };
    if let Some(status) = one_byte {
        chain.writable().write(dma, &[status]).ok_or_else(truncated)?;
        return Ok(1);
    }
    // QEMU finds out when the session is there already; nobody will know its id.
    let least = if config.quirks.qemu() { 1 } else { size_of::<SessionInput>() as u64 };
    if chain.writable_len < least {
        return Err(truncated());
    }
    let creates = matches!(opcode, wire::CIPHER_CREATE_SESSION | wire::AKCIPHER_CREATE_SESSION);
    let outcome = if creates && faults.any() && faults.refuses_session() {
        debug!("session refused: a fault that was asked for");
        Err(wire::NOSPC)
    } else if opcode == wire::CIPHER_CREATE_SESSION {
        create(queue, chain, &request, cursor, dma, sessions, config)?
    } else if opcode == wire::AKCIPHER_CREATE_SESSION && config.quirks.qemu() {
        debug!("asymmetric session refused: no key can be read");
        Err(wire::ERR)
    } else {
        debug!(opcode, "control request refused: no such opcode");
        Err(wire::NOTSUPP)
    };
    let (id, status) = match outcome {
        Ok(id) => (id, wire::OK),
        Err(status) => (0, status),
    };
    let answer = SessionInput { session_id: id.into(), status: u32::from(status).into(), padding: 0.into() };
    chain.writable().write(dma, answer.as_bytes()).ok_or_else(truncated)?;
    Ok(size_of::<SessionInput>() as u32)
}

/// Creates a session: its id, or the status why not.
fn create(
    queue: u16,
    chain: &Chain,
    request: &ControlRequest,
    mut rest: Cursor<'_>,
    dma: &DmaMap,
    sessions: &mut Sessions,
    config: &SimConfig,
) -> Result<Result<u64, u8>, DriverError> {
    let qemu = config.quirks == Quirks::Qemu;
    let refuse = |status: u8, why: &str| {
        debug!(status, why, "session refused");
        Ok(Err(status))
    };
    let Ok(body) = CipherSession::read_from_bytes(&request.body) else {
        return refuse(wire::ERR, "the body has no such size");
    };
    if body.op_type.get() != wire::SYM_OP_CIPHER {
        return refuse(wire::NOTSUPP, "it is not a plain cipher");
    }
    let (algo, keylen) = (body.algo.get(), body.keylen.get());
    if keylen > MAX_CIPHER_KEY {
        return refuse(wire::ERR, "the key is longer than the config says");
    }
    if chain.readable_len < REQUEST + u64::from(keylen) {
        if qemu {
            let why = "the key is not in the chain";
            return Err(DriverError::Qemu { queue, head: chain.head, why });
        }
        return refuse(wire::ERR, "the key is not in the chain");
    }
    let mut key = Zeroizing::new([0_u8; MAX_CIPHER_KEY as usize]);
    let key = &mut key[..keylen as usize];
    if rest.read(dma, key).is_none() {
        return refuse(wire::ERR, "the key is not in the chain");
    }
    let Some(mode) = Mode::from_wire(algo) else {
        let status = if qemu { wire::ERR } else { wire::NOTSUPP };
        return refuse(status, "there is no such algorithm");
    };
    if !qemu && request.header.algo.get() != algo {
        return refuse(wire::ERR, "header and body name different algorithms");
    }
    if !qemu && request.header.queue_id.get() >= u32::from(config.queues) {
        return refuse(wire::ERR, "there is no such data queue");
    }
    let direction = match body.op.get() {
        wire::OP_ENCRYPT => Direction::Encrypt,
        wire::OP_DECRYPT => Direction::Decrypt,
        // What is not encryption is decryption.
        _ if qemu => Direction::Decrypt,
        _ => return refuse(wire::ERR, "there is no such direction"),
    };
    let Some(cipher) = Cipher::new(mode, direction, key) else {
        return refuse(wire::ERR, "AES has no keys of that length");
    };
    match sessions.add(cipher) {
        Some(id) => Ok(Ok(id)),
        None if qemu => refuse(wire::ERR, "the table is full"),
        None => refuse(wire::NOSPC, "the table is full"),
    }
}

fn destroy(request: &ControlRequest, sessions: &mut Sessions, config: &SimConfig) -> u8 {
    let id = DestroySession::read_from_bytes(&request.body).map(|body| body.session_id.get());
    match id {
        Ok(id) if sessions.remove(id) => wire::OK,
        _ => {
            debug!(?id, "destruction of an unknown session");
            if config.quirks == Quirks::Qemu { wire::ERR } else { wire::INVSESS }
        }
    }
}
