//! The seed's seat: who was admitted, who takes each stripe from the seed, whom to name.

mod roots;
mod survey;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::bucket::source;
use crate::carriers::Carriers;
use crate::children::{CHILD_SILENCE, Children, outweighs};
use crate::ids::{NodeId, PeerId, StripeId};
use crate::message::{Candidate, Hello, Refusal, Report};
use crate::record::contact;

use roots::Root;
use survey::Survey;

/// A report that is so many times older says nothing about what a viewer can give.
const REPORT_HOLDS: f64 = 2.2;
/// Who was sent elsewhere for a stripe and asks again within this time got it from nobody.
const SENT_AWAY: Duration = Duration::from_secs(3);
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
/// Who comes from an address with many waits until one of those has left.
const CROWDED_RETRY_S: u16 = 30;

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
    /// It has been told of others.
    pub named: bool,
    /// Others that were sent to it since it said what it can spare.
    pub referred: u16,
    /// When it asked for a stripe on loan and was sent elsewhere.
    pub sent_away: BTreeMap<StripeId, Instant>,
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
    /// Of these: those that may still be turned away, as they have not been told where the stream begins.
    waiting: usize,
    /// And how many come from where.
    from: HashMap<IpAddr, usize>,
    survey: Survey,
    stripes: u8,
    /// The places of all stripes, then the second places of all, and so on.
    roots: Vec<Root>,
    carriers: Carriers,
    /// Who let an invitation lapse, and until when it gets none.
    missed: BTreeMap<PeerId, Instant>,
    promised: Vec<(f64, Instant)>,
    balanced: Instant,
    /// Most viewers; none is unlimited.
    pub max_viewers: Option<usize>,
    /// Of these, most from one address; none is unlimited.
    pub per_address: Option<usize>,
}

impl Seat {
    /// An empty seat.
    pub fn new(max_viewers: Option<usize>, per_address: Option<usize>, now: Instant) -> Self {
        Self {
            members: BTreeMap::new(),
            waiting: 0,
            from: HashMap::new(),
            survey: Survey::default(),
            stripes: 0,
            roots: Vec::new(),
            carriers: Carriers::default(),
            missed: BTreeMap::new(),
            promised: Vec::new(),
            balanced: now,
            max_viewers,
            per_address,
        }
    }

    /// The stream has this many stripes, with so many roots each.
    pub fn reset(&mut self, stripes: u8, roots: u8) {
        let places = usize::from(stripes) * usize::from(roots.max(1));
        self.stripes = stripes;
        self.roots = vec![Root::default(); places];
        self.carriers.weigh(&[]);
    }

    /// Whether another viewer may come, from there.
    pub fn has_room(&self, from: IpAddr) -> Result<(), Refusal> {
        match self.max_viewers {
            Some(max) if self.members.len() >= max => Err(Refusal::Full { retry_s: 10 }),
            _ if self.waiting >= MAX_WAITING => Err(self.full()),
            _ if self.is_crowded(from) => Err(Refusal::Address {
                retry_s: CROWDED_RETRY_S,
            }),
            _ => Ok(()),
        }
    }

    /// Whether as many are there as may come from one address.
    fn is_crowded(&self, from: IpAddr) -> bool {
        let from = source(from);
        let Some(most) = self.per_address.filter(|_| !from.is_loopback()) else {
            return false;
        };
        self.from.get(&from).is_some_and(|there| *there >= most)
    }

    /// Whether only the seed can feed this viewer.
    pub fn depends(&self, peer: PeerId) -> bool {
        self.members.get(&peer).is_some_and(|m| m.hello.seed_only())
    }

    /// Whom a newcomer that has waited for so long is told to come back after. None: it waits on.
    pub fn patience(&self, peer: PeerId, now: Instant) -> Option<Refusal> {
        let member = self.members.get(&peer).filter(|m| !m.settled)?;
        (now.saturating_duration_since(member.since) >= PATIENCE).then(|| self.full())
    }

    /// There is no room, and so many wait already.
    fn full(&self) -> Refusal {
        let share = self.waiting / WAITING_PER_S;
        let retry_s = share.clamp(LEAST_RETRY_S, MOST_RETRY_S) as u16;
        Refusal::Full { retry_s }
    }

    /// A new life began: nobody has been told yet where.
    pub fn forget_starts(&mut self) {
        for member in self.members.values_mut() {
            member.started = false;
            member.report.complete = crate::ids::Seq(0);
            let before = std::mem::take(&mut member.report.parents);
            self.carriers.said(&before, &[]);
        }
    }

