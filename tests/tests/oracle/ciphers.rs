//! Ciphers of the device against libcrypto, byte for byte: seeded sizes from nothing to 8 MiB, all ciphers,
//! both directions, in place and into another buffer, from unaligned memory of the caller; and long
//! streams cut into chained requests at random places.

use ringbell::{Answer, Cipher, CipherKey, Device, Direction, Mode, WaitCtx};

use crate::common::{Rng, oracle, run};
use crate::device;

const LARGEST: usize = 8 << 20;

fn directions() -> [Direction; 2] {
    [Direction::Encrypt, Direction::Decrypt]
}

/// A slice that starts at an odd place of ordinary memory.
fn unaligned(rng: &mut Rng, len: usize) -> (Vec<u8>, usize) {
    let shift = 1 + rng.below(15);
    (rng.bytes(len + shift), shift)
}

fn check(
    device: &Device,
    (cipher, key_bytes): (Cipher, &[u8]),
    direction: Direction,
    in_place: bool,
    len: usize,
    rng: &mut Rng,
    ctx: &WaitCtx,
) {
    let key = device.cipher_key(cipher, key_bytes).unwrap();
    let iv = rng.bytes(cipher.iv_len());
    let (memory, shift) = unaligned(rng, len);
    let data = &memory[shift..];
    let input = device.buffer_from(data).unwrap();
    let output = (!in_place).then(|| {
        let mut output = device.buffer(len).unwrap();
        output.fill(0xa5);
        output
    });
    let done = run(key.request(direction, &iv, input, output), ctx);
    let what = format!("{cipher} {direction:?} {len} bytes, in place: {in_place}");
    assert_eq!(done.result(), Ok(Answer::Yes), "{what}");
    let expected = oracle(cipher, direction, key_bytes, &iv, data);
    assert!(done.request().output() == expected, "{what}");
    if !in_place {
        assert!(done.request().input() == data, "{what}: the input has changed");
    }
}

fn length(cipher: Cipher, len: usize) -> usize {
    (len / cipher.granule() * cipher.granule()).max(cipher.least())
}

#[test]
fn every_short_length_is_as_libcrypto_says() {
    let (device, poller) = device("sim:");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(1));
    for cipher in Cipher::ALL {
        let key = rng.bytes(cipher.key_len());
        for direction in directions() {
            for in_place in [true, false] {
                for len in (cipher.least()..=272).step_by(cipher.granule()) {
                    check(&device, (cipher, &key), direction, in_place, len, &mut rng, &ctx);
                }
            }
        }
    }
    poller.shutdown();
}

#[test]
fn random_lengths_keys_and_ivs_are_as_libcrypto_says() {
    let (device, poller) = device("sim:order=shuffle");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(2));
    for round in 0..1200 {
        let cipher = Cipher::ALL[rng.below(Cipher::ALL.len())];
        let key = rng.bytes(cipher.key_len());
        let largest = if round % 40 == 0 { 1 << 20 } else { 1 << (4 + rng.below(13)) };
        let len = length(cipher, rng.below(largest + 1));
        let (direction, in_place) = (directions()[rng.below(2)], rng.one_in(2));
        check(&device, (cipher, &key), direction, in_place, len, &mut rng, &ctx);
    }
    assert_eq!(device.stats().errors, 0);
    poller.shutdown();
}

#[test]
fn lengths_around_pages_and_up_to_8_mib_are_as_libcrypto_says() {
    let (device, poller) = device("sim:");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(3));
    for cipher in Cipher::ALL {
        let key = rng.bytes(cipher.key_len());
        for direction in directions() {
            for len in [4080, 4096, 4112, 65_520, 65_536, 65_552] {
                check(&device, (cipher, &key), direction, rng.one_in(2), len, &mut rng, &ctx);
            }
            let large = length(cipher, (1 << 20) + rng.below(LARGEST - (1 << 20)));
            check(&device, (cipher, &key), direction, rng.one_in(2), large, &mut rng, &ctx);
        }
        check(&device, (cipher, &key), Direction::Encrypt, true, LARGEST, &mut rng, &ctx);
        check(&device, (cipher, &key), Direction::Decrypt, false, LARGEST, &mut rng, &ctx);
    }
    for cipher in Cipher::ALL.into_iter().filter(|cipher| cipher.granule() == 1) {
        let key = rng.bytes(cipher.key_len());
        for len in [1, 15, 17, 4095, 4097, 65_535, LARGEST - 1] {
            let len = len.max(cipher.least());
            check(&device, (cipher, &key), Direction::Encrypt, false, len, &mut rng, &ctx);
            check(&device, (cipher, &key), Direction::Decrypt, true, len, &mut rng, &ctx);
        }
    }
    poller.shutdown();
}

