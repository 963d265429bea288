//! The one string that names a device everywhere: library, command, daemon, C.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::Error;

/// Which device to open.
///
/// | text | variant |
/// |---|---|
/// | `sim:`, `sim:virtio-crypto,queues=2` | [`Sim`](Self::Sim), the options as text (the simulator parses them) |
/// | `0000:00:04.0`, `00:04.0` | [`Pci`](Self::Pci) |
/// | `vfio-user:/run/crypto.sock` | [`VfioUser`](Self::VfioUser) |
/// | `daemon:/run/ringbell/ringbell.sock` | [`Daemon`](Self::Daemon) |
///
/// ```
/// use ringbell_drivers::address::Address;
/// let address: Address = "0000:00:04.0".parse()?;
/// assert!(matches!(address, Address::Pci(bdf) if bdf.device == 4));
/// assert!("0000:00:20.0".parse::<Address>().is_err());
/// # Ok::<(), ringbell_drivers::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A simulated device in this process.
    Sim(String),
    /// A real function, through whatever it is bound to.
    Pci(Bdf),
    /// A device that another process serves on this socket.
    VfioUser(PathBuf),
    /// A device that the daemon at this socket shares.
    Daemon(PathBuf),
}

/// The place of a PCI function: domain, bus, device, function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bdf {
    /// Domain (segment), 0..=0xffff.
    pub domain: u16,
    /// Bus, 0..=0xff.
    pub bus: u8,
    /// Device, 0..=0x1f.
    pub device: u8,
    /// Function, 0..=7.
    pub function: u8,
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.domain, self.bus, self.device, self.function)
    }
}

impl FromStr for Bdf {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::Address { given: text.to_owned(), why: why.to_owned() };
        let hex = |part: &str, digits: std::ops::RangeInclusive<usize>, max: u16, why: &str| {
            let fits = digits.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            u16::from_str_radix(part, 16).ok().filter(|v| fits && *v <= max).ok_or_else(|| bad(why))
        };
        const SHAPE: &str = "a PCI function is written 0000:00:04.0 (domain:bus:device.function)";
        let (place, function) = text.rsplit_once('.').ok_or_else(|| bad(SHAPE))?;
        let mut parts = place.rsplit(':');
        let (Some(device), Some(bus)) = (parts.next(), parts.next()) else { return Err(bad(SHAPE)) };
        let domain = parts.next().unwrap_or("0000");
        if parts.next().is_some() {
            return Err(bad(SHAPE));
        }
        let narrow = |v: u16| v.to_le_bytes()[0];
        Ok(Self {
            domain: hex(domain, 1..=4, 0xffff, "the domain has up to four hexadecimal digits")?,
            bus: narrow(hex(bus, 1..=2, 0xff, "the bus has two hexadecimal digits, 00 to ff")?),
            device: narrow(hex(device, 1..=2, 0x1f, "the device has two hexadecimal digits, 00 to 1f")?),
            function: narrow(hex(function, 1..=1, 7, "the function is one digit, 0 to 7")?),
        })
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::Address { given: text.to_owned(), why: why.to_owned() };
        let path = |rest: &str, shape: &str| {
            let broken = rest.is_empty() || rest.contains('\0');
            if broken { Err(bad(shape)) } else { Ok(PathBuf::from(rest)) }
        };
        if let Some(options) = text.strip_prefix("sim:") {
            Ok(Self::Sim(options.to_owned()))
        } else if let Some(rest) = text.strip_prefix("vfio-user:") {
            path(rest, "after vfio-user: stands the path of a socket").map(Self::VfioUser)
        } else if let Some(rest) = text.strip_prefix("daemon:") {
            path(rest, "after daemon: stands the path of a socket").map(Self::Daemon)
        } else if text.starts_with(|c: char| c.is_ascii_hexdigit())
            && text.contains(':')
            && text.contains('.')
        {
            text.parse().map(Self::Pci)
        } else {
            Err(bad("a device is sim: (simulated), a PCI function such as 0000:00:04.0, \
                 vfio-user:SOCKET or daemon:SOCKET"))
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sim(options) => write!(f, "sim:{options}"),
            Self::Pci(bdf) => bdf.fmt(f),
            Self::VfioUser(path) => write!(f, "vfio-user:{}", path.display()),
            Self::Daemon(path) => write!(f, "daemon:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_good_address_reads_and_prints_as_itself() {
        for text in [
            "sim:",
            "sim:virtio-crypto,queues=2,seed=7",
            "0000:00:04.0",
            "ffff:ff:1f.7",
            "vfio-user:/run/crypto.sock",
            "daemon:/run/ringbell/ringbell.sock",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("3:0a.1".parse::<Address>().unwrap().to_string(), "0000:03:0a.1");
    }

    #[test]
    fn every_bad_address_is_an_error_that_says_what_is_wrong() {
        for text in [
            "",
            "sim",
            "simulator:",
            "0000:00:04",
            "0000:00:20.0",
            "0000:00:04.8",
            "0000:100:04.0",
            "10000:00:04.0",
            "0:0:0:0.0",
            "00:04.",
            ".0",
            "0000:00:+4.0",
            "vfio-user:",
            "daemon:",
            "daemon:a\0b",
            "/dev/vfio/3",
            "ünicode:1.0",
            "0000:00:0g.0",
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.starts_with("cannot read device address '"), "{text}: {error}");
            assert!(!error.contains('\n'));
        }
    }
}
