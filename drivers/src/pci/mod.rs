//! The seam: how a PCI function is reached.
//!
//! A function behind VFIO, one behind UIO, one that another process serves over vfio-user and the
//! simulator in this process differ in this one place. The virtio transport, the queues and the
//! drivers are written once, above it.
//!
//! ```text
//!    virtio-crypto driver      edu driver             (name no backend)
//!             \                   /
//!              virtio transport  /
//!                     \         /
//!                   trait PciFunction                  <- this module
//!             /          |         |         \
//!       simulator      VFIO       UIO     vfio-user    (name no driver)
//! ```
//!
//! Everything here but the [`Doorbell`] is the slow path: a method may be a system call or a
//! message on a socket. The doorbell is resolved once for each queue and rung once for each batch.

mod capability;
mod doorbell;
mod function;

pub use capability::{Capabilities, Capability};
pub use doorbell::{Doorbell, Ring};
pub use function::{Bar, DmaMapping, DmaReach, Interrupts, PciFunction, Segment};

/// Offsets into the configuration header of a type 0 function (PCI 3.0, 6.1).
pub mod config {
    /// Vendor id, 16 bits.
    pub const VENDOR_ID: u16 = 0x00;
    /// Device id, 16 bits.
    pub const DEVICE_ID: u16 = 0x02;
    /// Command register, 16 bits.
    pub const COMMAND: u16 = 0x04;
    /// Status register, 16 bits.
    pub const STATUS: u16 = 0x06;
    /// Revision id, 8 bits.
    pub const REVISION_ID: u16 = 0x08;
    /// First of the six base address registers, 32 bits each.
    pub const BAR0: u16 = 0x10;
    /// Offset of the first capability, 8 bits.
    pub const CAPABILITIES: u16 = 0x34;

    /// Command register: the function answers memory accesses.
    pub const COMMAND_MEMORY: u16 = 1 << 1;
    /// Command register: the function may be bus master (do DMA).
    pub const COMMAND_BUS_MASTER: u16 = 1 << 2;
    /// Status register: the capability list is there.
    pub const STATUS_CAPABILITIES: u16 = 1 << 4;

    /// Capability id: vendor specific (virtio's live under it).
    pub const CAP_VENDOR: u8 = 0x09;
    /// Capability id: MSI-X.
    pub const CAP_MSIX: u8 = 0x11;
}
