//! Keys and IVs in hexadecimal. Messages never show what was given: it may be most of a key.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ringbell::Cipher;
use zeroize::Zeroizing;

use crate::error::{Error, Result, plain};

/// The most that is read of a key file: a key and some white space.
const KEY_FILE_BYTES: u64 = 4096;

/// Reads exactly `len` bytes.
pub(super) fn bytes(text: &str, len: usize) -> Result<Zeroizing<Vec<u8>>, String> {
    if let Some((place, _)) = text.chars().enumerate().find(|(_, c)| !c.is_ascii_hexdigit()) {
        return Err(format!("character {} is no hexadecimal digit; there have to be {}", place + 1, 2 * len));
    }
    if text.len() != 2 * len {
        return Err(format!("it has {} hexadecimal digits, and there have to be {}", text.len(), 2 * len));
    }
    let digit = |c: u8| (c as char).to_digit(16).unwrap_or(0) as u8;
    let pairs = text.as_bytes().chunks_exact(2);
    // With its capacity from the beginning: a vector that grows leaves copies of a key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(len));
    bytes.extend(pairs.map(|pair| digit(pair[0]) << 4 | digit(pair[1])));
    Ok(bytes)
}

/// The key, from the command line or from a file.
pub(super) fn key(cipher: Cipher, text: Option<&str>, file: Option<&Path>) -> Result<Zeroizing<Vec<u8>>> {
    let len = cipher.key_len();
    match (text, file) {
        (Some(text), _) => {
            bytes(text, len).map_err(|why| Error::usage("read the key", format!("{why} for {cipher}")))
        }
        (None, Some(path)) => {
            let attempted = || format!("read the key from {}", path.display());
            let mut content = Zeroizing::new(Vec::with_capacity(KEY_FILE_BYTES as usize));
            File::open(path)
                .and_then(|file| file.take(KEY_FILE_BYTES).read_to_end(&mut content))
                .map_err(|e| Error::failed(attempted(), plain(&e)))?;
            let text = std::str::from_utf8(content.trim_ascii()).map_err(|_| {
                Error::usage(attempted(), "it is binary; the key has to stand there in hexadecimal")
            })?;
            bytes(text, len).map_err(|why| Error::usage(attempted(), format!("{why} for {cipher}")))
        }
        (None, None) => Err(Error::usage("read the key", "none was given; use --key-file or -K")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_digits_asked_for_are_read() {
        assert_eq!(*bytes("00fFa0", 3).unwrap(), [0, 0xff, 0xa0]);
        for (text, word) in
            [("", "0 hex"), ("0", "1 hex"), ("0011", "4 hex"), ("0g", "character 2"), ("é", "1")]
        {
            let why = bytes(text, 1).unwrap_err();
            assert!(why.contains(word) && why.contains("to be 2"), "{text}: {why}");
        }
    }
}
