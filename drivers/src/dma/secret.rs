//! Keys in memory: on pages of their own, out of core dumps, wiped in a forked child, zeroised.

use std::fmt;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use zeroize::Zeroize;

use super::memory::{PAGE, PAGE_SIZE};
use crate::error::{Error, Result};

/// A secret of up to a page: left out of core dumps, reads as zeros in a forked child, zeroised when
/// it is dropped. Not DMA memory: no device reaches it.
pub struct Secret {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: private memory, written in `new` and Drop only, where nobody else has it.
unsafe impl Send for Secret {}
// SAFETY: as for Send; shared references only read.
unsafe impl Sync for Secret {}

impl Secret {
    /// A copy of `bytes`, at most 4096. The original is the caller's to wipe.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more, or the system's.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > PAGE {
            return Err(Error::Invalid(format!("a secret of {} bytes is longer than {PAGE}", bytes.len())));
        }
        let failed = |e| Error::io("map memory for a key", e);
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new anonymous map at an address of the kernel's choice.
        let base =
            unsafe { mmap_anonymous(None, PAGE_SIZE, protection, MapFlags::MAP_PRIVATE) }.map_err(failed)?;
        let secret = Self { base: base.cast(), len: bytes.len() };
        // SAFETY: the range is the map just made, which `secret` owns.
        unsafe {
            madvise(base, PAGE, MmapAdvise::MADV_DONTDUMP)
                .and_then(|()| madvise(base, PAGE, MmapAdvise::MADV_WIPEONFORK))
        }
        .map_err(failed)?;
        // SAFETY: bytes.len() <= PAGE, and nobody else has the map.
        unsafe { secret.base.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(secret)
    }
}

impl std::ops::Deref for Secret {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: len <= PAGE bytes of a map that lives until Drop and that nobody writes.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        // In the time that the length takes: where they differ is nobody's to learn.
        let same = self.iter().zip(other.iter()).fold(0, |different, (a, b)| different | (a ^ b)) == 0;
        self.len == other.len && same
    }
}

impl Eq for Secret {}

impl Drop for Secret {
    fn drop(&mut self) {
        // SAFETY: the map is ours alone, and `&mut self` says that no slice of it is left. In a
        // forked child this is the child's own copy.
        unsafe {
            std::slice::from_raw_parts_mut(self.base.as_ptr(), PAGE).zeroize();
            let _ = munmap(self.base.cast(), PAGE);
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.len)
    }
}

#[cfg(all(test, not(ringbell_loom)))]
mod tests {
    use super::*;

    /// The kernel's own word for what a core dump leaves out and a fork wipes.
    #[test]
    fn a_secret_is_out_of_core_dumps_and_wiped_by_a_fork() {
        let secret = Secret::new(b"not for others").unwrap();
        assert_eq!(&*secret, b"not for others");
        let address = secret.base.as_ptr().addr();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        // The kernel may have merged the page with one of another test beside it.
        let holds = |line: &str| {
            let ends = line.split(' ').next().and_then(|range| range.split_once('-'));
            let number = |text: &str| usize::from_str_radix(text, 16).ok();
            ends.and_then(|(from, to)| Some(number(from)? <= address && address < number(to)?)) == Some(true)
        };
        let from = maps.lines().skip_while(|line| !holds(line));
        let flags = from.take(40).find(|line| line.starts_with("VmFlags:")).unwrap();
        let has = |flag| flags.split_whitespace().any(|word| word == flag);
        assert!(has("dd") && has("wf"), "{flags}");
    }

    #[test]
    fn secrets_compare_by_content() {
        let new = |bytes: &[u8]| Secret::new(bytes).unwrap();
        assert_eq!(new(b"abc"), new(b"abc"));
        assert_ne!(new(b"abc"), new(b"abd"));
        assert_ne!(new(b"abc"), new(b"ab"));
        assert!(Secret::new(&[0; PAGE + 1]).is_err());
    }
}
