//! Drives real `icd_grid` nodes in virtual time: no sockets, no waiting, the same run for the
//! same seed.
//!
//! This is the small form that the grid's own scenarios need; see `tests/`.
#![forbid(unsafe_code)]

mod world;

pub use world::{Link, Scenario, Viewer, World};
