//! The device, and its slow path.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use nix::sys::eventfd::EventFd;

use super::config::Offer;
use super::control::{self, Answer, Command, Control, Left};
use super::open::Agreed;
use super::queues::Interrupts;
use super::sessions::Sessions;
use super::{status as status_byte, wire};
use crate::dma::{Arena, ForkPage};
use crate::engine::{Algorithm, Capabilities, Engine, EventSources, Session, SessionSpec, SessionState};
use crate::error::{Error, Result};
use crate::room::Room;
use crate::virtio::Transport;
use crate::virtqueue::Wake;

/// Bit of the ISR status: the configuration has changed (4.1.4.5).
const ISR_CONFIG: u8 = 1 << 1;

/// How often a session that nobody says why it is refused is tried with room for it.
const MOST_IN_VAIN: u32 = 3;

/// A virtio-crypto device.
pub struct VirtioCrypto {
    pub(super) transport: Transport,
    pub(super) limit: Duration,
    pub(super) arena: Arc<Arena>,
    /// Memory of the program's own that the device can reach.
    pub(super) adopted: Mutex<Vec<Weak<Arena>>>,
    pub(super) room: Arc<Room>,
    pub(super) wake: Arc<Wake>,
    pub(super) wake_event: Arc<EventFd>,
    pub(super) completions: Arc<EventFd>,
    pub(super) config_event: Arc<EventFd>,
    pub(super) interrupts: Interrupts,
    pub(super) offer: Offer,
    pub(super) queue_depth: u32,
    /// The most descriptors of a chain.
    pub(super) longest_chain: usize,
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

