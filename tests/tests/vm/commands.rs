//! `list`, `bind` and `unbind`, and every error on the way to a device, as a user meets them.

use ringbell_tests::vm::{Disk, Machine, Nic, programs};

crate::tests![
    what_is_in_use_is_not_taken_away,
    each_obstacle_has_its_own_error_and_a_user_gets_the_device,
    without_an_iommu_nothing_is_handed_over,
];

/// A machine with the command, and with the modules that it may load.
fn machine() -> Machine {
    Machine::new()
        .bring(["vfio-pci", "vfio_iommu_type1", "virtio_pci", "virtio_crypto"])
        .program(programs().unwrap().ringbell)
}

/// Runs a command that has to fail with status `$2`; its message goes to /out/$1.
const FAILS: &str = "fails() { name=$1; want=$2; shift 2; \"$@\" > /tmp/stdout 2> /out/$name; got=$?
    cat /out/$name; [ $got = $want ] || { echo \"$name: status $got\"; exit 1; }; [ -s /tmp/stdout ] && exit 2; true; }\n";

fn one_line<'a>(outcome: &'a ringbell_tests::vm::Outcome, name: &str) -> &'a str {
    let text = outcome.text(name);
    assert_eq!(text.lines().count(), 1, "{name}: {text}");
    text.trim()
}

fn what_is_in_use_is_not_taken_away() {
    let job = FAILS.to_owned()
        + "modprobe -a nvme e1000e e1000 virtio_pci virtio_crypto
        until [ -b /dev/nvme0n1 ]; do sleep 0.1; done
        mke2fs /dev/nvme0n1 > /dev/null; mkdir /tmp/d; mount -t ext4 /dev/nvme0n1 /tmp/d || exit 1
        nic() { ls /sys/bus/pci/devices/$1/net; }
        ip address add 192.0.2.1/24 dev $(nic 0000:00:06.0); ip link set $(nic 0000:00:06.0) up
        fails disk 1 ringbell bind 0000:00:04.0
        fails nic 1 ringbell bind 0000:00:06.0
        behind=$(ls /sys/bus/pci/devices | grep '^0000:01:01'); crypto=$(ls /sys/bus/pci/devices | grep '^0000:01:02')
        echo $behind $crypto > /out/addresses
        fails group 1 ringbell bind $crypto
        fails other 1 ringbell bind $behind
        # Somebody binds it all the same, by hand.
        modprobe vfio-pci; echo vfio-pci > /sys/bus/pci/devices/$crypto/driver_override
        echo $crypto > /sys/bus/pci/devices/$crypto/driver/unbind; echo $crypto > /sys/bus/pci/drivers_probe
        basename $(readlink /sys/bus/pci/devices/$crypto/driver) > /out/by-hand
        ringbell list > /out/list-by-hand
        fails not-viable 1 ringbell speed --device $crypto
        ringbell unbind $crypto || exit 1
        ringbell list > /out/list
        for f in 0000:00:04.0 0000:00:06.0 $behind; do basename $(readlink /sys/bus/pci/devices/$f/driver); done > /out/drivers
        [ -d /run/ringbell-bind ] && ls /run/ringbell-bind > /out/remembered
        # By force, and together, it goes; and back.
        ringbell bind --force $behind $crypto > /out/forced || exit 1
        ringbell speed --device $crypto --ops 1000 --json > /out/speed || exit 1
        ringbell unbind $behind $crypto > /out/unbound || exit 1
        basename $(readlink /sys/bus/pci/devices/$behind/driver) >> /out/drivers
        touch /tmp/d/still-there && sync && grep -c nvme0n1 /proc/mounts
        ";
    let outcome = machine()
        .disk(Disk::Nvme, 4, 64)
        .nic(Nic::E1000e, 6)
        .bridge("b0", 7)
        .nic(Nic::E1000, ("b0", 1))
        .crypto(("b0", 2), true)
        .load(["ext4"])
        .job(&job)
        .run()
        .unwrap()
        .success();
    let disk = one_line(&outcome, "disk");
    assert!(disk.contains("0000:00:04.0") && disk.contains("nvme0n1") && disk.contains("/tmp/d"), "{disk}");
    let nic = one_line(&outcome, "nic");
    assert!(nic.contains("192.0.2.1"), "{nic}");
    let addresses: Vec<&str> = outcome.text("addresses").split_whitespace().collect();
    let group = one_line(&outcome, "group");
    assert!(group.contains(addresses[0]) && group.contains("e1000"), "{group}");
    assert!(outcome.text("list").contains(addresses[0]), "{}", outcome.text("list"));
    let not_viable = one_line(&outcome, "not-viable");
    assert!(not_viable.contains(&format!("{} (e1000)", addresses[0])), "{not_viable}");
    assert!(one_line(&outcome, "other").contains("--force"));
    let drivers: Vec<&str> = outcome.text("drivers").lines().collect();
    assert_eq!(drivers, ["nvme", "e1000e", "e1000", "e1000"], "nothing was taken, and what was came back");
    assert_eq!(outcome.files.get("remembered").map_or(0, Vec::len), 0);
}

