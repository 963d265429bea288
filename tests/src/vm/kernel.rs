//! Debian's kernel: the package is fetched by apt and unpacked once, not installed, and kept in cargo's
//! target directory until that is cleaned.
//!
//! ```text
//!   vm/lock                        held while the kernel is fetched
//!   vm/kernel/boot/                vmlinuz-RELEASE, and vmlinux where it could be taken out of it
//!   vm/kernel/lib/modules/RELEASE  modules, and depmod's tables
//! ```
//!
//! The folder `kernel` appears under its name when it is complete.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::modules::Modules;
use super::{Failure, tools};

/// A kernel that can be booted.
pub(super) struct Kernel {
    /// What QEMU loads.
    pub(super) image: PathBuf,
    /// Its name and version, as `uname -r` has it.
    pub(super) release: String,
    /// Its modules.
    pub(super) modules: Modules,
}

impl Kernel {
    /// The kernel that is kept, fetched before if there is none.
    pub(super) fn open() -> Result<Self, Failure> {
        let kept = tools::kept();
        fs::create_dir_all(&kept).map_err(Failure::io(kept.display()))?;
        let folder = kept.join("kernel");
        let lock = kept.join("lock");
        let lock = File::create(&lock).and_then(|file| file.lock().map(|()| file));
        let lock = lock.map_err(Failure::io("the lock of the kernel's folder"))?;
        if !folder.is_dir() {
            fetch(&kept, &folder)?;
        }
        drop(lock);

        let trees = folder.join("lib/modules");
        let release = only_entry(&trees)?;
        let plain = folder.join("boot/vmlinux");
        let image =
            if plain.is_file() { plain } else { folder.join("boot").join(format!("vmlinuz-{release}")) };
        Ok(Self { image, modules: Modules::read(&trees.join(&release))?, release })
    }
}

/// The name of the one thing in a folder.
fn only_entry(folder: &Path) -> Result<String, Failure> {
    let mut entries = fs::read_dir(folder).map_err(Failure::io(folder.display()))?;
    let first = entries.next().transpose().map_err(Failure::io(folder.display()))?;
    let name = first.map(|entry| entry.file_name().to_string_lossy().into_owned());
    name.ok_or_else(|| Failure::Missing(format!("{} is empty", folder.display())))
}

/// The package that `linux-image-amd64` stands for: never a cloud kernel, which lacks virtio_crypto.
fn package() -> Result<String, Failure> {
    let output = tools::run(Command::new("apt-cache").args(["depends", "linux-image-amd64"]));
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).ok_or_else(|| {
        let why = "no package linux-image-amd64 in apt's lists (apt-get update, on Debian)";
        Failure::Missing(why.to_owned())
    })
}

/// Fetches and unpacks beside the folder, then renames.
fn fetch(kept: &Path, folder: &Path) -> Result<(), Failure> {
    let package = package()?;
    let work = tempfile::tempdir_in(kept).map_err(Failure::io(kept.display()))?;
    let download = work.path().join("download");
    let unpacked = work.path().join("unpacked");
    for path in [&download, &unpacked] {
        fs::create_dir(path).map_err(Failure::io(path.display()))?;
    }
    // As root, apt would like to be another user for this, who may not write here.
    let mut apt = Command::new("apt-get");
    apt.args(["-o", "APT::Sandbox::User=root", "download", &package]).current_dir(&download);
    tools::run(&mut apt).map_err(|failure| {
        Failure::Missing(format!("the package {package} could not be downloaded: {failure}"))
    })?;
    let deb = download.join(only_entry(&download)?);
    tools::run(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(&unpacked))?;

    // Newer packages have their modules in usr/lib.
    let ready = work.path().join("ready");
    let older = unpacked.join("lib/modules");
    let modules = if older.is_dir() { older } else { unpacked.join("usr/lib/modules") };
    fs::create_dir_all(ready.join("lib")).map_err(Failure::io(ready.display()))?;
    fs::rename(&modules, ready.join("lib/modules")).map_err(Failure::io(modules.display()))?;
    let boot = ready.join("boot");
    fs::rename(unpacked.join("boot"), &boot).map_err(Failure::io(boot.display()))?;

    let release = only_entry(&ready.join("lib/modules"))?;
    tools::run(Command::new(tools::find("depmod")?).arg("--basedir").arg(&ready).arg(&release))?;
    take_out(&boot.join(format!("vmlinuz-{release}")), &boot.join("vmlinux"))?;
    fs::rename(&ready, folder).map_err(Failure::io(folder.display()))
}

/// Takes the kernel out of its self-extracting file. QEMU can enter it directly (PVH), which saves
/// the guest from decompressing: half of the time that it takes to boot. What is compressed in a way
/// that is not known here stays as it is.
fn take_out(image: &Path, to: &Path) -> Result<(), Failure> {
    let bytes = fs::read(image).map_err(Failure::io(image.display()))?;
    let Some(payload) = payload(&bytes) else { return Ok(()) };
    let out = File::create(to).map_err(Failure::io(to.display()))?;
    let mut xz = Command::new(tools::find("xz")?)
        .args(["--decompress", "--stdout"])
        .stdin(Stdio::piped())
        .stdout(out)
        .spawn()
        .map_err(Failure::io("running xz"))?;
    let written = xz.stdin.take().map(|mut stdin| stdin.write_all(payload)).transpose();
    let status = xz.wait().map_err(Failure::io("waiting for xz"))?;
    written.map_err(Failure::io("writing to xz"))?;
    if !status.success() {
        return Err(Failure::Tool { program: "xz".to_owned(), message: status.to_string() });
    }
    Ok(())
}

/// The xz stream in a kernel's file. Ref: Linux, Documentation/arch/x86/boot.rst: setup_sects at 0x1f1,
/// payload_offset at 0x248, counted from the protected-mode code, payload_length at 0x24c. The last
/// four bytes are the length without compression.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let start = (usize::from(*image.get(0x1f1)?) + 1) * 512 + number(0x248)?;
    let payload = image.get(start..start + number(0x24c)?.checked_sub(4)?)?;
    payload.starts_with(b"\xfd7zXZ\0").then_some(payload)
}
