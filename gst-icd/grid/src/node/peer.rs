//! One connection, as a node knows it.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::bucket::Bucket;
use crate::cutter::Format;
use crate::ids::{NodeId, Seq};
use crate::message::Have;
use crate::node::introduce::Meets;
use crate::token::Binding;

/// Nonsense that is forgiven, once and each second: the seed may just have begun another life.
pub(super) const MAX_NONSENSE: u32 = 64;
pub(super) const FORGIVEN: f64 = 1.0;
/// Messages of one peer, at once and each second; in trouble some dozens are usual.
pub(super) const MAX_MESSAGES: u32 = 1024;
pub(super) const MESSAGES: f64 = 256.0;
/// Headers that one peer is given, at once and each second.
pub(super) const MAX_GIVEN: u32 = 16;
pub(super) const GIVEN: f64 = 2.0;
/// Pieces that one peer may pull, at once and each second: an outage of all stripes is less than the former, and
/// what is missing now and then less than the latter. More are refused, so that who asks knows that this node hears.
pub(super) const MAX_PULLED: u32 = 48;
pub(super) const PULLED: f64 = 1.0;
/// Refusals of pieces that one peer hears, at once and each second: of more it is told nothing, as that costs those
/// who are fed.
pub(super) const MAX_NAKS: u32 = 96;
pub(super) const NAKS: f64 = 24.0;
/// One counts as so many where slots are free: who stood still for longer than its buffer lasts has seconds to pull,
/// and may lose a parent soon after.
pub(super) const SPARE: f64 = 0.25;
/// Pieces to come that one peer gets elsewhere; of more, the newest count.
const MAX_ELSEWHERE: usize = 64;

/// One connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: NodeId,
    /// Where this node sees it.
    pub(super) addr: SocketAddr,
    /// Where the seed sees it, who names it to others.
    pub(super) seen_at: SocketAddr,
    /// Where it is in its own network; the seed alone is told.
    pub(super) lan: Option<SocketAddr>,
    /// What only the two ends know.
    pub(super) binding: Binding,
    pub(super) since: Instant,
    /// It said hello and was let in.
    pub(super) ready: bool,
    pub(super) seed: bool,
    pub(super) relays: bool,
    /// It has sent a piece that was still to be shown, and that it was asked for or brings as a parent.
    pub(super) proven: bool,
    pub(super) have: Have,
    /// When it said that.
    pub(super) have_at: Instant,
    pub(super) rtt: Duration,
    /// What it was asked and has not answered, the newest last.
    pub(super) pinged: VecDeque<(u32, Instant)>,
    pub(super) ping_sent: Option<Instant>,
    pub(super) heard: Instant,
    /// When anything was sent to it.
    pub(super) told: Instant,
    /// When the buffer map was sent to it.
    pub(super) told_have: Instant,
    /// Whether it knows of a free slot here.
    pub(super) told_room: bool,
    pub(super) messages: Bucket,
    pub(super) nonsense: Bucket,
    /// Its connection ends: what it says no longer counts.
    pub(super) closing: bool,
    pub(super) given_header: Option<(u32, Instant)>,
    pub(super) headers: Bucket,
    pub(super) pulls: Bucket,
    pub(super) naks: Bucket,
    pub(super) meets: Meets,
    /// Pieces that are not here yet and that it gets elsewhere.
    elsewhere: BTreeSet<Seq>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// Least one-way delay seen, by the two nodes' own clocks, in microseconds.
    pub(super) least_owd_us: Option<(f64, Instant)>,
    pub(super) owd_ms: u16,
}

impl Peer {
    /// A connection that stands now.
    pub(super) fn new((id, addr, binding): (NodeId, SocketAddr, Binding), now: Instant) -> Self {
        Self {
            id,
            addr,
            seen_at: addr,
            lan: None,
            binding,
            since: now,
            ready: false,
            seed: false,
            relays: false,
            proven: false,
            have: Have::default(),
            have_at: now,
            rtt: Duration::from_millis(100),
            pinged: VecDeque::new(),
            ping_sent: None,
            heard: now,
            told: now,
            told_have: now,
            told_room: false,
            messages: Bucket::new(MAX_MESSAGES, now),
            nonsense: Bucket::new(MAX_NONSENSE, now),
            closing: false,
            given_header: None,
            headers: Bucket::new(MAX_GIVEN, now),
            pulls: Bucket::new(MAX_PULLED, now),
            naks: Bucket::new(MAX_NAKS, now),
            meets: Meets::new(now),
            elsewhere: BTreeSet::new(),
            bytes_in: 0,
            bytes_out: 0,
            least_owd_us: None,
            owd_ms: 0,
        }
    }

    /// What it said of pieces to come holds no more: others have their numbers.
    pub(super) fn needs_all(&mut self) {
        self.elsewhere.clear();
    }

    /// It gets a piece elsewhere that is not here yet.
    pub(super) fn gets_elsewhere(&mut self, seq: Seq) {
        self.elsewhere.insert(seq);
        if self.elsewhere.len() > MAX_ELSEWHERE {
            self.elsewhere.pop_first();
        }
    }

    /// Whether it gets a piece elsewhere; this is asked once, when the piece comes.
    pub(super) fn has_elsewhere(&mut self, seq: Seq) -> bool {
        self.elsewhere.remove(&seq)
    }

    /// For how long it has said nothing although it was pinged.
    pub(super) fn unanswered(&self, now: Instant) -> Duration {
        let oldest = self.pinged.front().filter(|(_, at)| self.heard < *at);
        oldest.map_or(Duration::ZERO, |(_, at)| now.saturating_duration_since(*at))
    }

    /// Pieces that were made since it told what it has.
    pub(super) fn made_since(&self, format: Option<Format>, now: Instant) -> u64 {
        let Some(format) = format else { return 0 };
        let since = now.saturating_duration_since(self.have_at);
        (since.as_secs_f64() / format.piece.as_secs_f64().max(0.001)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_gets_elsewhere_is_not_sent_once_and_little_is_kept() {
        let id = NodeId([1; 32]);
        let addr = ([127, 0, 0, 1], 1).into();
        let mut peer = Peer::new((id, addr, [0; 32]), Instant::now());
        (0..1000).for_each(|seq| peer.gets_elsewhere(Seq(seq)));
        assert_eq!(peer.elsewhere.len(), MAX_ELSEWHERE);
        assert!(peer.has_elsewhere(Seq(999)) && !peer.has_elsewhere(Seq(999)));
        assert!(!peer.has_elsewhere(Seq(0)));
        peer.needs_all();
        assert!(!peer.has_elsewhere(Seq(998)), "another epoch");
    }
}
