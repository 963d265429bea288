//! Sessions: more keys than the device holds, of all kinds; the least recently used one goes, those in use
//! never do; and what a device refuses is told from what it has no room for.

mod common;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{FOR_EVER, Rng, evp, oracle, output, run, stepped, wait_until};
use ringbell::sim::{Sim, SimConfig};
use ringbell::{
    Aead, Answer, Cipher, CipherKey, Device, DeviceOptions, Direction, Error, Hash, Mac, ManualPoller,
    Poller, PollerConfig, Reason, RsaHash, RsaPadding, Status, WaitCtx,
};

/// As many as the simulator holds, and QEMU.
const HELD: usize = 256;

fn threaded(sim: &str) -> (Sim, Device, Poller) {
    let sim = Sim::threaded(sim.parse::<SimConfig>().unwrap()).unwrap();
    let device = Device::from_function(sim.function(), &DeviceOptions::default()).unwrap();
    let poller = Poller::spawn(&device, PollerConfig::default()).unwrap();
    (sim, device, poller)
}

fn bytes_of(number: usize) -> [u8; 16] {
    let mut bytes = [0x3c; 16];
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    bytes
}

fn key_of(device: &Device, number: usize) -> CipherKey {
    device.cipher_key(Cipher::Aes128Cbc, &bytes_of(number)).unwrap()
}

/// One request with a key, of which the result is checked.
fn use_key(key: &CipherKey, number: usize, ctx: &WaitCtx) {
    let data = [number as u8; 32];
    let request = key.encrypt(&[1; 16], key.device().buffer_from(&data).unwrap());
    let done = run(request, ctx);
    assert_eq!(done.result(), Ok(Answer::Yes), "key {number}");
    let expected = oracle(Cipher::Aes128Cbc, Direction::Encrypt, &bytes_of(number), &[1; 16], &data);
    assert_eq!(done.request().output(), expected, "key {number}");
}

#[test]
fn six_hundred_keys_in_turn_work_on_a_device_that_holds_fewer() {
    for sim in ["", "quirks=qemu"] {
        for held in [1, 100, 250, HELD - 1] {
            let (sim, device, poller) = threaded(sim);
            let ctx = WaitCtx::new();
            let mut keys = VecDeque::new();
            let mut most = 0;
            for turn in 0..1200 {
                let number = turn % 600;
                let key = key_of(&device, number);
                use_key(&key, number, &ctx);
                keys.push_back(key);
                if keys.len() > held {
                    keys.pop_front();
                }
                most = most.max(sim.stats().sessions);
            }
            assert!(most <= HELD, "{most}");
            // What nobody holds is kept for later, but not without end.
            let idle = 64;
            let wanted = (held + idle).min(HELD);
            assert!(most >= wanted - 2 && most <= wanted + 2, "{held} held, {most} at once");
            let stats = device.stats();
            assert_eq!((stats.completed, stats.errors, stats.faults), (1200, 0, 0), "{stats:?}");
            assert_eq!(sim.stats().last_fault, None);
            drop((keys, poller, device));
            wait_until("the sessions' end", || sim.stats().sessions == 0);
        }
    }
}

struct Bench {
    sim: Sim,
    device: Device,
    poller: ManualPoller,
    ctx: WaitCtx,
}

impl Bench {
    fn new(sim: &str) -> Self {
        let (sim, device, poller) = stepped(sim, &DeviceOptions::default(), PollerConfig::default());
        Self { sim, device, poller, ctx: WaitCtx::new() }
    }

    /// Encrypts with key `number`; returns how many commands the device has taken for it.
    fn commands(&mut self, key: &CipherKey, number: usize) -> u64 {
        let before = self.sim.stats().control;
        let mut request = key.encrypt(&[1; 16], self.device.buffer_from(&[9; 16]).unwrap());
        for _ in 0..20 {
            match request.submit(&self.ctx) {
                Ok(()) => {
                    self.sim.step();
                    self.poller.poll();
                    assert_eq!(self.ctx.take().unwrap().result(), Ok(Answer::Yes), "key {number}");
                    return self.sim.stats().control - before;
                }
                Err(refused) => {
                    assert_eq!(refused.reason(), Reason::SessionPending, "key {number}");
                    request = refused.into_request();
                    self.poller.poll();
                }
            }
        }
        panic!("key {number} gets no session: {:?}", self.sim.stats());
    }
}

