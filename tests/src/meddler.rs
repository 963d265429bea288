//! A PCI function with somebody's fingers in it: its DMA memory, its mappings, its doorbells.

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use ringbell_drivers::pci::{Bar, DmaMapping, DmaReach, Doorbell, Interrupts, PciFunction, Ring, Segment};
use ringbell_drivers::{Error, Result};

/// What is done before a doorbell is rung.
type Trick = Box<dyn FnOnce(&std::fs::File) + Send>;

/// A function that does what the one below does, but for what a test asks for.
pub struct Meddler {
    below: Arc<dyn PciFunction>,
    memory: Mutex<Option<OwnedFd>>,
    /// What the device is told lies this much further than it does, in the second half of memory.
    astray: u64,
    trick: Mutex<Option<Trick>>,
    armed: AtomicBool,
    /// It takes no reset of either kind, nor bus mastering off.
    stubborn: AtomicBool,
    unmapped: AtomicU32,
    this: std::sync::Weak<Meddler>,
}

impl fmt::Debug for Meddler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Meddler({:?})", self.below)
    }
}

impl Meddler {
    /// With `astray`, the second half of the DMA memory is told to lie that many bytes further.
    pub fn new(below: Arc<dyn PciFunction>, astray: u64) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            below,
            memory: Mutex::new(None),
            astray,
            trick: Mutex::new(None),
            armed: AtomicBool::new(false),
            stubborn: AtomicBool::new(false),
            unmapped: AtomicU32::new(0),
            this: this.clone(),
        })
    }

    /// Before the next doorbell, `trick` gets the file of the DMA memory.
    ///
    /// # Panics
    /// Where another panicked meanwhile.
    pub fn before_next_ring(&self, trick: impl FnOnce(&std::fs::File) + Send + 'static) {
        *self.trick.lock().expect("lock") = Some(Box::new(trick));
        self.armed.store(true, Ordering::SeqCst);
    }

    /// From now on the device takes no write to a BAR, bus mastering stays on, and the function cannot be
    /// reset.
    pub fn be_stubborn(&self) {
        self.stubborn.store(true, Ordering::SeqCst);
    }

    /// How many mappings were taken back.
    pub fn unmapped(&self) -> u32 {
        self.unmapped.load(Ordering::SeqCst)
    }

    /// Reads or writes the DMA memory.
    ///
    /// # Panics
    /// Where there is none yet.
    pub fn with_memory<R>(&self, f: impl FnOnce(&std::fs::File) -> R) -> R {
        let memory = self.memory.lock().expect("lock");
        let file = memory.as_ref().expect("mapped").try_clone().expect("fd");
        f(&file.into())
    }

    fn meddle(&self) {
        if self.armed.swap(false, Ordering::SeqCst)
            && let Some(trick) = self.trick.lock().expect("lock").take()
        {
            self.with_memory(trick);
        }
    }
}

/// Where `pattern` stands in a file.
///
/// # Panics
/// Where the file cannot be read.
pub fn find(file: &std::fs::File, pattern: &[u8]) -> Option<u64> {
    let len = file.metadata().expect("size").len();
    let mut bytes = vec![0; usize::try_from(len).expect("size")];
    file.read_exact_at(&mut bytes, 0).expect("read");
    let at = bytes.windows(pattern.len()).position(|window| window == pattern)?;
    Some(at as u64)
}

/// A doorbell that meddles first.
struct Bell {
    meddler: Arc<Meddler>,
    below: Doorbell,
}

impl Ring for Bell {
    fn ring(&self, value: u16) {
        self.meddler.meddle();
        self.below.ring(value);
    }
}

impl PciFunction for Meddler {
    fn address(&self) -> &str {
        self.below.address()
    }

    fn read_config(&self, offset: u16, data: &mut [u8]) -> Result<()> {
        self.below.read_config(offset, data)
    }

    fn write_config(&self, offset: u16, data: &[u8]) -> Result<()> {
        self.below.write_config(offset, data)
    }

    fn bar(&self, index: u8) -> Option<Bar> {
        self.below.bar(index)
    }

    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) -> Result<()> {
        self.below.read_bar(bar, offset, data)
    }

    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) -> Result<()> {
        if self.stubborn.load(Ordering::SeqCst) { Ok(()) } else { self.below.write_bar(bar, offset, data) }
    }

    fn doorbell(&self, bar: u8, offset: u64) -> Result<Doorbell> {
        let meddler = self.this.upgrade().expect("alive");
        Ok(Doorbell::Call(Arc::new(Bell { meddler, below: self.below.doorbell(bar, offset)? })))
    }

    fn dma_reach(&self) -> DmaReach {
        self.below.dma_reach()
    }

    fn map_dma(&self, memory: BorrowedFd<'_>, offset: u64, len: u64) -> Result<DmaMapping> {
        *self.memory.lock().expect("lock") = Some(memory.try_clone_to_owned().expect("fd"));
        let mapping = self.below.map_dma(memory, offset, len)?;
        let iova = mapping.segments[0].iova;
        if self.astray == 0 {
            return Ok(mapping);
        }
        let half = (len / 2) & !0xfff;
        let segments = vec![
            Segment { offset: 0, len: half, iova },
            Segment { offset: half, len: len - half, iova: iova + half + self.astray },
        ];
        Ok(DmaMapping { segments })
    }

    fn unmap_dma(&self, mapping: &DmaMapping) -> Result<()> {
        let iova = mapping.segments[0].iova;
        let whole = Segment { offset: 0, len: mapping.len(), iova };
        self.unmapped.fetch_add(1, Ordering::SeqCst);
        self.below.unmap_dma(&DmaMapping { segments: vec![whole] })
    }

    fn interrupts(&self) -> Interrupts {
        self.below.interrupts()
    }

    fn set_msix(&self, vectors: &[Option<BorrowedFd<'_>>]) -> Result<()> {
        self.below.set_msix(vectors)
    }

    fn set_intx(&self, event: Option<BorrowedFd<'_>>) -> Result<()> {
        self.below.set_intx(event)
    }

    fn unmask_intx(&self) -> Result<()> {
        self.below.unmask_intx()
    }

    fn set_bus_master(&self, on: bool) -> Result<()> {
        if self.stubborn.load(Ordering::SeqCst) {
            return Err(Error::Down("stubborn"));
        }
        self.below.set_bus_master(on)
    }

    fn reset(&self) -> Result<()> {
        if self.stubborn.load(Ordering::SeqCst) {
            return Err(Error::Down("stubborn"));
        }
        self.below.reset()
    }

    fn going_away(&self) -> Option<BorrowedFd<'_>> {
        self.below.going_away()
    }
}
