//! A device that lies about itself.

use std::collections::BTreeSet;

use ringbell_drivers::pci::Capabilities;

use super::super::driver::ALL;
use super::{Driver, bare, ready, run, works};
use crate::{FaultKind, Sim};

fn sim(options: &str) -> Sim {
    options.parse().and_then(Sim::stepped).unwrap()
}

/// What is wrong with config space: the structures of the capabilities, and their list.
fn wrong_config(sim: &Sim) -> Option<&'static str> {
    let function = sim.function();
    let mut at = [0];
    function.read_config(0x34, &mut at).unwrap();
    for _ in 0..6 {
        let mut bytes = [0; 16];
        function.read_config(u16::from(at[0]), &mut bytes).unwrap();
        at[0] = bytes[1];
        let word = |at: usize| u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
        if bytes[0] == 9 && bytes[3] != 5 {
            match function.bar(bytes[4]) {
                None => return Some("bar"),
                Some(bar) if word(8) + word(12) > bar.size => return Some("capability"),
                Some(_) => {}
            }
        }
    }
    (at[0] != 0).then_some("loop")
}

/// What is wrong with the registers.
fn wrong_registers(driver: &Driver) -> Option<&'static str> {
    driver.w16(22, 0);
    let generation = driver.r8(21);
    match (driver.r16(24), driver.r16(30)) {
        (0, _) => Some("queue-size-0"),
        (65535, _) => Some("queue-size-65535"),
        (_, offset) if offset > 4 => Some("notify"),
        _ if driver.r8(21) != generation => Some("generation"),
        _ => None,
    }
}

#[test]
fn config_space_lies() {
    assert_eq!(wrong_config(&sim("")), None);
    for lie in ["capability", "bar", "loop"] {
        for seed in 0..10 {
            let sim = sim(&format!("seed={seed},fault=bad-config@0:{lie}"));
            for _ in 0..3 {
                assert_eq!(wrong_config(&sim), Some(lie));
                sim.function().reset().unwrap();
            }
            assert_eq!(Capabilities::read(&*sim.function()).is_err(), lie == "loop");
        }
    }
}

#[test]
fn registers_lie() {
    assert_eq!(wrong_registers(&bare("")), None);
    for lie in ["queue-size-0", "queue-size-65535", "notify", "generation"] {
        let driver = bare(&format!("fault=bad-config@0:{lie}"));
        for _ in 0..3 {
            assert_eq!(wrong_registers(&driver), Some(lie));
            driver.w8(20, 0);
        }
        driver.w16(22, 2);
        assert_eq!(driver.r16(24), 0, "there is no such queue");
    }
}

#[test]
fn the_device_lies_as_often_as_it_is_set_up_in_vain() {
    let mut driver = bare("fault=bad-config@0:queue-size-0:x2");
    for expected in [Some("queue-size-0"), Some("queue-size-0"), None] {
        // A reset alone is no setting-up: drivers reset a device that they find.
        driver.w8(20, 0);
        driver.function.reset().unwrap();
        driver.function.write_config(4, &6_u16.to_le_bytes()).unwrap();
        assert_eq!(wrong_registers(&driver), expected);
    }
    driver.start(ALL);
    works(&mut driver);
    assert_eq!(driver.sim.struck(FaultKind::BadConfig), 2);
    // Without the registers there is no reset: another look at the capabilities will do.
    let sim = sim("fault=bad-config@0:bar:x2");
    assert_eq!([(); 3].map(|()| wrong_config(&sim)), [Some("bar"), Some("bar"), None]);
}

#[test]
fn from_a_request_on_it_breaks_and_lies_after_the_reset() {
    let (mut driver, session) = ready("fault=bad-config@2:notify");
    assert_eq!(run(&mut driver, session, 3).1.len(), 1);
    assert_eq!((driver.status(), driver.interrupted(0)), (0x4f, true));
    assert_eq!(wrong_registers(&driver), None, "not before the reset");
    driver.w8(20, 0);
    assert_eq!(wrong_registers(&driver), Some("notify"));
}

#[test]
fn without_a_word_the_seed_chooses_among_all_lies() {
    let mut told = BTreeSet::new();
    for seed in 0..100 {
        let look = || {
            let sim = sim(&format!("seed={seed},fault=bad-config@0:once"));
            wrong_config(&sim).unwrap_or_else(|| {
                let function = sim.function();
                function.write_config(4, &6_u16.to_le_bytes()).unwrap();
                wrong_registers(&Driver::bare(sim)).unwrap_or("none")
            })
        };
        assert_eq!(look(), look());
        told.insert(look());
    }
    assert_eq!(told.len(), 7, "{told:?}");
}
