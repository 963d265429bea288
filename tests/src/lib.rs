//! Tests across the packages of Ringbell; see the files in `tests/`.
