//! Whom a node may ask for a stripe, as it knows them, and what it can give itself.

use std::time::Duration;

use crate::ids::{NodeId, PeerId, Seq};

/// A connected node that may be asked.
#[derive(Debug, Clone)]
pub struct Neighbour<'a> {
    /// Which.
    pub peer: PeerId,
    /// Its key.
    pub id: NodeId,
    /// It is the seed.
    pub seed: bool,
    /// Slots that it has free, as it says.
    pub spare: u16,
    /// And beyond, for those that find no other.
    pub reserve: u16,
    /// The strength of its weakest child of each stripe.
    pub weakest: &'a [Option<u16>],
    /// It has sent this node a piece that was wanted.
    pub proven: bool,
    /// Round trip to it.
    pub rtt: Duration,
    /// Its median lag, as it says.
    pub lag: Duration,
    /// Pieces that were made since it said all this.
    pub since: u64,
    /// Newest piece of each stripe there.
    pub heads: &'a [Option<Seq>],
}

/// What this node can give.
#[derive(Debug, Clone, Copy, Default)]
pub struct Standing {
    /// Stripes that it can push in all; zero if it does not relay.
    pub strength: u16,
}
