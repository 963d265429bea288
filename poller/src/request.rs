//! Requests: owned, reusable, in by move and back by move.

use std::fmt;
use std::sync::Arc;

use ringbell_drivers::dma::DmaBuffer;
use ringbell_drivers::engine::{Cipher, DeviceStatus, Direction, Session, SessionState};
use ringbell_drivers::virtio_crypto::{CipherJob, Entry, Place};
use ringbell_drivers::{Error, Result};

use crate::context::{ContextClaim, Target};
use crate::device::{Device, Inner};
use crate::key::KeyInner;
use crate::refusal::{Reason, Refused};
use crate::state::DeviceState;

/// What is in a request. Boxed, so that moving one is moving a pointer.
pub(crate) struct Body {
    /// The operation for the ring, as of the last change of IV or length.
    job: CipherJob,
    /// Address of the device's `Inner`, only ever compared. `key` keeps it from being reused.
    device: usize,
    session: Arc<Session>,
    /// The device's id of the session when it was submitted.
    used_session: u64,
    /// It was done by software.
    by_software: bool,
    /// Why it can never be accepted.
    invalid: Option<Reason>,
    pub(crate) outcome: Result<Answer, Fault>,
    direction: Direction,
    iv: [u8; 16],
    pub(crate) key: Arc<KeyInner>,
    /// `None` in what is delivered for a request whose buffers the device still has.
    source: Option<DmaBuffer>,
    destination: Option<DmaBuffer>,
}

impl Body {
    /// The operation for the ring.
    #[inline(always)]
    pub(crate) fn job(&self) -> &CipherJob {
        &self.job
    }

    #[inline(always)]
    pub(crate) fn invalid(&self) -> Option<Reason> {
        self.invalid
    }

    #[inline(always)]
    pub(crate) fn is_for(&self, device: &Inner) -> bool {
        self.device == std::ptr::from_ref(device).addr()
    }

    /// The id of its session, where that is live.
    #[inline(always)]
    pub(crate) fn session_id(&self) -> Option<u64> {
        self.session.live_id()
    }

    /// Keeps the id that it is submitted with.
    #[inline(always)]
    pub(crate) fn use_session(&mut self, id: u64) {
        self.used_session = id;
    }

    /// The device did not know the session.
    #[cold]
    pub(crate) fn session_lost(&self) {
        let device = self.key.device.inner();
        device.engine().session_lost(&self.session, self.used_session);
        device.state.set_if(device.engine().address(), DeviceState::Ready, DeviceState::Suspect);
    }

    /// Whether its input is there still when the device has been stopped in the middle of it.
    pub(crate) fn has_kept_input(&self) -> bool {
        self.destination.is_some()
    }

    /// Does the operation on this thread. False where there is no software for it.
    pub(crate) fn do_by_software(&mut self) -> bool {
        self.by_software = true;
        let spec = self.session.spec();
        let iv = &self.iv[..spec.cipher.iv_len()];
        let Some(source) = &mut self.source else { return false };
        let data: &mut [u8] = match &mut self.destination {
            Some(destination) => {
                destination.copy_from_slice(source);
                destination
            }
            None => source,
        };
        crate::software::compute(spec.cipher, spec.direction, &spec.key, iv, data).is_some()
    }

    /// Without a live session: starts its creation where it is absent, and says why there is none.
    #[cold]
    pub(crate) fn without_session(&self, device: &Inner) -> Reason {
        match self.session.state() {
            SessionState::Refused => Reason::SessionRefused,
            _ => match device.engine().start_session(&self.session) {
                Ok(()) | Err(Error::NoRoom(_)) => Reason::SessionPending,
                Err(Error::Forked) => Reason::Forked,
                Err(_) => device.why_shut().reason(),
            },
        }
    }

    pub(crate) fn input(&self) -> &[u8] {
        self.source.as_deref().unwrap_or(&[])
    }

    pub(crate) fn output(&self) -> &[u8] {
        self.destination.as_deref().or(self.source.as_deref()).unwrap_or(&[])
    }

    /// Bytes of its buffers.
    pub(crate) fn size(&self) -> usize {
        let size = |buffer: &Option<DmaBuffer>| buffer.as_ref().map_or(0, DmaBuffer::size);
        size(&self.source) + size(&self.destination)
    }

    /// A body for the early end of a request whose own body stays with the device.
    pub(crate) fn without_buffers(&self) -> Box<Self> {
        Box::new(Self {
            job: self.job,
            device: self.device,
            session: Arc::clone(&self.session),
            used_session: self.used_session,
            by_software: false,
            invalid: Some(Reason::NoData),
            outcome: self.outcome,
            direction: self.direction,
            iv: self.iv,
            key: Arc::clone(&self.key),
            source: None,
            destination: None,
        })
    }

    /// Takes an IV over where it has the right length.
    fn set_iv(&mut self, iv: &[u8]) -> bool {
        let fits = iv.len() == self.key.cipher.iv_len();
        if fits {
            self.iv[..iv.len()].copy_from_slice(iv);
        }
        fits
    }

