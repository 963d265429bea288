//! Asymmetric requests: RSA. Ref: VIRTIO 1.2, 5.9.7.8.
//!
//! ```text
//!              encrypt, decrypt, sign               verify
//!   readable   request, 72 bytes | source           request, 72 bytes | signature | digest
//!   writable   result | ... | status                status
//! ```
//!
//! To be verified, `src_data_len` is the length of the signature and `dst_data_len` that of the digest. A
//! result may be shorter than `dst_data_len`: the used length says how much was written. A result that
//! does not fit is an error.
//!
//! Where the text is not clear, this is how it is read:
//!
//! - raw sources "MUST be padded with leading zeros": they are as long as the modulus. (QEMU takes
//!   shorter ones.) Raw results are, too;
//! - raw sessions "MUST not be used for verification and signing operations": NOTSUPP, like all that a
//!   service has not;
//! - PKCS#1 without a hash signs what it is given, padded as it is (the driver brings the DigestInfo);
//! - a key that is private does what the public one does, too; a public one that is to decrypt or sign is
//!   ERR;
//! - whatever does not verify is KEY_REJECTED, also where lengths are wrong. ("BADMSG if the verification
//!   result is incorrect" is in the list of this service too, but 5.9.7.1 has it for AEAD alone.) A
//!   decryption whose padding is wrong is ERR.

use zeroize::Zeroizing;

use super::{Job, Outcome, Refusal};
use crate::chain::Cursor;
use crate::crypto::rsa::{Bytes, LONGEST, Padding, Rsa};
use crate::sessions::{Kind, Sessions};
use crate::wire::{self, AkcipherRequest};

/// Serves one.
pub(super) fn serve(
    job: &Job<'_>,
    request: &AkcipherRequest,
    mut source: Cursor<'_>,
    sessions: &Sessions,
) -> Outcome {
    let opcode = request.header.opcode.get();
    let (src, dst) = (request.src_data_len.get() as usize, request.dst_data_len.get() as usize);
    let key = check(job, request, sessions)?;
    let verifies = opcode == wire::AKCIPHER_VERIFY;
    let status = |status, why| Refusal::Status(status, why);
    if key.padding == Padding::Raw && matches!(opcode, wire::AKCIPHER_SIGN | wire::AKCIPHER_VERIFY) {
        return Err(match (job.qemu, verifies) {
            (false, _) => status(wire::NOTSUPP, "a raw session does not sign"),
            (true, false) => status(wire::ERR, "a raw session does not sign"),
            (true, true) => status(wire::KEY_REJECTED, "a raw session does not verify"),
        });
    }
    if !job.computes() {
        return Ok(if verifies { 0 } else { dst.min(key.len()) as u32 });
    }
    // No more than a modulus is ever looked at.
    if src > LONGEST || verifies && dst > LONGEST {
        return Err(if verifies {
            status(wire::KEY_REJECTED, "signature or digest are longer than any")
        } else {
            status(wire::ERR, "the source is longer than any modulus")
        });
    }
    let mut data = Zeroizing::new(vec![0; src]);
    source.read(job.dma, &mut data).ok_or_else(|| job.truncated())?;
    if verifies {
        let mut digest = vec![0; dst];
        source.read(job.dma, &mut digest).ok_or_else(|| job.truncated())?;
        return if key.verify(&data, &digest) {
            Ok(0)
        } else {
            Err(status(wire::KEY_REJECTED, "it is not the signature"))
        };
    }
    let raw_length = job.qemu || key.padding != Padding::Raw || src == key.len();
    let result: Option<Bytes> = match opcode {
        _ if !raw_length => None,
        wire::AKCIPHER_ENCRYPT => key.encrypt(&data),
        wire::AKCIPHER_DECRYPT => key.decrypt(&data),
        _ => key.sign(&data),
    };
    let result = result.ok_or(status(wire::ERR, "the key cannot do that with the source"))?;
    if result.len() > dst {
        return Err(status(wire::ERR, "the destination is too short for the result"));
    }
    job.chain.writable().write(job.dma, &result).ok_or_else(|| job.truncated())?;
    Ok(result.len() as u32)
}

/// Checks a request; the key that does it.
fn check<'s>(job: &Job<'_>, request: &AkcipherRequest, sessions: &'s Sessions) -> Result<&'s Rsa, Refusal> {
    let [src, dst] = [request.src_data_len, request.dst_data_len].map(|len| u64::from(len.get()));
    if request.header.opcode.get() == wire::AKCIPHER_VERIFY {
        job.fits(src + dst, 0)?;
    } else {
        job.fits(src, dst)?;
    }
    let key = match sessions.get(request.header.session_id.get()) {
        Some(Kind::Rsa(key)) => key,
        Some(_) if job.qemu => return Err(job.broken("it is asymmetric, its session is for a cipher")),
        _ => return Err(Refusal::Status(wire::INVSESS, "there is no such session of RSA")),
    };
    if !job.qemu && request.header.algo.get() != wire::AKCIPHER_RSA {
        return Err(Refusal::Status(wire::ERR, "the session is for another algorithm"));
    }
    Ok(key)
}
