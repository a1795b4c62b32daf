//! Who takes each stripe from the seed and feeds all others.

use super::*;

/// A root that confirms nothing for this long is replaced (design: 350 ms).
const ROOT_SILENCE: Duration = Duration::from_millis(350);
/// An invitation that is not followed within two round trips and this lapses ...
const INVITED: Duration = Duration::from_millis(150);
/// ... and is not repeated for this long.
const MISSED: Duration = Duration::from_secs(3);
/// Who said nothing for so many times the time from one report to the next may be gone.
const QUIET: f64 = 1.5;
/// Places move for balance at most this often.
const BALANCE: Duration = Duration::from_secs(1);
/// ... and, where many live from it, only where a place is so many times harder to carry.
const MOVES: u64 = 2;
/// Where no more viewers live from a root, its place goes to any other, for a tenth.
const FEW: u32 = 32;
/// Who has a stripe on loan takes the root's place if so many times more viewers live from it.
const HEAVIER: u32 = 2;
/// A root that had so many children on its stripe, and has so many times fewer left, keeps it back; it
/// gets none for a while.
const SEVERAL: u32 = 2;
const LEFT: u32 = 4;
const FAILED: Duration = Duration::from_secs(60);

/// Who takes a stripe from the seed for all others.
#[derive(Debug, Clone, Default)]
pub(super) struct Root {
    now: Option<PeerId>,
    /// The most children on the stripe that it was seen to have.
    most: u32,
    /// Who had the place before, by the first eight bytes of its key: its children are the heirs.
    former: Option<u64>,
    /// Who is asked to take it, and until when.
    invited: Option<(PeerId, Instant)>,
}

impl Root {
    /// Nobody has the place any more; `short` names who had it.
    fn vacate(&mut self, short: u64) {
        self.now = None;
        self.most = 0;
        self.former = Some(short);
    }
}

impl Seat {
    fn stripe_of(&self, place: usize) -> StripeId {
        StripeId((place % usize::from(self.stripes.max(1))) as u8)
    }

    /// The places of a stripe; none if there is no such stripe.
    fn places_of(&self, stripe: StripeId) -> impl Iterator<Item = usize> + use<> {
        let known = stripe.0 < self.stripes;
        let places = if known { self.roots.len() } else { 0 };
        (stripe.index()..places).step_by(usize::from(self.stripes.max(1)))
    }

    /// Whether a viewer has a place of a stripe, or is to take one.
    fn is_root(&self, peer: PeerId, stripe: StripeId) -> bool {
        self.places_of(stripe).any(|place| {
            let root = &self.roots[place];
            let invited = root.invited.map(|(invited, _)| invited);
            root.now == Some(peer) || invited == Some(peer)
        })
    }

    pub(super) fn vacate(&mut self, peer: PeerId) {
        let short = self.short(peer);
        for root in &mut self.roots {
            if root.now == Some(peer) {
                root.vacate(short);
            }
            root.invited.take_if(|(p, _)| *p == peer);
        }
    }

    /// A viewer gave a stripe back.
    pub fn left(&mut self, peer: PeerId, stripe: StripeId) {
        let short = self.short(peer);
        for place in self.places_of(stripe) {
            if self.roots[place].now == Some(peer) {
                self.roots[place].vacate(short);
            }
        }
    }

    /// Whether a subscription without lease follows an invitation; then the place is its own.
    /// The former root, if there is one, goes to the new one.
    pub fn take_place(&mut self, peer: PeerId, stripe: StripeId) -> Option<Option<PeerId>> {
        let asked = |place: &usize| self.roots[*place].invited.is_some_and(|(p, _)| p == peer);
        let place = self.places_of(stripe).find(asked)?;
        let root = &mut self.roots[place];
        root.invited = None;
        root.most = 0;
        Some(root.now.replace(peer).filter(|old| *old != peer))
    }

    /// Stripes that a viewer can push, as far as it is trusted.
    pub(super) fn trusted(&self, peer: PeerId) -> u16 {
        let short = self.short(peer);
        self.carriers
            .trusted(short, self.strength(peer), self.stripes)
    }

    /// Whether the root of a place keeps the stripe back: it lives and confirms, and those that it fed
    /// have left it.
    fn failing(&mut self, k: usize, root: PeerId, started: usize) -> bool {
        let Some(member) = self.members.get(&root) else {
            return false;
        };
        let children = self.carriers.on(member.id.short(), self.stripe_of(k).0);
        let others = started - usize::from(member.started);
        let most = &mut self.roots[k].most;
        *most = children.max(*most);
        // Those that it fed may have left the grid.
        let most = (*most).min(others.min(u32::MAX as usize) as u32);
        most >= SEVERAL && children * LEFT <= most
    }

