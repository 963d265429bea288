//! `ringbell list`, `bind` and `unbind` as far as no function is touched: usage, what is not there,
//! and a list that needs no privilege.

use std::process::{Command, Output};

/// Where no machine has a function: the last place of the last domain.
const NOWHERE: &str = "ffff:ff:1f.7";

fn ringbell(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringbell"));
    command.env_remove("RINGBELL_LOG").args(args).output().unwrap_or_else(|e| panic!("{args:?}: {e}"))
}

/// One line, and the status.
fn failed(args: &[&str], status: i32) -> String {
    let out = ringbell(args);
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(status), "{args:?}: {stderr}");
    assert!(stderr.starts_with("ringbell: cannot ") && stderr.lines().count() == 1, "{args:?}: {stderr}");
    assert!(out.stdout.is_empty());
    stderr
}

#[test]
fn an_address_that_means_nothing_is_wrong_usage() {
    for command in ["bind", "unbind"] {
        for address in ["", "4", "0000:00:20.0", "0000:00:04.8", "sim:", "/dev/vfio/3", "0000:00:04"] {
            let said = failed(&[command, address], 2);
            assert!(said.contains("a PCI function is written") || said.contains(" the "), "{said}");
        }
        failed(&[command], 2);
        failed(&[command, NOWHERE, "x"], 2);
        failed(&[command, NOWHERE, "--nonsense"], 2);
    }
    failed(&["bind", NOWHERE, "--driver", "e1000e"], 2);
    failed(&["list", NOWHERE], 2);
}

#[test]
fn a_function_that_is_not_there_is_a_failure() {
    for command in ["bind", "unbind"] {
        for args in [&[command, NOWHERE][..], &[command, "--force", NOWHERE, NOWHERE]] {
            let said = failed(args, 1);
            assert!(said.contains("cannot find PCI function ffff:ff:1f.7: there is none"), "{said}");
        }
    }
}

#[test]
fn an_unknown_user_is_said_before_anything_else() {
    let said = failed(&["bind", NOWHERE, "--user", "nobody of that name"], 1);
    assert!(said.contains("cannot find user 'nobody of that name'"), "{said}");
}

#[test]
fn a_list_is_a_success_on_any_machine() {
    for args in [&["list"][..], &["list", "--all"], &["list", "--json"], &["list", "--all", "--json"]] {
        let out = ringbell(args);
        let (stdout, stderr) =
            (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
        assert!(out.status.success(), "{args:?}: {stderr}");
        // Either there are some, or it says what it looked for.
        assert_eq!(stdout.is_empty(), !stderr.is_empty(), "{args:?}: {stdout}{stderr}");
        assert!(stderr.is_empty() || (stderr.contains("sim:") && stderr.lines().count() == 1), "{stderr}");
        for line in stdout.lines().filter(|_| args.contains(&"--json")) {
            let object: serde_json::Value = serde_json::from_str(line).unwrap();
            let keys =
                ["address", "vendor", "device", "name", "driver", "iommu_group", "numa_node", "usable"];
            assert!(keys.iter().all(|key| object.get(key).is_some()), "{line}");
            assert_eq!(object["usable"] == true, object["why"].is_null(), "{line}");
        }
    }
}
