//! Results: an object for programs, a line for people.

use hdrhistogram::Histogram;
use ringbell::{Device, DeviceState};
use serde::Serialize;

use super::op::Op;
use super::{Cycles, Measured, Plan};
use crate::cli::SpeedArgs;
use crate::error::{Error, Result};
use crate::out;

/// The object of `--json`: its keys are a contract.
#[derive(Serialize)]
pub(super) struct Object<'a> {
    device: &'a str,
    op: String,
    /// None of what has no direction.
    #[serde(skip_serializing_if = "str::is_empty")]
    direction: &'a str,
    pub(super) size: usize,
    in_flight: usize,
    threads: usize,
    wake: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle: Option<&'a str>,
    /// Whether the device does the arithmetic: "none" where results are not verified.
    pub(super) compute: &'a str,
    seconds: f64,
    submitted: u64,
    completed: u64,
    callbacks: u64,
    eagain: u64,
    errors: u64,
    verified: u64,
    mismatches: u64,
    recoveries: u64,
    faults: u64,
    failed_over: u64,
    /// The device's at the end: ready, failed.
    state: &'a str,
    pub(super) ops_per_second: f64,
    pub(super) bytes_per_second: f64,
    latency_ns: Latency,
    #[serde(flatten)]
    phased: Option<Phased>,
}

#[derive(Serialize)]
struct Latency {
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

#[derive(Serialize)]
struct Phased {
    enqueue_cycles_per_op: f64,
    dequeue_cycles_per_op: f64,
    /// First and last decile over chunks of the run.
    enqueue_cycles_spread: [f64; 2],
    dequeue_cycles_spread: [f64; 2],
}

impl Latency {
    fn of(latency: &Histogram<u64>, ticks_per_second: f64) -> Self {
        let nanos = |ticks: u64| (ticks as f64 * 1e9 / ticks_per_second) as u64;
        let at = |quantile| nanos(latency.value_at_quantile(quantile));
        // A quantile is the upper end of its bucket; no less than the maximum may be said for it.
        let max = nanos(latency.max());
        Self { p50: at(0.5).min(max), p99: at(0.99).min(max), p999: at(0.999).min(max), max }
    }
}

impl Phased {
    fn of((enqueue, dequeue): (Cycles, Cycles)) -> Self {
        let tenth = |cycles: f64| (cycles * 10.0).round() / 10.0;
        let spread = |cycles: Cycles| [tenth(cycles.p10), tenth(cycles.p90)];
        Self {
            enqueue_cycles_per_op: tenth(enqueue.median),
            dequeue_cycles_per_op: tenth(dequeue.median),
            enqueue_cycles_spread: spread(enqueue),
            dequeue_cycles_spread: spread(dequeue),
        }
    }
}

/// Prints results in one of the two forms.
pub(super) struct Report {
    json: bool,
    headed: bool,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self { json, headed: false }
    }

    /// Prints one result.
    pub(super) fn print(&mut self, plan: &Plan, measured: &Measured) -> Result<()> {
        let object = object(plan, measured);
        if self.json {
            let text = serde_json::to_string(&object).map_err(|e| Error::failed("write JSON", e))?;
            return out::print_line(&text);
        }
        if !self.headed {
            self.headed = true;
            out::print_line(&head(&object))?;
        }
        out::print_line(&line(&object))
    }
}

pub(super) fn object<'a>(plan: &'a Plan, measured: &Measured) -> Object<'a> {
    let seconds = measured.elapsed.as_secs_f64();
    let counts = &measured.counts;
    let rate = |count: f64| if seconds > 0.0 { (count / seconds * 10.0).round() / 10.0 } else { 0.0 };
    Object {
        device: &plan.device.text,
        op: plan.op.to_string(),
        direction: plan.op.direction(),
        size: plan.size,
        in_flight: plan.in_flight,
        threads: plan.threads,
        wake: plan.wake.name(),
        idle: (!plan.phased).then(|| plan.idle.name()),
        compute: if plan.device.computes() { "full" } else { "none" },
        seconds,
        submitted: counts.submitted,
        completed: counts.completed,
        callbacks: counts.callbacks,
        eagain: counts.eagain,
        errors: counts.errors,
        verified: counts.verified,
        mismatches: counts.mismatches,
        recoveries: measured.fate.recoveries,
        faults: measured.fate.faults,
        failed_over: measured.fate.failed_over,
        state: state_name(measured.fate.state),
        ops_per_second: rate(counts.completed as f64),
        bytes_per_second: rate(counts.completed as f64 * plan.size as f64),
        latency_ns: Latency::of(&measured.latency, measured.ticks_per_second),
        phased: measured.cycles.map(Phased::of),
    }
}

