//! Finding the seed and other viewers, and losing them.

use super::*;
use crate::node::introduce::may_name;
use crate::record::Bans;
use crate::token::Binding;

/// A try to reach another viewer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dial {
    pub(super) id: NodeId,
    meeting: Meeting,
    /// Who was asked to tell the other.
    by: PeerId,
}

impl Viewer {
    pub(super) fn new_dial(&mut self) -> PeerId {
        self.next_dial += 1;
        PeerId(self.next_dial | PeerId::DIALED)
    }

    pub(super) fn connected(
        &mut self,
        peer: PeerId,
        (id, addr, binding): (NodeId, SocketAddr, Binding),
        now: Instant,
    ) {
        self.dialing.remove(&peer);
        self.hinted.remove(&peer);
        if self.shuns(&id) {
            self.relay.close(peer, Close::Fault);
            return;
        }
        let is_seed = self.seed == Some(peer);
        let (stays, twin) = self.relay.connected(peer, (id, addr, binding), now);
        if let Some(twin) = twin {
            self.drop_peer(twin, now);
        }
        if !stays {
            return;
        }
        if is_seed {
            if let Some(state) = self.relay.peers.get_mut(&peer) {
                state.seed = true;
            }
            let key = StreamKey(id.0);
            if self.verifier.is_none() {
                self.verifier = (self.make_verifier)(key);
                self.settings.stream = Some(key);
                self.relay.tell(Event::Trusted(key));
            }
            self.fresh_clock = Some(ClockMap::new(now));
        } else {
            self.book.reached(id);
            if self.viewers() > self.settings.max_peers {
                let full = Message::Refuse(Refusal::Full { retry_s: 10 });
                self.relay.send(peer, &full);
                self.relay.close(peer, Close::Refused);
                return;
            }
        }
        // Who dialed speaks first; the other answers when it knows the ticket.
        if peer.0 & PeerId::DIALED != 0 {
            self.greet(peer);
            self.relay.ping(peer, now);
        }
    }

    pub(super) fn greet(&mut self, peer: PeerId) {
        let hello = Hello {
            version: VERSION,
            features: match self.settings.seed_only {
                true => Hello::SEED_ONLY,
                false => 0,
            },
            stream: self.settings.stream,
            ticket: self.ticket.clone(),
            epoch: self.relay.epoch,
            resume: self.started.and(self.first_missing(None)),
            latency_ms: self.settings.latency.as_millis().min(u128::from(u32::MAX)) as u32,
            relay: self.settings.relay,
            // What is not known yet is none.
            upload: self.relay.uplink.rate().unwrap_or(Bitrate(u64::MAX)),
            // The seed alone is told: it knows who is in the same network.
            lan: self.settings.lan.filter(|_| self.seed == Some(peer)),
            proof: self.proof(peer),
        };
        self.relay.send(peer, &Message::Hello(hello));
    }

    /// That this viewer knows the token. Nobody but the seed hears it, and only one whose key was known
    /// before it answered.
    fn proof(&self, peer: PeerId) -> Bytes {
        let pinned = self.pinned.zip(self.settings.token.as_ref());
        let state = self.relay.peers.get(&peer).filter(|p| p.seed);
        match pinned.zip(state) {
            Some(((stream, token), seed)) => {
                Bytes::copy_from_slice(&token.prove(stream, &seed.binding))
            }
            None => Bytes::new(),
        }
    }

    /// Forgets a connection without telling anybody.
    pub(super) fn drop_peer(&mut self, peer: PeerId, now: Instant) -> Option<NodeId> {
        let id = self.relay.peers.get(&peer).map(|p| p.id);
        let fed: Vec<_> = self
            .parents
            .feeds()
            .filter(|(_, f)| f.parent() == Some(peer))
            .map(|(k, _)| k)
            .collect();
        for stripe in fed {
            self.orphans.entry(stripe).or_insert((id, now));
        }
        self.parents.forget(peer, now);
        self.unwanted.retain(|(p, _), _| *p != peer);
        self.relay.forget(peer).map(|p| p.id)
    }

