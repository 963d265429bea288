//! A PCI function that lies: a simulated device whose every answer a fuzzer may replace.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringbell_drivers::Result;
use ringbell_drivers::dma::SharedMemory;
use ringbell_drivers::pci::{Bar, DmaMapping, DmaReach, Doorbell, Interrupts, PciFunction};

/// Bytes that decide, one after another; zeros when they are used up.
#[derive(Debug, Default)]
pub struct Bytes {
    data: Vec<u8>,
    at: usize,
}

impl Bytes {
    /// These bytes.
    pub fn new(data: &[u8]) -> Self {
        Self { data: data.to_vec(), at: 0 }
    }

    /// The next one.
    pub fn byte(&mut self) -> u8 {
        let byte = self.data.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    /// The next four.
    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// Whether all are used up.
    pub fn is_empty(&self) -> bool {
        self.at >= self.data.len()
    }
}

/// The function: passes everything to an honest one, but for what it replaces.
pub struct Hostile {
    honest: Arc<dyn PciFunction>,
    lies: Mutex<Bytes>,
    memory: Mutex<Vec<SharedMemory>>,
}

impl Hostile {
    /// Lies on top of `honest`, as `lies` say: for each read one byte, replaced if its top bits are
    /// set.
    pub fn new(honest: Arc<dyn PciFunction>, lies: &[u8]) -> Arc<Self> {
        Arc::new(Self { honest, lies: Mutex::new(Bytes::new(lies)), memory: Mutex::default() })
    }

    fn lies(&self) -> MutexGuard<'_, Bytes> {
        self.lies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn corrupt(&self, data: &mut [u8]) {
        let mut lies = self.lies();
        if lies.byte() >= 0xf0 {
            data.iter_mut().for_each(|byte| *byte = lies.byte());
        }
    }

    /// Writes into the driver's memory, as a device could at any time. The offset is taken modulo
    /// the memory's size.
    pub fn scribble(&self, offset: usize, data: &[u8]) {
        for memory in self.memory.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let offset = offset % memory.len();
            let data = &data[..data.len().min(memory.len() - offset)];
            let _ = memory.write(offset, data);
        }
    }
}

impl fmt::Debug for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hostile")
    }
}

impl PciFunction for Hostile {
    fn address(&self) -> &str {
        "hostile"
    }
    fn read_config(&self, offset: u16, data: &mut [u8]) -> Result<()> {
        self.honest.read_config(offset, data)?;
        self.corrupt(data);
        Ok(())
    }
    fn write_config(&self, offset: u16, data: &[u8]) -> Result<()> {
        self.honest.write_config(offset, data)
    }
    fn bar(&self, index: u8) -> Option<Bar> {
        self.honest.bar(index)
    }
    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) -> Result<()> {
        self.honest.read_bar(bar, offset, data)?;
        self.corrupt(data);
        Ok(())
    }
    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) -> Result<()> {
        self.honest.write_bar(bar, offset, data)
    }
    fn doorbell(&self, bar: u8, offset: u64) -> Result<Doorbell> {
        self.honest.doorbell(bar, offset)
    }
    fn dma_reach(&self) -> DmaReach {
        self.honest.dma_reach()
    }
    fn map_dma(&self, memory: BorrowedFd<'_>, offset: u64, len: u64) -> Result<DmaMapping> {
        let own = SharedMemory::map(memory, offset, len)?;
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).push(own);
        self.honest.map_dma(memory, offset, len)
    }
    fn unmap_dma(&self, mapping: &DmaMapping) -> Result<()> {
        self.honest.unmap_dma(mapping)
    }
    fn interrupts(&self) -> Interrupts {
        self.honest.interrupts()
    }
    fn set_msix(&self, vectors: &[Option<BorrowedFd<'_>>]) -> Result<()> {
        self.honest.set_msix(vectors)
    }
    fn set_intx(&self, event: Option<BorrowedFd<'_>>) -> Result<()> {
        self.honest.set_intx(event)
    }
    fn unmask_intx(&self) -> Result<()> {
        self.honest.unmask_intx()
    }
    fn set_bus_master(&self, on: bool) -> Result<()> {
        self.honest.set_bus_master(on)
    }
    fn reset(&self) -> Result<()> {
        self.honest.reset()
    }
    fn going_away(&self) -> Option<BorrowedFd<'_>> {
        self.honest.going_away()
    }
}
