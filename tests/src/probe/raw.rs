//! The driver of the probe: registers and rings by hand, mistakes included.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use ringbell_drivers::Result;
use ringbell_drivers::dma::SharedMemory;
use ringbell_drivers::pci::{Capabilities, DmaMapping, Doorbell, PciFunction, config};

use super::Timing;
pub(super) use super::parts::*;

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) size: u16,
    pub(super) desc: usize,
    pub(super) avail: usize,
    pub(super) used: usize,
    /// Next available index.
    pub(super) available: u16,
    /// Used elements that were looked at.
    pub(super) seen: u16,
    next_desc: u16,
    bell: Doorbell,
}

/// The driver.
pub(super) struct Raw {
    pub(super) function: Arc<dyn PciFunction>,
    pub(super) timing: Timing,
    pub(super) memory: SharedMemory,
    mapping: DmaMapping,
    pub(super) iova: u64,
    common: Place,
    isr: Place,
    device: Place,
    notify: Place,
    multiplier: u64,
    /// Vector 0: configuration; 1: queues.
    pub(super) events: [EventFd; 2],
    pub(super) queues: Vec<Queue>,
    top: usize,
    /// Where the rings end and requests begin.
    floor: usize,
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The device must not reach the memory any more.
        self.w8(reg::STATUS, 0);
        let _ = self.function.set_msix(&[]);
        let _ = self.function.unmap_dma(&self.mapping);
    }
}

