//! What goes wrong on purpose: faults, by the request that they strike.
//!
//! ```text
//!   the text KIND[@N][:ARG...]      fault
//! ```

mod fault;

pub use fault::{Fault, FaultKind};
pub(crate) use fault::{KINDS, parse};
