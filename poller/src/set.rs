//! Many requests in flight, awaited together.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use atomic_waker::AtomicWaker;
use crossbeam_queue::ArrayQueue;
use futures_core::Stream;
use ringbell_drivers::room::Ticket;
use ringbell_drivers::{Error, Result};

use crate::context::{Status, WaitCtx};
use crate::device::Device;
use crate::owned::OwnedBurst;
use crate::refusal::{Reason, Refused};
use crate::request::{Completion, Request};
use crate::wait::{block, spin};

/// The most that a set holds.
const MOST: usize = 1 << 16;

/// What the callbacks of a set share with it: what has ended, in the order in which it did.
struct Inbox {
    /// Room for one of each slot, and no slot is used again before its completion was taken out.
    ended: ArrayQueue<(u32, Completion)>,
    waiter: AtomicWaker,
}

struct Slot {
    ctx: WaitCtx,
    tag: u64,
    in_flight: bool,
}

/// A bounded number of requests in flight, whose completions come in the order in which they end: a
/// [`Stream`] of the tag that was given with the request, and the completion.
///
/// Each request that was accepted comes out once, unless the set is dropped: that gives up the rest, and
/// never waits. An operation allocates nothing.
///
/// ```
/// # use std::time::Duration;
/// # use ringbell::{Cipher, Device, Poller, RequestSet};
/// # let device = Device::open("sim:")?;
/// # let poller = Poller::spawn(&device, Default::default())?;
/// let key = device.cipher_key(Cipher::Aes128Ctr, &[1; 16])?;
/// key.prepare()?;
/// let mut set = RequestSet::new(&device, 8)?;
/// for number in 0..8 {
///     set.push(number, key.encrypt(&[0; 16], device.buffer_from(&[0; 64])?))?;
/// }
/// # let limit = Duration::from_secs(60);
/// let mut seen = 0;
/// while let Some((number, done)) = set.wait(limit) { // or set.next().await
///     done.result()?;
///     seen |= 1 << number;
/// }
/// assert_eq!(seen, 0xff);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RequestSet {
    device: Device,
    slots: Vec<Slot>,
    /// Numbers of the slots that are free.
    free: Vec<u32>,
    inbox: Arc<Inbox>,
}

impl RequestSet {
    /// A set of at most `capacity` requests of this device, 1 to 65536.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a capacity out of range.
    pub fn new(device: &Device, capacity: usize) -> Result<Self> {
        if capacity == 0 || capacity > MOST {
            return Err(Error::Invalid(format!("a set holds 1 to {MOST} requests, not {capacity}")));
        }
        let inbox = Arc::new(Inbox { ended: ArrayQueue::new(capacity), waiter: AtomicWaker::new() });
        let slot = |number: u32| {
            let inbox = Arc::clone(&inbox);
            let ctx = WaitCtx::with_callback(move |delivery| {
                if let Some(done) = delivery.take() {
                    // It has room, see there.
                    let _ = inbox.ended.push((number, done));
                    inbox.waiter.wake();
                }
            });
            Slot { ctx, tag: 0, in_flight: false }
        };
        let slots: Vec<Slot> = (0..capacity as u32).map(slot).collect();
        Ok(Self { device: device.clone(), slots, free: (0..capacity as u32).rev().collect(), inbox })
    }

    /// Submits a request to a shared queue, if the set and the device have room. The `tag` comes with its
    /// completion.
    ///
    /// # Errors
    /// As for [`Request::submit`]; and `EAGAIN` ([`Reason::SetFull`]) where as many are in flight or not
    /// taken out as the set holds. A request of another device is refused.
    #[inline]
    pub fn push(&mut self, tag: u64, request: Request) -> Result<(), Refused> {
        self.push_by(tag, request, |device, request, ctx| device.inner().submit(request, ctx))
    }

    /// As [`push`](Self::push), with a burst of an owned queue.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn push_in(
        &mut self,
        burst: &mut OwnedBurst<'_, '_, '_>,
        tag: u64,
        request: Request,
    ) -> Result<(), Refused> {
        self.push_by(tag, request, |_, request, ctx| burst.submit(request, ctx))
    }

    #[inline]
    fn push_by(
        &mut self,
        tag: u64,
        request: Request,
        submit: impl FnOnce(&Device, Request, &WaitCtx) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let Some(number) = self.free.last().copied() else {
            return Err(Refused::new(request, Reason::SetFull));
        };
        let Some(slot) = self.slots.get_mut(number as usize) else { unreachable!("a free slot is a slot") };
        submit(&self.device, request, &slot.ctx)?;
        (slot.tag, slot.in_flight) = (tag, true);
        self.free.pop();
        Ok(())
    }

    /// Requests in flight, and ended and not taken out.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there is none of those.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As many as it holds.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Asks for an early end of the requests with this tag, as [`Device::cancel`]. They come out as all
    /// others.
    pub fn cancel(&self, tag: u64) {
        for slot in self.slots.iter().filter(|slot| slot.in_flight && slot.tag == tag) {
            self.device.cancel(&slot.ctx);
        }
    }

    /// Takes the next one that has ended out, if there is one.
    pub fn try_next(&mut self) -> Option<(u64, Completion)> {
        let (number, done) = self.inbox.ended.pop()?;
        let slot = self.slots.get_mut(number as usize)?;
        slot.in_flight = false;
        self.free.push(number);
        Some((slot.tag, done))
    }

    /// The next one that ends; `None` where the set is empty, and in a forked child, in which nothing ends.
    /// Dropping this future loses nothing.
    #[expect(clippy::should_implement_trait, reason = "the name that every extension of streams gives it")]
    pub fn next(&mut self) -> Next<'_> {
        Next(self)
    }

    /// Sleeps until one has ended, at most `limit`. `None`: the time is over, or the set is empty. Not for
    /// callbacks.
    pub fn wait(&mut self, limit: Duration) -> Option<(u64, Completion)> {
        let start = Instant::now();
        if let Some(next) = self.try_next() {
            return Some(next);
        }
        if self.is_empty() {
            return None;
        }
        if let Some(next) = spin(|| self.try_next()) {
            return Some(next);
        }
        let next = block(start, limit, |waker| match self.poll(waker) {
            Poll::Ready(next) => Some(next),
            Poll::Pending => None,
        });
        self.forget_waiter();
        next.flatten()
    }

    fn poll(&mut self, waker: &Waker) -> Poll<Option<(u64, Completion)>> {
        if let Some(next) = self.try_next() {
            return Poll::Ready(Some(next));
        }
        if self.is_empty() {
            return Poll::Ready(None);
        }
        self.inbox.waiter.register(waker);
        // One that ended before that woke nobody.
        match self.try_next() {
            Some(next) => Poll::Ready(Some(next)),
            None if self.device.inner().is_child() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn forget_waiter(&self) {
        drop(self.inbox.waiter.take());
    }
}

impl Stream for RequestSet {
    type Item = (u64, Completion);

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx.waker())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.len()))
    }
}

