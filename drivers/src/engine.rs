//! What a device driver offers the poller, whatever the device.
//!
//! The slow path is the trait [`Engine`], called through `dyn`. The hot path (submit, drain) is not
//! in it: the queue halves are concrete types, chosen once for each queue.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

pub use crate::algorithm::{
    Aead, Algorithm, Cipher, Direction, Mac, Mode, RSA_BITS, RsaHash, RsaOperation, RsaPadding,
};

use crate::algorithm;
use crate::dma::{Arena, ForkPage, Secret};
use crate::error::Result;
use crate::room::Room;
use crate::virtqueue::Wake;

/// What a session is for. The key is zeroised when the last handle to it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionSpec {
    /// What it does.
    pub purpose: Purpose,
    /// The key: of the algorithm's length; for RSA in DER; empty for a hash function.
    pub key: Arc<Secret>,
}

/// What a session does with its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// Encrypts or decrypts.
    Cipher(Cipher, Direction),
    /// Hashes.
    Hash(algorithm::Hash),
    /// Computes authentication codes.
    Mac(Mac),
    /// Seals (encrypts) or opens.
    Aead {
        /// Algorithm and key size.
        aead: Aead,
        /// Direction.
        direction: Direction,
        /// Bytes of the tag.
        tag_len: u32,
        /// Bytes of associated data: devices bind it to the session.
        aad_len: u32,
    },
    /// Works with an RSA key: a public one in the encoding of PKCS #1, or a private one.
    Rsa {
        /// The key is a private one.
        private: bool,
        /// Padding, and for signatures the hash function.
        padding: RsaPadding,
    },
}

impl Purpose {
    /// The algorithm: what a device offers, or not.
    pub fn algorithm(self) -> Algorithm {
        match self {
            Self::Cipher(cipher, _) => Algorithm::Cipher(cipher),
            Self::Hash(hash) => Algorithm::Hash(hash),
            Self::Mac(mac) => Algorithm::Mac(mac),
            Self::Aead { aead, .. } => Algorithm::Aead(aead),
            Self::Rsa { padding, .. } => Algorithm::Rsa(padding),
        }
    }
}

impl std::hash::Hash for SessionSpec {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.purpose, &**self.key).hash(state);
    }
}

impl fmt::Debug for SessionSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionSpec({:?})", self.purpose)
    }
}

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SessionState {
    /// The device does not know it; the next submit starts its creation.
    Absent = 0,
    /// Its creation is under way: `EAGAIN`.
    Creating = 1,
    /// It can be used.
    Live = 2,
    /// The device refused it for good: `ERR`.
    Refused = 3,
}

/// A key at the device, for one direction.
///
/// Requests hold an `Arc` of it from their making on, so nothing is counted for an operation, and a
/// session that requests use is never destroyed.
#[derive(Debug)]
pub struct Session {
    spec: SessionSpec,
    state: AtomicU32,
    id: AtomicU64,
    /// When it was last asked for, in the cache's own count.
    pub(crate) touched: AtomicU64,
    /// The device has forgotten it.
    pub(crate) lost: AtomicBool,
    /// The status with which the device last refused it for want of room; 0: it did not.
    pub(crate) no_room: AtomicU32,
    /// The device has had it once.
    pub(crate) proven: AtomicBool,
    /// How often the device had room, or was given some, and has refused it all the same, since it was last
    /// live or the device was found full.
    pub(crate) in_vain: AtomicU32,
}

impl Session {
    pub(crate) fn new(spec: SessionSpec) -> Self {
        Self {
            spec,
            state: AtomicU32::new(SessionState::Absent as u32),
            id: AtomicU64::new(0),
            touched: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            no_room: AtomicU32::new(0),
            proven: AtomicBool::new(false),
            in_vain: AtomicU32::new(0),
        }
    }

    /// What it is for.
    pub fn spec(&self) -> &SessionSpec {
        &self.spec
    }

    /// Its state.
    #[inline]
    pub fn state(&self) -> SessionState {
        // Acquire: pairs with the Release in set_live.
        match self.state.load(Ordering::Acquire) {
            1 => SessionState::Creating,
            2 => SessionState::Live,
            3 => SessionState::Refused,
            _ => SessionState::Absent,
        }
    }

    /// The device's id for it, while it is live.
    #[inline]
    pub fn live_id(&self) -> Option<u64> {
        // Acquire: pairs with the Release in set_live: the id is the one of this life.
        (self.state.load(Ordering::Acquire) == SessionState::Live as u32)
            .then(|| self.id.load(Ordering::Relaxed))
    }

