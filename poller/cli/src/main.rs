//! The command `ringbell`: measure PCI accelerators, and use them from a shell.
//!
//! ```text
//!   cli        what can be asked for, by clap
//!   speed      a measurement: requests, completions, every result checked
//!   crypt      a file or a pipe through the accelerator
//!   functions  list, bind, unbind: who has the PCI functions of this machine
//!   pages      completions and man pages, generated from cli
//!   software   other implementations than the simulator's: the judge of results
//!   files      input, and output that appears whole or not at all
//!   device     addresses and ciphers, as the commands share them
//!   out, error stdout and messages
//! ```
//!
//! Results go to stdout, messages to stderr, one line for an error. The exit status is 0 when it is
//! done, 1 when it failed, 2 when it was asked for wrongly.
#![forbid(unsafe_code)]

mod cli;
mod crypt;
mod device;
mod error;
mod files;
mod functions;
mod out;
mod pages;
mod software;
mod speed;

use std::env::VarError;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{Cli, Command};
use crate::error::{Error, Result};

fn main() -> ExitCode {
    match run() {
        Ok(status) => status,
        Err(error) => {
            // Nothing can be done where stderr is gone, too.
            let _ = writeln!(std::io::stderr(), "ringbell: {}", error.one_line());
            ExitCode::from(error.exit_status())
        }
    }
}

fn run() -> Result<ExitCode> {
    let cli = match Cli::command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return answer(&error),
    };
    start_log()?;
    match cli.command {
        Command::Speed(args) => speed::run(&args)?,
        Command::Crypt(args) => crypt::run(args)?,
        Command::List(args) => functions::list(&args)?,
        Command::Bind(args) => functions::bind(&args)?,
        Command::Unbind(args) => functions::unbind(&args)?,
        Command::Completions(args) => pages::completions(&args)?,
        Command::Man(args) => pages::man(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What clap has instead of a command: help, the version, or an error.
fn answer(error: &clap::Error) -> Result<ExitCode> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            error.print().map_err(|e| Error::stdout(&e))?;
            Ok(ExitCode::SUCCESS)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // To stderr; nothing can be done where that is gone.
            let _ = error.print();
            Ok(ExitCode::from(2))
        }
        _ => {
            let why = error::first_paragraph(&error.render().to_string());
            Err(Error::usage("read the command line", format!("{why}; see --help")))
        }
    }
}

/// Messages of the library to stderr: warnings, or what RINGBELL_LOG says.
fn start_log() -> Result<()> {
    let asked = match std::env::var("RINGBELL_LOG") {
        Ok(text) => text,
        Err(VarError::NotPresent) => String::new(),
        Err(why) => return Err(Error::usage("read RINGBELL_LOG", why)),
    };
    // That crate warns of everything that a function may lack, and repeats what our errors say.
    let asked = if asked.contains("vfio_ioctls") { asked } else { format!("vfio_ioctls=off,{asked}") };
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .parse(asked)
        .map_err(|why| Error::usage("read RINGBELL_LOG", why))?;
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    Ok(())
}
