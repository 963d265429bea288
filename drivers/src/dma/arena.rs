//! The arena: one file of DMA memory for each device, cut into buffers; and files of the program's own
//! that the device can reach as well, whose pieces are chosen by whoever asks.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use offset_allocator::{Allocation, Allocator};

use super::memory::PAGE;
use super::{SharedMemory, UserMemory};
use crate::error::{Error, Result};
use crate::pci::{DmaMapping, PciFunction};
use crate::room::Room;

/// Bytes of an arena unless told otherwise: rings and buffers together stay within the usual
/// locked-memory limit of 8 MiB with room for other things.
pub const DEFAULT_ARENA_BYTES: usize = 6 << 20;

/// Pieces are cut in units of a cache line, so that no line is shared between two of them.
const UNIT: usize = 64;

/// How an arena is made.
#[derive(Clone, Debug)]
pub struct ArenaOptions {
    /// Bytes, rounded up to pages; 64 KiB to 64 GiB. [`DEFAULT_ARENA_BYTES`] by default.
    pub bytes: usize,
    /// Try huge pages first. True by default; the log tells when there are none.
    pub huge_pages: bool,
    /// Fill memory that is free with a pattern, and check that when it is handed out again: a device
    /// that writes to what it was told to leave is found ([`Arena::stray_writes`]). It costs a pass
    /// over each buffer. False by default.
    pub check: bool,
}

impl Default for ArenaOptions {
    fn default() -> Self {
        Self { bytes: DEFAULT_ARENA_BYTES, huge_pages: true, check: false }
    }
}

/// DMA memory of one device, mapped for it as a whole and cut into [`DmaBuffer`]s.
///
/// The arena lives until the last buffer is gone. Only then is it unmapped from the device; if that
/// fails, the memory is leaked on purpose, because the device may still write to it.
pub struct Arena {
    memory: std::mem::ManuallyDrop<SharedMemory>,
    mapping: DmaMapping,
    function: Arc<dyn PciFunction>,
    cuts: Mutex<Vec<Cut>>,
    /// For memory of the program's own: what is in a buffer now, from and to.
    taken: Option<Mutex<BTreeMap<usize, usize>>>,
    room: Arc<Room>,
    /// The device cannot reach it any more.
    cut_off: AtomicBool,
    /// Pieces that are kept for the driver: rings come and go with recoveries.
    reserve: Mutex<Vec<Piece>>,
    check: bool,
    stray_writes: AtomicU64,
}

/// A piece of the memory: where it stands, and how many bytes it has.
#[derive(Clone, Copy)]
struct Piece {
    cut: usize,
    /// `None` in memory of the program's own.
    allocation: Option<Allocation<u32>>,
    capacity: usize,
}

/// What free memory is filled with where it is checked.
const FREE: u8 = 0xd5;

/// A segment and the allocator of its units.
struct Cut {
    offset: usize,
    len: usize,
    iova: u64,
    /// The most units that a buffer can ever have.
    most: u32,
    allocator: Allocator<u32>,
}

impl Arena {
    /// Creates the memory and maps it for `function`. `room` is told of every buffer that comes
    /// back.
    ///
    /// # Errors
    /// A size out of range, no memory, or the function's refusal to map it.
    pub fn new(function: Arc<dyn PciFunction>, options: &ArenaOptions, room: Arc<Room>) -> Result<Arc<Self>> {
        if !(64 << 10..=64 << 30).contains(&options.bytes) {
            return Err(Error::Invalid(format!(
                "cannot create a DMA arena of {} bytes; it holds 64 KiB to 64 GiB",
                options.bytes
            )));
        }
        let memory = SharedMemory::create(options.bytes, options.huge_pages)?;
        let arena = Self::map(function, memory, 0, room, options.check)?;
        arena.poison(0, arena.memory.len());
        Ok(Arc::new(arena))
    }

