//! `ringbell crypt` against its judge, `openssl enc`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const IV: &str = "fffffffffffffffffffffffffffffff0";

fn ringbell() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringbell"));
    command.env_remove("RINGBELL_LOG").arg("crypt");
    command
}

fn key(cipher: &str) -> &'static str {
    &KEY[..cipher[4..7].parse::<usize>().unwrap() / 4]
}

/// Arguments for key and IV, and whether there is an IV.
fn ours(cipher: &str) -> Command {
    let mut command = ringbell();
    command.args(["--cipher", cipher, "-K", key(cipher)]);
    if !cipher.ends_with("ecb") {
        command.args(["--iv", IV]);
    }
    command
}

fn theirs(cipher: &str) -> Command {
    let mut command = Command::new("openssl");
    command.args(["enc", &format!("-{cipher}"), "-K", key(cipher)]);
    if !cipher.ends_with("ecb") {
        command.args(["-iv", IV]);
    }
    command
}

/// Runs it with `input` on stdin.
fn through(command: &mut Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Where it fails early the pipe is closed.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().unwrap()
    })
}

fn data(len: usize) -> Vec<u8> {
    let mut state = 0x1234_5678_u32 ^ len as u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn succeed(command: &mut Command) {
    let out = command.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && stderr.is_empty(), "{command:?}: {stderr}");
}

/// One line, and the status.
fn failed(out: &Output, status: i32, what: &str) -> String {
    let stderr = String::from_utf8(out.stderr.clone()).unwrap();
    assert_eq!(out.status.code(), Some(status), "{what}: {stderr}");
    assert!(stderr.starts_with("ringbell: cannot ") && stderr.lines().count() == 1, "{what}: {stderr}");
    stderr
}

const SIZES: [usize; 13] =
    [0, 1, 15, 16, 17, 4095, 4096, 65536, 131_072, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_000_011];

#[test]
fn files_come_out_byte_for_byte_as_from_openssl_enc() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for cipher in [
        "aes-128-cbc",
        "aes-192-cbc",
        "aes-256-cbc",
        "aes-128-ecb",
        "aes-256-ecb",
        "aes-128-ctr",
        "aes-192-ctr",
        "aes-256-ctr",
    ] {
        for size in SIZES {
            let plain = data(size);
            fs::write(path("plain"), &plain).unwrap();
            for padded in [true, false] {
                if !padded && size % 16 != 0 && !cipher.ends_with("ctr") {
                    continue;
                }
                let mut judge = theirs(cipher);
                let mut encrypt = ours(cipher);
                let mut decrypt = ours(cipher);
                if !padded {
                    judge.arg("-nopad");
                    encrypt.arg("--nopad");
                    decrypt.arg("--nopad");
                }
                succeed(judge.arg("-in").arg(path("plain")).arg("-out").arg(path("judge")));
                succeed(encrypt.arg("-i").arg(path("plain")).arg("-o").arg(path("cipher")));
                let what = format!("{cipher} {size} padded={padded}");
                assert!(fs::read(path("cipher")).unwrap() == fs::read(path("judge")).unwrap(), "{what}");
                succeed(decrypt.arg("-d").arg("-i").arg(path("cipher")).arg("-o").arg(path("again")));
                assert!(fs::read(path("again")).unwrap() == plain, "{what}");
            }
        }
    }
}

#[test]
fn pipes_come_out_as_from_openssl_enc() {
    for cipher in ["aes-128-cbc", "aes-256-ctr", "aes-128-ecb"] {
        for size in [0, 1, 16, 33, 65537, 3_000_001] {
            let plain = data(size);
            let judge = through(&mut theirs(cipher), &plain).stdout;
            let out = through(&mut ours(cipher), &plain);
            assert!(out.status.success() && out.stdout == judge, "{cipher} {size}");
            let again = through(ours(cipher).args(["-d", "-i", "-", "-o", "-"]), &judge);
            assert!(again.status.success() && again.stdout == plain, "{cipher} {size}");
        }
    }
}

