//! Bus addresses: which the IOMMU has, and which are free.

use vm_allocator::{AddressAllocator, AllocPolicy, RangeInclusive};

use crate::dma::page_size;
use crate::error::{Error, Result};

/// Addresses below are never given out. Zero means "not set" to some devices, and the first
/// megabyte is where firmware and old hardware like to be.
const FIRST: u64 = 1 << 20;
/// Mappings of at least this length are aligned to it, so that the IOMMU can use large pages.
const LARGE: u64 = 2 << 20;

/// Offsets in `struct vfio_iommu_type1_info` and in its capabilities (linux/vfio.h).
mod layout {
    pub(super) const FLAGS: usize = 4;
    pub(super) const FLAG_CAPS: u32 = vfio_bindings::bindings::vfio::VFIO_IOMMU_INFO_CAPS;
    pub(super) const PAGE_SIZES: usize = 8;
    pub(super) const CAP_OFFSET: usize = 16;
    /// Where the first capability can stand at the earliest.
    pub(super) const FIRST_CAP: usize = 20;
    pub(super) const CAP_IOVA_RANGE: u32 =
        vfio_bindings::bindings::vfio::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE;
    /// In a capability: id u16, version u16, next u32; then of this one: count u32, reserved u32.
    pub(super) const NEXT: usize = 4;
    pub(super) const COUNT: usize = 8;
    pub(super) const RANGES: usize = 16;
}

/// What VFIO_IOMMU_GET_INFO tells of the address space of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AddressSpace {
    /// Sizes of pages that the IOMMU has, one bit each.
    pub(super) page_sizes: u64,
    /// First and last address of each usable range, in ascending order.
    pub(super) ranges: Vec<(u64, u64)>,
}

impl AddressSpace {
    /// Reads the kernel's answer. Where it names no ranges (before Linux 5.4) the lower half of
    /// 39 bits without the interrupt window is taken, which every x86 IOMMU has.
    pub(super) fn parse(info: &[u8]) -> Option<Self> {
        let u32_at = |at: usize| info.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes);
        let u64_at = |at: usize| info.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_ne_bytes);
        let page_sizes = u64_at(layout::PAGE_SIZES)?;
        let mut ranges = Vec::new();
        let mut next =
            if u32_at(layout::FLAGS)? & layout::FLAG_CAPS == 0 { 0 } else { u32_at(layout::CAP_OFFSET)? };
        let mut last = 0;
        // The kernel's list ascends; anything else is not followed, so the walk ends.
        while next as usize >= layout::FIRST_CAP.max(last + 1) {
            let at = next as usize;
            if u32_at(at)? & 0xffff == layout::CAP_IOVA_RANGE {
                for index in 0..u32_at(at + layout::COUNT)? as usize {
                    let at = at + layout::RANGES + 16 * index;
                    let (start, end) = (u64_at(at)?, u64_at(at + 8)?);
                    if start < end {
                        ranges.push((start, end));
                    }
                }
            }
            last = at;
            next = u32_at(at + layout::NEXT)?;
        }
        if ranges.is_empty() {
            ranges = vec![(0, 0xfedf_ffff), (0xfef0_0000, (1 << 38) - 1)];
        }
        Some(Self { page_sizes, ranges })
    }
}

/// Gives out bus addresses within the usable ranges, the lowest first.
pub(super) struct IovaAllocator {
    ranges: Vec<AddressAllocator>,
    /// Bytes of the IOMMU's smallest page.
    page: u64,
}

impl std::fmt::Debug for IovaAllocator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.ranges.iter().map(|range| (range.base(), range.end()))).finish()
    }
}

impl IovaAllocator {
    pub(super) fn new(space: &AddressSpace) -> Self {
        let page = match space.page_sizes {
            // Never smaller than the processor's: VFIO maps those.
            0 => page_size() as u64,
            sizes => 1 << sizes.trailing_zeros(),
        };
        let usable = |(start, end): &(u64, u64)| {
            let start = (*start).max(FIRST).checked_next_multiple_of(LARGE)?;
            // The last page of all is left out: an end address would not fit in 64 bits.
            let size = end.checked_sub(start)?.saturating_add(1) & !(page - 1);
            AddressAllocator::new(start, size).ok()
        };
        Self { ranges: space.ranges.iter().filter_map(usable).collect(), page }
    }

