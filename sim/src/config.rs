//! The simulator's options: as a structure, and as the text after `sim:`.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use crate::error::SimError;
use crate::faults::{self, Fault, KINDS};
use crate::services::{self, Services};

/// The known keys, for messages.
static KNOWN: LazyLock<String> = LazyLock::new(|| {
    format!(
        "virtio-crypto (first word), queues=1..=64 (1 with quirks=qemu), queue-size=2..=32768 (a power of two), \
         seed=0..=18446744073709551615, latency=0..=60s (as 250ns, 10us, 2ms, 1s), compute=full|none, \
         order=fifo|shuffle, quirks=none|qemu, services={} (not with \
         quirks=qemu), fault={KINDS} (may be given again)",
        services::KNOWN
    )
});

/// Longest latency.
const MAX_LATENCY: Duration = Duration::from_secs(60);

/// Whether the device does the arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compute {
    /// It does.
    #[default]
    Full,
    /// It completes without: requests are parsed and checked, `OK` is written, the source is not
    /// read and the destination not written. Used lengths are those of a full device.
    None,
}

/// The order of completions within a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// As submitted.
    #[default]
    Fifo,
    /// Random, by the seed, among the requests that are there and ready.
    Shuffle,
}

/// Whose peculiarities the device has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Quirks {
    /// None: the specification's.
    #[default]
    None,
    /// Those of QEMU 7.2 with its builtin backend, `iommu_platform=on` and a virtual IOMMU: what
    /// `tests/data/qemu-7.2-virtio-crypto.txt` says, but for 3DES.
    Qemu,
}

impl Quirks {
    /// Whether they are QEMU's.
    pub(crate) fn qemu(self) -> bool {
        self == Self::Qemu
    }
}

/// The options of a simulated device.
///
/// ```
/// use ringbell_sim::SimConfig;
/// let config: SimConfig = "queues=2,latency=10us".parse()?;
/// assert_eq!(config, SimConfig { queues: 2, latency: std::time::Duration::from_micros(10), ..Default::default() });
/// assert_eq!(config.to_string(), "virtio-crypto,queues=2,latency=10us");
/// # Ok::<(), ringbell_sim::SimError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimConfig {
    /// Data queues, 1..=64.
    pub queues: u16,
    /// Entries of each queue, a power of two, 2..=32768.
    pub queue_size: u16,
    /// Where all randomness comes from.
    pub seed: u64,
    /// Delay before each completion on a data queue, up to 60 s.
    pub latency: Duration,
    /// Whether the arithmetic is done.
    pub compute: Compute,
    /// Order of completions.
    pub order: Order,
    /// Whose peculiarities it has.
    pub quirks: Quirks,
    /// What it offers; with QEMU's quirks it is QEMU's affair, and this must be
    /// [`Services::ALL`].
    pub services: Services,
    /// What goes wrong on purpose.
    pub faults: Vec<Fault>,
    /// Feature bits not to offer, for tests. Not part of the text form.
    pub features_off: u64,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            queues: 1,
            queue_size: 1024,
            seed: 0,
            latency: Duration::ZERO,
            compute: Compute::Full,
            order: Order::Fifo,
            quirks: Quirks::None,
            services: Services::ALL,
            faults: Vec::new(),
            features_off: 0,
        }
    }
}

impl SimConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`SimError::Options`], which lists them.
    pub fn validate(&self) -> Result<(), SimError> {
        self.check().map_err(|why| bad(&self.to_string(), why))
    }

    fn check(&self) -> Result<(), String> {
        if !(1..=64).contains(&self.queues) {
            return Err(format!("queues={} is out of range", self.queues));
        }
        if !self.queue_size.is_power_of_two() || self.queue_size < 2 {
            return Err(format!("queue-size={} is no power of two in range", self.queue_size));
        }
        if self.latency > MAX_LATENCY {
            return Err("the latency is out of range".to_owned());
        }
        if self.quirks == Quirks::Qemu && self.queues != 1 {
            return Err(format!("queues={} with quirks=qemu, which has exactly one", self.queues));
        }
        if self.quirks == Quirks::Qemu && self.services != Services::ALL {
            return Err(format!("services={} with quirks=qemu, which has its own", self.services));
        }
        Ok(())
    }

    /// Whether requests of a service (`wire::SERVICE_*`) are done.
    pub(crate) fn serves(&self, service: u32) -> bool {
        if self.quirks.qemu() { Services::QEMU_SERVED.has(service) } else { self.services.has(service) }
    }
}

