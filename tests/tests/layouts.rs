//! Both layouts, the driver's and the simulator's, against the kernel's own headers: sizes, offsets
//! and constants, asked of the C compiler.

use std::collections::BTreeSet;
use std::mem::{offset_of, size_of};
use std::process::Command;

use ringbell_drivers::pci::config as pci;
use ringbell_drivers::virtio::{NO_VECTOR, common, feature, status};
use ringbell_drivers::virtio_crypto::wire as driver;
use ringbell_drivers::virtqueue::{Descriptor, SplitRing};
use ringbell_sim::wire as sim;

/// One line: what it is in C, what it is here, and how it is written here.
struct Line {
    c: String,
    rust: u64,
    source: &'static str,
}

macro_rules! values {
    ($($c:expr => $rust:expr,)*) => {
        vec![$(Line { c: String::from($c), rust: u64::from($rust), source: stringify!($rust) },)*]
    };
}

/// Size of a structure, and offset and size of its fields. `Config: "virtio_crypto_config" { status: "status" }`.
macro_rules! structure {
    ($lines:ident, $module:ident :: $name:ident : $c:literal { $($field:ident : $c_field:literal),* $(,)? }) => {
        $lines.push(Line {
            c: format!("sizeof(struct {})", $c),
            rust: size_of::<$module::$name>() as u64,
            source: concat!(stringify!($module), "::", stringify!($name)),
        });
        $($lines.push(Line {
            c: format!("offsetof(struct {}, {})", $c, $c_field),
            rust: offset_of!($module::$name, $field) as u64,
            source: concat!(stringify!($module), "::", stringify!($name), " . ", stringify!($field)),
        });
        $lines.push(Line {
            c: format!("sizeof(((struct {} *)0)->{})", $c, $c_field),
            rust: size_of_field(|s: &$module::$name| size_of_val(&s.$field)) as u64,
            source: concat!(stringify!($module), "::", stringify!($name), " . ", stringify!($field)),
        });)*
    };
}

fn size_of_field<T: zerocopy_free::Zeroed>(size: impl Fn(&T) -> usize) -> usize {
    size(&T::zeroed())
}

/// A value to measure fields of. (All structures here are plain bytes; `Default` or parsing zeros.)
mod zerocopy_free {
    pub(crate) trait Zeroed {
        fn zeroed() -> Self;
    }
}

macro_rules! zeroed {
    ($($module:ident :: $name:ident),* $(,)?) => {
        $(impl zerocopy_free::Zeroed for $module::$name {
            fn zeroed() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        })*
    };
}

zeroed!(
    driver::Config,
    driver::ControlHeader,
    driver::CreateCipherSession,
    driver::SessionReply,
    driver::DestroySession,
    driver::CipherRequest,
    sim::Descriptor,
    sim::UsedElement,
    sim::PciCapability,
    sim::CommonConfig,
    sim::CryptoConfig,
    sim::ControlHeader,
    sim::CipherSession,
    sim::HashSession,
    sim::MacSession,
    sim::AeadSession,
    sim::RsaSession,
    sim::DestroySession,
    sim::ControlRequest,
    sim::SessionInput,
    sim::DataHeader,
    sim::CipherRequest,
    sim::HashRequest,
    sim::AeadRequest,
    sim::AkcipherRequest,
);

fn driver_structures() -> Vec<Line> {
    let mut lines = Vec::new();
    structure!(lines, driver::Config: "virtio_crypto_config" {
        status: "status", max_dataqueues: "max_dataqueues", crypto_services: "crypto_services",
        cipher_algo_l: "cipher_algo_l", cipher_algo_h: "cipher_algo_h", hash_algo: "hash_algo",
        mac_algo_l: "mac_algo_l", mac_algo_h: "mac_algo_h", aead_algo: "aead_algo",
        max_cipher_key_len: "max_cipher_key_len", max_auth_key_len: "max_auth_key_len",
        akcipher_algo: "akcipher_algo", max_size: "max_size",
    });
    structure!(lines, driver::ControlHeader: "virtio_crypto_ctrl_header" {
        opcode: "opcode", algo: "algo", flag: "flag", queue_id: "queue_id",
    });
    structure!(lines, driver::CreateCipherSession: "virtio_crypto_op_ctrl_req" {
        header: "header",
        algo: "u.sym_create_session.u.cipher.para.algo",
        key_len: "u.sym_create_session.u.cipher.para.keylen",
        op: "u.sym_create_session.u.cipher.para.op",
        padding: "u.sym_create_session.u.cipher.para.padding",
        fill: "u.sym_create_session.u.cipher.padding",
        op_type: "u.sym_create_session.op_type",
        padding2: "u.sym_create_session.padding",
    });
    structure!(lines, driver::SessionReply: "virtio_crypto_session_input" {
        session_id: "session_id", status: "status", padding: "padding",
    });
    structure!(lines, driver::DestroySession: "virtio_crypto_op_ctrl_req" {
        header: "header",
        session_id: "u.destroy_session.session_id",
        fill: "u.destroy_session.padding",
    });
    structure!(lines, driver::CipherRequest: "virtio_crypto_op_data_req" {
        opcode: "header.opcode", algo: "header.algo", session_id: "header.session_id", flag: "header.flag",
        padding: "header.padding",
        iv_len: "u.sym_req.u.cipher.para.iv_len",
        src_data_len: "u.sym_req.u.cipher.para.src_data_len",
        dst_data_len: "u.sym_req.u.cipher.para.dst_data_len",
        padding2: "u.sym_req.u.cipher.para.padding",
        fill: "u.sym_req.u.cipher.padding",
        op_type: "u.sym_req.op_type",
        padding3: "u.sym_req.padding",
    });
    lines
}