#[test]
fn a_session_is_made_once_and_the_least_recently_used_one_goes_first() {
    for (sim, create) in [("", 1), ("quirks=qemu", 1)] {
        let mut bench = Bench::new(sim);
        // As many as are kept for nobody.
        for number in 0..64 {
            let key = key_of(&bench.device, number);
            assert_eq!(bench.commands(&key, number), create, "key {number}");
            assert_eq!(bench.commands(&key, number), 0, "key {number} has its session");
        }
        for number in 0..64 {
            let key = key_of(&bench.device, number);
            assert_eq!(bench.commands(&key, number), 0, "key {number}: from the cache");
        }
        // 5 and 6 were used last; 0 to 4 are the oldest.
        for number in [5, 6] {
            let key = key_of(&bench.device, number);
            assert_eq!(bench.commands(&key, number), 0);
        }
        for number in 100..104 {
            let key = key_of(&bench.device, number);
            bench.commands(&key, number);
        }
        assert_eq!(bench.sim.stats().sessions, 64);
        // Each has taken the place of the oldest.
        for number in [4, 5, 6, 63, 62, 10, 103] {
            let key = key_of(&bench.device, number);
            assert_eq!(bench.commands(&key, number), 0, "{sim}: key {number} was used after those that went");
        }
        for number in 0..4 {
            let key = key_of(&bench.device, number);
            assert!(bench.commands(&key, number) > 0, "{sim}: key {number} was the oldest");
        }
    }
}

#[test]
fn when_all_are_in_use_the_answer_is_eagain_until_one_is_dropped() {
    for sim in ["", "quirks=qemu"] {
        let mut bench = Bench::new(sim);
        let mut keys: Vec<_> = (0..HELD).map(|number| key_of(&bench.device, number)).collect();
        for (number, key) in keys.iter().enumerate() {
            assert_eq!(bench.commands(key, number), 1, "{sim}: key {number}");
        }
        assert_eq!(bench.sim.stats().sessions, HELD);
        let another = key_of(&bench.device, HELD);
        let mut request = another.encrypt(&[1; 16], bench.device.buffer_from(&[9; 16]).unwrap());
        for try_ in 0..200 {
            let refused = request.submit(&bench.ctx).expect_err("there is no room");
            assert_eq!(
                (refused.reason(), refused.status(), bench.ctx.status()),
                (Reason::SessionPending, Status::Eagain, Status::Eagain),
                "{sim}: try {try_}"
            );
            request = refused.into_request();
            bench.poller.poll();
            assert_eq!(bench.sim.stats().sessions, HELD, "none that is in use was destroyed");
        }
        let refused = another.prepare_for(Direction::Encrypt, Duration::from_millis(5)).unwrap_err();
        assert!(matches!(refused, Error::Refused { .. }), "{refused:?}");
        // Answers that came too late for it.
        for _ in 0..10 {
            bench.poller.poll();
        }
        // All others go on.
        for number in (0..HELD).step_by(37) {
            assert_eq!(bench.commands(&keys[number], number), 0);
        }
        // One goes: whoever waits for room is told, and gets it.
        let told = Arc::new(AtomicU64::new(0));
        let waiter = Arc::clone(&told);
        bench.device.on_room(move || {
            waiter.fetch_add(1, Ordering::SeqCst);
        });
        let mut refused = request.submit(&bench.ctx).expect_err("there is no room still");
        keys.remove(17);
        let mut rounds = 0;
        loop {
            bench.poller.poll();
            if told.load(Ordering::SeqCst) == 1 {
                match refused.into_request().submit(&bench.ctx) {
                    Ok(()) => break,
                    Err(again) => refused = again,
                }
            }
            rounds += 1;
            assert!(rounds < 20, "{sim}: it gets no session");
        }
        bench.sim.step();
        bench.poller.poll();
        assert_eq!(bench.ctx.take().unwrap().result(), Ok(Answer::Yes));
        assert_eq!((told.load(Ordering::SeqCst), bench.sim.stats().sessions), (1, HELD));
    }
}

