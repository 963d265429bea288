//! Our own binaries for the guest, which has no libraries: linked statically, in a target directory of
//! their own.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::{Failure, tools};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where the static binaries lie.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The command `ringbell`.
    pub ringbell: PathBuf,
    /// The tests' own programs: package `ringbell-guest`.
    pub guest: PathBuf,
}

/// Builds the static binaries, once in a process. Processes may do so at the same time: cargo lets one
/// after the other.
///
/// # Errors
/// [`Failure::Tool`] with what cargo said.
pub fn programs() -> Result<Programs, Failure> {
    static BUILT: OnceLock<Result<Programs, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|failure| failure.to_string()));
    built.clone().map_err(|message| Failure::Tool { program: "cargo".to_owned(), message })
}

fn build() -> Result<Programs, Failure> {
    let target = tools::target().join("vm-guest");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--locked", "--profile", "vm", "--target", TARGET])
        .args(["--package", "ringbell-cli", "--package", "ringbell-guest"])
        .current_dir(tools::workspace())
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    // What the tests themselves are built with, sanitizers for one, is none of these binaries' concern.
    for name in ["CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_BOOTSTRAP"] {
        cargo.env_remove(name);
    }
    tools::run(&mut cargo)?;
    let built = target.join(TARGET).join("vm");
    Ok(Programs { ringbell: built.join("ringbell"), guest: built.join("ringbell-guest") })
}
