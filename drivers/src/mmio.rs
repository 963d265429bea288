//! Registers in a mapped BAR.
//!
//! The memory behind them is the device's: it changes by itself, reads have effects, and after a
//! removal it reads as all ones. So there are no references into it, only volatile accesses
//! through pointers that keep the map alive.

use std::ptr::NonNull;
use std::sync::Arc;

use nix::sys::mman::munmap;

use crate::barrier;
use crate::dma::ForkPage;

/// A mapped piece of a BAR. Unmapped when its last register is dropped.
#[derive(Debug)]
pub struct Map {
    base: NonNull<u8>,
    len: usize,
    /// Tells in a forked child that the map is not there.
    fork: Arc<ForkPage>,
}

// SAFETY: the map is plain device memory, valid until Drop, and is accessed only by volatile
// loads and stores of naturally aligned words, which any thread may do. Others who write it: the
// device.
unsafe impl Send for Map {}
// SAFETY: as for Send.
unsafe impl Sync for Map {}

impl Map {
    /// Takes over `len` mapped bytes at `base`. `fork` tells this process from forked children, which
    /// must not have the map (MADV_DONTFORK); they never write to a register (the epoch word comes
    /// first), and dropping one there does nothing.
    ///
    /// # Safety
    /// `base` must come from mmap with at least that length, shared, readable and writable, and
    /// nobody else may unmap it.
    pub unsafe fn from_raw(base: NonNull<u8>, len: usize, fork: Arc<ForkPage>) -> Arc<Self> {
        Arc::new(Self { base, len, fork })
    }

    /// The 16-bit register at `offset`, or `None` where it is not inside or not aligned.
    pub fn register16(self: &Arc<Self>, offset: usize) -> Option<Register16> {
        if !offset.is_multiple_of(2) || offset.checked_add(2)? > self.len {
            return None;
        }
        // SAFETY: offset + 2 <= len, so the pointer stays inside the map.
        let pointer = unsafe { self.base.add(offset) }.cast::<u16>();
        Some(Register16 { pointer, _map: Arc::clone(self) })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // In a forked child the range is not mapped and may hold something else by now.
        if self.fork.is_child() {
            return;
        }
        // SAFETY: from_raw's caller gave us the only right to unmap it; no register is left, since
        // each holds an Arc of this. An error leaves the map in place, which harms nothing.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

/// A 16-bit little-endian register, for writing.
#[derive(Clone, Debug)]
pub struct Register16 {
    pointer: NonNull<u16>,
    _map: Arc<Map>,
}

// SAFETY: see Map: aligned volatile stores to device memory may come from any thread.
unsafe impl Send for Register16 {}
// SAFETY: as for Send.
unsafe impl Sync for Register16 {}

impl Register16 {
    /// Stores `value`, after all that was stored to memory before.
    #[inline]
    pub fn write(&self, value: u16) {
        barrier::write();
        // SAFETY: inside the map that `_map` keeps alive, and aligned (register16 checked both).
        // The device reads it; nobody else writes memory here.
        unsafe { self.pointer.write_volatile(value.to_le()) }
    }
}
