//! `ringbell unbind`: gives functions back to the drivers that they had.

use ringbell_drivers::address::Bdf;
use ringbell_drivers::sysfs::FunctionInfo;
use ringbell_drivers::vfio::holders;

use super::bind::{addresses, again, once};
use super::memory::{Had, Memory};
use super::{Machine, VFIO_PCI};
use crate::cli::UnbindArgs;
use crate::error::{Error, Result};
use crate::out;

/// Gives functions back.
pub(crate) fn run(args: &UnbindArgs) -> Result<()> {
    let functions = once(&args.functions);
    let again = again("unbind", &functions, None);
    unbind(&Machine::here(), &functions, args.force, &again, &mut |line| out::print_line(line))
}

/// Says each function as soon as it has been given back: that is not undone when another fails.
fn unbind(
    machine: &Machine,
    functions: &[Bdf],
    force: bool,
    again: &str,
    say: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    let choose_all = || {
        let each = functions.iter().map(|bdf| choose(machine, *bdf, force));
        each.collect::<Result<Vec<_>>>()
    };
    // What stands in the way is said to anybody, and leaves no trace; what holds is seen under the lock.
    choose_all()?;
    machine.may_change_drivers(&format!("unbind {}", addresses(functions)), again)?;
    let memory = Memory::open(machine)?;
    let chosen = choose_all()?;
    let mut plan = Vec::new();
    for info in chosen {
        let had = memory.recall(info.bdf)?;
        if let Err(why) = driver_is_there(machine, had.as_ref()) {
            if !force {
                let why = format!("{why}; --force takes it from {VFIO_PCI} all the same");
                return Err(Error::failed(format!("unbind {}", info.bdf), why));
            }
            out::note(&why);
        }
        plan.push((info, had));
    }
    for (info, had) in plan {
        let bdf = info.bdf;
        let now = give_back(machine, &memory, &info, had.as_ref())
            .map_err(|why| Error::failed(format!("unbind {bdf}"), why))?;
        say(&format!("{bdf}: {VFIO_PCI} -> {}", now.as_deref().unwrap_or("no driver")))?;
    }
    Ok(())
}

/// Looks at one function, and at who has it.
fn choose(machine: &Machine, bdf: Bdf, force: bool) -> Result<FunctionInfo> {
    let info = machine.sysfs.function(bdf)?;
    let users = holders(&machine.path("proc"), info.group, &machine.sysfs.path(bdf));
    let siblings = siblings(machine, &info)?;
    decide(&info, &users, &siblings, force).map_err(|why| Error::failed(format!("unbind {bdf}"), why))?;
    Ok(info)
}

/// The other functions of its group that user space has.
fn siblings(machine: &Machine, info: &FunctionInfo) -> Result<Vec<Bdf>> {
    let Some(group) = info.group else { return Ok(Vec::new()) };
    let others = machine.sysfs.group(group)?;
    Ok(others
        .iter()
        .filter(|other| other.bdf != info.bdf && other.is_given_away())
        .map(|other| other.bdf)
        .collect())
}

/// Whether a function may be taken from vfio-pci; `users` are the processes that have it or its group,
/// `siblings` the other functions of the group that user space has.
fn decide(
    info: &FunctionInfo,
    users: &[String],
    siblings: &[Bdf],
    force: bool,
) -> std::result::Result<(), String> {
    match info.driver.as_deref() {
        Some(VFIO_PCI) => {}
        Some(driver) => return Err(format!("it is bound to {driver}, not to {VFIO_PCI}; leave it there")),
        None => return Err(format!("it is bound to no driver, so not to {VFIO_PCI}; leave it there")),
    }
    // By force the kernel waits; but a group that somebody has open, with another of its functions, must
    // not get a function that is not user space's: kernels refuse that, old ones crash.
    if users.is_empty() || force && siblings.is_empty() {
        return Ok(());
    }
    let group = info.group.map(|group| format!(" or its IOMMU group {group}")).unwrap_or_default();
    let users = users.join(", ");
    let way_out = if siblings.is_empty() {
        " (--force waits in the kernel until it is closed)".to_owned()
    } else {
        format!(" (not by --force either: {} is of the same group)", addresses(siblings))
    };
    Err(format!("{users} has it{group} open; stop that first{way_out}"))
}

