//! `ringbell list`: the functions here, and whether each can be used now.

use nix::errno::Errno;
use ringbell_drivers::sysfs::FunctionInfo;
use serde::Serialize;

use super::bind::{NO_IOMMU, addresses};
use super::{Machine, VFIO_PCI, known, node};
use crate::cli::ListArgs;
use crate::error::{Error, Result};
use crate::out;

/// Prints the functions.
pub(crate) fn run(args: &ListArgs) -> Result<()> {
    let machine = Machine::here();
    let rows = rows(&machine, args.all, &node::me())?;
    if rows.is_empty() {
        out::note(&nothing(&machine, args.all));
        return Ok(());
    }
    if args.json {
        for row in &rows {
            let text = serde_json::to_string(row).map_err(|e| Error::failed("write JSON", e))?;
            out::print_line(&text)?;
        }
        return Ok(());
    }
    out::print(table(&rows).as_bytes())
}

/// The object of `--json`: its keys are a contract.
#[derive(Debug, Serialize)]
struct Row {
    address: String,
    /// Four hexadecimal digits.
    vendor: String,
    device: String,
    name: &'static str,
    driver: Option<String>,
    iommu_group: Option<u32>,
    numa_node: Option<u32>,
    usable: bool,
    /// Why not, and what to do.
    why: Option<String>,
}

fn rows(machine: &Machine, all: bool, me: &str) -> Result<Vec<Row>> {
    let mut functions = machine.sysfs.functions()?;
    functions.retain(|function| all || known::known(function).is_some());
    let row = |info: FunctionInfo| {
        let why = why_not(machine, &info, me)?;
        Ok(Row {
            address: info.bdf.to_string(),
            vendor: format!("{:04x}", info.vendor),
            device: format!("{:04x}", info.device),
            name: known::name(&info),
            driver: info.driver,
            iommu_group: info.group,
            numa_node: info.numa_node,
            usable: why.is_none(),
            why,
        })
    };
    functions.into_iter().map(row).collect()
}

/// What keeps this process from using the function: the first thing to be changed. Nothing is opened.
fn why_not(machine: &Machine, info: &FunctionInfo, me: &str) -> Result<Option<String>> {
    let bdf = info.bdf;
    if known::known(info).is_none() {
        return Ok(Some("ringbell has no driver for it".to_owned()));
    }
    let Some(group) = info.group else { return Ok(Some(NO_IOMMU.to_owned())) };
    let members = machine.sysfs.group(group)?;
    let others: Vec<_> =
        members.iter().filter(|other| other.bdf != bdf && !other.leaves_group_viable()).collect();
    if info.driver.as_deref() != Some(VFIO_PCI) && others.is_empty() {
        let driver = info.driver.as_deref().unwrap_or("no driver");
        return Ok(Some(format!("bound to {driver}; ringbell bind {bdf}")));
    }
    if !others.is_empty() {
        let says = |other: &&FunctionInfo| {
            format!("{} ({})", other.bdf, other.driver.as_deref().unwrap_or("no driver"))
        };
        let list = others.iter().map(says).collect::<Vec<_>>().join(", ");
        let all: Vec<_> = [bdf].into_iter().chain(others.iter().map(|other| other.bdf)).collect();
        return Ok(Some(format!("group {group} holds {list}; ringbell bind {}", addresses(&all))));
    }
    for node in [machine.node(group), machine.path("dev/vfio/vfio")] {
        let shown = node.display();
        match machine.kernel.access(&node) {
            Ok(()) => {}
            Err(Errno::EACCES | Errno::EPERM) => {
                return Ok(Some(format!("no permission for {shown}; sudo ringbell bind {bdf} --user {me}")));
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                return Ok(Some(format!("{shown} is not there; in a container, pass it in")));
            }
            Err(errno) => return Ok(Some(format!("{shown}: {}", errno.desc()))),
        }
    }
    Ok(None)
}

/// What was looked for in vain.
fn nothing(machine: &Machine, all: bool) -> String {
    let place = machine.sysfs.devices();
    let place = place.display();
    let what = match (all, machine.sysfs.devices().exists()) {
        (_, false) => format!("this machine shows no PCI functions: there is no {place}"),
        (true, true) => format!("{place} is empty: this machine shows no PCI functions"),
        (false, true) => format!(
            "no PCI function here is one that ringbell drives, which are {}; --all lists the others",
            known::all()
        ),
    };
    format!("{what}. The simulated device sim: needs no hardware: ringbell speed --device sim:")
}

