//! What is in a request.

use std::sync::Arc;

use ringbell_drivers::dma::DmaBuffer;
use ringbell_drivers::engine::{Cipher, Direction, Mode, Purpose, Session, SessionState};
use ringbell_drivers::virtio_crypto::{ChainJob, CipherJob, Entry, Place};
use ringbell_drivers::{Error, Result};

use crate::chain::Chain;
use crate::context::ContextClaim;
use crate::device::{Device, Inner};
use crate::refusal::Reason;
use crate::request::{Answer, Fault};
use crate::state::DeviceState;

/// Which way a request goes into the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// As a plain cipher on one buffer: the hot path.
    Open,
    /// With a chain of its own.
    Chain,
    /// Not at all: why it can never be accepted.
    Shut(Reason),
}

/// What is in a request. Boxed, so that moving one is moving a pointer.
pub(crate) struct Body {
    /// The operation for the ring, as of the last change of IV or length; of a chain only the limit
    /// (0) is used.
    job: CipherJob,
    /// Address of the device's `Inner`, only ever compared. `device` keeps it from being reused.
    device_id: usize,
    session: Arc<Session>,
    /// The device's id of the session when it was submitted.
    used_session: u64,
    /// It was done by software.
    by_software: bool,
    gate: Gate,
    pub(crate) outcome: Result<Answer, Fault>,
    iv: [u8; 16],
    pub(crate) device: Device,
    /// Of plain ciphers. `None` in what is delivered for a request whose buffers the device still has.
    source: Option<DmaBuffer>,
    destination: Option<DmaBuffer>,
    chain: Option<Box<Chain>>,
}

impl Body {
    /// A plain cipher on one buffer, in place or into another.
    pub(crate) fn cipher(
        device: &Device,
        session: &Arc<Session>,
        iv: &[u8],
        source: DmaBuffer,
        destination: Option<DmaBuffer>,
    ) -> Self {
        let mut body = Self { source: Some(source), destination, ..Self::empty(device, session) };
        let fits = body.take_iv(iv);
        body.update(fits);
        body
    }

    /// A request with a chain of its own.
    pub(crate) fn chain(device: &Device, session: &Arc<Session>, chain: Chain) -> Self {
        let chain = Some(Box::new(chain));
        Self { gate: Gate::Chain, chain, ..Self::empty(device, session) }
    }

    fn empty(device: &Device, session: &Arc<Session>) -> Self {
        Self {
            job: CipherJob::default(),
            device_id: Arc::as_ptr(device.inner()).addr(),
            session: Arc::clone(session),
            used_session: 0,
            by_software: false,
            gate: Gate::Shut(Reason::NoData),
            outcome: Ok(Answer::Yes),
            iv: [0; 16],
            device: device.clone(),
            source: None,
            destination: None,
            chain: None,
        }
    }

    /// A body for the early end of a request whose own body stays with the device.
    pub(crate) fn without_buffers(&self) -> Box<Self> {
        let empty = Self::empty(&self.device, &self.session);
        Box::new(Self { outcome: self.outcome, iv: self.iv, used_session: self.used_session, ..empty })
    }

    /// The operation for the ring.
    #[inline(always)]
    pub(crate) fn job(&self) -> &CipherJob {
        &self.job
    }

    /// The chain of its own, ready for the ring.
    #[inline]
    pub(crate) fn chain_job(&mut self) -> Option<&mut ChainJob> {
        self.chain.as_deref_mut().map(Chain::job_mut)
    }

    #[inline(always)]
    pub(crate) fn gate(&self) -> Gate {
        self.gate
    }

    /// Why it can never be accepted.
    pub(crate) fn invalid(&self) -> Option<Reason> {
        match self.gate {
            Gate::Shut(reason) => Some(reason),
            Gate::Open | Gate::Chain => None,
        }
    }

