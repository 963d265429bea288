//! The data queues (5.9.7.3): a request becomes a descriptor chain.
//!
//! Here stand the chains of plain ciphers on one buffer, which is what the hot path is made for; requests
//! of other kinds bring a chain of their own (chain.rs).
//!
//! Each slot has a block of DMA memory that is prepared once; an operation writes only what changes:
//!
//! ```text
//!   0        64                136        152          192
//!   | table  | CipherRequest   | IV       | status |   |   a block, three cache lines
//!   |        |                 |          |        |
//!   |  [0] --+-> header and IV ----------->        |       readable
//!   |  [1] ----> source (a buffer)                 |       readable
//!   |  [2] ----> destination (a buffer)            |       writable
//!   |  [3] ---------------------------------------->       writable, one byte
//! ```
//!
//! Header and IV stand in one descriptor, which any device takes (2.7.4.1: framing carries no
//! meaning). With INDIRECT_DESC the table is the block's and a slot costs one descriptor of the
//! ring; without, the slot's four descriptors stand in the ring's own table. A request of no bytes
//! skips descriptors 1 and 2: a zero-length descriptor is not allowed (2.7.5).
//!
//! A request with a chain of its own takes a slot all the same. While it is in flight the slot's
//! descriptors in the ring are the request's; the complete half puts the slot's own back before the slot
//! is free again.
//!
//! What was written to a slot is never read back, for the device could have changed it.

use std::mem::offset_of;
use std::ptr::NonNull;
use std::sync::Arc;

use super::chain::ChainJob;
use super::status;
use super::wire::{self, CipherRequest};
use crate::dma::DmaBuffer;
use crate::engine::{Cipher, DeviceStatus, Direction};
use crate::error::{Error, Lie, Result};
use crate::virtqueue::{Burst, Closed, Completer, Descriptor, Drained, Slots, SplitRing, Submitter, Vacancy};

/// Descriptors of a chain.
pub(super) const CHAIN: usize = 4;
/// log2 of it: slots without indirect tables.
pub(super) const CHAIN_SHIFT: u32 = 2;

const REQUEST: usize = 64;
const IV: usize = 136;
const STATUS: usize = 152;
const BLOCK: usize = 192;
const _: () = assert!(REQUEST + size_of::<CipherRequest>() == IV && IV + 16 == STATUS && STATUS < BLOCK);

/// What stands in the status byte until the device writes it. Not in the specification, so a
/// completion without a status is a lie.
pub(super) const NOT_WRITTEN: u8 = 0xff;

/// A piece of DMA memory: where the device finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bus address of the first byte.
    pub iova: u64,
    /// Bytes.
    pub len: u32,
}

/// A cipher operation as the ring needs it, put together once for a request and used each time.
#[derive(Clone, Copy, Debug, Default)]
pub struct CipherJob {
    opcode_and_algorithm: u64,
    iv: [u64; 2],
    /// Length, flags and next of the first descriptor, in slot 0 of a queue.
    head: u64,
    iv_and_source_len: u64,
    source: u64,
    destination: u64,
    len: u32,
    limit: u32,
}

impl CipherJob {
    /// An operation on `source`, with the result in `destination`, which is as long and may be the
    /// same memory. `iv` are 16 bytes, or none.
    pub fn new(cipher: Cipher, direction: Direction, iv: &[u8], source: Place, destination: Place) -> Self {
        let opcode = match direction {
            Direction::Encrypt => wire::opcode::CIPHER_ENCRYPT,
            Direction::Decrypt => wire::opcode::CIPHER_DECRYPT,
        };
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let mut bytes = [0; 16];
        let iv_len = iv.len().min(16);
        bytes[..iv_len].copy_from_slice(&iv[..iv_len]);
        let head_len = (size_of::<CipherRequest>() + iv_len) as u32;
        // No bytes: from the header straight to the status.
        let next = if source.len == 0 { 3 } else { 1 };
        Self {
            opcode_and_algorithm: pair(opcode, super::algorithm(cipher)).to_le(),
            iv: zerocopy::transmute!(bytes),
            head: Descriptor::tail(head_len, Descriptor::NEXT, next),
            iv_and_source_len: pair(iv_len as u32, source.len).to_le(),
            source: source.iova.to_le(),
            destination: destination.iova.to_le(),
            len: source.len,
            // Destination and status, and one more.
            limit: source.len.saturating_add(2),
        }
    }