fn sim_structures() -> Vec<Line> {
    let mut lines = Vec::new();
    structure!(lines, sim::Descriptor: "vring_desc" { addr: "addr", len: "len", flags: "flags", next: "next" });
    structure!(lines, sim::UsedElement: "vring_used_elem" { id: "id", len: "len" });
    structure!(lines, sim::PciCapability: "virtio_pci_cap" {
        vendor: "cap_vndr", next: "cap_next", len: "cap_len", cfg_type: "cfg_type", bar: "bar", id: "id",
        padding: "padding", offset: "offset", length: "length",
    });
    structure!(lines, sim::CryptoConfig: "virtio_crypto_config" {
        status: "status", max_dataqueues: "max_dataqueues", crypto_services: "crypto_services",
        cipher_algo_l: "cipher_algo_l", cipher_algo_h: "cipher_algo_h", hash_algo: "hash_algo",
        mac_algo_l: "mac_algo_l", mac_algo_h: "mac_algo_h", aead_algo: "aead_algo",
        max_cipher_key_len: "max_cipher_key_len", max_auth_key_len: "max_auth_key_len",
        akcipher_algo: "akcipher_algo", max_size: "max_size",
    });
    structure!(lines, sim::ControlHeader: "virtio_crypto_ctrl_header" {
        opcode: "opcode", algo: "algo", flag: "flag", queue_id: "queue_id",
    });
    structure!(lines, sim::CipherSession: "virtio_crypto_sym_create_session_req" {
        algo: "u.cipher.para.algo", keylen: "u.cipher.para.keylen", op: "u.cipher.para.op",
        padding: "u.cipher.para.padding", fill: "u.cipher.padding", op_type: "op_type", padding2: "padding",
    });
    structure!(lines, sim::HashSession: "virtio_crypto_hash_create_session_req" {
        algo: "para.algo", hash_result_len: "para.hash_result_len", padding: "para.padding", fill: "padding",
    });
    structure!(lines, sim::MacSession: "virtio_crypto_mac_create_session_req" {
        algo: "para.algo", hash_result_len: "para.hash_result_len", auth_key_len: "para.auth_key_len",
        padding: "para.padding", fill: "padding",
    });
    // The header has another name for the tag's length.
    structure!(lines, sim::AeadSession: "virtio_crypto_aead_create_session_req" {
        algo: "para.algo", key_len: "para.key_len", tag_len: "para.hash_result_len", aad_len: "para.aad_len",
        op: "para.op", padding: "para.padding", fill: "padding",
    });
    structure!(lines, sim::RsaSession: "virtio_crypto_akcipher_create_session_req" {
        algo: "para.algo", key_type: "para.keytype", key_len: "para.keylen",
        padding_algo: "para.u.rsa.padding_algo", hash_algo: "para.u.rsa.hash_algo", fill: "padding",
    });
    structure!(lines, sim::DestroySession: "virtio_crypto_destroy_session_req" {
        session_id: "session_id", fill: "padding",
    });
    structure!(lines, sim::ControlRequest: "virtio_crypto_op_ctrl_req" { header: "header", body: "u" });
    structure!(lines, sim::SessionInput: "virtio_crypto_session_input" {
        session_id: "session_id", status: "status", padding: "padding",
    });
    structure!(lines, sim::DataHeader: "virtio_crypto_op_header" {
        opcode: "opcode", algo: "algo", session_id: "session_id", flag: "flag", padding: "padding",
    });
    structure!(lines, sim::CipherRequest: "virtio_crypto_op_data_req" {
        header: "header",
        iv_len: "u.sym_req.u.cipher.para.iv_len",
        src_data_len: "u.sym_req.u.cipher.para.src_data_len",
        dst_data_len: "u.sym_req.u.cipher.para.dst_data_len",
        padding: "u.sym_req.u.cipher.para.padding",
        fill: "u.sym_req.u.cipher.padding",
        op_type: "u.sym_req.op_type",
        padding2: "u.sym_req.padding",
    });
    structure!(lines, sim::HashRequest: "virtio_crypto_op_data_req" {
        header: "header", src_data_len: "u.hash_req.para.src_data_len",
        hash_result_len: "u.hash_req.para.hash_result_len", fill: "u.hash_req.padding",
    });
    // A MAC's request is the same.
    structure!(lines, sim::HashRequest: "virtio_crypto_op_data_req" {
        src_data_len: "u.mac_req.para.hash.src_data_len",
        hash_result_len: "u.mac_req.para.hash.hash_result_len", fill: "u.mac_req.padding",
    });
    structure!(lines, sim::AeadRequest: "virtio_crypto_op_data_req" {
        header: "header", iv_len: "u.aead_req.para.iv_len", aad_len: "u.aead_req.para.aad_len",
        src_data_len: "u.aead_req.para.src_data_len", dst_data_len: "u.aead_req.para.dst_data_len",
    });
    structure!(lines, sim::AkcipherRequest: "virtio_crypto_op_data_req" {
        header: "header", src_data_len: "u.akcipher_req.para.src_data_len",
        dst_data_len: "u.akcipher_req.para.dst_data_len", fill: "u.akcipher_req.padding",
    });
    // The structure of common configuration ends at 56 in older headers; its fields have names of
    // their own there, and these two have only those.
    let at = |c: &str, rust: usize, source| Line { c: c.to_owned(), rust: rust as u64, source };
    // What the specification has behind the header's last field of an AEAD request is padding there.
    let padding = "offsetof(struct virtio_crypto_op_data_req, u.aead_req.padding)";
    lines.push(at(padding, offset_of!(sim::AeadRequest, tag_len), "sim::AeadRequest . tag_len"));
    let after = |n| format!("{padding} + {n}");
    lines.push(at(&after(4), offset_of!(sim::AeadRequest, reserved), "sim::AeadRequest . reserved"));
    lines.push(at(&after(8), offset_of!(sim::AeadRequest, fill), "sim::AeadRequest . fill"));
    macro_rules! common_field {
        ($($field:ident : $c:literal),* $(,)?) => {
            $(lines.push(at($c, offset_of!(sim::CommonConfig, $field), concat!("sim::CommonConfig . ", stringify!($field))));)*
        };
    }
    common_field! {
        device_feature_select: "VIRTIO_PCI_COMMON_DFSELECT", device_feature: "VIRTIO_PCI_COMMON_DF",
        driver_feature_select: "VIRTIO_PCI_COMMON_GFSELECT", driver_feature: "VIRTIO_PCI_COMMON_GF",
        msix_config: "VIRTIO_PCI_COMMON_MSIX", num_queues: "VIRTIO_PCI_COMMON_NUMQ",
        device_status: "VIRTIO_PCI_COMMON_STATUS", config_generation: "VIRTIO_PCI_COMMON_CFGGENERATION",
        queue_select: "VIRTIO_PCI_COMMON_Q_SELECT", queue_size: "VIRTIO_PCI_COMMON_Q_SIZE",
        queue_msix_vector: "VIRTIO_PCI_COMMON_Q_MSIX", queue_enable: "VIRTIO_PCI_COMMON_Q_ENABLE",
        queue_notify_off: "VIRTIO_PCI_COMMON_Q_NOFF", queue_desc: "VIRTIO_PCI_COMMON_Q_DESCLO",
        queue_driver: "VIRTIO_PCI_COMMON_Q_AVAILLO", queue_device: "VIRTIO_PCI_COMMON_Q_USEDLO",
        queue_notify_data: "VIRTIO_PCI_COMMON_Q_NDATA", queue_reset: "VIRTIO_PCI_COMMON_Q_RESET",
    }
    lines.push(at("VIRTIO_PCI_COMMON_Q_RESET + 2", size_of::<sim::CommonConfig>(), "sim::CommonConfig"));
    lines.push(at(
        "sizeof(struct virtio_pci_common_cfg)",
        offset_of!(sim::CommonConfig, queue_notify_data),
        "sim::CommonConfig",
    ));
    lines
}

