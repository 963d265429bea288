//! The poll core: what a pass over the queues does, whoever drives it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::eventfd::EventFd;
use ringbell_drivers::claim::Seen;
use ringbell_drivers::clock::{TickRate, ticks};
use ringbell_drivers::engine::DeviceStatus;
use ringbell_drivers::virtqueue::Drained;
use ringbell_drivers::wait::Waiter;
use ringbell_drivers::{Error, Result};

use crate::config::{ClockReader, PollerConfig};
use crate::context::{ContextClaim, Delivery, Status, Wake, is_claim_of};
use crate::device::{CompleteSide, Device, Inner, Message, SubmitSide};
use crate::request::{Answer, Body, Fault, InFlight};
use crate::state::DeviceState;
use crate::stats::QueueCounters;

/// What one drain counts: all entries, and among them those that did not end with an answer.
#[derive(Default)]
struct Tally {
    entries: u64,
    errors: u64,
    detached: u64,
    /// Back from quarantine: the request had ended before.
    unclaimed: u64,
    panics: u64,
}

/// Delivers an ended request to its context: result, status, then the wake-up.
///
/// A panic of the callback (or of what it owns, where this ends the context) goes through; it is
/// counted as delivered before.
#[inline(always)]
fn deliver(
    claim: ContextClaim,
    mut body: Box<Body>,
    outcome: Result<Answer, Fault>,
    tally: &mut Tally,
    fds: &mut Vec<Arc<EventFd>>,
) {
    let Some(seen) = claim.look() else { return given_up(claim, body, tally) };
    body.outcome = outcome;
    claim.set_status(if outcome.is_ok() { Status::Ok } else { Status::Err });
    if !matches!(claim.wake(), Wake::Callback(_)) {
        return deliver_otherwise(claim, seen, body, tally, fds);
    }
    let calling = match claim.begin(seen) {
        Ok(calling) => calling,
        // Detached since the look above.
        Err(claim) => return given_up(claim, body, tally),
    };
    if outcome.is_err() {
        tally.errors += 1;
    }
    if let Wake::Callback(callback) = calling.shared().wake() {
        callback(&Delivery::new(calling.shared(), body));
    }
}

/// Delivers to a context with a wait fd, or one that tells nobody.
#[inline(never)]
fn deliver_otherwise(
    claim: ContextClaim,
    seen: Seen,
    body: Box<Body>,
    tally: &mut Tally,
    fds: &mut Vec<Arc<EventFd>>,
) {
    if !matches!(claim.wake(), Wake::Both(..)) {
        return deliver_silently(claim, seen, body, tally, fds);
    }
    let answered = body.outcome.is_ok();
    match claim.begin(seen) {
        Ok(calling) => {
            tally.errors += u64::from(!answered);
            if let Wake::Both(callback, fd) = calling.shared().wake() {
                fds.push(Arc::clone(fd));
                callback(&Delivery::new(calling.shared(), body));
            }
        }
        Err(claim) => given_up(claim, body, tally),
    }
}

/// Delivers to a context without a callback: into its mailbox.
fn deliver_silently(
    claim: ContextClaim,
    seen: Seen,
    body: Box<Body>,
    tally: &mut Tally,
    fds: &mut Vec<Arc<EventFd>>,
) {
    let answered = body.outcome.is_ok();
    match claim.begin(seen) {
        Ok(calling) => {
            tally.errors += u64::from(!answered);
            // Inside the call, for which `take` waits: the context is idle by now.
            calling.shared().put(body);
            if let Wake::Fd(fd) = calling.shared().wake() {
                fds.push(Arc::clone(fd));
            }
        }
        Err(claim) => given_up(claim, body, tally),
    }
}

#[cold]
#[inline(never)]
fn given_up(claim: ContextClaim, body: Box<Body>, tally: &mut Tally) {
    // First the buffers, then the context: when it is idle, everything is back.
    drop(body);
    drop(claim);
    tally.detached += 1;
}

