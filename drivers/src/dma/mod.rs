//! DMA memory: files mapped for the device, and what is cut out of them.
//!
//! ```text
//!   memfd (hugepages when there are some), not inherited over fork, out of core dumps
//!   +-----------------------------------------------------------------------+
//!   | rings and slot tables of the queues | buffers, cut and given back     |
//!   +-----------------------------------------------------------------------+
//!     ^ SharedMemory: our map                ^ DmaBuffer: a piece, by offset
//!     ^ PciFunction::map_dma(fd, 0, len): the device's view, as segments of bus addresses
//! ```
//!
//! Two parties write here: this process and the device, which is not trusted. Pieces are reached
//! by offset through [`SharedMemory`], whose accessors check bounds and never hand out a reference;
//! only a [`DmaBuffer`] in the caller's hands, which the device has been told nothing of or has
//! returned, can be seen as a slice.

mod arena;
mod fork;
mod memory;
mod secret;

pub use arena::{Arena, ArenaOptions, DEFAULT_ARENA_BYTES, DmaBuffer};
pub use fork::{Epoch, ForkPage};
#[cfg(not(ringbell_loom))]
pub(crate) use memory::page_size;
pub use memory::{SharedMemory, UserMemory};
pub use secret::Secret;