fn driver_constants() -> Vec<Line> {
    values! {
        "VIRTIO_ID_CRYPTO" => driver::DEVICE_TYPE,
        "VIRTIO_CRYPTO_S_HW_READY" => driver::STATUS_HW_READY,
        "VIRTIO_CRYPTO_SERVICE_CIPHER" => driver::service::CIPHER,
        "VIRTIO_CRYPTO_CIPHER_CREATE_SESSION" => driver::opcode::CIPHER_CREATE_SESSION,
        "VIRTIO_CRYPTO_CIPHER_DESTROY_SESSION" => driver::opcode::CIPHER_DESTROY_SESSION,
        "VIRTIO_CRYPTO_CIPHER_ENCRYPT" => driver::opcode::CIPHER_ENCRYPT,
        "VIRTIO_CRYPTO_CIPHER_DECRYPT" => driver::opcode::CIPHER_DECRYPT,
        "VIRTIO_CRYPTO_CIPHER_AES_ECB" => driver::algorithm::AES_ECB,
        "VIRTIO_CRYPTO_CIPHER_AES_CBC" => driver::algorithm::AES_CBC,
        "VIRTIO_CRYPTO_CIPHER_AES_CTR" => driver::algorithm::AES_CTR,
        "VIRTIO_CRYPTO_OP_ENCRYPT" => driver::operation::ENCRYPT,
        "VIRTIO_CRYPTO_OP_DECRYPT" => driver::operation::DECRYPT,
        "VIRTIO_CRYPTO_SYM_OP_CIPHER" => driver::SYM_OP_CIPHER,
        "VIRTIO_CRYPTO_OK" => driver::status::OK,
        "VIRTIO_CRYPTO_ERR" => driver::status::ERR,
        "VIRTIO_CRYPTO_BADMSG" => driver::status::BADMSG,
        "VIRTIO_CRYPTO_NOTSUPP" => driver::status::NOTSUPP,
        "VIRTIO_CRYPTO_INVSESS" => driver::status::INVSESS,
        "VIRTIO_CRYPTO_NOSPC" => driver::status::NOSPC,
        "VIRTIO_CRYPTO_KEY_REJECTED" => driver::status::KEY_REJECTED,
        "VIRTIO_PCI_COMMON_DFSELECT" => common::DEVICE_FEATURE_SELECT,
        "VIRTIO_PCI_COMMON_DF" => common::DEVICE_FEATURE,
        "VIRTIO_PCI_COMMON_GFSELECT" => common::DRIVER_FEATURE_SELECT,
        "VIRTIO_PCI_COMMON_GF" => common::DRIVER_FEATURE,
        "VIRTIO_PCI_COMMON_MSIX" => common::CONFIG_MSIX_VECTOR,
        "VIRTIO_PCI_COMMON_NUMQ" => common::NUM_QUEUES,
        "VIRTIO_PCI_COMMON_STATUS" => common::DEVICE_STATUS,
        "VIRTIO_PCI_COMMON_CFGGENERATION" => common::CONFIG_GENERATION,
        "VIRTIO_PCI_COMMON_Q_SELECT" => common::QUEUE_SELECT,
        "VIRTIO_PCI_COMMON_Q_SIZE" => common::QUEUE_SIZE,
        "VIRTIO_PCI_COMMON_Q_MSIX" => common::QUEUE_MSIX_VECTOR,
        "VIRTIO_PCI_COMMON_Q_ENABLE" => common::QUEUE_ENABLE,
        "VIRTIO_PCI_COMMON_Q_NOFF" => common::QUEUE_NOTIFY_OFF,
        "VIRTIO_PCI_COMMON_Q_DESCLO" => common::QUEUE_DESC,
        "VIRTIO_PCI_COMMON_Q_AVAILLO" => common::QUEUE_DRIVER,
        "VIRTIO_PCI_COMMON_Q_USEDLO" => common::QUEUE_DEVICE,
        "sizeof(struct virtio_pci_common_cfg)" => common::SIZE,
        "VIRTIO_CONFIG_S_ACKNOWLEDGE" => status::ACKNOWLEDGE,
        "VIRTIO_CONFIG_S_DRIVER" => status::DRIVER,
        "VIRTIO_CONFIG_S_DRIVER_OK" => status::DRIVER_OK,
        "VIRTIO_CONFIG_S_FEATURES_OK" => status::FEATURES_OK,
        "VIRTIO_CONFIG_S_NEEDS_RESET" => status::NEEDS_RESET,
        "VIRTIO_CONFIG_S_FAILED" => status::FAILED,
        "VIRTIO_RING_F_INDIRECT_DESC" => feature::INDIRECT_DESC,
        "VIRTIO_RING_F_EVENT_IDX" => feature::EVENT_IDX,
        "VIRTIO_F_VERSION_1" => feature::VERSION_1,
        "VIRTIO_F_ACCESS_PLATFORM" => feature::ACCESS_PLATFORM,
        "VIRTIO_F_ORDER_PLATFORM" => feature::ORDER_PLATFORM,
        "VIRTIO_MSI_NO_VECTOR" => NO_VECTOR,
        "VRING_DESC_F_NEXT" => Descriptor::NEXT,
        "VRING_DESC_F_WRITE" => Descriptor::WRITE,
        "VRING_DESC_F_INDIRECT" => Descriptor::INDIRECT,
        "sizeof(struct vring_desc)" => Descriptor::SIZE as u64,
        "PCI_VENDOR_ID" => pci::VENDOR_ID,
        "PCI_DEVICE_ID" => pci::DEVICE_ID,
        "PCI_COMMAND" => pci::COMMAND,
        "PCI_STATUS" => pci::STATUS,
        "PCI_REVISION_ID" => pci::REVISION_ID,
        "PCI_BASE_ADDRESS_0" => pci::BAR0,
        "PCI_CAPABILITY_LIST" => pci::CAPABILITIES,
        "PCI_COMMAND_MEMORY" => pci::COMMAND_MEMORY,
        "PCI_COMMAND_MASTER" => pci::COMMAND_BUS_MASTER,
        "PCI_STATUS_CAP_LIST" => pci::STATUS_CAPABILITIES,
        "PCI_CAP_ID_VNDR" => pci::CAP_VENDOR,
        "PCI_CAP_ID_MSIX" => pci::CAP_MSIX,
        // The rings: the used ring begins with the last four bytes of a line of its own, so that its
        // elements begin the next line.
        "vring_size(8, 64) + 60" => SplitRing::bytes(8) as u64,
        "vring_size(256, 64) + 60" => SplitRing::bytes(256) as u64,
        "vring_size(32768, 64) + 60" => SplitRing::bytes(32768) as u64,
    }
}

