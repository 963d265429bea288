use std::fmt::Debug;
use std::os::fd::BorrowedFd;

use super::Doorbell;
use crate::error::Result;

/// A PCI function, however it is reached.
///
/// One implementation stands for VFIO, one for UIO, one for vfio-user, one for the simulator in
/// this process. All methods may be called from any thread at any time; those that change the
/// function (reset, interrupts, bus mastering) are serialised by the implementation.
///
/// # Removal
///
/// After a surprise removal reads give all ones and writes vanish, as on a bus; methods that talk
/// to the kernel return errors. [`going_away`](Self::going_away) tells when it happens.
pub trait PciFunction: Send + Sync + Debug {
    /// The address that it was opened by, for messages: `0000:00:04.0`, `sim:...`.
    fn address(&self) -> &str;

    /// Reads `data.len()` bytes of config space. Little-endian, any length and alignment; the
    /// implementation cuts it into accesses of 1, 2 or 4 bytes.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) past the end (256 or 4096 bytes).
    fn read_config(&self, offset: u16, data: &mut [u8]) -> Result<()>;

    /// Writes `data` to config space; the counterpart of [`read_config`](Self::read_config).
    ///
    /// # Errors
    /// As for [`read_config`](Self::read_config).
    fn write_config(&self, offset: u16, data: &[u8]) -> Result<()>;

    /// What BAR `index` (0..=5) is; `None` where the function has no memory BAR there, or where it
    /// is the upper half of a 64-bit one.
    fn bar(&self, index: u8) -> Option<Bar>;

    /// Reads a BAR by one access of `data.len()` bytes: 1, 2, 4 or 8, naturally aligned. (Of 8 bytes
    /// a backend may make two accesses.)
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) where there is no such BAR, or past its end.
    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) -> Result<()>;

    /// Writes a BAR by one access; the counterpart of [`read_bar`](Self::read_bar).
    ///
    /// # Errors
    /// As for [`read_bar`](Self::read_bar).
    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) -> Result<()>;

    /// Resolves a 16-bit register to the value that rings it from the hot path: a mapped store
    /// where the BAR can be mapped, else a call.
    ///
    /// # Errors
    /// As for [`write_bar`](Self::write_bar), or the error of the map.
    fn doorbell(&self, bar: u8, offset: u64) -> Result<Doorbell>;

    /// What stands between the function and memory.
    fn dma_reach(&self) -> DmaReach;

    /// Lets the function reach `len` bytes of the memfd or hugetlbfs file `memory`, from `offset`
    /// on (both multiples of the page size). The file must be sealed against shrinking or never be
    /// shrunk. The result tells at which bus addresses the bytes appear: one segment where there is
    /// an IOMMU, one for each run of physically contiguous pages where there is none, in the order
    /// of the file and without gaps.
    ///
    /// # Errors
    /// The kernel's (locked-memory limit, no address space left), with the remedy.
    fn map_dma(&self, memory: BorrowedFd<'_>, offset: u64, len: u64) -> Result<DmaMapping>;

    /// Takes a mapping back. After `Ok` the function cannot reach that memory any more; after an
    /// error it may, and the memory must be kept.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) where the function could not be cut off.
    fn unmap_dma(&self, mapping: &DmaMapping) -> Result<()>;

    /// The interrupts that the function has.
    fn interrupts(&self) -> Interrupts;

    /// Routes MSI-X vector `n` to the eventfd `vectors[n]`; `None` leaves one off. Replaces what
    /// was set before; an empty slice turns MSI-X off. The fds are duplicated.
    ///
    /// # Errors
    /// More vectors than there are, or the kernel's error.
    fn set_msix(&self, vectors: &[Option<BorrowedFd<'_>>]) -> Result<()>;

    /// Routes the legacy interrupt to an eventfd, or turns it off. It is level-triggered and is
    /// masked when it fires: see [`unmask_intx`](Self::unmask_intx).
    ///
    /// # Errors
    /// The function has none, or the kernel's error.
    fn set_intx(&self, event: Option<BorrowedFd<'_>>) -> Result<()>;

    /// Opens the legacy interrupt again after it fired and its cause was cleared.
    ///
    /// # Errors
    /// The function has none, or the kernel's error.
    fn unmask_intx(&self) -> Result<()>;

    /// Allows or forbids the function to do DMA and raise MSI-X (command register, bit 2). Returns
    /// once the change has reached the function.
    ///
    /// # Errors
    /// As for [`write_config`](Self::write_config).
    fn set_bus_master(&self, on: bool) -> Result<()>;

    /// Resets the function (FLR or what the backend has). Mappings and interrupt routes stay;
    /// registers and bus mastering go back to their defaults.
    ///
    /// # Errors
    /// The backend has no reset, or the kernel's error.
    fn reset(&self) -> Result<()>;

    /// An eventfd that becomes readable when the function is going away, where the backend can
    /// tell. Whoever wants it back waits from then on until the last handle has been dropped.
    fn going_away(&self) -> Option<BorrowedFd<'_>>;
}

/// A memory BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Its size in bytes, a power of two.
    pub size: u64,
    /// Whether [`PciFunction::doorbell`] can map it.
    pub mappable: bool,
}

/// What stands between a function and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmaReach {
    /// An IOMMU: the function reaches what was mapped and nothing else. A virtio device must offer
    /// ACCESS_PLATFORM, or it would take the mapped addresses as physical ones.
    Translated,
    /// Nothing: bus addresses are physical, the function can reach all of memory.
    Physical,
    /// The device is software that translates mapped addresses itself (simulator, vfio-user):
    /// it reaches what was mapped and nothing else, whatever features it offers.
    Software,
}

/// The interrupts of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interrupts {
    /// Number of MSI-X vectors, 0 where there is no MSI-X.
    pub msix: u16,
    /// Whether there is a legacy interrupt.
    pub intx: bool,
}

/// A run of memory as the device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First byte, counted from the start of the mapping.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Bus address of the first byte.
    pub iova: u64,
}

/// Memory that a function can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DmaMapping {
    /// The runs, in the order of the file, without gaps.
    pub segments: Vec<Segment>,
}

impl DmaMapping {
    /// Bytes mapped.
    pub fn len(&self) -> u64 {
        self.segments.iter().map(|s| s.len).sum()
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }
}