#[test]
fn what_comes_slowly_and_in_odd_pieces_goes_on_as_it_comes() {
    for (cipher, decrypt) in [("aes-128-ctr", false), ("aes-128-cbc", false), ("aes-128-cbc", true)] {
        let plain = data(1001);
        let sealed = through(&mut theirs(cipher), &plain).stdout;
        let (input, expected) = if decrypt { (sealed, plain) } else { (plain, sealed) };
        let mut command = ours(cipher);
        if decrypt {
            command.arg("-d");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut out = Vec::new();
        let mut sent = 0;
        for piece in input.chunks(77) {
            stdin.write_all(piece).unwrap();
            sent += piece.len();
            // All whole blocks but the last come out before more goes in, or this waits for ever.
            let due = (sent / 16 * 16).saturating_sub(16);
            while out.len() < due {
                let mut buffer = [0; 4096];
                let count = stdout.read(&mut buffer).unwrap();
                assert!(count > 0);
                out.extend_from_slice(&buffer[..count]);
            }
        }
        drop(stdin);
        stdout.read_to_end(&mut out).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(out == expected, "{cipher} {decrypt}");
    }
}

#[test]
fn other_simulated_devices_give_the_same() {
    let plain = data(2_000_003);
    // Of these, the CTR stream has several requests at the device, the CBC stream one.
    for cipher in ["aes-128-ctr", "aes-128-cbc"] {
        let judge = through(&mut theirs(cipher), &plain).stdout;
        for options in
            ["order=shuffle", "queues=2", "queue-size=8", "queue-size=4", "latency=100us", "quirks=qemu"]
        {
            if options == "quirks=qemu" && cipher != "aes-128-cbc" {
                continue; // It offers CBC only.
            }
            let device = format!("sim:{options}");
            let out = through(ours(cipher).args(["--device", &device]), &plain);
            assert!(out.status.success() && out.stdout == judge, "{cipher} {device}");
            let again = through(ours(cipher).args(["-d", "--device", &device]), &judge);
            assert!(again.status.success() && again.stdout == plain, "decrypting {cipher} {device}");
        }
    }
}

#[test]
fn the_key_may_stand_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    fs::write(&file, format!("{}\n", key("aes-128-cbc").to_uppercase())).unwrap();
    let mut command = ringbell();
    command.args(["--cipher", "AES-128-CBC", "--iv", IV, "--key-file"]).arg(&file);
    let plain = data(100);
    assert_eq!(through(&mut command, &plain).stdout, through(&mut theirs("aes-128-cbc"), &plain).stdout);
    for (content, status) in [(&b"00"[..], 2), (b"", 2), (b"\xff\xfe", 2), (&[b'0'; 5000], 2)] {
        fs::write(&file, content).unwrap();
        failed(&through(&mut command, b""), status, "key file");
    }
    fs::remove_file(&file).unwrap();
    failed(&through(&mut command, b""), 1, "no key file");
}

#[test]
fn wrong_usage_is_one_line_and_status_2() {
    let (k, cbc) = (key("aes-128-cbc"), "aes-128-cbc");
    for args in [
        &["--cipher", cbc, "-K", k][..],
        &["--cipher", cbc, "-K", &k[1..], "--iv", IV],
        &["--cipher", cbc, "-K", &k[2..], "--iv", IV],
        &["--cipher", cbc, "-K", KEY, "--iv", IV],
        &["--cipher", cbc, "-K", "0001020304050607080910111213141g", "--iv", IV],
        &["--cipher", cbc, "-K", "", "--iv", IV],
        &["--cipher", cbc, "-K", k, "--iv", &IV[1..]],
        &["--cipher", cbc, "-K", k, "--iv", "zz"],
        &["--cipher", cbc, "-K", k, "--iv", "\u{fc}\n"],
        &["--cipher", "aes-128-xts", "-K", KEY, "--iv", IV],
        &["--cipher", "aes-128-gcm", "-K", k, "--iv", IV],
        &["--cipher", "sha256", "-K", k, "--iv", IV],
        &["--cipher", "des-cbc", "-K", k, "--iv", IV],
        &["--cipher", cbc, "--iv", IV],
        &["--cipher", cbc, "-K", k, "--key-file", "x", "--iv", IV],
        &["-K", k, "--iv", IV],
        &["--cipher", cbc, "-K", k, "--iv", IV, "--device", "sim:compute=none"],
        &["--cipher", cbc, "-K", k, "--iv", IV, "--device", "nonsense"],
        &["--cipher", cbc, "-K", k, "--iv", IV, "--nonsense"],
        &["--cipher", cbc, "-K", k, "--iv", IV, "-o", ""],
    ] {
        let out = through(ringbell().args(args), b"some data");
        let line = failed(&out, 2, &format!("{args:?}"));
        assert!(out.stdout.is_empty() && !line.contains("0001020304"), "{line}");
    }
    let short = through(ringbell().args(["--cipher", cbc, "-K", "00", "--iv", IV]), b"");
    assert!(failed(&short, 2, "short").contains("32"));
    let unknown = through(ringbell().args(["--cipher", "rot13", "-K", k]), b"");
    assert!(failed(&unknown, 2, "unknown").contains("aes-256-ctr"));
    for cipher in ["aes-256-gcm", "chacha20-poly1305", "hmac-sha256", "rsa-2048-encrypt"] {
        let refused = through(ringbell().args(["--cipher", cipher, "-K", k]), b"");
        let line = failed(&refused, 2, cipher);
        assert!(line.contains("aes-256-ctr") && !line.contains("xts"), "{line}");
    }
}

