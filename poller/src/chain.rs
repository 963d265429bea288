//! What is in a request with a descriptor chain of its own: all that is not a plain cipher on one
//! buffer.

use ringbell_drivers::dma::DmaBuffer;
use ringbell_drivers::engine::{DeviceStatus, Direction, Purpose, RsaOperation, SessionSpec};
use ringbell_drivers::virtio_crypto::{ChainJob, ChainOperation, Place};
use ringbell_drivers::{Error, Result};

use crate::device::Inner;
use crate::not_made::NotMade;
use crate::request::{Answer, Fault};

/// What the request brings beside its session and its buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Hash functions and MACs: nothing.
    Plain,
    /// Ciphers and AEAD: the IV or nonce, and the associated data.
    Nonce { nonce: Vec<u8>, aad: Vec<u8> },
    /// RSA; of a verification the last so many bytes of the input are the digest.
    Rsa { operation: RsaOperation, digest_len: usize },
}

/// A request with a chain of its own.
pub(crate) struct Chain {
    job: ChainJob,
    pub(crate) detail: Detail,
    pub(crate) inputs: Vec<DmaBuffer>,
    /// None where the result stands in the chain's own memory, or where it is done in place.
    pub(crate) outputs: Vec<DmaBuffer>,
    in_place: bool,
    input_len: usize,
    /// Bytes that the device is to write to the buffers.
    output_len: usize,
    /// A digest or code that software has computed.
    computed: Option<Vec<u8>>,
    /// Bytes that software has written to the buffers.
    written: Option<usize>,
}

/// Bytes of buffers.
pub(crate) fn total(buffers: &[DmaBuffer]) -> usize {
    buffers.iter().map(DmaBuffer::size).sum()
}

/// The first `len` bytes of the buffers, as the device finds them.
fn places(buffers: &[DmaBuffer], len: usize) -> Vec<Place> {
    let mut left = len;
    let mut places = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        let now = buffer.size().min(left);
        left -= now;
        places.push(Place { iova: buffer.iova(), len: now as u32 });
    }
    places
}

/// The first `len` bytes of the buffers, as slices.
fn slices(buffers: &[DmaBuffer], len: usize) -> impl Iterator<Item = &[u8]> {
    let mut left = len;
    buffers.iter().map(move |buffer| {
        // In a forked child they are empty.
        let now = buffer.len().min(left);
        left -= now;
        &buffer[..now]
    })
}

fn invalid<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Invalid(why.into()))
}

/// What the lengths of a request come to.
struct Lengths {
    output: usize,
    in_place: bool,
}

impl Chain {
    /// Puts a request together.
    ///
    /// # Errors
    /// [`Error::NoRoom`] when there is no memory for the chain at the moment; [`Error::Invalid`] for what
    /// can never work. The buffers are as they were given.
    pub(crate) fn new(
        device: &Inner,
        spec: &SessionSpec,
        detail: Detail,
        mut inputs: Vec<DmaBuffer>,
        outputs: Option<Vec<DmaBuffer>>,
    ) -> Result<Self, NotMade> {
        let last = inputs.last().map(DmaBuffer::size);
        match Self::prepare(device, spec, &detail, &mut inputs, outputs.as_deref()) {
            Ok((job, lengths, input_len)) => {
                let mut chain = Self {
                    job,
                    detail,
                    inputs,
                    outputs: outputs.unwrap_or_default(),
                    in_place: lengths.in_place,
                    input_len,
                    output_len: lengths.output,
                    computed: None,
                    written: None,
                };
                if !chain.in_place {
                    chain.shorten_outputs();
                }
                Ok(chain)
            }
            Err(error) => {
                if let (Some(buffer), Some(len)) = (inputs.last_mut(), last) {
                    // As long as it was: never more than it holds.
                    let _ = buffer.set_len(len);
                }
                Err(NotMade::new(error, inputs.into(), outputs.unwrap_or_default().into()))
            }
        }
    }

