//! `ringbell speed`: what it prints, and that its accounts are right.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use assert_cmd::Command;
use serde_json::Value;

fn ringbell(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringbell"));
    command.args(args).env_remove("RINGBELL_LOG").timeout(std::time::Duration::from_secs(60));
    command
}

/// The objects of a run that has to succeed, each of them checked.
fn measure(args: &[&str]) -> Vec<Value> {
    let out = ringbell(&["speed", "--json"]).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{args:?}: {stderr}");
    assert_eq!(stderr, "", "{args:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for object in &objects {
        check(object, args);
    }
    objects
}

fn number(object: &Value, key: &str) -> u64 {
    object[key].as_u64().unwrap_or_else(|| panic!("{key} of {object}"))
}

/// The keys of the contract, and accounts that add up.
fn check(object: &Value, args: &[&str]) {
    let count = |key: &str| number(object, key);
    assert!(object["device"].is_string() && object["op"].is_string(), "{object}");
    for key in ["size", "in_flight", "threads", "eagain", "recoveries"] {
        count(key);
    }
    for key in ["seconds", "ops_per_second", "bytes_per_second"] {
        assert!(object[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {object}");
    }
    assert!(count("submitted") > 0, "{args:?}: {object}");
    assert_eq!(count("submitted"), count("callbacks"), "{args:?}: {object}");
    assert_eq!(count("callbacks"), count("completed") + count("errors"), "{args:?}: {object}");
    assert_eq!((count("errors"), count("mismatches")), (0, 0), "{args:?}: {object}");
    let checked = if object["compute"] == "none" { 0 } else { count("completed") };
    assert_eq!(count("verified"), checked, "{args:?}: {object}");
    let latency = &object["latency_ns"];
    let order = ["p50", "p99", "p999", "max"].map(|key| number(latency, key));
    assert!(order[0] > 0 && order.is_sorted(), "{args:?}: {object}");
}

/// The one error line of a command that has to fail.
fn fail(args: &[&str], status: i32) -> String {
    let out = ringbell(args).output().unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(status), "{args:?}: {stderr}");
    assert!(stderr.starts_with("ringbell: cannot ") && stderr.lines().count() == 1, "{args:?}: {stderr}");
    stderr
}

#[test]
fn every_result_is_checked_and_every_request_accounted_for() {
    for options in [
        &["--device", "sim:"][..],
        &["--device", "sim:queues=2", "--threads", "2"],
        &["--device", "sim:queues=2", "--threads", "4"],
        &["--device", "sim:order=shuffle,seed=3", "--threads", "3"],
        &["--device", "sim:latency=50us"],
        &["--device", "sim:quirks=qemu"],
        &["--device", "sim:queue-size=8", "--in-flight", "64"],
        &["--device", "sim:queue-size=4", "--in-flight", "9", "--threads", "3"],
        &["--in-flight", "1"],
        &["--idle", "spin"],
        &["--idle", "interrupt", "--core", "0"],
    ] {
        for wake in ["callback", "fd", "future"] {
            for extra in [&[][..], &["--decrypt", "--op", "aes-256-cbc"]] {
                let limit = ["--ops", "5000", "--wake", wake];
                let args: Vec<&str> = options.iter().chain(&limit).chain(extra).copied().collect();
                let objects = measure(&args);
                assert_eq!(objects.len(), 1);
                assert_eq!(number(&objects[0], "submitted"), 5000);
                assert_eq!(objects[0]["wake"], wake);
            }
        }
    }
}

/// Keys and modes that are a contract: at least one of each kind.
const OPERATIONS: [&str; 14] = [
    "aes-128-cbc",
    "aes-256-xts",
    "aes-128-gcm",
    "aes-256-ccm",
    "chacha20-poly1305",
    "sha256",
    "sha3-256",
    "hmac-sha256",
    "cmac-aes-128",
    "rsa-2048-sign",
    "rsa-2048-verify",
    "rsa-2048-encrypt",
    "rsa-4096-raw-decrypt",
    "rsa-1024-decrypt",
];

fn list(device: &str) -> Vec<String> {
    let out = ringbell(&["speed", "--op", "list", "--device", device]).output().unwrap();
    assert!(out.status.success());
    String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Whether it encrypts and, with `--decrypt`, decrypts.
fn has_direction(op: &str) -> bool {
    (op.starts_with("aes-") || op.starts_with("chacha20-")) && !op.contains("cmac")
}

#[test]
fn every_operation_that_is_listed_works_both_ways() {
    let list = list("sim:");
    assert_eq!(list.len(), 11 + 7 + 9 + 8 + 4 * 6, "{list:?}");
    for op in OPERATIONS {
        assert!(list.iter().any(|listed| listed == op), "{op}");
    }
    let run = |op: &str| {
        let rsa = op.starts_with("rsa-");
        // Large keys take their time in software.
        let limit = match (rsa, op.starts_with("rsa-1024")) {
            (false, _) => &["--ops", "300", "--size", "1k"][..],
            (_, true) => &["--ops", "300"],
            _ => &["--ops", "40", "--in-flight", "8"],
        };
        let mut args = limit.to_vec();
        args.extend(["--op", op]);
        let object = &measure(&args)[0];
        assert_eq!(object["op"], op);
        assert_eq!(object.get("direction").is_some(), has_direction(op), "{object}");
        let size = if rsa { op[4..8].parse::<u64>().unwrap() / 8 } else { 1024 };
        assert_eq!(number(object, "size"), size);
        if has_direction(op) {
            args.push("--decrypt");
            assert_eq!(measure(&args)[0]["direction"], "decrypt");
        } else {
            args.extend(["--decrypt"]);
            let args: Vec<&str> = ["speed"].iter().chain(&args).copied().collect();
            assert!(fail(&args, 2).contains("--decrypt"), "{op}");
        }
    };
    list.iter().for_each(|op| run(op));
    let json = ringbell(&["speed", "--op", "list", "--json"]).output().unwrap();
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["ops"], Value::from(list));
}

#[test]
fn what_is_listed_is_what_the_device_offers() {
    let hashes = list("sim:services=hash");
    assert!(hashes.len() == 9 && hashes.contains(&"sha3-224".to_owned()), "{hashes:?}");
    let error = fail(&["speed", "--device", "sim:services=hash", "--op", "rsa-2048-sign"], 1);
    assert!(error.contains("does not offer") && error.contains("sha256"), "{error}");
    let qemu = list("sim:quirks=qemu");
    assert!(qemu.contains(&"rsa-2048-sign".to_owned()), "{qemu:?}");
    assert!(!qemu.contains(&"aes-128-gcm".to_owned()), "{qemu:?}");
}

#[test]
fn operations_of_all_kinds_run_in_phases_by_fd_and_on_several_threads() {
    for op in OPERATIONS {
        let rsa = op.starts_with("rsa-");
        let count = if rsa { "32" } else { "3000" };
        for extra in [
            &["--phased", "--in-flight", "16"][..],
            &["--wake", "fd", "--in-flight", "8"],
            &["--threads", "3", "--in-flight", "9", "--device", "sim:queues=2,order=shuffle"],
        ] {
            let args: Vec<&str> = ["--op", op, "--ops", count].iter().chain(extra).copied().collect();
            assert_eq!(number(&measure(&args)[0], "submitted"), count.parse::<u64>().unwrap());
        }
        let object = &measure(&["--op", op, "--ops", "500", "--device", "sim:compute=none"])[0];
        assert_eq!((number(object, "verified"), &object["compute"]), (0, &Value::from("none")));
    }
}

#[test]
fn sizes_without_blocks_fit_all_but_block_modes() {
    for op in OPERATIONS {
        if op.starts_with("rsa-") {
            assert!(fail(&["speed", "--op", op, "--size", "256"], 2).contains("drop --size"), "{op}");
        } else if op == "aes-128-cbc" {
            assert!(fail(&["speed", "--op", op, "--size", "100"], 2).contains("multiples of 16"), "{op}");
        } else {
            for decrypt in [&[][..], &["--decrypt"]] {
                if decrypt.is_empty() || has_direction(op) {
                    let args = ["--op", op, "--size", "65", "--size", "100001", "--ops", "50"];
                    measure(&args.iter().chain(decrypt).copied().collect::<Vec<_>>());
                }
            }
        }
    }
}

#[test]
fn several_sizes_give_a_line_each() {
    let objects =
        measure(&["--size", "64", "--size", "16k", "--size", "1m", "--ops", "200", "--in-flight", "8"]);
    let sizes: Vec<u64> = objects.iter().map(|object| number(object, "size")).collect();
    assert_eq!(sizes, [64, 16384, 1 << 20]);
    let text = ringbell(&["speed", "--size", "64", "--size", "128", "--ops", "200"]).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert_eq!(text.lines().count(), 4, "{text}");
}

#[test]
fn a_time_limit_ends_the_run() {
    let object = &measure(&["--seconds", "0.2"])[0];
    assert!(object["seconds"].as_f64().unwrap() >= 0.19, "{object}");
}

#[test]
fn a_phased_run_says_what_enqueue_and_dequeue_cost() {
    for device in ["sim:", "sim:compute=none", "sim:latency=10us,order=shuffle"] {
        let args = ["--phased", "--in-flight", "32", "--size", "64", "--ops", "10000", "--device", device];
        let object = &measure(&args)[0];
        assert_eq!(number(object, "submitted"), 10000);
        for key in ["enqueue_cycles_per_op", "dequeue_cycles_per_op"] {
            assert!(object[key].as_f64().is_some_and(|cycles| cycles > 0.0), "{object}");
        }
    }
    assert!(measure(&["--ops", "100"])[0].get("enqueue_cycles_per_op").is_none());
}

#[test]
fn a_device_without_arithmetic_is_not_called_verified() {
    let args = ["speed", "--device", "sim:compute=none", "--ops", "1000"];
    assert_eq!(measure(&args[1..])[0]["compute"], "none");
    let text = String::from_utf8(ringbell(&args).output().unwrap().stdout).unwrap();
    assert!(text.contains("results are NOT checked"), "{text}");
}

#[test]
fn errors_make_the_run_fail_after_its_result() {
    // Longer than a request may take.
    let args = ["speed", "--json", "--device", "sim:latency=3s", "--seconds", "0.1", "--in-flight", "4"];
    let out = ringbell(&args).env("RINGBELL_LOG", "off").output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    let object: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((number(&object, "errors"), number(&object, "completed")), (4, 0));
    assert_eq!(number(&object, "submitted"), number(&object, "callbacks"));
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(stderr.contains("4 of 4 requests ended with errors") && stderr.lines().count() == 1, "{stderr}");
}

/// How a run with a fault ends: whether the device comes back after a loss, is not troubled, or is lost.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    ComesBack,
    Untroubled,
    Lost,
    /// It works, and what it answered is an error.
    Rejects,
}

