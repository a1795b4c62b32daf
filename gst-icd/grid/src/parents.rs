//! Who feeds me which stripe, and whom to ask instead.

mod feed;
mod gaps;
mod marks;
mod neighbour;
mod seek;
mod silence;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::children::{LEAVING, outweighs};
use crate::ids::{NodeId, PeerId, Seq, StripeId};
use crate::message::{Candidate, DEEPEST, MAX_DEPTH};
use crate::rescue::Hope;

pub use feed::Feed;
use feed::{Pending, SUGGESTED};
use marks::Marks;
pub use neighbour::{Neighbour, Standing};

/// A peer that said no for a stripe is not asked for it again for this long.
const REFUSED: Duration = Duration::from_millis(800);

/// One that fed it with gaps, for this long.
const POOR: Duration = Duration::from_secs(10);
/// A stripe that moved stays for so long before it goes up.
const STEADY: Duration = Duration::from_secs(1);
/// That of one from which many shall live, for less.
const SOON_STEADY: Duration = Duration::from_millis(400);

/// What to do about a stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Ask for it.
    Subscribe {
        /// Whom.
        peer: PeerId,
        /// Which.
        stripe: StripeId,
        /// As a loan of the seed.
        lease: bool,
    },
    /// Tell a former parent to stop.
    Leave {
        /// Whom.
        peer: PeerId,
        /// Which.
        stripe: StripeId,
    },
    /// This parent is silent on all its stripes.
    Dead(PeerId),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Parents {
    feeds: Vec<Feed>,
    round: Duration,
    start_head: Option<Seq>,
    heard: BTreeMap<PeerId, Instant>,
    dead: BTreeMap<PeerId, Instant>,
    marks: Marks,
}

impl Parents {
    /// Begins anew with this many stripes, each of which carries a piece per `round`.
    pub fn reset(&mut self, stripes: u8, round: Duration, now: Instant) {
        self.feeds = (0..stripes).map(|_| Feed::new(now)).collect();
        self.round = round;
        self.heard.clear();
        self.dead.clear();
    }

    /// The stream begins with what was made before this one, the past.
    pub fn begins(&mut self, head: Seq) {
        self.start_head = Some(head);
    }

    /// Others are dialed: what nobody feeds is no orphan before then.
    pub fn meets(&mut self, until: Instant) {
        for feed in self.feeds.iter_mut().filter(|f| f.parent.is_none()) {
            feed.orphan_since = Some(until);
        }
    }

    /// A neighbour said something: it lives.
    pub fn spoke(&mut self, peer: PeerId, now: Instant) {
        self.heard.insert(peer, now);
        self.dead.remove(&peer);
    }

    /// All stripes.
    pub fn feeds(&self) -> impl Iterator<Item = (StripeId, &Feed)> {
        self.feeds
            .iter()
            .enumerate()
            .map(|(k, f)| (StripeId(k as u8), f))
    }

    /// One stripe.
    pub fn feed(&self, stripe: StripeId) -> Option<&Feed> {
        self.feeds.get(stripe.index())
    }

    /// How many stripes this peer pushes.
    pub fn count(&self, peer: PeerId) -> usize {
        self.feeds.iter().filter(|f| f.parent == Some(peer)).count()
    }

    /// Whether this peer fell silent and has said nothing since.
    pub fn is_dead(&self, peer: PeerId) -> bool {
        self.dead.contains_key(&peer)
    }

    /// Whether this peer pushes a stripe, was asked for one, or feeds one a little longer.
    pub fn concerns(&self, peer: PeerId) -> bool {
        let asked = |f: &Feed| f.pending.as_ref().is_some_and(|p| p.peer == peer);
        self.feeds
            .iter()
            .any(|f| f.parent == Some(peer) || asked(f))
    }

    /// The seed pushes a stripe from now on without having been asked.
    pub fn lent(&mut self, seed: PeerId, stripe: StripeId, now: Instant) {
        self.accepted(seed, stripe, Vec::new(), true, now);
    }

    /// A piece came. `from` pushed it, or it was pulled or backlog.
    pub fn arrived(&mut self, seq: Seq, from: PeerId, now: Instant) {
        let stripes = self.feeds.len() as u64;
        if stripes == 0 {
            return;
        }
        let own = seq.stripe(stripes as u8).index();
        self.spoke(from, now);
        for (k, feed) in self.feeds.iter_mut().enumerate() {
            if k == own {
                if feed.last.is_none_or(|last| seq > last) && feed.parent == Some(from) {
                    feed.last = Some(seq);
                    feed.heard = now;
                    feed.orphan_since = None;
                    if let Some(at) = feed.passed.take() {
                        let late = now.saturating_duration_since(at);
                        feed.lateness = (feed.lateness * 7 + late) / 8;
                    } else {
                        feed.lateness = feed.lateness * 7 / 8;
                    }
                }
            } else if feed.passed.is_none() && feed.last.is_none_or(|last| seq > last.plus(stripes))
            {
                // A new parent may have much to catch up with, but not nothing to say.
                feed.passed = Some(now);
            }
        }
    }

