//! `ringbell bind`: hands functions to vfio-pci, all that were named or none.

use std::collections::BTreeSet;

use nix::unistd::{Uid, geteuid};
use ringbell_drivers::address::Bdf;
use ringbell_drivers::sysfs::FunctionInfo;

use super::in_use::{self, Facts};
use super::memory::{Had, Memory};
use super::{Machine, VFIO_PCI, known, node};
use crate::cli::{BindArgs, UserDriver};
use crate::error::{Error, Result};
use crate::out;

/// Hands functions over.
pub(crate) fn run(args: &BindArgs) -> Result<()> {
    let UserDriver::VfioPci = args.driver;
    let user = args.user.as_deref().map(node::user).transpose()?;
    let machine = Machine::here();
    let facts = Facts::read(&machine)?;
    let wish = Wish { functions: once(&args.functions), user, force: args.force };
    // Whoever is not root wants to use it without being root.
    let me = (!geteuid().is_root()).then(node::me);
    let again = again("bind", &wish.functions, args.user.as_ref().or(me.as_ref()).map(String::as_str));
    for line in bind(&machine, &facts, &wish, &again)? {
        out::print_line(&line)?;
    }
    Ok(())
}

/// Each once, in the order in which they were given.
pub(super) fn once(functions: &[Bdf]) -> Vec<Bdf> {
    let mut seen = BTreeSet::new();
    functions.iter().copied().filter(|bdf| seen.insert(*bdf)).collect()
}

/// The command line that was given.
pub(super) fn again(command: &str, functions: &[Bdf], user: Option<&str>) -> String {
    let user = user.map(|user| format!(" --user {user}")).unwrap_or_default();
    format!("ringbell {command} {}{user}", addresses(functions))
}

pub(super) fn addresses(functions: &[Bdf]) -> String {
    functions.iter().map(Bdf::to_string).collect::<Vec<_>>().join(" ")
}

/// What is asked for.
struct Wish {
    functions: Vec<Bdf>,
    user: Option<Uid>,
    force: bool,
}

/// A function, and what would be lost with it.
struct Candidate {
    info: FunctionInfo,
    uses: Vec<String>,
}

/// A function that is to be handed over.
#[derive(Debug)]
struct Chosen {
    info: FunctionInfo,
    group: u32,
    /// What is lost by force.
    uses: Vec<String>,
}

fn bind(machine: &Machine, facts: &Facts, wish: &Wish, again: &str) -> Result<Vec<String>> {
    let attempted = format!("bind {}", addresses(&wish.functions));
    let choose_all = || {
        let each = wish.functions.iter().map(|bdf| choose(machine, facts, wish, *bdf));
        each.collect::<Result<Vec<_>>>()
    };
    // What stands in the way is said to anybody, and leaves no trace; what holds is seen under the lock.
    choose_all()?;
    machine.may_change_drivers(&attempted, again)?;
    let memory = Memory::open(machine)?;
    let chosen = choose_all()?;
    load_modules(machine).map_err(|why| Error::failed(&attempted, why))?;
    for one in chosen.iter().filter(|one| !one.uses.is_empty()) {
        out::note(&format!("taking {} away all the same: {}", one.info.bdf, one.uses.join(", ")));
    }
    let mut moved = Vec::new();
    hand_over(machine, &memory, &chosen, wish.user, &mut moved).map_err(|(bdf, why)| {
        let troubles: Vec<_> = moved.iter().rev().filter_map(|step| undo(machine, &memory, step)).collect();
        let end = match troubles.as_slice() {
            [] => "; nothing was changed".to_owned(),
            troubles => format!("; and giving back what it had failed: {}", troubles.join("; ")),
        };
        Error::failed(format!("bind {bdf}"), why + &end)
    })
}