/// Delivers outside of a drain, one by one.
#[cold]
fn deliver_caught(
    claim: ContextClaim,
    body: Box<Body>,
    fault: Fault,
    tally: &mut Tally,
    fds: &mut Vec<Arc<EventFd>>,
) {
    tally.entries += 1;
    let called = catch_unwind(AssertUnwindSafe(|| deliver(claim, body, Err(fault), tally, fds)));
    if called.is_err() {
        tally.panics += 1;
    }
}

impl Tally {
    #[inline(always)]
    fn add_to(&self, counters: &QueueCounters) {
        let complete = &counters.complete;
        complete.completed.add(self.entries - self.errors - self.detached - self.unclaimed);
        if self.errors | self.detached | self.panics != 0 {
            complete.errors.add(self.errors);
            complete.detached.add(self.detached);
            complete.panics.add(self.panics);
        }
    }
}

/// What the device's status becomes.
fn outcome(status: DeviceStatus) -> Result<Answer, Fault> {
    match status {
        DeviceStatus::Ok => Ok(Answer::Yes),
        DeviceStatus::BadMessage | DeviceStatus::KeyRejected => Ok(Answer::No),
        other => Err(Fault::Device(other)),
    }
}

/// One queue under the poller.
struct QueueLane {
    side: CompleteSide,
    /// Slots whose request has ended and which the device still holds.
    quarantined: u32,
    /// What had been returned at the last tick, and since when nothing has.
    last_returned: u64,
    no_progress_since: Option<Duration>,
    /// The device has announced completions while it had no request.
    suspicious: bool,
}

impl QueueLane {
    fn in_flight(&self) -> u32 {
        self.side.completer.in_flight()
    }

    /// Requests that somebody waits for.
    fn waited_for(&self) -> u32 {
        self.in_flight().saturating_sub(self.quarantined)
    }

    /// Ends requests early: their claims were taken out, their buffers stay. Returns how many were
    /// delivered; the others had been given up.
    fn end_early(
        &mut self,
        ended: Vec<(ContextClaim, Box<Body>)>,
        fault: Fault,
        fds: &mut Vec<Arc<EventFd>>,
    ) -> u64 {
        let mut tally = Tally::default();
        self.quarantined += ended.len() as u32;
        self.side.counters.complete.quarantined.set(self.quarantined.into());
        for (claim, body) in ended {
            deliver_caught(claim, body, fault, &mut tally, fds);
        }
        tally.add_to(&self.side.counters);
        tally.errors
    }
}

/// One device under the poller.
struct Lane {
    device: Device,
    queues: Vec<QueueLane>,
    /// Stopped: nothing is in flight any more.
    ended: bool,
}

impl Lane {
    fn inner(&self) -> &Inner {
        self.device.inner()
    }
}

/// All devices of a poller, and what a pass over them needs.
pub(crate) struct Core {
    lanes: Vec<Lane>,
    config: PollerConfig,
    clock: ClockReader,
    rate: TickRate,
    /// Wait fds to be signalled at the end of the pass.
    fds: Vec<Arc<EventFd>>,
    waiter: Waiter,
    /// What each fd of the waiter is: the lane, and the kind.
    sources: Vec<(usize, Source)>,
    slow: SlowWatch,
    next_tick: Duration,
    /// When the clock was last looked at, in counter ticks.
    looked_at: u64,
    closing_since: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Completions,
    Config,
    Removal,
    Wake,
}

/// Looks for slow callbacks: a batch is timed as a whole, and only while some were slow each alone.
struct SlowWatch {
    limit: u64,
    /// Completions that are still timed one by one.
    closely: u32,
    warned_at: Option<Duration>,
    since_warning: u64,
}

/// Completions timed one by one after a slow batch.
const CLOSELY: u32 = 1024;
/// At most one warning in this time.
const WARN_EVERY: Duration = Duration::from_secs(1);