    pub(crate) fn set_live(&self, id: u64) {
        self.id.store(id, Ordering::Relaxed);
        self.no_room.store(0, Ordering::Relaxed);
        self.in_vain.store(0, Ordering::Relaxed);
        self.proven.store(true, Ordering::Relaxed);
        self.state.store(SessionState::Live as u32, Ordering::Release);
    }

    /// Moves from one state to another; false where it was in neither.
    pub(crate) fn advance(&self, from: SessionState, to: SessionState) -> bool {
        self.state.compare_exchange(from as u32, to as u32, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(crate) fn set(&self, state: SessionState) {
        self.state.store(state as u32, Ordering::Release);
    }
}

/// What a device offers, as it said itself, less what it has refused since.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Ciphers.
    pub ciphers: Vec<Cipher>,
    /// Hash functions.
    pub hashes: Vec<algorithm::Hash>,
    /// Message authentication codes.
    pub macs: Vec<Mac>,
    /// Authenticated encryption.
    pub aeads: Vec<Aead>,
    /// Paddings of RSA; none where it has no RSA.
    pub rsa: Vec<RsaPadding>,
    /// The longest key of an HMAC, in bytes.
    pub max_mac_key: usize,
    /// The most bytes of one request that encrypts or decrypts: input or output.
    pub max_request: u64,
    /// The most bytes of one request in all: IV, input, associated data and output.
    pub max_size: u64,
    /// The most buffers of one request, input and output together.
    pub max_pieces: usize,
    /// Data queues that the device has.
    pub queues: u16,
    /// Requests that each queue holds.
    pub queue_depth: u32,
}

impl Capabilities {
    /// All algorithms, in the order of their kinds and names.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let ciphers = self.ciphers.iter().copied().map(Algorithm::Cipher);
        let hashes = self.hashes.iter().copied().map(Algorithm::Hash);
        let macs = self.macs.iter().copied().map(Algorithm::Mac);
        let aeads = self.aeads.iter().copied().map(Algorithm::Aead);
        let rsa = self.rsa.iter().copied().map(Algorithm::Rsa);
        ciphers.chain(aeads).chain(hashes).chain(macs).chain(rsa).collect()
    }

    /// Whether it offers an algorithm.
    pub fn offers(&self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::Cipher(cipher) => self.ciphers.contains(&cipher),
            Algorithm::Hash(hash) => self.hashes.contains(&hash),
            Algorithm::Mac(mac) => self.macs.contains(&mac),
            Algorithm::Aead(aead) => self.aeads.contains(&aead),
            Algorithm::Rsa(padding) => self.rsa.contains(&padding),
        }
    }
}

/// How a device ended a request that it returned. For virtio-crypto: the status byte (5.9.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceStatus {
    /// Done.
    Ok,
    /// Failed, for no stated reason.
    Err,
    /// The tag or signature does not match: an answer, not a fault.
    BadMessage,
    /// The device does not do this.
    NotSupported,
    /// The device does not know the session.
    InvalidSession,
    /// The device has no room.
    NoSpace,
    /// The signature does not verify: an answer, not a fault.
    KeyRejected,
}

/// What a poller waits on while it sleeps.
#[derive(Clone, Copy, Debug)]
pub struct EventSources<'a> {
    /// Completions, by interrupt. `None` where the device has no interrupt: it has to be polled.
    pub completions: Option<BorrowedFd<'a>>,
    /// Configuration changes, by interrupt.
    pub config: Option<BorrowedFd<'a>>,
    /// The function is going away.
    pub removal: Option<BorrowedFd<'a>>,
    /// Submissions and messages: the other end of [`Engine::wake`].
    pub wake: BorrowedFd<'a>,
}

/// A device driver's slow path: everything but submitting and draining.
pub trait Engine: Send + Sync + fmt::Debug {
    /// The address that the device was opened by.
    fn address(&self) -> &str;

    /// The fork generation: in a forked child nothing of the device may be touched.
    fn generation(&self) -> &Arc<ForkPage>;

    /// What the device offers.
    fn capabilities(&self) -> Capabilities;

    /// The most descriptors of a request's chain.
    fn longest_chain(&self) -> usize;

    /// The device's DMA memory.
    fn arena(&self) -> &Arc<Arena>;

    /// Where waiters for room register.
    fn room(&self) -> &Arc<Room>;

