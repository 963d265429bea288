//! RSA keys.
//!
//! What devices take is PKCS #1 in DER; what people have is PEM or DER of PKCS #1, PKCS #8 or X.509's
//! SubjectPublicKeyInfo. All are read; a private key has its public one in it.

use std::fmt;
use std::sync::Arc;

use pkcs1::der::asn1::UintRef;
use pkcs1::der::{Decode, Encode, SecretDocument};
use pkcs1::{RsaPrivateKeyRef, RsaPublicKeyRef};
use pkcs8::{PrivateKeyInfoRef, SubjectPublicKeyInfoRef};
use ringbell_drivers::dma::Secret;
use ringbell_drivers::engine::{Purpose, RSA_BITS, RsaOperation, RsaPadding, Session};
use ringbell_drivers::{Error, Result};

use super::{MOMENT, prepare, secret};
use crate::body::Body;
use crate::buffers::Buffers;
use crate::chain::{Chain, Detail};
use crate::device::Device;
use crate::request::Request;

/// Bytes that PKCS #1 padding takes at the least (RFC 8017, 7.2.1).
const PKCS1_OVERHEAD: usize = 11;

/// A key that was read.
struct Parsed {
    bits: usize,
    public: Arc<Secret>,
    private: Option<Arc<Secret>>,
}

fn bad(why: impl fmt::Display) -> Error {
    Error::Invalid(format!("cannot read an RSA key: {why}"))
}

fn encrypted() -> Error {
    bad("it is encrypted; decrypt it first: openssl pkey -in KEY -out KEY.clear")
}

/// Bits of a modulus.
fn bits(modulus: &UintRef<'_>) -> usize {
    let bytes = modulus.as_bytes();
    let leading = bytes.first().map_or(0, |byte| byte.leading_zeros() as usize);
    8 * bytes.len() - leading
}

impl Parsed {
    /// Reads PEM or DER.
    fn read(key: &[u8]) -> Result<Self> {
        match std::str::from_utf8(key) {
            Ok(text) if text.contains("-----BEGIN ") => Self::read_pem(text),
            _ => Self::read_der(key),
        }
    }

