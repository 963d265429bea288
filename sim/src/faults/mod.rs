//! What goes wrong on purpose.
//!
//! ```text
//!   the text KIND[@N][:ARG...]             fault
//!   who is struck, and when                engine, rule
//!   what a strike does to a request        request
//!   ... to the device and its function     strikes, storm
//!   lies at set-up, writes after a reset   lies, ghosts
//! ```
//!
//! A device without faults asks for them once in each batch of work. One that has any takes another
//! way through its requests, one at a time.
//!
//! Randomness comes from the device's seed, but each fault has a source of its own: neither the
//! order of completions nor another fault changes when one is added.

mod engine;
mod fault;
mod ghosts;
mod lies;
mod request;
mod rule;
mod storm;
mod strikes;

pub(crate) use engine::Faults;
pub use fault::{Fault, FaultKind};
pub(crate) use fault::{KINDS, parse};
pub(crate) use request::Marks;
