//! Requests on a data queue: ciphers. Ref: VIRTIO 1.2, 5.9.7.3, 5.9.8.
//!
//! ```text
//!   readable   request, 72 bytes | IV | source
//!   writable   destination | ... | status, the last byte
//! ```

use tracing::debug;
use zerocopy::{FromZeros, IntoBytes};
use zeroize::Zeroizing;

use crate::chain::Chain;
use crate::config::{Compute, SimConfig};
use crate::crypto::{BLOCK, Cipher, Direction};
use crate::dma::DmaMap;
use crate::error::DriverError;
use crate::sessions::Sessions;
use crate::wire::{self, CipherRequest};

/// Most bytes of IV, source and destination together.
pub(crate) const MAX_SIZE: u64 = 64 << 20;
/// QEMU's limit is as good as none.
pub(crate) const QEMU_MAX_SIZE: u64 = i64::MAX as u64 - 24;

/// Data goes through the device in pieces of this size: they stay in the first-level cache, and
/// the device's memory does not grow with what a driver asks for.
const PIECE: usize = 4 << 10;

/// Where a piece lies while it is transformed. Wiped at the end.
pub(crate) type Scratch = Zeroizing<Vec<u8>>;

pub(crate) fn scratch() -> Scratch {
    Zeroizing::new(vec![0; PIECE])
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
    let truncated = || DriverError::Truncated {
        queue,
        head: chain.head,
        readable: chain.readable_len,
        writable: chain.writable_len,
    };
    let mut request = CipherRequest::new_zeroed();
    let mut source = chain.readable();
    source.read(dma, request.as_mut_bytes()).ok_or_else(truncated)?;
    if chain.writable_len == 0 {
        return Err(truncated());
    }
    let qemu = config.quirks.qemu();
    let status = match check(&request, chain, sessions, config) {
        Ok(cipher) => {
            // No IV in a mode that has one: QEMU goes on with the one that the last request left.
            let mut iv = cipher.kept_iv.get();
            let given = if request.iv_len.get() == 0 { 0 } else { cipher.mode.iv_len() as usize };
            if source.read(dma, &mut iv[..given]).is_none() {
                return Err(truncated());
            }
            let whole = qemu || cipher.mode.whole_blocks();
            let refused = whole && !(request.src_data_len.get() as usize).is_multiple_of(BLOCK);
            let mut left = request.src_data_len.get() as usize;
            if config.compute == Compute::None || refused {
                left = 0;
            }
            let mut destination = chain.writable();
            while left != 0 {
                let piece = &mut scratch[..left.min(PIECE)];
                source.read(dma, piece).ok_or_else(truncated)?;
                cipher.apply(&mut iv, piece).ok_or_else(truncated)?;
                destination.write(dma, piece).ok_or_else(truncated)?;
                left -= piece.len();
            }
            if qemu {
                cipher.kept_iv.set(iv);
            }
            if refused {
                debug!(queue, "request refused: the data are not whole blocks");
                wire::ERR
            } else {
                wire::OK
            }
        }
        Err(Refusal::Status(status, why)) => {
            debug!(queue, status, why, "request refused");
            status
        }
        Err(Refusal::Qemu(why)) => return Err(DriverError::Qemu { queue, head: chain.head, why }),
    };
    chain.write_last(dma, status).ok_or_else(truncated)?;
    Ok(if qemu {
        chain.writable_len as u32
    } else if status == wire::OK {
        request.dst_data_len.get() + 1
    } else {
        1
    })
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

/// Why a request is not done.
enum Refusal {
    /// The driver is told by a status.
    Status(u8, &'static str),
    /// The device goes to its error state.
    Qemu(&'static str),
}

/// Checks a request; the cipher that does it.
#[inline]
fn check<'s>(
    request: &CipherRequest,
    chain: &Chain,
    sessions: &'s Sessions,
    config: &SimConfig,
) -> Result<&'s Cipher, Refusal> {
    let qemu = config.quirks.qemu();
    let status = |status, why| Err(Refusal::Status(status, why));
    let lengths = |why| Err(if qemu { Refusal::Qemu(why) } else { Refusal::Status(wire::ERR, why) });
    let direction = match request.header.opcode.get() {
        wire::CIPHER_ENCRYPT => Direction::Encrypt,
        wire::CIPHER_DECRYPT => Direction::Decrypt,
        wire::AKCIPHER_ENCRYPT..=wire::AKCIPHER_VERIFY if qemu => {
            return match sessions.get(request.header.session_id.get()) {
                Some(_) => Err(Refusal::Qemu("it is asymmetric, its session is for a cipher")),
                None => status(wire::INVSESS, "there is no such session"),
            };
        }
        _ => return status(wire::NOTSUPP, "there is no such opcode"),
    };
    if request.op_type.get() != wire::SYM_OP_CIPHER {
        return status(wire::NOTSUPP, "it is not a plain cipher");
    }
    let [iv, src, dst] =
        [request.iv_len, request.src_data_len, request.dst_data_len].map(|len| u64::from(len.get()));
    if src != dst {
        return lengths("source and destination differ in length");
    }
    if iv + src + dst > if qemu { QEMU_MAX_SIZE } else { MAX_SIZE } {
        return lengths("it is larger than max_size");
    }
    if size_of::<CipherRequest>() as u64 + iv + src > chain.readable_len {
        return lengths("the chain has fewer readable bytes than the lengths say");
    }
    if dst + 1 > chain.writable_len {
        return lengths("the chain has fewer writable bytes than the lengths say");
    }
    let Some(cipher) = sessions.get(request.header.session_id.get()) else {
        return status(wire::INVSESS, "there is no such session");
    };
    if !qemu && cipher.direction != direction {
        return status(wire::ERR, "the session is for the other direction");
    }
    if !qemu && cipher.mode.to_wire() != request.header.algo.get() {
        return status(wire::ERR, "the session is for another algorithm");
    }
    if request.iv_len.get() != cipher.mode.iv_len() && !(qemu && iv == 0) {
        return status(wire::ERR, "the IV has no such length");
    }
    Ok(cipher)
}
