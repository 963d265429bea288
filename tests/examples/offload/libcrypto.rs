//! The operation on this processor, by libcrypto: algorithms that were fetched before, contexts and keys that
//! are used again, a fresh IV for each.
//!
//! By its C functions, because the crate's look up lengths each time, which is no part of the work. HMAC and
//! CMAC by those of their own, which are quicker than EVP's.

use std::ffi::{CString, c_int};
use std::ptr::{null, null_mut};
use std::time::Instant;

use nix::time::{ClockId, clock_gettime};
use openssl::encrypt::Encrypter;
use openssl::md::Md;
use openssl::pkey::{PKey, Private};
use openssl::pkey_ctx::PkeyCtx;
use openssl::rsa::Padding;
use ringbell::{Mac, Mode};
use ringbell_drivers::algorithm::RsaOperation;

use crate::work::{AAD, DIGEST, IV, KEY, Kind, Rsa, TAG, Work, data, mac_key, rsa_key};

/// How long a chunk is at the least; one figure of the median is the mean over it.
const CHUNK_NANOS: f64 = 1e6;
const CHUNKS: usize = 25;

enum Context {
    Cipher { ctx: *mut openssl_sys::EVP_CIPHER_CTX, iv_len: usize, aead: bool, ccm: bool },
    Hash { ctx: *mut openssl_sys::EVP_MD_CTX, md: *mut openssl_sys::EVP_MD },
    Hmac(*mut openssl_sys::HMAC_CTX),
    Cmac(*mut openssl_sys::CMAC_CTX),
    Rsa { ctx: PkeyCtx<Private>, operation: RsaOperation, inputs: Vec<Vec<u8>> },
}

/// One operation, to be done again and again.
pub struct Libcrypto {
    context: Context,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of the output.
    len: usize,
    iv: [u8; 16],
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: each was made by its function in `new`, and is used by nobody else.
        unsafe {
            match self {
                Self::Cipher { ctx, .. } => openssl_sys::EVP_CIPHER_CTX_free(*ctx),
                Self::Hash { ctx, md } => {
                    openssl_sys::EVP_MD_CTX_free(*ctx);
                    openssl_sys::EVP_MD_free(*md);
                }
                Self::Hmac(ctx) => openssl_sys::HMAC_CTX_free(*ctx),
                Self::Cmac(ctx) => openssl_sys::CMAC_CTX_free(*ctx),
                Self::Rsa { .. } => {}
            }
        }
    }
}

#[inline(always)]
fn check(ok: c_int) {
    assert_eq!(ok, 1, "libcrypto: {}", openssl::error::ErrorStack::get());
}

fn key(rsa: Rsa) -> PKey<Private> {
    PKey::private_key_from_pem(rsa_key(rsa.bits)).expect("a key")
}

fn rsa_context(key: &PKey<Private>, raw: bool, operation: RsaOperation) -> PkeyCtx<Private> {
    let mut ctx = PkeyCtx::new(key).expect("a context");
    match operation {
        RsaOperation::Encrypt => ctx.encrypt_init(),
        RsaOperation::Decrypt => ctx.decrypt_init(),
        RsaOperation::Sign => ctx.sign_init(),
        RsaOperation::Verify => ctx.verify_init(),
    }
    .expect("a context");
    ctx.set_rsa_padding(if raw { Padding::NONE } else { Padding::PKCS1 }).expect("a padding");
    if matches!(operation, RsaOperation::Sign | RsaOperation::Verify) {
        ctx.set_signature_md(Md::sha256()).expect("a hash function");
    }
    ctx
}

/// What an operation of RSA works on.
pub fn rsa_inputs(rsa: Rsa) -> Vec<Vec<u8>> {
    let key = key(rsa);
    let signature = || {
        let mut signature = Vec::new();
        rsa_context(&key, false, RsaOperation::Sign)
            .sign_to_vec(&DIGEST, &mut signature)
            .expect("a signature");
        signature
    };
    match (rsa.operation, rsa.raw) {
        (RsaOperation::Sign, _) | (RsaOperation::Encrypt, false) => vec![DIGEST.to_vec()],
        (RsaOperation::Verify, _) => vec![signature(), DIGEST.to_vec()],
        // A signature is a number below the modulus.
        (RsaOperation::Encrypt | RsaOperation::Decrypt, true) => vec![signature()],
        (RsaOperation::Decrypt, false) => {
            let mut encrypter = Encrypter::new(&key).expect("an encrypter");
            encrypter.set_rsa_padding(Padding::PKCS1).expect("a padding");
            let mut sealed = vec![0; encrypter.encrypt_len(&DIGEST).expect("a length")];
            let len = encrypter.encrypt(&DIGEST, &mut sealed).expect("a ciphertext");
            sealed.truncate(len);
            vec![sealed]
        }
    }
}