#[test]
fn with_every_fault_the_accounting_is_right_and_the_status_says_whether_the_device_came_back() {
    use End::{ComesBack, Lost, Rejects, Untroubled};
    let faults = [
        ("stall@5000", ComesBack),
        ("drop@5000", ComesBack),
        ("duplicate@5000", ComesBack),
        ("bad-id@5000", ComesBack),
        ("bad-id@5000:free", ComesBack),
        ("bad-len@5000", ComesBack),
        ("used-jump@5000", ComesBack),
        ("used-jump@5000:back", ComesBack),
        ("status-garbage@5000", ComesBack),
        ("op-error@5000", Rejects),
        ("reorder@5000", Untroubled),
        ("slow@5000", Untroubled),
        ("needs-reset@5000", ComesBack),
        ("reset-hang@5000", ComesBack),
        ("reset-fails@5000", Lost),
        ("reset-fails@5000:x2", ComesBack),
        ("control-hang@5000", ComesBack),
        ("session-lost@5000", ComesBack),
        ("sessions-full@5000", Rejects),
        ("irq-lost@5000", Untroubled),
        ("irq-storm@5000", Untroubled),
        ("config-change@5000", Untroubled),
        ("config-change@5000:not-ready", ComesBack),
        ("remove@5000", Lost),
        ("bad-config@5000:queue-size-0:x1", ComesBack),
        ("bad-config@5000:queue-size-65535:always", Lost),
        ("write-after-reset@5000", ComesBack),
    ];
    let run = |(fault, end): (&str, End)| {
        let device = format!("sim:fault={fault}");
        // Callbacks, wait fds and futures, in turn.
        let wake = ["callback", "fd", "future"][fault.len() % 3];
        let args = ["speed", "--json", "--device", &device, "--ops", "20000", "--wake", wake];
        let out = ringbell(&args).env("RINGBELL_LOG", "off").output().unwrap();
        let object: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{fault}: {e}"));
        let get = |key| number(&object, key);
        assert_eq!(get("submitted"), get("callbacks"), "{object}");
        assert_eq!(get("submitted"), get("completed") + get("errors"), "{object}");
        assert_eq!((get("verified"), get("mismatches")), (get("completed"), 0), "{object}");
        let status = if matches!(end, Lost | Rejects) { 1 } else { 0 };
        assert_eq!(
            out.status.code(),
            Some(status),
            "{fault}: {object} {}",
            String::from_utf8_lossy(&out.stderr)
        );
        assert_eq!(get("recoveries") > 0, end == ComesBack, "{fault}: {object}");
        assert_eq!(get("errors") > 0, end != Untroubled, "{fault}: {object}");
        assert_eq!(object["state"], if end == Lost { "failed" } else { "ready" }, "{fault}: {object}");
    };
    // Most of the time they wait for limits.
    std::thread::scope(|scope| {
        faults.map(|fault| scope.spawn(move || run(fault))).map(|thread| thread.join())
    })
    .into_iter()
    .for_each(|joined| joined.unwrap());
}

