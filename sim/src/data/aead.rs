//! Requests of AEAD. Ref: VIRTIO 1.2, 5.9.7.7.
//!
//! ```text
//!              encryption                           decryption
//!   readable   request, 72 bytes | IV | source | AAD            the source is
//!              plaintext                            ciphertext, tag
//!   writable   ciphertext, tag | ... | status       plaintext | ... | status
//! ```
//!
//! Where the text is not clear, this is how it is read:
//!
//! - the parts stand in the order of `struct virtio_crypto_aead_data_vlf`: the AAD behind the source;
//! - the IV is `iv[iv_len]`, as that structure says. That "a full 16 bytes needs to be allocated", and that
//!   CCM's nonce stands at `&iv[1]`, is about memory that the field once pointed to: with the length of the
//!   nonce in `iv_len` no byte of the request is left for it;
//! - an IV of GCM of 16 bytes is J0 itself;
//! - only `dst_data[]` is said to have the tag, behind "the cipher result". To be decrypted, it can only
//!   come at the end of the source, and `src_data_len` counts it;
//! - `dst_data_len` "should be at least src_data_len + tag_len": to be encrypted, it must. To be decrypted, it
//!   must hold the plaintext. What is longer is not written, and not counted in the used length;
//! - the AAD is as long as the request says: stateless requests (whose parameters of the session are in the
//!   request) have `aad_len` there alone, so that the session's is no more than a hint;
//! - a request's `tag_len` is the session's, or 0: the kernel's header has no such field.
//!
//! A message that does not verify is answered BADMSG, and nothing of it is written: GCM and CCM go over it
//! twice. (A driver that changes it meanwhile gets what it then deserves.) ChaCha20-Poly1305 takes a
//! buffer as large as the source and one as large as the AAD, below `max_size` together.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

use super::{Job, Outcome, Refusal, Scratch};
use crate::chain::Cursor;
use crate::crypto::aead::{Aead, Begun, Running, Whole};
use crate::crypto::{BLOCK, Direction};
use crate::sessions::{Kind, Sessions};
use crate::wire::{self, AeadRequest};

/// Lengths in bytes that have been checked.
struct Lengths {
    aad: usize,
    /// Plaintext, or ciphertext without the tag.
    text: usize,
    tag: usize,
}

/// Serves one.
pub(super) fn serve(
    job: &Job<'_>,
    request: &AeadRequest,
    direction: Direction,
    mut source: Cursor<'_>,
    sessions: &Sessions,
    scratch: &mut Scratch,
) -> Outcome {
    let (aead, lengths) = check(job, request, direction, sessions)?;
    let written = match direction {
        Direction::Encrypt => lengths.text + lengths.tag,
        Direction::Decrypt => lengths.text,
    } as u32;
    if !job.computes() {
        return Ok(written);
    }
    let mut iv = [0; BLOCK];
    let iv = &mut iv[..request.iv_len.get() as usize];
    source.read(job.dma, iv).ok_or_else(|| job.truncated())?;
    let mut aad = source.clone();
    aad.skip(request.src_data_len.get() as usize).ok_or_else(|| job.truncated())?;
    match aead.begin(iv, lengths.aad as u64, lengths.text as u64) {
        Some(Begun::Pieces(run)) => in_pieces(job, run, direction, source, aad, &lengths, scratch)?,
        Some(Begun::Whole(whole)) => at_once(job, &whole, direction, source, aad, &lengths)?,
        None => return Err(Refusal::Status(wire::ERR, "IV or message cannot be so long")),
    }
    Ok(written)
}

