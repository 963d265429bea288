//! Read, device, write, all at the same time, in one thread.
//!
//! ```text
//!             current            queue, in order of the stream                  spare
//!   input --> [ being filled ] -> [filled] [with the device] [done] --> output --> [ ]
//! ```
//!
//! The data is read into DMA memory, worked on in place and written from there. The thread polls the
//! device itself, between two pieces of input or output: so it takes one core, and leaves the others
//! to the device where that is a simulator.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ringbell::{CipherKey, Device, ManualPoller, PollerConfig, Request, Status, WaitCtx};

use super::chain::{BLOCK, Chain, padding_of};
use crate::error::{Error, Result};
use crate::files::{Input, Output};

/// Bytes of a request, and requests, where several are with the device: enough that their costs do
/// not count, little enough that all of them stay in the cache.
const PARALLEL: (usize, usize) = (128 << 10, 12);
/// Where one is, and both sides wait for each other after each.
const SERIAL: (usize, usize) = (512 << 10, 4);
/// Bytes of input or output between two looks at the device.
const PIECE: usize = 64 << 10;
/// How long the thread looks for a completion before it sleeps, where it has a core for that.
const SPIN: Duration = Duration::from_micros(20);
/// How long the device may take for a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Filled,
    WithDevice,
    Done,
}

/// A request, its context, and how far it is.
struct Chunk {
    ctx: WaitCtx,
    /// `None` while the device has it.
    request: Option<Request>,
    stage: Stage,
    /// Bytes of input that are in, while it is filled.
    filled: usize,
    /// Bytes of output that are written.
    written: usize,
}

impl Chunk {
    fn output(&self) -> &[u8] {
        self.request.as_ref().map_or(&[], Request::output)
    }
}

/// Everything between input and output.
struct Pipeline {
    chain: Chain,
    input: Input,
    output: Output,
    poller: ManualPoller,
    spare: Vec<Chunk>,
    current: Option<Chunk>,
    queue: VecDeque<Chunk>,
    with_device: usize,
    chunk_len: usize,
    /// Input behind the last whole block of a chunk that was submitted before it was full.
    carry: Vec<u8>,
    at_end: bool,
    read_any: bool,
    spin: Duration,
}