#[test]
fn operations_of_all_kinds_outlive_faults() {
    for (op, device, recovers) in [
        ("aes-128-gcm", "sim:fault=needs-reset@1000", true),
        ("chacha20-poly1305", "sim:fault=session-lost@1000", true),
        ("sha256", "sim:fault=drop@1000", true),
        ("hmac-sha256", "sim:fault=status-garbage@1000", true),
        ("aes-128-xts", "sim:fault=bad-len@1000", true),
        ("aes-128-ccm", "sim:fault=op-error@1000", false),
    ] {
        let args = ["speed", "--json", "--op", op, "--device", device, "--ops", "5000"];
        let out = ringbell(&args).env("RINGBELL_LOG", "off").output().unwrap();
        let object: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{op}: {e}"));
        let get = |key| number(&object, key);
        assert_eq!(out.status.success(), recovers, "{object}");
        assert_eq!((get("submitted"), get("callbacks")), (5000, 5000), "{object}");
        assert_eq!(get("submitted"), get("completed") + get("errors"), "{object}");
        assert_eq!((get("verified"), get("mismatches")), (get("completed"), 0), "{object}");
        assert!(get("errors") > 0 && (get("recoveries") > 0) == recovers, "{object}");
    }
}

#[test]
fn failover_does_the_work_of_every_kind() {
    for op in OPERATIONS {
        let rsa = op.starts_with("rsa-");
        let (ops, fault) = if rsa { (24, 9) } else { (4000, 1001) };
        let (count, device) = (ops.to_string(), format!("sim:fault=remove@{fault}"));
        let args = ["speed", "--json", "--failover", "--op", op, "--in-flight", "8", "--ops", &count];
        let out = ringbell(&args).args(["--device", &device]).env("RINGBELL_LOG", "off").output().unwrap();
        let object: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{op}: {e}"));
        assert_eq!(out.status.code(), Some(0), "{object}");
        // Each has an output of its own, or its result stands apart: also those in flight are done.
        assert_eq!((number(&object, "verified"), number(&object, "errors")), (ops, 0), "{object}");
        assert_eq!(number(&object, "mismatches"), 0, "{object}");
        // What the device had done, and not announced yet when it went, is done again.
        let again = number(&object, "failed_over");
        assert!((ops - (fault - 1)..=ops).contains(&again), "{object}");
    }
}