fn bad(given: &str, why: String) -> SimError {
    SimError::Options { given: given.to_owned(), why, known: KNOWN.as_str() }
}

impl FromStr for SimConfig {
    type Err = SimError;

    fn from_str(text: &str) -> Result<Self, SimError> {
        parse(text).map_err(|why| bad(text, why))
    }
}

fn parse(text: &str) -> Result<SimConfig, String> {
    let mut config = SimConfig::default();
    let options = match text.split_once(',') {
        _ if text.is_empty() || text == "virtio-crypto" => return Ok(config),
        Some(("virtio-crypto", rest)) => rest,
        _ => text,
    };
    let mut seen = Vec::new();
    for option in options.split(',') {
        let Some((key, value)) = option.split_once('=') else {
            return Err(if option.is_empty() {
                "an option is empty".to_owned()
            } else {
                format!("{option:?} is neither a known device nor key=value")
            });
        };
        let wrong = || format!("{value:?} is no value for {key}");
        match key {
            "queues" => config.queues = number(value).ok_or_else(wrong)?,
            "queue-size" => config.queue_size = number(value).ok_or_else(wrong)?,
            "seed" => config.seed = number(value).ok_or_else(wrong)?,
            "latency" => config.latency = duration(value).ok_or_else(wrong)?,
            "compute" => {
                config.compute =
                    word(value, &[("full", Compute::Full), ("none", Compute::None)]).ok_or_else(wrong)?
            }
            "order" => {
                config.order =
                    word(value, &[("fifo", Order::Fifo), ("shuffle", Order::Shuffle)]).ok_or_else(wrong)?
            }
            "quirks" => {
                config.quirks =
                    word(value, &[("none", Quirks::None), ("qemu", Quirks::Qemu)]).ok_or_else(wrong)?
            }
            "services" => config.services = Services::parse(value)?,
            // The one key that may be there more than once.
            "fault" => {
                config.faults.push(faults::parse(value)?);
                continue;
            }
            _ => return Err(format!("unknown key {key:?}")),
        }
        if seen.contains(&key) {
            return Err(format!("{key} is given twice"));
        }
        seen.push(key);
    }
    config.check()?;
    Ok(config)
}

/// Digits only: no sign, no space.
pub(crate) fn number<T: FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Option<T> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
}

const UNITS: [(&str, u64); 4] = [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000), ("ns", 1)];

fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
    Some(Duration::from_nanos(number::<u64>(count)?.checked_mul(*nanos)?))
}

/// A delay that the device can have, in the words of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delay(pub(crate) Duration);

impl Delay {
    /// Reads one; `None` where it is none, or out of range.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        duration(text).filter(|delay| *delay <= MAX_LATENCY).map(Self)
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        // Each is a whole number of nanoseconds: the last one.
        for (unit, factor) in UNITS {
            if nanos.is_multiple_of(u128::from(factor)) {
                return write!(f, "{}{unit}", nanos / u128::from(factor));
            }
        }
        Ok(())
    }
}