impl Core {
    pub(crate) fn new(devices: Vec<Device>, config: PollerConfig) -> Result<Self> {
        config.check()?;
        if devices.is_empty() {
            return Err(Error::Invalid("a poller needs at least one device".to_owned()));
        }
        let mut waiter = Waiter::new();
        let mut lanes = Vec::with_capacity(devices.len());
        let mut sources = Vec::new();
        for (index, device) in devices.iter().enumerate() {
            let events = device.inner().engine().events();
            let fds = [
                (events.completions, Source::Completions),
                (events.config, Source::Config),
                (events.removal, Source::Removal),
                (Some(events.wake), Source::Wake),
            ];
            for (fd, source) in fds {
                if let Some(fd) = fd {
                    waiter.add(fd)?;
                    sources.push((index, source));
                }
            }
        }
        // Last, and all or none: a device has one poller.
        let mut taken = Vec::with_capacity(devices.len());
        for device in &devices {
            match device.inner().take_completers() {
                Ok(sides) => taken.push(sides),
                Err(error) => {
                    for (device, sides) in devices.iter().zip(taken) {
                        device.inner().give_completers_back(sides);
                    }
                    return Err(error);
                }
            }
        }
        for (device, sides) in devices.into_iter().zip(taken) {
            let queues = sides
                .into_iter()
                .map(|side| QueueLane {
                    side,
                    quarantined: 0,
                    last_returned: 0,
                    no_progress_since: None,
                    suspicious: false,
                })
                .collect();
            lanes.push(Lane { device, queues, ended: false });
        }
        let rate = TickRate::measure();
        let clock = config.clock.reader();
        let slow = SlowWatch {
            limit: rate.ticks_in(config.slow_callback),
            closely: 0,
            warned_at: None,
            since_warning: 0,
        };
        let next_tick = clock.now() + config.tick();
        let fds = Vec::with_capacity(64);
        Ok(Self {
            lanes,
            config,
            clock,
            rate,
            fds,
            waiter,
            sources,
            slow,
            next_tick,
            looked_at: ticks(),
            closing_since: None,
        })
    }

    pub(crate) fn rate(&self) -> TickRate {
        self.rate
    }

    /// One pass: messages, completions of every queue with work in flight, the control queue, and
    /// the clock when it is time. Returns the number of completions taken.
    #[inline]
    pub(crate) fn pass(&mut self) -> usize {
        let mut work = 0;
        for index in 0..self.lanes.len() {
            work += self.pass_lane(index);
        }
        if !self.fds.is_empty() {
            self.waiter.signal_all(&self.fds);
            self.fds.clear();
        }
        self.look_at_clock();
        work
    }

    #[inline]
    fn pass_lane(&mut self, index: usize) -> usize {
        let Self { lanes, fds, slow, config, .. } = self;
        let Some(lane) = lanes.get_mut(index) else { return 0 };
        // In a forked child the rings are not mapped.
        if lane.ended || lane.inner().is_child() {
            return 0;
        }
        if lane.inner().has_messages.load(Ordering::Relaxed) {
            take_messages(lane, fds);
        }
        let mut work = 0;
        let mut fault = None;
        for queue in &mut lane.queues {
            if queue.in_flight() == 0 && !queue.suspicious {
                continue;
            }
            let drained = drain(queue, config.budget, fds, slow);
            work += drained.completed;
            if let Some(lie) = drained.lie {
                fault = Some(Error::from(lie));
            }
        }
        if lane.inner().engine().control_pending() {
            match lane.inner().engine().poll_control() {
                Ok(progress) => work += usize::from(progress),
                Err(error) => fault = fault.or(Some(error)),
            }
        }
        if let Some(error) = fault {
            self.fail(index, &error);
        }
        work
    }

    /// Reads the clock when the cheap counter says that it may be time for a tick.
    #[inline]
    fn look_at_clock(&mut self) {
        let counter = ticks();
        // A quarter of a millisecond of counter ticks at any plausible rate.
        if counter.wrapping_sub(self.looked_at) > 1 << 19 || self.clock.is_manual() {
            self.looked_at = counter;
            let now = self.clock.now();
            if now >= self.next_tick {
                self.tick(now);
            }
            if self.closing_since.is_some() {
                self.finish_closing(now);
            }
        }
    }

    /// One tick: deadlines, stalls, the device's own state.
    #[cold]
    fn tick(&mut self, now: Duration) {
        // On a fixed grid, but never in the past.
        let step = self.config.tick();
        self.next_tick += step;
        if self.next_tick <= now {
            self.next_tick = now + step;
        }
        self.slow.report(now);
        for index in 0..self.lanes.len() {
            if let Err(error) = self.tick_lane(index, now) {
                self.fail(index, &error);
            }
        }
        if !self.fds.is_empty() {
            self.waiter.signal_all(&self.fds);
            self.fds.clear();
        }
    }

