use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::eventfd::EventFd;
use vfio_ioctls::VfioContainer;

use super::kernel::{self, Irq};
use super::memory::DmaSpace;
use super::open::{self, Opened};
use super::regions::Regions;
use crate::address::Bdf;
use crate::dma::ForkPage;
use crate::error::{Error, Result};
use crate::pci::{Bar, DmaMapping, DmaReach, Doorbell, Interrupts, PciFunction, Ring, config};
use crate::sysfs::Sysfs;
use crate::wait;

/// A PCI function that is bound to `vfio-pci`, behind an IOMMU.
///
/// One process has it at a time. Dropping it gives it back: the kernel forbids it DMA, resets it
/// where it can be reset, and takes its mappings away. In a forked child every method answers
/// [`Error::Forked`], and dropping closes the child's fds and touches nothing; a child that keeps its
/// handle keeps the function open.
pub struct VfioFunction {
    address: String,
    fork: Arc<ForkPage>,
    regions: Regions,
    interrupts: Interrupts,
    /// Serialises what changes the function: interrupts, command register, reset. Holds the kind of
    /// interrupts that is on.
    change: Mutex<Option<Irq>>,
    /// The kernel asks for the function back.
    going_away: Option<Arc<EventFd>>,
    // In the order in which they go: the pages after the container, and with it their mappings.
    file: Arc<File>,
    container: Arc<VfioContainer>,
    space: DmaSpace,
}

impl VfioFunction {
    /// Opens the function at `bdf`, which must be bound to `vfio-pci`.
    ///
    /// # Errors
    /// Each obstacle has its own error, with its remedy: [`Error::NoSuchFunction`],
    /// [`Error::NotBound`], [`Error::NoIommu`], [`Error::GroupNotViable`], [`Error::GroupTaken`],
    /// [`Error::NoPermission`].
    pub fn open(bdf: Bdf) -> Result<Arc<Self>> {
        let address = bdf.to_string();
        let fork = ForkPage::new()?;
        let Opened { file, description, container, info } = open::open(&Sysfs::default(), bdf)?;
        let regions = Regions::new(&description, &file, &info)?;
        let space = kernel::address_space(&*container)
            .map_err(|e| Error::io(format!("ask which bus addresses the IOMMU has for {address}"), e))?;
        let count = |irq: Irq| description.get_irq_info(irq as u32).map_or(0, |irq| irq.count);
        let interrupts = Interrupts {
            msix: u16::try_from(count(Irq::Msix)).unwrap_or(u16::MAX),
            intx: count(Irq::Intx) > 0,
        };
        let going_away = if count(Irq::Request) > 0 {
            let event = wait::event()?;
            kernel::route(&file, Irq::Request, &[Some(event.as_fd())])
                .map_err(|e| Error::io(format!("ask to be told when {address} is going away"), e))?;
            Some(event)
        } else {
            None
        };
        tracing::info!(
            device = address,
            group = info.group,
            ?interrupts,
            ranges = ?space.ranges,
            page_sizes = space.page_sizes,
            "function opened through VFIO"
        );
        Ok(Arc::new(Self {
            space: DmaSpace::new(&space, &fork),
            address,
            fork,
            regions,
            interrupts,
            change: Mutex::new(None),
            going_away,
            file: Arc::new(file),
            container,
        }))
    }

    fn file(&self) -> Result<&Arc<File>> {
        if self.fork.is_child() { Err(Error::Forked) } else { Ok(&self.file) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Irq>> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the routes of one kind. The kernel has one kind on at a time, and their number cannot
    /// grow meanwhile.
    fn route(&self, file: &File, irq: Irq, events: &[Option<BorrowedFd<'_>>]) -> nix::Result<()> {
        let mut on = self.lock();
        if let Some(kind) = *on {
            kernel::turn_off(file, kind)?;
            *on = None;
        }
        if !events.is_empty() {
            kernel::route(file, irq, events)?;
            *on = Some(irq);
        }
        tracing::debug!(device = self.address, ?irq, events = events.len(), "interrupts routed");
        Ok(())
    }

    /// Turns bus mastering on or off, and sees that it is so. The caller has the lock.
    fn master(&self, on: bool) -> Result<()> {
        let read = || {
            let mut command = [0; 2];
            self.read_config(config::COMMAND, &mut command).map(|()| u16::from_le_bytes(command))
        };
        let bit = config::COMMAND_BUS_MASTER;
        let before = read()?;
        let value = if on { before | bit } else { before & !bit };
        self.write_config(config::COMMAND, &value.to_le_bytes())?;
        // A read comes back only when the write has arrived (PCI 3.0, 3.2.5).
        let taken = (read()? & bit != 0) == on;
        match (self.is_gone()?, on) {
            // What is gone does no DMA.
            (true, false) => Ok(()),
            (true, true) => Err(Error::Gone("its config space reads as all ones")),
            (false, _) if taken => Ok(()),
            (false, _) => Err(Error::NotUsable {
                device: self.address.clone(),
                why: format!(
                    "its command register does not take bus mastering {}",
                    if on { "on" } else { "off" }
                ),
            }),
        }
    }

    /// Whether the function is there no more. The kernel answers for ids and parts of the command
    /// register itself; revision and class come from the function.
    fn is_gone(&self) -> Result<bool> {
        let mut word = [0; 4];
        self.read_config(config::REVISION_ID, &mut word)?;
        Ok(word == [0xff; 4])
    }
}

impl fmt::Debug for VfioFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioFunction").field("address", &self.address).finish_non_exhaustive()
    }
}

impl PciFunction for VfioFunction {
    fn address(&self) -> &str {
        &self.address
    }

