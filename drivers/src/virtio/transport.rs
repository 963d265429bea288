use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{common, feature, status};
use crate::error::{Error, Result};
use crate::pci::{Capabilities, DmaReach, Doorbell, PciFunction, config};
use crate::virtqueue::RingAddresses;

/// MSI-X vector number that means "none" (4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;

/// Vendor of all virtio devices.
const VIRTIO_VENDOR: u16 = 0x1af4;
/// Device id of virtio device type 0, version 1 and later (4.1.2).
const VIRTIO_DEVICE_BASE: u16 = 0x1040;

/// `cfg_type` of the capabilities (4.1.4).
mod cfg_type {
    pub(super) const COMMON: u8 = 1;
    pub(super) const NOTIFY: u8 = 2;
    pub(super) const ISR: u8 = 3;
    pub(super) const DEVICE: u8 = 4;
}

/// A structure of the device: a piece of a BAR (4.1.4).
#[derive(Clone, Copy, Debug)]
struct Structure {
    bar: u8,
    offset: u64,
    len: u64,
}

/// The transport of one virtio PCI function.
///
/// Its methods may be called from any thread. Those that go through a select register take a lock.
#[derive(Debug)]
pub struct Transport {
    function: Arc<dyn PciFunction>,
    common: Structure,
    notify: Structure,
    notify_multiplier: u64,
    isr: Structure,
    device: Option<Structure>,
    /// Serialises accesses that go through a select register.
    select: Mutex<()>,
}

/// What a function that is not there answers.
const ALL_ONES: u8 = 0xff;
const GONE: Error = Error::Gone("its registers read as all ones");
const RESETTING: &str = "finish its reset";

/// The BARs answer only with memory decoding on (PCI 3.0, 6.2.2). There is no DMA before a driver has
/// allowed it, whatever the register says.
fn enable_memory(function: &dyn PciFunction) -> Result<()> {
    let mut command = [0; 2];
    function.read_config(config::COMMAND, &mut command)?;
    let on = u16::from_le_bytes(command) & !config::COMMAND_BUS_MASTER | config::COMMAND_MEMORY;
    function.write_config(config::COMMAND, &on.to_le_bytes())
}

/// How a queue is told to the device.
#[derive(Clone, Copy, Debug)]
pub struct QueueSetup {
    /// Number of the queue.
    pub index: u16,
    /// Its size, at most what the device said.
    pub size: u16,
    /// Where the rings are.
    pub addresses: RingAddresses,
    /// Its MSI-X vector, or [`NO_VECTOR`].
    pub vector: u16,
}

