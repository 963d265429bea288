//! Programs that the tests run inside a virtual machine, in one static binary: the first argument says
//! which. The exit status is 0 when all went as it should, 101 after a panic, 2 when there is no such
//! program.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["hello"] => hello(),
        other => {
            eprintln!("ringbell-guest: there is no program {other:?}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// That a static binary runs at all.
fn hello() {
    println!("hello from process {}", nix::unistd::getpid());
}
