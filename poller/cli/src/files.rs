//! Input, and output that appears whole or not at all.
//!
//! A regular output file is written without a name (`O_TMPFILE`), in the directory where it will be,
//! and gets its name when it is complete: a program that is killed leaves nothing. Where a file of
//! that name is there already it is replaced at once, with its permissions kept; so the input may be
//! the output. File systems without nameless files get a temporary name instead. It is not synced:
//! what `cp` leaves to the kernel is left here, too.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::linkat;

use crate::error::{Error, Result, plain};

/// Where the data comes from.
pub(crate) struct Input {
    file: File,
    name: String,
    regular: bool,
}

impl Input {
    /// Opens a file; stdin for `-` or nothing.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self> {
        let path = path.filter(|path| *path != Path::new("-"));
        let name = path.map_or_else(|| "stdin".to_owned(), |path| path.display().to_string());
        let opened = match path {
            Some(path) => File::open(path),
            None => io::stdin().as_fd().try_clone_to_owned().map(File::from),
        };
        let kind = opened.and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = kind.map_err(|e| Error::failed(format!("read {name}"), plain(&e)))?;
        if metadata.is_dir() {
            return Err(Error::failed(format!("read {name}"), "it is a directory; give a file"));
        }
        Ok(Self { file, name, regular: metadata.is_file() })
    }

    /// Its name, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether a read would not block.
    pub(crate) fn is_ready(&self) -> bool {
        self.regular || {
            let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            // Where it cannot be asked, the read will tell.
            poll(&mut fds, PollTimeout::ZERO).map_or(true, |ready| ready > 0)
        }
    }

    /// Reads some bytes; 0 at the end. May block.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(|e| Error::failed(format!("read {}", self.name), plain(&e))),
            }
        }
    }
}

/// Where the data goes.
pub(crate) struct Output {
    file: File,
    name: String,
    /// `None` where it is written directly.
    unfinished: Option<Unfinished>,
}

/// A regular file that does not have its name yet.
struct Unfinished {
    target: PathBuf,
    /// Its temporary name; `None` where it has no name at all.
    temporary: Option<PathBuf>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // It may be gone; there is nobody to tell.
            let _ = fs::remove_file(temporary);
        }
    }
}

impl Output {
    /// Opens a file; stdout for `-`, `/dev/stdout` or nothing.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self> {
        let stdout = [Path::new("-"), Path::new("/dev/stdout")];
        let Some(path) = path.filter(|path| !stdout.contains(path)) else {
            let file = io::stdout().as_fd().try_clone_to_owned().map(File::from);
            let file = file.map_err(|e| Error::stdout(&e))?;
            return Ok(Self { file, name: "stdout".to_owned(), unfinished: None });
        };
        let name = path.display().to_string();
        let opened = open_path(path);
        let (file, unfinished) = opened.map_err(|why| Error::failed(format!("write {name}"), why))?;
        Ok(Self { file, name, unfinished })
    }

    /// Its name, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Writes some of the bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        loop {
            match self.file.write(bytes) {
                Ok(0) => return Err(Error::failed(format!("write {}", self.name), "it takes nothing more")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let name = if self.name == "stdout" { "to stdout" } else { &self.name };
                    return Err(Error::failed(format!("write {name}"), plain(&error)));
                }
                Ok(written) => return Ok(written),
            }
        }
    }

    /// Everything is written: a regular file appears.
    pub(crate) fn finish(self) -> Result<()> {
        let Some(mut unfinished) = self.unfinished else { return Ok(()) };
        unfinished.name(&self.file).map_err(|e| Error::failed(format!("write {}", self.name), plain(&e)))
    }
}

/// Opens what is at `path`, or something that will be there.
fn open_path(path: &Path) -> Result<(File, Option<Unfinished>), String> {
    if path.as_os_str().as_bytes().starts_with(b"/dev/fd/") || path.starts_with("/proc") {
        // The descriptor of whoever started us: its file is not ours to replace.
        let direct = OpenOptions::new().write(true).open(path);
        return direct.map(|file| (file, None)).map_err(|e| plain(&e));
    }
    let target = follow_links(path).map_err(|e| plain(&e))?;
    let existing = match fs::metadata(&target) {
        Ok(metadata) if metadata.is_dir() => return Err("it is a directory; give a file".to_owned()),
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(plain(&error)),
    };
    if existing.is_none() && target.as_os_str().as_bytes().ends_with(b"/") {
        return Err("there is no such directory, and a file's name does not end with /".to_owned());
    }
    if existing.is_some() {
        // Replacing takes no right to the file itself; who may not write it shall not.
        let file = OpenOptions::new().write(true).open(&target).map_err(|e| plain(&e))?;
        if !existing.as_ref().is_some_and(fs::Metadata::is_file) {
            return Ok((file, None));
        }
    }
    let (file, unfinished) = create(target)?;
    if let Some(metadata) = existing {
        // Another owner can be set by root only, and need not be.
        let _ = std::os::unix::fs::fchown(&file, Some(metadata.uid()), Some(metadata.gid()));
        let mode = fs::Permissions::from_mode(metadata.mode() & 0o777);
        file.set_permissions(mode).map_err(|e| plain(&e))?;
    }
    Ok((file, Some(unfinished)))
}

/// The path behind symbolic links, whether or not there is something.
fn follow_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..40 {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                let link = fs::read_link(&path)?;
                path = directory(&path).join(link);
            }
            _ => return Ok(path),
        }
    }
    Err(Errno::ELOOP.into())
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file beside `target`, without a name where the file system can.
fn create(target: PathBuf) -> Result<(File, Unfinished), String> {
    let dir = directory(&target).to_owned();
    let why = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => format!("there is no directory {}", dir.display()),
        _ => format!("no file can be made in {}: {}", dir.display(), plain(&e)),
    };
    let nameless =
        OpenOptions::new().write(true).custom_flags(OFlag::O_TMPFILE.bits()).mode(0o666).open(&dir);
    match nameless {
        Ok(file) => Ok((file, Unfinished { target, temporary: None })),
        // What file systems without O_TMPFILE answer.
        Err(error)
            if matches!(
                error.raw_os_error().map(Errno::from_raw),
                Some(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL)
            ) =>
        {
            let temporary = beside(&target);
            let file =
                OpenOptions::new().write(true).create_new(true).mode(0o666).open(&temporary).map_err(why)?;
            Ok((file, Unfinished { target, temporary: Some(temporary) }))
        }
        Err(error) => Err(why(error)),
    }
}

/// A name for a moment: of this process, in the directory of `target`.
fn beside(target: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    // A name has 255 bytes at most.
    let own = target.file_name().unwrap_or_default().as_bytes();
    name.push(std::ffi::OsStr::from_bytes(&own[..own.len().min(200)]));
    name.push(format!(".ringbell-{}", std::process::id()));
    target.with_file_name(name)
}

impl Unfinished {
    /// Gives the file its name, in place of what has it now.
    fn name(&mut self, file: &File) -> io::Result<()> {
        let temporary = match self.temporary.take() {
            Some(temporary) => temporary,
            None => {
                let nameless = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
                let link = |to: &Path| linkat(AT_FDCWD, &nameless, AT_FDCWD, to, AtFlags::AT_SYMLINK_FOLLOW);
                match link(&self.target) {
                    Ok(()) => return Ok(()),
                    Err(Errno::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                let temporary = beside(&self.target);
                link(&temporary)?;
                temporary
            }
        };
        let renamed = fs::rename(&temporary, &self.target);
        if renamed.is_err() {
            self.temporary = Some(temporary);
        }
        renamed
    }
}
