//! A device, as its user sees it: one plain type, whatever is behind the address.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use crossbeam_utils::CachePadded;
use ringbell_drivers::address::Address;
use ringbell_drivers::algorithm::Hash;
use ringbell_drivers::claim::Mailbox;
use ringbell_drivers::dma::{DmaBuffer, ForkPage, Secret, UserMemory};
use ringbell_drivers::engine::{
    Aead, Capabilities, Cipher, Engine, Mac, Purpose, Revive, RsaPadding, Session, SessionSpec,
};
use ringbell_drivers::pci::PciFunction;
use ringbell_drivers::vfio::VfioFunction;
use ringbell_drivers::virtio_crypto::{DataCompleter, DataQueue, DataSubmitter, VirtioCrypto};
use ringbell_drivers::{Error, Result};

use crate::body::InFlight;
use crate::buffers::Buffers;
use crate::config::DeviceOptions;
use crate::context::{Status, Target, WaitCtx};
use crate::deliver::Withdrawn;
use crate::keys::{AeadKey, CipherKey, Hasher, MacKey, RsaKey};
use crate::owned::{OwnedQueue, Shut, SubmitSide};
use crate::refusal::{Reason, Refused};
use crate::registration::Registration;
use crate::request::Request;
use crate::shared::Place;
use crate::software::Software;
use crate::state::{DeviceState, StateCell};
use crate::stats::{Counter, QueueCounters, Stats};

/// The complete half of a queue, on its way to a poller.
pub(crate) struct CompleteSide {
    pub(crate) completer: DataCompleter<InFlight>,
    pub(crate) counters: Arc<QueueCounters>,
}

/// A message to the poll thread.
pub(crate) enum Message {
    /// End the request of this context early, if it still is the one of that generation.
    Cancel(WaitCtx, u32),
    /// End what a burst took back from a queue that was closed under it.
    End(Withdrawn),
}

/// Memory in pieces is taken in no smaller ones, in bytes.
const SMALLEST_PIECE: usize = 4096;

/// What a request may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The most bytes that a plain cipher takes.
    pub(crate) max_request: u64,
    /// The most bytes in all.
    pub(crate) max_size: u64,
    /// The most descriptors.
    pub(crate) longest_chain: usize,
}

/// A device in use.
pub(crate) struct Inner {
    engine: Arc<dyn Revive<DataQueue<InFlight>>>,
    generation: Arc<ForkPage>,
    limits: Limits,
    pub(crate) shared: Box<[CachePadded<Mutex<Place>>]>,
    pub(crate) counters: Vec<Arc<QueueCounters>>,
    /// Refusals by the shared queues; those by an owned queue are in its counters.
    pub(crate) eagain: Counter,
    pub(crate) refused: Counter,
    /// Until a poller takes them.
    completers: Mutex<Option<Vec<CompleteSide>>>,
    pub(crate) messages: SegQueue<Message>,
    pub(crate) has_messages: AtomicBool,
    /// Nobody takes messages any more.
    deaf: AtomicBool,
    pub(crate) state: StateCell,
    /// The submit halves of fresh rings after a recovery, until each queue's owner takes its own.
    pub(crate) renewed: Box<[Mailbox<DataSubmitter<InFlight>>]>,
    pub(crate) software: Software,
    /// The poller is being shut down.
    pub(crate) closing: AtomicBool,
    pub(crate) faults: AtomicU64,
    pub(crate) recoveries: AtomicU64,
    pub(crate) leaked_bytes: AtomicU64,
}

/// A device: a PCI function in use by this process. Cloning gives another handle.
///
/// A device is served by one [`Poller`](crate::Poller) (or [`ManualPoller`](crate::ManualPoller))
/// for its life; shutting that down stops the device. Without one, requests are accepted and wait.
///
/// Dropping the last handle (keys and requests have one too) stops the device. In a forked child
/// every call answers an error, and dropping does nothing.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("address", &self.address()).field("state", &self.state()).finish()
    }
}

