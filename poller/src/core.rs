//! The poll core: what a pass over the queues does, whoever drives it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::eventfd::EventFd;
use ringbell_drivers::clock::{TickRate, ticks};
use ringbell_drivers::wait::{self, Waiter};
use ringbell_drivers::{Error, Result};

use crate::config::{ClockReader, PollerConfig};
use crate::device::Device;
use crate::lane::{GOING, Lane, take_messages};
use crate::queue_lane::{SlowWatch, drain};
use crate::request::Fault;
use crate::state::DeviceState;

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
    last_tick: Duration,
    /// The last tick was late.
    was_away: bool,
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
        let rate = TickRate::measure();
        let clock = config.clock.reader();
        for (device, sides) in devices.into_iter().zip(taken) {
            lanes.push(Lane::new(device, sides, clock.now()));
        }
        let slow = SlowWatch::new(rate.ticks_in(config.slow_callback));
        let last_tick = clock.now();
        let next_tick = last_tick + config.tick();
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
            last_tick,
            was_away: false,
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
        self.signal_fds();
        self.look_at_clock();
        work
    }

    #[inline]
    fn pass_lane(&mut self, index: usize) -> usize {
        let Self { lanes, fds, slow, config, .. } = self;
        let Some(lane) = lanes.get_mut(index) else { return 0 };
        if !lane.is_running() {
            return self.pass_beside(index);
        }
        // In a forked child the rings are not mapped.
        if lane.inner().is_child() {
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

    /// A pass over a device that is being brought back, or has failed.
    #[cold]
    fn pass_beside(&mut self, index: usize) -> usize {
        let Self { lanes, fds, config, clock, .. } = self;
        let Some(lane) = lanes.get_mut(index) else { return 0 };
        if lane.inner().is_child() {
            return 0;
        }
        if lane.inner().has_messages.load(Ordering::Relaxed) {
            take_messages(lane, fds);
        }
        if lane.has_ended() {
            return 0;
        }
        if lane.is_recovering() {
            lane.step(clock.now(), config, fds);
            return 0;
        }
        let device = Arc::clone(lane.device.inner());
        device.software.work(&device, fds)
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
        // Time in which this thread did not run is no device's fault. What was completed meanwhile is
        // drained before anything is judged, and the clocks of the rest stood still. But one that never
        // runs in time has to judge all the same.
        let absence = now.saturating_sub(self.last_tick).saturating_sub(step);
        let away = !self.clock.is_manual() && absence > step && !self.was_away;
        self.was_away = away;
        self.last_tick = now;
        let absence = if away { absence } else { Duration::ZERO };
        self.slow.report(now);
        for index in 0..self.lanes.len() {
            if let Err(error) = self.tick_lane(index, now, absence) {
                self.fail(index, &error);
            }
        }
        self.signal_fds();
    }

    fn tick_lane(&mut self, index: usize, now: Duration, absence: Duration) -> Result<()> {
        let away = !absence.is_zero();
        let Self { lanes, fds, config, .. } = self;
        let Some(lane) = lanes.get_mut(index) else { return Ok(()) };
        if lane.inner().is_child() {
            return Ok(());
        }
        // A poller that never sleeps hears of it here.
        lane.going |= lane.inner().engine().events().removal.is_some_and(wait::is_ready);
        if !lane.is_running() {
            lane.end_in_flight(fds);
            return Ok(());
        }
        if lane.going {
            return Err(GOING);
        }
        let engine = lane.device.inner().engine();
        let address = engine.address();
        let mut quarantined = 0;
        for queue in &mut lane.queues {
            if queue.in_flight() == 0 {
                queue.no_progress_since = None;
                continue;
            }
            if away {
                queue.side.completer.ring().excuse(absence);
                queue.no_progress_since = queue.no_progress_since.map(|since| since + absence);
                continue;
            }
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
        if quarantined == 0 && !away && !engine.control_pending() {
            lane.device.inner().state.set_if(address, DeviceState::Suspect, DeviceState::Ready);
        }
        lane.inner().engine().check_health()
    }

    /// A fault of a device: what it has in flight ends with `ERR`, and it is brought back.
    #[cold]
    fn fail(&mut self, index: usize, error: &Error) {
        let Self { lanes, fds, config, clock, closing_since, .. } = self;
        let now = clock.now();
        match lanes.get_mut(index) {
            // Nobody needs it any more.
            Some(lane) if closing_since.is_some() => {
                tracing::error!(device = lane.device.address(), %error, "device fault");
                lane.shut_down(fds);
            }
            Some(lane) => lane.fault(error, now, config, fds),
            None => {}
        }
        self.signal_fds();
    }

    fn signal_fds(&mut self) {
        if !self.fds.is_empty() {
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
        for lane in self.lanes.iter_mut().filter(|lane| !lane.has_ended() && !lane.inner().is_child()) {
            lane.inner().closing.store(true, Ordering::Release);
            lane.close_queues();
        }
        self.finish_closing(now);
    }

    /// Ends everything now, whatever the grace time: for a clock that nobody moves meanwhile.
    pub(crate) fn end_now(&mut self) {
        let Self { lanes, fds, .. } = self;
        lanes.iter_mut().for_each(|lane| lane.shut_down(fds));
        self.signal_fds();
    }

    pub(crate) fn has_manual_clock(&self) -> bool {
        self.clock.is_manual()
    }

    #[cold]
    fn finish_closing(&mut self, now: Duration) {
        let Some(since) = self.closing_since else { return };
        let over = now.saturating_sub(since) >= self.config.grace;
        let Self { lanes, fds, .. } = self;
        for lane in lanes {
            if over || lane.is_recovering() || lane.waited_for() == 0 {
                lane.shut_down(fds);
            }
        }
        self.signal_fds();
    }

    /// Whether all devices are stopped.
    pub(crate) fn is_over(&self) -> bool {
        self.lanes.iter().all(Lane::has_ended)
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
            quiet &= lane.inner().software.len() == 0;
            quiet &= !lane.device.inner().has_messages.load(Ordering::Relaxed);
            let running = lane.is_running();
            for queue in lane.queues.iter_mut().filter(|_| running) {
                let ring = queue.side.completer.ring();
                if !ring.arm() {
                    quiet = false;
                    // It announces completions of nothing: the drain says what is wrong.
                    queue.suspicious = ring.in_flight() == 0;
                }
            }
            quiet &= !lane.is_running() || !engine.control_pending() || engine.arm_control();
        }
        quiet
    }

    fn disarm(&mut self) {
        for lane in &mut self.lanes {
            lane.device.inner().engine().wake().awake();
            if !lane.is_running() {
                continue;
            }
            for queue in &mut lane.queues {
                queue.side.completer.ring().suppress();
            }
        }
    }

    /// How long a sleep may be: until the next tick while anything is under way, for ever if not.
    fn sleep_limit(&self) -> Option<Duration> {
        if self.lanes.iter().any(Lane::is_recovering) {
            return Some(Duration::from_millis(1));
        }
        let live = || self.lanes.iter().filter(|lane| lane.is_running());
        let busy = live().any(|lane| {
            lane.inner().engine().control_pending()
                || lane.queues.iter().any(|queue| queue.in_flight() > 0)
                || lane.device.state() == DeviceState::Suspect
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
                let Some(lane) = lanes.get_mut(index).filter(|lane| !lane.has_ended()) else { return };
                // Said once, whatever the device is doing.
                lane.going |= source == Source::Removal;
                if !lane.is_running() {
                    return;
                }
                let engine = lane.inner().engine();
                let checked = match source {
                    Source::Wake => Ok(()),
                    Source::Completions => engine.acknowledge_interrupts(),
                    Source::Config => engine.check_health(),
                    Source::Removal => Err(GOING),
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
        let live = self.lanes.iter_mut().filter(|lane| lane.is_running() && !lane.inner().is_child());
        live.flat_map(|lane| &mut lane.queues)
            .map(|queue| u64::from(queue.side.completer.ring().ready()))
            .sum()
    }

    /// Requests that somebody waits for.
    pub(crate) fn in_flight(&self) -> u64 {
        self.lanes.iter().filter(|lane| !lane.has_ended()).map(Lane::waited_for).sum()
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if self.lanes.iter().any(|lane| lane.inner().is_child()) {
            self.waiter.abandon();
            return;
        }
        self.end_now();
    }
}