    fn tick_lane(&mut self, index: usize, now: Duration) -> Result<()> {
        let Self { lanes, fds, config, .. } = self;
        let Some(lane) = lanes.get_mut(index) else { return Ok(()) };
        if lane.ended || lane.inner().is_child() {
            return Ok(());
        }
        let address = lane.device.inner().engine().address();
        let mut busy = false;
        let mut quarantined = 0;
        for queue in &mut lane.queues {
            if queue.in_flight() == 0 {
                queue.no_progress_since = None;
                continue;
            }
            busy = true;
            let mut late = Vec::new();
            queue.side.completer.ring().tick(now, config.request_timeout, |entry| {
                if let Some(claim) = entry.claim.take() {
                    late.push((claim, entry.body.without_buffers()));
                }
            });
            if !late.is_empty() {
                tracing::warn!(device = address, requests = late.len(), "requests were not answered in time");
                lane.device.inner().state.set(address, DeviceState::Suspect);
                let expired = queue.end_early(late, Fault::TimedOut, fds);
                queue.side.counters.complete.expired.add(expired);
            }
            quarantined += queue.quarantined;
            let returned = queue.side.completer.ring().returned();
            if returned != queue.last_returned {
                queue.last_returned = returned;
                queue.no_progress_since = None;
            }
            let since = *queue.no_progress_since.get_or_insert(now);
            if now.saturating_sub(since) >= config.stall_limit {
                return Err(Error::Timeout { what: "complete any request", limit: config.stall_limit });
            }
        }
        if quarantined == 0 && lane.device.state() == DeviceState::Suspect {
            lane.device.inner().state.set(address, DeviceState::Ready);
        }
        if busy { lane.inner().engine().check_health() } else { Ok(()) }
    }

    /// A fault: the device is failed, and everything in flight ends with `ERR`.
    #[cold]
    fn fail(&mut self, index: usize, error: &Error) {
        if let Some(lane) = self.lanes.get(index) {
            tracing::error!(device = lane.device.address(), %error, "device fault");
        }
        self.end(index, Fault::DeviceFailed, DeviceState::Failed);
    }

    /// Stops a device and ends what it has in flight.
    #[cold]
    fn end(&mut self, index: usize, fault: Fault, state: DeviceState) {
        let Self { lanes, fds, .. } = self;
        let Some(lane) = lanes.get_mut(index) else { return };
        if lane.ended {
            return;
        }
        lane.ended = true;
        if lane.inner().is_child() {
            return;
        }
        let device = Arc::clone(lane.device.inner());
        device.state.set(device.engine().address(), state);
        for queue in &mut lane.queues {
            queue.side.completer.ring().close();
        }
        let kept = device.engine().stop().is_err();
        for queue in &mut lane.queues {
            let mut tally = Tally::default();
            queue.side.completer.ring().reap(kept, |entry| {
                tally.count_end(entry, fault, kept, &device, fds);
            });
            tally.add_to(&queue.side.counters);
            queue.side.counters.complete.quarantined.set(0);
            queue.quarantined = 0;
        }
        if !fds.is_empty() {
            self.waiter.signal_all(&self.fds);
            self.fds.clear();
        }
    }

    /// Shutdown: refuses new requests; what is in flight has the grace time.
    pub(crate) fn close(&mut self) {
        if self.closing_since.is_some() {
            return;
        }
        let now = self.clock.now();
        self.closing_since = Some(now);
        for lane in &mut self.lanes {
            if !lane.ended {
                for queue in &mut lane.queues {
                    queue.side.completer.ring().close();
                }
            }
        }
        self.finish_closing(now);
    }

    /// Ends everything now, whatever the grace time: for a clock that nobody moves meanwhile.
    pub(crate) fn end_now(&mut self) {
        for index in 0..self.lanes.len() {
            self.end(index, Fault::Shutdown, DeviceState::Closed);
        }
    }

