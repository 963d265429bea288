//! What hash and MAC share: data go in, in pieces, and a result of a fixed length comes out.

use aws_lc_rs::{cmac, digest, hmac};
use sha3::{Digest, Sha3_224};
use zeroize::Zeroizing;

/// Longest result, in bytes.
pub(crate) const LONGEST: usize = 64;

/// A computation under way.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on the stack")]
pub(crate) enum Running {
    Hash(digest::Context),
    Sha3_224(Box<Sha3_224>),
    Hmac(hmac::Context),
    Cmac(Box<cmac::Context>),
}

/// What came out; a driver may want its leftmost bytes alone.
pub(crate) struct Output {
    bytes: Zeroizing<[u8; LONGEST]>,
    len: usize,
}

impl Output {
    fn new(result: &[u8]) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; LONGEST]);
        bytes.get_mut(..result.len())?.copy_from_slice(result);
        Some(Self { bytes, len: result.len() })
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Running {
    /// Takes a piece; `None` where the library fails, which it does not.
    pub(crate) fn update(&mut self, piece: &[u8]) -> Option<()> {
        match self {
            Self::Hash(context) => context.update(piece),
            Self::Sha3_224(context) => context.update(piece),
            Self::Hmac(context) => context.update(piece),
            Self::Cmac(context) => context.update(piece).ok()?,
        }
        Some(())
    }

    pub(crate) fn finish(self) -> Option<Output> {
        match self {
            Self::Hash(context) => Output::new(context.finish().as_ref()),
            Self::Sha3_224(context) => Output::new(&context.finalize()),
            Self::Hmac(context) => Output::new(context.sign().as_ref()),
            Self::Cmac(context) => Output::new(context.sign().ok()?.as_ref()),
        }
    }
}