    fn prepare(
        device: &Inner,
        spec: &SessionSpec,
        detail: &Detail,
        inputs: &mut [DmaBuffer],
        outputs: Option<&[DmaBuffer]>,
    ) -> Result<(ChainJob, Lengths, usize)> {
        let arena = device.engine().arena();
        if inputs.iter().chain(outputs.into_iter().flatten()).any(|buffer| !buffer.is_of(arena)) {
            return invalid("a buffer belongs to another device");
        }
        let input_len = total(inputs);
        let lengths = lengths(spec, detail, input_len, outputs.map(total))?;
        let output = lengths.output;
        if lengths.in_place && output > input_len {
            // The tag goes behind the data.
            let more = output - input_len;
            let Some(last) = inputs.last_mut() else { return invalid("there is no buffer to seal in place") };
            if last.set_len(last.size() + more).is_err() {
                return invalid(format!(
                    "the buffer has no room for the tag behind the data: take one that is {more} bytes \
                     longer and shorten it (DmaBuffer::set_len), or seal into another"
                ));
            }
        }
        let job = Self::job(device, spec, detail, inputs, outputs, input_len, output)?;
        Ok((job, lengths, input_len))
    }

    /// Separate outputs are as long as what is written there.
    fn shorten_outputs(&mut self) {
        let mut left = self.output_len;
        for buffer in &mut self.outputs {
            let now = buffer.size().min(left);
            left -= now;
            // Never longer than it was.
            let _ = buffer.set_len(now);
        }
    }

    fn job(
        device: &Inner,
        spec: &SessionSpec,
        detail: &Detail,
        inputs: &[DmaBuffer],
        outputs: Option<&[DmaBuffer]>,
        input_len: usize,
        output_len: usize,
    ) -> Result<ChainJob> {
        let operation = match (spec.purpose, detail) {
            (Purpose::Cipher(cipher, direction), Detail::Nonce { nonce, .. }) => {
                ChainOperation::Cipher { cipher, direction, iv: nonce }
            }
            (Purpose::Hash(hash), _) => ChainOperation::Hash(hash),
            (Purpose::Mac(mac), _) => ChainOperation::Mac(mac),
            (Purpose::Aead { aead, direction, tag_len, .. }, Detail::Nonce { nonce, aad }) => {
                ChainOperation::Aead { aead, direction, tag_len, nonce, aad }
            }
            (Purpose::Rsa { .. }, Detail::Rsa { operation, digest_len }) => {
                ChainOperation::Rsa { operation: *operation, digest_len: *digest_len as u32 }
            }
            _ => return invalid("the session is for something else"),
        };
        let sources = places(inputs, input_len);
        // In place, or the result stands in the chain's memory and there is nothing to write elsewhere.
        let destinations = places(outputs.unwrap_or(inputs), output_len);
        let limits = device.limits();
        ChainJob::new(
            device.engine().arena(),
            &operation,
            &sources,
            &destinations,
            limits.longest_chain,
            limits.max_size,
        )
    }

    /// The chain for the ring.
    #[inline]
    pub(crate) fn job_mut(&mut self) -> &mut ChainJob {
        self.computed = None;
        self.written = None;
        &mut self.job
    }

    #[inline]
    pub(crate) fn job_ref(&self) -> &ChainJob {
        &self.job
    }

    /// Sets nonce or IV. False where its length is another.
    pub(crate) fn set_nonce(&mut self, to: &[u8]) -> bool {
        match &mut self.detail {
            Detail::Nonce { nonce, .. } if nonce.len() == to.len() => {
                nonce.copy_from_slice(to);
                self.job.set_nonce(to)
            }
            _ => false,
        }
    }

    /// Sets the associated data. False where its length is another.
    pub(crate) fn set_aad(&mut self, to: &[u8]) -> bool {
        match &mut self.detail {
            Detail::Nonce { aad, .. } if aad.len() == to.len() => {
                aad.copy_from_slice(to);
                self.job.set_aad(to)
            }
            _ => false,
        }
    }

