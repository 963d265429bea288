//! Offload work to a PCI accelerator from userspace, and be called back when it is done.
//!
//! A program submits a [`Request`] with a [`WaitCtx`]; on that thread it becomes a descriptor chain
//! in a ring of the device. A poll thread drains completions and wakes the context: by its callback,
//! its wait fd, or both; or it wakes a task that [awaits](TaskCtx) the request, or a
//! [thread that waits](WaitCtx::wait).
//!
//! ```text
//!   Device::open("sim:")           a simulated device, or a PCI function, the same from there on
//!     .cipher_key(cipher, key)     a key at the device: CipherKey
//!     .buffer(len)                 DMA memory, filled in place: DmaBuffer
//!   Poller::spawn(&device, ..)     the poll thread (or ManualPoller, for a loop of your own)
//!   key.encrypt(&iv, buffer)       a Request, which owns its buffers
//!     .submit(&ctx)                Ok: the delivery comes, exactly once; Err: refused, and why
//!   ctx.take()                     the Request back, with its result
//! ```
//!
//! # Example
//!
//! ```
//! use ringbell::{Cipher, Device, Poller, Status, WaitCtx};
//!
//! let device = Device::open("sim:")?; // or "0000:00:04.0": the same from here on
//! let poller = Poller::spawn(&device, Default::default())?;
//!
//! let key = device.cipher_key(Cipher::Aes128Cbc, &[0x2b; 16])?;
//! key.prepare()?; // creates the sessions now; without it the first submit says EAGAIN
//! let mut data = device.buffer(4096)?; // DMA memory, filled in place
//! data.fill(7);
//!
//! let thread = std::thread::current();
//! let ctx = WaitCtx::with_callback(move |_| thread.unpark()); // small, never blocks
//! match key.encrypt(&[0; 16], data).submit(&ctx) {
//!     Ok(()) => {
//!         // The callback will come, once.
//!         let done = loop {
//!             match ctx.take() {
//!                 Some(done) => break done,
//!                 None => std::thread::park(),
//!             }
//!         };
//!         assert_eq!(done.result(), Ok(ringbell::Answer::Yes));
//!         assert_ne!(done.request().output()[..16], [7; 16]);
//!     }
//!     // EAGAIN: try again when there is room; ERR: never. The request is inside.
//!     Err(refused) => assert_eq!(refused.status(), Status::Eagain),
//! }
//! poller.shutdown();
//! # Ok::<(), ringbell::Error>(())
//! ```
//!
//! # Contracts
//!
//! - Every accepted request is delivered exactly once: on completion, on a device's error, a
//!   deadline, a cancel, a fault, a shutdown. A refused one never is.
//! - The callback runs on the poll thread. It is small and does not block. It may submit to shared
//!   queues; it may run before `submit` returns.
//! - What a device may still write to is never handed out again.
//!
//! The book (`docs/`) explains them.
#![forbid(unsafe_code)]

mod config;
mod context;
mod core;
mod deliver;
mod device;
mod future;
mod key;
mod lane;
mod manual;
mod owned;
mod queue_lane;
mod refusal;
mod request;
mod set;
mod shared;
mod software;
mod state;
mod stats;
mod thread;
mod unfinished;
mod wait;

pub use config::{Clock, DeviceOptions, IdlePolicy, ManualClock, PollerConfig};
pub use context::{Delivery, Status, Target, WaitCtx};
pub use device::Device;
pub use future::{Ended, Running, RunningAlone, TaskCtx};
pub use key::CipherKey;
pub use manual::ManualPoller;
pub use owned::{OwnedBurst, OwnedQueue};
pub use refusal::{Reason, Refused};
pub use request::{Answer, Completion, Fault, Request};
pub use ringbell_drivers::dma::{ArenaOptions, DEFAULT_ARENA_BYTES, DmaBuffer};
pub use ringbell_drivers::engine::{Capabilities, Cipher, DeviceStatus, Direction, Mode};
pub use ringbell_drivers::{Error, Result, address, clock};
pub use set::{Next, RequestSet, RunAll};
pub use state::DeviceState;
pub use stats::Stats;
pub use thread::{Poller, PollerBuilder};
pub use unfinished::Unfinished;

/// The simulator, for programs that step it by hand.
#[cfg(feature = "sim")]
pub use ringbell_sim as sim;

/// The book's examples of waiting, run as tests.
#[cfg(all(doctest, feature = "sim"))]
#[doc = include_str!("../../docs/src/contexts.md")]
struct Contexts;

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
