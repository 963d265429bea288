//! What the device offers (5.9.3, 5.9.4).

use zerocopy::{FromZeros, IntoBytes};

use super::wire::{self, algorithm, service};
use crate::engine::{Cipher, Mode};
use crate::error::{Error, Result};
use crate::virtio::Transport;
use std::time::Duration;

/// The longest request that fits the lengths on the wire, with room for a status byte.
const LONGEST: u64 = (u32::MAX / 2) as u64;

/// The configuration, read once and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) data_queues: u16,
    pub(super) ciphers: Vec<Cipher>,
    pub(super) max_request: u64,
}

/// The algorithm's number (5.9.3.1).
pub(super) const fn algorithm_of(cipher: Cipher) -> u32 {
    match cipher.mode() {
        Mode::Ecb => algorithm::AES_ECB,
        Mode::Cbc => algorithm::AES_CBC,
        Mode::Ctr => algorithm::AES_CTR,
    }
}

impl Offer {
    /// Reads the configuration and checks it against the transport.
    pub(super) fn read(transport: &Transport, limit: Duration) -> Result<Self> {
        let bad = |why: String| Error::NotUsable { device: transport.function().address().to_owned(), why };
        let mut config = wire::Config::new_zeroed();
        let count = transport.read_device_config(config.as_mut_bytes(), limit)?;
        if count < 8 {
            return Err(bad(format!("its configuration has {count} bytes, not even the number of queues")));
        }
        if config.status.get() & wire::STATUS_HW_READY == 0 {
            return Err(bad(
                "it says that its hardware is not ready; start its backend and try again".to_owned()
            ));
        }
        // The control queue comes after the data queues (5.9.2). 0 counts as 1: the specification
        // asks for at least one, and some devices leave the field empty.
        let claimed = config.max_dataqueues.get().max(1);
        let queues = u32::from(transport.queues()?);
        if claimed >= queues {
            return Err(bad(format!(
                "it claims {claimed} data queues and a control queue, but has {queues} queues in all"
            )));
        }
        let has_cipher = config.crypto_services.get() & 1 << service::CIPHER != 0;
        let longest = config.max_cipher_key_len.get() as usize;
        let offers = |cipher: &Cipher| {
            let bit = config.cipher_algo_l.get() >> algorithm_of(*cipher) & 1 == 1;
            // 0: the device states no limit.
            has_cipher && bit && (longest == 0 || cipher.key_len() <= longest)
        };
        let max_size = config.max_size.get();
        Ok(Self {
            data_queues: claimed as u16,
            ciphers: Cipher::ALL.into_iter().filter(offers).collect(),
            // 0 or absent: no limit stated. Else it limits the variable-length part of a request,
            // which is IV, source and destination together (5.9.4). Lengths on the wire have 32 bits.
            max_request: match max_size {
                0 => LONGEST,
                size => (size.saturating_sub(16) / 2).min(LONGEST),
            },
        })
    }
}
