//! A shared map of a memfd, and bounds-checked access to it.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::unistd::{SysconfVar, ftruncate, sysconf};

use super::ForkPage;
use crate::error::{Error, Result};
use std::sync::Arc;

/// Size of a huge page that is asked for, in bytes.
const HUGE_PAGE: usize = 2 << 20;
/// Bytes of the smallest page that there is: the measure of what is ours alone, such as the page of epochs
/// and a secret. The kernel rounds such a map up to a page of its own; see [`page_size`].
pub(crate) const PAGE: usize = 4096;
/// The same, for mmap.
pub(super) const PAGE_SIZE: NonZeroUsize = match NonZeroUsize::new(PAGE) {
    Some(size) => size,
    None => unreachable!(),
};

/// Bytes of an ordinary page on this machine, 4096 to 65536: the measure of what others map, by file offset
/// or by bus address.
pub(crate) fn page_size() -> usize {
    let known = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    known.and_then(|size| size.try_into().ok()).filter(|size: &usize| size.is_power_of_two()).unwrap_or(PAGE)
}

/// A file mapped into this process and shared with another party: a device, or the simulator of
/// one, which writes it at any time.
///
/// All access is by offset, checked, through volatile or atomic operations; no reference into the
/// memory is ever made. Values are little-endian on the wire, and the accessors return native ones.
///
/// The map is not inherited over fork and is left out of core dumps.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    base: NonNull<u8>,
    len: usize,
    huge: bool,
    /// Tells in a forked child that the map is not there.
    generation: Arc<ForkPage>,
}

