//! What can go wrong: in making a simulator, and in what a driver does to it.

use std::io;

/// Why a simulator could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// The options mean nothing.
    #[error("cannot read simulator options {given:?}: {why}; known: {known}")]
    Options {
        /// The options as they were given.
        given: String,
        /// What is wrong with them.
        why: String,
        /// The known keys with their ranges.
        known: &'static str,
    },
    /// The device thread could not be started.
    #[error("cannot start the simulator's thread: {0}")]
    Thread(#[from] io::Error),
}

/// What a driver did wrong: why the device went to DEVICE_NEEDS_RESET.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The available index moved over more entries than the ring has room for (2.7.6).
    #[error(
        "queue {queue}: available index {index} is {ahead} ahead with {in_flight} in flight, the queue has {size}"
    )]
    AvailableIndex {
        /// The queue.
        queue: u16,
        /// The index that the driver wrote.
        index: u16,
        /// How far it is ahead of what was taken.
        ahead: u16,
        /// Requests taken and not completed.
        in_flight: usize,
        /// Entries of the ring.
        size: u16,
    },
    /// An entry of the available ring or a `next` names no descriptor.
    #[error("queue {queue}: descriptor {index} does not exist, the table has {entries}")]
    NoDescriptor {
        /// The queue.
        queue: u16,
        /// The index that the driver wrote.
        index: u16,
        /// Entries of the table.
        entries: u32,
    },
    /// A chain longer than allowed, or a loop (2.7.5.3.1).
    #[error("queue {queue}: the chain from {head} loops or has more than {limit} descriptors")]
    ChainTooLong {
        /// The queue.
        queue: u16,
        /// Head of the chain.
        head: u16,
        /// Most descriptors in a chain.
        limit: u32,
    },
    /// A chain of more than 2^32 - 1 bytes (2.7.5).
    #[error("queue {queue}: the chain from {head} has more than 2^32 - 1 bytes")]
    TooManyBytes {
        /// The queue.
        queue: u16,
        /// Head of the chain.
        head: u16,
    },
    /// An indirect descriptor that must not be (2.7.5.3.1).
    #[error("queue {queue}: the indirect descriptor in the chain from {head} {why}")]
    Indirect {
        /// The queue.
        queue: u16,
        /// Head of the chain.
        head: u16,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A device-readable descriptor behind a device-writable one (2.7.4.2).
    #[error("queue {queue}: the chain from {head} has a readable descriptor behind a writable one")]
    ReadableAfterWritable {
        /// The queue.
        queue: u16,
        /// Head of the chain.
        head: u16,
    },
    /// A descriptor of length zero, which QEMU does not take (`quirks=qemu`).
    #[error("queue {queue}: the chain from {head} has a descriptor of length zero")]
    ZeroLength {
        /// The queue.
        queue: u16,
        /// Head of the chain.
        head: u16,
    },
    /// Memory that is not mapped for the device.
    #[error("queue {queue}: {len} bytes at {addr:#x} are not mapped")]
    NotMapped {
        /// The queue.
        queue: u16,
        /// Bus address.
        addr: u64,
        /// Length in bytes.
        len: u64,
    },
    /// A ring that is not aligned (2.7), or a queue size that is no power of two.
    #[error("queue {queue}: {what} {value:#x} is not allowed")]
    Setup {
        /// The queue.
        queue: u16,
        /// Which register.
        what: &'static str,
        /// What the driver wrote there.
        value: u64,
    },
    /// A request without room for its header or for its answer.
    #[error(
        "queue {queue}: the chain from {head} has {readable} readable and {writable} writable bytes, too few for a request"
    )]
    Truncated {
        /// The queue.
        queue: u16,
        /// Head of the chain.
        head: u16,
        /// Device-readable bytes.
        readable: u64,
        /// Device-writable bytes.
        writable: u64,
    },
    /// Lengths that QEMU answers by its error state (`quirks=qemu`).
    #[error("queue {queue}: the request at {head} is refused as QEMU does: {why}")]
    Qemu {
        /// The queue.
        queue: u16,
        /// Head of the chain.
        head: u16,
        /// What is wrong with it.
        why: &'static str,
    },
}
