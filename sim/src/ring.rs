//! The device's side of a split virtqueue. Ref: VIRTIO 1.2, 2.7.
//!
//! ```text
//!   desc     16 * size bytes, aligned 16    addr, len, flags, next
//!   avail    6 + 2 * size,    aligned 2     flags, idx, ring[size], used_event
//!   used     6 + 8 * size,    aligned 4     flags, idx, ring[size] {id, len}, avail_event
//! ```
//!
//! The driver writes `desc` and `avail` at any time and is not trusted: each value is read once,
//! checked, and used from the copy. The device is the only writer of `used`; it never reads it.
//!
//! # Order
//!
//! - `avail.idx` is loaded with Acquire: the entries and descriptors that it publishes are visible.
//! - `used.idx` is stored with Release: the data, the status and the elements are visible first.
//! - Interrupts: `used.idx`, **full fence**, `used_event` (or `avail.flags`). The driver stores
//!   `used_event`, full fence, loads `used.idx`: one of the two sees the other.
//! - Sleep: `avail_event` (or `used.flags`), **full fence**, `avail.idx`. The driver stores
//!   `avail.idx`, full fence, loads `avail_event`: one of the two sees the other.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{Ordering, fence};

use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

use crate::dma::{DmaMap, PAGE, Piece};
use crate::error::DriverError;
use crate::faults::Marks;
use crate::rng::Rng;
use crate::wire;

/// The three parts of a ring, translated.
#[derive(Debug)]
pub(crate) struct View {
    desc: Piece,
    avail: Piece,
    used: Piece,
}

/// A request that was taken and is not due yet.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) head: u16,
    pub(crate) ready_at: u64,
    /// How a fault has struck it.
    pub(crate) marks: Option<Box<Marks>>,
}

/// A queue: the registers that the driver wrote, and where the device is in the ring.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) index: u16,
    /// Registers (4.1.4.3).
    pub(crate) size: u16,
    pub(crate) vector: u16,
    pub(crate) enabled: bool,
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
    /// The three addresses as they were when the queue was enabled.
    rings: [u64; 3],
    /// QEMU's peculiarities.
    qemu: bool,
    /// Translated at the first use; dropped when a mapping goes.
    pub(crate) view: Option<View>,
    /// Whether the device looks at the available ring by itself; else it waits for a kick.
    pub(crate) awake: bool,
    /// Entries of the available ring that were taken, and that are known to be there.
    taken: u16,
    seen: u16,
    /// Used elements written, published, and decided about an interrupt.
    used_next: u16,
    published: u16,
    signalled: u16,
    /// An interrupt was decided about since the queue was reset.
    decided: bool,
    /// Taken requests in order of time, and those that are due (for a shuffled order).
    pub(crate) pending: VecDeque<Pending>,
    pub(crate) ready: Vec<Pending>,
    /// Taken and never to be completed.
    pub(crate) stalled: Vec<u16>,
    /// Done, but the driver was not told.
    pub(crate) lost: BTreeSet<u16>,
}

impl Queue {
    pub(crate) fn new(index: u16, max_size: u16, qemu: bool) -> Self {
        Self {
            index,
            size: max_size,
            vector: wire::NO_VECTOR,
            enabled: false,
            desc: 0,
            avail: 0,
            used: 0,
            rings: [0; 3],
            qemu,
            view: None,
            awake: false,
            taken: 0,
            seen: 0,
            used_next: 0,
            published: 0,
            signalled: 0,
            decided: false,
            pending: VecDeque::new(),
            ready: Vec::new(),
            stalled: Vec::new(),
            lost: BTreeSet::new(),
        }
    }

    /// Back to the state after a reset. What was in flight is dropped.
    pub(crate) fn reset(&mut self, max_size: u16) {
        let (pending, ready) = (std::mem::take(&mut self.pending), std::mem::take(&mut self.ready));
        *self = Self { pending, ready, ..Self::new(self.index, max_size, self.qemu) };
        self.pending.clear();
        self.ready.clear();
    }

    /// What is in flight will never be completed: how much that was.
    pub(crate) fn lose_in_flight(&mut self) -> usize {
        let lost = self.in_flight();
        self.pending.clear();
        self.ready.clear();
        self.stalled.clear();
        self.awake = false;
        lost
    }

