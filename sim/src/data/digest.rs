//! Requests of hashes and MACs. Ref: VIRTIO 1.2, 5.9.7.4 and 5.9.7.5.
//!
//! ```text
//!   readable   request, 72 bytes | source
//!   writable   result | ... | status
//! ```
//!
//! The specification leaves open:
//!
//! - whether a session's `hash_result_len` may be shorter than what the algorithm gives (5.9.7.2.1): here
//!   it may, and the result is its leftmost bytes; zero and longer are refused;
//! - whether a request's `hash_result_len` may differ from the session's: here it may not.

use super::{Job, Outcome, Refusal, Scratch};
use crate::chain::Cursor;
use crate::sessions::{Kind, Sessions};
use crate::wire::{self, HashRequest};

/// Serves one.
pub(super) fn serve(
    job: &Job<'_>,
    request: &HashRequest,
    mut source: Cursor<'_>,
    sessions: &Sessions,
    scratch: &mut Scratch,
) -> Outcome {
    let status = |status, why| Err(Refusal::Status(status, why));
    let header = &request.header;
    let (src, len) = (request.src_data_len.get(), request.hash_result_len.get());
    job.fits(src.into(), len.into())?;
    let (algo, wanted, running) = match (header.opcode.get(), sessions.get(header.session_id.get())) {
        (wire::HASH, Some(Kind::Hash(hash))) => {
            (hash.algorithm.to_wire(), hash.result_len, hash.algorithm.begin())
        }
        (wire::MAC, Some(Kind::Mac(mac))) => (mac.algorithm.to_wire(), mac.result_len, mac.begin()),
        _ => return status(wire::INVSESS, "there is no such session of the service"),
    };
    if header.algo.get() != algo {
        return status(wire::ERR, "the session is for another algorithm");
    }
    if len != wanted {
        return status(wire::ERR, "the session is for a result of another length");
    }
    if job.computes() {
        let mut running = running;
        job.pieces(&mut source, src as usize, scratch, |piece| running.update(piece))?;
        let output = running.finish().ok_or_else(|| job.truncated())?;
        let result = output.as_slice().get(..len as usize).ok_or_else(|| job.truncated())?;
        job.chain.writable().write(job.dma, result).ok_or_else(|| job.truncated())?;
    }
    Ok(len)
}