    pub(crate) fn has_manual_clock(&self) -> bool {
        self.clock.is_manual()
    }

    #[cold]
    fn finish_closing(&mut self, now: Duration) {
        let Some(since) = self.closing_since else { return };
        let over = now.saturating_sub(since) >= self.config.grace;
        for index in 0..self.lanes.len() {
            let idle = |lane: &Lane| lane.queues.iter().all(|queue| queue.waited_for() == 0);
            if over || self.lanes.get(index).is_some_and(idle) {
                self.end(index, Fault::Shutdown, DeviceState::Closed);
            }
        }
    }

    /// Whether all devices are stopped.
    pub(crate) fn is_over(&self) -> bool {
        self.lanes.iter().all(|lane| lane.ended)
    }

    /// Whether closing is under way: time matters then, even without work.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing_since.is_some()
    }

    /// Arms everything that can wake a sleeper. True: nothing is to be done, sleep.
    fn arm(&mut self) -> bool {
        let mut quiet = true;
        for lane in &mut self.lanes {
            let engine = lane.device.inner().engine();
            // (E): flag and fence first, then everything is looked at once more. An ended device's
            // too: a shutdown comes that way.
            engine.wake().prepare();
            if lane.ended {
                continue;
            }
            quiet &= !lane.device.inner().has_messages.load(Ordering::Relaxed);
            for queue in &mut lane.queues {
                let ring = queue.side.completer.ring();
                if !ring.arm() {
                    quiet = false;
                    // It announces completions of nothing: the drain says what is wrong.
                    queue.suspicious = ring.in_flight() == 0;
                }
            }
            quiet &= !engine.control_pending() || engine.arm_control();
        }
        quiet
    }

    fn disarm(&mut self) {
        for lane in &mut self.lanes {
            lane.device.inner().engine().wake().awake();
            if lane.ended {
                continue;
            }
            for queue in &mut lane.queues {
                queue.side.completer.ring().suppress();
            }
        }
    }

    /// How long a sleep may be: until the next tick while anything is under way, for ever if not.
    fn sleep_limit(&self) -> Option<Duration> {
        let live = || self.lanes.iter().filter(|lane| !lane.ended);
        let busy = live().any(|lane| {
            lane.inner().engine().control_pending() || lane.queues.iter().any(|queue| queue.in_flight() > 0)
        });
        if self.is_closing() {
            return Some(Duration::from_millis(1));
        }
        if !busy {
            return None;
        }
        // A device that cannot interrupt is looked at often.
        let silent = live().any(|lane| lane.inner().engine().events().completions.is_none());
        let to_tick = self.next_tick.saturating_sub(self.clock.now()).max(Duration::from_micros(10));
        Some(if silent { to_tick.min(Duration::from_micros(100)) } else { to_tick })
    }

    /// Sleeps until an interrupt, a submission, a message or a timer; at most `limit`. Once wakers
    /// can see that it sleeps, `not_now` is asked whether there is a reason not to.
    pub(crate) fn sleep(&mut self, limit: Option<Duration>, not_now: impl FnOnce() -> bool) -> Result<()> {
        if self.lanes.iter().any(|lane| lane.inner().is_child()) {
            return Err(Error::Forked);
        }
        let quiet = self.arm() && !not_now();
        let result = if quiet {
            let own = self.sleep_limit();
            let limit = match (own, limit) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            let Self { waiter, sources, lanes, .. } = self;
            let mut unhealthy = Vec::new();
            let result = waiter.wait(limit, |number| {
                let Some((index, source)) = sources.get(number).copied() else { return };
                let Some(lane) = lanes.get(index).filter(|lane| !lane.ended) else { return };
                let engine = lane.inner().engine();
                let checked = match source {
                    Source::Wake => Ok(()),
                    Source::Completions => engine.acknowledge_interrupts(),
                    Source::Config => engine.check_health(),
                    Source::Removal => Err(Error::Down("gone: the function is being removed")),
                };
                if let Err(error) = checked {
                    unhealthy.push((index, error));
                }
            });
            for (index, error) in unhealthy {
                self.fail(index, &error);
            }
            result
        } else {
            Ok(())
        };
        self.disarm();
        // The clock may have moved by any amount.
        self.looked_at = ticks().wrapping_sub(1 << 20);
        result
    }

    /// Completions that the devices have announced and that are not taken yet.
    pub(crate) fn ready(&mut self) -> u64 {
        let live = self.lanes.iter_mut().filter(|lane| !lane.ended && !lane.inner().is_child());
        live.flat_map(|lane| &mut lane.queues)
            .map(|queue| u64::from(queue.side.completer.ring().ready()))
            .sum()
    }

    /// Requests that somebody waits for.
    pub(crate) fn in_flight(&self) -> u64 {
        let live = self.lanes.iter().filter(|lane| !lane.ended);
        live.flat_map(|lane| &lane.queues).map(|queue| u64::from(queue.waited_for())).sum()
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if self.lanes.iter().any(|lane| lane.inner().is_child()) {
            return;
        }
        self.end_now();
    }
}

