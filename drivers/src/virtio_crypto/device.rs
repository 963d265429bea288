//! The device, and its slow path.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use nix::sys::eventfd::EventFd;

use super::config::Offer;
use super::control::{Answer, Command, Control, Left};
use super::open::Agreed;
use super::queues::Interrupts;
use super::sessions::Sessions;
use super::{status as status_byte, wire};
use crate::dma::{Arena, ForkPage};
use crate::engine::{Capabilities, Cipher, Engine, EventSources, Session, SessionSpec, SessionState};
use crate::error::{Error, Result};
use crate::room::Room;
use crate::virtio::Transport;
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
    /// What was agreed on when it was opened.
    pub(super) agreed: Agreed,
    /// Locked by whoever polls it: the poll thread, or a blocking call. Never while a waiter or a
    /// callback of the program may run.
    pub(super) control: Mutex<ControlQueue>,
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
    pub(super) sessions_restored: AtomicU64,
}

/// The control queue, between two resets and while there is none.
pub(super) enum ControlQueue {
    Up(Control),
    Down(Left),
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
    pub(super) fn control(&self) -> MutexGuard<'_, ControlQueue> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sessions(&self) -> MutexGuard<'_, Sessions> {
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
    pub(super) fn destroy(&self, session: &Session) {
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
            // While the device is being reset the commands wait.
            let ControlQueue::Up(control) = &mut *control else { return Ok(false) };
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
                        let lost = session.lost.swap(false, Ordering::Relaxed);
                        self.sessions_restored.fetch_add(lost.into(), Ordering::Relaxed);
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
        // A device that says "no room" means for the moment, whoever has the room. One that says ERR may
        // mean the same, as QEMU's does, if it has taken others.
        if status == u32::from(wire::status::NOSPC) || full && others > 0 {
            tracing::debug!(
                device = self.address(),
                name,
                "the device holds no more sessions, all are in use"
            );
            session.no_room.store(status, Ordering::Relaxed);
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
        // Also while it is being reset, or done by software: nothing is asked of it here.
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
        let mut trouble = None;
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
            // A faulty queue is the poll thread's to mend, if there is one: there may be time for it.
            if !self.broken.load(Ordering::Acquire)
                && let Err(error) = self.poll_answers()
            {
                trouble = Some(error);
            }
            if session.state() == SessionState::Live {
                return Ok(());
            }
            if start.elapsed() >= limit {
                let refused = |status| {
                    let (attempted, name) = ("create a session", status_byte::name(status));
                    Error::Refused { attempted, status, name }
                };
                return Err(match (trouble, session.no_room.load(Ordering::Relaxed)) {
                    (Some(error), _) => error,
                    (None, 0) => Error::Timeout { what: "create a session", limit },
                    (None, status) => refused(status),
                });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(1));
        }
    }

    fn poll_control(&self) -> Result<bool> {
        if self.broken.load(Ordering::Acquire) {
            return Err(Error::Faulty("without a control queue that works"));
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
        self.commands.is_empty()
            && match &*self.control() {
                ControlQueue::Up(control) => control.arm(),
                ControlQueue::Down(_) => true,
            }
    }

    fn check_health(&self) -> Result<()> {
        self.transport.check_status()?;
        match self.transport.read_first_config_word()? {
            Some(status) if status & wire::STATUS_HW_READY == 0 => {
                Err(Error::Faulty("without its hardware (HW_READY is off)"))
            }
            _ => Ok(()),
        }
    }

    fn session_lost(&self, session: &Session, id: u64) {
        if session.live_id() == Some(id) && session.advance(SessionState::Live, SessionState::Absent) {
            tracing::warn!(device = self.address(), session = id, "the device has lost a session");
            session.lost.store(true, Ordering::Relaxed);
        }
    }

    fn sessions_restored(&self) -> u64 {
        self.sessions_restored.load(Ordering::Relaxed)
    }

    fn control_timeout(&self) -> Duration {
        self.limit
    }

    fn begin_reset(&self) -> Result<()> {
        self.transport.begin_reset()
    }

    fn is_reset(&self) -> Result<bool> {
        let done = self.transport.is_reset()?;
        if done {
            self.retire();
        }
        Ok(done)
    }

    fn reset_function(&self) -> Result<()> {
        self.transport.reset_function()?;
        self.retire();
        Ok(())
    }

    fn stop(&self, patience: Duration) -> Result<()> {
        self.stop_for_good(patience)
    }
}

impl Drop for VirtioCrypto {
    fn drop(&mut self) {
        if let Err(error) = self.stop(self.limit) {
            tracing::error!(device = self.address(), %error, "closing the device");
        }
    }
}
