//! Running a request to its end.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use ringbell_drivers::room::Ticket;

use crate::context::Status;
use crate::future::context::TaskCtx;
use crate::refusal::Refused;
use crate::request::{Completion, Request};
use crate::unfinished::Unfinished;

type Outcome = Result<Completion, Unfinished>;

/// What a running future has besides its context.
struct Run {
    /// Until it is accepted or refused.
    request: Option<Request>,
    /// Among the waiters for room.
    ticket: Option<Ticket>,
    in_flight: bool,
}

impl Run {
    fn new(request: Request) -> Self {
        Self { request: Some(request), ticket: None, in_flight: false }
    }

    #[inline]
    fn poll(&mut self, task: &TaskCtx, waker: &Waker) -> Poll<Outcome> {
        if self.in_flight {
            return match task.ctx().poll(waker) {
                Some(done) => self.finish(task, done),
                None => self.look_around(task),
            };
        }
        // Resolved already: it pends for ever, which the contract of futures allows.
        let Some(request) = self.request.take() else { return Poll::Pending };
        match task.device().inner().submit(request, task.ctx()) {
            Ok(()) => self.accepted(task, waker),
            Err(refused) => self.not_accepted(refused, task, waker),
        }
    }

    #[inline(always)]
    fn finish(&mut self, task: &TaskCtx, done: Completion) -> Poll<Outcome> {
        self.in_flight = false;
        task.set_open(false);
        Poll::Ready(Ok(done))
    }

    #[inline(always)]
    fn accepted(&mut self, task: &TaskCtx, waker: &Waker) -> Poll<Outcome> {
        self.in_flight = true;
        // Until the completion is taken: also where this future is leaked.
        task.set_open(true);
        if self.ticket.is_some() {
            self.leave_room(task);
        }
        // The delivery may have been made before.
        match task.ctx().poll(waker) {
            Some(done) => self.finish(task, done),
            None => Poll::Pending,
        }
    }

    /// A wake-up that was not ours, or a forked child.
    #[cold]
    fn look_around(&mut self, task: &TaskCtx) -> Poll<Outcome> {
        if task.device().inner().is_child() {
            self.in_flight = false;
            return Poll::Ready(Err(Unfinished::Forked));
        }
        Poll::Pending
    }

    #[cold]
    fn not_accepted(&mut self, refused: Refused, task: &TaskCtx, waker: &Waker) -> Poll<Outcome> {
        let device = task.device().inner();
        let mut refused = refused;
        if refused.status() == Status::Eagain {
            // Register, then try once more: what became free before is not announced.
            device.engine().room().register_task(&mut self.ticket, waker);
            match device.submit(refused.into_request(), task.ctx()) {
                Ok(()) => return self.accepted(task, waker),
                Err(again) => refused = again,
            }
            if refused.status() == Status::Eagain {
                self.request = Some(refused.into_request());
                return Poll::Pending;
            }
        }
        self.leave_room(task);
        Poll::Ready(Err(refused.into()))
    }

    #[cold]
    fn leave_room(&mut self, task: &TaskCtx) {
        // In a forked child the waiters' lock may be held by a thread that is not there.
        if let Some(ticket) = self.ticket.take()
            && !task.device().inner().is_child()
        {
            task.device().inner().engine().room().leave(ticket);
        }
    }

    #[inline]
    fn give_up(&mut self, task: &TaskCtx) {
        if self.in_flight {
            task.give_up();
        }
        if self.ticket.is_some() {
            self.leave_room(task);
        }
    }

    fn cancel(&self, task: &TaskCtx) {
        if self.in_flight {
            task.device().cancel(task.ctx());
        }
    }

    fn fmt(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name).field("request", &self.request).field("in_flight", &self.in_flight).finish()
    }
}

/// A future that runs a request, made by [`TaskCtx::run`].
///
/// - The first poll submits it, to a shared queue of the device.
/// - While there is no room (`EAGAIN`) it waits for room, as [`Device::on_room`](crate::Device::on_room).
/// - It resolves to the [`Completion`] of the request, with its result: also of one that ended with a
///   [`Fault`](crate::Fault).
/// - Where the request is refused for good (`ERR`) it resolves to [`Unfinished::Refused`], with the
///   request inside; in a forked child, where the parent had submitted it, to [`Unfinished::Forked`].
/// - Dropping it gives the request up, and never waits: no delivery is made, and the buffers go back when
///   the device has returned them. Where it waits for room, nothing has happened.
///
/// A device needs a poller elsewhere: without one the future pends.
#[must_use = "futures do nothing unless they are awaited"]
pub struct Running<'a> {
    task: &'a mut TaskCtx,
    run: Run,
}

impl<'a> Running<'a> {
    #[inline]
    pub(super) fn new(task: &'a mut TaskCtx, request: Request) -> Self {
        Self { task, run: Run::new(request) }
    }

    /// Whether the device has the request. Else it is not submitted yet, or waits for room, or has ended.
    pub fn is_in_flight(&self) -> bool {
        self.run.in_flight
    }

    /// Asks for an early end of the request, as [`Device::cancel`](crate::Device::cancel); the future
    /// resolves to a completion with [`Fault::Canceled`](crate::Fault::Canceled) then. Nothing where the
    /// device does not have it (yet): drop the future instead.
    pub fn cancel(&self) {
        self.run.cancel(self.task);
    }
}

impl Future for Running<'_> {
    type Output = Result<Completion, Unfinished>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.run.poll(this.task, cx.waker())
    }
}

impl Drop for Running<'_> {
    #[inline]
    fn drop(&mut self) {
        self.run.give_up(self.task);
    }
}

impl fmt::Debug for Running<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.run.fmt("Running", f)
    }
}

/// A future that runs a request with a context of its own: what `request.await` waits for. As
/// [`Running`], but for the context, which is allocated.
#[must_use = "futures do nothing unless they are awaited"]
pub struct RunningAlone {
    task: TaskCtx,
    run: Run,
}

impl RunningAlone {
    /// As [`Running::is_in_flight`].
    pub fn is_in_flight(&self) -> bool {
        self.run.in_flight
    }

    /// As [`Running::cancel`].
    pub fn cancel(&self) {
        self.run.cancel(&self.task);
    }
}

impl IntoFuture for Request {
    type Output = Result<Completion, Unfinished>;
    type IntoFuture = RunningAlone;

    fn into_future(self) -> RunningAlone {
        RunningAlone { task: TaskCtx::new(self.device()), run: Run::new(self) }
    }
}

impl Future for RunningAlone {
    type Output = Result<Completion, Unfinished>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.run.poll(&this.task, cx.waker())
    }
}

impl Drop for RunningAlone {
    fn drop(&mut self) {
        self.run.give_up(&self.task);
    }
}

impl fmt::Debug for RunningAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.run.fmt("RunningAlone", f)
    }
}