impl Tally {
    /// Ends an entry of a stopped device. Where it could not be stopped the memory is kept for good.
    fn count_end(
        &mut self,
        entry: InFlight,
        fault: Fault,
        kept: bool,
        device: &Inner,
        fds: &mut Vec<Arc<EventFd>>,
    ) {
        let InFlight { claim, body } = entry;
        if kept {
            let bytes = body.input().len() as u64;
            device.leaked_bytes.fetch_add(bytes, Ordering::Relaxed);
            if let Some(claim) = claim {
                let told = body.without_buffers();
                deliver_caught(claim, told, fault, self, fds);
            }
            std::mem::forget(body);
        } else if let Some(claim) = claim {
            deliver_caught(claim, body, fault, self, fds);
        }
    }
}

/// Takes one queue's completions, up to the budget.
#[inline]
fn drain(queue: &mut QueueLane, budget: usize, fds: &mut Vec<Arc<EventFd>>, slow: &mut SlowWatch) -> Drained {
    let mut tally = Tally::default();
    let begin = ticks();
    let closely = slow.closely != 0;
    let drained = if closely {
        drain_closely(queue, budget, &mut tally, fds, slow)
    } else {
        drain_caught(queue, budget, &mut tally, |entry, status, tally| one(entry, status, tally, fds))
    };
    if drained.completed == 0 {
        return drained;
    }
    let elapsed = ticks().wrapping_sub(begin);
    if elapsed > slow.limit && !closely {
        // Longer than each could have taken: at least one was slow. Else maybe none was; the next
        // ones are timed one by one.
        slow.closely = CLOSELY;
        let certain = elapsed > slow.limit.saturating_mul(drained.completed as u64);
        slow.count(u64::from(certain), &queue.side.counters);
    }
    tally.entries = drained.completed as u64;
    tally.add_to(&queue.side.counters);
    if tally.unclaimed != 0 {
        queue.quarantined -= tally.unclaimed as u32;
        queue.side.counters.complete.quarantined.set(queue.quarantined.into());
    }
    drained
}

/// A drain in which panics of callbacks are caught: once for all of them, and again after each.
#[inline(always)]
fn drain_caught(
    queue: &mut QueueLane,
    budget: usize,
    tally: &mut Tally,
    mut each: impl FnMut(InFlight, DeviceStatus, &mut Tally),
) -> Drained {
    let mut all = Drained::default();
    loop {
        let before = queue.side.completer.ring().returned();
        let left = budget - all.completed;
        let caught = catch_unwind(AssertUnwindSafe(|| {
            queue.side.completer.drain(left, |entry, status| each(entry, status, tally))
        }));
        match caught {
            Ok(drained) => {
                all.completed += drained.completed;
                all.lie = drained.lie;
                return all;
            }
            Err(_) => {
                tally.panics += 1;
                all.completed += queue.side.completer.ring().returned().saturating_sub(before) as usize;
                if all.completed >= budget {
                    return all;
                }
            }
        }
    }
}

