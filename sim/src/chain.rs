//! A descriptor chain, walked once and checked. Ref: VIRTIO 1.2, 2.7.4 to 2.7.5.3.
//!
//! The result is two lists of pieces of mapped memory, first the device-readable and then the
//! device-writable ones. How the driver cut a request over descriptors carries no meaning
//! (2.7.4.1): reading and writing go over the lists as over one run of bytes.

use zerocopy::{FromZeros, IntoBytes};

use crate::dma::{DmaMap, Span};
use crate::error::DriverError;
use crate::ring::Queue;
use crate::wire;

/// What a chain may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// INDIRECT_DESC was agreed on.
    pub(crate) indirect: bool,
    /// QEMU: tables of up to 1024, no descriptor of length zero; a table is one only at the head of
    /// a chain, whatever was agreed on, and has no next.
    pub(crate) qemu: bool,
}

/// QEMU's longest chain, whatever the queue size.
const QEMU_LONGEST: u32 = 1024;

/// A chain; the lists are used again for the next one.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    pub(crate) head: u16,
    readable: Vec<Span>,
    writable: Vec<Span>,
    pub(crate) readable_len: u64,
    pub(crate) writable_len: u64,
}

impl Chain {
    /// Walks the chain from `head`, which is below the queue's size.
    #[inline]
    pub(crate) fn walk(
        &mut self,
        queue: &Queue,
        head: u16,
        dma: &DmaMap,
        rules: Rules,
    ) -> Result<(), DriverError> {
        self.head = head;
        self.readable.clear();
        self.writable.clear();
        (self.readable_len, self.writable_len) = (0, 0);
        let entries = u32::from(queue.size);
        let mut index = head;
        // Each step counts, so a loop ends after as many as the table has entries.
        for count in 1..=entries {
            let descriptor = queue.descriptor(index)?;
            let flags = descriptor.flags.get();
            if flags & wire::DESC_F_INDIRECT != 0 && (count == 1 || !rules.qemu) {
                return self.walk_table(queue, &descriptor, count - 1, dma, rules);
            }
            self.add(queue.index, &descriptor, dma, rules)?;
            if flags & wire::DESC_F_NEXT == 0 {
                return self.finish(queue.index);
            }
            index = descriptor.next.get();
            if u32::from(index) >= entries {
                return Err(DriverError::NoDescriptor { queue: queue.index, index, entries });
            }
        }
        Err(DriverError::ChainTooLong { queue: queue.index, head, limit: entries })
    }

    /// The rest of a chain, in an indirect table (2.7.5.3).
    #[inline]
    fn walk_table(
        &mut self,
        queue: &Queue,
        descriptor: &wire::Descriptor,
        before: u32,
        dma: &DmaMap,
        rules: Rules,
    ) -> Result<(), DriverError> {
        let (number, head) = (queue.index, self.head);
        let wrong = |why| DriverError::Indirect { queue: number, head, why };
        if !rules.indirect && !rules.qemu {
            return Err(wrong("was not agreed on"));
        }
        if descriptor.flags.get() & wire::DESC_F_NEXT != 0 && !rules.qemu {
            return Err(wrong("has a next one"));
        }
        let (addr, len) = (descriptor.addr.get(), descriptor.len.get());
        if len == 0 || len % 16 != 0 {
            return Err(wrong("has a length that is no multiple of 16"));
        }
        let table =
            dma.span(addr, len).ok_or(DriverError::NotMapped { queue: number, addr, len: u64::from(len) })?;
        let entries = len / 16;
        let longest = if rules.qemu { QEMU_LONGEST } else { u32::from(queue.size) };
        let limit = entries.min(longest.saturating_sub(before));
        let mut index = 0_u16;
        for _ in 0..limit {
            let mut descriptor = wire::Descriptor::new_zeroed();
            dma.read(&table, 16 * usize::from(index), descriptor.as_mut_bytes())
                .ok_or(DriverError::NotMapped { queue: number, addr, len: u64::from(len) })?;
            let flags = descriptor.flags.get();
            if flags & wire::DESC_F_INDIRECT != 0 && !rules.qemu {
                return Err(wrong("is nested"));
            }
            self.add(number, &descriptor, dma, rules)?;
            if flags & wire::DESC_F_NEXT == 0 {
                return self.finish(number);
            }
            index = descriptor.next.get();
            if u32::from(index) >= entries {
                return Err(DriverError::NoDescriptor { queue: number, index, entries });
            }
        }
        Err(DriverError::ChainTooLong { queue: number, head, limit })
    }