#[test]
fn a_counter_carries_over_all_its_128_bits() {
    let (device, poller) = device("sim:");
    let ctx = WaitCtx::new();
    for cipher in [Cipher::Aes128Ctr, Cipher::Aes192Ctr, Cipher::Aes256Ctr] {
        let key_bytes = vec![7; cipher.key_len()];
        let key = device.cipher_key(cipher, &key_bytes).unwrap();
        for ones in 0..=16 {
            let mut iv = [0x5a; 16];
            iv[16 - ones..].fill(0xff);
            let data = vec![3; 100];
            let done = run(key.encrypt(&iv, device.buffer_from(&data).unwrap()), &ctx);
            let expected = oracle(cipher, Direction::Encrypt, &key_bytes, &iv, &data);
            assert_eq!(done.request().output(), expected, "{cipher}, {ones} bytes of ones");
        }
    }
    poller.shutdown();
}

/// The counter block `blocks` further on.
fn counter(iv: &[u8], blocks: usize) -> Vec<u8> {
    let first = u128::from_be_bytes(iv.try_into().unwrap());
    first.wrapping_add(blocks as u128).to_be_bytes().to_vec()
}

/// Cuts `data` into requests at random blocks and hands the IV on by hand.
fn chained(
    key: &CipherKey,
    direction: Direction,
    iv: &[u8],
    data: &[u8],
    rng: &mut Rng,
    ctx: &WaitCtx,
) -> Vec<u8> {
    let (mut iv, mut out, mut rest) = (iv.to_vec(), Vec::new(), data);
    while !rest.is_empty() {
        let blocks = 1 + rng.below(64);
        let (piece, behind) = rest.split_at(rest.len().min(16 * blocks));
        let done = run(key.request(direction, &iv, key.device().buffer_from(piece).unwrap(), None), ctx);
        assert_eq!(done.result(), Ok(Answer::Yes));
        let result = done.request().output();
        iv = match (key.cipher().mode(), direction) {
            (Mode::Ctr, _) => counter(&iv, piece.len().div_ceil(16)),
            (_, Direction::Encrypt) => result[result.len() - 16..].to_vec(),
            (_, Direction::Decrypt) => piece[piece.len() - 16..].to_vec(),
        };
        out.extend_from_slice(result);
        rest = behind;
    }
    out
}

#[test]
fn streams_cut_into_requests_at_random_places_are_as_libcrypto_says() {
    let (device, poller) = device("sim:queues=2,order=shuffle");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(4));
    // A request of XTS is a data unit: there is nothing to chain.
    for cipher in Cipher::ALL.into_iter().filter(|cipher| !matches!(cipher.mode(), Mode::Ecb | Mode::Xts)) {
        for direction in directions() {
            for _ in 0..4 {
                let (key_bytes, iv) = (rng.bytes(cipher.key_len()), rng.bytes(16));
                let key = device.cipher_key(cipher, &key_bytes).unwrap();
                let wanted = rng.below(40_000);
                let data = rng.bytes(length(cipher, wanted));
                let got = chained(&key, direction, &iv, &data, &mut rng, &ctx);
                assert!(got == oracle(cipher, direction, &key_bytes, &iv, &data), "{cipher} {direction:?}");
            }
        }
    }
    poller.shutdown();
}

#[test]
fn a_request_used_again_with_another_iv_and_length_is_as_libcrypto_says() {
    let (device, poller) = device("sim:");
    let (ctx, mut rng) = (WaitCtx::new(), Rng::new(5));
    let key_bytes = rng.bytes(16);
    let key = device.cipher_key(Cipher::Aes128Ctr, &key_bytes).unwrap();
    let mut request = key.encrypt(&[0; 16], device.buffer(4096).unwrap());
    for _ in 0..200 {
        let (len, iv) = (rng.below(4097), rng.bytes(16));
        request.set_len(len).unwrap();
        request.set_iv(&iv);
        let data = rng.bytes(len);
        request.input_mut().copy_from_slice(&data);
        let done = run(request, &ctx);
        assert_eq!(
            done.request().output(),
            oracle(Cipher::Aes128Ctr, Direction::Encrypt, &key_bytes, &iv, &data)
        );
        request = done.into_request();
    }
    poller.shutdown();
}
