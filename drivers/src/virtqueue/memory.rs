//! The rings as the driver reaches them.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::barrier;
use crate::dma::DmaBuffer;
use crate::error::{Error, Result};

/// The memory of a split ring (2.7.5 to 2.7.8), driver side. Positions are taken modulo the size.
///
/// The implementation for DMA memory is [`SplitRing`]; the loom models have one over loom's atomics.
pub trait RingMemory: Send + Sync {
    /// Descriptors and ring entries: a power of two.
    fn size(&self) -> u16;
    /// Writes the head of a chain into the available ring. Ordered by `publish_avail`.
    fn put_avail(&self, position: u16, head: u16);
    /// Stores `avail.idx` with Release.
    fn publish_avail(&self, index: u16);
    /// Stores `avail.flags`.
    fn set_avail_flags(&self, flags: u16);
    /// Stores `used_event`.
    fn set_used_event(&self, index: u16);
    /// Loads `avail_event`. Written by the device.
    fn avail_event(&self) -> u16;
    /// Loads `used.flags`. Written by the device.
    fn used_flags(&self) -> u16;
    /// Loads `used.idx` with Acquire. Written by the device.
    fn used_index(&self) -> u16;
    /// Reads an element of the used ring: id and length. Written by the device.
    fn used_element(&self, position: u16) -> (u32, u32);
}

/// Bus addresses of the three parts of a split ring, for the device's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptor table, aligned to 16.
    pub descriptors: u64,
    /// Available ring ("driver area"), aligned to 2.
    pub available: u64,
    /// Used ring ("device area"), aligned to 4.
    pub used: u64,
}

/// A split ring in DMA memory.
///
/// ```text
///   0           16 n        16 n + 6 + 2 n                    4 bytes before a cache line
///   | desc[n]   | avail: flags idx ring[n] used_event | pad | used: flags idx ring[n] avail_event |
///   ^ driver writes                                         ^ device writes, on lines of its own
/// ```
pub struct SplitRing {
    buffer: DmaBuffer,
    size: u16,
    /// The size minus one.
    mask: u16,
    available: NonNull<u16>,
    used: NonNull<u8>,
}

// SAFETY: the pointers point into `buffer`, which moves with them; all access is atomic or volatile.
// Who else writes: the device, the used part.
unsafe impl Send for SplitRing {}
// SAFETY: as for Send. Each field of the available part is stored by one half of the queue only.
unsafe impl Sync for SplitRing {}

/// Bytes before the used ring: its flags and index end a cache line of their own, so that its elements
/// begin the next one. An element then never crosses a line, nor a page: it is read by one load, and a
/// QEMU before 9.1 behind an IOMMU writes the second half of one that crosses a page to a wrong address.
const fn used_offset(size: usize) -> usize {
    (16 * size + 6 + 2 * size).next_multiple_of(64) + 60
}

impl SplitRing {
    /// Bytes that a ring of `size` descriptors takes.
    pub const fn bytes(size: u16) -> usize {
        used_offset(size as usize) + 6 + 8 * size as usize
    }

    /// A zeroed ring of `size` descriptors in `buffer`.
    ///
    /// # Errors
    /// A size that is no power of two in 2..=32768 (2.7), or a buffer that is too small.
    pub fn new(mut buffer: DmaBuffer, size: u16) -> Result<Self> {
        if !size.is_power_of_two() || size < 2 || buffer.len() < Self::bytes(size) {
            return Err(Error::Invalid(format!(
                "cannot make a ring of {size} descriptors in {} bytes; sizes are powers of two from 2 to 32768",
                buffer.len()
            )));
        }
        buffer.fill(0);
        let base = buffer.pointer();
        // SAFETY: both offsets are below bytes(size) <= buffer.len(). The arena aligns buffers to
        // 64 bytes, so the parts are aligned as 2.7 asks.
        let (available, used) =
            unsafe { (base.add(16 * usize::from(size)).cast(), base.add(used_offset(size.into()))) };
        Ok(Self { buffer, size, mask: size - 1, available, used })
    }

    /// Where the device finds the parts.
    pub fn addresses(&self) -> RingAddresses {
        let base = self.buffer.iova();
        let size = u64::from(self.size);
        RingAddresses {
            descriptors: base,
            available: base + 16 * size,
            used: base + used_offset(self.size.into()) as u64,
        }
    }

    /// Writes descriptor `index`. For setting a queue up, before the device knows it.
    ///
    /// # Panics
    /// If `index` is not below the size.
    pub fn set_descriptor(&mut self, index: u16, descriptor: Descriptor) {
        assert!(index < self.size);
        let at = usize::from(index) * 16;
        self.buffer[at..at + 16].copy_from_slice(&descriptor.to_bytes());
    }