    /// For [`Entry::limit`].
    #[inline(always)]
    pub fn limit(&self) -> u32 {
        self.limit
    }
}

/// What the queue has to know of a caller's entry.
pub trait Entry {
    /// One more than the bytes that the device may write for it, the status byte counted:
    /// [`CipherJob::limit`]. 0 says that the entry has a [chain](Self::chain) of its own.
    fn limit(&self) -> u32;

    /// The chain of its own that it was [put in with](DataVacancy::write_chain).
    fn chain(&self) -> Option<&ChainJob>;
}

/// The blocks of all slots.
pub(super) struct Blocks {
    memory: DmaBuffer,
    /// Where the chains' descriptors stand: table of slot `n` at `tables + n * stride`.
    tables: NonNull<u8>,
    stride: usize,
    /// What `next` grows by from slot to slot, at its place in a descriptor's last word.
    next_step: u64,
    count: usize,
    base: NonNull<u8>,
    iova: u64,
    /// The ring's own table.
    ring: NonNull<u8>,
    indirect: bool,
}

// SAFETY: plain DMA memory, alive as long as `memory` and as the ring, which the queue halves keep. A slot's block is written by the submit half while the slot is
// free, and its status byte is read by the complete half while it is in flight, both by raw
// volatile access. Who else writes: the device, the status byte.
unsafe impl Send for Blocks {}
// SAFETY: as for Send.
unsafe impl Sync for Blocks {}

/// A slot's own chain in the block at `block`, in descriptors from `first` on.
fn chain_of(block: u64, first: u16) -> [Descriptor; CHAIN] {
    let part = |index: u16, address: u64, len: usize, flags: u16| {
        let next = if flags & Descriptor::NEXT != 0 { first + index + 1 } else { 0 };
        Descriptor { address, len: len as u32, flags, next }
    };
    [
        part(0, block + REQUEST as u64, size_of::<CipherRequest>() + 16, Descriptor::NEXT),
        part(1, 0, 0, Descriptor::NEXT),
        part(2, 0, 0, Descriptor::NEXT | Descriptor::WRITE),
        part(3, block + STATUS as u64, 1, Descriptor::WRITE),
    ]
}

/// The descriptor that leads to a slot's own table.
fn table_of(block: u64) -> Descriptor {
    let len = (CHAIN * Descriptor::SIZE) as u32;
    Descriptor { address: block, len, flags: Descriptor::INDIRECT, next: 0 }
}

impl Blocks {
    /// Bytes for `count` slots.
    pub(super) const fn bytes(count: usize) -> usize {
        count * BLOCK
    }

    /// Prepares the blocks of all slots and the ring's descriptors, before the device knows them.
    pub(super) fn new(
        mut memory: DmaBuffer,
        ring: &mut SplitRing,
        count: u16,
        indirect: bool,
    ) -> Result<Self> {
        if memory.len() < Self::bytes(count.into()) {
            return Err(Error::Invalid(format!(
                "{} bytes do not hold the blocks of {count} slots",
                memory.len()
            )));
        }
        memory.fill(0);
        let iova = memory.iova();
        for slot in 0..count {
            let at = usize::from(slot) * BLOCK;
            let block = iova + at as u64;
            if indirect {
                for (index, descriptor) in chain_of(block, 0).into_iter().enumerate() {
                    let place = at + index * Descriptor::SIZE;
                    memory[place..place + Descriptor::SIZE].copy_from_slice(&descriptor.to_bytes());
                }
                ring.set_descriptor(slot, table_of(block));
            } else {
                let first = slot << CHAIN_SHIFT;
                for (index, descriptor) in (first..).zip(chain_of(block, first)) {
                    ring.set_descriptor(index, descriptor);
                }
            }
            let op_type = at + REQUEST + offset_of!(CipherRequest, op_type);
            memory[op_type..op_type + 4].copy_from_slice(&wire::SYM_OP_CIPHER.to_le_bytes());
        }
        let base = memory.pointer();
        let (tables, stride) =
            if indirect { (base, BLOCK) } else { (ring.table(), CHAIN * Descriptor::SIZE) };
        let next_step = if indirect { 0 } else { (CHAIN as u64) << 48 };
        let ring = ring.table();
        Ok(Self { memory, tables, stride, next_step, count: count.into(), base, iova, ring, indirect })
    }

