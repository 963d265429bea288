//! Standstill and return: what a fault, and the end, ask of the device.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::config::Offer;
use super::control::{self, Answer, Command, Control, Left};
use super::device::{ControlQueue, VirtioCrypto};
use super::queues::{DataQueue, Interrupts, QueueMaker, drop_interrupts};
use crate::engine::{Engine, Revive, SessionState};
use crate::error::{Error, Result};
use crate::pci::DmaReach;

/// How long a device that comes back may take to hold its configuration still: this runs on the poll
/// thread.
const PROMPTLY: Duration = Duration::from_millis(5);

impl VirtioCrypto {
    /// The device is still: ends the control queue. What was not sent waits for the next one.
    pub(super) fn retire(&self) {
        // No more than a second lock on the door: a device that breaks its word writes nowhere.
        if let Err(error) = self.transport.function().set_bus_master(false) {
            tracing::debug!(device = self.address(), %error, "bus mastering stays on");
        }
        let mut control = self.control();
        let up = std::mem::replace(&mut *control, ControlQueue::Down(Left::default()));
        *control = ControlQueue::Down(match up {
            ControlQueue::Up(up) => up.retire(|command| {
                self.control_pending.fetch_sub(1, Ordering::SeqCst);
                // A destruction that the device may have done must not be asked for again.
                if let Command::Create(session) | Command::Probe { doubted: session, .. } = command {
                    session.set(SessionState::Absent);
                }
            }),
            ControlQueue::Down(left) => left,
        });
    }

    fn set_up_again<T>(&self) -> Result<(Vec<DataQueue<T>>, control::Halves)> {
        let transport = &self.transport;
        let function = transport.function();
        let agreed = &self.agreed;
        let other = |what: &str| Error::NotUsable {
            device: function.address().to_owned(),
            why: format!("it has come back from its reset with other {what}"),
        };
        if transport.negotiate(agreed.wanted)? != agreed.accepted {
            return Err(other("features"));
        }
        if Offer::read(transport, self.limit.min(PROMPTLY))? != self.offer {
            return Err(other("configuration"));
        }
        for (index, size) in (0..).zip(&agreed.sizes) {
            if transport.queue_size(index)? < *size {
                return Err(other("queue sizes"));
            }
        }
        match self.interrupts {
            Interrupts::Msix | Interrupts::MsixShared => transport.set_config_vector(0)?,
            // It may have fired, and have stayed masked, while nobody looked.
            Interrupts::Intx => function.unmask_intx()?,
            Interrupts::None => {}
        }
        let maker = QueueMaker {
            transport,
            arena: &self.arena,
            vector: agreed.vector,
            event_idx: agreed.event_idx,
            fork: &self.fork,
            wake: &self.wake,
            room: &self.room,
        };
        let made = maker.all(agreed)?;
        // Not before: rings that the device was told of, and that are dropped on the way, are out of its
        // reach.
        function.set_bus_master(true)?;
        if let Err(error) = transport.set_driver_ok() {
            let _ = function.set_bus_master(false);
            return Err(error);
        }
        Ok(made)
    }

    /// Puts the commands with which a control queue begins into order: first the sessions of before the
    /// reset go, which the device may have kept, or it may give their numbers to others; then those that
    /// anybody holds are created again.
    fn restore_sessions(&self, left: &mut Left) {
        let (held, idle) = self.sessions().take_live();
        let mut destroys = Vec::new();
        let mut creates = Vec::new();
        for session in held.iter().chain(&idle) {
            destroys.extend(session.live_id().map(|id| Command::Destroy(session.spec().purpose, id)));
        }
        idle.iter().for_each(|session| session.set(SessionState::Absent));
        for session in held {
            session.set(SessionState::Creating);
            creates.push(Command::Create(session));
        }
        let new = (destroys.len() + creates.len()) as u32;
        self.control_pending.fetch_add(new, Ordering::SeqCst);
        // What was asked for meanwhile, too.
        let waiting = std::mem::take(&mut left.waiting);
        for command in waiting.into_iter().chain(std::iter::from_fn(|| self.commands.pop())) {
            match command {
                Command::Destroy(..) => destroys.push(command),
                Command::Create(_) => creates.push(command),
                // The device has room now.
                Command::Probe { doubted, .. } => creates.push(Command::Create(doubted)),
            }
        }
        tracing::debug!(
            device = self.address(),
            gone = destroys.len(),
            again = creates.len(),
            "sessions are created again"
        );
        left.waiting.extend(destroys.into_iter().chain(creates));
    }

