//! Tests of `bind`.

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
        claimed: |_| None,
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
    bind(&fake.machine, &|| Ok(facts()), wish, &again).map(|lines| lines.join("\n").replace(&root, "/"))
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
    assert_eq!(*fake.state.owned.borrow(), [("3".to_owned(), 1000, 0o600), ("vfio".to_owned(), 0, 0o666)]);
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
    assert!(!fake.machine.path("run/ringbell-bind").exists());
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
    assert!(refused(&fake, &[BDF]).ends_with("together: ringbell bind 0000:00:04.0 0000:00:05.0 --force"));
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
    assert!(!fake.machine.path("run/ringbell-bind").exists());
}

#[test]
fn a_missing_module_is_loaded_or_named() {
    let fake = Fake::new();
    crypto(&fake).group(3);
    assert_eq!(refused(&fake, &[BDF]), "0000:00:04.0: there is no vfio-pci; load it with: modprobe vfio-pci");
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