    /// Makes the input `len` bytes long, and the output what follows from it.
    pub(crate) fn set_len(&mut self, device: &Inner, spec: &SessionSpec, len: usize) -> Result<()> {
        let ([input], true) = (self.inputs.as_slice(), self.outputs.len() <= 1) else {
            return invalid("a request over several buffers keeps its length; make another one");
        };
        let output_capacity = self.outputs.first().map(DmaBuffer::capacity);
        let wanted = match spec.purpose {
            Purpose::Aead { direction: Direction::Decrypt, tag_len, .. } => len.checked_sub(tag_len as usize),
            Purpose::Aead { tag_len, .. } => Some(len + tag_len as usize),
            Purpose::Cipher(..) => Some(len),
            _ => Some(self.output_len),
        };
        // Where there is less than a tag, `lengths` says so.
        let output_len = output_capacity.map(|capacity| wanted.unwrap_or(0).min(capacity));
        let lengths = lengths(spec, &self.detail, len, output_len)?;
        let longest = if lengths.in_place { len.max(lengths.output) } else { len };
        if longest > input.capacity() {
            return invalid(format!(
                "a buffer of {} bytes cannot be made {longest} bytes long",
                input.capacity()
            ));
        }
        let before = (input.size(), self.outputs.first().map(DmaBuffer::size));
        let resize = |chain: &mut Self, input: usize, output: Option<usize>| {
            if let Some(buffer) = chain.inputs.first_mut() {
                let _ = buffer.set_len(input);
            }
            if let (Some(buffer), Some(len)) = (chain.outputs.first_mut(), output) {
                let _ = buffer.set_len(len);
            }
        };
        resize(self, longest, output_len);
        let outputs = (!self.outputs.is_empty()).then_some(self.outputs.as_slice());
        match Self::job(device, spec, &self.detail, &self.inputs, outputs, len, lengths.output) {
            Ok(job) => {
                self.job = job;
                (self.input_len, self.output_len) = (len, lengths.output);
                Ok(())
            }
            Err(error) => {
                resize(self, before.0, before.1);
                Err(error)
            }
        }
    }

    /// Bytes that were put into the buffers, by the device or by software.
    fn filled(&self) -> usize {
        let variable = matches!(self.detail, Detail::Rsa { .. });
        match self.written {
            Some(written) => written,
            // Of RSA the device alone knows; of all else a device may say what it likes.
            None if variable => self.output_len.min(self.job.written() as usize),
            None => self.output_len,
        }
    }

    pub(crate) fn input_pieces(&self) -> impl Iterator<Item = &[u8]> {
        slices(&self.inputs, self.input_len)
    }

    /// The result, if the answer was yes.
    pub(crate) fn output_pieces(&self, answer: Answer) -> impl Iterator<Item = &[u8]> {
        let yes = answer == Answer::Yes;
        let computed = self.computed.as_deref().unwrap_or_else(|| self.job.result());
        let own = (!computed.is_empty() && yes).then_some(computed);
        let buffers = if self.in_place { &self.inputs } else { &self.outputs };
        let len = if yes { self.filled() } else { 0 };
        own.into_iter().chain(slices(buffers, len)).filter(|piece| !piece.is_empty())
    }

    /// Wipes what the device has written.
    #[cold]
    pub(crate) fn wipe_output(&mut self) {
        let buffers = if self.in_place { &mut self.inputs } else { &mut self.outputs };
        buffers.iter_mut().for_each(|buffer| buffer.fill(0));
    }

    /// Whether its input is there still when the device has been stopped in the middle of it.
    pub(crate) fn has_kept_input(&self) -> bool {
        !self.in_place
    }

    /// Bytes of its buffers.
    pub(crate) fn size(&self) -> usize {
        total(&self.inputs) + total(&self.outputs) + self.job.size()
    }

    /// Takes the buffers out, as long as what is in them.
    pub(crate) fn into_buffers(mut self, answer: Answer) -> (Vec<DmaBuffer>, Vec<DmaBuffer>) {
        let yes = answer == Answer::Yes;
        // The result may well have no bytes, and of RSA it is shorter than the buffer that was made for it.
        let (filled, input_len) = (self.filled(), self.input_len);
        let (buffers, len) = match self.in_place {
            true => (&mut self.inputs, if yes { filled } else { input_len }),
            false => (&mut self.outputs, if yes { filled } else { usize::MAX }),
        };
        let mut left = len;
        for buffer in buffers {
            let now = buffer.size().min(left);
            left -= now;
            // Never longer than it was.
            let _ = buffer.set_len(now);
        }
        (self.inputs, self.outputs)
    }

