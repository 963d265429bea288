//! Wait contexts: what a program waits with.

use std::cell::Cell;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::task::Waker;

use nix::sys::eventfd::EventFd;
use ringbell_drivers::claim::{Calling, Claim, Shared};
use ringbell_drivers::task::Posted;
use ringbell_drivers::{Result, wait};

use crate::body::Body;
use crate::request::Completion;

/// The status of a wait context: the four of the ASYNC API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// A fresh context: nothing was submitted with it.
    Unsupported = 0,
    /// The request was refused for good, or was accepted and ended with a fault.
    Err = 1,
    /// The request was accepted (and, once delivered, has an answer).
    Ok = 2,
    /// There was no room; nothing was queued. Submit again later.
    Eagain = 3,
}

impl Status {
    fn from_raw(raw: i32) -> Self {
        match raw {
            0 => Self::Unsupported,
            2 => Self::Ok,
            3 => Self::Eagain,
            _ => Self::Err,
        }
    }
}

pub(crate) type Callback = Box<dyn Fn(&Delivery<'_>) + Send + Sync>;

/// What all handles of a context share.
pub(crate) struct Inner {
    status: AtomicI32,
    wake: Wake,
}

/// With the place for the result.
type Post = Posted<Inner, Body>;

/// How a context tells its program.
pub(crate) enum Wake {
    Callback(Callback),
    Fd(Arc<EventFd>),
    Both(Callback, Arc<EventFd>),
    /// The task or thread that waits, where one does.
    Waiter,
}

impl Wake {
    fn fd(&self) -> Option<&Arc<EventFd>> {
        match self {
            Self::Fd(fd) | Self::Both(_, fd) => Some(fd),
            Self::Callback(_) | Self::Waiter => None,
        }
    }
}

impl Inner {
    #[inline]
    pub(crate) fn set_status(&self, status: Status) {
        // Relaxed: the ring's Release (submission) or the claim's (delivery) publishes it.
        self.status.store(status as i32, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(crate) fn wake(&self) -> &Wake {
        &self.wake
    }
}

/// A wait context: carries at most one request at a time, and is told when it has ended.
///
/// However it is told, the result is in the context: [`take`](Self::take) moves the request out,
/// with its buffers. Cloning gives another handle to the same context; handles may be used from any
/// thread. Dropping all handles does not stop a request in flight: its callback still comes. What
/// the callback owns is dropped when the last handle is gone and no request is in flight.
///
/// ```
/// use ringbell::{Status, WaitCtx};
/// let ctx = WaitCtx::new();
/// assert_eq!(ctx.status(), Status::Unsupported);
/// assert!(ctx.take().is_none());
/// ```
#[derive(Clone)]
pub struct WaitCtx(Shared<Post>);

impl WaitCtx {
    fn from_wake(wake: Wake) -> Self {
        let status = AtomicI32::new(Status::Unsupported as i32);
        Self(Shared::new(Posted::new(Inner { status, wake })))
    }

    /// A context that calls nothing: look at it by [`take`](Self::take), or sleep until there is
    /// something by [`wait`](Self::wait). ([`TaskCtx`](crate::TaskCtx) is for futures.)
    pub fn new() -> Self {
        Self::from_wake(Wake::Waiter)
    }

    /// A context with a callback. It runs on the poll thread, once for each accepted request, when
    /// the result is in the context. It must be small and must not block; it may submit again. A
    /// panic in it is caught and counted.
    pub fn with_callback(callback: impl Fn(&Delivery<'_>) + Send + Sync + 'static) -> Self {
        Self::from_wake(Wake::Callback(Box::new(callback)))
    }

    /// A context with a wait fd: an eventfd that becomes readable when the result is in the context.
    /// Read 8 bytes from it, or call [`take_ready`](Self::take_ready), before the next submit.
    ///
    /// # Errors
    /// No fds left.
    pub fn with_fd() -> Result<Self> {
        Ok(Self::from_wake(Wake::Fd(wait::event()?)))
    }

    /// A context with both.
    ///
    /// # Errors
    /// No fds left.
    pub fn with_callback_and_fd(callback: impl Fn(&Delivery<'_>) + Send + Sync + 'static) -> Result<Self> {
        Ok(Self::from_wake(Wake::Both(Box::new(callback), wait::event()?)))
    }

    /// The status. Set before `submit` returns, and again before the callback runs.
    pub fn status(&self) -> Status {
        Status::from_raw(self.0.status.load(Ordering::Acquire))
    }

    /// The wait fd, where the context has one.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.wake.fd().map(|fd| fd.as_fd())
    }

    /// Takes the ended request out, with its result. `None` while it is in flight, after it was
    /// taken, and where there was none.
    ///
    /// While the callback runs on another thread and has not taken the request itself, this waits
    /// for it to return: what the callback has announced is there.
    #[inline]
    pub fn take(&self) -> Option<Completion> {
        let body = self.0.take().or_else(|| {
            self.0.wait_for_calls();
            self.0.take()
        });
        body.map(Completion::new)
    }

    /// As [`take`](Self::take), and makes the wait fd unreadable.
    pub fn take_ready(&self) -> Option<Completion> {
        if let Some(fd) = self.fd() {
            wait::drain(fd);
        }
        self.take()
    }

    /// Whether a request is in flight. Already history when it returns.
    pub fn is_busy(&self) -> bool {
        self.0.is_claimed()
    }

    /// Gives the request in flight up. True: no delivery will be made for it, and its buffers go back
    /// when the device has returned them. False: there is none, or its delivery has begun.
    ///
    /// Never waits. The context can be used again once the device has returned the request
    /// ([`is_busy`](Self::is_busy)); until then a submit is refused.
    pub fn detach(&self) -> bool {
        let given_up = self.0.detach();
        if given_up {
            self.0.wake_waiter();
        }
        given_up
    }

    /// Detaches, then waits until no callback of this context runs on another thread: afterwards
    /// nothing of Ringbell touches what the callback uses. From inside the callback it returns at
    /// once. Returns whether a request was given up.
    pub fn release(&self) -> bool {
        let given_up = self.0.quiesce();
        if given_up {
            self.0.wake_waiter();
        }
        given_up
    }

    pub(crate) fn generation(&self) -> Option<u32> {
        self.0.generation()
    }
}

/// What futures and blocking waits need of a context.
impl WaitCtx {
    /// How the context tells.
    pub(crate) fn wake(&self) -> &Wake {
        &self.0.wake
    }

    /// Takes what is there, or registers the task.
    #[inline(always)]
    pub(crate) fn poll(&self, waker: &Waker) -> Option<Completion> {
        self.0.poll(waker).map(Completion::new)
    }

    /// The task waits no more.
    pub(crate) fn forget_waiter(&self) {
        self.0.forget_waiter();
    }

    /// The task waits no more and wants no result either. True where [`is_clean`](Self::is_clean).
    pub(crate) fn give_up(&self) -> bool {
        self.0.give_up()
    }

    /// Whether nothing of earlier requests can come any more; what has come is dropped.
    pub(crate) fn is_clean(&self) -> bool {
        self.0.is_clean()
    }

    /// Whether a delivery is to come or is being made.
    pub(crate) fn is_awaited(&self) -> bool {
        self.0.is_awaited()
    }

    /// Whether a request is in flight that was not given up.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.0.is_in_flight()
    }

    /// Whether neither a request nor a delivery is under way.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.0.is_idle()
    }

    /// Whether there is something to take.
    pub(crate) fn has_result(&self) -> bool {
        self.0.has_result()
    }
}

impl Default for WaitCtx {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for WaitCtx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitCtx").field("status", &self.status()).field("busy", &self.is_busy()).finish()
    }
}

/// A delivery, as the callback sees it: the context, while the callback runs.
///
/// A request can be submitted with it again: [`Request::submit`](crate::Request::submit) takes a
/// `&Delivery` as well as a `&WaitCtx`.
pub struct Delivery<'a> {
    context: &'a Shared<Post>,
    /// Until it is taken, or the callback returns and it goes to the mailbox.
    body: Cell<Option<Box<Body>>>,
}

