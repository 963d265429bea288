//! Why a machine came to nothing.

use std::fmt;
use std::time::Duration;

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The host lacks something: a program, a package.
    #[error("missing: {0}")]
    Missing(String),
    /// A program of the host failed.
    #[error("{program} failed: {message}")]
    Tool {
        /// Its name.
        program: String,
        /// Its status and what it said.
        message: String,
    },
    /// A file of the host could not be read or written, or a process not be started.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The kernel has no module of this name.
    #[error("the kernel has no module {0}")]
    NoModule(String),
    /// The guest's kernel panicked, or oopsed, which is made a panic.
    #[error("the guest's kernel panicked; the console ends with\n{console}")]
    Panic {
        /// The console's last lines.
        console: Tail,
    },
    /// It took longer than it may.
    #[error("not done within {limit:?}; the console ends with\n{console}")]
    TimeLimit {
        /// How long it may take, from power-on.
        limit: Duration,
        /// The console's last lines.
        console: Tail,
    },
    /// The guest could not be made ready for the job, or its results be brought back.
    #[error("{message}; the console ends with\n{console}")]
    Guest {
        /// What went wrong.
        message: String,
        /// The console's last lines.
        console: Tail,
    },
    /// QEMU ended before the job was done.
    #[error("QEMU ended too early ({status}): {emulator}\nthe console ends with\n{console}")]
    Emulator {
        /// How the process ended.
        status: String,
        /// What QEMU itself said.
        emulator: String,
        /// The console's last lines.
        console: Tail,
    },
}

impl Failure {
    /// For `map_err`: an input or output error, with what was attempted.
    pub(super) fn io(what: impl fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what: what.to_string(), source }
    }
}

/// The last lines of a console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail(String);

impl Tail {
    const LINES: usize = 40;

    /// Of everything that was printed.
    pub(super) fn of(console: &str) -> Self {
        let lines: Vec<_> = console.lines().collect();
        Self(lines[lines.len().saturating_sub(Self::LINES)..].join("\n"))
    }
}

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
