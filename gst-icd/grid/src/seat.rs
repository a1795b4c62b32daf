//! The seed's seat: who was admitted, who takes each stripe from the seed, whom to name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::children::{CHILD_SILENCE, Children};
use crate::ids::{NodeId, PeerId, StripeId};
use crate::message::{Candidate, Hello, MAX_CANDIDATES, Refusal, Report};
use crate::record::contact;

/// A root that confirms nothing for this long is replaced (design: 350 ms).
const ROOT_SILENCE: Duration = Duration::from_millis(350);
/// An invitation that is not followed within two round trips and this lapses ...
const INVITED: Duration = Duration::from_millis(150);
/// ... and is not repeated for this long.
const MISSED: Duration = Duration::from_secs(3);
/// Who said nothing for so many times the time from one report to the next may be gone.
const QUIET: f64 = 1.5;
/// A report that is so many times older says nothing about what a viewer can give.
const REPORT_HOLDS: f64 = 2.2;
/// What was promised of the viewers' room counts until their reports know of it.
const PROMISE_HOLDS: Duration = Duration::from_millis(1500);
/// A newcomer waits for so long for room; then it is told to come back later.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many wait at once; more are turned away at the door.
const MAX_WAITING: usize = 2048;
/// Who is turned away comes back when about so many have been served each second.
const WAITING_PER_S: usize = 20;
const LEAST_RETRY_S: usize = 3;
const MOST_RETRY_S: usize = 60;
/// Places move for balance at most this often.
const BALANCE: Duration = Duration::from_secs(1);

/// An admitted viewer.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its endpoint key.
    pub id: NodeId,
    /// Where the seed sees it.
    pub addr: SocketAddr,
    /// What it said first.
    pub hello: Hello,
    /// What it said last.
    pub report: Report,
    /// When it said that.
    pub reported: Option<Instant>,
    /// Since when.
    pub since: Instant,
    /// It has been told where the stream begins.
    pub started: bool,
    /// In this life of the seed or an earlier one: it is not turned away any more.
    pub settled: bool,
}

/// How a viewer's connection is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pulse {
    /// It has confirmed nothing for so long, of what is on its way to it.
    pub silence: Duration,
    /// Since it said anything.
    pub heard: Duration,
    /// Round trip to it.
    pub rtt: Duration,
}

/// What the seed does about its places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A lease becomes the root's place.
    Root(PeerId, StripeId),
    /// A silent root's place becomes a lease.
    Lease(PeerId, StripeId),
    /// Ask this viewer to take the stripe.
    Invite(PeerId, StripeId),
    /// This viewer is frozen or gone.
    Dead(PeerId),
}

/// See the module.
#[derive(Debug)]
pub struct Seat {
    members: BTreeMap<PeerId, Member>,
    stripes: u8,
    /// The places of all stripes, then the second places of all, and so on: who has them ...
    roots: Vec<Option<PeerId>>,
    /// ... and who is asked to take them.
    invited: Vec<Option<(PeerId, Instant)>>,
    /// Who let an invitation lapse, and until when it gets none.
    missed: BTreeMap<PeerId, Instant>,
    promised: Vec<(f64, Instant)>,
    balanced: Instant,
    /// Most viewers; none is unlimited.
    pub max_viewers: Option<usize>,
}

impl Seat {
    /// An empty seat.
    pub fn new(max_viewers: Option<usize>, now: Instant) -> Self {
        Self {
            members: BTreeMap::new(),
            stripes: 0,
            roots: Vec::new(),
            invited: Vec::new(),
            missed: BTreeMap::new(),
            promised: Vec::new(),
            balanced: now,
            max_viewers,
        }
    }

