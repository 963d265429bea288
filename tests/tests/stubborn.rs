//! A device that nothing stops: neither a reset nor the command register. Behind an IOMMU its memory is
//! taken away from it, so nothing is leaked and nothing stays open.

use std::sync::Arc;
use std::time::Duration;

use ringbell::sim::Sim;
use ringbell::{Cipher, Device, DeviceOptions, DeviceState, Fault, ManualPoller, PollerConfig, WaitCtx};
use ringbell_tests::meddler::Meddler;

#[test]
fn a_device_that_cannot_be_stopped_loses_its_mapping_and_nothing_is_leaked() {
    let sim = Sim::stepped("latency=1s".parse().unwrap()).unwrap();
    let meddler = Meddler::new(sim.function(), 0);
    let options = DeviceOptions { control_timeout: Duration::from_millis(20), ..Default::default() };
    let device = Device::from_function(meddler.clone(), &options).unwrap();
    let config = PollerConfig { grace: Duration::from_millis(1), ..Default::default() };
    let poller = ManualPoller::new([&device], config).unwrap();
    let key = device.cipher_key(Cipher::Aes128Cbc, &[1; 16]).unwrap();
    key.prepare().unwrap();
    let ctx = WaitCtx::new();
    let free = device.free_bytes();
    key.encrypt(&[0; 16], device.buffer_from(&[7; 65_536]).unwrap())
        .submit(&ctx)
        .map_err(|refused| refused.to_error())
        .unwrap();
    sim.step(); // taken, not due

    meddler.be_stubborn();
    poller.shutdown();
    assert_eq!(ctx.take().unwrap().result(), Err(Fault::Shutdown));
    assert_eq!((device.state(), meddler.unmapped()), (DeviceState::Closed, 1));
    let stats = device.stats();
    assert_eq!((stats.accepted, stats.errors, stats.leaked_bytes), (1, 1, 0));
    // What the device had is free again: it cannot be reached any more. (The control queue keeps a
    // buffer for a second command.)
    assert!(device.free_bytes() > free - 1024, "{} of {free}", device.free_bytes());
    // The device goes on, into nothing.
    sim.advance(Duration::from_secs(2));
    sim.step();

    drop((key, ctx, device));
    assert_eq!(meddler.unmapped(), 1, "once");
    assert_eq!(Arc::strong_count(&meddler), 1, "nothing holds the function any more");
}
