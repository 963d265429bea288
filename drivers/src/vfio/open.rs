//! From an address to an open function, and what may stand in the way.
//!
//! Most obstacles are looked for before anything is opened, because the kernel's answer to them is
//! one errno for several.

use std::fs::File;
use std::io::ErrorKind;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::{geteuid, getpid};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioError};

use super::holders;
use crate::address::Bdf;
use crate::error::{Error, Result};
use crate::sysfs::{FunctionInfo, Sysfs};

/// The node of containers.
const CONTAINER: &str = "/dev/vfio/vfio";

/// An open function: the kernel's file of it, and the container that its group is in.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) description: Description,
    pub(super) container: Arc<VfioContainer>,
    pub(super) info: FunctionInfo,
}

/// What vfio-ioctls has found out about an open function. Not needed once it has been read.
///
/// Its own destructor reads the function's sysfs entry and panics where that is not there (a removal,
/// a process without /sys), and its ioctl must not be done in a forked child. What it does comes by
/// itself when the files are closed, so it never runs; a few hundred bytes stay.
pub(super) struct Description {
    device: ManuallyDrop<VfioDevice>,
    container: Arc<VfioContainer>,
    /// The device has the one clone of `container` that it is known to make.
    cloned: bool,
}

impl Deref for Description {
    type Target = VfioDevice;

    fn deref(&self) -> &VfioDevice {
        &self.device
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: the device never closes its file, for its destructor never runs: nobody else does.
        drop(unsafe { OwnedFd::from_raw_fd(self.device.as_raw_fd()) });
        if self.cloned {
            // SAFETY: the device has a clone of this Arc, which is never dropped for the same reason.
            unsafe { Arc::decrement_strong_count(Arc::as_ptr(&self.container)) };
        }
    }
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
    let cloned = Arc::strong_count(&container) == 2;
    let description =
        Description { device: ManuallyDrop::new(opened), container: Arc::clone(&container), cloned };
    // SAFETY: the fd is open: `description` has it and is alive.
    let borrowed = unsafe { BorrowedFd::borrow_raw(description.as_raw_fd()) };
    let file = borrowed.try_clone_to_owned().map_err(|e| Error::io(format!("open {device}"), e))?;
    Ok(Opened { file: file.into(), description, container, info })
}

/// What sysfs says against it. Returns the group.
fn check(sysfs: &Sysfs, info: &FunctionInfo) -> Result<u32> {
    let device = info.bdf.to_string();
    if !info.is_given_away() {
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
        VfioError::OpenContainer(e) => {
            let remedy = match e.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOENT | Errno::ENODEV) => {
                    "the kernel module vfio is not loaded, or /dev is not the machine's: modprobe vfio-pci"
                }
                Some(Errno::EMFILE) => "raise the limit of open files (ulimit -n)",
                _ => "",
            };
            Error::io_with(format!("open {CONTAINER}"), e, remedy)
        }
        VfioError::VfioExtension => Error::NotUsable {
            device: device.to_owned(),
            why: "the kernel has no type 1 IOMMU driver; load it with: modprobe vfio_iommu_type1".to_owned(),
        },
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
    let taken = || {
        let by = holders(Path::new("/proc"), Some(group), &sysfs.path(info.bdf));
        let by = if by.iter().any(|name| name.ends_with(&format!(" (pid {})", getpid()))) {
            "this process itself, which can have one function of a group".to_owned()
        } else if by.is_empty() {
            "another process".to_owned()
        } else {
            by.join(", ")
        };
        Error::GroupTaken { device: device.clone(), group, by }
    };
    match error {
        VfioError::InvalidPath => Error::NoSuchFunction { device },
        VfioError::OpenGroup(e, _) => match e.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EACCES | Errno::EPERM) => no_permission(&device, node),
            Some(Errno::EBUSY) => taken(),
            Some(Errno::ENOENT) => Error::io_with(
                format!("open {node} for {device}"),
                e,
                "/dev is not the machine's (a container): pass the node in",
            ),
            Some(Errno::EMFILE) => Error::io_with(
                format!("open {node} for {device}"),
                e,
                "raise the limit of open files (ulimit -n)",
            ),
            _ => Error::io(format!("open {node} for {device}"), e),
        },
        VfioError::GroupViable => not_viable(sysfs, info, group)
            .unwrap_or_else(|| not_usable(format!("the kernel holds its IOMMU group {group} for not viable"))),
        VfioError::ContainerSetIOMMU(e) if e.errno() == nix::libc::EPERM => not_usable(
            "the kernel refuses because interrupts are not remapped here, so a device could forge them; turn \
             interrupt remapping on, or accept that by vfio_iommu_type1.allow_unsafe_interrupts=1"
                .to_owned(),
        ),
        VfioError::GroupSetContainer => {
            Error::io(format!("put IOMMU group {group} of {device} into a container"), last)
        }
        VfioError::GroupGetDeviceFD(e) => match Errno::from_raw(e.errno()) {
            Errno::ENODEV => Error::NoSuchFunction { device },
            Errno::EBUSY => taken(),
            errno => Error::io(format!("get {device} out of its IOMMU group {group}"), errno),
        },
        other => not_usable(other.to_string()),
    }
}
