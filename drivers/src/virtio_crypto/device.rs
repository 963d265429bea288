//! Opening the device, and its slow path.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use nix::sys::eventfd::EventFd;

use super::config::Offer;
use super::control::{Answer, Command, Control};
use super::queues::{DataQueue, Interrupts, QueueMaker, route_interrupts};
use super::sessions::Sessions;
use super::{status as status_byte, wire};
use crate::dma::{Arena, ArenaOptions, ForkPage};
use crate::engine::{Capabilities, Cipher, Engine, EventSources, Session, SessionSpec, SessionState};
use crate::error::{Error, Result};
use crate::pci::{DmaReach, PciFunction};
use crate::room::Room;
use crate::virtio::{Transport, feature, status};
use crate::virtqueue::Wake;
use crate::wait::{self, EventSignal};

/// How a device is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Its DMA memory.
    pub arena: ArenaOptions,
    /// The most descriptors of a data ring: a power of two; the device may have fewer. 1024.
    pub queue_size: u16,
    /// How long the device may take to reset or to answer a control request. 1 s.
    pub limit: Duration,
    /// Accept INDIRECT_DESC where it is offered. Without it a request takes four descriptors.
    pub indirect: bool,
    /// Accept EVENT_IDX where it is offered.
    pub event_idx: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            arena: ArenaOptions::default(),
            queue_size: 1024,
            limit: Duration::from_secs(1),
            indirect: true,
            event_idx: true,
        }
    }
}

/// A virtio-crypto device.
pub struct VirtioCrypto {
    transport: Transport,
    limit: Duration,
    arena: Arc<Arena>,
    room: Arc<Room>,
    wake: Arc<Wake>,
    wake_event: Arc<EventFd>,
    completions: Arc<EventFd>,
    config_event: Arc<EventFd>,
    interrupts: Interrupts,
    offer: Offer,
    queue_depth: u32,
    sessions: Mutex<Sessions>,
    /// Locked by whoever polls it: the poll thread, or a blocking call. Never while a waiter or a
    /// callback of the program may run.
    control: Mutex<Control>,
    /// Commands on their way there, from threads that must not wait.
    commands: SegQueue<Command>,
    /// Commands outstanding, for a look without the lock.
    control_pending: AtomicU32,
    /// The control queue had a fault.
    broken: AtomicBool,
    /// Stopped: no device any more.
    down: AtomicBool,
    /// How stopping it went; locked while that is under way.
    stopped: Mutex<Option<bool>>,
    fork: Arc<ForkPage>,
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
    /// Opens the device behind `function`: negotiates, makes the rings of all its queues, and sets
    /// it going (3.1.1). Returns it with the halves of its data queues.
    ///
    /// # Errors
    /// The device cannot be driven, there is no memory for its rings, or it does not answer in time.
    pub fn open<T>(
        function: Arc<dyn PciFunction>,
        options: &OpenOptions,
    ) -> Result<(Arc<Self>, Vec<DataQueue<T>>)> {
        if !options.queue_size.is_power_of_two() || !(8..=1 << 15).contains(&options.queue_size) {
            return Err(Error::Invalid(format!(
                "a queue size of {} is not possible; it is a power of two from 8 to 32768",
                options.queue_size
            )));
        }
        let transport = Transport::new(Arc::clone(&function), wire::DEVICE_TYPE)?;
        // Whoever had it before may have left it with rings: without them first, then DMA.
        transport.reset(options.limit)?;
        function.set_bus_master(true)?;
        let opened = Self::set_up(transport, options);
        if opened.is_err() {
            // The arena may be gone already: cut the device off, whatever state it is in.
            let _ = function.set_bus_master(false);
        }
        opened
    }

    fn set_up<T>(transport: Transport, options: &OpenOptions) -> Result<(Arc<Self>, Vec<DataQueue<T>>)> {
        let function = Arc::clone(transport.function());
        let mut wanted = 0;
        for (bit, on) in [(feature::INDIRECT_DESC, options.indirect), (feature::EVENT_IDX, options.event_idx)]
        {
            wanted |= if on { feature::mask(bit) } else { 0 };
        }
        let accepted = transport.negotiate(wanted, options.limit)?;
        let indirect = accepted & feature::mask(feature::INDIRECT_DESC) != 0;
        let event_idx = accepted & feature::mask(feature::EVENT_IDX) != 0;
        let offer = Offer::read(&transport, options.limit)?;

        let room = Arc::new(Room::new());
        let wake_event = wait::event()?;
        let wake = Arc::new(Wake::new(EventSignal(Arc::clone(&wake_event))));
        let (completions, config_event) = (wait::event()?, wait::event()?);
        let (interrupts, vector) = route_interrupts(&*function, &transport, &completions, &config_event)?;
        let arena = Arena::new(Arc::clone(&function), &options.arena, Arc::clone(&room))?;
        let fork = ForkPage::new()?;

        let maker = QueueMaker {
            transport: &transport,
            arena: &arena,
            vector,
            event_idx,
            fork: &fork,
            wake: &wake,
            room: &room,
        };
        let mut queues = Vec::with_capacity(offer.data_queues.into());
        for index in 0..offer.data_queues {
            queues.push(maker.data_queue(index, options.queue_size, indirect)?);
        }
        let control = maker.control_queue(offer.data_queues, options.limit)?;
        arena.settle();
        transport.set_driver_ok()?;
        if transport.status()? & status::NEEDS_RESET != 0 {
            return Err(Error::NotUsable {
                device: function.address().to_owned(),
                why: "it went into its error state while it was being set up".to_owned(),
            });
        }
        let queue_depth = queues.iter().map(|(submitter, _)| submitter.capacity()).min().unwrap_or(0);
        tracing::info!(
            device = function.address(),
            queues = offer.data_queues,
            depth = queue_depth,
            indirect,
            event_idx,
            ?interrupts,
            ciphers = offer.ciphers.len(),
            "virtio-crypto device ready"
        );
        let device = Arc::new(Self {
            limit: options.limit,
            arena,
            room,
            wake,
            wake_event,
            completions,
            config_event,
            interrupts,
            offer,
            queue_depth,
            sessions: Mutex::default(),
            control: Mutex::new(control),
            commands: SegQueue::new(),
            control_pending: AtomicU32::new(0),
            broken: AtomicBool::new(false),
            down: AtomicBool::new(false),
            stopped: Mutex::new(None),
            fork,
            transport,
        });
        Ok((device, queues))
    }

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
        if self.interrupts == Interrupts::Intx {
            self.transport.read_isr()?;
            self.transport.function().unmask_intx()?;
        }
        Ok(())
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
            // Whether or not the reset was seen: no DMA without bus mastering.
            let cut = self.transport.function().set_bus_master(false);
            self.sessions().forget();
            // Without anything between the device and memory only a reset that was seen will do: a
            // write may be under way still.
            let stopped = match self.transport.function().dma_reach() {
                DmaReach::Physical => reset.and(cut),
                DmaReach::Translated | DmaReach::Software => reset.or(cut),
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