fn sim_constants() -> Vec<Line> {
    values! {
        "VRING_DESC_F_NEXT" => sim::DESC_F_NEXT,
        "VRING_DESC_F_WRITE" => sim::DESC_F_WRITE,
        "VRING_DESC_F_INDIRECT" => sim::DESC_F_INDIRECT,
        "VRING_AVAIL_F_NO_INTERRUPT" => sim::AVAIL_F_NO_INTERRUPT,
        "VRING_USED_F_NO_NOTIFY" => sim::USED_F_NO_NOTIFY,
        "1ull << VIRTIO_RING_F_INDIRECT_DESC" => sim::F_INDIRECT_DESC,
        "1ull << VIRTIO_RING_F_EVENT_IDX" => sim::F_EVENT_IDX,
        "1ull << VIRTIO_F_VERSION_1" => sim::F_VERSION_1,
        "1ull << VIRTIO_F_ACCESS_PLATFORM" => sim::F_ACCESS_PLATFORM,
        "1ull << VIRTIO_F_RING_RESET" => sim::F_RING_RESET,
        "VIRTIO_CONFIG_S_ACKNOWLEDGE" => sim::STATUS_ACKNOWLEDGE,
        "VIRTIO_CONFIG_S_DRIVER" => sim::STATUS_DRIVER,
        "VIRTIO_CONFIG_S_DRIVER_OK" => sim::STATUS_DRIVER_OK,
        "VIRTIO_CONFIG_S_FEATURES_OK" => sim::STATUS_FEATURES_OK,
        "VIRTIO_CONFIG_S_NEEDS_RESET" => sim::STATUS_NEEDS_RESET,
        "VIRTIO_CONFIG_S_FAILED" => sim::STATUS_FAILED,
        // No header of user space has the vendor; 4.1.2: 0x1af4, and 0x1040 + the device type.
        "0x1af4" => sim::PCI_VENDOR,
        "0x1040 + VIRTIO_ID_CRYPTO" => sim::PCI_DEVICE,
        "VIRTIO_PCI_CAP_COMMON_CFG" => sim::CAP_COMMON,
        "VIRTIO_PCI_CAP_NOTIFY_CFG" => sim::CAP_NOTIFY,
        "VIRTIO_PCI_CAP_ISR_CFG" => sim::CAP_ISR,
        "VIRTIO_PCI_CAP_DEVICE_CFG" => sim::CAP_DEVICE,
        "VIRTIO_PCI_CAP_PCI_CFG" => sim::CAP_PCI,
        "VIRTIO_MSI_NO_VECTOR" => sim::NO_VECTOR,
        "1" => sim::ISR_QUEUE,
        "VIRTIO_PCI_ISR_CONFIG" => sim::ISR_CONFIG,
        "VIRTIO_CRYPTO_S_HW_READY" => sim::S_HW_READY,
        "VIRTIO_CRYPTO_SERVICE_CIPHER" => sim::SERVICE_CIPHER,
        "VIRTIO_CRYPTO_SERVICE_HASH" => sim::SERVICE_HASH,
        "VIRTIO_CRYPTO_SERVICE_MAC" => sim::SERVICE_MAC,
        "VIRTIO_CRYPTO_SERVICE_AEAD" => sim::SERVICE_AEAD,
        "VIRTIO_CRYPTO_SERVICE_AKCIPHER" => sim::SERVICE_AKCIPHER,
        "VIRTIO_CRYPTO_OPCODE(4, 3)" => sim::opcode(4, 3),
        "VIRTIO_CRYPTO_CIPHER_CREATE_SESSION" => sim::CIPHER_CREATE_SESSION,
        "VIRTIO_CRYPTO_CIPHER_DESTROY_SESSION" => sim::CIPHER_DESTROY_SESSION,
        "VIRTIO_CRYPTO_HASH_CREATE_SESSION" => sim::HASH_CREATE_SESSION,
        "VIRTIO_CRYPTO_HASH_DESTROY_SESSION" => sim::HASH_DESTROY_SESSION,
        "VIRTIO_CRYPTO_MAC_CREATE_SESSION" => sim::MAC_CREATE_SESSION,
        "VIRTIO_CRYPTO_MAC_DESTROY_SESSION" => sim::MAC_DESTROY_SESSION,
        "VIRTIO_CRYPTO_AEAD_CREATE_SESSION" => sim::AEAD_CREATE_SESSION,
        "VIRTIO_CRYPTO_AEAD_DESTROY_SESSION" => sim::AEAD_DESTROY_SESSION,
        "VIRTIO_CRYPTO_AKCIPHER_CREATE_SESSION" => sim::AKCIPHER_CREATE_SESSION,
        "VIRTIO_CRYPTO_AKCIPHER_DESTROY_SESSION" => sim::AKCIPHER_DESTROY_SESSION,
        "VIRTIO_CRYPTO_CIPHER_ENCRYPT" => sim::CIPHER_ENCRYPT,
        "VIRTIO_CRYPTO_CIPHER_DECRYPT" => sim::CIPHER_DECRYPT,
        "VIRTIO_CRYPTO_HASH" => sim::HASH,
        "VIRTIO_CRYPTO_MAC" => sim::MAC,
        "VIRTIO_CRYPTO_AEAD_ENCRYPT" => sim::AEAD_ENCRYPT,
        "VIRTIO_CRYPTO_AEAD_DECRYPT" => sim::AEAD_DECRYPT,
        "VIRTIO_CRYPTO_AKCIPHER_ENCRYPT" => sim::AKCIPHER_ENCRYPT,
        "VIRTIO_CRYPTO_AKCIPHER_DECRYPT" => sim::AKCIPHER_DECRYPT,
        "VIRTIO_CRYPTO_AKCIPHER_SIGN" => sim::AKCIPHER_SIGN,
        "VIRTIO_CRYPTO_AKCIPHER_VERIFY" => sim::AKCIPHER_VERIFY,
        "VIRTIO_CRYPTO_CIPHER_AES_ECB" => sim::CIPHER_AES_ECB,
        "VIRTIO_CRYPTO_CIPHER_AES_CBC" => sim::CIPHER_AES_CBC,
        "VIRTIO_CRYPTO_CIPHER_AES_CTR" => sim::CIPHER_AES_CTR,
        "VIRTIO_CRYPTO_CIPHER_AES_XTS" => sim::CIPHER_AES_XTS,
        "VIRTIO_CRYPTO_HASH_SHA1" => sim::HASH_SHA1,
        "VIRTIO_CRYPTO_HASH_SHA_224" => sim::HASH_SHA_224,
        "VIRTIO_CRYPTO_HASH_SHA_256" => sim::HASH_SHA_256,
        "VIRTIO_CRYPTO_HASH_SHA_384" => sim::HASH_SHA_384,
        "VIRTIO_CRYPTO_HASH_SHA_512" => sim::HASH_SHA_512,
        "VIRTIO_CRYPTO_HASH_SHA3_224" => sim::HASH_SHA3_224,
        "VIRTIO_CRYPTO_HASH_SHA3_256" => sim::HASH_SHA3_256,
        "VIRTIO_CRYPTO_HASH_SHA3_384" => sim::HASH_SHA3_384,
        "VIRTIO_CRYPTO_HASH_SHA3_512" => sim::HASH_SHA3_512,
        "VIRTIO_CRYPTO_MAC_HMAC_SHA1" => sim::MAC_HMAC_SHA1,
        "VIRTIO_CRYPTO_MAC_HMAC_SHA_224" => sim::MAC_HMAC_SHA_224,
        "VIRTIO_CRYPTO_MAC_HMAC_SHA_256" => sim::MAC_HMAC_SHA_256,
        "VIRTIO_CRYPTO_MAC_HMAC_SHA_384" => sim::MAC_HMAC_SHA_384,
        "VIRTIO_CRYPTO_MAC_HMAC_SHA_512" => sim::MAC_HMAC_SHA_512,
        "VIRTIO_CRYPTO_MAC_CMAC_AES" => sim::MAC_CMAC_AES,
        "VIRTIO_CRYPTO_AEAD_GCM" => sim::AEAD_GCM,
        "VIRTIO_CRYPTO_AEAD_CCM" => sim::AEAD_CCM,
        "VIRTIO_CRYPTO_AEAD_CHACHA20_POLY1305" => sim::AEAD_CHACHA20_POLY1305,
        "VIRTIO_CRYPTO_AKCIPHER_RSA" => sim::AKCIPHER_RSA,
        "VIRTIO_CRYPTO_AKCIPHER_KEY_TYPE_PUBLIC" => sim::AKCIPHER_KEY_TYPE_PUBLIC,
        "VIRTIO_CRYPTO_AKCIPHER_KEY_TYPE_PRIVATE" => sim::AKCIPHER_KEY_TYPE_PRIVATE,
        "VIRTIO_CRYPTO_RSA_RAW_PADDING" => sim::RSA_RAW_PADDING,
        "VIRTIO_CRYPTO_RSA_PKCS1_PADDING" => sim::RSA_PKCS1_PADDING,
        "VIRTIO_CRYPTO_RSA_NO_HASH" => sim::RSA_NO_HASH,
        "VIRTIO_CRYPTO_RSA_MD5" => sim::RSA_MD5,
        "VIRTIO_CRYPTO_RSA_SHA1" => sim::RSA_SHA1,
        "VIRTIO_CRYPTO_RSA_SHA256" => sim::RSA_SHA256,
        "VIRTIO_CRYPTO_RSA_SHA384" => sim::RSA_SHA384,
        "VIRTIO_CRYPTO_RSA_SHA512" => sim::RSA_SHA512,
        "VIRTIO_CRYPTO_RSA_SHA224" => sim::RSA_SHA224,
        "VIRTIO_CRYPTO_OP_ENCRYPT" => sim::OP_ENCRYPT,
        "VIRTIO_CRYPTO_OP_DECRYPT" => sim::OP_DECRYPT,
        "VIRTIO_CRYPTO_SYM_OP_CIPHER" => sim::SYM_OP_CIPHER,
        "VIRTIO_CRYPTO_SYM_OP_ALGORITHM_CHAINING" => sim::SYM_OP_ALGORITHM_CHAINING,
        "VIRTIO_CRYPTO_OK" => sim::OK,
        "VIRTIO_CRYPTO_ERR" => sim::ERR,
        "VIRTIO_CRYPTO_BADMSG" => sim::BADMSG,
        "VIRTIO_CRYPTO_NOTSUPP" => sim::NOTSUPP,
        "VIRTIO_CRYPTO_INVSESS" => sim::INVSESS,
        "VIRTIO_CRYPTO_NOSPC" => sim::NOSPC,
        "VIRTIO_CRYPTO_KEY_REJECTED" => sim::KEY_REJECTED,
    }
}