    pub(super) fn gone(&mut self, peer: PeerId, why: &Lost, now: Instant) {
        self.hinted.remove(&peer);
        if let Some(dial) = self.dialing.remove(&peer) {
            self.unmet(dial.id, now);
        }
        if self.seed == Some(peer) {
            if !self.relay.peers.contains_key(&peer) {
                self.relay.tell(Event::Unreached(why.clone()));
            }
            self.seed = None;
            self.seed_welcomed = false;
            if !self.refused {
                let jitter = self.relay.rng.f64() * 0.5 + 0.75;
                let at = now + self.redial.mul_f64(jitter);
                self.redial_at = Some(self.redial_at.map_or(at, |set| set.max(at)));
                self.redial = (self.redial * 2).min(LONGEST_REDIAL);
            }
        }
        let Some(state) = self.relay.peers.get(&peer) else {
            return;
        };
        let seed = state.seed;
        let ready = state.ready;
        if let Some(id) = self.drop_peer(peer, now) {
            if !seed {
                self.failed(id, now);
            }
            if ready {
                let why = why.to_string();
                self.relay.tell(Event::PeerRemoved { id, why });
            }
        }
        self.seek_parents(now);
    }

    pub(super) fn refused_by(&mut self, peer: PeerId, seed: bool, refusal: Refusal, now: Instant) {
        if seed {
            if let Some(retry_s) = refusal.retry_s() {
                self.redial_at = Some(now + Duration::from_secs(u64::from(retry_s.clamp(1, 300))));
            } else {
                self.refused = true;
                self.redial_at = None;
                self.set_status(Status::Refused);
                self.part_from_all(now);
            }
            self.relay.tell(Event::Refused(refusal));
        }
        self.relay.close(peer, Close::Done);
    }

    /// Who is refused plays no more, and nobody is fed or asked by it.
    fn part_from_all(&mut self, now: Instant) {
        let neighbours = self.relay.peers.iter().filter(|(_, p)| !p.seed);
        let dialed = self.dialing.keys().copied();
        let all: Vec<_> = neighbours.map(|(peer, _)| *peer).chain(dialed).collect();
        for peer in all {
            self.relay.close(peer, Close::Done);
            self.gone(peer, &"the broadcaster refuses this viewer".into(), now);
        }
    }

    /// A neighbour named somebody: it is dialed at once, since there is a reason.
    pub(super) fn suggested(
        &mut self,
        candidate: Option<Candidate>,
        by: Option<PeerId>,
        now: Instant,
    ) {
        let seen_at = self.seen_at;
        let Some(candidate) = candidate
            .filter(|c| c.node != self.relay.me)
            .filter(|c| may_name(c.addr, seen_at))
        else {
            return;
        };
        let known = self.knows(&candidate.node) || self.shuns(&candidate.node);
        let alone = self.settings.seed_only;
        let full =
            alone || self.hinted.len() >= MAX_HINTED || self.viewers() >= self.settings.max_peers;
        if known || full || self.ticket.is_none() || !self.book.hinted(&candidate, now) {
            return;
        }
        if let Some(peer) = self.dial(candidate.node, candidate.addr, by) {
            self.hinted.insert(peer);
        }
    }

    /// Whether there is a connection to it, or will be one.
    fn knows(&self, node: &NodeId) -> bool {
        self.dialing.values().any(|dial| dial.id == *node)
            || self.relay.peers.values().any(|p| p.id == *node)
    }

    /// Connections to other viewers.
    fn viewers(&self) -> usize {
        self.relay.peers.values().filter(|p| !p.seed).count()
    }

    /// Reaches out for another viewer, whom this neighbour named, or the seed, which knows all.
    fn dial(&mut self, id: NodeId, addr: SocketAddr, by: Option<PeerId>) -> Option<PeerId> {
        let there = |peer: &PeerId| self.relay.peers.get(peer).is_some_and(|p| p.ready);
        let by = by.filter(there).or(self.seed.filter(there))?;
        let peer = self.new_dial();
        let meeting = self.relay.acquaintances.meeting();
        let dial = Dial { id, meeting, by };
        self.ask_to_meet(&dial);
        self.dialing.insert(peer, dial);
        let target = Target::Viewer { id, addr, meeting };
        self.relay.act(Action::Dial(peer, target));
        Some(peer)
    }