/// Takes the input through the device to the output.
pub(super) fn run(
    device: &Device,
    key: &CipherKey,
    chain: Chain,
    input: Input,
    output: Output,
) -> Result<()> {
    let config = PollerConfig {
        request_timeout: PATIENCE,
        stall_limit: PATIENCE,
        // There are no callbacks; what takes long is a thread that had to give its core away.
        slow_callback: PATIENCE,
        ..Default::default()
    };
    let library = |what: &'static str| move |e| Error::library(what, e);
    let poller =
        ManualPoller::new(std::slice::from_ref(device), config).map_err(library("poll the device"))?;
    let (wanted, chunks) = if chain.serial() { SERIAL } else { PARALLEL };
    let most = usize::try_from(device.capabilities().max_request).unwrap_or(wanted);
    let chunk_len = wanted.min(most) / BLOCK * BLOCK;
    let mut spare = Vec::with_capacity(chunks);
    for _ in 0..chunks {
        let buffer = match device.buffer(chunk_len) {
            // Where the rings have taken most of the memory, fewer will do.
            Err(ringbell::Error::NoRoom(_)) if spare.len() >= 2 => break,
            buffer => buffer.map_err(library("take DMA memory"))?,
        };
        let request = key.request(chain.direction, &chain.iv()[..chain.cipher.iv_len()], buffer, None);
        let ctx = WaitCtx::new();
        spare.push(Chunk { ctx, request: Some(request), stage: Stage::Filled, filled: 0, written: 0 });
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut pipeline = Pipeline {
        chain,
        input,
        output,
        poller,
        spare,
        current: None,
        queue: VecDeque::with_capacity(chunks),
        with_device: 0,
        chunk_len,
        carry: Vec::with_capacity(BLOCK),
        at_end: false,
        read_any: false,
        spin: if cores > 1 { SPIN } else { Duration::ZERO },
    };
    pipeline.go()?;
    let Pipeline { poller, output, .. } = pipeline;
    poller.shutdown();
    output.finish()
}

impl Pipeline {
    fn go(&mut self) -> Result<()> {
        loop {
            self.poller.poll();
            self.take_done()?;
            self.submit()?;
            if self.write()? {
                continue;
            }
            if self.at_end && self.queue.is_empty() {
                return Ok(());
            }
            if !self.at_end && self.can_fill() {
                if self.input.is_ready() {
                    self.fill()?;
                    continue;
                }
                if self.queue.iter().all(|chunk| chunk.stage == Stage::Done) {
                    // Nothing else can be done: what is there goes on its way, then the input is
                    // waited for.
                    if self.current.as_ref().is_some_and(|chunk| chunk.filled >= BLOCK) {
                        self.seal(false)?;
                    } else {
                        self.fill()?;
                    }
                    continue;
                }
            }
            self.wait()?;
        }
    }

    /// Requests that are done come back to their chunks.
    fn take_done(&mut self) -> Result<()> {
        if self.with_device == 0 {
            return Ok(());
        }
        for chunk in &mut self.queue {
            if chunk.stage != Stage::WithDevice {
                continue;
            }
            let Some(completion) = chunk.ctx.take() else { continue };
            self.with_device -= 1;
            completion.result().map_err(|fault| {
                let attempted = format!("{} {}", self.chain.verb(), self.input.name());
                // The work is done in place: what was lost cannot be sent again.
                Error::failed(attempted, format!("{fault}; run it again"))
            })?;
            let request = completion.into_request();
            self.chain.done(request.output());
            chunk.request = Some(request);
            chunk.stage = Stage::Done;
        }
        Ok(())
    }

    /// Submits what is filled: all of it, or in a serial chain the next when nothing is under way.
    fn submit(&mut self) -> Result<()> {
        let serial = self.chain.serial();
        for chunk in &mut self.queue {
            if chunk.stage != Stage::Filled {
                continue;
            }
            if serial && self.with_device > 0 {
                break;
            }
            let Some(mut request) = chunk.request.take() else { continue };
            if serial {
                request.set_iv(&self.chain.iv());
            }
            match request.submit(&chunk.ctx) {
                Ok(()) => {
                    chunk.stage = Stage::WithDevice;
                    self.with_device += 1;
                }
                Err(refused) => {
                    let eagain = refused.status() == Status::Eagain;
                    if !eagain {
                        let attempted = format!("{} {}", self.chain.verb(), self.input.name());
                        return Err(Error::failed(attempted, refused));
                    }
                    // No room: again when something is done.
                    chunk.request = Some(refused.into_request());
                    break;
                }
            }
        }
        Ok(())
    }

    /// Writes a piece of what is done; false where there is nothing to write.
    fn write(&mut self) -> Result<bool> {
        let Some(front) = self.queue.front() else { return Ok(false) };
        if front.stage != Stage::Done {
            return Ok(false);
        }
        let (end, complete) = self.end_of_front(front)?;
        let Some(front) = self.queue.front_mut() else { return Ok(false) };
        if front.written < end {
            let piece = end.min(front.written + PIECE);
            front.written += self.output.write(&front.output()[front.written..piece])?;
            if front.written < end || !complete {
                return Ok(true);
            }
        }
        if complete && let Some(chunk) = self.queue.pop_front() {
            self.spare.push(chunk);
            return Ok(true);
        }
        Ok(false)
    }

    /// How much of the first chunk may be written, and whether that is all of it. Where padding is
    /// to be taken off, the last block stays until it is known not to be the last, or to be.
    fn end_of_front(&self, front: &Chunk) -> Result<(usize, bool)> {
        let output = front.output();
        let more = self.queue.len() > 1
            || !self.carry.is_empty()
            || self.current.as_ref().is_some_and(|chunk| chunk.filled > 0);
        if !self.chain.strips() || more {
            Ok((output.len(), true))
        } else if !self.at_end {
            Ok((output.len().saturating_sub(BLOCK), false))
        } else {
            let padding = padding_of(output).ok_or_else(|| {
                let attempted = format!("decrypt {}", self.input.name());
                Error::failed(
                    attempted,
                    "bad decrypt: wrong key, IV or cipher, or the input is damaged (--nopad where it has no padding)",
                )
            })?;
            Ok((output.len() - padding, true))
        }
    }

    fn can_fill(&self) -> bool {
        self.current.is_some() || !self.spare.is_empty()
    }

    /// Reads a piece of input. May block where it is a pipe.
    fn fill(&mut self) -> Result<()> {
        let chunk = match self.current.take().or_else(|| self.spare.pop()) {
            Some(chunk) => self.current.insert(chunk),
            None => return Ok(()),
        };
        let Some(request) = &mut chunk.request else { return Ok(()) };
        if chunk.filled == 0 {
            let made = request.set_len(self.chunk_len);
            made.map_err(|e| Error::library("use a buffer again", e))?;
            request.input_mut()[..self.carry.len()].copy_from_slice(&self.carry);
            chunk.filled = self.carry.len();
            self.carry.clear();
        }
        let end = self.chunk_len.min(chunk.filled + PIECE);
        let count = self.input.read(&mut request.input_mut()[chunk.filled..end])?;
        chunk.filled += count;
        self.read_any |= count > 0;
        if count == 0 {
            self.seal(true)
        } else if chunk.filled == self.chunk_len {
            self.seal(false)
        } else {
            Ok(())
        }
    }

    /// Puts the current chunk into the queue: its whole blocks, or at the end of the input all of it.
    fn seal(&mut self, at_end: bool) -> Result<()> {
        self.at_end = at_end;
        let Some(mut chunk) = self.current.take() else { return Ok(()) };
        let Some(request) = &mut chunk.request else { return Ok(()) };
        let mut len = chunk.filled;
        if at_end {
            if let Some(padding) = self.chain.padding(len) {
                let end = len + usize::from(padding);
                request.input_mut()[len..end].fill(padding);
                len = end;
            } else if !self.chain.can_end_with(len) {
                return Err(self.not_whole());
            } else if self.chain.strips() && !self.read_any {
                let attempted = format!("decrypt {}", self.input.name());
                return Err(Error::failed(attempted, "it is empty: there is not even padding"));
            }
        } else {
            let whole = len / BLOCK * BLOCK;
            self.carry.extend_from_slice(&request.input()[whole..len]);
            len = whole;
        }
        chunk.filled = 0;
        chunk.written = 0;
        if len == 0 {
            self.spare.push(chunk);
            return Ok(());
        }
        request.set_len(len).map_err(|e| Error::library("use a buffer again", e))?;
        let iv = self.chain.iv_of_input(request.input());
        request.set_iv(&iv[..self.chain.cipher.iv_len()]);
        chunk.stage = Stage::Filled;
        self.queue.push_back(chunk);
        Ok(())
    }

    fn not_whole(&self) -> Error {
        let why = if self.chain.strips() {
            "bad decrypt: the input is not a whole number of blocks of 16 bytes; it is damaged or cut off"
        } else {
            "the input is not a whole number of blocks of 16 bytes; it needs padding, so leave --nopad out"
        };
        Error::failed(format!("{} {}", self.chain.verb(), self.input.name()), why)
    }

    /// Waits for the device.
    fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        while self.poller.poll() == 0 {
            if start.elapsed() >= self.spin {
                // With nothing at the device there is no room there for the moment.
                let limit = Duration::from_millis(if self.with_device > 0 { 100 } else { 1 });
                return self.poller.wait(Some(limit)).map_err(|e| Error::library("wait for the device", e));
            }
            std::hint::spin_loop();
        }
        Ok(())
    }
}
