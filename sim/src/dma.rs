//! The memory that the driver has mapped for the device, by bus address.
//!
//! ```text
//!   0x1_0000_0000           bus addresses (IOVAs) grow, none is used twice
//!   +-----------+...guard...+-------+...guard...+----------
//!   | mapping 0 |           |   1   |           |   2
//!   +-----------+...........+-------+...........+----------
//! ```
//!
//! They are never equal to virtual addresses, so that a driver that mistakes one for the other
//! fails here too, and what was unmapped stays invalid.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use ringbell_drivers::dma::SharedMemory;

const FIRST: u64 = 0x1_0000_0000;
const END: u64 = 1 << 46;
const GUARD: u64 = 1 << 20;
/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;

#[derive(Debug)]
struct Mapped {
    iova: u64,
    len: u64,
    memory: Arc<SharedMemory>,
}

/// Some bytes of one mapping. Valid until the mappings change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    map: u32,
    pub(crate) len: u32,
    offset: usize,
}

#[derive(Debug)]
pub(crate) struct DmaMap {
    /// In the order of their addresses.
    maps: Vec<Mapped>,
    next: u64,
    /// The mapping that was hit last: most often the next one, too.
    last: Cell<usize>,
}

impl DmaMap {
    pub(crate) fn new() -> Self {
        Self { maps: Vec::new(), next: FIRST, last: Cell::new(0) }
    }

    /// Gives `memory` an address; `None` when there are none left.
    pub(crate) fn insert(&mut self, memory: SharedMemory) -> Option<u64> {
        let iova = self.next;
        let len = memory.len() as u64;
        let next = iova.checked_add(len)?.checked_next_multiple_of(PAGE)?.checked_add(GUARD)?;
        if next > END {
            return None;
        }
        self.next = next;
        self.maps.push(Mapped { iova, len, memory: Arc::new(memory) });
        Some(iova)
    }

    /// Takes the mapping at exactly `iova` and of exactly `len` bytes away.
    pub(crate) fn remove(&mut self, iova: u64, len: u64) -> bool {
        match self.maps.iter().position(|map| map.iova == iova && map.len == len) {
            Some(at) => {
                self.maps.remove(at);
                true
            }
            None => false,
        }
    }

    /// Which mapping holds all of `len` bytes at `addr`, and where in it.
    #[inline]
    fn locate(&self, addr: u64, len: u64) -> Option<(usize, usize)> {
        let last = self.last.get();
        let hit = |map: &Mapped| {
            let offset = addr.wrapping_sub(map.iova);
            (offset < map.len && len <= map.len - offset).then_some(offset as usize)
        };
        if let Some(offset) = self.maps.get(last).and_then(hit) {
            return Some((last, offset));
        }
        let at = self.maps.partition_point(|map| map.iova <= addr).checked_sub(1)?;
        let offset = self.maps.get(at).and_then(hit)?;
        self.last.set(at);
        Some((at, offset))
    }

    #[inline]
    pub(crate) fn span(&self, addr: u64, len: u32) -> Option<Span> {
        let (map, offset) = self.locate(addr, u64::from(len))?;
        Some(Span { map: map as u32, len, offset })
    }

    /// A piece that keeps its memory mapped into this process: for rings.
    pub(crate) fn piece(&self, addr: u64, len: u64) -> Option<Piece> {
        let (map, offset) = self.locate(addr, len)?;
        Some(Piece { memory: Arc::clone(&self.maps.get(map)?.memory), offset })
    }

    /// The bus address of a piece.
    pub(crate) fn address(&self, span: &Span) -> Option<u64> {
        Some(self.maps.get(span.map as usize)?.iova + span.offset as u64)
    }

    /// Copies to a bus address; nowhere, where it is not mapped.
    pub(crate) fn write_at(&self, addr: u64, data: &[u8]) {
        if let Some((map, offset)) = self.locate(addr, data.len() as u64)
            && let Some(map) = self.maps.get(map)
        {
            let _ = map.memory.write(offset, data);
        }
    }

    /// Copies out of `span`, from `at` on.
    #[inline]
    pub(crate) fn read(&self, span: &Span, at: usize, out: &mut [u8]) -> Option<()> {
        self.maps.get(span.map as usize)?.memory.read(span.offset + at, out)
    }

    /// Copies into `span`, from `at` on.
    #[inline]
    pub(crate) fn write(&self, span: &Span, at: usize, data: &[u8]) -> Option<()> {
        self.maps.get(span.map as usize)?.memory.write(span.offset + at, data)
    }
}

/// A place in mapped memory.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) memory: Arc<SharedMemory>,
    pub(crate) offset: usize,
}

impl Piece {
    /// Loads 16 bits, in one access where they are aligned.
    #[inline]
    pub(crate) fn load_u16(&self, at: usize, order: Ordering) -> Option<u16> {
        self.memory.load_u16(self.offset + at, order).or_else(|| self.load_unaligned(at))
    }

    /// Stores 16 bits, in one access where they are aligned.
    #[inline]
    pub(crate) fn store_u16(&self, at: usize, value: u16, order: Ordering) {
        if self.memory.store_u16(self.offset + at, value, order).is_none() {
            fence(Ordering::SeqCst);
            let _ = self.memory.write(self.offset + at, &value.to_le_bytes());
        }
    }

    /// A ring where none may be, which QEMU takes.
    #[cold]
    fn load_unaligned(&self, at: usize) -> Option<u16> {
        let mut bytes = [0; 2];
        self.memory.read(self.offset + at, &mut bytes)?;
        fence(Ordering::SeqCst);
        Some(u16::from_le_bytes(bytes))
    }
}