/// A state, as in JSON.
fn state_name(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Ready => "ready",
        DeviceState::Suspect => "suspect",
        DeviceState::Resetting => "resetting",
        DeviceState::Failed => "failed",
        _ => "closed",
    }
}

impl Object<'_> {
    /// What was measured, in words.
    pub(super) fn subject(&self) -> String {
        format!("{} on {}", [self.op.as_str(), self.direction].join(" ").trim_end(), self.device)
    }

    /// How it was measured, in words.
    pub(super) fn manner(&self) -> String {
        let plural = if self.threads == 1 { "" } else { "s" };
        let mut text = format!("{} in flight, {} thread{plural}, ", self.in_flight, self.threads);
        match self.idle {
            Some(idle) => text += &format!("{} wake, poll thread {idle}", self.wake),
            None => text += "phased",
        }
        text
    }
}

fn head(object: &Object<'_>) -> String {
    let mut text = format!("{}: {}", object.subject(), object.manner());
    if object.compute == "none" {
        text += "\nThe device does no arithmetic (compute=none): results are NOT checked.";
    }
    text += &format!(
        "\n{:>8} {:>12} {:>10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>12} {:>6} {:>8} {:>7}",
        "bytes",
        "requests",
        "ops/s",
        "bytes/s",
        "p50",
        "p99",
        "p99.9",
        "max",
        "verified",
        "wrong",
        "eagain",
        "errors"
    );
    if object.phased.is_some() {
        text += &format!(" {:>18} {:>18}", "enqueue ticks/op", "dequeue ticks/op");
    }
    text
}

fn line(object: &Object<'_>) -> String {
    let latency = &object.latency_ns;
    let mut text = format!(
        "{:>8} {:>12} {:>10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>12} {:>6} {:>8} {:>7}",
        object.size,
        object.submitted,
        scaled(object.ops_per_second),
        scaled(object.bytes_per_second),
        time(latency.p50),
        time(latency.p99),
        time(latency.p999),
        time(latency.max),
        object.verified,
        object.mismatches,
        object.eagain,
        object.errors
    );
    if let Some(phased) = &object.phased {
        let with_spread = |median: f64, [low, high]: [f64; 2]| format!("{median:.1} ({low:.0}..{high:.0})");
        text += &format!(
            " {:>18} {:>18}",
            with_spread(phased.enqueue_cycles_per_op, phased.enqueue_cycles_spread),
            with_spread(phased.dequeue_cycles_per_op, phased.dequeue_cycles_spread)
        );
    }
    if object.faults > 0 || object.recoveries > 0 {
        text += &format!(
            "\n         device faults: {}, recoveries: {}, at the end: {}",
            object.faults, object.recoveries, object.state
        );
    }
    if object.failed_over > 0 {
        text += &format!("\n         done by software, not by the device: {} requests", object.failed_over);
    }
    text
}

/// Three digits and a unit: 1.53 M.
pub(super) fn scaled(value: f64) -> String {
    let units = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (factor, unit) = units.into_iter().find(|(factor, _)| value >= *factor).unwrap_or((1.0, ""));
    let digits = value / factor;
    let places = if digits >= 100.0 || unit.is_empty() {
        0
    } else if digits >= 10.0 {
        1
    } else {
        2
    };
    format!("{digits:.places$} {unit}").trim_end().to_owned()
}

/// A time of that many nanoseconds.
pub(super) fn time(nanos: u64) -> String {
    let nanos = nanos as f64;
    let units = [(1e9, "s"), (1e6, "ms"), (1e3, "us")];
    let (factor, unit) = units.into_iter().find(|(factor, _)| nanos >= *factor).unwrap_or((1.0, "ns"));
    let digits = nanos / factor;
    let places = if digits >= 100.0 || unit == "ns" {
        0
    } else if digits >= 10.0 {
        1
    } else {
        2
    };
    format!("{digits:.places$} {unit}")
}

/// Prints what the device offers.
pub(super) fn operations(args: &SpeedArgs, device: &Device) -> Result<()> {
    #[derive(Serialize)]
    struct Operations<'a> {
        device: &'a str,
        ops: Vec<String>,
    }
    let ops: Vec<_> = Op::offered(&device.capabilities()).map(|op| op.to_string()).collect();
    if args.json {
        let object = Operations { device: &args.device, ops };
        let text = serde_json::to_string(&object).map_err(|e| Error::failed("write JSON", e))?;
        out::print_line(&text)
    } else {
        out::print_line(&ops.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!(scaled(1_534_000.0), "1.53 M");
        assert_eq!(scaled(534_000.0), "534 k");
        assert_eq!(scaled(0.0), "0");
        assert_eq!(time(999), "999 ns");
        assert_eq!(time(15_300), "15.3 us");
        assert_eq!(time(2_000_000_000), "2.00 s");
    }
}
