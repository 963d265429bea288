//! The states of a device, as `state()`, the log and the counters tell them.

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ringbell::{Clock, DeviceOptions, DeviceState, ManualClock, PollerConfig};

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// The changes of state, in order.
    fn changes(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap();
        let change = |line: &str| {
            let (_, change) = line.split_once("device state ")?;
            let from = change.split_once("from=")?.1.split_whitespace().next()?;
            let to = change.split_once("to=")?.1.split_whitespace().next()?;
            Some(format!("{from} {to}"))
        };
        text.lines().filter_map(change).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn every_change_of_state_is_an_event_and_the_pauses_grow() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        let clock = ManualClock::new();
        let config = PollerConfig {
            clock: Clock::Manual(clock.clone()),
            recovery_tries: 4,
            recovery_pause: Duration::from_millis(10),
            ..Default::default()
        };
        let options = DeviceOptions { control_timeout: Duration::from_millis(5), ..DeviceOptions::default() };
        let (sim, device, mut poller) = common::stepped("", &options, config);
        // One that comes back, and one that does not: how long each took, in ms.
        let took = ["needs-reset@0", "reset-fails@0"].map(|fault| {
            sim.inject(fault.parse().unwrap());
            let faults = device.stats().faults;
            let mut resetting = 0;
            for _ in 0..3000 {
                clock.advance(Duration::from_millis(1));
                poller.poll();
                resetting += u64::from(device.state() == DeviceState::Resetting);
            }
            assert_eq!(device.stats().faults, faults + 1);
            resetting
        });
        assert_eq!(device.state(), DeviceState::Failed);
        assert_eq!(took[0], 0, "a device that can be reset is back within the poll that found the fault");
        // Four tries of 5 ms, and 10, 40 and 160 ms between them.
        assert!((210..=260).contains(&took[1]), "{} ms", took[1]);
        poller.shutdown();
        let stats = device.stats();
        assert_eq!((stats.faults, stats.recoveries), (2, 1));
    });
    let changes = log.changes();
    let states = ["Ready Resetting", "Resetting Ready", "Ready Resetting", "Resetting Failed"];
    assert_eq!(changes, states);
}
