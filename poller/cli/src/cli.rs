//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use ringbell::address::Bdf;

/// Offload work to PCI accelerators from userspace.
///
/// Results go to stdout, messages to stderr. The exit status is 0 when it is done, 1 when it failed,
/// 2 when it was asked for wrongly. RINGBELL_LOG sets what is logged to stderr: error, warn (the
/// default), info, debug, trace, or a filter such as ringbell=debug.
#[derive(Debug, Parser)]
#[command(name = "ringbell", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ringbell speed                      measure the simulated device, no hardware needed
  ringbell speed --op list            what the device offers
  ringbell crypt --cipher aes-256-ctr --key-file key.hex --iv $IV -i plain -o cipher
  ringbell list                       the PCI functions here, and whether each can be used";

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure: requests through a device, completions by callback, every result checked
    Speed(SpeedArgs),
    /// Encrypt or decrypt a file or a pipe, byte for byte as `openssl enc -K -iv` does
    Crypt(CryptArgs),
    /// List the PCI functions here that ringbell can drive, and whether each can be used now
    List(ListArgs),
    /// Hand PCI functions to a driver that gives them to user space
    Bind(BindArgs),
    /// Give PCI functions back to the drivers that they had
    Unbind(UnbindArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the man page, or write all of them to a directory
    Man(ManArgs),
}

const SPEED_EXAMPLES: &str = "\
Examples:
  ringbell speed
  ringbell speed --size 64 --size 16k --threads 2 --device sim:queues=2
  ringbell speed --op aes-256-ctr --decrypt --ops 1000000 --json
  ringbell speed --op chacha20-poly1305 --size 16k
  ringbell speed --op rsa-2048-sign --in-flight 8
  ringbell speed --device sim:compute=none --size 64 --in-flight 32 --phased
  ringbell speed --size 64 --size 1k --size 16k --plot speed.svg
  ringbell speed --device sim:fault=needs-reset@10000 --json

Every result is compared with one that was computed in software before, unless
the device is sim:compute=none, which does no arithmetic. Wrong results, errors
and lost requests make the exit status 1.";

/// Requests from wait contexts through a device for some seconds, like `openssl speed`.
#[derive(Debug, Args)]
#[command(after_help = SPEED_EXAMPLES)]
pub(crate) struct SpeedArgs {
    /// The device: sim: and its options, or the address of a PCI function
    #[arg(long, value_name = "ADDR", default_value = "sim:")]
    pub(crate) device: String,

    /// The operation: aes-128-cbc, aes-256-gcm, sha256, hmac-sha256, rsa-2048-sign; "list" prints those that
    /// the device offers
    #[arg(long, value_name = "NAME", default_value = "aes-128-cbc")]
    pub(crate) op: String,

    /// Decrypt (AEAD: open) instead of encrypting
    #[arg(long)]
    pub(crate) decrypt: bool,

    /// Bytes of each request, 64 to 1048576 (64k, 1m); several sizes are measured one after another; RSA's
    /// is the modulus's [default: 1024]
    #[arg(long = "size", value_name = "BYTES", value_parser = size)]
    pub(crate) sizes: Vec<usize>,

    /// Requests kept in flight, by all threads together: one wait context each
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) in_flight: u32,

    /// Threads that submit; while there are enough queues, each has one for itself
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: u32,

    /// How long each size is measured
    #[arg(long, value_name = "S", default_value = "3", value_parser = seconds, conflicts_with = "ops")]
    pub(crate) seconds: Duration,

    /// Stop after so many requests instead
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) ops: Option<u64>,

    /// How completions reach the threads
    #[arg(long, value_name = "HOW", default_value = "callback")]
    pub(crate) wake: Wake,

    /// What the poll thread does when there is nothing to do
    #[arg(long, value_name = "POLICY", default_value = "adaptive", conflicts_with = "phased")]
    pub(crate) idle: Idle,

    /// Pin the poll thread (with --phased: the one thread) to this core
    #[arg(long, value_name = "N")]
    pub(crate) core: Option<usize>,

    /// Submit a burst of --in-flight, leave the device alone until it is done, drain the burst: the
    /// driver's own cost, in TSC ticks
    #[arg(long)]
    pub(crate) phased: bool,

    /// When the device is failed, go on by software, and say for how many requests
    #[arg(long, conflicts_with = "phased")]
    pub(crate) failover: bool,

    /// Draw latency percentiles and throughput by size into this file, as SVG; --phased: ticks by size
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) plot: Option<PathBuf>,

    /// Print one JSON object for each size
    #[arg(long)]
    pub(crate) json: bool,
}

