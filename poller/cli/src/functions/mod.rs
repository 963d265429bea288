//! `ringbell list`, `bind` and `unbind`: who has the PCI functions of this machine.
//!
//! ```text
//!   list     the functions, and whether each can be used now
//!   bind     hands functions to vfio-pci: all that were named, or none
//!   unbind   gives them back to the drivers that they had
//!
//!   known    what Ringbell drives, and names for the rest
//!   in_use   what would be lost: mounted disks, swap, network interfaces
//!   driver   from one driver to another, by driver_override, unbind and probe
//!   modules  the kernel module of a driver, loaded where it is not
//!   memory   which driver a function had, in /run/ringbell-bind
//!   node     /dev/vfio/N: waiting for it, giving it to a user, who has it open
//!   fake     for the tests: a machine made of files
//! ```
//!
//! Facts are read through [`Machine`], which a test points to a tree of its own, and changes are made
//! through [`Kernel`], which a test plays. What is decided from the facts is decided by functions
//! without effects. No other tool is needed.

mod bind;
mod driver;
#[cfg(test)]
mod fake;
mod in_use;
mod known;
mod list;
mod memory;
mod modules;
mod node;
mod unbind;

use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, eaccess};
use ringbell_drivers::sysfs::Sysfs;

use crate::error::{Error, Result};

pub(crate) use bind::run as bind;
pub(crate) use list::run as list;
pub(crate) use unbind::run as unbind;

/// The driver that gives a function to user space, behind an IOMMU.
const VFIO_PCI: &str = "vfio-pci";

/// The machine, as far as these commands look at it and change it.
struct Machine {
    root: PathBuf,
    sysfs: Sysfs,
    kernel: Box<dyn Kernel>,
    /// How long a device node may take to appear, and udev to be done with it.
    patience: Duration,
}

/// What has effects that files alone do not have.
trait Kernel {
    /// Writes to a file of sysfs that is there.
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;

    /// Whether this process may read and write what is there.
    fn access(&self, path: &Path) -> Result<(), Errno>;

    /// Gives a device node to a user, with this mode.
    fn own(&self, node: &Path, uid: u32, mode: u32) -> io::Result<()>;

    /// Loads a kernel module and those that it needs; one that is loaded already is loaded. The error
    /// is why not, in words.
    fn load_module(&self, root: &Path, name: &str) -> Result<(), String>;
}

/// The kernel that this process runs on.
struct Linux;

impl Kernel for Linux {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
    }

    fn access(&self, path: &Path) -> Result<(), Errno> {
        eaccess(path, AccessFlags::R_OK | AccessFlags::W_OK)
    }

    fn own(&self, node: &Path, uid: u32, mode: u32) -> io::Result<()> {
        std::os::unix::fs::chown(node, Some(uid), None)?;
        std::fs::set_permissions(node, Permissions::from_mode(mode))
    }

    fn load_module(&self, root: &Path, name: &str) -> Result<(), String> {
        modules::load(root, name)
    }
}

impl Machine {
    /// This one.
    fn here() -> Self {
        Self {
            root: "/".into(),
            sysfs: Sysfs::default(),
            kernel: Box::new(Linux),
            patience: Duration::from_secs(2),
        }
    }

    /// A path that is written without its first slash.
    fn path(&self, below_root: &str) -> PathBuf {
        self.root.join(below_root)
    }

    /// Whether drivers may be changed by this process; the error says what to do. `again` is the
    /// command line that was given.
    fn may_change_drivers(&self, attempted: &str, again: &str) -> Result<()> {
        let probe = self.sysfs.root().join("bus/pci/drivers_probe");
        let why = match self.kernel.access(&probe) {
            Ok(()) => return Ok(()),
            // A file that only root may write to; root does not need to read it.
            Err(Errno::EACCES | Errno::EPERM) => format!("drivers are changed by root alone; sudo {again}"),
            Err(Errno::EROFS) => {
                format!("{} is read-only here, as in a container; run it on the host", probe.display())
            }
            Err(errno) => format!("{}: {}", probe.display(), errno.desc()),
        };
        Err(Error::failed(attempted, why))
    }
}