    fn ask_to_meet(&mut self, dial: &Dial) {
        let asks = Message::Introduce {
            node: dial.id.short(),
            meeting: dial.meeting,
        };
        self.relay.send(dial.by, &asks);
    }

    /// Who was asked for an introduction can't give it: the seed knows all that are there.
    pub(super) fn not_introduced(&mut self, by: PeerId, meeting: Meeting) {
        let seed = self.seed.filter(|seed| *seed != by && self.seed_welcomed);
        let mut dials = self.dialing.values_mut();
        let dial = dials.find(|d| d.by == by && d.meeting == meeting);
        if let Some((dial, seed)) = dial.zip(seed) {
            dial.by = seed;
            let dial = *dial;
            self.ask_to_meet(&dial);
        }
    }

    /// Somebody wants to be reached.
    pub(super) fn met(
        &mut self,
        peer: PeerId,
        addrs: Vec<SocketAddr>,
        meeting: Meeting,
        now: Instant,
    ) {
        if !self.settings.seed_only {
            self.relay.meet(peer, addrs, meeting, self.seen_at, now);
        }
    }

    /// Asks for more viewers: the seed, which knows who has room; where it had no time for that, a neighbour.
    fn look_for_others(&mut self, seed: PeerId, now: Instant) {
        self.find_at = Some(now + self.find);
        self.find = (self.find * 2).min(LONGEST_FIND);
        let viewers = self.relay.peers.iter();
        let viewers = viewers.filter(|(_, p)| p.ready && !p.seed && p.relays);
        let viewers: Vec<_> = viewers.map(|(peer, _)| *peer).collect();
        self.asked = match self.asked == Some(seed) && !viewers.is_empty() {
            true => viewers.get(self.relay.rng.usize(..viewers.len())).copied(),
            false => Some(seed),
        };
        if let Some(asked) = self.asked {
            self.relay.send(asked, &Message::Find);
        }
    }

    /// A neighbour names some of those that it was asked for: its own neighbours.
    pub(super) fn named_by(&mut self, peer: PeerId, list: Vec<Candidate>, now: Instant) {
        if self.asked.take_if(|asked| *asked == peer).is_none() {
            return;
        }
        for candidate in list.into_iter().take(MAX_HINTED) {
            self.suggested(Some(candidate), Some(peer), now);
        }
    }

    /// Another viewer looks for others.
    pub(super) fn name_neighbours(&mut self, asker: PeerId, now: Instant) {
        if !self.relay.may_find(asker, now) {
            return;
        }
        let viewers = self.relay.peers.iter();
        let mut list: Vec<_> = viewers
            .filter(|(peer, p)| **peer != asker && p.ready && !p.seed && p.relays)
            .map(|(peer, p)| (p.have.spare, *peer))
            .collect();
        self.relay.rng.shuffle(&mut list);
        list.sort_by_key(|(spare, _)| std::cmp::Reverse(*spare));
        let list = list.into_iter().take(MAX_HINTED);
        let list = list
            .filter_map(|(_, peer)| self.relay.candidate(peer))
            .collect();
        self.relay.send(asker, &Message::Candidates(list));
    }

    pub(super) fn candidates(&mut self, mut list: Vec<Candidate>, now: Instant) {
        list.truncate(MAX_CANDIDATES);
        list.retain(|c| may_name(c.addr, self.seen_at));
        self.asked = None;
        self.book.named(&list, self.relay.me, now);
        self.meet(now);
    }