    /// Makes the queue live, with the addresses that its registers hold.
    pub(crate) fn enable(&mut self) {
        self.enabled = true;
        self.rings = [self.desc, self.avail, self.used];
        self.view = None;
    }

    /// The place in a ring that index `number` stands for.
    #[inline]
    fn slot(&self, number: u16) -> usize {
        // QEMU takes any size.
        usize::from(if self.size.is_power_of_two() { number & (self.size - 1) } else { number % self.size })
    }

    /// Requests that were taken and not completed.
    pub(crate) fn in_flight(&self) -> usize {
        self.pending.len() + self.ready.len() + self.stalled.len()
    }

    /// Their heads.
    pub(crate) fn heads(&self) -> impl Iterator<Item = u16> {
        let taken = self.ready.iter().chain(&self.pending).map(|request| request.head);
        self.stalled.iter().copied().chain(taken)
    }

    /// Keeps a request until its time, behind those whose time is the same.
    pub(crate) fn hold(&mut self, request: Pending) {
        let at = self.pending.iter().rposition(|other| other.ready_at <= request.ready_at);
        self.pending.insert(at.map_or(0, |at| at + 1), request);
    }

    /// The next request to complete, of those whose time has come: any of them with `shuffle`, and
    /// of those that a fault has struck so.
    pub(crate) fn next_due(&mut self, now: u64, shuffle: bool, rng: &mut Rng) -> Option<Pending> {
        let Self { pending, ready, .. } = self;
        let due = |first: &&Pending| first.ready_at <= now;
        let loose = |first: &&Pending| shuffle || first.marks.as_ref().is_some_and(|marks| marks.shuffle);
        while pending.front().filter(due).filter(loose).is_some() {
            ready.extend(pending.pop_front());
        }
        let front = usize::from(pending.front().filter(due).is_some());
        // In the order of time nothing is left to chance.
        let which = if ready.is_empty() { 0 } else { rng.below(ready.len() + front) };
        match front {
            _ if which < ready.len() => Some(ready.swap_remove(which)),
            0 => None,
            _ => pending.pop_front(),
        }
    }

    /// A head of which the driver waits for nothing: not taken, not lost, not available, not `head`.
    pub(crate) fn free_head(&self, head: u16, rng: &mut Rng) -> Option<u16> {
        let view = self.view.as_ref()?;
        let mut busy: BTreeSet<u16> = self.heads().chain(self.lost.iter().copied()).chain([head]).collect();
        let ahead = self.load_available(view).ok()?.wrapping_sub(self.taken).min(self.size);
        for number in 0..ahead {
            let slot = self.slot(self.taken.wrapping_add(number));
            busy.extend(view.avail.load_u16(4 + 2 * slot, Ordering::Relaxed));
        }
        let free: Vec<u16> = (0..self.size).filter(|head| !busy.contains(head)).collect();
        if free.is_empty() { None } else { Some(free[rng.below(free.len())]) }
    }

    /// Translates the ring's addresses where that is still to be done.
    #[inline]
    pub(crate) fn attach(&mut self, dma: &DmaMap) -> Result<(), DriverError> {
        if self.view.is_none() {
            self.view = Some(self.translate(dma)?);
        }
        Ok(())
    }

    fn translate(&mut self, dma: &DmaMap) -> Result<View, DriverError> {
        let (queue, size) = (self.index, u64::from(self.size));
        if !self.qemu && !self.size.is_power_of_two() {
            return Err(DriverError::Setup { queue, what: "queue size", value: size });
        }
        let part = |what, addr: u64, align: u64, len: u64| {
            if !self.qemu && !addr.is_multiple_of(align) {
                return Err(DriverError::Setup { queue, what, value: addr });
            }
            dma.piece(addr, len).ok_or(DriverError::NotMapped { queue, addr, len })
        };
        let [desc, avail, used] = self.rings;
        let desc = part("descriptor table address", desc, 16, 16 * size)?;
        let avail = part("available ring address", avail, 2, 6 + 2 * size)?;
        let used = part("used ring address", used, 4, 6 + 8 * size)?;
        // Capacity for all that can be in flight: nothing is allocated from here on.
        self.pending.reserve(usize::from(self.size));
        self.ready.reserve(usize::from(self.size));
        Ok(View { desc, avail, used })
    }

    /// The ring's memory is gone: what is reached is an address that is not mapped.
    #[cold]
    fn gone(&self) -> DriverError {
        DriverError::NotMapped { queue: self.index, addr: self.rings[0], len: u64::from(self.size) * 16 }
    }

