//! What a device driver offers the poller, whatever the device.
//!
//! The slow path is the trait [`Engine`], called through `dyn`. The hot path (submit, drain) is not
//! in it: the queue halves are concrete types, chosen once for each queue.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::dma::{Arena, ForkPage, Secret};
use crate::error::{Error, Result};
use crate::room::Room;
use crate::virtqueue::Wake;

/// A cipher and its key size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Cipher {
    /// AES-128 in ECB mode.
    Aes128Ecb,
    /// AES-192 in ECB mode.
    Aes192Ecb,
    /// AES-256 in ECB mode.
    Aes256Ecb,
    /// AES-128 in CBC mode.
    Aes128Cbc,
    /// AES-192 in CBC mode.
    Aes192Cbc,
    /// AES-256 in CBC mode.
    Aes256Cbc,
    /// AES-128 in CTR mode.
    Aes128Ctr,
    /// AES-192 in CTR mode.
    Aes192Ctr,
    /// AES-256 in CTR mode.
    Aes256Ctr,
}

/// A mode of operation of a block cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Mode {
    /// Electronic codebook: no IV, whole blocks.
    Ecb,
    /// Cipher block chaining: IV of a block, whole blocks.
    Cbc,
    /// Counter: the IV is the first counter block, any length.
    Ctr,
}

impl Cipher {
    /// All ciphers, in the order of their names.
    pub const ALL: [Self; 9] = [
        Self::Aes128Cbc,
        Self::Aes128Ctr,
        Self::Aes128Ecb,
        Self::Aes192Cbc,
        Self::Aes192Ctr,
        Self::Aes192Ecb,
        Self::Aes256Cbc,
        Self::Aes256Ctr,
        Self::Aes256Ecb,
    ];

    /// The name, as OpenSSL writes it in lower case: `aes-128-cbc`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128Ecb => "aes-128-ecb",
            Self::Aes192Ecb => "aes-192-ecb",
            Self::Aes256Ecb => "aes-256-ecb",
            Self::Aes128Cbc => "aes-128-cbc",
            Self::Aes192Cbc => "aes-192-cbc",
            Self::Aes256Cbc => "aes-256-cbc",
            Self::Aes128Ctr => "aes-128-ctr",
            Self::Aes192Ctr => "aes-192-ctr",
            Self::Aes256Ctr => "aes-256-ctr",
        }
    }

    /// The mode of operation.
    pub const fn mode(self) -> Mode {
        match self {
            Self::Aes128Ecb | Self::Aes192Ecb | Self::Aes256Ecb => Mode::Ecb,
            Self::Aes128Cbc | Self::Aes192Cbc | Self::Aes256Cbc => Mode::Cbc,
            Self::Aes128Ctr | Self::Aes192Ctr | Self::Aes256Ctr => Mode::Ctr,
        }
    }

    /// Bytes of the key: 16, 24 or 32.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Ecb | Self::Aes128Cbc | Self::Aes128Ctr => 16,
            Self::Aes192Ecb | Self::Aes192Cbc | Self::Aes192Ctr => 24,
            Self::Aes256Ecb | Self::Aes256Cbc | Self::Aes256Ctr => 32,
        }
    }

    /// Checks the length of a key.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it is not [`key_len`](Self::key_len).
    pub fn check_key(self, len: usize) -> Result<()> {
        let wanted = self.key_len();
        if len == wanted {
            return Ok(());
        }
        Err(Error::Invalid(format!("a key of {len} bytes does not fit {self}, which takes {wanted}")))
    }

    /// Bytes of the IV: 16, or 0 for ECB.
    pub const fn iv_len(self) -> usize {
        match self.mode() {
            Mode::Ecb => 0,
            Mode::Cbc | Mode::Ctr => 16,
        }
    }

    /// Lengths of data are multiples of this: 16, or 1 for CTR.
    pub const fn granule(self) -> usize {
        match self.mode() {
            Mode::Ecb | Mode::Cbc => 16,
            Mode::Ctr => 1,
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Cipher {
    type Err = Error;

    /// Reads a name, in any case: `aes-128-cbc`, `AES-128-CBC`.
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|cipher| cipher.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            Error::Invalid(format!(
                "'{text}' is no cipher of Ringbell's; there are {}",
                Self::ALL.map(Self::name).join(", ")
            ))
        })
    }
}

/// Which way a session works. Devices bind it to the session, so each key has up to two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Plaintext to ciphertext.
    Encrypt,
    /// Ciphertext to plaintext.
    Decrypt,
}

/// What a session is for. The key is zeroised when the last handle to it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionSpec {
    /// Cipher and key size.
    pub cipher: Cipher,
    /// Direction.
    pub direction: Direction,
    /// The key, of the cipher's length.
    pub key: Arc<Secret>,
}

impl std::hash::Hash for SessionSpec {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.cipher, self.direction, &**self.key).hash(state);
    }
}

impl fmt::Debug for SessionSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionSpec({}, {:?})", self.cipher, self.direction)
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
pub struct Capabilities {
    /// Ciphers.
    pub ciphers: Vec<Cipher>,
    /// The most bytes of one request.
    pub max_request: u64,
    /// Data queues that the device has.
    pub queues: u16,
    /// Requests that each queue holds.
    pub queue_depth: u32,
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
    /// [`Error::NotOffered`], or [`Error::Invalid`] for a key of the wrong length.
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
    /// [`Error::Timeout`], [`Error::Refused`], or the device is down.
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
    /// [`Error::Gone`], or the function's.
    fn is_reset(&self) -> Result<bool>;

    /// Resets the whole function, for a device that does not finish its own reset. As after
    /// [`is_reset`](Self::is_reset). It takes as long as the function's reset, up to 100 ms.
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
