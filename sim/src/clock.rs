//! The device's clock.

use std::time::{Duration, Instant};

/// It runs by itself, or as a test moves it.
#[derive(Debug)]
pub(crate) enum Clock {
    Real(Instant),
    /// Moved by hand; nanoseconds.
    Manual(u64),
}

impl Clock {
    /// It stands at 0, or is the real one.
    pub(crate) fn new(by_hand: bool) -> Self {
        if by_hand { Self::Manual(0) } else { Self::Real(Instant::now()) }
    }

    /// Moves it, where that is done by hand.
    pub(crate) fn advance(&mut self, by: Duration) {
        if let Self::Manual(now) = self {
            *now = now.saturating_add(nanos(by));
        }
    }

    /// Nanoseconds since the device was made.
    pub(crate) fn now(&self) -> u64 {
        match self {
            Self::Real(start) => nanos(start.elapsed()),
            Self::Manual(now) => *now,
        }
    }
}

/// In nanoseconds; 584 years are the longest.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
