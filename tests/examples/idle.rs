//! What an idle poller costs, and that it wakes: CPU time of the process over ten idle seconds, then
//! one request.
//!
//! ```text
//! cargo run --release -p ringbell-tests --example idle
//! ```

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use ringbell::{Cipher, Device, Poller, PollerConfig, WaitCtx};

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("usage");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}

fn main() {
    let device = Device::open("sim:").expect("a device");
    let poller = Poller::spawn(&device, PollerConfig::default()).expect("a poller");
    let key = device.cipher_key(Cipher::Aes128Cbc, &[1; 16]).expect("a key");
    key.prepare().expect("sessions");
    let thread = std::thread::current();
    let ctx = WaitCtx::with_callback(move |_| thread.unpark());
    for round in 0..3 {
        std::thread::sleep(Duration::from_millis(200));
        let (sleeps, before, start) = (poller.sleeps(), cpu(), Instant::now());
        std::thread::sleep(Duration::from_secs(10));
        let (used, idle) = (cpu() - before, start.elapsed());
        println!(
            "idle for {:.2} s: {:?} of CPU time, {:.3} % of a core, {} sleeps begun",
            idle.as_secs_f64(),
            used,
            100.0 * used.as_secs_f64() / idle.as_secs_f64(),
            poller.sleeps() - sleeps
        );
        let start = Instant::now();
        let buffer = device.buffer(64).expect("memory");
        key.encrypt(&[round; 16], buffer).submit(&ctx).expect("accepted");
        let done = loop {
            match ctx.take() {
                Some(done) => break done,
                None => std::thread::park(),
            }
        };
        println!("woken, and answered after {:?}: {:?}", start.elapsed(), done.result());
    }
}