impl Libcrypto {
    pub fn new(work: Work, size: usize) -> Self {
        let (context, len) = match work {
            Work::Cipher(cipher) => {
                let ccm = false;
                let ctx = Self::cipher(cipher.name(), &KEY[..cipher.key_len()], ccm);
                let aead = false;
                debug_assert!(cipher.mode() != Mode::Xts || size >= 16);
                (Context::Cipher { ctx, iv_len: cipher.iv_len(), aead, ccm }, size)
            }
            Work::Aead(aead) => {
                let (name, ccm) = (aead.name(), aead.is_ccm());
                let ctx = Self::cipher(name, &KEY[..aead.key_len()], ccm);
                (Context::Cipher { ctx, iv_len: 12, aead: true, ccm }, size + TAG)
            }
            Work::Hash(hash) => {
                let md = Self::md(hash.name());
                // SAFETY: no more than an allocation.
                let ctx = unsafe { openssl_sys::EVP_MD_CTX_new() };
                (Context::Hash { ctx, md }, hash.output_len())
            }
            Work::Mac(mac) => (Self::mac(mac), mac.output_len()),
            Work::Rsa(rsa) => {
                let ctx = rsa_context(&key(rsa), rsa.raw, rsa.operation);
                let len = match rsa.operation {
                    RsaOperation::Verify => 0,
                    RsaOperation::Decrypt if !rsa.raw => DIGEST.len(),
                    _ => rsa.bits / 8,
                };
                (Context::Rsa { ctx, operation: rsa.operation, inputs: rsa_inputs(rsa) }, len)
            }
        };
        let room = if work.kind() == Kind::Rsa { 512 } else { size + 64 };
        Self { context, input: data(size), output: vec![0; room], len, iv: IV }
    }

    fn cipher(name: &str, key: &[u8], ccm: bool) -> *mut openssl_sys::EVP_CIPHER_CTX {
        let name = CString::new(name).expect("a name");
        // SAFETY: a name with its end, a context of its own, a key and an IV as long as the cipher's; for CCM
        // the lengths are set before the key (EVP_EncryptInit(3), CCM mode).
        unsafe {
            let cipher = openssl_sys::EVP_CIPHER_fetch(null_mut(), name.as_ptr(), null());
            assert!(!cipher.is_null(), "libcrypto has no {name:?}");
            let ctx = openssl_sys::EVP_CIPHER_CTX_new();
            check(openssl_sys::EVP_EncryptInit_ex(ctx, cipher, null_mut(), null(), null()));
            if ccm {
                let (set_iv_len, set_tag) =
                    (openssl_sys::EVP_CTRL_GCM_SET_IVLEN, openssl_sys::EVP_CTRL_GCM_SET_TAG);
                check(openssl_sys::EVP_CIPHER_CTX_ctrl(ctx, set_iv_len, 12, null_mut()));
                check(openssl_sys::EVP_CIPHER_CTX_ctrl(ctx, set_tag, TAG as c_int, null_mut()));
            }
            check(openssl_sys::EVP_EncryptInit_ex(ctx, null(), null_mut(), key.as_ptr(), IV.as_ptr()));
            openssl_sys::EVP_CIPHER_CTX_set_padding(ctx, 0);
            openssl_sys::EVP_CIPHER_free(cipher);
            ctx
        }
    }

    fn md(name: &str) -> *mut openssl_sys::EVP_MD {
        let name = CString::new(name).expect("a name");
        // SAFETY: a name with its end.
        let md = unsafe { openssl_sys::EVP_MD_fetch(null_mut(), name.as_ptr(), null()) };
        assert!(!md.is_null(), "libcrypto has no {name:?}");
        md
    }

    fn mac(mac: Mac) -> Context {
        let key = mac_key(mac);
        let Some(hash) = mac.hash() else {
            let cipher = CString::new(format!("aes-{}-cbc", 8 * key.len())).expect("a name");
            // SAFETY: as in `cipher`; the context keeps the cipher.
            unsafe {
                let ctx = openssl_sys::CMAC_CTX_new();
                let cipher = openssl_sys::EVP_CIPHER_fetch(null_mut(), cipher.as_ptr(), null());
                check(openssl_sys::CMAC_Init(ctx, key.as_ptr().cast(), key.len(), cipher, null_mut()));
                openssl_sys::EVP_CIPHER_free(cipher);
                return Context::Cmac(ctx);
            }
        };
        let md = Self::md(hash.name());
        // SAFETY: as above; the hash function is never freed, since the context does not keep it.
        unsafe {
            let ctx = openssl_sys::HMAC_CTX_new();
            check(openssl_sys::HMAC_Init_ex(ctx, key.as_ptr().cast(), key.len() as c_int, md, null_mut()));
            Context::Hmac(ctx)
        }
    }