/// Looks at one function and its group.
fn choose(machine: &Machine, facts: &Facts, wish: &Wish, bdf: Bdf) -> Result<Chosen> {
    let candidate = |info: FunctionInfo| {
        let uses = in_use::reasons(&machine.sysfs, facts, &machine.sysfs.path(info.bdf))?;
        Ok::<_, Error>(Candidate { info, uses })
    };
    let one = candidate(machine.sysfs.function(bdf)?)?;
    let mut neighbours = Vec::new();
    if let Some(group) = one.info.group {
        for info in machine.sysfs.group(group)? {
            if !wish.functions.contains(&info.bdf) {
                neighbours.push(candidate(info)?);
            }
        }
    }
    match decide(&one, &neighbours, &wish.functions, wish.force) {
        Ok(group) => Ok(Chosen { info: one.info, group, uses: one.uses }),
        Err(why) => Err(Error::failed(format!("bind {bdf}"), why)),
    }
}

/// Whether a function may be handed over, together with the others that were named: its IOMMU group,
/// or why not and what to do. `neighbours` are the functions of its group that were not named.
fn decide(
    one: &Candidate,
    neighbours: &[Candidate],
    named: &[Bdf],
    force: bool,
) -> std::result::Result<u32, String> {
    let what = known::name(&one.info);
    if one.info.is_bridge() {
        return Err(format!("it is a bridge ({what}), which the functions behind it need"));
    }
    let Some(group) = one.info.group else {
        return Err(NO_IOMMU.to_owned());
    };
    let is_there = one.info.driver.as_deref() == Some(VFIO_PCI);
    // First what is lost: whoever reads of --force has to have read that.
    if !force && !one.uses.is_empty() {
        return Err(format!("it is in use: {}; --force takes it away all the same", one.uses.join(", ")));
    }
    if !force && !is_there && known::known(&one.info).is_none() {
        return Err(format!(
            "ringbell drives {}; this is something else ({what}, {:04x}:{:04x}); --force hands it over all the same",
            known::all(),
            one.info.vendor,
            one.info.device
        ));
    }
    let in_the_way: Vec<_> = neighbours.iter().filter(|other| !other.info.leaves_group_viable()).collect();
    if in_the_way.is_empty() {
        return Ok(group);
    }
    let says = |other: &&Candidate| {
        let mut parts = vec![other.info.driver.as_deref().unwrap_or("no driver")];
        parts.extend(other.uses.iter().map(String::as_str));
        format!("{} ({})", other.info.bdf, parts.join(", "))
    };
    let list = in_the_way.iter().map(says).collect::<Vec<_>>().join(", ");
    let why = format!("its IOMMU group {group} also holds {list}, which the IOMMU cannot tell from it");
    let can_come = in_the_way.iter().all(|other| other.uses.is_empty() && !other.info.is_bridge());
    if can_come {
        let all = named.iter().copied().chain(in_the_way.iter().map(|other| other.info.bdf));
        let all = addresses(&all.collect::<Vec<_>>());
        let force = if in_the_way.iter().any(|other| known::known(&other.info).is_none()) || force {
            " --force"
        } else {
            ""
        };
        Err(format!("{why}; hand them over together: ringbell bind {all}{force}"))
    } else {
        Err(format!(
            "{why}; stop using that, or put the device where it has a group of its own (another slot)"
        ))
    }
}

pub(super) const NO_IOMMU: &str = "no IOMMU stands between it and memory, and vfio-pci needs one; enable it in the \
     firmware and on the kernel's command line (intel_iommu=on or amd_iommu=on), and boot";

/// vfio-pci, and what maps memory for it.
fn load_modules(machine: &Machine) -> std::result::Result<(), String> {
    if !machine.sysfs.has_driver(VFIO_PCI) {
        machine.kernel.load_module(&machine.root, VFIO_PCI)?;
        if !machine.sysfs.has_driver(VFIO_PCI) {
            return Err("the kernel has no vfio-pci; load it with: modprobe vfio-pci".to_owned());
        }
    }
    // Kernels with another back end do without.
    if let Err(why) = machine.kernel.load_module(&machine.root, "vfio_iommu_type1") {
        tracing::info!(why, "vfio_iommu_type1 is not loaded");
    }
    Ok(())
}