    /// A peer takes the subscription. What is to be told to the former parent, if there is one.
    pub fn accepted(
        &mut self,
        peer: PeerId,
        stripe: StripeId,
        path: Vec<u64>,
        lease: bool,
        now: Instant,
    ) -> Option<Step> {
        let feed = self.feeds.get_mut(stripe.index())?;
        if feed.pending.as_ref().is_some_and(|p| p.peer == peer) {
            feed.pending = None;
        }
        let former = feed.parent.replace(peer).filter(|old| *old != peer);
        feed.lease = lease;
        feed.path = path;
        feed.above = None;
        feed.heard = now;
        feed.passed = None;
        feed.ends = None;
        feed.suggested = None;
        feed.climb = None;
        feed.since = now;
        if let Some(old) = former.filter(|_| feed.poor) {
            feed.refused.insert(old, now + POOR);
        }
        feed.deep = false;
        feed.poor = false;
        feed.gaps = 0.0;
        self.heard.insert(peer, now);
        former.map(|peer| Step::Leave { peer, stripe })
    }

    /// A peer does not take the subscription, and may name who does.
    pub fn rejected(
        &mut self,
        peer: PeerId,
        stripe: StripeId,
        instead: Option<NodeId>,
        now: Instant,
    ) {
        if let Some(feed) = self.feeds.get_mut(stripe.index()) {
            if feed.pending.as_ref().is_some_and(|p| p.peer == peer) {
                feed.pending = None;
                feed.climb = None;
                if let Some(node) = instead.filter(|_| feed.parent.is_none()) {
                    feed.suggested = Some((node, now + SUGGESTED));
                }
            }
            feed.refused.insert(peer, now + REFUSED);
        }
    }

    /// The parent no longer pushes a stripe, or only until another, who is named, does. False if
    /// this peer is not its parent, or goes on for a moment.
    pub fn evicted(
        &mut self,
        peer: PeerId,
        stripe: StripeId,
        go_to: Option<NodeId>,
        now: Instant,
    ) -> bool {
        let Some(feed) = self.feeds.get_mut(stripe.index()) else {
            return false;
        };
        feed.refused.insert(peer, now + REFUSED);
        if feed.parent != Some(peer) {
            return false;
        }
        if let Some(node) = go_to {
            feed.ends = Some(now + LEAVING);
            feed.suggested = Some((node, now + SUGGESTED));
            return false;
        }
        feed.detach(now);
        true
    }

    /// The path of a stripe changed; whether it now runs through `me`, which is a loop.
    pub fn path_changed(
        &mut self,
        peer: PeerId,
        stripe: StripeId,
        path: Vec<u64>,
        me: u64,
    ) -> Path {
        match self.feeds.get_mut(stripe.index()) {
            Some(feed) if feed.parent == Some(peer) => {
                if path.contains(&me) || path.len() > DEEPEST {
                    return Path::Useless;
                }
                if feed.path == path {
                    return Path::Same;
                }
                // It came to lie so deep while it was fed: it is fed until it has found another place.
                feed.deep |= path.len() > MAX_DEPTH;
                feed.path = path;
                Path::Changed
            }
            _ => Path::Same,
        }
    }

    /// The parent of a stripe says who feeds it.
    pub fn fed_by(&mut self, stripe: StripeId, above: Option<Candidate>) {
        if let Some(feed) = self.feeds.get_mut(stripe.index()) {
            feed.above = above;
        }
    }

    /// The parent of a stripe lends it, or no longer does.
    pub fn set_lease(&mut self, stripe: StripeId, lease: bool) {
        if let Some(feed) = self.feeds.get_mut(stripe.index()) {
            feed.lease = lease;
        }
    }

    /// A loan became a place to keep.
    pub fn rooted(&mut self, seed: PeerId, stripe: StripeId) {
        if let Some(feed) = self.feeds.get_mut(stripe.index())
            && feed.parent == Some(seed)
        {
            feed.lease = false;
            feed.ends = None;
            feed.suggested = None;
            // Who was asked before comes too late: all below live from this place.
            feed.pending = None;
            feed.climb = None;
        }
    }

    /// The connection is gone.
    pub fn forget(&mut self, peer: PeerId, now: Instant) {
        self.heard.remove(&peer);
        self.dead.remove(&peer);
        for feed in &mut self.feeds {
            if feed.parent == Some(peer) {
                feed.detach(now);
            }
            feed.pending.take_if(|p| p.peer == peer);
            feed.refused.remove(&peer);
        }
    }

    /// What may still bring this piece.
    pub fn hope(&self, seq: Seq) -> Hope {
        let stripe = (!self.feeds.is_empty()).then(|| seq.stripe(self.feeds.len() as u8));
        match stripe.and_then(|stripe| self.feed(stripe)) {
            Some(feed) if feed.parent.is_some() => match feed.last {
                Some(last) if last > seq => Hope::LeftOut {
                    nodes: feed.path.len(),
                },
                _ => Hope::Push,
            },
            _ => Hope::Parent,
        }
    }