    /// How the poll thread is woken.
    fn wake(&self) -> &Arc<Wake>;

    /// What the poll thread waits on.
    fn events(&self) -> EventSources<'_>;

    /// Clears the cause of interrupts that need it (INTx), after a wake-up by one. Any thread.
    ///
    /// # Errors
    /// The function's.
    fn acknowledge_interrupts(&self) -> Result<()>;

    /// The session for a key, from the cache or new; nothing is asked of the device.
    ///
    /// # Errors
    /// [`Error::NotOffered`](crate::Error::NotOffered), or [`Error::Invalid`](crate::Error::Invalid) for a key that the device has no room for. The key's
    /// length is the caller's to check.
    fn session(&self, spec: SessionSpec) -> Result<Arc<Session>>;

    /// Starts the creation of a session if it is absent. Never waits.
    ///
    /// # Errors
    /// The device is down, or the control queue has no room at the moment.
    fn start_session(&self, session: &Arc<Session>) -> Result<()>;

    /// Creates a session and waits until it is live, at most `limit`. Works with and without a poll
    /// thread. Any thread but the poll thread's.
    ///
    /// # Errors
    /// [`Error::Timeout`](crate::Error::Timeout), [`Error::Refused`](crate::Error::Refused), or the device is down.
    fn prepare_session(&self, session: &Arc<Session>, limit: Duration) -> Result<()>;

    /// Drains the control queue; the poll thread calls it while [`control_pending`] says so. True
    /// where something was completed.
    ///
    /// # Errors
    /// The device lied or has not answered in time: it is faulted.
    ///
    /// [`control_pending`]: Self::control_pending
    fn poll_control(&self) -> Result<bool>;

    /// Whether control requests are under way.
    fn control_pending(&self) -> bool;

    /// Asks for an interrupt at the next answer on the control queue; false where there is one.
    fn arm_control(&self) -> bool;

    /// Looks at the device's own state. A register read, for slow ticks and config interrupts.
    ///
    /// # Errors
    /// It needs a reset, or it is gone.
    fn check_health(&self) -> Result<()>;

    /// The device has answered that it does not know the session, by the id that it had given it: the
    /// next submit starts its creation. The poll thread's.
    fn session_lost(&self, session: &Session, id: u64);

    /// The device does not do, after all, what a session is for: it is not offered any more.
    fn refused(&self, algorithm: Algorithm);

    /// Memory of the caller's own that was mapped for the device, as one more arena; see
    /// [`Arena::over`]. It is taken from the device with the device's own.
    fn adopt(&self, memory: &Arc<Arena>);

    /// How often a session that the device had lost was created again.
    fn sessions_restored(&self) -> u64;

    /// How long the device may take to reset or to answer a control request.
    fn control_timeout(&self) -> Duration;

    /// Begins to bring the device to a standstill after a fault: it is told to reset. Never waits.
    /// The poll thread's, as are the next two.
    ///
    /// # Errors
    /// The function's.
    fn begin_reset(&self) -> Result<()>;

    /// Whether that is done. After `Ok(true)` the device does no DMA, and its rings and buffers are
    /// free; its queues must not be used any more.
    ///
    /// # Errors
    /// [`Error::Gone`](crate::Error::Gone), or the function's.
    fn is_reset(&self) -> Result<bool>;

    /// Resets the whole function, for a device that does not finish its own reset. As after
    /// [`is_reset`](Self::is_reset). It takes as long as the kernel does: some
    /// 100 ms, more for a function that does not come back.
    ///
    /// # Errors
    /// The function has no reset, or is not reset after it.
    fn reset_function(&self) -> Result<()>;

    /// Ends the sessions this process created, where the device still answers, then resets it, by the
    /// function's reset if it takes longer than `patience`.
    /// After `Ok` the device does no DMA and its buffers are free.
    ///
    /// # Errors
    /// The reset did not happen: memory in flight has to be kept.
    fn stop(&self, patience: Duration) -> Result<()>;
}

/// An engine that can be brought back after a reset, with fresh queues of type `Q`.
pub trait Revive<Q>: Engine {
    /// Sets the device up again after [`is_reset`](Engine::is_reset) or
    /// [`reset_function`](Engine::reset_function), and returns its data queues: the same number, of
    /// the same depth, on other memory than any that is in use. Sessions that anybody holds are
    /// being created again. Does not wait.
    ///
    /// # Errors
    /// The device has come back as another one, or not at all; it does no DMA then.
    fn revive(&self) -> Result<Vec<Q>>;
}
