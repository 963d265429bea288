//! A driver that writes any registers and any memory, against the simulator.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use ringbell::sim::{Order, Quirks, Sim, SimConfig, wire};
use ringbell_drivers::dma::SharedMemory;
use ringbell_drivers::pci::{DmaMapping, Doorbell, PciFunction, config};

use crate::bytes::Bytes;
use crate::hostile::is_bus_master;

/// Entries of each queue.
const SIZE: u16 = 16;
/// Bytes of memory: rings of up to three queues, 0x2000 each, then data.
const MEMORY: usize = 64 << 10;
const AVAILABLE: usize = 0x400;
const DATA: usize = 0x6000;
const BELLS: u64 = 0x3000;

/// An RSAPrivateKey of 1024 bits: `openssl genrsa -traditional 1024`, in DER.
const RSA: &[u8] = include_bytes!("rsa-1024.der");
/// Requests of all services, with what belongs to them, lie so far apart.
const ROOM: usize = 0x400;
/// Where in its room the reply to a creation lies.
const REPLY: usize = 0x3c0;

/// The services, each as it should be: opcodes to create and to use a session, algorithm, words of the
/// session's body and of the request, length of the key.
#[derive(Clone, Copy)]
struct Service {
    create: u32,
    opcode: u32,
    algorithm: u32,
    body: [u32; 5],
    words: [u32; 5],
    key: usize,
}

const fn service(
    (create, opcode, algorithm): (u32, u32, u32),
    body: [u32; 5],
    words: [u32; 5],
    key: usize,
) -> Service {
    Service { create, opcode, algorithm, body, words, key }
}

const SERVICES: [Service; 8] = [
    service(
        (wire::CIPHER_CREATE_SESSION, wire::CIPHER_DECRYPT, wire::CIPHER_AES_XTS),
        [wire::CIPHER_AES_XTS, 32, 2, 0, 0],
        [16, 35, 35, 0, 0],
        32,
    ),
    service(
        (wire::HASH_CREATE_SESSION, wire::HASH, wire::HASH_SHA3_224),
        [wire::HASH_SHA3_224, 28, 0, 0, 0],
        [64, 28, 0, 0, 0],
        0,
    ),
    service(
        (wire::MAC_CREATE_SESSION, wire::MAC, wire::MAC_CMAC_AES),
        [wire::MAC_CMAC_AES, 16, 24, 0, 0],
        [65, 16, 0, 0, 0],
        24,
    ),
    service(
        (wire::AEAD_CREATE_SESSION, wire::AEAD_ENCRYPT, wire::AEAD_GCM),
        [wire::AEAD_GCM, 16, 13, 0, 1],
        [16, 20, 40, 53, 13],
        16,
    ),
    service(
        (wire::AEAD_CREATE_SESSION, wire::AEAD_ENCRYPT, wire::AEAD_CCM),
        [wire::AEAD_CCM, 32, 8, 0, 1],
        [13, 20, 40, 48, 0],
        32,
    ),
    service(
        (wire::AEAD_CREATE_SESSION, wire::AEAD_DECRYPT, wire::AEAD_CHACHA20_POLY1305),
        [wire::AEAD_CHACHA20_POLY1305, 32, 16, 0, 2],
        [12, 20, 40, 24, 16],
        32,
    ),
    service(
        (wire::AKCIPHER_CREATE_SESSION, wire::AKCIPHER_SIGN, wire::AKCIPHER_RSA),
        [
            wire::AKCIPHER_RSA,
            wire::AKCIPHER_KEY_TYPE_PRIVATE,
            RSA.len() as u32,
            wire::RSA_PKCS1_PADDING,
            wire::RSA_SHA1,
        ],
        [20, 128, 0, 0, 0],
        RSA.len(),
    ),
    service(
        (wire::AKCIPHER_CREATE_SESSION, wire::AKCIPHER_DECRYPT, wire::AKCIPHER_RSA),
        [wire::AKCIPHER_RSA, wire::AKCIPHER_KEY_TYPE_PRIVATE, RSA.len() as u32, wire::RSA_RAW_PADDING, 0],
        [128, 128, 0, 0, 0],
        RSA.len(),
    ),
];

