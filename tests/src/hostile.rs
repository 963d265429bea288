//! A PCI function that lies: a simulated device in the hands of a fuzzer, who knows where the rings
//! are and writes every byte that a device can write.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::sys::eventfd::{EfdFlags, EventFd};
use ringbell_drivers::dma::SharedMemory;
use ringbell_drivers::pci::{
    Bar, DmaMapping, DmaReach, Doorbell, Interrupts, PciFunction, Ring, Segment, config,
};
use ringbell_drivers::{Error, Result};

use crate::bytes::Bytes;

/// The simulator's BAR of registers, and where its structures are.
const REGISTERS: u8 = 4;
const ISR: u16 = 0x1000;
const DEVICE_CONFIG: u16 = 0x2000;

/// Descriptor flags.
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// What a function is like from the beginning.
#[derive(Clone, Copy, Debug)]
pub struct Nature {
    /// What stands between it and memory.
    pub reach: DmaReach,
    /// Its interrupts, at most those of the honest one.
    pub interrupts: Interrupts,
    /// Its memory appears in two segments.
    pub split: bool,
    /// Bus mastering cannot be turned off.
    pub stubborn: bool,
    /// The doorbell of the control queue does not reach the honest device.
    pub deaf: bool,
}

impl Nature {
    /// Nothing is replaced; without interrupts.
    pub const HONEST: Self = Self {
        reach: DmaReach::Software,
        interrupts: Interrupts { msix: 0, intx: false },
        split: false,
        stubborn: false,
        deaf: false,
    };
}

/// A lie about one byte of config space or of the registers.
#[derive(Clone, Copy, Debug)]
struct Lie {
    registers: bool,
    at: u16,
    how: How,
    /// Reads that it spoils; 0: all.
    left: u8,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Is(u8),
    Xor(u8),
    /// Another value at each read.
    Moves(u8),
    /// The whole access reads as all ones.
    Gone,
    Fails,
}

/// A queue, as the driver told the device.
#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    enabled: bool,
    /// Available entries that were answered by hand.
    taken: u16,
}

struct Mapped {
    memory: SharedMemory,
    iova: u64,
}

#[derive(Default)]
struct State {
    lies: Vec<Lie>,
    queues: BTreeMap<u16, Queue>,
    select: u16,
    memory: Vec<Mapped>,
    events: Vec<OwnedFd>,
    sessions: u64,
    /// Queues as they were enabled: number, and where the descriptors stand.
    enabled: Vec<(u16, u64)>,
}

impl State {
    /// The memory at a bus address, and the place in it.
    fn place(&self, iova: u64, len: usize) -> Option<(&SharedMemory, usize)> {
        self.memory.iter().find_map(|mapped| {
            let at = usize::try_from(iova.checked_sub(mapped.iova)?).ok()?;
            (at.checked_add(len)? <= mapped.memory.len()).then_some((&mapped.memory, at))
        })
    }

    fn write(&self, iova: u64, data: &[u8]) {
        if let Some((memory, at)) = self.place(iova, data.len()) {
            let _ = memory.write(at, data);
        }
    }

    fn half(&self, iova: u64) -> u16 {
        self.place(iova, 2).and_then(|(memory, at)| memory.load_u16(at, Ordering::Acquire)).unwrap_or(0)
    }

    fn set_half(&self, iova: u64, value: u16) {
        if let Some((memory, at)) = self.place(iova, 2) {
            let _ = memory.store_u16(at, value, Ordering::Release);
        }
    }

    /// What the device may write of the chain at `head`: addresses and lengths.
    fn writable(&self, queue: &Queue, head: u16) -> Vec<(u64, u32)> {
        let mut found = Vec::new();
        let (mut table, mut count) = (queue.descriptors, queue.size);
        let mut index = head;
        for _ in 0..8 {
            let mut bytes = [0; 16];
            let address = table.wrapping_add(16 * u64::from(index));
            let read = self.place(address, 16).and_then(|(memory, at)| memory.read(at, &mut bytes));
            if index >= count || read.is_none() {
                break;
            }
            let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
            let address = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            let len = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
            let flags = u16::from_le_bytes([rest[4], rest[5]]);
            if flags & INDIRECT != 0 {
                (table, count, index) = (address, (len / 16).min(8) as u16, 0);
                continue;
            }
            if flags & WRITE != 0 {
                found.push((address, len));
            }
            if flags & 1 == 0 {
                break;
            }
            index = u16::from_le_bytes([rest[6], rest[7]]);
        }
        found
    }
}

/// The function: passes everything to an honest one, but for what it replaces.
pub struct Hostile {
    honest: Arc<dyn PciFunction>,
    nature: Nature,
    going: Option<EventFd>,
    state: Mutex<State>,
    this: Weak<Self>,
}