fn each_obstacle_has_its_own_error_and_a_user_gets_the_device() {
    let job = FAILS.to_owned()
        + "modprobe -a virtio_pci virtio_crypto
        speed='ringbell speed --ops 1000 --json --device'
        alice() { su alice -c \"$*\"; }
        fails nowhere 1 $speed 0000:00:1e.7
        fails not-bound 1 $speed 0000:00:04.0
        fails bind-as-user 1 alice ringbell bind 0000:00:04.0
        fails no-such-user 1 ringbell bind 0000:00:04.0 --user nobody-of-that-name
        fails bad-address 2 ringbell bind 00:40.0
        fails unbind-unbound 1 ringbell unbind 0000:00:04.0
        ringbell bind 0000:00:04.0 0000:00:05.0 > /out/bind || exit 1
        ringbell bind 0000:00:04.0 > /out/again || exit 1
        fails no-access-platform 1 $speed 0000:00:05.0
        $speed 0000:00:04.0 || exit 1
        fails no-permission 1 alice $speed 0000:00:04.0
        alice ringbell list --json > /out/list-before
        ringbell bind 0000:00:04.0 --user alice || exit 1
        alice ringbell list --json > /out/list-after
        alice $speed 0000:00:04.0 > /out/speed || exit 1
        fails memory-limit 1 alice 'ulimit -l 1024; '$speed 0000:00:04.0
        ringbell speed --seconds 5 --json --device 0000:00:04.0 > /out/holder & holder=$!
        sleep 1.5
        fails taken 1 $speed 0000:00:04.0
        fails unbind-in-use 1 ringbell unbind 0000:00:04.0
        echo $holder > /out/pid
        wait $holder || exit 1
        ringbell unbind 0000:00:04.0 0000:00:05.0 || exit 1
        ls /dev/vfio > /out/nodes
        ";
    let outcome = machine().crypto(4, true).crypto(5, false).job(&job).run().unwrap().success();
    for (name, parts) in [
        ("nowhere", ["0000:00:1e.7", "ringbell list"].as_slice()),
        ("not-bound", &["virtio-pci", "ringbell bind 0000:00:04.0"]),
        ("bind-as-user", &["0000:00:04.0", "root"]),
        ("no-such-user", &["nobody-of-that-name"]),
        ("bad-address", &["00:40.0"]),
        ("unbind-unbound", &["virtio-pci"]),
        ("no-access-platform", &["0000:00:05.0", "ACCESS_PLATFORM", "iommu_platform=on"]),
        ("no-permission", &["/dev/vfio/", "ringbell bind 0000:00:04.0 --user"]),
        ("memory-limit", &["locked memory", "1048576", "ulimit -l"]),
        ("taken", &["ringbell", "pid"]),
        ("unbind-in-use", &["ringbell"]),
    ] {
        let line = one_line(&outcome, name);
        assert!(line.starts_with("ringbell: cannot "), "{line}");
        for part in parts {
            assert!(line.contains(part), "{name}: '{part}' is not in: {line}");
        }
    }
    let pid = outcome.text("pid").trim();
    for name in ["taken", "unbind-in-use"] {
        assert!(outcome.text(name).contains(pid), "{name} names the process: {}", outcome.text(name));
    }
    for (name, usable) in [("list-before", false), ("list-after", true)] {
        let first = outcome.text(name).lines().next().unwrap();
        let row: serde_json::Value = serde_json::from_str(first).unwrap();
        assert_eq!((&row["address"], &row["usable"]), (&"0000:00:04.0".into(), &usable.into()), "{row}");
    }
    let speed: serde_json::Value = serde_json::from_str(outcome.text("speed")).unwrap();
    assert_eq!((&speed["completed"], &speed["mismatches"]), (&1000.into(), &0.into()), "{speed}");
    assert_eq!(outcome.text("nodes").trim(), "vfio", "the groups' nodes are gone");
}

fn without_an_iommu_nothing_is_handed_over() {
    let job = FAILS.to_owned()
        + "modprobe -a virtio_pci virtio_crypto
        fails bind 1 ringbell bind --force 0000:00:04.0
        ringbell list > /out/list
        basename $(readlink /sys/bus/pci/devices/0000:00:04.0/driver) > /out/driver";
    let outcome = machine().viommu(false).crypto(4, false).job(&job).run().unwrap().success();
    let bind = one_line(&outcome, "bind");
    assert!(bind.contains("no IOMMU") && bind.contains("intel_iommu=on"), "{bind}");
    assert!(outcome.text("list").contains("no IOMMU"), "{}", outcome.text("list"));
    assert_eq!(outcome.text("driver").trim(), "virtio-pci");
}
