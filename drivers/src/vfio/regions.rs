//! Config space and BARs: regions of the function's file.

use std::collections::HashMap;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap};
use vfio_bindings::bindings::vfio as abi;
use vfio_ioctls::{VfioDevice, VfioRegionInfoCap};

use crate::barrier;
use crate::dma::{ForkPage, page_size};
use crate::error::{Error, Result};
use crate::mmio::Map;
use crate::pci::{Bar, Ring, config};
use crate::sysfs::FunctionInfo;

/// What an id reads as of a function that is not there.
const GONE: u16 = 0xffff;

/// A region of the function's file.
#[derive(Clone, Debug)]
struct Region {
    /// For messages: "config space", "BAR 4".
    name: String,
    /// Where it begins in the file.
    at: u64,
    size: u64,
    /// Pieces that can be mapped: first byte and length.
    mappable: Vec<(u64, u64)>,
}

/// All regions of one function.
#[derive(Debug)]
pub(super) struct Regions {
    config: Region,
    bars: [Option<Region>; 6],
    /// Bytes of a page: BARs are mapped by pages.
    page: u64,
    /// Pages of BARs that are mapped, by BAR and offset: several doorbells share one.
    maps: Mutex<HashMap<(u8, u64), Arc<Map>>>,
}

impl Regions {
    /// Reads what vfio-ioctls found out. `file` is the function's.
    pub(super) fn new(device: &VfioDevice, file: &File, info: &FunctionInfo) -> Result<Self> {
        let region = |index: u32, name: String| {
            let size = device.get_region_size(index);
            let mut mappable = Vec::new();
            if device.get_region_flags(index) & abi::VFIO_REGION_INFO_FLAG_MMAP != 0 {
                mappable.push((0, size));
                for capability in device.get_region_caps(index) {
                    if let VfioRegionInfoCap::SparseMmap(sparse) = capability {
                        mappable = sparse.areas.iter().map(|area| (area.offset, area.size)).collect();
                    }
                }
            }
            Region { name, at: device.get_region_offset(index), size, mappable }
        };
        let config = region(abi::VFIO_PCI_CONFIG_REGION_INDEX, "config space".to_owned());
        // vfio-ioctls leaves out a region that it cannot read and so moves those behind it: is it this
        // one?
        let mut ids = [0; 4];
        if config.size == 256 || config.size == 4096 {
            config.read(file, config::VENDOR_ID.into(), &mut ids)?;
        }
        let ids = (u16::from_le_bytes([ids[0], ids[1]]), u16::from_le_bytes([ids[2], ids[3]]));
        if ids != (info.vendor, info.device) && ids != (GONE, GONE) {
            return Err(Error::NotUsable {
                device: info.bdf.to_string(),
                why: "what the kernel gives for its config space is not that".to_owned(),
            });
        }
        let mut bars = [const { None }; 6];
        for (index, bar) in (0_u8..).zip(&mut bars) {
            let mut register = [0; 4];
            config.read(file, (config::BAR0 + 4 * u16::from(index)).into(), &mut register)?;
            let found = region(abi::VFIO_PCI_BAR0_REGION_INDEX + u32::from(index), format!("BAR {index}"));
            // Bit 0: I/O ports. The upper half of a 64-bit BAR has no size.
            if found.size != 0 && register[0] & 1 == 0 {
                *bar = Some(found);
            }
        }
        Ok(Self { config, bars, page: page_size() as u64, maps: Mutex::default() })
    }

    /// Lets go of the mapped pages; what is in use by a doorbell stays until that is gone.
    pub(super) fn unmap(&mut self) {
        self.maps.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn bar_region(&self, index: u8) -> Result<&Region> {
        let region = self.bars.get(usize::from(index)).and_then(Option::as_ref);
        region.ok_or_else(|| {
            Error::Invalid(format!("cannot access BAR {index}: the function has no memory BAR there"))
        })
    }

    pub(super) fn bar(&self, index: u8) -> Option<Bar> {
        let region = self.bars.get(usize::from(index))?.as_ref()?;
        Some(Bar { size: region.size, mappable: !region.mappable.is_empty() })
    }

    /// Any offset and length, cut into naturally aligned accesses of 1, 2 or 4 bytes.
    pub(super) fn read_config(&self, file: &File, offset: u16, data: &mut [u8]) -> Result<()> {
        self.config.check(offset.into(), data.len())?;
        let mut rest = data;
        let mut at = u64::from(offset);
        while !rest.is_empty() {
            let (piece, after) = rest.split_at_mut(access(at, rest.len()));
            self.config.read(file, at, piece)?;
            at += piece.len() as u64;
            rest = after;
        }
        Ok(())
    }

    pub(super) fn write_config(&self, file: &File, offset: u16, data: &[u8]) -> Result<()> {
        self.config.check(offset.into(), data.len())?;
        let mut rest = data;
        let mut at = u64::from(offset);
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(access(at, rest.len()));
            self.config.write(file, at, piece)?;
            at += piece.len() as u64;
            rest = after;
        }
        Ok(())
    }

    pub(super) fn read_bar(&self, file: &File, bar: u8, offset: u64, data: &mut [u8]) -> Result<()> {
        let region = self.bar_region(bar)?;
        region.check_one(offset, data.len())?;
        region.read(file, offset, data)
    }

    pub(super) fn write_bar(&self, file: &File, bar: u8, offset: u64, data: &[u8]) -> Result<()> {
        let region = self.bar_region(bar)?;
        region.check_one(offset, data.len())?;
        region.write(file, offset, data)
    }