#[test]
fn a_session_in_use_by_a_request_alone_is_not_destroyed() {
    let mut bench = Bench::new("");
    let requests: Vec<_> = (0..200)
        .map(|number| {
            let key = key_of(&bench.device, number);
            bench.commands(&key, number);
            // The key goes, the request stays.
            (number, key.encrypt(&[1; 16], bench.device.buffer_from(&[number as u8; 16]).unwrap()))
        })
        .collect();
    for number in 1000..1300 {
        let key = key_of(&bench.device, number);
        bench.commands(&key, number);
    }
    let before = bench.sim.stats().control;
    for (number, request) in requests {
        request.submit(&bench.ctx).map_err(|refused| refused.to_error()).expect("it has its session");
        bench.sim.step();
        bench.poller.poll();
        let done = bench.ctx.take().unwrap();
        let expected =
            oracle(Cipher::Aes128Cbc, Direction::Encrypt, &bytes_of(number), &[1; 16], &[number as u8; 16]);
        assert_eq!(done.request().output(), expected);
    }
    assert_eq!(bench.sim.stats().control, before);
}

#[test]
fn each_length_of_associated_data_has_a_session_and_all_work() {
    let (sim, device, poller) = threaded("");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(1));
    let key = device.aead_key(Aead::Aes128Gcm, &[5; 16]).unwrap();
    let mut most = 0;
    for turn in 0..1000 {
        // Each twice in a row, and again in the end.
        let len = (turn / 2) % 400;
        let aad = rng.bytes(len);
        let room = device.buffer(48).unwrap();
        let request = key.seal_into(&[3; 12], &aad, device.buffer_from(&[8; 32]).unwrap(), room);
        let done = run(request.unwrap(), &ctx);
        assert_eq!(output(&done), evp::seal(Aead::Aes128Gcm, &[5; 16], &[3; 12], &aad, &[8; 32], 16));
        most = most.max(sim.stats().sessions);
    }
    assert!((60..=80).contains(&most), "{most} sessions: those of no request are kept for later, 64 of them");
    assert_eq!((device.stats().errors, device.stats().faults), (0, 0));
    poller.shutdown();
}

#[test]
fn keys_of_all_lengths_and_kinds_take_each_others_places() {
    for sim in ["", "queues=2"] {
        let (sim, device, poller) = threaded(sim);
        let (ctx, mut rng) = (WaitCtx::new(), Rng::new(2));
        let rsa = [4096, 1024, 3072, 2048].map(|bits| {
            let oracle = evp::rsa_key(bits);
            let signature = evp::rsa_sign(&oracle, RsaHash::Sha512, &[7; 64]);
            (oracle.private_key_to_der().unwrap(), signature)
        });
        let mut held = VecDeque::new();
        for turn in 0..900 {
            match turn % 5 {
                0 => {
                    let (der, signature) = &rsa[rng.below(4)];
                    let key = device.rsa_key(RsaPadding::Pkcs1(RsaHash::Sha512), der).unwrap();
                    let done = run(key.sign(device.buffer_from(&[7; 64]).unwrap()).unwrap(), &ctx);
                    assert_eq!(&output(&done), signature, "turn {turn}");
                }
                1 => {
                    // A key so long that its command has a buffer of the larger kind.
                    let most = device.capabilities().max_mac_key;
                    let bytes = rng.bytes(most);
                    let key = device.mac_key(Mac::HmacSha384, &bytes).unwrap();
                    let done = run(key.compute(device.buffer_from(b"data").unwrap()).unwrap(), &ctx);
                    assert_eq!(output(&done), evp::mac(Mac::HmacSha384, &bytes, b"data"));
                }
                2 => {
                    let hash = Hash::ALL[rng.below(9)];
                    let hasher = device.hasher(hash).unwrap();
                    let done = run(hasher.digest(device.buffer_from(b"data").unwrap()).unwrap(), &ctx);
                    assert_eq!(output(&done), evp::hash(hash, b"data"));
                }
                _ => {
                    let key = key_of(&device, turn);
                    use_key(&key, turn, &ctx);
                    held.push_back(key);
                    if held.len() > 230 {
                        held.pop_front();
                    }
                }
            }
            assert!(sim.stats().sessions <= HELD);
        }
        let stats = device.stats();
        assert_eq!((stats.completed, stats.errors, stats.faults), (900, 0, 0), "{stats:?}");
        poller.shutdown();
    }
}

