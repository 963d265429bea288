//! What the programs share: a device with a poller, and requests whose end is awaited.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use ringbell::{Answer, Cipher, CipherKey, Completion, Device, DeviceOptions, Fault, WaitCtx};
use ringbell_drivers::address::Bdf;
use ringbell_drivers::vfio::VfioFunction;

/// The patience of every wait: under an emulator, on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// The function at an address.
pub(crate) fn function(address: &str) -> Arc<VfioFunction> {
    let bdf: Bdf = address.parse().expect("an address");
    VfioFunction::open(bdf).unwrap_or_else(|e| panic!("{e}"))
}

/// The device at an address.
pub(crate) fn device(address: &str) -> Device {
    Device::open_with(address, &DeviceOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// A key that is ready.
pub(crate) fn key(device: &Device) -> CipherKey {
    let key = device.cipher_key(Cipher::Aes128Cbc, b"sixteen byte key").expect("a key");
    key.prepare().expect("sessions");
    key
}

/// Requests in flight, and where their completions arrive.
pub(crate) struct Desk {
    sender: Sender<Completion>,
    receiver: Receiver<Completion>,
    contexts: Vec<WaitCtx>,
}

impl Desk {
    pub(crate) fn new(count: usize) -> Self {
        let (sender, receiver) = channel();
        let mut desk = Self { sender, receiver, contexts: Vec::new() };
        for _ in 0..count {
            let sender = desk.sender.clone();
            desk.contexts.push(WaitCtx::with_callback(move |delivery| {
                if let Some(done) = delivery.take() {
                    let _ = sender.send(done);
                }
            }));
        }
        desk
    }

    pub(crate) fn context(&self, number: usize) -> &WaitCtx {
        &self.contexts[number % self.contexts.len()]
    }

    /// The next completion.
    pub(crate) fn next(&self) -> Completion {
        self.receiver.recv_timeout(LONG).expect("a completion in time")
    }

    /// Nothing more arrives for a while.
    pub(crate) fn is_quiet(&self) -> bool {
        self.receiver.recv_timeout(Duration::from_millis(300)).is_err()
    }

    /// What the device makes of data, as soon as it takes it.
    pub(crate) fn answer(&self, key: &CipherKey, data: &[u8]) -> Vec<u8> {
        let buffer = key.device().buffer_from(data).expect("memory");
        key.device()
            .submit_wait(key.encrypt(&[7; 16], buffer), self.context(0), LONG)
            .map_err(|r| r.to_error())
            .expect("accepted");
        let done = self.next();
        assert_eq!(done.result(), Ok(Answer::Yes));
        done.request().output().to_vec()
    }

    /// One request, and its result.
    pub(crate) fn run(&self, key: &CipherKey, data: &[u8]) -> Result<Answer, Fault> {
        let buffer = key.device().buffer_from(data).expect("memory");
        key.encrypt(&[7; 16], buffer).submit(self.context(0)).map_err(|r| r.to_error()).expect("accepted");
        self.next().result()
    }
}
