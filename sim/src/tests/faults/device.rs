//! Faults of the control queue, of interrupts, of the configuration; removal.

use super::super::driver::{ALL, EVENT_IDX};
use super::{Driver, WRITTEN, accounts, bare, ids, ready, run, send, session, works};
use crate::{FaultKind, Sim};

/// A command that is not waited for: whether there is an answer.
fn command(driver: &mut Driver) -> bool {
    let control = driver.queues.len() - 1;
    let at = driver.put(&[0; 100]);
    driver.submit(control, &[(at, 72, false), (at + 72, 16, true)], false);
    driver.poll(control).is_some()
}

#[test]
fn the_control_queue_hangs_until_a_reset() {
    let (mut driver, id) = ready("fault=control-hang@2");
    let sent = run(&mut driver, id, 3).0;
    let statuses: Vec<_> = sent.iter().map(|sent| sent.status(&driver)).collect();
    assert_eq!(statuses, [0, 4, 4], "sessions are forgotten");
    assert!(!command(&mut driver) && !command(&mut driver));
    assert_eq!(driver.sim.stats().sessions, 0);
    driver.start(ALL);
    works(&mut driver);
    assert_eq!(driver.sim.struck(FaultKind::ControlHang), 3);
    assert_eq!(driver.sim.stats().dropped, 0, "commands are not counted as requests");
}

#[test]
fn the_control_queue_hangs_for_always_or_for_so_many_commands() {
    let mut driver = bare("fault=control-hang@0:always");
    for _ in 0..3 {
        driver.start(ALL);
        assert!(!command(&mut driver));
    }
    let mut driver = bare("fault=control-hang@0:x2");
    driver.start(ALL);
    assert!(!command(&mut driver));
    driver.start(ALL);
    assert_eq!([(); 3].map(|()| command(&mut driver)), [false, true, true]);
    works(&mut driver);
}

#[test]
fn there_is_no_room_for_sessions() {
    let (mut driver, id) = ready("fault=sessions-full@2:x2");
    let sent = run(&mut driver, id, 3).0;
    assert_eq!((sent[0].status(&driver), sent[2].status(&driver)), (0, 4));
    assert_eq!(driver.create(3, 1, &[1; 16]), Err(5));
    driver.start(ALL);
    assert_eq!(driver.create(3, 1, &[1; 16]), Err(5));
    works(&mut driver);
    let mut driver = bare("fault=sessions-full@0");
    for _ in 0..2 {
        driver.start(ALL);
        assert_eq!(driver.create(3, 1, &[1; 16]), Err(5));
    }
}

#[test]
fn interrupts_are_lost() {
    for (text, expected) in [
        ("fault=irq-lost@2", [true, false, false, false, false]),
        ("fault=irq-lost@2:x2", [true, false, false, true, true]),
        ("fault=irq-lost@0:once", [true, true, true, true, true]),
    ] {
        let (mut driver, id) = ready(text);
        driver.interrupted(2);
        let raised = [(); 5].map(|()| {
            driver.want_interrupt(0);
            assert_eq!(run(&mut driver, id, 1).1.len(), 1);
            driver.interrupted(1)
        });
        assert_eq!(raised, expected, "{text}");
        accounts(&driver);
    }
    // Before any request it is that of the first command.
    let (driver, _) = ready("fault=irq-lost@0:once");
    assert!(!driver.interrupted(2));
    // Those of the configuration are never lost.
    let (mut driver, id) = ready("fault=irq-lost@0,fault=needs-reset@1");
    run(&mut driver, id, 1);
    assert!(driver.interrupted(0));
}

/// How often a vector was signalled since the last look.
fn signals(driver: &Driver, vector: usize) -> u64 {
    let mut count = [0; 8];
    match nix::unistd::read(&driver.events[vector], &mut count) {
        Ok(_) => u64::from_ne_bytes(count),
        Err(_) => 0,
    }
}

#[test]
fn a_storm_raises_every_vector_at_most_64_times_a_round() {
    let mut driver = bare("fault=irq-storm@1:x100");
    driver.start(ALL & !EVENT_IDX);
    let id = session(&mut driver);
    signals(&driver, 2);
    run(&mut driver, id, 1);
    assert_eq!(signals(&driver, 1), 1, "the request's own: the storm begins with the next round");
    for expected in [64, 36, 0] {
        driver.sim.step();
        assert_eq!([0, 1, 2].map(|vector| signals(&driver, vector)), [expected; 3]);
    }
    assert_eq!((driver.sim.struck(FaultKind::IrqStorm), driver.r8(0x1000)), (100, 0));
    let (driver, _) = ready("fault=irq-storm@0");
    (0..20).for_each(|_| assert_eq!(driver.sim.step(), 0));
    assert_eq!((signals(&driver, 0), driver.sim.struck(FaultKind::IrqStorm)), (1000, 1000));
}

