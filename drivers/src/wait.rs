//! Where the poll thread sleeps: on io_uring, over eventfds and a timer.
//!
//! One multishot poll for each fd stays armed in the ring from the moment the fd is added, so going
//! to sleep is one system call, whatever the number of devices. Where the system has no io_uring
//! (old kernels, containers that forbid it), poll(2) does the same.
//!
//! The module also signals many eventfds at once by one io_uring submission.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::{Error, Result};
use crate::virtqueue::Signal;

/// A new eventfd: non-blocking, closed on exec.
///
/// # Errors
/// The system's: no fds left.
pub fn event() -> Result<Arc<EventFd>> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map(Arc::new)
        .map_err(|e| Error::io_with("create an eventfd", e, "raise the limit of open files (ulimit -n)"))
}

/// Makes an eventfd unreadable again.
pub fn drain(fd: BorrowedFd<'_>) {
    let mut count = [0; 8];
    // EAGAIN: it was not readable. Anything else means the fd is not ours to read.
    let _ = nix::unistd::read(fd, &mut count);
}

/// Whether an eventfd is readable now. It stays so.
pub fn is_ready(fd: BorrowedFd<'_>) -> bool {
    let mut set = [PollFd::new(fd, PollFlags::POLLIN)];
    nix::poll::poll(&mut set, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// The wake-up signal of a poll thread.
#[derive(Clone, Debug)]
pub struct EventSignal(pub Arc<EventFd>);

impl Signal for EventSignal {
    fn signal(&self) {
        // EAGAIN: the counter is full, so it is readable, which is all we want.
        let _ = self.0.write(1);
    }
}

/// Waits for any of a set of fds, or a timeout.
pub struct Waiter {
    fds: Vec<OwnedFd>,
    ring: Option<IoUring>,
    /// For each fd, whether its multishot poll is in the ring.
    armed: Vec<bool>,
}

impl std::fmt::Debug for Waiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Waiter({} fds, {})", self.fds.len(), self.backend())
    }
}

/// Entries of the ring: an upper limit of what is armed or signalled at once, not of fds.
const ENTRIES: u32 = 64;
/// `user_data` of signals, which nobody waits for.
const SIGNAL: u64 = u64::MAX;
/// Below this number of signals one write() each is cheaper than a submission.
const SIGNALS_WORTH_A_RING: usize = 16;

impl Waiter {
    /// Waits on nothing yet. Falls back to poll(2) where io_uring cannot be had.
    pub fn new() -> Self {
        let ring = match IoUring::builder().dontfork().build(ENTRIES) {
            Ok(ring) if ring.params().is_feature_ext_arg() => Some(ring),
            Ok(_) => {
                tracing::info!(
                    "io_uring is too old here (before Linux 5.11), the poll thread sleeps in poll(2)"
                );
                None
            }
            Err(error) => {
                tracing::info!(%error, "no io_uring here, the poll thread sleeps in poll(2)");
                None
            }
        };
        Self { fds: Vec::new(), ring, armed: Vec::new() }
    }

    /// As [`new`](Self::new), on poll(2) whatever the system has.
    pub fn without_io_uring() -> Self {
        Self { fds: Vec::new(), ring: None, armed: Vec::new() }
    }

    /// Forgets the ring without touching it: in a forked child its memory is not mapped, and the place
    /// may hold something else by now.
    pub fn abandon(&mut self) {
        if let Some(ring) = self.ring.take() {
            std::mem::forget(ring);
        }
    }

    /// `io_uring` or `poll`.
    pub fn backend(&self) -> &'static str {
        if self.ring.is_some() { "io_uring" } else { "poll" }
    }

    /// Adds an fd (duplicated) and returns its number: 0, 1, ...
    ///
    /// # Errors
    /// No fds left.
    pub fn add(&mut self, fd: BorrowedFd<'_>) -> Result<usize> {
        let fd = fd.try_clone_to_owned().map_err(|e| Error::io("wait on an eventfd", e))?;
        self.fds.push(fd);
        self.armed.push(false);
        Ok(self.fds.len() - 1)
    }

    /// Sleeps until one of the fds is readable or `timeout` is over (`None`: for ever); then calls
    /// `ready` with the number of each readable fd, which it has made unreadable again.
    ///
    /// # Errors
    /// The system's. The caller may go on, polling.
    pub fn wait(&mut self, timeout: Option<Duration>, mut ready: impl FnMut(usize)) -> Result<()> {
        let woken = match &mut self.ring {
            Some(ring) => wait_ring(ring, &self.fds, &mut self.armed, timeout),
            None => wait_poll(&self.fds, timeout),
        };
        let woken = woken.map_err(|e| Error::io("sleep until a device or a program has something", e))?;
        for number in woken {
            if let Some(fd) = self.fds.get(number) {
                drain(fd.as_fd());
                ready(number);
            }
        }
        Ok(())
    }

    /// Makes each eventfd readable. Many at once go through io_uring in one system call.
    pub fn signal_all(&mut self, events: &[Arc<EventFd>]) {
        if let Some(ring) = &mut self.ring
            && events.len() >= SIGNALS_WORTH_A_RING
        {
            match events.chunks(ENTRIES as usize / 2).try_for_each(|batch| signal_ring(ring, batch)) {
                Ok(()) => return,
                Err(error) => {
                    // What was not submitted names fds that may be closed by then: away with it all.
                    tracing::warn!(%error, "io_uring failed, the poll thread uses poll(2) from now on");
                    self.ring = None;
                }
            }
        }
        for event in events {
            // As in EventSignal.
            let _ = event.write(1);
        }
    }
}

