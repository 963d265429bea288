//! `ringbell crypt`: a file or a pipe through the accelerator, byte for byte what `openssl enc -K -iv`
//! gives.
//!
//! ```text
//!   hex       keys and IVs
//!   chain     how a stream is cut: IVs from chunk to chunk, padding
//!   pipeline  read, device, write, all at the same time
//! ```

mod chain;
mod hex;
mod pipeline;

use ringbell::{Cipher, Device, Direction};
use zeroize::Zeroizing;

use crate::cli::CryptArgs;
use crate::device::{DeviceName, offered_cipher};
use crate::error::{Error, Result};
use crate::files::{Input, Output};
use crate::out;
use chain::Chain;

/// Does it.
pub(crate) fn run(args: CryptArgs) -> Result<()> {
    // Out of the arguments at once, so that dropping it wipes it.
    let CryptArgs { device, cipher, key, key_file, iv, decrypt, nopad, input, output } = args;
    let key = key.map(Zeroizing::new);
    let name = DeviceName::read(&device)?;
    let verb = if decrypt { "decrypt" } else { "encrypt" };
    if !name.computes() {
        let why = "it is a device without arithmetic (compute=none), for measurements only";
        return Err(Error::usage(format!("{verb} with {device}"), why));
    }
    refuse_xts(&cipher)?;
    let device =
        Device::open(&name.text).map_err(|e| Error::library(&format!("open device {}", name.text), e))?;
    let cipher = offered_cipher(&device, &name.text, &cipher)?;
    let direction = if decrypt { Direction::Decrypt } else { Direction::Encrypt };
    let iv = read_iv(cipher, iv.as_deref())?;
    let key = hex::key(cipher, key.as_ref().map(|text| text.as_str()), key_file.as_deref())?;

    let key_at_device = device
        .cipher_key(cipher, &key)
        .and_then(|key| {
            key.prepare_for(direction, std::time::Duration::from_secs(5))?;
            Ok(key)
        })
        .map_err(|e| Error::library(&format!("use {cipher} on device {}", name.text), e))?;
    drop(key);
    let input = Input::open(input.as_deref())?;
    let output = Output::open(output.as_deref())?;
    let chain = Chain::new(cipher, direction, !nopad, &iv);
    pipeline::run(&device, &key_at_device, chain, input, output)
}

/// XTS names a sector with its tweak; a stream has none. `openssl enc` refuses it as well.
fn refuse_xts(cipher: &str) -> Result<()> {
    if cipher.to_ascii_lowercase().ends_with("-xts") {
        let why = "XTS is for the sectors of a disk, not for files (openssl enc refuses it too); use a CBC \
                   or CTR cipher";
        return Err(Error::usage(format!("use cipher '{cipher}'"), why));
    }
    Ok(())
}

fn read_iv(cipher: Cipher, given: Option<&str>) -> Result<Vec<u8>> {
    match (given, cipher.iv_len()) {
        (None, 0) => Ok(Vec::new()),
        (Some(_), 0) => {
            out::note(&format!("{cipher} has no IV: --iv is ignored"));
            Ok(Vec::new())
        }
        (None, len) => Err(Error::usage(
            format!("use {cipher}"),
            format!("it needs an IV: give --iv with {} hexadecimal digits", 2 * len),
        )),
        (Some(text), len) => {
            let bytes = hex::bytes(text, len);
            let bytes = bytes.map_err(|why| Error::usage("read the IV", format!("{why} for {cipher}")))?;
            Ok(bytes.to_vec())
        }
    }
}
