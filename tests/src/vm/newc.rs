//! cpio archives in the format "newc", which the kernel unpacks as an initramfs and busybox writes, and
//! their checksum.
//!
//! ```text
//!   070701 | 13 numbers of 8 hexadecimal digits | name, NUL | to a multiple of 4 | bytes | to 4 | ...
//!            inode mode uid gid links time size device×4 name's-length check
//! ```

use std::collections::{BTreeMap, BTreeSet};

const MAGIC: &[u8] = b"070701";
const HEADER: usize = 6 + 13 * 8;
const LAST: &str = "TRAILER!!!";

const FOLDER: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const KIND: u32 = 0o170_000;

/// An archive being written. Everything belongs to root and has no age, so equal contents are equal bytes.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    /// A folder, with those above it.
    pub(super) fn folder(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.folders.contains(path) {
            return;
        }
        self.parents(path);
        self.entry(path, FOLDER | 0o755, b"");
        self.folders.insert(path.to_owned());
    }

    /// A file with its permissions, and the folders above it.
    pub(super) fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.parents(path);
        self.entry(path, REGULAR | (mode & 0o7777), contents);
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, to: &str) {
        self.parents(path);
        self.entry(path, LINK | 0o777, to.as_bytes());
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(LAST, 0, b"");
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.trim_start_matches('/').rsplit_once('/') {
            self.folder(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        let name = path.trim_start_matches('/');
        let numbers =
            [self.entries, mode, 0, 0, 1, 0, contents.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(MAGIC);
        for number in numbers {
            self.bytes.extend_from_slice(format!("{number:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The regular files of an archive. None if it is cut off or is none.
pub(super) fn files(archive: &[u8]) -> Option<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut at = 0;
    loop {
        let header = archive.get(at..at + HEADER)?;
        if !header.starts_with(MAGIC) {
            return None;
        }
        let number = |index: usize| {
            let digits = header.get(6 + index * 8..14 + index * 8)?;
            u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        };
        let (mode, size, name_size) = (number(1)?, number(6)? as usize, number(11)? as usize);
        let name = archive.get(at + HEADER..at + HEADER + name_size.checked_sub(1)?)?;
        let name = String::from_utf8_lossy(name).into_owned();
        let start = (at + HEADER + name_size).next_multiple_of(4);
        let contents = archive.get(start..start + size)?;
        at = (start + size).next_multiple_of(4);
        if name == LAST {
            return Some(files);
        }
        if mode & KIND == REGULAR {
            files.insert(name.trim_start_matches("./").to_owned(), contents.to_vec());
        }
    }
}

/// CRC-32 as gzip, Ethernet and busybox's `crc32` have it.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let table: [u32; 256] = std::array::from_fn(|index| {
        (0..8).fold(index as u32, |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    });
    !bytes.iter().fold(!0, |crc, byte| (crc >> 8) ^ table[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut archive = Archive::default();
        archive.file("/a/b/one", 0o644, b"12345");
        archive.link("/a/two", "b/one");
        archive.file("three", 0o755, b"");
        let bytes = archive.finish();
        let files = files(&bytes).unwrap();
        assert_eq!(files, BTreeMap::from([("a/b/one".into(), b"12345".to_vec()), ("three".into(), vec![])]));
    }

    #[test]
    fn a_cut_archive_is_none() {
        let mut archive = Archive::default();
        archive.file("one", 0o644, &[7; 1000]);
        let bytes = archive.finish();
        assert!(files(&bytes).is_some());
        for length in 0..bytes.len() - 4 {
            assert_eq!(files(&bytes[..length]), None, "{length} bytes");
        }
    }

    /// The value for these digits is in every description of the algorithm; the others are busybox's.
    #[test]
    fn checksums_are_those_of_crc32() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!((crc32(b""), crc32(&[0; 300])), (0, 0xb534_8fd2));
    }
}
