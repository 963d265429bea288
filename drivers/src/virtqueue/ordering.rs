//! Memory ordering: every pair of sides that meet in a queue, in one place.
//!
//! The rules of the specification (2.7.13, 2.7.14) and our own. A letter here is named in a comment
//! at each place that takes part. `fence` means `fence(SeqCst)`: the only order that x86 does not
//! give by itself is a store before a later load, and only a full fence (or a locked instruction)
//! gives it; written as a fence, loom sees it too.
//!
//! **(A) Publishing and the kick.** The driver writes the descriptors and the entry of the available
//! ring, then `avail.idx` with Release; the device loads `avail.idx` with Acquire, then reads them.
//! Then the driver must see whether the device wants a notification:
//!
//! ```text
//!   driver (submit)                       device (going to sleep)
//!   avail.idx = new                       avail_event = seen      (or used.flags = 0)
//!   fence                                 fence
//!   read avail_event / used.flags         read avail.idx
//! ```
//!
//! With both fences at least one side sees the other's store: either the device finds the request
//! or the driver rings the doorbell. The comparison is wrap-safe:
//! `(new - event - 1) as u16 < (new - old) as u16`, `old` being the index at the last fence.
//!
//! **(B) Completion and the interrupt.** The device writes the used element, then `used.idx` with
//! Release; the driver loads `used.idx` with Acquire. Going to sleep is (A) mirrored: the poll thread
//! stores `used_event` (or clears NO_INTERRUPT), fences, and loads `used.idx` again; the device
//! stores `used.idx`, fences, and loads `used_event`.
//!
//! **(C) The epoch.** A queue is closed in two steps. CLOSED refuses new bursts; a burst that is under
//! way may still publish, and the poll thread may still drain. Then the device is stopped. Only then
//! comes REAPED, the step against which a burst in the middle of publishing is checked, for only now
//! may buffers go back to anyone:
//!
//! ```text
//!   submitter                             poll thread (reaping)
//!   slot.state = IN_FLIGHT(position)      epoch |= REAPED
//!   published = position                  fence
//!   fence             (the one of (A))    read each slot.state, take what is in flight
//!   read epoch
//! ```
//!
//! At least one sees the other: the poll thread takes the entries, or the submitter finds REAPED.
//! Where both do, each entry goes to the one whose compare-exchange of `slot.state` wins. After a
//! recovery the word has the next number and no bits; a half that began under an earlier number takes
//! that for REAPED, since its rings were collected before.
//!
//! **(D) Room.** A waiter registers (store), fences, tries once more (load of the free tail). The
//! completer frees (store), fences once for each batch, looks for waiters (load).
//!
//! **(E) Sleep.** The poll thread stores `asleep`, fences, then looks at every queue's published
//! count and at the mailbox of messages. A submitter stores the published count, fences (the one of
//! (A) again), then loads `asleep` and signals the eventfd if it is set. A message is pushed, fenced,
//! then `asleep` is looked at in the same way.
//!
//! **Devices on the bus.** The above orders threads, a simulator's among them. A device on the bus sees the
//! same order on x86-64; elsewhere it may be in a wider domain than that of processors (aarch64: outer
//! shareable), or registers may be of another kind than memory (riscv64: output). Each side that meets the
//! device so has a barrier of `barrier.rs` as well, in `memory.rs`, beside the access: before `avail.idx`
//! is stored, after `used.idx` is loaded, between the store and the load of (A) and of (B); and in
//! `mmio.rs` before a register is stored to.
//!
//! **Slots.** The submitter writes the entry, then `state` with Release; the completer loads `state`
//! with Acquire before it reads the entry. The completer reads the entry, then stores the slot's
//! index into the free ring and the free tail with Release; the submitter loads the free tail with
//! Acquire before it writes the slot again. `published` is stored with Release before `avail.idx`
//! and loaded with Acquire after `used.idx`: an honest device's completion therefore always finds
//! its request published, and one that is not is a lie.
