//! Drives [`icd_grid`] over QUIC: one UDP socket and one quinn endpoint per node, all nodes of a
//! process on one small tokio runtime.
//!
//! [`start_seed`] and [`start_viewer`] return at once; everything that waits for the network
//! waits on the runtime.
#![forbid(unsafe_code)]

mod congestion;
mod connection;
mod dial;
mod driver;
mod embed;
mod events;
mod handle;
#[cfg(test)]
mod hostile;
mod identity;
mod key;
mod probes;
mod runtime;
mod socket;

pub use driver::Snapshot;
pub use embed::{Embedded, Watch};
pub use handle::{
    SeedConfig, SeedHandle, StartError, ViewerConfig, ViewerHandle, start_seed, start_viewer,
};
pub use key::{Key, KeyError};
pub use runtime::runtime;
pub use socket::BindError;

/// Port of a grid that names none.
pub const DEFAULT_PORT: u16 = 7423;