/// What the headers say of each expression, in order.
fn ask_c(lines: &[Line]) -> Vec<u64> {
    let mut program = String::from(
        "#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n#include <linux/pci_regs.h>\n\
         #include <linux/virtio_config.h>\n#include <linux/virtio_crypto.h>\n#include <linux/virtio_ids.h>\n\
         #include <linux/virtio_pci.h>\n#include <linux/virtio_ring.h>\n\nint main(void)\n{\n",
    );
    for (number, line) in lines.iter().enumerate() {
        program += &format!("\tprintf(\"%d=%llu\\n\", {number}, (unsigned long long)({}));\n", line.c);
    }
    program += "\treturn 0;\n}\n";
    let folder = tempfile::tempdir().unwrap();
    let (source, binary) = (folder.path().join("layouts.c"), folder.path().join("layouts"));
    std::fs::write(&source, program).unwrap();
    let needs = "this test needs a C compiler and the kernel's headers: on Debian the packages gcc and linux-libc-dev";
    let compiled = Command::new("cc").arg("-o").arg(&binary).arg(&source).output();
    let compiled = compiled.unwrap_or_else(|error| panic!("cannot run cc: {error}; {needs}"));
    let message = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "cc failed; {needs}\n{message}");
    let output = Command::new(&binary).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let values: Vec<u64> = text
        .lines()
        .enumerate()
        .map(|(number, line)| {
            let (name, value) = line.split_once('=').unwrap();
            assert_eq!(name, number.to_string());
            value.parse().unwrap()
        })
        .collect();
    assert_eq!(values.len(), lines.len());
    values
}