impl fmt::Display for SimConfig {
    /// The text that parses to the same options (but for [`features_off`](Self::features_off)).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = Self::default();
        f.write_str("virtio-crypto")?;
        if self.queues != default.queues {
            write!(f, ",queues={}", self.queues)?;
        }
        if self.queue_size != default.queue_size {
            write!(f, ",queue-size={}", self.queue_size)?;
        }
        if self.seed != default.seed {
            write!(f, ",seed={}", self.seed)?;
        }
        if self.latency != default.latency {
            write!(f, ",latency={}", Delay(self.latency))?;
        }
        if self.compute == Compute::None {
            f.write_str(",compute=none")?;
        }
        if self.order == Order::Shuffle {
            f.write_str(",order=shuffle")?;
        }
        if self.quirks == Quirks::Qemu {
            f.write_str(",quirks=qemu")?;
        }
        if self.services != default.services {
            write!(f, ",services={}", self.services)?;
        }
        for fault in &self.faults {
            write!(f, ",fault={fault}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(text: &str) -> SimConfig {
        text.parse().unwrap()
    }

    #[test]
    fn options_are_read_and_written_back() {
        assert_eq!(ok(""), SimConfig::default());
        assert_eq!(ok("virtio-crypto"), SimConfig::default());
        let all = "virtio-crypto,queues=2,queue-size=256,seed=7,latency=10us,compute=none,order=shuffle,\
                   services=cipher+mac";
        let config = ok(all);
        assert_eq!(
            config,
            SimConfig {
                queues: 2,
                queue_size: 256,
                seed: 7,
                latency: Duration::from_micros(10),
                compute: Compute::None,
                order: Order::Shuffle,
                quirks: Quirks::None,
                services: "mac+cipher".parse().unwrap(),
                faults: Vec::new(),
                features_off: 0
            }
        );
        assert_eq!(config.to_string(), all);
        for text in [
            "seed=18446744073709551615",
            "latency=1500ns",
            "quirks=qemu,order=shuffle",
            "latency=60s",
            "services=akcipher",
        ] {
            assert_eq!(ok(&ok(text).to_string()), ok(text), "{text}");
        }
        let faults = ok("fault=stall,seed=1,fault=drop@100:1/1000,fault=stall");
        let fault = |text: &str| text.parse::<Fault>().unwrap();
        assert_eq!(faults.faults, [fault("stall"), fault("drop@100:1/1000"), fault("stall")], "as given");
        assert_eq!(faults.to_string(), "virtio-crypto,seed=1,fault=stall,fault=drop@100:1/1000,fault=stall");
        assert_eq!(ok(&faults.to_string()), faults);
        assert_eq!(ok("latency=0"), SimConfig::default());
        assert_eq!(ok("latency=2ms").latency, Duration::from_millis(2));
        assert_eq!(ok("latency=1000000ns").to_string(), "virtio-crypto,latency=1ms");
    }

    #[test]
    fn wrong_options_are_refused_in_one_line_that_lists_the_known_ones() {
        for text in [
            "edu",
            "virtio-crypto,",
            ",",
            "queues",
            "queues=",
            "queues=0",
            "queues=65",
            "queues=+2",
            "queues=2,",
            "queues=2,queues=2",
            "queue-size=3",
            "queue-size=1",
            "queue-size=65536",
            "queue-size=0",
            "seed=-1",
            "seed=x",
            "seed=18446744073709551616",
            "latency=10",
            "latency=us",
            "latency=61s",
            "latency=1.5us",
            "compute=half",
            "order=lifo",
            "quirks=all",
            "fault",
            "fault=",
            "fault=stal",
            "fault=stall@",
            "fault=stall,fault=drop:x0",
            "queues=2,quirks=qemu",
            "services=cipher,quirks=qemu",
            "services",
            "services=",
            "services=cipher+",
            "services=cipher+ipsec",
            "services=hash+hash",
            "services=hash,services=mac",
            "queues=2,virtio-crypto",
            "bogus=\n",
        ] {
            let message = text.parse::<SimConfig>().unwrap_err().to_string();
            assert!(message.contains("queue-size=2..=32768") && !message.contains('\n'), "{text}: {message}");
            assert!(message.contains("fault=KIND[@N][:ARG]") && message.contains("|drop|"), "{message}");
            assert!(message.contains("services=cipher+hash+mac+aead+akcipher"), "{message}");
        }
    }
}
