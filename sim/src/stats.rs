//! What the device counted.

use crate::error::DriverError;

/// Counts since the simulator was made; a reset of the device leaves them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimStats {
    /// Doorbells rung with the right value.
    pub kicks: u64,
    /// Doorbells rung with a value that is not their queue, or with memory space off: ignored (but
    /// with QEMU's quirks the value does not matter).
    pub bad_kicks: u64,
    /// Requests taken from data queues.
    pub taken: u64,
    /// Requests put into the used rings of data queues.
    pub completed: u64,
    /// Requests taken and dropped by a reset or an error.
    pub dropped: u64,
    /// Requests served on the control queue.
    pub control: u64,
    /// Eventfds signalled.
    pub interrupts: u64,
    /// Sessions that exist now.
    pub sessions: usize,
    /// Device resets, of either kind.
    pub resets: u64,
    /// How often the device went to NEEDS_RESET.
    pub faults: u64,
    /// Why it did so the last time.
    pub last_fault: Option<DriverError>,
    /// How often faults struck that were asked for, of all kinds.
    pub struck: u64,
    /// Device status as the driver would read it.
    pub device_status: u8,
}
