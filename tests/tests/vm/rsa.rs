//! RSA on QEMU's device, and libcrypto, which makes the questions and judges the answers.

use std::collections::HashMap;

use openssl::hash::{MessageDigest, hash};
use openssl::pkey::{PKey, Private};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::Verifier;
use ringbell_tests::vm::{Machine, programs};

crate::tests![rsa_on_qemus_device_is_as_libcrypto_says];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// A number below any modulus of so many bytes, that looks like nothing.
fn number(len: usize, seed: u8) -> Vec<u8> {
    let mut number: Vec<u8> =
        (0..len).map(|at| (at as u8).wrapping_mul(167).wrapping_add(seed) ^ 0x5c).collect();
    number[0] = 0;
    number
}

/// What has to come out.
enum Wanted {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A ciphertext of these bytes.
    CiphertextOf(Vec<u8>),
    /// A yes without output, or a no.
    Answer(bool),
    /// No session, or no result.
    Error,
    /// These bytes; or no result, as from a QEMU that is built with nettle (Debian's is), which has no raw
    /// RSA, and cuts numbers that begin with zeros.
    Raw(Vec<u8>),
}

struct Asked {
    key: usize,
    line: String,
    wanted: Wanted,
}

/// Hash functions that QEMU 7.2's builtin backend has for RSA.
fn known() -> [(&'static str, MessageDigest); 3] {
    [
        ("sha1", MessageDigest::sha1()),
        ("sha256", MessageDigest::sha256()),
        ("sha512", MessageDigest::sha512()),
    ]
}

fn sign(key: &PKey<Private>, digest: MessageDigest, hashed: &[u8]) -> Vec<u8> {
    let mut context = openssl::pkey_ctx::PkeyCtx::new(key).unwrap();
    context.sign_init().unwrap();
    context.set_rsa_padding(Padding::PKCS1).unwrap();
    context.set_signature_md(openssl::md::Md::from_nid(digest.type_()).unwrap()).unwrap();
    let mut signature = Vec::new();
    context.sign_to_vec(hashed, &mut signature).unwrap();
    signature
}

/// All questions about one key; `public` and `private` are the names of its files.
fn questions(number_of_key: usize, key: &Rsa<Private>, public: &str, private: &str) -> Vec<Asked> {
    let (size, pkey) = (key.size() as usize, PKey::from_rsa(key.clone()).unwrap());
    let mut asked = Vec::new();
    let mut ask = |line: String, wanted: Wanted| asked.push(Asked { key: number_of_key, line, wanted });
    let raw = |f: &dyn Fn(&[u8], &mut [u8]) -> usize, input: &[u8]| {
        let mut out = vec![0; size];
        assert_eq!(f(input, &mut out), size);
        out
    };
    for seed in [1, 200] {
        let plain = number(size, seed);
        let cipher = raw(&|i, o| key.public_encrypt(i, o, Padding::NONE).unwrap(), &plain);
        ask(format!("{public} raw encrypt {}", hex(&plain)), Wanted::Raw(cipher.clone()));
        ask(format!("{private} raw decrypt {}", hex(&cipher)), Wanted::Raw(plain));
    }
    for len in [1, 48, size - 11] {
        let plain = number(len + 1, 7)[1..].to_vec();
        let mut cipher = vec![0; size];
        key.public_encrypt(&plain, &mut cipher, Padding::PKCS1).unwrap();
        ask(format!("{public} sha256 encrypt {}", hex(&plain)), Wanted::CiphertextOf(plain.clone()));
        ask(format!("{private} sha256 decrypt {}", hex(&cipher)), Wanted::Bytes(plain));
    }
    ask(format!("{private} sha256 decrypt {}", hex(&number(size, 9))), Wanted::Error);
    for (name, digest) in known() {
        let hashed = hash(digest, name.as_bytes()).unwrap();
        let signature = sign(&pkey, digest, &hashed);
        let mut verifier = Verifier::new(digest, &pkey).unwrap();
        verifier.update(name.as_bytes()).unwrap();
        assert!(verifier.verify(&signature).unwrap(), "libcrypto agrees with itself");
        // nettle again: a signature that begins with a zero is cut at the wrong end, and so an error.
        let signed = if signature[0] == 0 { Wanted::Error } else { Wanted::Bytes(signature.clone()) };
        ask(format!("{private} {name} sign {}", hex(&hashed)), signed);
        let verify = |signature: &[u8], hashed: &[u8]| {
            format!("{public} {name} verify {} {}", hex(signature), hex(hashed))
        };
        ask(verify(&signature, &hashed), Wanted::Answer(true));
        let mut wrong = hashed.to_vec();
        wrong[3] ^= 1;
        ask(verify(&signature, &wrong), Wanted::Answer(false));
        let mut wrong = signature.clone();
        wrong[size - 1] ^= 1;
        ask(verify(&wrong, &hashed), Wanted::Answer(false));
    }
    // One that begins with a zero: of nettle a part is left, which the driver calls an error.
    let zero = (0_u32..).find_map(|number| {
        let hashed = hash(MessageDigest::sha1(), &number.to_le_bytes()).unwrap();
        let signature = sign(&pkey, MessageDigest::sha1(), &hashed);
        (signature[0] == 0).then_some((hashed, signature))
    });
    let (hashed, signature) = zero.unwrap();
    ask(format!("{private} sha1 sign {}", hex(&hashed)), Wanted::Raw(signature));
    // Not in QEMU's backend: refused, in bounded time, and the device goes on.
    ask(format!("{private} sha384 sign {}", hex(&[7; 48])), Wanted::Error);
    asked
}

fn rsa_on_qemus_device_is_as_libcrypto_says() {
    let programs = programs().unwrap();
    let mut machine = Machine::new()
        .crypto(4, true)
        .bring(["vfio-pci", "vfio_iommu_type1", "virtio_pci", "virtio_crypto"])
        .program(&programs.ringbell)
        .program(&programs.guest);
    let keys: Vec<Rsa<Private>> = [1024, 2048, 3072, 4096].map(|bits| Rsa::generate(bits).unwrap()).into();
    let mut asked = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        // A form for each: they all have to be read.
        let pkey = PKey::from_rsa(key.clone()).unwrap();
        let (public, private) = match number {
            0 => (key.public_key_to_pem_pkcs1(), key.private_key_to_pem()),
            1 => (key.public_key_to_pem(), pkey.private_key_to_pem_pkcs8()),
            2 => (key.public_key_to_der(), pkey.private_key_to_pkcs8()),
            _ => (key.public_key_to_der_pkcs1(), key.private_key_to_der()),
        };
        machine = machine.contents(&format!("/data/public-{number}"), public.unwrap(), 0o644).contents(
            &format!("/data/private-{number}"),
            private.unwrap(),
            0o644,
        );
        asked.extend(questions(number, key, &format!("public-{number}"), &format!("private-{number}")));
    }
    let lines = asked.iter().enumerate().map(|(at, asked)| format!("{at} {}\n", asked.line));
    let outcome = machine
        .contents("/data/rsa-jobs", lines.collect::<String>(), 0o644)
        .job(
            "ringbell bind 0000:00:04.0 || exit 1
            ringbell speed --device 0000:00:04.0 --op list > /out/list || exit 1
            ringbell-guest rsa 0000:00:04.0 > /out/guest; status=$?; cat /out/guest; exit $status",
        )
        .run()
        .unwrap()
        .success();
    let results: HashMap<usize, &str> = outcome
        .text("rsa")
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(number, result)| (number.parse().unwrap(), result))
        .collect();
    let (mut wrong, mut raw) = (Vec::new(), [0, 0]);
    for (number, Asked { key, line, wanted }) in asked.iter().enumerate() {
        let (got, key) = (results[&number], &keys[*key]);
        let output = || got.strip_prefix("yes ").map(bytes);
        let right = match wanted {
            Wanted::Bytes(wanted) => output().as_ref() == Some(wanted),
            Wanted::CiphertextOf(plain) => output().is_some_and(|cipher| {
                let mut out = vec![0; key.size() as usize];
                let len = key.private_decrypt(&cipher, &mut out, Padding::PKCS1);
                len.is_ok_and(|len| out[..len] == *plain)
            }),
            Wanted::Answer(true) => got.trim() == "yes",
            Wanted::Answer(false) => got == "no",
            Wanted::Error => got.starts_with("error "),
            Wanted::Raw(wanted) => {
                let error = got.starts_with("error ");
                raw[usize::from(error)] += 1;
                error || output().as_ref() == Some(wanted)
            }
        };
        if !right {
            wrong.push(format!("{} bits: {line:.60}: {got:.80}", 8 * key.size()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), asked.len(), wrong.join("\n"));
    assert!(raw == [20, 0] || raw == [0, 20], "raw RSA, or whole numbers, at times: {raw:?}");
    println!("QEMU has raw RSA and whole numbers: {}", raw[1] == 0);
    // What it offers is what it advertises, less what it has refused.
    let guest = outcome.text("guest");
    assert!(guest.contains("sha1 offered true, then false"), "{guest}");
    assert!(guest.contains("sha1 again: ") && guest.contains("no hash function"), "{guest}");
    println!("{} questions to QEMU's device, each answered as libcrypto says", asked.len());
}
