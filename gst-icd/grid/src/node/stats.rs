//! The figures of a node, typed until the edge.

use std::net::SocketAddr;
use std::time::Duration;

use crate::ids::{Epoch, NodeId, Seq};
use crate::node::Status;

/// Counts durations in steps of 10 ms up to 5 s.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u32>,
    count: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; 512],
            count: 0,
            max: Duration::ZERO,
        }
    }
}

impl Histogram {
    /// Takes one value.
    pub fn add(&mut self, value: Duration) {
        let bucket = (value.as_millis() as usize / 10).min(self.buckets.len() - 1);
        self.buckets[bucket] = self.buckets[bucket].saturating_add(1);
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// The upper edge of the bucket that holds this share of the values.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut left = (self.count as f64 * share).ceil() as u64;
        for (bucket, count) in self.buckets.iter().enumerate() {
            let last = bucket + 1 == self.buckets.len();
            if u64::from(*count) >= left && left > 0 && !last {
                return Duration::from_millis((bucket as u64 + 1) * 10).min(self.max);
            }
            left = left.saturating_sub(u64::from(*count));
        }
        self.max
    }

    /// How many values were taken.
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// One connection.
#[derive(Debug, Clone)]
pub struct PeerStats {
    /// Its key.
    pub id: NodeId,
    /// Where.
    pub addr: SocketAddr,
    /// It is the seed.
    pub seed: bool,
    /// Round trip.
    pub rtt: Duration,
    /// Piece bytes from it.
    pub bytes_received: u64,
    /// Piece bytes to it.
    pub bytes_sent: u64,
    /// Stripes that it pushes to this node.
    pub stripes_from: Vec<u8>,
    /// Stripes that this node pushes to it.
    pub stripes_to: Vec<u8>,
}

/// A node at one moment. Counters run from its start.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// How a viewer is doing.
    pub status: Status,
    /// The seed's life.
    pub epoch: Epoch,
    /// Newest piece.
    pub head: Option<Seq>,
    /// Stripes of the stream.
    pub stripes: u8,
    /// Mean rate of the stream on the wire, bytes per second.
    pub bytes_per_second: u64,
    /// Seed: viewers admitted. Viewer: connections to others.
    pub members: u64,
    /// Bytes of stream in memory.
    pub buffer_bytes: u64,
    /// Piece bytes from the seed.
    pub bytes_from_seed: u64,
    /// Piece bytes from viewers.
    pub bytes_from_peers: u64,
    /// Piece bytes to others.
    pub bytes_sent: u64,
    /// Seed: payload bytes that entered.
    pub bytes_in: u64,
    /// Pieces that came twice.
    pub duplicates: u64,
    /// Pieces that came because they were pulled.
    pub rescued: u64,
    /// Pieces that were not there when due.
    pub lost: u64,
    /// Stripes that changed parents after a failure.
    pub failovers: u64,
    /// Pieces whose push expired in the uplink queue.
    pub expired: u64,
    /// Slots of the uplink.
    pub slots: u64,
    /// Slots in use.
    pub slots_used: u64,
    /// From L(T) to verified arrival, of pushed and pulled pieces.
    pub lag: Histogram,
    /// How wrong the map of clocks may be.
    pub clock_error: Duration,
    /// Seed: viewers that asked for admission in vain.
    pub refused: u64,
    /// Sum of what viewers last reported (seed).
    pub viewers_from_seed: u64,
    /// As above, from viewers.
    pub viewers_from_peers: u64,
    /// Pieces that viewers reported lost.
    pub viewers_lost: u64,
    /// All connections.
    pub peers: Vec<PeerStats>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_bucket_edges() {
        let mut h = Histogram::default();
        assert_eq!(h.quantile(0.5), Duration::ZERO);
        for ms in 0..100 {
            h.add(Duration::from_millis(ms));
        }
        assert_eq!(h.quantile(0.5), Duration::from_millis(50));
        assert_eq!(h.quantile(0.99), Duration::from_millis(99));
        h.add(Duration::from_secs(60));
        assert_eq!(h.quantile(1.0), Duration::from_secs(60));
    }
}
