//! Requests over several buffers: they give what one buffer gives; too many are a clear error; and what
//! they do to a slot of the ring does not stay there.

mod common;

use common::kinds::{KINDS, Kinds, Wanted, offers_all};
use common::{Rng, buffers_of, evp, output, run, stepped, zero_key};
use ringbell::sim::Sim;
use ringbell::{
    Aead, Answer, Cipher, Clock, Device, DeviceOptions, DeviceState, Direction, Error, Fault, Hash,
    ManualClock, ManualPoller, NotMade, Poller, PollerConfig, Reason, Request, Stats, Status, WaitCtx,
};

/// What says no, and names what.
fn refused(result: Result<Request, NotMade>, words: &[&str]) {
    match result.map_err(NotMade::into_error) {
        Err(Error::Invalid(text)) => {
            assert!(
                words.iter().all(|word| text.contains(word)) && !text.contains('\n'),
                "{text:?} {words:?}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn random_splits_of_every_kind_give_what_one_buffer_gives() {
    for indirect in [true, false] {
        let options = DeviceOptions { indirect, ..Default::default() };
        let device = Device::open_with("sim:queue-size=64,order=shuffle", &options).unwrap();
        let poller = Poller::spawn(&device, Default::default()).unwrap();
        assert!(offers_all(&device));
        let kinds = Kinds::new(&device);
        kinds.prepare().unwrap();
        let (ctx, mut rng) = (WaitCtx::new(), Rng::new(1));
        let (mut done, mut many) = ([0; KINDS.len()], 0);
        for round in 0..3000 {
            let kind = round % KINDS.len();
            let pieces = 1 + rng.below(if indirect { 24 } else { 2 });
            let most = if rng.one_in(20) { 30_000 } else { 700 };
            match kinds.of_kind(kind, &mut rng, most, pieces) {
                Ok(work) => {
                    work.wanted.check(&run(work.request, &ctx));
                    done[kind] += 1;
                    many += usize::from(pieces > 1);
                }
                Err(Error::Invalid(why)) if !indirect => assert!(why.contains("descriptors"), "{why}"),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(done.iter().all(|count| *count > if indirect { 490 } else { 60 }), "{indirect}: {done:?}");
        assert!(many > 500, "{many}");
        let stats = device.stats();
        assert_eq!((stats.errors, stats.faults), (0, 0));
        poller.shutdown();
    }
}

#[test]
fn as_many_buffers_as_the_device_says_are_taken_and_one_more_is_refused() {
    for size in [8_u16, 16, 64, 1024] {
        let options = DeviceOptions { queue_size: size, ..Default::default() };
        let device = Device::open_with("sim:", &options).unwrap();
        let poller = Poller::spawn(&device, Default::default()).unwrap();
        let most = device.capabilities().max_pieces;
        assert_eq!(most, usize::from(size) - 3, "less request, associated data and status");
        let (ctx, mut rng) = (WaitCtx::new(), Rng::new(2));
        let hasher = device.hasher(Hash::Sha256).unwrap();
        // A hash has no associated data, so that one more fits than for an AEAD.
        for (count, fits) in [(1, true), (most, true), (most + 1, true), (most + 2, false)] {
            let mut input = buffers_of(&device, &vec![3; count]);
            let data = rng.bytes(3 * count);
            input.copy_from_slice(&data);
            let request = hasher.digest(input);
            if !fits {
                let (wanted, limit) = ((count + 2).to_string(), size.to_string());
                refused(request, &[&wanted, &limit, "descriptors"]);
                continue;
            }
            let done = run(request.unwrap(), &ctx);
            assert_eq!(output(&done), evp::hash(Hash::Sha256, &data), "{count} of {most}");
        }
        let key = device.aead_key(Aead::Aes128Gcm, &[1; 16]).unwrap();
        for (inputs, fits) in [(most - 1, true), (most, false)] {
            let mut input = buffers_of(&device, &vec![2; inputs]);
            let data = rng.bytes(2 * inputs);
            input.copy_from_slice(&data);
            let room = device.buffer(data.len() + 16).unwrap();
            let request = key.seal_into(&[0; 12], b"aad", input, room);
            if !fits {
                refused(request, &["descriptors"]);
                continue;
            }
            let done = run(request.unwrap(), &ctx);
            assert_eq!(output(&done), evp::seal(Aead::Aes128Gcm, &[1; 16], &[0; 12], b"aad", &data, 16));
        }
        // Empty ones are none: any number.
        let mut lens = vec![0; 3 * most];
        lens[most] = 5;
        let mut input = buffers_of(&device, &lens);
        input.copy_from_slice(b"bytes");
        let done = run(hasher.digest(input).unwrap(), &ctx);
        assert_eq!(output(&done), evp::hash(Hash::Sha256, b"bytes"));
        poller.shutdown();
    }
}

#[test]
fn without_indirect_descriptors_what_fits_into_four_is_done_and_all_else_refused() {
    let options = DeviceOptions { indirect: false, ..Default::default() };
    let device = Device::open_with("sim:", &options).unwrap();
    let poller = Poller::spawn(&device, Default::default()).unwrap();
    let ctx = WaitCtx::new();
    assert_eq!(device.capabilities().max_pieces, 2);
    let of = |lens: &[usize]| buffers_of(&device, lens);
    let yes = |request: Result<Request, NotMade>| {
        let done = run(request.unwrap(), &ctx);
        assert_eq!(done.result(), Ok(Answer::Yes));
        output(&done)
    };
    let no = |request: Result<Request, NotMade>| refused(request, &["descriptors", "4"]);

    let hasher = device.hasher(Hash::Sha1).unwrap();
    assert_eq!(yes(hasher.digest(of(&[3, 4]))), evp::hash(Hash::Sha1, &[0xa5; 7]));
    no(hasher.digest(of(&[3, 4, 1])));
    assert_eq!(yes(hasher.digest(of(&[3, 0, 4, 0]))), evp::hash(Hash::Sha1, &[0xa5; 7]));

    let key = zero_key(&device, Cipher::Aes128Ctr);
    let iv = [9; 16];
    assert_eq!(yes(key.scatter(Direction::Encrypt, &iv, of(&[20]), None)).len(), 20);
    assert_eq!(yes(key.scatter(Direction::Encrypt, &iv, of(&[20]), Some(of(&[20])))).len(), 20);
    no(key.scatter(Direction::Encrypt, &iv, of(&[10, 10]), None));
    no(key.scatter(Direction::Encrypt, &iv, of(&[10, 10]), Some(of(&[20]))));

    let key = device.aead_key(Aead::ChaCha20Poly1305, &[4; 32]).unwrap();
    let sealed = yes(key.seal_into(&[0; 12], b"", of(&[20]), of(&[36])));
    assert_eq!(sealed, evp::seal(Aead::ChaCha20Poly1305, &[4; 32], &[0; 12], b"", &[0xa5; 20], 16));
    no(key.seal_into(&[0; 12], b"aad", of(&[20]), of(&[36])));
    let sealed = yes(key.seal_into(&[0; 12], b"aad", of(&[]), of(&[16])));
    assert_eq!(sealed, evp::seal(Aead::ChaCha20Poly1305, &[4; 32], &[0; 12], b"aad", &[], 16));
    poller.shutdown();
}

#[test]
fn inputs_and_outputs_of_different_lengths_and_foreign_buffers_are_refused() {
    let (device, other) = (Device::open("sim:").unwrap(), Device::open("sim:").unwrap());
    let key = zero_key(&device, Cipher::Aes128Cbc);
    let of = |lens: &[usize]| buffers_of(&device, lens);
    let iv = [0; 16];
    refused(key.scatter(Direction::Encrypt, &iv, of(&[16, 16]), Some(of(&[16, 15]))), &["lengths"]);
    refused(key.scatter(Direction::Encrypt, &iv, of(&[16, 15]), None), &["31", "16"]);
    refused(key.scatter(Direction::Encrypt, &iv[1..], of(&[16]), None), &["15", "16"]);
    let mut mixed = of(&[16]);
    mixed.push(other.buffer(16).unwrap());
    refused(key.scatter(Direction::Encrypt, &iv, mixed, None), &["another device"]);
    let free = device.free_bytes();
    drop(key.scatter(Direction::Encrypt, &iv, of(&[8, 8]), Some(of(&[1, 0, 15]))).unwrap());
    assert_eq!(device.free_bytes(), free, "a request that was dropped gives its memory back");
}

/// Rings of all sizes, full of plain requests and of those with chains of their own, in turn.
#[test]
fn plain_requests_on_slots_that_chains_have_used_stay_right() {
    for (indirect, size, queues) in [(true, 8_u16, 1), (false, 32, 1), (true, 16, 2), (false, 64, 2)] {
        let options = DeviceOptions { queue_size: size, indirect, ..Default::default() };
        let sim = format!("queues={queues},order=shuffle,seed=5");
        let (sim, device, mut poller) = stepped(&sim, &options, PollerConfig::default());
        let kinds = Kinds::new(&device);
        kinds.prepare().unwrap();
        let mut rng = Rng::new(3);
        let depth = device.capabilities().queue_depth as usize * queues;
        let contexts: Vec<_> = (0..depth).map(|_| WaitCtx::new()).collect();
        for round in 0..60 {
            let mut wanted: Vec<Option<Wanted>> = vec![None; depth];
            for (slot, ctx) in contexts.iter().enumerate() {
                // Rounds of one kind, rounds of the other, rounds of both.
                let plain = match round % 3 {
                    0 => true,
                    1 => false,
                    _ => rng.one_in(2),
                };
                let kind = if plain { 0 } else { 1 + rng.below(KINDS.len() - 1) };
                let work = loop {
                    match kinds.of_kind(kind, &mut rng, 200, if indirect { 2 } else { 1 }) {
                        Ok(work) => break work,
                        Err(Error::Invalid(why)) => assert!(why.contains("descriptors"), "{why}"),
                        Err(error) => panic!("{error}"),
                    }
                };
                work.request.submit(ctx).map_err(|refused| refused.to_error()).expect("a free slot");
                wanted[slot] = Some(work.wanted);
            }
            let ctx = WaitCtx::new();
            let more = kinds.of_kind(0, &mut rng, 16, 1).unwrap();
            assert_eq!(more.request.submit(&ctx).unwrap_err().reason(), Reason::RingFull);
            sim.step();
            poller.poll();
            for (ctx, wanted) in contexts.iter().zip(wanted) {
                wanted.unwrap().check(&ctx.take().expect("a completion"));
            }
            assert_eq!(sim.stats().last_fault, None, "round {round}");
        }
        let stats = device.stats();
        assert_eq!((stats.completed, stats.errors), (60 * depth as u64, 0));
    }
}

// ---- mixed traffic ----

struct Flight {
    wanted: Wanted,
    canceled: bool,
}

/// A device, a poller, and contexts with requests of all kinds.
struct World {
    rng: Rng,
    sim: Sim,
    device: Device,
    poller: ManualPoller,
    clock: ManualClock,
    kinds: Kinds,
    contexts: Vec<(WaitCtx, Option<Flight>)>,
    indirect: bool,
    /// Results that came, by kind of answer; errors by kind.
    yes: u64,
    no: u64,
    errors: u64,
    canceled: u64,
    expired: u64,
    lost: u64,
    accepted: u64,
    full: u64,
    /// What the errors were.
    faults: Vec<String>,
}

/// What goes wrong in the middle of it: slots in quarantine, recoveries, statuses.
const FAULTS: [&str; 12] = [
    "drop",
    "drop:x3",
    "stall",
    "stall:once",
    "needs-reset",
    "op-error:ERR",
    "op-error:INVSESS",
    "status-garbage",
    "bad-len",
    "duplicate",
    "slow:1500ms",
    "session-lost",
];

impl World {
    fn new(seed: u64, indirect: bool, size: u16) -> Self {
        let clock = ManualClock::new();
        let config = PollerConfig { clock: Clock::Manual(clock.clone()), ..Default::default() };
        let options = DeviceOptions {
            queue_size: size,
            indirect,
            check_memory: true,
            control_timeout: std::time::Duration::from_millis(5),
            ..Default::default()
        };
        let (sim, device, poller) = stepped(&format!("queues=2,order=shuffle,seed={seed}"), &options, config);
        let kinds = Kinds::new(&device);
        kinds.prepare().unwrap();
        let depth = 2 * device.capabilities().queue_depth as usize;
        let contexts = (0..depth + 4).map(|_| (WaitCtx::new(), None)).collect();
        let (yes, no, errors, canceled, expired, lost, accepted, full) = (0, 0, 0, 0, 0, 0, 0, 0);
        Self {
            rng: Rng::new(seed),
            sim,
            device,
            poller,
            clock,
            kinds,
            contexts,
            indirect,
            yes,
            no,
            errors,
            canceled,
            expired,
            lost,
            accepted,
            full,
            faults: Vec::new(),
        }
    }

    fn submit(&mut self) {
        let index = self.rng.below(self.contexts.len());
        if self.contexts[index].1.is_some() {
            return;
        }
        let pieces = 1 + self.rng.below(if self.indirect { 3 } else { 1 });
        let work = match self.kinds.random(&mut self.rng, 300, pieces) {
            Ok(work) => work,
            Err(Error::NoRoom(_)) => return,
            Err(Error::Invalid(why)) => return assert!(why.contains("descriptors"), "{why}"),
            Err(error) => panic!("{error}"),
        };
        let (ctx, flight) = &mut self.contexts[index];
        match work.request.submit(ctx) {
            Ok(()) => {
                self.accepted += 1;
                *flight = Some(Flight { wanted: work.wanted, canceled: false });
            }
            Err(refused) => {
                assert_eq!(refused.status(), Status::Eagain, "{:?}", refused.reason());
                self.full += u64::from(refused.reason() == Reason::RingFull);
            }
        }
    }

    fn harvest(&mut self) {
        for (ctx, slot) in &mut self.contexts {
            let Some(flight) = slot.take_if(|_| !ctx.is_busy()) else { continue };
            let done = ctx.take().expect("a delivery");
            match done.result() {
                Ok(answer) => {
                    flight.wanted.check(&done);
                    match answer {
                        Answer::Yes => self.yes += 1,
                        Answer::No => self.no += 1,
                    }
                }
                Err(fault) => {
                    assert_eq!(ctx.status(), Status::Err);
                    // A plain cipher's buffers come back as they are.
                    let what = &flight.wanted.what;
                    assert!(
                        what.contains("Cipher(") || output(&done).is_empty(),
                        "{what}: output of an error"
                    );
                    self.errors += 1;
                    self.faults.push(format!("{fault}: {what}"));
                    match fault {
                        Fault::Canceled => {
                            assert!(flight.canceled);
                            self.canceled += 1;
                        }
                        Fault::TimedOut => self.expired += 1,
                        Fault::DeviceFailed => self.lost += 1,
                        Fault::Device(_) => {}
                        other => panic!("{other}"),
                    }
                }
            }
        }
    }

    fn advance(&mut self, millis: u64) {
        let by = std::time::Duration::from_millis(millis);
        self.clock.advance(by);
        self.sim.advance(by);
        self.poller.poll();
    }

    fn act(&mut self) {
        match self.rng.below(100) {
            0..=59 => self.submit(),
            60..=74 => {
                let most = 1 + self.rng.below(6);
                self.sim.step_n(most);
            }
            75..=89 => {
                self.poller.poll();
                self.harvest();
            }
            90..=93 => {
                let index = self.rng.below(self.contexts.len());
                let (ctx, flight) = &mut self.contexts[index];
                if let Some(flight) = flight {
                    self.device.cancel(ctx);
                    flight.canceled = true;
                }
            }
            94..=97 => {
                let millis = self.rng.below(300) as u64;
                self.advance(millis);
            }
            98 if self.rng.one_in(4) => {
                let fault = FAULTS[self.rng.below(FAULTS.len())];
                // From now on.
                let at = 1 + self.rng.below(20);
                let (kind, args) =
                    fault.split_once(':').map_or((fault, String::new()), |(k, a)| (k, format!(":{a}")));
                self.sim.inject(format!("{kind}@{at}{args}").parse().unwrap());
            }
            _ => {
                // A full ring, in whatever order it comes back.
                for _ in 0..2 * self.contexts.len() {
                    self.submit();
                }
            }
        }
    }

    /// All that is in flight ends.
    fn settle(&mut self) {
        for _ in 0..4000 {
            self.sim.step();
            self.poller.poll();
            self.harvest();
            let quiet = self.contexts.iter().all(|(_, flight)| flight.is_none());
            if quiet && self.device.state() == DeviceState::Ready && self.device.stats().quarantined == 0 {
                return;
            }
            self.advance(20);
            // The control queue's answers are waited for in real time.
            std::thread::yield_now();
        }
        panic!("no end: {:?} {:?}", self.device.state(), self.device.stats());
    }

    fn check(&self) {
        let stats = self.device.stats();
        assert_eq!(stats.accepted, self.accepted, "{stats:?}");
        assert_eq!((stats.completed, stats.errors), (self.yes + self.no, self.errors), "{stats:?}");
        assert_eq!(stats.accepted, stats.deliveries + stats.detached, "{stats:?}");
        assert_eq!((stats.canceled, stats.expired), (self.canceled, self.expired), "{stats:?}");
        assert_eq!((stats.stray_writes, stats.leaked_bytes, stats.panics), (0, 0, 0), "{stats:?}");
    }

    /// Each slot takes a plain request, and all are right.
    fn check_slots(&mut self) {
        // Faults that are still to come strike before.
        let last = self.sim.stats().taken + 30;
        while self.sim.stats().taken < last {
            self.submit();
            self.settle();
        }
        let depth = self.contexts.len() - 4;
        let mut late = 0;
        for kind in [0, 3, 0, 2, 0] {
            self.kinds.prepare().unwrap();
            for index in 0..depth {
                let work = loop {
                    match self.kinds.of_kind(kind, &mut self.rng, 100, 1) {
                        Ok(work) => break work,
                        Err(Error::Invalid(why)) => assert!(why.contains("descriptors"), "{why}"),
                        Err(error) => panic!("{error}"),
                    }
                };
                let (ctx, flight) = &mut self.contexts[index];
                work.request.submit(ctx).map_err(|refused| refused.to_error()).expect("a slot is lost");
                *flight = Some(Flight { wanted: work.wanted, canceled: false });
                self.accepted += 1;
            }
            let errors = self.errors as usize;
            self.settle();
            // A completion too many is found at the latest when a ring is full.
            let found = &self.faults[errors..];
            assert!(found.iter().all(|fault| fault.contains("had a fault")), "{found:?}");
            late += usize::from(!found.is_empty());
        }
        assert!(late <= 2, "{:?}", self.sim.stats());
    }
}

#[test]
fn mixed_traffic_with_cancels_deadlines_and_recoveries_is_right_and_adds_up() {
    let mut seen = Stats::default();
    let (mut no, mut full, mut lost) = (0, 0, 0);
    for seed in 0..24 {
        let (indirect, size) = [(true, 8), (false, 32), (true, 32), (false, 64)][seed as usize % 4];
        let caught = std::panic::catch_unwind(|| {
            let mut world = World::new(seed, indirect, size);
            for round in 0..4 {
                for _ in 0..700 {
                    world.act();
                }
                world.settle();
                world.check();
                if round == 1 {
                    world.check_slots();
                    world.check();
                }
            }
            (world.device.stats(), world.no, world.full, world.lost)
        });
        let (stats, n, f, l) = caught.unwrap_or_else(|panic| {
            println!("seed {seed}: indirect {indirect}, size {size}");
            std::panic::resume_unwind(panic)
        });
        no += n;
        full += f;
        lost += l;
        seen.accepted += stats.accepted;
        seen.completed += stats.completed;
        seen.canceled += stats.canceled;
        seen.expired += stats.expired;
        seen.recoveries += stats.recoveries;
    }
    println!("{seen:?}: {no} answers of no, {full} times full, {lost} lost to faults");
    // It went where it was to go.
    assert!(seen.completed > 15_000 && no > 300 && full > 1000, "{seen:?} {no} {full}");
    assert!(
        seen.canceled > 300 && seen.expired > 50 && seen.recoveries > 40 && lost > 100,
        "{seen:?} {lost}"
    );
}