    /// Admits a viewer.
    pub fn admit(&mut self, peer: PeerId, member: Member) {
        self.forget(peer);
        self.waiting += usize::from(!member.settled);
        *self.from.entry(source(member.addr.ip())).or_default() += 1;
        self.members.insert(peer, member);
    }

    /// It was told where the stream begins.
    pub fn started(&mut self, peer: PeerId) {
        if let Some(member) = self.members.get_mut(&peer) {
            self.waiting -= usize::from(!member.settled);
            let anew = !member.started && member.hello.seed_only();
            self.survey.depend(usize::from(anew));
            member.started = true;
            member.settled = true;
        }
    }

    /// It was told of others.
    pub fn named(&mut self, peer: PeerId) {
        if let Some(member) = self.members.get_mut(&peer) {
            member.named = true;
        }
    }

    /// It is seen elsewhere; who it is.
    pub fn moved(&mut self, peer: PeerId, addr: SocketAddr) -> Option<NodeId> {
        let member = self.members.get_mut(&peer)?;
        let (id, old) = (member.id, std::mem::replace(&mut member.addr, addr));
        self.left_address(old);
        *self.from.entry(source(addr.ip())).or_default() += 1;
        Some(id)
    }

    fn left_address(&mut self, addr: SocketAddr) {
        let from = source(addr.ip());
        if let Some(there) = self.from.get_mut(&from) {
            *there -= 1;
            if *there == 0 {
                self.from.remove(&from);
            }
        }
    }

    /// The viewer of a connection.
    pub fn member(&self, peer: PeerId) -> Option<&Member> {
        self.members.get(&peer)
    }

    /// A viewer tells how it is.
    pub fn reported(&mut self, peer: PeerId, mut report: Report, now: Instant) {
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        report.parents.truncate(usize::from(self.stripes));
        report.parents.shrink_to_fit();
        // Of itself it has nothing to tell.
        let me = member.id.short();
        for parent in &mut report.parents {
            parent.take_if(|parent| *parent == me);
        }
        self.carriers.said(&member.report.parents, &report.parents);
        member.hello.upload = report.upload;
        member.report = report;
        member.referred = 0;
        member.reported = Some(now);
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
        let member = self.members.remove(&peer)?;
        self.waiting -= usize::from(!member.settled);
        self.left_address(member.addr);
        self.carriers.said(&member.report.parents, &[]);
        Some(member)
    }

    fn short(&self, peer: PeerId) -> u64 {
        self.members.get(&peer).map_or(0, |m| m.id.short())
    }

    /// A newcomer was sent to the other viewers for this many stripes, and for so many more as long
    /// as they send it the past.
    pub fn promise(&mut self, stripes: f64, past: (f64, Duration), now: Instant) {
        self.promised.retain(|(_, until)| *until > now);
        self.promised.push((stripes, now + PROMISE_HOLDS));
        self.promised.push((past.0, now + past.1));
    }

    /// Whether one that asks for a stripe on loan may be sent elsewhere: not if it was, and comes back.
    pub fn may_send_away(&self, asker: PeerId, stripe: StripeId, now: Instant) -> bool {
        let lately = |at: &Instant| now.saturating_duration_since(*at) < SENT_AWAY;
        let member = self.members.get(&asker);
        member.is_some_and(|m| !m.sent_away.get(&stripe).is_some_and(lately))
    }

    /// It was. Of no more stripes than there are.
    pub fn sent_away(&mut self, asker: PeerId, stripe: StripeId, now: Instant) {
        let known = stripe.0 < self.stripes;
        if let Some(member) = self.members.get_mut(&asker).filter(|_| known) {
            member.sent_away.insert(stripe, now);
        }
    }

    /// Of those that have a stripe from the seed: who has most room for one more that lost its parent, as it
    /// says. What it is sent counts until it says so again.
    pub fn referral(
        &mut self,
        (asker, strength): (PeerId, u16),
        fed: impl Iterator<Item = PeerId>,
    ) -> Option<PeerId> {
        let room = |peer: &PeerId| {
            let member = self.members.get(peer).filter(|m| m.hello.relay);
            member.map_or(0, |m| {
                let room = m.report.spare.min(self.trusted(*peer));
                room.saturating_sub(m.referred)
            })
        };
        // The strong go up.
        let peer = fed
            .filter(|peer| {
                *peer != asker && room(peer) > 0 && !outweighs(strength, self.trusted(*peer))
            })
            .max_by_key(|peer| (room(peer), *peer))?;
        self.members.get_mut(&peer)?.referred += 1;
        Some(peer)
    }

    /// Stripes that a viewer can push, as it says.
    pub fn strength(&self, peer: PeerId) -> u16 {
        self.members
            .get(&peer)
            .filter(|m| m.hello.relay)
            .map_or(0, |m| m.report.slots)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ids::Epoch;

    pub(in crate::seat) fn member(n: u8, slots: u16) -> Member {
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
                lan: None,
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
            named: false,
            referred: 0,
            sent_away: BTreeMap::new(),
        }
    }