    /// The stream has this many stripes, with so many roots each.
    pub fn reset(&mut self, stripes: u8, roots: u8) {
        let places = usize::from(stripes) * usize::from(roots.max(1));
        self.stripes = stripes;
        self.roots = vec![None; places];
        self.invited = vec![None; places];
    }

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
            let invited = self.invited[place].map(|(invited, _)| invited);
            self.roots[place] == Some(peer) || invited == Some(peer)
        })
    }

    /// Whether another viewer may come.
    pub fn has_room(&self) -> Result<(), Refusal> {
        match self.max_viewers {
            Some(max) if self.members.len() >= max => Err(Refusal::Full { retry_s: 10 }),
            _ if self.waiting() >= MAX_WAITING => Err(self.full()),
            _ => Ok(()),
        }
    }

    /// Whether only the seed can feed this viewer.
    pub fn depends(&self, peer: PeerId) -> bool {
        self.members.get(&peer).is_some_and(|m| m.hello.seed_only())
    }

    /// Viewers that only the seed can feed, among those that it feeds.
    pub fn dependants(&self) -> usize {
        let all = self.members.values();
        all.filter(|m| m.started && m.hello.seed_only()).count()
    }

    /// Whom a newcomer that has waited for so long is told to come back after. None: it waits on.
    pub fn patience(&self, peer: PeerId, now: Instant) -> Option<Refusal> {
        let member = self.members.get(&peer).filter(|m| !m.settled)?;
        (now.saturating_duration_since(member.since) >= PATIENCE).then(|| self.full())
    }

    /// There is no room, and so many wait already.
    fn full(&self) -> Refusal {
        let share = self.waiting() / WAITING_PER_S;
        let retry_s = share.clamp(LEAST_RETRY_S, MOST_RETRY_S) as u16;
        Refusal::Full { retry_s }
    }

    /// Viewers that have not been told yet where the stream begins.
    fn waiting(&self) -> usize {
        self.members.values().filter(|m| !m.settled).count()
    }

    /// A new life began: nobody has been told yet where.
    pub fn forget_starts(&mut self) {
        for member in self.members.values_mut() {
            member.started = false;
            member.report.complete = crate::ids::Seq(0);
        }
    }

    /// Admits a viewer.
    pub fn admit(&mut self, peer: PeerId, member: Member) {
        self.members.insert(peer, member);
    }

    /// The viewer of a connection.
    pub fn member(&self, peer: PeerId) -> Option<&Member> {
        self.members.get(&peer)
    }

    /// The viewer of a connection.
    pub fn member_mut(&mut self, peer: PeerId) -> Option<&mut Member> {
        self.members.get_mut(&peer)
    }

    /// All viewers.
    pub fn members(&self) -> impl Iterator<Item = (PeerId, &Member)> {
        self.members.iter().map(|(peer, member)| (*peer, member))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// The shortest play-out delay among the viewers.
    pub fn shortest_latency(&self) -> Option<Duration> {
        let shortest = self.members.values().map(|m| m.hello.latency_ms).min()?;
        Some(Duration::from_millis(u64::from(shortest)))
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The connection is gone.
    pub fn forget(&mut self, peer: PeerId) -> Option<Member> {
        self.vacate(peer);
        self.missed.remove(&peer);
        self.members.remove(&peer)
    }

    fn vacate(&mut self, peer: PeerId) {
        for root in &mut self.roots {
            root.take_if(|r| *r == peer);
        }
        for invited in &mut self.invited {
            invited.take_if(|(p, _)| *p == peer);
        }
    }

    /// A viewer gave a stripe back.
    pub fn left(&mut self, peer: PeerId, stripe: StripeId) {
        for place in self.places_of(stripe) {
            self.roots[place].take_if(|r| *r == peer);
        }
    }

    /// Whether a subscription without lease follows an invitation; then the place is its own.
    /// The former root, if there is one, goes to the new one.
    pub fn take_place(&mut self, peer: PeerId, stripe: StripeId) -> Option<Option<PeerId>> {
        let asked = |place: &usize| self.invited[*place].is_some_and(|(p, _)| p == peer);
        let place = self.places_of(stripe).find(asked)?;
        self.invited[place] = None;
        Some(self.roots[place].replace(peer).filter(|old| *old != peer))
    }

    /// Viewers for one that looks for parents: those with most to spare, in some random order.
    pub fn candidates(&self, asker: PeerId, rng: &mut fastrand::Rng) -> Vec<Candidate> {
        let mut list: Vec<_> = self
            .members
            .iter()
            .filter(|(peer, m)| **peer != asker && m.hello.relay && m.report.slots > 0)
            .map(|(_, m)| Candidate {
                node: m.id,
                addr: m.addr,
                spare: m.report.spare,
            })
            .collect();
        rng.shuffle(&mut list);
        // The roomy first, but not the same to everybody.
        list.sort_by_key(|c| std::cmp::Reverse(c.spare.min(8)));
        list.truncate(MAX_CANDIDATES);
        list
    }

    /// Stripes that the other viewers can still feed, as they say, and those that they could beyond.
    pub fn spare(&self, asker: PeerId, now: Instant) -> (f64, f64) {
        let holds = contact(self.members.len()).mul_f64(REPORT_HOLDS);
        let fresh = |at: Instant| now.saturating_duration_since(at) < holds;
        let others = self
            .members
            .iter()
            .filter(|(peer, m)| **peer != asker && m.hello.relay && m.reported.is_some_and(fresh));
        let stripes = f64::from(self.stripes.max(1));
        let (spare, reserve) = others.fold((0.0, 0.0), |(spare, reserve), (_, m)| {
            let report = &m.report;
            // What it has no parent for it gives to nobody.
            let fed = (f64::from(report.fed.count_ones()) / stripes).min(1.0);
            let (more, beyond) = (f64::from(report.spare), f64::from(report.reserve));
            (spare + more * fed, reserve + beyond * fed)
        });
        let promised = self.promised.iter().filter(|(_, until)| *until > now);
        let promised: f64 = promised.map(|(n, _)| n).sum();
        (spare - promised, reserve)
    }

    /// A newcomer was sent to the other viewers for this many stripes, and for so many more as long
    /// as they send it the past.
    pub fn promise(&mut self, stripes: f64, past: (f64, Duration), now: Instant) {
        self.promised.retain(|(_, until)| *until > now);
        self.promised.push((stripes, now + PROMISE_HOLDS));
        self.promised.push((past.0, now + past.1));
    }

    /// Stripes that a viewer can push, as it says.
    pub fn strength(&self, peer: PeerId) -> u16 {
        self.members
            .get(&peer)
            .filter(|m| m.hello.relay)
            .map_or(0, |m| m.report.slots)
    }

    fn places(&self, peer: PeerId) -> usize {
        let invited = self.invited.iter().flatten().filter(|(p, _)| *p == peer);
        self.roots.iter().flatten().filter(|r| **r == peer).count() + invited.count()
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
        for k in 0..self.roots.len() {
            if let Some((peer, _)) = self.invited[k].take_if(|(_, until)| *until <= now) {
                self.missed.insert(peer, now + MISSED);
            }
            if let Some(root) = self.roots[k] {
                if pulse(root).silence <= ROOT_SILENCE {
                    continue;
                }
                // It may come back: it keeps its subscription, but as a lease.
                self.roots[k] = None;
                steps.push(Place::Lease(root, self.stripe_of(k)));
            }
            // What is beyond the first only takes what is to spare beyond a copy of the stream.
            let stripes = usize::from(self.stripes);
            if self.invited[k].is_none() && (k < stripes || children.spare() > stripes) {
                steps.extend(self.fill(k, children, &pulse, now));
            }
        }
        if now.saturating_duration_since(self.balanced) >= BALANCE {
            self.balanced = now;
            steps.extend(self.balance(&pulse, now));
        }
        steps
    }

    fn able(&self, peer: PeerId, pulse: &impl Fn(PeerId) -> Pulse) -> bool {
        let now = pulse(peer);
        self.strength(peer) > 0
            && now.silence <= ROOT_SILENCE / 2
            && now.heard <= contact(self.members.len()).mul_f64(QUIET) + now.rtt
            && !self.missed.contains_key(&peer)
    }

    /// Who gets a place first: those that were heard since the silence of a root began, as it may
    /// not be the only one that is gone; then those with few places for what they can push.
    fn rank(&self, peer: PeerId, pulse: &impl Fn(PeerId) -> Pulse) -> (bool, u64, PeerId) {
        let quiet = pulse(peer).heard > ROOT_SILENCE;
        (quiet, self.burden(peer, 1), peer)
    }

    /// A viewer's places, with so many more, against what it can push; in millionths.
    fn burden(&self, peer: PeerId, more: usize) -> u64 {
        let strength = u64::from(self.strength(peer).max(1));
        (self.places(peer) + more) as u64 * 1_000_000 / strength
    }

    fn invite(&mut self, k: usize, peer: PeerId, rtt: Duration, now: Instant) -> Place {
        self.invited[k] = Some((peer, now + rtt * 2 + INVITED));
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
            .min_by_key(|p| self.rank(*p, pulse));
        let other = self
            .members
            .keys()
            .copied()
            .filter(|p| self.able(*p, pulse) && self.members[p].started)
            .filter(|p| !self.is_root(*p, stripe))
            .min_by_key(|p| self.rank(*p, pulse));
        // A lease holder needs no message back and forth, unless it carries much already.
        match (lent, other) {
            (Some(lent), other)
                if other.is_none_or(|o| self.burden(lent, 1) <= self.burden(o, 1) * 2) =>
            {
                self.roots[k] = Some(lent);
                Some(Place::Root(lent, stripe))
            }
            (_, Some(other)) => Some(self.invite(k, other, pulse(other).rtt, now)),
            _ => None,
        }
    }

    fn balance(&mut self, pulse: &impl Fn(PeerId) -> Pulse, now: Instant) -> Option<Place> {
        // Who has the place takes a slot of the one that gets it.
        let able = |p: &PeerId| {
            let member = &self.members[p];
            self.able(*p, pulse) && member.started && member.report.spare > 0
        };
        let least = self
            .members
            .keys()
            .copied()
            .filter(able)
            .min_by_key(|p| (self.burden(*p, 1), *p))?;
        let k = (0..self.roots.len())
            .filter(|k| self.invited[*k].is_none() && !self.is_root(least, self.stripe_of(*k)))
            .max_by_key(|k| self.roots[*k].map_or(0, |root| self.burden(root, 0)))?;
        // The place is worth a move only if it is carried more easily there.
        let most = self.burden(self.roots[k]?, 0);
        (most * 10 > self.burden(least, 1) * 11)
            .then(|| self.invite(k, least, pulse(least).rtt, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;

    fn member(n: u8, slots: u16) -> Member {
        Member {
            id: NodeId([n; 32]),
            addr: ([127, 0, 0, 1], 1).into(),
            hello: Hello {
                version: 1,
                features: 0,
                stream: None,
                ticket: None,
                epoch: Epoch(0),
                resume: None,
                latency_ms: 2000,
                relay: true,
                upload: crate::ids::Bitrate(0),
                port: 0,
                proof: bytes::Bytes::new(),
            },
            report: Report {
                slots,
                spare: slots,
                ..Default::default()
            },
            reported: None,
            since: Instant::now(),
            started: true,
            settled: true,
        }
    }

    fn scene(slots: &[u16]) -> (Seat, Children, Instant) {
        let now = Instant::now();
        let mut seat = Seat::new(None, now);
        seat.reset(4, 1);
        let mut children = Children::default();
        children.reset(4);
        for (n, slots) in slots.iter().enumerate() {
            let peer = PeerId(n as u64);
            seat.admit(peer, member(n as u8, *slots));
            for k in 0..4 {
                children.add(peer, StripeId(k), true, *slots, now);
            }
        }
        (seat, children, now)
    }

    fn silent(ms: u64) -> Pulse {
        Pulse {
            silence: Duration::from_millis(ms),
            ..Pulse::default()
        }
    }

    #[test]
    fn who_waits_in_vain_is_told_when_to_come_back_and_the_admitted_stay() {
        let (mut seat, _, now) = scene(&[8]);
        let mut newcomer = member(1, 0);
        newcomer.settled = false;
        newcomer.since = now;
        seat.admit(PeerId(1), newcomer.clone());
        assert_eq!(seat.patience(PeerId(1), now + PATIENCE / 2), None);
        let told = |seat: &Seat, peer| seat.patience(PeerId(peer), now + PATIENCE);
        assert_eq!(told(&seat, 1), Some(Refusal::Full { retry_s: 3 }));
        assert_eq!(told(&seat, 0), None);
        // Many wait: it takes longer, and no more are let in to wait.
        assert_eq!(seat.has_room(), Ok(()));
        for n in 2..=MAX_WAITING as u64 {
            seat.admit(PeerId(n), newcomer.clone());
        }
        let full = Refusal::Full { retry_s: 60 };
        assert_eq!(
            (told(&seat, 1), seat.has_room()),
            (Some(full.clone()), Err(full))
        );
    }

    #[test]
    fn who_reaches_only_the_seed_depends_on_it_once_it_is_fed() {
        let (mut seat, _, now) = scene(&[8]);
        let mut alone = member(1, 0);
        alone.hello.features = Hello::SEED_ONLY;
        alone.started = false;
        alone.since = now;
        seat.admit(PeerId(1), alone);
        assert_eq!((seat.depends(PeerId(1)), seat.dependants()), (true, 0));
        seat.member_mut(PeerId(1)).expect("a member").started = true;
        assert_eq!((seat.depends(PeerId(0)), seat.dependants()), (false, 1));
    }

    #[test]
    fn what_newcomers_were_promised_is_not_promised_again() {
        let (mut seat, _, now) = scene(&[8, 8]);
        for n in 0..2 {
            let member = seat.member_mut(PeerId(n)).expect("a member");
            member.reported = Some(now);
            member.report.fed = 0b1111;
        }
        let past = Duration::from_secs(1);
        seat.promise(3.0, (4.0, past), now);
        let spare = |ms| seat.spare(PeerId(9), now + Duration::from_millis(ms)).0;
        assert_eq!([0, 999, 1000, 1500].map(spare), [9.0, 9.0, 13.0, 16.0]);
        // Who has no parent for half of the stripes gives those to nobody.
        seat.member_mut(PeerId(0)).expect("a member").report.fed = 0b11;
        let later = now + Duration::from_millis(1500);
        assert_eq!(seat.spare(PeerId(9), later).0, 12.0);
    }

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
    fn a_full_house_says_when_to_come_back() {
        let (mut seat, _, _) = scene(&[1, 1]);
        seat.max_viewers = Some(2);
        assert_eq!(seat.has_room(), Err(Refusal::Full { retry_s: 10 }));
        seat.forget(PeerId(0));
        assert_eq!(seat.has_room(), Ok(()));
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
}
