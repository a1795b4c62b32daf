//! Who feeds me which stripe, and whom to ask instead.

mod feed;
mod marks;
mod silence;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::children::{LEAVING, outweighs};
use crate::ids::{NodeId, PeerId, Seq, StripeId};
use crate::message::{Candidate, DEEPEST, MAX_DEPTH};

pub use feed::Feed;
use feed::{Pending, SUGGESTED};
use marks::Marks;

/// An orphan asks the seed after this time without finding a peer.
const ORPHAN: Duration = Duration::from_millis(150);
/// An orphan for so long asks the seed first: peers said no, or nothing, twice or more.
const LONG_ORPHAN: Duration = Duration::from_millis(350);
/// A stripe on loan stays with the seed until it is so many rounds behind the newest at most:
/// what is not here yet, another would have to begin with.
const CAUGHT_UP: u64 = 2;
/// But not for longer than this: a seed that lends more than it can send would keep it for ever.
const CATCH_UP: Duration = Duration::from_millis(600);
const SEED_RETRY: Duration = Duration::from_millis(400);
/// A peer that said no for a stripe is not asked for it again for this long.
const REFUSED: Duration = Duration::from_millis(800);

/// Taking another's place costs it a move: a free slot that is so much farther is as good.
const INSERTION: Duration = Duration::from_millis(100);
/// What a neighbour keeps for those that find no other parent is asked for last.
const RESERVE: Duration = Duration::from_secs(1);
/// A stripe that moved stays for so long before it goes up.
const STEADY: Duration = Duration::from_secs(1);
/// That of one from which many shall live, for less.
const SOON_STEADY: Duration = Duration::from_millis(400);

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
        feed.orphan_since = None;
        feed.ends = None;
        feed.suggested = None;
        feed.climb = None;
        feed.since = now;
        feed.deep = false;
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

    /// Whether no push will bring this piece: its stripe has no parent, or the parent has sent
    /// later ones.
    pub fn detached(&self, seq: Seq) -> bool {
        if self.feeds.is_empty() {
            return true;
        }
        self.feed(seq.stripe(self.feeds.len() as u8))
            .is_none_or(|f| f.parent.is_none() || f.last.is_some_and(|last| last > seq))
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

    /// Looks for silence, and for parents where they lack, are only lent, or end.
    pub fn tick(
        &mut self,
        neighbours: &[Neighbour<'_>],
        standing: Standing,
        rng: &mut fastrand::Rng,
        now: Instant,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        self.dead.retain(|_, until| *until > now);
        self.find_silence(neighbours, rng, &mut steps, now);
        self.marks.forget(now);
        for feed in &mut self.feeds {
            if feed.ends.is_some_and(|at| at <= now) {
                feed.detach(now);
            }
            feed.climb.take_if(|(_, until)| *until <= now);
        }
        if !self.feeds.iter().any(Feed::wants) {
            return steps;
        }
        let mut load: BTreeMap<PeerId, usize> = BTreeMap::new();
        for feed in &self.feeds {
            for peer in feed
                .parent
                .iter()
                .chain(feed.pending.iter().map(|p| &p.peer))
            {
                *load.entry(*peer).or_default() += 1;
            }
        }
        let newest = self.feeds.iter().filter_map(|f| f.last).max();
        let stripes = self.feeds.len();
        // Not always in the same order, so that a lack is not always the last stripe's.
        let first = rng.usize(..stripes.max(1));
        for k in (0..stripes).map(|k| (k + first) % stripes) {
            let feed = &mut self.feeds[k];
            if !feed.wants() {
                continue;
            }
            if let Some(pending) = &feed.pending {
                if pending.until > now {
                    continue;
                }
                feed.refused.insert(pending.peer, now + REFUSED);
                feed.pending = None;
            }
            feed.refused.retain(|_, until| *until > now);
            // The seed still sends the past on loan; another would have to begin with it anew.
            let rounds = CAUGHT_UP * stripes as u64;
            let past = newest.max(self.start_head);
            let caught_up = |last: Seq| past.is_some_and(|n| last.plus(rounds) >= n);
            let patient = now.saturating_duration_since(feed.since) < CATCH_UP;
            if feed.leased() && patient && !feed.last.is_some_and(caught_up) {
                continue;
            }
            let stripe = StripeId(k as u8);
            let fresh = |n: &Neighbour<'_>| {
                let head = n.heads.get(k).copied().flatten();
                match (head, newest) {
                    (_, None) => true,
                    (None, _) => false,
                    (Some(head), Some(newest)) => {
                        head.plus(6 * stripes as u64 + 20 + n.since) >= newest
                    }
                }
            };
            let usable = |n: &&Neighbour<'_>| {
                !n.seed
                    && !self.dead.contains_key(&n.peer)
                    && !feed.refused.contains_key(&n.peer)
                    && feed.parent != Some(n.peer)
                    && fresh(n)
            };
            let climbs = feed.climb.filter(|_| feed.parent.is_some() && !feed.lease);
            let suggested = climbs.or(feed.suggested).filter(|(_, until)| *until > now);
            let named = suggested.and_then(|(id, _)| neighbours.iter().find(|n| n.id == id));
            if climbs.is_some() && feed.ends.is_none() && !named.is_some_and(|n| usable(&n)) {
                continue;
            }
            if suggested.is_some() && named.is_none() && feed.parent.is_some() {
                // It is being dialed, and the stripe comes meanwhile.
                continue;
            }
            // The strong go up: there is a place where a child is weaker.
            let weaker = |n: &Neighbour<'_>| {
                let weakest = n.weakest.get(k).copied().flatten();
                weakest.is_some_and(|w| outweighs(standing.strength, w))
            };
            let needy = feed.needy(now);
            let marks = |n: &Neighbour<'_>| self.marks.of(&n.id, now);
            let good = |n: &&Neighbour<'_>| marks(n) == 0;
            let best = named.filter(usable).filter(good).or_else(|| {
                neighbours
                    .iter()
                    .filter(usable)
                    .filter(|n| n.spare > 0 || weaker(n) || (needy && n.reserve > 0))
                    .min_by_key(|n| {
                        let load = load.get(&n.peer).copied().unwrap_or(0) as u32;
                        let jitter = Duration::from_millis(rng.u64(0..50));
                        let pushes = if n.spare > 0 {
                            Duration::ZERO
                        } else if weaker(n) {
                            INSERTION
                        } else {
                            RESERVE
                        };
                        (
                            marks(n),
                            n.lag + n.rtt / 2 + Duration::from_millis(40) * load + jitter + pushes,
                            n.peer,
                        )
                    })
            });
            let orphan = match (feed.parent, feed.orphan_since) {
                (None, Some(at)) => now.saturating_duration_since(at),
                _ => Duration::ZERO,
            };
            let rested = |at: Instant| now.saturating_duration_since(at) >= SEED_RETRY;
            // A root is gone: all that it fed are without the stripe, and cannot help each other.
            // The strong first: those send it to all others.
            let strong = standing.strength >= stripes as u16;
            let lost = feed.parent.is_none() && feed.at_the_top;
            let top = lost && (strong || orphan >= ORPHAN);
            let seed = neighbours.iter().find(|n| {
                n.seed && (top || orphan >= ORPHAN) && feed.asked_seed.is_none_or(rested)
            });
            let choice = match (best, seed) {
                (_, Some(seed)) if top || orphan >= LONG_ORPHAN => Some((seed, true)),
                (Some(best), _) => Some((best, false)),
                (None, seed) => seed.map(|seed| (seed, true)),
            };
            let Some((neighbour, lease)) = choice else {
                continue;
            };
            if lease {
                feed.asked_seed = Some(now);
            }
            *load.entry(neighbour.peer).or_default() += 1;
            feed.pending = Some(Pending {
                peer: neighbour.peer,
                until: now + neighbour.rtt * 3 / 2 + Duration::from_millis(120),
            });
            steps.push(Step::Subscribe {
                peer: neighbour.peer,
                stripe,
                lease,
            });
        }
        steps
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
    fn who_became_a_root_does_not_follow_whom_it_asked_before() {
        let (mut parents, now) = fed(&[1]);
        let stripe = StripeId(0);
        parents.set_lease(stripe, true);
        parents.arrived(Seq(1000), SEED, now);
        let mut rng = fastrand::Rng::with_seed(1);
        let around = [neighbour(1, 0), neighbour(2, 5)];
        parents.tick(&around, WEAK, &mut rng, now + CATCH_UP);
        assert!(parents.is_pending(PeerId(2), stripe));
        parents.rooted(SEED, stripe);
        assert!(!parents.is_pending(PeerId(2), stripe));
    }

    #[test]
    fn what_a_neighbour_keeps_in_reserve_is_asked_for_by_who_finds_nothing_else() {
        let (mut parents, now) = fed(&[1]);
        let stripe = StripeId(0);
        parents.set_lease(stripe, true);
        parents.arrived(Seq(1000), SEED, now);
        let mut rng = fastrand::Rng::with_seed(1);
        let kept = Neighbour {
            reserve: 1,
            ..neighbour(2, 0)
        };
        let around = [neighbour(1, 0), kept];
        let early = now + feed::LONG_LENT - MS;
        parents.tick(&around, WEAK, &mut rng, early);
        assert!(!parents.is_pending(PeerId(2), stripe));
        parents.tick(&around, WEAK, &mut rng, now + feed::LONG_LENT);
        assert!(parents.is_pending(PeerId(2), stripe));
    }

    #[test]
    fn who_finds_nobody_asks_the_seed_for_a_loan() {
        let now = Instant::now();
        let mut parents = Parents::default();
        parents.reset(1, 160 * MS, now);
        let mut rng = fastrand::Rng::with_seed(1);
        let around = [neighbour(1, 0), neighbour(2, 0)];
        assert!(parents.tick(&around, WEAK, &mut rng, now).is_empty());
        let steps = parents.tick(&around, WEAK, &mut rng, now + ORPHAN);
        let loan = Step::Subscribe {
            peer: SEED,
            stripe: StripeId(0),
            lease: true,
        };
        assert_eq!(steps, [loan]);
    }

    #[test]
    fn who_loses_a_parent_asks_the_one_above_it() {
        let (mut parents, now) = fed(&[2]);
        let stripe = StripeId(0);
        let above = Candidate {
            node: NodeId([4; 32]),
            addr: "10.0.0.4:7423".parse().unwrap(),
            spare: 0,
        };
        parents.fed_by(stripe, Some(above));
        let mut rng = fastrand::Rng::with_seed(1);
        // It has no slot free but that of the lost one; the other has, and is nearer.
        let far = Neighbour {
            rtt: 200 * MS,
            ..neighbour(4, 0)
        };
        let around = [neighbour(3, 5), far];
        assert!(parents.evicted(PeerId(2), stripe, None, now));
        let steps = parents.tick(&around, WEAK, &mut rng, now);
        let asked = Step::Subscribe {
            peer: PeerId(4),
            stripe,
            lease: false,
        };
        assert!(steps.contains(&asked), "{steps:?}");
    }

    #[test]
    fn whose_parent_was_a_root_asks_the_seed_first_and_the_strong_at_once() {
        let (stripe, copy) = (StripeId(0), Standing { strength: 4 });
        let mut rng = fastrand::Rng::with_seed(1);
        let around = [neighbour(1, 0), neighbour(3, 5)];
        let mut asked = |standing, path: &[u64], ms: u32| {
            let (mut parents, now) = fed(&[2]);
            parents.path_changed(PeerId(2), stripe, path.to_vec(), 7);
            parents.evicted(PeerId(2), stripe, None, now);
            let steps = parents.tick(&around, standing, &mut rng, now + ms * MS);
            let of = |step: &Step| match step {
                Step::Subscribe { peer, stripe, .. } if stripe.0 == 0 => Some(*peer),
                _ => None,
            };
            steps.iter().find_map(of)
        };
        assert_eq!(asked(copy, &[2], 0), Some(SEED));
        assert_eq!(asked(copy, &[8, 2], 0), Some(PeerId(3)));
        assert_eq!(asked(WEAK, &[2], 0), Some(PeerId(3)));
        assert_eq!(asked(WEAK, &[2], 150), Some(SEED));
        assert_eq!(asked(WEAK, &[8, 2], 150), Some(PeerId(3)));
    }

    #[test]
    fn whom_the_seed_names_instead_of_a_loan_is_asked() {
        let (mut parents, now) = fed(&[2]);
        let stripe = StripeId(0);
        parents.evicted(PeerId(2), stripe, None, now);
        let mut rng = fastrand::Rng::with_seed(1);
        let far = Neighbour {
            rtt: 200 * MS,
            ..neighbour(4, 0)
        };
        let around = [neighbour(1, 0), neighbour(3, 5), far];
        let strong = Standing { strength: 4 };
        parents.tick(&around, strong, &mut rng, now);
        assert!(parents.is_pending(SEED, stripe));
        parents.rejected(SEED, stripe, Some(NodeId([4; 32])), now);
        parents.tick(&around, strong, &mut rng, now);
        assert!(parents.is_pending(PeerId(4), stripe));
    }

    #[test]
    fn others_are_greeted_before_the_seed_is_asked() {
        let now = Instant::now();
        let mut parents = Parents::default();
        parents.reset(1, 160 * MS, now);
        parents.meets(now + 300 * MS);
        let mut rng = fastrand::Rng::with_seed(1);
        let around = [neighbour(1, 0)];
        let mut asks = |at| !parents.tick(&around, WEAK, &mut rng, at).is_empty();
        assert!(!asks(now + 299 * MS));
        assert!(!asks(now + 300 * MS + ORPHAN - MS));
        assert!(asks(now + 300 * MS + ORPHAN));
    }

    #[test]
    fn a_loan_is_given_back_when_a_peer_has_room() {
        let now = Instant::now();
        let mut parents = Parents::default();
        parents.reset(1, 160 * MS, now);
        parents.lent(SEED, StripeId(0), now);
        let mut rng = fastrand::Rng::with_seed(1);
        let around = [neighbour(1, 0), neighbour(2, 1)];
        let early = parents.tick(&around, WEAK, &mut rng, now);
        assert_eq!(early, [], "the seed sends the past first");
        parents.arrived(Seq(1000), SEED, now);
        let steps = parents.tick(&around, WEAK, &mut rng, now);
        assert!(matches!(
            steps[..],
            [Step::Subscribe {
                peer: PeerId(2),
                lease: false,
                ..
            }]
        ));
        let leave = parents.accepted(PeerId(2), StripeId(0), vec![2], false, now);
        assert_eq!(
            leave,
            Some(Step::Leave {
                peer: SEED,
                stripe: StripeId(0)
            })
        );
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