    /// Maps memory of the program's own for `function`. Its buffers are chosen by [`range`](Self::range).
    ///
    /// # Errors
    /// The function's refusal to map it.
    pub fn over(function: Arc<dyn PciFunction>, memory: UserMemory, room: Arc<Room>) -> Result<Arc<Self>> {
        let (memory, offset) = memory.into_parts();
        let mut arena = Self::map(function, memory, offset, room, false)?;
        arena.taken = Some(Mutex::default());
        Ok(Arc::new(arena))
    }

    fn map(
        function: Arc<dyn PciFunction>,
        memory: SharedMemory,
        offset: u64,
        room: Arc<Room>,
        check: bool,
    ) -> Result<Self> {
        let mapping = function.map_dma(memory.fd(), offset, memory.len() as u64)?;
        let mut cuts = Vec::with_capacity(mapping.segments.len());
        let mut end = 0;
        for segment in &mapping.segments {
            let inside =
                segment.offset.checked_add(segment.len).is_some_and(|end| end <= memory.len() as u64)
                    && segment.iova.checked_add(segment.len).is_some();
            let units = u32::try_from(segment.len / UNIT as u64).ok();
            // In the order of the file, without overlap, on whole pages: pieces are aligned and
            // nobody else's.
            let aligned =
                (segment.offset | segment.iova).is_multiple_of(PAGE as u64) && segment.offset >= end;
            end = segment.offset.saturating_add(segment.len);
            let sound = inside && aligned;
            let (Ok(offset), Some(units), true) = (usize::try_from(segment.offset), units, sound) else {
                return Err(Error::NotUsable {
                    device: function.address().to_owned(),
                    why: format!("its DMA mapping is impossible: {segment:?}"),
                });
            };
            let most = units.clamp(64, 1 << 16);
            let allocator = Allocator::with_max_allocs(units, most);
            let len = segment.len as usize;
            cuts.push(Cut { offset, len, iova: segment.iova, most: units, allocator });
        }
        tracing::debug!(
            device = function.address(),
            bytes = memory.len(),
            huge = memory.is_huge(),
            segments = mapping.segments.len(),
            "DMA arena mapped"
        );
        Ok(Self {
            memory: std::mem::ManuallyDrop::new(memory),
            mapping,
            function,
            cuts: Mutex::new(cuts),
            taken: None,
            room,
            cut_off: AtomicBool::new(false),
            reserve: Mutex::default(),
            check,
            stray_writes: AtomicU64::new(0),
        })
    }

    /// A buffer over `range` of memory of the program's own, contiguous for the device, with what stands
    /// there.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an empty range, one that is not inside, one of which a part is in a buffer
    /// now, or one that is not contiguous for the device; and for an arena that is not the program's own.
    pub fn range(self: &Arc<Self>, range: Range<usize>) -> Result<DmaBuffer> {
        let what = format!("use bytes {} to {} of registered memory", range.start, range.end);
        let bad = |why: &str| Err(Error::Invalid(format!("cannot {what}: {why}")));
        let Some(taken) = &self.taken else { return bad("it is the device's own arena") };
        if self.memory.is_inherited() {
            return Err(Error::Forked);
        }
        if range.is_empty() || range.end > self.memory.len() {
            return bad(&format!("it has {} bytes, and a buffer at least one", self.memory.len()));
        }
        let cuts = self.lock();
        let inside = |cut: &Cut| cut.offset <= range.start && range.end <= cut.offset + cut.len;
        let Some((index, cut)) = cuts.iter().enumerate().find(|(_, cut)| inside(cut)) else {
            return bad("it is not contiguous for the device; use it in pieces");
        };
        let Some(pointer) = self.memory.pointer(range.start, range.len()) else {
            return bad("it is not in the map");
        };
        let iova = cut.iova + (range.start - cut.offset) as u64;
        let mut taken = taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // The last one that begins before the end; those before it end before it begins.
        if taken.range(..range.end).next_back().is_some_and(|(_, end)| *end > range.start) {
            return bad("a part of it is in another buffer");
        }
        taken.insert(range.start, range.end);
        drop((taken, cuts));
        let piece = Piece { cut: index, allocation: None, capacity: range.len() };
        Ok(DmaBuffer { arena: Arc::clone(self), pointer, len: range.len(), iova, piece, reserved: false })
    }

