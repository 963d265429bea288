//! Encrypts a file (or decrypts it: with CTR that is the same) with several requests in flight.
//!
//! ```text
//! cargo run -p ringbell --example encrypt_file -- KEY IV INPUT OUTPUT [DEVICE]
//! openssl enc -aes-256-ctr -K KEY -iv IV -in INPUT -out OUTPUT          # gives the same
//! ```
//!
//! KEY is 64 and IV 32 hexadecimal digits. The file is cut into chunks, each of which is a request with a
//! counter block of its own, so they may end in any order and are written where they belong.
//!
//! ```text
//!   read chunk --> free request --> RequestSet::push(chunk number) --> device
//!                       ^                                                |
//!   write chunk <-------+------------ RequestSet::wait <-----------------+
//! ```

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use ringbell::{Cipher, Device, Poller, Request, RequestSet, Status};

/// Bytes of a chunk: whole blocks.
const CHUNK: usize = 64 << 10;
/// Requests in flight.
const IN_FLIGHT: usize = 8;
/// Longer than any request takes: each has a deadline of its own (`PollerConfig::request_timeout`).
const LIMIT: Duration = Duration::from_secs(10);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn hex<const N: usize>(text: &str) -> Result<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return Err(format!("{text} is not {} hexadecimal digits", 2 * N).into());
    }
    let mut bytes = [0; N];
    for (place, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *place = u8::from_str_radix(&text[at..at + 2], 16)?;
    }
    Ok(bytes)
}

/// The counter block of a chunk: the IV, as one big number, plus the blocks before it.
fn counter(iv: [u8; 16], chunk: u64) -> [u8; 16] {
    let blocks = u128::from(chunk) * (CHUNK / 16) as u128;
    u128::from_be_bytes(iv).wrapping_add(blocks).to_be_bytes()
}

/// Fills as much as there is.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match input.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// Takes one ended request out, writes its chunk, and gives the request back for the next.
fn write_one(set: &mut RequestSet, output: &File) -> Result<Request> {
    let (chunk, done) = set.wait(LIMIT).ok_or("the device is silent")?;
    done.result()?;
    output.write_all_at(done.request().output(), chunk * CHUNK as u64)?;
    Ok(done.into_request())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [key, iv, input, output, rest @ ..] = &arguments[..] else {
        return Err("usage: encrypt_file KEY IV INPUT OUTPUT [DEVICE]".into());
    };
    let (key, iv) = (hex::<32>(key)?, hex::<16>(iv)?);
    let address = rest.first().map_or("sim:", String::as_str);

    let device = Device::open(address)?;
    let poller = Poller::spawn(&device, Default::default())?;
    let key = device.cipher_key(Cipher::Aes256Ctr, &key)?;
    key.prepare()?;
    let mut input = File::open(input)?;
    let output = File::create(output)?;

    let mut set = RequestSet::new(&device, IN_FLIGHT)?;
    // All the memory there will be: a buffer for each request in flight, used again and again.
    let request = || Ok::<_, ringbell::Error>(key.encrypt(&iv, device.buffer(CHUNK)?));
    let mut free = (0..IN_FLIGHT).map(|_| request()).collect::<ringbell::Result<Vec<_>>>()?;
    let mut chunks = 0;
    loop {
        let mut request = match free.pop() {
            Some(request) => request,
            None => write_one(&mut set, &output)?,
        };
        request.set_len(CHUNK)?;
        // Read straight into DMA memory.
        let len = fill(&mut input, request.input_mut())?;
        if len == 0 {
            break;
        }
        request.set_len(len)?;
        request.set_iv(&counter(iv, chunks));
        // The ring may be full, if others use the device too: then one of ours has to end first.
        while let Err(refused) = set.push(chunks, request) {
            if refused.status() != Status::Eagain || set.is_empty() {
                return Err(refused.into());
            }
            request = refused.into_request();
            free.push(write_one(&mut set, &output)?);
        }
        chunks += 1;
        if len < CHUNK {
            break;
        }
    }
    while !set.is_empty() {
        write_one(&mut set, &output)?;
    }
    poller.shutdown();
    println!("{chunks} chunks");
    Ok(())
}
