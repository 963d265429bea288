//! The command `ringbell`.
#![forbid(unsafe_code)]
fn main() {}