impl Device {
    /// Opens the device at `address`: `sim:` and its options for a simulated one, `0000:00:04.0` for
    /// a PCI function that is bound to `vfio-pci` (`ringbell bind` does that). `vfio-user:` and
    /// `daemon:` are read, and refused until their backends are there.
    ///
    /// # Errors
    /// The address means nothing, or the device cannot be driven; the error says why and what to do.
    /// See [`VfioFunction::open`](ringbell_drivers::vfio::VfioFunction::open) for what may stand in
    /// the way of a PCI function.
    pub fn open(address: &str) -> Result<Self> {
        Self::open_with(address, &DeviceOptions::default())
    }

    /// As [`open`](Self::open), with options.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_with(address: &str, options: &DeviceOptions) -> Result<Self> {
        let parsed: Address = address.parse()?;
        match parsed {
            #[cfg(feature = "sim")]
            Address::Sim(text) => {
                let bad = |why: String| Error::Address { given: address.to_owned(), why };
                let config: ringbell_sim::SimConfig =
                    text.parse().map_err(|e: ringbell_sim::SimError| bad(e.to_string()))?;
                let sim = ringbell_sim::Sim::threaded(config).map_err(|e| bad(e.to_string()))?;
                Self::from_function(sim.function(), options)
            }
            Address::Pci(bdf) => Self::from_function(VfioFunction::open(bdf)?, options),
            _ => Err(Error::Address {
                given: address.to_owned(),
                why: "this version of Ringbell was built without the backend for it; it drives sim: and \
                      PCI functions such as 0000:00:04.0"
                    .to_owned(),
            }),
        }
    }

    /// Opens the device behind a PCI function that the caller has: a simulator stepped by hand, or a
    /// backend of its own.
    ///
    /// # Errors
    /// The device cannot be driven.
    pub fn from_function(function: Arc<dyn PciFunction>, options: &DeviceOptions) -> Result<Self> {
        let (engine, queues) = VirtioCrypto::open::<InFlight>(function, &options.for_driver())?;
        let mut shared = Vec::with_capacity(queues.len());
        let mut completers = Vec::with_capacity(queues.len());
        let mut all_counters = Vec::with_capacity(queues.len());
        for (index, (submitter, completer)) in queues.into_iter().enumerate() {
            let counters = Arc::new(QueueCounters::default());
            all_counters.push(Arc::clone(&counters));
            let side = SubmitSide { submitter, counters: Arc::clone(&counters), index };
            shared.push(CachePadded::new(Mutex::new(Place::Shared(side))));
            completers.push(CompleteSide { completer, counters });
        }
        let capabilities = engine.capabilities();
        let slots = shared.len() * capabilities.queue_depth as usize;
        Ok(Self(Arc::new(Inner {
            generation: Arc::clone(engine.generation()),
            limits: Limits {
                max_request: capabilities.max_request,
                max_size: capabilities.max_size,
                longest_chain: engine.longest_chain(),
            },
            engine,
            renewed: shared.iter().map(|_| Mailbox::default()).collect(),
            software: Software::new(slots),
            closing: AtomicBool::new(false),
            faults: AtomicU64::new(0),
            recoveries: AtomicU64::new(0),
            shared: shared.into(),
            counters: all_counters,
            eagain: Counter::default(),
            refused: Counter::default(),
            completers: Mutex::new(Some(completers)),
            messages: SegQueue::new(),
            has_messages: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            state: StateCell::new(),
            leaked_bytes: AtomicU64::new(0),
        })))
    }

    #[inline]
    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    /// The address that it was opened by.
    pub fn address(&self) -> &str {
        self.0.engine.address()
    }

    /// What it offers: asked of the device, less what it has refused since.
    pub fn capabilities(&self) -> Capabilities {
        self.0.engine.capabilities()
    }

    /// Its state.
    pub fn state(&self) -> DeviceState {
        self.0.state.get()
    }

    /// A buffer of `len` bytes of the device's DMA memory. Its contents are whatever was there
    /// before: fill it. Dropping it gives the memory back.
    ///
    /// # Errors
    /// [`Error::NoRoom`] when there is none for the moment (see [`on_room`](Self::on_room)),
    /// [`Error::Invalid`] when it can never fit.
    pub fn buffer(&self, len: usize) -> Result<DmaBuffer> {
        self.0.check_fork()?;
        self.0.engine.arena().buffer(len)
    }

    /// A buffer with a copy of `data`: for callers whose data stands in ordinary memory.
    ///
    /// # Errors
    /// As for [`buffer`](Self::buffer).
    pub fn buffer_from(&self, data: &[u8]) -> Result<DmaBuffer> {
        let mut buffer = self.buffer(data.len())?;
        buffer.copy_from_slice(data);
        Ok(buffer)
    }

    /// `len` bytes of DMA memory, in one buffer where there is one, else in several: memory that is free
    /// in pieces, or a device without an IOMMU.
    ///
    /// # Errors
    /// As for [`buffer`](Self::buffer).
    pub fn buffers(&self, len: usize) -> Result<Buffers> {
        match self.buffer(len) {
            Ok(buffer) => return Ok(buffer.into()),
            Err(error @ (Error::NoRoom(_) | Error::Invalid(_))) if len <= SMALLEST_PIECE => {
                return Err(error);
            }
            Err(Error::NoRoom(_) | Error::Invalid(_)) => {}
            Err(error) => return Err(error),
        }
        let most = self.capabilities().max_pieces;
        let mut pieces = Buffers::new();
        let (mut left, mut size) = (len, len.div_ceil(2).next_multiple_of(64));
        while left > 0 && pieces.pieces().len() < most {
            match self.buffer(size.min(left)) {
                Ok(buffer) => {
                    left -= buffer.size();
                    pieces.push(buffer);
                }
                Err(Error::NoRoom(_) | Error::Invalid(_)) if size > SMALLEST_PIECE => size /= 2,
                Err(error) => return Err(error),
            }
        }
        if left == 0 { Ok(pieces) } else { Err(Error::NoRoom("so many bytes, in as many buffers as may be")) }
    }

    /// Maps memory of the program's own for DMA, so that requests work on it without a copy.
    ///
    /// # Errors
    /// The function's refusal: the limit of locked memory, no bus addresses left.
    pub fn register(&self, memory: UserMemory) -> Result<Registration> {
        self.0.check_fork()?;
        Registration::new(self, memory)
    }

    /// A key for `cipher` at the device. The same key gives the same sessions, from a cache.
    ///
    /// Nothing is asked of the device yet: the first submit starts the session's creation and
    /// answers `EAGAIN`. [`CipherKey::prepare`] does it ahead.
    ///
    /// # Errors
    /// [`Error::NotOffered`] lists what the device offers; [`Error::Invalid`] for a key of the wrong
    /// length, and for XTS for one whose halves are the same.
    pub fn cipher_key(&self, cipher: Cipher, key: &[u8]) -> Result<CipherKey> {
        self.0.check_fork()?;
        CipherKey::new(self, cipher, key)
    }

    /// A hash function at the device.
    ///
    /// # Errors
    /// [`Error::NotOffered`] lists what the device offers.
    pub fn hasher(&self, hash: Hash) -> Result<Hasher> {
        self.0.check_fork()?;
        Hasher::new(self, hash)
    }

    /// A key of a message authentication code at the device.
    ///
    /// # Errors
    /// As for [`cipher_key`](Self::cipher_key).
    pub fn mac_key(&self, mac: Mac, key: &[u8]) -> Result<MacKey> {
        self.0.check_fork()?;
        MacKey::new(self, mac, key)
    }

    /// A key of authenticated encryption at the device, with tags of 16 bytes.
    ///
    /// # Errors
    /// As for [`cipher_key`](Self::cipher_key).
    pub fn aead_key(&self, aead: Aead, key: &[u8]) -> Result<AeadKey> {
        self.aead_key_with_tag(aead, key, 16)
    }

    /// As [`aead_key`](Self::aead_key), with tags of `tag_len` bytes: one of
    /// [`Aead::tag_lens`](crate::Aead::tag_lens).
    ///
    /// # Errors
    /// As there, and for a tag of another length.
    pub fn aead_key_with_tag(&self, aead: Aead, key: &[u8], tag_len: usize) -> Result<AeadKey> {
        self.0.check_fork()?;
        AeadKey::new(self, aead, key, tag_len)
    }

    /// An RSA key at the device: private or public, PEM or DER, as PKCS #1, PKCS #8 or X.509's
    /// SubjectPublicKeyInfo; 1024 to 4096 bits. The caller wipes its own copy.
    ///
    /// # Errors
    /// [`Error::NotOffered`]; [`Error::Invalid`] for what is no such key.
    pub fn rsa_key(&self, padding: RsaPadding, key: &[u8]) -> Result<RsaKey> {
        self.0.check_fork()?;
        RsaKey::new(self, padding, key)
    }

    /// The session for a key.
    pub(crate) fn session(&self, purpose: Purpose, key: &Arc<Secret>) -> Result<Arc<Session>> {
        self.0.engine.session(SessionSpec { purpose, key: Arc::clone(key) })
    }

    /// Takes one of the device's queues for one thread: no lock for a request or a burst, but no
    /// submission from callbacks, which run elsewhere. Dropping it makes the queue shared again.
    ///
    /// # Errors
    /// All queues are owned already; [`Error::NoRoom`] while the device is being reset.
    pub fn owned_queue(&self) -> Result<OwnedQueue> {
        self.0.check_fork()?;
        // From the end, so that the first queue stays shared as long as there are others.
        let mut gone = false;
        for (index, queue) in self.0.shared.iter().enumerate().rev() {
            let mut place = lock(queue);
            match std::mem::replace(&mut *place, Place::Owned) {
                Place::Shared(side) => return Ok(OwnedQueue::new(Arc::clone(&self.0), index, side)),
                Place::Owned => {}
                Place::Gone => {
                    *place = Place::Gone;
                    gone = true;
                }
            }
        }
        if gone {
            return match self.0.why_shut() {
                Shut::For(Reason::Resetting) => Err(Error::NoRoom("a queue: the device is being reset")),
                _ => Err(Error::Down("failed or closed")),
            };
        }
        Err(Error::Invalid(format!(
            "all {} data queues of the device are owned; drop one to take it again",
            self.0.shared.len()
        )))
    }

    /// Asks for an early end of the request that `ctx` has in flight. Where it still is in flight
    /// when the poll thread gets to it, it is delivered with `ERR` ([`Fault::Canceled`]), without
    /// its buffers, which stay until the device has returned them. Never waits.
    ///
    /// [`Fault::Canceled`]: crate::Fault::Canceled
    pub fn cancel(&self, ctx: &WaitCtx) {
        if self.0.generation.is_child() {
            return;
        }
        if let Some(generation) = ctx.generation() {
            self.0.send(Message::Cancel(ctx.clone(), generation));
        }
    }

    /// Calls `waiter` once when there may be room again: a slot, DMA memory or a session has become
    /// free since this call, or the device has failed or was closed. After this call, try once more:
    /// what became free before it is not announced.
    ///
    /// It runs on the thread that frees; it must be small and must not block.
    pub fn on_room(&self, waiter: impl FnOnce() + Send + 'static) {
        if self.0.generation.is_child() {
            waiter();
        } else {
            self.0.engine.room().register(waiter);
        }
    }

    /// Submits, and while the answer is `EAGAIN` sleeps until there is room, at most `limit`. Not
    /// for callbacks.
    ///
    /// # Errors
    /// As for [`Request::submit`]; `EAGAIN` when the time was over.
    pub fn submit_wait<T: Target>(&self, request: Request, ctx: &T, limit: Duration) -> Result<(), Refused> {
        let start = Instant::now();
        let mut refused = match self.0.submit(request, ctx) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        while refused.status() == Status::Eagain {
            let thread = std::thread::current();
            let woken = Arc::new(AtomicBool::new(false));
            let flag = Arc::clone(&woken);
            self.on_room(move || {
                flag.store(true, Ordering::Release);
                thread.unpark();
            });
            refused = match self.0.submit(refused.into_request(), ctx) {
                Ok(()) => return Ok(()),
                Err(refused) => refused,
            };
            if refused.status() != Status::Eagain || start.elapsed() >= limit {
                break;
            }
            while !woken.load(Ordering::Acquire) {
                let left = limit.saturating_sub(start.elapsed());
                if left.is_zero() {
                    return Err(refused);
                }
                std::thread::park_timeout(left);
            }
        }
        Err(refused)
    }

    /// The counters, of all queues together.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for counters in &self.0.counters {
            stats.add(counters);
        }
        stats.eagain += self.0.eagain.get();
        stats.refused += self.0.refused.get();
        stats.add(&self.0.software.counters);
        stats.failed_over = self.0.software.counters.complete.completed.get();
        stats.faults = self.0.faults.load(Ordering::Relaxed);
        stats.recoveries = self.0.recoveries.load(Ordering::Relaxed) + self.0.engine.sessions_restored();
        stats.stray_writes = self.0.engine.arena().stray_writes();
        stats.leaked_bytes = self.0.leaked_bytes.load(Ordering::Relaxed);
        stats
    }

    /// Bytes of DMA memory that are free, in pieces of any size.
    pub fn free_bytes(&self) -> usize {
        self.0.engine.arena().free_bytes()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    #[inline]
    pub(crate) fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Fresh queues; see [`Revive`].
    pub(crate) fn revive(&self) -> Result<Vec<DataQueue<InFlight>>> {
        self.engine.revive()
    }

    pub(crate) fn counters(&self, index: usize) -> Option<Arc<QueueCounters>> {
        self.counters.get(index).cloned()
    }

    /// Whether the poller is at work on bringing it back, or on giving it up.
    pub(crate) fn is_undecided(&self) -> bool {
        self.state.get() == DeviceState::Resetting && !self.closing.load(Ordering::Acquire)
    }

    /// Why a queue that is closed, and for which there is no new half, takes nothing.
    #[cold]
    pub(crate) fn why_shut(&self) -> Shut {
        if self.closing.load(Ordering::Acquire) {
            return Shut::For(Reason::DeviceDown);
        }
        match self.state.get() {
            DeviceState::Closed => Shut::For(Reason::DeviceDown),
            DeviceState::Failed if self.software.is_open() => Shut::Software,
            DeviceState::Failed => Shut::For(Reason::DeviceDown),
            // Or the recovery is over since the look at the queue: the next try finds it.
            DeviceState::Resetting | DeviceState::Ready | DeviceState::Suspect => {
                Shut::For(Reason::Resetting)
            }
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn is_child(&self) -> bool {
        self.generation.is_child()
    }

    pub(crate) fn check_fork(&self) -> Result<()> {
        if self.generation.is_child() { Err(Error::Forked) } else { Ok(()) }
    }

    /// The complete halves, once.
    pub(crate) fn take_completers(&self) -> Result<Vec<CompleteSide>> {
        self.check_fork()?;
        lock(&self.completers)
            .take()
            .ok_or_else(|| Error::Invalid(format!("device {} has a poller already", self.engine.address())))
    }

    /// Undoes [`take_completers`](Self::take_completers).
    pub(crate) fn give_completers_back(&self, sides: Vec<CompleteSide>) {
        *lock(&self.completers) = Some(sides);
    }

    /// Sends a message to the poll thread.
    pub(crate) fn send(&self, message: Message) {
        self.messages.push(message);
        self.has_messages.store(true, Ordering::Release);
        self.engine.wake().wake();
        // After the fence of the wake-up: nobody reads them any more, and each keeps a context, which
        // may keep this device.
        if self.deaf.load(Ordering::Relaxed) {
            self.drop_messages();
        }
    }

    /// The poll thread takes no messages any more.
    pub(crate) fn refuse_messages(&self) {
        self.deaf.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.drop_messages();
    }

    fn drop_messages(&self) {
        while let Some(message) = self.messages.pop() {
            if let Message::End(withdrawn) = message {
                withdrawn.deliver_here(self);
            }
        }
    }
}
