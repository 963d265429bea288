//! What would be lost with a function: mounted disks, swap, network interfaces.
//!
//! A disk may be mounted through others that are made of it (RAID, LVM, encryption), or in another
//! mount namespace, or by a file system that hides what it lies on (btrfs, ZFS). So each block device
//! that comes from the function is looked up among mounts and swap, those that hold it are followed,
//! and at last the kernel is asked whether somebody has claimed it. Interfaces that have been moved to
//! another network namespace cannot be seen.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;
use nix::net::if_::InterfaceFlags;
use nix::unistd::geteuid;
use ringbell_drivers::sysfs::Sysfs;

use super::Machine;
use crate::error::{Error, Result, plain};

/// What the system uses.
pub(super) struct Facts {
    /// `/proc/self/mountinfo`
    pub(super) mountinfo: String,
    /// `/proc/swaps`
    pub(super) swaps: String,
    /// The network's.
    pub(super) interfaces: Vec<Interface>,
    /// What the kernel says against taking the block device of that name away.
    pub(super) claimed: fn(&str) -> Option<&'static str>,
}

/// A network interface: once for each address, and once more.
#[derive(Clone, Debug)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) up: bool,
    pub(super) address: Option<IpAddr>,
}

impl Facts {
    pub(super) fn read(machine: &Machine) -> Result<Self> {
        let text = |path: &Path| match fs::read_to_string(path) {
            Ok(text) => Ok(text),
            // A kernel without swap.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(Error::failed(format!("read {}", path.display()), plain(&error))),
        };
        let mounts = machine.path("proc/self/mountinfo");
        let mountinfo = text(&mounts)?;
        if mountinfo.is_empty() {
            let why = "it is not there, so nobody knows which disks are in use; mount /proc";
            return Err(Error::failed(format!("read {}", mounts.display()), why));
        }
        Ok(Self { mountinfo, swaps: text(&machine.path("proc/swaps"))?, interfaces: interfaces()?, claimed })
    }
}

/// The interfaces of this network namespace.
fn interfaces() -> Result<Vec<Interface>> {
    let list = nix::ifaddrs::getifaddrs()
        .map_err(|errno| Error::failed("list the network interfaces", errno.desc()))?;
    let one = |entry: nix::ifaddrs::InterfaceAddress| Interface {
        up: entry.flags.contains(InterfaceFlags::IFF_UP),
        address: entry.address.and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        }),
        name: entry.interface_name,
    };
    Ok(list.map(one).collect())
}

/// Asks the kernel: an exclusive open fails where a mount, swap, or another device has claimed the
/// disk, whole or in part. Only root gets another answer than "nothing".
fn claimed(name: &str) -> Option<&'static str> {
    // A slash in the name of a node is written so.
    let node = Path::new("/dev").join(name.replace('!', "/"));
    let flags = libc::O_EXCL | libc::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(node);
    match opened.err()?.raw_os_error()? {
        libc::EBUSY => Some("belongs to a volume, or to a mount elsewhere"),
        // Hidden paths to a namespace have none; the namespace itself is looked at.
        libc::ENOENT if geteuid().is_root() && multipath(name).is_none() => {
            Some("has no node in /dev, so nobody can tell whether it is in use")
        }
        libc::EPERM | libc::EACCES if geteuid().is_root() => Some("cannot be asked whether it is in use"),
        _ => None,
    }
}

/// Why the device in that folder must not be taken away, one reason for each disk and interface.
pub(super) fn reasons(sysfs: &Sysfs, facts: &Facts, device: &Path) -> Result<Vec<String>> {
    let mut reasons = disks(sysfs, facts, device)?;
    for name in sysfs.class_below("net", device)? {
        let mut entries = facts.interfaces.iter().filter(|interface| interface.name == name);
        let address = entries.clone().find_map(|interface| interface.address);
        if let Some(address) = address {
            reasons.push(format!("{name} has the address {address}"));
        } else if entries.any(|interface| interface.up) {
            reasons.push(format!("{name} is up"));
        }
    }
    Ok(reasons)
}

