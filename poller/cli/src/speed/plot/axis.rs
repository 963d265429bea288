//! What an axis spans, and where it is labelled.

use std::ops::Range;

use super::super::report;

/// The median as a number of nines.
pub(super) const MEDIAN: f64 = std::f64::consts::LOG10_2;

/// The percentiles that are labelled up to `last`, as numbers of nines: 0, 50, 90, 99, 99.9 ...
pub(super) fn nines(last: f64) -> Vec<f64> {
    let whole = (1..).map(f64::from).take_while(|nines| *nines <= last);
    [0.0, MEDIAN].into_iter().chain(whole).collect()
}

/// How a percentile is written: 99.9.
pub(super) fn percentile(nines: f64) -> String {
    let percent = 100.0 - 100.0 * 10f64.powf(-nines);
    let places = (nines.round() as usize).saturating_sub(2);
    format!("{percent:.places$}")
}

/// An axis of values: logarithms of them, or the values themselves.
pub(super) struct Values {
    pub(super) range: Range<f64>,
    /// Where there are labels.
    pub(super) ticks: Vec<f64>,
    log: bool,
}

/// More labels than this are too many.
const MOST_TICKS: usize = 9;

impl Values {
    /// A logarithmic axis for `values`: from one of 1, 2, 5, 10 ... to another, wide enough that small
    /// differences do not look large, with a share `room` of it left free above the largest value,
    /// and half of that below the smallest.
    pub(super) fn log(values: impl Iterator<Item = f64>, room: f64) -> Self {
        let (mut low, mut high) = (f64::INFINITY, 0f64);
        for value in values.filter(|value| *value > 0.0) {
            (low, high) = (low.min(value), high.max(value));
        }
        if high == 0.0 {
            (low, high) = (1.0, 1.0); // Nothing was completed.
        }
        let (mut first, mut last) = (step_below(low), step_above(high));
        let span = |first: i32, last: i32| step(last).log10() - step(first).log10();
        while span(first, last) < 0.9 {
            if last - step_above(high) <= step_below(low) - first {
                last += 1;
            } else {
                first -= 1;
            }
        }
        // Half of it below, for the mark of the smallest.
        while low.log10() - step(first).log10() < room / 2.0 * span(first, last) {
            first -= 1;
        }
        while step(last).log10() - high.log10() < room * span(first, last) {
            last += 1;
        }
        let mut steps: Vec<i32> = (first..=last).collect();
        if steps.len() > MOST_TICKS {
            steps.retain(|number| number.rem_euclid(3) == 0);
        }
        let sparse = steps.len().div_ceil(MOST_TICKS);
        let ticks = steps.into_iter().step_by(sparse).map(|number| step(number).log10()).collect();
        Self { range: step(first).log10()..step(last).log10(), ticks, log: true }
    }

    /// A linear axis from 0, with a share `room` of it left free above the largest value.
    pub(super) fn linear(values: impl Iterator<Item = f64>, room: f64) -> Self {
        let high = values.fold(0f64, f64::max).max(0.1) / (1.0 - room);
        // The largest of 1, 2, 5, 10 ... with at least four labels.
        let distance = step(step_below(high / 4.0));
        let last = (high / distance).ceil();
        let ticks = (0..).map(f64::from).take_while(|n| *n <= last).map(|n| n * distance).collect();
        Self { range: 0.0..last * distance, ticks, log: false }
    }

    /// Where a value is on the axis.
    pub(super) fn place(&self, value: f64) -> f64 {
        if !self.log {
            value
        } else if value > 0.0 {
            value.log10().max(self.range.start)
        } else {
            self.range.start
        }
    }

    /// The value of a place on the axis.
    pub(super) fn value(&self, place: f64) -> f64 {
        if self.log { 10f64.powf(place) } else { place }
    }
}

/// One of ... 0.5, 1, 2, 5, 10, 20 ...: the first is 1.
fn step(number: i32) -> f64 {
    let digit = [1.0, 2.0, 5.0][number.rem_euclid(3) as usize];
    // A negative power is not exact; a division is as near as can be.
    match number.div_euclid(3) {
        tens @ 0.. => digit * 10f64.powi(tens),
        tens => digit / 10f64.powi(-tens),
    }
}

fn step_below(value: f64) -> i32 {
    let decade = value.log10().floor() as i32 * 3;
    (decade - 1..=decade + 3).rev().find(|number| step(*number) <= value).unwrap_or(decade - 1)
}

