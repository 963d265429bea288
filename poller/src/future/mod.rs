//! Awaiting requests, on any executor.
//!
//! ```text
//!   TaskCtx::run(request)       Running         the steady state: nothing is allocated
//!   request.await               RunningAlone    makes a context of its own
//!   burst.submit(request, &task), then
//!   TaskCtx::ended()            Ended           submitted otherwise
//! ```
//!
//! A task waits in one of two places, and leaves its waker in both only while it waits there: among the
//! waiters for room of the device, by a ticket, while there is no room; in its context, while the device
//! has the request.

mod context;
mod run;

pub use context::{Ended, TaskCtx};
pub use run::{Running, RunningAlone};
