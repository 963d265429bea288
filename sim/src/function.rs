//! The simulator behind the seam: the trait [`PciFunction`].

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::{fmt, io};

use ringbell_drivers::dma::SharedMemory;
use ringbell_drivers::pci::{
    Bar, DmaMapping, DmaReach, Doorbell, Interrupts, PciFunction, Segment, config as header,
};
use ringbell_drivers::{Error, Result};

use crate::device::{Device, Effect};
use crate::pci::{
    self, CONFIG_SIZE, MSIX_BAR, MSIX_BAR_SIZE, NOTIFY, NOTIFY_MULTIPLIER, PCI_DATA, VIRTIO_BAR,
    VIRTIO_BAR_SIZE,
};
use crate::sim::{Bell, Core, Owner};

/// One view of the function. It keeps the device alive.
pub(crate) struct SimFunction {
    owner: Arc<Owner>,
}

impl fmt::Debug for SimFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimFunction").field(&self.address()).finish()
    }
}

impl SimFunction {
    pub(crate) fn new(owner: Arc<Owner>) -> Self {
        Self { owner }
    }

    fn core(&self) -> &Core {
        &self.owner.core
    }

    /// An error where the function is gone: it is not there to do what was asked for.
    fn there(&self, attempted: &str) -> Result<()> {
        if self.core().device().faults.removed {
            return Err(self.io_error(attempted, "the function was removed (fault=remove)"));
        }
        Ok(())
    }

    fn io_error(&self, attempted: &str, why: &'static str) -> Error {
        Error::io(format!("{attempted} {}", self.address()), io::Error::other(why))
    }

    /// Writes config space and lets the change take effect.
    fn store_config(&self, change: impl FnOnce(&mut Device) -> Effect) {
        let mut device = self.core().device();
        if device.faults.removed {
            return;
        }
        let masked = !device.space.intx_allowed();
        let effect = change(&mut device);
        device.command_written();
        self.core().set_memory_enabled(device.space.memory_enabled());
        if masked && device.space.intx_allowed() {
            device.interrupts.fire_intx(true);
        }
        drop(device);
        self.core().apply(effect);
        // Bus mastering may be on again, and kicks be waiting for it.
        self.core().apply(Effect::Wake);
    }
}

fn check_config(offset: u16, len: usize) -> Result<()> {
    if usize::from(offset) + len <= CONFIG_SIZE {
        return Ok(());
    }
    Err(Error::OutOfRange {
        what: "config space".to_owned(),
        offset: u64::from(offset),
        len: len as u64,
        size: CONFIG_SIZE as u64,
    })
}

fn bar_size(bar: u8) -> u64 {
    match bar {
        MSIX_BAR => MSIX_BAR_SIZE,
        VIRTIO_BAR => VIRTIO_BAR_SIZE,
        _ => 0,
    }
}

/// Checks an access: inside, of 1, 2, 4 or 8 bytes, aligned.
fn check_bar(bar: u8, offset: u64, len: usize) -> Result<()> {
    let size = bar_size(bar);
    let fits = offset.checked_add(len as u64).is_some_and(|end| end <= size);
    if fits && matches!(len, 1 | 2 | 4 | 8) && offset.is_multiple_of(len as u64) {
        return Ok(());
    }
    Err(Error::OutOfRange { what: format!("BAR {bar}"), offset, len: len as u64, size })
}

fn load(device: &mut Device, bar: u8, offset: u64, data: &mut [u8]) {
    if !device.space.memory_enabled() {
        data.fill(0xff);
    } else if bar == VIRTIO_BAR {
        device.read_registers(offset, data);
    } else {
        data.copy_from_slice(&device.msix_table[offset as usize..][..data.len()]);
    }
}

fn store(device: &mut Device, bar: u8, offset: u64, data: &[u8]) -> Effect {
    if !device.space.memory_enabled() {
        Effect::None
    } else if bar == VIRTIO_BAR {
        device.write_registers(offset, data)
    } else {
        // Kept, so that it reads back: the eventfds are the routes. Pending bits are read-only.
        let table = 16 * u64::from(device.vectors);
        if offset < table {
            device.msix_table[offset as usize..][..data.len()].copy_from_slice(data);
        }
        Effect::None
    }
}

/// How an access to config space meets the data window of the PCI access capability.
fn touches_window(offset: u16, len: usize) -> bool {
    usize::from(offset) < usize::from(PCI_DATA) + 4 && usize::from(offset) + len > usize::from(PCI_DATA)
}

impl PciFunction for SimFunction {
    fn address(&self) -> &str {
        &self.core().address
    }

    fn read_config(&self, offset: u16, data: &mut [u8]) -> Result<()> {
        check_config(offset, data.len())?;
        let mut device = self.core().device();
        if device.faults.removed {
            data.fill(0xff);
            return Ok(());
        }
        let (msix, asserted) = (device.interrupts.msix_enabled(), device.interrupts.asserted());
        device.space.show_interrupts(msix, asserted);
        device.space.read(offset, data);
        if device.faults.any() {
            device.faults.lie_in_config(offset, data);
        }
        if touches_window(offset, data.len())
            && let Some((bar, at, len)) = device.space.window()
            && check_bar(bar, at, len).is_ok()
        {
            let mut value = [0; 4];
            load(&mut device, bar, at, &mut value[..len]);
            for (place, byte) in data.iter_mut().enumerate() {
                let window = (usize::from(offset) + place).wrapping_sub(usize::from(PCI_DATA));
                if let Some(new) = value.get(window) {
                    *byte = *new;
                }
            }
        }
        Ok(())
    }

