//! Authenticated encryption with associated data: AES-GCM, AES-CCM and ChaCha20-Poly1305.
//!
//! GCM and CCM go in pieces: the AAD, then the data. ChaCha20-Poly1305 is aws-lc's own, which wants a
//! message at once.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};

use super::ccm::{self, Ccm};
use super::gcm::{self, Gcm};
use super::{BLOCK, Direction};
use crate::wire;

/// An algorithm that the device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Gcm,
    Ccm,
    ChaCha20Poly1305,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 3] = [Self::Gcm, Self::Ccm, Self::ChaCha20Poly1305];

    /// The algorithm of the specification, where the device has it.
    pub(crate) fn from_wire(algo: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.to_wire() == algo)
    }

    pub(crate) fn to_wire(self) -> u32 {
        match self {
            Self::Gcm => wire::AEAD_GCM,
            Self::Ccm => wire::AEAD_CCM,
            Self::ChaCha20Poly1305 => wire::AEAD_CHACHA20_POLY1305,
        }
    }

    /// Whether tags can have so many bytes: SP 800-38D 5.2.1.2, SP 800-38C A.1, RFC 8439 2.8.
    pub(crate) fn has_tag_of(self, len: u32) -> bool {
        match self {
            Self::Gcm => matches!(len, 4 | 8 | 12..=16),
            Self::Ccm => matches!(len, 4 | 6 | 8 | 10 | 12 | 14 | 16),
            Self::ChaCha20Poly1305 => len == 16,
        }
    }

    /// Whether IVs can have so many bytes: VIRTIO 1.2, 5.9.7.7, and RFC 8439.
    pub(crate) fn has_iv_of(self, len: u32) -> bool {
        match self {
            Self::Gcm => matches!(len, 12 | 16),
            Self::Ccm => matches!(len, 7..=13),
            Self::ChaCha20Poly1305 => len == 12,
        }
    }

    /// Longest message with an IV of so many bytes, beyond what the device takes at all.
    pub(crate) fn longest(self, iv_len: u32) -> u64 {
        match self {
            Self::Ccm => ccm::longest(iv_len as usize),
            Self::Gcm | Self::ChaCha20Poly1305 => u64::MAX,
        }
    }
}

#[derive(Debug)]
enum Key {
    Gcm(Box<Gcm>),
    Ccm(Box<Ccm>),
    ChaCha20Poly1305(Box<LessSafeKey>),
}

/// A session's key with its direction.
#[derive(Debug)]
pub(crate) struct Aead {
    key: Key,
    pub(crate) algorithm: Algorithm,
    pub(crate) direction: Direction,
    /// Bytes of the tag.
    pub(crate) tag_len: u32,
}

/// How a message is done.
pub(crate) enum Begun<'k> {
    Pieces(Running<'k>),
    Whole(Whole<'k>),
}

/// A message in pieces.
pub(crate) enum Running<'k> {
    Gcm(gcm::Run<'k>),
    Ccm(ccm::Run<'k>),
}

/// A message at once.
pub(crate) struct Whole<'k> {
    key: &'k LessSafeKey,
    nonce: [u8; NONCE_LEN],
}

impl Aead {
    /// `None` where `key` has no length that the algorithm has. The tag's length was checked.
    pub(crate) fn new(algorithm: Algorithm, direction: Direction, key: &[u8], tag_len: u32) -> Option<Self> {
        let key = match algorithm {
            Algorithm::Gcm => Key::Gcm(Box::new(Gcm::new(key)?)),
            Algorithm::Ccm => Key::Ccm(Box::new(Ccm::new(key)?)),
            Algorithm::ChaCha20Poly1305 => {
                let key = UnboundKey::new(&CHACHA20_POLY1305, key).ok()?;
                Key::ChaCha20Poly1305(Box::new(LessSafeKey::new(key)))
            }
        };
        Some(Self { key, algorithm, direction, tag_len })
    }

    /// Begins a message; `None` where the IV or the message has a length that cannot be.
    pub(crate) fn begin(&self, iv: &[u8], aad_len: u64, len: u64) -> Option<Begun<'_>> {
        Some(match &self.key {
            Key::Gcm(key) => Begun::Pieces(Running::Gcm(key.begin(iv)?)),
            Key::Ccm(key) => {
                Begun::Pieces(Running::Ccm(key.begin(iv, aad_len, len, self.tag_len as usize)?))
            }
            Key::ChaCha20Poly1305(key) => Begun::Whole(Whole { key, nonce: iv.try_into().ok()? }),
        })
    }
}