#[test]
fn an_iv_for_ecb_is_ignored_with_a_message() {
    let out = through(ours("aes-128-ecb").args(["--iv", IV]), b"data");
    assert!(out.status.success());
    assert_eq!(out.stdout, through(&mut theirs("aes-128-ecb"), b"data").stdout);
    assert!(String::from_utf8(out.stderr).unwrap().contains("ignored"));
}

/// Runs it into a file of `dir` and expects that it fails and leaves nothing.
fn leaves_nothing(dir: &Path, command: &mut Command, input: &[u8], what: &str) {
    let target = dir.join("out");
    let before = fs::read_dir(dir).unwrap().count();
    failed(&through(command.arg("-o").arg(&target), input), 1, what);
    assert_eq!(fs::read_dir(dir).unwrap().count(), before, "{what}");
    // What was there before stays.
    fs::write(&target, "old").unwrap();
    failed(&through(command, input), 1, what);
    assert_eq!(fs::read(&target).unwrap(), b"old", "{what}");
    fs::remove_file(&target).unwrap();
    assert_eq!(fs::read_dir(dir).unwrap().count(), before, "{what}");
}

#[test]
fn a_failure_leaves_no_output_file_and_the_old_one_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let cbc = "aes-128-cbc";
    let sealed = through(&mut theirs(cbc), &data(300_000)).stdout;
    let mut bent = sealed.clone();
    *bent.last_mut().unwrap() ^= 1;
    let cases: [(&str, &[&str], &[u8]); 7] = [
        ("bad padding", &["-d"], &bent),
        ("cut off", &["-d"], &sealed[..sealed.len() - 1]),
        ("last block missing", &["-d"], &sealed[..sealed.len() - 16]),
        ("nothing to decrypt", &["-d"], b""),
        ("too short", &["-d"], b"short"),
        ("part of a block", &["--nopad"], &sealed[..33]),
        ("part of a block, decrypting", &["-d", "--nopad"], &sealed[..100_001]),
    ];
    for (what, args, input) in cases {
        // The judge says no as well.
        let flags: Vec<String> = args.iter().map(|flag| flag.replace("--", "-")).collect();
        assert!(!through(theirs(cbc).args(flags), input).status.success(), "{what}");
        leaves_nothing(dir.path(), ours(cbc).args(args), input, what);
    }
    leaves_nothing(dir.path(), ours(cbc).arg("-i").arg(dir.path()), b"", "input is a directory");
    leaves_nothing(dir.path(), ours(cbc).args(["-i", "/nonexistent"]), b"", "input is missing");
}

#[test]
fn bad_outputs_are_one_line_and_status_1() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().to_str().unwrap();
    let missing = dir.path().join("missing/out");
    let slash = dir.path().join("missing/");
    for output in
        [directory, missing.to_str().unwrap(), slash.to_str().unwrap(), "/dev/full", "/proc/version"]
    {
        failed(&through(ours("aes-128-cbc").args(["-o", output]), &data(300_000)), 1, output);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let input = dir.path().join("in");
    fs::write(&input, data(1000)).unwrap();
    let out =
        ours("aes-128-cbc").arg("-i").arg(&input).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    failed(&out, 1, "closed pipe");
}

#[test]
fn an_output_file_is_replaced_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    let plain = data(200_000);
    let judge = through(&mut theirs("aes-128-ctr"), &plain).stdout;

    // In place, with its permissions.
    fs::write(&file, &plain).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    succeed(ours("aes-128-ctr").arg("-i").arg(&file).arg("-o").arg(&file));
    assert!(fs::read(&file).unwrap() == judge);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);

    // Through a link, which stays one.
    std::os::unix::fs::symlink("file", &link).unwrap();
    succeed(ours("aes-128-ctr").arg("-d").arg("-i").arg(&link).arg("-o").arg(&link));
    assert!(fs::read(&file).unwrap() == plain);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

    // A new one, in the current directory.
    succeed(ours("aes-128-ctr").current_dir(dir.path()).args(["-i", "file", "-o", "new"]));
    assert!(fs::read(dir.path().join("new")).unwrap() == judge);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn devices_and_fifos_are_written_directly() {
    let dir = tempfile::tempdir().unwrap();
    let plain = data(100_000);
    let judge = through(&mut theirs("aes-128-cbc"), &plain).stdout;
    succeed(ours("aes-128-cbc").args(["-o", "/dev/null"]));
    for stdout in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        assert!(through(ours("aes-128-cbc").args(["-o", stdout]), &plain).stdout == judge, "{stdout}");
    }
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::read(fifo).unwrap()
    });
    assert!(through(ours("aes-128-cbc").arg("-o").arg(&fifo), &plain).status.success());
    assert!(reader.join().unwrap() == judge);
}
