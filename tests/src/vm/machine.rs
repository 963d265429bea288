//! What a test asks for, and QEMU's arguments for it.

use std::path::Path;
use std::time::Duration;

use super::emulator::{self, Outcome};
use super::initramfs::{self, Extra};
use super::kernel::Kernel;
use super::{Failure, tools};

/// A virtual machine, described. The board is a q35 with two processors; functions stand on its root bus
/// or behind a [`bridge`](Self::bridge) or a [`root_port`](Self::root_port), where the test puts them.
#[derive(Debug, Clone)]
pub struct Machine {
    viommu: bool,
    memory_mib: u32,
    /// QEMU's arguments for devices, in the order in which they were asked for.
    devices: Vec<String>,
    /// Sizes of the disks, in MiB.
    disks: Vec<u32>,
    /// Distinguishes the things behind the devices.
    count: u32,
    kernel_arguments: Vec<String>,
    load: Vec<String>,
    bring: Vec<String>,
    files: Vec<(String, std::path::PathBuf, u32)>,
    extra: Vec<Extra>,
    job: String,
    time_limit: Duration,
}

/// Where a function stands: `5` is device 5 of the root bus (0000:00:05.0), `("b0", 1)` is device 1
/// behind the bridge or port `b0`. On the root bus 1 to 0x1e are free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    bus: Option<String>,
    device: u8,
}

impl From<u8> for Slot {
    fn from(device: u8) -> Self {
        Self { bus: None, device }
    }
}

impl From<(&str, u8)> for Slot {
    fn from((bus, device): (&str, u8)) -> Self {
        Self { bus: Some(bus.to_owned()), device }
    }
}

impl Slot {
    /// As properties of a device.
    fn properties(&self) -> String {
        let bus = self.bus.as_ref().map_or_else(String::new, |bus| format!(",bus={bus}"));
        format!("{bus},addr={:#x}", self.device)
    }
}

/// A disk that the kernel has a driver for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// NVMe: /dev/nvme0n1, the module `nvme`.
    Nvme,
    /// Virtio: /dev/vda, the modules `virtio_pci` and `virtio_blk`.
    Virtio,
}