/// How completions reach a submitting thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wake {
    /// A callback on the poll thread
    Callback,
    /// The wait fd of each context, with epoll
    Fd,
    /// Futures, one for each context, on an executor of the thread's own
    Future,
}

impl Wake {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Callback => "callback",
            Self::Fd => "fd",
            Self::Future => "future",
        }
    }
}

/// What the poll thread does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Idle {
    /// It never sleeps
    Spin,
    /// It spins for a while, then sleeps until an interrupt
    Adaptive,
    /// It sleeps at once
    Interrupt,
}

impl Idle {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Adaptive => "adaptive",
            Self::Interrupt => "interrupt",
        }
    }
}

const CRYPT_EXAMPLES: &str = "\
Examples:
  ringbell crypt --cipher aes-128-cbc --key-file key.hex --iv 00112233445566778899aabbccddeeff \\
      -i plain -o cipher
  tar c dir | ringbell crypt --cipher aes-256-ctr --key-file key.hex --iv $IV > dir.tar.enc
  ringbell crypt -d --cipher aes-128-cbc --key-file <(pass show key) --iv $IV -i cipher -o plain

A key given by -K can be seen by other users of the machine: prefer --key-file,
a file with the key in hexadecimal. A regular output file appears whole or not
at all; pipes and devices are written directly.";

/// Encrypts or decrypts a file or a pipe through the accelerator, as `openssl enc -K -iv` does.
#[derive(Args)]
#[command(
    after_help = CRYPT_EXAMPLES,
    group(clap::ArgGroup::new("key_source").required(true).args(["key", "key_file"]))
)]
pub(crate) struct CryptArgs {
    /// The device: sim: and its options, or the address of a PCI function
    #[arg(long, value_name = "ADDR", default_value = "sim:")]
    pub(crate) device: String,

    /// The cipher, such as aes-128-cbc or aes-256-ctr
    #[arg(long, value_name = "NAME")]
    pub(crate) cipher: String,

    /// The key in hexadecimal; others can see it in the list of processes
    #[arg(short = 'K', value_name = "HEX")]
    pub(crate) key: Option<String>,

    /// A file with the key in hexadecimal
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) key_file: Option<PathBuf>,

    /// The IV (for CTR: the first counter block) in hexadecimal
    #[arg(long, value_name = "HEX")]
    pub(crate) iv: Option<String>,

    /// Decrypt
    #[arg(short = 'd')]
    pub(crate) decrypt: bool,

    /// No padding: the input has to be whole blocks
    #[arg(long)]
    pub(crate) nopad: bool,

    /// Read from this file; stdin where it is - or absent
    #[arg(short = 'i', value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) input: Option<PathBuf>,

    /// Write to this file; stdout where it is - or absent
    #[arg(short = 'o', value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
}

impl std::fmt::Debug for CryptArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the key.
        f.debug_struct("CryptArgs").field("cipher", &self.cipher).finish_non_exhaustive()
    }
}

const LIST_EXAMPLES: &str = "\
Examples:
  ringbell list
  ringbell list --all
  ringbell list --json | jq -r 'select(.usable) | .address'

A device is usable where this user could open it now; otherwise the line says
what stands in the way, and what to do. Nothing is opened, and no privilege is
needed.";

/// The PCI functions here that ringbell can drive, and whether each can be used now.
#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
pub(crate) struct ListArgs {
    /// List all PCI functions
    #[arg(long)]
    pub(crate) all: bool,

    /// Print one JSON object for each function
    #[arg(long)]
    pub(crate) json: bool,
}