    /// A 16-bit register that is written by a system call.
    pub(super) fn call(&self, file: &Arc<File>, fork: &Arc<ForkPage>, bar: u8, offset: u64) -> Result<Call> {
        let region = self.bar_region(bar)?;
        region.check_one(offset, 2)?;
        Ok(Call {
            file: Arc::clone(file),
            fork: Arc::clone(fork),
            region: region.clone(),
            offset,
            failed: AtomicBool::new(false),
        })
    }

    /// The mapped page around a 16-bit register and the register's place in it; `None` where it
    /// cannot be mapped.
    pub(super) fn page(
        &self,
        file: &File,
        fork: &Arc<ForkPage>,
        bar: u8,
        offset: u64,
    ) -> Result<Option<(Arc<Map>, usize)>> {
        let region = self.bar_region(bar)?;
        region.check_one(offset, 2)?;
        let page = offset & !(self.page - 1);
        let inside =
            |(start, len): &(u64, u64)| *start <= page && page + self.page <= start.saturating_add(*len);
        if !barrier::REGISTERS || !region.mappable.iter().any(inside) {
            return Ok(None);
        }
        let within = (offset - page) as usize;
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = maps.get(&(bar, page)) {
            return Ok(Some((Arc::clone(map), within)));
        }
        match region.map(file, fork, page, self.page) {
            Ok(map) => {
                maps.insert((bar, page), Arc::clone(&map));
                Ok(Some((map, within)))
            }
            Err(error) => {
                tracing::warn!(%error, "a register that could be mapped is not");
                Ok(None)
            }
        }
    }
}

/// A register that cannot be mapped.
pub(super) struct Call {
    file: Arc<File>,
    fork: Arc<ForkPage>,
    region: Region,
    offset: u64,
    /// The error has been told.
    failed: AtomicBool,
}

impl Ring for Call {
    fn ring(&self, value: u16) {
        if !self.fork.is_child()
            && let Err(error) = self.region.write(&self.file, self.offset, &value.to_le_bytes())
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            tracing::error!(%error, "the device was not told of new requests");
        }
    }
}

/// Bytes of the next access: the largest that is aligned at `at` and not longer than `len`.
fn access(at: u64, len: usize) -> usize {
    match len {
        4.. if at.is_multiple_of(4) => 4,
        2.. if at.is_multiple_of(2) => 2,
        _ => 1,
    }
}

impl Region {
    fn check(&self, offset: u64, len: usize) -> Result<()> {
        if offset.checked_add(len as u64).is_some_and(|end| end <= self.size) {
            return Ok(());
        }
        Err(Error::OutOfRange { what: self.name.clone(), offset, len: len as u64, size: self.size })
    }

    fn check_one(&self, offset: u64, len: usize) -> Result<()> {
        if !matches!(len, 1 | 2 | 4 | 8) || !offset.is_multiple_of(len as u64) {
            return Err(Error::Invalid(format!(
                "cannot access {} bytes at {offset:#x} of {}: one access is 1, 2, 4 or 8 bytes, aligned",
                len, self.name
            )));
        }
        self.check(offset, len)
    }

    fn read(&self, file: &File, offset: u64, data: &mut [u8]) -> Result<()> {
        file.read_exact_at(data, self.at + offset)
            .map_err(|e| Error::io(format!("read {} bytes at {offset:#x} of {}", data.len(), self.name), e))
    }

    fn write(&self, file: &File, offset: u64, data: &[u8]) -> Result<()> {
        file.write_all_at(data, self.at + offset)
            .map_err(|e| Error::io(format!("write {} bytes at {offset:#x} of {}", data.len(), self.name), e))
    }

    fn map(&self, file: &File, fork: &Arc<ForkPage>, page: u64, size: u64) -> Result<Arc<Map>> {
        let attempted = || format!("map a page of {} at {page:#x}", self.name);
        let len = size as usize;
        let (Some(size), Ok(at)) = (NonZeroUsize::new(len), (self.at + page).try_into()) else {
            return Err(Error::Invalid(format!("cannot {}", attempted())));
        };
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new map at an address of the kernel's choice; it replaces nothing.
        let base = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, file, at) }
            .map_err(|e| Error::io(attempted(), e))?;
        // SAFETY: from mmap, of this length, shared, readable and writable, and nobody else has it.
        let map = unsafe { Map::from_raw(base.cast(), len, Arc::clone(fork)) };
        // SAFETY: the range is the map just made; children do not get it, which is all that changes.
        unsafe { madvise(base, len, MmapAdvise::MADV_DONTFORK) }.map_err(|e| Error::io(attempted(), e))?;
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_are_cut_where_they_are_aligned() {
        let cut = |mut at: u64, mut len: usize| {
            let mut list = Vec::new();
            while len > 0 {
                let piece = access(at, len);
                assert!(at.is_multiple_of(piece as u64));
                list.push(piece);
                at += piece as u64;
                len -= piece;
            }
            list
        };
        assert_eq!(cut(0, 8), [4, 4]);
        assert_eq!(cut(1, 8), [1, 2, 4, 1]);
        assert_eq!(cut(2, 4), [2, 2]);
        assert_eq!(cut(3, 1), [1]);
        assert_eq!(cut(0x40, 0), [0; 0]);
    }

    #[test]
    fn one_access_is_of_a_natural_size_and_inside() {
        let region = Region { name: "BAR 4".to_owned(), at: 0, size: 0x4000, mappable: Vec::new() };
        for (offset, len) in [(0, 1), (0x3fff, 1), (0x3ffe, 2), (0x3ff8, 8)] {
            region.check_one(offset, len).unwrap();
        }
        for (offset, len) in [(0, 3), (1, 2), (4, 8), (0x4000, 1), (u64::MAX, 1), (0x3ffe, 4), (0, 16)] {
            region.check_one(offset, len).unwrap_err();
        }
    }
}
