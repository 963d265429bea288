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

/// Service bits and numbers (5.9.4).
pub mod service {
    /// Cipher.
    pub const CIPHER: u32 = 0;
}

/// Opcodes: service << 8 | operation (5.9.7.1, 5.9.7.2).
pub mod opcode {
    /// Create a cipher session.
    pub const CIPHER_CREATE_SESSION: u32 = 0x02;
    /// Destroy a cipher session.
    pub const CIPHER_DESTROY_SESSION: u32 = 0x03;
    /// Encrypt.
    pub const CIPHER_ENCRYPT: u32 = 0x00;
    /// Decrypt.
    pub const CIPHER_DECRYPT: u32 = 0x01;
}

/// Cipher algorithms; bit `1 << n` of `cipher_algo` (5.9.3.1).
pub mod algorithm {
    /// AES in ECB mode.
    pub const AES_ECB: u32 = 2;
    /// AES in CBC mode.
    pub const AES_CBC: u32 = 3;
    /// AES in CTR mode.
    pub const AES_CTR: u32 = 4;
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
};
