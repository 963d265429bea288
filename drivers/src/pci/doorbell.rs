//! The doorbell: the one register that the hot path writes.

use std::fmt;
use std::sync::Arc;

use crate::mmio::Register16;

/// Something that takes a doorbell's value by a call: a device in software.
pub trait Ring: Send + Sync {
    /// The driver wrote `value`. Called on the submitting thread, once for each batch that needs a
    /// notification; it must not block.
    fn ring(&self, value: u16);
}

/// A doorbell, resolved once for each queue and rung once for each batch.
///
/// Cloning it gives a second handle to the same register.
#[derive(Clone)]
pub enum Doorbell {
    /// A store to a mapped BAR.
    Mapped(Register16),
    /// A call, where the register cannot be mapped.
    Call(Arc<dyn Ring>),
}

impl Doorbell {
    /// Writes `value` to the register. What was stored to DMA memory before must have been made
    /// visible by the caller (a full fence, which also orders the read of avail_event).
    #[inline]
    pub fn ring(&self, value: u16) {
        match self {
            Self::Mapped(register) => register.write(value),
            Self::Call(ring) => ring.ring(value),
        }
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mapped(_) => "Doorbell::Mapped",
            Self::Call(_) => "Doorbell::Call",
        })
    }
}
