//! Structures as they stand in memory, fixed-size session mode (5.9.7). All little-endian.
//!
//! A test in `tests/` compares them with `linux/virtio_crypto.h`.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// virtio device type (5).
pub const DEVICE_TYPE: u16 = 20;

/// Device status in the configuration: the hardware is ready (5.9.4).
pub const STATUS_HW_READY: u32 = 1;

/// Service bits and numbers (5.9.3, 5.9.5).
pub mod service {
    /// Cipher.
    pub const CIPHER: u32 = 0;
    /// Hash.
    pub const HASH: u32 = 1;
    /// Message authentication code.
    pub const MAC: u32 = 2;
    /// Authenticated encryption with associated data.
    pub const AEAD: u32 = 3;
    /// Asymmetric cipher.
    pub const AKCIPHER: u32 = 4;
}

/// Opcodes: service << 8 | operation (5.9.7.2, 5.9.7.3).
pub mod opcode {
    /// Create a cipher session.
    pub const CIPHER_CREATE_SESSION: u32 = 0x002;
    /// Destroy a cipher session.
    pub const CIPHER_DESTROY_SESSION: u32 = 0x003;
    /// Create a hash session.
    pub const HASH_CREATE_SESSION: u32 = 0x102;
    /// Destroy a hash session.
    pub const HASH_DESTROY_SESSION: u32 = 0x103;
    /// Create a MAC session.
    pub const MAC_CREATE_SESSION: u32 = 0x202;
    /// Destroy a MAC session.
    pub const MAC_DESTROY_SESSION: u32 = 0x203;
    /// Create an AEAD session.
    pub const AEAD_CREATE_SESSION: u32 = 0x302;
    /// Destroy an AEAD session.
    pub const AEAD_DESTROY_SESSION: u32 = 0x303;
    /// Create an asymmetric session.
    pub const AKCIPHER_CREATE_SESSION: u32 = 0x404;
    /// Destroy an asymmetric session.
    pub const AKCIPHER_DESTROY_SESSION: u32 = 0x405;
    /// Encrypt.
    pub const CIPHER_ENCRYPT: u32 = 0x000;
    /// Decrypt.
    pub const CIPHER_DECRYPT: u32 = 0x001;
    /// Hash.
    pub const HASH: u32 = 0x100;
    /// Compute a code.
    pub const MAC: u32 = 0x200;
    /// Seal.
    pub const AEAD_ENCRYPT: u32 = 0x300;
    /// Open.
    pub const AEAD_DECRYPT: u32 = 0x301;
    /// Encrypt with a public key.
    pub const AKCIPHER_ENCRYPT: u32 = 0x400;
    /// Decrypt with a private key.
    pub const AKCIPHER_DECRYPT: u32 = 0x401;
    /// Sign with a private key.
    pub const AKCIPHER_SIGN: u32 = 0x402;
    /// Verify with a public key.
    pub const AKCIPHER_VERIFY: u32 = 0x403;
}

/// Algorithms, numbered within their services; each is a bit of its mask, too (5.9.3).
pub mod algorithm {
    /// AES in ECB mode.
    pub const AES_ECB: u32 = 2;
    /// AES in CBC mode.
    pub const AES_CBC: u32 = 3;
    /// AES in CTR mode.
    pub const AES_CTR: u32 = 4;
    /// AES in XTS mode.
    pub const AES_XTS: u32 = 13;
    /// SHA-1.
    pub const SHA1: u32 = 2;
    /// SHA-224.
    pub const SHA_224: u32 = 3;
    /// SHA-256.
    pub const SHA_256: u32 = 4;
    /// SHA-384.
    pub const SHA_384: u32 = 5;
    /// SHA-512.
    pub const SHA_512: u32 = 6;
    /// SHA3-224.
    pub const SHA3_224: u32 = 7;
    /// SHA3-256.
    pub const SHA3_256: u32 = 8;
    /// SHA3-384.
    pub const SHA3_384: u32 = 9;
    /// SHA3-512.
    pub const SHA3_512: u32 = 10;
    /// HMAC with SHA-1.
    pub const HMAC_SHA1: u32 = 2;
    /// HMAC with SHA-224.
    pub const HMAC_SHA_224: u32 = 3;
    /// HMAC with SHA-256.
    pub const HMAC_SHA_256: u32 = 4;
    /// HMAC with SHA-384.
    pub const HMAC_SHA_384: u32 = 5;
    /// HMAC with SHA-512.
    pub const HMAC_SHA_512: u32 = 6;
    /// CMAC with AES.
    pub const CMAC_AES: u32 = 26;
    /// AES in GCM.
    pub const GCM: u32 = 1;
    /// AES in CCM.
    pub const CCM: u32 = 2;
    /// ChaCha20-Poly1305.
    pub const CHACHA20_POLY1305: u32 = 3;
    /// RSA.
    pub const RSA: u32 = 1;
}

