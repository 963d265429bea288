//! Random requests of every kind on one device, each with what must come of it.

use ringbell::{
    Aead, AeadKey, Answer, Buffers, Cipher, CipherKey, Completion, Device, Direction, Error, Hash, Hasher,
    Mac, MacKey, Request, Result, RsaHash, RsaKey, RsaPadding,
};

use super::{Rng, cuts, evp, oracle, output, zeros};

/// A request, and what must come of it.
pub struct Work {
    pub request: Request,
    pub wanted: Wanted,
}

/// What must come of a request.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub what: String,
    pub answer: Answer,
    pub output: Vec<u8>,
}

impl Wanted {
    /// Checks a completion that is no error.
    pub fn check(&self, done: &Completion) {
        assert_eq!(done.result(), Ok(self.answer), "{}", self.what);
        assert!(output(done) == self.output, "{}: another result", self.what);
    }
}

struct Rsa {
    key: RsaKey,
    digest: Vec<u8>,
    signature: Vec<u8>,
    plain: Vec<u8>,
    sealed: Vec<u8>,
}

/// Keys of every kind.
pub struct Kinds {
    device: Device,
    ciphers: Vec<(CipherKey, Vec<u8>)>,
    aeads: Vec<(AeadKey, Vec<u8>)>,
    hashers: Vec<Hasher>,
    macs: Vec<(MacKey, Vec<u8>)>,
    rsa: Vec<Rsa>,
}

/// Lengths of associated data: each is a session of its own.
const AADS: [usize; 3] = [0, 7, 64];

/// The kinds by name.
pub const KINDS: [&str; 6] = ["plain cipher", "cipher", "AEAD", "hash", "MAC", "RSA"];

impl Kinds {
    /// Keys of zeros and ones on `device`, for all that it offers.
    pub fn new(device: &Device) -> Self {
        let offered = device.capabilities();
        let rsa = |bits: usize| {
            let oracle = evp::rsa_key(bits);
            let (digest, plain) = (vec![0x37; 32], b"what is decrypted".to_vec());
            let der = oracle.private_key_to_der().expect("libcrypto");
            Rsa {
                key: device.rsa_key(RsaPadding::Pkcs1(RsaHash::Sha256), &der).expect("a key"),
                signature: evp::rsa_sign(&oracle, RsaHash::Sha256, &digest),
                sealed: evp::rsa_encrypt(&oracle, openssl::rsa::Padding::PKCS1, &plain),
                digest,
                plain,
            }
        };
        let sizes =
            if offered.rsa.contains(&RsaPadding::Pkcs1(RsaHash::Sha256)) { &[1024, 2048][..] } else { &[] };
        Self {
            device: device.clone(),
            ciphers: offered
                .ciphers
                .iter()
                .map(|cipher| {
                    let bytes = zeros(*cipher);
                    (device.cipher_key(*cipher, &bytes).expect("a key"), bytes)
                })
                .collect(),
            aeads: offered
                .aeads
                .iter()
                .map(|aead| {
                    let bytes = vec![1; aead.key_len()];
                    (device.aead_key(*aead, &bytes).expect("a key"), bytes)
                })
                .collect(),
            hashers: offered.hashes.iter().map(|hash| device.hasher(*hash).expect("a hash")).collect(),
            macs: offered
                .macs
                .iter()
                .map(|mac| {
                    let bytes = vec![2; *mac.key_lens().start()];
                    (device.mac_key(*mac, &bytes).expect("a key"), bytes)
                })
                .collect(),
            rsa: sizes.iter().map(|bits| rsa(*bits)).collect(),
        }
    }

    /// Creates all sessions, as far as the device does.
    pub fn prepare(&self) -> Result<()> {
        self.ciphers.iter().try_for_each(|(key, _)| key.prepare())?;
        for (key, _) in &self.aeads {
            AADS.iter().try_for_each(|aad| key.prepare(*aad))?;
        }
        self.hashers.iter().try_for_each(Hasher::prepare)?;
        self.macs.iter().try_for_each(|(key, _)| key.prepare())?;
        self.rsa.iter().try_for_each(|rsa| rsa.key.prepare())
    }

    fn scatter(&self, rng: &mut Rng, data: &[u8], most: usize) -> Result<Buffers> {
        let mut buffers = self.empty(rng, data.len(), most)?;
        buffers.copy_from_slice(data);
        Ok(buffers)
    }

    /// Room for `len` bytes, in at most `most` buffers.
    fn empty(&self, rng: &mut Rng, len: usize, most: usize) -> Result<Buffers> {
        let count = 1 + rng.below(most);
        let pieces = cuts(rng, len, count).into_iter().map(|len| {
            let mut piece = self.device.buffer(len)?;
            piece.fill(0xa5);
            Ok(piece)
        });
        pieces.collect()
    }

    /// A request of any kind, of at most `most` bytes, with input and output in at most `pieces` buffers each.
    ///
    /// # Errors
    /// As for the making of requests: no room for the moment, or too many buffers.
    pub fn random(&self, rng: &mut Rng, most: usize, pieces: usize) -> Result<Work> {
        let kind = rng.below(KINDS.len());
        self.of_kind(kind, rng, most, pieces)
    }

