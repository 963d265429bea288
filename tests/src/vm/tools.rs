//! Programs of the host: found, run, missed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::Failure;

/// What has to be there, with Debian's package of it.
const NEEDED: [(&str, &str); 7] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
    ("setpriv", "util-linux"),
    ("dpkg-deb", "dpkg"),
    ("apt-get", "apt"),
];

/// Where a program lies: in PATH, or where root's programs are, which a user's PATH may leave out.
pub(super) fn find(name: &str) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            let package = NEEDED.iter().find(|(program, _)| *program == name).map_or(name, |(_, p)| p);
            Failure::Missing(format!("no {name} (Debian's package {package})"))
        })
}

/// A missing one is named.
pub(super) fn all_present() -> Result<(), Failure> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(Failure::Missing("programs for the guest are built on x86_64 only".to_owned()));
    }
    let busybox = NEEDED.iter().map(|(name, _)| find(name)).collect::<Result<Vec<_>, _>>()?.swap_remove(1);
    if is_dynamic(&busybox)? {
        let name = busybox.display();
        return Err(Failure::Missing(format!("{name} is not static (Debian's package busybox-static)")));
    }
    Ok(())
}

/// Whether a program asks for a dynamic linker, which the guest lacks.
fn is_dynamic(program: &Path) -> Result<bool, Failure> {
    let bytes = std::fs::read(program).map_err(Failure::io(program.display()))?;
    let start = &bytes[..bytes.len().min(4096)];
    Ok(start.windows(8).any(|window| window == b"ld-linux"))
}

/// Runs a program that has to succeed.
pub(super) fn run(command: &mut Command) -> Result<Output, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(Failure::io(format_args!("running {program}")))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
    Err(Failure::Tool { program, message: format!("{}\n{}", output.status, said.trim_end()) })
}

/// Where kernels are kept: `RINGBELL_VM_DIR`, else `vm` in cargo's target directory.
pub(super) fn kept() -> PathBuf {
    std::env::var_os("RINGBELL_VM_DIR").map_or_else(|| target().join("vm"), |path| workspace().join(path))
}

/// Cargo's target directory. A relative name counts from the workspace's root, where cargo was started.
pub(super) fn target() -> PathBuf {
    workspace().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// The workspace's root.
pub(super) fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}