/// A drain that times each callback.
#[cold]
#[inline(never)]
fn drain_closely(
    queue: &mut QueueLane,
    budget: usize,
    tally: &mut Tally,
    fds: &mut Vec<Arc<EventFd>>,
    slow: &mut SlowWatch,
) -> Drained {
    let mut slow_ones = 0;
    let mut last = ticks();
    let drained = drain_caught(queue, budget, tally, |entry, status, tally| {
        one(entry, status, tally, fds);
        let now = ticks();
        slow_ones += u64::from(now.wrapping_sub(last) > slow.limit);
        last = now;
    });
    slow.closely = slow.closely.saturating_sub(drained.completed as u32);
    slow.count(slow_ones, &queue.side.counters);
    drained
}

#[inline(always)]
fn one(entry: InFlight, status: DeviceStatus, tally: &mut Tally, fds: &mut Vec<Arc<EventFd>>) {
    match entry {
        InFlight { claim: Some(claim), body } if status == DeviceStatus::Ok => {
            deliver(claim, body, Ok(Answer::Yes), tally, fds);
        }
        entry => one_rare(entry, status, tally, fds),
    }
}

#[cold]
#[inline(never)]
fn one_rare(entry: InFlight, status: DeviceStatus, tally: &mut Tally, fds: &mut Vec<Arc<EventFd>>) {
    match entry.claim {
        Some(claim) => deliver(claim, entry.body, outcome(status), tally, fds),
        // It has ended early; now its buffers are back.
        None => tally.unclaimed += 1,
    }
}

impl SlowWatch {
    fn count(&mut self, slow: u64, counters: &QueueCounters) {
        if slow != 0 {
            counters.complete.slow_callbacks.add(slow);
            self.since_warning += slow;
        }
    }

    /// Warns, at most once a second.
    fn report(&mut self, now: Duration) {
        let due = self.warned_at.is_none_or(|at| now.saturating_sub(at) >= WARN_EVERY);
        if self.since_warning > 0 && due {
            tracing::warn!(callbacks = self.since_warning, "callbacks are slow and delay all others");
            self.since_warning = 0;
            self.warned_at = Some(now);
        }
    }
}

#[cold]
fn take_messages(lane: &mut Lane, fds: &mut Vec<Arc<EventFd>>) {
    let device = Arc::clone(lane.device.inner());
    // First the flag, then the messages: one that comes in between raises the flag again.
    device.has_messages.swap(false, Ordering::AcqRel);
    while let Some(message) = device.messages.pop() {
        match message {
            Message::Cancel(ctx, generation) => {
                for queue in &mut lane.queues {
                    let mut found = Vec::new();
                    queue.side.completer.ring().for_each_in_flight(|entry| {
                        let ours = |claim: &mut ContextClaim| is_claim_of(claim, &ctx, generation);
                        if let Some(claim) = entry.claim.take_if(ours) {
                            found.push((claim, entry.body.without_buffers()));
                        }
                    });
                    if !found.is_empty() {
                        let canceled = queue.end_early(found, Fault::Canceled, fds);
                        queue.side.counters.complete.canceled.add(canceled);
                    }
                }
            }
        }
    }
}

/// Requests that a submit half took back because its queue was reaped under its burst. The poll
/// thread of that queue is through with it, so they end on the submitting thread, when it holds no
/// lock.
pub(crate) struct Withdrawn {
    entries: Vec<InFlight>,
    kept: bool,
    counters: Arc<QueueCounters>,
}

impl Withdrawn {
    #[cold]
    pub(crate) fn take(side: &mut SubmitSide) -> Self {
        let (entries, kept) = side.submitter.withdrawn();
        Self { entries, kept, counters: Arc::clone(&side.counters) }
    }

    /// Delivers them. The caller holds no lock.
    #[cold]
    pub(crate) fn deliver(self, device: &Inner) {
        let fault = match device.state.get() {
            DeviceState::Closed => Fault::Shutdown,
            _ => Fault::DeviceFailed,
        };
        let mut tally = Tally::default();
        let mut fds = Vec::new();
        for entry in self.entries {
            tally.count_end(entry, fault, self.kept, device, &mut fds);
        }
        Waiter::without_io_uring().signal_all(&fds);
        let submit = &self.counters.submit;
        submit.withdrawn.add_shared(tally.errors);
        submit.withdrawn_detached.add_shared(tally.detached);
    }
}