impl Transport {
    /// Finds the structures of the device (4.1.4), which must be of virtio type `device_type`.
    ///
    /// # Errors
    /// Another device, a missing structure, or one that leaves its BAR.
    pub fn new(function: Arc<dyn PciFunction>, device_type: u16) -> Result<Self> {
        let bad = |why: String| Error::NotUsable { device: function.address().to_owned(), why };
        let mut ids = [0; 4];
        function.read_config(config::VENDOR_ID, &mut ids)?;
        let (vendor, id) = (u16::from_le_bytes([ids[0], ids[1]]), u16::from_le_bytes([ids[2], ids[3]]));
        if vendor == 0xffff {
            return Err(bad("config space reads as all ones, the function is gone".to_owned()));
        }
        let wanted = VIRTIO_DEVICE_BASE + device_type;
        if (vendor, id) != (VIRTIO_VENDOR, wanted) {
            return Err(bad(format!(
                "it is {vendor:04x}:{id:04x}, this driver is for {VIRTIO_VENDOR:04x}:{wanted:04x}"
            )));
        }
        enable_memory(&*function)?;
        let mut found: [Option<(Structure, u16)>; 5] = [None; 5];
        for capability in Capabilities::read(&*function)?.iter() {
            if capability.id != config::CAP_VENDOR {
                continue;
            }
            let mut bytes = [0; 16];
            function.read_config(capability.offset, &mut bytes)?;
            let (len, kind, bar) = (bytes[2], usize::from(bytes[3]), bytes[4]);
            let word =
                |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            let structure = Structure { bar, offset: word(8).into(), len: word(12).into() };
            // Reserved BAR numbers and unknown types must be ignored, and the first of each type is
            // the one that the device prefers (4.1.4.1).
            if len < 16 || bar > 5 || !(1..=4).contains(&kind) || found[kind].is_some() {
                continue;
            }
            let size = function.bar(bar).map_or(0, |bar| bar.size);
            if structure.offset.checked_add(structure.len).is_none_or(|end| end > size) {
                return Err(bad(format!(
                    "its structure {kind} ({:#x} bytes at {:#x}) does not fit into BAR {bar} ({size:#x} bytes)",
                    structure.len, structure.offset
                )));
            }
            found[kind] = Some((structure, capability.offset));
        }
        let need = |kind: u8, name: &str, least: u64| {
            let (structure, at) = found[usize::from(kind)].ok_or_else(|| {
                bad(format!("it has no {name} structure; a legacy-only device cannot be driven"))
            })?;
            if structure.len < least {
                return Err(bad(format!(
                    "its {name} structure is {} bytes long, {least} are needed",
                    structure.len
                )));
            }
            Ok((structure, at))
        };
        let (common, _) = need(cfg_type::COMMON, "common configuration", common::SIZE)?;
        let (notify, notify_at) = need(cfg_type::NOTIFY, "notification", 2)?;
        let (isr, _) = need(cfg_type::ISR, "ISR", 1)?;
        let mut multiplier = [0; 4];
        function.read_config(notify_at + 16, &mut multiplier)?;
        let device = found[usize::from(cfg_type::DEVICE)].map(|(structure, _)| structure);
        Ok(Self {
            common,
            notify,
            notify_multiplier: u32::from_le_bytes(multiplier).into(),
            isr,
            device,
            select: Mutex::new(()),
            function,
        })
    }

