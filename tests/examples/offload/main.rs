//! When offloading pays: what an operation costs this processor when the driver hands it to a device, beside
//! what it costs when libcrypto does it here. Each operation of the simulator, in one process, in rounds that
//! take turns; printed as the tables of the book's page on speed.
//!
//! ```text
//! cargo run --release -p ringbell-tests --example offload
//! ```
//!
//! ```text
//!   work       the operations, and their keys
//!   libcrypto  the operation on this processor: contexts and keys that are used again
//!   driver     submitting and draining alone: a device that does no arithmetic and is stepped in between
//!   device     all of it: a simulated device on a thread of its own, the poll thread, this thread
//! ```
//!
//! What is compared is processor time. The driver's is what is left of an operation when a device does it, the
//! callback included; libcrypto's is what goes away. The simulated device is no accelerator: it burns this
//! machine's processors, so its operations a second are here to show that everything works together, and say
//! nothing about offloading.

mod device;
mod driver;
mod libcrypto;
mod work;

use std::io::{IsTerminal, Write};

use device::Simulated;
use driver::Driver;
use libcrypto::Libcrypto;
use work::{Kind, Work};

/// Rounds, of which the middle one is printed, with the lowest and the highest behind it.
const ROUNDS: usize = 3;
/// Requests that the driver is given together.
const BURST: usize = 32;
const SIZES: [usize; 3] = [64, 1024, 16384];
/// Where libcrypto is measured to find from which size on it takes longer than the driver.
const FINE: [usize; 11] = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];

/// The figures of all rounds.
#[derive(Clone, Copy, Default)]
struct Figure([f64; ROUNDS]);

impl Figure {
    fn sorted(self) -> [f64; ROUNDS] {
        let mut values = self.0;
        values.sort_by(f64::total_cmp);
        values
    }

    fn middle(self) -> f64 {
        self.sorted()[ROUNDS / 2]
    }

    /// The middle and in brackets the lowest and the highest, in one of the units.
    fn print(self, units: &[(f64, &str)]) -> String {
        let [low, .., high] = self.sorted();
        let middle = self.middle();
        let (factor, unit) = units.iter().find(|(factor, _)| middle >= *factor).unwrap_or(&(1.0, ""));
        let [low, middle, high] = [low, middle, high].map(|value| digits(value / factor));
        if low == high { format!("{middle}{unit}") } else { format!("{middle}{unit} ({low}–{high})") }
    }
}

const TIME: &[(f64, &str)] = &[(1e6, " ms"), (1e3, " us"), (1.0, " ns")];
const RATE: &[(f64, &str)] = &[(1e6, " M"), (1e3, " k"), (1.0, "")];

/// One operation with one size.
#[derive(Clone, Copy, Default)]
struct Cell {
    libcrypto: Figure,
    /// libcrypto's operations a second, on one processor.
    libcrypto_rate: Figure,
    driver: Figure,
    device_rate: Figure,
    /// Of all threads, the device's among them.
    device_cpu: Figure,
}

/// One operation.
struct Row {
    work: Work,
    cells: Vec<Cell>,
    /// The driver's, with one request at a time.
    single: Figure,
    /// libcrypto's processor time with each of the fine sizes.
    fine: Vec<Figure>,
}

impl Row {
    fn sizes(&self) -> &'static [usize] {
        if self.work.kind() == Kind::Rsa { &[0] } else { &SIZES }
    }

    fn measure(&mut self, round: usize) {
        for (number, size) in self.sizes().iter().enumerate() {
            let cell = &mut self.cells[number];
            let (cpu, rate) = Libcrypto::new(self.work, *size).measure();
            (cell.libcrypto.0[round], cell.libcrypto_rate.0[round]) = (cpu, rate);
            cell.driver.0[round] = Driver::new(self.work, *size, BURST).measure();
            let (cpu, rate) = Simulated::new(self.work, *size).measure();
            (cell.device_cpu.0[round], cell.device_rate.0[round]) = (cpu, rate);
        }
        self.single.0[round] = Driver::new(self.work, SIZES[0], 1).measure();
        if self.work.kind() != Kind::Rsa {
            for (number, size) in FINE.iter().enumerate() {
                self.fine[number].0[round] = Libcrypto::new(self.work, *size).measure_short();
            }
        }
    }

    /// The driver's, in bursts: the most that it takes with any size.
    fn driver(&self) -> f64 {
        self.cells.iter().map(|cell| cell.driver.middle()).fold(0.0, f64::max)
    }

    /// From which size on libcrypto takes longer; "any size": with the least of those measured, too.
    fn pays_from(&self, driver: f64) -> String {
        let longer = |figure: &Figure| figure.middle() > driver;
        let shorter = self.fine.iter().rposition(|figure| !longer(figure));
        match shorter.map_or(0, |last| last + 1) {
            0 => "any size".to_owned(),
            number => FINE.get(number).map_or("none".to_owned(), |size| bytes(*size)),
        }
    }
}

