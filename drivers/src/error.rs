//! What can go wrong below the poller, and what to do about it.

use std::io;
use std::time::Duration;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a PCI function, its memory or its driver.
///
/// Each message is one line: what was attempted, why it failed, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A device address that means nothing.
    #[error("cannot read device address '{given}': {why}")]
    Address {
        /// The address as it was given.
        given: String,
        /// What is wrong with it, and what would be right.
        why: String,
    },

    /// There is no PCI function at that address.
    #[error(
        "cannot find PCI function {device}: there is none at this address; `ringbell list` shows those that are there"
    )]
    NoSuchFunction {
        /// The address.
        device: String,
    },

    /// The function is not in the hands of a driver that gives it to user space.
    #[error("cannot open {device}: it is bound to {}; hand it over with: ringbell bind {device}", .driver.as_deref().unwrap_or("no driver"))]
    NotBound {
        /// The function.
        device: String,
        /// The driver that has it.
        driver: Option<String>,
    },

    /// No IOMMU stands between the function and memory.
    #[error("cannot open {device}: {why}")]
    NoIommu {
        /// The function.
        device: String,
        /// How that is known, and what to do.
        why: String,
    },

    /// Other functions that the IOMMU cannot tell from this one are in the hands of other drivers.
    #[error(
        "cannot open {device}: its IOMMU group {group} holds functions of other drivers: {others}; hand them over too, or unbind them"
    )]
    GroupNotViable {
        /// The function.
        device: String,
        /// Its group.
        group: u32,
        /// The other functions, each with its driver.
        others: String,
    },

    /// Another process has the function's group open.
    #[error("cannot open {device}: its IOMMU group {group} is in use by {by}; stop that first")]
    GroupTaken {
        /// The function.
        device: String,
        /// Its group.
        group: u32,
        /// Who has it, as far as this process can see.
        by: String,
    },

    /// This user may not open the function's device node.
    #[error("cannot open {device}: no permission for {node}; as root: ringbell bind {device} --user {user}")]
    NoPermission {
        /// The function.
        device: String,
        /// The device node.
        node: String,
        /// The user of this process.
        user: String,
    },

    /// The limit of locked memory does not let the device have so much.
    #[error(
        "cannot map {bytes} bytes for DMA by {device}: the limit of locked memory is {limit} bytes, of which {locked} are in use; raise it (ulimit -l, LimitMEMLOCK= of systemd), or open the device with a smaller arena"
    )]
    LockedMemory {
        /// The function.
        device: String,
        /// Bytes that were to be mapped.
        bytes: u64,
        /// Bytes that this process has locked already.
        locked: u64,
        /// RLIMIT_MEMLOCK, in bytes.
        limit: u64,
    },

    /// A virtio device behind an IOMMU that does not know it: it would take mapped addresses as
    /// physical ones (VIRTIO 1.2, 6, ACCESS_PLATFORM).
    #[error(
        "cannot drive {device}: it is behind an IOMMU but does not offer ACCESS_PLATFORM, so it would take mapped addresses as physical ones; with QEMU, add iommu_platform=on to the device"
    )]
    NoAccessPlatform {
        /// The function.
        device: String,
    },

    /// A call of the operating system failed.
    #[error("cannot {attempted}: {source}{}", hint(.remedy))]
    Io {
        /// What was attempted, as the words after "cannot".
        attempted: String,
        /// What the system said.
        source: io::Error,
        /// What to do about it; empty where nobody knows.
        remedy: &'static str,
    },

    /// An access to config space or to a BAR that the function does not have.
    #[error("cannot access {what} at {offset:#x} (+{len}): it is {size:#x} bytes long")]
    OutOfRange {
        /// "config space", or the BAR.
        what: String,
        /// First byte of the access.
        offset: u64,
        /// Bytes of the access.
        len: u64,
        /// Bytes that there are.
        size: u64,
    },

    /// The function is not the device that the driver is for, or lacks something the driver needs.
    #[error("cannot drive {device}: {why}")]
    NotUsable {
        /// The device's address.
        device: String,
        /// What it lacks, and what to do.
        why: String,
    },

    /// The device wrote something that the specification forbids; nothing of it was used.
    #[error("the device broke its specification: {0}")]
    DeviceLied(#[from] Lie),

    /// The device did not do something in time.
    #[error("the device did not {what} within {limit:?}; reset it, or raise the limit if it is slow")]
    Timeout {
        /// What it was to do.
        what: &'static str,
        /// How long it had.
        limit: Duration,
    },

    /// An operation or parameter that this device does not offer.
    #[error("this device does not offer {asked}; it offers {offered}")]
    NotOffered {
        /// What was asked for.
        asked: String,
        /// What there is, as a list.
        offered: String,
    },

    /// An argument that can never work.
    #[error("{0}")]
    Invalid(String),

    /// No room for the moment: the same call may succeed later (`ASYNC_STATUS_EAGAIN`).
    #[error("no room for {0} at the moment; try again when something has completed")]
    NoRoom(&'static str),

    /// The device answered a control request with an error status.
    #[error("the device refused to {attempted}: status {status} ({name})")]
    Refused {
        /// What was attempted.
        attempted: &'static str,
        /// The status byte.
        status: u32,
        /// Its name in the specification (5.9.7).
        name: &'static str,
    },

    /// The device has a fault that a reset may end; the poller does that.
    #[error("the device is {0}; it needs a reset")]
    Faulty(&'static str),

    /// The function is not there any more, or is about to be taken away: no reset brings it back.
    #[error("the device is gone: {0}; open it again when it is back")]
    Gone(&'static str),

    /// The device is failed or shut down; everything answers `ERR`.
    #[error("the device is {0}; open it again")]
    Down(&'static str),

    /// The handle was inherited over a fork; the child has no access to the device.
    #[error("this handle was opened before a fork; open the device again in this process")]
    Forked,
}

impl Error {
    /// An [`Error::Io`] from a failed system call.
    pub fn io(attempted: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::io_with(attempted, source, "")
    }

    /// An [`Error::Io`] with a remedy.
    pub fn io_with(attempted: impl Into<String>, source: impl Into<io::Error>, remedy: &'static str) -> Self {
        Self::Io { attempted: attempted.into(), source: source.into(), remedy }
    }
}

fn hint(remedy: &str) -> String {
    if remedy.is_empty() { String::new() } else { format!("; {remedy}") }
}

/// What a device wrote that it must not write. The queue that sees one is faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lie {
    /// The used index moved over more requests than are outstanding (2.7.8).
    #[error("used index {used} claims {claimed} completions, only {outstanding} are outstanding")]
    UsedIndex {
        /// The index that the device wrote.
        used: u16,
        /// How far it moved.
        claimed: u16,
        /// How many requests it has.
        outstanding: u32,
    },
    /// A used element names no descriptor chain of ours.
    #[error("used element names chain {id}, which does not exist")]
    UnknownChain {
        /// The id that the device wrote.
        id: u32,
    },
    /// A used element names a chain that the device does not have.
    #[error("used element names chain {id}, which the device does not hold")]
    NotOutstanding {
        /// The id that the device wrote.
        id: u32,
    },
    /// A used length above what the chain's writable part holds.
    #[error("used length {len} of chain {id} exceeds its {capacity} writable bytes")]
    Length {
        /// The chain.
        id: u32,
        /// The length that the device wrote.
        len: u32,
        /// The writable bytes of the chain.
        capacity: u32,
    },
    /// A status byte that no version of the specification has, or none written at all.
    #[error("status byte {status:#04x} of chain {id} is not in the specification")]
    Status {
        /// The chain.
        id: u32,
        /// The byte.
        status: u8,
    },
}
