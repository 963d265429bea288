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
    let wish = Wish { functions: once(&args.functions), user, force: args.force };
    // Whoever is not root wants to use it without being root.
    let me = (!geteuid().is_root()).then(node::me);
    let again = again("bind", &wish.functions, args.user.as_ref().or(me.as_ref()).map(String::as_str));
    for line in bind(&machine, &|| Facts::read(&machine), &wish, &again)? {
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

fn bind(
    machine: &Machine,
    facts: &dyn Fn() -> Result<Facts>,
    wish: &Wish,
    again: &str,
) -> Result<Vec<String>> {
    let attempted = format!("bind {}", addresses(&wish.functions));
    let choose_all = || {
        let facts = facts()?;
        let each = wish.functions.iter().map(|bdf| choose(machine, &facts, wish, *bdf));
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
mod tests;
