//! Requests that were not accepted, and why.

use std::fmt;

use ringbell_drivers::Error;
use ringbell_drivers::engine::{Algorithm, Cipher};

use crate::context::Status;
use crate::request::Request;

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The ring is full.
    RingFull,
    /// The session is still being created.
    SessionPending,
    /// The context has a request in flight.
    ContextBusy,
    /// The [`RequestSet`](crate::RequestSet) has as many as it holds.
    SetFull,
    /// The IV has the wrong length.
    IvLength,
    /// The data is not a whole number of blocks.
    PartialBlock,
    /// The data is shorter than the cipher takes.
    TooShort,
    /// The data is longer than the device takes.
    TooLong,
    /// Input and output have different lengths.
    LengthsDiffer,
    /// A buffer is of another device.
    OtherDevice,
    /// The buffers are gone: the device has them still, after a cancel.
    NoData,
    /// All queues are owned; there is none to share.
    NoSharedQueue,
    /// The device refuses the session.
    SessionRefused,
    /// The device had a fault and is being brought back.
    Resetting,
    /// The device is failed or closed.
    DeviceDown,
    /// This process is a forked child of the one that opened the device.
    Forked,
}

impl Reason {
    /// The status that says the same.
    pub fn status(self) -> Status {
        match self {
            Self::RingFull | Self::SessionPending | Self::Resetting | Self::SetFull => Status::Eagain,
            _ => Status::Err,
        }
    }
}

/// A request that was not accepted: nothing was queued, and it is inside.
pub struct Refused {
    request: Request,
    reason: Reason,
}

impl Refused {
    #[cold]
    pub(crate) fn new(request: Request, reason: Reason) -> Self {
        Self { request, reason }
    }

    /// `EAGAIN`: try again when there is room. `ERR`: never.
    pub fn status(&self) -> Status {
        self.reason.status()
    }

    /// Why.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The request back.
    pub fn into_request(self) -> Request {
        self.request
    }

    /// The same as an error, in words.
    pub fn to_error(&self) -> Error {
        let algorithm = self.request.algorithm();
        let len = self.request.inputs().map(<[u8]>::len).sum::<usize>();
        let cipher = match algorithm {
            Algorithm::Cipher(cipher) => Some(cipher),
            _ => None,
        };
        match self.reason {
            Reason::RingFull => Error::NoRoom("a request in the ring"),
            Reason::SetFull => Error::NoRoom("a request in the set: take out what has ended"),
            Reason::SessionPending => Error::NoRoom("the request: its session is still being created"),
            Reason::ContextBusy => {
                Error::Invalid("the wait context has a request in flight; use another, or wait".to_owned())
            }
            Reason::IvLength => Error::Invalid(match cipher {
                Some(cipher) => {
                    format!("the IV has the wrong length, {cipher} takes {} bytes", cipher.iv_len())
                }
                None => {
                    format!("the nonce has another length than the request for {algorithm} was made with")
                }
            }),
            Reason::PartialBlock => Error::Invalid(format!(
                "{len} bytes are not a whole number of blocks; {algorithm} takes multiples of {}",
                cipher.map_or(1, Cipher::granule)
            )),
            Reason::TooShort => Error::Invalid(format!(
                "{len} bytes are too few; {algorithm} takes at least {}",
                cipher.map_or(0, Cipher::least)
            )),
            Reason::TooLong => Error::Invalid(format!(
                "{len} bytes are more than the device takes in one request, {}",
                self.request.device().inner().limits().max_request
            )),
            Reason::LengthsDiffer => Error::Invalid("input and output have different lengths".to_owned()),
            Reason::OtherDevice => Error::Invalid("a buffer belongs to another device".to_owned()),
            Reason::NoData => {
                Error::Invalid("the request's buffers are with the device still; make a new one".to_owned())
            }
            Reason::NoSharedQueue => {
                Error::Invalid("all queues of the device are owned; submit to one of those".to_owned())
            }
            Reason::SessionRefused => Error::Invalid(format!("the device refuses a session for {algorithm}")),
            Reason::Resetting => Error::NoRoom("the request: the device is being reset"),
            Reason::DeviceDown => Error::Down("failed or closed"),
            Reason::Forked => Error::Forked,
        }
    }
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_error().fmt(f)
    }
}

impl std::error::Error for Refused {}
