//! The judge of RSA.
//!
//! Signatures with PKCS #1 v1.5 padding have one right value each, so a signature that aws-lc verifies is the
//! one, whoever has made it. And it is the raw operation on a block that is known:
//!
//! ```text
//!   block      00 01 ff ... 00 | prefix of SHA-256 | digest       (RFC 8017, 9.2)
//!   block  -- private, raw -->  signature  -- public, raw -->  block
//! ```
//!
//! What is encrypted with padding is never the same twice: each result is decrypted to be judged. That is
//! aws-lc's, too, but for keys of 1024 bits, which it does not take: for those it is the crate `rsa`, as in the
//! simulator.

use aws_lc_rs::rsa::{Pkcs1PrivateDecryptingKey, PrivateDecryptingKey};
use aws_lc_rs::signature::{RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, UnparsedPublicKey};
use pkcs8::SecretDocument;
use rsa::hazmat::rsa_encrypt;
use rsa::pkcs1::EncodeRsaPublicKey;
use rsa::pkcs8::DecodePrivateKey;
use rsa::traits::PublicKeyParts;
use rsa::{BoxedUint, Pkcs1v15Encrypt, PrivateKey};
use sha2::{Digest, Sha256};

/// What stands before the digest (RFC 8017, 9.2, note 1).
const PREFIX: &[u8] = b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";

/// Inputs and outputs that belong together.
#[derive(Clone, Debug)]
pub(crate) struct Vector {
    /// Of 32 bytes.
    pub(crate) digest: Vec<u8>,
    /// The digest, padded.
    pub(crate) block: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    /// A padded encryption of the digest.
    pub(crate) encrypted: Vec<u8>,
}

/// A private key of RustCrypto, and aws-lc's where it takes it.
pub(crate) struct Judge {
    key: PrivateKey,
    aws: Option<Pkcs1PrivateDecryptingKey>,
}

impl Judge {
    /// For a key in PEM, PKCS #8. `None` where it is none.
    pub(crate) fn new(pem: &str) -> Option<Self> {
        let key = PrivateKey::from_pkcs8_pem(pem).ok()?;
        let (_, der) = SecretDocument::from_pem(pem).ok()?;
        let aws = PrivateDecryptingKey::from_pkcs8(der.as_bytes()).ok();
        let aws = aws.and_then(|key| Pkcs1PrivateDecryptingKey::new(key).ok());
        // From 2048 bits on it takes all keys.
        (aws.is_some() || key.size() < 256).then_some(Self { key, aws })
    }

    /// What belongs to the digest of a message. `None` where the two implementations do not agree.
    pub(crate) fn vector(&self, message: &[u8]) -> Option<Vector> {
        let digest = Sha256::digest(message).to_vec();
        let signature = self.key.pkcs1v15_sign_prehash::<Sha256>(&digest).ok()?;
        let public = self.key.as_public_key().to_pkcs1_der().ok()?;
        UnparsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, public.as_bytes())
            .verify(message, &signature)
            .ok()?;
        let mut block = vec![0xff; signature.len()];
        (block[0], block[1]) = (0, 1);
        let tail = [&[0], PREFIX, &digest].concat();
        let at = block.len().checked_sub(tail.len())?;
        block[at..].copy_from_slice(&tail);
        let encrypted = self.encrypt(&digest)?;
        self.decrypts_to(&encrypted, &digest).then_some(Vector { digest, block, signature, encrypted })
    }

    /// With a padding that is random enough to be measured with.
    fn encrypt(&self, data: &[u8]) -> Option<Vec<u8>> {
        let public = self.key.as_public_key();
        let mut block = vec![0x5a; public.size()];
        (block[0], block[1]) = (0, 2);
        let at = block.len().checked_sub(data.len())?;
        block[at - 1] = 0;
        block[at..].copy_from_slice(data);
        let number = BoxedUint::from_be_slice(&block, public.n().bits_precision()).ok()?;
        let sealed = rsa_encrypt(public, &number).ok()?.to_be_bytes();
        sealed.get(sealed.len().checked_sub(block.len())?..).map(<[u8]>::to_vec)
    }

    /// Whether that is an encryption of `data`, with padding.
    pub(crate) fn decrypts_to(&self, sealed: &[u8], data: &[u8]) -> bool {
        match &self.aws {
            Some(private) => {
                let mut opened = vec![0; private.min_output_size()];
                private.decrypt(sealed, &mut opened).is_ok_and(|opened| opened == data)
            }
            // Its answer to a wrong padding is made up, but never the data.
            None => self.key.decrypt(Pkcs1v15Encrypt, sealed).is_ok_and(|opened| opened == data),
        }
    }
}
