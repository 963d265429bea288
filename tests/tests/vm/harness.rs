//! The machines themselves: what comes back, what does not come back as success, and what hardware the
//! guest sees.

use std::time::Duration;

use openssl::sha::sha256;
use ringbell_tests::vm::{Disk, Failure, Machine, Nic, Outcome, programs};

crate::tests![
    files_and_output_come_back_from_a_job_that_a_signal_killed,
    the_command_runs_and_vfio_sees_functions_in_groups_of_their_own,
    functions_behind_a_bridge_share_a_group_and_disk_and_network_work,
    a_kernel_panic_is_an_error,
    a_job_over_its_time_limit_is_an_error,
    a_machine_that_qemu_does_not_start_is_an_error,
    a_module_that_does_not_exist_is_an_error,
];

/// Prints what it took, for the budget, and checks that booting is quick.
fn took(name: &str, outcome: &Outcome) {
    eprintln!("{name}: boot {:.1?}, in all {:.1?}", outcome.boot, outcome.total);
    assert!(outcome.boot < Duration::from_secs(15), "{:?}", outcome.boot);
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

fn files_and_output_come_back_from_a_job_that_a_signal_killed() {
    let outcome = Machine::new()
        .contents("/etc/lines", "one\ntwo\n", 0o600)
        .job(
            "dd if=/dev/urandom of=/out/random bs=1M count=8
             sha256sum /out/random | cut -d ' ' -f 1 > /out/sum
             mkdir -p /out/a/b; : > /out/a/b/empty; cp /etc/lines /out
             su alice -c 'id -un; id -u; ulimit -l; cat /etc/lines' > /out/alice 2>&1
             echo to stdout; echo to stderr >&2
             echo status 0 > /dev/console; echo 'Kernel panic - not syncing: in words only'
             kill -KILL $$",
        )
        .run()
        .unwrap();
    took("files", &outcome);
    assert_eq!(outcome.status, 128 + 9, "{}", outcome.console);
    assert!(outcome.console.contains("to stdout\nto stderr\n"), "{}", outcome.console);
    let random = &outcome.files["random"];
    assert_eq!(random.len(), 8 << 20);
    let sum: String = sha256(random).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(outcome.text("sum").trim(), sum);
    assert_eq!((outcome.text("a/b/empty"), outcome.text("lines")), ("", "one\ntwo\n"));
    let alice = lines(outcome.text("alice"));
    assert_eq!(alice[..2], ["alice", "1000"]);
    assert!(alice[3].contains("Permission denied"), "{alice:?}");
    assert_eq!(outcome.files.len(), 5);
}

fn the_command_runs_and_vfio_sees_functions_in_groups_of_their_own() {
    let programs = programs().unwrap();
    let outcome = Machine::new()
        .crypto(4, true)
        .edu(5)
        .load(["vfio-pci"])
        .program(&programs.ringbell)
        .program(&programs.guest)
        .job(
            "set -e
             for f in 04 05; do
                 d=/sys/bus/pci/devices/0000:00:$f.0
                 echo $(cat $d/vendor $d/device) $(basename $(readlink $d/iommu_group)) >> /out/functions
                 echo vfio-pci > $d/driver_override
                 echo 0000:00:$f.0 > /sys/bus/pci/drivers_probe
                 ls /sys/kernel/iommu_groups/$(basename $(readlink $d/iommu_group))/devices >> /out/groups
             done
             ls /dev/vfio > /out/vfio
             ringbell-guest hello > /out/hello
             ringbell speed --ops 1000 --json --device sim: > /out/speed",
        )
        .run()
        .unwrap()
        .success();
    took("vfio", &outcome);
    let functions = lines(outcome.text("functions"));
    assert_eq!(functions.len(), 2);
    assert!(functions[0].starts_with("0x1af4 0x1054 "), "{functions:?}");
    assert!(functions[1].starts_with("0x1234 0x11e8 "), "{functions:?}");
    assert_eq!(lines(outcome.text("groups")), ["0000:00:04.0", "0000:00:05.0"]);
    // One file for each group, and the container's.
    assert_eq!(lines(outcome.text("vfio")).len(), 3, "{}", outcome.text("vfio"));
    assert!(outcome.text("hello").starts_with("hello from process "));
    let speed: serde_json::Value = serde_json::from_slice(&outcome.files["speed"]).unwrap();
    assert!(speed.is_object(), "{speed}");
    assert!(outcome.dmesg.contains("Linux version"));
    assert_eq!(outcome.warnings(), Vec::<&str>::new());
    assert_eq!(outcome.emulator, "");
}

fn functions_behind_a_bridge_share_a_group_and_disk_and_network_work() {
    let outcome = Machine::new()
        .disk(Disk::Nvme, 4, 64)
        .disk(Disk::Virtio, 5, 64)
        .nic(Nic::E1000e, 6)
        .bridge("b0", 7)
        .nic(Nic::E1000, ("b0", 1))
        .crypto(("b0", 2), true)
        .root_port("p0", 8)
        .edu(("p0", 0))
        .load(["ext4"])
        .job(
            "set -e
             modprobe -a nvme virtio_pci virtio_blk e1000e e1000
             for d in nvme0n1 vda; do
                 until [ -b /dev/$d ]; do sleep 0.1; done
                 mke2fs /dev/$d > /dev/null
                 mkdir /tmp/$d; mount -t ext4 /dev/$d /tmp/$d
                 grep /dev/$d /proc/mounts >> /out/mounts
             done
             ip address add 192.0.2.1/24 dev eth0; ip link set eth0 up
             ip address show dev eth0 > /out/address
             for d in /sys/bus/pci/devices/*; do
                 echo $(cat $d/vendor $d/device) $(basename $(readlink $d/iommu_group)) >> /out/functions
             done
             exit 7",
        )
        .run()
        .unwrap();
    took("devices", &outcome);
    assert_eq!(outcome.status, 7, "{}", outcome.console);
    assert_eq!(lines(outcome.text("mounts")).len(), 2);
    assert!(outcome.text("address").contains("192.0.2.1/24"));
    let functions = lines(outcome.text("functions"));
    let group = |id: &str| {
        let line = functions.iter().find(|line| line.starts_with(id));
        line.and_then(|line| line.rsplit(' ').next()).unwrap_or_else(|| panic!("{id}: {functions:?}"))
    };
    let (e1000, crypto, edu) = (group("0x8086 0x100e"), group("0x1af4 0x1054"), group("0x1234 0x11e8"));
    assert_eq!(e1000, crypto, "{functions:?}");
    assert_ne!(crypto, edu, "{functions:?}");
}

fn a_kernel_panic_is_an_error() {
    let failure =
        Machine::new().viommu(false).job("echo c > /proc/sysrq-trigger; sleep 60").run().unwrap_err();
    assert!(matches!(failure, Failure::Panic { .. }), "{failure}");
    assert!(failure.to_string().contains("sysrq triggered crash"), "{failure}");
}

fn a_job_over_its_time_limit_is_an_error() {
    let limit = Duration::from_secs(5);
    let failure = Machine::new().job("echo begun; sleep 1000").time_limit(limit).run().unwrap_err();
    assert!(matches!(failure, Failure::TimeLimit { .. }), "{failure}");
}

fn a_machine_that_qemu_does_not_start_is_an_error() {
    let failure = Machine::new().arguments(["-device", "no-such-device"]).run().unwrap_err();
    assert!(matches!(failure, Failure::Emulator { .. }), "{failure}");
    assert!(failure.to_string().contains("no-such-device"), "{failure}");
}

fn a_module_that_does_not_exist_is_an_error() {
    let failure = Machine::new().load(["no_such_module"]).run().unwrap_err();
    assert!(matches!(failure, Failure::NoModule(_)), "{failure}");
}