#[test]
fn a_storm_ends_with_a_reset_or_never() {
    for (text, after) in [("x1000", 0), ("always", 16)] {
        let (mut driver, _) = ready(&format!("fault=irq-storm@0:{text}"));
        driver.sim.step();
        assert!(signals(&driver, 0) != 0);
        driver.start(ALL);
        driver.sim.step();
        assert_eq!(signals(&driver, 0), after);
        works(&mut driver);
    }
}

#[test]
fn the_configuration_changes() {
    let (mut driver, id) = ready("fault=config-change@2:x2");
    assert_eq!(run(&mut driver, id, 3).1.len(), 3);
    assert_eq!((driver.r8(21), driver.interrupted(0), driver.r8(0x1000)), (2, true, 2));
    assert_eq!((driver.status(), driver.r32(0x2000)), (15, 1));
    works(&mut driver);
}

#[test]
fn the_hardware_is_not_ready_until_a_reset() {
    for always in [false, true] {
        let text = format!("fault=config-change@2:not-ready{}", if always { ":always" } else { "" });
        let (mut driver, id) = ready(&text);
        assert_eq!(driver.r32(0x2000), 1);
        let sent = run(&mut driver, id, 3).0;
        let statuses: Vec<_> = sent.iter().map(|sent| sent.status(&driver)).collect();
        assert_eq!((statuses, driver.r32(0x2000)), (vec![0, 1, 1], 0));
        assert!(driver.interrupted(0) && !sent[1].done(&driver));
        driver.start(ALL);
        assert_eq!(driver.r32(0x2000), u32::from(!always));
    }
}

#[test]
fn a_function_that_was_removed_reads_as_all_ones_for_ever() {
    let (mut driver, id) = ready("fault=remove@2");
    let (sent, used) = run(&mut driver, id, 3);
    assert_eq!(used, [(0, WRITTEN)], "what was completed before");
    assert!(!sent[1].done(&driver));
    for _ in 0..2 {
        assert_eq!((driver.r8(20), driver.r16(18), driver.r32(0x2000)), (0xff, 0xffff, u32::MAX));
        let mut config = [0; 64];
        driver.function.read_config(0, &mut config).unwrap();
        assert_eq!(config, [0xff; 64]);
        let stats = driver.sim.stats();
        driver.w8(20, 0);
        driver.function.write_config(4, &6_u16.to_le_bytes()).unwrap();
        driver.kick(0);
        driver.kick(1);
        driver.w16(0x3000, 0);
        send(&mut driver, id);
        driver.sim.inject("irq-storm@0".parse().unwrap());
        driver.sim.step();
        assert_eq!(driver.sim.stats(), stats, "nothing reaches it, it does nothing");
        assert_eq!(stats.device_status, 0xff);
        assert!(!driver.interrupted(0));
        for (error, attempted) in [
            (driver.function.set_bus_master(false), "cannot turn off bus mastering of sim:"),
            (driver.function.reset(), "cannot reset sim:"),
        ] {
            let error = error.unwrap_err().to_string();
            assert!(error.starts_with(attempted) && error.ends_with("(fault=remove)"), "{error}");
        }
    }
    // The kernel's part goes on: memory, eventfds.
    let mapping = driver.function.map_dma(driver.memory.fd(), 0, 4096).unwrap();
    driver.function.unmap_dma(&mapping).unwrap();
    driver.function.unmap_dma(&driver.mapping).unwrap();
    driver.function.set_msix(&[]).unwrap();
    driver.function.set_intx(None).unwrap();
    driver.function.unmask_intx().unwrap();
    assert_eq!((driver.sim.struck(FaultKind::Remove), ids(&mut driver)), (1, vec![]));
    accounts(&driver);
}

#[test]
fn a_function_may_never_have_been_there() {
    let sim = Sim::stepped("fault=remove@0".parse().unwrap()).unwrap();
    let mut id = [0; 2];
    sim.function().read_config(0, &mut id).unwrap();
    assert_eq!(id, [0xff; 2]);
}
