//! The device's sessions: a small table, found by id in one step.

use crate::crypto::Cipher;
use crate::rng::Rng;

/// Most sessions at a time.
pub(crate) const MAX_SESSIONS: usize = 256;

#[derive(Debug)]
struct Session {
    id: u64,
    cipher: Cipher,
}

/// The table. The low byte of an id is its slot; the rest follows from the seed (with QEMU's
/// quirks it is zero: ids are small numbers).
#[derive(Debug)]
pub(crate) struct Sessions {
    slots: Vec<Option<Session>>,
    live: usize,
    rng: Rng,
    small_ids: bool,
}

impl Sessions {
    pub(crate) fn new(rng: Rng, small_ids: bool) -> Self {
        let slots = std::iter::repeat_with(|| None).take(MAX_SESSIONS).collect();
        Self { slots, live: 0, rng, small_ids }
    }

    /// Sessions that exist.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Adds a session; its id, or `None` where the table is full.
    pub(crate) fn add(&mut self, cipher: Cipher) -> Option<u64> {
        let slot = self.slots.iter().position(Option::is_none)?;
        let high = if self.small_ids { 0 } else { self.rng.next() | 1 << 63 };
        let id = high & !0xff | slot as u64;
        self.slots[slot] = Some(Session { id, cipher });
        self.live += 1;
        Some(id)
    }

    #[inline]
    pub(crate) fn get(&self, id: u64) -> Option<&Cipher> {
        match self.slots.get((id & 0xff) as usize) {
            Some(Some(session)) if session.id == id => Some(&session.cipher),
            _ => None,
        }
    }

    /// Ends a session; whether there was one. Its key is wiped.
    pub(crate) fn remove(&mut self, id: u64) -> bool {
        if self.get(id).is_none() {
            return false;
        }
        self.slots[(id & 0xff) as usize] = None;
        self.live -= 1;
        true
    }

    /// Ends all.
    pub(crate) fn clear(&mut self) {
        self.slots.fill_with(|| None);
        self.live = 0;
    }
}
