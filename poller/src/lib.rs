//! Offload work to a PCI accelerator from userspace, and be called back when it is done.
//!
//! A program submits a [`Request`] with a [`WaitCtx`]; on that thread it becomes a descriptor chain
//! in a ring of the device. A poll thread drains completions and wakes the context: by its callback,
//! its wait fd, or both; or it wakes a task that [awaits](TaskCtx) the request, or a
//! [thread that waits](WaitCtx::wait).
//!
//! ```text
//!   your thread                       device                     poll thread
//!   -----------                       ------                     -----------
//!   request.submit(&ctx)
//!     claims the context
//!     fills a free slot of the ring
//!     publishes, rings the doorbell --> does the work -->        checks what the device wrote
//!   Ok: one delivery will come                                   frees the slot
//!                                                                result, then status
//!   the request back, with its  <------------------------------  callback, wait fd, task, or
//!   buffers and its result                                       whoever waits
//! ```
//!
//! # The map
//!
//! | you want | take |
//! |---|---|
//! | a device | [`Device::open`]: simulated (`"sim:"`), or a PCI function (`"0000:00:04.0"`) |
//! | somebody who completes requests | [`Poller`], a thread; [`ManualPoller`], for a loop of your own |
//! | memory that the device reaches | [`Device::buffer`], [`Device::buffers`]; your own: [`Device::register`] |
//! | to encrypt and decrypt | [`Device::cipher_key`], [`CipherKey`] |
//! | authenticated encryption | [`Device::aead_key`], [`AeadKey`] |
//! | digests, codes | [`Device::hasher`], [`Hasher`]; [`Device::mac_key`], [`MacKey`] |
//! | RSA | [`Device::rsa_key`], [`RsaKey`] |
//! | to be called back | [`WaitCtx::with_callback`] |
//! | a readable fd | [`WaitCtx::with_fd`] |
//! | to await | `request.await`; [`TaskCtx`] without an allocation for each; [`RequestSet`], many at once, a stream |
//! | to wait | [`Request::run_blocking`], [`WaitCtx::wait`] |
//! | the fastest path | [`Device::owned_queue`], bursts without a lock |
//! | to give up | [`Device::cancel`], [`WaitCtx::detach`], [`WaitCtx::release`] |
//! | what went on | [`Device::stats`], [`Device::state`], events of the crate `tracing` |
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
//!
//! # Features
//!
//! Both are on by default. `sim`: the simulated device, `sim:`. `failover`: software in the place of a device
//! that has failed ([`PollerConfig::failover`]), where that is asked for.
#![forbid(unsafe_code)]

mod body;
mod buffers;
mod chain;
mod config;
mod context;
mod core;
mod deliver;
mod device;
mod future;
mod keys;
mod lane;
mod manual;
mod not_made;
mod owned;
mod queue_lane;
mod refusal;
mod registration;
mod request;
mod set;
mod shared;
mod software;
mod state;
mod stats;
mod thread;
mod unfinished;
mod wait;

pub use buffers::Buffers;
pub use config::{Clock, DeviceOptions, IdlePolicy, ManualClock, PollerConfig};
pub use context::{Delivery, Status, Target, WaitCtx};
pub use device::Device;
pub use future::{Ended, Running, RunningAlone, TaskCtx};
pub use keys::{AeadKey, CipherKey, Hasher, MacKey, RsaKey};
pub use manual::ManualPoller;
pub use not_made::NotMade;
pub use owned::{OwnedBurst, OwnedQueue};
pub use refusal::{Reason, Refused};
pub use registration::Registration;
pub use request::{Answer, Completion, Fault, Request};
pub use ringbell_drivers::algorithm::{
    Aead, Algorithm, Cipher, Direction, Hash, Mac, Mode, RSA_BITS, RsaHash, RsaPadding,
};
pub use ringbell_drivers::dma::{ArenaOptions, DEFAULT_ARENA_BYTES, DmaBuffer, UserMemory};
pub use ringbell_drivers::engine::{Capabilities, DeviceStatus};
pub use ringbell_drivers::{Error, Result, address, clock};
pub use set::{Next, RequestSet, RunAll};
pub use state::DeviceState;
pub use stats::Stats;
pub use thread::{Poller, PollerBuilder};
pub use unfinished::Unfinished;

/// The simulator, for programs that step it by hand.
#[cfg(feature = "sim")]
pub use ringbell_sim as sim;

/// The example of this package's README, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
