//! One device under a poller: its messages, its faults, its end.
//!
//! ```text
//!              fault                 reset done            set up again
//!   Running ----------> Stopping ----------------> Waiting -------------> Running
//!      |                 |    ^  not done in time,    |  ^     fails
//!      |                 |    |  not done by the      |  |
//!      |                 |    |  function's reset     |  |
//!      |                 |    +------- pause ---------+--+
//!      |                 | gone, or no tries left     |
//!      +-----------------+----------------------------+-----> Software or Ended
//! ```
//!
//! Each arrow is one step on the poll thread, and none waits for the device (but for the reset of a
//! whole function, which the kernel does, and for the last stop of a device that is given up).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::eventfd::EventFd;
use ringbell_drivers::{Error, Result};

use crate::config::PollerConfig;
use crate::context::{ContextClaim, is_claim_of};
use crate::deliver::Tally;
use crate::device::{CompleteSide, Device, Inner, Message};
use crate::queue_lane::QueueLane;
use crate::request::Fault;
use crate::state::DeviceState;

/// A recovery holds when so long nothing has happened, or as many requests were answered as the
/// queues hold.
const HOLDS: Duration = Duration::from_secs(60);
/// The longest pause before a try.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a device that is given up may take for its last reset.
const PROMPTLY: Duration = Duration::from_millis(5);

/// What a device is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// It was told to reset.
    Stopping {
        since: Duration,
    },
    /// Until the next try; `still`: it is reset and has nothing any more.
    Waiting {
        until: Duration,
        still: bool,
    },
    /// It is failed, and the poll thread does its work.
    Software,
    /// Stopped for good: nothing is in flight any more.
    Ended,
}

/// One device under the poller.
pub(crate) struct Lane {
    pub(crate) device: Device,
    pub(crate) queues: Vec<QueueLane>,
    pub(crate) phase: Phase,
    /// Faults and tries since the device last worked for a while.
    tries: u32,
    /// When it last came back.
    back_at: Duration,
    /// The kernel wants the function back.
    pub(crate) going: bool,
}

/// What a device is once the kernel has asked for its function.
pub(crate) const GOING: Error = Error::Gone("the function is being removed");

impl Lane {
    pub(crate) fn new(device: Device, sides: Vec<CompleteSide>, now: Duration) -> Self {
        let queues = sides.into_iter().map(QueueLane::new).collect();
        Self { device, queues, phase: Phase::Running, tries: 0, back_at: now, going: false }
    }