    /// Writes descriptor `index` of a slot that is free, while the device uses others.
    ///
    /// # Panics
    /// If `index` is not below the size.
    pub fn put_descriptor(&self, index: u16, descriptor: Descriptor) {
        assert!(index < self.size);
        // SAFETY: inside the table, aligned to 16. Each half word is stored whole; the device reads
        // it only once the slot's chain is published.
        unsafe {
            let place = self.buffer.pointer().add(usize::from(index) * Descriptor::SIZE).cast::<u64>();
            place.write_volatile(descriptor.address.to_le());
            let tail = Descriptor::tail(descriptor.len, descriptor.flags, descriptor.next);
            place.add(1).write_volatile(tail.to_le());
        }
    }

    /// First descriptor of the table, for slots whose chains stand in it.
    pub(crate) fn table(&self) -> NonNull<u8> {
        self.buffer.pointer()
    }

    #[inline(always)]
    fn available_word(&self, index: usize) -> &AtomicU16 {
        debug_assert!(index < usize::from(self.size) + 3);
        // SAFETY: the available part has size + 3 words: flags, idx, the ring, used_event; callers
        // give 0, 1, 2 + (position & (size - 1)) or 2 + size. Aligned, alive. The device only reads.
        unsafe { AtomicU16::from_ptr(self.available.add(index).as_ptr()) }
    }

    #[inline(always)]
    fn used_word(&self, offset: usize) -> &AtomicU16 {
        debug_assert!(offset + 2 <= 6 + 8 * usize::from(self.size) && offset.is_multiple_of(2));
        // SAFETY: callers give 0, 2 or 4 + 8 * size, inside the used part; aligned, alive. The
        // device writes it by naturally atomic stores.
        unsafe { AtomicU16::from_ptr(self.used.add(offset).cast().as_ptr()) }
    }
}

impl RingMemory for SplitRing {
    #[inline(always)]
    fn size(&self) -> u16 {
        self.size
    }

    #[inline(always)]
    fn put_avail(&self, position: u16, head: u16) {
        let place = 2 + usize::from(position & self.mask);
        self.available_word(place).store(head.to_le(), Ordering::Relaxed);
    }

    #[inline(always)]
    fn publish_avail(&self, index: u16) {
        barrier::write();
        self.available_word(1).store(index.to_le(), Ordering::Release);
    }

    fn set_avail_flags(&self, flags: u16) {
        self.available_word(0).store(flags.to_le(), Ordering::Relaxed);
        barrier::full();
    }

    fn set_used_event(&self, index: u16) {
        self.available_word(2 + usize::from(self.size)).store(index.to_le(), Ordering::Relaxed);
        barrier::full();
    }

    #[inline(always)]
    fn avail_event(&self) -> u16 {
        barrier::full();
        u16::from_le(self.used_word(4 + 8 * usize::from(self.size)).load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn used_flags(&self) -> u16 {
        barrier::full();
        u16::from_le(self.used_word(0).load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn used_index(&self) -> u16 {
        let index = u16::from_le(self.used_word(2).load(Ordering::Acquire));
        barrier::read();
        index
    }

    #[inline(always)]
    fn used_element(&self, position: u16) -> (u32, u32) {
        let offset = 4 + 8 * usize::from(position & self.mask);
        // SAFETY: the element lies in the used part (position < size after the mask) and is aligned
        // to 8 (used_offset). The device may write it at any time; the volatile read takes one copy.
        let element = u64::from_le(unsafe { self.used.add(offset).cast::<u64>().read_volatile() });
        (element as u32, (element >> 32) as u32)
    }
}

/// A descriptor (2.7.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Bus address.
    pub address: u64,
    /// Length in bytes.
    pub len: u32,
    /// Flags: NEXT, WRITE, INDIRECT.
    pub flags: u16,
    /// The next descriptor of the chain, where NEXT is set.
    pub next: u16,
}

impl Descriptor {
    /// Flag: the chain goes on at `next`.
    pub const NEXT: u16 = 1;
    /// Flag: the device writes the memory.
    pub const WRITE: u16 = 2;
    /// Flag: the memory is a table of descriptors (2.7.5.3).
    pub const INDIRECT: u16 = 4;
    /// Bytes of a descriptor.
    pub const SIZE: usize = 16;

    /// As it stands in memory.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..16].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }

    /// Length, flags and next as the one 64-bit word (in native order) of a single store.
    #[inline(always)]
    pub(crate) const fn tail(len: u32, flags: u16, next: u16) -> u64 {
        len as u64 | (flags as u64) << 32 | (next as u64) << 48
    }
}