/// For people: a line for each, aligned.
fn table(rows: &[Row]) -> String {
    let number = |value: Option<u32>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let head = ["ADDRESS", "ID", "DEVICE", "DRIVER", "GROUP", "NUMA", "USABLE"].map(str::to_owned);
    let cells = |row: &Row| {
        [
            row.address.clone(),
            format!("{}:{}", row.vendor, row.device),
            row.name.to_owned(),
            row.driver.clone().unwrap_or_else(|| "-".to_owned()),
            number(row.iommu_group),
            number(row.numa_node),
            row.why.as_ref().map_or_else(|| "yes".to_owned(), |why| format!("no: {why}")),
        ]
    };
    let lines: Vec<_> = [head].into_iter().chain(rows.iter().map(cells)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for line in &lines {
        for (column, cell) in line.iter().enumerate().take(line.len() - 1) {
            text += &format!("{cell:<width$}  ", width = width(column));
        }
        text += &line[line.len() - 1];
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::functions::fake::Fake;

    fn why(fake: &Fake) -> String {
        let row = rows(&fake.machine, false, "alice").unwrap().remove(0);
        assert_eq!(row.usable, row.why.is_none());
        row.why.unwrap_or_else(|| "yes".to_owned())
    }

    #[test]
    fn each_thing_that_stands_in_the_way_is_said_with_its_remedy() {
        let fake = Fake::new();
        let crypto = fake.function("0000:00:04.0", 0x1af4, 0x1054, 0x0b_4000).driver("virtio-pci");
        assert_eq!(why(&fake), NO_IOMMU);
        let crypto = crypto.group(3);
        assert_eq!(why(&fake), "bound to virtio-pci; ringbell bind 0000:00:04.0");
        let nic = fake.function("0000:00:05.0", 0x8086, 0x10d3, 0x02_0000).group(3).driver("e1000e");
        let together = "group 3 holds 0000:00:05.0 (e1000e); ringbell bind 0000:00:04.0 0000:00:05.0";
        assert_eq!(why(&fake), together);
        let crypto = crypto.driver("vfio-pci");
        assert_eq!(why(&fake), together);
        nic.no_driver();
        // A bridge above it does no harm.
        fake.function("0000:00:01.0", 0x8086, 0x3420, 0x06_0400).group(3).driver("pcieport");
        let node = fake.machine.node(3);
        assert_eq!(why(&fake), format!("{} is not there; in a container, pass it in", node.display()));
        fake.node("3");
        fake.node("vfio");
        assert_eq!(why(&fake), "yes");
        for name in ["3", "vfio"] {
            let node = fake.machine.path(&format!("dev/vfio/{name}"));
            fake.state.forbidden.borrow_mut().push(node.clone());
            assert_eq!(
                why(&fake),
                format!("no permission for {}; sudo ringbell bind 0000:00:04.0 --user alice", node.display())
            );
            fake.state.forbidden.borrow_mut().clear();
        }
        crypto.no_driver();
        assert_eq!(why(&fake), "bound to no driver; ringbell bind 0000:00:04.0");
    }

    #[test]
    fn the_table_is_aligned_and_json_has_its_keys() {
        let fake = Fake::new();
        fake.function("0000:00:04.0", 0x1af4, 0x1054, 0x0b_4000).group(3).driver("virtio-pci");
        fake.function("0000:00:02.0", 0x8086, 0xa808, 0x01_0802);
        let all = rows(&fake.machine, true, "alice").unwrap();
        assert_eq!(
            table(&all),
            "\
ADDRESS       ID         DEVICE           DRIVER      GROUP  NUMA  USABLE
0000:00:02.0  8086:a808  NVMe controller  -           -      -     no: ringbell has no driver for it
0000:00:04.0  1af4:1054  virtio-crypto    virtio-pci  3      -     no: bound to virtio-pci; ringbell bind 0000:00:04.0
"
        );
        assert_eq!(
            serde_json::to_value(&all[1]).unwrap(),
            serde_json::json!({
                "address": "0000:00:04.0", "vendor": "1af4", "device": "1054", "name": "virtio-crypto",
                "driver": "virtio-pci", "iommu_group": 3, "numa_node": null, "usable": false,
                "why": "bound to virtio-pci; ringbell bind 0000:00:04.0"
            })
        );
        assert_eq!(rows(&fake.machine, false, "alice").unwrap().len(), 1);
    }

    #[test]
    fn where_there_is_none_it_says_what_it_looked_for() {
        let fake = Fake::new();
        assert!(rows(&fake.machine, true, "alice").unwrap().is_empty());
        assert!(nothing(&fake.machine, true).contains("there is no "));
        fake.function("0000:00:02.0", 0x8086, 0xa808, 0x01_0802);
        assert!(rows(&fake.machine, false, "alice").unwrap().is_empty());
        let said = nothing(&fake.machine, false);
        assert!(said.contains("virtio-crypto (1af4:1054)") && said.contains("sim:"), "{said}");
    }
}
