//! Every kind of fault of the simulator, at every moment of a device's life, told by callbacks and by
//! wait fds: `cargo test -p ringbell-tests --test faults KIND`.
//!
//! Everything is stepped by hand and goes by clocks that are moved by hand, so that a cell plays the
//! same each time; only what waits for the control queue or for a reset waits in real time, a few
//! milliseconds. At the end the program prints the table of what each cell ended with.

#[path = "../common/mod.rs"]
mod common;
mod expect;
mod kinds;
mod moments;
mod world;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Trial};
use moments::Moment;
use world::Wake;

/// What the letters mean.
const LEGEND: &str = "\
  each letter a request, a point between groups of them; then the device's state, faults/recoveries
  + right result   n the device's answer is no   e, i the device's error, an unknown session
  T timed out   F, f ended by the device's fault, with or without its buffers   S, s by shutdown
  x refused with ERR   a refused with EAGAIN for as long as it was tried   ! not as expected";

thread_local! {
    /// What the last panic of this thread said, and where.
    static PANIC: Cell<String> = const { Cell::new(String::new()) };
}

/// What the cells ended with, by kind and moment.
type Table = Arc<Mutex<BTreeMap<(usize, usize), Vec<String>>>>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let table = Table::default();
    let mut trials = Vec::new();
    for (row, kind) in kinds::all().into_iter().enumerate() {
        let kind = Arc::new(kind);
        for (column, moment) in Moment::ALL.into_iter().enumerate() {
            if let Some(reason) = kind.expected(moment).strip_prefix('-') {
                table.lock().unwrap().insert((row, column), vec![format!("-{reason}")]);
                continue;
            }
            for wake in [Wake::Callback, Wake::Fd] {
                let (kind, table) = (Arc::clone(&kind), Arc::clone(&table));
                let wake_name = if wake == Wake::Fd { "fd" } else { "callback" };
                let name = format!("{} / {} / {wake_name}", kind.name(), moment.name());
                trials.push(Trial::test(name, move || {
                    let (text, wrong) = cell(&kind, moment, wake);
                    table.lock().unwrap().entry((row, column)).or_default().push(text);
                    wrong.map_or(Ok(()), |wrong| Err(wrong.into()))
                }));
            }
        }
    }
    // Panics are told by the trials.
    std::panic::set_hook(Box::new(|info| {
        let place =
            info.location().map_or(String::new(), |place| format!("{}:{}", place.file(), place.line()));
        PANIC.set(format!("{}\n     at {place}", common::panic_text(info.payload())));
    }));
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        print(&table.lock().unwrap());
    }
    conclusion.exit_code()
}

/// What a cell ended with, for the table, and what is wrong with it.
fn cell(kind: &kinds::Kind, moment: Moment, wake: Wake) -> (String, Option<String>) {
    let Ok(seen) = std::panic::catch_unwind(AssertUnwindSafe(|| moments::play(kind, moment, wake))) else {
        return ("FAILED".to_owned(), Some(PANIC.take()));
    };
    let expected = kind.expected(moment);
    if expect::matches(expected, &seen) {
        (seen.to_string(), None)
    } else {
        (format!("! {seen}"), Some(format!("expected {expected}\n     got {seen}")))
    }
}

fn print(table: &BTreeMap<(usize, usize), Vec<String>>) {
    let text = |row, column| {
        let Some(cells) = table.get(&(row, column)) else { return String::new() };
        let mut cells = cells.clone();
        cells.sort();
        cells.dedup();
        cells.join(" | ")
    };
    let kinds = kinds::all();
    let shown: Vec<_> = (0..kinds.len()).filter(|&row| (0..7).any(|c| !text(row, c).is_empty())).collect();
    if shown.is_empty() {
        return;
    }
    let first = shown.iter().map(|&row| kinds[row].name().len()).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = shown.iter().map(|&row| text(row, column).len()).max().unwrap_or(0);
        cells.max(Moment::ALL[column].name().len())
    };
    print!("\n{:first$}", "fault");
    Moment::ALL.iter().enumerate().for_each(|(c, moment)| print!("  {:1$}", moment.name(), width(c)));
    println!();
    for &row in &shown {
        print!("{:first$}", kinds[row].name());
        (0..7).for_each(|column| print!("  {:1$}", text(row, column), width(column)));
        println!();
    }
    println!("\n{LEGEND}");
}
