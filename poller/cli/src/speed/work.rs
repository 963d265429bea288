//! What is asked of the device, and what has to come out.
//!
//! Each context has two variants of data and IV and takes them in turn. Its output buffer therefore
//! holds the other variant's result while a request is in flight, and a device that writes nothing,
//! or a result that is read too early, does not pass. Of two signatures to be verified one is wrong.

use std::sync::Arc;

use ringbell::{
    AeadKey, Answer, CipherKey, Completion, Device, DeviceOptions, Direction, Hasher, MacKey, Request, RsaKey,
};
use ringbell_drivers::algorithm::RsaOperation;

use super::Plan;
use super::op::{AAD, Op, Rsa};
use crate::error::{Error, Result};
use crate::software::{self, Judge};

/// The key of all measurements: what it is does not matter, but that its halves differ.
const KEY: [u8; 64] = *b"ringbell measures with this key.What it is does not matter here.";
/// Bytes of the key of an HMAC.
const HMAC_KEY: usize = 32;

/// A key at the device.
#[derive(Clone)]
pub(super) enum Key {
    Cipher(CipherKey, Direction),
    Aead(AeadKey, Direction),
    Hash(Hasher),
    Mac(MacKey),
    Rsa(Arc<RsaKey>, RsaOperation),
}

impl Key {
    pub(super) fn device(&self) -> &Device {
        match self {
            Self::Cipher(key, _) => key.device(),
            Self::Aead(key, _) => key.device(),
            Self::Hash(hasher) => hasher.device(),
            Self::Mac(key) => key.device(),
            Self::Rsa(key, _) => key.device(),
        }
    }
}

enum Input {
    /// A window of the pool, from here on.
    Window(usize),
    Own(Vec<u8>),
}

enum Expected {
    Output(Vec<u8>),
    Answer(Answer),
    /// What decrypts to the input: an encryption that is never the same twice.
    Encrypted,
}

/// Input, IV and what software has found to come out.
struct Variant {
    input: Input,
    iv: [u8; 16],
    expected: Expected,
}

/// The two variants of one context.
pub(super) struct Job {
    variants: [Variant; 2],
    /// The one whose turn it is, or that is in flight.
    turn: usize,
}

/// What all contexts share: random bytes, of which each variant's input is a window.
pub(super) struct Pool {
    bytes: Vec<u8>,
    size: usize,
    op: Op,
    /// Whether results are compared.
    checked: bool,
    /// Of RSA.
    judge: Option<Judge>,
}

/// How far apart the windows of two variants are.
const STRIDE: usize = 64;
/// Different inputs of RSA: each takes a private operation to prepare.
const VECTORS: usize = 8;

/// Random enough for data: splitmix64, from a fixed seed so that runs can be compared.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Pool {
    /// Random bytes and a job for each of the contexts.
    pub(super) fn new(plan: &Plan) -> Result<(Self, Vec<Job>)> {
        let checked = plan.device.computes();
        let attempted = || format!("prepare {} requests of {} bytes", plan.in_flight, plan.size);
        let no_memory = |_| Error::failed(attempted(), "there is no memory; lower --in-flight or --size");
        let no_software = || Error::failed(format!("check {}", plan.op), "there is no software for it");
        let len = plan.size + 2 * STRIDE * plan.in_flight;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len + 8).map_err(no_memory)?;
        let mut random = Random(0x5249_4e47);
        while bytes.len() < len {
            bytes.extend_from_slice(&random.next().to_le_bytes());
        }
        let (judge, vectors) = match plan.op {
            Op::Rsa(rsa) if checked => {
                let judge = Judge::new(rsa.test_key()).ok_or_else(no_software)?;
                let vectors = bytes.chunks(STRIDE).take(VECTORS).map(|message| judge.vector(message));
                let vectors: Option<Vec<_>> = vectors.collect();
                (Some(judge), vectors.ok_or_else(no_software)?)
            }
            _ => (None, Vec::new()),
        };
        let mut jobs = Vec::with_capacity(plan.in_flight);
        for number in 0..plan.in_flight {
            let mut variant = |which: usize| -> Result<Variant> {
                let offset = STRIDE * (2 * number + which);
                let mut iv = [0; 16];
                iv[..8].copy_from_slice(&random.next().to_le_bytes());
                iv[8..].copy_from_slice(&random.next().to_le_bytes());
                let mut expected = Vec::new();
                let window = &bytes[offset..offset + plan.size];
                let (input, expected) = match plan.op {
                    _ if !checked => (Input::Window(offset), Expected::Output(expected)),
                    Op::Rsa(rsa) => {
                        let vector = &vectors[(2 * number + which) % vectors.len()];
                        let other = &vectors[(2 * number + which + 1) % vectors.len()];
                        of_rsa(rsa, vector, if which == 0 { &vector.digest } else { &other.digest })
                    }
                    op => {
                        expected.try_reserve_exact(plan.size + 16).map_err(no_memory)?;
                        let iv = &iv[..op.iv_len()];
                        by_software(op, iv, offset, window, expected).ok_or_else(no_software)?
                    }
                };
                Ok(Variant { input, iv, expected })
            };
            jobs.push(Job { variants: [variant(0)?, variant(1)?], turn: 0 });
        }
        Ok((Self { bytes, size: plan.size, op: plan.op, checked, judge }, jobs))
    }

    /// Whether results are compared.
    pub(super) fn checked(&self) -> bool {
        self.checked
    }
}

