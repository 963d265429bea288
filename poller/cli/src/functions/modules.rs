//! The kernel module of a driver, loaded where it is not.
//!
//! The program that the kernel itself loads modules with (modprobe) knows what the administrator has
//! set for them, so it is asked where it is there. Where it is not, as in a small container or an
//! initramfs, `modules.dep` says what the module needs, and `finit_module(2)` loads it. A compressed
//! module is left to the kernel to unpack, which it can since Linux 5.17, where it is built so.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::sys::utsname::uname;

use crate::error::plain;

/// MODULE_INIT_COMPRESSED_FILE of linux/module.h.
const COMPRESSED_FILE: u32 = 4;

/// Loads a module and those that it needs. One that is built in or loaded already is loaded.
pub(super) fn load(root: &Path, name: &str) -> Result<(), String> {
    let name = normal(name);
    if root.join("sys/module").join(&name).exists() {
        return Ok(());
    }
    let why = match modprobe(root, &name) {
        Some(done) => return done,
        None => match insert(root, &name) {
            Ok(()) => return Ok(()),
            Err(why) => why,
        },
    };
    Err(format!("{why}; load it with: modprobe {}", name.replace('_', "-")))
}

/// By the kernel's own helper; `None` where there is none.
fn modprobe(root: &Path, name: &str) -> Option<Result<(), String>> {
    let helper = fs::read_to_string(root.join("proc/sys/kernel/modprobe")).unwrap_or_default();
    let helper = Some(helper.trim()).filter(|path| path.starts_with('/')).unwrap_or("/sbin/modprobe");
    let mut command = Command::new(helper);
    // Its options can come from the environment, commands among them.
    command.arg("--").arg(name).stdin(Stdio::null()).env_clear();
    match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => Some(Err(format!("{helper} does not run: {}", plain(&error)))),
        Ok(output) if output.status.success() => {
            tracing::info!(module = name, helper, "loaded a kernel module");
            Some(Ok(()))
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let first = said.lines().next().unwrap_or("it failed").trim();
            Some(Err(format!("{helper} {name}: {first}")))
        }
    }
}

/// By hand.
fn insert(root: &Path, name: &str) -> Result<(), String> {
    let release = uname().map_err(|errno| errno.desc().to_owned())?;
    let folder = ["lib/modules", "usr/lib/modules"]
        .map(|folder| root.join(folder).join(release.release()))
        .into_iter()
        .find(|folder| folder.join("modules.dep").exists());
    let Some(folder) = folder else {
        let release = release.release().to_string_lossy().into_owned();
        return Err(format!("there is no /lib/modules/{release}/modules.dep"));
    };
    let list = folder.join("modules.dep");
    let text = fs::read_to_string(&list).map_err(|e| format!("{}: {}", list.display(), plain(&e)))?;
    let files = in_order(&text, name)
        .ok_or_else(|| format!("{} has no module {}", list.display(), name.replace('_', "-")))?;
    files.into_iter().try_for_each(|file| insert_file(&folder.join(file)))
}

fn insert_file(path: &PathBuf) -> Result<(), String> {
    let file = File::open(path).map_err(|e| format!("{}: {}", path.display(), plain(&e)))?;
    let plain = path.extension().is_some_and(|extension| extension == "ko");
    let flags = ModuleInitFlags::from_bits_retain(if plain { 0 } else { COMPRESSED_FILE });
    match finit_module(&file, c"", flags) {
        Ok(()) => {
            tracing::info!(module = %path.display(), "loaded a kernel module");
            Ok(())
        }
        Err(Errno::EEXIST) => Ok(()),
        Err(Errno::EPERM) => Err(format!(
            "the kernel does not let {} be loaded (not root, a container, lockdown, or kernel.modules_disabled)",
            path.display()
        )),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOEXEC) if !plain => {
            Err(format!("the kernel cannot unpack {}", path.display()))
        }
        Err(errno) => Err(format!("{}: {}", path.display(), errno.desc())),
    }
}

/// The files to load for a module, in order, as modules.dep has them: `a.ko: b.ko c.ko`, where each
/// needs those behind it.
fn in_order<'a>(modules_dep: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let name = normal(name);
    modules_dep.lines().find_map(|line| {
        let (file, needs) = line.split_once(':')?;
        let base = file.rsplit('/').next().unwrap_or(file);
        let (stem, _) = base.split_once(".ko")?;
        let mut files: Vec<_> = needs.split_whitespace().rev().collect();
        files.push(file);
        (normal(stem) == name).then_some(files)
    })
}

/// Modules are named with either; the kernel says `_`.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_is_loaded_before_it() {
        let dep = "kernel/drivers/vfio/vfio.ko.xz:\n\
                   kernel/a/not-vfio-pci.ko: kernel/x.ko\n\
                   kernel/pci/vfio-pci.ko.xz: kernel/pci/vfio-pci-core.ko.xz kernel/vfio.ko.xz kernel/irq.ko.xz\n";
        for name in ["vfio-pci", "vfio_pci"] {
            assert_eq!(
                in_order(dep, name).unwrap(),
                [
                    "kernel/irq.ko.xz",
                    "kernel/vfio.ko.xz",
                    "kernel/pci/vfio-pci-core.ko.xz",
                    "kernel/pci/vfio-pci.ko.xz"
                ]
            );
        }
        assert_eq!(in_order(dep, "vfio").unwrap(), ["kernel/drivers/vfio/vfio.ko.xz"]);
        assert_eq!(in_order(dep, "vfio_p"), None);
        assert_eq!(in_order("", "vfio"), None);
    }

    #[test]
    fn a_module_that_is_there_is_not_loaded_and_one_that_is_nowhere_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("sys/module/vfio_pci")).unwrap();
        load(root.path(), "vfio-pci").unwrap();
        let helper = root.path().join("proc/sys/kernel");
        fs::create_dir_all(&helper).unwrap();
        fs::write(helper.join("modprobe"), "/nowhere/modprobe\n").unwrap();
        let why = load(root.path(), "vfio_iommu_type1").unwrap_err();
        assert!(why.starts_with("there is no /lib/modules/"), "{why}");
        assert!(why.ends_with("; load it with: modprobe vfio-iommu-type1"), "{why}");
    }
}