fn step_above(value: f64) -> i32 {
    let below = step_below(value);
    if step(below) < value { below + 1 } else { below }
}

/// Of `places` in ascending order, those that are at least `distance` from the one kept before.
pub(super) fn apart(places: impl Iterator<Item = f64>, distance: f64) -> Vec<f64> {
    let mut kept: Vec<f64> = Vec::new();
    for place in places {
        if kept.last().is_none_or(|last| place - last >= distance) {
            kept.push(place);
        }
    }
    kept
}

/// 64, 1 KiB, 1 MiB; 100000 where it is no multiple.
pub(super) fn bytes(bytes: usize) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => bytes.to_string(),
    }
}

/// 64, 1K, 1M, as on the command line.
pub(super) fn short_bytes(number: usize) -> String {
    bytes(number).replace(" KiB", "K").replace(" MiB", "M")
}

/// 500 ns, 20 us, 1 ms.
pub(super) fn time(nanos: f64) -> String {
    short(&report::time(nanos.round() as u64))
}

/// 500, 20 k, 1 M.
pub(super) fn count(value: f64) -> String {
    short(&report::scaled(value))
}

/// Without zeros behind the point.
fn short(text: &str) -> String {
    let (digits, unit) = text.split_once(' ').map_or((text, None), |(digits, unit)| (digits, Some(unit)));
    let digits =
        if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    unit.map_or_else(|| digits.to_owned(), |unit| format!("{digits} {unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Values) -> Vec<String> {
        axis.ticks.iter().map(|place| count(axis.value(*place))).collect()
    }

    #[test]
    fn percentiles_are_written_as_they_are_said() {
        let written: Vec<_> = nines(7.0).into_iter().map(percentile).collect();
        assert_eq!(written, ["0", "50", "90", "99", "99.9", "99.99", "99.999", "99.9999", "99.99999"]);
        assert_eq!(nines(0.5), [0.0, MEDIAN]);
    }

    #[test]
    fn an_axis_holds_its_values_and_is_labelled_within_its_ends() {
        let sets: [&[f64]; 7] =
            [&[1.0], &[534_000.0], &[1000.0, 1001.0], &[3.0, 4e9], &[0.0], &[], &[7.0, 7e19]];
        for values in sets {
            for room in [0.0, 0.2] {
                for axis in
                    [Values::log(values.iter().copied(), room), Values::linear(values.iter().copied(), room)]
                {
                    assert!(axis.range.start < axis.range.end, "{values:?}");
                    for value in values {
                        let place = axis.place(*value);
                        assert!(axis.range.start <= place && place <= axis.range.end, "{values:?}");
                        let free = (axis.range.end - place) / (axis.range.end - axis.range.start);
                        assert!(free > room - 1e-9, "{values:?}: {free}");
                    }
                    assert!((2..=MOST_TICKS + 2).contains(&axis.ticks.len()), "{values:?} {:?}", axis.ticks);
                    assert!(axis.ticks.is_sorted());
                    let (first, last) = (axis.ticks[0], axis.ticks[axis.ticks.len() - 1]);
                    assert!(axis.range.start <= first && last <= axis.range.end, "{values:?}");
                }
            }
        }
    }

    #[test]
    fn labels_are_round_numbers() {
        assert_eq!(labels(&Values::log([42.0, 90.0].into_iter(), 0.0)), ["20", "50", "100", "200"]);
        assert_eq!(
            labels(&Values::log([1e3, 1e7].into_iter(), 0.0)),
            ["1 k", "10 k", "100 k", "1 M", "10 M"]
        );
        assert_eq!(
            labels(&Values::linear([25.1, 38.4].into_iter(), 0.0)),
            ["0", "5", "10", "15", "20", "25", "30", "35", "40"]
        );
        assert_eq!(
            (time(50_000.0), time(1_000_000.0), time(500.0)),
            ("50 us".into(), "1 ms".into(), "500 ns".into())
        );
        assert_eq!(
            (bytes(64), bytes(1024), bytes(1 << 20), bytes(1040)),
            ("64".into(), "1 KiB".into(), "1 MiB".into(), "1040".into())
        );
    }

    #[test]
    fn labels_that_would_touch_are_left_out() {
        assert_eq!(apart([0.0, 1.0, 2.0, 2.0, 4.0].into_iter(), 2.0), [0.0, 2.0, 4.0]);
    }
}
