//! Faults that are added at run time.

use super::super::driver::ALL;
use super::{Driver, WRITTEN, ids_of, ready, run, session, used, works};
use crate::{FaultKind, Sim};

#[test]
fn the_number_of_an_injected_fault_counts_from_its_injection() {
    let (mut driver, session) = ready("");
    run(&mut driver, session, 3);
    driver.sim.inject("drop@2".parse().unwrap());
    let used = run(&mut driver, session, 3).1;
    assert_eq!(used, [(3, WRITTEN), (5, WRITTEN)]);
    driver.sim.inject(FaultKind::Drop.into());
    assert_eq!(run(&mut driver, session, 2).1, [(7, WRITTEN)]);
    driver.sim.inject("drop@0".parse().unwrap());
    assert_eq!(run(&mut driver, session, 2).1, [(9, WRITTEN)], "a request is needed to be struck");
    assert_eq!(driver.sim.struck(FaultKind::Drop), 3);
}

#[test]
fn at_0_the_device_is_struck_at_once() {
    for (text, status) in [("needs-reset@0", 0x4f), ("reset-hang@0:x1", 0x4f), ("config-change@0", 0x0f)] {
        let (driver, _) = ready("");
        driver.sim.inject(text.parse().unwrap());
        assert_eq!((driver.status(), driver.interrupted(0)), (status, true), "{text}");
        assert_eq!(driver.sim.stats().struck, 1);
    }
    let (driver, _) = ready("");
    driver.sim.inject("remove@0".parse().unwrap());
    assert_eq!(driver.status(), 0xff);
    let (mut driver, lost) = ready("");
    driver.sim.inject("sessions-full@0".parse().unwrap());
    assert_eq!((driver.create(3, 1, &[1; 16]), driver.destroy(lost)), (Err(5), 4));
}

#[test]
fn a_device_that_is_not_set_up_is_struck_when_it_is() {
    let mut driver = super::bare("");
    driver.sim.inject("config-change@0".parse().unwrap());
    assert_eq!(driver.sim.stats().struck, 0);
    driver.start(ALL);
    assert!(driver.interrupted(0));
    assert_eq!((driver.sim.stats().struck, driver.r8(21)), (1, 1));
    works(&mut driver);
}

#[test]
fn a_threaded_device_is_struck_too() {
    let mut driver = Driver::new(Sim::threaded("".parse().unwrap()).unwrap(), ALL);
    session(&mut driver);
    driver.sim.inject("irq-storm@0:x100".parse().unwrap());
    driver.wait_for(|driver| (driver.sim.struck(FaultKind::IrqStorm) == 100).then_some(()));
    assert!((0..3).all(|vector| driver.interrupted(vector)));
    driver.sim.inject("needs-reset@0".parse().unwrap());
    assert_eq!(driver.status(), 0x4f);
    driver.start(ALL);
    session(&mut driver);
}

#[test]
fn a_threaded_device_is_removed_at_work() {
    let mut driver = Driver::new(Sim::threaded("fault=remove@100".parse().unwrap()).unwrap(), ALL);
    let id = session(&mut driver);
    // As many as it takes, however late the device's thread is.
    let mut left = 100;
    driver.wait_for(|driver| {
        if left > 0 {
            super::send(driver, id);
            left -= 1;
        }
        driver.poll(0);
        (driver.status() == 0xff).then_some(())
    });
    let stats = driver.sim.stats();
    assert_eq!((stats.taken, stats.completed, stats.dropped, stats.last_fault), (100, 99, 1, None));
}

#[test]
fn requests_that_were_taken_before_are_as_they_were() {
    let (mut driver, session) = ready("latency=1ms,order=shuffle");
    run(&mut driver, session, 8);
    driver.sim.inject("drop:always".parse().unwrap());
    driver.sim.advance(std::time::Duration::from_millis(1));
    assert_eq!((driver.sim.step(), used(&mut driver).len()), (8, 8));
    // The order is what it would have been.
    let order = ids_of("latency=0,order=shuffle", 8);
    assert_eq!(order.len(), 8);
}
