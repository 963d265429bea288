//! Requests on the control queue: sessions. Ref: VIRTIO 1.2, 5.9.7.2; each service has a room of its own.
//!
//! ```text
//!   readable   control request, 72 bytes: header 16, body 56 | key
//!   writable   create: session id, status, padding, 16 bytes; destroy: status, 1 byte
//! ```

mod aead;
mod akcipher;
mod cipher;
mod hash;
mod mac;

use tracing::debug;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};
use zeroize::Zeroizing;

use crate::chain::{Chain, Cursor};
use crate::config::SimConfig;
use crate::dma::DmaMap;
use crate::error::DriverError;
use crate::faults::Faults;
use crate::sessions::{Kind, Sessions};
use crate::wire::{self, ControlRequest, DestroySession, SessionInput};

/// Longest cipher key that the config announces, in bytes.
pub(crate) const MAX_CIPHER_KEY: u32 = 64;
/// Longest authentication key that the config announces, in bytes.
pub(crate) const MAX_AUTH_KEY: u32 = 512;

const REQUEST: u64 = size_of::<ControlRequest>() as u64;

/// Why a session is not made.
#[derive(Debug)]
enum Refusal {
    /// The driver is told by a status.
    Status(u8, &'static str),
    /// The device goes to its error state.
    Broken(DriverError),
}

/// A request to create a session.
struct Creation<'a> {
    queue: u16,
    chain: &'a Chain,
    dma: &'a DmaMap,
    config: &'a SimConfig,
    request: &'a ControlRequest,
    /// What follows the request.
    rest: Cursor<'a>,
    qemu: bool,
}

impl Creation<'_> {
    /// The body as the service has it.
    fn body<T: FromBytes + KnownLayout + Immutable>(&self) -> Result<T, Refusal> {
        T::read_from_bytes(&self.request.body)
            .map_err(|_| Refusal::Status(wire::ERR, "the body has no such size"))
    }

    /// The key, of at most `most` bytes, which follow the request.
    fn key(&mut self, len: u32, most: u32) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        if len > most {
            return Err(Refusal::Status(wire::ERR, "the key is longer than it may be"));
        }
        let why = "the key is not in the chain";
        if self.chain.readable_len < REQUEST + u64::from(len) {
            let (queue, head) = (self.queue, self.chain.head);
            return Err(if self.qemu {
                Refusal::Broken(DriverError::Qemu { queue, head, why })
            } else {
                Refusal::Status(wire::ERR, why)
            });
        }
        let mut key = Zeroizing::new(vec![0; len as usize]);
        self.rest.read(self.dma, &mut key).ok_or(Refusal::Status(wire::ERR, why))?;
        Ok(key)
    }

    /// Checks what header and body have in common; QEMU does not look.
    fn check_header(&self, algo: u32) -> Result<(), Refusal> {
        let header = &self.request.header;
        if !self.qemu && header.algo.get() != algo {
            return Err(Refusal::Status(wire::ERR, "header and body name different algorithms"));
        }
        if !self.qemu && header.queue_id.get() >= u32::from(self.config.queues) {
            return Err(Refusal::Status(wire::ERR, "there is no such data queue"));
        }
        Ok(())
    }
}

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
    let mut rest = chain.readable();
    rest.read(dma, request.as_mut_bytes()).ok_or_else(truncated)?;
    let opcode = request.header.opcode.get();
    if matches!(
        opcode,
        wire::CIPHER_DESTROY_SESSION
            | wire::HASH_DESTROY_SESSION
            | wire::MAC_DESTROY_SESSION
            | wire::AEAD_DESTROY_SESSION
            | wire::AKCIPHER_DESTROY_SESSION
    ) {
        let status = destroy(&request, sessions, config);
        chain.writable().write(dma, &[status]).ok_or_else(truncated)?;
        return Ok(1);
    }
    // QEMU finds out when the session is there already; nobody will know its id.
    let qemu = config.quirks.qemu();
    let least = if qemu { 1 } else { size_of::<SessionInput>() as u64 };
    if chain.writable_len < least {
        return Err(truncated());
    }
    let create = match opcode {
        wire::CIPHER_CREATE_SESSION => Some(cipher::create as fn(Creation<'_>) -> Result<Kind, Refusal>),
        wire::HASH_CREATE_SESSION => Some(hash::create as _),
        wire::MAC_CREATE_SESSION => Some(mac::create as _),
        wire::AEAD_CREATE_SESSION => Some(aead::create as _),
        wire::AKCIPHER_CREATE_SESSION => Some(akcipher::create as _),
        _ => None,
    };
    let outcome = match create.filter(|_| config.serves(opcode >> 8)) {
        None => Err(Refusal::Status(wire::NOTSUPP, "there is no such opcode, or service")),
        Some(_) if faults.any() && faults.refuses_session() => {
            Err(Refusal::Status(wire::NOSPC, "a fault that was asked for"))
        }
        Some(create) => create(Creation { queue, chain, dma, config, request: &request, rest, qemu })
            .and_then(|kind| {
                let full = if qemu { wire::ERR } else { wire::NOSPC };
                sessions.add(kind).ok_or(Refusal::Status(full, "the table is full"))
            }),
    };
    let (id, status) = match outcome {
        Ok(id) => (id, wire::OK),
        Err(Refusal::Status(status, why)) => {
            debug!(opcode, status, why, "session refused");
            (0, status)
        }
        Err(Refusal::Broken(error)) => return Err(error),
    };
    let answer = SessionInput { session_id: id.into(), status: u32::from(status).into(), padding: 0.into() };
    chain.writable().write(dma, answer.as_bytes()).ok_or_else(truncated)?;
    Ok(size_of::<SessionInput>() as u32)
}

/// Ends a session of the opcode's service; QEMU looks at the id alone.
fn destroy(request: &ControlRequest, sessions: &mut Sessions, config: &SimConfig) -> u8 {
    let (qemu, service) = (config.quirks.qemu(), request.header.opcode.get() >> 8);
    if !qemu && !config.serves(service) {
        debug!(service, "destruction refused: the service is not offered");
        return wire::NOTSUPP;
    }
    let id = DestroySession::read_from_bytes(&request.body).map(|body| body.session_id.get());
    match id {
        Ok(id) if sessions.get(id).is_some_and(|kind| qemu || kind.service() == service) => {
            sessions.remove(id);
            wire::OK
        }
        _ => {
            debug!(?id, "destruction of an unknown session");
            if qemu { wire::ERR } else { wire::INVSESS }
        }
    }
}