    #[inline(always)]
    pub(crate) fn is_for(&self, device: &Inner) -> bool {
        self.device_id == std::ptr::from_ref(device).addr()
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

    /// What its session does.
    pub(crate) fn purpose(&self) -> Purpose {
        self.session.spec().purpose
    }

    /// The device did not know the session.
    #[cold]
    pub(crate) fn session_lost(&self) {
        let device = self.device.inner();
        device.engine().session_lost(&self.session, self.used_session);
        device.state.set_if(device.engine().address(), DeviceState::Ready, DeviceState::Suspect);
    }

    /// The device does not do what the session is for.
    #[cold]
    pub(crate) fn not_supported(&self) {
        self.device.inner().engine().refused(self.purpose().algorithm());
    }

    /// It did not end with a yes: what has been opened and is not proven to be right is wiped.
    #[cold]
    pub(crate) fn forget_unproven(&mut self) {
        let opens = matches!(self.purpose(), Purpose::Aead { direction: Direction::Decrypt, .. });
        if let Some(chain) = &mut self.chain
            && opens
        {
            chain.wipe_output();
        }
    }

    /// Whether its input is there still when the device has been stopped in the middle of it.
    pub(crate) fn has_kept_input(&self) -> bool {
        self.destination.is_some() || self.chain.as_ref().is_some_and(|chain| chain.has_kept_input())
    }

    /// Whether it was done by software.
    pub(crate) fn by_software(&self) -> bool {
        self.by_software
    }

    /// Does the operation on this thread.
    pub(crate) fn do_by_software(&mut self) -> Result<Answer, Fault> {
        self.by_software = true;
        let spec = self.session.spec();
        if let Some(chain) = &mut self.chain {
            let answer = chain.do_by_software(spec)?;
            if answer == Answer::No {
                self.forget_unproven();
            }
            return Ok(answer);
        }
        let (Purpose::Cipher(cipher, direction), Some(source)) = (spec.purpose, &mut self.source) else {
            return Err(Fault::DeviceFailed);
        };
        let iv = &self.iv[..cipher.iv_len()];
        let data: &mut [u8] = match &mut self.destination {
            Some(destination) => {
                destination.copy_from_slice(source);
                destination
            }
            None => source,
        };
        crate::software::compute(cipher, direction, &spec.key, iv, data).map(|()| Answer::Yes)
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

    /// The input, piece by piece.
    pub(crate) fn input_pieces(&self) -> impl Iterator<Item = &[u8]> {
        let chain = self.chain.iter().flat_map(|chain| chain.input_pieces());
        self.source.as_deref().into_iter().chain(chain)
    }

    /// The first piece of the input, or the only one.
    pub(crate) fn input(&self) -> &[u8] {
        self.source.as_deref().or_else(|| self.input_pieces().next()).unwrap_or(&[])
    }

    /// The answer, as far as the output goes: none of an error.
    fn answer(&self) -> Answer {
        self.outcome.unwrap_or(Answer::No)
    }

    /// The output, piece by piece.
    pub(crate) fn output_pieces(&self) -> impl Iterator<Item = &[u8]> {
        let plain = self.destination.as_deref().or(self.source.as_deref());
        let chain = self.chain.iter().flat_map(|chain| chain.output_pieces(self.answer()));
        plain.into_iter().chain(chain)
    }

    /// The first piece of the output, or the only one.
    pub(crate) fn output(&self) -> &[u8] {
        let plain = self.destination.as_deref().or(self.source.as_deref());
        plain.or_else(|| self.output_pieces().next()).unwrap_or(&[])
    }

    /// The first buffer of the input, to be filled.
    pub(crate) fn input_mut(&mut self) -> &mut [u8] {
        match (&mut self.source, &mut self.chain) {
            (Some(source), _) => source,
            (None, Some(chain)) => {
                let len = chain.input_pieces().next().map_or(0, <[u8]>::len);
                chain.inputs.first_mut().and_then(|buffer| buffer.get_mut(..len)).unwrap_or(&mut [])
            }
            (None, None) => &mut [],
        }
    }

    /// All buffers of the input, to be filled.
    pub(crate) fn inputs_mut(&mut self) -> &mut [DmaBuffer] {
        match (&mut self.source, &mut self.chain) {
            (Some(source), _) => std::slice::from_mut(source),
            (None, Some(chain)) => &mut chain.inputs,
            (None, None) => &mut [],
        }
    }

    /// Bytes of its buffers.
    pub(crate) fn size(&self) -> usize {
        let size = |buffer: &Option<DmaBuffer>| buffer.as_ref().map_or(0, DmaBuffer::size);
        size(&self.source) + size(&self.destination) + self.chain.as_ref().map_or(0, |chain| chain.size())
    }

    /// Takes the buffers out.
    pub(crate) fn into_buffers(self) -> (Vec<DmaBuffer>, Vec<DmaBuffer>) {
        let answer = self.answer();
        match self.chain {
            Some(chain) => chain.into_buffers(answer),
            None => (self.source.into_iter().collect(), self.destination.into_iter().collect()),
        }
    }

    /// Sets IV or nonce for the next use.
    pub(crate) fn set_iv(&mut self, iv: &[u8]) {
        match &mut self.chain {
            Some(chain) => {
                self.gate = if chain.set_nonce(iv) { Gate::Chain } else { Gate::Shut(Reason::IvLength) };
            }
            None => {
                let fits = self.take_iv(iv);
                self.update(fits);
            }
        }
    }

    /// Sets the associated data for the next use.
    pub(crate) fn set_aad(&mut self, aad: &[u8]) -> Result<()> {
        if self.chain.as_mut().is_some_and(|chain| chain.set_aad(aad)) {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "associated data of {} bytes do not fit the request, whose session is for another length; \
             make another request",
            aad.len()
        )))
    }