    /// Another viewer says hello.
    pub(super) fn hello(&mut self, peer: PeerId, hello: Hello, now: Instant) {
        let id = self.relay.peers.get(&peer).map(|p| p.id);
        let ticket = hello
            .ticket
            .as_ref()
            .zip(self.verifier.as_ref())
            .and_then(|(ticket, verifier)| ticket.open(&**verifier));
        let ticket = ticket.filter(|t| Some(t.node) == id && self.holds(t, now));
        let good = hello.version == VERSION && !self.settings.seed_only;
        let ticket = ticket.filter(|_| good);
        let Some(state) = self.relay.peers.get_mut(&peer) else {
            return;
        };
        let Some(ticket) = ticket else {
            self.relay.send(peer, &Message::Refuse(Refusal::Ticket));
            self.relay.close(peer, Close::Refused);
            return;
        };
        state.ready = true;
        state.seen_at = ticket.addr;
        state.relays = hello.relay;
        let (id, addr) = (state.id, state.addr);
        if peer.0 & PeerId::DIALED == 0 {
            self.relay.act(Action::LetIn(peer));
            self.greet(peer);
            self.relay.ping(peer, now);
        }
        let have = Message::Have(self.relay.have(now));
        self.relay.send(peer, &have);
        self.relay.tell(Event::PeerAdded { id, addr });
    }

    /// Whether nothing is taken from a node, nor given to it: it forged, or is excluded.
    fn shuns(&self, node: &NodeId) -> bool {
        self.book.banned(node) || self.relay.banned.has(node)
    }

    /// The broadcaster excludes some.
    pub(super) fn bans(&mut self, from: PeerId, signed: Signed<Bans>, now: Instant) {
        let Some(verifier) = &self.verifier else {
            return;
        };
        let Some(bans) = signed.open(&**verifier) else {
            self.relay.nonsense(from, now);
            return;
        };
        if !self.relay.learn_bans(signed, bans) {
            return;
        }
        for peer in self.relay.excluded() {
            self.relay.close(peer, Close::Refused);
            self.gone(peer, &"the broadcaster excludes it".into(), now);
        }
    }

    /// Whether an admission holds. It expires in stream time, which stands still with the seed:
    /// an outage voids none.
    fn holds(&self, ticket: &Ticket, now: Instant) -> bool {
        if ticket.epoch > self.relay.epoch {
            return true;
        }
        if ticket.epoch < self.relay.epoch {
            return self.former_epoch.is_some_and(|(former, at)| {
                ticket.epoch >= former && now.saturating_duration_since(at) < FORMER_HOLDS
            });
        }
        let newest = self.relay.window.newest_time();
        let known = self.beacon.map(|b| b.time).max(newest);
        known.unwrap_or(SenderTime(0)) <= ticket.expires
    }

    /// How many others are worth a connection that is not needed now: more in a small grid, since whoever loses a
    /// parent far away has no time to be introduced.
    fn warm(&self) -> usize {
        let few = self.grid() <= SMALL;
        if few { WARM * 2 } else { WARM }
    }

    /// Keeps some connections to other viewers warm.
    pub(super) fn meet(&mut self, now: Instant) {
        let alone = self.settings.seed_only;
        if alone || self.ticket.is_none() || self.started.is_none() {
            return;
        }
        // Children feed nobody that feeds them.
        let children = self.relay.children.all();
        let others = self.relay.peers.iter();
        let viewers = others
            .filter(|(peer, p)| !p.seed && !children.contains(peer))
            .count()
            + self.dialing.len()
            - self.hinted.len();
        // With too few to choose from (those known may all be fed through this node), more.
        let lacks = self
            .parents
            .feeds()
            .any(|(_, f)| f.leased() || f.parent().is_none());
        let warm = if lacks { WARM * 2 } else { self.warm() };
        let left = self.settings.max_peers.saturating_sub(self.viewers());
        let wanted = warm.saturating_sub(viewers).min(left);
        if wanted == 0 {
            return;
        }
        let banned = &self.relay.banned;
        let not_now = |id: &NodeId| {
            banned.has(id)
                || self.relay.peers.values().any(|p| p.id == *id)
                || self.dialing.values().any(|d| d.id == *id)
        };
        let rng = &mut self.relay.rng;
        let list = self.book.to_dial(wanted, not_now, rng, now);
        let short = list.len() < wanted;
        for (id, addr) in list {
            let _ = self.dial(id, addr, None);
        }
        let due = self.find_at.is_none_or(|at| at <= now);
        if let Some(seed) = self.seed.filter(|_| short && due && self.seed_welcomed) {
            self.look_for_others(seed, now);
        } else if !short {
            self.find = FIND;
        }
    }

