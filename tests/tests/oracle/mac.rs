//! Message authentication codes: HMAC with keys of any length, CMAC.

use ringbell::{Answer, Device, Error, Mac, WaitCtx};

use crate::common::{Rng, evp, output, run, scattered};
use crate::{device, length};

fn check(device: &Device, mac: Mac, key: &[u8], data: &[u8], pieces: usize, rng: &mut Rng, ctx: &WaitCtx) {
    let handle = device.mac_key(mac, key).unwrap();
    let done = run(handle.compute(scattered(device, rng, data, pieces)).unwrap(), ctx);
    let what = format!("{mac}, a key of {}, {} bytes in {pieces} buffers", key.len(), data.len());
    assert_eq!(done.result(), Ok(Answer::Yes), "{what}");
    assert_eq!(output(&done), evp::mac(mac, key, data), "{what}");
    assert_eq!(output(&done).len(), mac.output_len(), "{what}");
}

fn a_key_of(mac: Mac, rng: &mut Rng) -> Vec<u8> {
    let (least, most) = (*mac.key_lens().start(), (*mac.key_lens().end()).min(200));
    let len = least + rng.below(most - least + 1);
    rng.bytes(len)
}

#[test]
fn codes_with_keys_of_every_length_are_as_libcrypto_says() {
    let (device, poller) = device("sim:");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(1));
    assert_eq!(device.capabilities().macs, Mac::ALL);
    for mac in Mac::ALL {
        let most = device.capabilities().max_mac_key;
        assert!(most >= 200, "{most}");
        // Beyond a block of the hash function a key is hashed first.
        for len in (1..=200).chain([most]).filter(|len| mac.key_lens().contains(len)) {
            let (key, size) = (rng.bytes(len), rng.below(100));
            let data = rng.bytes(size);
            check(&device, mac, &key, &data, 1, &mut rng, &ctx);
        }
        let refused = device.mac_key(mac, &rng.bytes(most.max(*mac.key_lens().end()) + 1)).unwrap_err();
        assert!(matches!(refused, Error::Invalid(_)), "{refused}");
    }
    poller.shutdown();
}

#[test]
fn codes_of_every_short_length_are_as_libcrypto_says() {
    let (device, poller) = device("sim:");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(2));
    for mac in Mac::ALL {
        let key = a_key_of(mac, &mut rng);
        for len in 0..=272 {
            let data = rng.bytes(len);
            let pieces = 1 + rng.below(4);
            check(&device, mac, &key, &data, pieces, &mut rng, &ctx);
        }
    }
    poller.shutdown();
}

#[test]
fn codes_of_random_lengths_are_as_libcrypto_says() {
    let (device, poller) = device("sim:order=shuffle");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(3));
    for round in 0..400 {
        let mac = Mac::ALL[rng.below(8)];
        let (key, len) = (a_key_of(mac, &mut rng), length(&mut rng, round));
        let data = rng.bytes(len);
        let pieces = if rng.one_in(2) { 1 } else { 1 + rng.below(20) };
        check(&device, mac, &key, &data, pieces, &mut rng, &ctx);
    }
    let stats = device.stats();
    assert_eq!((stats.errors, stats.faults), (0, 0));
    poller.shutdown();
}
