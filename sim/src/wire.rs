//! What the device reads and writes: structures and constants, from the specification.
//!
//! Ref: VIRTIO 1.2, 2.7 (split virtqueues), 4.1 (PCI), 5.9 (crypto device). Everything is
//! little-endian and packed as here; sizes and offsets are asserted at compile time. The driver
//! has its own copy of all this on purpose: a misreading on one side must not cancel out.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! wire {
    ($(#[$meta:meta])* $name:ident, $size:literal {
        $($(#[$field_meta:meta])* $field:ident @ $offset:literal : $type:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }
        const _: () = assert!(size_of::<$name>() == $size);
        $(const _: () = assert!(offset_of!($name, $field) == $offset);)*
    };
}

// ---- 2.7 split virtqueues ----

wire! {
    /// A descriptor (2.7.5).
    Descriptor, 16 {
        /// Bus address of the buffer.
        addr @ 0: U64,
        /// Its length in bytes.
        len @ 8: U32,
        /// `DESC_F_*`.
        flags @ 12: U16,
        /// Index of the next one, where `DESC_F_NEXT` is set.
        next @ 14: U16,
    }
}

wire! {
    /// An element of the used ring (2.7.8).
    UsedElement, 8 {
        /// Head of the completed chain.
        id @ 0: U32,
        /// Bytes written to its device-writable part.
        len @ 4: U32,
    }
}

/// The chain goes on at `next`.
pub const DESC_F_NEXT: u16 = 1;
/// The buffer is device-writable; without it, device-readable.
pub const DESC_F_WRITE: u16 = 2;
/// The buffer is a table of descriptors (2.7.5.3).
pub const DESC_F_INDIRECT: u16 = 4;
/// In the available ring's flags: the driver wants no interrupts (without EVENT_IDX).
pub const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// In the used ring's flags: the device wants no notifications (without EVENT_IDX).
pub const USED_F_NO_NOTIFY: u16 = 1;

// ---- 6 reserved feature bits ----

/// Indirect descriptor tables.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// `used_event` and `avail_event`.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// The device follows VIRTIO 1.0 or later.
pub const F_VERSION_1: u64 = 1 << 32;
/// Addresses are translated by the platform.
pub const F_ACCESS_PLATFORM: u64 = 1 << 33;
/// A queue can be reset alone (2.6.1).
pub const F_RING_RESET: u64 = 1 << 40;

// ---- 2.1 device status ----

/// The guest has seen the device.
pub const STATUS_ACKNOWLEDGE: u8 = 1;
/// The guest has a driver for it.
pub const STATUS_DRIVER: u8 = 2;
/// The driver is set up.
pub const STATUS_DRIVER_OK: u8 = 4;
/// Features are agreed on.
pub const STATUS_FEATURES_OK: u8 = 8;
/// The device met an error from which only a reset leads out.
pub const STATUS_NEEDS_RESET: u8 = 0x40;
/// The driver gave up.
pub const STATUS_FAILED: u8 = 0x80;

// ---- 4.1 PCI ----

/// PCI vendor id.
pub const PCI_VENDOR: u16 = 0x1af4;
/// PCI device id: 0x1040 + virtio device 20.
pub const PCI_DEVICE: u16 = 0x1054;
/// Capability `cfg_type`: common configuration.
pub const CAP_COMMON: u8 = 1;
/// Capability `cfg_type`: notifications.
pub const CAP_NOTIFY: u8 = 2;
/// Capability `cfg_type`: ISR status.
pub const CAP_ISR: u8 = 3;
/// Capability `cfg_type`: device-specific configuration.
pub const CAP_DEVICE: u8 = 4;
/// Capability `cfg_type`: access through config space.
pub const CAP_PCI: u8 = 5;
/// "No vector" in an MSI-X vector register.
pub const NO_VECTOR: u16 = 0xffff;
/// ISR bit: a queue has used buffers.
pub const ISR_QUEUE: u8 = 1;
/// ISR bit: the configuration (or the status) changed.
pub const ISR_CONFIG: u8 = 2;

wire! {
    /// The head of each virtio capability (4.1.4).
    PciCapability, 16 {
        /// Generic PCI: vendor specific, 9.
        vendor @ 0: u8,
        /// Generic PCI: offset of the next one.
        next @ 1: u8,
        /// Generic PCI: length of this one.
        len @ 2: u8,
        /// `CAP_*`.
        cfg_type @ 3: u8,
        /// Which BAR.
        bar @ 4: u8,
        /// Among several of one type.
        id @ 5: u8,
        /// Zero.
        padding @ 6: [u8; 2],
        /// First byte in the BAR.
        offset @ 8: U32,
        /// Length in the BAR.
        length @ 12: U32,
    }
}

wire! {
    /// Common configuration (4.1.4.3).
    CommonConfig, 60 {
        /// Which 32 bits `device_feature` shows.
        device_feature_select @ 0: U32,
        /// Offered features.
        device_feature @ 4: U32,
        /// Which 32 bits `driver_feature` is.
        driver_feature_select @ 8: U32,
        /// Accepted features.
        driver_feature @ 12: U32,
        /// MSI-X vector of configuration changes.
        msix_config @ 16: U16,
        /// Number of queues.
        num_queues @ 18: U16,
        /// `STATUS_*`; writing 0 resets.
        device_status @ 20: u8,
        /// Changes whenever the device configuration does.
        config_generation @ 21: u8,
        /// Which queue the following are about.
        queue_select @ 22: U16,
        /// Its size: on reset the maximum, the driver may write less.
        queue_size @ 24: U16,
        /// Its MSI-X vector.
        queue_msix_vector @ 26: U16,
        /// 1: it is live.
        queue_enable @ 28: U16,
        /// Its doorbell, in units of the notify multiplier.
        queue_notify_off @ 30: U16,
        /// Bus address of its descriptor table.
        queue_desc @ 32: U64,
        /// Bus address of its available ring.
        queue_driver @ 40: U64,
        /// Bus address of its used ring.
        queue_device @ 48: U64,
        /// For NOTIF_CONFIG_DATA, which is not offered.
        queue_notify_data @ 56: U16,
        /// Writing 1 resets it, where RING_RESET is agreed on.
        queue_reset @ 58: U16,
    }
}

// ---- 5.9 crypto device ----

wire! {
    /// Device configuration (5.9.4).
    CryptoConfig, 56 {
        /// Bit 0: `S_HW_READY`.
        status @ 0: U32,
        /// Number of data queues; the control queue follows them.
        max_dataqueues @ 4: U32,
        /// Bits by `SERVICE_*`.
        crypto_services @ 8: U32,
        /// Bits 0..=31 by `CIPHER_*`.
        cipher_algo_l @ 12: U32,
        /// Bits 32..=63.
        cipher_algo_h @ 16: U32,
        /// Bits by hash algorithm.
        hash_algo @ 20: U32,
        /// Bits 0..=31 by MAC algorithm.
        mac_algo_l @ 24: U32,
        /// Bits 32..=63.
        mac_algo_h @ 28: U32,
        /// Bits by AEAD algorithm.
        aead_algo @ 32: U32,
        /// Longest cipher key in bytes.
        max_cipher_key_len @ 36: U32,
        /// Longest authentication key in bytes.
        max_auth_key_len @ 40: U32,
        /// Bits by asymmetric algorithm.
        akcipher_algo @ 44: U32,
        /// Most bytes of a request's variable parts.
        max_size @ 48: U64,
    }
}

/// Config status: ready for requests.
pub const S_HW_READY: u32 = 1;

/// Service: cipher.
pub const SERVICE_CIPHER: u32 = 0;
/// Service: hash.
pub const SERVICE_HASH: u32 = 1;
/// Service: MAC.
pub const SERVICE_MAC: u32 = 2;
/// Service: AEAD.
pub const SERVICE_AEAD: u32 = 3;
/// Service: asymmetric cipher.
pub const SERVICE_AKCIPHER: u32 = 4;

/// The opcode of operation `op` of `service`.
pub const fn opcode(service: u32, op: u32) -> u32 {
    service << 8 | op
}

/// Control opcode: create a cipher session.
pub const CIPHER_CREATE_SESSION: u32 = opcode(SERVICE_CIPHER, 2);
/// Control opcode: destroy a cipher session.
pub const CIPHER_DESTROY_SESSION: u32 = opcode(SERVICE_CIPHER, 3);
/// Control opcode: create a hash session.
pub const HASH_CREATE_SESSION: u32 = opcode(SERVICE_HASH, 2);
/// Control opcode: destroy a hash session.
pub const HASH_DESTROY_SESSION: u32 = opcode(SERVICE_HASH, 3);
/// Control opcode: create a MAC session.
pub const MAC_CREATE_SESSION: u32 = opcode(SERVICE_MAC, 2);
/// Control opcode: destroy a MAC session.
pub const MAC_DESTROY_SESSION: u32 = opcode(SERVICE_MAC, 3);
/// Control opcode: create an AEAD session.
pub const AEAD_CREATE_SESSION: u32 = opcode(SERVICE_AEAD, 2);
/// Control opcode: destroy an AEAD session.
pub const AEAD_DESTROY_SESSION: u32 = opcode(SERVICE_AEAD, 3);
/// Control opcode: create an asymmetric session.
pub const AKCIPHER_CREATE_SESSION: u32 = opcode(SERVICE_AKCIPHER, 4);
/// Control opcode: destroy an asymmetric session.
pub const AKCIPHER_DESTROY_SESSION: u32 = opcode(SERVICE_AKCIPHER, 5);
/// Data opcode: encrypt.
pub const CIPHER_ENCRYPT: u32 = opcode(SERVICE_CIPHER, 0);
/// Data opcode: decrypt.
pub const CIPHER_DECRYPT: u32 = opcode(SERVICE_CIPHER, 1);

/// Data opcode: hash.
pub const HASH: u32 = opcode(SERVICE_HASH, 0);
/// Data opcode: make a message authentication code.
pub const MAC: u32 = opcode(SERVICE_MAC, 0);
/// Data opcode: encrypt, and make a tag.
pub const AEAD_ENCRYPT: u32 = opcode(SERVICE_AEAD, 0);
/// Data opcode: verify a tag, and decrypt.
pub const AEAD_DECRYPT: u32 = opcode(SERVICE_AEAD, 1);
/// Data opcode: asymmetric, encrypt.
pub const AKCIPHER_ENCRYPT: u32 = opcode(SERVICE_AKCIPHER, 0);
/// Data opcode: asymmetric, decrypt.
pub const AKCIPHER_DECRYPT: u32 = opcode(SERVICE_AKCIPHER, 1);
/// Data opcode: asymmetric, sign a digest.
pub const AKCIPHER_SIGN: u32 = opcode(SERVICE_AKCIPHER, 2);
/// Data opcode: asymmetric, verify a signature of a digest.
pub const AKCIPHER_VERIFY: u32 = opcode(SERVICE_AKCIPHER, 3);

/// Cipher algorithm: AES-ECB.
pub const CIPHER_AES_ECB: u32 = 2;
/// Cipher algorithm: AES-CBC.
pub const CIPHER_AES_CBC: u32 = 3;
/// Cipher algorithm: AES-CTR.
pub const CIPHER_AES_CTR: u32 = 4;
/// Cipher algorithm: AES-XTS.
pub const CIPHER_AES_XTS: u32 = 13;

/// Hash algorithm: SHA-1.
pub const HASH_SHA1: u32 = 2;
/// Hash algorithm: SHA-224.
pub const HASH_SHA_224: u32 = 3;
/// Hash algorithm: SHA-256.
pub const HASH_SHA_256: u32 = 4;
/// Hash algorithm: SHA-384.
pub const HASH_SHA_384: u32 = 5;
/// Hash algorithm: SHA-512.
pub const HASH_SHA_512: u32 = 6;
/// Hash algorithm: SHA3-224.
pub const HASH_SHA3_224: u32 = 7;
/// Hash algorithm: SHA3-256.
pub const HASH_SHA3_256: u32 = 8;
/// Hash algorithm: SHA3-384.
pub const HASH_SHA3_384: u32 = 9;
/// Hash algorithm: SHA3-512.
pub const HASH_SHA3_512: u32 = 10;

/// MAC algorithm: HMAC-SHA-1.
pub const MAC_HMAC_SHA1: u32 = 2;
/// MAC algorithm: HMAC-SHA-224.
pub const MAC_HMAC_SHA_224: u32 = 3;
/// MAC algorithm: HMAC-SHA-256.
pub const MAC_HMAC_SHA_256: u32 = 4;
/// MAC algorithm: HMAC-SHA-384.
pub const MAC_HMAC_SHA_384: u32 = 5;
/// MAC algorithm: HMAC-SHA-512.
pub const MAC_HMAC_SHA_512: u32 = 6;
/// MAC algorithm: CMAC with AES.
pub const MAC_CMAC_AES: u32 = 26;

/// AEAD algorithm: AES-GCM.
pub const AEAD_GCM: u32 = 1;
/// AEAD algorithm: AES-CCM.
pub const AEAD_CCM: u32 = 2;
/// AEAD algorithm: ChaCha20-Poly1305.
pub const AEAD_CHACHA20_POLY1305: u32 = 3;

/// Asymmetric algorithm: RSA.
pub const AKCIPHER_RSA: u32 = 1;
/// Asymmetric key: public, RSAPublicKey of PKCS#1.
pub const AKCIPHER_KEY_TYPE_PUBLIC: u32 = 1;
/// Asymmetric key: private, RSAPrivateKey of PKCS#1.
pub const AKCIPHER_KEY_TYPE_PRIVATE: u32 = 2;
/// RSA padding: none.
pub const RSA_RAW_PADDING: u32 = 0;
/// RSA padding: that of PKCS#1 v1.5.
pub const RSA_PKCS1_PADDING: u32 = 1;
/// Hash of signatures: none.
pub const RSA_NO_HASH: u32 = 0;
/// Hash of signatures: MD5.
pub const RSA_MD5: u32 = 4;
/// Hash of signatures: SHA-1.
pub const RSA_SHA1: u32 = 5;
/// Hash of signatures: SHA-256.
pub const RSA_SHA256: u32 = 6;
/// Hash of signatures: SHA-384.
pub const RSA_SHA384: u32 = 7;
/// Hash of signatures: SHA-512.
pub const RSA_SHA512: u32 = 8;
/// Hash of signatures: SHA-224.
pub const RSA_SHA224: u32 = 9;

/// Session direction: encrypt.
pub const OP_ENCRYPT: u32 = 1;
/// Session direction: decrypt.
pub const OP_DECRYPT: u32 = 2;

/// Symmetric operation: a cipher alone.
pub const SYM_OP_CIPHER: u32 = 1;
/// Symmetric operation: a cipher and a hash, chained.
pub const SYM_OP_ALGORITHM_CHAINING: u32 = 2;

/// Status: done.
pub const OK: u8 = 0;
/// Status: failed.
pub const ERR: u8 = 1;
/// Status: bad message.
pub const BADMSG: u8 = 2;
/// Status: not supported.
pub const NOTSUPP: u8 = 3;
/// Status: no such session.
pub const INVSESS: u8 = 4;
/// Status: no room for a session.
pub const NOSPC: u8 = 5;
/// Status: a signature did not verify.
pub const KEY_REJECTED: u8 = 6;

wire! {
    /// Header of a control request (5.9.7.2).
    ControlHeader, 16 {
        /// `*_CREATE_SESSION`, `*_DESTROY_SESSION`.
        opcode @ 0: U32,
        /// Algorithm, numbered within its service.
        algo @ 4: U32,
        /// Zero.
        flag @ 8: U32,
        /// Data queue that the session is for.
        queue_id @ 12: U32,
    }
}

wire! {
    /// Body of a request to create a cipher session (5.9.7.2.1.1).
    CipherSession, 56 {
        /// `CIPHER_*`.
        algo @ 0: U32,
        /// Length of the key, which follows the request.
        keylen @ 4: U32,
        /// `OP_ENCRYPT` or `OP_DECRYPT`.
        op @ 8: U32,
        /// Zero.
        padding @ 12: U32,
        /// Room for the parameters of other sessions.
        fill @ 16: [u8; 32],
        /// `SYM_OP_*`.
        op_type @ 48: U32,
        /// Zero.
        padding2 @ 52: U32,
    }
}

wire! {
    /// Body of a request to create a hash session (5.9.7.2.1).
    HashSession, 56 {
        /// `HASH_*`.
        algo @ 0: U32,
        /// Bytes of the digest that are wanted.
        hash_result_len @ 4: U32,
        /// Room for the parameters of MAC sessions.
        padding @ 8: [u8; 8],
        /// Fill.
        fill @ 16: [u8; 40],
    }
}

wire! {
    /// Body of a request to create a MAC session (5.9.7.2.1).
    MacSession, 56 {
        /// `MAC_*`.
        algo @ 0: U32,
        /// Bytes of the code that are wanted.
        hash_result_len @ 4: U32,
        /// Length of the key, which follows the request.
        auth_key_len @ 8: U32,
        /// Zero.
        padding @ 12: U32,
        /// Fill.
        fill @ 16: [u8; 40],
    }
}

wire! {
    /// Body of a request to create an AEAD session (5.9.7.2.1).
    AeadSession, 56 {
        /// `AEAD_*`.
        algo @ 0: U32,
        /// Length of the key, which follows the request.
        key_len @ 4: U32,
        /// Bytes of the tag; the kernel's header calls it `hash_result_len`.
        tag_len @ 8: U32,
        /// Bytes of AAD; a request has its own.
        aad_len @ 12: U32,
        /// `OP_ENCRYPT` or `OP_DECRYPT`.
        op @ 16: U32,
        /// Zero.
        padding @ 20: U32,
        /// Fill.
        fill @ 24: [u8; 32],
    }
}

wire! {
    /// Body of a request to create an RSA session (5.9.7.2.1).
    RsaSession, 56 {
        /// `AKCIPHER_*`.
        algo @ 0: U32,
        /// `AKCIPHER_KEY_TYPE_*`.
        key_type @ 4: U32,
        /// Length of the key, which follows the request, in DER.
        key_len @ 8: U32,
        /// `RSA_*_PADDING`.
        padding_algo @ 12: U32,
        /// `RSA_*`, the hash of signatures.
        hash_algo @ 16: U32,
        /// Fill.
        fill @ 20: [u8; 36],
    }
}

wire! {
    /// Body of a request to destroy a session (5.9.7.2.1).
    DestroySession, 56 {
        /// Which one.
        session_id @ 0: U64,
        /// Fill.
        fill @ 8: [u8; 48],
    }
}

wire! {
    /// A control request without the key (5.9.7.2).
    ControlRequest, 72 {
        /// Header.
        header @ 0: ControlHeader,
        /// `*Session`, by the opcode.
        body @ 16: [u8; 56],
    }
}

wire! {
    /// Answer to the creation of a session.
    SessionInput, 16 {
        /// The new session.
        session_id @ 0: U64,
        /// Status.
        status @ 8: U32,
        /// Zero.
        padding @ 12: U32,
    }
}

wire! {
    /// Header of a data request (5.9.7.3).
    DataHeader, 24 {
        /// Opcode.
        opcode @ 0: U32,
        /// Algorithm, numbered within its service.
        algo @ 4: U32,
        /// The session.
        session_id @ 8: U64,
        /// Zero in session mode.
        flag @ 16: U32,
        /// Zero.
        padding @ 20: U32,
    }
}

wire! {
    /// A cipher request (5.9.7.3, 5.9.8): IV and source follow; then destination and status.
    CipherRequest, 72 {
        /// Header.
        header @ 0: DataHeader,
        /// Length of the IV.
        iv_len @ 24: U32,
        /// Length of the source.
        src_data_len @ 28: U32,
        /// Length of the destination.
        dst_data_len @ 32: U32,
        /// Zero.
        padding @ 36: U32,
        /// Room for the parameters of chained requests.
        fill @ 40: [u8; 24],
        /// `SYM_OP_*`.
        op_type @ 64: U32,
        /// Zero.
        padding2 @ 68: U32,
    }
}

wire! {
    /// A hash or MAC request (5.9.7.4, 5.9.7.5): the source follows; then result and status.
    HashRequest, 72 {
        /// Header.
        header @ 0: DataHeader,
        /// Length of the source.
        src_data_len @ 24: U32,
        /// Length of the result.
        hash_result_len @ 28: U32,
        /// Fill.
        fill @ 32: [u8; 40],
    }
}

wire! {
    /// An AEAD request (5.9.7.7): IV, source and AAD follow; then destination and status.
    AeadRequest, 72 {
        /// Header.
        header @ 0: DataHeader,
        /// Length of the IV.
        iv_len @ 24: U32,
        /// Length of the AAD.
        aad_len @ 28: U32,
        /// Length of the source.
        src_data_len @ 32: U32,
        /// Length of the destination.
        dst_data_len @ 36: U32,
        /// Length of the tag; the kernel's header has no such field.
        tag_len @ 40: U32,
        /// Zero.
        reserved @ 44: U32,
        /// Fill.
        fill @ 48: [u8; 24],
    }
}

wire! {
    /// An asymmetric request (5.9.7.8): the source follows; then destination and status. To be
    /// verified: signature and digest follow; then the status.
    AkcipherRequest, 72 {
        /// Header.
        header @ 0: DataHeader,
        /// Length of the source, or of the signature.
        src_data_len @ 24: U32,
        /// Length of the destination, or of the digest.
        dst_data_len @ 28: U32,
        /// Fill.
        fill @ 32: [u8; 40],
    }
}
