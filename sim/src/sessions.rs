//! The device's sessions: a small table, found by id in one step. All services share it.

use crate::crypto::aead::Aead;
use crate::crypto::cipher::Cipher;
use crate::crypto::hash::Hash;
use crate::crypto::mac::Mac;
use crate::crypto::rsa::Rsa;
use crate::rng::Rng;
use crate::wire;

/// Most sessions at a time.
pub(crate) const MAX_SESSIONS: usize = 256;

/// What a session is for, with its key.
#[expect(clippy::large_enum_variant, reason = "a cipher is found in one step")]
pub(crate) enum Kind {
    Cipher(Cipher),
    Hash(Hash),
    Mac(Box<Mac>),
    Aead(Box<Aead>),
    Rsa(Box<Rsa>),
}

impl Kind {
    /// The service that it is of: `SERVICE_*`.
    pub(crate) fn service(&self) -> u32 {
        match self {
            Self::Cipher(_) => wire::SERVICE_CIPHER,
            Self::Hash(_) => wire::SERVICE_HASH,
            Self::Mac(_) => wire::SERVICE_MAC,
            Self::Aead(_) => wire::SERVICE_AEAD,
            Self::Rsa(_) => wire::SERVICE_AKCIPHER,
        }
    }
}

struct Session {
    id: u64,
    kind: Kind,
}

/// The table. The low byte of an id is its slot; the rest follows from the seed (with QEMU's
/// quirks it is zero: ids are small numbers).
pub(crate) struct Sessions {
    slots: Vec<Option<Session>>,
    live: usize,
    rng: Rng,
    small_ids: bool,
}

impl std::fmt::Debug for Sessions {
    /// Without keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("live", &self.live).finish_non_exhaustive()
    }
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
    pub(crate) fn add(&mut self, kind: Kind) -> Option<u64> {
        let slot = self.slots.iter().position(Option::is_none)?;
        let high = if self.small_ids { 0 } else { self.rng.next() | 1 << 63 };
        let id = high & !0xff | slot as u64;
        self.slots[slot] = Some(Session { id, kind });
        self.live += 1;
        Some(id)
    }

    #[inline]
    pub(crate) fn get(&self, id: u64) -> Option<&Kind> {
        match self.slots.get((id & 0xff) as usize) {
            Some(Some(session)) if session.id == id => Some(&session.kind),
            _ => None,
        }
    }

    /// The session of that id, if it is one for a cipher: the hot path.
    #[inline]
    pub(crate) fn cipher(&self, id: u64) -> Option<&Cipher> {
        match self.get(id) {
            Some(Kind::Cipher(cipher)) => Some(cipher),
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