    pub(in crate::seat) fn scene(slots: &[u16]) -> (Seat, Children, Instant) {
        let now = Instant::now();
        let mut seat = Seat::new(None, None, now);
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

    pub(in crate::seat) fn silent(ms: u64) -> Pulse {
        Pulse {
            silence: Duration::from_millis(ms),
            ..Pulse::default()
        }
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

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
        assert_eq!(seat.has_room(HERE), Ok(()));
        for n in 2..=MAX_WAITING as u64 {
            seat.admit(PeerId(n), newcomer.clone());
        }
        let full = Refusal::Full { retry_s: 60 };
        assert_eq!(
            (told(&seat, 1), seat.has_room(HERE)),
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
        assert_eq!((seat.depends(PeerId(1)), seat.dependants(now)), (true, 0));
        seat.started(PeerId(1));
        assert_eq!((seat.depends(PeerId(0)), seat.dependants(now)), (false, 1));
    }

    #[test]
    fn what_newcomers_were_promised_is_not_promised_again() {
        let (mut seat, _, now) = scene(&[8, 8]);
        for n in 0..2 {
            let member = seat.members.get_mut(&PeerId(n)).expect("a member");
            member.reported = Some(now);
            member.report.fed = 0b1111;
        }
        let past = Duration::from_secs(1);
        seat.promise(3.0, (4.0, past), now);
        let mut spare = |ms| seat.spare(PeerId(9), now + Duration::from_millis(ms)).0;
        assert_eq!([0, 999, 1000, 1500].map(&mut spare), [9.0, 9.0, 13.0, 16.0]);
        // Who has no parent for half of the stripes gives those to nobody.
        let member = seat.members.get_mut(&PeerId(0)).expect("a member");
        member.report.fed = 0b11;
        let later = now + Duration::from_millis(1500);
        assert_eq!(seat.spare(PeerId(9), later).0, 12.0);
    }

    #[test]
    fn who_asks_for_a_loan_in_vain_is_sent_where_there_is_room_and_not_to_a_weaker_one() {
        // One says more than it is trusted with: a copy, of four stripes, as it has shown nothing.
        let (mut seat, ..) = scene(&[2, 400, 0]);
        let all = || (0..3).map(PeerId);
        let mut sent = |asker, strength| seat.referral((PeerId(asker), strength), all());
        assert_eq!(sent(9, 40), None, "none is as strong");
        assert_eq!(sent(1, 4), None, "it is the strongest itself");
        assert_eq!(sent(9, 5), Some(PeerId(1)));
        // What it is sent counts until it says anew what it has.
        let weak: Vec<_> = (0..14).map(|_| sent(9, 0)).collect();
        let to = |peer| weak.iter().filter(|p| **p == Some(PeerId(peer))).count();
        assert_eq!((to(1), to(0), to(2)), (3, 2, 0));
    }

    #[test]
    fn who_was_sent_elsewhere_in_vain_is_not_sent_there_again() {
        let (mut seat, _, now) = scene(&[8]);
        seat.sent_away(PeerId(0), StripeId(0), now);
        seat.sent_away(PeerId(0), StripeId(99), now);
        let may = |stripe, ms| {
            let at = now + Duration::from_millis(ms);
            seat.may_send_away(PeerId(0), StripeId(stripe), at)
        };
        assert_eq!([may(0, 400), may(1, 400)], [false, true]);
        assert!(may(0, 3400), "that was another time");
        assert!(may(99, 0), "there is no such stripe");
    }

    #[test]
    fn a_full_house_says_when_to_come_back() {
        let (mut seat, _, _) = scene(&[1, 1]);
        seat.max_viewers = Some(2);
        let here = seat.member(PeerId(0)).expect("a member").addr.ip();
        assert_eq!(seat.has_room(here), Err(Refusal::Full { retry_s: 10 }));
        seat.forget(PeerId(0));
        assert_eq!(seat.has_room(here), Ok(()));
        seat.per_address = Some(1);
        let addr = "192.0.2.1:7".parse().expect("an address");
        assert_eq!(seat.moved(PeerId(1), addr), Some(NodeId([1; 32])));
        let [same, other] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().expect("an IP"));
        let crowded = Refusal::Address {
            retry_s: CROWDED_RETRY_S,
        };
        assert_eq!(seat.has_room(same), Err(crowded));
        assert_eq!(seat.has_room(other), Ok(()));
        seat.per_address = None;
        assert_eq!(seat.has_room(same), Ok(()));
    }
}