// SAFETY: the map lives until Drop; every access is a volatile, atomic or raw copy through the
// pointer and makes no reference, so threads may share it. Who else writes: the device.
unsafe impl Send for SharedMemory {}
// SAFETY: as for Send.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// A new memfd of at least `len` bytes (rounded up to pages), zeroed, sealed against resizing.
    /// With `try_huge` it is made of huge pages where the system has enough free ones.
    ///
    /// # Errors
    /// The system's, when there is no memory or no fd.
    pub fn create(len: usize, try_huge: bool) -> Result<Self> {
        if len == 0 || len > isize::MAX as usize / 2 {
            return Err(Error::Invalid(format!("cannot create DMA memory of {len} bytes")));
        }
        if try_huge {
            let rounded = len.next_multiple_of(HUGE_PAGE);
            match Self::create_file(rounded, MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB)
                .map_err(|e| Error::io("create a memfd of huge pages", e))
                .and_then(|fd| Self::map_inner(fd, 0, rounded, true))
            {
                Ok(memory) => return Ok(memory),
                Err(error) => tracing::info!(
                    bytes = rounded,
                    %error,
                    "no huge pages for DMA memory, using ordinary ones; \
                     /proc/sys/vm/nr_hugepages reserves some"
                ),
            }
        }
        // The IOMMU maps no less.
        let rounded = len.next_multiple_of(page_size());
        let fd = Self::create_file(rounded, MFdFlags::empty())
            .map_err(|e| Error::io(format!("create a memfd of {rounded} bytes"), e))?;
        Self::map_inner(fd, 0, rounded, false)
    }

    fn create_file(len: usize, extra: MFdFlags) -> nix::Result<OwnedFd> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | extra;
        let fd = memfd_create(c"ringbell-dma", flags)?;
        ftruncate(&fd, len.try_into().map_err(|_| nix::errno::Errno::EFBIG)?)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(fd)
    }

    /// Maps `len` bytes of another party's file, from `offset` on: the device's view of memory
    /// that a driver has mapped for it. The fd is duplicated.
    ///
    /// # Errors
    /// A range that is empty, not made of whole pages or past the end of the file, a file that is
    /// not sealed against shrinking (a shrunk file would kill this process with SIGBUS), or the
    /// system's error.
    pub fn map(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Self> {
        let attempted = || format!("map {len} bytes at {offset} of a DMA file");
        let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|e| Error::io(attempted(), e))?;
        if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK) {
            return Err(Error::Invalid(format!(
                "cannot {}: it is not sealed against shrinking",
                attempted()
            )));
        }
        let size = nix::sys::stat::fstat(fd).map_err(|e| Error::io(attempted(), e))?.st_size;
        let end = offset.checked_add(len);
        if len == 0
            || !offset.is_multiple_of(page_size() as u64)
            || end.is_none_or(|end| end > size.cast_unsigned())
        {
            return Err(Error::Invalid(format!("cannot {}: it is {size} bytes long", attempted())));
        }
        let owned = fd.try_clone_to_owned().map_err(|e| Error::io(attempted(), e))?;
        let narrow = |v: u64| usize::try_from(v).map_err(|_| Error::Invalid(attempted()));
        let (offset, len) = (narrow(offset)?, narrow(len)?);
        Self::map_inner(owned, offset, len, false)
    }

    fn map_inner(fd: OwnedFd, offset: usize, len: usize, huge: bool) -> Result<Self> {
        let attempted = || format!("map {len} bytes of DMA memory");
        let size = NonZeroUsize::new(len).ok_or_else(|| Error::Invalid(attempted()))?;
        let offset = offset.try_into().map_err(|_| Error::Invalid(attempted()))?;
        let generation = ForkPage::new()?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new map at an address of the kernel's choice; it replaces nothing.
        // Huge pages are reserved here, so that a lack of them is an error now and not a SIGBUS
        // later; MAP_POPULATE takes all pages now, so that none is taken on the hot path.
        let base = unsafe {
            mmap(None, size, protection, MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE, &fd, offset)
        }
        .map_err(|e| Error::io(attempted(), e))?;
        let memory = Self { fd, base: base.cast(), len, huge, generation };
        // SAFETY: the range is the map just made, which `memory` owns. DONTFORK and DONTDUMP change
        // what children and core dumps see, nothing in this process.
        unsafe {
            madvise(base, len, MmapAdvise::MADV_DONTFORK)
                .and_then(|()| madvise(base, len, MmapAdvise::MADV_DONTDUMP))
        }
        .map_err(|e| Error::io(attempted(), e))?;
        Ok(memory)
    }

    /// The file behind the map.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: a map has at least one page.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether this process is a forked child of the one that made the map: there is no memory.
    pub fn is_inherited(&self) -> bool {
        self.generation.is_child()
    }

    /// Whether it is made of huge pages.
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// Address of the first byte, to be compared only.
    pub(crate) fn start(&self) -> usize {
        self.base.as_ptr().addr()
    }

    /// Pointer to `len` bytes at `offset`, where they are inside.
    #[inline]
    pub(crate) fn pointer(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: offset + len <= self.len, the length of the map.
        Some(unsafe { self.base.add(offset) })
    }

    #[inline]
    fn aligned<T>(&self, offset: usize) -> Option<NonNull<T>> {
        let pointer = self.pointer(offset, size_of::<T>())?.cast::<T>();
        pointer.is_aligned().then_some(pointer)
    }

    /// Copies from the memory into `out`; `None` where the range is not inside. What another party
    /// writes meanwhile may be seen in part: check the copy, never the memory.
    #[inline]
    #[must_use]
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Option<()> {
        let source = self.pointer(offset, out.len())?;
        // SAFETY: the source is inside the map and `out` is a Rust slice outside of it. The other
        // party may write meanwhile: the bytes copied may then be any mix, and any byte is valid.
        unsafe { source.as_ptr().copy_to_nonoverlapping(out.as_mut_ptr(), out.len()) };
        Some(())
    }

    /// Copies `data` into the memory; `None` where the range is not inside.
    #[inline]
    #[must_use]
    pub fn write(&self, offset: usize, data: &[u8]) -> Option<()> {
        let target = self.pointer(offset, data.len())?;
        // SAFETY: as in `read`, the other way round. No reference into the map exists.
        unsafe { target.as_ptr().copy_from_nonoverlapping(data.as_ptr(), data.len()) };
        Some(())
    }

    /// Loads a 16-bit value; `None` where it is not inside or not aligned.
    #[inline]
    pub fn load_u16(&self, offset: usize, order: Ordering) -> Option<u16> {
        let pointer = self.aligned::<u16>(offset)?;
        // SAFETY: inside, aligned, alive; the other party writes it by naturally atomic stores.
        Some(u16::from_le(unsafe { AtomicU16::from_ptr(pointer.as_ptr()) }.load(order)))
    }

    /// Stores a 16-bit value; `None` where it is not inside or not aligned.
    #[inline]
    #[must_use]
    pub fn store_u16(&self, offset: usize, value: u16, order: Ordering) -> Option<()> {
        let pointer = self.aligned::<u16>(offset)?;
        // SAFETY: as in load_u16.
        unsafe { AtomicU16::from_ptr(pointer.as_ptr()) }.store(value.to_le(), order);
        Some(())
    }

    /// Loads a 32-bit value; `None` where it is not inside or not aligned.
    #[inline]
    pub fn load_u32(&self, offset: usize, order: Ordering) -> Option<u32> {
        let pointer = self.aligned::<u32>(offset)?;
        // SAFETY: as in load_u16.
        Some(u32::from_le(unsafe { AtomicU32::from_ptr(pointer.as_ptr()) }.load(order)))
    }

    /// Stores a 32-bit value; `None` where it is not inside or not aligned.
    #[inline]
    #[must_use]
    pub fn store_u32(&self, offset: usize, value: u32, order: Ordering) -> Option<()> {
        let pointer = self.aligned::<u32>(offset)?;
        // SAFETY: as in load_u16.
        unsafe { AtomicU32::from_ptr(pointer.as_ptr()) }.store(value.to_le(), order);
        Some(())
    }
}