#[test]
fn with_failover_the_work_of_a_lost_device_goes_on_and_is_called_what_it_is() {
    let args = ["speed", "--json", "--failover", "--device", "sim:fault=remove@5000", "--ops", "20000"];
    let out = ringbell(&args).env("RINGBELL_LOG", "off").output().unwrap();
    let object: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(0), "{object}");
    // Each request has an output of its own: also those in flight are done.
    assert_eq!((number(&object, "verified"), number(&object, "errors")), (20000, 0), "{object}");
    assert_eq!(number(&object, "failed_over"), 20000 - 4999, "{object}");
    assert_eq!(object["state"], "failed");
}

/// A text of a figure, and where it is.
type Label = (String, f64, f64);

/// The texts of a figure, and its curves: lines of more than a few points.
fn read_figure(svg: &str) -> (Vec<Label>, Vec<Vec<(f64, f64)>>) {
    let document = roxmltree::Document::parse(svg).unwrap();
    let root = document.root_element();
    assert!(root.has_tag_name(("http://www.w3.org/2000/svg", "svg")), "{root:?}");
    let number = |node: roxmltree::Node<'_, '_>, key| node.attribute(key).unwrap().parse::<f64>().unwrap();
    let nodes = |name: &'static str| document.descendants().filter(move |node| node.has_tag_name(name));
    let texts = nodes("text")
        .map(|node| (node.text().unwrap().trim().to_owned(), number(node, "x"), number(node, "y")))
        .collect();
    let point = |pair: &str| {
        let (x, y) = pair.split_once(',').unwrap();
        (x.parse().unwrap(), y.parse().unwrap())
    };
    let points = |node: roxmltree::Node<'_, '_>| {
        node.attribute("points").unwrap().split_whitespace().map(point).collect::<Vec<(f64, f64)>>()
    };
    (texts, nodes("polyline").map(points).filter(|points| points.len() > 30).collect())
}