/// Loads the driver that the function had, where it is gone.
fn driver_is_there(machine: &Machine, had: Option<&Had>) -> std::result::Result<(), String> {
    let Some(driver) = had.and_then(|had| had.driver.as_deref()) else { return Ok(()) };
    if machine.sysfs.has_driver(driver) {
        return Ok(());
    }
    let module = had.and_then(|had| had.module.as_deref()).unwrap_or(driver);
    let gone = format!("the driver that it had, {driver}, is not there");
    machine.kernel.load_module(&machine.root, module).map_err(|why| format!("{gone}: {why}"))?;
    if machine.sysfs.has_driver(driver) { Ok(()) } else { Err(format!("{gone}; load its kernel module")) }
}

/// Gives one back, and returns the driver that it then has.
fn give_back(
    machine: &Machine,
    memory: &Memory,
    info: &FunctionInfo,
    had: Option<&Had>,
) -> std::result::Result<Option<String>, String> {
    let bdf = info.bdf;
    let text = |e: Error| e.to_string();
    machine.set_override(bdf, None)?;
    if let Err(why) = machine.detach(bdf) {
        // It stays as it was.
        return match machine.set_override(bdf, info.driver_override.as_deref()) {
            Ok(()) => Err(why),
            Err(too) => Err(format!("{why}; {too}")),
        };
    }
    let refused = match had.map(|had| had.driver.as_deref()) {
        // It had none.
        Some(None) => None,
        Some(Some(driver)) => machine.attach(bdf, driver).err(),
        None => {
            machine.probe(bdf)?;
            None
        }
    };
    if refused.is_some() {
        machine.probe(bdf)?;
    }
    if let Some(group) = info.group
        && siblings(machine, info).map_err(text)?.is_empty()
    {
        machine.take_node_back(group).map_err(text)?;
    }
    memory.forget(bdf).map_err(text)?;
    let now = machine.driver(bdf).map_err(text)?;
    match refused {
        None => Ok(now),
        Some(why) => {
            let now = now.as_deref().unwrap_or("no driver");
            Err(format!("it has left {VFIO_PCI}, but {why}; it is bound to {now} now"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions::fake::Fake;
    use std::os::unix::fs::{DirBuilderExt, symlink};

    const BDF: &str = "0000:00:04.0";

    /// A machine with a function at vfio-pci, of which this is remembered.
    fn bound(remembered: Option<&str>) -> Fake {
        let fake = Fake::new();
        let _ = fake.function(BDF, 0x1af4, 0x1054, 0x0b_4000).group(3).driver("virtio-pci").driver(VFIO_PCI);
        fake.node("3");
        std::fs::write(fake.machine.sysfs.path(bdf()).join("driver_override"), "vfio-pci\n").unwrap();
        if let Some(text) = remembered {
            let folder = fake.machine.path("run/ringbell-bind");
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).unwrap();
            std::fs::write(folder.join(BDF), text).unwrap();
        }
        fake
    }

    fn bdf() -> Bdf {
        BDF.parse().unwrap()
    }

    fn try_unbind(fake: &Fake, force: bool) -> Result<String> {
        let mut said = String::new();
        unbind(&fake.machine, &[bdf()], force, "ringbell unbind 0000:00:04.0", &mut |line| {
            said += line;
            Ok(())
        })?;
        Ok(said)
    }

    fn refused(fake: &Fake) -> String {
        let message = try_unbind(fake, false).unwrap_err().one_line();
        assert_eq!(*fake.state.written.borrow(), [""; 0]);
        message.strip_prefix("cannot unbind 0000:00:04.0: ").unwrap().to_owned()
    }

    #[test]
    fn a_function_goes_back_to_the_driver_that_it_had() {
        let fake = bound(Some("virtio-pci\nvirtio_pci\n"));
        assert_eq!(try_unbind(&fake, false).unwrap(), "0000:00:04.0: vfio-pci -> virtio-pci");
        assert_eq!(
            *fake.state.written.borrow(),
            [
                "0000:00:04.0/driver_override=",
                "0000:00:04.0/driver/unbind=0000:00:04.0",
                "virtio-pci/bind=0000:00:04.0"
            ]
        );
        assert_eq!((fake.driver_of(BDF).as_deref(), fake.remembered(BDF)), (Some("virtio-pci"), None));
        assert_eq!(fake.machine.sysfs.function(bdf()).unwrap().driver_override, None);
    }

    #[test]
    fn a_function_that_had_no_driver_has_none_again_and_an_unknown_one_is_left_to_the_kernel() {
        let fake = bound(Some("\n\n"));
        assert_eq!(try_unbind(&fake, false).unwrap(), "0000:00:04.0: vfio-pci -> no driver");
        assert_eq!(fake.remembered(BDF), None);
        let fake = bound(None);
        assert_eq!(try_unbind(&fake, false).unwrap(), "0000:00:04.0: vfio-pci -> virtio-pci");
        let fake = bound(None);
        fake.state.native.borrow_mut().clear();
        assert_eq!(try_unbind(&fake, false).unwrap(), "0000:00:04.0: vfio-pci -> no driver");
    }

    #[test]
    fn the_node_of_a_group_that_goes_on_is_taken_from_its_user() {
        let fake = bound(Some("virtio-pci\n\n"));
        // The fake kernel takes the node away with the function; this one is another's.
        let other = fake.machine.node(3);
        fake.state.owned.borrow_mut().clear();
        fake.machine.take_node_back(3).unwrap();
        assert_eq!(*fake.state.owned.borrow(), [("3".to_owned(), 0, 0o600)]);
        std::fs::remove_file(other).unwrap();
        fake.machine.take_node_back(3).unwrap();
    }

    #[test]
    fn what_is_elsewhere_and_what_is_open_is_refused() {
        let fake = bound(None);
        let process = fake.machine.path("proc/77");
        std::fs::create_dir_all(process.join("fd")).unwrap();
        std::fs::write(process.join("comm"), "ringbell\n").unwrap();
        symlink("/dev/vfio/3", process.join("fd/4")).unwrap();
        assert_eq!(
            refused(&fake),
            "ringbell (pid 77) has it or its IOMMU group 3 open; stop that first (--force waits in the kernel \
             until it is closed)"
        );
        assert!(try_unbind(&fake, true).is_ok());
        fake.state.written.borrow_mut().clear();
        assert_eq!(refused(&fake), "it is bound to virtio-pci, not to vfio-pci; leave it there");
    }

    #[test]
    fn a_driver_that_does_not_take_it_again_is_said() {
        let fake = bound(Some("virtio-pci\nvirtio_pci\n"));
        fake.state.broken.borrow_mut().push("virtio-pci".to_owned());
        let message = try_unbind(&fake, false).unwrap_err().one_line();
        assert_eq!(
            message,
            "cannot unbind 0000:00:04.0: it has left vfio-pci, but virtio-pci did not take it: Input/output \
             error; dmesg may say more; it is bound to no driver now"
        );
    }

    #[test]
    fn the_module_of_a_driver_that_is_gone_is_loaded() {
        let fake = bound(Some("virtio-pci\nvirtio_pci\n"));
        fake.remove_driver("virtio-pci");
        let said = refused(&fake);
        assert!(said.starts_with("the driver that it had, virtio-pci, is not there: "), "{said}");
        fake.state.modules.borrow_mut().insert("virtio_pci".to_owned(), "virtio-pci".to_owned());
        assert_eq!(try_unbind(&fake, false).unwrap(), "0000:00:04.0: vfio-pci -> virtio-pci");
    }
}
