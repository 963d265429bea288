//! The fork generation, and the epoch words of queues.
//!
//! A private page that the kernel wipes in a forked child (MADV_WIPEONFORK) holds one word for each
//! queue: its epoch, never 0. A handle remembers the epoch it works under and compares it before it
//! touches anything else. One load so covers three cases: the queue is closed (bit 0), it
//! has new rings after a recovery (another number), or this is a forked child (0).

use crate::primitive::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Epoch words that read as zero in a forked child.
#[derive(Debug)]
pub struct ForkPage {
    words: imp::Words,
}

/// Words on the page: word 0 is the generation, the rest are epochs.
pub(super) const WORDS: usize = 512;

impl ForkPage {
    /// A page of words: 1 for the generation, all others 0.
    ///
    /// # Errors
    /// The system's, when the page cannot be had.
    pub fn new() -> crate::Result<Arc<Self>> {
        let page = Self { words: imp::Words::new()? };
        page.word(0).store(1, Ordering::Relaxed);
        Ok(Arc::new(page))
    }

    /// Whether this process is a forked child of the one that made the page.
    #[inline]
    pub fn is_child(&self) -> bool {
        self.word(0).load(Ordering::Relaxed) == 0
    }

    #[inline]
    fn word(&self, index: usize) -> &AtomicU64 {
        self.words.get(index)
    }

    /// The epoch word `index` (1..512), set to its first epoch, or to the next one where it has been
    /// in use: whoever works under an earlier one finds it closed. `None` where there are no more.
    pub fn epoch(self: &Arc<Self>, index: usize) -> Option<Epoch> {
        if index == 0 || index >= WORDS {
            return None;
        }
        let word = self.word(index);
        let next = Epoch::number(word.load(Ordering::Relaxed)) + Epoch::FIRST;
        // Release: who sees the new epoch sees that the old one was collected.
        word.store(next, Ordering::Release);
        Some(Epoch { page: Arc::clone(self), index })
    }
}

/// The epoch word of one queue, 0 in a child:
///
/// ```text
///   | epoch number, from 1 | KEPT 1 | REAPED 1 | CLOSED 1 |
/// ```
///
/// CLOSED: no new bursts. REAPED: the device is stopped, and the poll thread collects what is in
/// flight. KEPT: the device could not be stopped, so the memory of what is in flight is kept.
#[derive(Clone, Debug)]
pub struct Epoch {
    page: Arc<ForkPage>,
    index: usize,
}

impl Epoch {
    /// The first epoch of a queue.
    pub const FIRST: u64 = 1 << 3;
    /// No new bursts.
    pub const CLOSED: u64 = 1;
    /// What is in flight is being collected.
    pub const REAPED: u64 = 2;
    /// The memory of what was in flight may still be written by the device.
    pub const KEPT: u64 = 4;

    /// The number of the epoch in a word, without its bits.
    const fn number(word: u64) -> u64 {
        word & !(Self::FIRST - 1)
    }

    /// Whether the epoch that began as `first` is over, or is being collected, now that the word is
    /// `word`.
    pub(crate) const fn is_reaped(first: u64, word: u64) -> bool {
        word & Self::REAPED != 0 || Self::number(word) != Self::number(first)
    }

    /// Whether the memory of what was in flight in the epoch that began as `first` is kept, now that
    /// the word is `word`. A later epoch says nothing of it: there was a reset in between.
    pub(crate) const fn is_kept(first: u64, word: u64) -> bool {
        word & Self::KEPT != 0 && Self::number(word) == Self::number(first)
    }

    /// The word.
    #[inline]
    pub(crate) fn word(&self) -> &AtomicU64 {
        self.page.word(self.index)
    }

    /// Whether this process is a forked child of the one that made the word.
    #[inline]
    pub fn is_child(&self) -> bool {
        self.page.is_child()
    }

    /// Sets some of the three bits. Only the poll thread does.
    ///
    /// The store is followed by the full fence of ordering.rs, (C): what a submitter published
    /// before it could see the new word is visible to the caller afterwards.
    pub(crate) fn mark(&self, bits: u64) {
        let epoch = self.word().load(Ordering::Relaxed);
        // Release: who finds the queue closed sees why, which was stored before.
        self.word().store(epoch | bits, Ordering::Release);
        crate::primitive::atomic::fence(Ordering::SeqCst);
    }
}

#[cfg(not(ringbell_loom))]
mod imp {
    use std::ptr::NonNull;

    use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

    use super::{AtomicU64, WORDS};
    use crate::dma::memory::{PAGE, PAGE_SIZE};
    use crate::error::{Error, Result};

    #[derive(Debug)]
    pub(super) struct Words(NonNull<AtomicU64>);

    // SAFETY: the page holds nothing but atomics and lives until Drop.
    unsafe impl Send for Words {}
    // SAFETY: as for Send.
    unsafe impl Sync for Words {}

    impl Words {
        pub(super) fn new() -> Result<Self> {
            const { assert!(WORDS * size_of::<AtomicU64>() == PAGE) };
            let attempted = "map the page that a fork wipes";
            let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            // SAFETY: a new anonymous map at an address of the kernel's choice.
            let base = unsafe { mmap_anonymous(None, PAGE_SIZE, protection, MapFlags::MAP_PRIVATE) }
                .map_err(|e| Error::io(attempted, e))?;
            let words = Self(base.cast());
            // SAFETY: the range is the map just made; the advice acts in children only.
            unsafe { madvise(base, PAGE, MmapAdvise::MADV_WIPEONFORK) }
                .map_err(|e| Error::io_with(attempted, e, "Linux 4.14 or later is needed"))?;
            Ok(words)
        }

        #[inline(always)]
        pub(super) fn get(&self, index: usize) -> &AtomicU64 {
            debug_assert!(index < WORDS);
            // SAFETY: index < WORDS (the only callers: the constant 0, and indexes that epoch()
            // checked); the page is zeroed or written as AtomicU64 and lives as long as self.
            unsafe { self.0.add(index).as_ref() }
        }
    }

    impl Drop for Words {
        fn drop(&mut self) {
            // SAFETY: the page is ours alone and no reference to it is left. A child has its own
            // copy, so this is right there too.
            let _ = unsafe { munmap(self.0.cast(), PAGE) };
        }
    }
}

#[cfg(ringbell_loom)]
mod imp {
    use super::AtomicU64;

    #[derive(Debug)]
    pub(super) struct Words(Vec<AtomicU64>);

    impl Words {
        pub(super) fn new() -> crate::Result<Self> {
            Ok(Self((0..3).map(|_| AtomicU64::new(0)).collect()))
        }

        pub(super) fn get(&self, index: usize) -> &AtomicU64 {
            &self.0[index]
        }
    }
}

#[cfg(all(test, not(ringbell_loom)))]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    #[test]
    fn a_forked_child_reads_zero_where_the_parent_reads_its_epoch() {
        let page = ForkPage::new().unwrap();
        let epoch = page.epoch(3).unwrap();
        // SAFETY: the child only loads two words and leaves by _exit.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let wiped = page.is_child() && epoch.word().load(Ordering::Relaxed) == 0;
                // SAFETY: leaves the child at once, without running destructors of the harness.
                unsafe { nix::libc::_exit(if wiped { 7 } else { 1 }) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 7));
                assert!(!page.is_child());
                assert_eq!(epoch.word().load(Ordering::Relaxed), Epoch::FIRST);
            }
        }
    }
}