/// Nanoseconds of a label such as `20 us`.
fn nanos(label: &str) -> Option<f64> {
    let (digits, unit) = label.split_once(' ')?;
    let factor = match unit {
        "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * factor)
}

#[test]
fn a_plot_shows_the_figures_that_were_printed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("speed.svg");
    let path = file.to_str().unwrap();
    let args =
        ["--size", "64", "--size", "1k", "--size", "16k", "--ops", "20000", "--wake", "fd", "--plot", path];
    let objects = measure(&args);
    let (texts, curves) = read_figure(&std::fs::read_to_string(&file).unwrap());
    let said: Vec<&str> = texts.iter().map(|(text, ..)| text.as_str()).collect();
    for text in ["aes-128-cbc encrypt on sim:", "64", "1 KiB", "16 KiB", "latency", "operations/s", "bytes/s"]
    {
        assert!(said.contains(&text), "{text}: {said:?}");
    }
    assert!(said.iter().any(|text| text.starts_with("64 in flight, 1 thread, fd wake")), "{said:?}");
    assert!(said.contains(&"99.9") && !said.contains(&"99.99"), "20000 samples: {said:?}");

    // Back from where the curves are, by the labels of the axes, to what they say.
    let place = |label: &str| texts.iter().find(|(text, ..)| text == label).unwrap().1;
    let times: Vec<(f64, f64)> =
        texts.iter().filter_map(|(text, _, y)| Some((nanos(text)?.log10(), *y))).collect();
    let (first, last) = (times[0], times[times.len() - 1]);
    let time = |y: f64| 10f64.powf(first.0 + (y - first.1) * (last.0 - first.0) / (last.1 - first.1));
    assert_eq!(curves.len(), objects.len());
    for (curve, object) in curves.iter().zip(&objects) {
        for (label, key) in [("50", "p50"), ("99", "p99"), ("99.9", "p999")] {
            let x = place(label);
            let point = curve.iter().min_by(|a, b| (a.0 - x).abs().total_cmp(&(b.0 - x).abs())).unwrap();
            // Where the curve is steep, its neighbours within a pixel or two say something else.
            let near: Vec<f64> =
                curve.iter().filter(|p| (p.0 - point.0).abs() <= 2.0).map(|p| time(p.1)).collect();
            let exact = object["latency_ns"][key].as_f64().unwrap();
            let close = |drawn: &f64| (drawn / exact - 1.0).abs() < 0.05;
            assert!(near.iter().any(close), "{key} is {exact}, drawn as {near:?}");
        }
    }
}

#[test]
fn a_phased_plot_shows_ticks() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("phased.svg");
    let args = ["--phased", "--in-flight", "32", "--size", "64", "--size", "1k", "--ops", "10000"];
    let all: Vec<&str> = args.into_iter().chain(["--plot", file.to_str().unwrap()]).collect();
    let objects = measure(&all);
    let (texts, _) = read_figure(&std::fs::read_to_string(&file).unwrap());
    let said: Vec<&str> = texts.iter().map(|(text, ..)| text.as_str()).collect();
    for object in objects {
        for key in ["enqueue_cycles_per_op", "dequeue_cycles_per_op"] {
            let ticks = format!("{:.1}", object[key].as_f64().unwrap());
            assert!(said.contains(&ticks.as_str()), "{key} {ticks}: {said:?}");
        }
    }
    assert!(said.contains(&"Enqueue") && !said.contains(&"latency"), "{said:?}");
}

