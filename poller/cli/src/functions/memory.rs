//! Which driver a function had before: `/run/ringbell-bind/0000:00:04.0`.
//!
//! Two lines: the driver, and the kernel module that it is in; both may be empty. The folder is
//! locked as long as the memory is open, so that two of these commands do not work on the same
//! function. It is in `/run` because a boot forgets the bindings, too, and is root's alone: what stands
//! there tells root's next command which driver to load.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use ringbell_drivers::address::Bdf;

use super::Machine;
use crate::error::{Error, Result, plain};
use crate::out;

/// What is remembered of functions, locked.
pub(super) struct Memory {
    folder: PathBuf,
    /// Locked until it is closed.
    _lock: File,
}

/// What a function had.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Had {
    /// `None`: no driver.
    pub(super) driver: Option<String>,
    /// The module that the driver is in, where it is in one.
    pub(super) module: Option<String>,
}

impl Memory {
    /// Opens it, and waits while another has it open.
    pub(super) fn open(machine: &Machine) -> Result<Self> {
        let folder = machine.path("run/ringbell-bind");
        let bad = |e: io::Error| Error::failed(format!("use {}", folder.display()), plain(&e));
        make(&folder).map_err(bad)?;
        let lock = File::open(&folder).map_err(bad)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                out::note("another ringbell bind or unbind is at work; waiting for it");
                lock.lock().map_err(bad)?;
            }
            Err(TryLockError::Error(error)) => return Err(bad(error)),
        }
        Ok(Self { folder, _lock: lock })
    }

    /// What the function had; `None` where nobody knows, or what is written there is no name.
    pub(super) fn recall(&self, bdf: Bdf) -> Result<Option<Had>> {
        let path = self.folder.join(bdf.to_string());
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::failed(format!("read {}", path.display()), plain(&error))),
        };
        let mut lines = text.lines().map(|line| Some(line.to_owned()).filter(|line| !line.is_empty()));
        let had = Had { driver: lines.next().flatten(), module: lines.next().flatten() };
        let is_name = |name: &Option<String>| {
            name.as_deref().is_none_or(|name| !name.contains('/') && !name.starts_with('.'))
        };
        Ok(Some(had).filter(|had| is_name(&had.driver) && is_name(&had.module)))
    }

    /// Remembers it, whole or not at all.
    pub(super) fn remember(&self, bdf: Bdf, had: &Had) -> Result<()> {
        let line = |part: &Option<String>| format!("{}\n", part.as_deref().unwrap_or_default());
        let (path, new) = (self.folder.join(bdf.to_string()), self.folder.join(format!(".{bdf}.new")));
        let text = line(&had.driver) + &line(&had.module);
        // What an interrupted command left.
        let _ = fs::remove_file(&new);
        let written = File::create_new(&new).and_then(|mut file| file.write_all(text.as_bytes()));
        written.and_then(|()| fs::rename(&new, &path)).map_err(|e| {
            let _ = fs::remove_file(&new);
            Error::failed(format!("remember the driver of {bdf} in {}", path.display()), plain(&e))
        })?;
        tracing::info!(%bdf, driver = had.driver, "remembered the driver");
        Ok(())
    }

    /// Forgets what was remembered of a function.
    pub(super) fn forget(&self, bdf: Bdf) -> Result<()> {
        let path = self.folder.join(bdf.to_string());
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::failed(format!("remove {}", path.display()), plain(&error))),
        }
    }
}

/// Makes a folder that is nobody else's; one that is there has to be so.
fn make(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        done => return done,
    }
    let there = fs::symlink_metadata(folder)?;
    if there.is_dir() && there.uid() == geteuid().as_raw() && there.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(io::Error::other("it is there and not root's alone; look who made it, and remove it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions::fake::Fake;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_remembered_is_recalled_until_it_is_forgotten() {
        let fake = Fake::new();
        let memory = Memory::open(&fake.machine).unwrap();
        let bdf = "0000:00:04.0".parse().unwrap();
        assert_eq!(memory.recall(bdf).unwrap(), None);
        let had = Had { driver: Some("virtio-pci".to_owned()), module: Some("virtio_pci".to_owned()) };
        for had in [had, Had::default()] {
            memory.remember(bdf, &had).unwrap();
            assert_eq!(memory.recall(bdf).unwrap(), Some(had));
        }
        let folder = fake.machine.path("run/ringbell-bind");
        assert_eq!(folder.metadata().unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::write(folder.join("0000:00:04.0"), "../../x\n").unwrap();
        assert_eq!(memory.recall(bdf).unwrap(), None);
        memory.forget(bdf).unwrap();
        memory.forget(bdf).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_others_can_write_to_or_have_linked_is_not_trusted() {
        let fake = Fake::new();
        let folder = fake.machine.path("run/ringbell-bind");
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o770)).unwrap();
        assert!(Memory::open(&fake.machine).is_err());
        fs::remove_dir(&folder).unwrap();
        let elsewhere = fake.machine.path("run/elsewhere");
        DirBuilder::new().mode(0o700).create(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &folder).unwrap();
        assert!(Memory::open(&fake.machine).is_err());
    }
}