fn disks(sysfs: &Sysfs, facts: &Facts, device: &Path) -> Result<Vec<String>> {
    let blocks = sysfs.root().join("class/block");
    let mounts = mounts(&facts.mountinfo);
    let swaps = swaps(&facts.swaps);
    let (mut used, mut held, mut claimed) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    let mut folders = vec![device.to_owned()];
    while let Some(folder) = folders.pop() {
        for name in sysfs.class_below("block", &folder)? {
            if !seen.insert(name.clone()) {
                continue;
            }
            let number = fs::read_to_string(blocks.join(&name).join("dev")).unwrap_or_default();
            let node = format!("/dev/{}", name.replace('!', "/"));
            for mount in mounts.iter().filter(|mount| mount.number == number.trim() || mount.source == node) {
                used.push(format!("{name} is mounted on {}", mount.at));
            }
            if swaps.contains(&name) {
                used.push(format!("{name} is swap"));
            }
            let holders = fs::read_dir(blocks.join(&name).join("holders")).into_iter().flatten().flatten();
            for holder in holders.filter_map(|entry| entry.file_name().into_string().ok()) {
                held.push(format!("{name} is part of {holder}"));
                folders.push(blocks.join(holder));
            }
            folders.extend(multipath(&name).map(|whole| blocks.join(whole)));
            if let Some(why) = (facts.claimed)(&name) {
                claimed.push(format!("{name} {why}"));
            }
        }
    }
    // The best reasons that there are.
    Ok([used, held, claimed].into_iter().find(|list| !list.is_empty()).unwrap_or_default())
}

/// The disk that a hidden path to an NVMe namespace belongs to: nvme0c1n2 is a path of nvme0n2, which
/// does not lie below any function.
fn multipath(name: &str) -> Option<String> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (subsystem, rest) = name.strip_prefix("nvme")?.split_once('c')?;
    let (controller, namespace) = rest.split_once('n')?;
    (digits(subsystem) && digits(controller) && digits(namespace))
        .then(|| format!("nvme{subsystem}n{namespace}"))
}

struct Mount {
    /// Major and minor, as `8:1`; of no disk where the file system has several.
    number: String,
    source: String,
    at: String,
}

/// Lines of mountinfo (proc_pid_mountinfo(5)): `36 35 8:1 / /mnt rw shared:1 - ext4 /dev/sda1 rw`.
fn mounts(text: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ');
        let number = fields.nth(2)?.to_owned();
        let at = unescape(fields.nth(1)?);
        let source = unescape(after.split(' ').nth(1)?);
        Some(Mount { number, source, at })
    };
    text.lines().filter_map(line).collect()
}

/// The kernel's names of the block devices of /proc/swaps.
fn swaps(text: &str) -> BTreeSet<String> {
    let names = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    names.filter_map(|name| name.strip_prefix("/dev/")).map(|name| unescape(name).replace('/', "!")).collect()
}