    /// The function below.
    pub fn function(&self) -> &Arc<dyn PciFunction> {
        &self.function
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.select.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<const N: usize>(&self, at: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.function.read_bar(self.common.bar, self.common.offset + at, &mut bytes)?;
        Ok(bytes)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.function.write_bar(self.common.bar, self.common.offset + at, bytes)
    }

    fn read16(&self, at: u64) -> Result<u16> {
        self.read(at).map(u16::from_le_bytes)
    }

    /// The device status (2.1).
    ///
    /// # Errors
    /// The function's.
    pub fn status(&self) -> Result<u8> {
        self.read::<1>(common::DEVICE_STATUS).map(|[status]| status)
    }

    fn set_status(&self, value: u8) -> Result<()> {
        self.write(common::DEVICE_STATUS, &[value])
    }

    /// Resets the device and waits until it says so (4.1.4.3.2). Afterwards it does no DMA.
    ///
    /// # Errors
    /// [`Error::Timeout`] after `limit`, or the function's.
    pub fn reset(&self, limit: Duration) -> Result<()> {
        self.begin_reset()?;
        wait_until(limit, RESETTING, || self.is_reset())
    }

    /// Tells the device to reset. Never waits: see [`is_reset`](Self::is_reset).
    ///
    /// # Errors
    /// The function's.
    pub fn begin_reset(&self) -> Result<()> {
        self.set_status(0)
    }

    /// Whether the reset that was begun is done.
    ///
    /// # Errors
    /// [`Error::Gone`], or the function's.
    pub fn is_reset(&self) -> Result<bool> {
        match self.status()? {
            0 => Ok(true),
            ALL_ONES => Err(GONE),
            _ => Ok(false),
        }
    }

    /// Resets the whole function, which ends what [`reset`](Self::reset) does not; afterwards its
    /// registers answer again. It takes as long as the kernel does: some 100 ms.
    ///
    /// # Errors
    /// The function has no reset, or is not reset after it.
    pub fn reset_function(&self) -> Result<()> {
        self.function.reset()?;
        enable_memory(&*self.function)?;
        if self.is_reset()? { Ok(()) } else { Err(Error::Timeout { what: RESETTING, limit: Duration::ZERO }) }
    }

    /// Whether the device is as its driver has set it up (2.1).
    ///
    /// # Errors
    /// [`Error::Gone`], or what is wrong with it.
    pub fn check_status(&self) -> Result<()> {
        let status = self.status()?;
        if status == ALL_ONES {
            Err(GONE)
        } else if status & status::NEEDS_RESET != 0 {
            Err(Error::Faulty("in its error state (DEVICE_NEEDS_RESET)"))
        } else if status & status::DRIVER_OK == 0 {
            Err(Error::Faulty("without a driver: somebody else has reset it"))
        } else {
            Ok(())
        }
    }

    /// Steps 2 to 6 of the initialisation (3.1.1): ACKNOWLEDGE, DRIVER, features, FEATURES_OK. Step 1
    /// is a [`reset`](Self::reset). `wanted` are the bits to accept where they are offered; those the transport
    /// itself needs are added. Returns what was negotiated.
    ///
    /// # Errors
    /// The device has no VERSION_1, has no ACCESS_PLATFORM behind an IOMMU, or refuses the features.
    pub fn negotiate(&self, wanted: u64) -> Result<u64> {
        let bad =
            |why: &str| Error::NotUsable { device: self.function.address().to_owned(), why: why.to_owned() };
        self.set_status(status::ACKNOWLEDGE)?;
        self.set_status(status::ACKNOWLEDGE | status::DRIVER)?;
        let offered = self.device_features()?;
        if offered & feature::mask(feature::VERSION_1) == 0 {
            return Err(bad("it does not offer VERSION_1; a legacy device cannot be driven"));
        }
        let translated = offered & feature::mask(feature::ACCESS_PLATFORM) != 0;
        if self.function.dma_reach() == DmaReach::Translated && !translated {
            return Err(Error::NoAccessPlatform { device: self.function.address().to_owned() });
        }
        let needed = [feature::VERSION_1, feature::ACCESS_PLATFORM, feature::ORDER_PLATFORM];
        let accepted = offered & needed.iter().fold(wanted, |bits, bit| bits | feature::mask(*bit));
        {
            let _select = self.lock();
            for half in 0..2_u32 {
                self.write(common::DRIVER_FEATURE_SELECT, &half.to_le_bytes())?;
                self.write(common::DRIVER_FEATURE, &((accepted >> (32 * half)) as u32).to_le_bytes())?;
            }
        }
        let ready = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        self.set_status(ready)?;
        if self.status()? & status::FEATURES_OK == 0 {
            self.set_status(status::FAILED)?;
            return Err(bad(&format!(
                "it refuses the features {accepted:#x} out of the {offered:#x} it offers"
            )));
        }
        tracing::debug!(device = self.function.address(), offered, accepted, "virtio features negotiated");
        Ok(accepted)
    }

    fn device_features(&self) -> Result<u64> {
        let _select = self.lock();
        let mut bits = 0;
        for half in 0..2_u32 {
            self.write(common::DEVICE_FEATURE_SELECT, &half.to_le_bytes())?;
            bits |= u64::from(self.read(common::DEVICE_FEATURE).map(u32::from_le_bytes)?) << (32 * half);
        }
        Ok(bits)
    }

    /// Number of queues that the device has.
    ///
    /// # Errors
    /// The function's.
    pub fn queues(&self) -> Result<u16> {
        self.read16(common::NUM_QUEUES)
    }

    /// The largest size of queue `index`.
    ///
    /// # Errors
    /// There is no such queue, or the size is no power of two (2.7).
    pub fn queue_size(&self, index: u16) -> Result<u16> {
        let _select = self.lock();
        self.write(common::QUEUE_SELECT, &index.to_le_bytes())?;
        let size = self.read16(common::QUEUE_SIZE)?;
        let why = match size {
            0 => format!("it has no queue {index}"),
            size if !size.is_power_of_two() || size > 1 << 15 => {
                format!("queue {index} has size {size}, which is no power of two up to 32768")
            }
            size => return Ok(size),
        };
        Err(Error::NotUsable { device: self.function.address().to_owned(), why })
    }

    /// Tells the device of a queue and enables it (4.1.5.1.3), and finds its doorbell.
    ///
    /// # Errors
    /// The device takes no vector, its notification register lies outside of its structure, or the
    /// function's errors.
    pub fn set_queue(&self, setup: &QueueSetup) -> Result<Doorbell> {
        let bad = |why: String| Error::NotUsable { device: self.function.address().to_owned(), why };
        let _select = self.lock();
        self.write(common::QUEUE_SELECT, &setup.index.to_le_bytes())?;
        self.write(common::QUEUE_SIZE, &setup.size.to_le_bytes())?;
        let places = [
            (common::QUEUE_DESC, setup.addresses.descriptors),
            (common::QUEUE_DRIVER, setup.addresses.available),
            (common::QUEUE_DEVICE, setup.addresses.used),
        ];
        for (at, address) in places {
            // 64-bit fields are written as two halves (4.1.3.1).
            self.write(at, &(address as u32).to_le_bytes())?;
            self.write(at + 4, &((address >> 32) as u32).to_le_bytes())?;
        }
        self.write(common::QUEUE_MSIX_VECTOR, &setup.vector.to_le_bytes())?;
        if self.read16(common::QUEUE_MSIX_VECTOR)? != setup.vector {
            return Err(bad(format!("queue {} takes no MSI-X vector {}", setup.index, setup.vector)));
        }
        let place = u64::from(self.read16(common::QUEUE_NOTIFY_OFF)?) * self.notify_multiplier;
        if place + 2 > self.notify.len {
            return Err(bad(format!("the doorbell of queue {} lies outside of its structure", setup.index)));
        }
        let doorbell = self.function.doorbell(self.notify.bar, self.notify.offset + place)?;
        self.write(common::QUEUE_ENABLE, &1_u16.to_le_bytes())?;
        Ok(doorbell)
    }

    /// Routes configuration changes to an MSI-X vector (4.1.5.1.2).
    ///
    /// # Errors
    /// The device does not take it.
    pub fn set_config_vector(&self, vector: u16) -> Result<()> {
        self.write(common::CONFIG_MSIX_VECTOR, &vector.to_le_bytes())?;
        if self.read16(common::CONFIG_MSIX_VECTOR)? == vector {
            return Ok(());
        }
        Err(Error::NotUsable {
            device: self.function.address().to_owned(),
            why: format!("it takes no MSI-X vector {vector} for configuration changes"),
        })
    }

    /// Step 8 of the initialisation: the device is live (3.1.1).
    ///
    /// # Errors
    /// The function's.
    pub fn set_driver_ok(&self) -> Result<()> {
        self.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK)
    }