    /// Writes the operation into slot `slot`, which is free.
    ///
    /// # Safety
    /// `slot` is below the count.
    #[inline(always)]
    unsafe fn write(&self, slot: u16, job: &CipherJob, session_id: u64) {
        let slot = usize::from(slot);
        debug_assert!(slot < self.count);
        let head = job.head.wrapping_add(self.next_step.wrapping_mul(slot as u64));
        // SAFETY: slot < count, so both pointers and all offsets below (less than BLOCK and CHAIN *
        // SIZE) stay inside the memory that `memory` and the ring keep alive; all are aligned for
        // what is stored (blocks and tables to 64, offsets multiples of 8, lengths of 4). The slot is
        // free: the device has no chain with it, and the other half does not touch it. A device
        // that writes here all the same harms only its own request.
        unsafe {
            let table = self.tables.add(slot * self.stride);
            table.add(8).cast::<u64>().write_volatile(head.to_le());
            table.add(16).cast::<u64>().write_volatile(job.source);
            table.add(24).cast::<u32>().write_volatile(job.len.to_le());
            table.add(32).cast::<u64>().write_volatile(job.destination);
            table.add(40).cast::<u32>().write_volatile(job.len.to_le());
            let block = self.base.add(slot * BLOCK);
            let word = |offset: usize| block.add(REQUEST + offset).cast::<u64>();
            word(offset_of!(CipherRequest, opcode)).write_volatile(job.opcode_and_algorithm);
            word(offset_of!(CipherRequest, session_id)).write_volatile(session_id.to_le());
            word(offset_of!(CipherRequest, iv_len)).write_volatile(job.iv_and_source_len);
            word(offset_of!(CipherRequest, dst_data_len)).write_volatile(u64::from(job.len).to_le());
            block.add(IV).cast::<u64>().write_volatile(job.iv[0]);
            block.add(IV + 8).cast::<u64>().write_volatile(job.iv[1]);
            block.add(STATUS).write_volatile(NOT_WRITTEN);
        }
    }

    /// Points slot `slot`, which is free, to a chain of the request's own.
    #[inline(never)]
    fn write_chain(&self, slot: u16, job: &mut ChainJob, session_id: u64, ring: &SplitRing) {
        job.arm(session_id);
        if self.indirect {
            return ring.put_descriptor(slot, job.table());
        }
        let first = slot << CHAIN_SHIFT;
        // No more than CHAIN: the job was made for this queue.
        for (index, descriptor) in (first..).zip(job.chain()).take(CHAIN) {
            let next = if descriptor.flags & Descriptor::NEXT != 0 { first + descriptor.next } else { 0 };
            ring.put_descriptor(index, Descriptor { next, ..*descriptor });
        }
    }

    /// Looks at a completion of slot `slot` that the hot path did not take: one with a chain of its own,
    /// or a lie.
    ///
    /// # Safety
    /// `slot` is below the count.
    #[inline(never)]
    unsafe fn inspect_other<T: Entry>(
        &self,
        slot: u16,
        id: u32,
        len: u32,
        entry: &T,
    ) -> Result<DeviceStatus, Lie> {
        let Some(chain) = entry.chain() else {
            return Err(Lie::Length { id, len, capacity: entry.limit().saturating_sub(1) });
        };
        let status = chain.inspect(id, len)?;
        // SAFETY: as the caller says.
        unsafe { self.restore(slot) };
        Ok(status)
    }

