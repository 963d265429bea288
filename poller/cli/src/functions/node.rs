//! `/dev/vfio/N`, the device node of an IOMMU group, and `/dev/vfio/vfio`, the container's.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::stat::{major, minor};
use nix::unistd::{Uid, User, geteuid};

use super::Machine;
use crate::error::{Error, Result, plain};

impl Machine {
    /// The node of a group, whether it is there or not.
    pub(super) fn node(&self, group: u32) -> PathBuf {
        self.path(&format!("dev/vfio/{group}"))
    }

    /// Waits until the node is there and, where udev runs, until udev has done with it: it may set
    /// the owner, too.
    pub(super) fn wait_for_node(&self, group: u32) -> Result<PathBuf, String> {
        let node = self.node(group);
        let end = Instant::now() + self.patience;
        while !self.is_settled(&node) && Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        if node.exists() {
            return Ok(node);
        }
        Err(format!(
            "{} did not appear; mount a devtmpfs on /dev, or in a container run it on the host",
            node.display()
        ))
    }

    fn is_settled(&self, node: &Path) -> bool {
        let Ok(metadata) = node.metadata() else { return false };
        let (major, minor) = (major(metadata.rdev()), minor(metadata.rdev()));
        let udev = self.path("run/udev");
        // What udev knows of a device is written there when its rules have been run.
        !udev.join("control").exists() || udev.join(format!("data/c{major}:{minor}")).exists()
    }

    /// Gives the node to a user, who alone may use it, and opens the container's to all.
    pub(super) fn give_node(&self, node: &Path, user: Uid) -> Result<(), String> {
        let bad = |path: &Path, e: &std::io::Error| format!("cannot give {}: {}", path.display(), plain(e));
        self.kernel.own(node, user.as_raw(), 0o600).map_err(|e| bad(node, &e))?;
        tracing::info!(node = %node.display(), uid = user.as_raw(), "gave the device node");
        let container = self.path("dev/vfio/vfio");
        if container.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o666 != 0o666) {
            self.kernel.own(&container, 0, 0o666).map_err(|e| bad(&container, &e))?;
            tracing::info!(node = %container.display(), "opened the container's node to all");
        }
        Ok(())
    }

    /// Takes the node back, where there still is one.
    pub(super) fn take_node_back(&self, group: u32) -> Result<()> {
        let node = self.node(group);
        match self.kernel.own(&node, 0, 0o600) {
            Ok(()) => {
                tracing::info!(node = %node.display(), "took the device node back");
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::failed(format!("take {} back", node.display()), plain(&error))),
        }
    }
}

/// The user of this process.
pub(super) fn me() -> String {
    let uid = geteuid();
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// The user of that name or number.
pub(super) fn user(given: &str) -> Result<Uid> {
    if let Ok(number) = given.parse::<u32>() {
        // The largest means "nobody said" to the kernel.
        return match number {
            u32::MAX => Err(Error::failed(format!("find user {number}"), "there is no such user")),
            _ => Ok(Uid::from_raw(number)),
        };
    }
    match User::from_name(given) {
        Ok(Some(user)) => Ok(user.uid),
        _ => Err(Error::failed(format!("find user '{given}'"), "there is none; give a name or a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions::fake::Fake;
    use ringbell_drivers::vfio::holders;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn who_has_a_group_or_a_function_open_is_named() {
        let fake = Fake::new();
        let function = fake.function("0000:00:04.0", 0x1af4, 0x1054, 0x0b_4000).driver("vfio-pci").group(3);
        fs::create_dir_all(function.folder.join("vfio-dev/vfio7")).unwrap();
        let real = function.folder.canonicalize().unwrap();
        let process = |pid: u32, name: &str, target: &str| {
            let folder = fake.machine.path(&format!("proc/{pid}"));
            fs::create_dir_all(folder.join("fd")).unwrap();
            fs::create_dir_all(folder.join("fdinfo")).unwrap();
            fs::write(folder.join("comm"), format!("{name}\n")).unwrap();
            fs::write(folder.join("fdinfo/5"), format!("pos:\t0\nvfio-device-syspath: {}\n", real.display()))
                .unwrap();
            symlink("/dev/null", folder.join("fd/0")).unwrap();
            symlink(target, folder.join("fd/5")).unwrap();
        };
        process(12, "group", "/dev/vfio/3");
        process(9, "deleted", "/dev/vfio/3 (deleted)");
        process(13, "other", "/dev/vfio/33");
        process(14, "device", "anon_inode:[vfio-device]");
        process(15, "cdev", "/dev/vfio/devices/vfio7");
        let found = holders(&fake.machine.path("proc"), Some(3), &function.folder);
        assert_eq!(found, ["deleted (9)", "group (12)", "device (14)", "cdev (15)"]);
        let other = fake.function("0000:00:05.0", 0x1af4, 0x1054, 0x0b_4000);
        assert_eq!(holders(&fake.machine.path("proc"), Some(4), &other.folder), [""; 0]);
    }

    #[test]
    fn where_udev_runs_a_node_is_ready_when_udev_has_seen_it() {
        let fake = Fake::new();
        let node = fake.machine.node(3);
        assert!(!fake.machine.is_settled(&node));
        fake.node("3");
        assert!(fake.machine.is_settled(&node));
        let udev = fake.machine.path("run/udev");
        fs::create_dir_all(udev.join("data")).unwrap();
        fs::write(udev.join("control"), "").unwrap();
        assert!(!fake.machine.is_settled(&node));
        // It is waited for, and then done without.
        assert_eq!(fake.machine.wait_for_node(3).unwrap(), node);
        // A regular file has the device number 0:0.
        fs::write(udev.join("data/c0:0"), "").unwrap();
        assert!(fake.machine.is_settled(&node));
    }

    #[test]
    fn users_are_found_by_name_and_by_number() {
        assert_eq!(user("0").unwrap(), Uid::from_raw(0));
        assert_eq!(user("54321").unwrap(), Uid::from_raw(54321));
        for unknown in ["no such user", "", "-1", "4294967295"] {
            assert!(user(unknown).unwrap_err().to_string().starts_with("cannot find user"), "{unknown}");
        }
    }
}