impl<'a> Delivery<'a> {
    #[inline(always)]
    pub(crate) fn new(context: &'a Shared<Post>, body: Box<Body>) -> Self {
        Self { context, body: Cell::new(Some(body)) }
    }

    /// The status of the context.
    #[inline]
    pub fn status(&self) -> Status {
        Status::from_raw(self.context.status.load(Ordering::Relaxed))
    }

    /// Takes the ended request out, with its result. `None` the second time.
    #[inline]
    pub fn take(&self) -> Option<Completion> {
        self.body.take().map(Completion::new)
    }

    /// A handle to the context, to keep.
    pub fn context(&self) -> WaitCtx {
        WaitCtx(self.context.clone())
    }
}

impl Drop for Delivery<'_> {
    /// What the callback has not taken is for the context's other users, also after a panic.
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            leave(self.context, body);
        }
    }
}

#[cold]
#[inline(never)]
fn leave(context: &Shared<Post>, body: Box<Body>) {
    context.put(body);
}

impl fmt::Debug for Delivery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("status", &self.status()).finish()
    }
}

/// What a request can be submitted with: a [`WaitCtx`], or the [`Delivery`] in its callback.
pub trait Target: sealed::Sealed {}

impl Target for WaitCtx {}
impl Target for Delivery<'_> {}

pub(crate) mod sealed {
    use super::{ContextClaim, Delivery, WaitCtx};

    pub trait Sealed {
        #[doc(hidden)]
        fn claim(&self) -> Option<ClaimOf>;
    }

    /// A claim on a context. Opaque outside of this crate.
    pub struct ClaimOf(pub(crate) ContextClaim);

    impl Sealed for WaitCtx {
        #[inline]
        fn claim(&self) -> Option<ClaimOf> {
            self.0.claim().map(ClaimOf)
        }
    }

    impl Sealed for Delivery<'_> {
        #[inline]
        fn claim(&self) -> Option<ClaimOf> {
            self.context.claim().map(ClaimOf)
        }
    }
}

pub(crate) type ContextClaim = Claim<Post>;
pub(crate) type ContextCalling = Calling<Post>;

/// Whether `claim` is on the context of `ctx`, of that generation.
pub(crate) fn is_claim_of(claim: &ContextClaim, ctx: &WaitCtx, generation: u32) -> bool {
    claim.is_of(&ctx.0) && claim.generation() == generation
}
