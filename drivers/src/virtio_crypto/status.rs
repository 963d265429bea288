//! What each status byte of the device becomes (5.9.7).
//!
//! | byte | [`DeviceStatus`] | wait context |
//! |---|---|---|
//! | OK 0 | `Ok` | OK |
//! | ERR 1 | `Err` | ERR |
//! | BADMSG 2 | `BadMessage` | OK: the answer is no |
//! | NOTSUPP 3 | `NotSupported` | ERR |
//! | INVSESS 4 | `InvalidSession` | ERR |
//! | NOSPC 5 | `NoSpace` | ERR |
//! | KEY_REJECTED 6 | `KeyRejected` | OK: the answer is no |
//! | anything else | none: the device lies, the queue is faulted | ERR |

use super::wire::status;
use crate::engine::DeviceStatus;

/// The meaning of a status byte; `None` where the specification has no such status.
#[inline]
pub(super) fn decode(byte: u8) -> Option<DeviceStatus> {
    Some(match byte {
        status::OK => DeviceStatus::Ok,
        status::ERR => DeviceStatus::Err,
        status::BADMSG => DeviceStatus::BadMessage,
        status::NOTSUPP => DeviceStatus::NotSupported,
        status::INVSESS => DeviceStatus::InvalidSession,
        status::NOSPC => DeviceStatus::NoSpace,
        status::KEY_REJECTED => DeviceStatus::KeyRejected,
        _ => return None,
    })
}

/// The specification's name of a status.
pub(super) fn name(byte: u32) -> &'static str {
    match u8::try_from(byte).ok().and_then(decode) {
        Some(DeviceStatus::Ok) => "OK",
        Some(DeviceStatus::Err) => "ERR",
        Some(DeviceStatus::BadMessage) => "BADMSG",
        Some(DeviceStatus::NotSupported) => "NOTSUPP",
        Some(DeviceStatus::InvalidSession) => "INVSESS",
        Some(DeviceStatus::NoSpace) => "NOSPC",
        Some(DeviceStatus::KeyRejected) => "KEY_REJECTED",
        None => "not in the specification",
    }
}

impl DeviceStatus {
    /// Whether the request was answered, be the answer no, or has failed.
    pub const fn is_answer(self) -> bool {
        matches!(self, Self::Ok | Self::BadMessage | Self::KeyRejected)
    }
}