impl Raw {
    pub(super) fn new(function: Arc<dyn PciFunction>, timing: Timing) -> Result<Self> {
        function.write_config(config::COMMAND, &config::COMMAND_MEMORY.to_le_bytes())?;
        let mut places = [Place::default(); 6];
        let mut multiplier = 0;
        for capability in Capabilities::read(&*function)?.iter().filter(|c| c.id == config::CAP_VENDOR) {
            let mut bytes = [0; 20];
            function.read_config(capability.offset, &mut bytes)?;
            if let Some(place) = places.get_mut(usize::from(bytes[3])) {
                *place = Place { bar: bytes[4], offset: u64::from(word(&bytes, 8)) };
            }
            if bytes[3] == 2 {
                multiplier = u64::from(word(&bytes, 16));
            }
        }
        let memory = SharedMemory::create(MEMORY, false)?;
        let mapping = function.map_dma(memory.fd(), 0, memory.len() as u64)?;
        let event = || EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC);
        let events = [event().expect("an eventfd"), event().expect("an eventfd")];
        let raw = Self {
            iova: mapping.segments[0].iova,
            timing,
            memory,
            mapping,
            common: places[1],
            notify: places[2],
            isr: places[3],
            device: places[4],
            multiplier,
            events,
            queues: Vec::new(),
            top: 0,
            floor: 0,
            function,
        };
        assert_eq!(raw.mapping.segments.len(), 1, "memory in one run");
        raw.w8(reg::STATUS, 0);
        raw.function.set_bus_master(true)?;
        Ok(raw)
    }

    // ---- setting up ----

    pub(super) fn offered(&self) -> u64 {
        self.w32(reg::DEVICE_FEATURE_SELECT, 0);
        let low = u64::from(self.r32(reg::DEVICE_FEATURE));
        self.w32(reg::DEVICE_FEATURE_SELECT, 1);
        low | u64::from(self.r32(reg::DEVICE_FEATURE)) << 32
    }

    pub(super) fn accept(&self, features: u64) {
        self.w32(reg::DRIVER_FEATURE_SELECT, 0);
        self.w32(reg::DRIVER_FEATURE, features as u32);
        self.w32(reg::DRIVER_FEATURE_SELECT, 1);
        self.w32(reg::DRIVER_FEATURE, (features >> 32) as u32);
    }

    /// A reset, and up to `features` accepted: the status then.
    pub(super) fn negotiate(&self, features: u64) -> u8 {
        self.reset();
        self.w8(reg::STATUS, 1);
        self.w8(reg::STATUS, 3);
        self.accept(features);
        self.w8(reg::STATUS, 0x0b);
        self.r8(reg::STATUS)
    }

    pub(super) fn reset(&self) {
        self.w8(reg::STATUS, 0);
        let start = Instant::now();
        while self.r8(reg::STATUS) != 0 && start.elapsed() < self.timing.patience {}
    }

    /// Everything as usual.
    pub(super) fn start(&mut self) {
        self.start_as(Setup::default());
    }

    /// Resets the device and sets up both queues.
    pub(super) fn start_as(&mut self, setup: Setup) {
        self.reset();
        let wanted = self.offered() & (setup.features | VERSION_1 | ACCESS_PLATFORM);
        self.negotiate(wanted);
        self.top = 0;
        self.queues.clear();
        let routes: Vec<_> = self.events.iter().map(|event| Some(event.as_fd())).collect();
        self.function.set_msix(if setup.msix { &routes } else { &[] }).expect("interrupts");
        self.w16(reg::MSIX_CONFIG, 0);
        for index in 0..2_u16 {
            self.w16(reg::QUEUE_SELECT, index);
            if index == 0 && setup.size != 0 {
                self.w16(reg::QUEUE_SIZE, setup.size);
            }
            let size = self.r16(reg::QUEUE_SIZE);
            let n = usize::from(size);
            let usual = Setup::default();
            let shape = if index == 0 { &setup } else { &usual };
            let desc = self.page(16 * n + shape.desc_at) + shape.desc_at;
            let avail = self.page(6 + 2 * n + shape.avail_at) + shape.avail_at;
            let used = self.page(6 + 8 * n + shape.used_at) + shape.used_at;
            for (at, len) in [(avail, 6 + 2 * n), (used, 6 + 8 * n), (desc, 16 * n)] {
                self.put_at(at, &vec![0; len]);
            }
            let bell = self.arrange(index, [desc, avail, used], if index == 0 { setup.vector } else { 1 });
            self.queues.push(Queue { size, desc, avail, used, available: 0, seen: 0, next_desc: 0, bell });
        }
        self.floor = self.top;
        self.w8(reg::STATUS, setup.status);
        self.drain();
    }

    /// Tells the device where the selected queue's parts are.
    fn arrange(&self, index: u16, places: [usize; 3], vector: u16) -> Doorbell {
        self.w16(reg::QUEUE_VECTOR, vector);
        for (register, place) in [reg::QUEUE_DESC, reg::QUEUE_DRIVER, reg::QUEUE_DEVICE].iter().zip(places) {
            let addr = self.bus(place);
            self.w32(*register, addr as u32);
            self.w32(register + 4, (addr >> 32) as u32);
        }
        self.w16(reg::QUEUE_ENABLE, 1);
        self.bell(self.r16(reg::QUEUE_NOTIFY_OFF).max(index))
    }

    /// The doorbell at a notify offset.
    pub(super) fn bell(&self, notify_off: u16) -> Doorbell {
        let at = self.notify.offset + u64::from(notify_off) * self.multiplier;
        self.function.doorbell(self.notify.bar, at).expect("a doorbell")
    }

    /// Sets a queue up again, after it was reset alone.
    pub(super) fn arrange_again(&mut self, index: usize) {
        let queue = &self.queues[index];
        let (n, places) = (usize::from(queue.size), [queue.desc, queue.avail, queue.used]);
        for (at, len) in [(places[1], 6 + 2 * n), (places[2], 6 + 8 * n)] {
            self.put_at(at, &vec![0; len]);
        }
        self.w16(reg::QUEUE_SELECT, index as u16);
        let bell = self.arrange(index as u16, places, 1);
        let queue = &mut self.queues[index];
        (queue.available, queue.seen, queue.next_desc, queue.bell) = (0, 0, 0, bell);
    }

    // ---- memory ----

    pub(super) fn bus(&self, place: usize) -> u64 {
        self.iova + place as u64
    }

    /// `len` bytes from the start of a page.
    pub(super) fn page(&mut self, len: usize) -> usize {
        self.top = self.top.next_multiple_of(PAGE);
        self.room(len)
    }

    pub(super) fn room(&mut self, len: usize) -> usize {
        let at = self.top.next_multiple_of(16);
        self.top = at + len;
        assert!(self.top <= self.memory.len(), "out of the probe's memory");
        at
    }

    /// The memory of earlier requests is free: none is in flight.
    pub(super) fn forget(&mut self) {
        self.top = self.floor;
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> usize {
        let at = self.room(bytes.len());
        self.put_at(at, bytes);
        at
    }

    pub(super) fn put_at(&self, at: usize, bytes: &[u8]) {
        self.memory.write(at, bytes).expect("inside of the memory");
    }

    pub(super) fn get(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(at, &mut bytes).expect("inside of the memory");
        bytes
    }

    pub(super) fn get16(&self, at: usize) -> u16 {
        let bytes = self.get(at, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    // ---- rings ----

    /// Writes descriptor `index` of a queue's table.
    pub(super) fn descriptor(&self, queue: usize, index: u16, bytes: [u8; 16]) {
        self.put_at(self.queues[queue].desc + 16 * usize::from(index), &bytes);
    }

    /// Puts a chain into descriptors; it is not available yet.
    pub(super) fn prepare(&mut self, queue: usize, pieces: &[Piece], form: Form) -> Posted {
        let mut writable = Vec::new();
        let mut raw: Vec<(u64, u32, u16)> = Vec::new();
        for piece in pieces {
            raw.push(match piece {
                Piece::Read(bytes) => {
                    let at = self.put(bytes);
                    (self.bus(at), bytes.len() as u32, 0)
                }
                Piece::Write(len) => {
                    let at = self.put(&vec![UNTOUCHED; *len]);
                    writable.push((at, *len));
                    (self.bus(at), *len as u32, WRITE)
                }
                Piece::Raw(addr, len, flags) => (*addr, *len, *flags),
            });
        }
        let direct = match form {
            Form::Chain => raw.len(),
            Form::Table => 0,
            Form::Mixed => 1,
        };
        let rest = raw.split_off(direct);
        if !rest.is_empty() {
            let last = rest.len() - 1;
            let table: Vec<u8> = (0..)
                .zip(&rest)
                .flat_map(|(at, d)| descriptor(*d, usize::from(at) != last, at + 1))
                .collect();
            let at = self.put(&table);
            raw.push((self.bus(at), table.len() as u32, TABLE));
        }
        let (size, head) = (self.queues[queue].size, self.queues[queue].next_desc);
        let last = raw.len() - 1;
        for (at, d) in (0..).zip(&raw) {
            let index = (head + at) % size;
            self.descriptor(queue, index, descriptor(*d, usize::from(at) != last, (index + 1) % size));
        }
        self.queues[queue].next_desc = (head + raw.len() as u16) % size;
        Posted { head, writable }
    }

    /// Writes an entry of the available ring and moves the index.
    pub(super) fn publish(&mut self, queue: usize, head: u16) {
        let queue = &mut self.queues[queue];
        let slot = usize::from(queue.available % queue.size);
        let stored = self.memory.write(queue.avail + 4 + 2 * slot, &head.to_le_bytes());
        stored.expect("inside of the memory");
        queue.available = queue.available.wrapping_add(1);
        let (avail, index) = (queue.avail, queue.available);
        self.publish_index(avail, index);
    }

    pub(super) fn publish_index(&self, avail: usize, index: u16) {
        fence(Ordering::SeqCst);
        self.put_at(avail + 2, &index.to_le_bytes());
        fence(Ordering::SeqCst);
    }

    pub(super) fn kick(&self, queue: usize) {
        self.queues[queue].bell.ring(queue as u16);
    }

    /// Rings a queue's doorbell with a value of one's own.
    pub(super) fn kick_with(&self, queue: usize, value: u16) {
        self.queues[queue].bell.ring(value);
    }

    /// Prepares, publishes and kicks.
    pub(super) fn post(&mut self, queue: usize, pieces: &[Piece], form: Form) -> Posted {
        let posted = self.prepare(queue, pieces, form);
        self.publish(queue, posted.head);
        self.kick(queue);
        posted
    }

    pub(super) fn used_index(&self, queue: usize) -> u16 {
        fence(Ordering::SeqCst);
        let index = self.get16(self.queues[queue].used + 2);
        fence(Ordering::SeqCst);
        index
    }

    /// Id and length of the used element that index `number` stands for.
    pub(super) fn used_element(&self, queue: usize, number: u16) -> (u32, u32) {
        let queue = &self.queues[queue];
        let bytes = self.get(queue.used + 4 + 8 * usize::from(number % queue.size), 8);
        (word(&bytes, 0), word(&bytes, 4))
    }

    /// Waits until `count` more are used, the device fails, or patience ends: how many more are.
    pub(super) fn await_used(&self, queue: usize, count: u16, patience: Duration) -> u16 {
        let start = Instant::now();
        loop {
            let failed = self.r8(reg::STATUS) & NEEDS_RESET != 0;
            let more = self.used_index(queue).wrapping_sub(self.queues[queue].seen);
            if more >= count || failed || start.elapsed() > patience {
                return more;
            }
            thread::yield_now();
        }
    }

    /// Waits for one chain.
    pub(super) fn outcome(&mut self, queue: usize, posted: &Posted) -> Outcome {
        if self.await_used(queue, 1, self.timing.patience) == 0 {
            let failed = self.r8(reg::STATUS) & NEEDS_RESET != 0;
            return if failed { Outcome::Error } else { Outcome::Nothing };
        }
        let (id, len) = self.used_element(queue, self.queues[queue].seen);
        self.queues[queue].seen = self.queues[queue].seen.wrapping_add(1);
        assert_eq!(id, u32::from(posted.head), "the head that was posted");
        Outcome::Done { len, written: self.written(posted) }
    }

    /// The writable pieces, one after another.
    pub(super) fn written(&self, posted: &Posted) -> Vec<u8> {
        posted.writable.iter().flat_map(|(at, len)| self.get(*at, *len)).collect()
    }

    /// Posts a chain and waits for it.
    pub(super) fn ask(&mut self, queue: usize, pieces: &[Piece], form: Form) -> Outcome {
        let posted = self.post(queue, pieces, form);
        self.outcome(queue, &posted)
    }

    /// As [`ask`](Self::ask), whatever the used element holds.
    pub(super) fn ask_anything(&mut self, queue: usize, pieces: &[Piece], form: Form) -> Outcome {
        let posted = self.post(queue, pieces, form);
        if self.await_used(queue, 1, self.timing.patience) == 0 {
            return Outcome::Nothing;
        }
        self.queues[queue].seen = self.queues[queue].seen.wrapping_add(1);
        Outcome::Done { len: 0, written: self.written(&posted) }
    }

    // ---- interrupts ----

    /// Waits a little: the interrupts of both vectors since the last look.
    pub(super) fn interrupts(&self) -> [u64; 2] {
        thread::sleep(self.timing.quiet);
        self.drain()
    }

    fn drain(&self) -> [u64; 2] {
        [self.events[0].read().unwrap_or(0), self.events[1].read().unwrap_or(0)]
    }

    /// Sets the used_event of a queue.
    pub(super) fn want_interrupt_at(&self, queue: usize, index: u16) {
        let queue = &self.queues[queue];
        self.put_at(queue.avail + 4 + 2 * usize::from(queue.size), &index.to_le_bytes());
        fence(Ordering::SeqCst);
    }

    /// Reads the avail_event of a queue.
    pub(super) fn avail_event(&self, queue: usize) -> u16 {
        let queue = &self.queues[queue];
        self.get16(queue.used + 4 + 8 * usize::from(queue.size))
    }

    // ---- registers ----

    fn read<const N: usize>(&self, place: Place, at: u64) -> [u8; N] {
        let mut data = [0; N];
        self.function.read_bar(place.bar, place.offset + at, &mut data).expect("a register");
        data
    }

    fn write(&self, at: u64, data: &[u8]) {
        let Place { bar, offset } = self.common;
        self.function.write_bar(bar, offset + at, data).expect("a register");
    }

    pub(super) fn r8(&self, at: u64) -> u8 {
        self.read::<1>(self.common, at)[0]
    }
    pub(super) fn r16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.read(self.common, at))
    }
    pub(super) fn r32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.read(self.common, at))
    }
    pub(super) fn w8(&self, at: u64, value: u8) {
        self.write(at, &[value]);
    }
    pub(super) fn w16(&self, at: u64, value: u16) {
        self.write(at, &value.to_le_bytes());
    }
    pub(super) fn w32(&self, at: u64, value: u32) {
        self.write(at, &value.to_le_bytes());
    }
    pub(super) fn read_isr(&self) -> u8 {
        self.read::<1>(self.isr, 0)[0]
    }
    pub(super) fn device_config(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.read(self.device, at))
    }
    pub(super) fn device_config8(&self, at: u64) -> u8 {
        self.read::<1>(self.device, at)[0]
    }
}

/// The bytes of a descriptor.
pub(super) fn descriptor((addr, len, flags): (u64, u32, u16), more: bool, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&addr.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&(flags | if more { NEXT } else { 0 }).to_le_bytes());
    bytes[14..].copy_from_slice(&(if more { next } else { 0 }).to_le_bytes());
    bytes
}

/// The little-endian word at `at`.
pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