/// The input and what comes out, in the memory of `out`, for a window of the pool that begins at `offset`.
fn by_software(
    op: Op,
    iv: &[u8],
    offset: usize,
    window: &[u8],
    mut out: Vec<u8>,
) -> Option<(Input, Expected)> {
    let output = match op {
        Op::Cipher(cipher, direction) => {
            out.extend_from_slice(window);
            software::compute(cipher, direction, &KEY[..cipher.key_len()], iv, &mut out)?;
            out
        }
        Op::Aead(aead, direction) => {
            let sealed = software::seal(aead, &KEY[..aead.key_len()], iv, AAD, window)?;
            if direction == Direction::Decrypt {
                out.extend_from_slice(window);
                return Some((Input::Own(sealed), Expected::Output(out)));
            }
            sealed
        }
        Op::Hash(hash) => software::hash(hash, window)?,
        Op::Mac(mac) => software::mac(mac, mac_key(mac), window)?,
        Op::Rsa(_) => return None,
    };
    Some((Input::Window(offset), Expected::Output(output)))
}

/// The same for RSA; `signed` is the digest that a signature is held against.
fn of_rsa(rsa: Rsa, vector: &software::Vector, signed: &[u8]) -> (Input, Expected) {
    let software::Vector { digest, block, signature, encrypted } = vector.clone();
    let (input, expected) = match (rsa.operation, rsa.is_raw()) {
        (RsaOperation::Sign, _) => (digest, Expected::Output(signature)),
        (RsaOperation::Verify, _) => {
            let answer = if signed == digest { Answer::Yes } else { Answer::No };
            ([&signature, signed].concat(), Expected::Answer(answer))
        }
        (RsaOperation::Encrypt, false) => (digest, Expected::Encrypted),
        (RsaOperation::Decrypt, false) => (encrypted, Expected::Output(digest)),
        (RsaOperation::Encrypt, true) => (signature, Expected::Output(block)),
        (RsaOperation::Decrypt, true) => (block, Expected::Output(signature)),
    };
    (Input::Own(input), expected)
}

fn mac_key(mac: ringbell::Mac) -> &'static [u8] {
    let lens = mac.key_lens();
    &KEY[..if lens.contains(&HMAC_KEY) { HMAC_KEY } else { *lens.start() }]
}

impl Variant {
    fn input<'a>(&'a self, pool: &'a Pool) -> &'a [u8] {
        match &self.input {
            Input::Window(offset) => &pool.bytes[*offset..*offset + pool.size],
            Input::Own(bytes) => bytes,
        }
    }
}

impl Job {
    /// Fills a request with the variant whose turn it is. Nothing where results do not matter.
    pub(super) fn fill(&self, pool: &Pool, request: &mut Request) {
        if !pool.checked {
            return;
        }
        let variant = &self.variants[self.turn];
        let mut input = variant.input(pool);
        for buffer in request.inputs_mut() {
            let (now, later) = input.split_at(buffer.len().min(input.len()));
            if now.len() == buffer.len() {
                buffer.copy_from_slice(now);
            }
            input = later;
        }
        let iv_len = pool.op.iv_len();
        if iv_len > 0 {
            request.set_iv(&variant.iv[..iv_len]);
        }
    }

