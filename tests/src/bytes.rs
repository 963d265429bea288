//! A fuzzer's bytes, as decisions.

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

    /// The next two.
    pub fn half(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// The next four.
    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// The next one, below `count`, which is not 0.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    /// Whether the next one's lowest bit is set.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Whether all are used up.
    pub fn is_empty(&self) -> bool {
        self.at >= self.data.len()
    }
}
