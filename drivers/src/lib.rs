//! PCI functions, DMA memory, virtqueues and device drivers in userspace: the layer under the
//! `ringbell` crate, which is what programs use.
//!
//! ```text
//!   address          what to open
//!   algorithm        what is done: ciphers, AEAD, hash functions, MACs, RSA
//!   sysfs            what Linux says of its PCI functions
//!   pci              the seam: how a PCI function is reached; mmio: registers in a mapped BAR
//!   vfio             a function that the kernel has handed over, behind an IOMMU
//!   dma              memory that the device can reach; the fork generation and epoch words
//!   virtio           the virtio PCI transport: capabilities, features, initialisation
//!   virtqueue        a split ring in two halves, submitter and completer
//!   virtio_crypto    the device: config, control queue, sessions, data queues
//!   barrier          order as a device sees it, beyond that between threads
//!   claim            counted references whose in-flight claim is part of the count
//!   task             a task that waits for a claim's result, and its waker
//!   wait             sleeping until a device, a submitter or a timer wakes the poll thread
//! ```
//!
//! `virtio*` never names a backend, `pci` never names a driver (a test in `tests/` guards it).

pub mod address;
pub mod algorithm;
mod barrier;
pub mod claim;
pub mod clock;
pub mod dma;
pub mod engine;
mod error;
pub mod mmio;
pub mod pci;
pub mod primitive;
pub mod room;
pub mod sysfs;
pub mod task;
#[cfg(not(ringbell_loom))]
pub mod vfio;
pub mod virtio;
pub mod virtio_crypto;
pub mod virtqueue;
pub mod wait;

pub use error::{Error, Lie, Result};
