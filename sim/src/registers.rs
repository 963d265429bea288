//! The registers in BAR 4: common configuration, ISR, device configuration. Ref: VIRTIO 1.2, 4.1.4.3
//! to 4.1.4.6, 5.9.4.

use std::collections::BTreeSet;

use tracing::{debug, warn};
use zerocopy::IntoBytes;

use crate::control::{MAX_AUTH_KEY, MAX_CIPHER_KEY};
use crate::data::{MAX_SIZE, QEMU_MAX_SIZE};
use crate::device::{Device, Effect};
use crate::error::DriverError;
use crate::pci::{self, COMMON, DEVICE, ISR, NOTIFY, NOTIFY_MULTIPLIER, QEMU_STRUCTURE};
use crate::services::Services;
use crate::wire::{self, CommonConfig, CryptoConfig};

/// QEMU has registers for so many queues.
const QEMU_QUEUES: u16 = 1024;

/// The registers that are about the whole device.
#[derive(Debug)]
pub(crate) struct Common {
    device_feature_select: u32,
    driver_feature_select: u32,
    /// What the driver accepted.
    pub(crate) driver_features: u64,
    /// It wrote to a word beyond the 64 bits, which can only be wrong.
    beyond: bool,
    pub(crate) msix_config: u16,
    pub(crate) status: u8,
    /// The device met an error: it does nothing until it is reset.
    pub(crate) broken: bool,
    pub(crate) generation: u8,
    queue_select: u16,
    /// QEMU: what was written to the feature registers, accepted or not.
    written: [u32; 2],
    /// QEMU: queues that are not there and were enabled.
    enabled: BTreeSet<u16>,
}

impl Common {
    /// The state after a reset, which leaves what QEMU has `written`.
    pub(crate) fn after_reset(before: &Self) -> Self {
        Self { written: before.written, ..Self::new() }
    }

    pub(crate) fn new() -> Self {
        Self {
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            beyond: false,
            msix_config: wire::NO_VECTOR,
            status: 0,
            broken: false,
            generation: 0,
            queue_select: 0,
            written: [0; 2],
            enabled: BTreeSet::new(),
        }
    }
}

/// Where a structure's bytes are, if an access lies inside it.
fn within(offset: u64, len: usize, start: u64, size: usize) -> Option<usize> {
    let at = usize::try_from(offset.checked_sub(start)?).ok()?;
    (at.checked_add(len)? <= size).then_some(at)
}

impl Device {
    /// One access to BAR 4. What is not backed by a register reads as zero.
    pub(crate) fn read_registers(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(at) = within(offset, data.len(), COMMON, size_of::<CommonConfig>()) {
            let mut common = self.common_config();
            if self.faults.any() {
                self.lie(at, data.len(), &mut common);
            }
            data.copy_from_slice(&common.as_bytes()[at..][..data.len()]);
        } else if offset == ISR {
            data[0] = self.interrupts.take_isr();
        } else if let Some(at) = within(offset, data.len(), DEVICE, size_of::<CryptoConfig>()) {
            data.copy_from_slice(&self.crypto_config().as_bytes()[at..][..data.len()]);
        } else if self.qemu() && within(offset, data.len(), DEVICE, QEMU_STRUCTURE as usize).is_some() {
            data.fill(0xff);
        }
    }

    /// One access to BAR 4. What is no register that can be written is left alone.
    pub(crate) fn write_registers(&mut self, offset: u64, data: &[u8]) -> Effect {
        if offset >= NOTIFY {
            let queue = (offset - NOTIFY) / NOTIFY_MULTIPLIER;
            let aligned = offset.is_multiple_of(NOTIFY_MULTIPLIER);
            return match (data, u16::try_from(queue)) {
                ([low, high, ..], Ok(queue)) if aligned && usize::from(queue) < self.queues.len() => {
                    Effect::Notify { queue, value: u16::from_le_bytes([*low, *high]) }
                }
                _ => Effect::None,
            };
        }
        if within(offset, data.len(), COMMON, size_of::<CommonConfig>()).is_none() {
            return Effect::None;
        }
        match *data {
            [a] => self.write_common(offset, 1, u32::from(a)),
            [a, b] => self.write_common(offset, 2, u32::from(u16::from_le_bytes([a, b]))),
            [a, b, c, d] => self.write_common(offset, 4, u32::from_le_bytes([a, b, c, d])),
            // A 64-bit field is two of 32 bits (4.1.3.1).
            [a, b, c, d, e, f, g, h] => {
                self.write_common(offset, 4, u32::from_le_bytes([a, b, c, d]));
                self.write_common(offset + 4, 4, u32::from_le_bytes([e, f, g, h]))
            }
            _ => Effect::None,
        }
    }

