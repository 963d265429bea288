//! The examples for users, each run as the program that it is, with a small input.

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use common::{Rng, oracle};
use ringbell::{Cipher, Direction};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The example programs of the library, built: by name.
fn programs() -> &'static BTreeMap<String, PathBuf> {
    static PROGRAMS: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["build", "--locked", "--offline", "--package", "ringbell", "--examples"])
            .args(["--message-format", "json"])
            .current_dir(root())
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "the examples do not build");
        let text = String::from_utf8(output.stdout).unwrap();
        let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        messages
            .filter(|message| message["target"]["kind"][0] == "example")
            .filter_map(|message| {
                let path = message["executable"].as_str()?.into();
                Some((message["target"]["name"].as_str()?.to_owned(), path))
            })
            .collect()
    })
}

fn command(name: &str) -> Command {
    let mut command = Command::new(&programs()[name]);
    command.env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn every_example_is_run_here() {
    let names: Vec<_> = programs().keys().map(String::as_str).collect();
    assert_eq!(names, ["encrypt_file", "event_loop", "own_executor", "threads", "tokio_server"]);
}

#[test]
fn the_file_encryptor_gives_what_openssl_gives_and_takes_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (key, iv) = ("6b".repeat(32), "ff".repeat(16));
    for len in [0, 1, 65_536, 1_000_001] {
        let data = Rng::new(len as u64).bytes(len);
        std::fs::write(path("in"), &data).unwrap();
        for device in ["sim:order=shuffle,seed=2", "sim:queue-size=4"] {
            let run = |input: &str, output: &str| {
                let output = command("encrypt_file")
                    .args([&key, &iv])
                    .args([path(input), path(output)])
                    .arg(device)
                    .output()
                    .unwrap();
                text(&output)
            };
            assert_eq!(run("in", "out"), format!("{} chunks\n", len.div_ceil(65_536)));
            let cipher = oracle(Cipher::Aes256Ctr, Direction::Encrypt, &[0x6b; 32], &[0xff; 16], &data);
            assert!(std::fs::read(path("out")).unwrap() == cipher, "{len} bytes on {device}");
            run("out", "back");
            assert!(std::fs::read(path("back")).unwrap() == data, "{len} bytes on {device}");
        }
    }
    let wrong = command("encrypt_file").args(["12", "34", "in", "out"]).output().unwrap();
    assert!(!wrong.status.success());
}

#[test]
fn the_tokio_server_answers_its_clients() {
    for device in ["sim:", "sim:queues=2,queue-size=8"] {
        let output = command("tokio_server").args(["--self-test", device]).output().unwrap();
        assert_eq!(text(&output), "400 messages were answered rightly\n");
    }
}

#[test]
fn the_executor_written_by_hand_runs_all_its_tasks() {
    let output = command("own_executor").args(["sim:queue-size=8", "30", "20"]).output().unwrap();
    assert_eq!(text(&output), "600 requests by 30 tasks on one thread\n");
}

#[test]
fn many_threads_share_a_device() {
    let output = command("threads").args(["sim:queues=2,queue-size=4", "6", "50"]).output().unwrap();
    assert!(text(&output).starts_with("300 requests by 6 threads in "), "{output:?}");
}

#[test]
fn the_event_loop_takes_files_and_pipes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in");
    let data = Rng::new(3).bytes(50_000);
    std::fs::write(&path, &data).unwrap();
    let mut sum = 0_u64;
    for (number, chunk) in data.chunks(4096).enumerate() {
        let iv = ((number as u128) << 64).to_be_bytes();
        let cipher = oracle(Cipher::Aes256Ctr, Direction::Encrypt, &[0x42; 32], &iv, chunk);
        sum += cipher.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    }
    let output = command("event_loop").stdin(File::open(&path).unwrap()).output().unwrap();
    assert_eq!(text(&output), format!("50000 bytes, sum {sum}\n"));
    // A pipe: chunks are what each read gives.
    let mut child = command("event_loop")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    for piece in data.chunks(7777) {
        pipe.write_all(piece).unwrap();
    }
    drop(pipe);
    assert!(text(&child.wait_with_output().unwrap()).starts_with("50000 bytes, sum "));
}