    /// Destroys the sessions that this process made: some devices keep them over a reset.
    fn destroy_all(&self, control: &mut Control, patience: Duration) {
        let (held, idle) = self.sessions().take_live();
        held.iter().chain(&idle).for_each(|session| self.destroy(session));
        let start = Instant::now();
        while let Some(command) = self.commands.pop() {
            if control.send(command).is_err() {
                return;
            }
        }
        while control.outstanding() > 0 && start.elapsed() < patience {
            let mut late = Vec::new();
            let polled = control.poll(|answer| {
                // Asked for before: it has to go as well.
                match answer {
                    Answer::Created(session, id) | Answer::Probed { known: session, id: Some(id), .. } => {
                        late.push(Command::Destroy(session.spec().purpose, id));
                    }
                    _ => {}
                }
            });
            let sent = late.into_iter().try_for_each(|command| control.send(command));
            match sent.and(polled) {
                Ok(true) => {}
                Ok(false) => std::thread::sleep(Duration::from_micros(20)),
                Err(error) => {
                    tracing::warn!(device = self.address(), %error, "sessions may be left at the device");
                    return;
                }
            }
        }
    }

    /// Brings the device to a standstill for good.
    pub(super) fn stop_for_good(&self, patience: Duration) -> Result<()> {
        if self.fork.is_child() {
            return Ok(());
        }
        let mut outcome = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        match *outcome {
            Some(true) => return Ok(()),
            Some(false) => return Err(Error::Down("not stopped: an earlier try failed")),
            None => self.down.store(true, Ordering::Release),
        }
        let stopped = self.standstill(patience);
        if stopped.is_ok() {
            self.retire();
            if let ControlQueue::Down(left) = &mut *self.control() {
                left.waiting.clear();
            }
            while self.commands.pop().is_some() {}
            self.control_pending.store(0, Ordering::SeqCst);
        }
        self.sessions().forget();
        *outcome = Some(stopped.is_ok());
        drop(outcome);
        self.room.announce();
        match &stopped {
            Ok(()) => tracing::info!(device = self.address(), "device stopped"),
            Err(error) => {
                tracing::error!(device = self.address(), %error, "device could not be stopped, its memory is kept");
            }
        }
        stopped
    }

    /// Takes all memory from the device: its arena, and what the program has registered.
    fn cut_off(&self) -> Result<()> {
        let adopted = self.adopted().iter().filter_map(Weak::upgrade).collect::<Vec<_>>();
        adopted.iter().try_for_each(|memory| memory.cut_off())?;
        self.arena.cut_off()
    }

    fn standstill(&self, patience: Duration) -> Result<()> {
        let function = self.transport.function();
        let health = self.check_health();
        if let (Ok(()), ControlQueue::Up(control)) = (&health, &mut *self.control()) {
            self.destroy_all(control, patience);
        }
        let reset = match health {
            // Nothing answers, there is nothing to wait for.
            Err(error @ Error::Gone(_)) => Err(error),
            _ => self
                .transport
                .reset(patience)
                .or_else(|error| self.transport.reset_function().map_err(|_| error)),
        };
        if let Err(error) = drop_interrupts(&**function, self.interrupts) {
            tracing::debug!(device = self.address(), %error, "interrupts stay routed");
        }
        // Whether or not the reset was seen: no DMA without bus mastering.
        let cut = function.set_bus_master(false);
        // Without anything between the device and memory only a reset that was seen will do: a write
        // may be under way still.
        match function.dma_reach() {
            DmaReach::Physical => reset.and(cut),
            DmaReach::Translated | DmaReach::Software => reset.or(cut).or_else(|_| self.cut_off()),
        }
    }
}

impl<T> Revive<DataQueue<T>> for VirtioCrypto {
    fn revive(&self) -> Result<Vec<DataQueue<T>>> {
        let mut control = self.control();
        let ControlQueue::Down(left) = &mut *control else {
            return Err(Error::Faulty("not reset, and cannot be set up again"));
        };
        match self.set_up_again() {
            Ok((queues, halves)) => {
                let mut left = std::mem::take(left);
                self.restore_sessions(&mut left);
                *control = ControlQueue::Up(Control::new(halves, Arc::clone(&self.arena), self.limit, left));
                if self.broken.swap(false, Ordering::AcqRel) {
                    self.control_pending.fetch_sub(1, Ordering::SeqCst);
                }
                Ok(queues)
            }
            Err(error) => Err(error),
        }
    }
}
