//! Requests of ciphers. Ref: VIRTIO 1.2, 5.9.7.6.
//!
//! ```text
//!   readable   request, 72 bytes | IV | source
//!   writable   destination, as long as the source | ... | status
//! ```
//!
//! With AES-XTS the IV is the tweak, 16 bytes, and a request is one data unit.

use super::{Job, Outcome, Refusal, Scratch, piece_len};
use crate::chain::Cursor;
use crate::crypto::cipher::{Cipher, Mode};
use crate::crypto::{BLOCK, Direction};
use crate::sessions::Sessions;
use crate::wire::{self, CipherRequest};

/// Serves one.
#[inline]
pub(super) fn serve(
    job: &Job<'_>,
    request: &CipherRequest,
    direction: Direction,
    mut source: Cursor<'_>,
    sessions: &Sessions,
    scratch: &mut Scratch,
) -> Outcome {
    let cipher = check(job, request, direction, sessions)?;
    // No IV in a mode that has one: QEMU goes on with the one that the last request left.
    let mut iv = cipher.kept_iv.get();
    let given = if request.iv_len.get() == 0 { 0 } else { cipher.mode.iv_len() as usize };
    source.read(job.dma, &mut iv[..given]).ok_or_else(|| job.truncated())?;
    let mut left = request.src_data_len.get() as usize;
    if !(cipher.mode.has_data_of(left) && (!job.qemu || left.is_multiple_of(BLOCK))) {
        cipher.kept_iv.set(iv);
        return Err(Refusal::Status(wire::ERR, "the data cannot be so long"));
    }
    if job.qemu && cipher.mode == Mode::Xts {
        // QEMU keeps the IV itself, not where it has come to.
        cipher.kept_iv.set(iv);
    }
    if !job.computes() {
        left = 0;
    }
    cipher.start(&mut iv).ok_or_else(|| job.truncated())?;
    let mut destination = job.chain.writable();
    while left != 0 {
        let piece = &mut scratch[..piece_len(left)];
        source.read(job.dma, piece).ok_or_else(|| job.truncated())?;
        cipher.apply(&mut iv, piece).ok_or_else(|| job.truncated())?;
        destination.write(job.dma, piece).ok_or_else(|| job.truncated())?;
        left -= piece.len();
    }
    if job.qemu && cipher.mode != Mode::Xts {
        cipher.kept_iv.set(iv);
    }
    Ok(request.dst_data_len.get())
}

/// Checks a request; the cipher that does it.
#[inline]
fn check<'s>(
    job: &Job<'_>,
    request: &CipherRequest,
    direction: Direction,
    sessions: &'s Sessions,
) -> Result<&'s Cipher, Refusal> {
    let qemu = job.qemu;
    let status = |status, why| Err(Refusal::Status(status, why));
    if request.op_type.get() != wire::SYM_OP_CIPHER {
        return status(wire::NOTSUPP, "it is not a plain cipher");
    }
    let [iv, src, dst] =
        [request.iv_len, request.src_data_len, request.dst_data_len].map(|len| u64::from(len.get()));
    if src != dst {
        return Err(job.lengths("source and destination differ in length"));
    }
    job.fits(iv + src, dst)?;
    let Some(cipher) = sessions.cipher(request.header.session_id.get()) else {
        return Err(no_cipher(job, request, sessions));
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

/// Why there is no cipher for a request.
#[cold]
fn no_cipher(job: &Job<'_>, request: &CipherRequest, sessions: &Sessions) -> Refusal {
    if !job.config.serves(wire::SERVICE_CIPHER) {
        return Refusal::Status(wire::NOTSUPP, "the service is not offered");
    }
    if job.qemu && sessions.get(request.header.session_id.get()).is_some() {
        return job.broken("it is symmetric, its session is for RSA");
    }
    Refusal::Status(wire::INVSESS, "there is no such session of a cipher")
}
