//! What Linux says of its PCI functions: `/sys/bus/pci/devices`, `/sys/kernel/iommu_groups`, and what
//! of `/sys/class` belongs to them.
//!
//! Reading needs no privilege. Nothing is cached: each call answers what is true now.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::address::Bdf;
use crate::error::{Error, Result};

/// A sysfs tree: the system's, or one that a test has made.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
}

/// What is known of a PCI function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Where it is.
    pub bdf: Bdf,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Subsystem vendor id and subsystem id.
    pub subsystem: (u16, u16),
    /// Class code: base class, subclass, programming interface (PCI 3.0, appendix D), 24 bits.
    pub class: u32,
    /// Name of the driver that it is bound to: `virtio-pci`, `vfio-pci`.
    pub driver: Option<String>,
    /// The only driver that may take it (`driver_override`), where that is set.
    pub driver_override: Option<String>,
    /// Number of its IOMMU group; `None` where no IOMMU stands between it and memory.
    pub group: Option<u32>,
    /// NUMA node that it is near to; `None` where there is only one, or nobody knows.
    pub numa_node: Option<u32>,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self::at("/sys")
    }
}

impl Sysfs {
    /// A tree like `/sys` at another place.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where the tree is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of all functions.
    pub fn devices(&self) -> PathBuf {
        self.root.join("bus/pci/devices")
    }

    /// Folder of the drivers of PCI functions.
    pub fn drivers(&self) -> PathBuf {
        self.root.join("bus/pci/drivers")
    }

    /// Whether the kernel has a driver of that name for PCI functions, built in or loaded.
    pub fn has_driver(&self, driver: &str) -> bool {
        self.drivers().join(driver).exists()
    }

    /// The kernel module that a driver is in; `None` where it is built in, or not there.
    ///
    /// # Errors
    /// The system's.
    pub fn driver_module(&self, driver: &str) -> Result<Option<String>> {
        link_name(&self.drivers().join(driver).join("module"))
    }

    /// Folder of one function, whether it is there or not.
    pub fn path(&self, bdf: Bdf) -> PathBuf {
        self.devices().join(bdf.to_string())
    }

    /// All functions, in the order of their addresses. Empty where there is no PCI bus.
    ///
    /// # Errors
    /// The system's. A function that vanishes meanwhile is left out.
    pub fn functions(&self) -> Result<Vec<FunctionInfo>> {
        self.those_in(&self.devices())
    }