struct Driver {
    sim: Sim,
    function: Arc<dyn PciFunction>,
    memory: SharedMemory,
    mapping: Option<DmaMapping>,
    base: u64,
    queues: u16,
    bells: Vec<Doorbell>,
    events: Vec<EventFd>,
    /// Where the last reply to the creation of a session of each service lies.
    replies: [Option<usize>; SERVICES.len()],
}

/// Actions from here on are about all services.
const ANY_SERVICE: u8 = 120;

/// Rings, chains, registers, resets and mappings are what the bytes say. The simulator goes on, and
/// writes no memory while it must not.
pub fn hostile_driver(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let shape = bytes.byte();
    let qemu = shape & 0x0c == 0x0c;
    let config = SimConfig {
        queues: if qemu { 1 } else { 1 + u16::from(shape & 1) },
        queue_size: SIZE,
        latency: if shape & 2 == 0 { Duration::ZERO } else { Duration::from_millis(1) },
        quirks: if qemu { Quirks::Qemu } else { Quirks::None },
        order: if shape & 16 == 0 { Order::Fifo } else { Order::Shuffle },
        ..SimConfig::default()
    };
    let queues = config.queues + 1;
    let Ok(sim) = Sim::stepped(config) else { return };
    let function = sim.function();
    let Ok(memory) = SharedMemory::create(MEMORY, false) else { return };
    let bells = (0..queues).filter_map(|n| function.doorbell(4, BELLS + u64::from(n) * 4).ok()).collect();
    let mut driver = Driver {
        sim,
        function,
        memory,
        mapping: None,
        base: 0,
        queues,
        bells,
        events: Vec::new(),
        replies: [None; SERVICES.len()],
    };
    driver.map();
    driver.set_up(shape >> 5);
    let mut steps = 0;
    while !bytes.is_empty() && steps < 512 {
        steps += 1;
        driver.act(&mut bytes);
    }
    driver.step(None);
    driver.unmap();
    driver.step(None);
    let _ = driver.function.reset();
    let stats = driver.sim.stats();
    assert_eq!(stats.taken, stats.completed + stats.dropped, "every request taken has an end: {stats:?}");
    // QEMU's device keeps them.
    assert!(qemu || stats.sessions == 0, "a reset forgets sessions");
}

/// A request to create a session of a service, with its key.
fn creation(service: &Service) -> Vec<u8> {
    let Service { create, algorithm, body, key, .. } = *service;
    let mut request = vec![0; 72 + key];
    let mut set = |at: usize, value: u32| request[at..at + 4].copy_from_slice(&value.to_le_bytes());
    set(0, create);
    set(4, algorithm);
    (0..).zip(body).for_each(|(n, word)| set(16 + 4 * n, word));
    set(64, wire::SYM_OP_CIPHER);
    let rsa = create == wire::AKCIPHER_CREATE_SESSION;
    request[72..].copy_from_slice(if rsa { RSA } else { &RSA[..key] });
    request
}

impl Driver {
    fn write(&self, at: u64, data: &[u8]) {
        let _ = self.function.write_bar(4, at, data);
    }

    fn map(&mut self) {
        if self.mapping.is_none()
            && let Ok(mapping) = self.function.map_dma(self.memory.fd(), 0, self.memory.len() as u64)
        {
            self.base = mapping.segments.first().map_or(0, |segment| segment.iova);
            self.mapping = Some(mapping);
        }
    }

    fn unmap(&mut self) {
        if let Some(mapping) = self.mapping.take() {
            self.function.unmap_dma(&mapping).expect("it was mapped");
        }
    }

