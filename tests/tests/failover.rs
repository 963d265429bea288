//! Failover: the work of a device that has failed is done by software, where that was asked for.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::kinds::{KINDS, Kinds};
use common::{FOR_EVER, Rng, oracle, wait_until};
use ringbell::sim::Sim;
use ringbell::{
    Aead, Algorithm, Answer, Cipher, Clock, Device, DeviceOptions, DeviceState, DeviceStatus, Direction,
    Fault, Hash, Mac, ManualClock, ManualPoller, Poller, PollerConfig, Reason, Request, RsaHash, RsaPadding,
    Status, WaitCtx,
};

/// Faults after which no device comes back.
const DEADLY: [&str; 3] = ["reset-fails", "remove", "control-hang"];

struct Bench {
    sim: Sim,
    device: Device,
    poller: ManualPoller,
    clock: ManualClock,
    rng: Rng,
}

fn options() -> DeviceOptions {
    DeviceOptions { control_timeout: Duration::from_millis(5), check_memory: true, ..Default::default() }
}

fn bench() -> Bench {
    let clock = ManualClock::new();
    let config = PollerConfig { failover: true, clock: Clock::Manual(clock.clone()), ..Default::default() };
    let (sim, device, poller) = common::stepped("queue-size=8,queues=2", &options(), config);
    Bench { sim, device, poller, clock, rng: Rng::new(3) }
}