    /// An address at which `len` bytes (whole pages) are free, now taken.
    pub(super) fn take(&mut self, len: u64) -> Result<u64> {
        let alignment = self.page.max(if len >= LARGE { LARGE } else { 0 });
        for range in &mut self.ranges {
            if let Ok(place) = range.allocate(len, alignment, AllocPolicy::FirstMatch) {
                return Ok(place.start());
            }
        }
        Err(Error::Invalid(format!(
            "cannot map {len} bytes for DMA: the IOMMU has no range of addresses left for them"
        )))
    }

    /// Gives an address back.
    pub(super) fn give_back(&mut self, iova: u64, len: u64) {
        let Some(place) =
            iova.checked_add(len.saturating_sub(1)).and_then(|end| RangeInclusive::new(iova, end).ok())
        else {
            return;
        };
        for range in &mut self.ranges {
            if (range.base()..=range.end()).contains(&iova) {
                // An address that was never taken changes nothing.
                let _ = range.free(&place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel writes it: a migration capability (id 2) first, then the ranges.
    fn info(ranges: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(0_u32.to_ne_bytes()); // argsz
        bytes.extend(3_u32.to_ne_bytes()); // PGSIZES | CAPS
        bytes.extend(0xffff_f000_u64.to_ne_bytes());
        bytes.extend(24_u32.to_ne_bytes()); // cap_offset
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(2_u16.to_ne_bytes());
        bytes.extend(1_u16.to_ne_bytes());
        bytes.extend(56_u32.to_ne_bytes());
        bytes.resize(56, 0);
        bytes.extend(1_u16.to_ne_bytes());
        bytes.extend(1_u16.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend((ranges.len() as u32).to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        for (start, end) in ranges {
            bytes.extend(start.to_ne_bytes());
            bytes.extend(end.to_ne_bytes());
        }
        bytes
    }

    const SEEN: [(u64, u64); 2] = [(0, 0xfedf_ffff), (0xfef0_0000, 0x7f_ffff_ffff)];

    #[test]
    fn the_ranges_of_the_kernel_are_read_and_a_cut_answer_is_not() {
        let whole = info(&SEEN);
        let space = AddressSpace::parse(&whole).unwrap();
        assert_eq!((space.page_sizes, space.ranges.as_slice()), (0xffff_f000, SEEN.as_slice()));
        for len in 0..whole.len() {
            assert_eq!(AddressSpace::parse(&whole[..len]), None, "{len}");
        }
        let mut loops = info(&SEEN);
        loops[60..64].copy_from_slice(&24_u32.to_ne_bytes());
        assert_eq!(AddressSpace::parse(&loops).unwrap().ranges, SEEN);
        assert_eq!(AddressSpace::parse(&info(&[])).unwrap().ranges.len(), 2, "what every IOMMU has");
    }

    #[test]
    fn addresses_are_in_range_aligned_and_nobody_elses() {
        let mut allocator = IovaAllocator::new(&AddressSpace { page_sizes: 0, ranges: SEEN.to_vec() });
        let mut taken: Vec<(u64, u64)> = Vec::new();
        for len in [0x1000, 6 << 20, 0x3000, 0xf000_0000, 0x1000, 3 << 30, 2 << 20] {
            let iova = allocator.take(len).unwrap();
            assert!(iova >= FIRST && iova.is_multiple_of(if len >= LARGE { LARGE } else { 0x1000 }));
            assert!(SEEN.iter().any(|(start, end)| *start <= iova && iova + len - 1 <= *end), "{iova:#x}");
            assert!(taken.iter().all(|(at, size)| iova + len <= *at || at + size <= iova), "{iova:#x}");
            taken.push((iova, len));
        }
        assert!(allocator.take(1 << 50).is_err());
        let (iova, len) = taken[3];
        allocator.give_back(iova, len);
        allocator.give_back(0x1234_0000, 0x1000); // never taken
        assert_eq!(allocator.take(len).unwrap(), iova);
    }

    #[test]
    fn a_whole_64_bit_space_and_useless_ranges_do_no_harm() {
        let mut allocator = IovaAllocator::new(&AddressSpace {
            page_sizes: 0,
            ranges: vec![(0, 0xfff), (5, 5), (0x10_0000, u64::MAX)],
        });
        assert_eq!(allocator.take(0x1000).unwrap(), LARGE);
    }
}