fn compare(lines: &[Line]) {
    let wrong: Vec<_> = lines
        .iter()
        .zip(ask_c(lines))
        .filter(|(line, c)| line.rust != *c)
        .map(|(line, c)| format!("{} is {}, the kernel's {} is {c}", line.source, line.rust, line.c))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_drivers_structures_and_constants_are_the_kernels() {
    compare(&[driver_structures(), driver_constants()].into_iter().flatten().collect::<Vec<_>>());
}

#[test]
fn the_simulators_structures_and_constants_are_the_kernels() {
    compare(&[sim_structures(), sim_constants()].into_iter().flatten().collect::<Vec<_>>());
}

/// Names that a source file makes public: constants, and fields of structures.
fn public_names(path: &str) -> BTreeSet<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let text = std::fs::read_to_string(&path).unwrap();
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("pub const ").filter(|rest| !rest.starts_with("fn ")) {
            names.insert(word(rest));
        } else if let Some(rest) = line.strip_prefix("pub ")
            && line.contains(':')
            && line.ends_with(',')
        {
            names.insert(word(rest));
        } else if line.contains(" @ ") && line.ends_with(',') && !line.starts_with("$") {
            names.insert(word(line));
        }
    }
    names
}

#[test]
fn no_field_and_no_constant_is_forgotten() {
    let all = [driver_structures(), driver_constants(), sim_structures(), sim_constants()];
    let words = |lines: &[&Vec<Line>]| -> BTreeSet<String> {
        let text: Vec<_> = lines.iter().flat_map(|lines| lines.iter().map(|line| line.source)).collect();
        text.join(" ").split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned).collect()
    };
    let driver = words(&[&all[0], &all[1]]);
    let sim = words(&[&all[2], &all[3]]);
    let mut seen = 0;
    for (path, known) in [
        ("drivers/src/virtio_crypto/wire.rs", &driver),
        ("drivers/src/virtio/layout.rs", &driver),
        ("drivers/src/pci/mod.rs", &driver),
        ("sim/src/wire.rs", &sim),
    ] {
        let names = public_names(path);
        seen += names.len();
        let missing: Vec<_> = names.difference(known).collect();
        assert!(missing.is_empty(), "{path}: not compared with the kernel's headers: {missing:?}");
    }
    assert!(seen > 150, "only {seen} names were found: the reader of the sources is broken");
}

