//! AES-XTS, in pieces. Ref: IEEE Std 1619-2007, 5.3 and 5.4.
//!
//! ```text
//!   key      key 1, for the data | key 2, for the tweak
//!   tweak    T(0) = E(key 2, IV)       T(j + 1) = T(j) * x in GF(2^128), little-endian
//!   block    C(j) = E(key 1, P(j) ^ T(j)) ^ T(j)
//!
//!   a tail of b bytes behind m blocks steals from the last of them:
//!            P(m-1)        P(m), b bytes
//!              |             |      +-- last 16 - b bytes of CC
//!            E, T(m-1) = CC  [ P(m) | CC... ]
//!              |             |
//!              +-- first b   E, T(m)
//!            C(m), b bytes   C(m-1)          (C(m-1) stands first)
//! ```
//!
//! A request is one data unit. The tweak is all that goes from one piece to the next; the piece with a
//! tail must have a whole block before it.

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
    UnboundCipherKey,
};

use super::{BLOCK, Direction};

#[derive(Debug)]
enum DataKey {
    Encrypt(EncryptingKey),
    Decrypt(DecryptingKey),
}

/// Both keys.
#[derive(Debug)]
pub(super) struct Xts {
    data: DataKey,
    tweak: EncryptingKey,
}

impl Xts {
    /// `None` where `key` is not two keys of AES. They may be the same: the standard's first vectors
    /// are.
    pub(super) fn new(direction: Direction, key: &[u8]) -> Option<Self> {
        let algorithm = match key.len() {
            32 => &AES_128,
            48 => &AES_192,
            64 => &AES_256,
            _ => return None,
        };
        let (data, tweak) = key.split_at(key.len() / 2);
        let [data, tweak] = [data, tweak].map(|key| UnboundCipherKey::new(algorithm, key));
        let (data, tweak) = (data.ok()?, tweak.ok()?);
        let data = match direction {
            Direction::Encrypt => DataKey::Encrypt(EncryptingKey::ecb(data).ok()?),
            Direction::Decrypt => DataKey::Decrypt(DecryptingKey::ecb(data).ok()?),
        };
        Some(Self { data, tweak: EncryptingKey::ecb(tweak).ok()? })
    }

    /// Makes the first tweak of an IV, in place.
    pub(super) fn start(&self, iv: &mut [u8; BLOCK]) -> Option<()> {
        self.tweak.less_safe_encrypt(&mut iv[..], EncryptionContext::None).ok()?;
        Some(())
    }

    /// Transforms a piece and moves the tweak on. Only the last piece may have a tail.
    pub(super) fn apply(&self, tweak: &mut [u8; BLOCK], data: &mut [u8]) -> Option<()> {
        let tail = data.len() % BLOCK;
        let mut next = u128::from_le_bytes(*tweak);
        if tail == 0 {
            self.blocks(&mut next, data)?;
        } else {
            let last = data.len().checked_sub(tail + BLOCK)?;
            self.blocks(&mut next, &mut data[..last])?;
            // Encrypting, the block takes the earlier tweak and the stolen one the later; decrypting,
            // they come the other way round.
            let (mut first, mut second) = (next, double(next));
            if let DataKey::Decrypt(_) = self.data {
                (first, second) = (second, first);
            }
            let (block, stolen) = data[last..].split_at_mut(BLOCK);
            self.blocks(&mut first, block)?;
            block[..tail].swap_with_slice(stolen);
            self.blocks(&mut second, block)?;
        }
        *tweak = next.to_le_bytes();
        Some(())
    }

    /// Whole blocks; `tweak` becomes that of the block behind them.
    fn blocks(&self, tweak: &mut u128, data: &mut [u8]) -> Option<()> {
        if data.is_empty() {
            return Some(());
        }
        mask(*tweak, data);
        match &self.data {
            DataKey::Encrypt(key) => {
                key.less_safe_encrypt(data, EncryptionContext::None).ok()?;
            }
            DataKey::Decrypt(key) => {
                key.decrypt(data, DecryptionContext::None).ok()?;
            }
        }
        *tweak = mask(*tweak, data);
        Some(())
    }
}

