//! Faults of the device that a reset has to do with.

use super::super::driver::ALL;
use super::{Driver, WRITTEN, accounts, bare, ids, ready, run, send, session, works};
use crate::FaultKind;

/// The device is in its error state, and said so.
fn broken(driver: &mut Driver) {
    assert_eq!((driver.status(), driver.interrupted(0)), (0x4f, true));
    assert_eq!((driver.sim.step(), ids(driver)), (0, vec![]));
    accounts(driver);
}

fn reset_function(driver: &Driver) -> Result<(), String> {
    let done = driver.function.reset().map_err(|error| error.to_string());
    driver.function.write_config(4, &6_u16.to_le_bytes()).unwrap();
    done
}

#[test]
fn the_error_state_takes_the_struck_request_with_it_and_ends_with_a_reset() {
    let (mut driver, first) = ready("fault=needs-reset@2");
    let (sent, used) = run(&mut driver, first, 4);
    assert_eq!(used, [(0, WRITTEN)]);
    assert!(!sent[1].done(&driver));
    broken(&mut driver);
    let stats = driver.sim.stats();
    assert_eq!((stats.taken, stats.dropped, stats.faults, stats.last_fault), (2, 1, 1, None));
    driver.start(ALL);
    works(&mut driver);
    assert_eq!(driver.sim.struck(FaultKind::NeedsReset), 1);
}

#[test]
fn what_waits_for_its_time_is_lost_in_the_error_state() {
    let (mut driver, session) = ready("latency=1ms,fault=needs-reset@3");
    assert_eq!(run(&mut driver, session, 4).1, []);
    broken(&mut driver);
    assert_eq!(driver.sim.stats().dropped, 3);
}

#[test]
fn the_error_state_comes_as_often_as_asked_for() {
    let (mut driver, mut id) = ready("fault=needs-reset@2:x2");
    for expected in [1, 0, 2] {
        assert_eq!(run(&mut driver, id, 2).1.len(), expected);
        driver.start(ALL);
        id = session(&mut driver);
    }
    // Before any request: each time that it is set up.
    let driver = bare("fault=needs-reset@0:x2");
    for expected in [0x4f, 0x4f, 0x0f] {
        driver.w8(20, 0);
        driver.w8(20, 3);
        driver.accept(driver.offered());
        driver.w8(20, 11);
        driver.w8(20, 15);
        assert_eq!(driver.status(), expected);
    }
}

#[test]
fn a_hanging_reset_is_ended_by_a_function_reset() {
    let (mut driver, session) = ready("fault=reset-hang");
    run(&mut driver, session, 1);
    broken(&mut driver);
    for value in [0, 0, 1, 0] {
        driver.w8(20, value);
        assert_eq!(driver.status(), 0x4f);
    }
    assert_eq!(driver.sim.stats().resets, 1, "the driver's first");
    reset_function(&driver).unwrap();
    assert_eq!(driver.status(), 0);
    driver.start(ALL);
    works(&mut driver);
    assert_eq!(driver.sim.struck(FaultKind::ResetHang), 1 + 3);
}

#[test]
fn resets_hang_as_often_as_asked_for() {
    let (mut driver, session) = ready("fault=reset-hang@1:x2");
    run(&mut driver, session, 1);
    driver.w8(20, 0);
    assert_eq!(driver.status(), 0x4f);
    driver.w8(20, 0);
    assert_eq!(driver.status(), 0x4f);
    driver.w8(20, 0);
    assert_eq!(driver.status(), 0);
    driver.start(ALL);
    works(&mut driver);
}

#[test]
fn resets_of_either_kind_fail() {
    let (mut driver, session) = ready("fault=reset-fails");
    reset_function(&driver).unwrap();
    driver.start(ALL);
    let again = self::session(&mut driver);
    let _ = session;
    run(&mut driver, again, 1);
    broken(&mut driver);
    for _ in 0..5 {
        driver.w8(20, 0);
        assert_eq!(driver.status(), 0x4f);
        let error = reset_function(&driver).unwrap_err();
        assert!(error.starts_with("cannot reset sim:virtio-crypto,"), "{error}");
        assert!(error.contains("fault=reset-fails") && !error.contains('\n'), "{error}");
    }
    // Three tries, of whichever kind.
    let (mut driver, session) = ready("fault=reset-fails:x3");
    run(&mut driver, session, 1);
    assert!(reset_function(&driver).is_err());
    driver.w8(20, 0);
    assert_eq!(driver.status(), 0x4f);
    assert!(reset_function(&driver).is_err());
    driver.start(ALL);
    works(&mut driver);
}

/// What is at the places of a request that the driver uses for something else by now.
fn scribble(driver: &Driver, sent: &[super::Sent]) {
    for sent in sent {
        driver.memory.write(sent.out as usize, &[0x11; WRITTEN as usize]).unwrap();
    }
}

fn written(driver: &Driver, sent: &super::Sent) -> bool {
    driver.get(sent.out, WRITTEN as usize) != [0x11; WRITTEN as usize]
}

#[test]
fn requests_in_flight_are_written_after_the_reset() {
    let (mut driver, session) = ready("fault=write-after-reset@2");
    let reference = send(&mut driver, session);
    driver.sim.step();
    let (sent, used) = run(&mut driver, session, 3);
    assert_eq!((used, ids(&mut driver)), (vec![(0, WRITTEN)], vec![]));
    broken(&mut driver);
    assert!(sent.iter().all(|sent| !sent.done(&driver)), "nothing is written yet");
    scribble(&driver, &sent);
    driver.w8(20, 0);
    let expected = driver.get(reference.out, WRITTEN as usize);
    for sent in &sent {
        assert_eq!(driver.get(sent.out, WRITTEN as usize), expected, "at once: bus mastering is on");
    }
    assert_eq!(ids(&mut driver), [1, 2, 3]);
    // Once only.
    scribble(&driver, &sent);
    driver.w8(20, 0);
    assert!(!sent.iter().any(|sent| written(&driver, sent)));
    driver.start(ALL);
    works(&mut driver);
    let stats = driver.sim.stats();
    assert_eq!((stats.struck, stats.dropped, stats.taken), (4, 3, 6));
}

#[test]
fn they_wait_for_bus_mastering_and_reach_only_what_is_mapped() {
    for unmapped in [false, true] {
        let (mut driver, session) = ready("fault=write-after-reset");
        let sent = run(&mut driver, session, 3).0;
        scribble(&driver, &sent);
        driver.function.reset().unwrap();
        assert!(!sent.iter().any(|sent| written(&driver, sent)));
        driver.function.write_config(4, &2_u16.to_le_bytes()).unwrap();
        assert!(!sent.iter().any(|sent| written(&driver, sent)), "memory space alone");
        if unmapped {
            driver.function.unmap_dma(&driver.mapping).unwrap();
        }
        driver.function.set_bus_master(true).unwrap();
        assert!(sent.iter().all(|sent| written(&driver, sent) != unmapped));
        assert_eq!(ids(&mut driver).len(), if unmapped { 0 } else { 3 });
    }
}

#[test]
fn only_so_many_are_written_after_the_reset() {
    let (mut driver, session) = ready("fault=write-after-reset:x2");
    let sent = run(&mut driver, session, 3).0;
    scribble(&driver, &sent);
    driver.w8(20, 0);
    assert_eq!(sent.iter().filter(|sent| written(&driver, sent)).count(), 2);
    assert_eq!(ids(&mut driver).len(), 2);
}
