//! The control queue (5.9.7.2): sessions are created and destroyed there.
//!
//! Nothing here waits. Each command has a DMA buffer of its own, which is in the ring's entry while
//! the device has it and is zeroised when it comes back, since it held a key:
//!
//! ```text
//!   0          72              176     192
//!   | request  | key (to 104)  | reply |          most commands
//!
//!   0          72                              4176    4192
//!   | request  | key (to 4096)                 | reply |    those with a longer key: RSA, some HMACs
//! ```
//!
//! What a session of each kind takes is in `create.rs`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zerocopy::FromBytes;
use zeroize::Zeroize;

use super::wire::{ControlHeader, SessionReply};
use super::{create, status};
use crate::dma::{Arena, DmaBuffer};
use crate::engine::{DeviceStatus, Purpose, Session};
use crate::error::{Error, Lie, Result};
use crate::virtqueue::{Completer, Descriptor, SplitRing, Submitter};

/// log2 of a command's descriptors: request, reply.
pub(super) const SHIFT: u32 = 1;
/// Descriptors of the control ring that are used: up to 8 commands at once.
pub(super) const RING: u16 = 16;

/// Where the reply stands in a small buffer, and in a large one.
const SMALL: usize = 176;
const LARGE: usize = create::REQUEST + 4096 + 8;
const REPLY_LEN: usize = size_of::<SessionReply>();
const _: () = assert!(size_of::<ControlHeader>() + 56 == create::REQUEST && LARGE.is_multiple_of(16));

/// What was asked of the device.
#[derive(Debug)]
pub(super) enum Command {
    Create(Arc<Session>),
    Destroy(Purpose, u64),
    /// Create a session like `known`, which the device holds, to see whether it has room: it has refused
    /// `doubted` without saying why.
    Probe {
        doubted: Arc<Session>,
        known: Arc<Session>,
    },
}

/// Where the reply stands: after room for a key of so many bytes.
const fn reply_behind(key: usize) -> usize {
    if create::REQUEST + key > SMALL { LARGE } else { SMALL }
}

/// Bytes of the buffer of a command with a key of so many bytes.
pub(super) const fn buffer_len(key: usize) -> usize {
    reply_behind(key) + REPLY_LEN
}

impl Command {
    /// What the device is to create.
    fn created(&self) -> Option<&Arc<Session>> {
        match self {
            Self::Create(session) | Self::Probe { known: session, .. } => Some(session),
            Self::Destroy(..) => None,
        }
    }

    /// Where the reply stands: after room for the key.
    fn reply(&self) -> usize {
        reply_behind(self.created().map_or(0, |session| session.spec().key.len()))
    }
}

/// What the device answered.
#[derive(Debug)]
pub(super) enum Answer {
    Created(Arc<Session>, u64),
    NotCreated(Arc<Session>, u32),
    Destroyed,
    /// Of a [`Command::Probe`], with the id of what was created, if anything was.
    Probed {
        doubted: Arc<Session>,
        known: Arc<Session>,
        id: Option<u64>,
    },
}

pub(super) struct Entry {
    buffer: DmaBuffer,
    command: Command,
    since: Instant,
}

/// The halves of its ring.
pub(super) type Halves = (Submitter<Entry, SplitRing>, Completer<Entry, SplitRing>);

/// The control queue of one device.
pub(super) struct Control {
    submitter: Submitter<Entry, SplitRing>,
    completer: Completer<Entry, SplitRing>,
    arena: Arc<Arena>,
    /// Commands that the ring had no room for.
    waiting: VecDeque<Command>,
    /// Buffers for the next commands, of two sizes: at most as many of each as the ring holds commands.
    /// They are never given back to the arena while the device is in use: that would run waiters for
    /// room, under the lock of this queue.
    spare: Vec<DmaBuffer>,
    /// Commands that were answered by a lie.
    unanswered: Vec<Command>,
    limit: Duration,
}

impl Control {
    /// On a fresh ring, with what is left of the one before, if there was one.
    pub(super) fn new(
        (submitter, completer): Halves,
        arena: Arc<Arena>,
        limit: Duration,
        left: Left,
    ) -> Self {
        let Left { waiting, spare } = left;
        Self { submitter, completer, arena, waiting, spare, unanswered: Vec::new(), limit }
    }

    /// Commands that are not answered yet.
    pub(super) fn outstanding(&self) -> usize {
        self.waiting.len() + self.completer.in_flight() as usize
    }

    /// Sends a command, now or as soon as there is room.
    pub(super) fn send(&mut self, command: Command) -> Result<()> {
        self.waiting.push_back(command);
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        while let Some(command) = self.waiting.pop_front() {
            let len = command.reply() + REPLY_LEN;
            let spare = self.spare.iter().position(|spare| spare.len() == len);
            let spare = spare.map(|place| self.spare.swap_remove(place));
            let buffer = match spare.map_or_else(|| self.arena.buffer(len), Ok) {
                Ok(buffer) => buffer,
                Err(Error::NoRoom(_)) => {
                    self.waiting.push_front(command);
                    return Ok(());
                }
                Err(error) => {
                    self.waiting.push_front(command);
                    return Err(error);
                }
            };
            if let Some(command) = self.submit(buffer, command) {
                self.waiting.push_front(command);
                // Closed: there will be another ring.
                return self.submitter.check().map_err(|_| Error::Faulty("without a control queue"));
            }
        }
        Ok(())
    }