#[test]
fn a_descriptor_stands_in_memory_as_the_kernels_does() {
    let descriptor =
        Descriptor { address: 0x1122_3344_5566_7788, len: 0x99aa_bbcc, flags: 0xddee, next: 0xf012 };
    let lines: Vec<_> = descriptor
        .to_bytes()
        .into_iter()
        .enumerate()
        .map(|(at, byte)| Line {
            c: format!(
                "((const unsigned char *)&(struct vring_desc){{ .addr = 0x1122334455667788ull, .len = 0x99aabbcc, \
                 .flags = 0xddee, .next = 0xf012 }})[{at}]"
            ),
            rust: byte.into(),
            source: "Descriptor::to_bytes",
        })
        .collect();
    compare(&lines);
}

#[test]
fn the_rings_stand_where_the_kernels_vring_init_puts_them() {
    let device = ringbell::Device::open("sim:").unwrap();
    for size in [8_u16, 64, 1024] {
        let ring = SplitRing::new(device.buffer(SplitRing::bytes(size)).unwrap(), size).unwrap();
        let addresses = ring.addresses();
        let of = |part: &str| {
            format!("({{ struct vring r; vring_init(&r, {size}, (void *)0, 64); (uintptr_t)r.{part}; }})")
        };
        compare(&[
            Line {
                c: of("avail"),
                rust: addresses.available - addresses.descriptors,
                source: "available ring",
            },
            Line {
                c: of("used") + " + 60",
                rust: addresses.used - addresses.descriptors,
                source: "used ring",
            },
            Line {
                c: "(sizeof(struct vring_used_elem) - offsetof(struct vring_used, ring)) % 8".to_owned(),
                rust: addresses.used % 8,
                source: "elements of the used ring, aligned to their size",
            },
        ]);
    }
}
