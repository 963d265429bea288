//! Tests across the packages of Ringbell: see the files in `tests/`. What is here is shared by them
//! and by the fuzz targets in `fuzz/`.

pub mod bytes;
pub mod fuzz;
pub mod hostile;
pub mod meddler;
pub mod probe;
pub mod vm;

/// The example of the repository's README, run as a test: here, because no package holds that file.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The book's examples, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/src/contexts.md")]
struct Contexts;

/// The book's examples, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/src/operations.md")]
struct Operations;