impl Hostile {
    /// On top of `honest`, which is a simulator.
    pub fn new(honest: Arc<dyn PciFunction>, nature: Nature) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            honest,
            nature,
            going: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).ok(),
            state: Mutex::default(),
            this: this.clone(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queues as they were enabled so far: number, and bus address of the descriptors.
    pub fn enabled(&self) -> Vec<(u16, u64)> {
        self.state().enabled.clone()
    }

    /// Asks for the function back.
    pub fn ask_back(&self) {
        let _ = self.going.as_ref().map(|event| event.write(1));
    }

    /// The command on the control queue that waits for an answer: its opcode, and the session that is
    /// to be destroyed.
    pub fn command(&self) -> Option<(u32, u64)> {
        let state = self.state();
        let (_, queue) = state.queues.iter().next_back()?;
        if state.half(queue.available + 2) == queue.taken {
            return None;
        }
        let place = u64::from(queue.taken % queue.size);
        let head = state.half(queue.available + 4 + 2 * place);
        let mut address = [0; 8];
        let (memory, at) = state.place(queue.descriptors + 16 * u64::from(head), 8)?;
        memory.read(at, &mut address)?;
        let mut request = [0; 72];
        let (memory, at) = state.place(u64::from_le_bytes(address), 72)?;
        memory.read(at, &mut request)?;
        let opcode = u32::from_le_bytes(request[..4].try_into().ok()?);
        Some((opcode, u64::from_le_bytes(request[16..24].try_into().ok()?)))
    }

    /// Mappings that were not taken back.
    pub fn mapped(&self) -> usize {
        self.state().memory.len()
    }

    /// One act of the device, whatever the bytes say.
    pub fn act(&self, bytes: &mut Bytes) {
        match bytes.byte() % 8 {
            0..=2 => self.answer(bytes),
            3 | 4 => self.scribble(bytes),
            5 => self.lie(bytes),
            6 => self.interrupt(bytes),
            _ => {
                // Any byte of any memory that it was given.
                let (offset, data) = (bytes.half(), bytes.word().to_le_bytes());
                let len = bytes.below(4) + 1;
                let state = self.state();
                for mapped in &state.memory {
                    let offset = usize::from(offset) % mapped.memory.len();
                    let len = len.min(mapped.memory.len() - offset);
                    let _ = mapped.memory.write(offset, &data[..len]);
                }
            }
        }
    }

    /// Answers the next request of a queue by hand, mostly as an honest device would.
    pub fn answer(&self, bytes: &mut Bytes) {
        let (number, how) = (bytes.byte(), bytes.byte());
        let mut state = self.state();
        let count = state.queues.len().max(1);
        let Some((number, queue)) = state.queues.iter().nth(usize::from(number) % count) else { return };
        let (number, mut queue) = (*number, *queue);
        let stale = state.half(queue.available + 2) == queue.taken;
        if queue.size == 0 || !queue.enabled || stale && how < 0xf0 {
            return;
        }
        let place = u64::from(queue.taken % queue.size);
        let head = state.half(queue.available + 4 + 2 * place);
        let buffers = state.writable(&queue, head);
        queue.taken = queue.taken.wrapping_add(u16::from(!stale));
        state.queues.insert(number, queue);
        // The last buffer is the status byte, or the control queue's reply.
        if let Some((address, len)) = buffers.last().copied() {
            if how & 1 == 1 {
                let reply: Vec<u8> = (0..len.min(16)).map(|_| bytes.byte()).collect();
                state.write(address, &reply);
            } else if len == 16 {
                state.sessions += 1;
                let mut reply = [0; 16];
                reply[..8].copy_from_slice(&state.sessions.to_le_bytes());
                state.write(address, &reply);
            } else {
                state.write(address, &[0]);
            }
        }
        let all = buffers.iter().fold(0_u32, |sum, (_, len)| sum.saturating_add(*len));
        let mut id = u32::from(head);
        let (mut len, mut step) = (all, 1);
        if how & 0x0e == 0x02 {
            id = bytes.word();
        } else if how & 0x0e == 0x04 {
            id = bytes.byte().into();
        } else if how & 0x0e == 0x06 {
            len = bytes.word();
        } else if how & 0x0e == 0x08 {
            len = bytes.byte().into();
        } else if how & 0x0e == 0x0a {
            step = bytes.half();
        } else if how & 0x0e == 0x0c {
            step = 0;
        }
        let used = state.half(queue.used + 2);
        let element = queue.used + 4 + 8 * u64::from(used % queue.size);
        state.write(element, &id.to_le_bytes());
        state.write(element + 4, &len.to_le_bytes());
        state.set_half(queue.used + 2, used.wrapping_add(step));
    }

    /// Writes one field of a structure that it shares with the driver.
    fn scribble(&self, bytes: &mut Bytes) {
        let (number, field) = (bytes.byte(), bytes.byte());
        let state = self.state();
        let count = state.queues.len().max(1);
        let Some(queue) = state.queues.values().nth(usize::from(number) % count) else { return };
        if queue.size == 0 {
            return;
        }
        let size = u64::from(queue.size);
        let used = state.half(queue.used + 2);
        match field % 10 {
            0 => state.set_half(queue.used, bytes.half()),
            1 => state.set_half(queue.used + 2, bytes.half()),
            2 => {
                let step = i16::from(bytes.byte().cast_signed());
                state.set_half(queue.used + 2, used.wrapping_add_signed(step));
            }
            // An element around the index: id or length.
            3 | 4 => {
                let place = u64::from(used.wrapping_add(bytes.byte().into()) % queue.size);
                let value = if bytes.flag() { bytes.word() } else { bytes.byte().into() };
                let half = 4 * u64::from(field % 10 - 3);
                state.write(queue.used + 4 + 8 * place + half, &value.to_le_bytes());
            }
            5 => state.set_half(queue.used + 4 + 8 * size, bytes.half()),
            // A byte of what the device may write of a chain: destination, status, reply.
            6 | 7 => {
                let buffers = state.writable(queue, bytes.half() % queue.size);
                if let Some((address, len)) = buffers.get(bytes.below(2)).filter(|(_, len)| *len > 0) {
                    let at = u64::from(bytes.byte()) % u64::from(*len);
                    state.write(address.wrapping_add(at), &[bytes.byte()]);
                }
            }
            // What the driver writes and the device only reads.
            8 => state.write(queue.descriptors + u64::from(bytes.half()) % (16 * size), &[bytes.byte()]),
            _ => state.write(queue.available + u64::from(bytes.half()) % (6 + 2 * size), &[bytes.byte()]),
        }
    }

    /// One more lie about config space or registers, or the end of all.
    pub fn lie(&self, bytes: &mut Bytes) {
        let (what, at) = (bytes.byte(), bytes.byte());
        if what >= 0xf8 {
            return self.state().lies.clear();
        }
        let registers = what & 1 == 1;
        let at = match at {
            at if !registers => u16::from(at),
            at @ 0..64 => u16::from(at),
            64 => ISR,
            at => DEVICE_CONFIG + u16::from(at - 65),
        };
        let how = match what >> 1 & 7 {
            0..=2 => How::Is(bytes.byte()),
            3 | 4 => How::Xor(bytes.byte()),
            5 => How::Moves(bytes.byte()),
            6 => How::Gone,
            _ => How::Fails,
        };
        let left = bytes.byte();
        self.state().lies.push(Lie { registers, at, how, left });
    }

    fn interrupt(&self, bytes: &mut Bytes) {
        let state = self.state();
        if let Some(event) = state.events.get(bytes.below(state.events.len().max(1))) {
            // Full is readable too.
            let _ = nix::unistd::write(event, &1_u64.to_ne_bytes());
        }
    }

    fn corrupt(&self, registers: bool, offset: u64, data: &mut [u8]) -> Result<()> {
        let mut state = self.state();
        let mut outcome = Ok(());
        state.lies.retain_mut(|lie| {
            let Some(at) = u64::from(lie.at).checked_sub(offset) else { return true };
            let Some(byte) = usize::try_from(at).ok().and_then(|at| data.get_mut(at)) else { return true };
            if lie.registers != registers {
                return true;
            }
            match &mut lie.how {
                How::Is(value) => *byte = *value,
                How::Xor(value) => *byte ^= *value,
                How::Moves(value) => {
                    *byte = *value;
                    *value = value.wrapping_add(1);
                }
                How::Gone => data.fill(0xff),
                How::Fails => outcome = Err(Error::Down("hostile: no answer")),
            }
            lie.left = lie.left.wrapping_sub(1);
            lie.left != 0
        });
        outcome
    }

    /// Follows what the driver tells the device of its queues.
    fn follow(&self, offset: u64, data: &[u8]) {
        let value = data.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        let mut state = self.state();
        let select = state.select;
        let mut queue = state.queues.get(&select).copied().unwrap_or_default();
        let low = |field: u64| field & !0xffff_ffff | value;
        let high = |field: u64| field & 0xffff_ffff | value << 32;
        match (offset, data.len()) {
            (20, 1) => {
                if value == 0 {
                    state.queues.clear();
                }
                return;
            }
            (22, 2) => {
                state.select = value as u16;
                return;
            }
            (24, 2) => queue.size = value as u16,
            (28, 2) => {
                queue.enabled = value == 1;
                let enabled = (select, queue.descriptors);
                state.enabled.push(enabled);
            }
            (32, 4) => queue.descriptors = low(queue.descriptors),
            (36, 4) => queue.descriptors = high(queue.descriptors),
            (40, 4) => queue.available = low(queue.available),
            (44, 4) => queue.available = high(queue.available),
            (48, 4) => queue.used = low(queue.used),
            (52, 4) => queue.used = high(queue.used),
            _ => return,
        }
        state.queues.insert(select, queue);
    }
}

