//! Built without the feature `failover`: nobody asks for software then, see `PollerConfig::check`.

use ringbell_drivers::engine::{Cipher, Direction, SessionSpec};

use crate::chain::Detail;
use crate::request::Fault;

pub(crate) fn compute(_: Cipher, _: Direction, _: &[u8], _: &[u8], _: &mut [u8]) -> Result<(), Fault> {
    Err(Fault::DeviceFailed)
}

pub(crate) fn compute_chain(_: &SessionSpec, _: &Detail, _: Vec<u8>) -> Result<Option<Vec<u8>>, Fault> {
    Err(Fault::DeviceFailed)
}
