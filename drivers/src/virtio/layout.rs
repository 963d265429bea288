//! Numbers of the specification. A test in `tests/` compares them with `linux/virtio_pci.h`,
//! `linux/virtio_config.h` and `linux/virtio_ring.h`.

/// Offsets into the common configuration structure (4.1.4.3).
pub mod common {
    /// Which half of the device's feature bits `DEVICE_FEATURE` shows; 32 bits.
    pub const DEVICE_FEATURE_SELECT: u64 = 0;
    /// Feature bits that the device offers; 32 bits, read only.
    pub const DEVICE_FEATURE: u64 = 4;
    /// Which half `DRIVER_FEATURE` shows; 32 bits.
    pub const DRIVER_FEATURE_SELECT: u64 = 8;
    /// Feature bits that the driver accepts; 32 bits.
    pub const DRIVER_FEATURE: u64 = 12;
    /// MSI-X vector of configuration changes; 16 bits.
    pub const CONFIG_MSIX_VECTOR: u64 = 16;
    /// Number of queues; 16 bits, read only.
    pub const NUM_QUEUES: u64 = 18;
    /// Device status; 8 bits.
    pub const DEVICE_STATUS: u64 = 20;
    /// Changes whenever the device's configuration has changed; 8 bits, read only.
    pub const CONFIG_GENERATION: u64 = 21;
    /// Which queue the fields below show; 16 bits.
    pub const QUEUE_SELECT: u64 = 22;
    /// Size of the queue; 16 bits. 0: there is no such queue.
    pub const QUEUE_SIZE: u64 = 24;
    /// MSI-X vector of the queue; 16 bits.
    pub const QUEUE_MSIX_VECTOR: u64 = 26;
    /// 1 enables the queue; 16 bits.
    pub const QUEUE_ENABLE: u64 = 28;
    /// Place of the queue's notification register; 16 bits, read only.
    pub const QUEUE_NOTIFY_OFF: u64 = 30;
    /// Bus address of the descriptor table; 64 bits, accessed as two times 32.
    pub const QUEUE_DESC: u64 = 32;
    /// Bus address of the available ring; 64 bits.
    pub const QUEUE_DRIVER: u64 = 40;
    /// Bus address of the used ring; 64 bits.
    pub const QUEUE_DEVICE: u64 = 48;
    /// Bytes up to here are in every device.
    pub const SIZE: u64 = 56;
}

/// Device status bits (2.1).
pub mod status {
    /// The driver has seen the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The driver knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is set up.
    pub const DRIVER_OK: u8 = 4;
    /// Features are negotiated.
    pub const FEATURES_OK: u8 = 8;
    /// The device has a fault that only a reset ends.
    pub const NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub const FAILED: u8 = 128;
}

/// Feature bits (6).
pub mod feature {
    /// Descriptors may point to tables of descriptors.
    pub const INDIRECT_DESC: u32 = 28;
    /// used_event and avail_event.
    pub const EVENT_IDX: u32 = 29;
    /// The device follows version 1 of the specification.
    pub const VERSION_1: u32 = 32;
    /// Addresses go through the platform's translation (IOMMU).
    pub const ACCESS_PLATFORM: u32 = 33;
    /// The device needs the memory barriers of the platform.
    pub const ORDER_PLATFORM: u32 = 36;

    /// The mask of one bit.
    pub const fn mask(bit: u32) -> u64 {
        1 << bit
    }
}
