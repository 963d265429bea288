//! Awaited requests, contract by contract: submission, room, wake-ups, dropping, faults, shutdown, sets and
//! streams, threads that wait; on an executor of the test's own, and on tokio's.

#[path = "../common/mod.rs"]
mod common;
mod runtime;
mod sets;
mod single;
mod tasks;
mod threads;

use common::{small, stepped, zero_key};
use ringbell::sim::Sim;
use ringbell::{
    Cipher, CipherKey, Device, DeviceOptions, ManualPoller, PollerConfig, Request, Stats, WaitCtx,
};

const CIPHER: Cipher = Cipher::Aes128Ctr;

/// A device that is stepped and polled by hand.
struct Bench {
    sim: Sim,
    device: Device,
    poller: ManualPoller,
    key: CipherKey,
}

fn bench_with(sim: &str, config: PollerConfig) -> Bench {
    let (sim, device, poller) = stepped(sim, &DeviceOptions::default(), config);
    let key = zero_key(&device, CIPHER);
    Bench { sim, device, poller, key }
}

fn bench(sim: &str) -> Bench {
    bench_with(sim, PollerConfig::default())
}

impl Bench {
    fn request(&self) -> Request {
        small(&self.device, &self.key, 64)
    }

    /// One that can never be accepted.
    fn bad(&self) -> Request {
        self.key.encrypt(&[0; 15], self.device.buffer(64).unwrap())
    }

    fn finish(&mut self) {
        while self.sim.step() > 0 || self.poller.poll() > 0 {}
    }

    /// Fills a queue of eight.
    fn fill(&self) -> Vec<WaitCtx> {
        let contexts: Vec<_> = (0..8).map(|_| WaitCtx::new()).collect();
        contexts.iter().for_each(|ctx| common::submit(self.request(), ctx));
        contexts
    }

    fn stats(&self) -> Stats {
        self.device.stats()
    }
}

/// What must hold at every quiet moment.
fn assert_accounts(stats: &Stats) {
    assert_eq!(stats.accepted, stats.deliveries + stats.detached, "{stats:?}");
    assert_eq!(stats.deliveries, stats.completed + stats.errors, "{stats:?}");
}

/// What AES-128-CTR of zeros with a key and an IV of zeros begins with: the block cipher's own vector.
const ZEROS: [u8; 16] =
    [0x66, 0xe9, 0x4b, 0xd4, 0xef, 0x8a, 0x2c, 0x3b, 0x88, 0x4c, 0xfa, 0x59, 0xca, 0x34, 0x2b, 0x2e];
