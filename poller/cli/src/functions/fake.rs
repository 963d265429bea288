//! A machine made of files, and a kernel that does what Linux does with them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use ringbell_drivers::sysfs::Sysfs;

use super::{Kernel, Machine, VFIO_PCI};

/// The machine, and its folder, which goes with it.
pub(super) struct Fake {
    pub(super) machine: Machine,
    pub(super) state: Rc<State>,
    _folder: tempfile::TempDir,
}

/// What the kernel knows and does.
#[derive(Default)]
pub(super) struct State {
    /// Which driver takes a function where no override says another.
    pub(super) native: RefCell<BTreeMap<String, String>>,
    /// Drivers that take nothing.
    pub(super) broken: RefCell<Vec<String>>,
    /// Nodes and files that this process may not use.
    pub(super) forbidden: RefCell<Vec<PathBuf>>,
    /// Modules that can be loaded, with their driver.
    pub(super) modules: RefCell<BTreeMap<String, String>>,
    /// Whether nodes appear.
    pub(super) no_nodes: Cell<bool>,
    /// What was written, in order: `0000:00:04.0/driver_override=vfio-pci`.
    pub(super) written: RefCell<Vec<String>>,
    /// Nodes that were given: name, uid, mode.
    pub(super) owned: RefCell<Vec<(String, u32, u32)>>,
}

struct FakeKernel {
    root: PathBuf,
    state: Rc<State>,
}

/// A function of the machine.
pub(super) struct FakeFunction<'a> {
    fake: &'a Fake,
    bdf: String,
    pub(super) folder: PathBuf,
}

impl Fake {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        for path in ["sys/class/block", "sys/class/net", "sys/devices/virtual", "dev/vfio", "proc", "run"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        let state = Rc::new(State::default());
        let kernel = Box::new(FakeKernel { root: root.clone(), state: Rc::clone(&state) });
        let machine = Machine { sysfs: Sysfs::at(root.join("sys")), root, kernel, patience: Duration::ZERO };
        Self { machine, state, _folder: folder }
    }

    /// Adds a function, without driver and group.
    pub(super) fn function(&self, bdf: &str, vendor: u16, device: u16, class: u32) -> FakeFunction<'_> {
        let sys = self.machine.path("sys");
        let folder = sys.join("devices/pci0000:00").join(bdf);
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in [
            ("vendor", format!("{vendor:#06x}\n")),
            ("device", format!("{device:#06x}\n")),
            ("subsystem_vendor", "0x1af4\n".to_owned()),
            ("subsystem_device", "0x1100\n".to_owned()),
            ("class", format!("{class:#08x}\n")),
            ("driver_override", "(null)\n".to_owned()),
            ("numa_node", "-1\n".to_owned()),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        fs::create_dir_all(sys.join("bus/pci/devices")).unwrap();
        symlink(format!("../../../devices/pci0000:00/{bdf}"), sys.join("bus/pci/devices").join(bdf)).unwrap();
        FakeFunction { fake: self, bdf: bdf.to_owned(), folder }
    }

    /// Adds a driver to the kernel, in a module of that name.
    pub(super) fn add_driver(&self, name: &str) {
        add_driver(&self.machine.root, name);
    }

    pub(super) fn remove_driver(&self, name: &str) {
        fs::remove_dir_all(self.machine.sysfs.drivers().join(name)).unwrap();
    }

    /// A block device that belongs to no function.
    pub(super) fn virtual_block(&self, path: &str, number: &str) {
        self.block(&self.machine.path("sys/devices/virtual/block"), path, number);
    }

    fn block(&self, below: &Path, path: &str, number: &str) {
        let folder = below.join(path);
        fs::create_dir_all(folder.join("holders")).unwrap();
        if !number.is_empty() {
            fs::write(folder.join("dev"), format!("{number}\n")).unwrap();
        }
        let name = folder.file_name().unwrap();
        symlink(&folder, self.machine.path("sys/class/block").join(name)).unwrap();
    }

    /// `holder` is made of `disk`.
    pub(super) fn holder(&self, disk: &str, holder: &str) {
        let blocks = self.machine.path("sys/class/block");
        symlink(blocks.join(holder), blocks.join(disk).join("holders").join(holder)).unwrap();
    }

    /// A device node.
    pub(super) fn node(&self, name: &str) {
        fs::write(self.machine.path("dev/vfio").join(name), "").unwrap();
    }

    pub(super) fn driver_of(&self, bdf: &str) -> Option<String> {
        self.machine.driver(bdf.parse().unwrap()).unwrap()
    }

    /// What is remembered of a function.
    pub(super) fn remembered(&self, bdf: &str) -> Option<String> {
        fs::read_to_string(self.machine.path("run/ringbell-bind").join(bdf)).ok()
    }
}

