//! Config space and BAR layout. Ref: PCI 3.0, 6; VIRTIO 1.2, 4.1.4. Laid out as QEMU does.
//!
//! ```text
//!   BAR 1, 4 KiB, 32-bit               BAR 4, 16 KiB, 64-bit prefetchable
//!   0x000  MSI-X table                 0x0000  common configuration
//!   0x800  MSI-X pending bits          0x1000  ISR status
//!                                      0x2000  device configuration
//!                                      0x3000  doorbells, 4 bytes for each queue
//!   capabilities: 98 MSI-X -> 84 PCI access -> 70 notify -> 60 device -> 50 ISR -> 40 common
//! ```

use zerocopy::IntoBytes;

use crate::wire::{self, PciCapability};
use ringbell_drivers::pci::config;

/// Bytes of config space.
pub(crate) const CONFIG_SIZE: usize = 256;
/// The BAR of the MSI-X table.
pub(crate) const MSIX_BAR: u8 = 1;
/// Bytes of it.
pub(crate) const MSIX_BAR_SIZE: u64 = 4096;
/// Where its pending bits start.
const MSIX_PENDING: u32 = 0x800;
/// The BAR of the virtio structures.
pub(crate) const VIRTIO_BAR: u8 = 4;
/// Bytes of it.
pub(crate) const VIRTIO_BAR_SIZE: u64 = 16 << 10;
/// A BAR that is not there.
pub(crate) const NO_BAR: u8 = 2;
/// Common configuration.
pub(crate) const COMMON: u64 = 0;
/// ISR status.
pub(crate) const ISR: u64 = 0x1000;
/// Device configuration.
pub(crate) const DEVICE: u64 = 0x2000;
/// Doorbells.
pub(crate) const NOTIFY: u64 = 0x3000;
/// What QEMU announces as the length of each structure.
pub(crate) const QEMU_STRUCTURE: u64 = 0x1000;
/// Bytes from one doorbell to the next.
pub(crate) const NOTIFY_MULTIPLIER: u64 = 4;

pub(crate) const CAP_COMMON: u16 = 0x40;
const CAP_ISR: u16 = 0x50;
pub(crate) const CAP_DEVICE: u16 = 0x60;
pub(crate) const CAP_NOTIFY: u16 = 0x70;
/// Capability of access through config space; its data window follows it.
pub(crate) const CAP_PCI: u16 = 0x84;
/// The data window of that capability, 4 bytes.
pub(crate) const PCI_DATA: u16 = CAP_PCI + 16;
pub(crate) const CAP_MSIX: u16 = 0x98;

const COMMAND_INTX_DISABLE: u16 = 1 << 10;
const STATUS_INTERRUPT: u16 = 1 << 3;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;

/// QEMU's PCI_CLASS_OTHERS.
const CLASS: u16 = 0x00ff;
/// QEMU's subsystem id.
const SUBSYSTEM: u16 = 0x1100;

/// Config space: its bytes, and which bits of them can be written.
#[derive(Debug)]
pub(crate) struct ConfigSpace {
    bytes: [u8; CONFIG_SIZE],
    writable: [u8; CONFIG_SIZE],
}

impl ConfigSpace {
    pub(crate) fn new(queues: u16, vectors: u16, qemu: bool) -> Self {
        let mut space = Self { bytes: [0; CONFIG_SIZE], writable: [0; CONFIG_SIZE] };
        space.set16(config::VENDOR_ID, wire::PCI_VENDOR);
        space.set16(config::DEVICE_ID, wire::PCI_DEVICE);
        space.set16(config::STATUS, config::STATUS_CAPABILITIES);
        space.set8(config::REVISION_ID, 1);
        space.set16(0x0a, CLASS);
        space.set16(0x2c, wire::PCI_VENDOR);
        space.set16(0x2e, SUBSYSTEM);
        space.set8(config::CAPABILITIES, CAP_MSIX as u8);
        space.set8(0x3d, 1); // interrupt pin A

        space.allow(config::COMMAND, &command_mask().to_le_bytes());
        space.allow(0x0c, &[0xff]); // cache line size
        space.allow(0x3c, &[0xff]); // interrupt line
        let bar1 = !(MSIX_BAR_SIZE as u32 - 1);
        let bar4 = !(VIRTIO_BAR_SIZE - 1);
        space.allow(config::BAR0 + 4, &bar1.to_le_bytes());
        space.allow(config::BAR0 + 16, &bar4.to_le_bytes());
        // As firmware would have placed them. Bits: 64-bit, prefetchable.
        space.set(config::BAR0 + 4, &0xfebd_1000_u32.to_le_bytes());
        space.set(config::BAR0 + 16, &(0x38_0000_0000_u64 | 0xc).to_le_bytes());

        // QEMU announces the whole page of each.
        let len = |exact: u64| if qemu { QEMU_STRUCTURE } else { exact };
        let [common, device] =
            [size_of::<wire::CommonConfig>(), size_of::<wire::CryptoConfig>()].map(|size| len(size as u64));
        let notify = len(u64::from(queues) * NOTIFY_MULTIPLIER);
        space.capability(CAP_COMMON, 0, 16, wire::CAP_COMMON, COMMON, common);
        space.capability(CAP_ISR, CAP_COMMON, 16, wire::CAP_ISR, ISR, len(1));
        space.capability(CAP_DEVICE, CAP_ISR, 16, wire::CAP_DEVICE, DEVICE, device);
        space.capability(CAP_NOTIFY, CAP_DEVICE, 20, wire::CAP_NOTIFY, NOTIFY, notify);
        space.set(CAP_NOTIFY + 16, &(NOTIFY_MULTIPLIER as u32).to_le_bytes());
        space.capability(CAP_PCI, CAP_NOTIFY, 20, wire::CAP_PCI, 0, 0);
        space.set8(CAP_PCI + 4, 0);
        space.allow(CAP_PCI + 4, &[0xff]); // bar
        space.allow(CAP_PCI + 8, &[0xff; 8]); // offset, length

        space.set8(CAP_MSIX, config::CAP_MSIX);
        space.set8(CAP_MSIX + 1, CAP_PCI as u8);
        space.set16(CAP_MSIX + 2, vectors - 1);
        space.allow(CAP_MSIX + 2, &MSIX_MASK_ALL.to_le_bytes());
        space.set(CAP_MSIX + 4, &u32::from(MSIX_BAR).to_le_bytes());
        space.set(CAP_MSIX + 8, &(MSIX_PENDING | u32::from(MSIX_BAR)).to_le_bytes());
        space
    }

