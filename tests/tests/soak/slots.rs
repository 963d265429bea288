//! What both soaks share: keys with what libcrypto makes of some texts, contexts that check what they
//! are told, and the counts of it all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringbell::{
    Answer, Cipher, CipherKey, Completion, Delivery, Device, Direction, Fault, Reason, Refused, Request,
    Status, WaitCtx,
};

use crate::common::{Rng, oracle};

/// Bytes of the texts; requests are about their beginnings.
const TEXT: usize = 2048;
const TEXTS: usize = 4;

/// A key with texts, plain and as libcrypto encrypts them. In all these modes the beginning of one is
/// the other's beginning.
pub struct KeyData {
    cipher: Cipher,
    bytes: Vec<u8>,
    iv: Vec<u8>,
    texts: Vec<[Vec<u8>; 2]>,
}

impl KeyData {
    fn new(cipher: Cipher, rng: &mut Rng) -> Self {
        let (bytes, iv) = (rng.bytes(cipher.key_len()), rng.bytes(cipher.iv_len()));
        let texts = (0..TEXTS).map(|_| {
            let plain = rng.bytes(TEXT);
            let coded = oracle(cipher, Direction::Encrypt, &bytes, &iv, &plain);
            [plain, coded]
        });
        Self { texts: texts.collect(), cipher, bytes, iv }
    }

    pub fn open(&self, device: &Device) -> CipherKey {
        device.cipher_key(self.cipher, &self.bytes).expect("a key")
    }
}

pub fn keys(rng: &mut Rng) -> Vec<KeyData> {
    let ciphers = [Cipher::Aes128Ctr, Cipher::Aes128Cbc, Cipher::Aes256Ctr, Cipher::Aes192Ecb];
    (0..8).map(|number| KeyData::new(ciphers[number % 4], rng)).collect()
}

/// What a request is about.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    key: usize,
    text: usize,
    len: usize,
    direction: Direction,
    separate: bool,
    canceled: bool,
}

impl Flight {
    pub fn random(rng: &mut Rng) -> Self {
        let most = if rng.one_in(16) { TEXT / 16 } else { 12 };
        Self {
            key: rng.below(8),
            text: rng.below(TEXTS),
            len: 16 * rng.below(most + 1),
            direction: if rng.one_in(2) { Direction::Encrypt } else { Direction::Decrypt },
            separate: rng.one_in(2),
            canceled: false,
        }
    }

    /// One with the first key.
    pub fn first_key(rng: &mut Rng) -> Self {
        Self { key: 0, ..Self::random(rng) }
    }

    /// The input, and what comes of it.
    fn texts<'a>(&self, all: &'a [KeyData]) -> [&'a [u8]; 2] {
        let [plain, coded] = &all[self.key].texts[self.text];
        match self.direction {
            Direction::Encrypt => [&plain[..self.len], &coded[..self.len]],
            Direction::Decrypt => [&coded[..self.len], &plain[..self.len]],
        }
    }

    /// The request; `None` without memory for it.
    pub fn request(&self, device: &Device, all: &[KeyData], keys: &[CipherKey]) -> Option<Request> {
        let room = |buffer: Result<_, ringbell::Error>| match buffer {
            Ok(buffer) => Some(buffer),
            Err(ringbell::Error::NoRoom(_)) => None,
            Err(error) => panic!("{error}"),
        };
        let input = room(device.buffer_from(self.texts(all)[0]))?;
        let output = if self.separate { Some(room(device.buffer(self.len))?) } else { None };
        Some(keys[self.key].request(self.direction, &all[self.key].iv, input, output))
    }
}

/// What a context does with what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Takes the request in the callback.
    Take,
    /// Leaves it in the context, where it is harvested.
    Leave,
    /// Submits it again, one time in two.
    Again,
    /// Panics.
    Panic,
    /// Has a wait fd.
    Fd,
    /// Has nothing; it is looked at.
    Nothing,
}

