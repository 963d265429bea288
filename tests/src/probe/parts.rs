//! Numbers, and what the probe's driver is asked for and answers.

use std::fmt;

pub(super) const INDIRECT: u64 = 1 << 28;
pub(super) const EVENT_IDX: u64 = 1 << 29;
pub(super) const VERSION_1: u64 = 1 << 32;
pub(super) const ACCESS_PLATFORM: u64 = 1 << 33;
pub(super) const RING_RESET: u64 = 1 << 40;

/// Status: the device met an error.
pub(super) const NEEDS_RESET: u8 = 0x40;
/// No vector.
pub(super) const NO_VECTOR: u16 = 0xffff;
/// The data queue, the control queue.
pub(super) const DATA: usize = 0;
pub(super) const CONTROL: usize = 1;

/// Descriptor flags.
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const TABLE: u16 = 4;

pub(super) const MEMORY: usize = 4 << 20;
pub(super) const PAGE: usize = 4096;
/// What a place that the device shall write holds before.
pub(super) const UNTOUCHED: u8 = 0xee;

/// Registers of the common configuration.
pub(super) mod reg {
    pub(crate) const DEVICE_FEATURE_SELECT: u64 = 0;
    pub(crate) const DEVICE_FEATURE: u64 = 4;
    pub(crate) const DRIVER_FEATURE_SELECT: u64 = 8;
    pub(crate) const DRIVER_FEATURE: u64 = 12;
    pub(crate) const MSIX_CONFIG: u64 = 16;
    pub(crate) const NUM_QUEUES: u64 = 18;
    pub(crate) const STATUS: u64 = 20;
    pub(crate) const GENERATION: u64 = 21;
    pub(crate) const QUEUE_SELECT: u64 = 22;
    pub(crate) const QUEUE_SIZE: u64 = 24;
    pub(crate) const QUEUE_VECTOR: u64 = 26;
    pub(crate) const QUEUE_ENABLE: u64 = 28;
    pub(crate) const QUEUE_NOTIFY_OFF: u64 = 30;
    pub(crate) const QUEUE_DESC: u64 = 32;
    pub(crate) const QUEUE_DRIVER: u64 = 40;
    pub(crate) const QUEUE_DEVICE: u64 = 48;
    pub(crate) const QUEUE_RESET: u64 = 58;
}

/// Where a structure is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub(super) bar: u8,
    pub(super) offset: u64,
}

/// How to set the device up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    /// Features to accept, of those that are offered.
    pub(super) features: u64,
    /// Where the data queue's used ring starts in its page. The default avoids an element over a page's end.
    pub(super) used_at: usize,
    /// Where its table starts in its page.
    pub(super) desc_at: usize,
    /// Where its available ring starts in its page.
    pub(super) avail_at: usize,
    /// Route MSI-X vectors.
    pub(super) msix: bool,
    /// Vector of the data queue.
    pub(super) vector: u16,
    /// Status after all.
    pub(super) status: u8,
    /// Entries of the data queue; 0: as the device says.
    pub(super) size: u16,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            features: INDIRECT | EVENT_IDX | RING_RESET,
            used_at: 4,
            desc_at: 0,
            avail_at: 0,
            msix: true,
            vector: 1,
            status: 0x0f,
            size: 0,
        }
    }
}

/// A piece of a chain.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// Bytes for the device.
    Read(Vec<u8>),
    /// Room for the device's.
    Write(usize),
    /// A descriptor as it is: bus address, length, flags (NEXT is added where one follows).
    Raw(u64, u32, u16),
}

/// How a chain is put into descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Chain,
    Table,
    /// The first piece in the ring, the others in a table.
    Mixed,
}

/// What became of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It came back; the used length, and the bytes of its writable pieces.
    Done { len: u32, written: Vec<u8> },
    /// It did not, and the device is in its error state.
    Error,
    /// It did not, and the device says nothing.
    Nothing,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done { len, .. } => write!(f, "completed, used.len {len}"),
            Self::Error => f.write_str("error state, not completed"),
            Self::Nothing => f.write_str("not completed, no error"),
        }
    }
}

/// A chain that was posted.
#[derive(Debug)]
pub(super) struct Posted {
    pub(super) head: u16,
    /// Writable pieces: place and length.
    pub(super) writable: Vec<(usize, usize)>,
}
