//! Order as a device on the bus sees it: see "Devices on the bus" in `virtqueue/ordering.rs`.
//!
//! | | x86-64 | aarch64 | riscv64 | others |
//! |---|---|---|---|---|
//! | [`write`] | (nothing) | `dmb oshst` | `fence w, ow` | a full fence |
//! | [`read`] | (nothing) | `dmb oshld` | `fence r, rw` | a full fence |
//! | [`full`] | (nothing) | `dmb osh` | `fence iorw, iorw` | a full fence |
//! | a register in a BAR | mapped | mapped | mapped | written by the kernel |
//!
//! These come on top of the atomics and fences that order one thread after another; x86-64 needs no
//! more than those for a device, either. Any thread may call them.

/// Whether a store to a mapped register can be ordered from here. Where it cannot, the kernel writes the
/// register: its own functions for that order it after all memory that was written before.
#[cfg(not(ringbell_loom))] // The models have no registers.
pub(crate) const REGISTERS: bool =
    cfg!(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"));

/// Stores to memory before it are seen by a device before stores to memory or registers after it.
#[inline(always)]
pub(crate) fn write() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier reads and writes nothing, and every processor has it.
    unsafe {
        core::arch::asm!("dmb oshst", options(nostack, preserves_flags));
    }
    #[cfg(target_arch = "riscv64")]
    // SAFETY: as on aarch64.
    unsafe {
        core::arch::asm!("fence w, ow", options(nostack, preserves_flags));
    }
    other();
}

/// Loads from memory after it see what a device wrote before that which a load before it saw.
#[inline(always)]
pub(crate) fn read() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as in `write`.
    unsafe {
        core::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
    #[cfg(target_arch = "riscv64")]
    // SAFETY: as in `write`.
    unsafe {
        core::arch::asm!("fence r, rw", options(nostack, preserves_flags));
    }
    other();
}

/// Stores and loads before it, then stores and loads after it: a device sees them in this order. On
/// x86-64 the full fence beside every use of it does that.
#[inline(always)]
pub(crate) fn full() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as in `write`.
    unsafe {
        core::arch::asm!("dmb osh", options(nostack, preserves_flags));
    }
    #[cfg(target_arch = "riscv64")]
    // SAFETY: as in `write`.
    unsafe {
        core::arch::asm!("fence iorw, iorw", options(nostack, preserves_flags));
    }
    other();
}

/// Where nothing better is known.
#[inline(always)]
fn other() {
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}
