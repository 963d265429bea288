//! Keys of ciphers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ringbell_drivers::Result;
use ringbell_drivers::dma::DmaBuffer;
use ringbell_drivers::engine::{Cipher, Direction, Purpose, Session};

use super::{MOMENT, prepare, secret};
use crate::body::Body;
use crate::buffers::Buffers;
use crate::chain::{Chain, Detail};
use crate::device::Device;
use crate::not_made::NotMade;
use crate::request::Request;

struct Inner {
    device: Device,
    cipher: Cipher,
    /// One for each direction: devices bind the direction to the session.
    sessions: [Arc<Session>; 2],
}

impl Inner {
    fn session(&self, direction: Direction) -> &Arc<Session> {
        match direction {
            Direction::Encrypt => &self.sessions[0],
            Direction::Decrypt => &self.sessions[1],
        }
    }
}

/// A key at the device. Cloning gives another handle; its sessions stay as long as there is one, or
/// a request made with it.
#[derive(Clone)]
pub struct CipherKey(Arc<Inner>);

impl CipherKey {
    pub(crate) fn new(device: &Device, cipher: Cipher, key: &[u8]) -> Result<Self> {
        cipher.check_key(key)?;
        let key = secret(key)?;
        let session = |direction| device.session(Purpose::Cipher(cipher, direction), &key);
        let sessions = [session(Direction::Encrypt)?, session(Direction::Decrypt)?];
        Ok(Self(Arc::new(Inner { device: device.clone(), cipher, sessions })))
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
        self.prepare_for(Direction::Encrypt, MOMENT)?;
        self.prepare_for(Direction::Decrypt, MOMENT)
    }

    /// Creates the session for one direction and waits until it is there, at most `limit`.
    ///
    /// # Errors
    /// As for [`prepare`](Self::prepare).
    pub fn prepare_for(&self, direction: Direction, limit: Duration) -> Result<()> {
        prepare(&self.0.device, self.0.session(direction), limit)
    }

    /// A request that encrypts `data` in place. There is no padding: lengths are whole blocks (but
    /// for CTR and XTS). What can never work (a wrong IV length, part of a block) is refused at submit.
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
        Request(Box::new(Body::cipher(&self.0.device, self.0.session(direction), iv, input, output)))
    }

    /// A request over several buffers, in place or into others of the same length in all.
    ///
    /// ```
    /// use ringbell::{Cipher, Device, Direction, Poller, WaitCtx};
    /// let device = Device::open("sim:")?;
    /// let poller = Poller::spawn(&device, Default::default())?;
    /// let key = device.cipher_key(Cipher::Aes128Ctr, &[7; 16])?;
    /// key.prepare()?;
    /// let pieces = [device.buffer_from(b"one ")?, device.buffer_from(b"and another")?];
    /// let request = key.scatter(Direction::Encrypt, &[0; 16], pieces, None)?;
    /// # let ctx = WaitCtx::new();
    /// # request.submit(&ctx).map_err(|refused| refused.to_error())?;
    /// # let done = loop { if let Some(done) = ctx.take() { break done } };
    /// # assert_eq!(done.request().outputs().count(), 2);
    /// # Ok::<(), ringbell::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for what can never work: a wrong IV length, part of a block,
    /// too many buffers; [`Error::NoRoom`](crate::Error::NoRoom) when there is no memory for the descriptor
    /// chain at the moment. The buffers are inside.
    pub fn scatter(
        &self,
        direction: Direction,
        iv: &[u8],
        inputs: impl Into<Buffers>,
        outputs: Option<Buffers>,
    ) -> Result<Request, NotMade> {
        let detail = Detail::Nonce { nonce: iv.to_vec(), aad: Vec::new() };
        let session = self.0.session(direction);
        let (device, inputs) = (&self.0.device, inputs.into().into_pieces());
        let outputs = outputs.map(Buffers::into_pieces);
        let chain = Chain::new(device.inner(), session.spec(), detail, inputs, outputs)?;
        Ok(Request(Box::new(Body::chain(device, session, chain))))
    }
}

impl fmt::Debug for CipherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CipherKey({})", self.0.cipher)
    }
}