    /// A proper beginning, so that the rings are reached; the bytes may undo it.
    fn set_up(&self, features: u8) {
        let _ = self.function.write_config(
            config::COMMAND,
            &(config::COMMAND_MEMORY | config::COMMAND_BUS_MASTER).to_le_bytes(),
        );
        for status in [0, 1, 3] {
            self.write(20, &[status]);
        }
        let bits = [wire::F_INDIRECT_DESC, wire::F_EVENT_IDX, wire::F_RING_RESET];
        let chosen = (0..).zip(bits).filter(|(n, _)| features >> n & 1 == 1).map(|(_, bit)| bit);
        let accepted = chosen.fold(wire::F_VERSION_1 | wire::F_ACCESS_PLATFORM, |all, bit| all | bit);
        for half in 0..2_u32 {
            self.write(8, &half.to_le_bytes());
            self.write(12, &((accepted >> (32 * half)) as u32).to_le_bytes());
        }
        self.write(20, &[11]);
        (0..self.queues).for_each(|queue| self.set_queue(queue));
        self.write(20, &[15]);
    }

    fn set_queue(&self, queue: u16) {
        self.write(22, &queue.to_le_bytes());
        self.write(24, &SIZE.to_le_bytes());
        let area = self.base + u64::from(queue) * 0x2000;
        for (at, address) in [(32, area), (40, area + AVAILABLE as u64), (48, area + 0x800)] {
            self.write(at, &address.to_le_bytes());
        }
        self.write(26, &queue.to_le_bytes());
        self.write(28, &1_u16.to_le_bytes());
    }

    fn put(&self, at: usize, data: &[u8]) {
        let _ = self.memory.write(at % (MEMORY - 128), data);
    }

    fn descriptor(&self, at: usize, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.put(at, &bytes);
    }

    /// Publishes a chain of a queue; `step` is how far the index goes.
    fn publish(&self, queue: usize, head: u16, step: u16) {
        let ring = queue * 0x2000 + AVAILABLE;
        let index = self.memory.load_u16(ring + 2, Ordering::Relaxed).unwrap_or(0);
        let place = ring + 4 + 2 * usize::from(index % SIZE);
        let _ = self.memory.store_u16(place, head, Ordering::Relaxed);
        let _ = self.memory.store_u16(ring + 2, index.wrapping_add(step), Ordering::Release);
    }

    /// A request as it should be, but for what the bytes change: `parts` are offsets, lengths and
    /// whether the device writes; their descriptors stand in the ring's table, or in one of their own.
    fn chain(&self, queue: usize, head: u16, parts: &[(usize, usize, bool)], indirect: bool) {
        let table = if indirect { 0x5000 + usize::from(head) * 128 } else { queue * 0x2000 };
        let first = if indirect { 0 } else { head };
        for (n, (at, len, writable)) in (0_u16..).zip(parts) {
            let index = if indirect { n } else { (first + n) % SIZE };
            let more = usize::from(n) + 1 < parts.len();
            let next = if !more {
                0
            } else if indirect {
                n + 1
            } else {
                (first + n + 1) % SIZE
            };
            let flags = u16::from(more) | if *writable { 2 } else { 0 };
            let address = self.base + *at as u64;
            self.descriptor(table + 16 * usize::from(index), address, *len as u32, flags, next);
        }
        if indirect {
            let (address, len) = (self.base + table as u64, 16 * parts.len() as u32);
            self.descriptor(queue * 0x2000 + 16 * usize::from(head), address, len, 4, 0);
        }
        self.publish(queue, head, 1);
    }

