//! Hash functions: every short length, block ends, random lengths up to some MiB, in one buffer and in
//! several.

use ringbell::{Answer, Device, Hash, Hasher, WaitCtx};

use crate::common::{Rng, evp, output, run, scattered};
use crate::{device, length};

fn check(device: &Device, hasher: &Hasher, data: &[u8], pieces: usize, rng: &mut Rng, ctx: &WaitCtx) {
    let input = scattered(device, rng, data, pieces);
    let done = run(hasher.digest(input).unwrap(), ctx);
    let what = format!("{} of {} bytes in {pieces} buffers", hasher.hash(), data.len());
    assert_eq!(done.result(), Ok(Answer::Yes), "{what}");
    assert_eq!(output(&done), evp::hash(hasher.hash(), data), "{what}");
    assert_eq!(done.request().output().len(), hasher.hash().output_len());
    let (inputs, outputs) = done.into_request().into_pieces();
    assert!(inputs.to_vec() == data && outputs.is_empty(), "{what}: the input has changed");
}

#[test]
fn digests_of_every_short_length_are_as_libcrypto_says() {
    let (device, poller) = device("sim:");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(1));
    assert_eq!(device.capabilities().hashes, Hash::ALL);
    for hash in Hash::ALL {
        let hasher = device.hasher(hash).unwrap();
        for len in 0..=300 {
            let data = rng.bytes(len);
            let pieces = 1 + rng.below(4);
            check(&device, &hasher, &data, pieces, &mut rng, &ctx);
        }
    }
    poller.shutdown();
}

#[test]
fn digests_of_random_lengths_are_as_libcrypto_says() {
    let (device, poller) = device("sim:order=shuffle");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(2));
    for round in 0..400 {
        let hasher = device.hasher(Hash::ALL[rng.below(9)]).unwrap();
        let len = length(&mut rng, round);
        let data = rng.bytes(len);
        let pieces = if rng.one_in(2) { 1 } else { 1 + rng.below(20) };
        check(&device, &hasher, &data, pieces, &mut rng, &ctx);
    }
    let stats = device.stats();
    assert_eq!((stats.errors, stats.faults), (0, 0));
    poller.shutdown();
}

#[test]
fn a_request_used_again_with_another_length_has_another_digest() {
    let (device, poller) = device("sim:");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(3));
    let hasher = device.hasher(Hash::Sha3_256).unwrap();
    let mut request = hasher.digest(device.buffer(5000).unwrap()).unwrap();
    for _ in 0..100 {
        let len = rng.below(5001);
        request.set_len(len).unwrap();
        let data = rng.bytes(len);
        request.input_mut().copy_from_slice(&data);
        let done = run(request, &ctx);
        assert_eq!(output(&done), evp::hash(Hash::Sha3_256, &data));
        request = done.into_request();
    }
    poller.shutdown();
}