const BIND_EXAMPLES: &str = "\
Examples:
  sudo ringbell bind 0000:00:04.0 --user alice
  sudo ringbell bind 0000:03:00.0 0000:03:00.1     both functions of an IOMMU group

All that are named are handed over, or none. What is in use is refused: disks
that are mounted or swap, network interfaces that are up or have an address. So
is a function whose IOMMU group holds others that would keep their drivers: name
them, too. Which driver each had is remembered in /run/ringbell-bind until
`ringbell unbind`. Needs root and an IOMMU, and no other tool.

--user NAME makes NAME the owner of the group's device node, /dev/vfio/N, with
mode 0600; it also opens /dev/vfio/vfio to all, as it is by default. It holds
until the function is unbound.";

/// Hands PCI functions to a driver that gives them to user space.
#[derive(Debug, Args)]
#[command(after_help = BIND_EXAMPLES)]
pub(crate) struct BindArgs {
    /// The addresses of the functions, such as 0000:00:04.0
    #[arg(value_name = "BDF", required = true, value_parser = bdf)]
    pub(crate) functions: Vec<Bdf>,

    /// The driver that they are handed to
    #[arg(long, value_name = "NAME", default_value = "vfio-pci")]
    pub(crate) driver: UserDriver,

    /// Give the device node to this user, by name or number
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,

    /// Take functions away that are in use, or that ringbell does not drive
    #[arg(long)]
    pub(crate) force: bool,
}

/// A driver that gives functions to user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UserDriver {
    /// VFIO, behind an IOMMU
    VfioPci,
}

const UNBIND_EXAMPLES: &str = "\
Example:
  sudo ringbell unbind 0000:00:04.0

Where ringbell has not bound it, the kernel looks for a driver. A function that
a process has open is refused, because the kernel would wait for that process;
one that opens it meanwhile is waited for all the same.";

/// Gives PCI functions back to the drivers that they had.
#[derive(Debug, Args)]
#[command(after_help = UNBIND_EXAMPLES)]
pub(crate) struct UnbindArgs {
    /// The addresses of the functions, such as 0000:00:04.0
    #[arg(value_name = "BDF", required = true, value_parser = bdf)]
    pub(crate) functions: Vec<Bdf>,

    /// Do it although a process has it open, or the driver that it had is gone
    #[arg(long)]
    pub(crate) force: bool,
}

/// Prints a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ringbell completions bash > /etc/bash_completion.d/ringbell")]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Prints the man page, or writes all of them to a directory.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ringbell man | man -l -\n  ringbell man --out /usr/local/share/man/man1"
)]
pub(crate) struct ManArgs {
    /// Write a page for each command to this directory
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: Option<PathBuf>,
}

fn bdf(text: &str) -> Result<Bdf, String> {
    text.parse().map_err(|error| match error {
        ringbell::Error::Address { why, .. } => why,
        other => other.to_string(),
    })
}

/// Smallest and largest request of `speed`.
const SIZES: std::ops::RangeInclusive<usize> = 64..=1 << 20;

fn size(text: &str) -> Result<usize, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, factor) = match lower.strip_suffix(['k', 'm']) {
        Some(digits) if lower.ends_with('k') => (digits, 1 << 10),
        Some(digits) => (digits, 1 << 20),
        None => (lower.as_str(), 1),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let bytes = digits.parse::<usize>().ok().filter(|_| plain).and_then(|n| n.checked_mul(factor));
    bytes
        .filter(|bytes| SIZES.contains(bytes))
        .ok_or_else(|| "a size is a number of bytes from 64 to 1048576, such as 64, 16k or 1m".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse::<f64>().ok().filter(|s| (0.001..=86_400.0).contains(s));
    number
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "a time is a number of seconds from 0.001 to 86400, such as 3 or 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_and_times_are_read_and_refused() {
        for (text, bytes) in [("64", 64), ("1024", 1024), ("16k", 16384), ("1M", 1 << 20), ("1024K", 1 << 20)]
        {
            assert_eq!(size(text), Ok(bytes));
        }
        for text in ["", "k", "63", "1048577", "2m", "-64", "+64", "64b", "1.5k", "99999999999999999999m"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["", "0", "-1", "nan", "inf", "1e9", "3s"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