    fn create_session(&self, bytes: &mut Bytes) {
        let (how, at) = (bytes.byte(), DATA + 0x200 * bytes.below(16));
        let algorithm =
            [wire::CIPHER_AES_CBC, wire::CIPHER_AES_CTR, wire::CIPHER_AES_ECB, 7][usize::from(how & 3)];
        let key = [16, 24, 32, 16][usize::from(how >> 2 & 3)];
        let opcode =
            if how >> 4 & 7 == 7 { wire::CIPHER_DESTROY_SESSION } else { wire::CIPHER_CREATE_SESSION };
        let mut request = [0; 72 + 32];
        let mut set = |at: usize, value: u32| request[at..at + 4].copy_from_slice(&value.to_le_bytes());
        set(0, opcode);
        set(4, algorithm);
        set(16, if opcode == wire::CIPHER_DESTROY_SESSION { u32::from(how & 7) } else { algorithm });
        set(20, key);
        set(24, 1 + u32::from(how >> 7));
        set(64, wire::SYM_OP_CIPHER);
        if bytes.byte() > 240 {
            set(4 * bytes.below(18), bytes.word());
        }
        self.put(at, &request);
        let queue = usize::from(self.queues) - 1;
        let head = bytes.below(16) as u16;
        let parts = [(at, 72 + key as usize, false), (at + 0x100, 16, true)];
        self.chain(queue, head, &parts, bytes.byte() & 3 == 3);
        self.ring(queue);
    }

    fn encrypt(&self, bytes: &mut Bytes) {
        let (how, at) = (bytes.byte(), DATA + 0x200 * bytes.below(16));
        let len = bytes.below(17) * if how & 1 == 0 { 16 } else { 3 };
        let iv = if how & 2 == 0 { 16 } else { 0 };
        let mut request = [0; 72];
        let mut set = |at: usize, value: u32| request[at..at + 4].copy_from_slice(&value.to_le_bytes());
        set(0, if how & 4 == 0 { wire::CIPHER_ENCRYPT } else { wire::CIPHER_DECRYPT });
        set(4, wire::CIPHER_AES_CBC + u32::from(how >> 3 & 1));
        set(8, bytes.below(5) as u32);
        set(24, iv);
        set(28, len as u32);
        set(32, len as u32);
        set(64, wire::SYM_OP_CIPHER);
        if bytes.byte() > 240 {
            set(4 * bytes.below(18), bytes.word());
        }
        self.put(at, &request);
        let queue = bytes.below(usize::from(self.queues - 1).max(1));
        let head = bytes.below(16) as u16;
        let source = (at + 0x60, len, false);
        let destination = (at + if how & 16 == 0 { 0x60 } else { 0x400 }, len, true);
        let all = [(at, 72 + iv as usize, false), source, destination, (at + 0x5f, 1, true)];
        let short = [all[0], all[3]];
        self.chain(queue, head, if len == 0 { &short } else { &all }, how & 0x60 == 0x60);
    }