    fn read_config(&self, offset: u16, data: &mut [u8]) -> Result<()> {
        self.regions.read_config(self.file()?, offset, data)
    }

    fn write_config(&self, offset: u16, data: &[u8]) -> Result<()> {
        self.regions.write_config(self.file()?, offset, data)
    }

    fn bar(&self, index: u8) -> Option<Bar> {
        self.regions.bar(index)
    }

    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) -> Result<()> {
        self.regions.read_bar(self.file()?, bar, offset, data)
    }

    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) -> Result<()> {
        self.regions.write_bar(self.file()?, bar, offset, data)
    }

    fn doorbell(&self, bar: u8, offset: u64) -> Result<Doorbell> {
        let file = self.file()?;
        if let Some((map, within)) = self.regions.page(file, &self.fork, bar, offset)?
            && let Some(register) = map.register16(within)
        {
            return Ok(Doorbell::Mapped(register));
        }
        tracing::info!(
            device = self.address,
            bar,
            offset,
            "the doorbell cannot be mapped, each ring is a system call"
        );
        let call = self.regions.call(file, &self.fork, bar, offset)?;
        Ok(Doorbell::Call(Arc::new(call) as Arc<dyn Ring>))
    }

    fn dma_reach(&self) -> DmaReach {
        DmaReach::Translated
    }

    fn map_dma(&self, memory: BorrowedFd<'_>, offset: u64, len: u64) -> Result<DmaMapping> {
        self.file()?;
        self.space.map(&self.container, &self.address, memory, offset, len)
    }

    fn unmap_dma(&self, mapping: &DmaMapping) -> Result<()> {
        self.file()?;
        self.space.unmap(&self.container, &self.address, mapping)
    }

    fn interrupts(&self) -> Interrupts {
        self.interrupts
    }

    fn set_msix(&self, vectors: &[Option<BorrowedFd<'_>>]) -> Result<()> {
        let file = self.file()?;
        if vectors.len() > usize::from(self.interrupts.msix) {
            return Err(Error::Invalid(format!(
                "cannot route {} MSI-X vectors of {}: it has {}",
                vectors.len(),
                self.address,
                self.interrupts.msix
            )));
        }
        self.route(file, Irq::Msix, vectors)
            .map_err(|e| Error::io(format!("route the MSI-X vectors of {}", self.address), e))
    }

    fn set_intx(&self, event: Option<BorrowedFd<'_>>) -> Result<()> {
        let file = self.file()?;
        if !self.interrupts.intx {
            return Err(Error::Invalid(format!(
                "cannot route the legacy interrupt of {}: it has none",
                self.address
            )));
        }
        let events: &[_] = if event.is_some() { &[event] } else { &[] };
        self.route(file, Irq::Intx, events)
            .map_err(|e| Error::io(format!("route the legacy interrupt of {}", self.address), e))
    }

    fn unmask_intx(&self) -> Result<()> {
        let file = self.file()?;
        kernel::unmask(file, Irq::Intx)
            .map_err(|e| Error::io(format!("unmask the legacy interrupt of {}", self.address), e))
    }

    fn set_bus_master(&self, on: bool) -> Result<()> {
        self.file()?;
        let _change = self.lock();
        tracing::debug!(device = self.address, on, "bus mastering");
        self.master(on)
    }

    fn reset(&self) -> Result<()> {
        let file = self.file()?;
        let _change = self.lock();
        // The kernel restores config space afterwards as it was: bus mastering has to be off before.
        self.master(false)?;
        kernel::reset(file).map_err(|e| match e {
            Errno::EINVAL | Errno::ENOTTY => Error::NotUsable {
                device: self.address.clone(),
                why: "the kernel knows no way to reset it alone (no FLR, and it shares its bus)".to_owned(),
            },
            other => Error::io(format!("reset {}", self.address), other),
        })?;
        tracing::info!(device = self.address, "function reset");
        Ok(())
    }

    fn going_away(&self) -> Option<BorrowedFd<'_>> {
        self.going_away.as_ref().map(|event| event.as_fd())
    }
}

impl Drop for VfioFunction {
    fn drop(&mut self) {
        // A mapped BAR keeps the function open.
        self.regions.unmap();
        if !self.fork.is_child() {
            tracing::info!(device = self.address, "closing the function");
        }
    }
}
