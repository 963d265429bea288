//! All of it: this thread submits, a simulated device computes on a thread of its own, the poll thread
//! delivers.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use ringbell::{Device, DeviceOptions, Poller, PollerConfig, Request, WaitCtx};

use crate::work::{Key, Kind, Work};

const FOR_EVER: Duration = Duration::from_secs(60);

pub struct Simulated {
    poller: Poller,
    device: Device,
    contexts: Vec<WaitCtx>,
    requests: Vec<(usize, Request)>,
    done: Receiver<(usize, Request)>,
    time: Duration,
}

fn open() -> (Device, Poller) {
    let options = DeviceOptions { arena_bytes: 16 << 20, ..Default::default() };
    let device = Device::open_with("sim:", &options).expect("a device");
    let config = PollerConfig { slow_callback: Duration::from_secs(1), ..Default::default() };
    let poller = Poller::spawn(&device, config).expect("a poller");
    (device, poller)
}

/// One operation's output, or of a verification the answer.
pub fn output(work: Work, size: usize) -> Vec<u8> {
    let (device, poller) = open();
    let request = Key::new(work, &device).request(work, size, &device);
    let ctx = WaitCtx::new();
    device.submit_wait(request, &ctx, FOR_EVER).expect("accepted");
    let done = loop {
        match ctx.take() {
            Some(done) => break done,
            None => std::thread::yield_now(),
        }
    };
    assert_eq!(done.result(), Ok(ringbell::Answer::Yes), "{work}");
    let output = done.request().output().to_vec();
    poller.shutdown();
    output
}

impl Simulated {
    pub fn new(work: Work, size: usize) -> Self {
        let rsa = work.kind() == Kind::Rsa;
        let (in_flight, time) = if rsa { (4, 150) } else { (64, 40) };
        let (device, poller) = open();
        let key = Key::new(work, &device);
        let (sender, done): (Sender<(usize, Request)>, _) = channel();
        let contexts = (0..in_flight).map(|number| {
            let sender = sender.clone();
            WaitCtx::with_callback(move |delivery| {
                if let Some(done) = delivery.take() {
                    let _ = sender.send((number, done.into_request()));
                }
            })
        });
        let contexts = contexts.collect();
        let requests = (0..in_flight).map(|number| (number, key.request(work, size, &device))).collect();
        Self { poller, device, contexts, requests, done, time: Duration::from_millis(time) }
    }

    /// Processor time of an operation, of all threads together and the device's among them, in nanoseconds;
    /// operations a second.
    pub fn measure(self) -> (f64, f64) {
        let Self { poller, device, contexts, requests, done, time } = self;
        let submit = |number: usize, request: Request| {
            device.submit_wait(request, &contexts[number], FOR_EVER).expect("accepted");
        };
        let mut in_flight = requests.len();
        let (start, before) = (Instant::now(), cpu());
        requests.into_iter().for_each(|(number, request)| submit(number, request));
        let mut count = 0;
        while in_flight > 0 {
            let (number, request) = done.recv_timeout(FOR_EVER).expect("a delivery");
            count += 1;
            if start.elapsed() < time {
                submit(number, request);
            } else {
                in_flight -= 1;
            }
        }
        let (elapsed, used) = (start.elapsed(), cpu() - before);
        poller.shutdown();
        assert_eq!(device.stats().completed, count);
        (used.as_nanos() as f64 / count as f64, count as f64 / elapsed.as_secs_f64())
    }
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("usage");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}