#[test]
fn a_plot_that_cannot_be_written_is_said_before_anything_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let missing = format!("{folder}/missing/x.svg");
    for path in [folder, &missing, "/proc/x.svg"] {
        let stderr = fail(&["speed", "--seconds", "50", "--plot", path], 1);
        assert!(stderr.contains(path), "{stderr}");
    }
    let many: Vec<String> = (0..17).flat_map(|n| ["--size".to_owned(), (64 + 16 * n).to_string()]).collect();
    let mut args = vec!["speed", "--plot", "x.svg"];
    args.extend(many.iter().map(String::as_str));
    assert!(fail(&args, 2).contains("16 sizes at most"));
    // A disk that is full is met at the end; it is named all the same.
    let full = ringbell(&["speed", "--ops", "100", "--plot", "/dev/full"]).output().unwrap();
    let stderr = String::from_utf8(full.stderr).unwrap();
    assert_eq!(full.status.code(), Some(1));
    assert!(stderr.contains("cannot write /dev/full: ") && !full.stdout.is_empty(), "{stderr}");
}

#[test]
fn a_run_that_fails_leaves_no_plot_and_an_old_one_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    for old in [None, Some("an old figure")] {
        let file = dir.path().join("x.svg");
        if let Some(old) = old {
            std::fs::write(&file, old).unwrap();
        }
        let args = ["speed", "--device", "sim:fault=remove@50", "--ops", "1000", "--plot"];
        let out = ringbell(&args).arg(&file).env("RINGBELL_LOG", "off").output().unwrap();
        assert_eq!(out.status.code(), Some(1));
        assert_eq!(std::fs::read_to_string(&file).ok().as_deref(), old);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), usize::from(old.is_some()));
    }
}

#[test]
fn wrong_usage_is_one_line_and_status_2() {
    for args in [
        &["--wake", "pigeon"][..],
        &["--size", "63"],
        &["--size", "2m"],
        &["--size", "100"],
        &["--seconds", "0"],
        &["--ops", "0"],
        &["--ops", "1", "--seconds", "1"],
        &["--in-flight", "0"],
        &["--threads", "0"],
        &["--in-flight", "2", "--threads", "3"],
        &["--op", "aes-128-gcm2"],
        &["--op", "sha256", "--decrypt"],
        &["--op", "rsa-2048-sign", "--decrypt"],
        &["--op", "rsa-2048-sign", "--size", "256"],
        &["--op", "rsa-512-sign"],
        &["--op", "rsa-2048-raw-sign"],
        &["--device", "nonsense"],
        &["--device", "sim:nonsense"],
        &["--phased", "--threads", "2"],
        &["--phased", "--wake", "fd"],
        &["--phased", "--wake", "future"],
        &["--phased", "--in-flight", "60000"],
        &["--plot", "-"],
        &["--plot"],
        &["--op", "list", "--plot", "x.svg"],
        &["--nonsense"],
        &["stray"],
    ] {
        let all: Vec<&str> = ["speed"].iter().chain(args).copied().collect();
        fail(&all, 2);
    }
    assert!(fail(&["speed", "--device", "sim:bogus=1"], 2).contains("queue-size="));
    assert!(fail(&["speed", "--op", "des"], 2).contains("aes-256-ctr"));
    fail(&["nonsense"], 2);
    fail(&["speed", "--core", "9999", "--ops", "1"], 1);
    let log = ringbell(&["speed"]).env("RINGBELL_LOG", "=bad=[").output().unwrap();
    assert_eq!(log.status.code(), Some(2));
}

#[test]
fn help_version_completions_and_man_pages_are_there() {
    for args in [
        &["--help"][..],
        &["speed", "--help"],
        &["crypt", "-h"],
        &["--version"],
        &["completions", "bash"],
        &["man"],
    ] {
        let out = ringbell(args).output().unwrap();
        assert!(out.status.success() && !out.stdout.is_empty() && out.stderr.is_empty(), "{args:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(ringbell(&["man", "--out"]).arg(dir.path()).output().unwrap().status.success());
    for page in ["ringbell.1", "ringbell-speed.1", "ringbell-crypt.1"] {
        assert!(dir.path().join(page).exists(), "{page}");
    }
    fail(&["man", "--out", "/nonexistent/dir"], 1);
    fail(&["completions", "nonsense"], 2);
    assert_eq!(ringbell(&[]).output().unwrap().status.code(), Some(2));
}

#[test]
fn a_closed_pipe_is_an_error_and_no_panic() {
    for args in [&["speed", "--ops", "10"][..], &["--help"], &["completions", "zsh"], &["man"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_ringbell"))
            .args(args)
            .stdout(writer)
            .stderr(std::process::Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(1), "{args:?}");
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert!(stderr.contains("cannot write to stdout") && stderr.lines().count() == 1, "{stderr}");
    }
}