    /// Does it by software.
    pub(crate) fn do_by_software(&mut self, spec: &SessionSpec) -> Result<Answer, Fault> {
        let input: Vec<u8> = self.input_pieces().flatten().copied().collect();
        let Some(result) = crate::software::compute_chain(spec, &self.detail, input)? else {
            return Ok(Answer::No);
        };
        if !self.job.result().is_empty() {
            self.computed = Some(result);
            return Ok(Answer::Yes);
        }
        self.written = Some(result.len());
        let buffers = if self.in_place { &mut self.inputs } else { &mut self.outputs };
        let mut rest = result.as_slice();
        for buffer in buffers {
            let (now, later) = rest.split_at(buffer.len().min(rest.len()));
            buffer[..now.len()].copy_from_slice(now);
            rest = later;
        }
        if rest.is_empty() { Ok(Answer::Yes) } else { Err(Fault::Device(DeviceStatus::Err)) }
    }
}

/// Checks the lengths of input and output against what the session does.
fn lengths(spec: &SessionSpec, detail: &Detail, input: usize, output: Option<usize>) -> Result<Lengths> {
    let in_place = output.is_none();
    let fits = |needed: usize| match output {
        Some(given) if given < needed => {
            invalid(format!("the output has {given} bytes, and the result takes {needed}"))
        }
        _ => Ok(Lengths { output: needed, in_place }),
    };
    match (spec.purpose, detail) {
        (Purpose::Cipher(cipher, _), Detail::Nonce { nonce, .. }) => {
            if nonce.len() != cipher.iv_len() {
                return invalid(format!(
                    "an IV of {} bytes does not fit {cipher}, which takes {}",
                    nonce.len(),
                    cipher.iv_len()
                ));
            }
            if !input.is_multiple_of(cipher.granule()) || input < cipher.least() {
                return invalid(format!(
                    "{input} bytes do not fit {cipher}, which takes multiples of {} from {} on",
                    cipher.granule(),
                    cipher.least()
                ));
            }
            if output.is_some_and(|output| output != input) {
                return invalid("input and output have different lengths");
            }
            fits(input)
        }
        (Purpose::Hash(_) | Purpose::Mac(_), Detail::Plain) => Ok(Lengths { output: 0, in_place: false }),
        (Purpose::Aead { aead, direction, tag_len, .. }, Detail::Nonce { nonce, .. }) => {
            let lens = aead.nonce_lens();
            if !lens.contains(&nonce.len()) {
                return invalid(format!(
                    "a nonce of {} bytes does not fit {aead}, which takes {} to {}",
                    nonce.len(),
                    lens.start(),
                    lens.end()
                ));
            }
            let tag = tag_len as usize;
            let (data, result) = match direction {
                Direction::Encrypt => (Some(input), input.checked_add(tag)),
                Direction::Decrypt => (input.checked_sub(tag), input.checked_sub(tag)),
            };
            let (Some(data), Some(result)) = (data, result) else {
                return invalid(format!("{input} bytes do not hold a tag of {tag}"));
            };
            if data as u64 > aead.longest(nonce.len()) {
                return invalid(format!(
                    "{data} bytes are more than {aead} takes with a nonce of {} bytes",
                    nonce.len()
                ));
            }
            fits(result)
        }
        (Purpose::Rsa { .. }, Detail::Rsa { operation: RsaOperation::Verify, .. }) => {
            Ok(Lengths { output: 0, in_place: false })
        }
        // As long as the modulus: the key has made the buffer.
        (Purpose::Rsa { .. }, Detail::Rsa { .. }) => {
            Ok(Lengths { output: output.unwrap_or(0), in_place: false })
        }
        _ => invalid("the session is for something else"),
    }
}
