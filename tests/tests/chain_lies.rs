//! A device that lies about requests with chains of their own: what it says is checked against the room there
//! was, each request ends once, and the device is brought back.

mod common;

use std::time::Duration;

use common::kinds::{KINDS, Kinds, Wanted};
use common::{Rng, evp, output, stepped, submit};
use ringbell::sim::Sim;
use ringbell::{
    Answer, Clock, Device, DeviceOptions, DeviceState, Fault, Hash, ManualClock, ManualPoller, PollerConfig,
    RsaHash, RsaPadding, Status, WaitCtx,
};

struct Bench {
    sim: Sim,
    device: Device,
    poller: ManualPoller,
    clock: ManualClock,
    kinds: Kinds,
    rng: Rng,
}

impl Bench {
    fn new(indirect: bool) -> Self {
        let clock = ManualClock::new();
        let config = PollerConfig { clock: Clock::Manual(clock.clone()), ..Default::default() };
        let options = DeviceOptions { indirect, check_memory: true, queue_size: 64, ..Default::default() };
        let (sim, device, poller) = stepped("seed=11", &options, config);
        let kinds = Kinds::new(&device);
        kinds.prepare().unwrap();
        Self { sim, device, poller, clock, kinds, rng: Rng::new(6) }
    }

    fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        for _ in 0..4000 {
            if condition(self) {
                return;
            }
            if self.sim.step() + self.poller.poll() == 0 {
                self.clock.advance(Duration::from_millis(20));
                std::thread::yield_now();
            }
        }
        panic!("it never comes: {what}; {:?} {:?}", self.device.state(), self.device.stats());
    }

    /// One request of a kind, with a chain of its own.
    fn submit(&mut self, kind: usize, ctx: &WaitCtx) -> Wanted {
        let work = loop {
            match self.kinds.of_kind(kind, &mut self.rng, 100, 1) {
                Ok(work) => break work,
                Err(ringbell::Error::Invalid(why)) => assert!(why.contains("descriptors"), "{why}"),
                Err(error) => panic!("{error}"),
            }
        };
        submit(work.request, ctx);
        work.wanted
    }

    /// Back, and all kinds are right.
    fn check(&mut self, what: &str) {
        self.until("the recovery", |bench| {
            bench.device.state() == DeviceState::Ready && bench.device.stats().quarantined == 0
        });
        self.kinds.prepare().unwrap();
        let ctx = WaitCtx::new();
        for kind in 0..KINDS.len() {
            let wanted = self.submit(kind, &ctx);
            self.until("an end", |_| !ctx.is_busy());
            wanted.check(&ctx.take().unwrap());
        }
        let stats = self.device.stats();
        assert_eq!(stats.accepted, stats.deliveries + stats.detached, "{what}: {stats:?}");
        assert_eq!((stats.stray_writes, stats.leaked_bytes), (0, 0), "{what}: {stats:?}");
    }
}

#[test]
fn every_lie_about_every_kind_ends_each_request_once_and_the_device_comes_back() {
    for indirect in [true, false] {
        for fault in [
            "bad-len",
            "bad-len:100000",
            "bad-id:range",
            "bad-id:free",
            "duplicate",
            "status-garbage",
            "status-garbage:7",
            "status-garbage:255",
            "used-jump:ahead",
            "used-jump:back",
        ] {
            for (kind, name) in KINDS.iter().enumerate() {
                let what = format!("{fault}, {name}, indirect {indirect}");
                let mut bench = Bench::new(indirect);
                let contexts: Vec<_> = (0..6).map(|_| WaitCtx::new()).collect();
                // Before and behind it are others.
                let (lie, args) =
                    fault.split_once(':').map_or((fault, String::new()), |(l, a)| (l, format!(":{a}")));
                bench.sim.inject(format!("{lie}@3{args}").parse().unwrap());
                let wanted: Vec<_> = contexts
                    .iter()
                    .enumerate()
                    .map(|(number, ctx)| bench.submit(if number == 2 { kind } else { number % 2 * 3 }, ctx))
                    .collect();
                bench.until("the ends", |_| contexts.iter().all(|ctx| !ctx.is_busy()));
                bench.until("the fault", |bench| bench.device.stats().faults == 1);
                let mut lost = 0;
                for (ctx, wanted) in contexts.iter().zip(&wanted) {
                    let done = ctx.take().unwrap();
                    match done.result() {
                        Ok(_) => wanted.check(&done),
                        Err(error) => {
                            // An index that goes back is found by those that do not come.
                            assert!(
                                matches!(error, Fault::DeviceFailed | Fault::TimedOut),
                                "{what}: {error}"
                            );
                            assert_eq!(ctx.status(), Status::Err, "{what}");
                            lost += 1;
                        }
                    }
                }
                // A duplicate spoils nobody's result but those behind it.
                assert!((1..=6).contains(&lost), "{what}: {lost}");
                bench.check(&what);
            }
        }
    }
}