    fn common_config(&self) -> CommonConfig {
        let common = &self.common;
        let word = |features: u64, select: u32| match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        let queue = self.queues.get(usize::from(common.queue_select));
        let [low, high] = common.written.map(u64::from);
        let read_back = if self.qemu() { low | high << 32 } else { common.driver_features };
        let missing = (u16::from(common.enabled.contains(&common.queue_select)), common.queue_select);
        let (missing_enable, missing_off) = if self.qemu() { missing } else { (0, 0) };
        CommonConfig {
            device_feature_select: common.device_feature_select.into(),
            device_feature: word(self.offered(), common.device_feature_select).into(),
            driver_feature_select: common.driver_feature_select.into(),
            driver_feature: word(read_back, common.driver_feature_select).into(),
            msix_config: common.msix_config.into(),
            num_queues: (self.queues.len() as u16).into(),
            device_status: common.status,
            config_generation: common.generation,
            queue_select: common.queue_select.into(),
            // A queue that is not there has size 0.
            queue_size: queue.map_or(0, |queue| queue.size).into(),
            queue_msix_vector: queue.map_or(wire::NO_VECTOR, |queue| queue.vector).into(),
            queue_enable: queue.map_or(missing_enable, |queue| u16::from(queue.enabled)).into(),
            queue_notify_off: queue.map_or(missing_off, |queue| queue.index).into(),
            queue_desc: queue.map_or(0, |queue| queue.desc).into(),
            queue_driver: queue.map_or(0, |queue| queue.avail).into(),
            queue_device: queue.map_or(0, |queue| queue.used).into(),
            queue_notify_data: 0.into(),
            // A reset is done when the write returns.
            queue_reset: 0.into(),
        }
    }

    fn crypto_config(&self) -> CryptoConfig {
        let qemu = self.qemu();
        let (services, masks) = if qemu {
            (Services::QEMU, Services::masks_of_qemu())
        } else {
            (self.config.services, self.config.services.masks())
        };
        CryptoConfig {
            status: if self.faults.not_ready { 0 } else { wire::S_HW_READY }.into(),
            max_dataqueues: u32::from(self.config.queues).into(),
            crypto_services: services.bits().into(),
            cipher_algo_l: masks.cipher.into(),
            cipher_algo_h: 0.into(),
            hash_algo: masks.hash.into(),
            mac_algo_l: (masks.mac as u32).into(),
            mac_algo_h: ((masks.mac >> 32) as u32).into(),
            aead_algo: masks.aead.into(),
            max_cipher_key_len: MAX_CIPHER_KEY.into(),
            max_auth_key_len: MAX_AUTH_KEY.into(),
            akcipher_algo: masks.akcipher.into(),
            max_size: if qemu { QEMU_MAX_SIZE } else { MAX_SIZE }.into(),
        }
    }

    /// A write of exactly one field; others are misuse and are left alone (4.1.3.1).
    fn write_common(&mut self, offset: u64, len: usize, value: u32) -> Effect {
        let half = value as u16;
        match (offset - COMMON, len) {
            (0, 4) => self.common.device_feature_select = value,
            (8, 4) => self.common.driver_feature_select = value,
            (12, 4) => self.write_features(value),
            (16, 2) => self.common.msix_config = self.vector(half),
            (20, 1) => return self.write_status(value as u8),
            (22, 2) if self.qemu() && half >= QEMU_QUEUES => {
                debug!(half, "queue_select beyond QEMU's ignored")
            }
            (22, 2) => self.common.queue_select = half,
            (24..=58, _) => self.write_queue(offset - COMMON, len, value),
            (at, len) => debug!(at, len, "write to a read-only or misaligned register ignored"),
        }
        Effect::None
    }

    fn write_features(&mut self, value: u32) {
        let (qemu, offered) = (self.qemu(), self.offered());
        let common = &mut self.common;
        if qemu && let Some(word) = common.written.get_mut(common.driver_feature_select as usize) {
            *word = value;
        }
        if common.status & wire::STATUS_FEATURES_OK != 0 {
            warn!("the driver changes features after FEATURES_OK: ignored");
            return;
        }
        if qemu {
            // What is not offered is dropped in silence.
            let [low, high] = common.written.map(u64::from);
            common.driver_features = (low | high << 32) & offered;
            return;
        }
        let value = u64::from(value);
        match common.driver_feature_select {
            0 => common.driver_features = common.driver_features & !0xffff_ffff | value,
            1 => common.driver_features = common.driver_features & 0xffff_ffff | value << 32,
            _ => common.beyond |= value != 0,
        }
    }

    /// What a vector register holds after `value` was written: that, or NO_VECTOR where there is no
    /// such vector (4.1.5.1.2).
    fn vector(&self, value: u16) -> u16 {
        if value < self.vectors { value } else { wire::NO_VECTOR }
    }