/// Memory of the program's own, behind a file, on its way to being registered for DMA by a device.
#[derive(Debug)]
pub struct UserMemory {
    memory: SharedMemory,
    offset: u64,
}

impl UserMemory {
    /// Maps `len` bytes of a memfd (also one of huge pages), from `offset` on, once more into this
    /// process; both are multiples of the page size, and the file is sealed against shrinking. The fd is
    /// duplicated. The device gets the same memory by its file, which is what any backend can reach.
    ///
    /// # Errors
    /// As for [`SharedMemory::map`].
    ///
    /// # Safety
    /// [`DmaBuffer`](super::DmaBuffer)s over this memory can be seen as Rust slices. While one is in the
    /// program's hands, nobody else may write to its bytes, and while it is borrowed mutably nobody else
    /// may read them: not through another map of the file, in this process or in another, and not by
    /// write(2). Bytes that are in no buffer are not touched, and may be used in any way.
    pub unsafe fn map(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Self> {
        SharedMemory::map(fd, offset, len).map(|memory| Self { memory, offset })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Never true: it has at least one page.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    pub(super) fn into_parts(self) -> (SharedMemory, u64) {
        (self.memory, self.offset)
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // In a forked child the range is not mapped (DONTFORK) and may hold something else by now.
        if self.is_inherited() {
            return;
        }
        // SAFETY: the map is ours alone and no reference into it exists; pieces of it hold an Arc
        // of their owner.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

#[cfg(all(test, not(ringbell_loom)))]
mod tests {
    use super::*;

    /// The kernel's own word for what is not inherited and what a core dump leaves out.
    #[test]
    fn dma_memory_is_not_inherited_and_out_of_core_dumps() {
        let memory = SharedMemory::create(PAGE, false).unwrap();
        let address = format!("{:x}-", memory.base.as_ptr().addr());
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let from = maps.lines().skip_while(|line| !line.starts_with(&address));
        let flags = from.take(40).find(|line| line.starts_with("VmFlags:")).unwrap();
        let has = |flag| flags.split_whitespace().any(|word| word == flag);
        assert!(has("dd") && has("dc"), "{flags}");
    }

    #[test]
    fn nothing_outside_of_the_memory_is_reached() {
        let page = page_size();
        let memory = SharedMemory::create(page, false).unwrap();
        let other = SharedMemory::map(memory.fd(), 0, page as u64).unwrap();
        assert_eq!(memory.write(page - 2, &[1, 2]), Some(()));
        let mut bytes = [0; 2];
        assert_eq!(other.read(page - 2, &mut bytes), Some(()));
        assert_eq!(bytes, [1, 2]);
        assert_eq!(memory.write(page - 1, &[1, 2]), None);
        assert_eq!(memory.read(usize::MAX, &mut bytes), None);
        assert_eq!(memory.load_u16(1, Ordering::Relaxed), None, "not aligned");
        assert_eq!(memory.load_u32(page - 2, Ordering::Relaxed), None);
        assert!(SharedMemory::map(memory.fd(), page as u64, page as u64).is_err(), "past the end");
        let unsealed = memfd_create(c"unsealed", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, page.try_into().unwrap()).unwrap();
        let error = SharedMemory::map(unsealed.as_fd(), 0, page as u64).unwrap_err();
        assert!(error.to_string().contains("not sealed"), "{error}");
    }
}