/// Adds its tweak to each block: the tweak behind them.
fn mask(mut tweak: u128, data: &mut [u8]) -> u128 {
    let (blocks, _) = data.as_chunks_mut::<BLOCK>();
    for block in blocks {
        *block = (u128::from_le_bytes(*block) ^ tweak).to_le_bytes();
        tweak = double(tweak);
    }
    tweak
}

/// Times x: the polynomial is x^128 + x^7 + x^2 + x + 1.
fn double(tweak: u128) -> u128 {
    (tweak << 1) ^ ((tweak >> 127) * 0x87)
}

#[cfg(test)]
mod tests {
    use super::super::hex;
    use super::*;

    fn check(key: &str, iv: &str, plain: &[u8], cipher: &[u8]) {
        let iv: [u8; BLOCK] = hex(iv).try_into().unwrap();
        for (direction, from, to) in
            [(Direction::Encrypt, plain, cipher), (Direction::Decrypt, cipher, plain)]
        {
            let xts = Xts::new(direction, &hex(key)).unwrap();
            // Cut anywhere where no tail is left without a block.
            for cut in (0..from.len()).step_by(BLOCK).filter(|cut| {
                let rest = from.len() - cut;
                rest >= BLOCK
            }) {
                let (mut data, mut tweak) = (from.to_vec(), iv);
                xts.start(&mut tweak).unwrap();
                xts.apply(&mut tweak, &mut data[..cut]).unwrap();
                xts.apply(&mut tweak, &mut data[cut..]).unwrap();
                assert_eq!(data, to, "{direction:?}, cut at {cut}");
            }
        }
    }

    /// IEEE Std 1619-2007, annex B: vectors 1, 2, the beginning of 4, and 15 to 18 (with a tail).
    #[test]
    fn the_standards_vectors_come_out() {
        let zeros = "00".repeat(32);
        check(
            &zeros,
            &"00".repeat(16),
            &[0; 32],
            &hex("917cf69ebd68b2ec9b9fe9a3eadda692 cd43d2f59598ed858c02c2652fbf922e"),
        );
        let key = "11".repeat(16) + &"22".repeat(16);
        check(
            &key,
            "33333333330000000000000000000000",
            &[0x44; 32],
            &hex("c454185e6a16936e39334038acef838b fb186fff7480adc4289382ecd6d394f0"),
        );
        let counting: Vec<u8> = (0..64).collect();
        check(
            "27182818284590452353602874713526 31415926535897932384626433832795",
            &"00".repeat(16),
            &counting,
            &hex("27a7479befa1d476489f308cd4cfa6e2 a96e4bbe3208ff25287dd3819616e89c
                  c78cf7f5e543445f8333d8fa7f560000 05279fa5d8b5e4ad40e736ddb4d35412"),
        );
        let key = "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0 bfbebdbcbbbab9b8b7b6b5b4b3b2b1b0";
        let iv = "9a785634120000000000000000000000";
        for (len, cipher) in [
            (17, "6c1625db4671522d3d7599601de7ca09 ed"),
            (18, "d069444b7a7e0cab09e24447d24deb1f edbf"),
            (19, "e5df1351c0544ba1350b3363cd8ef4be edbf9d"),
            (20, "9d84c813f719aa2c7be3f66171c7c5c2 edbf9dac"),
        ] {
            check(key, iv, &counting[..len], &hex(cipher));
        }
    }

    #[test]
    fn keys_come_in_pairs_and_data_in_blocks_at_least() {
        for len in [0, 16, 24, 31, 33, 65] {
            assert!(Xts::new(Direction::Encrypt, &vec![1; len]).is_none(), "{len}");
        }
        let xts = Xts::new(Direction::Encrypt, &[1; 64]).unwrap();
        assert!(xts.apply(&mut [0; 16], &mut [0; 15]).is_none());
        assert!(Xts::new(Direction::Decrypt, &[1; 48]).is_some());
    }
}
