//! Behaviour, through a small driver written against the specification (bytes and offsets, none of
//! the crate's own structures).

mod driver;
mod faults;
mod hostile;
mod registers;
mod requests;
mod rsa;
mod rsa_vectors;
mod services;

pub(crate) use driver::{Driver, Part};
