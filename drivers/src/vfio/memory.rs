//! Memory that the function reaches.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::sys::resource::{Resource, getrlimit};
use vfio_ioctls::{VfioContainer, VfioError};

use super::iova::{AddressSpace, IovaAllocator};
use crate::dma::ForkPage;
use crate::error::{Error, Result};
use crate::pci::{DmaMapping, Segment};

/// All that is mapped for one container, and the addresses that are left.
#[derive(Debug)]
pub(super) struct DmaSpace {
    state: Mutex<State>,
    fork: Arc<ForkPage>,
}

#[derive(Debug)]
struct State {
    addresses: IovaAllocator,
    /// By bus address.
    maps: BTreeMap<u64, View>,
}

/// The pages as this process has them: VFIO finds what to pin by an address of the process.
///
/// Never looked at from here. Neither inherited over fork nor in core dumps.
#[derive(Debug)]
struct View {
    base: NonNull<u8>,
    len: usize,
    /// Tells in a forked child that the view is not there.
    fork: Arc<ForkPage>,
}

// SAFETY: the view is memory that this module never reads or writes; the device does.
unsafe impl Send for View {}

impl DmaSpace {
    pub(super) fn new(space: &AddressSpace, fork: &Arc<ForkPage>) -> Self {
        let state = State { addresses: IovaAllocator::new(space), maps: BTreeMap::new() };
        Self { state: Mutex::new(state), fork: Arc::clone(fork) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps `len` bytes of a file for the function, in one segment.
    pub(super) fn map(
        &self,
        container: &VfioContainer,
        device: &str,
        memory: BorrowedFd<'_>,
        offset: u64,
        len: u64,
    ) -> Result<DmaMapping> {
        let view = View::new(memory, offset, len, &self.fork)?;
        let mut state = self.lock();
        let iova = state.addresses.take(len)?;
        // SAFETY: the pages are of a shared file. This process reaches them through this view never,
        // and through views of its own as dma/ says: volatile and atomic accesses, or slices of
        // buffers that no queue has. Who else writes: the device.
        let mapped = unsafe { container.vfio_dma_map(iova, view.len, view.base.as_ptr()) };
        if let Err(error) = mapped {
            state.addresses.give_back(iova, len);
            return Err(map_error(device, len, &error));
        }
        tracing::debug!(device, iova, len, "memory mapped for DMA");
        state.maps.insert(iova, view);
        Ok(DmaMapping { segments: vec![Segment { offset: 0, len, iova }] })
    }

    /// Takes a mapping back.
    pub(super) fn unmap(&self, container: &VfioContainer, device: &str, mapping: &DmaMapping) -> Result<()> {
        let [segment] = mapping.segments.as_slice() else {
            return Err(Error::Invalid(format!("cannot unmap memory of {device}: it was not mapped so")));
        };
        let mut state = self.lock();
        let known = state.maps.get(&segment.iova).is_some_and(|view| view.len as u64 == segment.len);
        if !known {
            return Err(Error::Invalid(format!("cannot unmap memory of {device}: it is not mapped")));
        }
        container.vfio_dma_unmap(segment.iova, segment.len as usize).map_err(|error| {
            Error::io(format!("take {} bytes of DMA memory back from {device}", segment.len), system(&error))
        })?;
        state.maps.remove(&segment.iova);
        state.addresses.give_back(segment.iova, segment.len);
        tracing::debug!(device, iova = segment.iova, len = segment.len, "memory unmapped from DMA");
        Ok(())
    }
}

impl View {
    fn new(memory: BorrowedFd<'_>, offset: u64, len: u64, fork: &Arc<ForkPage>) -> Result<Self> {
        let attempted = || format!("map {len} bytes at {offset} of a DMA file");
        let size = usize::try_from(len).ok().and_then(NonZeroUsize::new);
        let (Some(size), Ok(at)) = (size, offset.try_into()) else {
            return Err(Error::Invalid(format!("cannot {}", attempted())));
        };
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new map at an address of the kernel's choice; it replaces nothing.
        let base = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, memory, at) }
            .map_err(|e| Error::io(attempted(), e))?;
        let view = Self { base: base.cast(), len: size.get(), fork: Arc::clone(fork) };
        // SAFETY: the range is the map just made. What children and core dumps see changes, nothing
        // in this process.
        unsafe {
            madvise(base, size.get(), MmapAdvise::MADV_DONTFORK)
                .and_then(|()| madvise(base, size.get(), MmapAdvise::MADV_DONTDUMP))
        }
        .map_err(|e| Error::io(attempted(), e))?;
        Ok(view)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // In a forked child the range is not mapped and may hold something else by now.
        if self.fork.is_child() {
            return;
        }
        // SAFETY: the map is this view's alone, and nothing points into it.
        let _ = unsafe { munmap(self.base.cast(), self.len) };
    }
}

/// The system's error inside of one of vfio-ioctls.
fn system(error: &VfioError) -> std::io::Error {
    match error {
        VfioError::IommuDmaMap(e) | VfioError::IommuDmaUnmap(e) => {
            std::io::Error::from_raw_os_error(e.errno())
        }
        other => std::io::Error::other(other.to_string()),
    }
}

fn map_error(device: &str, bytes: u64, error: &VfioError) -> Error {
    let source = system(error);
    let attempted = format!("map {bytes} bytes for DMA by {device}");
    match source.raw_os_error().map(Errno::from_raw) {
        // The kernel says ENOMEM for the limit, and for no memory at all.
        Some(Errno::ENOMEM) => {
            let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            match locked(&status) {
                Some(locked) if locked.saturating_add(bytes) > limit => {
                    Error::LockedMemory { device: device.to_owned(), bytes, locked, limit }
                }
                _ => Error::io_with(
                    attempted,
                    source,
                    "there is no memory left for this control group; or, in a container, the limit of locked memory is too low",
                ),
            }
        }
        Some(Errno::ENOSPC) => Error::io_with(
            attempted,
            source,
            "the IOMMU driver takes no more mappings; raise vfio_iommu_type1.dma_entry_limit",
        ),
        _ => Error::io(attempted, source),
    }
}

/// Bytes that a process has locked, by its /proc/PID/status; `None` where no limit holds for it.
fn locked(status: &str) -> Option<u64> {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let capabilities = field("CapEff:").and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
    let kib = field("VmLck:").and_then(|text| text.trim_end_matches("kB").trim().parse::<u64>().ok());
    (capabilities & CAP_IPC_LOCK == 0).then(|| kib.unwrap_or(0) * 1024)
}

#[cfg(test)]
mod tests {
    use super::locked;

    #[test]
    fn the_limit_holds_for_whoever_has_not_the_capability() {
        let status = |effective: &str| format!("Name:\tx\nVmLck:\t    6144 kB\nCapEff:\t{effective}\n");
        assert_eq!(locked(&status("0000000000000000")), Some(6 << 20));
        assert_eq!(locked(&status("0000000000004000")), None);
        assert_eq!(locked(&status("000001ffffffffff")), None);
        assert_eq!(locked(""), Some(0));
    }
}
