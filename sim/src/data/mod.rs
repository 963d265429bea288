//! Requests on a data queue. Ref: VIRTIO 1.2, 5.9.7.3; each service has a room of its own.
//!
//! ```text
//!   readable   request, 72 bytes: header 24, parameters 48 | what the service reads
//!   writable   what it writes | ... | status, the last byte
//! ```

mod aead;
mod akcipher;
mod cipher;
mod digest;

use tracing::debug;
use zerocopy::{FromZeros, IntoBytes, transmute_ref};
use zeroize::Zeroizing;

use crate::chain::{Chain, Cursor};
use crate::config::{Compute, SimConfig};
use crate::crypto::{BLOCK, Direction};
use crate::dma::DmaMap;
use crate::error::DriverError;
use crate::sessions::Sessions;
use crate::wire::{self, CipherRequest};

/// Most bytes of all that a request's lengths name: IV, source, AAD, destination or result.
pub(crate) const MAX_SIZE: u64 = 64 << 20;
/// QEMU's limit is as good as none.
pub(crate) const QEMU_MAX_SIZE: u64 = i64::MAX as u64 - 24;

/// Bytes of the fixed part.
const REQUEST: u64 = size_of::<CipherRequest>() as u64;

/// Data goes through the device in pieces of this size: they stay in the first-level cache, and
/// the device's memory does not grow with what a driver asks for.
const PIECE: usize = 4 << 10;

/// Where a piece lies while it is transformed. Wiped at the end.
pub(crate) type Scratch = Zeroizing<Vec<u8>>;

pub(crate) fn scratch() -> Scratch {
    Zeroizing::new(vec![0; PIECE])
}

/// How many of `left` bytes the next piece has: whole blocks, but for the last, and never less than a
/// block is left for that.
#[inline]
fn piece_len(left: usize) -> usize {
    if left > PIECE && left - PIECE < BLOCK { PIECE - BLOCK } else { left.min(PIECE) }
}

/// The request being served.
struct Job<'a> {
    queue: u16,
    chain: &'a Chain,
    dma: &'a DmaMap,
    config: &'a SimConfig,
    qemu: bool,
}

/// How many bytes a service has written, or why it has not.
type Outcome = Result<u32, Refusal>;

/// Why a request is not done.
#[derive(Debug)]
enum Refusal {
    /// The driver is told by a status.
    Status(u8, &'static str),
    /// The device goes to its error state.
    Broken(DriverError),
}

impl Job<'_> {
    fn truncated(&self) -> DriverError {
        DriverError::Truncated {
            queue: self.queue,
            head: self.chain.head,
            readable: self.chain.readable_len,
            writable: self.chain.writable_len,
        }
    }

    /// What ends QEMU's device.
    #[cold]
    fn broken(&self, why: &'static str) -> Refusal {
        Refusal::Broken(DriverError::Qemu { queue: self.queue, head: self.chain.head, why })
    }

    /// Lengths that cannot be: a status, and the end of QEMU's device.
    #[cold]
    fn lengths(&self, why: &'static str) -> Refusal {
        if self.qemu { self.broken(why) } else { Refusal::Status(wire::ERR, why) }
    }

    /// Checks that the parts of a request are no longer than they may be, and are there.
    #[inline]
    fn fits(&self, readable: u64, writable: u64) -> Result<(), Refusal> {
        if readable + writable > if self.qemu { QEMU_MAX_SIZE } else { MAX_SIZE } {
            return Err(self.lengths("it is larger than max_size"));
        }
        if REQUEST + readable > self.chain.readable_len {
            return Err(self.lengths("the chain has fewer readable bytes than the lengths say"));
        }
        if writable + 1 > self.chain.writable_len {
            return Err(self.lengths("the chain has fewer writable bytes than the lengths say"));
        }
        Ok(())
    }

    /// Whether the arithmetic is done.
    #[inline]
    fn computes(&self) -> bool {
        self.config.compute == Compute::Full
    }

    /// Gives the next `len` bytes away in pieces.
    fn pieces(
        &self,
        source: &mut Cursor<'_>,
        len: usize,
        scratch: &mut [u8],
        mut take: impl FnMut(&mut [u8]) -> Option<()>,
    ) -> Result<(), Refusal> {
        let mut left = len;
        while left != 0 {
            let piece = &mut scratch[..piece_len(left)];
            source.read(self.dma, piece).ok_or_else(|| self.truncated())?;
            take(piece).ok_or_else(|| self.truncated())?;
            left -= piece.len();
        }
        Ok(())
    }
}