    fn write_config(&self, offset: u16, data: &[u8]) -> Result<()> {
        check_config(offset, data.len())?;
        self.store_config(|device| {
            device.space.write(offset, data);
            if touches_window(offset, data.len())
                && let Some((bar, at, len)) = device.space.window()
                && check_bar(bar, at, len).is_ok()
                && let Some(start) = usize::from(PCI_DATA).checked_sub(usize::from(offset))
                && let Some(value) = data.get(start..start + len)
            {
                return store(device, bar, at, value);
            }
            Effect::None
        });
        Ok(())
    }

    fn bar(&self, index: u8) -> Option<Bar> {
        let size = bar_size(index);
        // Registers have effects: there is no memory behind them that could be mapped.
        (size != 0).then_some(Bar { size, mappable: false })
    }

    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) -> Result<()> {
        check_bar(bar, offset, data.len())?;
        load(&mut self.core().device(), bar, offset, data);
        Ok(())
    }

    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) -> Result<()> {
        check_bar(bar, offset, data.len())?;
        let effect = store(&mut self.core().device(), bar, offset, data);
        self.core().apply(effect);
        Ok(())
    }

    fn doorbell(&self, bar: u8, offset: u64) -> Result<Doorbell> {
        let size = bar_size(bar);
        let wrong = || Error::OutOfRange { what: format!("doorbells in BAR {bar}"), offset, len: 2, size };
        let queue = match offset.checked_sub(NOTIFY) {
            Some(at) if bar == VIRTIO_BAR && at % NOTIFY_MULTIPLIER == 0 => at / NOTIFY_MULTIPLIER,
            _ => return Err(wrong()),
        };
        let count = self.core().device().queues.len();
        let queue =
            u16::try_from(queue).ok().filter(|queue| usize::from(*queue) < count).ok_or_else(wrong)?;
        Ok(Doorbell::Call(Arc::new(Bell::new(Arc::clone(&self.owner.core), queue))))
    }

    fn dma_reach(&self) -> DmaReach {
        DmaReach::Software
    }

    fn map_dma(&self, memory: BorrowedFd<'_>, offset: u64, len: u64) -> Result<DmaMapping> {
        let memory = SharedMemory::map(memory, offset, len)?;
        let iova = self.core().device().dma.insert(memory).ok_or_else(|| {
            Error::Invalid(format!("cannot map {len} bytes for the device: its addresses are used up"))
        })?;
        Ok(DmaMapping { segments: vec![Segment { offset: 0, len, iova }] })
    }

    fn unmap_dma(&self, mapping: &DmaMapping) -> Result<()> {
        let mut device = self.core().device();
        device.forget_rings();
        for segment in &mapping.segments {
            if !device.dma.remove(segment.iova, segment.len) {
                let (iova, len) = (segment.iova, segment.len);
                return Err(Error::Invalid(format!(
                    "cannot unmap {len} bytes at {iova:#x}: they are not mapped"
                )));
            }
        }
        Ok(())
    }

    fn interrupts(&self) -> Interrupts {
        Interrupts { msix: self.core().device().vectors, intx: true }
    }

    fn set_msix(&self, vectors: &[Option<BorrowedFd<'_>>]) -> Result<()> {
        let mut device = self.core().device();
        let there = device.vectors;
        if vectors.len() > usize::from(there) {
            return Err(Error::NotOffered {
                asked: format!("{} MSI-X vectors", vectors.len()),
                offered: there.to_string(),
            });
        }
        let routes = vectors
            .iter()
            .map(|fd| fd.map(|fd| fd.try_clone_to_owned()).transpose())
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(|error| Error::io("duplicate an eventfd for an MSI-X vector", error))?;
        device.interrupts.set_msix(routes);
        Ok(())
    }

    fn set_intx(&self, event: Option<BorrowedFd<'_>>) -> Result<()> {
        let event = event
            .map(|fd| fd.try_clone_to_owned())
            .transpose()
            .map_err(|error| Error::io("duplicate an eventfd for the legacy interrupt", error))?;
        let mut device = self.core().device();
        device.interrupts.set_intx(event);
        let allowed = device.space.intx_allowed();
        device.interrupts.fire_intx(allowed);
        Ok(())
    }

    fn unmask_intx(&self) -> Result<()> {
        let mut device = self.core().device();
        let allowed = device.space.intx_allowed();
        device.interrupts.unmask_intx(allowed);
        Ok(())
    }

    fn set_bus_master(&self, on: bool) -> Result<()> {
        self.there(if on { "turn on bus mastering of" } else { "turn off bus mastering of" })?;
        self.store_config(|device| {
            let command = device.space.command() & !header::COMMAND_BUS_MASTER;
            device.space.set_command(command | if on { header::COMMAND_BUS_MASTER } else { 0 });
            Effect::None
        });
        Ok(())
    }

    fn reset(&self) -> Result<()> {
        self.there("reset")?;
        if self.core().device().faults.function_reset_fails() {
            return Err(self.io_error("reset", "it does not answer (fault=reset-fails)"));
        }
        self.store_config(|device| {
            device.reset_function();
            Effect::None
        });
        Ok(())
    }

    fn going_away(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

// Every access that `check_bar` lets through is inside the table's backing store.
const _: () = assert!(MSIX_BAR_SIZE.is_multiple_of(8) && pci::VIRTIO_BAR_SIZE.is_power_of_two());