    /// Reads and so clears the ISR status (4.1.4.5): for the legacy interrupt.
    ///
    /// # Errors
    /// The function's.
    pub fn read_isr(&self) -> Result<u8> {
        let mut isr = [0];
        self.function.read_bar(self.isr.bar, self.isr.offset, &mut isr)?;
        Ok(isr[0])
    }

    /// Reads the first 32-bit field of the device's own configuration, which is of one piece.
    ///
    /// # Errors
    /// The function's.
    pub fn read_first_config_word(&self) -> Result<Option<u32>> {
        let Some(device) = self.device.filter(|device| device.len >= 4) else { return Ok(None) };
        let mut word = [0; 4];
        self.function.read_bar(device.bar, device.offset, &mut word)?;
        Ok(Some(u32::from_le_bytes(word)))
    }

    /// Reads the device's own configuration, all of it as of one moment (2.5.1): up to `out.len()`
    /// bytes, whatever there is; the rest is left as it was. Returns how many were read.
    ///
    /// # Errors
    /// The configuration changes faster than it can be read within `limit`.
    pub fn read_device_config(&self, out: &mut [u8], limit: Duration) -> Result<usize> {
        let Some(device) = self.device else { return Ok(0) };
        let count = usize::try_from(device.len).unwrap_or(usize::MAX).min(out.len()) & !3;
        wait_until(limit, "hold its configuration still", || {
            let before = self.read::<1>(common::CONFIG_GENERATION)?;
            for (index, word) in out[..count].chunks_exact_mut(4).enumerate() {
                self.function.read_bar(device.bar, device.offset + 4 * index as u64, word)?;
            }
            Ok(self.read::<1>(common::CONFIG_GENERATION)? == before)
        })?;
        Ok(count)
    }
}

/// Asks `done` until it is true: at once, then again and again with pauses.
fn wait_until(limit: Duration, what: &'static str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    for attempt in 0_u32.. {
        if done()? {
            return Ok(());
        }
        if start.elapsed() >= limit {
            break;
        }
        if attempt > 16 {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    Err(Error::Timeout { what, limit })
}
