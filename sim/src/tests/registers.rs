use std::os::fd::AsFd;

use nix::sys::eventfd::{EfdFlags, EventFd};
use ringbell_drivers::pci::{Capabilities, DmaReach};

use super::Driver;
use super::driver::{ALL, VERSION_1};
use crate::{Sim, SimConfig};

fn bare(text: &str) -> Driver {
    Driver::bare(text.parse().and_then(Sim::stepped).unwrap())
}

fn config16(driver: &Driver, at: u16) -> u16 {
    let mut data = [0; 2];
    driver.function.read_config(at, &mut data).unwrap();
    u16::from_le_bytes(data)
}

#[test]
fn config_space_is_that_of_qemus_device() {
    let driver = bare("");
    let function = &driver.function;
    assert_eq!(function.address(), "sim:virtio-crypto");
    assert_eq!(function.dma_reach(), DmaReach::Software);
    assert_eq!((config16(&driver, 0), config16(&driver, 2)), (0x1af4, 0x1054));
    assert_eq!((config16(&driver, 8), config16(&driver, 10)), (1, 0x00ff));
    let capabilities: Vec<_> =
        Capabilities::read(&**function).unwrap().iter().map(|c| (c.id, c.offset)).collect();
    assert_eq!(capabilities, [(0x11, 0x98), (9, 0x84), (9, 0x70), (9, 0x60), (9, 0x50), (9, 0x40)]);
    assert_eq!(config16(&driver, 0x9a), 2, "3 vectors, off");
    assert_eq!(function.interrupts().msix, 3);
    assert_eq!(bare("queues=64").function.interrupts().msix, 66);
    assert_eq!(bare("quirks=qemu").function.interrupts().msix, 2);
    assert_eq!(function.bar(4).map(|bar| bar.size), Some(16384));
    assert_eq!(function.bar(1).map(|bar| bar.size), Some(4096));
    assert_eq!((function.bar(0), function.bar(5)), (None, None));
    // Sizing.
    function.write_config(0x20, &[0xff; 8]).unwrap();
    let mut bar = [0; 8];
    function.read_config(0x20, &mut bar).unwrap();
    assert_eq!(u64::from_le_bytes(bar), !0x3fff | 0xc);
}

#[test]
fn memory_space_and_bus_mastering_matter() {
    let mut driver = Driver::new(Sim::stepped(SimConfig::default()).unwrap(), ALL);
    driver.function.write_config(4, &4_u16.to_le_bytes()).unwrap();
    assert_eq!((driver.r32(4), driver.r8(20)), (u32::MAX, 0xff));
    driver.w8(20, 0);
    driver.kick(0);
    assert_eq!(driver.sim.stats().bad_kicks, 1);
    driver.function.write_config(4, &2_u16.to_le_bytes()).unwrap();
    assert_eq!(driver.status(), 15);
    // Without bus mastering nothing moves; with it, it goes on.
    let place = driver.put(&super::driver::header(0, 3, 1, 16, 64, 64));
    let parts = [(place, 152, false), (place, 65, true)];
    driver.submit(0, &parts, false);
    assert_eq!((driver.sim.step(), driver.poll(0)), (0, None));
    driver.function.set_bus_master(true).unwrap();
    assert_eq!(driver.sim.step(), 1);
    driver.function.set_bus_master(false).unwrap();
    driver.submit(1, &parts, false);
    assert_eq!(driver.poll(1), None);
    driver.function.set_bus_master(true).unwrap();
    assert!(driver.poll(1).is_some(), "the control queue's kick was kept");
    driver.function.reset().unwrap();
    assert_eq!((config16(&driver, 4), driver.r8(20)), (0, 0xff));
    driver.function.write_config(4, &6_u16.to_le_bytes()).unwrap();
    assert_eq!(driver.status(), 0);
}

#[test]
fn kicks_wait_for_bus_mastering_on_the_thread_too() {
    let mut driver = Driver::new(Sim::threaded(SimConfig::default()).unwrap(), ALL);
    driver.function.set_bus_master(false).unwrap();
    let place = driver.put(&super::driver::header(0, 3, 1, 16, 64, 64));
    driver.submit(0, &[(place, 152, false), (place, 65, true)], false);
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(driver.poll(0), None);
    driver.function.set_bus_master(true).unwrap();
    driver.wait_for(|driver| driver.poll(0));
}

#[test]
fn features_are_agreed_on_by_the_rules() {
    let driver = bare("queues=3");
    assert_eq!(driver.offered(), 1 << 28 | 1 << 29 | 1 << 32 | 1 << 33 | 1 << 40);
    assert_eq!(bare("quirks=qemu").offered(), driver.offered());
    for (accepted, agreed) in [
        (driver.offered(), true),
        (VERSION_1 | 1 << 33, true),
        (VERSION_1, false),
        (1 << 28 | 1 << 33, false),
        (driver.offered() | 1 << 34, false),
        (0, false),
    ] {
        driver.w8(20, 0);
        driver.w8(20, 3);
        driver.accept(accepted);
        driver.w8(20, 11);
        assert_eq!(driver.status(), if agreed { 11 } else { 3 }, "{accepted:#x}");
    }
    let sim = Sim::stepped(SimConfig { features_off: 1 << 29, ..SimConfig::default() }).unwrap();
    assert_eq!(Driver::bare(sim).offered() & 1 << 29, 0);
}

