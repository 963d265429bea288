//! Keys at the device, and the requests that they make.

mod aead;
mod cipher;
mod hash;
mod rsa;

pub use aead::AeadKey;
pub use cipher::CipherKey;
pub use hash::{Hasher, MacKey};
pub use rsa::RsaKey;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringbell_drivers::dma::Secret;
use ringbell_drivers::engine::Session;
use ringbell_drivers::{Error, Result};

use crate::device::Device;

/// How long a device has for a session, unless told otherwise.
const MOMENT: Duration = Duration::from_secs(1);

fn secret(key: &[u8]) -> Result<Arc<Secret>> {
    Secret::new(key).map(Arc::new)
}

/// Creates a session now and waits until it is there.
fn prepare(device: &Device, session: &Arc<Session>, limit: Duration) -> Result<()> {
    let device = device.inner();
    device.check_fork()?;
    let start = Instant::now();
    loop {
        if device.software.is_open() {
            return Ok(()); // It needs no session.
        }
        let left = limit.saturating_sub(start.elapsed());
        match device.engine().prepare_session(session, left) {
            // It is being given up, or software takes its place.
            Err(Error::Down(_)) if device.is_undecided() && !left.is_zero() => {
                std::thread::sleep(Duration::from_micros(100));
            }
            result => return result,
        }
    }
}
