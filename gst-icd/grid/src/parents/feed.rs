//! One stripe, as this node receives it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::ids::{NodeId, PeerId, Seq};
use crate::message::Candidate;

/// Who was named as the next parent is waited for: a dial and a hello.
pub(super) const SUGGESTED: Duration = Duration::from_millis(500);
/// A stripe on loan for so long found none.
pub(super) const LONG_LENT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) peer: PeerId,
    pub(super) until: Instant,
}

/// One stripe, as this node receives it.
#[derive(Debug)]
pub struct Feed {
    pub(super) parent: Option<PeerId>,
    pub(super) lease: bool,
    pub(super) pending: Option<Pending>,
    pub(super) last: Option<Seq>,
    pub(super) heard: Instant,
    /// When another stripe showed that a piece of this one is due.
    pub(super) passed: Option<Instant>,
    /// How late this stripe usually is against the first of the others.
    pub(super) lateness: Duration,
    /// Since when nobody brings it: who takes it and sends nothing does not end that.
    pub(super) orphan_since: Option<Instant>,
    /// The parent that it lost was fed by the seed.
    pub(super) at_the_top: bool,
    /// Who feeds the parent, or fed the last one; none: the seed.
    pub(super) above: Option<Candidate>,
    pub(super) asked_seed: Option<Instant>,
    pub(super) path: Vec<u64>,
    pub(super) refused: BTreeMap<PeerId, Instant>,
    /// The parent feeds it only until then.
    pub(super) ends: Option<Instant>,
    /// Who feeds it from now on, says the parent; it is waited for until then.
    pub(super) suggested: Option<(NodeId, Instant)>,
    /// Who is asked although the parent feeds it well, since it is nearer to the seed.
    pub(super) climb: Option<(NodeId, Instant)>,
    pub(super) since: Instant,
    /// It comes by too many nodes: another parent is looked for, and this one is kept until then.
    pub(super) deep: bool,
    /// It comes with gaps: the same.
    pub(super) poor: bool,
    /// Pieces that had to be pulled since it has this parent, fading away.
    pub(super) gaps: f64,
    pub(super) gap_at: Instant,
}

impl Feed {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            parent: None,
            lease: false,
            pending: None,
            last: None,
            heard: now,
            passed: None,
            lateness: Duration::ZERO,
            orphan_since: Some(now),
            at_the_top: false,
            above: None,
            asked_seed: None,
            path: Vec::new(),
            refused: BTreeMap::new(),
            ends: None,
            suggested: None,
            climb: None,
            since: now,
            deep: false,
            poor: false,
            gaps: 0.0,
            gap_at: now,
        }
    }

    /// Who pushes it.
    pub fn parent(&self) -> Option<PeerId> {
        self.parent
    }

    /// Whether it is a loan of the seed.
    pub fn leased(&self) -> bool {
        self.lease && self.parent.is_some()
    }

    /// The nodes that it passes, the parent last.
    pub fn path(&self) -> &[u64] {
        &self.path
    }

    /// The newest piece that came on it.
    pub fn last(&self) -> Option<Seq> {
        self.last
    }

    /// Who feeds the parent, or fed the last one; none: the seed.
    pub fn above(&self) -> Option<&Candidate> {
        self.above.as_ref()
    }

    /// Whether nobody feeds it, or only the seed for want of another.
    pub(super) fn needy(&self, now: Instant) -> bool {
        let long = now.saturating_duration_since(self.since) >= LONG_LENT;
        self.parent.is_none() || (self.lease && long)
    }

    /// Whether another parent is looked for.
    pub(super) fn wants(&self) -> bool {
        let moves = self.ends.is_some() || self.climb.is_some();
        self.parent.is_none() || self.lease || moves || self.deep || self.poor
    }

    pub(super) fn detach(&mut self, now: Instant) {
        self.parent = None;
        self.lease = false;
        self.at_the_top = self.path.len() == 1;
        self.path.clear();
        // Who fed the parent has the stripe, and a child less.
        self.suggested = self.above().map(|above| (above.node, now + SUGGESTED));
        self.orphan_since.get_or_insert(now);
        self.passed = None;
        self.ends = None;
        self.deep = false;
        self.poor = false;
    }
}
