//! The device, and its slow path.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use nix::sys::eventfd::EventFd;

use super::config::Offer;
use super::control::{Answer, Command, Control};
use super::queues::{Interrupts, drop_interrupts};
use super::sessions::Sessions;
use super::{status as status_byte, wire};
use crate::dma::{Arena, ForkPage};
use crate::engine::{Capabilities, Cipher, Engine, EventSources, Session, SessionSpec, SessionState};
use crate::error::{Error, Result};
use crate::pci::DmaReach;
use crate::room::Room;
use crate::virtio::{Transport, status};
use crate::virtqueue::Wake;

/// Bit of the ISR status: the configuration has changed (4.1.4.5).
const ISR_CONFIG: u8 = 1 << 1;

/// A virtio-crypto device.
pub struct VirtioCrypto {
    pub(super) transport: Transport,
    pub(super) limit: Duration,
    pub(super) arena: Arc<Arena>,
    pub(super) room: Arc<Room>,
    pub(super) wake: Arc<Wake>,
    pub(super) wake_event: Arc<EventFd>,
    pub(super) completions: Arc<EventFd>,
    pub(super) config_event: Arc<EventFd>,
    pub(super) interrupts: Interrupts,
    pub(super) offer: Offer,
    pub(super) queue_depth: u32,
    pub(super) sessions: Mutex<Sessions>,
    /// Locked by whoever polls it: the poll thread, or a blocking call. Never while a waiter or a
    /// callback of the program may run.
    pub(super) control: Mutex<Control>,
    /// Commands on their way there, from threads that must not wait.
    pub(super) commands: SegQueue<Command>,
    /// Commands outstanding, for a look without the lock.
    pub(super) control_pending: AtomicU32,
    /// The control queue had a fault.
    pub(super) broken: AtomicBool,
    /// Stopped: no device any more.
    pub(super) down: AtomicBool,
    /// How stopping it went; locked while that is under way.
    pub(super) stopped: Mutex<Option<bool>>,
    pub(super) fork: Arc<ForkPage>,
}

impl fmt::Debug for VirtioCrypto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtioCrypto")
            .field("address", &self.transport.function().address())
            .field("interrupts", &self.interrupts)
            .field("offer", &self.offer)
            .finish_non_exhaustive()
    }
}

impl VirtioCrypto {
    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_up(&self) -> Result<()> {
        if self.fork.is_child() {
            return Err(Error::Forked);
        }
        if self.down.load(Ordering::Acquire) { Err(Error::Down("shut down or failed")) } else { Ok(()) }
    }

    /// Hands a command to whoever polls the control queue next. Never waits.
    fn send(&self, command: Command) {
        // The count first: a poll thread that looks in between polls once in vain.
        self.control_pending.fetch_add(1, Ordering::SeqCst);
        self.commands.push(command);
        self.wake.wake();
    }

    /// Takes a session away from the device, if it is there.
    fn destroy(&self, session: &Session) {
        if let Some(id) = session.live_id() {
            session.set(SessionState::Absent);
            tracing::debug!(device = self.address(), session = id, "destroying a session");
            self.send(Command::Destroy(id));
        }
    }

    /// Takes the answers on the control queue and acts on them.
    fn poll_answers(&self) -> Result<bool> {
        let progress = {
            let mut control = self.control();
            let mut sent = Ok(());
            while let Some(command) = self.commands.pop() {
                sent = sent.and(control.send(command));
            }
            let mut answered = 0;
            let progress = control.poll(|answer| {
                answered += 1;
                match answer {
                    Answer::Created(session, id) => {
                        tracing::debug!(device = self.address(), session = id, spec = ?session.spec(), "session created");
                        session.set_live(id);
                    }
                    Answer::NotCreated(session, status) => self.not_created(&session, status),
                    Answer::Destroyed => {}
                }
            });
            self.control_pending.fetch_sub(answered, Ordering::SeqCst);
            sent.and(progress)
        };
        if progress.is_err() && !self.broken.swap(true, Ordering::AcqRel) {
            // Whoever saw it first, the poll thread has to see it too.
            self.control_pending.fetch_add(1, Ordering::SeqCst);
            self.wake.wake();
        }
        // Without the lock: a waiter may submit, and so start a session.
        if matches!(progress, Ok(true)) {
            self.room.announce();
        }
        progress
    }