impl Default for Waiter {
    fn default() -> Self {
        Self::new()
    }
}

/// Pushes one entry, submitting first where the queue is full.
fn push(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<()> {
    // SAFETY: the entries made in this file point to fds that the Waiter owns (poll) or that the
    // caller of signal_ring keeps until they have completed (write), and to a static buffer.
    if unsafe { ring.submission().push(entry) }.is_err() {
        ring.submit()?;
        // SAFETY: as above.
        unsafe { ring.submission().push(entry) }.map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    }
    Ok(())
}

fn wait_ring(
    ring: &mut IoUring,
    fds: &[OwnedFd],
    armed: &mut [bool],
    timeout: Option<Duration>,
) -> io::Result<Vec<usize>> {
    for (number, fd) in fds.iter().enumerate() {
        if !armed[number] {
            let poll = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), libc_pollin()).multi(true);
            push(ring, &poll.build().user_data(number as u64))?;
            armed[number] = true;
        }
    }
    let timespec;
    let mut arguments = types::SubmitArgs::new();
    if let Some(timeout) = timeout {
        timespec = types::Timespec::from(timeout);
        arguments = arguments.timespec(&timespec);
    }
    match ring.submitter().submit_with_args(1, &arguments) {
        Ok(_) => {}
        Err(error) => match error.raw_os_error() {
            // Time is over, or a signal came: both are wake-ups.
            Some(nix::libc::ETIME | nix::libc::EINTR) => {}
            // Completions wait to be reaped first.
            Some(nix::libc::EBUSY) => {}
            _ => return Err(error),
        },
    }
    let mut woken = Vec::new();
    for entry in ring.completion() {
        let Ok(number) = usize::try_from(entry.user_data()) else { continue };
        if number >= fds.len() {
            continue;
        }
        if !io_uring::cqueue::more(entry.flags()) {
            armed[number] = false;
        }
        if entry.result() >= 0 && !woken.contains(&number) {
            woken.push(number);
        }
    }
    Ok(woken)
}

fn libc_pollin() -> u32 {
    PollFlags::POLLIN.bits().cast_unsigned().into()
}

fn wait_poll(fds: &[OwnedFd], timeout: Option<Duration>) -> io::Result<Vec<usize>> {
    let mut set: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
    let timeout = match timeout {
        None => PollTimeout::NONE,
        // Rounded up: a sleep that ends before its timer would spin.
        Some(limit) => PollTimeout::try_from(limit + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX),
    };
    match nix::poll::poll(&mut set, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let readable = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
    Ok(set.iter().enumerate().filter(|(_, fd)| readable(fd)).map(|(number, _)| number).collect())
}

/// What is written to an eventfd: a count of one.
static ONE: [u8; 8] = 1_u64.to_ne_bytes();

fn signal_ring(ring: &mut IoUring, events: &[Arc<EventFd>]) -> io::Result<()> {
    for event in events {
        let fd: RawFd = event.as_fd().as_raw_fd();
        let write = opcode::Write::new(types::Fd(fd), ONE.as_ptr(), ONE.len() as u32).build();
        push(ring, &write.user_data(SIGNAL).flags(squeue::Flags::SKIP_SUCCESS))?;
    }
    // A write to an eventfd completes inside the submission (non-blocking fds: at once, or EAGAIN).
    ring.submit()?;
    Ok(())
}

#[cfg(all(test, not(ringbell_loom)))]
mod tests {
    use super::*;

    fn both() -> [Waiter; 2] {
        [Waiter::new(), Waiter::without_io_uring()]
    }

    #[test]
    fn a_wait_reports_what_was_signalled_and_only_once() {
        for mut waiter in both() {
            let events: Vec<_> = (0..3).map(|_| event().unwrap()).collect();
            for event in &events {
                waiter.add(event.as_fd()).unwrap();
            }
            for round in 0..5 {
                events[round % 3].write(1).unwrap();
                let mut seen = Vec::new();
                waiter.wait(None, |n| seen.push(n)).unwrap();
                assert_eq!(seen, [round % 3], "{}", waiter.backend());
                waiter.wait(Some(Duration::from_millis(1)), |n| seen.push(n)).unwrap();
                assert_eq!(seen.len(), 1, "{}", waiter.backend());
            }
        }
    }

    #[test]
    fn many_eventfds_are_signalled_at_once() {
        for mut waiter in both() {
            for count in [1, 15, 16, 33, 200] {
                let events: Vec<_> = (0..count).map(|_| event().unwrap()).collect();
                waiter.signal_all(&events);
                for event in &events {
                    assert_eq!(event.read().unwrap(), 1, "{} of {count}", waiter.backend());
                }
            }
        }
    }
}
