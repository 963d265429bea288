//! Real PCI functions, through the kernel's VFIO.
//!
//! A function that is bound to `vfio-pci` is reached through its IOMMU group: `/dev/vfio/N`. Each
//! function has a container, and so an address space, of its own: it reaches the memory that was
//! mapped for it and nothing else.
//!
//! ```text
//!   function    the function: the seam's trait
//!   open        from an address to an open function, and what may stand in the way
//!   holders     who has a function open
//!   regions     config space and BARs; the doorbell's page
//!   memory      memory that the function reaches; iova: at which bus addresses
//!   kernel      the ioctls that vfio-ioctls lacks, or whose errors it swallows
//! ```
//!
//! The crate vfio-ioctls opens container, group and function, describes regions and interrupts, and
//! maps memory.

mod function;
mod holders;
mod iova;
mod kernel;
mod memory;
mod open;
mod regions;

pub use function::VfioFunction;
pub use holders::holders;