    #[inline]
    fn load_available(&self, view: &View) -> Result<u16, DriverError> {
        view.avail.load_u16(2, Ordering::Acquire).ok_or_else(|| self.gone())
    }

    /// Takes the next available chain, if there is one: its head.
    #[inline]
    pub(crate) fn take(&mut self) -> Result<Option<u16>, DriverError> {
        let Some(view) = &self.view else { return Err(self.gone()) };
        if self.taken == self.seen {
            // Pairs with the driver's release store of the index.
            let index = self.load_available(view)?;
            let ahead = index.wrapping_sub(self.taken);
            let in_flight = self.in_flight();
            // QEMU goes round the ring as often as the index says.
            if !self.qemu && usize::from(ahead) + in_flight > usize::from(self.size) {
                let (queue, size) = (self.index, self.size);
                return Err(DriverError::AvailableIndex { queue, index, ahead, in_flight, size });
            }
            if ahead == 0 {
                return Ok(None);
            }
            self.seen = index;
        }
        let slot = self.slot(self.taken);
        let head = view.avail.load_u16(4 + 2 * slot, Ordering::Relaxed).ok_or_else(|| self.gone())?;
        self.taken = self.taken.wrapping_add(1);
        if head >= self.size {
            let (queue, entries) = (self.index, u32::from(self.size));
            return Err(DriverError::NoDescriptor { queue, index: head, entries });
        }
        Ok(Some(head))
    }

    /// Reads a descriptor of the table, once. `index` is below the size.
    #[inline]
    pub(crate) fn descriptor(&self, index: u16) -> Result<wire::Descriptor, DriverError> {
        let Some(view) = &self.view else { return Err(self.gone()) };
        let mut descriptor = wire::Descriptor::new_zeroed();
        view.desc
            .memory
            .read(view.desc.offset + 16 * usize::from(index), descriptor.as_mut_bytes())
            .ok_or_else(|| self.gone())?;
        Ok(descriptor)
    }

    /// Writes a used element; the driver sees it after [`publish`](Self::publish).
    #[inline]
    pub(crate) fn push_used(&mut self, id: u32, len: u32) -> Result<(), DriverError> {
        let Some(view) = &self.view else { return Err(self.gone()) };
        let slot = self.slot(self.used_next);
        let element = wire::UsedElement { id: U32::new(id), len: U32::new(len) };
        let mut bytes = element.as_bytes();
        if self.qemu {
            // Behind an IOMMU, QEMU before 9.1 writes what lies past a page's end somewhere else.
            let left = PAGE - (self.rings[2] + 4 + 8 * slot as u64) % PAGE;
            bytes = &bytes[..bytes.len().min(left as usize)];
        }
        view.used.memory.write(view.used.offset + 4 + 8 * slot, bytes).ok_or_else(|| self.gone())?;
        self.used_next = self.used_next.wrapping_add(1);
        Ok(())
    }

    /// Used elements that the driver does not see yet.
    #[inline]
    pub(crate) fn unpublished(&self) -> u16 {
        self.used_next.wrapping_sub(self.published)
    }

    /// The used index, published or not.
    pub(crate) fn used_index(&self) -> u16 {
        self.used_next
    }

    /// Goes on with another used index.
    pub(crate) fn leap_to(&mut self, index: u16) {
        self.used_next = index;
    }

    /// Bus address of the used ring.
    pub(crate) fn used_ring(&self) -> u64 {
        self.rings[2]
    }

    /// Publishes the used elements.
    #[inline]
    pub(crate) fn publish(&mut self) {
        if self.unpublished() == 0 {
            return;
        }
        if let Some(view) = &self.view {
            // Pairs with the driver's acquire load of the used index.
            view.used.store_u16(2, self.used_next, Ordering::Release);
        }
        self.published = self.used_next;
    }

