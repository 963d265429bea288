//! RSA keys in all the forms that libcrypto writes, and what is no such key.

use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::symm::Cipher;
use ringbell::{Answer, Device, Error, RsaHash, RsaPadding, WaitCtx};

use crate::common::evp::{RSA_SIZES, rsa_key, rsa_pem, rsa_sign};
use crate::common::{output, run};
use crate::device;

const PKCS1: RsaPadding = RsaPadding::Pkcs1(RsaHash::Sha256);

#[test]
fn keys_in_every_form_sign_and_verify_the_same() {
    let (device, poller) = device("sim:");
    let (ctx, digest) = (WaitCtx::new(), [0x42; 32]);
    for bits in RSA_SIZES {
        let oracle = rsa_key(bits);
        let signature = rsa_sign(&oracle, RsaHash::Sha256, &digest);
        let pkey = PKey::from_rsa(oracle.clone()).unwrap();
        let text = |head: &str, pem: Vec<u8>| [head.as_bytes(), &pem].concat();
        for (form, private) in [
            ("PKCS #1, DER", oracle.private_key_to_der().unwrap()),
            ("PKCS #1, PEM", oracle.private_key_to_pem().unwrap()),
            ("PKCS #8, DER", pkey.private_key_to_pkcs8().unwrap()),
            ("PKCS #8, PEM", pkey.private_key_to_pem_pkcs8().unwrap()),
            ("PEM behind text", text("Private-Key: (some bits)\n\n", oracle.private_key_to_pem().unwrap())),
            (
                "PEM of another system",
                String::from_utf8(pkey.private_key_to_pem_pkcs8().unwrap())
                    .unwrap()
                    .replace('\n', "\r\n")
                    .into(),
            ),
        ] {
            let key = device.rsa_key(PKCS1, &private).unwrap_or_else(|e| panic!("{form}, {bits} bits: {e}"));
            assert_eq!((key.bits(), key.is_private()), (bits, true), "{form}");
            let signed = run(key.sign(device.buffer_from(&digest).unwrap()).unwrap(), &ctx);
            assert_eq!(output(&signed), signature, "{form}, {bits} bits");
        }
        for (form, public) in [
            ("PKCS #1, DER", oracle.public_key_to_der_pkcs1().unwrap()),
            ("PKCS #1, PEM", oracle.public_key_to_pem_pkcs1().unwrap()),
            ("SubjectPublicKeyInfo, DER", oracle.public_key_to_der().unwrap()),
            ("SubjectPublicKeyInfo, PEM", oracle.public_key_to_pem().unwrap()),
        ] {
            let key = device.rsa_key(PKCS1, &public).unwrap_or_else(|e| panic!("{form}, {bits} bits: {e}"));
            assert_eq!((key.bits(), key.is_private()), (bits, false), "{form}");
            let request =
                key.verify(device.buffer_from(&signature).unwrap(), device.buffer_from(&digest).unwrap());
            assert_eq!(run(request.unwrap(), &ctx).result(), Ok(Answer::Yes), "{form}, {bits} bits");
            for refused in [
                key.sign(device.buffer_from(&digest).unwrap()),
                key.decrypt(device.buffer(key.size()).unwrap()),
            ] {
                let why = refused.unwrap_err().to_string();
                assert!(why.contains("public"), "{why}");
            }
        }
    }
    poller.shutdown();
}

fn refusal(device: &Device, key: &[u8]) -> String {
    let error = device.rsa_key(PKCS1, key).expect_err("no such key");
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn what_is_no_rsa_key_is_a_clear_error() {
    let device = Device::open("sim:").unwrap();
    let rsa = rsa_key(2048);
    let pkey = PKey::from_rsa(rsa.clone()).unwrap();
    let encrypted = pkey.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"secret").unwrap();
    assert!(refusal(&device, &encrypted).contains("encrypted"));
    // The older form says so in a header of the PEM.
    let encrypted = rsa.private_key_to_pem_passphrase(Cipher::aes_128_cbc(), b"secret").unwrap();
    assert!(String::from_utf8_lossy(&encrypted).contains("Proc-Type"));
    let why = refusal(&device, &encrypted);
    assert!(why.contains("encrypted"), "{why}");

    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let ec = EcKey::generate(&group).unwrap();
    let ec = PKey::from_ec_key(ec).unwrap();
    for key in [
        ec.private_key_to_pem_pkcs8().unwrap(),
        ec.private_key_to_pkcs8().unwrap(),
        ec.public_key_to_pem().unwrap(),
        ec.public_key_to_der().unwrap(),
    ] {
        let why = refusal(&device, &key);
        assert!(why.contains("another algorithm"), "{why}");
    }
    let why = refusal(&device, &ec.ec_key().unwrap().private_key_to_pem().unwrap());
    assert!(why.contains("EC PRIVATE KEY"), "{why}");

    for bits in [512, 1016] {
        let small = Rsa::generate(bits).unwrap();
        for key in [small.private_key_to_der().unwrap(), small.public_key_to_pem().unwrap()] {
            let why = refusal(&device, &key);
            assert!(why.contains(&bits.to_string()) && why.contains("1024 to 4096"), "{why}");
        }
    }

    let der = rsa.private_key_to_der().unwrap();
    let mut longer = der.clone();
    longer.push(0);
    let pem = rsa_pem("2048");
    for key in [
        &b""[..],
        b"garbage",
        b"-----BEGIN RSA PRIVATE KEY-----\n-----END RSA PRIVATE KEY-----\n",
        b"-----BEGIN RSA PRIVATE KEY-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
        &[0xff; 5000],
        &der[..der.len() - 1],
        &der[1..],
        &longer,
        &pem.as_bytes()[..pem.len() / 2],
    ] {
        assert!(refusal(&device, key).contains("RSA key"));
    }
    // A key's private parts are never in a message.
    assert!(!format!("{:?}", device.rsa_key(PKCS1, &der).unwrap()).contains("30"));
}

#[test]
fn raw_rsa_does_not_sign_and_lengths_that_do_not_fit_are_clear_errors() {
    let device = Device::open("sim:").unwrap();
    let bytes = rsa_key(2048).private_key_to_der().unwrap();
    let raw = device.rsa_key(RsaPadding::Raw, &bytes).unwrap();
    let padded = device.rsa_key(PKCS1, &bytes).unwrap();
    let buffer = |len| device.buffer(len).unwrap();
    let cases = [
        (raw.sign(buffer(32)), "raw"),
        (raw.verify(buffer(256), buffer(32)), "raw"),
        (raw.encrypt(buffer(255)), "256"),
        (raw.decrypt(buffer(257)), "256"),
        (padded.encrypt(buffer(246)), "245"),
        (padded.decrypt(buffer(255)), "256"),
        (padded.sign(buffer(20)), "32"),
        (padded.verify(buffer(255), buffer(32)), "256"),
        (padded.verify(buffer(256), buffer(31)), "32"),
    ];
    for (result, word) in cases {
        let error = result.unwrap_err();
        assert!(
            matches!(error.error(), Error::Invalid(_)) && error.to_string().contains(word),
            "{word}: {error}"
        );
    }
}