/// `\040` is a space, and so on.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        out.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions::fake::Fake;

    fn facts(mountinfo: &str, swaps: &str, interfaces: &[Interface]) -> Facts {
        Facts {
            mountinfo: mountinfo.to_owned(),
            swaps: swaps.to_owned(),
            interfaces: interfaces.to_owned(),
            claimed: |_| None,
        }
    }

    #[test]
    fn a_mounted_partition_is_found_by_its_number() {
        let fake = Fake::new();
        let disk = fake.function("0000:00:02.0", 0x1af4, 0x1042, 0x01_8000).driver("virtio-pci");
        disk.block("vda", "254:0");
        disk.block("vda/vda1", "254:1");
        let mounted = facts("22 1 254:1 / /home\\040x rw - ext4 /dev/root rw\n", "", &[]);
        assert_eq!(
            reasons(&fake.machine.sysfs, &mounted, &disk.folder).unwrap(),
            ["vda1 is mounted on /home x"]
        );
        let other = facts("22 1 254:2 / / rw - ext4 /dev/vdb1 rw\n", "", &[]);
        assert_eq!(reasons(&fake.machine.sysfs, &other, &disk.folder).unwrap(), [""; 0]);
    }

    #[test]
    fn a_mount_without_a_number_is_found_by_its_source_and_swap_by_its_name() {
        let fake = Fake::new();
        let disk = fake.function("0000:00:02.0", 0x8086, 0xa808, 0x01_0802).driver("nvme");
        disk.block("nvme0n1", "259:0");
        let facts = facts(
            "22 1 0:33 /@ / rw shared:1 - btrfs /dev/nvme0n1 rw,subvol=/@\n",
            "Filename\tType\n/dev/nvme0n1 partition 1 0 -2\n",
            &[],
        );
        assert_eq!(
            reasons(&fake.machine.sysfs, &facts, &disk.folder).unwrap(),
            ["nvme0n1 is mounted on /", "nvme0n1 is swap"]
        );
    }

    #[test]
    fn a_disk_is_in_use_through_what_is_made_of_it() {
        let fake = Fake::new();
        let disk = fake.function("0000:00:02.0", 0x8086, 0x2922, 0x01_0601).driver("ahci");
        disk.block("sda", "8:0");
        disk.block("sda/sda2", "8:2");
        fake.virtual_block("md0", "9:0");
        fake.virtual_block("dm-1", "253:1");
        fake.holder("sda2", "md0");
        fake.holder("md0", "dm-1");
        let mounted = facts("22 1 253:1 / /var rw - xfs /dev/mapper/vg-var rw\n", "", &[]);
        let sysfs = &fake.machine.sysfs;
        assert_eq!(reasons(sysfs, &mounted, &disk.folder).unwrap(), ["dm-1 is mounted on /var"]);
        let idle = facts("", "", &[]);
        assert_eq!(
            reasons(sysfs, &idle, &disk.folder).unwrap(),
            ["sda2 is part of md0", "md0 is part of dm-1"]
        );
    }

    #[test]
    fn a_path_of_a_multipath_namespace_is_its_disk() {
        let fake = Fake::new();
        let disk = fake.function("0000:00:02.0", 0x8086, 0xa808, 0x01_0802).driver("nvme");
        disk.block("nvme0c1n2", "");
        fake.virtual_block("nvme0n2", "259:3");
        fake.virtual_block("nvme0n2/nvme0n2p1", "259:4");
        let facts = facts("22 1 259:4 / / rw - ext4 /dev/nvme0n2p1 rw\n", "", &[]);
        assert_eq!(
            reasons(&fake.machine.sysfs, &facts, &disk.folder).unwrap(),
            ["nvme0n2p1 is mounted on /"]
        );
        assert_eq!(multipath("nvme0n1"), None);
        assert_eq!(multipath("nvmecn"), None);
    }

    #[test]
    fn the_kernel_has_the_last_word_on_a_disk() {
        let fake = Fake::new();
        let disk = fake.function("0000:00:02.0", 0x8086, 0x2922, 0x01_0601).driver("ahci");
        disk.block("sdb", "8:16");
        let mut facts = facts("", "", &[]);
        facts.claimed = |name| (name == "sdb").then_some("belongs to a volume, or to a mount elsewhere");
        let found = reasons(&fake.machine.sysfs, &facts, &disk.folder).unwrap();
        assert_eq!(found, ["sdb belongs to a volume, or to a mount elsewhere"]);
    }

    #[test]
    fn an_interface_is_in_use_when_it_is_up_or_has_an_address() {
        let fake = Fake::new();
        let nic = fake.function("0000:00:03.0", 0x1af4, 0x1041, 0x02_0000).driver("virtio-pci");
        nic.net("eth0");
        let interface = |up, address: Option<&str>| Interface {
            name: "eth0".to_owned(),
            up,
            address: address.map(|address| address.parse().unwrap()),
        };
        let found = |list: &[Interface]| {
            reasons(&fake.machine.sysfs, &facts("", "", list), &nic.folder).unwrap().join(", ")
        };
        let lo = Interface { name: "lo".to_owned(), up: true, address: None };
        assert_eq!(found(&[lo.clone(), interface(false, None)]), "");
        assert_eq!(found(&[interface(true, None)]), "eth0 is up");
        let both = [interface(true, None), interface(true, Some("10.0.0.2"))];
        assert_eq!(found(&both), "eth0 has the address 10.0.0.2");
        // Another's.
        let other = fake.function("0000:00:03.1", 0x1af4, 0x1041, 0x02_0000);
        assert!(reasons(&fake.machine.sysfs, &facts("", "", &both), &other.folder).unwrap().is_empty());
    }

    #[test]
    fn what_the_system_says_here_is_read() {
        let facts = Facts::read(&Machine::here()).unwrap();
        assert!(mounts(&facts.mountinfo).iter().any(|mount| mount.at == "/"));
        assert_eq!(unescape("a\\040b\\134\\"), "a b\\\\");
    }
}
