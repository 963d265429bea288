//! When a fault strikes. Each moment is a few lines of play: requests, the fault, rounds, the end.

use ringbell::DeviceState;

use crate::expect::Seen;
use crate::kinds::Kind;
use crate::world::{DEPTH, Wake, World, device_options, poller_config};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Nothing is in flight. A fault that needs a request waits for the next. Then two requests, one
    /// after the other.
    Idle,
    /// One request is in flight, which is struck.
    One,
    /// The ring is full; the fourth is struck.
    Full,
    /// A burst of an owned queue is in flight, the next one is being filled, another thread submits
    /// to the shared queue, and the rest of the burst comes when it is all over. Groups: the first
    /// burst, the other thread's, the second burst before the fault, after it.
    Burst,
    /// One request is in flight while the session of the next is being created.
    Session,
    /// The device is being reset (which hangs), and has another fault. One request was in flight
    /// before, the next one comes after.
    Recovery,
    /// Of three requests the second is struck; before the poller looks it is shut down.
    Shutdown,
}

impl Moment {
    /// In the order of the expectations in `crate::kinds`.
    pub const ALL: [Self; 7] =
        [Self::Idle, Self::One, Self::Full, Self::Burst, Self::Session, Self::Recovery, Self::Shutdown];

    pub fn name(self) -> &'static str {
        ["idle", "one", "full ring", "burst", "session", "recovery", "shutdown"][self as usize]
    }
}

/// Plays one cell, checks what has to hold at its end, whatever that is, and says what it is.
pub fn play(kind: &Kind, moment: Moment, wake: Wake) -> Seen {
    let mut config = poller_config();
    (kind.config)(&mut config);
    let mut options = device_options();
    (kind.options)(&mut options);
    let mut world = World::new(kind.sim, wake, &options, config, moment == Moment::Burst);
    let fault = |at: u32| kind.fault_at(at);
    match moment {
        Moment::Idle => {
            world.inject(&fault(kind.idle_at));
            world.settle();
            world.submit_patiently(0, false);
            world.settle();
            world.submit_patiently(1, false);
        }
        Moment::One => {
            world.submit(0);
            world.inject(&fault(1));
        }
        Moment::Full => {
            (0..DEPTH).for_each(|_| world.submit(0));
            world.inject(&fault(4));
        }
        Moment::Burst => burst(&mut world, &fault(kind.idle_at)),
        Moment::Session => {
            world.submit(0);
            world.inject(&fault(kind.idle_at));
            world.submit_patiently(1, true);
        }
        Moment::Recovery => {
            world.submit(0);
            world.inject("reset-hang@0:x1");
            let mut rounds = 0;
            while world.device.state() != DeviceState::Resetting {
                world.round();
                rounds += 1;
                assert!(rounds < 1000, "the first fault was not seen");
            }
            world.inject(&fault(0));
            world.submit_patiently(1, false);
        }
        Moment::Shutdown => {
            (0..3).for_each(|_| world.submit(0));
            world.inject(&fault(2));
            world.sim.step();
            world.poller.take().expect("a poller").shutdown();
            assert_eq!(world.device.state(), DeviceState::Closed);
        }
    }
    world.settle_if_open();
    finish(world, kind, moment)
}

/// The fault strikes while a burst is being filled.
fn burst(world: &mut World, fault: &str) {
    let mut queue = world.owned.take().expect("an owned queue");
    queue.burst(|burst| {
        (0..2).for_each(|_| assert!(world.push(0, burst).is_none(), "a request has room"));
    });
    let mut later = Vec::new();
    let mut elsewhere = Vec::new();
    queue.burst(|burst| {
        (0..2).for_each(|_| assert!(world.push(2, burst).is_none(), "a request has room"));
        elsewhere.push(world.submit_elsewhere(1));
        world.inject(fault);
        world.rounds(10);
        later.push(world.push(3, burst));
        elsewhere.push(world.submit_elsewhere(1));
        world.rounds(10);
        later.push(world.push(3, burst));
    });
    world.owned = Some(queue);
    elsewhere.into_iter().for_each(|refused| world.again(refused, false));
    later.into_iter().for_each(|refused| world.again(refused, true));
}

/// What has to hold at the end of each cell.
fn finish(mut world: World, kind: &Kind, moment: Moment) -> Seen {
    let ends = world.ends();
    let stats = world.check_stats(kind.stray);
    let state = world.device.state();
    let seen = Seen::new(ends, state, &stats);
    let struck = world.sim.struck(kind.fault_kind()) > 0;
    assert!(struck || kind.unmet.contains(&moment), "the fault did not strike: {seen}");
    if state != DeviceState::Closed {
        world.check_memory();
    }
    if matches!(state, DeviceState::Ready | DeviceState::Suspect) && !kind.lasting {
        world.check_full_rings();
        world.check_stats(kind.stray);
    }
    // The end of the poller is the end of all that is left.
    drop(world.poller.take());
    assert!(matches!(world.device.state(), DeviceState::Failed | DeviceState::Closed));
    assert_eq!(world.ends(), "");
    world.check_stats(kind.stray);
    world.check_memory();
    drop(world.owned.take());
    seen
}
