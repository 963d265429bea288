//! `--plot FILE`: the whole run as one figure, for a report.
//!
//! ```text
//!   +---------------------------------------------------+      --phased:
//!   | what was measured, and how                        |      +----------------------------+
//!   | latency      |  legend   | operations per second  |      | what was measured, and how |
//!   | by           |  of the   |------------------------|      | enqueue     | dequeue      |
//!   | percentile   |  sizes    | bytes per second       |      | by size     | by size      |
//!   +---------------------------------------------------+      +----------------------------+
//!
//!   axis    what an axis spans, and where it is labelled
//!   marks   a colour and a shape for each size, distinct without colours as well
//!   draw    the figure
//! ```

mod axis;
mod draw;
mod marks;

use std::path::Path;

use hdrhistogram::Histogram;

use super::report::{self, Object};
use super::{Cycles, Measured, Plan};
use crate::cli::SpeedArgs;
use crate::error::{Error, Result};
use crate::files::Output;

/// Sizes that can be told apart in one figure.
const SIZES: usize = marks::COUNT;
/// Samples that have to lie above a percentile for it to be drawn: fewer are chance.
const ABOVE: f64 = 10.0;
/// The last percentile that is drawn: 99.99999, as a number of nines.
const MOST_NINES: f64 = 7.0;
/// Points of a curve for each nine.
const FINENESS: f64 = 40.0;

/// A figure in the making: its file appears when it is whole.
pub(super) struct Plot {
    file: Output,
    figure: Figure,
}

/// All that is drawn.
#[derive(Default)]
struct Figure {
    /// What was measured and how, one line each.
    heading: Vec<String>,
    sizes: Vec<Size>,
}

/// What was measured with one size.
struct Size {
    bytes: usize,
    ops_per_second: f64,
    bytes_per_second: f64,
    curve: Vec<Point>,
    /// Of enqueue and dequeue, for an operation: with `--phased`.
    cycles: Option<(Cycles, Cycles)>,
}

/// A point of a latency curve.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    /// The percentile as a number of nines: 1 is 90 %, 2 is 99 %.
    nines: f64,
    nanos: f64,
}

/// With `--op list` there is nothing to draw.
pub(super) fn refuse_with_list(args: &SpeedArgs) -> Result<()> {
    match &args.plot {
        Some(path) => {
            Err(Error::usage(format!("draw {}", path.display()), "--op list measures nothing; drop --plot"))
        }
        None => Ok(()),
    }
}

impl Plot {
    /// The figure that was asked for. That it can be written is known before anything is measured.
    pub(super) fn open(args: &SpeedArgs) -> Result<Option<Self>> {
        let Some(path) = &args.plot else { return Ok(None) };
        let wrong = |why: String| Err(Error::usage(format!("draw {}", path.display()), why));
        if [Path::new("-"), Path::new("/dev/stdout")].contains(&path.as_path()) {
            return wrong("results go to stdout already; name a file".to_owned());
        }
        if args.sizes.len() > SIZES {
            return wrong(format!("a figure shows {SIZES} sizes at most, not {}", args.sizes.len()));
        }
        Ok(Some(Self { file: Output::open(Some(path))?, figure: Figure::default() }))
    }

    /// Takes one size in.
    pub(super) fn add(&mut self, plan: &Plan, measured: &Measured) {
        let object = report::object(plan, measured);
        if self.figure.heading.is_empty() {
            self.figure.heading = heading(&object, measured);
        }
        self.figure.sizes.push(Size {
            bytes: object.size,
            ops_per_second: object.ops_per_second,
            bytes_per_second: object.bytes_per_second,
            curve: curve(&measured.latency, measured.ticks_per_second),
            cycles: measured.cycles,
        });
    }

    /// Draws and writes it.
    pub(super) fn finish(mut self) -> Result<()> {
        let text = draw::svg(&self.figure)
            .map_err(|why| Error::failed(format!("draw {}", self.file.name()), why))?;
        let mut left = text.as_bytes();
        while !left.is_empty() {
            let written = self.file.write(left)?;
            left = &left[written..];
        }
        self.file.finish()
    }
}

fn heading(object: &Object<'_>, measured: &Measured) -> Vec<String> {
    let mut lines = vec![object.subject(), object.manner()];
    if measured.cycles.is_some() {
        lines[1] += &format!(", {:.2} ticks per ns", measured.ticks_per_second / 1e9);
    }
    if object.compute == "none" {
        lines.push("The device does no arithmetic (compute=none): results are not checked.".to_owned());
    }
    lines
}

/// Latency by percentile, as far as there are samples: the median always, else no percentile with
/// fewer than [`ABOVE`] samples above it.
fn curve(latency: &Histogram<u64>, ticks_per_second: f64) -> Vec<Point> {
    if latency.is_empty() {
        return Vec::new();
    }
    let last = (latency.len() as f64 / ABOVE).log10().clamp(axis::MEDIAN, MOST_NINES);
    let steps = (0..).map(|step| f64::from(step) / FINENESS).take_while(|nines| *nines < last);
    let mut all: Vec<f64> = steps.chain(axis::nines(last)).chain([last]).collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    let point = |nines: f64| {
        // A quantile is the upper end of its bucket; no more than the maximum may be said for it.
        let ticks = latency.value_at_quantile(1.0 - 10f64.powf(-nines)).min(latency.max());
        Point { nines, nanos: (ticks as f64 * 1e9 / ticks_per_second).max(1.0) }
    };
    all.into_iter().map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_says_what_the_histogram_says() {
        let mut latency = super::super::histogram().unwrap();
        for ticks in 1..=100_000u64 {
            latency.record(ticks * 10).unwrap();
        }
        // Two ticks are a nanosecond.
        let curve = curve(&latency, 2e9);
        for (nines, rank) in [(0.0, 1), (axis::MEDIAN, 50_000), (1.0, 90_000), (2.0, 99_000), (4.0, 99_990)] {
            let point = curve.iter().find(|point| (point.nines - nines).abs() < 1e-9).unwrap();
            let exact = f64::from(rank) * 10.0 / 2.0;
            assert!((point.nanos / exact - 1.0).abs() < 2e-3, "{point:?}, not {exact}");
        }
        assert!(curve.is_sorted_by(|a, b| a.nines < b.nines && a.nanos <= b.nanos));
        assert!(curve.iter().all(|point| point.nanos <= 500_000.0));
    }

    #[test]
    fn a_curve_ends_where_fewer_than_ten_samples_are_above() {
        let end = |samples: u64| {
            let mut latency = super::super::histogram().unwrap();
            latency.record_n(7, samples).unwrap();
            curve(&latency, 1e9).last().map(|point| point.nines)
        };
        assert_eq!(end(0), None);
        assert_eq!(end(1), Some(axis::MEDIAN));
        assert_eq!(end(100), Some(1.0));
        assert_eq!(end(1_000_000), Some(5.0));
        assert_eq!(end(1 << 60), Some(MOST_NINES));
    }
}