/// A network card that the kernel has a driver for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nic {
    /// Intel 82540EM, for a conventional bus: the module `e1000`.
    E1000,
    /// Intel 82574L: the module `e1000e`.
    E1000e,
    /// Virtio: the modules `virtio_pci` and `virtio_net`.
    Virtio,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// A machine with a vIOMMU, 512 MiB, no devices, a job that does nothing, and two minutes.
    pub fn new() -> Self {
        Self {
            viommu: true,
            memory_mib: 512,
            devices: Vec::new(),
            disks: Vec::new(),
            count: 0,
            kernel_arguments: Vec::new(),
            load: Vec::new(),
            bring: Vec::new(),
            files: Vec::new(),
            extra: Vec::new(),
            job: String::new(),
            time_limit: Duration::from_secs(120),
        }
    }

    /// Whether there is an IOMMU (Intel's, with interrupt remapping). On without this.
    #[must_use]
    pub fn viommu(mut self, on: bool) -> Self {
        self.viommu = on;
        self
    }

    /// Memory in MiB: 512 without this, 96 is the least. A third of it is about what /out can hold.
    #[must_use]
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// QEMU's arguments for what has no method here, for example `["-device", "edu,addr=5"]`.
    #[must_use]
    pub fn arguments<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.devices.extend(arguments.into_iter().map(str::to_owned));
        self
    }

    fn device(self, device: &str) -> Self {
        self.arguments(["-device", device])
    }

    fn next(&mut self) -> u32 {
        self.count += 1;
        self.count - 1
    }

    /// A virtio-crypto function with one data queue. With `iommu_platform` its DMA goes through the
    /// IOMMU, and a driver has to accept VIRTIO_F_ACCESS_PLATFORM; without it goes to physical addresses.
    #[must_use]
    pub fn crypto(mut self, at: impl Into<Slot>, iommu_platform: bool) -> Self {
        let id = self.next();
        let platform = if iommu_platform { "on" } else { "off" };
        let slot = at.into().properties();
        self.arguments(["-object", &format!("cryptodev-backend-builtin,id=c{id}")]).device(&format!(
            "virtio-crypto-pci,cryptodev=c{id},disable-legacy=on,iommu_platform={platform}{slot}"
        ))
    }

    /// QEMU's teaching device, 1234:11e8. A DMA transfer of its takes about 100 ms.
    #[must_use]
    pub fn edu(self, at: impl Into<Slot>) -> Self {
        let slot = at.into().properties();
        self.device(&format!("edu{slot}"))
    }

    /// An empty disk. Its module is among those that are there for `modprobe`, not loaded.
    #[must_use]
    pub fn disk(mut self, kind: Disk, at: impl Into<Slot>, mib: u32) -> Self {
        let id = self.disks.len();
        self.disks.push(mib);
        let slot = at.into().properties();
        let (device, modules): (_, &[&str]) = match kind {
            Disk::Nvme => (format!("nvme,serial=d{id}"), &["nvme"]),
            Disk::Virtio => ("virtio-blk-pci,disable-legacy=on".to_owned(), &["virtio_pci", "virtio_blk"]),
        };
        self.device(&format!("{device},drive=d{id}{slot}")).bring(modules.iter().copied())
    }

    /// A network card on a network of its own, without a way out. Its module is among those that are
    /// there for `modprobe`, not loaded.
    #[must_use]
    pub fn nic(mut self, kind: Nic, at: impl Into<Slot>) -> Self {
        let id = self.next();
        let slot = at.into().properties();
        let (device, modules): (_, &[&str]) = match kind {
            Nic::E1000 => ("e1000", &["e1000"]),
            Nic::E1000e => ("e1000e", &["e1000e"]),
            Nic::Virtio => ("virtio-net-pci,disable-legacy=on", &["virtio_pci", "virtio_net"]),
        };
        // No option ROM: nothing boots from the network.
        self.arguments(["-netdev", &format!("user,restrict=on,id=n{id}")])
            .device(&format!("{device},netdev=n{id},romfile={slot}"))
            .bring(modules.iter().copied())
    }

    /// A bridge to a conventional PCI bus: the functions behind it share one IOMMU group, because
    /// their requests cannot be told apart. Device 0 is not free there.
    #[must_use]
    pub fn bridge(self, name: &str, at: impl Into<Slot>) -> Self {
        let slot = at.into().properties();
        self.device(&format!("pcie-pci-bridge,id={name}{slot}"))
    }

    /// A PCI Express port for one function, at device 0 behind it.
    #[must_use]
    pub fn root_port(mut self, name: &str, at: impl Into<Slot>) -> Self {
        let number = self.next() + 1;
        let slot = at.into().properties();
        self.device(&format!("pcie-root-port,id={name},chassis={number},slot={number}{slot}"))
    }

    /// One more argument of the kernel.
    #[must_use]
    pub fn kernel_argument(mut self, argument: &str) -> Self {
        self.kernel_arguments.push(argument.to_owned());
        self
    }

    /// Modules that are loaded before the job starts, with all that they need.
    #[must_use]
    pub fn load<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.load.extend(names.into_iter().map(str::to_owned));
        self
    }

    /// Modules that the job, or the kernel, can load by `modprobe`, with all that they need.
    #[must_use]
    pub fn bring<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.bring.extend(names.into_iter().map(str::to_owned));
        self
    }

    /// Copies a file of the host's into the guest.
    #[must_use]
    pub fn file(mut self, host: impl AsRef<Path>, guest: &str, mode: u32) -> Self {
        self.files.push((guest.to_owned(), host.as_ref().to_owned(), mode));
        self
    }

    /// A program of the host's as `/usr/bin/NAME`, which is in the job's PATH. It has to be static.
    #[must_use]
    pub fn program(self, host: impl AsRef<Path>) -> Self {
        let name = host.as_ref().file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.file(host, &format!("/usr/bin/{name}"), 0o755)
    }

    /// A file of these contents in the guest.
    #[must_use]
    pub fn contents(mut self, guest: &str, contents: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.extra.push(Extra { path: guest.to_owned(), mode, contents: contents.into() });
        self
    }

    /// What is done: a script for busybox's `sh`, run as root in /tmp. There is a user `alice`, number
    /// 1000, for `su alice -c`. What it leaves in /out comes back.
    #[must_use]
    pub fn job(mut self, script: &str) -> Self {
        script.clone_into(&mut self.job);
        self
    }

    /// How long it may take from power-on until the results are back: two minutes without this.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Boots, does the job, powers off.
    ///
    /// # Errors
    /// Whenever the job did not end by itself with a status: see [`Failure`].
    pub fn run(self) -> Result<Outcome, Failure> {
        tools::all_present()?;
        let kernel = Kernel::open()?;
        let mut extra = self.extra.clone();
        for (path, host, mode) in &self.files {
            let contents = std::fs::read(host).map_err(Failure::io(host.display()))?;
            extra.push(Extra { path: path.clone(), mode: *mode, contents });
        }
        let initramfs = initramfs::build(&kernel, &self.load, &self.bring, &extra, &self.job)?;

        let kept = tools::kept();
        let folder = tempfile::tempdir_in(&kept).map_err(Failure::io(kept.display()))?;
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.path().join(name), bytes).map_err(Failure::io(name))
        };
        // Disks are sparse: they take what is written to them.
        let disk = |name: &str, mib: u32| {
            let file = std::fs::File::create(folder.path().join(name));
            file.and_then(|file| file.set_len(u64::from(mib) << 20)).map_err(Failure::io(name))
        };
        write(emulator::INITRAMFS, &initramfs)?;
        disk(emulator::RESULTS, self.memory_mib)?;
        for (number, mib) in self.disks.iter().enumerate() {
            disk(&format!("disk{number}"), *mib)?;
        }
        let arguments = self.qemu(&kernel.image.to_string_lossy());
        emulator::run(folder.path(), &arguments, self.time_limit)
    }

    /// QEMU's arguments, in the folder with the files.
    fn qemu(&self, kernel: &str) -> Vec<String> {
        let mut arguments: Vec<String> = [
            "-machine",
            "q35,kernel-irqchip=split",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-device",
            "isa-debug-exit,iobase=0x501,iosize=0x04",
        ]
        .map(str::to_owned)
        .to_vec();
        let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        add("-m", self.memory_mib.to_string());
        add("-serial", format!("file:{}", emulator::CONSOLE));
        add("-serial", "stdio".to_owned());
        add("-kernel", kernel.to_owned());
        add("-initrd", emulator::INITRAMFS.to_owned());
        add("-append", self.append());
        // Before all devices: those that come later get to know it.
        if self.viommu {
            add("-device", "intel-iommu,intremap=on,caching-mode=on".to_owned());
        }
        let drive = |file: &str, id: &str| format!("file={file},format=raw,if=none,cache=unsafe,id={id}");
        add("-drive", drive(emulator::RESULTS, "results"));
        add("-device", "ide-hd,drive=results,bus=ide.0".to_owned());
        for number in 0..self.disks.len() {
            let name = format!("disk{number}");
            add("-drive", drive(&name, &format!("d{number}")));
        }
        arguments.extend_from_slice(&self.devices);
        arguments
    }

    /// The kernel's arguments. A guest that oopsed is no guest to trust: it panics, and then ends.
    fn append(&self) -> String {
        let iommu = if self.viommu { "on" } else { "off" };
        // no_timer_check: on a busy host the kernel would take a late timer for a broken one.
        let mut append =
            format!("console=ttyS0 quiet panic=-1 oops=panic no_timer_check intel_iommu={iommu}");
        for argument in &self.kernel_arguments {
            append += " ";
            append += argument;
        }
        append
    }
}