    #[inline]
    pub(crate) fn inner(&self) -> &Inner {
        self.device.inner()
    }

    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    pub(crate) fn is_recovering(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. } | Phase::Waiting { .. })
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Requests that somebody waits for.
    pub(crate) fn waited_for(&self) -> u64 {
        let software = self.inner().software.len() as u64;
        self.queues.iter().map(|queue| u64::from(queue.waited_for())).sum::<u64>() + software
    }

    /// No submit gets at the rings any more.
    pub(crate) fn close_queues(&mut self) {
        for queue in &mut self.queues {
            queue.side.completer.ring().close();
        }
    }

    /// A fault. The device is brought back, if it may be; else this ends it.
    #[cold]
    pub(crate) fn fault(
        &mut self,
        error: &Error,
        now: Duration,
        config: &PollerConfig,
        fds: &mut Vec<Arc<EventFd>>,
    ) {
        if !self.is_running() {
            return;
        }
        tracing::error!(device = self.device.address(), %error, "device fault");
        self.inner().faults.fetch_add(1, Ordering::Relaxed);
        let answered: u64 = self.queues.iter_mut().map(|q| q.side.completer.ring().returned()).sum();
        let slots: u64 = self.queues.iter_mut().map(|q| u64::from(q.side.completer.ring().capacity())).sum();
        if answered >= slots || now.saturating_sub(self.back_at) >= HOLDS {
            self.tries = 0;
        }
        if matches!(error, Error::Gone(_)) || self.tries >= config.recovery_tries {
            return self.give_up(config, fds);
        }
        self.tries += 1;
        self.set_state(DeviceState::Resetting);
        self.close_queues();
        self.begin(now, config, fds);
        self.step(now, config, fds);
    }

    fn set_state(&self, to: DeviceState) {
        self.inner().state.set(self.device.address(), to);
    }

    fn begin(&mut self, now: Duration, config: &PollerConfig, fds: &mut Vec<Arc<EventFd>>) {
        self.phase = Phase::Stopping { since: now };
        if let Err(error) = self.inner().engine().begin_reset() {
            self.try_failed(&error, now, config, fds);
        }
    }

    /// How long to wait before a try: not at all before the first, then four times as long each.
    fn pause(&self, config: &PollerConfig) -> Duration {
        match self.tries {
            0 | 1 => Duration::ZERO,
            more => config.recovery_pause.saturating_mul(1 << (2 * (more - 2)).min(20)).min(LONGEST_PAUSE),
        }
    }

    /// The next step of a recovery, if its time has come.
    #[cold]
    pub(crate) fn step(&mut self, now: Duration, config: &PollerConfig, fds: &mut Vec<Arc<EventFd>>) {
        if self.going && self.is_recovering() {
            return self.try_failed(&GOING, now, config, fds);
        }
        if let Phase::Stopping { since } = self.phase {
            match self.look_whether_still(now.saturating_sub(since)) {
                Ok(false) => return,
                Ok(true) => {
                    self.reap(Fault::DeviceFailed, false, false, fds);
                    // The old rings' memory is there for the next ones.
                    self.queues.clear();
                    self.phase = Phase::Waiting { until: now + self.pause(config), still: true };
                }
                Err(error) => self.try_failed(&error, now, config, fds),
            }
        }
        match self.phase {
            Phase::Waiting { until, .. } if now < until => {}
            Phase::Waiting { still: false, .. } => self.begin(now, config, fds),
            Phase::Waiting { still: true, .. } => match self.revive(now) {
                Ok(()) => {}
                Err(error) => self.try_failed(&error, now, config, fds),
            },
            _ => {}
        }
    }

    /// Whether the reset is done; the whole function is reset where the device takes too long.
    fn look_whether_still(&self, waited: Duration) -> Result<bool> {
        let engine = self.inner().engine();
        if engine.is_reset()? {
            return Ok(true);
        }
        if waited < engine.control_timeout() {
            return Ok(false);
        }
        tracing::warn!(
            device = self.device.address(),
            "the device does not finish its reset, the function is reset"
        );
        engine.reset_function().map(|()| true)
    }

    fn revive(&mut self, now: Duration) -> Result<()> {
        let device = Arc::clone(self.device.inner());
        device.drop_halves();
        let queues = device.revive()?;
        for (index, (submitter, completer)) in queues.into_iter().enumerate() {
            if let Some(counters) = device.counters(index) {
                self.queues.push(QueueLane::new(CompleteSide { completer, counters }));
                device.renew(index, submitter);
            }
        }
        self.phase = Phase::Running;
        self.back_at = now;
        device.recoveries.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(device = self.device.address(), tries = self.tries, "the device is back");
        self.set_state(DeviceState::Ready);
        device.engine().room().announce();
        Ok(())
    }

    #[cold]
    fn try_failed(
        &mut self,
        error: &Error,
        now: Duration,
        config: &PollerConfig,
        fds: &mut Vec<Arc<EventFd>>,
    ) {
        tracing::warn!(device = self.device.address(), tries = self.tries, %error, "the device did not come back");
        if matches!(error, Error::Gone(_)) || self.tries >= config.recovery_tries {
            return self.give_up(config, fds);
        }
        self.tries += 1;
        self.phase = Phase::Waiting { until: now + self.pause(config), still: false };
    }

    /// Ends what is in flight, at a tick, while the device does not get still: nobody shall wait for
    /// that. The buffers stay.
    pub(crate) fn end_in_flight(&mut self, fds: &mut Vec<Arc<EventFd>>) {
        for queue in &mut self.queues {
            queue.end_where(Fault::DeviceFailed, fds, |_| true);
        }
    }

    /// The device has failed.
    #[cold]
    fn give_up(&mut self, config: &PollerConfig, fds: &mut Vec<Arc<EventFd>>) {
        let failover = config.failover;
        // While it is being stopped nobody knows yet who will do the work.
        self.set_state(if failover { DeviceState::Resetting } else { DeviceState::Failed });
        self.close_queues();
        // Others wait for this thread, and the device had its time.
        let kept = self.inner().engine().stop(PROMPTLY).is_err();
        if failover {
            tracing::warn!(device = self.device.address(), "its work is done by software from now on");
            self.inner().software.open();
        }
        self.reap(Fault::DeviceFailed, kept, failover, fds);
        self.set_state(DeviceState::Failed);
        self.phase = if failover { Phase::Software } else { Phase::Ended };
        self.inner().engine().room().announce();
    }

    /// Stops the device and ends what it has in flight: the poller is shut down.
    #[cold]
    pub(crate) fn shut_down(&mut self, fds: &mut Vec<Arc<EventFd>>) {
        let phase = std::mem::replace(&mut self.phase, Phase::Ended);
        if self.inner().is_child() {
            return;
        }
        take_messages(self, fds);
        if phase == Phase::Ended {
            return self.inner().refuse_messages();
        }
        self.inner().closing.store(true, Ordering::Release);
        if phase != Phase::Software {
            self.set_state(DeviceState::Closed);
            self.close_queues();
        }
        let engine = self.inner().engine();
        let kept = engine.stop(engine.control_timeout()).is_err();
        self.reap(Fault::Shutdown, kept, false, fds);
        let device = Arc::clone(self.device.inner());
        device.software.close(&device, fds);
        device.refuse_messages();
        device.engine().room().announce();
    }

    /// Ends every request of a device that is still, or of one whose memory is `kept`.
    fn reap(&mut self, fault: Fault, kept: bool, failover: bool, fds: &mut Vec<Arc<EventFd>>) {
        let device = Arc::clone(self.device.inner());
        for queue in &mut self.queues {
            let mut tally = Tally::default();
            queue.side.completer.ring().reap(kept, |entry| {
                let left = if failover && !kept { device.software.take_over(entry) } else { Some(entry) };
                if let Some(entry) = left {
                    tally.count_end(entry, fault, kept, &device, fds);
                }
            });
            tally.add_to(&queue.side.counters);
            queue.side.counters.complete.quarantined.set(0);
            queue.quarantined = 0;
        }
    }
}

#[cold]
pub(crate) fn take_messages(lane: &mut Lane, fds: &mut Vec<Arc<EventFd>>) {
    let device = Arc::clone(lane.device.inner());
    // First the flag, then the messages: one that comes in between raises the flag again.
    device.has_messages.swap(false, Ordering::AcqRel);
    while let Some(message) = device.messages.pop() {
        match message {
            Message::Cancel(ctx, generation) => {
                let ours = |claim: &ContextClaim| is_claim_of(claim, &ctx, generation);
                for queue in &mut lane.queues {
                    let canceled = queue.end_where(Fault::Canceled, fds, ours);
                    queue.side.counters.complete.canceled.add(canceled);
                }
                device.software.cancel(&device, fds, ours);
            }
            Message::End(withdrawn) => withdrawn.deliver(&device, fds),
        }
    }
}
