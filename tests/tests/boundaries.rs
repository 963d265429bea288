//! The architecture, guarded: which words may stand where, where `unsafe` may, who may use whom, and
//! what lies at the root.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All Rust files under a folder of the repository, with their path from its root and their text.
fn sources(folder: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, list: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().unwrap() != "target" {
                    walk(&path, list);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                list.push(path);
            }
        }
    }
    let mut list = Vec::new();
    walk(&root().join(folder), &mut list);
    list.sort();
    assert!(!list.is_empty(), "{folder} holds no sources");
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(path).unwrap())
    };
    list.into_iter().map(read).collect()
}

/// Words as an identifier's parts: `vfio_user`, `VfioUser` and `vfio-user` all hold `vfio` and `user`.
fn words(text: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for token in text.split(|c: char| !c.is_alphanumeric()) {
        words.insert(token.to_lowercase());
        let mut part = String::new();
        for c in token.chars() {
            if c.is_uppercase() && !part.is_empty() {
                words.insert(std::mem::take(&mut part).to_lowercase());
            }
            part.push(c);
        }
        words.insert(part.to_lowercase());
    }
    words
}

/// Without comments and the text of literals: code alone.
fn code(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut in_text = false;
        let mut escaped = false;
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '"' if !escaped => in_text = !in_text,
                '/' if !in_text && chars.peek() == Some(&'/') => break,
                _ if in_text => {}
                _ => out.push(c),
            }
            escaped = c == '\\' && !escaped;
        }
        out.push('\n');
    }
    out
}

#[test]
fn virtio_names_no_backend() {
    let mut seen = 0;
    for (name, text) in sources("drivers/src") {
        if !name.starts_with("drivers/src/virtio") && !name.starts_with("drivers/src/virtqueue") {
            continue;
        }
        seen += 1;
        // Comments too: a driver that explains a backend knows one.
        for word in ["vfio", "uio"] {
            assert!(!words(&text).contains(word), "{name} names {word}");
        }
        assert!(!text.contains("vfio_user"), "{name} names vfio_user");
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn the_seam_names_no_driver() {
    let mut seen = 0;
    for (name, text) in sources("drivers/src") {
        if !name.starts_with("drivers/src/pci") {
            continue;
        }
        seen += 1;
        // Prose may draw who stands above and below; code may not name them.
        for word in ["virtio", "crypto", "edu"] {
            assert!(!words(&code(&text)).contains(word), "{name} names {word}");
        }
        let uses = ["crate::virtio", "crate::virtio_crypto", "crate::edu", "crate::virtqueue"];
        assert!(!uses.iter().any(|path| text.contains(path)), "{name} uses a driver");
    }
    assert!(seen >= 3, "{seen}");
}

#[test]
fn unsafe_stands_only_where_hardware_or_shared_memory_is_met() {
    let allowed = |name: &str| {
        [
            "drivers/src/barrier.rs",
            "drivers/src/claim.rs",
            "drivers/src/mmio.rs",
            "drivers/src/task.rs",
            "drivers/src/clock.rs",
            "drivers/src/wait.rs",
            "drivers/src/virtio_crypto/data.rs",
        ]
        .contains(&name)
            || name.starts_with("drivers/src/dma/")
            || name.starts_with("drivers/src/vfio/")
            || name.starts_with("drivers/src/virtqueue/")
    };
    let mut with = 0;
    for folder in ["drivers", "sim", "poller"] {
        for (name, text) in sources(folder) {
            let text = code(&text);
            if text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|token| token == "unsafe") {
                with += 1;
                assert!(allowed(&name), "{name} has unsafe code");
            }
        }
    }
    assert!(with >= 8, "only {with} files with unsafe were found: the reader is broken");
}

/// What is written for one processor stands in two files, and each function there goes on somewhere else
/// on all other processors.
#[test]
fn code_for_one_processor_stands_in_two_files_beside_code_for_all_others() {
    let special =
        ["target_arch", "target_endian", "target_pointer_width", "target_feature", "asm", "global_asm"];
    let is_special = |text: &str| {
        let text = code(text);
        let tokens: Vec<_> = text.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        special.iter().any(|word| tokens.contains(word))
            || text.contains("core::arch")
            || text.contains("std::arch")
    };
    let mut found = BTreeSet::new();
    for folder in ["drivers", "sim", "poller", "tests"] {
        for (name, text) in sources(folder) {
            if is_special(&text) && name != "tests/tests/boundaries.rs" {
                found.insert(name);
            }
        }
    }
    let files = ["drivers/src/barrier.rs", "drivers/src/clock.rs"];
    assert_eq!(found, BTreeSet::from(files.map(str::to_owned)));
    for file in files {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let attributes: Vec<_> =
            text.lines().map(str::trim).filter(|line| line.starts_with("#[cfg(")).collect();
        let known =
            |line: &&str| line.strip_prefix("#[cfg(target_arch = \"")?.split('"').next().map(str::to_owned);
        let mut processors: BTreeSet<_> = attributes.iter().filter_map(known).collect();
        // It needs nothing beyond the fences there: the table in the file says so.
        if file.ends_with("barrier.rs") {
            processors.insert("x86_64".to_owned());
        }
        let others: Vec<_> =
            attributes.iter().filter(|line| line.starts_with("#[cfg(not(any(target_arch")).collect();
        assert_eq!(others.len(), 1, "{file} has one place for all other processors");
        for processor in &processors {
            assert!(others[0].contains(&format!("\"{processor}\"")), "{file}: {processor} is others, too");
        }
        assert_eq!(others[0].matches("target_arch").count(), processors.len(), "{file}: {}", others[0]);
    }
}

#[test]
fn what_needs_no_unsafe_forbids_it() {
    for crate_root in ["poller/src/lib.rs", "poller/cli/src/main.rs", "sim/src/lib.rs"] {
        let text = std::fs::read_to_string(root().join(crate_root)).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{crate_root}");
    }
}

#[test]
fn every_unsafe_block_has_its_safety_comment() {
    for (name, text) in sources("drivers") {
        let lines: Vec<_> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let bare = code(line);
            let begins = ["unsafe {", "unsafe impl"].iter().any(|start| bare.contains(start));
            let explained =
                lines[number.saturating_sub(12)..=number].iter().any(|line| line.contains("// SAFETY:"));
            assert!(!begins || explained, "{name}:{}: {line}", number + 1);
        }
    }
}