impl Drop for RequestSet {
    fn drop(&mut self) {
        self.forget_waiter();
        for slot in self.slots.iter().filter(|slot| slot.in_flight) {
            slot.ctx.detach();
        }
        // What has ended goes at once, with its buffers.
        while self.inbox.ended.pop().is_some() {}
    }
}

impl fmt::Debug for RequestSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestSet").field("len", &self.len()).field("capacity", &self.capacity()).finish()
    }
}

/// The next completion of a [`RequestSet`].
#[derive(Debug)]
#[must_use = "futures do nothing unless they are awaited"]
pub struct Next<'a>(&'a mut RequestSet);

impl Future for Next<'_> {
    type Output = Option<(u64, Completion)>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().0.poll(cx.waker())
    }
}

impl Drop for Next<'_> {
    fn drop(&mut self) {
        self.0.forget_waiter();
    }
}

/// A stream that runs all requests of an iterator, a bounded number at a time; see [`Device::run_all`].
#[must_use = "streams do nothing unless they are polled"]
pub struct RunAll<I> {
    set: RequestSet,
    requests: Option<I>,
    /// Taken from the iterator; there was no room for it.
    held: Option<Request>,
    next: u64,
    ticket: Option<Ticket>,
}

impl Device {
    /// Runs all requests of an iterator, at most `in_flight` (1 to 65536) at a time: a stream of their
    /// numbers, counted from 0, and their completions, in the order in which they end. One that is refused
    /// for good comes out as `Err`, and the others go on. Requests are taken from the iterator when there
    /// is room for them; it may reuse buffers that the stream has returned.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a number out of range.
    pub fn run_all<I>(&self, requests: I, in_flight: usize) -> Result<RunAll<I::IntoIter>>
    where
        I: IntoIterator<Item = Request>,
    {
        let set = RequestSet::new(self, in_flight)?;
        Ok(RunAll { set, requests: Some(requests.into_iter()), held: None, next: 0, ticket: None })
    }
}

/// What filling a set came to.
enum Filled {
    /// The set is full, or the iterator is at its end.
    Enough,
    NoRoom,
    Refused(u64, Refused),
}

impl<I: Iterator<Item = Request>> RunAll<I> {
    /// Submits as many as there is room for.
    fn fill(&mut self) -> Filled {
        while self.set.len() < self.set.capacity() {
            let request = self.held.take().or_else(|| self.requests.as_mut()?.next());
            let Some(request) = request else {
                self.requests = None;
                return Filled::Enough;
            };
            match self.set.push(self.next, request) {
                Ok(()) => self.next += 1,
                Err(refused) if refused.status() == Status::Eagain => {
                    self.held = Some(refused.into_request());
                    return Filled::NoRoom;
                }
                Err(refused) => {
                    self.next += 1;
                    return Filled::Refused(self.next - 1, refused);
                }
            }
        }
        Filled::Enough
    }

    fn poll(&mut self, waker: &Waker) -> Poll<Option<(u64, Result<Completion, Refused>)>> {
        let mut filled = self.fill();
        if matches!(filled, Filled::NoRoom) {
            // Register, then try once more: what became free before is not announced.
            self.set.device.inner().engine().room().register_task(&mut self.ticket, waker);
            filled = self.fill();
        }
        if !matches!(filled, Filled::NoRoom) {
            self.leave_room();
        }
        if let Filled::Refused(number, refused) = filled {
            return Poll::Ready(Some((number, Err(refused))));
        }
        match self.set.poll(waker) {
            Poll::Ready(Some((number, done))) => Poll::Ready(Some((number, Ok(done)))),
            Poll::Ready(None) if self.held.is_some() => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<I> RunAll<I> {
    fn leave_room(&mut self) {
        // In a forked child the waiters' lock may be held by a thread that is not there.
        if let Some(ticket) = self.ticket.take()
            && !self.set.device.inner().is_child()
        {
            self.set.device.inner().engine().room().leave(ticket);
        }
    }
}

impl<I: Iterator<Item = Request> + Unpin> Stream for RunAll<I> {
    type Item = (u64, Result<Completion, Refused>);

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx.waker())
    }
}

impl<I> Drop for RunAll<I> {
    fn drop(&mut self) {
        self.leave_room();
    }
}

impl<I> fmt::Debug for RunAll<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunAll").field("set", &self.set).field("next", &self.next).finish_non_exhaustive()
    }
}