    /// Where contiguous runs of the memory end and others begin, for the device: `len` bytes from
    /// `offset` on.
    pub fn runs(&self) -> Vec<Range<usize>> {
        if self.memory.is_inherited() {
            return Vec::new(); // The lock may be held by a thread that is not there.
        }
        self.lock().iter().map(|cut| cut.offset..cut.offset + cut.len).collect()
    }

    /// How often free memory was found to have been written: by the device, which had no business
    /// there. Always 0 without [`ArenaOptions::check`].
    pub fn stray_writes(&self) -> u64 {
        self.stray_writes.load(Ordering::Relaxed)
    }

    /// Fills memory that nobody has.
    fn poison(&self, offset: usize, len: usize) {
        if self.check {
            for at in (0..len).step_by(PAGE) {
                let _ = self.memory.write(offset + at, &[FREE; PAGE][..PAGE.min(len - at)]);
            }
        }
    }

    /// Whether memory that was free is as it was left.
    fn check(&self, offset: usize, len: usize) {
        if !self.check {
            return;
        }
        let mut page = [FREE; PAGE];
        let first = (0..len).step_by(PAGE).find_map(|at| {
            let bytes = &mut page[..PAGE.min(len - at)];
            let _ = self.memory.read(offset + at, bytes);
            bytes.iter().position(|byte| *byte != FREE).map(|place| at + place)
        });
        if let Some(first) = first {
            self.stray_writes.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                device = self.function.address(),
                offset = offset + first,
                "free DMA memory was written: the device writes where it must not"
            );
        }
    }

    /// Takes the memory away from the device while buffers are still in use: where the device can
    /// neither be reset nor be forbidden DMA, this stops it.
    ///
    /// # Errors
    /// As for [`PciFunction::unmap_dma`].
    pub fn cut_off(&self) -> Result<()> {
        if self.memory.is_inherited() {
            return Err(Error::Forked);
        }
        // Under the lock, so that it is done once.
        let _cuts = self.lock();
        if !self.cut_off.load(Ordering::Relaxed) {
            self.function.unmap_dma(&self.mapping)?;
            self.cut_off.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The function that it is mapped for.
    pub fn function(&self) -> &Arc<dyn PciFunction> {
        &self.function
    }

    /// Bytes of the arena, rings included.
    pub fn bytes(&self) -> usize {
        self.memory.len()
    }

    /// Bytes of the largest buffer that the arena could ever hold.
    pub fn largest(&self) -> usize {
        if self.memory.is_inherited() {
            return 0;
        }
        let cuts = self.lock();
        cuts.iter().map(|cut| cut.most as usize * UNIT).max().unwrap_or(0)
    }

    /// What is in use now stays for the arena's life (the rings): the largest buffer that can ever
    /// be had is what is free in one piece now.
    pub fn settle(&self) {
        for cut in self.lock().iter_mut() {
            cut.most = cut.allocator.storage_report().largest_free_region;
        }
    }

    /// Bytes that are free at the moment, in pieces of any size.
    pub fn free_bytes(&self) -> usize {
        if self.memory.is_inherited() {
            return 0; // The lock may be held by a thread that is not there.
        }
        let cuts = self.lock();
        cuts.iter().map(|cut| cut.allocator.storage_report().total_free_space as usize * UNIT).sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Cut>> {
        self.cuts.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Cuts a buffer of `len` bytes (0 counts as a buffer too), aligned to a cache line and
    /// contiguous for the device. Its contents are whatever was there before.
    ///
    /// # Errors
    /// [`Error::NoRoom`] when there is none at the moment, [`Error::Invalid`] when there never can
    /// be, and for memory of the program's own, whose buffers are chosen by [`range`](Self::range).
    pub fn buffer(self: &Arc<Self>, len: usize) -> Result<DmaBuffer> {
        if self.taken.is_some() {
            // The allocator knows nothing of the ranges that are in buffers.
            let why = "cannot cut a buffer from registered memory: its buffers are taken by range";
            return Err(Error::Invalid(why.to_owned()));
        }
        let mut cuts = self.lock();
        let units = len.div_ceil(UNIT).max(1);
        let mut possible = false;
        for (index, cut) in cuts.iter_mut().enumerate() {
            let Ok(units) = u32::try_from(units) else { break };
            if units > cut.most {
                continue;
            }
            possible = true;
            let Some(allocation) = cut.allocator.allocate(units) else { continue };
            let capacity = units as usize * UNIT;
            let piece = Piece { cut: index, allocation: Some(allocation), capacity };
            let Some(buffer) = self.buffer_over(cut, piece, len) else {
                break; // The segment was checked against the memory: this cannot be.
            };
            drop(cuts);
            self.check(buffer.offset(), piece.capacity);
            return Ok(buffer);
        }
        drop(cuts);
        if possible {
            Err(Error::NoRoom("a buffer"))
        } else {
            Err(Error::Invalid(format!(
                "a buffer of {len} bytes can never fit: the largest that this device's DMA arena \
                 holds is {} bytes; open the device with a larger arena",
                self.largest()
            )))
        }
    }

    /// The buffer over a piece.
    fn buffer_over(self: &Arc<Self>, cut: &Cut, piece: Piece, len: usize) -> Option<DmaBuffer> {
        let within = piece.allocation?.offset as usize * UNIT;
        let pointer = self.memory.pointer(cut.offset + within, piece.capacity)?;
        let iova = cut.iova + within as u64;
        Some(DmaBuffer { arena: Arc::clone(self), pointer, len, iova, piece, reserved: false })
    }

    /// As [`buffer`](Self::buffer), for the driver's own rings: dropped, its memory is kept for the
    /// next one of that size. So there is always memory for fresh rings, if there was once.
    ///
    /// # Errors
    /// As for [`buffer`](Self::buffer).
    pub(crate) fn reserved(self: &Arc<Self>, len: usize) -> Result<DmaBuffer> {
        let capacity = len.div_ceil(UNIT).max(1) * UNIT;
        let kept = {
            let mut reserve = self.reserve();
            let place = reserve.iter().position(|piece| piece.capacity == capacity);
            // The oldest first: not what was given back just now.
            place.map(|place| reserve.remove(place))
        };
        let buffer = match kept {
            Some(piece) => {
                let cuts = self.lock();
                let buffer = cuts.get(piece.cut).and_then(|cut| self.buffer_over(cut, piece, len));
                drop(cuts);
                if let Some(buffer) = &buffer {
                    self.check(buffer.offset(), capacity);
                }
                buffer
            }
            None => Some(self.buffer(len)?),
        };
        let mut buffer = buffer.ok_or(Error::NoRoom("the device's rings"))?;
        buffer.reserved = true;
        Ok(buffer)
    }

    fn reserve(&self) -> std::sync::MutexGuard<'_, Vec<Piece>> {
        self.reserve.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn give_back(&self, buffer: &DmaBuffer) {
        let piece = buffer.piece;
        if let Some(taken) = &self.taken {
            let mut taken = taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            taken.remove(&buffer.offset());
            return drop(taken);
        }
        self.poison(buffer.offset(), piece.capacity);
        if buffer.reserved {
            return self.reserve().push(piece);
        }
        if let (Some(cut), Some(allocation)) = (self.lock().get_mut(piece.cut), piece.allocation) {
            cut.allocator.free(allocation);
        }
        self.room.announce();
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.memory.is_inherited() {
            return;
        }
        let unmapped = if *self.cut_off.get_mut() { Ok(()) } else { self.function.unmap_dma(&self.mapping) };
        match unmapped {
            // SAFETY: the only take, in drop; the device cannot reach the memory any more.
            Ok(()) => unsafe { std::mem::ManuallyDrop::drop(&mut self.memory) },
            Err(error) => tracing::error!(
                device = self.function.address(),
                bytes = self.memory.len(),
                %error,
                "DMA memory leaked on purpose: the device may still write to it"
            ),
        }
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

/// A piece of DMA memory, contiguous for the device, filled and read in place as a slice.
///
/// While a request is in flight the queue owns its buffers, so no slice of them can exist. Dropping
/// one gives its memory back to the arena.
///
/// In a forked child, where the memory is not mapped, every buffer is an empty slice.
pub struct DmaBuffer {
    arena: Arc<Arena>,
    pointer: NonNull<u8>,
    len: usize,
    iova: u64,
    piece: Piece,
    /// For the driver's rings.
    reserved: bool,
}

// SAFETY: a buffer is the only owner of its piece, like a Vec; the arena is shared and locked.
unsafe impl Send for DmaBuffer {}
// SAFETY: a shared reference gives nothing but shared slices.
unsafe impl Sync for DmaBuffer {}

impl DmaBuffer {
    /// Bus address of the first byte.
    #[inline]
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// The most bytes that [`set_len`](Self::set_len) accepts.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.piece.capacity
    }

    /// Bytes of the buffer: what `len` of the slice is, without a look at the fork generation.
    #[inline]
    pub fn size(&self) -> usize {
        self.len
    }

    /// Makes the buffer `len` bytes long. Bytes beyond the old length are whatever was there.
    ///
    /// # Errors
    /// [`Error::Invalid`] above the [`capacity`](Self::capacity).
    pub fn set_len(&mut self, len: usize) -> Result<()> {
        if len > self.piece.capacity {
            return Err(Error::Invalid(format!(
                "a buffer of {} bytes cannot be made {len} bytes long",
                self.piece.capacity
            )));
        }
        self.len = len;
        Ok(())
    }

    /// Where it stands in the arena's memory.
    fn offset(&self) -> usize {
        self.pointer.as_ptr().addr() - self.arena.memory.start()
    }

    /// First byte, for descriptors of the crate's own.
    #[inline]
    pub(crate) fn pointer(&self) -> NonNull<u8> {
        self.pointer
    }

    /// Whether the buffer is of the same device as `arena`: cut from it, or registered with it.
    #[inline]
    pub fn is_of(&self, arena: &Arc<Arena>) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.arena.function), Arc::as_ptr(&arena.function))
    }

    /// Reads one byte that the device may write at this moment; `None` where it is not inside, and in a
    /// forked child.
    #[inline]
    pub(crate) fn read_byte(&self, offset: usize) -> Option<u8> {
        if offset >= self.len || self.arena.memory.is_inherited() {
            return None;
        }
        // SAFETY: inside the piece, which `arena` keeps mapped. The device may write it at any time; the
        // volatile read takes one copy, and no reference is made.
        Some(unsafe { self.pointer.as_ptr().add(offset).read_volatile() })
    }
}

impl Deref for DmaBuffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        if self.arena.memory.is_inherited() {
            return &[]; // The map is not in a forked child.
        }
        // SAFETY: pointer..+len lies in the arena's map, which `arena` keeps alive, is initialised
        // (fresh memfd pages are zero) and belongs to this buffer alone. The device may write it
        // only while a queue owns the buffer, and then nobody can call this.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }
}

impl DerefMut for DmaBuffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        if self.arena.memory.is_inherited() {
            return &mut [];
        }
        // SAFETY: as in deref; `&mut self` makes it the only slice.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len) }
    }
}

impl Drop for DmaBuffer {
    fn drop(&mut self) {
        // In a forked child the arena's lock may be held by a thread that does not exist there.
        if !self.arena.memory.is_inherited() {
            self.arena.give_back(self);
        }
    }
}

impl fmt::Debug for DmaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the contents: they may be secret.
        write!(f, "DmaBuffer({} of {} bytes at {:#x})", self.len, self.piece.capacity, self.iova)
    }
}