    /// Makes the input `len` bytes long, and the output what follows.
    pub(crate) fn set_len(&mut self, len: usize) -> Result<()> {
        if let Some(chain) = &mut self.chain {
            return chain.set_len(self.device.inner(), self.session.spec(), len);
        }
        let capacity = |buffer: &Option<DmaBuffer>| buffer.as_ref().map_or(usize::MAX, DmaBuffer::capacity);
        let most = capacity(&self.source).min(capacity(&self.destination));
        if len > most {
            return Err(Error::Invalid(format!("buffers of {most} bytes cannot be made {len} bytes long")));
        }
        for buffer in [&mut self.source, &mut self.destination].into_iter().flatten() {
            buffer.set_len(len)?;
        }
        self.update(self.gate != Gate::Shut(Reason::IvLength));
        Ok(())
    }

    /// Cipher and direction of a plain one.
    fn plain(&self) -> Option<(Cipher, Direction)> {
        match self.session.spec().purpose {
            Purpose::Cipher(cipher, direction) => Some((cipher, direction)),
            _ => None,
        }
    }

    /// Takes an IV over where it has the right length.
    fn take_iv(&mut self, iv: &[u8]) -> bool {
        let fits = self.plain().is_some_and(|(cipher, _)| iv.len() == cipher.iv_len());
        if fits {
            self.iv[..iv.len()].copy_from_slice(iv);
        }
        fits
    }

    /// Puts the operation together, and finds why it can never be accepted.
    fn update(&mut self, iv_fits: bool) {
        let Some((cipher, direction)) = self.plain() else { return };
        let shut = if iv_fits { self.find_invalid(cipher) } else { Some(Reason::IvLength) };
        self.gate = shut.map_or(Gate::Open, Gate::Shut);
        if let Some(source) = &self.source {
            let source = place(source);
            let destination = self.destination.as_ref().map_or(source, place);
            self.job = CipherJob::new(cipher, direction, &self.iv[..cipher.iv_len()], source, destination);
        }
    }

    fn find_invalid(&self, cipher: Cipher) -> Option<Reason> {
        let Some(source) = &self.source else { return Some(Reason::NoData) };
        let device = self.device.inner();
        let arena = device.engine().arena();
        let is_foreign = |buffer: &DmaBuffer| !buffer.is_of(arena);
        if !source.len().is_multiple_of(cipher.granule()) {
            Some(Reason::PartialBlock)
        } else if cipher.mode() == Mode::Xts && source.len() < cipher.least() {
            Some(Reason::TooShort)
        } else if source.len() as u64 > device.limits().max_request {
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
    fn limit(&self) -> u32 {
        self.body.job.limit()
    }

    fn chain(&self) -> Option<&ChainJob> {
        self.body.chain.as_deref().map(Chain::job_ref)
    }
}