    /// Whether the driver wants an interrupt for what was published since the last call (2.7.7.2,
    /// 2.7.10).
    #[inline]
    pub(crate) fn wants_interrupt(&mut self, event_idx: bool) -> bool {
        let (old, new) = (self.signalled, self.published);
        if old == new {
            return false;
        }
        self.signalled = new;
        let first = !std::mem::replace(&mut self.decided, true);
        let Some(view) = &self.view else { return false };
        // Full fence between the store of used.idx and the load of used_event; pairs with the one
        // in the driver between its store of used_event and its last look at used.idx.
        fence(Ordering::SeqCst);
        let at = if event_idx { 4 + 2 * usize::from(self.size) } else { 0 };
        match view.avail.load_u16(at, Ordering::Relaxed) {
            // QEMU does not know yet what was signalled.
            Some(_) if event_idx && first && self.qemu => true,
            Some(event) if event_idx => need_event(event, new, old),
            Some(flags) => flags & wire::AVAIL_F_NO_INTERRUPT == 0,
            None => false,
        }
    }

    /// The device looks by itself from now on, kicks are not needed.
    pub(crate) fn wake(&mut self, event_idx: bool) {
        if !self.awake {
            self.awake = true;
            // With EVENT_IDX nothing needs to be written: avail_event stays behind.
            if !event_idx {
                self.store_flags(wire::USED_F_NO_NOTIFY);
            }
        }
    }

    fn store_flags(&self, flags: u16) {
        if let Some(view) = &self.view {
            view.used.store_u16(0, flags, Ordering::Relaxed);
        }
    }

    /// Asks for a kick at the next request, and looks once more: `true` where there is already one
    /// (the queue then stays awake), else it sleeps.
    pub(crate) fn arm(&mut self, event_idx: bool) -> Result<bool, DriverError> {
        let Some(view) = &self.view else { return Err(self.gone()) };
        if event_idx {
            view.used.store_u16(4 + 8 * usize::from(self.size), self.taken, Ordering::Relaxed);
        } else {
            self.store_flags(0);
        }
        // Full fence between the store of avail_event and the load of avail.idx; pairs with the one
        // in the driver between its store of avail.idx and its load of avail_event.
        fence(Ordering::SeqCst);
        self.awake = self.load_available(view)? != self.taken;
        if self.awake && !event_idx {
            self.store_flags(wire::USED_F_NO_NOTIFY);
        }
        Ok(self.awake)
    }

    /// As [`arm`](Self::arm), but the queue sleeps in any case, with kicks on.
    pub(crate) fn sleep(&mut self, event_idx: bool) -> Result<bool, DriverError> {
        let more = self.arm(event_idx)?;
        if more && !event_idx {
            self.store_flags(0);
        }
        self.awake = false;
        Ok(more)
    }
}

/// Whether the index, moving from `old` to `new`, passed `event` (2.7.7.1), safe over the wrap.
#[inline]
pub(crate) fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use ringbell_drivers::dma::SharedMemory;

    use super::*;

    #[test]
    fn events_are_seen_over_the_wrap_of_the_index() {
        assert!(need_event(0, 1, 0));
        assert!(!need_event(1, 1, 0));
        assert!(need_event(0xffff, 0, 0xffff));
        assert!(need_event(1, 3, 0xfffe));
        assert!(!need_event(0xfffd, 3, 0xfffe));
        assert!(!need_event(3, 3, 0xfffe));
    }

    #[test]
    fn kicks_are_off_while_the_device_is_awake_and_on_before_it_sleeps() {
        let mut dma = DmaMap::new();
        let iova = dma.insert(SharedMemory::create(4096, false).unwrap()).unwrap();
        let memory = dma.piece(iova, 4096).unwrap().memory;
        let mut queue = Queue::new(0, 4, false);
        (queue.desc, queue.avail, queue.used) = (iova, iova + 64, iova + 128);
        queue.enable();
        queue.attach(&dma).unwrap();
        let flags = || memory.load_u16(128, Ordering::Relaxed).unwrap();
        let avail_event = || memory.load_u16(128 + 4 + 32, Ordering::Relaxed).unwrap();
        for event_idx in [false, true] {
            let available = memory.load_u16(66, Ordering::Relaxed).unwrap();
            queue.wake(event_idx);
            assert_eq!((flags(), avail_event()), (u16::from(!event_idx), 0));
            memory.store_u16(66, available + 1, Ordering::Relaxed).unwrap();
            assert!(queue.arm(event_idx).unwrap() && queue.awake, "there is a request already");
            assert_eq!(flags(), u16::from(!event_idx));
            assert_eq!((queue.take(), queue.take()), (Ok(Some(0)), Ok(None)));
            assert!(!queue.arm(event_idx).unwrap() && !queue.awake);
            assert_eq!((flags(), avail_event()), (0, if event_idx { available + 1 } else { 0 }));
        }
    }
}
