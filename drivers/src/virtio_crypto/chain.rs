//! Requests of any kind, with a descriptor chain in DMA memory of their own: all that is not a plain
//! cipher on one buffer.
//!
//! ```text
//!   0              16 n       +72    +88          8-aligned
//!   | table        | request  | IV   | AAD ...    | result | status |    the chain's own memory
//!   |  [0] --------+-> request and IV             |        |        |    readable
//!   |  [1..] -> source buffers                    |        |        |    readable
//!   |  [.] ---------------------------> AAD       |        |        |    readable, where there is one
//!   |  [..] -> destination buffers                |        |        |    writable
//!   |  [n-1] -------------------------------------+-> result, status     writable
//! ```
//!
//! It is put together once and used again; an operation writes the session's id and the status byte,
//! and points the slot's descriptor in the ring here (data.rs). With INDIRECT_DESC a request may have as
//! many buffers as the table may have entries; without, the chain stands in the slot's four descriptors
//! in the ring, and a request that needs more is refused.
//!
//! The result in the chain's memory is a digest or a code; ciphers, AEAD and RSA write to buffers. An
//! empty part gets no descriptor: a length of zero is not allowed (2.7.5).

use std::mem::{offset_of, size_of};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use zerocopy::{Immutable, IntoBytes};

use super::config::{aead_number, algorithm_of, hash_number, mac_number};
use super::data::{NOT_WRITTEN, Place};
use super::status;
use super::wire::{
    self, AeadRequest, AkcipherRequest, CipherRequest, DataHeader, HashRequest, algorithm, opcode,
};
use crate::algorithm::{Aead, Cipher, Direction, Hash, Mac, RsaOperation};
use crate::dma::{Arena, DmaBuffer};
use crate::engine::DeviceStatus;
use crate::error::{Error, Lie, Result};
use crate::virtqueue::Descriptor;

const REQUEST: usize = size_of::<CipherRequest>();
/// Bytes that an IV has room for.
const IV: usize = 16;

/// What a chain is to do. Lengths are those of the sources and destinations.
#[derive(Clone, Copy, Debug)]
pub enum ChainOperation<'a> {
    /// Encrypt or decrypt: as many bytes out as in.
    Cipher {
        /// Cipher.
        cipher: Cipher,
        /// Direction.
        direction: Direction,
        /// IV, of the cipher's length.
        iv: &'a [u8],
    },
    /// Hash the sources.
    Hash(Hash),
    /// Compute the code of the sources.
    Mac(Mac),
    /// Seal or open. The tag is the last part of what is sealed, in the destination or the source.
    Aead {
        /// Algorithm.
        aead: Aead,
        /// Direction.
        direction: Direction,
        /// Bytes of the tag.
        tag_len: u32,
        /// Nonce, at most 16 bytes.
        nonce: &'a [u8],
        /// Associated data.
        aad: &'a [u8],
    },
    /// Work with an RSA key.
    Rsa {
        /// What to do.
        operation: RsaOperation,
        /// For [`RsaOperation::Verify`]: how many of the sources' last bytes are the digest.
        digest_len: u32,
    },
}

/// A request with a chain of its own.
pub struct ChainJob {
    memory: DmaBuffer,
    /// The chain, for rings without indirect tables.
    chain: Box<[Descriptor]>,
    entries: usize,
    /// Bytes that the device may write, the status not counted.
    writable: u32,
    /// The result has exactly so many.
    exact: bool,
    nonce_len: usize,
    aad_len: usize,
    result_at: usize,
    result_len: usize,
    /// Bytes that the device said it had written, the status not counted.
    written: AtomicU32,
}

/// Bytes of places, as the lengths on the wire have it.
fn total(places: &[Place]) -> Result<u32> {
    let sum = places.iter().map(|place| u64::from(place.len)).sum::<u64>();
    u32::try_from(sum).map_err(|_| Error::Invalid(format!("{sum} bytes do not fit into one request")))
}

