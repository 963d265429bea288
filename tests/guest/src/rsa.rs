//! RSA on the device, as a list of jobs says; whoever made the list judges the results.
//!
//! ```text
//!   /data/rsa-jobs      NAME KEY PADDING OPERATION INPUT [DIGEST]     a line each; bytes in hexadecimal
//!   /out/rsa            NAME yes OUTPUT | NAME no | NAME error WHY
//! ```
//!
//! KEY is a file of `/data`, PEM or DER; PADDING is `raw` or a hash function.

use std::fmt::Write;

use ringbell::{Answer, Device, Hash, Poller, PollerConfig, Request, RsaHash, RsaKey, RsaPadding};

use crate::work::{Desk, LONG, device};

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(digit).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn padding(name: &str) -> RsaPadding {
    match name {
        "raw" => RsaPadding::Raw,
        "sha1" => RsaPadding::Pkcs1(RsaHash::Sha1),
        "sha224" => RsaPadding::Pkcs1(RsaHash::Sha224),
        "sha256" => RsaPadding::Pkcs1(RsaHash::Sha256),
        "sha384" => RsaPadding::Pkcs1(RsaHash::Sha384),
        "sha512" => RsaPadding::Pkcs1(RsaHash::Sha512),
        other => panic!("there is no padding {other}"),
    }
}

fn request(key: &RsaKey, operation: &str, input: &str, digest: Option<&str>) -> ringbell::Result<Request> {
    let device = key.device();
    let buffer = |hex: &str| device.buffer_from(&bytes(hex));
    match (operation, digest) {
        ("encrypt", None) => key.encrypt(buffer(input)?),
        ("decrypt", None) => key.decrypt(buffer(input)?),
        ("sign", None) => key.sign(buffer(input)?),
        ("verify", Some(digest)) => key.verify(buffer(input)?, buffer(digest)?),
        other => panic!("there is no operation {other:?}"),
    }
}

/// One job: what stands behind its name.
fn job(device: &Device, desk: &Desk, words: &[&str]) -> String {
    let &[key, padding_name, operation, input, ref rest @ ..] = words else { panic!("a job: {words:?}") };
    let key = std::fs::read(format!("/data/{key}")).expect("a key");
    let key = device.rsa_key(padding(padding_name), &key).expect("a key that is read");
    if let Err(error) = key.prepare() {
        return format!("error {error}");
    }
    let digest = rest.first().copied();
    let run = || {
        let request = request(&key, operation, input, digest).expect("a request");
        device.submit_wait(request, desk.context(0), LONG).map_err(|r| r.to_error()).expect("accepted");
        desk.next()
    };
    let mut done = run();
    // QEMU with nettle cuts a result that begins with a zero, one of 256, which the driver calls an
    // error. The padding is random: the next one is another.
    if operation == "encrypt" && padding_name != "raw" && done.result().is_err() {
        done = run();
    }
    match done.result() {
        Ok(Answer::Yes) => format!("yes {}", hex(done.request().output())),
        Ok(Answer::No) => "no".to_owned(),
        Err(fault) => format!("error {fault}"),
    }
}

/// All jobs, then what a device refuses that it offers.
pub(crate) fn rsa(address: &str) {
    let device = device(address);
    let poller = Poller::spawn(&device, PollerConfig::default()).expect("a poller");
    let desk = Desk::new(1);
    let jobs = std::fs::read_to_string("/data/rsa-jobs").expect("jobs");
    let mut report = String::new();
    for line in jobs.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (name, words) = words.split_first().expect("a name");
        let result = job(&device, &desk, words);
        writeln!(report, "{name} {result}").expect("a line");
    }
    std::fs::write("/out/rsa", report).expect("results");

    // QEMU 7.2 advertises SHA-1 and has no hash sessions at all.
    let offered = |device: &Device| device.capabilities().hashes.contains(&Hash::Sha1);
    let before = offered(&device);
    let refused = device.hasher(Hash::Sha1).and_then(|hasher| hasher.prepare());
    let again = device.hasher(Hash::Sha1).map(drop);
    println!("sha1 offered {before}, then {}", offered(&device));
    println!("sha1 refused: {}", refused.expect_err("a refusal"));
    println!("sha1 again: {}", again.expect_err("not offered"));
    poller.shutdown();
    let stats = device.stats();
    assert_eq!(stats.accepted, stats.deliveries, "{stats:?}");
    assert_eq!(stats.faults, 0, "{stats:?}");
}