    /// As [`random`](Self::random), of one of [`KINDS`].
    pub fn of_kind(&self, kind: usize, rng: &mut Rng, most: usize, pieces: usize) -> Result<Work> {
        let len = rng.below(most + 1);
        match kind {
            0 => self.plain(rng, len),
            1 => self.cipher(rng, len, pieces),
            2 => self.aead(rng, len, pieces),
            3 => {
                let hasher = pick(&self.hashers, rng)?;
                let data = rng.bytes(len);
                let request = hasher.digest(self.scatter(rng, &data, pieces)?)?;
                Ok(work(request, hasher.hash(), Answer::Yes, evp::hash(hasher.hash(), &data)))
            }
            4 => {
                let (key, bytes) = pick(&self.macs, rng)?;
                let data = rng.bytes(len);
                let request = key.compute(self.scatter(rng, &data, pieces)?)?;
                Ok(work(request, key.mac(), Answer::Yes, evp::mac(key.mac(), bytes, &data)))
            }
            _ => self.rsa(rng, pieces),
        }
    }

    fn plain(&self, rng: &mut Rng, len: usize) -> Result<Work> {
        let (key, bytes) = pick(&self.ciphers, rng)?;
        let cipher = key.cipher();
        let len = (len / cipher.granule() * cipher.granule()).max(cipher.least());
        let (data, iv) = (rng.bytes(len), rng.bytes(cipher.iv_len()));
        let direction = direction(rng);
        let output = if rng.one_in(2) { Some(self.device.buffer(len)?) } else { None };
        let request = key.request(direction, &iv, self.device.buffer_from(&data)?, output);
        Ok(work(request, cipher, Answer::Yes, oracle(cipher, direction, bytes, &iv, &data)))
    }

    fn cipher(&self, rng: &mut Rng, len: usize, pieces: usize) -> Result<Work> {
        let (key, bytes) = pick(&self.ciphers, rng)?;
        let cipher = key.cipher();
        let len = (len / cipher.granule() * cipher.granule()).max(cipher.least());
        let (data, iv) = (rng.bytes(len), rng.bytes(cipher.iv_len()));
        let direction = direction(rng);
        let output = if rng.one_in(2) { Some(self.empty(rng, len, pieces)?) } else { None };
        let request = key.scatter(direction, &iv, self.scatter(rng, &data, pieces)?, output)?;
        Ok(work(request, cipher, Answer::Yes, oracle(cipher, direction, bytes, &iv, &data)))
    }

    fn aead(&self, rng: &mut Rng, len: usize, pieces: usize) -> Result<Work> {
        let (key, bytes) = pick(&self.aeads, rng)?;
        let (aead, tag) = (key.aead(), key.tag_len());
        let aad = AADS[rng.below(AADS.len())];
        let (data, nonce, aad) = (rng.bytes(len), rng.bytes(12), rng.bytes(aad));
        let mut sealed = evp::seal(aead, bytes, &nonce, &aad, &data, tag);
        if rng.one_in(2) {
            let request = if rng.one_in(2) {
                let input = self.scatter(rng, &data, pieces)?;
                key.seal_into(&nonce, &aad, input, self.empty(rng, len + tag, pieces)?)?
            } else {
                let mut whole = self.device.buffer(len + tag)?;
                whole.set_len(len)?;
                whole.copy_from_slice(&data);
                key.seal(&nonce, &aad, whole)?
            };
            return Ok(work(request, aead, Answer::Yes, sealed));
        }
        let good = !rng.one_in(4);
        if !good {
            let at = rng.below(sealed.len());
            sealed[at] ^= 1;
        }
        let input = self.scatter(rng, &sealed, pieces)?;
        let request = if rng.one_in(2) {
            key.open(&nonce, &aad, input)?
        } else {
            key.open_into(&nonce, &aad, input, self.empty(rng, len, pieces)?)?
        };
        Ok(if good {
            work(request, aead, Answer::Yes, data)
        } else {
            work(request, aead, Answer::No, Vec::new())
        })
    }

    fn rsa(&self, rng: &mut Rng, pieces: usize) -> Result<Work> {
        let Rsa { key, digest, signature, plain, sealed } = pick(&self.rsa, rng)?;
        let none = Vec::new();
        match rng.below(4) {
            0 => {
                let request = key.sign(self.scatter(rng, digest, pieces)?)?;
                Ok(work(request, "RSA, sign", Answer::Yes, signature.clone()))
            }
            1 => {
                let request = key.decrypt(self.scatter(rng, sealed, pieces)?)?;
                Ok(work(request, "RSA, decrypt", Answer::Yes, plain.clone()))
            }
            2 => {
                let (signature, digest) =
                    (self.scatter(rng, signature, pieces)?, self.scatter(rng, digest, pieces)?);
                Ok(work(key.verify(signature, digest)?, "RSA, verify", Answer::Yes, none))
            }
            _ => {
                let (signature, digest) =
                    (self.scatter(rng, signature, pieces)?, self.scatter(rng, &[0; 32], pieces)?);
                Ok(work(key.verify(signature, digest)?, "RSA, verify", Answer::No, none))
            }
        }
    }
}

fn direction(rng: &mut Rng) -> Direction {
    if rng.one_in(2) { Direction::Encrypt } else { Direction::Decrypt }
}

fn pick<'a, T>(all: &'a [T], rng: &mut Rng) -> Result<&'a T> {
    if all.is_empty() {
        return Err(Error::Invalid("the device has none of these".to_owned()));
    }
    Ok(&all[rng.below(all.len())])
}

fn work(request: Request, what: impl std::fmt::Display, answer: Answer, output: Vec<u8>) -> Work {
    let what = format!("{what}: {request:?}");
    Work { request, wanted: Wanted { what, answer, output } }
}

/// Whether all of the library's algorithms are there.
pub fn offers_all(device: &Device) -> bool {
    let offered = device.capabilities();
    offered.ciphers == Cipher::ALL
        && offered.aeads == Aead::ALL
        && offered.hashes == Hash::ALL
        && offered.macs == Mac::ALL
}
