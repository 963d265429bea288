//! Blocking until a request has ended.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Wake as WakeTask, Waker};
use std::time::{Duration, Instant};

use crossbeam_utils::sync::{Parker, Unparker};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::context::{WaitCtx, Wake};
use crate::request::{Completion, Request};
use crate::unfinished::Unfinished;

/// Looks before the thread sleeps: a few microseconds.
const SPINS: u32 = 50;
/// Longest sleep without a look: for the threads that wait on a context beside the one that is woken, and
/// for a wait fd whose count somebody else has read.
const NAP: Duration = Duration::from_millis(100);
/// First and longest sleep between looks where nobody wakes.
const NAPS: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(1)];

/// Unparks a thread. Not `Thread::unpark`: what the program parks for is its own affair.
struct Unpark(Unparker);

impl WakeTask for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// A thread that blocks, seen as a task.
struct Sleeper {
    parker: Parker,
    waker: Waker,
}

impl Sleeper {
    fn new() -> Self {
        let parker = Parker::new();
        let waker = Waker::from(Arc::new(Unpark(parker.unparker().clone())));
        Self { parker, waker }
    }
}

thread_local! {
    static SLEEPER: Sleeper = Sleeper::new();
}

/// Sleeps until `look`, which registers the waker that it is given, returns `Some`, at most until `limit`
/// is over.
pub(crate) fn block<R>(
    start: Instant,
    limit: Duration,
    mut look: impl FnMut(&Waker) -> Option<R>,
) -> Option<R> {
    let mut block_on = |sleeper: &Sleeper| loop {
        if let Some(result) = look(&sleeper.waker) {
            return Some(result);
        }
        let left = limit.saturating_sub(start.elapsed());
        if left.is_zero() {
            return None;
        }
        sleeper.parker.park_timeout(left.min(NAP));
    };
    // A thread that is ending has no locals any more.
    SLEEPER.try_with(&mut block_on).unwrap_or_else(|_| block_on(&Sleeper::new()))
}

/// Looks a few times without sleeping.
pub(crate) fn spin<R>(mut look: impl FnMut() -> Option<R>) -> Option<R> {
    (0..SPINS).find_map(|_| {
        std::hint::spin_loop();
        look()
    })
}

impl WaitCtx {
    /// Sleeps until the request in flight has ended, and takes it: at most `limit`. `None`: the time is
    /// over (the request is in flight still), or there is nothing to wait for (none in flight, given up,
    /// taken by its callback).
    ///
    /// For every kind of context. One with a wait fd sleeps on that and makes it unreadable. One with
    /// neither callback nor fd is woken by the delivery; of several threads that wait on it at once, one
    /// is, and the others look ten times a second. One with a callback alone has nothing by which it
    /// could wake a thread that it does not know: what its callback does costs no instruction more for
    /// those who wait, so this looks again and again, and sleeps 50 us to 1 ms in between.
    ///
    /// It needs a poller elsewhere, and is not for callbacks.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use ringbell::{Answer, Cipher, Device, Poller, WaitCtx};
    /// # let device = Device::open("sim:")?;
    /// # let poller = Poller::spawn(&device, Default::default())?;
    /// # let key = device.cipher_key(Cipher::Aes128Ctr, &[1; 16])?;
    /// # key.prepare()?;
    /// let ctx = WaitCtx::new();
    /// key.encrypt(&[0; 16], device.buffer_from(b"some data")?).submit(&ctx)?;
    /// let done = ctx.wait(Duration::from_secs(5)).expect("it has a deadline of a second");
    /// assert_eq!(done.result(), Ok(Answer::Yes));
    /// # Ok::<(), ringbell::Error>(())
    /// ```
    pub fn wait(&self, limit: Duration) -> Option<Completion> {
        let start = Instant::now();
        match self.wake() {
            Wake::Waiter => self.wait_woken(start, limit),
            Wake::Callback(_) => self.wait_napping(start, limit),
            Wake::Fd(_) | Wake::Both(..) => self.fd().and_then(|fd| self.wait_fd(fd, start, limit)),
        }
    }

    /// Whether waiting is over: with the request, or without.
    fn look(&self) -> Option<Option<Completion>> {
        // In this order: what was delivered between the two looks is found by the third.
        if let Some(done) = self.take() {
            return Some(Some(done));
        }
        (!self.is_awaited()).then(|| self.take())
    }

    fn wait_woken(&self, start: Instant, limit: Duration) -> Option<Completion> {
        if let Some(done) = spin(|| self.look()) {
            return done;
        }
        let done = block(start, limit, |waker| self.poll(waker).map(Some).or_else(|| self.look()));
        self.forget_waiter();
        done.flatten()
    }

    fn wait_napping(&self, start: Instant, limit: Duration) -> Option<Completion> {
        let [mut nap, longest] = NAPS;
        loop {
            if let Some(done) = self.look() {
                return done;
            }
            let left = limit.saturating_sub(start.elapsed());
            if left.is_zero() {
                return None;
            }
            std::thread::sleep(nap.min(left));
            nap = (2 * nap).min(longest);
        }
    }

    fn wait_fd(&self, fd: BorrowedFd<'_>, start: Instant, limit: Duration) -> Option<Completion> {
        loop {
            // The result is there before the fd is readable; taken then, it would leave the fd readable
            // for nothing.
            let awaited = self.is_awaited();
            if !awaited && !self.has_result() {
                return None;
            }
            let left = limit.saturating_sub(start.elapsed());
            // Rounded up, so as not to spin through the last millisecond.
            let nap = left.min(NAP).as_millis() as u16 + u16::from(!left.is_zero());
            let mut set = [PollFd::new(fd, PollFlags::POLLIN)];
            let told = nix::poll::poll(&mut set, PollTimeout::from(nap)).is_ok_and(|ready| ready > 0);
            // Not told in all that time of what was there: somebody else has read the fd.
            if (told || !awaited)
                && let Some(done) = self.take_ready()
            {
                return Some(done);
            }
            if left.is_zero() {
                return None;
            }
        }
    }
}

impl Request {
    /// Runs the request to its end on this thread, which sleeps meanwhile, at most `limit`: while there is
    /// no room, and while the device has it. It needs a poller elsewhere, and is not for callbacks.
    ///
    /// # Errors
    /// [`Unfinished::Refused`], with the request inside: for good, or the time was over while there was no
    /// room (`EAGAIN`). [`Unfinished::GivenUp`]: the time was over while the device had it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use ringbell::{Cipher, Device, Poller};
    /// # let device = Device::open("sim:")?;
    /// # let poller = Poller::spawn(&device, Default::default())?;
    /// let key = device.cipher_key(Cipher::Aes128Ctr, &[1; 16])?;
    /// let request = key.encrypt(&[0; 16], device.buffer_from(b"some data")?);
    /// let done = request.run_blocking(Duration::from_secs(5))?;
    /// assert_ne!(done.request().output(), b"some data");
    /// # Ok::<(), ringbell::Error>(())
    /// ```
    pub fn run_blocking(self, limit: Duration) -> Result<Completion, Unfinished> {
        let start = Instant::now();
        let device = self.device().clone();
        let ctx = WaitCtx::new();
        device.submit_wait(self, &ctx, limit)?;
        let left = limit.saturating_sub(start.elapsed());
        ctx.wait(left)
            .or_else(|| {
                // Where its delivery has begun it cannot be given up, and is here in a moment.
                if ctx.detach() { None } else { ctx.take() }
            })
            .ok_or(Unfinished::GivenUp(limit))
    }
}
