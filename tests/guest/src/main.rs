//! Programs that the tests run inside a virtual machine, in one static binary: the first argument says
//! which. The exit status is 0 when all went as it should, 101 after a panic, 2 when there is no such
//! program.

mod programs;
mod rsa;
mod work;

use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // What the library says stands beside what the program sees.
    let filter = EnvFilter::new("warn,vfio_ioctls=off");
    tracing_subscriber::fmt().with_ansi(false).with_env_filter(filter).with_writer(std::io::stderr).init();
    match arguments.as_slice() {
        ["hello"] => hello(),
        ["rsa", address] => rsa::rsa(address),
        ["two", first, second] => programs::two(first, second),
        [name, address] => match programs::NAMES.iter().find(|(known, _)| known == name) {
            Some((_, program)) => program(address),
            None => return none(&arguments),
        },
        _ => return none(&arguments),
    }
    ExitCode::SUCCESS
}

fn none(arguments: &[&str]) -> ExitCode {
    eprintln!("ringbell-guest: there is no program {arguments:?}");
    ExitCode::from(2)
}

/// That a static binary runs at all.
fn hello() {
    println!("hello from process {}", nix::unistd::getpid());
}