/// Parameters of RSA sessions (5.9.7.2.1, AKCIPHER session).
pub mod rsa {
    /// No padding.
    pub const RAW_PADDING: u32 = 0;
    /// PKCS #1 v1.5.
    pub const PKCS1_PADDING: u32 = 1;
    /// No hash function.
    pub const NO_HASH: u32 = 0;
    /// SHA-1.
    pub const SHA1: u32 = 5;
    /// SHA-256.
    pub const SHA256: u32 = 6;
    /// SHA-384.
    pub const SHA384: u32 = 7;
    /// SHA-512.
    pub const SHA512: u32 = 8;
    /// SHA-224.
    pub const SHA224: u32 = 9;
    /// The key is a public one.
    pub const PUBLIC: u32 = 1;
    /// The key is a private one.
    pub const PRIVATE: u32 = 2;
}

/// Direction of a session (5.9.7.2.1).
pub mod operation {
    /// Encrypt.
    pub const ENCRYPT: u32 = 1;
    /// Decrypt.
    pub const DECRYPT: u32 = 2;
}

/// `op_type` of a symmetric session or request: a plain cipher, nothing chained.
pub const SYM_OP_CIPHER: u32 = 1;

/// Status bytes (5.9.7).
pub mod status {
    /// Done.
    pub const OK: u8 = 0;
    /// Failed.
    pub const ERR: u8 = 1;
    /// Tag or signature does not match.
    pub const BADMSG: u8 = 2;
    /// Not supported.
    pub const NOTSUPP: u8 = 3;
    /// No such session.
    pub const INVSESS: u8 = 4;
    /// No room.
    pub const NOSPC: u8 = 5;
    /// Signature does not verify.
    pub const KEY_REJECTED: u8 = 6;
}

/// The device's configuration (5.9.4). Older devices have a shorter one.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Config {
    /// Device status: [`STATUS_HW_READY`].
    pub status: U32,
    /// Number of data queues.
    pub max_dataqueues: U32,
    /// Bits of services.
    pub crypto_services: U32,
    /// Bits of cipher algorithms 0 to 31.
    pub cipher_algo_l: U32,
    /// Bits of cipher algorithms 32 to 63.
    pub cipher_algo_h: U32,
    /// Bits of hash algorithms.
    pub hash_algo: U32,
    /// Bits of MAC algorithms 0 to 31.
    pub mac_algo_l: U32,
    /// Bits of MAC algorithms 32 to 63.
    pub mac_algo_h: U32,
    /// Bits of AEAD algorithms.
    pub aead_algo: U32,
    /// The longest cipher key, in bytes.
    pub max_cipher_key_len: U32,
    /// The longest authentication key, in bytes.
    pub max_auth_key_len: U32,
    /// Bits of asymmetric algorithms.
    pub akcipher_algo: U32,
    /// The most bytes of a request.
    pub max_size: U64,
}

/// Header of a control request (5.9.7.2).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ControlHeader {
    /// Opcode.
    pub opcode: U32,
    /// Algorithm.
    pub algo: U32,
    /// Flags, 0.
    pub flag: U32,
    /// Data queue that the session is for, 0.
    pub queue_id: U32,
}

/// A control request that creates a cipher session; the key follows (5.9.7.2.1).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateCipherSession {
    /// Header.
    pub header: ControlHeader,
    /// Algorithm.
    pub algo: U32,
    /// Bytes of the key.
    pub key_len: U32,
    /// Direction.
    pub op: U32,
    /// 0.
    pub padding: U32,
    /// 0.
    pub fill: [U32; 8],
    /// [`SYM_OP_CIPHER`].
    pub op_type: U32,
    /// 0.
    pub padding2: U32,
}

/// A control request that creates a hash session (5.9.7.2.1, HASH session).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateHashSession {
    /// Header.
    pub header: ControlHeader,
    /// Algorithm.
    pub algo: U32,
    /// Bytes of the digest.
    pub hash_result_len: U32,
    /// 0.
    pub fill: [U32; 12],
}

/// A control request that creates a MAC session; the key follows (5.9.7.2.1, MAC session).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateMacSession {
    /// Header.
    pub header: ControlHeader,
    /// Algorithm.
    pub algo: U32,
    /// Bytes of the code.
    pub hash_result_len: U32,
    /// Bytes of the key.
    pub auth_key_len: U32,
    /// 0.
    pub padding: U32,
    /// 0.
    pub fill: [U32; 10],
}

/// A control request that creates an AEAD session; the key follows (5.9.7.2.1, AEAD session).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateAeadSession {
    /// Header.
    pub header: ControlHeader,
    /// Algorithm.
    pub algo: U32,
    /// Bytes of the key.
    pub key_len: U32,
    /// Bytes of the tag.
    pub tag_len: U32,
    /// Bytes of the associated data.
    pub aad_len: U32,
    /// Direction.
    pub op: U32,
    /// 0.
    pub padding: U32,
    /// 0.
    pub fill: [U32; 8],
}