    fn read_pem(text: &str) -> Result<Self> {
        // What stands before the key (as `openssl rsa -text` puts it) is not part of it.
        let start = text.find("-----BEGIN ").unwrap_or(0);
        let text = text.get(start..).unwrap_or(text);
        // The older form of an encrypted key (RFC 1421) says so in a header.
        if text
            .lines()
            .nth(1)
            .is_some_and(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED"))
        {
            return Err(encrypted());
        }
        let (label, der) = SecretDocument::from_pem(text).map_err(bad)?;
        let der = der.as_bytes();
        match label {
            "RSA PRIVATE KEY" => Self::private(der),
            "RSA PUBLIC KEY" => Self::public(der),
            "PRIVATE KEY" => Self::private_info(der),
            "PUBLIC KEY" => Self::public_info(der),
            "ENCRYPTED PRIVATE KEY" => Err(encrypted()),
            other => Err(bad(format!("the PEM holds a {other}; there have to be a PRIVATE or PUBLIC KEY"))),
        }
    }

    /// Of the four forms no two look alike.
    fn read_der(der: &[u8]) -> Result<Self> {
        if RsaPrivateKeyRef::from_der(der).is_ok() {
            Self::private(der)
        } else if PrivateKeyInfoRef::from_der(der).is_ok() {
            Self::private_info(der)
        } else if RsaPublicKeyRef::from_der(der).is_ok() {
            Self::public(der)
        } else if SubjectPublicKeyInfoRef::from_der(der).is_ok() {
            Self::public_info(der)
        } else {
            Err(bad("it is neither PEM nor DER of PKCS #1, PKCS #8 or a public key"))
        }
    }

    fn private(der: &[u8]) -> Result<Self> {
        let key = RsaPrivateKeyRef::from_der(der).map_err(bad)?;
        let public = key.public_key().to_der().map_err(bad)?;
        let private = Some(secret(der)?);
        Ok(Self { private, ..Self::public(&public)? })
    }

    fn public(der: &[u8]) -> Result<Self> {
        let key = RsaPublicKeyRef::from_der(der).map_err(bad)?;
        let bits = bits(&key.modulus);
        if !RSA_BITS.contains(&bits) {
            return Err(bad(format!(
                "it has {bits} bits; Ringbell takes {} to {}",
                RSA_BITS.start(),
                RSA_BITS.end()
            )));
        }
        Ok(Self { bits, public: secret(der)?, private: None })
    }

    fn private_info(der: &[u8]) -> Result<Self> {
        let info = PrivateKeyInfoRef::from_der(der).map_err(bad)?;
        if info.algorithm.oid != pkcs1::ALGORITHM_OID {
            return Err(bad(format!("it is a key of another algorithm, {}", info.algorithm.oid)));
        }
        Self::private(info.private_key.as_bytes())
    }

    fn public_info(der: &[u8]) -> Result<Self> {
        let info = SubjectPublicKeyInfoRef::from_der(der).map_err(bad)?;
        if info.algorithm.oid != pkcs1::ALGORITHM_OID {
            return Err(bad(format!("it is a key of another algorithm, {}", info.algorithm.oid)));
        }
        let key = info.subject_public_key.as_bytes().ok_or_else(|| bad("its bits are no whole bytes"))?;
        Self::public(key)
    }
}

/// An RSA key at the device, with its padding. Cloning gives another handle.
///
/// A private key does all; a public one encrypts and verifies. Devices take key, padding and hash function
/// with the session, so each is fixed here.
///
/// ```
/// use ringbell::{Answer, Device, Hash, Poller, RsaHash, RsaPadding, WaitCtx};
/// # fn run(device: &Device, request: ringbell::Request) -> ringbell::Result<ringbell::Completion> {
/// #     let ctx = WaitCtx::new();
/// #     let limit = std::time::Duration::from_secs(9);
/// #     device.submit_wait(request, &ctx, limit).map_err(|refused| refused.to_error())?;
/// #     loop { if let Some(done) = ctx.take() { return Ok(done) } }
/// # }
/// # let pem = "\
/// # -----BEGIN RSA PRIVATE KEY-----
/// # MIICXQIBAAKBgQDTxIc6jY9bD+P5y7+2LYhd6KxB5/xc3S56CKa40cCktiWryA0P
/// # 81ky44QmtJgl8EouwRc6LJnr/vLkIDn+WQ9fIxgs5ZSHiK4r6D1UXtd2PKHn9S6P
/// # BiEASEPDb/0TiBDiOmk1ZFNIxWRv+sno5X5OkJgCYNW3O/Hox+hYzE99zQIDAQAB
/// # AoGBANN1HddA/ZHfhzSq2G8wfkfPixpwbNXJ4pvmwZwxjpyqaWlj5G81/q7K8u23
/// # TWosy9Zt5ySm3rgBp0ZWS7KH+cijwvn6/n5Gd20y0k8K7gJOUS52sdK75zyjm9Pi
/// # /gLbGwrFi4HVujdG228jCJMwm/kJbAVL1bvm7U97mw/w1B+dAkEA8I9DISYXiDju
/// # nfUGbra1ZJKNOmZnGUIVJsIzEcBp87hq/tOhjWK1a0M2FhV4BCqFE+i3kj82XFBw
/// # L9q86b3e3wJBAOFcLGwyOGLcDcdnOoyxzW9oB9sm4aYQrA1AlMILzZmYhB/H+yoM
/// # Xakh1R/XrLtaiFgdqgwTSnHFfYz59AtktNMCQGbRJKUHbeloQ/y5XG13pCH/TWOX
/// # nxs5lmbBfChrMB3eRcTy2Urf1KCq0nQv6uME9Woj/koAwJBGRRz/Bd11rMsCQQDc
/// # SpzF+uVxhcgWVss+AwRdVaTwTfafvYZhwfJoKN+GuDbXVkYnmUTo8sCByvL3hYzo
/// # Db9O5ICN7E5JQ4CSrpOvAkAryFJl6ouC/JiojgUfb+ICoEJVrFnHXscDrCF5k2x6
/// # 2cEfrMaD1NTUbYjoZJpKblj2nyN7UTX24j++j30DkkeW
/// # -----END RSA PRIVATE KEY-----
/// # ";
/// let device = Device::open("sim:")?;
/// let poller = Poller::spawn(&device, Default::default())?;
/// let key = device.rsa_key(RsaPadding::Pkcs1(RsaHash::Sha256), pem.as_bytes())?;
/// let digest = [0x5a; 32]; // of what is to be signed
/// let signed = run(&device, key.sign(device.buffer_from(&digest)?)?)?;
/// let signature = device.buffer_from(signed.request().output())?;
/// let checked = run(&device, key.verify(signature, device.buffer_from(&digest)?)?)?;
/// assert_eq!(checked.result(), Ok(Answer::Yes));
/// # Ok::<(), ringbell::Error>(())
/// ```
#[derive(Clone)]
pub struct RsaKey {
    device: Device,
    padding: RsaPadding,
    bits: usize,
    public: Arc<Session>,
    private: Option<Arc<Session>>,
}

impl RsaKey {
    pub(crate) fn new(device: &Device, padding: RsaPadding, key: &[u8]) -> Result<Self> {
        let Parsed { bits, public, private } = Parsed::read(key)?;
        let session = |key: &Arc<Secret>, private| device.session(Purpose::Rsa { private, padding }, key);
        let private = private.as_ref().map(|key| session(key, true)).transpose()?;
        Ok(Self { device: device.clone(), padding, bits, public: session(&public, false)?, private })
    }

    /// Bits of the modulus.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Bytes of the modulus, and so of ciphertexts and signatures.
    pub fn size(&self) -> usize {
        self.bits.div_ceil(8)
    }

