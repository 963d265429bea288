//! Who has a function open.

use std::fs;
use std::path::Path;

/// Processes that have an IOMMU group open, or the function itself, as far as this process may see:
/// `ringbell (pid 1234)`. `proc` is where the processes are (`/proc`), `function` the function's folder in
/// sysfs. A process that has only a mapping left is not seen.
pub fn holders(proc: &Path, group: Option<u32>, function: &Path) -> Vec<String> {
    let mut nodes: Vec<_> = group.map(|group| format!("/dev/vfio/{group}")).into_iter().collect();
    nodes.extend(names(&function.join("vfio-dev")).map(|name| format!("/dev/vfio/devices/{name}")));
    let function = function.canonicalize().unwrap_or_default();
    let mut pids: Vec<u32> = names(proc).filter_map(|name| name.parse().ok()).collect();
    pids.sort_unstable();
    pids.retain(|pid| {
        let process = proc.join(pid.to_string());
        names(&process.join("fd")).any(|fd| {
            let target = fs::read_link(process.join("fd").join(&fd)).unwrap_or_default();
            let target = target.to_string_lossy();
            if target.starts_with("anon_inode:[vfio-device]") {
                // Newer kernels say which.
                let text = fs::read_to_string(process.join("fdinfo").join(&fd)).unwrap_or_default();
                let mut paths = text.lines().filter_map(|line| line.strip_prefix("vfio-device-syspath:"));
                return paths.any(|path| Path::new(path.trim()) == function);
            }
            nodes.iter().any(|node| target.strip_suffix(" (deleted)").unwrap_or(&target) == node)
        })
    });
    let name = |pid: u32| {
        let comm = fs::read_to_string(proc.join(format!("{pid}/comm"))).unwrap_or_default();
        // A process names itself as it likes.
        format!("{} (pid {pid})", comm.trim().escape_debug())
    };
    pids.into_iter().map(name).collect()
}

fn names(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}