    /// The device did not create a session: full, or unwilling. Where an idle session can make room
    /// it does (some devices say ERR where they mean NOSPC); a status that says "never" is kept.
    fn not_created(&self, session: &Arc<Session>, status: u32) {
        let full = status == u32::from(wire::status::NOSPC) || status == u32::from(wire::status::ERR);
        let (evicted, others) = {
            let mut sessions = self.sessions();
            let evicted = if full { sessions.evict() } else { None };
            (evicted, sessions.live().count())
        };
        let name = status_byte::name(status);
        if let Some(evicted) = evicted {
            tracing::debug!(
                device = self.address(),
                name,
                "the device holds no more sessions, an idle one makes room"
            );
            self.destroy(&evicted);
            // The control queue is worked off in order of submission by every device known; one that
            // is not answers "full" once more and the next idle session goes.
            return self.send(Command::Create(Arc::clone(session)));
        }
        if full && others > 0 {
            tracing::debug!(
                device = self.address(),
                name,
                "the device holds no more sessions, all are in use"
            );
            session.set(SessionState::Absent);
            return;
        }
        let cipher = session.spec().cipher;
        tracing::warn!(device = self.address(), %cipher, status, name, "the device refuses a session");
        session.set(SessionState::Refused);
        if status == u32::from(wire::status::NOTSUPP) {
            self.sessions().refused.insert(cipher);
        }
    }

    fn offered(&self) -> Vec<Cipher> {
        if self.fork.is_child() {
            return Vec::new(); // The lock may be held by a thread that is not there.
        }
        let sessions = self.sessions();
        self.offer.ciphers.iter().copied().filter(|cipher| !sessions.refused.contains(cipher)).collect()
    }

    /// Destroys the sessions that this process made: some devices keep them over a reset.
    fn destroy_all(&self, control: &mut Control) {
        let live: Vec<_> = self.sessions().live().cloned().collect();
        live.iter().for_each(|session| self.destroy(session));
        let start = Instant::now();
        while let Some(command) = self.commands.pop() {
            if control.send(command).is_err() {
                return;
            }
        }
        while control.outstanding() > 0 && start.elapsed() < self.limit {
            match control.poll(drop) {
                Ok(true) => {}
                Ok(false) => std::thread::sleep(Duration::from_micros(20)),
                Err(error) => {
                    tracing::warn!(device = self.address(), %error, "sessions may be left at the device");
                    return;
                }
            }
        }
    }
}

impl Engine for VirtioCrypto {
    fn address(&self) -> &str {
        self.transport.function().address()
    }

