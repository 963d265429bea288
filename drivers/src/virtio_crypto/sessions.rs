//! Sessions, cached by key.
//!
//! A session that nobody holds but the cache stays at the device until it is the least recently used
//! of too many, or the device is full: creating one is a round trip on the control queue.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::engine::{Algorithm, Session, SessionSpec, SessionState};

/// Idle sessions that are kept at the device.
const MOST_IDLE: usize = 64;

#[derive(Default)]
pub(super) struct Sessions {
    by_key: HashMap<SessionSpec, Arc<Session>>,
    clock: u64,
    /// Number of sessions at which to look for those that can be forgotten.
    prune_at: usize,
    /// What the device offered and then refused.
    pub(super) refused: HashSet<Algorithm>,
}

impl Sessions {
    /// The session for `spec`, and the idle one that has to make room for it, if any.
    pub(super) fn get(&mut self, spec: SessionSpec) -> (Arc<Session>, Option<Arc<Session>>) {
        self.clock += 1;
        let clock = self.clock;
        if let Some(session) = self.by_key.get(&spec) {
            session.touched.store(clock, Ordering::Relaxed);
            return (Arc::clone(session), None);
        }
        // What nobody holds and the device does not have is forgotten, now and then.
        if self.by_key.len() >= self.prune_at {
            self.by_key.retain(|_, session| {
                !is_idle(session) || matches!(session.state(), SessionState::Live | SessionState::Creating)
            });
            self.prune_at = 2 * self.by_key.len().max(MOST_IDLE);
        }
        let idle = self.live().filter(|session| is_idle(session)).count();
        let evicted = if idle >= MOST_IDLE { self.evict() } else { None };
        let session = Arc::new(Session::new(spec.clone()));
        session.touched.store(clock, Ordering::Relaxed);
        self.by_key.insert(spec, Arc::clone(&session));
        (session, evicted)
    }

    /// Takes the least recently used live session that nobody holds out of the cache.
    pub(super) fn evict(&mut self) -> Option<Arc<Session>> {
        let spec = self
            .by_key
            .values()
            .filter(|session| is_idle(session) && session.state() == SessionState::Live)
            .min_by_key(|session| session.touched.load(Ordering::Relaxed))
            .map(|session| session.spec().clone())?;
        self.by_key.remove(&spec)
    }

    /// Sessions that the device holds.
    pub(super) fn live(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.by_key.values().filter(|session| session.state() == SessionState::Live)
    }

    /// One that the device holds, and so would hold once more if it had room: the one with the shortest key.
    pub(super) fn known_good(&self) -> Option<Arc<Session>> {
        self.live().min_by_key(|session| session.spec().key.len()).cloned()
    }

    /// Sessions that the device holds: those that somebody has, and the idle ones, which are forgotten.
    pub(super) fn take_live(&mut self) -> (Vec<Arc<Session>>, Vec<Arc<Session>>) {
        let (idle, held) = self.live().cloned().partition(|session| Arc::strong_count(session) == 2);
        (held, idle)
    }

    /// The device has forgotten everything.
    pub(super) fn forget(&mut self) {
        self.by_key.values().for_each(|session| session.set(SessionState::Absent));
    }
}

/// Nobody can get at it but through the cache, whose lock the caller holds.
fn is_idle(session: &Arc<Session>) -> bool {
    Arc::strong_count(session) == 1
}