    /// Puts the operation together, and finds why it can never be accepted.
    fn update(&mut self, iv_fits: bool) {
        self.invalid = if iv_fits { self.find_invalid() } else { Some(Reason::IvLength) };
        if let Some(source) = &self.source {
            let source = place(source);
            let destination = self.destination.as_ref().map_or(source, place);
            let cipher = self.key.cipher;
            self.job =
                CipherJob::new(cipher, self.direction, &self.iv[..cipher.iv_len()], source, destination);
        }
    }

    fn find_invalid(&self) -> Option<Reason> {
        let Some(source) = &self.source else { return Some(Reason::NoData) };
        let granule = self.key.cipher.granule();
        let device = self.key.device.inner();
        let arena = device.engine().arena();
        let is_foreign = |buffer: &DmaBuffer| !buffer.is_of(arena);
        if !source.len().is_multiple_of(granule) {
            Some(Reason::PartialBlock)
        } else if source.len() as u64 > device.max_request() {
            Some(Reason::TooLong)
        } else if self.destination.as_ref().is_some_and(|destination| destination.len() != source.len()) {
            Some(Reason::LengthsDiffer)
        } else if is_foreign(source) || self.destination.as_ref().is_some_and(is_foreign) {
            Some(Reason::OtherDevice)
        } else {
            None
        }
    }
}

fn place(buffer: &DmaBuffer) -> Place {
    Place { iova: buffer.iova(), len: buffer.size() as u32 }
}

/// The entry of a request in flight: what the ring keeps of it.
pub(crate) struct InFlight {
    /// `None` once the request has ended early and only its buffers are here.
    pub(crate) claim: Option<ContextClaim>,
    pub(crate) body: Box<Body>,
}

impl Entry for InFlight {
    #[inline(always)]
    fn writable(&self) -> u32 {
        self.body.job.len()
    }
}

/// A request: what is to be done, with the buffers to do it on.
///
/// Made by [`CipherKey::encrypt`](crate::CipherKey::encrypt) and its like. It goes into the ring by
/// move and comes back by move, with its result and its buffers, and can be submitted again: nothing
/// is allocated for an operation.
pub struct Request(pub(crate) Box<Body>);

impl Request {
    pub(crate) fn new(
        key: Arc<KeyInner>,
        direction: Direction,
        iv: &[u8],
        source: DmaBuffer,
        destination: Option<DmaBuffer>,
    ) -> Self {
        let mut body = Body {
            job: CipherJob::default(),
            device: Arc::as_ptr(key.device.inner()).addr(),
            session: Arc::clone(key.session(direction)),
            used_session: 0,
            by_software: false,
            invalid: None,
            outcome: Ok(Answer::Yes),
            direction,
            iv: [0; 16],
            key,
            source: Some(source),
            destination,
        };
        let iv_fits = body.set_iv(iv);
        body.update(iv_fits);
        Self(Box::new(body))
    }

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
        let device = Arc::clone(self.0.key.device.inner());
        device.submit(self, ctx)
    }

    /// The input, or, in place, both. Empty where the device has the buffers still (after a cancel).
    pub fn input(&self) -> &[u8] {
        self.0.input()
    }

    /// The input, to be filled for the next use.
    pub fn input_mut(&mut self) -> &mut [u8] {
        self.0.source.as_deref_mut().unwrap_or(&mut [])
    }

    /// The output. Empty where the device has the buffers still (after a cancel).
    pub fn output(&self) -> &[u8] {
        self.0.output()
    }

    /// Sets the IV or first counter block for the next use: as long as
    /// [`Cipher::iv_len`] says. A wrong length is refused at submit.
    pub fn set_iv(&mut self, iv: &[u8]) {
        let fits = self.0.set_iv(iv);
        self.0.update(fits);
    }

    /// Makes input and output `len` bytes long, at most the buffers' capacity.
    ///
    /// # Errors
    /// [`Error::Invalid`] above it; nothing has changed then.
    pub fn set_len(&mut self, len: usize) -> Result<()> {
        let body = &mut *self.0;
        let capacity = |buffer: &Option<DmaBuffer>| buffer.as_ref().map_or(usize::MAX, DmaBuffer::capacity);
        let most = capacity(&body.source).min(capacity(&body.destination));
        if len > most {
            return Err(Error::Invalid(format!("buffers of {most} bytes cannot be made {len} bytes long")));
        }
        for buffer in [&mut body.source, &mut body.destination].into_iter().flatten() {
            buffer.set_len(len)?;
        }
        let iv_fits = body.invalid != Some(Reason::IvLength);
        body.update(iv_fits);
        Ok(())
    }

    /// Takes the buffers out: input, and output where it is another one.
    pub fn into_buffers(self) -> (Option<DmaBuffer>, Option<DmaBuffer>) {
        let body = *self.0;
        (body.source, body.destination)
    }

    /// The cipher.
    pub fn cipher(&self) -> Cipher {
        self.0.key.cipher
    }

    /// Encrypt or decrypt.
    pub fn direction(&self) -> Direction {
        self.0.direction
    }

    /// The device it is for.
    pub fn device(&self) -> &Device {
        &self.0.key.device
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({:?} {}, {} bytes)", self.direction(), self.cipher(), self.input().len())
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
        self.0.by_software
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

    /// The input; see [`Request::input`].
    pub fn input(&self) -> &'a [u8] {
        self.0.input()
    }
}