impl ChainJob {
    /// Puts a chain together, of at most `longest` descriptors and `max_size` bytes besides the request
    /// itself (5.9.5).
    ///
    /// # Errors
    /// [`Error::NoRoom`] when there is no memory for it at the moment; [`Error::Invalid`] for a chain that
    /// the device does not take.
    pub fn new(
        arena: &Arc<Arena>,
        operation: &ChainOperation<'_>,
        sources: &[Place],
        destinations: &[Place],
        longest: usize,
        max_size: u64,
    ) -> Result<Self> {
        let (read, write) = (total(sources)?, total(destinations)?);
        let (nonce, aad, result_len): (&[u8], &[u8], usize) = match *operation {
            ChainOperation::Cipher { iv, .. } => (iv, &[], 0),
            ChainOperation::Hash(hash) => (&[], &[], hash.output_len()),
            ChainOperation::Mac(mac) => (&[], &[], mac.output_len()),
            ChainOperation::Aead { nonce, aad, .. } => (nonce, aad, 0),
            ChainOperation::Rsa { .. } => (&[], &[], 0),
        };
        let variable = nonce.len() as u64 + aad.len() as u64 + result_len as u64;
        let all = variable + u64::from(read) + u64::from(write);
        if all > max_size || all + 256 > u64::from(u32::MAX) {
            return Err(Error::Invalid(format!(
                "a request of {all} bytes in all is more than the device takes, {max_size}"
            )));
        }
        let full = |places: &[Place]| places.iter().filter(|place| place.len != 0).count();
        let entries = 2 + full(sources) + full(destinations) + usize::from(!aad.is_empty());
        if entries > longest {
            return Err(Error::Invalid(format!(
                "a request over {} buffers takes {entries} descriptors; the device takes {longest}",
                sources.len() + destinations.len()
            )));
        }
        let request_at = entries * Descriptor::SIZE;
        let aad_at = request_at + REQUEST + IV;
        let result_at = (aad_at + aad.len()).next_multiple_of(8);
        let mut memory = arena.buffer(result_at + result_len + 1)?;
        memory.fill(0);
        let iova = memory.iova();
        let request = Descriptor {
            address: iova + request_at as u64,
            len: (REQUEST + nonce.len()) as u32,
            flags: 0,
            next: 0,
        };
        let own = |at: usize, len: usize| Place { iova: iova + at as u64, len: len as u32 };
        let aad_place = [own(aad_at, aad.len())];
        let result_place = [own(result_at, result_len + 1)];
        let readable = sources.iter().chain(&aad_place).map(|place| (place, 0));
        let writable = destinations.iter().chain(&result_place).map(|place| (place, Descriptor::WRITE));
        let places = readable.chain(writable).filter(|(place, _)| place.len != 0);
        let others =
            places.map(|(place, flags)| Descriptor { address: place.iova, len: place.len, flags, next: 0 });
        let mut chain: Vec<Descriptor> = [request].into_iter().chain(others).collect();
        for (index, descriptor) in (1..entries as u16).zip(&mut chain) {
            descriptor.flags |= Descriptor::NEXT;
            descriptor.next = index;
        }
        for (index, descriptor) in chain.iter().enumerate() {
            let at = index * Descriptor::SIZE;
            memory[at..at + Descriptor::SIZE].copy_from_slice(&descriptor.to_bytes());
        }
        memory[aad_at..aad_at + aad.len()].copy_from_slice(aad);
        let mut job = Self {
            memory,
            chain: chain.into(),
            entries,
            writable: write + result_len as u32,
            // Ciphertexts and signatures are as long as the modulus (RFC 8017, 7.2.1, 8.2.1).
            exact: matches!(
                operation,
                ChainOperation::Rsa { operation: RsaOperation::Encrypt | RsaOperation::Sign, .. }
            ),
            nonce_len: nonce.len(),
            aad_len: aad.len(),
            result_at,
            result_len,
            written: AtomicU32::new(0),
        };
        job.set_nonce(nonce);
        job.put_request(operation, read, write);
        Ok(job)
    }

    fn request_at(&self) -> usize {
        self.entries * Descriptor::SIZE
    }

    fn put_request(&mut self, operation: &ChainOperation<'_>, read: u32, write: u32) {
        let header = |opcode: u32, algo: u32| DataHeader {
            opcode: opcode.into(),
            algo: algo.into(),
            ..Default::default()
        };
        match *operation {
            ChainOperation::Cipher { cipher, direction, iv } => {
                let opcode = match direction {
                    Direction::Encrypt => opcode::CIPHER_ENCRYPT,
                    Direction::Decrypt => opcode::CIPHER_DECRYPT,
                };
                self.put(&CipherRequest {
                    opcode: opcode.into(),
                    algo: algorithm_of(cipher).into(),
                    iv_len: (iv.len() as u32).into(),
                    src_data_len: read.into(),
                    dst_data_len: write.into(),
                    op_type: wire::SYM_OP_CIPHER.into(),
                    ..Default::default()
                });
            }
            ChainOperation::Hash(hash) => self.put(&HashRequest {
                header: header(opcode::HASH, hash_number(hash)),
                src_data_len: read.into(),
                hash_result_len: (hash.output_len() as u32).into(),
                ..Default::default()
            }),
            ChainOperation::Mac(mac) => self.put(&HashRequest {
                header: header(opcode::MAC, mac_number(mac)),
                src_data_len: read.into(),
                hash_result_len: (mac.output_len() as u32).into(),
                ..Default::default()
            }),
            ChainOperation::Aead { aead, direction, tag_len, nonce, aad } => {
                let opcode = match direction {
                    Direction::Encrypt => opcode::AEAD_ENCRYPT,
                    Direction::Decrypt => opcode::AEAD_DECRYPT,
                };
                self.put(&AeadRequest {
                    header: header(opcode, aead_number(aead)),
                    iv_len: (nonce.len() as u32).into(),
                    aad_len: (aad.len() as u32).into(),
                    src_data_len: read.into(),
                    dst_data_len: write.into(),
                    tag_len: tag_len.into(),
                    ..Default::default()
                });
            }
            ChainOperation::Rsa { operation, digest_len } => {
                // Of a verification the signature is the source and the digest behind it is what the
                // destination's length counts, though nothing is written (5.9.7.8).
                let (opcode, read, write) = match operation {
                    RsaOperation::Encrypt => (opcode::AKCIPHER_ENCRYPT, read, write),
                    RsaOperation::Decrypt => (opcode::AKCIPHER_DECRYPT, read, write),
                    RsaOperation::Sign => (opcode::AKCIPHER_SIGN, read, write),
                    RsaOperation::Verify => {
                        (opcode::AKCIPHER_VERIFY, read.saturating_sub(digest_len), digest_len)
                    }
                };
                self.put(&AkcipherRequest {
                    header: header(opcode, algorithm::RSA),
                    src_data_len: read.into(),
                    dst_data_len: write.into(),
                    ..Default::default()
                });
            }
        }
    }

