//! What Ringbell drives, and names for the rest.

use ringbell_drivers::sysfs::FunctionInfo;
use ringbell_drivers::virtio_crypto::wire::DEVICE_TYPE;

/// A device that Ringbell has a driver for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) vendor: u16,
    pub(super) device: u16,
    pub(super) name: &'static str,
}

/// All of them. A virtio device of type N has the PCI device id 0x1040 + N (VIRTIO 1.2, 4.1.2).
pub(super) const KNOWN: [Known; 1] =
    [Known { vendor: 0x1af4, device: 0x1040 + DEVICE_TYPE, name: "virtio-crypto" }];

/// The one that the function is.
pub(super) fn known(function: &FunctionInfo) -> Option<&'static Known> {
    KNOWN.iter().find(|known| (known.vendor, known.device) == (function.vendor, function.device))
}

/// Names and ids, for messages: virtio-crypto (1af4:1054).
pub(super) fn all() -> String {
    let one = |known: &Known| format!("{} ({:04x}:{:04x})", known.name, known.vendor, known.device);
    KNOWN.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// What it is: the name of a known device, else what its class code says (PCI Code and ID Assignment
/// Specification 1.11, 1).
pub(super) fn name(function: &FunctionInfo) -> &'static str {
    if let Some(known) = known(function) {
        return known.name;
    }
    match (function.class >> 16, function.class >> 8 & 0xff) {
        (0x01, 0x00) => "SCSI controller",
        (0x01, 0x01) => "IDE controller",
        (0x01, 0x04) => "RAID controller",
        (0x01, 0x06) => "SATA controller",
        (0x01, 0x07) => "SAS controller",
        (0x01, 0x08) => "NVMe controller",
        (0x01, _) => "storage controller",
        (0x02, 0x00) => "Ethernet controller",
        (0x02, _) => "network controller",
        (0x03, _) => "display controller",
        (0x04, 0x01 | 0x03) => "audio device",
        (0x04, _) => "multimedia device",
        (0x05, _) => "memory controller",
        (0x06, 0x00) => "host bridge",
        (0x06, 0x01) => "ISA bridge",
        (0x06, 0x04) => "PCI bridge",
        (0x06, _) => "bridge",
        (0x07, _) => "communication controller",
        (0x08, _) => "system peripheral",
        (0x09, _) => "input device",
        (0x0b, _) => "processor",
        (0x0c, 0x03) => "USB controller",
        (0x0c, 0x05) => "SMBus controller",
        (0x0c, _) => "serial bus controller",
        (0x0d, _) => "wireless controller",
        (0x10, _) => "encryption controller",
        (0x11, _) => "signal processing controller",
        (0x12, _) => "processing accelerator",
        _ => "device of another kind",
    }
}