/// Checks a request; the key that does it.
fn check<'s>(
    job: &Job<'_>,
    request: &AeadRequest,
    direction: Direction,
    sessions: &'s Sessions,
) -> Result<(&'s Aead, Lengths), Refusal> {
    let status = |status, why| Err(Refusal::Status(status, why));
    let [iv, aad, src, dst] = [request.iv_len, request.aad_len, request.src_data_len, request.dst_data_len]
        .map(|len| u64::from(len.get()));
    job.fits(iv + src + aad, dst)?;
    let Some(Kind::Aead(aead)) = sessions.get(request.header.session_id.get()) else {
        return status(wire::INVSESS, "there is no such session of AEAD");
    };
    if aead.direction != direction {
        return status(wire::ERR, "the session is for the other direction");
    }
    if aead.algorithm.to_wire() != request.header.algo.get() {
        return status(wire::ERR, "the session is for another algorithm");
    }
    if !aead.algorithm.has_iv_of(request.iv_len.get()) {
        return status(wire::ERR, "the IV has no such length");
    }
    let tag = u64::from(aead.tag_len);
    if request.tag_len.get() != 0 && request.tag_len.get() != aead.tag_len {
        return status(wire::ERR, "the session is for tags of another length");
    }
    let (text, room) = match direction {
        Direction::Encrypt => (Some(src), src + tag),
        Direction::Decrypt => (src.checked_sub(tag), src.saturating_sub(tag)),
    };
    let Some(text) = text else {
        return status(wire::ERR, "the source is shorter than a tag");
    };
    if dst < room {
        return status(wire::ERR, "the destination is too short for the result");
    }
    if text > aead.algorithm.longest(request.iv_len.get()) {
        return status(wire::ERR, "the message is too long for so long a nonce");
    }
    Ok((aead, Lengths { aad: aad as usize, text: text as usize, tag: tag as usize }))
}

/// GCM and CCM.
fn in_pieces(
    job: &Job<'_>,
    mut run: Running<'_>,
    direction: Direction,
    mut source: Cursor<'_>,
    mut aad: Cursor<'_>,
    lengths: &Lengths,
    scratch: &mut Scratch,
) -> Result<(), Refusal> {
    let failed = || job.truncated();
    job.pieces(&mut aad, lengths.aad, scratch, |piece| run.aad(piece))?;
    run.end_aad().ok_or_else(failed)?;
    let mut destination = job.chain.writable();
    match direction {
        Direction::Encrypt => {
            job.pieces(&mut source, lengths.text, scratch, |piece| {
                run.seal(piece)?;
                destination.write(job.dma, piece)
            })?;
            let tag = run.tag().ok_or_else(failed)?;
            destination.write(job.dma, &tag[..lengths.tag]).ok_or_else(failed)?;
        }
        Direction::Decrypt => {
            let mut again = source.clone();
            job.pieces(&mut source, lengths.text, scratch, |piece| run.verify(piece))?;
            let mut given = [0; BLOCK];
            source.read(job.dma, &mut given[..lengths.tag]).ok_or_else(failed)?;
            let tag = run.tag().ok_or_else(failed)?;
            if verify_slices_are_equal(&tag[..lengths.tag], &given[..lengths.tag]).is_err() {
                return Err(BAD);
            }
            run.rewind();
            job.pieces(&mut again, lengths.text, scratch, |piece| {
                run.open(piece)?;
                destination.write(job.dma, piece)
            })?;
        }
    }
    Ok(())
}

/// ChaCha20-Poly1305.
fn at_once(
    job: &Job<'_>,
    whole: &Whole<'_>,
    direction: Direction,
    mut source: Cursor<'_>,
    mut aad: Cursor<'_>,
    lengths: &Lengths,
) -> Result<(), Refusal> {
    let failed = || job.truncated();
    let with_tag = if direction == Direction::Decrypt { lengths.tag } else { 0 };
    let mut associated = Zeroizing::new(vec![0; lengths.aad]);
    aad.read(job.dma, &mut associated).ok_or_else(failed)?;
    let mut data = Zeroizing::new(vec![0; lengths.text + with_tag]);
    source.read(job.dma, &mut data).ok_or_else(failed)?;
    let mut destination = job.chain.writable();
    match direction {
        Direction::Encrypt => {
            let tag = whole.seal(&associated, &mut data).ok_or_else(failed)?;
            destination.write(job.dma, &data).ok_or_else(failed)?;
            destination.write(job.dma, tag.as_ref()).ok_or_else(failed)?;
        }
        Direction::Decrypt => {
            let plain = whole.open(&associated, &mut data).ok_or(BAD)?;
            destination.write(job.dma, plain).ok_or_else(failed)?;
        }
    }
    Ok(())
}

const BAD: Refusal = Refusal::Status(wire::BADMSG, "the tag does not match");