fn bytes(size: usize) -> String {
    if size >= 1024 { format!("{} KiB", size / 1024) } else { format!("{size} B") }
}

/// Three digits, or two.
fn digits(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

fn main() {
    let mut rows: Vec<Row> = Work::all()
        .map(|work| {
            let cells = vec![Cell::default(); if work.kind() == Kind::Rsa { 1 } else { SIZES.len() }];
            Row { work, cells, single: Figure::default(), fine: vec![Figure::default(); FINE.len()] }
        })
        .collect();
    // Before anything is measured: that they do the same.
    for row in &rows {
        for size in row.sizes() {
            let (here, there) = (Libcrypto::new(row.work, *size).output(), device::output(row.work, *size));
            assert!(row.work.is_randomised() || here == there, "{} with {size} bytes", row.work);
        }
    }
    for round in 0..ROUNDS {
        for row in &mut rows {
            row.measure(round);
            if std::io::stderr().is_terminal() {
                eprint!("\rround {} of {ROUNDS}: {:<24}\r", round + 1, row.work.to_string());
            }
        }
    }
    println!("{}; {ROUNDS} rounds, driver in bursts of {BURST}.\n", openssl::version::version());
    let of = |kind: Kind| rows.iter().filter(move |row| row.work.kind() == kind);
    for kind in [Kind::Cipher, Kind::Aead, Kind::Hash, Kind::Mac] {
        cpu_table(kind.title(), of(kind));
    }
    rsa_table(of(Kind::Rsa));
    rates_table(rows.iter().filter(|row| row.work.kind() != Kind::Rsa));
    let _ = std::io::stdout().flush();
}

fn cpu_table<'a>(title: &str, rows: impl Iterator<Item = &'a Row>) {
    print!("| {title} |");
    SIZES.iter().for_each(|size| print!(" {}: libcrypto | driver |", bytes(*size)));
    println!(" pays from | driver, one at a time | pays from |\n|{}", "---|".repeat(4 + 2 * SIZES.len()));
    for row in rows {
        print!("| {} |", row.work);
        for cell in &row.cells {
            print!(" {} | {} |", cell.libcrypto.print(TIME), cell.driver.print(TIME));
        }
        let (burst, single) = (row.pays_from(row.driver()), row.pays_from(row.single.middle()));
        println!(" {burst} | {} | {single} |", row.single.print(TIME));
    }
    println!();
}

fn rsa_table<'a>(rows: impl Iterator<Item = &'a Row>) {
    println!(
        "| RSA | libcrypto | driver | times | libcrypto, a second | sim:, a second |\n|{}",
        "---|".repeat(6)
    );
    for row in rows {
        let cell = &row.cells[0];
        println!(
            "| {} | {} | {} | {:.0} | {} | {} |",
            row.work,
            cell.libcrypto.print(TIME),
            cell.driver.print(TIME),
            cell.libcrypto.middle() / cell.driver.middle(),
            cell.libcrypto_rate.print(RATE),
            cell.device_rate.print(RATE)
        );
    }
    println!();
}

fn rates_table<'a>(rows: impl Iterator<Item = &'a Row>) {
    print!("| operations a second |");
    SIZES.iter().for_each(|size| print!(" {}: libcrypto | sim: | its CPU time |", bytes(*size)));
    println!("\n|{}", "---|".repeat(1 + 3 * SIZES.len()));
    for row in rows {
        print!("| {} |", row.work);
        for cell in &row.cells {
            let (here, there) = (cell.libcrypto_rate.print(RATE), cell.device_rate.print(RATE));
            print!(" {here} | {there} | {} |", cell.device_cpu.print(TIME));
        }
        println!();
    }
}
