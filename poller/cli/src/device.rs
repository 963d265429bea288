//! Addresses and ciphers, as the commands share them.

use ringbell::address::Address;
use ringbell::sim::{Compute, SimConfig};
use ringbell::{Aead, Cipher, Device, Mode};

use crate::error::{Error, Result};

/// A device address that has been read, and whether its results mean anything.
#[derive(Clone, Debug)]
pub(crate) struct DeviceName {
    /// As it was given.
    pub(crate) text: String,
    /// The simulator's options, where it is one in this process.
    pub(crate) sim: Option<SimConfig>,
}

impl DeviceName {
    /// Reads an address; one that means nothing is wrong usage.
    pub(crate) fn read(text: &str) -> Result<Self> {
        let parsed: Address = text.parse().map_err(|error| match error {
            ringbell::Error::Address { why, .. } => wrong(text, why),
            other => wrong(text, other.to_string()),
        })?;
        let sim = match parsed {
            Address::Sim(options) => {
                Some(options.parse().map_err(|e: ringbell::sim::SimError| wrong(text, e.to_string()))?)
            }
            _ => None,
        };
        Ok(Self { text: text.to_owned(), sim })
    }

    /// Whether the device does the arithmetic, as far as its address tells.
    pub(crate) fn computes(&self) -> bool {
        self.sim.as_ref().is_none_or(|config| config.compute == Compute::Full)
    }
}

fn wrong(text: &str, why: String) -> Error {
    Error::usage(format!("read device address '{text}'"), why)
}

/// The cipher of that name, where the device offers it, for `crypt`: XTS it does not take.
pub(crate) fn offered_cipher(device: &Device, address: &str, name: &str) -> Result<Cipher> {
    let offered: Vec<_> = device.capabilities().ciphers;
    let for_streams = offered.iter().filter(|cipher| cipher.mode() != Mode::Xts);
    let names = for_streams.map(|cipher| cipher.name()).collect::<Vec<_>>().join(", ");
    let offers = format!("device {address} offers {names}");
    match name.parse::<Cipher>() {
        Ok(cipher) if offered.contains(&cipher) => Ok(cipher),
        Ok(cipher) => Err(Error::failed(format!("use {cipher}"), format!("it is not offered; {offers}"))),
        Err(_) => {
            let why = if name.parse::<Aead>().is_ok() {
                "nothing of it may be written before the tag at its end is right, and a stream is written as it \
                 comes (openssl enc refuses it too)"
            } else {
                "there is no cipher of that name"
            };
            Err(Error::usage(format!("use cipher '{name}'"), format!("{why}; {offers}")))
        }
    }
}