    /// Whether the result is what software says; then it is the other variant's turn.
    pub(super) fn verify(&mut self, pool: &Pool, completion: &Completion) -> bool {
        let variant = &self.variants[self.turn];
        self.turn ^= 1;
        let answer = completion.result();
        let output = completion.request().output();
        match &variant.expected {
            Expected::Output(expected) => answer == Ok(Answer::Yes) && output == *expected,
            Expected::Answer(expected) => answer == Ok(*expected),
            Expected::Encrypted => {
                let judge = pool.judge.as_ref();
                answer == Ok(Answer::Yes)
                    && judge.is_some_and(|judge| judge.decrypts_to(output, variant.input(pool)))
            }
        }
    }

    /// The IV of the first request.
    fn iv(&self, pool: &Pool) -> &[u8] {
        &self.variants[0].iv[..pool.op.iv_len()]
    }
}

/// Memory of a request's own descriptor chain, which all but ciphers have.
const CHAIN: usize = 512;

/// Room for all buffers of a run, besides what the library wants for itself.
pub(super) fn options(plan: &Plan) -> DeviceOptions {
    let defaults = DeviceOptions::default();
    let (input, output) = plan.op.lengths(plan.size);
    let chain = if matches!(plan.op, Op::Cipher(..)) { 0 } else { CHAIN };
    let request = input.next_multiple_of(64) + output.next_multiple_of(64) + chain;
    DeviceOptions { arena_bytes: defaults.arena_bytes + plan.in_flight * request, ..defaults }
}

/// The key, its session live.
pub(super) fn key(plan: &Plan, device: &Device) -> Result<Key> {
    let attempted = format!("use {} on device {}", plan.op, plan.device.text);
    let prepare = || {
        Ok(match plan.op {
            Op::Cipher(cipher, direction) => {
                let key = device.cipher_key(cipher, &KEY[..cipher.key_len()])?;
                key.prepare_for(direction, std::time::Duration::from_secs(5))?;
                Key::Cipher(key, direction)
            }
            Op::Aead(aead, direction) => {
                let key = device.aead_key(aead, &KEY[..aead.key_len()])?;
                key.prepare(AAD.len())?;
                Key::Aead(key, direction)
            }
            Op::Hash(hash) => {
                let hasher = device.hasher(hash)?;
                hasher.prepare()?;
                Key::Hash(hasher)
            }
            Op::Mac(mac) => {
                let key = device.mac_key(mac, mac_key(mac))?;
                key.prepare()?;
                Key::Mac(key)
            }
            Op::Rsa(rsa) => {
                let key = device.rsa_key(rsa.padding(), rsa.test_key().as_bytes())?;
                key.prepare()?;
                Key::Rsa(Arc::new(key), rsa.operation)
            }
        })
    };
    prepare().map_err(|e| Error::library(&attempted, e))
}

/// A request with buffers of its own, to be used again and again.
pub(super) fn request(key: &Key, job: &Job, pool: &Pool) -> Result<Request> {
    let device = key.device();
    let (input, output) = pool.op.lengths(pool.size);
    let make = || -> ringbell::Result<Request> {
        Ok(match key {
            Key::Cipher(key, direction) => {
                let (input, output) = (device.buffer(input)?, device.buffer(output)?);
                key.request(*direction, job.iv(pool), input, Some(output))
            }
            Key::Aead(key, direction) => {
                let (input, output) = (device.buffer(input)?, device.buffer(output)?);
                match direction {
                    Direction::Encrypt => key.seal_into(job.iv(pool), AAD, input, output)?,
                    Direction::Decrypt => key.open_into(job.iv(pool), AAD, input, output)?,
                }
            }
            Key::Hash(hasher) => hasher.digest(device.buffer(input)?)?,
            Key::Mac(key) => key.compute(device.buffer(input)?)?,
            Key::Rsa(key, RsaOperation::Encrypt) => key.encrypt(device.buffer(input)?)?,
            Key::Rsa(key, RsaOperation::Decrypt) => key.decrypt(device.buffer(input)?)?,
            Key::Rsa(key, RsaOperation::Sign) => key.sign(device.buffer(input)?)?,
            Key::Rsa(key, RsaOperation::Verify) => {
                key.verify(device.buffer(key.size())?, device.buffer(input - key.size())?)?
            }
        })
    };
    make().map_err(|e| Error::library("take buffers for the requests", e))
}