    /// Closes connections that this node made and nobody uses, beyond those kept warm: each costs
    /// both ends buffer maps and pings.
    pub(super) fn tidy(&mut self, now: Instant) {
        if now.saturating_duration_since(self.tidied) < TIDY {
            return;
        }
        self.tidied = now;
        let children = self.relay.children.all();
        let idle = |(peer, p): &(&PeerId, &Peer)| {
            peer.0 & PeerId::DIALED != 0
                && p.ready
                && !p.seed
                && !children.contains(peer)
                && !self.parents.concerns(**peer)
                && now.saturating_duration_since(p.since) > IDLE
        };
        let mut idle: Vec<_> = self.relay.peers.iter().filter(idle).collect();
        let surplus = idle.len().saturating_sub(self.warm());
        if surplus == 0 {
            return;
        }
        idle.sort_by_key(|(peer, p)| (p.have.spare, p.since, **peer));
        let surplus: Vec<_> = idle.iter().take(surplus).map(|(peer, _)| **peer).collect();
        for peer in surplus {
            self.relay.close(peer, Close::Done);
        }
    }

    /// Without room at any neighbour, others are worth knowing.
    pub(super) fn meet_others(&mut self, now: Instant) {
        let leased = self
            .parents
            .feeds()
            .any(|(_, f)| f.leased() || f.parent().is_none());
        let due = self.find_at.is_none_or(|at| at <= now);
        if !leased || !due || self.started.is_none() || self.settings.seed_only {
            return;
        }
        let Some(seed) = self.seed.filter(|_| self.seed_welcomed) else {
            return;
        };
        let viewers: Vec<_> = self
            .relay
            .peers
            .iter()
            .filter(|(_, p)| !p.seed && p.ready)
            .map(|(peer, p)| (*peer, p.have.spare, p.since))
            .collect();
        let roomy = viewers.iter().any(|(_, spare, _)| *spare > 0);
        if viewers.len() >= WARM && !roomy {
            // One that gives nothing and takes nothing makes place for another.
            let useless = viewers.iter().find(|(peer, _, since)| {
                self.parents.count(*peer) == 0
                    && self.relay.children.stripes_of(*peer).next().is_none()
                    && now.saturating_duration_since(*since) > LONGEST_FIND
            });
            if let Some((peer, ..)) = useless {
                self.relay.close(*peer, Close::Done);
            }
        }
        self.look_for_others(seed, now);
    }

    pub(super) fn find_seed(&mut self, now: Instant) {
        if let Some(seed) = self.seed {
            let Some(state) = self.relay.peers.get(&seed) else {
                return;
            };
            let again = match self.started {
                None => WAITING_PING,
                Some(_) if self.parents.at_rest(now) => contact(self.grid() * RESTED),
                Some(_) => contact(self.grid()),
            };
            if state.unanswered(now) > SEED_SILENCE {
                self.relay.close(seed, Close::Silent);
                self.gone(seed, &"the seed is silent".into(), now);
            } else if state
                .ping_sent
                .is_none_or(|at| now.saturating_duration_since(at) >= again)
            {
                self.relay.ping(seed, now);
            }
        } else if self.redial_at.is_some_and(|at| at <= now) && !self.end_here() {
            self.redial_at = None;
            let peer = self.new_dial();
            self.seed = Some(peer);
            let key = self.settings.stream;
            self.relay.act(Action::Dial(peer, Target::Seed(key)));
            if self.started.is_none() {
                self.set_status(Status::Connecting);
            }
        }
    }
}