    fn places(&self, peer: PeerId) -> usize {
        let has = |root: &Root| usize::from(root.now == Some(peer));
        let invited = |root: &Root| usize::from(root.invited.is_some_and(|(p, _)| p == peer));
        self.roots
            .iter()
            .map(|root| has(root) + invited(root))
            .sum()
    }

    /// Sees to it that every stripe has its roots among the viewers that can pass it on, and
    /// that they live.
    pub fn tend(
        &mut self,
        children: &Children,
        pulse: impl Fn(PeerId) -> Pulse,
        now: Instant,
    ) -> Vec<Place> {
        let mut steps = Vec::new();
        for peer in children.all() {
            if pulse(peer).silence > CHILD_SILENCE {
                steps.push(Place::Dead(peer));
            }
        }
        self.missed.retain(|_, until| *until > now);
        let started = self.members.values().filter(|m| m.started).count();
        for k in 0..self.roots.len() {
            if let Some((peer, _)) = self.roots[k].invited.take_if(|(_, until)| *until <= now) {
                self.missed.insert(peer, now + MISSED);
            }
            if let Some(root) = self.roots[k].now {
                let failing = self.failing(k, root, started);
                if failing {
                    self.missed.insert(root, now + FAILED);
                } else if pulse(root).silence <= ROOT_SILENCE {
                    continue;
                }
                // It may come back: it keeps its subscription, but as a lease.
                let short = self.short(root);
                self.roots[k].vacate(short);
                steps.push(Place::Lease(root, self.stripe_of(k)));
            }
            // What is beyond the first only takes what is to spare beyond a copy of the stream.
            let stripes = usize::from(self.stripes);
            if self.roots[k].invited.is_none() && (k < stripes || children.spare() > stripes) {
                steps.extend(self.fill(k, children, &pulse, now));
            }
        }
        if now.saturating_duration_since(self.balanced) >= BALANCE {
            self.balanced = now;
            self.weigh();
            self.enthrone(children, &pulse, &mut steps);
            steps.extend(self.balance(&pulse, now));
        }
        steps
    }

    fn weigh(&mut self) {
        let members = self.members.values().filter(|m| m.started);
        let all: Vec<_> = members
            .map(|m| (m.id.short(), &m.report.parents[..]))
            .collect();
        self.carriers.weigh(&all);
    }

    /// Viewers that a stripe comes to by this one.
    pub fn below(&self, peer: PeerId, stripe: StripeId) -> u32 {
        self.carriers.below(self.short(peer), stripe.0)
    }

    /// From whom most viewers of a stripe live, of those that the seed feeds, is its root: one that has it
    /// only on loan would move, with all that are below.
    fn enthrone(
        &mut self,
        children: &Children,
        pulse: &impl Fn(PeerId) -> Pulse,
        steps: &mut Vec<Place>,
    ) {
        for k in 0..self.roots.len() {
            let stripe = self.stripe_of(k);
            let Some(root) = self.roots[k].now else {
                continue;
            };
            let lent = children
                .of(stripe)
                .filter(|p| !self.is_root(*p, stripe) && self.able(*p, pulse))
                .max_by_key(|p| (self.below(*p, stripe), *p));
            let heavier = |lent: &PeerId| {
                self.below(*lent, stripe) > HEAVIER * self.below(root, stripe) + SEVERAL
            };
            if let Some(lent) = lent.filter(heavier) {
                self.roots[k].now = Some(lent);
                self.roots[k].most = 0;
                steps.push(Place::Root(lent, stripe));
                steps.push(Place::Lease(root, stripe));
            }
        }
    }

    fn able(&self, peer: PeerId, pulse: &impl Fn(PeerId) -> Pulse) -> bool {
        let now = pulse(peer);
        self.strength(peer) > 0
            && now.silence <= ROOT_SILENCE / 2
            && now.heard <= contact(self.members.len()).mul_f64(QUIET) + now.rtt
            && !self.missed.contains_key(&peer)
    }

