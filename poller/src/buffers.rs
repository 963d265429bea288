//! Buffers that are worked on as one.

use ringbell_drivers::dma::DmaBuffer;

/// One buffer of DMA memory, or several that are worked on as one: a scatter list.
///
/// The device reads and writes them in this order as if they were one run of bytes; where one ends and
/// the next begins means nothing. How many there may be, see
/// [`Capabilities::max_pieces`](crate::Capabilities::max_pieces).
///
/// ```
/// use ringbell::{Buffers, Device};
/// let device = Device::open("sim:")?;
/// let mut pieces = Buffers::from([device.buffer(3)?, device.buffer(5)?]);
/// pieces.copy_from_slice(b"scatters");
/// assert_eq!(&pieces.pieces()[1][..], b"tters");
/// assert_eq!(pieces.to_vec(), b"scatters");
/// # Ok::<(), ringbell::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Buffers(pub(crate) Vec<DmaBuffer>);

impl Buffers {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one at the end.
    pub fn push(&mut self, buffer: DmaBuffer) {
        self.0.push(buffer);
    }

    /// Bytes of all together.
    pub fn len(&self) -> usize {
        self.0.iter().map(DmaBuffer::size).sum()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The buffers.
    pub fn pieces(&self) -> &[DmaBuffer] {
        &self.0
    }

    /// The buffers, to be filled.
    pub fn pieces_mut(&mut self) -> &mut [DmaBuffer] {
        &mut self.0
    }

    /// Takes the buffers out.
    pub fn into_pieces(self) -> Vec<DmaBuffer> {
        self.0
    }

    /// Fills the buffers with `data`, from the first on.
    ///
    /// # Panics
    /// If `data` is not as long as all of them together, as for slices.
    pub fn copy_from_slice(&mut self, data: &[u8]) {
        assert_eq!(data.len(), self.len(), "the lengths of data and buffers differ");
        let mut rest = data;
        for piece in &mut self.0 {
            // In a forked child they are empty.
            let (now, later) = rest.split_at(piece.len().min(rest.len()));
            if now.len() == piece.len() {
                piece.copy_from_slice(now);
            }
            rest = later;
        }
    }

    /// A copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        self.0.iter().flat_map(|piece| piece.iter().copied()).collect()
    }
}

impl From<DmaBuffer> for Buffers {
    fn from(buffer: DmaBuffer) -> Self {
        Self(vec![buffer])
    }
}

impl From<Vec<DmaBuffer>> for Buffers {
    fn from(buffers: Vec<DmaBuffer>) -> Self {
        Self(buffers)
    }
}

impl<const N: usize> From<[DmaBuffer; N]> for Buffers {
    fn from(buffers: [DmaBuffer; N]) -> Self {
        Self(buffers.into())
    }
}

impl FromIterator<DmaBuffer> for Buffers {
    fn from_iter<I: IntoIterator<Item = DmaBuffer>>(buffers: I) -> Self {
        Self(buffers.into_iter().collect())
    }
}

impl Extend<DmaBuffer> for Buffers {
    fn extend<I: IntoIterator<Item = DmaBuffer>>(&mut self, buffers: I) {
        self.0.extend(buffers);
    }
}