impl Running<'_> {
    /// Takes a piece of the AAD. All but the last must be whole blocks, as with data.
    pub(crate) fn aad(&mut self, piece: &[u8]) -> Option<()> {
        match self {
            Self::Gcm(run) => run.aad(piece),
            Self::Ccm(run) => run.aad(piece)?,
        }
        Some(())
    }

    /// The AAD has been all.
    pub(crate) fn end_aad(&mut self) -> Option<()> {
        match self {
            Self::Gcm(_) => Some(()),
            Self::Ccm(run) => run.end_aad(),
        }
    }

    /// Encrypts a piece.
    pub(crate) fn seal(&mut self, piece: &mut [u8]) -> Option<()> {
        match self {
            Self::Gcm(run) => {
                run.transform(piece)?;
                run.authenticate(piece);
            }
            Self::Ccm(run) => {
                run.authenticate(piece)?;
                run.transform(piece)?;
            }
        }
        Some(())
    }

    /// Authenticates a piece of a message that is to be verified; what is left of it means nothing.
    pub(crate) fn verify(&mut self, piece: &mut [u8]) -> Option<()> {
        match self {
            Self::Gcm(run) => run.authenticate(piece),
            Self::Ccm(run) => {
                run.transform(piece)?;
                run.authenticate(piece)?;
            }
        }
        Some(())
    }

    /// The data come once more, to be decrypted.
    pub(crate) fn rewind(&mut self) {
        match self {
            Self::Gcm(run) => run.rewind(),
            Self::Ccm(run) => run.rewind(),
        }
    }

    /// Decrypts a piece of a message that was verified.
    pub(crate) fn open(&mut self, piece: &mut [u8]) -> Option<()> {
        match self {
            Self::Gcm(run) => run.transform(piece),
            Self::Ccm(run) => run.transform(piece),
        }
    }

    /// The whole tag: a shorter one is its beginning.
    pub(crate) fn tag(&mut self) -> Option<[u8; BLOCK]> {
        match self {
            Self::Gcm(run) => Some(run.tag()),
            Self::Ccm(run) => run.tag(),
        }
    }
}

impl Whole<'_> {
    fn nonce(&self) -> Nonce {
        Nonce::assume_unique_for_key(self.nonce)
    }

    /// Encrypts `data` in place: the tag.
    pub(crate) fn seal(&self, aad: &[u8], data: &mut [u8]) -> Option<Tag> {
        self.key.seal_in_place_separate_tag(self.nonce(), Aad::from(aad), data).ok()
    }

    /// Decrypts `data`, the tag behind it, in place: the plaintext, or `None` where it does not verify.
    pub(crate) fn open<'d>(&self, aad: &[u8], data: &'d mut [u8]) -> Option<&'d [u8]> {
        self.key.open_in_place(self.nonce(), Aad::from(aad), data).ok().map(|plain| &*plain)
    }
}

#[cfg(test)]
mod tests {
    use super::super::hex;
    use super::*;

    /// Seals in pieces of `cut` blocks: ciphertext and tag.
    fn sealed(aead: &Aead, iv: &[u8], aad: &[u8], plain: &[u8], cut: usize) -> Vec<u8> {
        let mut data = plain.to_vec();
        let tag = match aead.begin(iv, aad.len() as u64, plain.len() as u64).unwrap() {
            Begun::Whole(whole) => whole.seal(aad, &mut data).unwrap().as_ref().to_vec(),
            Begun::Pieces(mut run) => {
                aad.chunks(cut * BLOCK).for_each(|piece| run.aad(piece).unwrap());
                run.end_aad().unwrap();
                data.chunks_mut(cut * BLOCK).for_each(|piece| run.seal(piece).unwrap());
                run.tag().unwrap().to_vec()
            }
        };
        [&data[..], &tag[..aead.tag_len as usize]].concat()
    }

    /// Verifies and decrypts in pieces.
    fn opened(aead: &Aead, iv: &[u8], aad: &[u8], cipher: &[u8], cut: usize) -> Option<Vec<u8>> {
        let len = cipher.len() - aead.tag_len as usize;
        match aead.begin(iv, aad.len() as u64, len as u64).unwrap() {
            Begun::Whole(whole) => whole.open(aad, &mut cipher.to_vec()).map(<[u8]>::to_vec),
            Begun::Pieces(mut run) => {
                aad.chunks(cut * BLOCK).for_each(|piece| run.aad(piece).unwrap());
                run.end_aad().unwrap();
                let mut data = cipher[..len].to_vec();
                data.chunks_mut(cut * BLOCK).for_each(|piece| run.verify(piece).unwrap());
                if run.tag().unwrap()[..aead.tag_len as usize] != cipher[len..] {
                    return None;
                }
                run.rewind();
                data.copy_from_slice(&cipher[..len]);
                data.chunks_mut(cut * BLOCK).for_each(|piece| run.open(piece).unwrap());
                Some(data)
            }
        }
    }

