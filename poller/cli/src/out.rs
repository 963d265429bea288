//! Stdout: a closed pipe is an error like any other, not a panic.

use std::io::{self, Write};

use crate::error::{Error, Result};

/// Writes to stdout, at once.
pub(crate) fn print(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|e| Error::stdout(&e))
}

/// Writes a line to stdout.
pub(crate) fn print_line(line: &str) -> Result<()> {
    print(format!("{line}\n").as_bytes())
}

/// A message to stderr, in one line. Nothing can be done where that is gone.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "ringbell: {text}");
}
