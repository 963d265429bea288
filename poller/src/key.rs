//! Keys at the device.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringbell_drivers::dma::DmaBuffer;
use ringbell_drivers::engine::{Cipher, Direction, Session};
use ringbell_drivers::{Error, Result};

use crate::device::Device;
use crate::request::Request;

pub(crate) struct KeyInner {
    pub(crate) device: Device,
    pub(crate) cipher: Cipher,
    /// One for each direction: devices bind the direction to the session.
    pub(crate) sessions: [Arc<Session>; 2],
}

impl KeyInner {
    #[inline(always)]
    pub(crate) fn session(&self, direction: Direction) -> &Arc<Session> {
        match direction {
            Direction::Encrypt => &self.sessions[0],
            Direction::Decrypt => &self.sessions[1],
        }
    }
}

/// A key at the device. Cloning gives another handle; its sessions stay as long as there is one, or
/// a request made with it.
#[derive(Clone)]
pub struct CipherKey(Arc<KeyInner>);

impl CipherKey {
    pub(crate) fn new(inner: KeyInner) -> Self {
        Self(Arc::new(inner))
    }

    /// The cipher.
    pub fn cipher(&self) -> Cipher {
        self.0.cipher
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Creates the sessions for both directions now and waits until they are there, at most 1 s.
    /// Needs no poller. Not for callbacks.
    ///
    /// # Errors
    /// The device did not do it in time, refuses it, or is down.
    pub fn prepare(&self) -> Result<()> {
        self.prepare_for(Direction::Encrypt, Duration::from_secs(1))?;
        self.prepare_for(Direction::Decrypt, Duration::from_secs(1))
    }

    /// Creates the session for one direction and waits until it is there, at most `limit`.
    ///
    /// # Errors
    /// As for [`prepare`](Self::prepare).
    pub fn prepare_for(&self, direction: Direction, limit: Duration) -> Result<()> {
        let device = self.0.device.inner();
        device.check_fork()?;
        let start = Instant::now();
        loop {
            if device.software.is_open() {
                return Ok(()); // It needs no session.
            }
            let left = limit.saturating_sub(start.elapsed());
            match device.engine().prepare_session(self.0.session(direction), left) {
                // It is being given up, or software takes its place.
                Err(Error::Down(_)) if device.is_undecided() && !left.is_zero() => {
                    std::thread::sleep(Duration::from_micros(100));
                }
                result => return result,
            }
        }
    }

    /// A request that encrypts `data` in place. There is no padding: lengths are whole blocks (but
    /// for CTR). What can never work (a wrong IV length, part of a block) is refused at submit.
    pub fn encrypt(&self, iv: &[u8], data: DmaBuffer) -> Request {
        self.request(Direction::Encrypt, iv, data, None)
    }

    /// A request that decrypts `data` in place.
    pub fn decrypt(&self, iv: &[u8], data: DmaBuffer) -> Request {
        self.request(Direction::Decrypt, iv, data, None)
    }

    /// A request from `input` to `output`, which have the same length, in the given direction.
    pub fn request(
        &self,
        direction: Direction,
        iv: &[u8],
        input: DmaBuffer,
        output: Option<DmaBuffer>,
    ) -> Request {
        Request::new(Arc::clone(&self.0), direction, iv, input, output)
    }
}

impl fmt::Debug for CipherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CipherKey({})", self.0.cipher)
    }
}
