//! What the guest finds when it starts: busybox under all its names, the modules that the test needs,
//! the test's own files, and `init.sh` as its first process.

use std::path::Path;
use std::process::Command;

use super::kernel::Kernel;
use super::modules::plain;
use super::newc::Archive;
use super::{Failure, tools};

/// The first process.
const INIT: &str = include_str!("init.sh");

/// The disk that the results leave on.
const RESULTS: [&str; 2] = ["ahci", "sd_mod"];

/// Root, and a user without rights.
const ETC: [(&str, &str); 3] = [
    ("etc/passwd", "root:x:0:0:root:/:/bin/sh\nalice:x:1000:1000:alice:/home/alice:/bin/sh\n"),
    ("etc/group", "root:x:0:\nalice:x:1000:\n"),
    ("etc/shadow", "root:*:::::::\nalice:*:::::::\n"),
];

/// One file of the test's: its path in the guest, its permissions, its bytes.
#[derive(Debug, Clone)]
pub(super) struct Extra {
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) contents: Vec<u8>,
}

/// The archive that the kernel unpacks.
pub(super) fn build(
    kernel: &Kernel,
    load: &[String],
    bring: &[String],
    extra: &[Extra],
    job: &str,
) -> Result<Vec<u8>, Failure> {
    let mut archive = Archive::default();
    for folder in ["proc", "sys", "dev", "tmp", "out", "home/alice"] {
        archive.folder(folder);
    }
    busybox(&mut archive, &tools::find("busybox")?)?;
    for (path, contents) in ETC {
        archive.file(path, 0o644, contents.as_bytes());
    }
    modules(&mut archive, kernel, load, bring)?;
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("job", 0o755, job.as_bytes());
    for Extra { path, mode, contents } in extra {
        archive.file(path, *mode, contents);
    }
    Ok(archive.finish())
}

fn busybox(archive: &mut Archive, program: &Path) -> Result<(), Failure> {
    let bytes = std::fs::read(program).map_err(Failure::io(program.display()))?;
    archive.file("bin/busybox", 0o755, &bytes);
    let names = tools::run(Command::new(program).arg("--list-full"))?.stdout;
    for name in String::from_utf8_lossy(&names).lines().filter(|name| *name != "bin/busybox") {
        archive.link(name, "/bin/busybox");
    }
    Ok(())
}

/// The modules, the list of those to load before the job, and tables for `modprobe`, which the kernel
/// may also run by itself.
fn modules(archive: &mut Archive, kernel: &Kernel, load: &[String], bring: &[String]) -> Result<(), Failure> {
    let root = format!("lib/modules/{}", kernel.release);
    let load = RESULTS.into_iter().chain(load.iter().map(String::as_str));
    let steps = kernel.modules.steps(load.clone())?;
    let brought = kernel.modules.steps(load.chain(bring.iter().map(String::as_str)))?;
    for step in &brought {
        let bytes = kernel.modules.bytes(&step.path)?;
        archive.file(&format!("{root}/{}", plain(&step.path)), 0o644, &bytes);
    }
    let line = |step: &super::modules::Step| {
        format!("{} /{root}/{}\n", if step.required { "must" } else { "may" }, plain(&step.path))
    };
    archive.file("etc/modules", 0o644, steps.iter().map(line).collect::<String>().as_bytes());
    archive.file(&format!("{root}/modules.dep"), 0o644, kernel.modules.dep_of(&brought).as_bytes());
    archive.file(&format!("{root}/modules.alias"), 0o644, kernel.modules.alias_of(&brought).as_bytes());
    Ok(())
}
