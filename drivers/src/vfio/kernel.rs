//! The ioctls that vfio-ioctls lacks, or whose errors it swallows (linux/vfio.h).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc::c_int;
use nix::{ioctl_none_bad, ioctl_read_bad, ioctl_write_ptr_bad, request_code_none};
use vfio_bindings::bindings::vfio as abi;

use super::iova::AddressSpace;

const fn request(number: u32) -> u32 {
    abi::VFIO_BASE + number
}

ioctl_write_ptr_bad!(vfio_device_set_irqs, request_code_none!(abi::VFIO_TYPE, request(10)), u32);
ioctl_none_bad!(vfio_device_reset, request_code_none!(abi::VFIO_TYPE, request(11)));
ioctl_read_bad!(vfio_iommu_get_info, request_code_none!(abi::VFIO_TYPE, request(12)), u64);

/// A kind of interrupt: an index of VFIO_DEVICE_SET_IRQS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Irq {
    /// The legacy one.
    Intx = abi::VFIO_PCI_INTX_IRQ_INDEX as isize,
    /// MSI-X.
    Msix = abi::VFIO_PCI_MSIX_IRQ_INDEX as isize,
    /// The kernel asks for the function back.
    Request = abi::VFIO_PCI_REQ_IRQ_INDEX as isize,
}

fn set_irqs(device: impl AsFd, flags: u32, irq: Irq, count: u32, events: &[c_int]) -> nix::Result<()> {
    // struct vfio_irq_set: argsz, flags, index, start, count; then the eventfds, 32 bits each.
    let words = 5 + events.len();
    let mut set = Vec::with_capacity(words);
    set.extend([words as u32 * 4, flags, irq as u32, 0, count]);
    set.extend(events.iter().map(|fd| fd.cast_unsigned()));
    // SAFETY: the kernel reads argsz bytes from the vector, which is that long, and writes none.
    match unsafe { vfio_device_set_irqs(device.as_fd().as_raw_fd(), set.as_ptr()) }? {
        0 => Ok(()),
        // So many vectors could be had, fewer than asked for: none is on.
        _ => Err(Errno::ENOSPC),
    }
}

/// Routes the first interrupts of a kind to eventfds; `None` leaves one without.
pub(super) fn route(device: impl AsFd, irq: Irq, events: &[Option<BorrowedFd<'_>>]) -> nix::Result<()> {
    let events: Vec<c_int> = events.iter().map(|fd| fd.map_or(-1, |fd| fd.as_raw_fd())).collect();
    let flags = abi::VFIO_IRQ_SET_DATA_EVENTFD | abi::VFIO_IRQ_SET_ACTION_TRIGGER;
    set_irqs(device, flags, irq, events.len() as u32, &events)
}

/// Turns all interrupts of a kind off.
pub(super) fn turn_off(device: impl AsFd, irq: Irq) -> nix::Result<()> {
    set_irqs(device, abi::VFIO_IRQ_SET_DATA_NONE | abi::VFIO_IRQ_SET_ACTION_TRIGGER, irq, 0, &[])
}

/// Opens the legacy interrupt again.
pub(super) fn unmask(device: impl AsFd, irq: Irq) -> nix::Result<()> {
    set_irqs(device, abi::VFIO_IRQ_SET_DATA_NONE | abi::VFIO_IRQ_SET_ACTION_UNMASK, irq, 1, &[])
}

/// Resets the function.
pub(super) fn reset(device: impl AsFd) -> nix::Result<()> {
    // SAFETY: no argument, and nothing of this process is touched.
    unsafe { vfio_device_reset(device.as_fd().as_raw_fd()) }.map(drop)
}

/// The address space of a container.
pub(super) fn address_space(container: &impl AsRawFd) -> io::Result<AddressSpace> {
    // The first call says how long the answer is; capabilities follow the structure.
    let mut bytes = size_of::<abi::vfio_iommu_type1_info>();
    for _ in 0..3 {
        let mut info = vec![0_u64; bytes.div_ceil(8)];
        let capacity = info.len() * 8;
        // argsz, then flags of 0.
        let [a, b, c, d] = (capacity as u32).to_ne_bytes();
        info[0] = u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]);
        // SAFETY: the kernel writes at most argsz bytes into the vector, which is that long.
        unsafe { vfio_iommu_get_info(container.as_raw_fd(), info.as_mut_ptr()) }?;
        let answer: Vec<u8> = info.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let wanted = u32::from_ne_bytes([answer[0], answer[1], answer[2], answer[3]]) as usize;
        if wanted <= capacity {
            return AddressSpace::parse(&answer)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut off"));
        }
        bytes = wanted;
    }
    Err(Errno::ENOSPC.into())
}