    /// Changes some bytes of a request, mostly none, or a word of it.
    fn spoil(&self, request: &mut [u8], bytes: &mut Bytes) {
        let how = bytes.byte();
        if how > 200 {
            let at = usize::from(bytes.half()) % request.len();
            request[at] = bytes.byte();
        } else if how > 150 {
            let (at, value) = (4 * bytes.below(18), bytes.word());
            request[at..at + 4].copy_from_slice(&value.to_le_bytes());
        } else if how > 100 {
            let (at, value) = (4 * bytes.below(18), u32::from(bytes.byte()));
            request[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
    }

    /// A session of any service is created, or destroyed.
    fn create_any(&mut self, bytes: &mut Bytes) {
        let (which, at, how) = (bytes.below(SERVICES.len()), DATA + ROOM * bytes.below(8), bytes.byte());
        let Service { create, .. } = SERVICES[which];
        let mut request = creation(&SERVICES[which]);
        if how & 7 == 7 {
            request[..4].copy_from_slice(&(create | 1).to_le_bytes());
            request[16..24].copy_from_slice(&self.session(which));
        } else {
            self.replies[which] = Some(at + REPLY);
        }
        self.spoil(&mut request, bytes);
        self.control(at, &request, bytes.below(16) as u16, how & 0x30 == 0x30);
    }

    /// A request on the control queue, with room for its reply.
    fn control(&self, at: usize, request: &[u8], head: u16, indirect: bool) {
        self.put(at, request);
        let queue = usize::from(self.queues) - 1;
        self.chain(queue, head, &[(at, request.len(), false), (at + REPLY, 16, true)], indirect);
        self.ring(queue);
    }

    /// The id that the last creation was answered with.
    fn session(&self, which: usize) -> [u8; 8] {
        let mut id = [0; 8];
        if let Some(reply) = self.replies[which] {
            let _ = self.memory.read(reply, &mut id);
        }
        id
    }

    /// A request of any service, mostly with a session of it.
    fn ask_any(&mut self, bytes: &mut Bytes) {
        let (which, at) = (bytes.below(SERVICES.len()), DATA + ROOM * bytes.below(8));
        let Service { opcode, algorithm, words, .. } = SERVICES[which];
        let how = bytes.byte();
        if self.replies[which].is_none() {
            let place = DATA + ROOM * (8 + which);
            self.replies[which] = Some(place + REPLY);
            self.control(place, &creation(&SERVICES[which]), which as u16, false);
        }
        let mut request = vec![0; 72];
        let mut set = |at: usize, value: u32| request[at..at + 4].copy_from_slice(&value.to_le_bytes());
        // RSA has four operations.
        let other = if opcode >> 8 == wire::SERVICE_AKCIPHER { u32::from(how & 3) } else { 0 };
        set(0, opcode ^ other);
        set(4, algorithm);
        (0..).zip(words).for_each(|(n, word)| set(24 + 4 * n, word));
        set(64, if opcode >> 8 == wire::SERVICE_CIPHER { wire::SYM_OP_CIPHER } else { 0 });
        request[8..16].copy_from_slice(&self.session(if how & 0x1c == 0x1c {
            how as usize >> 5
        } else {
            which
        }));
        self.spoil(&mut request, bytes);
        self.put(at, &request);
        let queue = bytes.below(usize::from(self.queues - 1).max(1));
        // What the request reads is what lies behind it; it may write there, too.
        let (readable, writable) = (bytes.byte(), bytes.byte());
        let readable = if readable < 200 { 200 } else { usize::from(readable) - 200 };
        let writable = if writable < 200 { 200 } else { usize::from(writable) - 199 };
        let place = if how & 0x20 == 0 { at + 0x200 } else { at + 80 };
        let parts = [(at, 72, false), (at + 72, readable, false), (place, writable, true)];
        self.chain(queue, bytes.below(16) as u16, &parts, how & 0xc0 == 0xc0);
    }

    fn ring(&self, queue: usize) {
        if let Some(bell) = self.bells.get(queue) {
            bell.ring(queue as u16);
        }
    }

    /// A step of the device, which must leave memory alone where it may do no DMA.
    fn step(&self, most: Option<usize>) {
        let status = self.sim.stats().device_status;
        let live =
            is_bus_master(&*self.function) && status & wire::STATUS_DRIVER_OK != 0 && self.mapping.is_some();
        let before = (!live).then(|| self.contents());
        self.sim.step_n(most.unwrap_or(usize::MAX));
        if let Some(before) = before {
            assert!(before == self.contents(), "it writes memory that it must not write");
        }
    }

    fn contents(&self) -> Vec<u8> {
        let mut contents = vec![0; self.memory.len()];
        let _ = self.memory.read(0, &mut contents);
        contents
    }

    fn act(&mut self, bytes: &mut Bytes) {
        let queue = |bytes: &mut Bytes| bytes.below(3);
        let action = bytes.byte();
        match action % 24 {
            // A descriptor in a table, mostly into our memory.
            0 | 1 => {
                let place = if bytes.byte() & 7 == 7 { 0x5000 } else { queue(bytes) * 0x2000 };
                let place = place + bytes.below(32) * 16;
                let mut address = u64::from(bytes.word());
                if bytes.byte() & 7 != 0 {
                    address = self.base + address % 0x1_0000;
                }
                let len = if bytes.byte() & 7 == 0 { bytes.word() } else { bytes.byte().into() };
                self.descriptor(
                    place,
                    address,
                    len,
                    u16::from(bytes.byte() & 7),
                    u16::from(bytes.byte() % 18),
                );
            }
            2 => {
                let (queue, head) = (queue(bytes), u16::from(bytes.byte() % 18));
                let step = if bytes.byte() == 0 { bytes.byte().into() } else { 1 };
                self.publish(queue, head, step);
            }
            3 => {
                let (offset, data) = (bytes.half(), bytes.word().to_le_bytes());
                self.put(offset.into(), &data);
            }
            4 => (0..self.bells.len()).for_each(|queue| self.ring(queue)),
            5..=7 => self.step(None),
            8 => {
                self.step(Some(bytes.below(4)));
                self.sim.advance(Duration::from_micros(u64::from(bytes.byte()) * 100));
            }
            9 => {
                let (at, data, how) = (u64::from(bytes.byte()), bytes.word().to_le_bytes(), bytes.byte());
                let len = [1, 2, 4][usize::from(how % 3)];
                let bar = if how & 0x70 == 0x70 { 1 } else { 4 };
                let _ = self.function.write_bar(bar, at / len as u64 * len as u64, &data[..len]);
            }
            10 => {
                let mut data = [0; 4];
                let at = u64::from(bytes.half()) % 0x5000 / 4 * 4;
                let _ = self.function.read_bar(4, at, &mut data);
                let _ = self.function.read_config(bytes.half(), &mut data);
            }
            // A ring's descriptor for a table elsewhere.
            11 => {
                let (queue, head, count) = (queue(bytes), bytes.below(16), bytes.byte());
                let len = if count & 0xf0 == 0xf0 { bytes.word() } else { u32::from(count % 9) * 16 };
                let table = self.base + 0x5000 + u64::from(bytes.byte()) * 16;
                self.descriptor(
                    queue * 0x2000 + 16 * head,
                    table,
                    len,
                    4 | u16::from(bytes.byte() & 0x11),
                    0,
                );
            }
            12 | 13 if action < ANY_SERVICE => self.create_session(bytes),
            12 | 13 => self.create_any(bytes),
            14..=17 if action < ANY_SERVICE => self.encrypt(bytes),
            14..=17 => self.ask_any(bytes),
            18 => {
                self.write(20, &[0]);
                self.step(None);
                if bytes.flag() {
                    self.set_up(bytes.byte());
                }
            }
            19 => {
                let _ = self.function.set_bus_master(bytes.flag());
            }
            20 => {
                let _ = self.function.reset();
                if bytes.flag() {
                    self.set_up(bytes.byte());
                }
            }
            21 => {
                let queue = queue(bytes) as u16;
                self.write(22, &queue.to_le_bytes());
                self.write(58, &1_u16.to_le_bytes());
                if bytes.flag() {
                    // The rings begin again.
                    for at in [AVAILABLE, 0x800] {
                        self.put(usize::from(queue) * 0x2000 + at, &[0; 4]);
                    }
                    self.set_queue(queue);
                }
            }
            22 => {
                if bytes.flag() {
                    self.unmap();
                }
                self.map();
            }
            _ => self.interrupts(bytes),
        }
    }

    fn interrupts(&mut self, bytes: &mut Bytes) {
        let how = bytes.byte();
        while self.events.len() < 3 {
            let Ok(event) = EventFd::from_flags(EfdFlags::EFD_NONBLOCK) else { return };
            self.events.push(event);
        }
        let vectors: Vec<_> =
            self.events.iter().map(|event| (how & 0x10 == 0).then(|| event.as_fd())).collect();
        let _ = match how % 4 {
            0 => self.function.set_msix(&vectors[..usize::from(how >> 2 & 3)]),
            1 => self.function.set_intx(vectors[0]),
            2 => self.function.unmask_intx(),
            _ => self.function.write_config(bytes.byte().into(), &bytes.word().to_le_bytes()),
        };
    }
}
