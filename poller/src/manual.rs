//! Polling by hand, for programs with a loop of their own.

use std::fmt;
use std::time::Duration;

use ringbell_drivers::{Result, clock::TickRate};

use crate::config::PollerConfig;
use crate::core::Core;
use crate::device::Device;

/// A poller without a thread: the program calls [`poll`](Self::poll), and callbacks run inside.
///
/// Dropping it stops its devices and ends everything in flight with `ERR`.
///
/// ```
/// use ringbell::{Cipher, Device, ManualPoller, WaitCtx};
/// let device = Device::open("sim:")?;
/// let mut poller = ManualPoller::new([&device], Default::default())?;
/// let key = device.cipher_key(Cipher::Aes256Ctr, &[1; 32])?;
/// key.prepare()?;
/// let ctx = WaitCtx::new();
/// key.encrypt(&[0; 16], device.buffer_from(b"any length")?).submit(&ctx).map_err(|r| r.to_error())?;
/// while ctx.is_busy() {
///     poller.poll();
/// }
/// assert_eq!(ctx.take().unwrap().result(), Ok(ringbell::Answer::Yes));
/// # Ok::<(), ringbell::Error>(())
/// ```
pub struct ManualPoller(Core);

impl ManualPoller {
    /// A poller for these devices.
    ///
    /// # Errors
    /// A device has a poller already, the configuration is out of range, or the system's.
    pub fn new<'a>(devices: impl IntoIterator<Item = &'a Device>, config: PollerConfig) -> Result<Self> {
        Core::new(devices.into_iter().cloned().collect(), config).map(Self)
    }

    /// One pass over all queues with work in flight: takes what is completed, up to the budget of
    /// each queue, and runs the callbacks. Returns the number of completions. Never blocks.
    #[inline]
    pub fn poll(&mut self) -> usize {
        self.0.pass()
    }

    /// Sleeps until an interrupt, a submission, a cancel or a timer of the poller's own, at most
    /// `limit`; returns at once where something is completed already. Then call
    /// [`poll`](Self::poll).
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<()> {
        self.0.sleep(limit, || false)
    }

    /// Completions that the devices have announced and that the next polls will take.
    pub fn ready(&mut self) -> u64 {
        self.0.ready()
    }

    /// Requests that are accepted and not delivered.
    pub fn in_flight(&self) -> u64 {
        self.0.in_flight()
    }

    /// How fast [`ringbell::clock::ticks`](crate::clock::ticks) counts here.
    pub fn tick_rate(&self) -> TickRate {
        self.0.rate()
    }

    /// Refuses new requests, waits for those in flight, at most the grace time of the configuration,
    /// stops the devices and ends the rest with `ERR`. By a [`ManualClock`](crate::ManualClock) the
    /// grace time is over when nothing is completed any more.
    pub fn shutdown(mut self) {
        self.0.close();
        while !self.0.is_over() {
            if self.0.pass() == 0 {
                if self.0.has_manual_clock() {
                    self.0.end_now();
                }
                std::thread::yield_now();
            }
        }
    }
}

impl fmt::Debug for ManualPoller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManualPoller").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}