    /// Who gets a place first. An heir: a child of the former root, of which the others live, so that
    /// they have to move the less the more it feeds. Then those that have carried anything; those that
    /// were heard since the silence of a root began, as it may not be the only one that is gone; and those
    /// with few places for what they can push.
    fn rank(
        &self,
        peer: PeerId,
        k: usize,
        pulse: &impl Fn(PeerId) -> Pulse,
    ) -> (Reverse<u32>, bool, bool, u64, PeerId) {
        let stripe = self.stripe_of(k);
        let short = self.short(peer);
        let parent = self.parent(peer, stripe);
        let heir = parent.is_some() && parent == self.roots[k].former;
        let lives = 1 + self.below(peer, stripe);
        let heirs = if heir { lives } else { 0 };
        let unproven = self.carriers.carried(short) == 0;
        let quiet = pulse(peer).heard > ROOT_SILENCE;
        (Reverse(heirs), unproven, quiet, self.burden(peer, 1), peer)
    }

    /// A viewer's places, with so many more, against what it can push; in millionths.
    fn burden(&self, peer: PeerId, more: usize) -> u64 {
        let strength = u64::from(self.trusted(peer).max(1));
        (self.places(peer) + more) as u64 * 1_000_000 / strength
    }

    fn invite(&mut self, k: usize, peer: PeerId, rtt: Duration, now: Instant) -> Place {
        self.roots[k].invited = Some((peer, now + rtt * 2 + INVITED));
        Place::Invite(peer, self.stripe_of(k))
    }

    fn fill(
        &mut self,
        k: usize,
        children: &Children,
        pulse: &impl Fn(PeerId) -> Pulse,
        now: Instant,
    ) -> Option<Place> {
        let stripe = self.stripe_of(k);
        let lent = children
            .of(stripe)
            .filter(|p| self.able(*p, pulse) && !self.is_root(*p, stripe))
            .min_by_key(|p| self.rank(*p, k, pulse));
        let other = self
            .members
            .keys()
            .copied()
            .filter(|p| self.able(*p, pulse) && self.members[p].started)
            .filter(|p| !self.is_root(*p, stripe))
            .min_by_key(|p| self.rank(*p, k, pulse));
        // A lease holder needs no message back and forth, unless it carries much already.
        let light = |lent, other| self.burden(lent, 1) <= self.burden(other, 1) * 2;
        match (lent, other) {
            (Some(lent), other) if other.is_none_or(|other| light(lent, other)) => {
                self.roots[k].now = Some(lent);
                self.roots[k].most = 0;
                Some(Place::Root(lent, stripe))
            }
            (_, Some(other)) => Some(self.invite(k, other, pulse(other).rtt, now)),
            _ => None,
        }
    }

    /// Who brings a viewer a stripe, as it says.
    fn parent(&self, peer: PeerId, stripe: StripeId) -> Option<u64> {
        let parents = &self.members.get(&peer)?.report.parents;
        parents.get(stripe.index()).copied().flatten()
    }

