//! Drives real `icd_grid` nodes in virtual time: no sockets, no waiting, the same run for the
//! same seed.
#![forbid(unsafe_code)]

pub mod lies;
pub mod measure;
pub mod nat;
pub mod network;
pub mod people;
pub mod pictures;
mod quic;
pub mod results;
pub mod scenario;
pub mod seal;
pub mod settings;
pub mod stage;
pub mod traffic;
pub mod trees;
mod world;

pub use network::Link;
pub use quic::Quic;
pub use stage::{Counts, Newcomer, Scenario, Stage, Viewer};
pub use traffic::Stream;
pub use world::World;
