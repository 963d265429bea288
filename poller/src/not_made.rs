//! Requests that could not be made.

use std::fmt;

use ringbell_drivers::Error;

use crate::buffers::Buffers;

/// A request that could not be made, and why; the buffers are inside.
///
/// It becomes an [`Error`] by `?`; then the buffers are gone.
pub struct NotMade(Box<Inner>);

struct Inner {
    error: Error,
    inputs: Buffers,
    outputs: Buffers,
}

impl NotMade {
    pub(crate) fn new(error: Error, inputs: Buffers, outputs: Buffers) -> Self {
        Self(Box::new(Inner { error, inputs, outputs }))
    }

    /// Why: [`Error::NoRoom`] for the moment, [`Error::Invalid`] for ever.
    pub fn error(&self) -> &Error {
        &self.0.error
    }

    /// The same, without the buffers.
    pub fn into_error(self) -> Error {
        self.0.error
    }

    /// The buffers back, as they were given: of the input, and of the output where there were any.
    pub fn into_pieces(self) -> (Buffers, Buffers) {
        (self.0.inputs, self.0.outputs)
    }
}

impl From<NotMade> for Error {
    fn from(not_made: NotMade) -> Self {
        not_made.into_error()
    }
}

impl fmt::Debug for NotMade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotMade").field("error", &self.0.error).finish_non_exhaustive()
    }
}

impl fmt::Display for NotMade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.error.fmt(f)
    }
}

impl std::error::Error for NotMade {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.error.source()
    }
}