impl Bench {
    fn round(&mut self) {
        if self.sim.step() + self.poller.poll() == 0 {
            self.clock.advance(Duration::from_millis(20));
            std::thread::sleep(Duration::from_micros(500));
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

    fn fail(&mut self, fault: &str) {
        self.sim.inject(format!("{fault}@0:always").parse().unwrap_or_else(|_| fault.parse().unwrap()));
        if fault == "control-hang" {
            // It is noticed when something is asked for.
            let key = self.device.cipher_key(Cipher::Aes256Ecb, &[1; 32]).unwrap();
            let ctx = WaitCtx::new();
            self.until("the failure", |bench| {
                let request = key.encrypt(&[], bench.device.buffer_from(&[0; 16]).unwrap());
                drop(ctx.take());
                let _ = request.submit(&ctx);
                bench.device.state() == DeviceState::Failed
            });
            self.until("the end", |_| !ctx.is_busy());
        }
        self.until("the failure", |bench| bench.device.state() == DeviceState::Failed);
    }
}

#[test]
fn what_is_submitted_to_a_failed_device_is_done_by_software_and_right() {
    for fault in DEADLY {
        let mut bench = bench();
        let mut queue = bench.device.owned_queue().unwrap();
        bench.fail(fault);
        let before = bench.device.stats();
        let mut count = 0;
        for cipher in Cipher::ALL {
            if bench.device.cipher_key(cipher, &vec![0; cipher.key_len()]).is_err() {
                continue;
            }
            for direction in [Direction::Encrypt, Direction::Decrypt] {
                for (len, separate, owned) in [(16, false, false), (160, true, false), (48, true, true)] {
                    let bytes = bench.rng.bytes(cipher.key_len());
                    let (iv, data) = (bench.rng.bytes(cipher.iv_len()), bench.rng.bytes(len));
                    let key = bench.device.cipher_key(cipher, &bytes).unwrap();
                    let output = separate.then(|| bench.device.buffer(len).unwrap());
                    let request =
                        key.request(direction, &iv, bench.device.buffer_from(&data).unwrap(), output);
                    let calls = Arc::new(AtomicU64::new(0));
                    let counter = Arc::clone(&calls);
                    let ctx = WaitCtx::with_callback(move |_| {
                        counter.fetch_add(1, Ordering::SeqCst);
                    });
                    let answer = if owned { queue.submit(request, &ctx) } else { request.submit(&ctx) };
                    answer.map_err(|refused| refused.to_error()).unwrap_or_else(|e| panic!("{fault}: {e}"));
                    assert_eq!(ctx.status(), Status::Ok);
                    bench.until("the end", |_| !ctx.is_busy());
                    let done = ctx.take().unwrap();
                    assert_eq!((done.result(), done.by_software()), (Ok(Answer::Yes), true), "{fault}");
                    let expected = oracle(cipher, direction, &bytes, &iv, &data);
                    assert_eq!(done.request().output(), expected, "{fault}: {cipher} {direction:?}");
                    assert_eq!((calls.load(Ordering::SeqCst), ctx.status()), (1, Status::Ok));
                    count += 1;
                }
            }
        }
        assert!(count >= 30, "{count}");
        let stats = bench.device.stats();
        assert_eq!(stats.completed - before.completed, count);
        assert_eq!(stats.failed_over - before.failed_over, count);
        assert_eq!(stats.accepted, stats.deliveries + stats.detached);
        assert_eq!((stats.leaked_bytes, stats.stray_writes), (0, 0));
    }
}

/// How a request ended, and its output.
type End = (Result<Answer, Fault>, Vec<u8>);

const RSA_KEY: &[u8] = include_bytes!("../../poller/cli/src/speed/keys/rsa-1024-test-key.pem");

impl Bench {
    /// One request to its end.
    fn end(&mut self, request: Request) -> End {
        let ctx = WaitCtx::new();
        let mut request = Some(request);
        self.until("room", |_| match request.take().map(|request| request.submit(&ctx)) {
            Some(Err(refused)) => {
                assert_eq!(refused.status(), Status::Eagain, "{refused}");
                request = Some(refused.into_request());
                false
            }
            _ => true,
        });
        self.until("the end", |_| !ctx.is_busy());
        let done = ctx.take().unwrap();
        assert_eq!(done.by_software(), self.device.state() == DeviceState::Failed);
        (done.result(), done.request().outputs().collect::<Vec<_>>().concat())
    }

    /// Input in one buffer or cut into two.
    fn input(&self, data: &[u8]) -> ringbell::Buffers {
        let (first, second) = data.split_at(data.len() / 3);
        match data.len() % 2 {
            0 => self.device.buffer_from(data).unwrap().into(),
            _ => [first, second].map(|part| self.device.buffer_from(part).unwrap()).into(),
        }
    }

    /// All operations, one after the other, the same each time: what it was, and how it ended.
    fn everything(&mut self) -> Vec<(String, End)> {
        self.rng = Rng::new(11);
        let mut ends = Vec::new();
        for len in [1, 15, 16, 47, 64, 1000] {
            let data = self.rng.bytes(len);
            for cipher in Cipher::ALL {
                if !len.is_multiple_of(cipher.granule()) || len < cipher.least() {
                    continue;
                }
                let (key, iv) = (self.rng.bytes(cipher.key_len()), self.rng.bytes(cipher.iv_len()));
                let key = self.device.cipher_key(cipher, &key).unwrap();
                for direction in [Direction::Encrypt, Direction::Decrypt] {
                    let output = self.device.buffer(len).unwrap().into();
                    let request = key.scatter(direction, &iv, self.input(&data), Some(output)).unwrap();
                    ends.push((format!("{cipher} {direction:?}, {len} bytes"), self.end(request)));
                }
            }
            for hash in Hash::ALL {
                let request = self.device.hasher(hash).unwrap().digest(self.input(&data)).unwrap();
                ends.push((format!("{hash}, {len} bytes"), self.end(request)));
            }
            for mac in Mac::ALL {
                let key = self.rng.bytes(*mac.key_lens().start().max(&5));
                let request = self.device.mac_key(mac, &key).unwrap().compute(self.input(&data)).unwrap();
                ends.push((format!("{mac}, {len} bytes"), self.end(request)));
            }
            for aead in Aead::ALL {
                for tag_len in aead.tag_lens() {
                    let key = self.rng.bytes(aead.key_len());
                    let key = self.device.aead_key_with_tag(aead, &key, *tag_len).unwrap();
                    let nonce = self.rng.bytes(aead.nonce_lens().end() - tag_len % aead.nonce_lens().count());
                    let aad = self.rng.bytes(13);
                    let output = |len| self.device.buffer(len).unwrap();
                    let what = format!("{aead}, tag of {tag_len}, {len} bytes");
                    let seal = key.seal_into(&nonce, &aad, self.input(&data), output(len + tag_len)).unwrap();
                    let mut sealed = self.end(seal).1;
                    assert_eq!(sealed.len(), len + tag_len, "{what}");
                    for wrong in [false, true] {
                        let at = self.rng.below(sealed.len());
                        sealed[at] ^= u8::from(wrong);
                        let output = self.device.buffer(len).unwrap();
                        let open = key.open_into(&nonce, &aad, self.input(&sealed), output).unwrap();
                        let end = self.end(open);
                        let wanted = if wrong { (Answer::No, &[][..]) } else { (Answer::Yes, &data[..]) };
                        assert_eq!((end.0, &end.1[..]), (Ok(wanted.0), wanted.1), "{what}");
                    }
                    ends.push((what, (Ok(Answer::Yes), sealed)));
                }
            }
        }
        self.rsa(&mut ends);
        ends
    }

    fn rsa(&mut self, ends: &mut Vec<(String, End)>) {
        for hash in RsaHash::ALL {
            let key = self.device.rsa_key(RsaPadding::Pkcs1(hash), RSA_KEY).unwrap();
            let digest = self.rng.bytes(hash.hash().output_len());
            let signed = self.end(key.sign(self.input(&digest)).unwrap());
            let mut signature = signed.1.clone();
            ends.push((format!("signature, {}", hash.hash()), signed));
            for wrong in [0, 1] {
                signature[70] ^= wrong;
                let end = self.end(key.verify(self.input(&signature), self.input(&digest)).unwrap());
                assert_eq!(end.0, Ok(if wrong == 0 { Answer::Yes } else { Answer::No }));
            }
            let secret = self.rng.bytes(47);
            let sealed = self.end(key.encrypt(self.input(&secret)).unwrap()).1;
            ends.push((
                format!("decryption, {}", hash.hash()),
                self.end(key.decrypt(self.input(&sealed)).unwrap()),
            ));
            assert_eq!(ends.last().unwrap().1.1, secret);
            // Its padding is none.
            let error = self.end(key.decrypt(self.input(&signature)).unwrap());
            assert_eq!(error, (Err(Fault::Device(DeviceStatus::Err)), Vec::new()));
        }
        let key = self.device.rsa_key(RsaPadding::Raw, RSA_KEY).unwrap();
        let mut number = self.rng.bytes(key.size());
        number[0] = 0;
        for encrypt in [true, false] {
            let input = self.input(&number);
            let request = if encrypt { key.encrypt(input) } else { key.decrypt(input) };
            ends.push((format!("raw RSA, encrypt: {encrypt}"), self.end(request.unwrap())));
        }
    }
}

#[test]
fn whatever_a_device_does_software_does_the_same() {
    let mut bench = bench();
    let before = bench.everything();
    let offered = bench.device.capabilities().algorithms();
    assert!(offered.contains(&Algorithm::Rsa(RsaPadding::Raw)), "{offered:?}");
    bench.fail("remove");
    let after = bench.everything();
    assert_eq!(before.len(), after.len());
    for ((what, device), (_, software)) in before.iter().zip(&after) {
        assert_eq!(device, software, "{what}");
    }
    assert_eq!(bench.device.capabilities().algorithms(), offered);
    let stats = bench.device.stats();
    assert!(stats.failed_over as usize >= after.len(), "{stats:?}");
    assert_eq!((stats.leaked_bytes, stats.stray_writes), (0, 0));
}

#[test]
fn every_kind_of_request_is_done_by_software_as_libcrypto_says() {
    for fault in DEADLY {
        let mut bench = bench();
        // Before the failure and after it: keys, and with them sessions, were made of the device.
        let kinds = Kinds::new(&bench.device);
        bench.fail(fault);
        let before = bench.device.stats();
        let ctx = WaitCtx::new();
        let mut done_by = [0_u64; KINDS.len()];
        for round in 0..600 {
            let kind = round % KINDS.len();
            let most = if round.is_multiple_of(50) { 20_000 } else { 300 };
            let work = kinds.of_kind(kind, &mut bench.rng, most, 2).unwrap();
            work.request.submit(&ctx).map_err(|refused| refused.to_error()).unwrap();
            bench.until("the end", |_| !ctx.is_busy());
            let done = ctx.take().unwrap();
            assert!(done.by_software(), "{fault}: {}", work.wanted.what);
            work.wanted.check(&done);
            assert_eq!(ctx.status(), Status::Ok);
            done_by[kind] += 1;
        }
        let stats = bench.device.stats();
        assert_eq!(stats.failed_over - before.failed_over, done_by.iter().sum::<u64>());
        assert_eq!(stats.accepted, stats.deliveries + stats.detached);
        assert_eq!((stats.leaked_bytes, stats.stray_writes), (0, 0));
    }
}

#[test]
fn requests_of_every_kind_that_were_in_flight_are_done_again_where_their_input_is_there() {
    for fault in ["remove@1", "remove@4"] {
        let mut bench = bench();
        let kinds = Kinds::new(&bench.device);
        kinds.prepare().unwrap();
        let mut redone = 0;
        let contexts: Vec<_> = (0..12).map(|_| WaitCtx::new()).collect();
        let mut wanted = Vec::new();
        for (number, ctx) in contexts.iter().enumerate() {
            let work = kinds.of_kind(number % KINDS.len(), &mut bench.rng, 300, 2).unwrap();
            common::submit(work.request, ctx);
            wanted.push(work.wanted);
        }
        bench.sim.inject(fault.parse().unwrap());
        bench.until("the failure", |bench| bench.device.state() == DeviceState::Failed);
        bench.until("the ends", |_| contexts.iter().all(|ctx| !ctx.is_busy()));
        for (ctx, wanted) in contexts.iter().zip(&wanted) {
            let done = ctx.take().unwrap();
            match done.result() {
                Ok(_) => {
                    wanted.check(&done);
                    redone += u64::from(done.by_software());
                }
                // In place: nobody knows what is there.
                Err(error) => assert_eq!((error, ctx.status()), (Fault::DeviceFailed, Status::Err)),
            }
        }
        // Hashes, MACs and RSA have their input still.
        assert!(redone >= 5, "{fault}: {redone}");
        let stats = bench.device.stats();
        assert_eq!((stats.failed_over, stats.leaked_bytes), (redone, 0));
    }
}

#[test]
fn rsa_in_software_is_one_request_a_pass() {
    let mut bench = bench();
    bench.fail("remove");
    let key = bench.device.rsa_key(RsaPadding::Raw, RSA_KEY).unwrap();
    let contexts = [(); 3].map(|()| WaitCtx::new());
    for ctx in &contexts {
        common::submit(key.encrypt(bench.input(&[1; 128])).unwrap(), ctx);
    }
    for left in [2, 1, 0] {
        bench.poller.poll();
        assert_eq!(contexts.iter().filter(|ctx| ctx.is_busy()).count(), left);
    }
}

#[test]
fn what_was_in_flight_with_a_separate_output_is_done_again_by_software() {
    for fault in ["remove@1", "remove@3", "remove@5"] {
        let mut bench = bench();
        let key = bench.device.cipher_key(Cipher::Aes128Cbc, &[5; 16]).unwrap();
        key.prepare().unwrap();
        let free = bench.device.free_bytes();
        let data = bench.rng.bytes(64);
        let expected = oracle(Cipher::Aes128Cbc, Direction::Encrypt, &[5; 16], &[1; 16], &data);
        let contexts: Vec<_> = (0..8).map(|_| WaitCtx::with_fd().unwrap()).collect();
        for (number, ctx) in contexts.iter().enumerate() {
            let output = (number % 2 == 0).then(|| bench.device.buffer(64).unwrap());
            let input = bench.device.buffer_from(&data).unwrap();
            common::submit(key.request(Direction::Encrypt, &[1; 16], input, output), ctx);
        }
        bench.sim.inject(fault.parse().unwrap());
        bench.until("the failure", |bench| bench.device.state() == DeviceState::Failed);
        bench.until("the ends", |_| contexts.iter().all(|ctx| !ctx.is_busy()));
        let (mut redone, mut lost) = (0, 0);
        for (number, ctx) in contexts.iter().enumerate() {
            let mut counter = [0; 8];
            assert_eq!(nix::unistd::read(ctx.fd().unwrap(), &mut counter), Ok(8), "{fault}");
            assert_eq!(u64::from_ne_bytes(counter), 1, "{fault}");
            let done = ctx.take().unwrap();
            match done.result() {
                Ok(answer) => {
                    assert_eq!((answer, ctx.status()), (Answer::Yes, Status::Ok));
                    assert_eq!(done.request().output(), expected, "{fault}: request {number}");
                    redone += u64::from(done.by_software());
                }
                Err(error) => {
                    assert_eq!((error, ctx.status()), (Fault::DeviceFailed, Status::Err), "{fault}");
                    assert!(number % 2 == 1, "{fault}: request {number} has its input still");
                    lost += 1;
                }
            }
        }
        assert!(redone >= 2 && lost >= 2, "{fault}: {redone} redone, {lost} lost");
        let stats = bench.device.stats();
        assert_eq!((stats.accepted, stats.deliveries, stats.errors), (8, 8, lost), "{fault}: {stats:?}");
        assert_eq!(stats.failed_over, redone, "{fault}");
        drop(contexts);
        assert!(bench.device.free_bytes() + 8 * 256 >= free, "{fault}: a buffer is lost");
        assert_eq!((stats.leaked_bytes, stats.stray_writes), (0, 0), "{fault}");
    }
}

#[test]
fn giving_up_works_with_software_too_and_a_shutdown_ends_it() {
    let mut bench = bench();
    let key = bench.device.cipher_key(Cipher::Aes128Ctr, &[5; 16]).unwrap();
    bench.fail("reset-fails");
    let contexts: Vec<_> = (0..6).map(|_| WaitCtx::new()).collect();
    for ctx in &contexts {
        common::submit(key.encrypt(&[0; 16], bench.device.buffer_from(&[1; 64]).unwrap()), ctx);
    }
    bench.device.cancel(&contexts[0]);
    let detached = u64::from(contexts[1].detach());
    bench.until("the ends", |_| contexts.iter().all(|ctx| !ctx.is_busy()));
    assert!(detached == 0 || contexts[1].take().is_none());
    for ctx in &contexts[2..] {
        assert_eq!(ctx.take().unwrap().result(), Ok(Answer::Yes));
    }
    let stats = bench.device.stats();
    assert_eq!((stats.accepted, stats.deliveries, stats.detached), (6, 6 - detached, detached), "{stats:?}");
    for ctx in &contexts[2..] {
        common::submit(key.encrypt(&[0; 16], bench.device.buffer_from(&[1; 64]).unwrap()), ctx);
    }
    bench.poller.shutdown();
    for ctx in &contexts[2..] {
        let result = ctx.take().expect("an end").result();
        assert!(matches!(result, Ok(Answer::Yes) | Err(Fault::Shutdown)), "{result:?}");
    }
    let late = key.encrypt(&[0; 16], bench.device.buffer_from(&[1; 64]).unwrap());
    assert_eq!(late.submit(&contexts[2]).unwrap_err().reason(), Reason::DeviceDown);
    let stats = bench.device.stats();
    assert_eq!((stats.accepted, stats.deliveries), (10, 10 - detached), "{stats:?}");
}

/// In real time, in the middle of traffic: what the threads get is right all along.
#[test]
fn threads_go_on_when_their_device_fails_under_them() {
    let device = Device::open_with("sim:queues=2,fault=remove@3000", &options()).unwrap();
    let config = PollerConfig { failover: true, ..Default::default() };
    let poller = Poller::spawn(&device, config).unwrap();
    let key = device.cipher_key(Cipher::Aes128Cbc, &[5; 16]).unwrap();
    key.prepare().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3_u8 {
            let (device, key) = (&device, &key);
            scope.spawn(move || {
                let data = vec![thread; 256];
                let expected = oracle(Cipher::Aes128Cbc, Direction::Encrypt, &[5; 16], &[1; 16], &data);
                let ctx = WaitCtx::new();
                for _ in 0..3000 {
                    let output = device.buffer(256).unwrap();
                    let input = device.buffer_from(&data).unwrap();
                    let request = key.request(Direction::Encrypt, &[1; 16], input, Some(output));
                    device.submit_wait(request, &ctx, FOR_EVER).map_err(|r| r.to_error()).expect("accepted");
                    wait_until("an end", || !ctx.is_busy());
                    let done = ctx.take().unwrap();
                    assert_eq!(done.result(), Ok(Answer::Yes));
                    assert_eq!(done.request().output(), expected);
                }
            });
        }
    });
    let stats = device.stats();
    assert_eq!(device.state(), DeviceState::Failed);
    assert_eq!((stats.accepted, stats.completed, stats.errors), (9000, 9000, 0), "{stats:?}");
    assert!(stats.failed_over > 5000, "{stats:?}");
    poller.shutdown();
}
