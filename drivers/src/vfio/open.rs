//! From an address to an open function, and what may stand in the way.
//!
//! Most obstacles are looked for before anything is opened, because the kernel's answer to them is
//! one errno for several.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::geteuid;
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError};

use super::holders;
use crate::address::Bdf;
use crate::error::{Error, Result};
use crate::sysfs::{FunctionInfo, Sysfs};

/// The driver that gives functions to user space.
const VFIO_PCI: &str = "vfio-pci";
/// The node of containers.
const CONTAINER: &str = "/dev/vfio/vfio";

/// An open function: the kernel's file of it, and the container that its group is in.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) device: VfioDevice,
    pub(super) container: Arc<VfioContainer>,
    pub(super) info: FunctionInfo,
}

/// Opens a function through its IOMMU group, in a container of its own.
pub(super) fn open(sysfs: &Sysfs, bdf: Bdf) -> Result<Opened> {
    let info = sysfs.function(bdf)?;
    let group = check(sysfs, &info)?;
    let device = bdf.to_string();
    let container = VfioContainer::new(None).map_err(|e| container_error(&device, e))?;
    let container = Arc::new(container);
    let opened = VfioDevice::new(&sysfs.path(bdf), Arc::clone(&container) as _, false)
        .map_err(|e| open_error(sysfs, &info, group, e))?;
    // SAFETY: the fd is open: `opened` owns it and is alive.
    let borrowed = unsafe { BorrowedFd::borrow_raw(opened.as_raw_fd()) };
    let file = borrowed.try_clone_to_owned().map_err(|e| Error::io(format!("open {device}"), e))?;
    Ok(Opened { file: file.into(), device: opened, container, info })
}

/// What sysfs says against it. Returns the group.
fn check(sysfs: &Sysfs, info: &FunctionInfo) -> Result<u32> {
    let device = info.bdf.to_string();
    // Drivers for one device that build on vfio-pci are named after it: mlx5-vfio-pci.
    if !info.driver.as_deref().is_some_and(|driver| driver.ends_with(VFIO_PCI)) {
        return Err(Error::NotBound { device, driver: info.driver.clone() });
    }
    let Some(group) = info.group else {
        return Err(Error::NoIommu {
            device,
            why: "no IOMMU stands between it and memory; turn the IOMMU on in the firmware and by the \
                  kernel argument intel_iommu=on or amd_iommu=on"
                .to_owned(),
        });
    };
    if Path::new(&format!("/dev/vfio/noiommu-{group}")).exists() {
        return Err(Error::NoIommu {
            device,
            why: "it is bound without an IOMMU (VFIO no-IOMMU mode), which this version does not drive"
                .to_owned(),
        });
    }
    not_viable(sysfs, info, group).map_or(Ok(group), Err)
}

/// The functions of other drivers in the group, where there are any.
fn not_viable(sysfs: &Sysfs, info: &FunctionInfo, group: u32) -> Option<Error> {
    let others = sysfs.group(group).ok()?;
    let foreign = |other: &FunctionInfo| {
        let driver = other.driver.as_deref().unwrap_or("no driver");
        let counts = other.bdf != info.bdf && !other.leaves_group_viable();
        counts.then(|| format!("{} ({driver})", other.bdf))
    };
    let others: Vec<_> = others.iter().filter_map(foreign).collect();
    let others = (!others.is_empty()).then(|| others.join(", "))?;
    Some(Error::GroupNotViable { device: info.bdf.to_string(), group, others })
}

fn no_permission(device: &str, node: String) -> Error {
    Error::NoPermission { device: device.to_owned(), node, user: geteuid().to_string() }
}

fn container_error(device: &str, error: VfioError) -> Error {
    match error {
        VfioError::OpenContainer(e) if e.kind() == ErrorKind::PermissionDenied => {
            no_permission(device, CONTAINER.to_owned())
        }
        VfioError::OpenContainer(e) => Error::io_with(
            format!("open {CONTAINER}"),
            e,
            "the kernel module vfio is not loaded, or /dev is not the machine's: modprobe vfio-pci",
        ),
        other => {
            Error::NotUsable { device: device.to_owned(), why: format!("VFIO here is not usable: {other}") }
        }
    }
}

fn open_error(sysfs: &Sysfs, info: &FunctionInfo, group: u32, error: VfioError) -> Error {
    // Some errors of vfio-ioctls leave the system's behind.
    let last = std::io::Error::last_os_error();
    let device = info.bdf.to_string();
    let node = format!("/dev/vfio/{group}");
    let not_usable = |why: String| Error::NotUsable { device: device.clone(), why };
    match error {
        VfioError::OpenGroup(e, _) => match e.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EACCES | Errno::EPERM) => no_permission(&device, node),
            Some(Errno::EBUSY) => {
                let by = holders(Path::new("/proc"), Some(group), &sysfs.path(info.bdf));
                let by = if by.is_empty() { "another process".to_owned() } else { by.join(", ") };
                Error::GroupTaken { device, group, by }
            }
            _ => Error::io_with(
                format!("open {node} for {device}"),
                e,
                "the node is missing where /dev is not the machine's (a container): give it the node",
            ),
        },
        VfioError::GroupViable => not_viable(sysfs, info, group)
            .unwrap_or_else(|| not_usable(format!("the kernel holds its IOMMU group {group} for not viable"))),
        VfioError::ContainerSetIOMMU(e) if e.errno() == nix::libc::EPERM => not_usable(
            "the kernel refuses because interrupts are not remapped here, so a device could forge them; turn \
             interrupt remapping on, or accept that by vfio_iommu_type1.allow_unsafe_interrupts=1"
                .to_owned(),
        ),
        VfioError::GroupSetContainer => Error::io(format!("put IOMMU group {group} of {device} into a container"), last),
        VfioError::GroupGetDeviceFD(e) => {
            Error::io(format!("get {device} out of its IOMMU group {group}"), std::io::Error::from_raw_os_error(e.errno()))
        }
        other => not_usable(other.to_string()),
    }
}
