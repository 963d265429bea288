//! The virtio PCI transport (VIRTIO 1.2, 4.1): capabilities, features, initialisation, queues.
//!
//! Written once above [`PciFunction`](crate::pci::PciFunction); it names no backend and no device.

mod layout;
mod transport;

pub use layout::{common, feature, status};
pub use transport::{NO_VECTOR, QueueSetup, Transport};