    /// Puts a command into the ring; gives it back where the ring is full, or closed.
    fn submit(&mut self, mut buffer: DmaBuffer, command: Command) -> Option<Command> {
        if self.submitter.check().is_err() {
            self.spare.push(buffer);
            return Some(command);
        }
        let at = command.reply();
        buffer.fill(0);
        // Not in the specification: a device that answers without writing is found out.
        buffer[at..].fill(0xff);
        let (readable, writable) = match &command {
            Command::Create(session) | Command::Probe { known: session, .. } => {
                (create::fill(&mut buffer[..at], session.spec()), REPLY_LEN as u32)
            }
            Command::Destroy(purpose, id) => (create::fill_destroy(&mut buffer[..at], *purpose, *id), 1),
        };
        let (request, reply) = (buffer.iova(), buffer.iova() + at as u64);
        let mut left = None;
        self.submitter.burst_unchecked(|burst| match burst.vacancy() {
            None => left = Some((command, buffer)),
            Some(vacancy) => {
                let head = vacancy.slot() << SHIFT;
                let ring = vacancy.memory();
                ring.put_descriptor(
                    head,
                    Descriptor { address: request, len: readable, flags: Descriptor::NEXT, next: head + 1 },
                );
                ring.put_descriptor(
                    head + 1,
                    Descriptor { address: reply, len: writable, flags: Descriptor::WRITE, next: 0 },
                );
                vacancy.commit(Entry { buffer, command, since: Instant::now() });
            }
        });
        left.map(|(command, mut buffer)| {
            buffer.zeroize();
            self.spare.push(buffer);
            command
        })
    }

    /// Takes what the device has answered.
    pub(super) fn poll(&mut self, mut answered: impl FnMut(Answer)) -> Result<bool> {
        let mut lie = None;
        let drained = self.completer.drain(
            usize::from(RING),
            |_, id, len, entry| {
                let capacity = match entry.command {
                    Command::Create(_) | Command::Probe { .. } => REPLY_LEN as u32,
                    Command::Destroy(..) => 1,
                };
                if len > capacity { Err(Lie::Length { id, len, capacity }) } else { Ok(id) }
            },
            |mut entry, id| {
                // The buffer is back: the device does not write it any more.
                match answer(&entry.buffer, entry.command) {
                    Ok(answer) => answered(answer),
                    Err((command, status)) => {
                        lie = Some(Lie::Status { id, status });
                        self.unanswered.push(command);
                    }
                }
                entry.buffer.zeroize();
                self.spare.push(entry.buffer);
            },
        );
        if let Some(lie) = lie.or(drained.lie) {
            return Err(lie.into());
        }
        if drained.completed == 0 && self.completer.in_flight() > 0 {
            self.check_deadlines()?;
        }
        self.flush()?;
        Ok(drained.completed > 0)
    }

    fn check_deadlines(&mut self) -> Result<()> {
        let now = Instant::now();
        let mut late = false;
        let limit = self.limit;
        self.completer.for_each_in_flight(|entry| late |= now.duration_since(entry.since) > limit);
        if late { Err(Error::Timeout { what: "answer a control request", limit }) } else { Ok(()) }
    }

    /// Asks for an interrupt at the next answer; false where there is one already.
    pub(super) fn arm(&self) -> bool {
        self.completer.arm()
    }

    /// After the device was stopped: the end of this ring. Commands that the device has taken are
    /// given to `lost`, for nobody knows what became of them; the others are left for the next ring.
    pub(super) fn retire(mut self, mut lost: impl FnMut(Command)) -> Left {
        self.completer.close();
        let mut spare = self.spare;
        self.completer.reap(false, |mut entry| {
            entry.buffer.zeroize();
            spare.push(entry.buffer);
            lost(entry.command);
        });
        self.unanswered.into_iter().for_each(lost);
        Left { waiting: self.waiting, spare }
    }
}

/// What is left of a control queue for the next one.
#[derive(Default)]
pub(super) struct Left {
    /// Commands that were not sent.
    pub(super) waiting: VecDeque<Command>,
    spare: Vec<DmaBuffer>,
}

/// Reads the reply; the error is a status that the specification does not have.
fn answer(buffer: &DmaBuffer, command: Command) -> Result<Answer, (Command, u8)> {
    let at = command.reply();
    let created = || {
        let reply = SessionReply::read_from_bytes(&buffer[at..at + REPLY_LEN]).unwrap_or_default();
        let status = reply.status.get();
        match u8::try_from(status).ok().and_then(status::decode) {
            Some(DeviceStatus::Ok) => Ok(Ok(reply.session_id.get())),
            Some(_) => Ok(Err(status)),
            None => Err(status.to_le_bytes()[0]),
        }
    };
    match command {
        Command::Create(session) => match created() {
            Ok(Ok(id)) => Ok(Answer::Created(session, id)),
            Ok(Err(status)) => Ok(Answer::NotCreated(session, status)),
            Err(byte) => Err((Command::Create(session), byte)),
        },
        Command::Probe { doubted, known } => match created() {
            Ok(id) => Ok(Answer::Probed { doubted, known, id: id.ok() }),
            Err(byte) => Err((Command::Probe { doubted, known }, byte)),
        },
        // Whatever a destroy is answered with, the session is not ours any more.
        Command::Destroy(..) => match status::decode(buffer[at]) {
            Some(_) => Ok(Answer::Destroyed),
            None => Err((command, buffer[at])),
        },
    }
}
