//! The poll thread's sleep, seen from outside: by the number of sleeps it has begun.

use std::time::Duration;

use ringbell::{Answer, Cipher, CipherKey, Device, IdlePolicy, Poller, PollerConfig, WaitCtx};

fn start(idle: IdlePolicy) -> (Device, Poller, CipherKey) {
    let device = Device::open("sim:").unwrap();
    let poller = Poller::spawn(&device, PollerConfig { idle, ..Default::default() }).unwrap();
    let key = device.cipher_key(Cipher::Aes128Ctr, &[3; 16]).unwrap();
    key.prepare().unwrap();
    (device, poller, key)
}

fn one_request(device: &Device, key: &CipherKey) {
    let thread = std::thread::current();
    let ctx = WaitCtx::with_callback(move |_| thread.unpark());
    key.encrypt(&[0; 16], device.buffer(100).unwrap()).submit(&ctx).unwrap();
    let done = loop {
        match ctx.take() {
            Some(done) => break done,
            None => std::thread::park(),
        }
    };
    assert_eq!(done.result(), Ok(Answer::Yes));
}

/// Waits until the thread sleeps and has nothing left to wake it.
fn asleep(poller: &Poller) -> u64 {
    loop {
        let before = poller.sleeps();
        std::thread::sleep(Duration::from_millis(300));
        if before > 0 && poller.sleeps() == before {
            return before;
        }
    }
}

#[test]
fn an_idle_poller_stays_asleep_and_wakes_for_each_request() {
    for idle in [IdlePolicy::ADAPTIVE, IdlePolicy::Interrupt] {
        let (device, poller, key) = start(idle);
        for _ in 0..3 {
            let sleeps = asleep(&poller);
            one_request(&device, &key);
            // It was woken: it will sleep again.
            while poller.sleeps() == sleeps {
                std::thread::yield_now();
            }
        }
    }
}

#[test]
fn a_spinning_poller_never_sleeps() {
    let (device, poller, key) = start(IdlePolicy::Spin);
    for _ in 0..1000 {
        one_request(&device, &key);
    }
    assert_eq!(poller.sleeps(), 0);
}

#[test]
fn no_wake_up_is_lost_over_many_short_sleeps() {
    let (device, _poller, key) = start(IdlePolicy::Interrupt);
    for _ in 0..20_000 {
        one_request(&device, &key);
    }
}
