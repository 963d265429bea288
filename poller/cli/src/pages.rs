//! Completions and man pages, generated from what clap knows.

use clap::CommandFactory;

use crate::cli::{Cli, CompletionsArgs, ManArgs};
use crate::error::{Error, Result, plain};
use crate::out;

/// Prints a completion script.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ringbell", &mut script);
    out::print(&script)
}

/// Writes all man pages to a directory, or prints the first.
pub(crate) fn man(args: &ManArgs) -> Result<()> {
    match &args.out {
        Some(dir) => clap_mangen::generate_to(Cli::command(), dir).map_err(|e| {
            let attempted = format!("write man pages to {}", dir.display());
            Error::failed(attempted, format!("{}; it has to be a directory that exists", plain(&e)))
        }),
        None => {
            let mut page = Vec::new();
            let made = clap_mangen::Man::new(Cli::command()).render(&mut page);
            made.map_err(|e| Error::failed("make the man page", plain(&e)))?;
            out::print(&page)
        }
    }
}