/// How long a decrypted message is the device alone knows: that is believed as far as there was room.
/// Signatures are as long as the modulus.
#[test]
fn the_length_that_the_device_states_is_never_more_than_there_was_room() {
    let mut bench = Bench::new(true);
    let oracle = evp::rsa_key(1024);
    let der = oracle.private_key_to_der().unwrap();
    let key = bench.device.rsa_key(RsaPadding::Pkcs1(RsaHash::Sha256), &der).unwrap();
    key.prepare().unwrap();
    let hasher = bench.device.hasher(Hash::Sha1).unwrap();
    let signature = evp::rsa_sign(&oracle, RsaHash::Sha256, &[7; 32]);
    let message = b"so long a message";
    let sealed = evp::rsa_encrypt(&oracle, openssl::rsa::Padding::PKCS1, message);
    let ctx = WaitCtx::new();
    // The status byte counts.
    for (said, got) in [(129, 128), (128, 127), (100, 99), (18, 17), (2, 1), (1, 0), (0, 0)] {
        bench.sim.inject(format!("bad-len@1:{said}").parse().unwrap());
        submit(key.decrypt(bench.device.buffer_from(&sealed).unwrap()).unwrap(), &ctx);
        bench.until("an end", |_| !ctx.is_busy());
        let done = ctx.take().unwrap();
        assert_eq!((done.result(), output(&done).len()), (Ok(Answer::Yes), got), "{said}");
        let (plain, known) = (output(&done), got.min(message.len()));
        assert_eq!(plain[..known], message[..known]);
        let (_, outputs) = done.into_request().into_pieces();
        assert_eq!(outputs.to_vec(), plain, "the buffer is as long as what is in it");

        bench.sim.inject(format!("bad-len@1:{said}").parse().unwrap());
        submit(key.sign(bench.device.buffer_from(&[7; 32]).unwrap()).unwrap(), &ctx);
        bench.until("an end", |_| !ctx.is_busy());
        let done = ctx.take().unwrap();
        if got == signature.len() {
            assert_eq!((done.result(), output(&done)), (Ok(Answer::Yes), signature.clone()));
        } else {
            assert!(matches!(done.result(), Err(Fault::Device(_))), "{said}: {:?}", done.result());
            assert!(output(&done).is_empty(), "{said}");
        }
        // A digest has its length, whatever the device says.
        if said <= 21 {
            bench.sim.inject(format!("bad-len@1:{said}").parse().unwrap());
            submit(hasher.digest(bench.device.buffer_from(b"abc").unwrap()).unwrap(), &ctx);
            bench.until("an end", |_| !ctx.is_busy());
            assert_eq!(output(&ctx.take().unwrap()), evp::hash(Hash::Sha1, b"abc"), "{said}");
        }
    }
    assert_eq!(bench.device.stats().faults, 0);
    for (faults, said) in [(1, 130_u32), (2, 131), (3, 1 << 20), (4, u32::MAX)] {
        bench.sim.inject(format!("bad-len@1:{said}").parse().unwrap());
        submit(key.sign(bench.device.buffer_from(&[7; 32]).unwrap()).unwrap(), &ctx);
        bench.until("an end", |_| !ctx.is_busy());
        let done = ctx.take().unwrap();
        assert_eq!((done.result(), output(&done).len()), (Err(Fault::DeviceFailed), 0), "{said}");
        bench.check(&said.to_string());
        assert_eq!(bench.device.stats().faults, faults);
    }
}

/// All statuses that there are, for each kind: an answer of no where it can be one.
#[test]
fn every_status_of_the_specification_becomes_what_the_table_says() {
    for (kind, name) in KINDS.iter().enumerate() {
        for (status, no) in [
            ("ERR", false),
            ("BADMSG", true),
            ("NOTSUPP", false),
            ("INVSESS", false),
            ("NOSPC", false),
            ("KEY_REJECTED", true),
        ] {
            let mut bench = Bench::new(true);
            bench.sim.inject(format!("op-error@1:{status}").parse().unwrap());
            let ctx = WaitCtx::new();
            let what = bench.submit(kind, &ctx).what;
            bench.until("an end", |_| !ctx.is_busy());
            let done = ctx.take().unwrap();
            if no {
                assert_eq!((done.result(), ctx.status()), (Ok(Answer::No), Status::Ok), "{what}, {status}");
                assert!(kind == 0 || output(&done).is_empty(), "{what}, {status}");
            } else {
                assert!(matches!(done.result(), Err(Fault::Device(_))), "{what}, {status}");
                assert_eq!(ctx.status(), Status::Err);
            }
            if status == "NOTSUPP" {
                let before = Bench::new(true).device.capabilities().algorithms().len();
                let after = bench.device.capabilities().algorithms().len();
                assert_eq!(after + 1, before, "{name}: what it does not do is offered no more");
            }
        }
    }
}