// ---- what is refused for good ----

/// QEMU's device has RSA with SHA-256 and not with SHA-384, and says ERR for what it has not, as it does when
/// it is full.
fn refused_for_good(held: usize, idle: usize) {
    let mut bench = Bench::new("quirks=qemu");
    let what = format!("{held} held, {idle} idle");
    let keys: Vec<_> = (0..held).map(|number| key_of(&bench.device, number)).collect();
    for (number, key) in keys.iter().enumerate() {
        bench.commands(key, number);
    }
    for number in 1000..1000 + idle {
        let key = key_of(&bench.device, number);
        bench.commands(&key, number);
    }
    let (sessions, before) = (bench.sim.stats().sessions, bench.sim.stats().control);
    assert_eq!(sessions, held + idle);
    let der = evp::rsa_key(2048).private_key_to_der().unwrap();
    let key = bench.device.rsa_key(RsaPadding::Pkcs1(RsaHash::Sha384), &der).unwrap();
    let mut request = key.sign(bench.device.buffer_from(&[1; 48]).unwrap()).unwrap();
    let mut tries = 0;
    let reason = loop {
        let refused = request.submit(&bench.ctx).expect_err("QEMU does not have it");
        if refused.status() == Status::Err {
            break refused.reason();
        }
        assert_eq!(refused.reason(), Reason::SessionPending);
        request = refused.into_request();
        bench.poller.poll();
        tries += 1;
        assert!(tries < 20, "{what}: EAGAIN for ever; {:?}", bench.sim.stats());
    };
    assert_eq!(reason, Reason::SessionRefused);
    let after = bench.sim.stats();
    assert!(after.control - before <= 12, "{what}: {} commands", after.control - before);
    // One goes for each key beyond those that are kept, one because it might have helped.
    assert!(after.sessions + 2 >= sessions, "{what}: {} of {sessions} sessions are left", after.sessions);
    for (number, key) in keys.iter().enumerate() {
        assert_eq!(bench.commands(key, number), 0, "{what}: key {number} has its session still");
    }
    // What it has goes on working.
    let key = bench.device.rsa_key(RsaPadding::Pkcs1(RsaHash::Sha256), &der).unwrap();
    key.prepare().unwrap();
    let refused = bench.device.rsa_key(RsaPadding::Pkcs1(RsaHash::Sha384), &der).unwrap().prepare();
    assert!(refused.is_err());
}

#[test]
fn what_the_device_refuses_for_good_ends_as_refused_and_costs_the_others_little() {
    for (held, idle) in [(0, 0), (0, 1), (0, 64), (50, 30)] {
        refused_for_good(held, idle);
    }
}

#[test]
fn what_the_device_refuses_for_good_ends_as_refused_while_all_others_are_in_use() {
    for held in [1, 2, 3, 10, 200] {
        refused_for_good(held, 0);
    }
}

#[test]
fn what_is_advertised_and_refused_is_offered_no_more() {
    let (sim, device, poller) = threaded("quirks=qemu");
    let before = device.capabilities();
    assert_eq!((before.hashes.as_slice(), before.macs.len(), before.aeads.len()), (&[Hash::Sha1][..], 0, 0));
    let hasher = device.hasher(Hash::Sha1).unwrap();
    let request = hasher.digest(device.buffer_from(b"abc").unwrap()).unwrap();
    let ctx = WaitCtx::new();
    let refused = device.submit_wait(request, &ctx, FOR_EVER).expect_err("QEMU has no hash functions");
    assert_eq!((refused.reason(), ctx.status()), (Reason::SessionRefused, Status::Err));
    let after = device.capabilities();
    assert!(after.hashes.is_empty(), "{after:?}");
    assert_eq!((after.ciphers, after.rsa), (before.ciphers, before.rsa), "the others are left");
    assert!(matches!(device.hasher(Hash::Sha1), Err(Error::NotOffered { .. })));
    assert!(matches!(hasher.prepare(), Err(Error::NotOffered { .. })), "the handle says so, too");
    let key = key_of(&device, 1);
    use_key(&key, 1, &ctx);
    assert_eq!((device.stats().faults, sim.stats().last_fault), (0, None));
    poller.shutdown();
}
