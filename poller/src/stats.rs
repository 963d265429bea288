//! Counters. Nearly each has one writer, so counting is a plain store.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

/// A counter with one writer at a time.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// For the counters that have several writers.
    pub(crate) fn add_shared(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the submit half of a queue counts.
#[derive(Debug, Default)]
pub(crate) struct SubmitCounters {
    pub(crate) accepted: Counter,
    pub(crate) eagain: Counter,
    pub(crate) refused: Counter,
    /// Deliveries with `ERR` by the submitting thread: its queue was closed under the burst, and there
    /// was no poll thread any more.
    pub(crate) withdrawn: Counter,
    pub(crate) withdrawn_detached: Counter,
    pub(crate) withdrawn_panics: Counter,
}

/// What the poll thread counts for a queue.
#[derive(Debug, Default)]
pub(crate) struct CompleteCounters {
    pub(crate) completed: Counter,
    pub(crate) errors: Counter,
    pub(crate) detached: Counter,
    pub(crate) panics: Counter,
    pub(crate) slow_callbacks: Counter,
    pub(crate) expired: Counter,
    pub(crate) canceled: Counter,
    pub(crate) quarantined: Counter,
}

/// The counters of one queue.
#[derive(Debug, Default)]
pub(crate) struct QueueCounters {
    pub(crate) submit: CachePadded<SubmitCounters>,
    pub(crate) complete: CachePadded<CompleteCounters>,
}

/// What a device has done so far. At every quiet moment (nothing in flight) `accepted` =
/// `deliveries` + `detached` and `deliveries` = `completed` + `errors`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Requests accepted.
    pub accepted: u64,
    /// Requests refused with `EAGAIN`: no room.
    pub eagain: u64,
    /// Requests refused with `ERR`, or because their context was busy.
    pub refused: u64,
    /// Requests delivered: `completed` + `errors`.
    pub deliveries: u64,
    /// Requests delivered with an answer (status `OK`).
    pub completed: u64,
    /// Requests delivered with `ERR`.
    pub errors: u64,
    /// Requests given up: not delivered.
    pub detached: u64,
    /// Requests that ended because their time was over (among the errors).
    pub expired: u64,
    /// Requests that ended because they were cancelled (among the errors).
    pub canceled: u64,
    /// Slots whose request has ended and which the device still holds.
    pub quarantined: u64,
    /// Callbacks that panicked.
    pub panics: u64,
    /// Callbacks that were too slow.
    pub slow_callbacks: u64,
    /// Faults of the device.
    pub faults: u64,
    /// Times that the device was brought back after a fault, or that a session that it had lost was
    /// created again.
    pub recoveries: u64,
    /// Requests done by software (among the completed).
    pub failed_over: u64,
    /// Times that free DMA memory was found to have been written; always 0 without
    /// [`DeviceOptions::check_memory`](crate::DeviceOptions::check_memory).
    pub stray_writes: u64,
    /// Bytes of DMA memory that are kept for good because a device could not be stopped.
    pub leaked_bytes: u64,
}

impl Stats {
    pub(crate) fn add(&mut self, queue: &QueueCounters) {
        let (submit, complete) = (&queue.submit, &queue.complete);
        self.accepted += submit.accepted.get();
        self.eagain += submit.eagain.get();
        self.refused += submit.refused.get();
        self.completed += complete.completed.get();
        self.errors += complete.errors.get() + submit.withdrawn.get();
        self.detached += complete.detached.get() + submit.withdrawn_detached.get();
        self.expired += complete.expired.get();
        self.canceled += complete.canceled.get();
        self.quarantined += complete.quarantined.get();
        self.panics += complete.panics.get() + submit.withdrawn_panics.get();
        self.slow_callbacks += complete.slow_callbacks.get();
        self.deliveries = self.completed + self.errors;
    }
}
