//! What a grid can do without, or otherwise: to see what each part of it is good for.

use std::time::Duration;

/// Grids run with the default; the simulator's self-checks take something out, and show that the
/// rest is too little (notes on the algorithm, section 4: ablations).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The strong take the places of the weak.
    pub insertion: bool,
    /// Pushes that waited for too long are dropped.
    pub expiry: bool,
    /// Roots that the seed feeds of each stripe.
    pub roots: u8,
    /// Stripes; none: by the stream's rate.
    pub stripes: Option<u8>,
    /// How much of the stream a piece holds; none: by the stream's rate.
    pub piece: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            insertion: true,
            expiry: true,
            roots: 1,
            stripes: None,
            piece: None,
        }
    }
}
