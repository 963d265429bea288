//! The small driver.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use ringbell_drivers::dma::SharedMemory;
use ringbell_drivers::pci::{Capabilities, DmaMapping, Doorbell, PciFunction};

use crate::Sim;

pub(crate) const INDIRECT: u64 = 1 << 28;
pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const ALL: u64 = u64::MAX;

const BAR: u8 = 4;

/// A descriptor: place in the driver's memory, length, writable.
pub(crate) type Part = (u64, u32, bool);

pub(crate) struct Queue {
    pub(crate) size: u16,
    /// Offsets in the driver's memory.
    pub(crate) desc: usize,
    pub(crate) avail: usize,
    pub(crate) used: usize,
    pub(crate) available: u16,
    pub(crate) seen: u16,
    next_desc: u16,
    bell: Doorbell,
    pub(crate) kicks: u64,
}

pub(crate) struct Driver {
    pub(crate) sim: Sim,
    pub(crate) function: Arc<dyn PciFunction>,
    pub(crate) memory: SharedMemory,
    pub(crate) mapping: DmaMapping,
    pub(crate) iova: u64,
    pub(crate) features: u64,
    pub(crate) queues: Vec<Queue>,
    pub(crate) events: Vec<OwnedFd>,
    top: usize,
    notify: u64,
}

impl Driver {
    pub(crate) fn new(sim: Sim, wanted: u64) -> Self {
        let mut driver = Self::bare(sim);
        driver.start(wanted);
        driver
    }

    /// Without initialisation of the device.
    pub(crate) fn bare(sim: Sim) -> Self {
        let function = sim.function();
        function.write_config(4, &6_u16.to_le_bytes()).unwrap();
        let memory = SharedMemory::create(4 << 20, false).unwrap();
        let mapping = function.map_dma(memory.fd(), 0, memory.len() as u64).unwrap();
        let iova = mapping.segments[0].iova;
        let capabilities = Capabilities::read(&*function).unwrap();
        let notify = capabilities
            .iter()
            .find_map(|capability| {
                let mut bytes = [0; 20];
                function.read_config(capability.offset, &mut bytes).unwrap();
                let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
                (capability.id == 9 && bytes[3] == 2).then(|| (bytes[4], word(8), word(16)))
            })
            .unwrap();
        assert_eq!((notify.0, notify.2), (BAR, 4));
        Self {
            sim,
            function,
            memory,
            mapping,
            iova,
            features: 0,
            queues: Vec::new(),
            events: Vec::new(),
            top: 4096,
            notify: u64::from(notify.1),
        }
    }

    pub(crate) fn start(&mut self, wanted: u64) {
        self.w8(20, 0);
        self.w8(20, 1);
        self.w8(20, 3);
        let offered = self.offered();
        self.features = offered & wanted;
        self.accept(self.features);
        self.w8(20, 11);
        assert_eq!(self.r8(20), 11, "FEATURES_OK");
        self.queues.clear();
        self.events.clear();
        self.top = 4096;
        let count = self.r16(18);
        for index in 0..count {
            self.setup_queue(index);
        }
        let fds: Vec<_> = self.events.iter().map(|event| Some(event.as_fd())).collect();
        self.function.set_msix(&fds).unwrap();
        self.w8(20, 15);
        assert_eq!(self.r8(20), 15);
    }

    pub(crate) fn offered(&self) -> u64 {
        self.w32(0, 0);
        let low = self.r32(4);
        self.w32(0, 1);
        u64::from(low) | u64::from(self.r32(4)) << 32
    }

    pub(crate) fn accept(&self, features: u64) {
        self.w32(8, 0);
        self.w32(12, features as u32);
        self.w32(8, 1);
        self.w32(12, (features >> 32) as u32);
    }

    fn event(&mut self) {
        self.events.push(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap().into());
    }

    pub(crate) fn setup_queue(&mut self, index: u16) {
        if self.events.is_empty() {
            self.event();
            self.w16(16, 0);
        }
        self.w16(22, index);
        let size = self.r16(24);
        assert!(size.is_power_of_two());
        let n = usize::from(size);
        let (desc, avail, used) = (self.alloc(16 * n), self.alloc(6 + 2 * n), self.alloc(6 + 8 * n));
        for (at, len) in [(avail, 6 + 2 * n), (used, 6 + 8 * n)] {
            self.memory.write(at, &vec![0; len]).unwrap();
        }
        if self.events.len() < usize::from(self.function.interrupts().msix) {
            self.event();
        }
        let vector = self.events.len() as u16 - 1;
        self.w16(26, vector);
        assert_eq!(self.r16(26), vector);
        for (register, place) in [(32, desc), (40, avail), (48, used)] {
            let addr = self.iova + place as u64;
            self.w32(register, addr as u32);
            self.w32(register + 4, (addr >> 32) as u32);
        }
        self.w16(28, 1);
        let offset = u64::from(self.r16(30));
        let bell = self.function.doorbell(BAR, self.notify + 4 * offset).unwrap();
        self.queues.push(Queue {
            size,
            desc,
            avail,
            used,
            available: 0,
            seen: 0,
            next_desc: 0,
            bell,
            kicks: 0,
        });
    }