impl FakeFunction<'_> {
    /// It is bound to this driver, which would take it again.
    pub(super) fn driver(self, name: &str) -> Self {
        self.fake.add_driver(name);
        if name != VFIO_PCI {
            self.fake.state.native.borrow_mut().insert(self.bdf.clone(), name.to_owned());
        }
        let link = self.folder.join("driver");
        let _ = fs::remove_file(&link);
        symlink(format!("../../../bus/pci/drivers/{name}"), link).unwrap();
        self
    }

    pub(super) fn no_driver(&self) {
        fs::remove_file(self.folder.join("driver")).unwrap();
    }

    pub(super) fn group(self, group: u32) -> Self {
        let sys = self.fake.machine.path("sys");
        let devices = sys.join(format!("kernel/iommu_groups/{group}/devices"));
        fs::create_dir_all(&devices).unwrap();
        symlink(&self.folder, devices.join(&self.bdf)).unwrap();
        symlink(format!("../../../kernel/iommu_groups/{group}"), self.folder.join("iommu_group")).unwrap();
        self
    }

    /// A disk of the function, or a partition: `sda/sda1`.
    pub(super) fn block(&self, path: &str, number: &str) {
        self.fake.block(&self.folder.join("host0/block"), path, number);
    }

    pub(super) fn net(&self, name: &str) {
        let folder = self.folder.join("virtio0/net").join(name);
        fs::create_dir_all(&folder).unwrap();
        symlink(folder, self.fake.machine.path("sys/class/net").join(name)).unwrap();
    }
}

fn add_driver(root: &Path, name: &str) {
    let folder = root.join("sys/bus/pci/drivers").join(name);
    fs::create_dir_all(&folder).unwrap();
    let _ = symlink(format!("../../../../module/{}", name.replace('-', "_")), folder.join("module"));
}

impl FakeKernel {
    fn function(&self, bdf: &str) -> PathBuf {
        self.root.join("sys/devices/pci0000:00").join(bdf)
    }

    fn node(&self, bdf: &str) -> Option<PathBuf> {
        let group = fs::read_link(self.function(bdf).join("iommu_group")).ok()?;
        Some(self.root.join("dev/vfio").join(group.file_name()?))
    }

    fn bind(&self, bdf: &str, driver: &str) -> io::Result<()> {
        let there = self.root.join("sys/bus/pci/drivers").join(driver).exists();
        if !there || self.state.broken.borrow().iter().any(|name| name == driver) {
            return Err(io::Error::from_raw_os_error(Errno::EIO as i32));
        }
        symlink(format!("../../../bus/pci/drivers/{driver}"), self.function(bdf).join("driver"))?;
        if let Some(node) = self.node(bdf).filter(|_| driver == VFIO_PCI && !self.state.no_nodes.get()) {
            fs::write(node, "")?;
        }
        Ok(())
    }
}

impl Kernel for FakeKernel {
    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let parts: Vec<_> = path.iter().rev().map(|part| part.to_str().unwrap()).take(3).collect();
        let log = |what: String| self.state.written.borrow_mut().push(what);
        let overridden = |bdf: &str| {
            let text = fs::read_to_string(self.function(bdf).join("driver_override")).unwrap();
            Some(text.trim().to_owned()).filter(|name| name != "(null)")
        };
        match parts.as_slice() {
            ["driver_override", bdf, _] => {
                log(format!("{bdf}/driver_override={}", text.trim()));
                let text = if text.trim().is_empty() { "(null)" } else { text };
                fs::write(self.function(bdf).join("driver_override"), text)
            }
            ["unbind", "driver", bdf] => {
                log(format!("{bdf}/driver/unbind={text}"));
                assert_eq!(bdf, &text);
                if let Some(node) = self.node(bdf) {
                    let _ = fs::remove_file(node);
                }
                fs::remove_file(self.function(bdf).join("driver"))
            }
            ["bind", driver, "drivers"] => {
                log(format!("{driver}/bind={text}"));
                let native = self.state.native.borrow().get(text).cloned();
                let wanted = overridden(text).or(native);
                if wanted.as_deref() != Some(*driver) {
                    return Err(io::Error::from_raw_os_error(Errno::ENODEV as i32));
                }
                self.bind(text, driver)
            }
            ["drivers_probe", ..] => {
                log(format!("drivers_probe={text}"));
                let native = self.state.native.borrow().get(text).cloned();
                match overridden(text).or(native) {
                    Some(driver) => self
                        .bind(text, &driver)
                        .map_err(|_| io::Error::from_raw_os_error(Errno::EINVAL as i32)),
                    None => Err(io::Error::from_raw_os_error(Errno::EINVAL as i32)),
                }
            }
            _ => panic!("{}", path.display()),
        }
    }

    fn access(&self, path: &Path) -> Result<(), Errno> {
        let forbidden = self.state.forbidden.borrow().iter().any(|other| other == path);
        let there = path.exists() || path.ends_with("drivers_probe");
        match (there, forbidden) {
            (_, true) => Err(Errno::EACCES),
            (false, _) => Err(Errno::ENOENT),
            (true, false) => Ok(()),
        }
    }

    fn own(&self, node: &Path, uid: u32, mode: u32) -> io::Result<()> {
        if !node.exists() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let name = node.file_name().unwrap().to_str().unwrap().to_owned();
        self.state.owned.borrow_mut().push((name, uid, mode));
        Ok(())
    }

    fn load_module(&self, root: &Path, name: &str) -> Result<(), String> {
        match self.state.modules.borrow().get(name) {
            Some(driver) => {
                add_driver(root, driver);
                Ok(())
            }
            None => Err(format!("there is no {name}; load it with: modprobe {name}")),
        }
    }
}
