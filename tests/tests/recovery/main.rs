//! Recovery at the points of a request's and a device's life. What each fault ends with by itself is
//! the matrix's affair (`faults`).

mod bench;
#[path = "../common/mod.rs"]
mod common;
mod devices;
mod requests;
