//! Memory of the program's own that a device can reach.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use ringbell_drivers::Result;
use ringbell_drivers::dma::{Arena, DmaBuffer, UserMemory};

use crate::buffers::Buffers;
use crate::device::Device;

/// Memory of the program's own that was [registered](Device::register) for DMA. Cloning gives another
/// handle.
///
/// Buffers are taken out of it by their place, each byte by one buffer at a time, and are the program's
/// to read and write like any other; dropping one makes its bytes free again. The memory is taken from the
/// device when the last handle and the last buffer are gone: never while a request uses it.
///
/// ```
/// use std::os::fd::AsFd;
/// use ringbell::{Cipher, Device, UserMemory};
/// # use nix::fcntl::{FcntlArg, SealFlag, fcntl};
/// # use nix::sys::memfd::{MFdFlags, memfd_create};
/// # let file = memfd_create(c"doc", MFdFlags::MFD_ALLOW_SEALING).unwrap();
/// # nix::unistd::ftruncate(&file, 1 << 20).unwrap();
/// # fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
/// let device = Device::open("sim:")?;
/// // `file` is a memfd of a megabyte, sealed against shrinking.
/// // SAFETY: nobody else uses the bytes that are in buffers.
/// let memory = unsafe { UserMemory::map(file.as_fd(), 0, 1 << 20)? };
/// let memory = device.register(memory)?;
/// let key = device.cipher_key(Cipher::Aes128Ctr, &[7; 16])?;
/// let request = key.encrypt(&[0; 16], memory.buffer(4096..8192)?);
/// let memory = memory.unregister().expect_err("a request uses it");
/// drop(request);
/// assert!(memory.unregister().is_ok());
/// # Ok::<(), ringbell::Error>(())
/// ```
#[derive(Clone)]
pub struct Registration(Arc<Arena>);

impl Registration {
    pub(crate) fn new(device: &Device, memory: UserMemory) -> Result<Self> {
        let engine = device.inner().engine();
        let function = engine.arena().function();
        let arena = Arena::over(Arc::clone(function), memory, Arc::clone(engine.room()))?;
        engine.adopt(&arena);
        Ok(Self(arena))
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.0.bytes()
    }

    /// Never true: it has at least one page.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A buffer over a part of the memory, with what stands there.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for an empty range, one that is not inside, one of which a part is in a buffer now,
    /// or one that is not contiguous for the device: see [`pieces`](Self::pieces).
    pub fn buffer(&self, range: Range<usize>) -> Result<DmaBuffer> {
        self.0.range(range)
    }

    /// Buffers over a part of the memory, as many as there are runs that are contiguous for the device: one
    /// where there is an IOMMU.
    ///
    /// # Errors
    /// As for [`buffer`](Self::buffer).
    pub fn pieces(&self, range: Range<usize>) -> Result<Buffers> {
        let clipped = |run: Range<usize>| run.start.max(range.start)..run.end.min(range.end);
        let parts = self.0.runs().into_iter().map(clipped).filter(|part| !part.is_empty());
        let pieces = parts.map(|part| self.0.range(part)).collect::<Result<Buffers>>()?;
        if pieces.is_empty() || pieces.len() != range.len() {
            // Says what is wrong with it.
            return self.0.range(range).map(Buffers::from);
        }
        Ok(pieces)
    }

    /// Takes the memory from the device now.
    ///
    /// # Errors
    /// Gives itself back while there is a buffer of it (in a request, too) or another handle.
    pub fn unregister(self) -> Result<(), Self> {
        match Arc::try_unwrap(self.0) {
            Ok(arena) => {
                drop(arena);
                Ok(())
            }
            Err(arena) => Err(Self(arena)),
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registration({} bytes)", self.len())
    }
}