    /// A place in the driver's memory, aligned to 16.
    pub(crate) fn alloc(&mut self, len: usize) -> usize {
        let at = self.top.next_multiple_of(16);
        self.top = at + len;
        assert!(self.top <= self.memory.len());
        at
    }

    /// Where the next place will be, to come back to with [`release`](Self::release).
    pub(crate) fn mark(&self) -> usize {
        self.top
    }

    /// What was allocated since `mark` is free again.
    pub(crate) fn release(&mut self, mark: usize) {
        self.top = mark;
    }

    /// Puts bytes there.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> u64 {
        let at = self.alloc(bytes.len());
        self.memory.write(at, bytes).unwrap();
        at as u64
    }

    pub(crate) fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(at as usize, &mut bytes).unwrap();
        bytes
    }

    fn descriptor(&self, part: Part, flags: u16, next: u16) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(self.iova.wrapping_add(part.0)).to_le_bytes());
        bytes[8..12].copy_from_slice(&part.1.to_le_bytes());
        bytes[12..14].copy_from_slice(&(flags | if part.2 { 2 } else { 0 }).to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        bytes
    }

    /// Writes one descriptor of a queue's table as it is told to.
    pub(crate) fn raw_descriptor(&self, queue: usize, index: u16, part: Part, flags: u16, next: u16) {
        let at = self.queues[queue].desc + 16 * usize::from(index);
        self.memory.write(at, &self.descriptor(part, flags, next)).unwrap();
    }

    /// Makes a head available and kicks where the device asks for it.
    pub(crate) fn publish(&mut self, index: usize, head: u16) {
        let queue = &mut self.queues[index];
        let slot = usize::from(queue.available % queue.size);
        self.memory.store_u16(queue.avail + 4 + 2 * slot, head, Ordering::Relaxed).unwrap();
        queue.available = queue.available.wrapping_add(1);
        self.memory.store_u16(queue.avail + 2, queue.available, Ordering::Release).unwrap();
        fence(Ordering::SeqCst);
        let kick = if self.features & EVENT_IDX != 0 {
            let at = queue.used + 4 + 8 * usize::from(queue.size);
            let event = self.memory.load_u16(at, Ordering::Relaxed).unwrap();
            event == queue.available.wrapping_sub(1)
        } else {
            self.memory.load_u16(queue.used, Ordering::Relaxed).unwrap() & 1 == 0
        };
        if kick {
            queue.kicks += 1;
            queue.bell.ring(index as u16);
        }
    }

    pub(crate) fn kick(&mut self, queue: usize) {
        self.queues[queue].bell.ring(queue as u16);
    }

    /// Submits a chain; its head.
    pub(crate) fn submit(&mut self, queue: usize, parts: &[Part], indirect: bool) -> u16 {
        let size = self.queues[queue].size;
        let first = self.queues[queue].next_desc;
        let last = parts.len() - 1;
        if indirect {
            let table: Vec<u8> = parts
                .iter()
                .enumerate()
                .flat_map(|(at, part)| self.descriptor(*part, u16::from(at != last), at as u16 + 1))
                .collect();
            let place = self.put(&table);
            self.raw_descriptor(queue, first, (place, table.len() as u32, false), 4, 0);
            self.queues[queue].next_desc = (first + 1) % size;
        } else {
            for (at, part) in parts.iter().enumerate() {
                let index = (first + at as u16) % size;
                self.raw_descriptor(queue, index, *part, u16::from(at != last), (index + 1) % size);
            }
            self.queues[queue].next_desc = (first + parts.len() as u16) % size;
        }
        self.publish(queue, first);
        first
    }

    /// The next used element, if there is one.
    pub(crate) fn poll(&mut self, queue: usize) -> Option<(u32, u32)> {
        let queue = &mut self.queues[queue];
        let index = self.memory.load_u16(queue.used + 2, Ordering::Acquire).unwrap();
        if index == queue.seen {
            return None;
        }
        let at = queue.used + 4 + 8 * usize::from(queue.seen % queue.size);
        queue.seen = queue.seen.wrapping_add(1);
        let id = self.memory.load_u32(at, Ordering::Relaxed).unwrap();
        Some((id, self.memory.load_u32(at + 4, Ordering::Relaxed).unwrap()))
    }

    /// Asks for an interrupt at the next completion.
    pub(crate) fn want_interrupt(&self, queue: usize) {
        let queue = &self.queues[queue];
        let at = queue.avail + 4 + 2 * usize::from(queue.size);
        self.memory.store_u16(at, queue.seen, Ordering::Relaxed).unwrap();
        fence(Ordering::SeqCst);
    }

    /// Whether that vector was signalled since the last look.
    pub(crate) fn interrupted(&self, vector: usize) -> bool {
        nix::unistd::read(&self.events[vector], &mut [0; 8]).is_ok()
    }

    /// Waits, as long as a hanging test is allowed to.
    pub(crate) fn wait_for<T>(&mut self, mut what: impl FnMut(&mut Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = what(self) {
                return found;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "nothing happened: {:?}", self.sim.stats());
            std::thread::yield_now();
        }
    }

    pub(crate) fn control(&mut self, request: &[u8], answer: u32) -> Vec<u8> {
        let queue = self.queues.len() - 1;
        let request_at = self.put(request);
        let answer_at = self.put(&vec![0xee; answer as usize]);
        let parts = [(request_at, request.len() as u32, false), (answer_at, answer, true)];
        let head = self.submit(queue, &parts, false);
        let (id, _) = self.wait_for(|driver| driver.poll(queue));
        assert_eq!(id, u32::from(head));
        self.get(answer_at, answer as usize)
    }

    /// Creates a session of any service: `body` is words by their place in the request. Id or status.
    pub(crate) fn create_any(
        &mut self,
        opcode: u32,
        algo: u32,
        body: &[(usize, u32)],
        key: &[u8],
    ) -> Result<u64, u32> {
        let mut request = vec![0; 72];
        for (at, word) in [(0, opcode), (4, algo)].iter().chain(body) {
            request[*at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        request.extend_from_slice(key);
        let answer = self.control(&request, 16);
        let status = u32::from_le_bytes(answer[8..12].try_into().unwrap());
        if status == 0 { Ok(u64::from_le_bytes(answer[..8].try_into().unwrap())) } else { Err(status) }
    }

    /// Destroys a session by the opcode of any service.
    pub(crate) fn destroy_any(&mut self, opcode: u32, id: u64) -> u8 {
        let mut request = vec![0; 72];
        request[0..4].copy_from_slice(&opcode.to_le_bytes());
        request[16..24].copy_from_slice(&id.to_le_bytes());
        self.control(&request, 1)[0]
    }

    /// Creates a session of a cipher: id or status.
    pub(crate) fn create(&mut self, algo: u32, op: u32, key: &[u8]) -> Result<u64, u32> {
        self.create_any(2, algo, &[(16, algo), (20, key.len() as u32), (24, op), (64, 1)], key)
    }

    pub(crate) fn destroy(&mut self, id: u64) -> u8 {
        self.destroy_any(3, id)
    }

    pub(crate) fn status(&self) -> u8 {
        self.r8(20)
    }

    pub(crate) fn r8(&self, offset: u64) -> u8 {
        let mut data = [0];
        self.function.read_bar(BAR, offset, &mut data).unwrap();
        data[0]
    }
    pub(crate) fn r16(&self, offset: u64) -> u16 {
        let mut data = [0; 2];
        self.function.read_bar(BAR, offset, &mut data).unwrap();
        u16::from_le_bytes(data)
    }
    pub(crate) fn r32(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.function.read_bar(BAR, offset, &mut data).unwrap();
        u32::from_le_bytes(data)
    }
    pub(crate) fn w8(&self, offset: u64, value: u8) {
        self.function.write_bar(BAR, offset, &[value]).unwrap();
    }
    pub(crate) fn w16(&self, offset: u64, value: u16) {
        self.function.write_bar(BAR, offset, &value.to_le_bytes()).unwrap();
    }
    pub(crate) fn w32(&self, offset: u64, value: u32) {
        self.function.write_bar(BAR, offset, &value.to_le_bytes()).unwrap();
    }
}

/// A data request without IV and source.
pub(crate) fn header(opcode: u32, algo: u32, session: u64, iv: u32, src: u32, dst: u32) -> Vec<u8> {
    let mut request = vec![0; 72];
    request[0..4].copy_from_slice(&opcode.to_le_bytes());
    request[4..8].copy_from_slice(&algo.to_le_bytes());
    request[8..16].copy_from_slice(&session.to_le_bytes());
    request[24..28].copy_from_slice(&iv.to_le_bytes());
    request[28..32].copy_from_slice(&src.to_le_bytes());
    request[32..36].copy_from_slice(&dst.to_le_bytes());
    request[64..68].copy_from_slice(&1_u32.to_le_bytes());
    request
}