    /// Writes device status (2.1, 3.1).
    fn write_status(&mut self, value: u8) -> Effect {
        let before = self.common.status;
        if self.faults.any() && self.status_hangs(value) {
            return Effect::None;
        }
        if value == 0 {
            self.reset("the driver wrote 0 to device status");
            return Effect::None;
        }
        if self.qemu() {
            return self.write_status_as_qemu(value);
        }
        let mut status = value | before & wire::STATUS_NEEDS_RESET;
        if before & !value & !wire::STATUS_NEEDS_RESET != 0 {
            warn!(before, value, "the driver clears bits of device status without a reset");
        }
        if status & !before & wire::STATUS_FEATURES_OK != 0
            && let Err(why) = self.agree()
        {
            warn!(features = format_args!("{:#x}", self.common.driver_features), why, "FEATURES_OK refused");
            status &= !wire::STATUS_FEATURES_OK;
        }
        if status & wire::STATUS_FEATURES_OK == 0 && status & wire::STATUS_DRIVER_OK != 0 {
            warn!("DRIVER_OK without FEATURES_OK refused");
            status &= !wire::STATUS_DRIVER_OK;
        }
        debug!(before, status, "device status");
        self.common.status = status;
        if status & !before & wire::STATUS_DRIVER_OK != 0 && self.faults.any() {
            self.set_up();
        }
        Effect::None
    }

    /// QEMU takes any status, but one whose features it refuses; the error state is not shown any
    /// more, and stays. With DRIVER_OK it looks at all queues.
    fn write_status_as_qemu(&mut self, value: u8) -> Effect {
        let new = value & !self.common.status;
        if new & wire::STATUS_FEATURES_OK != 0
            && let Err(why) = self.agree()
        {
            warn!(features = format_args!("{:#x}", self.common.driver_features), why, "FEATURES_OK refused");
            return Effect::None;
        }
        debug!(before = self.common.status, value, "device status");
        self.common.status = value;
        if new & wire::STATUS_DRIVER_OK == 0 {
            return Effect::None;
        }
        if self.faults.any() {
            self.set_up();
        }
        Effect::Start
    }

    /// Whether the features that the driver accepted can be worked with.
    fn agree(&self) -> Result<(), &'static str> {
        let (offered, accepted) = (self.offered(), self.common.driver_features);
        let translated = offered & !accepted & wire::F_ACCESS_PLATFORM == 0;
        if self.qemu() && (translated || accepted & wire::F_VERSION_1 == 0) {
            Ok(())
        } else if self.common.beyond || accepted & !offered != 0 {
            Err("the driver accepts what is not offered")
        } else if accepted & wire::F_VERSION_1 == 0 {
            Err("the driver does not accept VERSION_1")
        } else if offered & !accepted & wire::F_ACCESS_PLATFORM != 0 {
            Err("the driver does not accept ACCESS_PLATFORM")
        } else {
            Ok(())
        }
    }

    /// Writes a register of the selected queue.
    fn write_queue(&mut self, at: u64, len: usize, value: u32) {
        let (number, half) = (self.common.queue_select, value as u16);
        let vector = self.vector(half);
        let agreed = self.common.status & wire::STATUS_FEATURES_OK != 0;
        let qemu = self.qemu();
        let reset = qemu || agreed && self.common.driver_features & wire::F_RING_RESET != 0;
        let max_size = self.config.queue_size;
        if qemu && (at, len) == (28, 2) && half != 1 {
            let (queue, what, value) = (number, "queue_enable", u64::from(value));
            return self.fault(DriverError::Setup { queue, what, value });
        }
        let Some(queue) = self.queues.get_mut(usize::from(number)) else {
            warn!(number, "write to a queue that is not there ignored");
            if qemu && (at, len) == (28, 2) {
                self.common.enabled.insert(number);
            }
            return;
        };
        let low = |field: u64| field & !0xffff_ffff | u64::from(value);
        let high = |field: u64| field & 0xffff_ffff | u64::from(value) << 32;
        match (at, len) {
            (26, 2) => queue.vector = vector,
            (58, 2) if half == 1 && reset => self.reset_queue(usize::from(number)),
            (58, 2) => warn!(number, half, "write to queue_reset ignored"),
            (28, 2) if half == 1 && !agreed && !qemu => {
                warn!(number, "queue enabled before FEATURES_OK: ignored")
            }
            (28, 2) if half == 1 => queue.enable(),
            (28, 2) => warn!(number, half, "write to queue_enable ignored"),
            (24 | 32..=52, _) if queue.enabled && !qemu => {
                warn!(number, at, "write to an enabled queue ignored")
            }
            (24, 2) if half == 0 || half > max_size => warn!(number, half, "queue size out of range ignored"),
            (24, 2) => queue.size = half,
            (32, 4) => queue.desc = low(queue.desc),
            (36, 4) => queue.desc = high(queue.desc),
            (40, 4) => queue.avail = low(queue.avail),
            (44, 4) => queue.avail = high(queue.avail),
            (48, 4) => queue.used = low(queue.used),
            (52, 4) => queue.used = high(queue.used),
            (at, len) => debug!(at, len, "write to a read-only or misaligned register ignored"),
        }
    }
}

// The doorbells of 65 queues fit behind their offset.
const _: () = assert!(NOTIFY + 65 * NOTIFY_MULTIPLIER <= pci::VIRTIO_BAR_SIZE);