    fn balance(&mut self, pulse: &impl Fn(PeerId) -> Pulse, now: Instant) -> Option<Place> {
        let able = |p: &PeerId| self.able(*p, pulse) && self.members[p].started;
        let lightest = |peers: &mut dyn Iterator<Item = PeerId>| {
            let able = peers.filter(able);
            able.min_by_key(|p| (self.burden(*p, 1), *p))
        };
        let move_to = |k: usize, root: PeerId| {
            let stripe = self.stripe_of(k);
            let other = |p: &PeerId| !self.is_root(*p, stripe);
            let all = || self.members.keys().copied().filter(other);
            if self.below(root, stripe) > FEW {
                // A child that changes places with it: all others stay where they are.
                let short = Some(self.short(root));
                return lightest(&mut all().filter(|p| self.parent(*p, stripe) == short));
            }
            // Who has the place takes a slot of the one that gets it.
            lightest(&mut all().filter(|p| self.members[p].report.spare > 0))
        };
        let better = |k: usize| {
            let root = &self.roots[k];
            let root = root.now.filter(|_| root.invited.is_none())?;
            let to = move_to(k, root)?;
            // The place is worth a move only if it is carried more easily there.
            let (from, to_burden) = (self.burden(root, 0), self.burden(to, 1));
            let worth = match self.below(root, self.stripe_of(k)) > FEW {
                true => from > to_burden * MOVES,
                false => from * 10 > to_burden * 11,
            };
            worth.then_some((from, k, to))
        };
        let (_, k, to) = (0..self.roots.len()).filter_map(better).max()?;
        Some(self.invite(k, to, pulse(to).rtt, now))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{member, scene, silent};
    use super::*;

    #[test]
    fn a_place_goes_to_one_that_was_heard_since_and_not_twice_to_one_that_keeps_mum() {
        let (mut seat, mut children, now) = scene(&[8]);
        seat.tend(&children, |_| Pulse::default(), now);
        // Two more without a lease. The root and the stronger of them are killed.
        seat.admit(PeerId(1), member(1, 9));
        seat.admit(PeerId(2), member(2, 8));
        children.forget(PeerId(0));
        let pulse = |p: PeerId| Pulse {
            silence: Duration::from_millis(if p.0 == 0 { 400 } else { 0 }),
            heard: Duration::from_millis(if p.0 == 2 { 100 } else { 600 }),
            rtt: Duration::from_millis(50),
        };
        let invited = |steps: &[Place]| {
            let of = |step: &Place| match step {
                Place::Invite(peer, stripe) if stripe.0 == 0 => Some(*peer),
                _ => None,
            };
            steps.iter().find_map(of)
        };
        assert_eq!(invited(&seat.tend(&children, pulse, now)), Some(PeerId(2)));
        let later = now + Duration::from_millis(260);
        assert_eq!(
            invited(&seat.tend(&children, pulse, later)),
            Some(PeerId(1)),
            "the other did not come"
        );
    }

    #[test]
    fn places_go_evenly_to_those_that_can_pass_on() {
        let (mut seat, children, now) = scene(&[0, 8, 8]);
        let steps = seat.tend(&children, |_| Pulse::default(), now);
        let count = |n| {
            let mine = |s: &&Place| matches!(s, Place::Root(p, _) if p.0 == n);
            steps.iter().filter(mine).count()
        };
        assert_eq!((count(0), count(1), count(2)), (0, 2, 2));
        assert!(seat.tend(&children, |_| Pulse::default(), now).is_empty());
    }

    #[test]
    fn a_frozen_root_loses_its_place_to_a_living_one() {
        let (mut seat, children, now) = scene(&[8, 8]);
        seat.tend(&children, |_| Pulse::default(), now);
        let frozen = |p: PeerId| silent(if p.0 == 0 { 400 } else { 0 });
        let steps = seat.tend(&children, frozen, now);
        let to_other = |s: &&Place| matches!(s, Place::Root(PeerId(1), _));
        assert_eq!(steps.iter().filter(to_other).count(), 2);
        let gone = seat.tend(&children, |_| silent(3000), now);
        assert!(gone.contains(&Place::Dead(PeerId(0))));
    }

    #[test]
    fn a_newcomer_takes_a_share_of_the_places() {
        let (mut seat, mut children, now) = scene(&[8]);
        seat.tend(&children, |_| Pulse::default(), now);
        let full = Report {
            slots: 8,
            ..Default::default()
        };
        let full = Member {
            report: full,
            ..member(8, 8)
        };
        seat.admit(PeerId(8), full);
        seat.admit(PeerId(9), member(9, 8));
        let steps = seat.tend(&children, |_| Pulse::default(), now + BALANCE);
        let [Place::Invite(PeerId(9), stripe)] = steps[..] else {
            panic!("{steps:?}");
        };
        children.add(PeerId(9), stripe, false, 8, now);
        assert_eq!(seat.take_place(PeerId(9), stripe), Some(Some(PeerId(0))));
        assert_eq!(
            seat.take_place(PeerId(9), stripe),
            None,
            "an invitation counts once"
        );
    }

    #[test]
    fn a_stripe_has_as_many_roots_as_it_shall_each_another() {
        let (mut seat, mut children, now) = scene(&[8, 8, 8]);
        seat.reset(4, 2);
        let narrow = seat.tend(&children, |_| Pulse::default(), now);
        assert_eq!(narrow.len(), 4, "the seed has nothing to spare");
        seat.reset(4, 2);
        children.set_slots(100, 100);
        let steps = seat.tend(&children, |_| Pulse::default(), now);
        for k in 0..4 {
            let of = |step: &Place| match step {
                Place::Root(peer, stripe) if stripe.0 == k => Some(*peer),
                _ => None,
            };
            let roots: std::collections::BTreeSet<_> = steps.iter().filter_map(of).collect();
            assert_eq!(roots.len(), 2, "{steps:?}");
        }
        assert_eq!(steps.len(), 8);
        // A stripe that there is not gives nobody's place away.
        seat.left(PeerId(0), StripeId(5));
        assert!(seat.tend(&children, |_| Pulse::default(), now).is_empty());
        // One gives its place back; the third takes it, and the other stays.
        let Place::Root(leaver, stripe) = steps[0] else {
            panic!("{steps:?}");
        };
        seat.left(leaver, stripe);
        let next = seat.tend(&children, |_| Pulse::default(), now);
        assert!(
            matches!(next[..], [Place::Root(_, s)] if s == stripe),
            "{next:?}"
        );
    }

    /// A viewer says who brings it all four stripes.
    fn fed_by(seat: &mut Seat, peer: u64, parent: Option<u8>, now: Instant) {
        let report = Report {
            parents: vec![parent.map(|n| NodeId([n; 32]).short()); 4],
            ..member(0, 8).report
        };
        seat.reported(PeerId(peer), report, now);
    }

    fn roots(seat: &Seat) -> Vec<Option<u64>> {
        seat.roots
            .iter()
            .map(|root| root.now.map(|p| p.0))
            .collect()
    }

    #[test]
    fn a_root_that_its_children_leave_loses_its_place_although_it_lives() {
        let (mut seat, children, now) = scene(&[8]);
        seat.tend(&children, |_| Pulse::default(), now);
        assert_eq!(roots(&seat), [Some(0); 4]);
        for peer in 1..4 {
            seat.admit(PeerId(peer), member(peer as u8, 8));
            fed_by(&mut seat, peer, Some(0), now);
        }
        assert!(seat.tend(&children, |_| Pulse::default(), now).is_empty());
        for peer in 1..4 {
            fed_by(&mut seat, peer, None, now);
        }
        let steps = seat.tend(&children, |_| Pulse::default(), now);
        for k in (0..4).map(StripeId) {
            assert!(steps.contains(&Place::Lease(PeerId(0), k)), "{steps:?}");
        }
        let invited = steps
            .iter()
            .filter(|s| matches!(s, Place::Invite(p, _) if p.0 > 0));
        assert_eq!((invited.count(), roots(&seat)), (4, vec![None; 4]));
    }

    #[test]
    fn a_root_whose_children_left_the_grid_keeps_its_place() {
        let (mut seat, children, now) = scene(&[8]);
        seat.tend(&children, |_| Pulse::default(), now);
        for peer in 1..4 {
            seat.admit(PeerId(peer), member(peer as u8, 8));
            fed_by(&mut seat, peer, Some(0), now);
        }
        seat.tend(&children, |_| Pulse::default(), now);
        for peer in 1..4 {
            seat.forget(PeerId(peer));
        }
        assert!(seat.tend(&children, |_| Pulse::default(), now).is_empty());
        assert_eq!(roots(&seat), [Some(0); 4]);
    }

    #[test]
    fn the_child_from_which_most_live_takes_the_place_of_a_root_that_is_gone() {
        let (mut seat, _, now) = scene(&[8]);
        let mut children = Children::default();
        children.reset(4);
        seat.roots
            .iter_mut()
            .for_each(|root| root.now = Some(PeerId(0)));
        // Two are fed by the root, and feed two and one; the strongest of all feeds nobody.
        for (peer, parent) in [(1, 0), (2, 0), (3, 2), (4, 2), (5, 1)] {
            seat.admit(PeerId(peer), member(peer as u8, 8));
            fed_by(&mut seat, peer, Some(parent), now);
        }
        seat.admit(PeerId(6), member(6, 80));
        seat.weigh();
        seat.forget(PeerId(0));
        let steps = seat.tend(&children, |_| Pulse::default(), now);
        let heirs = steps
            .iter()
            .filter(|s| matches!(s, Place::Invite(PeerId(2), _)));
        assert_eq!((heirs.count(), steps.len()), (4, 4), "{steps:?}");
    }

    #[test]
    fn who_only_says_that_it_is_strong_gets_no_place_before_one_that_carries() {
        let (mut seat, _, now) = scene(&[]);
        let children = Children::default();
        seat.admit(PeerId(0), member(0, 8));
        seat.admit(PeerId(1), member(1, 800));
        seat.admit(PeerId(2), member(2, 0));
        fed_by(&mut seat, 2, Some(0), now);
        let steps = seat.tend(&children, |_| Pulse::default(), now);
        let carries = steps
            .iter()
            .all(|s| matches!(s, Place::Invite(PeerId(0), _)));
        assert!(carries && steps.len() == 4, "{steps:?}");
    }
}