    fn capability(&mut self, at: u16, next: u16, len: u8, cfg_type: u8, offset: u64, length: u64) {
        let capability = PciCapability {
            vendor: config::CAP_VENDOR,
            next: next as u8,
            len,
            cfg_type,
            bar: VIRTIO_BAR,
            id: 0,
            padding: [0; 2],
            offset: (offset as u32).into(),
            length: (length as u32).into(),
        };
        self.set(at, capability.as_bytes());
    }

    fn set(&mut self, at: u16, data: &[u8]) {
        self.bytes[usize::from(at)..][..data.len()].copy_from_slice(data);
    }

    fn set8(&mut self, at: u16, value: u8) {
        self.set(at, &[value]);
    }

    fn set16(&mut self, at: u16, value: u16) {
        self.set(at, &value.to_le_bytes());
    }

    fn get16(&self, at: u16) -> u16 {
        let at = usize::from(at);
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn get32(&self, at: u16) -> u32 {
        u32::from(self.get16(at)) | u32::from(self.get16(at + 2)) << 16
    }

    fn allow(&mut self, at: u16, mask: &[u8]) {
        self.writable[usize::from(at)..][..mask.len()].copy_from_slice(mask);
    }

    /// Copies from config space. The range was checked.
    pub(crate) fn read(&self, offset: u16, data: &mut [u8]) {
        data.copy_from_slice(&self.bytes[usize::from(offset)..][..data.len()]);
    }

    /// Writes what can be written. The range was checked.
    pub(crate) fn write(&mut self, offset: u16, data: &[u8]) {
        let at = usize::from(offset);
        for ((byte, mask), new) in self.bytes[at..].iter_mut().zip(&self.writable[at..]).zip(data) {
            *byte = *byte & !mask | new & mask;
        }
    }

    /// Shows the state of the interrupts, which is kept elsewhere.
    pub(crate) fn show_interrupts(&mut self, msix: bool, asserted: bool) {
        let control = self.get16(CAP_MSIX + 2) & !MSIX_ENABLE;
        self.set16(CAP_MSIX + 2, control | if msix { MSIX_ENABLE } else { 0 });
        let status = self.get16(config::STATUS) & !STATUS_INTERRUPT;
        self.set16(config::STATUS, status | if asserted { STATUS_INTERRUPT } else { 0 });
    }

    pub(crate) fn command(&self) -> u16 {
        self.get16(config::COMMAND)
    }

    pub(crate) fn set_command(&mut self, value: u16) {
        self.set16(config::COMMAND, value & command_mask());
    }

    pub(crate) fn memory_enabled(&self) -> bool {
        self.command() & config::COMMAND_MEMORY != 0
    }

    pub(crate) fn bus_master(&self) -> bool {
        self.command() & config::COMMAND_BUS_MASTER != 0
    }

    pub(crate) fn intx_allowed(&self) -> bool {
        self.command() & COMMAND_INTX_DISABLE == 0
    }

    /// The access that the window stands for (4.1.4.9): BAR, offset, length; `None` where the
    /// driver has set up none that is allowed.
    pub(crate) fn window(&self) -> Option<(u8, u64, usize)> {
        let bar = self.bytes[usize::from(CAP_PCI) + 4];
        let (offset, length) = (self.get32(CAP_PCI + 8), self.get32(CAP_PCI + 12));
        let fits = matches!(length, 1 | 2 | 4) && offset % length == 0;
        fits.then_some((bar, u64::from(offset), length as usize))
    }
}

/// The bits of the command register that can be written: memory, bus master, INTx disable.
fn command_mask() -> u16 {
    config::COMMAND_MEMORY | config::COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE
}