    fn those_in(&self, folder: &Path) -> Result<Vec<FunctionInfo>> {
        let mut functions = Vec::new();
        for bdf in names(folder)? {
            match self.function(bdf) {
                Ok(function) => functions.push(function),
                Err(Error::NoSuchFunction { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(functions)
    }

    /// One function.
    ///
    /// # Errors
    /// [`Error::NoSuchFunction`], or the system's.
    pub fn function(&self, bdf: Bdf) -> Result<FunctionInfo> {
        let path = self.path(bdf);
        if !path.exists() {
            return Err(Error::NoSuchFunction { device: bdf.to_string() });
        }
        let narrow = |name| number(&path, bdf, name).map(|value| value as u16);
        Ok(FunctionInfo {
            bdf,
            vendor: narrow("vendor")?,
            device: narrow("device")?,
            subsystem: (narrow("subsystem_vendor")?, narrow("subsystem_device")?),
            class: number(&path, bdf, "class")?,
            driver: link_name(&path.join("driver"))?,
            driver_override: text(&path.join("driver_override"))?.filter(|name| name != "(null)"),
            group: link_name(&path.join("iommu_group"))?.and_then(|name| name.parse().ok()),
            // -1: the firmware does not say.
            numa_node: text(&path.join("numa_node"))?.and_then(|node| node.parse().ok()),
        })
    }

    /// The functions of an IOMMU group, in the order of their addresses: they cannot be told from
    /// each other by the IOMMU, so they are handed over together or not at all.
    ///
    /// # Errors
    /// The system's. A function that vanishes meanwhile is left out.
    pub fn group(&self, group: u32) -> Result<Vec<FunctionInfo>> {
        self.those_in(&self.root.join(format!("kernel/iommu_groups/{group}/devices")))
    }

    /// Names of the devices of a class (`block`, `net`) that lie in a device's folder or below it:
    /// what the kernel made of a function, partitions of a disk included. Sorted.
    ///
    /// # Errors
    /// The system's. A folder or a class that is not there has none.
    pub fn class_below(&self, class: &str, device: &Path) -> Result<Vec<String>> {
        let folder = self.root.join("class").join(class);
        let Ok(device) = device.canonicalize() else { return Ok(Vec::new()) };
        let mut list = entries(&folder)?;
        list.retain(|name| folder.join(name).canonicalize().is_ok_and(|path| path.starts_with(&device)));
        list.sort();
        Ok(list)
    }
}

impl FunctionInfo {
    /// Whether it is a bridge (class 06): part of the bus, in its group without harm.
    pub fn is_bridge(&self) -> bool {
        self.class >> 16 == 0x06
    }

    /// Whether its IOMMU group can be given to user space while it is as it is: a driver that does no
    /// DMA of its own has it, or none, or it passes on what others do (a PCI-to-PCI bridge).
    pub fn leaves_group_viable(&self) -> bool {
        let harmless = |driver: &str| {
            // Drivers for one device that build on vfio-pci are named after it: mlx5-vfio-pci.
            driver.ends_with("vfio-pci") || driver == "pci-stub" || driver == "pcieport"
        };
        self.class >> 8 == 0x0604 || self.driver.as_deref().is_none_or(harmless)
    }
}

/// The entries of a folder that are addresses of functions, sorted. A folder that is not there is
/// empty.
fn names(folder: &Path) -> Result<Vec<Bdf>> {
    let mut list: Vec<Bdf> = entries(folder)?.iter().filter_map(|name| name.parse().ok()).collect();
    list.sort();
    Ok(list)
}

/// The entries of a folder; none where it is not there.
fn entries(folder: &Path) -> Result<Vec<String>> {
    let bad = |e| Error::io(format!("list {}", folder.display()), e);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(bad(error)),
    };
    let mut list = Vec::new();
    for entry in entries {
        list.extend(entry.map_err(bad)?.file_name().into_string().ok());
    }
    Ok(list)
}

/// The text of a file without white space around it; `None` where it is not there, or empty.
fn text(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(Error::io(format!("read {}", path.display()), error)),
    }
}

/// Last part of what a link points to; `None` where there is no link.
fn link_name(path: &Path) -> Result<Option<String>> {
    match fs::read_link(path) {
        Ok(target) => Ok(target.file_name().and_then(|name| name.to_str()).map(str::to_owned)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(Error::io(format!("read the link {}", path.display()), error)),
    }
}

/// A number in hexadecimal, as `0x1af4`.
fn number(folder: &Path, bdf: Bdf, name: &str) -> Result<u32> {
    let path = folder.join(name);
    let Some(text) = text(&path)? else {
        return Err(Error::NoSuchFunction { device: bdf.to_string() });
    };
    u32::from_str_radix(text.trim_start_matches("0x"), 16)
        .map_err(|_| Error::Invalid(format!("cannot read {}: '{text}' is no number", path.display())))
}

/// What reading says of a function that is not there, or has just been removed.
fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENODEV)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree(name: &str) -> (PathBuf, Sysfs) {
        let root = std::env::temp_dir().join(format!("ringbell-sysfs-{name}-{}", std::process::id()));
        let function = root.join("bus/pci/devices/0000:00:04.0");
        fs::create_dir_all(&function).unwrap();
        for (name, text) in [
            ("vendor", "0x1af4\n"),
            ("device", "0x1054\n"),
            ("subsystem_vendor", "0x1af4\n"),
            ("subsystem_device", "0x1100\n"),
            ("class", "0x0b4000\n"),
            ("driver_override", "(null)\n"),
            ("numa_node", "-1\n"),
        ] {
            fs::write(function.join(name), text).unwrap();
        }
        symlink("../../../../bus/pci/drivers/vfio-pci", function.join("driver")).unwrap();
        symlink("../../../kernel/iommu_groups/3", function.join("iommu_group")).unwrap();
        fs::create_dir_all(root.join("kernel/iommu_groups/3/devices/0000:00:04.0")).unwrap();
        (root.clone(), Sysfs::at(root))
    }

    #[test]
    fn what_is_there_is_read_and_what_is_not_is_said() {
        let (root, sysfs) = tree("read");
        let bdf = "0000:00:04.0".parse().unwrap();
        let function = sysfs.function(bdf).unwrap();
        assert_eq!((function.vendor, function.device, function.class), (0x1af4, 0x1054, 0x0b_4000));
        assert_eq!(function.subsystem, (0x1af4, 0x1100));
        assert_eq!(function.driver.as_deref(), Some("vfio-pci"));
        assert_eq!((function.driver_override.as_deref(), function.numa_node), (None, None));
        assert_eq!(function.group, Some(3));
        assert!(!function.is_bridge());
        assert_eq!(sysfs.functions().unwrap(), std::slice::from_ref(&function));
        assert_eq!(sysfs.group(3).unwrap(), [function]);
        assert_eq!(sysfs.group(4).unwrap(), []);
        let gone = sysfs.function("0000:00:05.0".parse().unwrap()).unwrap_err();
        assert!(matches!(gone, Error::NoSuchFunction { .. }), "{gone}");
        assert_eq!(Sysfs::at("/nowhere").functions().unwrap(), []);
        assert_eq!(Sysfs::at("/nowhere").class_below("net", Path::new("/")).unwrap(), [""; 0]);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_group_is_viable_with_bridges_and_drivers_that_do_no_dma() {
        let (root, sysfs) = tree("viable");
        let mut function = sysfs.function("0000:00:04.0".parse().unwrap()).unwrap();
        let mut viable = |class, driver: Option<&str>| {
            (function.class, function.driver) = (class, driver.map(str::to_owned));
            function.leaves_group_viable()
        };
        for driver in [None, Some("vfio-pci"), Some("mlx5-vfio-pci"), Some("pci-stub"), Some("pcieport")] {
            assert!(viable(0x02_0000, driver), "{driver:?}");
        }
        assert!(viable(0x06_0400, Some("shpchp")));
        assert!(!viable(0x06_0100, Some("lpc_ich")));
        assert!(!viable(0x02_0000, Some("e1000e")));
        fs::remove_dir_all(root).unwrap();
    }
}