/// What the table in the architecture allows, package by package. What is not there yet is checked
/// once it is.
fn allowed_edges() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let libraries = ["ringbell", "ringbell-drivers"];
    let all = [
        "ringbell",
        "ringbell-drivers",
        "ringbell-sim",
        "ringbell-cli",
        "ringbell-async",
        "ringbell-c",
        "ringbell-provider",
    ];
    BTreeMap::from([
        ("ringbell-drivers", BTreeSet::new()),
        ("ringbell-sim", BTreeSet::from(["ringbell-drivers"])),
        ("ringbell", BTreeSet::from(["ringbell-drivers", "ringbell-sim"])),
        ("ringbell-cli", BTreeSet::from(["ringbell", "ringbell-drivers", "ringbell-sim"])),
        ("ringbell-async", BTreeSet::from(libraries)),
        ("ringbell-c", BTreeSet::from(libraries)),
        ("ringbell-provider", BTreeSet::from(libraries)),
        ("ringbell-tests", BTreeSet::from(all)),
    ])
}

fn metadata() -> serde_json::Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn packages_use_each_other_as_the_architecture_says() {
    let metadata = metadata();
    let allowed = allowed_edges();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let manifest = package["manifest_path"].as_str().unwrap();
        if Path::new(manifest).starts_with(root().join("tests")) && name != "ringbell-tests" {
            // A package of tests (loom models, fuzz targets) may use everything.
            assert_eq!(package["publish"].as_array().map(Vec::len), Some(0), "{name} is not to be published");
            continue;
        }
        let allowed = allowed.get(name).unwrap_or_else(|| panic!("the architecture has no package {name}"));
        seen.insert(name);
        for dependency in package["dependencies"].as_array().unwrap() {
            let on = dependency["name"].as_str().unwrap();
            if on == "ringbell" || on.starts_with("ringbell-") {
                assert!(allowed.contains(on), "{name} uses {on}");
            }
        }
    }
    for name in ["ringbell-drivers", "ringbell-sim", "ringbell", "ringbell-cli", "ringbell-tests"] {
        assert!(seen.contains(name), "{name} is gone");
    }
}

#[test]
fn a_plain_cargo_run_runs_the_command() {
    let metadata = metadata();
    let defaults: Vec<_> = metadata["workspace_default_members"].as_array().unwrap().iter().collect();
    let packages = metadata["packages"].as_array().unwrap();
    let default = |package: &&serde_json::Value| defaults.contains(&&package["id"]);
    let targets = packages.iter().filter(default).flat_map(|package| package["targets"].as_array().unwrap());
    let is_bin =
        |target: &&serde_json::Value| target["kind"].as_array().unwrap().iter().any(|kind| kind == "bin");
    let bins: Vec<_> = targets.filter(is_bin).map(|target| target["name"].as_str().unwrap()).collect();
    assert_eq!(bins, ["ringbell"]);
}

#[test]
fn the_library_has_the_simulator_behind_a_default_feature() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let library = packages.iter().find(|package| package["name"] == "ringbell").unwrap();
    let features = |name: &str| library["features"][name].as_array().cloned().unwrap_or_default();
    assert!(features("default").iter().any(|feature| feature == "sim"));
    assert!(features("sim").iter().any(|feature| feature == "dep:ringbell-sim"));
    let dependencies = library["dependencies"].as_array().unwrap();
    let sim = dependencies.iter().find(|dependency| dependency["name"] == "ringbell-sim").unwrap();
    assert_eq!(sim["optional"], true);
}

#[test]
fn the_simulator_uses_of_the_driver_its_seam_and_its_memory_alone() {
    for (name, text) in sources("sim/src") {
        let text = code(&text);
        for path in [
            "ringbell_drivers::virtio",
            "ringbell_drivers::virtqueue",
            "ringbell_drivers::engine",
            "ringbell_drivers::claim",
        ] {
            assert!(!text.contains(path), "{name} uses {path}");
        }
    }
}

#[test]
fn the_root_holds_the_five_folders_and_little_else() {
    let output = Command::new("git").args(["ls-tree", "--name-only", "HEAD"]).current_dir(root()).output();
    let names: BTreeSet<String> = match output {
        Ok(output) if output.status.success() => {
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
        }
        // Not a git checkout (a package, an archive): what lies there, but for build products.
        _ => std::fs::read_dir(root())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "target")
            .collect(),
    };
    let allowed =
        ["Cargo.toml", "Cargo.lock", "README.md", "drivers", "poller", "ffi", "sim", "tests", "docs"];
    for name in &names {
        let fine = allowed.contains(&name.as_str()) || name.starts_with("LICENSE") || name.starts_with('.');
        assert!(fine, "{name} does not belong at the root");
    }
    assert!(["Cargo.toml", "drivers", "poller", "sim"].iter().all(|name| names.contains(*name)));
}