    /// Whether a stripe has no parent, or only the seed for want of another.
    pub fn needy(&self, stripe: StripeId, now: Instant) -> bool {
        self.feed(stripe).is_none_or(|feed| feed.needy(now))
    }

    /// Whom this node asked and has not heard from, for the given stripe.
    pub fn is_pending(&self, peer: PeerId, stripe: StripeId) -> bool {
        self.feed(stripe)
            .is_some_and(|f| f.pending.as_ref().is_some_and(|p| p.peer == peer))
    }

    /// The seed asks this node to take a stripe from it.
    pub fn invited(&mut self, seed: PeerId, stripe: StripeId, now: Instant) -> Option<Step> {
        let feed = self.feeds.get_mut(stripe.index())?;
        if feed.parent == Some(seed) && !feed.lease {
            return None;
        }
        feed.pending = Some(Pending {
            peer: seed,
            until: now + Duration::from_secs(1),
        });
        Some(Step::Subscribe {
            peer: seed,
            stripe,
            lease: false,
        })
    }

    /// Stripes that the same viewer has fed for a while, a short one if that is all that `hurry` leaves, with
    /// that viewer.
    pub fn steady(&self, hurry: bool, now: Instant) -> impl Iterator<Item = (StripeId, PeerId)> {
        let rest = if hurry { SOON_STEADY } else { STEADY };
        let steady = move |feed: &Feed| {
            let rested = now.saturating_duration_since(feed.since) > rest;
            (rested && !feed.wants() && feed.pending.is_none()).then_some(())
        };
        self.feeds().filter_map(move |(k, feed)| {
            steady(feed)?;
            Some((k, feed.parent?))
        })
    }

    /// A stripe that is fed well shall come from nearer to the seed.
    pub fn climb(&mut self, stripe: StripeId, to: NodeId, now: Instant) {
        if let Some(feed) = self.feeds.get_mut(stripe.index()) {
            feed.climb = Some((to, now + SUGGESTED));
        }
    }
}

/// What a new path means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Nothing new.
    Same,
    /// The children must be told.
    Changed,
    /// This node is its own ancestor, or the way is too long.
    Useless,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::parents) const MS: Duration = Duration::from_millis(1);
    pub(in crate::parents) const SEED: PeerId = PeerId(1);
    pub(in crate::parents) const WEAK: Standing = Standing { strength: 0 };

    pub(in crate::parents) fn neighbour(peer: u64, spare: u16) -> Neighbour<'static> {
        Neighbour {
            peer: PeerId(peer),
            id: NodeId([peer as u8; 32]),
            seed: peer == SEED.0,
            spare,
            reserve: 0,
            weakest: &[],
            since: 0,
            proven: true,
            rtt: 10 * MS,
            lag: 50 * MS,
            heads: &[Some(Seq(1000)); 4],
        }
    }

    pub(in crate::parents) fn fed(by: &[u64]) -> (Parents, Instant) {
        let now = Instant::now();
        let mut parents = Parents::default();
        parents.reset(4, 160 * MS, now);
        for (k, peer) in by.iter().enumerate() {
            parents.accepted(PeerId(*peer), StripeId(k as u8), vec![*peer], false, now);
        }
        (parents, now)
    }

    #[test]
    fn an_invitation_is_followed_by_who_has_the_stripe_on_loan() {
        let (mut parents, now) = fed(&[1, 2]);
        let (kept, other) = (StripeId(0), StripeId(1));
        assert_eq!(parents.invited(SEED, kept, now), None, "it is a root");
        parents.set_lease(kept, true);
        for stripe in [kept, other] {
            let subscribes = Step::Subscribe {
                peer: SEED,
                stripe,
                lease: false,
            };
            assert_eq!(parents.invited(SEED, stripe, now), Some(subscribes));
        }
    }

    #[test]
    fn who_is_a_root_again_stays_one() {
        let (mut parents, now) = fed(&[1]);
        let stripe = StripeId(0);
        parents.evicted(SEED, stripe, Some(NodeId([7; 32])), now);
        parents.rooted(SEED, stripe);
        let mut rng = fastrand::Rng::with_seed(1);
        parents.tick(&[neighbour(1, 0)], WEAK, &mut rng, now + 2 * LEAVING);
        assert_eq!(parents.feed(stripe).and_then(|f| f.parent()), Some(SEED));
    }

    #[test]
    fn a_path_through_oneself_is_a_loop() {
        let (mut parents, _) = fed(&[2]);
        let stripe = StripeId(0);
        assert_eq!(
            parents.path_changed(PeerId(2), stripe, vec![9, 2], 7),
            Path::Changed
        );
        assert_eq!(
            parents.path_changed(PeerId(2), stripe, vec![9, 2], 7),
            Path::Same
        );
        assert_eq!(
            parents.path_changed(PeerId(2), stripe, vec![7, 2], 7),
            Path::Useless
        );
        assert_eq!(
            parents.path_changed(PeerId(3), stripe, vec![7, 3], 7),
            Path::Same
        );
    }
}
