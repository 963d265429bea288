//! Memory of the program's own, registered for DMA: worked on in place, refused where buffers would
//! overlap, and taken from the device when nobody uses it any more, never before.

mod common;

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use common::kinds::Wanted;
use common::{Rng, evp, oracle, output, run, stepped, submit};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use ringbell::sim::Sim;
use ringbell::{
    Aead, Answer, Buffers, Cipher, Clock, Device, DeviceOptions, DeviceState, Direction, Error, Fault, Hash,
    ManualClock, ManualPoller, Poller, PollerConfig, Registration, Status, UserMemory, WaitCtx,
};
use ringbell_tests::hostile::{Hostile, Nature};

const PAGE: usize = 4096;

/// A memfd, with the test's own map of it.
struct File {
    fd: OwnedFd,
    name: String,
    base: NonNull<u8>,
    len: usize,
}

impl File {
    fn new(name: &str, len: usize) -> Self {
        Self::of(name, len, MFdFlags::empty()).expect("a memfd")
    }

    fn of(name: &str, len: usize, flags: MFdFlags) -> nix::Result<Self> {
        let name = format!("ringbell-test-{name}");
        let fd = memfd_create(name.as_str(), MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC | flags)?;
        nix::unistd::ftruncate(&fd, len as i64)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK))?;
        let size = NonZeroUsize::new(len).unwrap();
        // SAFETY: a new map at an address of the kernel's choice.
        let base = unsafe {
            mmap(None, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, &fd, 0)
        }?;
        Ok(Self { fd, name, base: base.cast(), len })
    }

    fn memory(&self, offset: usize, len: usize) -> Result<UserMemory, Error> {
        // SAFETY: the tests write through their own map only to bytes that are in no buffer, and read only
        // what no thread of the device works on at that moment.
        unsafe { UserMemory::map(self.fd.as_fd(), offset as u64, len as u64) }
    }

    fn register(&self, device: &Device) -> Registration {
        device.register(self.memory(0, self.len).unwrap()).unwrap()
    }

    /// By the test's own map.
    fn read(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= self.len);
        let mut bytes = vec![0; len];
        // SAFETY: inside the map; nobody writes there now.
        unsafe { self.base.as_ptr().add(at).copy_to_nonoverlapping(bytes.as_mut_ptr(), len) };
        bytes
    }

    fn write(&self, at: usize, data: &[u8]) {
        assert!(at + data.len() <= self.len);
        // SAFETY: inside the map; the bytes are in no buffer.
        unsafe { self.base.as_ptr().add(at).copy_from_nonoverlapping(data.as_ptr(), data.len()) };
    }

    /// How often it is mapped into this process, the test's own map not counted.
    fn maps(&self) -> usize {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let word = format!("memfd:{} ", self.name);
        maps.lines().filter(|line| format!("{line} ").contains(&word)).count() - 1
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: the test's own map, of which nobody has a reference.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

fn device() -> (Device, Poller) {
    let device = Device::open("sim:").unwrap();
    let poller = Poller::spawn(&device, Default::default()).unwrap();
    (device, poller)
}

struct Bench {
    sim: Sim,
    device: Device,
    poller: ManualPoller,
    clock: ManualClock,
}

fn bench(sim: &str) -> Bench {
    let clock = ManualClock::new();
    let config = PollerConfig { clock: Clock::Manual(clock.clone()), ..Default::default() };
    let options = DeviceOptions { queue_size: 16, ..Default::default() };
    let (sim, device, poller) = stepped(sim, &options, config);
    Bench { sim, device, poller, clock }
}

impl Bench {
    fn round(&mut self) {
        if self.sim.step() + self.poller.poll() == 0 {
            self.clock.advance(Duration::from_millis(20));
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        for _ in 0..4000 {
            if condition(self) {
                return;
            }
            self.round();
        }
        panic!("it never comes: {what}; {:?} {:?}", self.device.state(), self.device.stats());
    }
}

fn refused<T>(result: Result<T, Error>, word: &str) {
    match result {
        Err(Error::Invalid(text)) => assert!(text.contains(word) && !text.contains('\n'), "{text}"),
        Err(other) => panic!("{word}: {other:?}"),
        Ok(_) => panic!("{word}: it was not refused"),
    }
}

#[test]
fn every_kind_works_in_place_on_memory_of_the_programs_own() {
    let (device, poller) = device();
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(1));
    let file = File::new("kinds", 16 * PAGE);
    let memory = file.register(&device);
    assert_eq!((memory.len(), memory.is_empty()), (16 * PAGE, false));
    let key = device.cipher_key(Cipher::Aes256Cbc, &[3; 32]).unwrap();
    let aead = device.aead_key(Aead::Aes128Gcm, &[4; 16]).unwrap();
    let hasher = device.hasher(Hash::Sha512).unwrap();
    for round in 0..200 {
        // At any byte: nothing is aligned.
        let (at, len) = (rng.below(8 * PAGE), 16 * (1 + rng.below(500)));
        let data = rng.bytes(len);
        let around = file.read(0, 16 * PAGE);
        file.write(at, &data);
        let check = |result: &[u8]| {
            let mut expected = around.clone();
            expected[at..at + result.len()].copy_from_slice(result);
            if result.len() < len {
                expected[at + result.len()..at + len].copy_from_slice(&data[result.len()..]);
            }
            assert!(file.read(0, 16 * PAGE) == expected, "round {round}: {len} bytes at {at}");
        };
        match round % 4 {
            0 => {
                let done = run(key.encrypt(&[7; 16], memory.buffer(at..at + len).unwrap()), &ctx);
                let expected = oracle(Cipher::Aes256Cbc, Direction::Encrypt, &[3; 32], &[7; 16], &data);
                assert_eq!(done.request().output(), expected);
                check(&expected);
            }
            1 => {
                let mut buffer = memory.buffer(at..at + len + 16).unwrap();
                buffer.set_len(len).unwrap();
                let done = run(aead.seal(&[1; 12], b"", buffer).unwrap(), &ctx);
                let expected = evp::seal(Aead::Aes128Gcm, &[4; 16], &[1; 12], b"", &data, 16);
                assert_eq!(output(&done), expected);
                check(&expected);
            }
            2 => {
                let done = run(hasher.digest(memory.buffer(at..at + len).unwrap()).unwrap(), &ctx);
                assert_eq!(output(&done), evp::hash(Hash::Sha512, &data));
                check(&data);
            }
            _ => {
                // From the device's own memory into the program's, which is in two buffers.
                let half = 1 + rng.below(len - 1);
                let to: Buffers =
                    [memory.buffer(at..at + half).unwrap(), memory.buffer(at + half..at + len).unwrap()]
                        .into();
                let from = device.buffer_from(&data).unwrap();
                let done = run(key.scatter(Direction::Decrypt, &[7; 16], from, Some(to)).unwrap(), &ctx);
                let expected = oracle(Cipher::Aes256Cbc, Direction::Decrypt, &[3; 32], &[7; 16], &data);
                assert_eq!(output(&done), expected);
                check(&expected);
            }
        }
    }
    assert_eq!((device.stats().errors, device.stats().faults), (0, 0));
    memory.unregister().expect("nothing uses it");
    assert_eq!(file.maps(), 0);
    poller.shutdown();
}

#[test]
fn a_byte_is_in_one_buffer_at_a_time() {
    let device = Device::open("sim:").unwrap();
    let file = File::new("overlap", 4 * PAGE);
    let memory = file.register(&device);
    let first = memory.buffer(100..200).unwrap();
    for range in [100..200, 0..101, 199..300, 120..130, 0..4 * PAGE, 199..200, 100..101] {
        refused(memory.buffer(range.clone()), "another buffer");
        refused(memory.pieces(range), "another buffer");
    }
    // Side by side they may be.
    let (before, behind) = (memory.buffer(0..100).unwrap(), memory.buffer(200..4 * PAGE).unwrap());
    assert_eq!((before.len(), behind.len(), first.len()), (100, 4 * PAGE - 200, 100));
    assert_eq!((before.capacity(), first.capacity()), (100, 100), "no more than its range");
    for range in [0..0, 5..5, 4 * PAGE..4 * PAGE, 0..4 * PAGE + 1, 4 * PAGE..5 * PAGE, 0..usize::MAX] {
        refused(memory.buffer(range.clone()), "at least one");
        // What is inside of it may be in a buffer, too.
        refused(memory.pieces(range), "cannot use bytes");
    }
    #[expect(clippy::reversed_empty_ranges, reason = "that is the case")]
    {
        refused(memory.buffer(200..100), "at least one");
    }
    // In a request too.
    let key = device.cipher_key(Cipher::Aes128Ctr, &[1; 16]).unwrap();
    let request = key.encrypt(&[0; 16], first);
    refused(memory.buffer(150..160), "another buffer");
    drop(request);
    let again = memory.buffer(100..200).unwrap();
    drop(again);
    drop((before, behind));
    refused(memory.pieces(0..4 * PAGE + 1), "at least one");
    memory.buffer(0..4 * PAGE).unwrap();
    assert_eq!(memory.pieces(0..4 * PAGE).unwrap().pieces().len(), 1, "what was refused took nothing");
}

#[test]
fn files_that_are_not_fit_are_clear_errors() {
    let file = File::new("fit", 2 * PAGE);
    for (offset, len) in [(0, 0), (0, 3 * PAGE), (2 * PAGE, PAGE), (1, PAGE), (100, 10)] {
        refused(file.memory(offset, len), "map");
    }
    let unsealed = memfd_create(c"ringbell-unsealed", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    nix::unistd::ftruncate(&unsealed, PAGE as i64).unwrap();
    // SAFETY: nobody uses it.
    refused(unsafe { UserMemory::map(unsealed.as_fd(), 0, PAGE as u64) }, "sealed");
    let folder = tempfile::tempfile().unwrap();
    folder.set_len(PAGE as u64).unwrap();
    // SAFETY: nobody uses it.
    assert!(unsafe { UserMemory::map(folder.as_fd(), 0, PAGE as u64) }.is_err(), "it cannot be sealed");
}

#[test]
fn it_stays_while_a_handle_a_buffer_or_a_request_uses_it_and_goes_then() {
    let Bench { sim, device, mut poller, .. } = bench("");
    let file = File::new("stays", 4 * PAGE);
    let key = device.cipher_key(Cipher::Aes128Ctr, &[1; 16]).unwrap();
    key.prepare().unwrap();
    let memory = file.register(&device);
    let there = file.maps();
    assert_eq!(there, 2, "the driver's and the device's");

    let other = memory.clone();
    let memory = memory.unregister().expect_err("there is another handle");
    drop(other);
    let buffer = memory.buffer(0..64).unwrap();
    let memory = memory.unregister().expect_err("there is a buffer");
    let request = key.encrypt(&[0; 16], buffer);
    let memory = memory.unregister().expect_err("there is a request");
    let ctx = WaitCtx::new();
    submit(request, &ctx);
    let memory = memory.unregister().expect_err("a request is in flight");
    sim.step();
    let memory = memory.unregister().expect_err("it is done, and nobody has polled");
    poller.poll();
    let memory = memory.unregister().expect_err("it waits in its context");
    let done = ctx.take().unwrap();
    assert_eq!(done.result(), Ok(Answer::Yes));
    let memory = memory.unregister().expect_err("it is in the program's hands");
    assert_eq!(file.maps(), there);
    drop(done);
    memory.unregister().expect("nothing uses it");
    assert_eq!(file.maps(), 0, "it is mapped still");

    // Without a handle, the last request does it.
    let memory = file.register(&device);
    let request = key.encrypt(&[0; 16], memory.buffer(64..128).unwrap());
    drop(memory);
    assert_eq!(file.maps(), 2);
    submit(request, &ctx);
    sim.step();
    poller.poll();
    let done = ctx.take().unwrap();
    assert_eq!((done.result(), file.maps()), (Ok(Answer::Yes), 2));
    drop(done);
    assert_eq!(file.maps(), 0);
    assert_eq!(sim.stats().last_fault, None);
}

#[test]
fn a_cancelled_request_keeps_it_until_the_device_has_returned_it() {
    let mut bench = bench("");
    let file = File::new("cancelled", PAGE);
    let key = bench.device.cipher_key(Cipher::Aes128Ctr, &[1; 16]).unwrap();
    key.prepare().unwrap();
    let memory = file.register(&bench.device);
    let ctx = WaitCtx::new();
    submit(key.encrypt(&[0; 16], memory.buffer(0..64).unwrap()), &ctx);
    bench.device.cancel(&ctx);
    bench.poller.poll();
    let done = ctx.take().expect("an early end");
    assert_eq!((done.result(), ctx.status()), (Err(Fault::Canceled), Status::Err));
    assert!(done.request().input().is_empty());
    drop((done, ctx));
    let memory = memory.unregister().expect_err("the device has it");
    refused(memory.buffer(0..1), "another buffer");
    assert_eq!(file.maps(), 2);
    bench.sim.step();
    bench.poller.poll();
    memory.unregister().expect("the device has returned it");
    assert_eq!(file.maps(), 0);
}

#[test]
fn in_quarantine_it_stays_until_the_device_was_reset() {
    let mut bench = bench("fault=drop@1:x2");
    let file = File::new("quarantine", PAGE);
    let plain = bench.device.cipher_key(Cipher::Aes128Ctr, &[1; 16]).unwrap();
    plain.prepare().unwrap();
    let hasher = bench.device.hasher(Hash::Sha1).unwrap();
    hasher.prepare().unwrap();
    let memory = file.register(&bench.device);
    let contexts = [WaitCtx::new(), WaitCtx::new()];
    submit(plain.encrypt(&[0; 16], memory.buffer(0..64).unwrap()), &contexts[0]);
    submit(hasher.digest(memory.buffer(64..128).unwrap()).unwrap(), &contexts[1]);
    bench.until("the deadline", |_| contexts.iter().all(|ctx| !ctx.is_busy()));
    for ctx in &contexts {
        assert_eq!(ctx.take().unwrap().result(), Err(Fault::TimedOut));
    }
    assert_eq!(bench.device.stats().quarantined, 2);
    let memory = memory.unregister().expect_err("the device may write there");
    drop(memory);
    assert_eq!(file.maps(), 2);
    // Nothing comes from the device any more, so that it is reset; then nothing can be written.
    bench.until("the recovery", |bench| bench.device.stats().recoveries == 1);
    bench.until("the end", |bench| bench.device.stats().quarantined == 0);
    assert_eq!(file.maps(), 0, "after the reset nobody uses it");
    assert_eq!(bench.device.stats().leaked_bytes, 0);
}

#[test]
fn a_device_comes_back_with_registered_memory_in_flight_and_reaches_it_again() {
    for fault in ["needs-reset@3", "stall@2", "bad-id@2", "status-garbage@2", "write-after-reset@2"] {
        let mut bench = bench("");
        let file = File::new("recovery", 4 * PAGE);
        let key = bench.device.cipher_key(Cipher::Aes128Cbc, &[1; 16]).unwrap();
        let aead = bench.device.aead_key(Aead::ChaCha20Poly1305, &[2; 32]).unwrap();
        key.prepare().unwrap();
        aead.prepare(3).unwrap();
        let memory = file.register(&bench.device);
        let mut rng = Rng::new(9);
        let data = rng.bytes(4 * PAGE);
        bench.sim.inject(fault.parse().unwrap());
        let contexts: Vec<_> = (0..8).map(|_| WaitCtx::new()).collect();
        let sealed = evp::seal(Aead::ChaCha20Poly1305, &[2; 32], &[5; 12], b"aad", &data[..48], 16);
        let make = |number: usize| {
            let at = 64 * number;
            let what = format!("{fault}, request {number}");
            if number.is_multiple_of(2) {
                let mut buffer = memory.buffer(at..at + 48).unwrap();
                buffer.copy_from_slice(&data[..48]);
                let output = oracle(Cipher::Aes128Cbc, Direction::Encrypt, &[1; 16], &[4; 16], &data[..48]);
                (key.encrypt(&[4; 16], buffer), Wanted { what, answer: Answer::Yes, output })
            } else {
                let mut buffer = memory.buffer(at..at + 64).unwrap();
                buffer.set_len(48).unwrap();
                buffer.copy_from_slice(&data[..48]);
                let request = aead.seal(&[5; 12], b"aad", buffer).unwrap();
                (request, Wanted { what, answer: Answer::Yes, output: sealed.clone() })
            }
        };
        let mut lost = 0;
        for round in 0..3 {
            let mut wanted = Vec::new();
            for (number, ctx) in contexts.iter().enumerate() {
                let (request, want) = make(number);
                wanted.push(want);
                let device = bench.device.clone();
                let mut left = Some(request);
                bench.until("room", |_| {
                    left = left.take().and_then(|request| match request.submit(ctx) {
                        Ok(()) => None,
                        Err(refused) => {
                            assert_eq!(refused.status(), Status::Eagain, "{device:?}");
                            Some(refused.into_request())
                        }
                    });
                    left.is_none()
                });
            }
            bench.until("the ends", |_| contexts.iter().all(|ctx| !ctx.is_busy()));
            // What has ended early is with the device still, until it was reset.
            bench.until("calm", |bench| {
                bench.device.state() == DeviceState::Ready && bench.device.stats().quarantined == 0
            });
            for (ctx, wanted) in contexts.iter().zip(&wanted) {
                let done = ctx.take().unwrap();
                if done.result().is_ok() {
                    wanted.check(&done);
                } else {
                    assert_eq!(round, 0, "{}: {:?}", wanted.what, done.result());
                    lost += 1;
                }
            }
        }
        assert!(lost >= 1, "{fault}");
        assert_eq!(bench.device.stats().recoveries, 1, "{fault}");
        memory.unregister().unwrap_or_else(|_| panic!("{fault}: it is in use"));
        assert_eq!(file.maps(), 0, "{fault}");
    }
}

#[test]
fn two_registrations_and_parts_of_one_file_stand_side_by_side() {
    let (device, poller) = device();
    let ctx = WaitCtx::new();
    let (one, two) = (File::new("one", 8 * PAGE), File::new("two", 2 * PAGE));
    let whole = two.register(&device);
    // From the third page on, and the first two.
    let behind = device.register(one.memory(2 * PAGE, 6 * PAGE).unwrap()).unwrap();
    let front = device.register(one.memory(0, 2 * PAGE).unwrap()).unwrap();
    assert_eq!((behind.len(), front.len()), (6 * PAGE, 2 * PAGE));
    refused(behind.buffer(6 * PAGE - 1..6 * PAGE + 1), "at least one");
    let key = device.cipher_key(Cipher::Aes128Ctr, &[8; 16]).unwrap();
    one.write(2 * PAGE + 10, b"from the third page on");
    one.write(10, b"at the front");
    let from: Buffers = [behind.buffer(10..32).unwrap(), front.buffer(10..22).unwrap()].into();
    let to = whole.buffer(PAGE + 1..PAGE + 35).unwrap();
    let done = run(key.scatter(Direction::Encrypt, &[0; 16], from, Some(to.into())).unwrap(), &ctx);
    let plain = b"from the third page onat the front";
    let expected = oracle(Cipher::Aes128Ctr, Direction::Encrypt, &[8; 16], &[0; 16], plain);
    assert_eq!(output(&done), expected);
    assert_eq!(two.read(PAGE + 1, 34), expected);
    drop(done);
    front.unregister().unwrap();
    assert_eq!(one.maps(), 2, "the other part stays");
    behind.unregister().unwrap();
    assert_eq!(one.maps(), 0);
    assert_eq!(two.maps(), 2);
    drop(whole);
    assert_eq!(two.maps(), 0);
    poller.shutdown();
}

#[test]
fn memory_that_is_not_contiguous_for_the_device_is_used_in_pieces() {
    let sim = Sim::stepped("".parse().unwrap()).unwrap();
    let function = Hostile::new(sim.function(), Nature { split: true, ..Nature::HONEST });
    let device = Device::from_function(Arc::clone(&function) as Arc<_>, &DeviceOptions::default()).unwrap();
    let mut poller = ManualPoller::new([&device], PollerConfig::default()).unwrap();
    let file = File::new("split", 4 * PAGE);
    let memory = file.register(&device);
    refused(memory.buffer(2 * PAGE - 8..2 * PAGE + 8), "contiguous");
    let pieces = memory.pieces(2 * PAGE - 8..2 * PAGE + 8).unwrap();
    assert_eq!(pieces.pieces().iter().map(|piece| piece.size()).collect::<Vec<_>>(), [8, 8]);
    let key = device.cipher_key(Cipher::Aes128Ctr, &[8; 16]).unwrap();
    key.prepare().unwrap();
    let ctx = WaitCtx::new();
    submit(key.scatter(Direction::Encrypt, &[0; 16], pieces, None).unwrap(), &ctx);
    sim.step();
    poller.poll();
    let expected = oracle(Cipher::Aes128Ctr, Direction::Encrypt, &[8; 16], &[0; 16], &[0; 16]);
    let done = ctx.take().unwrap();
    assert_eq!((done.result(), output(&done)), (Ok(Answer::Yes), expected.clone()));
    assert_eq!(file.read(2 * PAGE - 8, 16), expected);
    drop(done);
    assert_eq!(function.mapped(), 2);
    memory.unregister().unwrap();
    assert_eq!((function.mapped(), file.maps()), (1, 0), "the device's own arena is left");
}

#[test]
fn huge_pages_can_be_registered_where_there_are_some() {
    const HUGE: usize = 2 << 20;
    let flags = MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
    let Ok(file) = File::of("huge", HUGE, flags) else {
        return println!("no huge pages here: /proc/sys/vm/nr_hugepages reserves some");
    };
    let (device, poller) = device();
    let memory = match file.memory(0, HUGE) {
        Ok(memory) => device.register(memory).unwrap(),
        Err(error) => return println!("no huge page is free: {error}"),
    };
    let key = device.cipher_key(Cipher::Aes128Ctr, &[8; 16]).unwrap();
    let done = run(key.encrypt(&[0; 16], memory.buffer(1..HUGE).unwrap()), &WaitCtx::new());
    let expected = oracle(Cipher::Aes128Ctr, Direction::Encrypt, &[8; 16], &[0; 16], &vec![0; HUGE - 1]);
    assert!(output(&done) == expected);
    poller.shutdown();
}

#[test]
fn it_outlives_its_device_and_belongs_to_no_other() {
    let (device, poller) = device();
    let other = Device::open("sim:").unwrap();
    let file = File::new("outlives", PAGE);
    let memory = file.register(&device);
    let foreign = other.hasher(Hash::Sha1).unwrap();
    refused(foreign.digest(memory.buffer(0..10).unwrap()).map_err(Error::from), "another device");
    let mut buffer = memory.buffer(0..10).unwrap();
    poller.shutdown();
    drop(device);
    buffer.copy_from_slice(b"still here");
    assert_eq!(file.read(0, 10), b"still here");
    drop(buffer);
    memory.unregister().unwrap();
    assert_eq!(file.maps(), 0);
}
