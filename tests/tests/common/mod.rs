//! What the test files share: a seeded generator, devices in their kinds, one request from start to
//! end, the oracle.
#![allow(dead_code)]

pub mod evp;
pub mod kinds;

use std::time::{Duration, Instant};

use ringbell::sim::Sim;
use ringbell::{
    Buffers, Cipher, CipherKey, Completion, Device, DeviceOptions, Direction, ManualPoller, Mode,
    PollerConfig, Refused, Request, WaitCtx,
};

/// Long enough that only a hang comes here: no test is decided by it, it ends one that is lost.
pub const FOR_EVER: Duration = Duration::from_secs(60);

/// SplitMix64: small, seeded, the same everywhere.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `end`, without it.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn fill(&mut self, data: &mut [u8]) {
        for chunk in data.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.fill(&mut data);
        data
    }
}

/// A simulator stepped by hand, its device and a poller without a thread.
pub fn stepped(sim: &str, options: &DeviceOptions, config: PollerConfig) -> (Sim, Device, ManualPoller) {
    let sim = Sim::stepped(sim.parse().expect("simulator options")).expect("a simulator");
    let device = Device::from_function(sim.function(), options).expect("a device");
    let poller = ManualPoller::new(std::slice::from_ref(&device), config).expect("a poller");
    (sim, device, poller)
}

/// The bytes of a key of zeros; for XTS, which takes no two equal halves, the last is 1.
pub fn zeros(cipher: Cipher) -> Vec<u8> {
    let mut bytes = vec![0; cipher.key_len()];
    if cipher.mode() == Mode::Xts {
        bytes[cipher.key_len() - 1] = 1;
    }
    bytes
}

/// A key of zeros with live sessions.
pub fn zero_key(device: &Device, cipher: Cipher) -> CipherKey {
    let key = device.cipher_key(cipher, &zeros(cipher)).expect("a key");
    key.prepare().expect("sessions");
    key
}

/// A request of `len` bytes that encrypts zeros in place with AES-128-CTR.
pub fn small(device: &Device, key: &CipherKey, len: usize) -> Request {
    let mut buffer = device.buffer(len).expect("a buffer");
    buffer.fill(0);
    key.encrypt(&[0; 16][..key.cipher().iv_len()], buffer)
}

/// Buffers of these lengths.
pub fn buffers_of(device: &Device, lens: &[usize]) -> Buffers {
    let mut buffers: Buffers = lens.iter().map(|len| device.buffer(*len).expect("a buffer")).collect();
    buffers.pieces_mut().iter_mut().for_each(|piece| piece.fill(0xa5));
    buffers
}

/// `total` bytes in `count` parts, of which some may be empty.
pub fn cuts(rng: &mut Rng, total: usize, count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (1..count)
        .map(|_| match rng.below(6) {
            // Empty ones at both ends, too.
            0 => 0,
            1 => total,
            _ => rng.below(total + 1),
        })
        .chain([0, total])
        .collect();
    places.sort_unstable();
    places.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// `data` in `count` buffers, cut at random places.
pub fn scattered(device: &Device, rng: &mut Rng, data: &[u8], count: usize) -> Buffers {
    let mut buffers = buffers_of(device, &cuts(rng, data.len(), count));
    buffers.copy_from_slice(data);
    buffers
}

/// The output of a completion, of all buffers.
pub fn output(done: &Completion) -> Vec<u8> {
    done.request().outputs().flatten().copied().collect()
}

/// Waits for what another thread does; gives up, with a panic, only where it never comes.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < FOR_EVER, "waited for ever: {what}");
        std::thread::yield_now();
    }
}

/// Submits, again while there is no room, and waits for the end. A poll thread serves the device.
pub fn run(request: Request, ctx: &WaitCtx) -> Completion {
    let device = request.device().clone();
    device.submit_wait(request, ctx, FOR_EVER).map_err(|r: Refused| r.to_error()).expect("accepted");
    wait_until("a completion", || !ctx.is_busy());
    ctx.take().expect("a completion")
}

/// Submits without waiting; what must be accepted.
pub fn submit(request: Request, ctx: &WaitCtx) {
    request.submit(ctx).map_err(|r| r.to_error()).expect("accepted");
}

/// libcrypto, the oracle, without padding.
pub fn oracle(cipher: Cipher, direction: Direction, key: &[u8], iv: &[u8], data: &[u8]) -> Vec<u8> {
    use openssl::symm::{Cipher as C, Crypter, Mode as M};
    let algorithm = match (cipher.mode(), cipher.key_len()) {
        (Mode::Ecb, 16) => C::aes_128_ecb(),
        (Mode::Ecb, 24) => C::aes_192_ecb(),
        (Mode::Ecb, 32) => C::aes_256_ecb(),
        (Mode::Cbc, 16) => C::aes_128_cbc(),
        (Mode::Cbc, 24) => C::aes_192_cbc(),
        (Mode::Cbc, 32) => C::aes_256_cbc(),
        (Mode::Ctr, 16) => C::aes_128_ctr(),
        (Mode::Ctr, 24) => C::aes_192_ctr(),
        (Mode::Ctr, 32) => C::aes_256_ctr(),
        (Mode::Xts, 32) => C::aes_128_xts(),
        (Mode::Xts, 64) => C::aes_256_xts(),
        other => unreachable!("{other:?}"),
    };
    let mode = match direction {
        Direction::Encrypt => M::Encrypt,
        Direction::Decrypt => M::Decrypt,
    };
    let iv = (!iv.is_empty()).then_some(iv);
    let mut crypter = Crypter::new(algorithm, mode, key, iv).expect("libcrypto");
    crypter.pad(false);
    let mut out = vec![0; data.len() + 16];
    let mut len = if data.is_empty() { 0 } else { crypter.update(data, &mut out).expect("libcrypto") };
    len += crypter.finalize(&mut out[len..]).expect("libcrypto");
    out.truncate(len);
    out
}

/// After sessions came and went, all memory is back, but for the spare buffers of its control queue:
/// at most 8 of 192 bytes (with keys up to 104 bytes), which it keeps.
pub fn assert_all_back(device: &Device, free: usize) {
    let kept = free.checked_sub(device.free_bytes());
    assert!(
        kept.is_some_and(|kept| kept <= 8 * 192 && kept.is_multiple_of(192)),
        "a buffer is lost: {kept:?} bytes"
    );
}

/// What a panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text").to_owned()
}