impl fmt::Debug for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hostile")
    }
}

/// A doorbell that the function may be deaf to.
struct Bell {
    function: Weak<Hostile>,
    below: Doorbell,
}

impl Ring for Bell {
    fn ring(&self, value: u16) {
        let Some(function) = self.function.upgrade() else { return };
        // The control queue is the last.
        let control = function.state().queues.keys().next_back().copied();
        if !(function.nature.deaf && control == Some(value)) {
            self.below.ring(value);
        }
    }
}

impl PciFunction for Hostile {
    fn address(&self) -> &str {
        "hostile"
    }
    fn read_config(&self, offset: u16, data: &mut [u8]) -> Result<()> {
        self.honest.read_config(offset, data)?;
        self.corrupt(false, offset.into(), data)
    }
    fn write_config(&self, offset: u16, data: &[u8]) -> Result<()> {
        self.honest.write_config(offset, data)
    }
    fn bar(&self, index: u8) -> Option<Bar> {
        self.honest.bar(index)
    }
    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) -> Result<()> {
        self.honest.read_bar(bar, offset, data)?;
        self.corrupt(true, offset, data)
    }
    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) -> Result<()> {
        if bar == REGISTERS {
            self.follow(offset, data);
        }
        self.honest.write_bar(bar, offset, data)
    }
    fn doorbell(&self, bar: u8, offset: u64) -> Result<Doorbell> {
        let below = self.honest.doorbell(bar, offset)?;
        Ok(Doorbell::Call(Arc::new(Bell { function: self.this.clone(), below })))
    }
    fn dma_reach(&self) -> DmaReach {
        self.nature.reach
    }
    fn map_dma(&self, memory: BorrowedFd<'_>, offset: u64, len: u64) -> Result<DmaMapping> {
        let own = SharedMemory::map(memory, offset, len)?;
        let mut mapping = self.honest.map_dma(memory, offset, len)?;
        let Some(whole) = mapping.segments.first().copied() else { return Ok(mapping) };
        self.state().memory.push(Mapped { memory: own, iova: whole.iova });
        if self.nature.split {
            let half = (len / 2) & !0xfff;
            mapping.segments = vec![
                Segment { len: half, ..whole },
                Segment { offset: whole.offset + half, len: len - half, iova: whole.iova + half },
            ];
        }
        Ok(mapping)
    }
    fn unmap_dma(&self, mapping: &DmaMapping) -> Result<()> {
        let Some(first) = mapping.segments.first() else { return Ok(()) };
        let whole = Segment { len: mapping.len(), ..*first };
        self.honest.unmap_dma(&DmaMapping { segments: vec![whole] })?;
        self.state().memory.retain(|mapped| mapped.iova != whole.iova);
        Ok(())
    }
    fn interrupts(&self) -> Interrupts {
        self.nature.interrupts
    }
    fn set_msix(&self, vectors: &[Option<BorrowedFd<'_>>]) -> Result<()> {
        self.state().events =
            vectors.iter().flatten().filter_map(|fd| fd.try_clone_to_owned().ok()).collect();
        self.honest.set_msix(vectors)
    }
    fn set_intx(&self, event: Option<BorrowedFd<'_>>) -> Result<()> {
        self.state().events = event.iter().filter_map(|fd| fd.as_fd().try_clone_to_owned().ok()).collect();
        self.honest.set_intx(event)
    }
    fn unmask_intx(&self) -> Result<()> {
        self.honest.unmask_intx()
    }
    fn set_bus_master(&self, on: bool) -> Result<()> {
        if !on && self.nature.stubborn {
            return Err(Error::Down("hostile: still the master"));
        }
        self.honest.set_bus_master(on)
    }
    fn reset(&self) -> Result<()> {
        self.honest.reset()?;
        self.state().queues.clear();
        Ok(())
    }
    fn going_away(&self) -> Option<BorrowedFd<'_>> {
        self.going.as_ref().map(|event| event.as_fd())
    }
}

/// Whether a function may do DMA.
pub fn is_bus_master(function: &dyn PciFunction) -> bool {
    let mut command = [0; 2];
    let read = function.read_config(config::COMMAND, &mut command);
    read.is_ok() && u16::from_le_bytes(command) & config::COMMAND_BUS_MASTER != 0
}