    fn check(algorithm: Algorithm, key: &str, iv: &str, aad: &[u8], plain: &[u8], cipher: &str) {
        let (key, iv, cipher) = (hex(key), hex(iv), hex(cipher));
        let tag_len = (cipher.len() - plain.len()) as u32;
        assert!(algorithm.has_tag_of(tag_len) && algorithm.has_iv_of(iv.len() as u32));
        for cut in [1, 2, 3, 100] {
            let encrypt = Aead::new(algorithm, Direction::Encrypt, &key, tag_len).unwrap();
            assert_eq!(sealed(&encrypt, &iv, aad, plain, cut), cipher, "{algorithm:?}");
            let decrypt = Aead::new(algorithm, Direction::Decrypt, &key, tag_len).unwrap();
            assert_eq!(opened(&decrypt, &iv, aad, &cipher, cut).as_deref(), Some(plain));
            for bit in 0..8 * cipher.len() {
                let mut wrong = cipher.clone();
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(opened(&decrypt, &iv, aad, &wrong, cut), None, "{algorithm:?}, bit {bit}");
            }
        }
    }

    /// McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 1, 2, 4 and 16.
    #[test]
    fn gcm_gives_the_published_ciphertexts() {
        let gcm = Algorithm::Gcm;
        let (zeros, no_iv) = ("00".repeat(16), "00".repeat(12));
        check(gcm, &zeros, &no_iv, &[], &[], "58e2fccefa7e3061367f1d57a4e7455a");
        check(
            gcm,
            &zeros,
            &no_iv,
            &[],
            &[0; 16],
            "0388dace60b6a392f328c2b971b2fe78 ab6e47d42cec13bdf53a67b21257bddf",
        );
        let key = "feffe9928665731c6d6a8f9467308308";
        let iv = "cafebabefacedbaddecaf888";
        let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let plain = hex("d9313225f88406e5a55909c5aff5269a 86a7a9531534f7da2e4c303d8a318a72
             1c3c0c95956809532fcf0e2449a6b525 b16aedf5aa0de657ba637b39");
        let cipher = "42831ec2217774244b7221b784d0d49c e3aa212f2c02a4e035c17e2329aca12e
             21d514b25466931c7d8f6a5aac84aa05 1ba30b396a0aac973d58e091";
        let tag = "5bc94fbc3221a5db94fae95ae7121a47";
        check(gcm, key, iv, &aad, &plain, &format!("{cipher} {tag}"));
        // Shorter tags are beginnings of the longer; J0 in place of an IV.
        check(gcm, key, iv, &aad, &plain, &format!("{cipher} {}", &tag[..24]));
        check(gcm, key, &format!("{iv}00000001"), &aad, &plain, &format!("{cipher} {tag}"));
        check(
            gcm,
            &key.repeat(2),
            iv,
            &aad,
            &plain,
            "522dc1f099567d07f47f37a32a84427d 643a8cdcbfe5c0c97598a2bd2555d1aa
             8cb08e48590dbb3da7b08b1056828838 c5f61e6393ba7a0abcc9f662
             76fc6ece0f4e1768cddf8853bb2d551b",
        );
    }

    /// Test case 6 of the same: an IV of 60 bytes, whose J0 it prints. And a J0 whose counter wraps in
    /// the message.
    #[test]
    fn gcm_takes_j0_and_its_counter_wraps_in_32_bits() {
        let key = "feffe9928665731c6d6a8f9467308308";
        let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let plain = hex("d9313225f88406e5a55909c5aff5269a 86a7a9531534f7da2e4c303d8a318a72
             1c3c0c95956809532fcf0e2449a6b525 b16aedf5aa0de657ba637b39");
        check(
            Algorithm::Gcm,
            key,
            "3bab75780a31c059f83d2a44752f9864",
            &aad,
            &plain,
            "8ce24998625615b603a033aca13fb894 be9112a5c3a211a8ba262a3cca7e2ca7
             01e4a9a4fba43c90ccdcb281d48c7c6f d62875d2aca417034c34aee5
             619cc5aefffe0bfa462af43c1699d050",
        );
        let aead = Aead::new(Algorithm::Gcm, Direction::Encrypt, &hex(key), 16).unwrap();
        let data = sealed(&aead, &hex("000102030405060708090a0bfffffffe"), &[], &[0; 64], 4);
        // The keystream goes on with the counters ffffffff, 0, 1, 2: each is a block of its own.
        let aes =
            super::super::cipher::Cipher::new(super::super::cipher::Mode::Ecb, Direction::Encrypt, &hex(key))
                .unwrap();
        for (at, counter) in [u32::MAX, 0, 1, 2].into_iter().enumerate() {
            let mut block = hex("000102030405060708090a0b");
            block.extend(counter.to_be_bytes());
            aes.apply(&mut [0; 16], &mut block).unwrap();
            assert_eq!(data[16 * at..][..16], block[..], "counter {counter:#x}");
        }
    }

    /// SP 800-38C, examples 1 to 3, and 4, whose AAD is 65536 bytes; RFC 3610, packet vector 1.
    #[test]
    fn ccm_gives_the_published_ciphertexts() {
        let (ccm, key) = (Algorithm::Ccm, "404142434445464748494a4b4c4d4e4f");
        let bytes = |from: u8, len: u8| (from..from + len).collect::<Vec<u8>>();
        check(ccm, key, "10111213141516", &bytes(0, 8), &bytes(0x20, 4), "7162015b 4dac255d");
        check(
            ccm,
            key,
            "1011121314151617",
            &bytes(0, 16),
            &bytes(0x20, 16),
            "d2a1f0e051ea5f62081a7792073d593d 1fc64fbfaccd",
        );
        check(
            ccm,
            key,
            "101112131415161718191a1b",
            &bytes(0, 20),
            &bytes(0x20, 24),
            "e3b201a9f5b71a7a9b1ceaeccd97e70b6176aad9a4428aa5 484392fbc1b09951",
        );
        let long: Vec<u8> = (0..65536_u32).map(|at| at as u8).collect();
        let aead = Aead::new(ccm, Direction::Encrypt, &hex(key), 14).unwrap();
        let cipher = hex(
            "69915dad1e84c6376a68c2967e4dab615ae0fd1faec44cc484828529463ccf72 b4ac6bec93e8598e7f0dadbcea5b",
        );
        let nonce = hex("101112131415161718191a1b1c");
        assert_eq!(sealed(&aead, &nonce, &long, &bytes(0x20, 32), 256), cipher);
        check(
            ccm,
            "c0c1c2c3c4c5c6c7c8c9cacbcccdcecf",
            "00000003020100a0a1a2a3a4a5",
            &bytes(0, 8),
            &bytes(8, 23),
            "588c979a61c663d2f066d0c2c0f989806d5f6b61dac384 17e8d12cfdf926e0",
        );
        // A long nonce leaves two bytes for the length.
        assert!(aead.begin(&nonce, 0, 65535).is_some());
        assert!(aead.begin(&nonce, 0, 65536).is_none());
        assert!(aead.begin(&nonce[1..], 0, 65536).is_some());
    }

    /// RFC 8439, 2.8.2.
    #[test]
    fn chacha20_poly1305_gives_the_published_ciphertext() {
        check(
            Algorithm::ChaCha20Poly1305,
            "808182838485868788898a8b8c8d8e8f 909192939495969798999a9b9c9d9e9f",
            "070000004041424344454647",
            &hex("50515253c0c1c2c3c4c5c6c7"),
            b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.",
            "d31a8d34648e60db7b86afbc53ef7ec2 a4aded51296e08fea9e2b5a736ee62d6
             3dbea45e8ca9671282fafb69da92728b 1a71de0a9e060b2905d6a5b67ecd3b36
             92ddbd7f2d778b8c9803aee328091b58 fab324e4fad675945585808b4831d7bc
             3ff4def08e4b7a9de576d26586cec64b 6116
             1ae10b594f09e26a7e902ecbd0600691",
        );
    }

    #[test]
    fn wrong_lengths_are_refused() {
        for (algorithm, keys, ivs, tags) in [
            (Algorithm::Gcm, &[16, 24, 32][..], &[12, 16][..], &[4, 8, 12, 13, 14, 15, 16][..]),
            (Algorithm::Ccm, &[16, 24, 32], &[7, 8, 9, 10, 11, 12, 13], &[4, 6, 8, 10, 12, 14, 16]),
            (Algorithm::ChaCha20Poly1305, &[32], &[12], &[16]),
        ] {
            for len in 0..=65_usize {
                let aead = Aead::new(algorithm, Direction::Encrypt, &vec![1; len], 16);
                assert_eq!(aead.is_some(), keys.contains(&len), "{algorithm:?}, key {len}");
                assert_eq!(algorithm.has_tag_of(len as u32), tags.contains(&len));
                assert_eq!(algorithm.has_iv_of(len as u32), ivs.contains(&len));
                if let Some(aead) = aead {
                    for iv in 0..=17 {
                        assert_eq!(aead.begin(&vec![0; iv], 0, 0).is_some(), ivs.contains(&iv));
                    }
                }
            }
        }
    }
}
