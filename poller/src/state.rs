//! The state of a device, for everyone to see.

use std::sync::atomic::{AtomicU8, Ordering};

/// The state of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum DeviceState {
    /// It works.
    Ready = 0,
    /// A request was not answered in time, or the device has lost a session; others go on.
    Suspect = 1,
    /// It had a fault and is being brought back: submits answer `EAGAIN`.
    Resetting = 2,
    /// It did not come back: everything answers `ERR` at once (or is done by software, where that was
    /// asked for: [`PollerConfig::failover`](crate::PollerConfig::failover)).
    Failed = 3,
    /// Its poller was shut down: everything answers `ERR` at once.
    Closed = 4,
}

/// The state in a cell.
#[derive(Debug)]
pub(crate) struct StateCell(AtomicU8);

impl StateCell {
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(DeviceState::Ready as u8))
    }

    pub(crate) fn get(&self) -> DeviceState {
        match self.0.load(Ordering::Acquire) {
            0 => DeviceState::Ready,
            1 => DeviceState::Suspect,
            2 => DeviceState::Resetting,
            3 => DeviceState::Failed,
            _ => DeviceState::Closed,
        }
    }

    /// Only the poll thread sets it, so nothing comes in between.
    pub(crate) fn set_if(&self, address: &str, from: DeviceState, to: DeviceState) {
        if self.get() == from {
            self.set(address, to);
        }
    }

    pub(crate) fn set(&self, address: &str, to: DeviceState) {
        let from = self.get();
        if from != to {
            self.0.store(to as u8, Ordering::Release);
            tracing::info!(device = address, ?from, ?to, "device state");
        }
    }
}
