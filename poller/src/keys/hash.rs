//! Hash functions, and keys of message authentication codes.

use std::fmt;
use std::sync::Arc;

use ringbell_drivers::Result;
use ringbell_drivers::engine::{Mac, Purpose, Session};

use super::{MOMENT, prepare, secret};
use crate::body::Body;
use crate::buffers::Buffers;
use crate::chain::{Chain, Detail};
use crate::device::Device;
use crate::not_made::NotMade;
use crate::request::Request;

type HashFunction = ringbell_drivers::algorithm::Hash;

/// A request whose result is a digest or a code, in memory of its own.
fn request(device: &Device, session: &Arc<Session>, input: Buffers) -> Result<Request, NotMade> {
    let chain = Chain::new(device.inner(), session.spec(), Detail::Plain, input.into_pieces(), None)?;
    Ok(Request(Box::new(Body::chain(device, session, chain))))
}

/// A hash function at the device. Cloning gives another handle.
#[derive(Clone)]
pub struct Hasher {
    device: Device,
    session: Arc<Session>,
    hash: HashFunction,
}

impl Hasher {
    pub(crate) fn new(device: &Device, hash: HashFunction) -> Result<Self> {
        let session = device.session(Purpose::Hash(hash), &secret(&[])?)?;
        Ok(Self { device: device.clone(), session, hash })
    }

    /// The hash function.
    pub fn hash(&self) -> HashFunction {
        self.hash
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Creates the session now and waits until it is there, at most 1 s. Not for callbacks.
    ///
    /// # Errors
    /// The device did not do it in time, refuses it, or is down.
    pub fn prepare(&self) -> Result<()> {
        prepare(&self.device, &self.session, MOMENT)
    }

    /// A request that hashes `input`; [`Request::output`] then is the digest.
    ///
    /// ```
    /// use ringbell::{Device, Hash, Poller, WaitCtx};
    /// let device = Device::open("sim:")?;
    /// let poller = Poller::spawn(&device, Default::default())?;
    /// let sha256 = device.hasher(Hash::Sha256)?;
    /// sha256.prepare()?;
    /// let request = sha256.digest(device.buffer_from(b"abc")?)?;
    /// # let ctx = WaitCtx::new();
    /// # request.submit(&ctx).map_err(|refused| refused.to_error())?;
    /// # let done = loop { if let Some(done) = ctx.take() { break done } };
    /// # assert_eq!(done.request().output()[..4], [0xba, 0x78, 0x16, 0xbf]);
    /// # Ok::<(), ringbell::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for more bytes or buffers than the device takes;
    /// [`Error::NoRoom`](crate::Error::NoRoom) when there is no memory for the descriptor chain at the moment.
    /// The buffers are inside.
    pub fn digest(&self, input: impl Into<Buffers>) -> Result<Request, NotMade> {
        request(&self.device, &self.session, input.into())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hasher({})", self.hash)
    }
}

/// A key of a message authentication code at the device. Cloning gives another handle.
#[derive(Clone)]
pub struct MacKey {
    device: Device,
    session: Arc<Session>,
    mac: Mac,
}

impl MacKey {
    pub(crate) fn new(device: &Device, mac: Mac, key: &[u8]) -> Result<Self> {
        mac.check_key(key)?;
        let session = device.session(Purpose::Mac(mac), &secret(key)?)?;
        Ok(Self { device: device.clone(), session, mac })
    }

    /// The code.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Creates the session now and waits until it is there, at most 1 s. Not for callbacks.
    ///
    /// # Errors
    /// The device did not do it in time, refuses it, or is down.
    pub fn prepare(&self) -> Result<()> {
        prepare(&self.device, &self.session, MOMENT)
    }

    /// A request that computes the code of `input`; [`Request::output`] then is the code.
    ///
    /// To check a code, compute it and compare in constant time: the device does not do that.
    ///
    /// # Errors
    /// As for [`Hasher::digest`].
    pub fn compute(&self, input: impl Into<Buffers>) -> Result<Request, NotMade> {
        request(&self.device, &self.session, input.into())
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacKey({})", self.mac)
    }
}
