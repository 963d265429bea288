//! Requests that were run and have no completion, and why.

use std::time::Duration;

use ringbell_drivers::Error;

use crate::refusal::{Reason, Refused};
use crate::request::Request;

/// Why a request that was run, by a future or by a thread that blocked, has no completion.
///
/// One that was accepted and ended with a fault has one: the fault is its result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unfinished {
    /// It was refused and is inside. By a future: for good (`ERR`).
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Its time was over, and it was given up; its buffers go back when the device has returned them.
    #[error("the request was not done within {0:?} and was given up")]
    GivenUp(Duration),
    /// This process is a forked child: the request is in flight in its parent.
    #[error("the request is in flight in the process that this one was forked from")]
    Forked,
}

impl Unfinished {
    /// Why it was refused, where it was.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(refused) => Some(refused.reason()),
            Self::Forked => Some(Reason::Forked),
            Self::GivenUp(_) => None,
        }
    }

    /// The request back, where it was refused.
    pub fn into_request(self) -> Option<Request> {
        match self {
            Self::Refused(refused) => Some(refused.into_request()),
            Self::Forked | Self::GivenUp(_) => None,
        }
    }
}

impl From<Unfinished> for Error {
    fn from(unfinished: Unfinished) -> Self {
        match unfinished {
            Unfinished::Refused(refused) => refused.to_error(),
            Unfinished::GivenUp(limit) => Self::Timeout { what: "complete the request", limit },
            Unfinished::Forked => Self::Forked,
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        refused.to_error()
    }
}
