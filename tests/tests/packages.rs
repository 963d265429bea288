//! What is published, and what it takes to build it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What others can add to their programs.
const PUBLISHED: [&str; 4] = ["ringbell", "ringbell-cli", "ringbell-drivers", "ringbell-sim"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn cargo(args: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(args).arg("--offline").current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// All packages that Cargo.lock names, ours and others'.
fn packages() -> Vec<Value> {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version=1", "--locked"])).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap()
}

/// `1.90` as numbers that compare.
fn version(text: &str) -> Vec<u64> {
    let mut numbers: Vec<u64> = text.split('.').map(|number| number.parse().unwrap()).collect();
    numbers.resize(3, 0);
    numbers
}

#[test]
fn no_dependency_needs_a_later_rust_than_is_stated() {
    let packages = packages();
    let stated = |package: &Value| package["rust_version"].as_str().map(str::to_owned);
    let own = packages.iter().find(|package| name(package) == "ringbell").and_then(stated).unwrap();
    let mut stating = 0;
    for package in &packages {
        if let Some(needed) = stated(package) {
            stating += 1;
            assert!(version(&needed) <= version(&own), "{} needs Rust {needed}, not {own}", name(package));
        }
    }
    assert!(stating > 50, "only {stating} packages say what they need: the reader is broken");
    for ours in packages.iter().filter(|package| package["source"].is_null()) {
        assert_eq!(stated(ours).as_ref(), Some(&own), "{}", name(ours));
    }
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains(&format!("({own} or later)")), "the README says another version than {own}");
}

#[test]
fn what_is_published_says_what_it_is_and_the_rest_is_not_published() {
    let packages = packages();
    let mut published = BTreeSet::new();
    for package in packages.iter().filter(|package| package["source"].is_null()) {
        let own = name(package);
        if package["publish"].as_array().is_some_and(Vec::is_empty) {
            continue;
        }
        published.insert(own);
        for key in ["description", "license", "documentation", "readme"] {
            assert!(package[key].as_str().is_some_and(|text| !text.is_empty()), "{own} has no {key}");
        }
        for key in ["keywords", "categories", "authors"] {
            let count = package[key].as_array().unwrap().len();
            assert!((1..=5).contains(&count), "{own} has {count} {key}");
        }
        for dependency in package["dependencies"].as_array().unwrap() {
            let on = dependency["name"].as_str().unwrap();
            let (kind, requirement) = (&dependency["kind"], dependency["req"].as_str().unwrap());
            // Tests of a package are not built by those who use it.
            assert!(requirement != "*" || kind == "dev", "{own} takes any version of {on}");
            let internal = on.starts_with("ringbell") && kind != "dev";
            assert!(!internal || PUBLISHED.contains(&on), "{own} needs {on}, which is not published");
        }
    }
    assert_eq!(published, BTreeSet::from(PUBLISHED));
}

#[test]
fn a_package_holds_its_sources_its_readme_and_the_licence_and_no_more() {
    for package in PUBLISHED {
        let list = cargo(&["package", "--list", "--allow-dirty", "-p", package]);
        let files: BTreeSet<&str> = list.lines().collect();
        for needed in ["Cargo.toml", "LICENSE", "README.md"] {
            assert!(files.contains(needed), "{package} is packed without {needed}");
        }
        let made = [".cargo_vcs_info.json", "Cargo.lock", "Cargo.toml.orig"];
        for file in &files {
            let source = ["src/", "examples/", "tests/"].iter().any(|folder| file.starts_with(folder));
            let plain = ["Cargo.toml", "LICENSE", "README.md"].contains(file) || made.contains(file);
            // Beside code: keys for measurements.
            let packed = file.ends_with(".rs") || file.ends_with(".pem");
            assert!(plain || source && packed, "{package} is packed with {file}");
        }
        assert!(files.iter().filter(|file| file.starts_with("src/")).count() > 5, "{package}: {files:?}");
    }
}

/// What is read while a package is built has to be in it.
#[test]
fn a_package_reads_no_file_outside_of_it_when_it_is_built() {
    fn walk(folder: &Path, list: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, list);
            } else {
                list.push(path);
            }
        }
    }
    let mut seen = 0;
    for folder in ["drivers", "sim", "poller", "poller/cli"] {
        let package = root().join(folder);
        assert!(!package.join("build.rs").exists(), "{folder} has a build script: say here what it reads");
        let mut files = Vec::new();
        walk(&package.join("src"), &mut files);
        for file in files {
            let extension = file.extension().and_then(|extension| extension.to_str());
            if extension == Some("pem") {
                let manifest = std::fs::read_to_string(package.join("Cargo.toml")).unwrap();
                assert!(manifest.contains("\"src/**/*.pem\""), "{} is not packed", file.display());
                continue;
            }
            assert_eq!(extension, Some("rs"), "{} is not packed", file.display());
            let text = std::fs::read_to_string(&file).unwrap();
            for part in text.split("include_str!(\"").skip(1).chain(text.split("include_bytes!(\"").skip(1)) {
                let read =
                    file.parent().unwrap().join(part.split('"').next().unwrap()).canonicalize().unwrap();
                let packed = ["README.md", "LICENSE"].map(|name| package.join(name));
                let inside = read.starts_with(package.canonicalize().unwrap().join("src"));
                assert!(inside || packed.contains(&read), "{} reads {}", file.display(), read.display());
                seen += 1;
            }
        }
    }
    assert!(seen >= 2, "{seen}");
}

#[test]
fn the_licence_of_each_package_is_the_repository_s() {
    let whole = std::fs::read_to_string(root().join("LICENSE")).unwrap();
    for folder in ["drivers", "sim", "poller", "poller/cli"] {
        assert_eq!(std::fs::read_to_string(root().join(folder).join("LICENSE")).unwrap(), whole, "{folder}");
    }
}