/// A function that has been taken from what it had.
struct Moved {
    info: FunctionInfo,
    /// What was remembered before, where that has been overwritten.
    remembered: Option<Option<Had>>,
}

type Trouble = (Bdf, String);

/// Does it, and says it in a line for each. What it did stands in `moved`, also when it failed.
fn hand_over(
    machine: &Machine,
    memory: &Memory,
    chosen: &[Chosen],
    user: Option<Uid>,
    moved: &mut Vec<Moved>,
) -> std::result::Result<Vec<String>, Trouble> {
    for Chosen { info, .. } in chosen {
        let bdf = info.bdf;
        let trouble = |why: String| (bdf, why);
        if info.driver.as_deref() == Some(VFIO_PCI) {
            continue;
        }
        moved.push(Moved { info: info.clone(), remembered: None });
        let before = remember(machine, memory, info).map_err(|e| trouble(e.to_string()))?;
        if let Some(step) = moved.last_mut() {
            step.remembered = before;
        }
        machine.set_override(bdf, Some(VFIO_PCI)).map_err(trouble)?;
        if info.driver.is_some() {
            machine.detach(bdf).map_err(trouble)?;
        }
        machine.attach(bdf, VFIO_PCI).map_err(trouble)?;
    }
    let mut lines = Vec::new();
    for Chosen { info, group, .. } in chosen {
        let trouble = |why: String| (info.bdf, why);
        let node = machine.wait_for_node(*group).map_err(trouble)?;
        let had = match info.driver.as_deref() {
            Some(VFIO_PCI) => "already bound to".to_owned(),
            Some(driver) => format!("{driver} ->"),
            None => "no driver ->".to_owned(),
        };
        lines.push(format!("{}: {had} {VFIO_PCI}, {}", info.bdf, node.display()));
    }
    for Chosen { info, group, .. } in chosen {
        if let Some(user) = user {
            machine.give_node(&machine.node(*group), user).map_err(|why| (info.bdf, why))?;
        }
    }
    Ok(lines)
}

/// Remembers what the function has. Returns what was remembered before, where it was overwritten.
fn remember(machine: &Machine, memory: &Memory, info: &FunctionInfo) -> Result<Option<Option<Had>>> {
    let before = memory.recall(info.bdf)?;
    let interrupted = info.driver.is_none() && info.driver_override.as_deref() == Some(VFIO_PCI);
    if interrupted && before.is_some() {
        // A bind that was killed on its way: what it remembered is still what the function had.
        return Ok(None);
    }
    let module = info.driver.as_deref().map(|driver| machine.sysfs.driver_module(driver)).transpose()?;
    memory.remember(info.bdf, &Had { driver: info.driver.clone(), module: module.flatten() })?;
    Ok(Some(before))
}