impl From<DriverError> for Refusal {
    fn from(error: DriverError) -> Self {
        Self::Broken(error)
    }
}

/// Serves one request: how many bytes were written.
#[inline]
pub(crate) fn serve(
    queue: u16,
    chain: &Chain,
    dma: &DmaMap,
    sessions: &Sessions,
    scratch: &mut Scratch,
    config: &SimConfig,
) -> Result<u32, DriverError> {
    let job = Job { queue, chain, dma, config, qemu: config.quirks.qemu() };
    let mut request = CipherRequest::new_zeroed();
    let mut source = chain.readable();
    source.read(dma, request.as_mut_bytes()).ok_or_else(|| job.truncated())?;
    if chain.writable_len == 0 {
        return Err(job.truncated());
    }
    let outcome = match request.header.opcode.get() {
        wire::CIPHER_ENCRYPT => cipher::serve(&job, &request, Direction::Encrypt, source, sessions, scratch),
        wire::CIPHER_DECRYPT => cipher::serve(&job, &request, Direction::Decrypt, source, sessions, scratch),
        opcode => other(&job, opcode, &request, source, sessions, scratch),
    };
    let (status, written) = match outcome {
        Ok(written) => (wire::OK, written),
        Err(Refusal::Status(status, why)) => {
            debug!(queue, status, why, "request refused");
            (status, 0)
        }
        Err(Refusal::Broken(error)) => return Err(error),
    };
    chain.write_last(dma, status).ok_or_else(|| job.truncated())?;
    Ok(if job.qemu && !(written != 0 && is_asymmetric(&request)) {
        chain.writable_len as u32
    } else {
        written + 1
    })
}

/// Whether it is of the service whose used lengths say what was written with QEMU, too.
fn is_asymmetric(request: &CipherRequest) -> bool {
    request.header.opcode.get() >> 8 == wire::SERVICE_AKCIPHER
}

/// Serves what is not for a cipher.
#[inline(never)]
fn other(
    job: &Job<'_>,
    opcode: u32,
    request: &CipherRequest,
    source: Cursor<'_>,
    sessions: &Sessions,
    scratch: &mut Scratch,
) -> Outcome {
    if !job.config.serves(opcode >> 8) {
        return Err(Refusal::Status(wire::NOTSUPP, "the service is not offered"));
    }
    match opcode {
        wire::HASH | wire::MAC => digest::serve(job, transmute_ref!(request), source, sessions, scratch),
        wire::AEAD_ENCRYPT => {
            aead::serve(job, transmute_ref!(request), Direction::Encrypt, source, sessions, scratch)
        }
        wire::AEAD_DECRYPT => {
            aead::serve(job, transmute_ref!(request), Direction::Decrypt, source, sessions, scratch)
        }
        wire::AKCIPHER_ENCRYPT..=wire::AKCIPHER_VERIFY => {
            akcipher::serve(job, transmute_ref!(request), source, sessions)
        }
        _ => Err(Refusal::Status(wire::NOTSUPP, "there is no such opcode")),
    }
}

/// Answers a request by `status` alone: how many bytes were written.
pub(crate) fn refuse(
    queue: u16,
    chain: &Chain,
    dma: &DmaMap,
    status: u8,
    config: &SimConfig,
) -> Result<u32, DriverError> {
    chain.write_last(dma, status).ok_or(DriverError::Truncated {
        queue,
        head: chain.head,
        readable: chain.readable_len,
        writable: chain.writable_len,
    })?;
    Ok(if config.quirks.qemu() { chain.writable_len as u32 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_piece_but_the_last_has_a_part_of_a_block_and_that_has_a_block_before_it() {
        for len in (0..40).chain(PIECE - 40..PIECE + 40).chain(2 * PIECE - 40..2 * PIECE + 40) {
            let mut left = len;
            while left != 0 {
                let n = piece_len(left);
                assert!(n <= PIECE && n <= left);
                assert!(n == left || n.is_multiple_of(BLOCK), "{len}");
                assert!(n != left || n >= BLOCK || len < BLOCK, "{len}: {n}");
                left -= n;
            }
        }
    }
}
