//! The walk over a function's capability list.

use super::{PciFunction, config};
use crate::error::{Error, Result};

/// One entry of the list: its id and where it stands in config space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Capability id (PCI 3.0, appendix H).
    pub id: u8,
    /// Offset of its first byte, a multiple of 4, at least 0x40.
    pub offset: u16,
}

/// The capabilities of a function, read once.
///
/// The list comes from the device and is not trusted: it may loop or point into the header. The
/// walk visits no offset twice, so it ends after at most 48 steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(Vec<Capability>);

impl Capabilities {
    /// Walks the list (PCI 3.0, 6.7).
    ///
    /// # Errors
    /// A list that leaves 0x40..=0xfc or visits an entry twice.
    pub fn read(function: &dyn PciFunction) -> Result<Self> {
        let bad = |why: String| Error::NotUsable { device: function.address().to_owned(), why };
        let mut list = Vec::new();
        let mut status = [0; 2];
        function.read_config(config::STATUS, &mut status)?;
        if u16::from_le_bytes(status) & config::STATUS_CAPABILITIES == 0 {
            return Ok(Self(list));
        }
        let mut next = [0];
        function.read_config(config::CAPABILITIES, &mut next)?;
        let mut seen = 0_u64;
        loop {
            // The two low bits are reserved and masked (6.7).
            let offset = u16::from(next[0] & !3);
            if offset == 0 {
                return Ok(Self(list));
            }
            if offset < 0x40 {
                return Err(bad(format!("its capability list points into the header, at {offset:#x}")));
            }
            let bit = 1_u64 << (offset / 4);
            if seen & bit != 0 {
                return Err(bad(format!("its capability list loops at {offset:#x}")));
            }
            seen |= bit;
            let mut entry = [0; 2];
            function.read_config(offset, &mut entry)?;
            list.push(Capability { id: entry[0], offset });
            next = [entry[1]];
        }
    }

    /// All entries, in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = Capability> + '_ {
        self.0.iter().copied()
    }
}
