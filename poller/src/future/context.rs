//! A wait context for a task.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use crate::context::{Status, Target, WaitCtx, sealed};
use crate::device::Device;
use crate::future::run::Running;
use crate::request::{Completion, Request};

/// A wait context for a task: what [`run`](Self::run) with it, a future waits for.
///
/// It carries one request at a time and is used again and again: an operation allocates nothing. It
/// wakes the task on the poll thread, so what the executor does to wake one must be small and must not
/// block, as with a callback. It keeps the device (as a key does), not the poller.
///
/// ```
/// # use ringbell::{Cipher, Device, ManualPoller, TaskCtx};
/// # use std::future::Future;
/// # let device = Device::open("sim:")?;
/// # let key = device.cipher_key(Cipher::Aes128Ctr, &[1; 16])?;
/// # let mut poller = ManualPoller::new([&device], Default::default())?;
/// # let task = async {
/// let mut ctx = TaskCtx::new(&device);
/// let mut request = key.encrypt(&[0; 16], device.buffer_from(&[0; 64])?);
/// for block in 0..3_u8 {
///     let done = ctx.run(request).await?; // refused for good: Err, with the request inside
///     assert_eq!(done.result(), Ok(ringbell::Answer::Yes));
///     request = done.into_request();
///     request.input_mut().fill(block);
/// }
/// # Ok::<_, ringbell::Error>(())
/// # };
/// # let mut task = std::pin::pin!(task);
/// # let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
/// # loop {
/// #     poller.poll();
/// #     if let std::task::Poll::Ready(result) = task.as_mut().poll(&mut cx) { break result? }
/// # }
/// # Ok::<(), ringbell::Error>(())
/// ```
pub struct TaskCtx {
    ctx: WaitCtx,
    device: Device,
    /// A request was accepted whose completion nobody has taken: it may be in flight, given up or not,
    /// or its completion is here or about to be.
    open: AtomicBool,
}

impl TaskCtx {
    /// A context for requests of this device; those of others are refused.
    pub fn new(device: &Device) -> Self {
        Self { ctx: WaitCtx::new(), device: device.clone(), open: AtomicBool::new(false) }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The status of the context.
    pub fn status(&self) -> Status {
        self.ctx.status()
    }

    /// Whether a request is in flight that was submitted with it, given up or not.
    pub fn is_busy(&self) -> bool {
        self.ctx.is_busy()
    }

    /// Runs a request to its end; see [`Running`].
    ///
    /// Where an earlier request of this context was given up and the device has not returned it yet,
    /// this one has a fresh context underneath (the one case that allocates): it does not wait for
    /// the other and is not refused.
    #[inline]
    pub fn run(&mut self, request: Request) -> Running<'_> {
        if *self.open.get_mut() {
            self.refresh();
        }
        Running::new(self, request)
    }

    /// What a request ends with that was submitted with this context
    /// ([`Request::submit`], [`OwnedQueue::burst`](crate::OwnedQueue::burst)); see [`Ended`].
    #[inline]
    pub fn ended(&mut self) -> Ended<'_> {
        Ended { task: self }
    }

    /// Takes the ended request out, as [`WaitCtx::take`].
    pub fn take(&mut self) -> Option<Completion> {
        self.ctx.take()
    }

    #[inline]
    pub(super) fn ctx(&self) -> &WaitCtx {
        &self.ctx
    }

    /// Whether a completion is still to be taken: as long as that is so, what is found in the context may
    /// be of a request whose future is gone.
    #[inline]
    pub(super) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }

    /// The task wants nothing any more of the request in flight.
    pub(super) fn give_up(&self) {
        if self.ctx.give_up() {
            self.set_open(false);
        }
    }

    /// None is in flight, but it may have been delivered between the two looks.
    #[cold]
    fn last_look(&self) -> Poll<Option<Completion>> {
        self.set_open(false);
        Poll::Ready(self.ctx.take())
    }

    /// Makes sure that nothing of an earlier request can be taken for the next one's.
    #[cold]
    fn refresh(&mut self) {
        // One that is in flight and was submitted by hand: the next is refused.
        if self.ctx.is_in_flight() {
            return;
        }
        if !self.ctx.is_clean() {
            self.ctx = WaitCtx::new();
        }
        self.set_open(false);
    }
}

impl Drop for TaskCtx {
    /// Nobody can take the result any more: a request in flight is given up.
    fn drop(&mut self) {
        self.ctx.give_up();
    }
}

impl fmt::Debug for TaskCtx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskCtx").field("status", &self.status()).field("busy", &self.is_busy()).finish()
    }
}

impl Target for TaskCtx {}

impl sealed::Sealed for TaskCtx {
    /// While a request that was given up is with the device still, the context is busy. A completion that
    /// nobody has taken is dropped.
    #[inline]
    fn claim(&self) -> Option<sealed::ClaimOf> {
        if self.open.load(Ordering::Relaxed) && !self.ctx.is_clean() {
            return None;
        }
        let claim = self.ctx.claim()?;
        self.set_open(true);
        Some(claim)
    }
}

/// A future: the end of the request that was submitted with a [`TaskCtx`]. `None` where none is in
/// flight (in a forked child: where none has ended before the fork) and nothing is left to take.
///
/// Dropping it gives nothing up: [`TaskCtx::ended`] can be called again. Dropping the context does.
#[must_use = "futures do nothing unless they are awaited"]
pub struct Ended<'a> {
    task: &'a mut TaskCtx,
}

impl Future for Ended<'_> {
    type Output = Option<Completion>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Completion>> {
        let task = &mut *self.get_mut().task;
        if let Some(done) = task.ctx.poll(cx.waker()) {
            task.set_open(false);
            return Poll::Ready(Some(done));
        }
        if task.ctx.is_idle() || task.device.inner().is_child() { task.last_look() } else { Poll::Pending }
    }
}

impl Drop for Ended<'_> {
    #[inline]
    fn drop(&mut self) {
        // One that has resolved is not woken; its waker is kept for the next.
        if *self.task.open.get_mut() {
            self.task.ctx.forget_waiter();
        }
    }
}

impl fmt::Debug for Ended<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended").field("task", self.task).finish()
    }
}
