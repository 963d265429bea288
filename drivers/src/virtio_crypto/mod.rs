//! The virtio-crypto device (VIRTIO 1.2, 5.9): configuration, control queue, sessions, data queues.
//!
//! ```text
//!   VirtioCrypto          opens the device, implements Engine
//!     config              what the device offers
//!     control, create     the control queue: sessions are created and destroyed there
//!     sessions            sessions cached by key
//!     queues              making the rings, routing the interrupts
//!     data                the data queues: a plain cipher becomes a descriptor chain
//!     chain               requests of other kinds, with a chain of their own
//!     wire                structures as the device sees them
//!     open                opening the device
//!     recover             standstill and return, after a fault and at the end
//!     status              what each status byte becomes
//! ```
//!
//! The fixed-size session-mode layout is used: no revision or stateless feature bit is negotiated.

mod chain;
mod config;
mod control;
mod create;
mod data;
mod device;
mod open;
mod queues;
mod recover;
mod sessions;
mod status;
pub mod wire;

pub use chain::{ChainJob, ChainOperation};
pub use data::{CipherJob, DataBurst, DataCompleter, DataSlots, DataSubmitter, DataVacancy, Entry, Place};
pub use device::VirtioCrypto;
pub use open::OpenOptions;
pub use queues::DataQueue;

/// The device's number of a cipher's algorithm (5.9.3.1), for [`CipherJob`].
pub const fn algorithm(cipher: crate::engine::Cipher) -> u32 {
    config::algorithm_of(cipher)
}
