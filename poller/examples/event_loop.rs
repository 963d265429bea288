//! Ringbell inside an event loop of one's own: one thread, epoll, no poll thread.
//!
//! ```text
//! cargo run -p ringbell --example event_loop -- [DEVICE] < FILE
//! ```
//!
//! What comes in on stdin is encrypted and only its length and a checksum are printed. The loop waits for
//! stdin and for the wait fds of its requests at once. A `ManualPoller` does the work of the poll thread: while
//! something is in flight the loop polls it between two looks at its fds, and with nothing in flight it
//! sleeps in epoll.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use ringbell::{Cipher, Device, ManualPoller, Request, WaitCtx};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Requests: the number of each is its event in epoll.
const REQUESTS: usize = 4;
/// The event of stdin.
const STDIN: u64 = REQUESTS as u64;
const CHUNK: usize = 4096;

struct Slot {
    ctx: WaitCtx,
    /// While it is not in flight.
    request: Option<Request>,
}

fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "sim:".to_owned());
    let device = Device::open(&address)?;
    let mut poller = ManualPoller::new([&device], Default::default())?;
    let key = device.cipher_key(Cipher::Aes256Ctr, &[0x42; 32])?;
    // Needs no poller: it asks the device itself.
    key.prepare()?;

    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut slots = Vec::new();
    for number in 0..REQUESTS {
        // Its fd becomes readable when the result is there.
        let ctx = WaitCtx::with_fd()?;
        let fd = ctx.fd().ok_or("a context made with a wait fd has one")?;
        epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
        slots.push(Slot { ctx, request: Some(key.encrypt(&[0; 16], device.buffer(CHUNK)?)) });
    }
    // Without the standard library's buffer: what is in there would not make the fd readable.
    let mut stdin = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    // A plain file is always readable, and epoll refuses it.
    let mut is_file = epoll.add(stdin.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, STDIN)).is_err();
    let mut at_end = false;
    let (mut chunks, mut bytes, mut sum) = (0_u128, 0_u64, 0_u64);
    let mut events = [EpollEvent::empty(); REQUESTS + 1];
    while !at_end || slots.iter().any(|slot| slot.request.is_none()) {
        // The device's part of the loop: takes what is completed and makes the wait fds readable.
        poller.poll();
        let busy = poller.in_flight() > 0 || (is_file && !at_end);
        let timeout = if busy { EpollTimeout::ZERO } else { EpollTimeout::NONE };
        let count = epoll.wait(&mut events, timeout)?;
        let mut readable = is_file;
        for event in &events[..count] {
            if event.data() == STDIN {
                readable = true;
                continue;
            }
            let Some(slot) = slots.get_mut(event.data() as usize) else { continue };
            // Also makes the fd unreadable.
            let Some(done) = slot.ctx.take_ready() else { continue };
            done.result()?;
            bytes += done.request().output().len() as u64;
            sum += done.request().output().iter().map(|byte| u64::from(*byte)).sum::<u64>();
            slot.request = Some(done.into_request());
        }
        // Data for a free request. With none, it stays where it is until one is.
        let free = slots.iter_mut().find(|slot| slot.request.is_some());
        if readable
            && !at_end
            && let Some(slot) = free
            && let Some(mut request) = slot.request.take()
        {
            request.set_len(CHUNK)?;
            let len = stdin.read(request.input_mut())?;
            if len == 0 {
                at_end = true;
                // At its end a pipe is readable for ever.
                if !is_file {
                    epoll.delete(stdin.as_fd())?;
                }
                is_file = false;
                slot.request = Some(request);
                continue;
            }
            request.set_len(len)?;
            // A counter of its own for each chunk: blocks count up in the lower half.
            request.set_iv(&(chunks << 64).to_be_bytes());
            chunks += 1;
            // There is room: the ring is larger than the number of our requests.
            request.submit(&slot.ctx)?;
        }
    }
    println!("{bytes} bytes, sum {sum}");
    poller.shutdown();
    Ok(())
}
