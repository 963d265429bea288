//! Addresses and ciphers, as the commands share them.

use ringbell::address::Address;
use ringbell::sim::{Compute, SimConfig};
use ringbell::{Cipher, Device};

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

/// The cipher of that name, where the device offers it.
pub(crate) fn offered_cipher(device: &Device, address: &str, name: &str) -> Result<Cipher> {
    let offered = device.capabilities().ciphers;
    let names = offered.iter().map(|cipher| cipher.name()).collect::<Vec<_>>().join(", ");
    match name.parse::<Cipher>() {
        Ok(cipher) if offered.contains(&cipher) => Ok(cipher),
        Ok(cipher) => Err(Error::failed(
            format!("use {cipher}"),
            format!("device {address} does not offer it; it offers {names}"),
        )),
        Err(_) => Err(Error::usage(
            format!("use cipher '{name}'"),
            format!("there is none of that name; device {address} offers {names}"),
        )),
    }
}