    fn put(&mut self, request: &(impl IntoBytes + Immutable)) {
        let at = self.request_at();
        self.memory[at..at + REQUEST].copy_from_slice(request.as_bytes());
    }

    /// Sets the IV or nonce for the next use. False, and nothing has changed, for one of another length.
    pub fn set_nonce(&mut self, nonce: &[u8]) -> bool {
        let fits = nonce.len() == self.nonce_len && nonce.len() <= IV;
        if fits {
            let at = self.request_at() + REQUEST;
            self.memory[at..at + nonce.len()].copy_from_slice(nonce);
        }
        fits
    }

    /// Sets the associated data for the next use. False, and nothing has changed, for other lengths.
    pub fn set_aad(&mut self, aad: &[u8]) -> bool {
        let fits = aad.len() == self.aad_len;
        if fits {
            let at = self.request_at() + REQUEST + IV;
            self.memory[at..at + aad.len()].copy_from_slice(aad);
        }
        fits
    }

    /// The digest or code; empty for operations that write to buffers.
    pub fn result(&self) -> &[u8] {
        self.memory.get(self.result_at..self.result_at + self.result_len).unwrap_or(&[])
    }

    /// Bytes that the device has written, by its own word, which was checked against the room there was;
    /// the status is not counted.
    pub fn written(&self) -> u32 {
        self.written.load(Ordering::Relaxed)
    }

    /// Bytes of its memory.
    pub fn size(&self) -> usize {
        self.memory.size()
    }

    /// Makes it ready for the device. In a forked child, where the memory is not, nothing happens.
    pub(super) fn arm(&mut self, session_id: u64) {
        *self.written.get_mut() = 0;
        let at = self.request_at() + offset_of!(DataHeader, session_id);
        let status = self.result_at + self.result_len;
        if let Some(id) = self.memory.get_mut(at..at + size_of::<u64>()) {
            id.copy_from_slice(&session_id.to_le_bytes());
        }
        if let Some(byte) = self.memory.get_mut(status) {
            *byte = NOT_WRITTEN;
        }
    }

    /// The descriptor that leads to its table.
    pub(super) fn table(&self) -> Descriptor {
        let len = self.request_at() as u32;
        Descriptor { address: self.memory.iova(), len, flags: Descriptor::INDIRECT, next: 0 }
    }

    /// The chain itself, linked from 0 on.
    pub(super) fn chain(&self) -> &[Descriptor] {
        &self.chain
    }

    /// Checks what the device says of it, while the queue still has it; the status is read once.
    pub(super) fn inspect(&self, id: u32, len: u32) -> Result<DeviceStatus, Lie> {
        let capacity = self.writable + 1;
        if len > capacity {
            return Err(Lie::Length { id, len, capacity });
        }
        let byte = self.memory.read_byte(self.result_at + self.result_len).unwrap_or(NOT_WRITTEN);
        let written = len.saturating_sub(1);
        self.written.store(written, Ordering::Relaxed);
        let status = status::decode(byte).ok_or(Lie::Status { id, status: byte })?;
        if self.exact && status == DeviceStatus::Ok && written != self.writable {
            // QEMU 7.2 with nettle cuts one that begins with zeros, at the wrong end.
            tracing::warn!(written, due = self.writable, "the device returned a part of an RSA result");
            return Ok(DeviceStatus::Err);
        }
        Ok(status)
    }
}