    /// One operation.
    #[inline(always)]
    fn once(&mut self) {
        let Self { context, input, output, iv, .. } = self;
        let (from, to) = (input.as_ptr(), output.as_mut_ptr());
        let (mut len, size) = (0, input.len() as c_int);
        // SAFETY: contexts, input and output are this value's own; the output has room for the input, a
        // block and a tag, or a digest; IVs have 16 bytes, which no algorithm's is longer than.
        unsafe {
            match context {
                Context::Cipher { ctx, iv_len, aead, ccm } => {
                    if *iv_len > 0 {
                        check(openssl_sys::EVP_EncryptInit_ex(*ctx, null(), null_mut(), null(), iv.as_ptr()));
                    }
                    if *ccm {
                        check(openssl_sys::EVP_CipherUpdate(*ctx, null_mut(), &mut len, null(), size));
                    }
                    if *aead {
                        let aad = AAD.len() as c_int;
                        check(openssl_sys::EVP_CipherUpdate(*ctx, null_mut(), &mut len, AAD.as_ptr(), aad));
                    }
                    check(openssl_sys::EVP_CipherUpdate(*ctx, to, &mut len, from, size));
                    if *aead {
                        let tag = to.add(input.len());
                        check(openssl_sys::EVP_EncryptFinal_ex(*ctx, tag, &mut len));
                        let get = openssl_sys::EVP_CTRL_GCM_GET_TAG;
                        check(openssl_sys::EVP_CIPHER_CTX_ctrl(*ctx, get, TAG as c_int, tag.cast()));
                    }
                }
                Context::Hash { ctx, md } => {
                    check(openssl_sys::EVP_DigestInit_ex(*ctx, *md, null_mut()));
                    check(openssl_sys::EVP_DigestUpdate(*ctx, from.cast(), input.len()));
                    check(openssl_sys::EVP_DigestFinal_ex(*ctx, to, null_mut()));
                }
                Context::Hmac(ctx) => {
                    check(openssl_sys::HMAC_Init_ex(*ctx, null(), 0, null(), null_mut()));
                    check(openssl_sys::HMAC_Update(*ctx, from, input.len()));
                    check(openssl_sys::HMAC_Final(*ctx, to, null_mut()));
                }
                Context::Cmac(ctx) => {
                    let mut len = 0;
                    check(openssl_sys::CMAC_Init(*ctx, null(), 0, null(), null_mut()));
                    check(openssl_sys::CMAC_Update(*ctx, from.cast(), input.len()));
                    check(openssl_sys::CMAC_Final(*ctx, to, &mut len));
                }
                Context::Rsa { ctx, operation, inputs } => match operation {
                    RsaOperation::Encrypt => drop(ctx.encrypt(&inputs[0], Some(output)).expect("libcrypto")),
                    RsaOperation::Decrypt => drop(ctx.decrypt(&inputs[0], Some(output)).expect("libcrypto")),
                    RsaOperation::Sign => drop(ctx.sign(&inputs[0], Some(output)).expect("libcrypto")),
                    RsaOperation::Verify => {
                        assert!(ctx.verify(&inputs[1], &inputs[0]).expect("libcrypto"), "a signature");
                    }
                },
            }
        }
    }

    /// One operation's output.
    pub fn output(mut self) -> Vec<u8> {
        self.once();
        self.output.truncate(self.len);
        self.output.clone()
    }

    /// Processor time of an operation in nanoseconds, and operations a second.
    pub fn measure(mut self) -> (f64, f64) {
        let count = self.calibrate();
        let (mut cpu, mut rate): (Vec<_>, Vec<_>) = (0..CHUNKS).map(|_| self.chunk(count)).unzip();
        (median(&mut cpu), median(&mut rate))
    }

    /// Processor time of an operation in nanoseconds.
    pub fn measure_short(mut self) -> f64 {
        let count = self.calibrate();
        median(&mut (0..5).map(|_| self.chunk(count).0).collect::<Vec<_>>())
    }

    /// How many operations a chunk takes.
    fn calibrate(&mut self) -> usize {
        let mut count = 1;
        while self.chunk(count).0 * (count as f64) < CHUNK_NANOS {
            count *= 2;
        }
        count
    }

    fn chunk(&mut self, count: usize) -> (f64, f64) {
        let (start, before) = (Instant::now(), cpu());
        for _ in 0..count {
            self.iv[0] = self.iv[0].wrapping_add(1);
            self.once();
        }
        let (used, elapsed) = (cpu() - before, start.elapsed());
        (used / count as f64, count as f64 / elapsed.as_secs_f64())
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// This thread's processor time in nanoseconds.
fn cpu() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock");
    time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64
}