    /// Puts the descriptors of slot `slot` back that a chain of a request's own has replaced. The device
    /// has returned the chain, and the slot is not free yet.
    ///
    /// # Safety
    /// `slot` is below the count.
    unsafe fn restore(&self, slot: u16) {
        debug_assert!(usize::from(slot) < self.count);
        let block = self.iova + u64::from(slot) * BLOCK as u64;
        let put = |index: u16, descriptor: Descriptor| {
            let (address, tail) =
                (descriptor.address, Descriptor::tail(descriptor.len, descriptor.flags, descriptor.next));
            // SAFETY: the ring's table has a descriptor for each slot, or CHAIN for each slot, aligned to
            // 16. The device reads it only when the slot is published again, after the submit half has
            // found it free. One that writes here all the same harms its own requests.
            unsafe {
                let place = self.ring.add(usize::from(index) * Descriptor::SIZE).cast::<u64>();
                place.write_volatile(address.to_le());
                place.add(1).write_volatile(tail.to_le());
            }
        };
        if self.indirect {
            return put(slot, table_of(block));
        }
        let first = slot << CHAIN_SHIFT;
        (first..).zip(chain_of(block, first)).for_each(|(index, descriptor)| put(index, descriptor));
    }

    /// Reads the status byte of slot `slot`, once.
    ///
    /// # Safety
    /// `slot` is below the count.
    #[inline(always)]
    unsafe fn status(&self, slot: u16) -> u8 {
        let slot = usize::from(slot);
        debug_assert!(slot < self.count);
        // SAFETY: inside the block, which `memory` keeps alive. The device may write it: one copy.
        unsafe { self.base.add(slot * BLOCK + STATUS).read_volatile() }
    }

    /// For diagnostics: bytes of DMA memory.
    pub(super) fn len(&self) -> usize {
        self.memory.len()
    }
}

/// The submit half of a data queue.
pub struct DataSubmitter<T> {
    ring: Submitter<T, SplitRing>,
    blocks: Arc<Blocks>,
}

/// The complete half of a data queue.
pub struct DataCompleter<T> {
    ring: Completer<T, SplitRing>,
    blocks: Arc<Blocks>,
}

/// Pairs the ring's halves with the blocks.
pub(super) fn halves<T>(
    (submitter, completer): (Submitter<T, SplitRing>, Completer<T, SplitRing>),
    blocks: Blocks,
    indirect: bool,
) -> (DataSubmitter<T>, DataCompleter<T>) {
    let blocks = Arc::new(blocks);
    tracing::trace!(slots = submitter.capacity(), bytes = blocks.len(), indirect, "data queue made");
    // One block for each slot: what the unsafe calls below rely on.
    assert!(blocks.count == submitter.capacity() as usize);
    let submitter = DataSubmitter { ring: submitter, blocks: Arc::clone(&blocks) };
    (submitter, DataCompleter { ring: completer, blocks })
}

impl<T> DataSubmitter<T> {
    /// Requests that the queue holds.
    pub fn capacity(&self) -> u32 {
        self.ring.capacity()
    }

    /// Requests accepted so far.
    pub fn accepted(&self) -> u64 {
        self.ring.accepted()
    }

    /// Whether the queue still is open in this process.
    ///
    /// # Errors
    /// See [`Closed`].
    #[inline(always)]
    pub fn check(&self) -> Result<(), Closed> {
        self.ring.check()
    }

    /// Runs `f`, which pushes any number of requests, then publishes them together. The caller has
    /// [checked](Self::check) just before, and pushes nothing if the answer was no.
    ///
    /// Afterwards there may be [`withdrawn`](Self::withdrawn) entries.
    #[inline(always)]
    pub fn burst_unchecked<R>(&mut self, f: impl FnOnce(&mut DataBurst<'_, '_, T>) -> R) -> R {
        let blocks = &*self.blocks;
        self.ring.burst_unchecked(|burst| f(&mut DataBurst { burst, blocks }))
    }