    #[inline]
    fn add(
        &mut self,
        queue: u16,
        descriptor: &wire::Descriptor,
        dma: &DmaMap,
        rules: Rules,
    ) -> Result<(), DriverError> {
        let (addr, len) = (descriptor.addr.get(), descriptor.len.get());
        if len == 0 && rules.qemu {
            return Err(DriverError::ZeroLength { queue, head: self.head });
        }
        let span = || dma.span(addr, len).ok_or(DriverError::NotMapped { queue, addr, len: u64::from(len) });
        if descriptor.flags.get() & wire::DESC_F_WRITE != 0 {
            self.writable_len += u64::from(len);
            if len != 0 {
                self.writable.push(span()?);
            }
        } else {
            // An empty writable descriptor may have gone before: it is not in the list, and harmless.
            if !self.writable.is_empty() {
                return Err(DriverError::ReadableAfterWritable { queue, head: self.head });
            }
            self.readable_len += u64::from(len);
            if len != 0 {
                self.readable.push(span()?);
            }
        }
        Ok(())
    }

    #[inline]
    fn finish(&self, queue: u16) -> Result<(), DriverError> {
        if self.readable_len + self.writable_len > u64::from(u32::MAX) {
            return Err(DriverError::TooManyBytes { queue, head: self.head });
        }
        Ok(())
    }

    /// The device-readable bytes, from the first on.
    #[inline]
    pub(crate) fn readable(&self) -> Cursor<'_> {
        Cursor { spans: &self.readable, at: 0 }
    }

    /// The device-writable bytes, from the first on.
    #[inline]
    pub(crate) fn writable(&self) -> Cursor<'_> {
        Cursor { spans: &self.writable, at: 0 }
    }

    /// What stands in the device-writable descriptors now: bus address, bytes.
    pub(crate) fn writable_bytes(&self, dma: &DmaMap) -> Vec<(u64, Vec<u8>)> {
        let bytes = |span: &Span| {
            let mut bytes = vec![0; span.len as usize];
            dma.read(span, 0, &mut bytes)?;
            Some((dma.address(span)?, bytes))
        };
        self.writable.iter().filter_map(bytes).collect()
    }

    /// Writes the last device-writable byte.
    #[inline]
    pub(crate) fn write_last(&self, dma: &DmaMap, byte: u8) -> Option<()> {
        let span = self.writable.last()?;
        dma.write(span, span.len as usize - 1, &[byte])
    }
}

/// A place in a list of spans.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    spans: &'a [Span],
    /// Bytes of the first span that lie behind us.
    at: usize,
}

impl Cursor<'_> {
    /// Copies the next `out.len()` bytes; `None` where there are fewer.
    #[inline]
    pub(crate) fn read(&mut self, dma: &DmaMap, mut out: &mut [u8]) -> Option<()> {
        while !out.is_empty() {
            let (span, at, n) = self.next(out.len())?;
            let (now, later) = out.split_at_mut(n);
            dma.read(span, at, now)?;
            out = later;
        }
        Some(())
    }

    /// Goes over the next `len` bytes; `None` where there are fewer.
    pub(crate) fn skip(&mut self, mut len: usize) -> Option<()> {
        while len != 0 {
            let (_, _, n) = self.next(len)?;
            len -= n;
        }
        Some(())
    }

    /// Writes `data` to the next bytes; `None` where there are fewer.
    #[inline]
    pub(crate) fn write(&mut self, dma: &DmaMap, mut data: &[u8]) -> Option<()> {
        while !data.is_empty() {
            let (span, at, n) = self.next(data.len())?;
            let (now, later) = data.split_at(n);
            dma.write(span, at, now)?;
            data = later;
        }
        Some(())
    }

    /// The next run of at most `wanted` bytes: span, place in it, length.
    #[inline]
    fn next(&mut self, wanted: usize) -> Option<(&Span, usize, usize)> {
        let spans = self.spans;
        let (span, rest) = spans.split_first()?;
        let (at, left) = (self.at, span.len as usize - self.at);
        let n = wanted.min(left);
        if n == left {
            self.spans = rest;
            self.at = 0;
        } else {
            self.at += n;
        }
        Some((span, at, n))
    }
}
