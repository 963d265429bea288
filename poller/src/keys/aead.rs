//! Keys of authenticated encryption.

use std::fmt;
use std::sync::Arc;

use ringbell_drivers::dma::Secret;
use ringbell_drivers::engine::{Aead, Direction, Purpose, Session};
use ringbell_drivers::{Error, Result};

use super::{MOMENT, prepare, secret};
use crate::body::Body;
use crate::buffers::Buffers;
use crate::chain::{Chain, Detail};
use crate::device::Device;
use crate::not_made::NotMade;
use crate::request::Request;

/// A key of authenticated encryption at the device. Cloning gives another handle.
///
/// Devices bind direction, tag length and the length of the associated data to a session, so a key has a
/// session for each direction and length of associated data that it is used with; the device's cache
/// keeps those.
///
/// Never seal twice with one key and nonce.
#[derive(Clone)]
pub struct AeadKey {
    device: Device,
    key: Arc<Secret>,
    aead: Aead,
    tag_len: usize,
}

impl AeadKey {
    pub(crate) fn new(device: &Device, aead: Aead, key: &[u8], tag_len: usize) -> Result<Self> {
        aead.check_key(key)?;
        aead.check_tag_len(tag_len)?;
        let key = Self { device: device.clone(), key: secret(key)?, aead, tag_len };
        // Asks whether it is offered.
        key.session(Direction::Encrypt, 0)?;
        Ok(key)
    }

    fn session(&self, direction: Direction, aad_len: usize) -> Result<Arc<Session>> {
        let Ok(aad_len) = u32::try_from(aad_len) else {
            return Err(Error::Invalid(format!("{aad_len} bytes of associated data are too many")));
        };
        let tag_len = self.tag_len as u32;
        self.device.session(Purpose::Aead { aead: self.aead, direction, tag_len, aad_len }, &self.key)
    }

    /// The algorithm.
    pub fn aead(&self) -> Aead {
        self.aead
    }

    /// Bytes of the tag.
    pub fn tag_len(&self) -> usize {
        self.tag_len
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Creates the sessions of both directions for associated data of `aad_len` bytes now, and waits until
    /// they are there, at most 1 s. Not for callbacks.
    ///
    /// # Errors
    /// The device did not do it in time, refuses it, or is down.
    pub fn prepare(&self, aad_len: usize) -> Result<()> {
        prepare(&self.device, &self.session(Direction::Encrypt, aad_len)?, MOMENT)?;
        prepare(&self.device, &self.session(Direction::Decrypt, aad_len)?, MOMENT)
    }

    /// A request that seals `data`: [`Request::output`] then is the ciphertext, with the tag behind it. In
    /// place: the last buffer has room for the tag behind the data, that is, it was made
    /// [`tag_len`](Self::tag_len) bytes longer and then shortened.
    ///
    /// ```
    /// use ringbell::{Aead, Device, Poller, WaitCtx};
    /// let device = Device::open("sim:")?;
    /// let poller = Poller::spawn(&device, Default::default())?;
    /// let key = device.aead_key(Aead::ChaCha20Poly1305, &[7; 32])?;
    /// key.prepare(5)?;
    /// let mut data = device.buffer(100 + key.tag_len())?;
    /// data.set_len(100)?;
    /// data.fill(1);
    /// let request = key.seal(&[0; 12], b"about", data)?;
    /// # let ctx = WaitCtx::new();
    /// # request.submit(&ctx).map_err(|refused| refused.to_error())?;
    /// # let done = loop { if let Some(done) = ctx.take() { break done } };
    /// # assert_eq!(done.request().output().len(), 116);
    /// # Ok::<(), ringbell::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for what can never work: a nonce of the wrong length, no room for the tag, more
    /// bytes or buffers than the device takes; [`Error::NoRoom`] when there is no memory for the
    /// descriptor chain at the moment. The buffers are inside.
    pub fn seal(&self, nonce: &[u8], aad: &[u8], data: impl Into<Buffers>) -> Result<Request, NotMade> {
        self.request(Direction::Encrypt, nonce, aad, data.into(), None)
    }

    /// As [`seal`](Self::seal), into other buffers, which have room for the data and the tag.
    ///
    /// # Errors
    /// As there.
    pub fn seal_into(
        &self,
        nonce: &[u8],
        aad: &[u8],
        data: impl Into<Buffers>,
        output: impl Into<Buffers>,
    ) -> Result<Request, NotMade> {
        self.request(Direction::Encrypt, nonce, aad, data.into(), Some(output.into()))
    }

    /// A request that opens `sealed`, ciphertext with the tag behind it, in place: [`Request::output`] then
    /// is the plaintext. Where the tag does not match, the answer is [`Answer::No`](crate::Answer::No),
    /// there is no output, and the buffers are wiped; so they are where the device ended it with an error.
    ///
    /// # Errors
    /// As for [`seal`](Self::seal).
    pub fn open(&self, nonce: &[u8], aad: &[u8], sealed: impl Into<Buffers>) -> Result<Request, NotMade> {
        self.request(Direction::Decrypt, nonce, aad, sealed.into(), None)
    }

    /// As [`open`](Self::open), into other buffers, which have room for the plaintext.
    ///
    /// # Errors
    /// As there.
    pub fn open_into(
        &self,
        nonce: &[u8],
        aad: &[u8],
        sealed: impl Into<Buffers>,
        output: impl Into<Buffers>,
    ) -> Result<Request, NotMade> {
        self.request(Direction::Decrypt, nonce, aad, sealed.into(), Some(output.into()))
    }

    fn request(
        &self,
        direction: Direction,
        nonce: &[u8],
        aad: &[u8],
        input: Buffers,
        output: Option<Buffers>,
    ) -> Result<Request, NotMade> {
        let session = match self.session(direction, aad.len()) {
            Ok(session) => session,
            Err(error) => return Err(NotMade::new(error, input, output.unwrap_or_default())),
        };
        let detail = Detail::Nonce { nonce: nonce.to_vec(), aad: aad.to_vec() };
        let (inputs, outputs) = (input.into_pieces(), output.map(Buffers::into_pieces));
        let chain = Chain::new(self.device.inner(), session.spec(), detail, inputs, outputs)?;
        Ok(Request(Box::new(Body::chain(&self.device, &session, chain))))
    }
}

impl fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AeadKey({}, tag of {} bytes)", self.aead, self.tag_len)
    }
}
