//! Many threads on one device: each runs its requests one after another and sleeps while it waits.
//!
//! ```text
//! cargo run -p ringbell --example threads -- [DEVICE] [THREADS] [REQUESTS]
//! ```
//!
//! A `Device` and a `CipherKey` are handles: cloning one is cheap, and all threads may submit at once. Ringbell
//! spreads them over the queues of the device. A wait context is for one request at a time, so each thread has
//! its own.

use std::time::{Duration, Instant};

use ringbell::{Cipher, CipherKey, Device, Poller, Status, WaitCtx};

/// Longer than any request takes: each has a deadline of its own (`PollerConfig::request_timeout`).
const LIMIT: Duration = Duration::from_secs(10);

/// Encrypts the same buffer again and again, `count` times; returns its last byte.
fn work(key: &CipherKey, number: u8, count: u32) -> Result<u8, ringbell::Error> {
    let device = key.device();
    let ctx = WaitCtx::new();
    // DMA memory, filled in place. The request owns it, and gives it back.
    let mut data = device.buffer(4096)?;
    data.fill(number);
    let mut request = key.encrypt(&[number; 16], data);
    for _ in 0..count {
        // EAGAIN means that there is no room for the moment: this sleeps until there is.
        device.submit_wait(request, &ctx, LIMIT)?;
        let Some(done) = ctx.wait(LIMIT) else { return Err(ringbell::Error::Down("silent")) };
        // A request that was accepted always ends, but maybe without an answer.
        done.result().map_err(|fault| ringbell::Error::Invalid(fault.to_string()))?;
        request = done.into_request();
    }
    assert_eq!(ctx.status(), Status::Ok);
    Ok(request.output()[4095])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "sim:queues=2".to_owned());
    let threads: u8 = arguments.next().as_deref().unwrap_or("4").parse()?;
    let count: u32 = arguments.next().as_deref().unwrap_or("1000").parse()?;

    let device = Device::open(&address)?;
    // One thread drains the completions of the device and wakes whoever waits.
    let poller = Poller::spawn(&device, Default::default())?;
    let key = device.cipher_key(Cipher::Aes256Ctr, &[0x17; 32])?;
    key.prepare()?;

    let start = Instant::now();
    let key = &key;
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads).map(|number| scope.spawn(move || work(key, number, count))).collect();
        for worker in workers {
            worker.join().map_err(|_| ringbell::Error::Down("without a worker: it panicked"))??;
        }
        Ok::<_, ringbell::Error>(())
    })?;
    let stats = device.stats();
    println!("{} requests by {threads} threads in {:?}", stats.completed, start.elapsed());
    poller.shutdown();
    Ok(())
}