impl Manner {
    pub fn has_callback(self) -> bool {
        !matches!(self, Self::Fd | Self::Nothing)
    }
}

/// Counts by the model, to be compared with the device's.
#[derive(Default)]
pub struct Tally {
    pub accepted: AtomicU64,
    pub completed: AtomicU64,
    pub errors: AtomicU64,
    pub detached: AtomicU64,
    pub eagain: AtomicU64,
    pub refused: AtomicU64,
    pub panics: AtomicU64,
    /// Requests whose context was dropped and which tell nobody.
    pub unseen: AtomicU64,
    /// How requests ended that did not end well.
    pub faults: Mutex<BTreeMap<String, u64>>,
    /// What went wrong where a panic would be caught.
    wrong: Mutex<Vec<String>>,
}

pub fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::SeqCst)
}

/// All memory is back, but for what the control queue keeps for the next sessions. Of a device that
/// failed there may be more than before: its rings.
pub fn check_memory(device: &Device, free: usize) {
    let now = device.free_bytes();
    assert!(now + 12 * 256 >= free, "buffers are lost: {now} of {free} bytes are free");
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tally {
    fn wrong(&self, what: String) {
        lock(&self.wrong).push(what);
    }

    pub fn check(&self) {
        let wrong = lock(&self.wrong);
        assert!(wrong.is_empty(), "{} things are wrong, first: {}", wrong.len(), wrong[0]);
    }
}

/// A context in the model.
pub struct Slot {
    pub manner: Manner,
    /// What is in flight, or ended and was not looked at.
    pub flight: Mutex<Option<Flight>>,
    /// Given up: the context is busy until the device has returned the request.
    detached: Mutex<bool>,
    all: Arc<Vec<KeyData>>,
    tally: Arc<Tally>,
}

pub struct Context {
    pub slot: Arc<Slot>,
    pub ctx: WaitCtx,
}

impl Context {
    pub fn new(manner: Manner, all: &Arc<Vec<KeyData>>, tally: &Arc<Tally>) -> Self {
        let slot = Arc::new(Slot {
            manner,
            flight: Mutex::default(),
            detached: Mutex::default(),
            all: Arc::clone(all),
            tally: Arc::clone(tally),
        });
        let inside = Arc::clone(&slot);
        let ctx = match manner {
            Manner::Fd => WaitCtx::with_fd().unwrap(),
            Manner::Nothing => WaitCtx::new(),
            _ => WaitCtx::with_callback(move |delivery| inside.called(delivery)),
        };
        Self { slot, ctx }
    }

    /// Submits by `how`, where the context has nothing in flight. What was refused with `EAGAIN`
    /// comes back.
    pub fn submit(
        &self,
        request: Request,
        flight: Flight,
        how: impl FnOnce(Request, &WaitCtx) -> Result<(), Refused>,
    ) -> Option<(Reason, Request)> {
        {
            let mut mine = lock(&self.slot.flight);
            if mine.is_some() {
                return None;
            }
            *mine = Some(flight);
        }
        // Without the lock: the callback may come before this returns, and on this very thread where
        // the ring went away under the request.
        let answer = how(request, &self.ctx);
        let tally = &self.slot.tally;
        let refused = match answer {
            Ok(()) => {
                *lock(&self.slot.detached) = false;
                add(&tally.accepted);
                return None;
            }
            Err(refused) => refused,
        };
        *lock(&self.slot.flight) = None;
        let reason = refused.reason();
        match reason {
            Reason::RingFull | Reason::SessionPending | Reason::Resetting => {
                assert_eq!((refused.status(), self.ctx.status()), (Status::Eagain, Status::Eagain));
                add(&tally.eagain);
                return Some((reason, refused.into_request()));
            }
            Reason::ContextBusy => assert!(*lock(&self.slot.detached), "busy with nothing in flight"),
            Reason::DeviceDown | Reason::SessionRefused => assert_eq!(self.ctx.status(), Status::Err),
            other => panic!("refused: {other:?}"),
        }
        add(&tally.refused);
        let request = refused.into_request();
        assert!(request.input() == flight.texts(&self.slot.all)[0], "a refused request has changed");
        None
    }

    /// Looks whether the request has ended, where nobody is told, and at how.
    pub fn harvest(&self) {
        if self.slot.manner.has_callback() {
            // It was looked at in the callback. Without the lock: `take` waits for a callback that runs.
            drop(self.ctx.take());
            return;
        }
        let mut mine = lock(&self.slot.flight);
        let Some(flight) = *mine else { return };
        if let Some(done) = self.ctx.take_ready() {
            *mine = None;
            self.slot.look_at(&flight, self.ctx.status(), &done);
        }
    }

    pub fn detach(&self) {
        let mut mine = lock(&self.slot.flight);
        if self.ctx.detach() {
            assert!(mine.is_some(), "given up with nothing in flight");
            *mine = None;
            *lock(&self.slot.detached) = true;
            add(&self.slot.tally.detached);
        }
    }

    pub fn cancel(&self, device: &Device) {
        if let Some(flight) = &mut *lock(&self.slot.flight) {
            flight.canceled = true;
        }
        device.cancel(&self.ctx);
    }
}

impl Slot {
    /// The callback.
    fn called(&self, delivery: &Delivery<'_>) {
        let mut mine = lock(&self.flight);
        let Some(flight) = mine.take() else {
            self.tally.wrong("a delivery with nothing in flight".to_owned());
            return;
        };
        let Some(done) = delivery.take() else {
            self.tally.wrong("a delivery without its request".to_owned());
            return;
        };
        self.look_at(&flight, delivery.status(), &done);
        match self.manner {
            Manner::Panic => {
                drop(mine);
                add(&self.tally.panics);
                std::panic::panic_any("on purpose");
            }
            Manner::Again if flight.text.is_multiple_of(2) && !done.request().input().is_empty() => {
                let mut request = done.into_request();
                let again = Flight { text: flight.text + 1, canceled: false, ..flight };
                request.input_mut().copy_from_slice(again.texts(&self.all)[0]);
                match request.submit(delivery) {
                    Ok(()) => {
                        *mine = Some(again);
                        add(&self.tally.accepted);
                    }
                    Err(refused) => match refused.reason() {
                        Reason::RingFull | Reason::SessionPending | Reason::Resetting => {
                            add(&self.tally.eagain)
                        }
                        Reason::DeviceDown | Reason::SessionRefused => add(&self.tally.refused),
                        other => self.tally.wrong(format!("refused in a callback: {other:?}")),
                    },
                }
            }
            _ => {}
        }
    }

    /// Checks and counts an end.
    fn look_at(&self, flight: &Flight, status: Status, done: &Completion) {
        let result = done.result();
        let [input, output] = flight.texts(&self.all);
        let expected = if result.is_ok() { Status::Ok } else { Status::Err };
        if status != expected {
            self.tally.wrong(format!("{result:?} with status {status:?}"));
        }
        let seen = done.request();
        let whole = seen.input().len() == flight.len;
        if result == Ok(Answer::Yes) && (!whole || seen.output() != output) {
            self.tally.wrong(format!("not what libcrypto says, or gone: {flight:?}"));
        }
        if whole && flight.separate && seen.input() != input {
            self.tally.wrong(format!("a separate input has changed: {flight:?}"));
        }
        if result == Err(Fault::Canceled) && !flight.canceled {
            self.tally.wrong(format!("cancelled by nobody: {flight:?}"));
        }
        match result {
            Ok(_) => add(&self.tally.completed),
            Err(_) => add(&self.tally.errors),
        }
        if result != Ok(Answer::Yes) {
            *lock(&self.tally.faults).entry(format!("{result:?}")).or_default() += 1;
        }
    }
}