    pub(super) fn adopted(&self) -> MutexGuard<'_, Vec<Weak<Arena>>> {
        self.adopted.lock().unwrap_or_else(PoisonError::into_inner)
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
            self.send(Command::Destroy(session.spec().purpose, id));
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
                    Answer::Probed { doubted, known, id } => self.probed(&doubted, &known, id),
                    Answer::Destroyed => {}
                }
            });
            self.control_pending.fetch_sub(answered, Ordering::SeqCst);
            let progress = sent.and(progress);
            // Whoever saw it first, the poll thread has to see it too. Under the lock, so that it is this
            // ring that is meant, and not the next one.
            if progress.is_err() && !self.broken.swap(true, Ordering::AcqRel) {
                self.control_pending.fetch_add(1, Ordering::SeqCst);
            }
            progress
        };
        if progress.is_err() {
            self.wake.wake();
        }
        // Without the lock: a waiter may submit, and so start a session.
        if matches!(progress, Ok(true)) {
            self.room.announce();
        }
        progress
    }

    /// The device did not create a session: full, or unwilling. Some devices say ERR for both, as QEMU's
    /// does; where nothing else tells them apart, it is asked whether it has room for a session like one
    /// that it has.
    fn not_created(&self, session: &Arc<Session>, status: u32) {
        if status == u32::from(wire::status::NOSPC) {
            if !self.make_room_for(session) {
                self.is_full(session, status);
            }
            return;
        }
        if status != u32::from(wire::status::ERR) {
            return self.is_refused(session, status);
        }
        let proven = session.proven.load(Ordering::Relaxed);
        let in_vain = session.in_vain.load(Ordering::Relaxed);
        // Where there was room and it did not help, it is not for want of room. Not at once, for another
        // session may have taken it.
        if in_vain >= MOST_IN_VAIN {
            // One that the device had before has room to come.
            return if proven { self.is_full(session, status) } else { self.is_refused(session, status) };
        }
        if in_vain == 0 && self.make_room_for(session) {
            return session.in_vain.store(1, Ordering::Relaxed);
        }
        let known = self.sessions().known_good();
        match known {
            Some(known) => self.send(Command::Probe { doubted: Arc::clone(session), known }),
            None if proven => self.is_full(session, status),
            None => self.is_refused(session, status),
        }
    }

    /// Whether the device had room, where it has refused `doubted` without saying why.
    fn probed(&self, doubted: &Arc<Session>, known: &Session, id: Option<u64>) {
        match id {
            Some(id) => {
                doubted.in_vain.fetch_add(1, Ordering::Relaxed);
                self.send(Command::Destroy(known.spec().purpose, id));
                self.send(Command::Create(Arc::clone(doubted)));
            }
            None if self.make_room_for(doubted) => {}
            None => self.is_full(doubted, u32::from(wire::status::ERR)),
        }
    }

    /// Lets an idle session make room for another, if there is one.
    fn make_room_for(&self, session: &Arc<Session>) -> bool {
        let Some(evicted) = self.sessions().evict() else { return false };
        tracing::debug!(device = self.address(), "the device holds no more sessions, an idle one makes room");
        self.destroy(&evicted);
        // The control queue is worked off in order of submission by every device known; one that
        // is not answers "full" once more and the next idle session goes.
        self.send(Command::Create(Arc::clone(session)));
        true
    }

    /// There is no room for the moment, whoever has it.
    fn is_full(&self, session: &Session, status: u32) {
        let name = status_byte::name(status);
        tracing::debug!(device = self.address(), name, "the device holds no more sessions, all are in use");
        session.in_vain.store(0, Ordering::Relaxed);
        session.no_room.store(status, Ordering::Relaxed);
        session.set(SessionState::Absent);
    }

    fn is_refused(&self, session: &Session, status: u32) {
        let algorithm = session.spec().purpose.algorithm();
        let name = status_byte::name(status);
        tracing::warn!(device = self.address(), %algorithm, status, name, "the device refuses a session");
        session.set(SessionState::Refused);
        if status == u32::from(wire::status::NOTSUPP) {
            self.sessions().refused.insert(algorithm);
        }
    }

    /// Those of `all` that have not been refused.
    fn left<T: Copy>(&self, all: &[T], algorithm: impl Fn(T) -> Algorithm) -> Vec<T> {
        if self.fork.is_child() {
            return Vec::new(); // The lock may be held by a thread that is not there.
        }
        let sessions = self.sessions();
        all.iter().copied().filter(|one| !sessions.refused.contains(&algorithm(*one))).collect()
    }

    fn not_offered(&self, algorithm: Algorithm) -> Error {
        let offered = self.offer.like(algorithm, &self.sessions().refused);
        Error::NotOffered { asked: algorithm.to_string(), offered }
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
            ciphers: self.left(&self.offer.ciphers, Algorithm::Cipher),
            hashes: self.left(&self.offer.hashes, Algorithm::Hash),
            macs: self.left(&self.offer.macs, Algorithm::Mac),
            aeads: self.left(&self.offer.aeads, Algorithm::Aead),
            rsa: self.left(&self.offer.rsa, Algorithm::Rsa),
            max_mac_key: self.offer.max_mac_key,
            max_request: self.offer.max_request,
            max_size: self.offer.max_size,
            // Less header, associated data and status.
            max_pieces: if self.agreed.indirect { self.longest_chain - 3 } else { self.longest_chain - 2 },
            queues: self.offer.data_queues,
            queue_depth: self.queue_depth,
        }
    }

    fn longest_chain(&self) -> usize {
        self.longest_chain
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
        let algorithm = spec.purpose.algorithm();
        if self.fork.is_child() {
            return Err(Error::Forked);
        }
        if !self.offer.has(algorithm) || self.sessions().refused.contains(&algorithm) {
            return Err(self.not_offered(algorithm));
        }
        let (len, most) = (spec.key.len(), self.offer.max_mac_key);
        if matches!(algorithm, Algorithm::Mac(_)) && len > most {
            return Err(Error::Invalid(format!(
                "a key of {len} bytes is too long for {algorithm} on this device, which takes up to {most}; \
                 a longer key of an HMAC can be replaced by its hash (RFC 2104)"
            )));
        }
        // Found out on the control queue it would be a fault of that, for which the device is reset.
        if control::buffer_len(len) > self.arena.largest() {
            return Err(Error::Invalid(format!(
                "the device's DMA arena of {} bytes has no room to send a key of {len} bytes; open the device \
                 with a larger arena",
                self.arena.bytes()
            )));
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
                    return Err(self.not_offered(session.spec().purpose.algorithm()));
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

    fn refused(&self, algorithm: Algorithm) {
        if self.sessions().refused.insert(algorithm) {
            tracing::warn!(device = self.address(), %algorithm, "the device does not do what it offers");
        }
    }

    fn adopt(&self, memory: &Arc<Arena>) {
        let mut adopted = self.adopted();
        adopted.retain(|memory| memory.strong_count() > 0);
        adopted.push(Arc::downgrade(memory));
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