    /// Whether there are withdrawn entries.
    #[inline(always)]
    pub fn has_withdrawn(&self) -> bool {
        self.ring.has_withdrawn()
    }

    /// Entries that were taken back because the queue was reaped under the last burst; see
    /// [`Submitter::withdrawn`].
    pub fn withdrawn(&mut self) -> (Vec<T>, bool) {
        self.ring.withdrawn()
    }
}

/// A burst of requests.
pub struct DataBurst<'a, 'b, T> {
    burst: &'a mut Burst<'b, T, SplitRing>,
    blocks: &'a Blocks,
}

impl<T> DataBurst<'_, '_, T> {
    /// A free slot, or `None`: the ring is full.
    #[inline(always)]
    pub fn vacancy(&mut self) -> Option<DataVacancy<'_, T>> {
        self.slots().vacancy()
    }

    /// The same, as a value: see [`Burst::slots`].
    #[inline(always)]
    pub fn slots(&mut self) -> DataSlots<'_, T> {
        DataSlots { slots: self.burst.slots(), blocks: self.blocks }
    }
}

/// The free slots of a burst.
pub struct DataSlots<'a, T> {
    slots: Slots<'a, T, SplitRing>,
    blocks: &'a Blocks,
}

impl<'a, T> DataSlots<'a, T> {
    /// A free slot, or `None`: the ring is full.
    #[inline(always)]
    pub fn vacancy(self) -> Option<DataVacancy<'a, T>> {
        let blocks = self.blocks;
        self.slots.vacancy().map(|vacancy| DataVacancy { vacancy, blocks })
    }
}

/// A free slot, on its way to be filled.
pub struct DataVacancy<'a, T> {
    vacancy: Vacancy<'a, T, SplitRing>,
    blocks: &'a Blocks,
}

impl<T> DataVacancy<'_, T> {
    /// Writes `job`, for a live session, into the slot.
    #[inline(always)]
    pub fn write(&mut self, job: &CipherJob, session_id: u64) {
        // SAFETY: the slot is below the queue's capacity, which is the number of blocks (`halves`).
        unsafe { self.blocks.write(self.vacancy.slot(), job, session_id) };
    }

    /// Points the slot to a chain of the request's own, for a live session. The entry that is committed
    /// has the chain, and a limit of 0.
    #[inline]
    pub fn write_chain(&mut self, job: &mut ChainJob, session_id: u64) {
        self.blocks.write_chain(self.vacancy.slot(), job, session_id, self.vacancy.memory());
    }

    /// Puts `entry`, which holds the buffers of the job that was written, beside it. It is published
    /// at the end of the burst.
    #[inline(always)]
    pub fn commit(self, entry: T) {
        self.vacancy.commit(entry);
    }
}

impl<T: Entry> DataCompleter<T> {
    /// The ring's half: in-flight counts, arming, deadlines, closing.
    pub fn ring(&mut self) -> &mut Completer<T, SplitRing> {
        &mut self.ring
    }

    /// Requests that the device has.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.ring.in_flight()
    }

    /// Takes up to `budget` completions and calls `each` with the entry and the device's status.
    /// Id, length and status are checked; see [`Completer::drain`].
    #[inline]
    pub fn drain(&mut self, budget: usize, mut each: impl FnMut(T, DeviceStatus)) -> Drained {
        let blocks = &*self.blocks;
        self.ring.drain(
            budget,
            |slot, id, len, entry: &T| {
                if len >= entry.limit() {
                    // SAFETY: as below.
                    return unsafe { blocks.inspect_other(slot, id, len, entry) };
                }
                // SAFETY: the ring gives slots below its capacity, the number of blocks (`halves`).
                let byte = unsafe { blocks.status(slot) };
                status::decode(byte).ok_or(Lie::Status { id, status: byte })
            },
            &mut each,
        )
    }
}
