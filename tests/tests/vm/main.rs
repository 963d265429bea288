//! Tests in virtual machines: `cargo test -p ringbell-tests --test vm NAME`.
//!
//! On a host that cannot run machines each test is reported as ignored, with the reason; with
//! `RINGBELL_VM_REQUIRED` set, as `tests/run` does, it fails instead. Two run at a time, unless
//! `--test-threads` says otherwise: an emulated machine takes a processor or more.

mod commands;
mod harness;
mod rsa;
mod vfio;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use ringbell_tests::vm::{self, Failure};

/// A test: its name and what it does. It fails by a panic.
type Test = (&'static str, fn());

/// Functions as tests under their own names.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[crate::Test] = &[$((stringify!($name), $name)),*];
    };
}
use tests;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    // A list needs no kernel.
    let missing = if arguments.list { None } else { vm::prepare().err() };
    if let Some(missing) = &missing {
        eprintln!("virtual machines cannot be run here: {missing}");
    }
    let required = std::env::var_os("RINGBELL_VM_REQUIRED").is_some();
    let trials = [harness::TESTS, commands::TESTS, vfio::TESTS, rsa::TESTS]
        .concat()
        .into_iter()
        .map(|test| trial(test, missing.as_ref(), required));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn trial((name, test): Test, missing: Option<&Failure>, required: bool) -> Trial {
    let Some(missing) = missing.map(ToString::to_string) else {
        return Trial::test(name, move || {
            test();
            Ok(())
        });
    };
    let reason = missing.lines().next().unwrap_or_default().to_owned();
    Trial::test(name, move || Err(missing.into())).with_kind(reason).with_ignored_flag(!required)
}
