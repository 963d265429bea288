//! What can go wrong in a command: one line, and an exit status.

use std::fmt::Display;
use std::io;

/// A result whose error is [`Error`].
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It was asked for wrongly.
    #[error("cannot {attempted}: {why}")]
    Usage {
        /// What was attempted, as the words after "cannot".
        attempted: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// It failed.
    #[error("cannot {attempted}: {why}")]
    Failed {
        /// What was attempted, as the words after "cannot".
        attempted: String,
        /// Why, and what to do.
        why: String,
    },
    /// The library's, where its message says what was attempted.
    #[error(transparent)]
    Library(#[from] ringbell::Error),
}

impl Error {
    /// Wrong usage.
    pub(crate) fn usage(attempted: impl Into<String>, why: impl Display) -> Self {
        Self::Usage { attempted: attempted.into(), why: why.to_string() }
    }

    /// A failure.
    pub(crate) fn failed(attempted: impl Into<String>, why: impl Display) -> Self {
        Self::Failed { attempted: attempted.into(), why: why.to_string() }
    }

    /// A failure of the library, under what the command attempted.
    pub(crate) fn library(attempted: &str, error: ringbell::Error) -> Self {
        if error.to_string().starts_with("cannot ") {
            Self::Library(error)
        } else {
            Self::failed(attempted, error)
        }
    }

    /// A failed write to stdout.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        Self::failed("write to stdout", plain(error))
    }

    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::Failed { .. } | Self::Library(_) => 1,
        }
    }

    /// The message in one line, whatever names and sources it has in it.
    pub(crate) fn one_line(&self) -> String {
        let text = self.to_string();
        text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
    }
}

/// The system's words without the number behind them.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// What clap has to say, without its heading, usage and tips for other lines.
pub(crate) fn first_paragraph(text: &str) -> String {
    let text = text.trim_start().trim_start_matches("error: ");
    let end = text.find("\n\nUsage:").or_else(|| text.find("\n\nFor more")).unwrap_or(text.len());
    let lines = text[..end].lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_several_lines_becomes_one() {
        let clap =
            "error: invalid value 'x' for '--wake <HOW>'\n  [possible values: callback, fd]\n\nUsage: a\n";
        assert_eq!(
            first_paragraph(clap),
            "invalid value 'x' for '--wake <HOW>' [possible values: callback, fd]"
        );
        assert!(!Error::failed("open a\nb", "no\r").one_line().contains(char::is_control));
    }
}
