//! What the models share: a ring over loom's atomics, and a doorbell and a signal that only count.
//!
//! Without `--cfg ringbell_loom` this package is empty, and so are its tests.
#![cfg(ringbell_loom)]

pub mod context;

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use ringbell_drivers::dma::{Epoch, ForkPage};
use ringbell_drivers::pci::{Doorbell, Ring};
use ringbell_drivers::room::Room;
use ringbell_drivers::virtqueue::{Completer, QueueParts, RingMemory, Signal, Submitter, Wake, queue};

/// The memory of a ring with two descriptors, shared by the driver and a modelled device.
pub struct Memory {
    avail: [AtomicU16; 2],
    avail_idx: AtomicU16,
    avail_flags: AtomicU16,
    used_event: AtomicU16,
    used: [(AtomicU32, AtomicU32); 2],
    used_idx: AtomicU16,
    used_flags: AtomicU16,
    avail_event: AtomicU16,
}

/// A handle to it.
#[derive(Clone)]
pub struct Shared(pub Arc<Memory>);

impl Shared {
    /// All zero.
    pub fn new() -> Self {
        let zero16 = || AtomicU16::new(0);
        let zero32 = || AtomicU32::new(0);
        Self(Arc::new(Memory {
            avail: [zero16(), zero16()],
            avail_idx: zero16(),
            avail_flags: zero16(),
            used_event: zero16(),
            used: [(zero32(), zero32()), (zero32(), zero32())],
            used_idx: zero16(),
            used_flags: zero16(),
            avail_event: zero16(),
        }))
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

impl RingMemory for Shared {
    fn size(&self) -> u16 {
        2
    }
    fn put_avail(&self, position: u16, head: u16) {
        self.0.avail[usize::from(position % 2)].store(head, Ordering::Relaxed);
    }
    fn publish_avail(&self, index: u16) {
        self.0.avail_idx.store(index, Ordering::Release);
    }
    fn set_avail_flags(&self, flags: u16) {
        self.0.avail_flags.store(flags, Ordering::Relaxed);
    }
    fn set_used_event(&self, index: u16) {
        self.0.used_event.store(index, Ordering::Relaxed);
    }
    fn avail_event(&self) -> u16 {
        self.0.avail_event.load(Ordering::Relaxed)
    }
    fn used_flags(&self) -> u16 {
        self.0.used_flags.load(Ordering::Relaxed)
    }
    fn used_index(&self) -> u16 {
        self.0.used_idx.load(Ordering::Acquire)
    }
    fn used_element(&self, position: u16) -> (u32, u32) {
        let (id, len) = &self.0.used[usize::from(position % 2)];
        (id.load(Ordering::Relaxed), len.load(Ordering::Relaxed))
    }
}

/// The device's side, as the specification has it: honest, and as weakly ordered as it may be.
pub struct Device {
    memory: Shared,
    seen: u16,
    used: u16,
}

impl Device {
    /// A device on this ring.
    pub fn new(memory: &Shared) -> Self {
        Self { memory: memory.clone(), seen: 0, used: 0 }
    }

    /// Takes the next request, if there is one, and completes it. True where the driver is to be
    /// interrupted.
    pub fn serve_one(&mut self, event_idx: bool) -> Option<bool> {
        let memory = &*self.memory.0;
        if memory.avail_idx.load(Ordering::Acquire) == self.seen {
            return None;
        }
        let head = memory.avail[usize::from(self.seen % 2)].load(Ordering::Relaxed);
        self.seen = self.seen.wrapping_add(1);
        let (id, len) = &memory.used[usize::from(self.used % 2)];
        id.store(head.into(), Ordering::Relaxed);
        len.store(1, Ordering::Relaxed);
        let old = self.used;
        self.used = self.used.wrapping_add(1);
        memory.used_idx.store(self.used, Ordering::Release);
        loom::sync::atomic::fence(Ordering::SeqCst);
        Some(if event_idx {
            let event = memory.used_event.load(Ordering::Relaxed);
            self.used.wrapping_sub(event).wrapping_sub(1) < self.used.wrapping_sub(old)
        } else {
            memory.avail_flags.load(Ordering::Relaxed) & 1 == 0
        })
    }

    /// Asks for a notification and looks once more. True where it may sleep.
    pub fn may_sleep(&mut self, event_idx: bool) -> bool {
        let memory = &*self.memory.0;
        if event_idx {
            memory.avail_event.store(self.seen, Ordering::Relaxed);
        } else {
            memory.used_flags.store(0, Ordering::Relaxed);
        }
        loom::sync::atomic::fence(Ordering::SeqCst);
        memory.avail_idx.load(Ordering::Acquire) == self.seen
    }

    /// Wants no notification.
    pub fn busy(&self) {
        self.memory.0.used_flags.store(1, Ordering::Relaxed);
        self.memory.0.avail_event.store(self.seen.wrapping_sub(1), Ordering::Relaxed);
    }
}

/// A flag that is raised: a doorbell, or the eventfd of a sleeper.
#[derive(Clone, Default)]
pub struct Flag(pub Arc<AtomicBool>);

impl Flag {
    /// Whether it was raised.
    pub fn is_up(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Ring for Flag {
    fn ring(&self, _value: u16) {
        self.0.store(true, Ordering::Release);
    }
}

impl Signal for Flag {
    fn signal(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A queue of two slots in a model, and everything around it.
pub struct Model<T> {
    /// The ring's memory.
    pub memory: Shared,
    /// The submit half.
    pub submitter: Submitter<T, Shared>,
    /// The complete half.
    pub completer: Completer<T, Shared>,
    /// Raised by a kick.
    pub doorbell: Flag,
    /// Raised by a wake-up.
    pub signal: Flag,
    /// The sleeper.
    pub wake: Arc<Wake>,
    /// Waiters for room.
    pub room: Arc<Room>,
    /// The epoch word.
    pub epoch: Epoch,
    /// The page that it is on.
    pub page: Arc<ForkPage>,
    event_idx: bool,
}

/// The halves of a queue, on memory of its own.
pub struct Halves<T> {
    /// The ring's memory.
    pub memory: Shared,
    /// The submit half.
    pub submitter: Submitter<T, Shared>,
    /// The complete half.
    pub completer: Completer<T, Shared>,
}

impl<T> Model<T> {
    /// What a recovery makes: a fresh ring and new halves, under the next epoch.
    ///
    /// # Panics
    /// Never, in a model.
    pub fn renew(&self) -> Halves<T> {
        let memory = Shared::new();
        let Some(epoch) = self.page.epoch(1) else { unreachable!("the word is there") };
        let (submitter, completer) = queue(QueueParts {
            memory: memory.clone(),
            shift: 0,
            event_idx: self.event_idx,
            doorbell: (Doorbell::Call(Arc::new(self.doorbell.clone())), 0),
            epoch,
            wake: Arc::clone(&self.wake),
            room: Arc::clone(&self.room),
        });
        Halves { memory, submitter, completer }
    }
}

/// Makes one.
///
/// # Panics
/// Never, in a model.
pub fn model<T>(event_idx: bool) -> Model<T> {
    let memory = Shared::new();
    let doorbell = Flag::default();
    let signal = Flag::default();
    let wake = Arc::new(Wake::new(signal.clone()));
    let room = Arc::new(Room::new());
    let Some((page, epoch)) = ForkPage::new().ok().and_then(|page| page.epoch(1).map(|epoch| (page, epoch)))
    else {
        unreachable!("no pages in a model")
    };
    let (submitter, completer) = queue(QueueParts {
        memory: memory.clone(),
        shift: 0,
        event_idx,
        doorbell: (Doorbell::Call(Arc::new(doorbell.clone())), 0),
        epoch: epoch.clone(),
        wake: Arc::clone(&wake),
        room: Arc::clone(&room),
    });
    Model { memory, submitter, completer, doorbell, signal, wake, room, epoch, page, event_idx }
}

/// Submits one entry as a burst of one; true where it was accepted.
pub fn submit<T>(submitter: &mut Submitter<T, Shared>, entry: T) -> bool {
    submitter
        .burst(|burst| match burst.vacancy() {
            Some(vacancy) => {
                vacancy.commit(entry);
                true
            }
            None => false,
        })
        .unwrap_or(false)
}

/// Drains; returns the entries.
pub fn drain<T>(completer: &mut Completer<T, Shared>) -> Vec<T> {
    let mut entries = Vec::new();
    let drained = completer.drain(8, |_, _, _, _| Ok(()), |entry, ()| entries.push(entry));
    assert_eq!(drained.lie, None);
    entries
}
