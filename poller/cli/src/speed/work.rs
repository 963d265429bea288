//! What is asked of the device, and what has to come out.
//!
//! Each context has two variants of data and IV and takes them in turn. Its output buffer therefore
//! holds the other variant's result while a request is in flight, and a device that writes nothing,
//! or a result that is read too early, does not pass.

use ringbell::{CipherKey, Device, DeviceOptions, Direction, Request};

use super::Plan;
use crate::error::{Error, Result};
use crate::software;

/// The key of all measurements: what it is does not matter.
const KEY: [u8; 32] = *b"ringbell measures with this key.";

/// Input, IV and the output that software has computed.
struct Variant {
    /// Where the input begins in the pool.
    offset: usize,
    iv: [u8; 16],
    expected: Vec<u8>,
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
    iv_len: usize,
    /// Whether results are compared.
    checked: bool,
}

/// How far apart the windows of two variants are.
const STRIDE: usize = 64;

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
        let len = plan.size + 2 * STRIDE * plan.in_flight;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len + 8).map_err(no_memory)?;
        let mut random = Random(0x5249_4e47);
        while bytes.len() < len {
            bytes.extend_from_slice(&random.next().to_le_bytes());
        }
        let mut jobs = Vec::with_capacity(plan.in_flight);
        for number in 0..plan.in_flight {
            let mut variant = |which: usize| -> Result<Variant> {
                let offset = STRIDE * (2 * number + which);
                let mut iv = [0; 16];
                iv[..8].copy_from_slice(&random.next().to_le_bytes());
                iv[8..].copy_from_slice(&random.next().to_le_bytes());
                let mut expected = Vec::new();
                if checked {
                    expected.try_reserve_exact(plan.size).map_err(no_memory)?;
                    expected.extend_from_slice(&bytes[offset..offset + plan.size]);
                    let (key, iv) = (&KEY[..plan.op.key_len()], &iv[..plan.op.iv_len()]);
                    software::compute(plan.op, plan.direction, key, iv, &mut expected).ok_or_else(|| {
                        Error::failed(format!("check {}", plan.op), "there is no software for it")
                    })?;
                }
                Ok(Variant { offset, iv, expected })
            };
            jobs.push(Job { variants: [variant(0)?, variant(1)?], turn: 0 });
        }
        Ok((Self { bytes, size: plan.size, iv_len: plan.op.iv_len(), checked }, jobs))
    }

    /// Whether results are compared.
    pub(super) fn checked(&self) -> bool {
        self.checked
    }
}

impl Job {
    /// Fills a request with the variant whose turn it is. Nothing where results do not matter.
    pub(super) fn fill(&self, pool: &Pool, request: &mut Request) {
        if !pool.checked {
            return;
        }
        let variant = &self.variants[self.turn];
        let input = &pool.bytes[variant.offset..variant.offset + pool.size];
        let buffer = request.input_mut();
        if buffer.len() == input.len() {
            buffer.copy_from_slice(input);
        }
        request.set_iv(&variant.iv[..pool.iv_len]);
    }

    /// Whether the output is what software says; then it is the other variant's turn.
    pub(super) fn verify(&mut self, output: &[u8]) -> bool {
        let right = output == self.variants[self.turn].expected;
        self.turn ^= 1;
        right
    }

    /// The IV of the first request.
    fn iv(&self, pool: &Pool) -> &[u8] {
        &self.variants[0].iv[..pool.iv_len]
    }
}

/// Room for all buffers of a run, besides what the library wants for itself.
pub(super) fn options(plan: &Plan) -> DeviceOptions {
    let defaults = DeviceOptions::default();
    let buffers = 2 * plan.in_flight * plan.size.next_multiple_of(64);
    DeviceOptions { arena_bytes: defaults.arena_bytes + buffers, ..defaults }
}

/// The key, its session live.
pub(super) fn key(plan: &Plan, device: &Device) -> Result<CipherKey> {
    let attempted = format!("use {} on device {}", plan.op, plan.device.text);
    let prepare = || {
        let key = device.cipher_key(plan.op, &KEY[..plan.op.key_len()])?;
        key.prepare_for(plan.direction, std::time::Duration::from_secs(5))?;
        Ok(key)
    };
    prepare().map_err(|e| Error::library(&attempted, e))
}

/// A request with buffers of its own, to be used again and again.
pub(super) fn request(key: &CipherKey, direction: Direction, job: &Job, pool: &Pool) -> Result<Request> {
    let device = key.device();
    let buffers = || Ok((device.buffer(pool.size)?, device.buffer(pool.size)?));
    let (input, output) = buffers().map_err(|e| Error::library("take buffers for the requests", e))?;
    Ok(key.request(direction, job.iv(pool), input, Some(output)))
}