/// A control request that creates an RSA session; the key follows, in DER (5.9.7.2.1, AKCIPHER
/// session).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateRsaSession {
    /// Header.
    pub header: ControlHeader,
    /// Algorithm.
    pub algo: U32,
    /// [`rsa::PUBLIC`] or [`rsa::PRIVATE`].
    pub key_type: U32,
    /// Bytes of the key.
    pub key_len: U32,
    /// Padding.
    pub padding_algo: U32,
    /// Hash function of signatures.
    pub hash_algo: U32,
    /// 0.
    pub fill: [U32; 9],
}

/// The device's answer to it.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SessionReply {
    /// The new session.
    pub session_id: U64,
    /// Status.
    pub status: U32,
    /// 0.
    pub padding: U32,
}

/// A control request that destroys a session; a status byte answers it (5.9.7.2.1).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DestroySession {
    /// Header.
    pub header: ControlHeader,
    /// The session.
    pub session_id: U64,
    /// 0.
    pub fill: [U32; 12],
}

/// A cipher request: header and parameters; IV and source follow, then destination and status byte
/// (5.9.7.4).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CipherRequest {
    /// Opcode.
    pub opcode: U32,
    /// Algorithm.
    pub algo: U32,
    /// Session.
    pub session_id: U64,
    /// Flags, 0: session mode.
    pub flag: U32,
    /// 0.
    pub padding: U32,
    /// Bytes of the IV.
    pub iv_len: U32,
    /// Bytes of the source.
    pub src_data_len: U32,
    /// Bytes of the destination.
    pub dst_data_len: U32,
    /// 0.
    pub padding2: U32,
    /// 0.
    pub fill: [U32; 6],
    /// [`SYM_OP_CIPHER`].
    pub op_type: U32,
    /// 0.
    pub padding3: U32,
}

/// The header of a data request (5.9.7.3).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DataHeader {
    /// Opcode.
    pub opcode: U32,
    /// Algorithm.
    pub algo: U32,
    /// Session.
    pub session_id: U64,
    /// Flags, 0: ignored without REVISION_1.
    pub flag: U32,
    /// 0.
    pub padding: U32,
}

/// A hash or MAC request: the source follows; then the result and the status byte (5.9.7.4, 5.9.7.5).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HashRequest {
    /// Header.
    pub header: DataHeader,
    /// Bytes of the source.
    pub src_data_len: U32,
    /// Bytes of the result.
    pub hash_result_len: U32,
    /// 0.
    pub fill: [U32; 10],
}

/// An AEAD request: IV, source and associated data follow; then the destination and the status byte
/// (5.9.7.7).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AeadRequest {
    /// Header.
    pub header: DataHeader,
    /// Bytes of the IV.
    pub iv_len: U32,
    /// Bytes of the associated data.
    pub aad_len: U32,
    /// Bytes of the source.
    pub src_data_len: U32,
    /// Bytes of the destination.
    pub dst_data_len: U32,
    /// Bytes of the tag. Not in the kernel's header, which has padding here.
    pub tag_len: U32,
    /// 0.
    pub fill: [U32; 7],
}

/// An asymmetric request: the source follows; then the destination and the status byte (5.9.7.8).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AkcipherRequest {
    /// Header.
    pub header: DataHeader,
    /// Bytes of the source; of the signature where one is verified.
    pub src_data_len: U32,
    /// Bytes of the destination; of the digest, which follows the signature, where one is verified.
    pub dst_data_len: U32,
    /// 0.
    pub fill: [U32; 10],
}

const _: () = {
    // 5.9.4
    assert!(size_of::<Config>() == 56 && offset_of!(Config, akcipher_algo) == 44);
    // 5.9.7.2: every control request is header 16 + body 56.
    assert!(size_of::<CreateCipherSession>() == 72 && offset_of!(CreateCipherSession, op_type) == 64);
    assert!(size_of::<DestroySession>() == 72 && offset_of!(DestroySession, session_id) == 16);
    assert!(size_of::<SessionReply>() == 16);
    // 5.9.7.4: every data request is header 24 + body 48.
    assert!(size_of::<CipherRequest>() == 72 && offset_of!(CipherRequest, iv_len) == 24);
    assert!(offset_of!(CipherRequest, op_type) == 64);
    assert!(size_of::<CreateHashSession>() == 72 && offset_of!(CreateHashSession, hash_result_len) == 20);
    assert!(size_of::<CreateMacSession>() == 72 && offset_of!(CreateMacSession, auth_key_len) == 24);
    assert!(size_of::<CreateAeadSession>() == 72 && offset_of!(CreateAeadSession, op) == 32);
    assert!(size_of::<CreateRsaSession>() == 72 && offset_of!(CreateRsaSession, hash_algo) == 32);
    assert!(size_of::<DataHeader>() == 24 && offset_of!(DataHeader, session_id) == 8);
    assert!(size_of::<HashRequest>() == 72 && offset_of!(HashRequest, hash_result_len) == 28);
    assert!(size_of::<AeadRequest>() == 72 && offset_of!(AeadRequest, tag_len) == 40);
    assert!(size_of::<AkcipherRequest>() == 72 && offset_of!(AkcipherRequest, dst_data_len) == 28);
};
