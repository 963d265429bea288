//! Faults: what each kind does, as a driver sees it.

mod device;
mod injected;
mod requests;
mod resets;
mod setup;

use super::Driver;
use super::driver::{ALL, header};
use crate::{FaultKind, Sim};

/// Bytes of a request's data.
const DATA: u32 = 64;
/// What is written where everything goes right: the data and the status.
const WRITTEN: u32 = DATA + 1;

/// A stepped device with those options, its driver not started.
fn bare(options: &str) -> Driver {
    let comma = if options.is_empty() { "" } else { "," };
    Driver::bare(format!("queue-size=16{comma}{options}").parse().and_then(Sim::stepped).unwrap())
}

/// The same with a driver that has set it up, and a session.
fn ready(options: &str) -> (Driver, u64) {
    let mut driver = bare(options);
    driver.start(ALL);
    let session = session(&mut driver);
    (driver, session)
}

fn session(driver: &mut Driver) -> u64 {
    driver.create(3, 1, &[7; 16]).unwrap()
}

/// A request that was submitted.
struct Sent {
    head: u16,
    /// Where its data and status are to be.
    out: u64,
}

impl Sent {
    fn status(&self, driver: &Driver) -> u8 {
        driver.get(self.out + u64::from(DATA), 1)[0]
    }

    /// Whether the device wrote the data.
    fn done(&self, driver: &Driver) -> bool {
        driver.get(self.out, DATA as usize) != [0xee; DATA as usize]
    }
}

fn send_to(driver: &mut Driver, queue: usize, session: u64) -> Sent {
    let request = [header(0, 3, session, 16, DATA, DATA), vec![1; 16 + DATA as usize]].concat();
    let input = driver.put(&request);
    let out = driver.put(&[0xee; WRITTEN as usize]);
    let head = driver.submit(queue, &[(input, request.len() as u32, false), (out, WRITTEN, true)], true);
    Sent { head, out }
}

fn send(driver: &mut Driver, session: u64) -> Sent {
    send_to(driver, 0, session)
}

/// All used elements that are there.
fn used(driver: &mut Driver) -> Vec<(u32, u32)> {
    std::iter::from_fn(|| driver.poll(0)).collect()
}

fn ids(driver: &mut Driver) -> Vec<u32> {
    used(driver).iter().map(|(id, _)| *id).collect()
}

/// Submits so many requests at once, lets the device work: the requests, and what it used.
fn run(driver: &mut Driver, session: u64, count: usize) -> (Vec<Sent>, Vec<(u32, u32)>) {
    let sent = (0..count).map(|_| send(driver, session)).collect();
    driver.sim.step();
    let used = used(driver);
    (sent, used)
}

/// The ids that come of so many requests on a fresh device with those options.
fn ids_of(options: &str, count: usize) -> Vec<u32> {
    let (mut driver, session) = ready(options);
    run(&mut driver, session, count).1.iter().map(|(id, _)| *id).collect()
}

/// It completes requests.
fn works(driver: &mut Driver) {
    let session = session(driver);
    let (sent, used) = run(driver, session, 2);
    assert_eq!(used, [(u32::from(sent[0].head), WRITTEN), (u32::from(sent[1].head), WRITTEN)]);
    assert!(sent.iter().all(|sent| sent.status(driver) == 0 && sent.done(driver)));
    accounts(driver);
}

/// What was taken is accounted for, and the driver was not blamed.
fn accounts(driver: &Driver) {
    let stats = driver.sim.stats();
    let held = stats.taken - stats.completed - stats.dropped;
    assert!(held <= 16, "{stats:?}");
    assert_eq!(stats.last_fault, None);
    let each: u64 = FaultKind::ALL.iter().map(|kind| driver.sim.struck(*kind)).sum();
    assert_eq!(stats.struck, each);
}