    /// The padding.
    pub fn padding(&self) -> RsaPadding {
        self.padding
    }

    /// Whether it can decrypt and sign.
    pub fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Creates the sessions now and waits until they are there, at most 1 s each. Not for callbacks.
    ///
    /// # Errors
    /// The device did not do it in time, refuses it, or is down.
    pub fn prepare(&self) -> Result<()> {
        prepare(&self.device, &self.public, MOMENT)?;
        self.private.as_ref().map_or(Ok(()), |session| prepare(&self.device, session, MOMENT))
    }

    /// A request that encrypts `input` with the public key: with padding at most
    /// [`size`](Self::size) - 11 bytes, without exactly [`size`](Self::size), as a number below the modulus.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what can never work; [`Error::NoRoom`] when there is no DMA memory for the
    /// result or the descriptor chain at the moment.
    pub fn encrypt(&self, input: impl Into<Buffers>) -> Result<Request> {
        let input = input.into();
        let len = input.len();
        match self.padding {
            RsaPadding::Pkcs1(_) if len + PKCS1_OVERHEAD > self.size() => {
                return Err(Error::Invalid(format!(
                    "{len} bytes are too many to be encrypted with RSA of {} bits and PKCS #1 padding: at most {}",
                    self.bits,
                    self.size() - PKCS1_OVERHEAD
                )));
            }
            RsaPadding::Raw => self.check(&input, "what is encrypted without padding")?,
            _ => {}
        }
        self.request(&self.public, RsaOperation::Encrypt, input, 0)
    }

    /// A request that decrypts `input`, of [`size`](Self::size) bytes, with the private key. Where the padding
    /// is not what it should be, devices end the request with an error; tell nobody which requests those
    /// were.
    ///
    /// # Errors
    /// As for [`encrypt`](Self::encrypt), and for a public key.
    pub fn decrypt(&self, input: impl Into<Buffers>) -> Result<Request> {
        let input = input.into();
        self.check(&input, "a ciphertext")?;
        self.request(self.private("decrypt")?, RsaOperation::Decrypt, input, 0)
    }

    /// A request that signs a digest with the private key. With [`RsaPadding::Pkcs1`] only.
    ///
    /// # Errors
    /// As for [`encrypt`](Self::encrypt), and for a public key or a digest of another length.
    pub fn sign(&self, digest: impl Into<Buffers>) -> Result<Request> {
        let digest = digest.into();
        self.check_digest(&digest)?;
        self.request(self.private("sign")?, RsaOperation::Sign, digest, 0)
    }

    /// A request that verifies the signature of a digest with the public key: the answer is
    /// [`Answer::Yes`](crate::Answer::Yes) or [`Answer::No`](crate::Answer::No). With
    /// [`RsaPadding::Pkcs1`] only.
    ///
    /// # Errors
    /// As for [`encrypt`](Self::encrypt), and for a digest of another length.
    pub fn verify(&self, signature: impl Into<Buffers>, digest: impl Into<Buffers>) -> Result<Request> {
        let (mut input, digest) = (signature.into(), digest.into());
        self.check_digest(&digest)?;
        self.check(&input, "a signature")?;
        let digest_len = digest.len();
        input.extend(digest.into_pieces());
        self.request(&self.public, RsaOperation::Verify, input, digest_len)
    }

    fn private(&self, what: &str) -> Result<&Arc<Session>> {
        self.private
            .as_ref()
            .ok_or_else(|| Error::Invalid(format!("cannot {what} with a public key; give the private one")))
    }

    fn check(&self, input: &Buffers, what: &str) -> Result<()> {
        let (len, wanted) = (input.len(), self.size());
        if len == wanted {
            return Ok(());
        }
        Err(Error::Invalid(format!("{what} has {wanted} bytes with this key, not {len}")))
    }

    fn check_digest(&self, digest: &Buffers) -> Result<()> {
        let RsaPadding::Pkcs1(hash) = self.padding else {
            return Err(Error::Invalid("raw RSA does not sign or verify; take RsaPadding::Pkcs1".to_owned()));
        };
        let (len, hash) = (digest.len(), hash.hash());
        if len == hash.output_len() {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "a digest of {len} bytes is not one of {hash}, which has {}",
            hash.output_len()
        )))
    }

    fn request(
        &self,
        session: &Arc<Session>,
        operation: RsaOperation,
        input: Buffers,
        digest_len: usize,
    ) -> Result<Request> {
        let outputs = match operation {
            RsaOperation::Verify => None,
            _ => Some(vec![self.device.buffer(self.size())?]),
        };
        let detail = Detail::Rsa { operation, digest_len };
        let chain = Chain::new(self.device.inner(), session.spec(), detail, input.into_pieces(), outputs)?;
        Ok(Request(Box::new(Body::chain(&self.device, session, chain))))
    }
}

impl fmt::Debug for RsaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_private() { "private" } else { "public" };
        write!(f, "RsaKey({kind}, {} bits, {})", self.bits, self.padding)
    }
}