#[test]
fn queue_registers_hold_what_is_written_and_a_reset_clears_them() {
    let driver = bare("queues=3,queue-size=256");
    driver.w8(20, 3);
    driver.accept(driver.offered());
    driver.w8(20, 11);
    assert_eq!(driver.r16(18), 4);
    for queue in 0..4 {
        driver.w16(22, queue);
        assert_eq!(
            (driver.r16(22), driver.r16(24), driver.r16(30), driver.r16(26)),
            (queue, 256, queue, 0xffff)
        );
    }
    driver.w16(22, 4);
    assert_eq!((driver.r16(24), driver.r16(28)), (0, 0));
    driver.w16(22, 2);
    driver.w16(24, 16);
    driver.w16(26, 4);
    assert_eq!((driver.r16(24), driver.r16(26)), (16, 4));
    driver.w16(26, 5);
    assert_eq!(driver.r16(26), 0xffff, "there is no vector 5");
    driver.w16(16, 3);
    assert_eq!(driver.r16(16), 3);
    driver.function.write_bar(4, 32, &0x1234_5678_9abc_def0_u64.to_le_bytes()).unwrap();
    assert_eq!((driver.r32(32), driver.r32(36)), (0x9abc_def0, 0x1234_5678));
    driver.w16(28, 1);
    driver.w16(24, 32);
    driver.w32(32, 0);
    driver.w16(28, 0);
    assert_eq!((driver.r16(24), driver.r32(32), driver.r16(28)), (16, 0x9abc_def0, 1), "enabled: frozen");
    driver.w16(58, 1);
    assert_eq!((driver.r16(58), driver.r16(28), driver.r16(24), driver.r32(32)), (0, 0, 256, 0));
    driver.w16(28, 1);
    driver.w8(20, 0);
    assert_eq!((driver.status(), driver.r16(16), driver.r16(22)), (0, 0xffff, 0));
    driver.w16(22, 2);
    assert_eq!((driver.r16(28), driver.r16(24)), (0, 256));
}

#[test]
fn the_device_config_says_what_there_is() {
    let driver = bare("queues=3");
    let config: Vec<u32> = (0..14).map(|at| driver.r32(0x2000 + 4 * at)).collect();
    assert_eq!(config, [1, 3, 0x1f, 0x201c, 0, 0x7fc, 0x400_007c, 0, 0xe, 64, 512, 2, 64 << 20, 0]);
    let driver = bare("quirks=qemu");
    let config: Vec<u32> = (0..12).map(|at| driver.r32(0x2000 + 4 * at)).collect();
    assert_eq!(config, [1, 1, 0x17, 8, 0, 4, 0, 0, 0, 64, 512, 2]);
    // Masks are those of what is offered.
    let driver = bare("services=mac+aead");
    let config: Vec<u32> = (0..12).map(|at| driver.r32(0x2000 + 4 * at)).collect();
    assert_eq!(config, [1, 1, 0xc, 0, 0, 0, 0x400_007c, 0, 0xe, 64, 512, 0]);
}

#[test]
fn the_legacy_interrupt_is_level_triggered_and_read_to_clear() {
    let mut driver = Driver::new(Sim::stepped(SimConfig::default()).unwrap(), ALL);
    driver.function.set_msix(&[]).unwrap();
    let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap();
    driver.function.set_intx(Some(event.as_fd())).unwrap();
    driver.create(3, 1, &[0; 16]).unwrap();
    assert_eq!(event.read().ok(), Some(1));
    assert_eq!(config16(&driver, 6) & 8, 8);
    driver.want_interrupt(1);
    driver.create(3, 1, &[0; 16]).unwrap();
    assert!(event.read().is_err(), "masked");
    driver.function.unmask_intx().unwrap();
    assert_eq!(event.read().ok(), Some(1), "still asserted");
    assert_eq!((driver.r8(0x1000), driver.r8(0x1000)), (1, 0));
    driver.function.unmask_intx().unwrap();
    assert!(event.read().is_err());
    driver.publish(0, 9999);
    driver.sim.step();
    assert_eq!((event.read().ok(), driver.r8(0x1000)), (Some(1), 2));
}

#[test]
fn registers_are_reached_through_config_space_too() {
    let driver = bare("");
    let window = |bar: u8, offset: u32, len: u32| {
        driver.function.write_config(0x88, &[bar]).unwrap();
        driver.function.write_config(0x8c, &offset.to_le_bytes()).unwrap();
        driver.function.write_config(0x90, &len.to_le_bytes()).unwrap();
    };
    window(4, 0x2004, 4);
    assert_eq!(config16(&driver, 0x94), 1, "max_dataqueues");
    window(4, 20, 1);
    driver.function.write_config(0x94, &[3]).unwrap();
    assert_eq!(driver.status(), 3);
    assert_eq!(config16(&driver, 0x94), 3);
    window(4, 0x3000, 2);
    driver.function.write_config(0x94, &[0, 0]).unwrap();
    assert_eq!(driver.sim.stats().kicks, 1);
    window(4, 0xffff_fffc, 4);
    driver.function.write_config(0x94, &[1, 2, 3, 4]).unwrap();
    config16(&driver, 0x94);
    window(4, 1, 2);
    config16(&driver, 0x94);
}

#[test]
fn a_doorbell_with_a_wrong_value_is_ignored() {
    let driver = Driver::new(Sim::stepped(SimConfig::default()).unwrap(), ALL);
    driver.function.doorbell(4, 0x3004).unwrap().ring(0);
    driver.w16(0x3000, 1);
    driver.w16(0x3000, 0);
    let stats = driver.sim.stats();
    assert_eq!((stats.kicks, stats.bad_kicks), (1, 2));
}