/// Gives a function what it had. Returns why that failed, where it did.
fn undo(machine: &Machine, memory: &Memory, step: &Moved) -> Option<String> {
    let bdf = step.info.bdf;
    let undone = || -> std::result::Result<(), String> {
        machine.set_override(bdf, step.info.driver_override.as_deref())?;
        let now = machine.driver(bdf).map_err(|e| e.to_string())?;
        if now != step.info.driver {
            if now.is_some() {
                machine.detach(bdf)?;
            }
            if let Some(driver) = &step.info.driver {
                machine.attach(bdf, driver)?;
            }
        }
        match &step.remembered {
            None => Ok(()),
            Some(None) => memory.forget(bdf).map_err(|e| e.to_string()),
            Some(Some(had)) => memory.remember(bdf, had).map_err(|e| e.to_string()),
        }
    };
    undone().err().map(|why| format!("{bdf}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions::fake::{Fake, FakeFunction};
    use crate::functions::in_use::Interface;

    const BDF: &str = "0000:00:04.0";

    /// A machine with vfio-pci.
    fn machine() -> Fake {
        let fake = Fake::new();
        fake.add_driver(VFIO_PCI);
        fake
    }

    fn crypto(fake: &Fake) -> FakeFunction<'_> {
        fake.function(BDF, 0x1af4, 0x1054, 0x0b_4000).driver("virtio-pci")
    }

    fn facts() -> Facts {
        let up = |name: &str| Interface { name: name.to_owned(), up: true, address: None };
        Facts {
            mountinfo: "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n".to_owned(),
            swaps: String::new(),
            interfaces: vec![up("lo"), up("eth0")],
            claimed: |_| false,
        }
    }

    fn asked(functions: &[&str], user: Option<u32>, force: bool) -> Wish {
        let functions = functions.iter().map(|bdf| bdf.parse().unwrap()).collect();
        Wish { functions, user: user.map(Uid::from_raw), force }
    }

    fn try_bind(fake: &Fake, functions: &[&str]) -> Result<String> {
        bind_with(fake, &asked(functions, None, false))
    }

    fn bind_with(fake: &Fake, wish: &Wish) -> Result<String> {
        let root = format!("{}/", fake.machine.root.display());
        let again = again("bind", &wish.functions, None);
        bind(&fake.machine, &facts(), wish, &again).map(|lines| lines.join("\n").replace(&root, "/"))
    }

    /// The message, where nothing was done.
    fn refused(fake: &Fake, functions: &[&str]) -> String {
        let message = try_bind(fake, functions).unwrap_err().one_line();
        assert_eq!(*fake.state.written.borrow(), [""; 0]);
        message.strip_prefix("cannot bind ").unwrap().to_owned()
    }

    #[test]
    fn a_function_goes_to_vfio_pci_and_what_it_had_is_remembered() {
        let fake = machine();
        crypto(&fake).group(3);
        assert_eq!(try_bind(&fake, &[BDF]).unwrap(), "0000:00:04.0: virtio-pci -> vfio-pci, /dev/vfio/3");
        assert_eq!(
            *fake.state.written.borrow(),
            [
                "0000:00:04.0/driver_override=vfio-pci",
                "0000:00:04.0/driver/unbind=0000:00:04.0",
                "vfio-pci/bind=0000:00:04.0"
            ]
        );
        assert_eq!(fake.remembered(BDF).unwrap(), "virtio-pci\nvirtio_pci\n");
        assert!(fake.state.owned.borrow().is_empty());
        // Once more, for somebody.
        fake.state.written.borrow_mut().clear();
        let said = bind_with(&fake, &asked(&[BDF], Some(1000), false)).unwrap();
        assert_eq!(said, "0000:00:04.0: already bound to vfio-pci, /dev/vfio/3");
        assert_eq!(*fake.state.written.borrow(), [""; 0]);
        assert_eq!(*fake.state.owned.borrow(), [("3".to_owned(), 1000, 0o600)]);
        assert_eq!(fake.remembered(BDF).unwrap(), "virtio-pci\nvirtio_pci\n");
    }

    #[test]
    fn a_function_without_a_driver_is_remembered_as_such_and_the_container_is_opened() {
        use std::os::unix::fs::PermissionsExt;
        let fake = machine();
        crypto(&fake).group(3).no_driver();
        fake.node("vfio");
        let container = fake.machine.path("dev/vfio/vfio");
        std::fs::set_permissions(&container, std::fs::Permissions::from_mode(0o600)).unwrap();
        let said = bind_with(&fake, &asked(&[BDF], Some(1000), false)).unwrap();
        assert_eq!(said, "0000:00:04.0: no driver -> vfio-pci, /dev/vfio/3");
        assert_eq!(fake.remembered(BDF).unwrap(), "\n\n");
        assert_eq!(
            *fake.state.owned.borrow(),
            [("3".to_owned(), 1000, 0o600), ("vfio".to_owned(), 0, 0o666)]
        );
    }

    #[test]
    fn what_a_killed_bind_remembered_is_not_forgotten() {
        let fake = machine();
        crypto(&fake).group(3);
        try_bind(&fake, &[BDF]).unwrap();
        std::fs::remove_file(fake.machine.sysfs.path(BDF.parse().unwrap()).join("driver")).unwrap();
        assert_eq!(try_bind(&fake, &[BDF]).unwrap(), "0000:00:04.0: no driver -> vfio-pci, /dev/vfio/3");
        assert_eq!(fake.remembered(BDF).unwrap(), "virtio-pci\nvirtio_pci\n");
    }

    #[test]
    fn without_an_iommu_it_is_refused_also_by_force() {
        let fake = machine();
        crypto(&fake);
        assert_eq!(refused(&fake, &[BDF]), format!("0000:00:04.0: {NO_IOMMU}"));
        assert!(bind_with(&fake, &asked(&[BDF], None, true)).is_err());
    }

    #[test]
    fn a_bridge_is_refused_also_by_force() {
        let fake = machine();
        fake.function(BDF, 0x8086, 0x3420, 0x06_0400).group(3).driver("pcieport");
        assert_eq!(
            refused(&fake, &[BDF]),
            "0000:00:04.0: it is a bridge (PCI bridge), which the functions behind it need"
        );
        assert!(!fake.machine.path("run/ringbell").exists());
        assert!(bind_with(&fake, &asked(&[BDF], None, true)).is_err());
    }

    #[test]
    fn what_ringbell_does_not_drive_and_what_is_in_use_need_force() {
        let fake = machine();
        let nic = fake.function(BDF, 0x8086, 0x10d3, 0x02_0000).group(3).driver("e1000e");
        assert_eq!(
            refused(&fake, &[BDF]),
            "0000:00:04.0: ringbell drives virtio-crypto (1af4:1054); this is something else (Ethernet \
             controller, 8086:10d3); --force hands it over all the same"
        );
        nic.net("eth0");
        assert_eq!(
            refused(&fake, &[BDF]),
            "0000:00:04.0: it is in use: eth0 is up; --force takes it away all the same"
        );
        let disk = fake.function("0000:00:05.0", 0x1af4, 0x1042, 0x01_0000).group(4).driver("virtio-pci");
        disk.block("sda", "8:0");
        disk.block("sda/sda1", "8:1");
        assert_eq!(
            refused(&fake, &["0000:00:05.0"]),
            "0000:00:05.0: it is in use: sda1 is mounted on /; --force takes it away all the same"
        );
        let both = asked(&[BDF, "0000:00:05.0"], None, true);
        assert_eq!(
            bind_with(&fake, &both).unwrap(),
            "0000:00:04.0: e1000e -> vfio-pci, /dev/vfio/3\n0000:00:05.0: virtio-pci -> vfio-pci, /dev/vfio/4"
        );
    }

    #[test]
    fn a_group_is_handed_over_whole_or_not_at_all() {
        let fake = machine();
        crypto(&fake).group(3);
        fake.function("0000:00:04.1", 0x1af4, 0x1054, 0x0b_4000).group(3).driver("virtio-pci");
        fake.function("0000:00:01.0", 0x8086, 0x3420, 0x06_0400).group(3).driver("pcieport");
        fake.function("0000:00:04.2", 0x1af4, 0x1054, 0x0b_4000).group(3);
        assert_eq!(
            refused(&fake, &[BDF]),
            "0000:00:04.0: its IOMMU group 3 also holds 0000:00:04.1 (virtio-pci), which the IOMMU cannot \
             tell from it; hand them over together: ringbell bind 0000:00:04.0 0000:00:04.1"
        );
        try_bind(&fake, &[BDF, "0000:00:04.1"]).unwrap();
        for bdf in [BDF, "0000:00:04.1"] {
            assert_eq!(fake.driver_of(bdf).as_deref(), Some(VFIO_PCI));
        }
    }

    #[test]
    fn a_neighbour_that_is_in_use_is_not_asked_for() {
        let fake = machine();
        crypto(&fake).group(3);
        let nic = fake.function("0000:00:05.0", 0x8086, 0x10d3, 0x02_0000).group(3).driver("e1000e");
        assert!(
            refused(&fake, &[BDF]).ends_with("together: ringbell bind 0000:00:04.0 0000:00:05.0 --force")
        );
        nic.net("eth0");
        let said = refused(&fake, &[BDF]);
        assert!(said.contains("holds 0000:00:05.0 (e1000e, eth0 is up), which"), "{said}");
        assert!(said.ends_with("has a group of its own (another slot)"), "{said}");
    }

    #[test]
    fn only_root_may_and_others_are_told_first_what_else_is_wrong() {
        let fake = machine();
        let crypto = crypto(&fake);
        fake.state.forbidden.borrow_mut().push(fake.machine.path("sys/bus/pci/drivers_probe"));
        assert_eq!(refused(&fake, &[BDF]), format!("0000:00:04.0: {NO_IOMMU}"));
        crypto.group(3);
        assert_eq!(
            refused(&fake, &[BDF]),
            "0000:00:04.0: drivers are changed by root alone; sudo ringbell bind 0000:00:04.0"
        );
        assert!(!fake.machine.path("run/ringbell").exists());
    }

    #[test]
    fn a_missing_module_is_loaded_or_named() {
        let fake = Fake::new();
        crypto(&fake).group(3);
        assert_eq!(
            refused(&fake, &[BDF]),
            "0000:00:04.0: there is no vfio-pci; load it with: modprobe vfio-pci"
        );
        fake.state.modules.borrow_mut().insert(VFIO_PCI.to_owned(), VFIO_PCI.to_owned());
        try_bind(&fake, &[BDF]).unwrap();
    }

    #[test]
    fn on_failure_every_function_has_what_it_had() {
        let fake = machine();
        crypto(&fake).group(3);
        let second = "0000:00:05.0";
        fake.function(second, 0x1af4, 0x1054, 0x0b_4000).group(4);
        let before = |bdf: &str| {
            let info = fake.machine.sysfs.function(bdf.parse().unwrap()).unwrap();
            (info.driver, info.driver_override)
        };
        let had = [before(BDF), before(second)];
        for no_nodes in [true, false] {
            fake.state.no_nodes.set(no_nodes);
            if !no_nodes {
                fake.state.broken.borrow_mut().push(VFIO_PCI.to_owned());
            }
            let message = try_bind(&fake, &[second, BDF]).unwrap_err().one_line();
            assert!(message.ends_with("; nothing was changed"), "{message}");
            assert_eq!([before(BDF), before(second)], had);
            assert_eq!((fake.remembered(BDF), fake.remembered(second)), (None, None));
        }
        // And where it cannot have it.
        fake.state.broken.borrow_mut().push("virtio-pci".to_owned());
        let message = try_bind(&fake, &[BDF]).unwrap_err().one_line();
        let end = "; and giving back what it had failed: 0000:00:04.0: virtio-pci did not take it: \
                   Input/output error; dmesg may say more";
        assert!(message.ends_with(end), "{message}");
        assert_eq!(fake.remembered(BDF).as_deref(), Some("virtio-pci\nvirtio_pci\n"));
    }

    #[test]
    fn each_function_is_taken_once() {
        let list = ["00:04.0", "0000:00:05.0", "0000:00:04.0"].map(|bdf| bdf.parse().unwrap());
        assert_eq!(once(&list), [list[0], list[1]]);
        let gone = try_bind(&machine(), &[BDF]).unwrap_err();
        assert_eq!(gone.exit_status(), 1);
        assert!(gone.one_line().starts_with("cannot find PCI function 0000:00:04.0"));
    }
}
