//! Requests: owned, reusable, in by move and back by move.

use std::fmt;
use std::sync::Arc;

use ringbell_drivers::Result;
use ringbell_drivers::dma::DmaBuffer;
use ringbell_drivers::engine::{Algorithm, DeviceStatus, Direction, Purpose};

use crate::body::Body;
use crate::buffers::Buffers;
use crate::context::Target;
use crate::device::Device;
use crate::refusal::Refused;

/// A request: what is to be done, with the buffers to do it on.
///
/// Made by keys: [`CipherKey::encrypt`](crate::CipherKey::encrypt),
/// [`AeadKey::seal`](crate::AeadKey::seal), [`Hasher::digest`](crate::Hasher::digest) and their like. It goes into the ring by
/// move and comes back by move, with its result and its buffers, and can be submitted again: nothing
/// is allocated for an operation.
pub struct Request(pub(crate) Box<Body>);

impl Request {
    /// Submits to one of the device's shared queues, on this thread.
    ///
    /// `Ok` means accepted: the context's status is `OK`, and exactly one delivery will be made (it
    /// may come before this returns). The context is a [`WaitCtx`](crate::WaitCtx), or, inside a
    /// callback, its [`Delivery`](crate::Delivery).
    ///
    /// # Errors
    /// [`Refused`] gives the request back. Its [`status`](Refused::status) is `EAGAIN` (no room for
    /// the moment) or `ERR` (never), and the context has the same, unless the context was busy: then
    /// its status is left alone.
    #[inline]
    pub fn submit<T: Target>(self, ctx: &T) -> Result<(), Refused> {
        // The device outlives the call: the body, which is moved, is not its only owner.
        let device = Arc::clone(self.0.device.inner());
        device.submit(self, ctx)
    }

    /// The input: its first buffer, which most requests have alone. Before the request is done in place;
    /// after it the output may stand there. Empty where the device has the buffers still (after a cancel).
    pub fn input(&self) -> &[u8] {
        self.0.input()
    }

    /// The input, buffer by buffer.
    pub fn inputs(&self) -> impl Iterator<Item = &[u8]> {
        self.0.input_pieces()
    }

    /// The first buffer of the input, to be filled for the next use.
    pub fn input_mut(&mut self) -> &mut [u8] {
        self.0.input_mut()
    }

    /// All buffers of the input, to be filled for the next use.
    pub fn inputs_mut(&mut self) -> &mut [DmaBuffer] {
        self.0.inputs_mut()
    }

    /// The output: its first buffer, which most requests have alone; of hash functions and MACs the digest
    /// or code. Empty where the answer was no, and where the device has the buffers still (after a
    /// cancel).
    pub fn output(&self) -> &[u8] {
        self.0.output()
    }

    /// The output, buffer by buffer.
    pub fn outputs(&self) -> impl Iterator<Item = &[u8]> {
        self.0.output_pieces()
    }

    /// Sets the IV, first counter block, tweak or nonce for the next use: as long as the one before. A wrong
    /// length is refused at submit.
    pub fn set_iv(&mut self, iv: &[u8]) {
        self.0.set_iv(iv);
    }

    /// Sets the associated data for the next use: as long as those before.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for another length, and for requests that have none.
    pub fn set_aad(&mut self, aad: &[u8]) -> Result<()> {
        self.0.set_aad(aad)
    }

    /// Makes the input `len` bytes long, at most its buffer's capacity, and the output what follows from
    /// that. Not for requests over several buffers.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) above the capacity;
    /// [`Error::NoRoom`](crate::Error::NoRoom) where a new descriptor chain was needed and there was no
    /// memory for it at the moment. Nothing has changed then.
    pub fn set_len(&mut self, len: usize) -> Result<()> {
        self.0.set_len(len)
    }

    /// Takes the buffers out: input, and output where it is another one. Of several, the first of each:
    /// see [`into_pieces`](Self::into_pieces).
    pub fn into_buffers(self) -> (Option<DmaBuffer>, Option<DmaBuffer>) {
        let (inputs, outputs) = self.0.into_buffers();
        (inputs.into_iter().next(), outputs.into_iter().next())
    }

    /// Takes all buffers out: those of the input, and those of the output where they are others.
    pub fn into_pieces(self) -> (Buffers, Buffers) {
        let (inputs, outputs) = self.0.into_buffers();
        (inputs.into(), outputs.into())
    }

    /// What is done.
    pub fn algorithm(&self) -> Algorithm {
        self.0.purpose().algorithm()
    }

    /// Encrypt or decrypt, for what has a direction.
    pub fn direction(&self) -> Option<Direction> {
        match self.0.purpose() {
            Purpose::Cipher(_, direction) | Purpose::Aead { direction, .. } => Some(direction),
            _ => None,
        }
    }

    /// The device it is for.
    pub fn device(&self) -> &Device {
        &self.0.device
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: usize = self.inputs().map(<[u8]>::len).sum();
        write!(f, "Request({:?}, {bytes} bytes)", self.0.purpose())
    }
}

/// The device's answer to a request: yes, or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Yes,
    /// The device did what was asked, and the answer is no: a tag or a signature does not match.
    No,
}

/// Why an accepted request ended with `ERR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The device returned it with an error.
    #[error("the device returned an error: {0:?}")]
    Device(DeviceStatus),
    /// It was cancelled.
    #[error("the request was cancelled")]
    Canceled,
    /// Its time was over.
    #[error("the device did not answer in time")]
    TimedOut,
    /// The device had a fault while it had the request. It is being brought back, or has failed for good:
    /// [`Device::state`](crate::Device::state).
    #[error("the device had a fault while the request was in flight")]
    DeviceFailed,
    /// The poller was shut down while the device had the request.
    #[error("the poller was shut down while the request was in flight")]
    Shutdown,
}

/// A request that has ended, with its result.
pub struct Completion(Box<Body>);

impl Completion {
    #[inline]
    pub(crate) fn new(body: Box<Body>) -> Self {
        Self(body)
    }

    /// How it ended.
    ///
    /// # Errors
    /// Why it has no answer. The context's status is `ERR` then.
    #[inline]
    pub fn result(&self) -> Result<Answer, Fault> {
        self.0.outcome
    }

    /// Whether it was done by software, because its device is failed
    /// ([`PollerConfig::failover`](crate::PollerConfig::failover)).
    pub fn by_software(&self) -> bool {
        self.0.by_software()
    }

    /// The request, to look at its output.
    pub fn request(&self) -> RequestRef<'_> {
        RequestRef(&self.0)
    }

    /// The request, to be used again.
    #[inline]
    pub fn into_request(self) -> Request {
        Request(self.0)
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion").field("result", &self.result()).finish_non_exhaustive()
    }
}

/// The request inside a [`Completion`].
pub struct RequestRef<'a>(&'a Body);

impl<'a> RequestRef<'a> {
    /// The output; see [`Request::output`].
    pub fn output(&self) -> &'a [u8] {
        self.0.output()
    }

    /// The output, buffer by buffer.
    pub fn outputs(&self) -> impl Iterator<Item = &'a [u8]> {
        self.0.output_pieces()
    }

    /// The input; see [`Request::input`].
    pub fn input(&self) -> &'a [u8] {
        self.0.input()
    }
}
