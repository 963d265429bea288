//! Which services the device offers: an option, and the masks of the device configuration.

use std::fmt;
use std::str::FromStr;

use crate::crypto::{aead, hash, mac};
use crate::wire;

/// Words of the option, by the number of the service.
const WORDS: [(&str, u32); 5] = [
    ("cipher", wire::SERVICE_CIPHER),
    ("hash", wire::SERVICE_HASH),
    ("mac", wire::SERVICE_MAC),
    ("aead", wire::SERVICE_AEAD),
    ("akcipher", wire::SERVICE_AKCIPHER),
];

/// The words, for messages.
pub(crate) const KNOWN: &str = "cipher+hash+mac+aead+akcipher (any of them, joined by +)";

/// A set of services: one at least.
///
/// ```
/// use ringbell_sim::{Services, wire};
/// let services: Services = "mac+cipher".parse()?;
/// assert!(services.has(wire::SERVICE_MAC) && !services.has(wire::SERVICE_HASH));
/// assert_eq!(services.to_string(), "cipher+mac");
/// # Ok::<(), ringbell_sim::SimError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Services(u32);

impl Services {
    /// All that the simulator knows.
    pub const ALL: Self = Self(
        1 << wire::SERVICE_CIPHER
            | 1 << wire::SERVICE_HASH
            | 1 << wire::SERVICE_MAC
            | 1 << wire::SERVICE_AEAD
            | 1 << wire::SERVICE_AKCIPHER,
    );
    /// What QEMU's device announces.
    pub(crate) const QEMU: Self = Self(
        1 << wire::SERVICE_CIPHER
            | 1 << wire::SERVICE_HASH
            | 1 << wire::SERVICE_MAC
            | 1 << wire::SERVICE_AKCIPHER,
    );
    /// What it does of that.
    pub(crate) const QEMU_SERVED: Self = Self(1 << wire::SERVICE_CIPHER | 1 << wire::SERVICE_AKCIPHER);

    /// Whether a service (`wire::SERVICE_*`) is in the set.
    pub const fn has(self, service: u32) -> bool {
        service < u32::BITS && self.0 >> service & 1 == 1
    }

    /// The set as bits by number of the service: `crypto_services` of the device configuration.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Reads the words of the option.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut services = Self(0);
        for word in text.split('+') {
            let Some((_, service)) = WORDS.iter().find(|(name, _)| *name == word) else {
                return Err(format!("{word:?} is no service; known: {KNOWN}"));
            };
            if services.has(*service) {
                return Err(format!("the service {word} is given twice"));
            }
            services.0 |= 1 << service;
        }
        Ok(services)
    }
}

impl Default for Services {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromStr for Services {
    type Err = crate::SimError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).map_err(|why| crate::SimError::Options {
            given: text.to_owned(),
            why,
            known: KNOWN,
        })
    }
}

impl fmt::Display for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut joint = "";
        for (word, _) in WORDS.iter().filter(|(_, service)| self.has(*service)) {
            write!(f, "{joint}{word}")?;
            joint = "+";
        }
        Ok(())
    }
}

/// The masks of algorithms, each for a service: empty where that is not offered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Masks {
    pub(crate) cipher: u32,
    pub(crate) hash: u32,
    pub(crate) mac: u64,
    pub(crate) aead: u32,
    pub(crate) akcipher: u32,
}

impl Services {
    pub(crate) fn masks(self) -> Masks {
        let mut masks = Masks::default();
        if self.has(wire::SERVICE_CIPHER) {
            masks.cipher = 1 << wire::CIPHER_AES_ECB
                | 1 << wire::CIPHER_AES_CBC
                | 1 << wire::CIPHER_AES_CTR
                | 1 << wire::CIPHER_AES_XTS;
        }
        if self.has(wire::SERVICE_HASH) {
            masks.hash = hash::Algorithm::ALL.iter().fold(0, |mask, algo| mask | 1 << algo.to_wire());
        }
        if self.has(wire::SERVICE_MAC) {
            masks.mac = mac::Algorithm::ALL.iter().fold(0, |mask, algo| mask | 1 << algo.to_wire());
        }
        if self.has(wire::SERVICE_AEAD) {
            masks.aead = aead::Algorithm::ALL.iter().fold(0, |mask, algo| mask | 1 << algo.to_wire());
        }
        if self.has(wire::SERVICE_AKCIPHER) {
            masks.akcipher = 1 << wire::AKCIPHER_RSA;
        }
        masks
    }

    /// Those that QEMU announces: one cipher, one hash, no MAC, RSA.
    pub(crate) fn masks_of_qemu() -> Masks {
        Masks {
            cipher: 1 << wire::CIPHER_AES_CBC,
            hash: 1 << wire::HASH_SHA1,
            mac: 0,
            aead: 0,
            akcipher: 1 << wire::AKCIPHER_RSA,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_read_in_any_order_and_written_in_one() {
        for (text, written) in [
            ("cipher", "cipher"),
            ("akcipher+cipher", "cipher+akcipher"),
            ("aead+mac+hash", "hash+mac+aead"),
            ("cipher+hash+mac+aead+akcipher", "cipher+hash+mac+aead+akcipher"),
        ] {
            let services: Services = text.parse().unwrap();
            assert_eq!(services.to_string(), written);
            assert_eq!(services.to_string().parse::<Services>().unwrap(), services);
        }
        assert_eq!("cipher+hash+mac+aead+akcipher".parse::<Services>().unwrap(), Services::ALL);
        for wrong in ["", "+", "cipher+", "ciphers", "cipher,hash", "Cipher", "mac+mac", "ipsec"] {
            let message = wrong.parse::<Services>().unwrap_err().to_string();
            assert!(message.contains("cipher+hash+mac+aead+akcipher"), "{wrong}: {message}");
        }
    }

    #[test]
    fn the_masks_are_those_of_what_is_offered() {
        let masks = Services::ALL.masks();
        assert_eq!((masks.cipher, masks.hash, masks.mac), (0x201c, 0x7fc, 0x400_007c));
        assert_eq!((masks.aead, masks.akcipher), (0xe, 2));
        let some: Services = "mac+cipher".parse().unwrap();
        assert_eq!(some.bits(), 0b101);
        assert_eq!(some.masks(), Masks { cipher: 0x201c, mac: 0x400_007c, ..Masks::default() });
    }
}