    fn generation(&self) -> &Arc<ForkPage> {
        &self.fork
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            ciphers: self.offered(),
            max_request: self.offer.max_request,
            queues: self.offer.data_queues,
            queue_depth: self.queue_depth,
        }
    }

    fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    fn room(&self) -> &Arc<Room> {
        &self.room
    }

    fn wake(&self) -> &Arc<Wake> {
        &self.wake
    }

    fn events(&self) -> EventSources<'_> {
        EventSources {
            completions: (self.interrupts != Interrupts::None).then(|| self.completions.as_fd()),
            config: (self.interrupts == Interrupts::Msix).then(|| self.config_event.as_fd()),
            removal: self.transport.function().going_away(),
            wake: self.wake_event.as_fd(),
        }
    }

    fn acknowledge_interrupts(&self) -> Result<()> {
        match self.interrupts {
            Interrupts::Intx => {
                let isr = self.transport.read_isr()?;
                self.transport.function().unmask_intx()?;
                if isr & ISR_CONFIG != 0 { self.check_health() } else { Ok(()) }
            }
            // It may be about the configuration, too.
            Interrupts::MsixShared => self.check_health(),
            Interrupts::Msix | Interrupts::None => Ok(()),
        }
    }

    fn session(&self, spec: SessionSpec) -> Result<Arc<Session>> {
        let cipher = spec.cipher;
        cipher.check_key(spec.key.len())?;
        let offered = self.offered();
        if !offered.contains(&cipher) {
            let names: Vec<_> = offered.iter().map(|cipher| cipher.name()).collect();
            let offered = if names.is_empty() { "no cipher at all".to_owned() } else { names.join(", ") };
            return Err(Error::NotOffered { asked: cipher.to_string(), offered });
        }
        self.check_up()?;
        let (session, evicted) = self.sessions().get(spec);
        if let Some(evicted) = evicted {
            self.destroy(&evicted);
        }
        Ok(session)
    }

    fn start_session(&self, session: &Arc<Session>) -> Result<()> {
        self.check_up()?;
        if !session.advance(SessionState::Absent, SessionState::Creating) {
            return Ok(());
        }
        self.send(Command::Create(Arc::clone(session)));
        Ok(())
    }

    fn prepare_session(&self, session: &Arc<Session>, limit: Duration) -> Result<()> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(5);
        loop {
            self.check_up()?;
            match session.state() {
                SessionState::Live => return Ok(()),
                SessionState::Refused => {
                    return Err(Error::NotOffered {
                        asked: session.spec().cipher.to_string(),
                        offered: self.offered().iter().map(|c| c.name()).collect::<Vec<_>>().join(", "),
                    });
                }
                SessionState::Absent => self.start_session(session)?,
                SessionState::Creating => {}
            }
            self.poll_answers()?;
            if session.state() == SessionState::Live {
                return Ok(());
            }
            if start.elapsed() >= limit {
                return Err(Error::Timeout { what: "create a session", limit });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(1));
        }
    }

    fn poll_control(&self) -> Result<bool> {
        if self.broken.load(Ordering::Acquire) {
            return Err(Error::Down("faulty: its control queue does not work"));
        }
        self.poll_answers()
    }

    #[inline]
    fn control_pending(&self) -> bool {
        self.control_pending.load(Ordering::Relaxed) != 0
    }

    fn arm_control(&self) -> bool {
        // The caller has executed a full fence since it said that it sleeps, so a command that came
        // before is seen here, and one that comes later signals (ordering.rs, (E)).
        self.commands.is_empty() && self.control().arm()
    }

    fn check_health(&self) -> Result<()> {
        let status = self.transport.status()?;
        if status == 0xff {
            return Err(Error::Down("gone: its registers read as all ones"));
        }
        if status & status::NEEDS_RESET != 0 {
            return Err(Error::Down("in its error state (DEVICE_NEEDS_RESET)"));
        }
        if status & status::DRIVER_OK == 0 {
            return Err(Error::Down("reset by somebody else"));
        }
        Ok(())
    }

    fn stop(&self) -> Result<()> {
        if self.fork.is_child() {
            return Ok(());
        }
        let mut outcome = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        match *outcome {
            Some(true) => return Ok(()),
            Some(false) => return Err(Error::Down("not stopped: an earlier try failed")),
            None => self.down.store(true, Ordering::Release),
        }
        let stopped = {
            let mut control = self.control();
            if self.check_health().is_ok() {
                self.destroy_all(&mut control);
            }
            let reset = self.transport.reset(self.limit);
            if let Err(error) = drop_interrupts(&**self.transport.function(), self.interrupts) {
                tracing::debug!(device = self.address(), %error, "interrupts stay routed");
            }
            // Whether or not the reset was seen: no DMA without bus mastering.
            let cut = self.transport.function().set_bus_master(false);
            self.sessions().forget();
            // Without anything between the device and memory only a reset that was seen will do: a
            // write may be under way still.
            let stopped = match self.transport.function().dma_reach() {
                DmaReach::Physical => reset.and(cut),
                DmaReach::Translated | DmaReach::Software => reset.or(cut).or_else(|_| self.arena.cut_off()),
            };
            if stopped.is_ok() {
                control.close(|session| session.set(SessionState::Absent));
                while self.commands.pop().is_some() {}
                self.control_pending.store(0, Ordering::SeqCst);
            }
            stopped
        };
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
}

impl Drop for VirtioCrypto {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::error!(device = self.address(), %error, "closing the device");
        }
    }
}
