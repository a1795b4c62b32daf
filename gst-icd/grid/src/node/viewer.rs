//! The node inside `icdsrc`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::candidates::Candidates;
use crate::clock::ClockMap;
use crate::ids::{NodeId, PeerId, Seq, StreamKey, StripeId};
use crate::message::{
    Hello, MAX_CANDIDATES, Message, NoStripe, Refusal, Report, Start, VERSION, Welcome,
};
use crate::node::relay::Relay;
use crate::node::{
    Close, Event, Histogram, Input, MakeVerifier, Media, Stats, Status, Target, ViewerSettings,
};
use crate::parents::{Neighbour, Parents, Path, Step};
use crate::piece::{Hop, Piece, Why, claimed};
use crate::playout::{Next, Playout};
use crate::record::{Beacon, Signed, StreamHeader, Ticket};
use crate::rescue::{Missing, Rescue, Source};
use crate::trust::Verify;
use crate::window::{Bounds, Offered};

use super::Action;

const TICK: Duration = Duration::from_millis(20);
const HAVE: Duration = Duration::from_millis(500);
const REPORT: Duration = Duration::from_secs(1);
const PEER_PING: Duration = Duration::from_secs(2);
const SEED_PING: Duration = Duration::from_secs(1);
/// The seed is gone when it answers nothing for this long.
const SEED_SILENCE: Duration = Duration::from_secs(3);
const REDIAL: Duration = Duration::from_millis(100);
const LONGEST_REDIAL: Duration = Duration::from_secs(1);
/// Warm connections to other viewers (notes on transport: at most six).
const WARM: usize = 6;
const FIND: Duration = Duration::from_millis(200);
const LONGEST_FIND: Duration = Duration::from_secs(3);
/// Without a piece for this long, the viewer starves.
const STARVING: Duration = Duration::from_secs(1);
/// Pieces that came before the seed said where the stream begins.
const MAX_EARLY: usize = 512;
const EARLY_BYTES: usize = 8 * 1024 * 1024;
/// The start's own pieces are on their way; nothing is pulled meanwhile.
const SETTLE: Duration = Duration::from_millis(600);
const MAX_MISSING: usize = 256;
const WINDOW_BYTES: usize = 64 * 1024 * 1024;
/// What the window holds beyond twice the play-out delay: the start may reach back a delay and
/// a group of pictures, and is waited for another delay; children pull from it, too.
const WINDOW_BEYOND: Duration = Duration::from_secs(4);

/// See the module.
#[derive(Debug)]
pub(super) struct Viewer {
    pub(super) relay: Relay,
    settings: ViewerSettings,
    make_verifier: MakeVerifier,
    verifier: Option<Box<dyn Verify>>,
    seed: Option<PeerId>,
    seed_welcomed: bool,
    redial_at: Option<Instant>,
    redial: Duration,
    refused: bool,
    ticket: Option<Signed<Ticket>>,
    beacon: Option<Beacon>,
    book: Candidates,
    dialing: BTreeMap<PeerId, NodeId>,
    next_dial: u64,
    dialed_at: Option<Instant>,
    find_at: Option<Instant>,
    find: Duration,
    parents: Parents,
    orphans: BTreeMap<StripeId, (Option<NodeId>, Instant)>,
    rescue: Rescue,
    playout: Playout,
    clock: ClockMap,
    fresh_clock: Option<ClockMap>,
    early: Vec<(PeerId, Bytes)>,
    early_bytes: usize,
    started: Option<(Instant, Seq)>,
    asked_header: Option<Instant>,
    wake_media: Option<Instant>,
    status: Status,
    last_piece: Instant,
    ticked: Instant,
    have_at: Instant,
    report_at: Instant,
    end_told: bool,
    from_seed: u64,
    from_peers: u64,
    rescued: u64,
    failovers: u64,
    lag: Histogram,
    recent_lag: Histogram,
}

impl Viewer {
    pub(super) fn new(
        settings: ViewerSettings,
        me: NodeId,
        make_verifier: MakeVerifier,
        random: u64,
        now: Instant,
    ) -> Self {
        let bounds = Bounds {
            span: settings.latency * 2 + WINDOW_BEYOND,
            bytes: WINDOW_BYTES,
        };
        let verifier = settings.stream.and_then(make_verifier);
        Self {
            relay: Relay::new(me, bounds, Some(settings.upload), random, now),
            playout: Playout::new(settings.latency),
            settings,
            make_verifier,
            verifier,
            seed: None,
            seed_welcomed: false,
            redial_at: Some(now),
            redial: REDIAL,
            refused: false,
            ticket: None,
            beacon: None,
            book: Candidates::default(),
            dialing: BTreeMap::new(),
            next_dial: 0,
            dialed_at: None,
            find_at: None,
            find: FIND,
            parents: Parents::default(),
            orphans: BTreeMap::new(),
            rescue: Rescue::default(),
            clock: ClockMap::new(now),
            fresh_clock: None,
            early: Vec::new(),
            early_bytes: 0,
            started: None,
            asked_header: None,
            wake_media: None,
            status: Status::Connecting,
            last_piece: now,
            ticked: now,
            have_at: now,
            report_at: now,
            end_told: false,
            from_seed: 0,
            from_peers: 0,
            rescued: 0,
            failovers: 0,
            lag: Histogram::default(),
            recent_lag: Histogram::default(),
        }
    }

    fn new_dial(&mut self) -> PeerId {
        self.next_dial += 1;
        PeerId(self.next_dial | PeerId::DIALED)
    }

    fn set_status(&mut self, status: Status) {
        if self.status != status {
            self.status = status;
            self.relay.tell(Event::Status(status));
        }
    }

    pub(super) fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Connected { peer, id, addr } => self.connected(peer, id, addr, now),
            Input::Disconnected { peer, why } => self.gone(peer, &why, now),
            Input::Message { peer, bytes } => match Message::decode(&bytes) {
                Ok(message) => self.message(peer, message, now),
                Err(_) => self.relay.nonsense(peer),
            },
            Input::Piece { peer, bytes } => self.piece(peer, bytes, now),
            Input::Sent {
                peer,
                seq,
                delivered,
            } => self.relay.uplink.sent(peer, seq, delivered, now),
            Input::Upload(rate) => {
                self.relay.uplink.set_rate(rate);
                self.relay.resize(self.settings.relay);
                self.shed(now);
            }
            Input::Live => self.playout.go_live(&self.relay.window),
            Input::Item { .. }
            | Input::State { .. }
            | Input::End
            | Input::Verdict { .. }
            | Input::MaxViewers(_) => {}
        }
    }

    fn connected(&mut self, peer: PeerId, id: NodeId, addr: std::net::SocketAddr, now: Instant) {
        self.dialing.remove(&peer);
        if self.book.banned(&id) {
            self.relay.close(peer, Close::Fault);
            return;
        }
        let is_seed = self.seed == Some(peer);
        let (stays, twin) = self.relay.connected(peer, id, addr, now);
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
            let viewers = self.relay.peers.values().filter(|p| !p.seed).count();
            if viewers > self.settings.max_peers {
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

    fn greet(&mut self, peer: PeerId) {
        let hello = Hello {
            version: VERSION,
            features: 0,
            stream: self.settings.stream,
            ticket: self.ticket.clone(),
            epoch: self.relay.epoch,
            resume: self.started.and(self.first_missing(None)),
            latency_ms: self.settings.latency.as_millis().min(u128::from(u32::MAX)) as u32,
            relay: self.settings.relay,
            port: self.settings.port,
            proof: Bytes::new(),
        };
        self.relay.send(peer, &Message::Hello(hello));
    }

    /// The first piece from the play-out on that is not here, on one stripe or on all.
    fn first_missing(&self, stripe: Option<StripeId>) -> Option<Seq> {
        let position = self.playout.position()?;
        let stripes = self.relay.stripes();
        let mut seq = position.max(self.relay.window.floor());
        let head = self.relay.window.head().unwrap_or(seq);
        while seq <= head {
            let here = self.relay.window.has(seq);
            if !here && stripe.is_none_or(|k| seq.stripe(stripes) == k) {
                return Some(seq);
            }
            seq = seq.plus(1);
        }
        Some(seq)
    }

    /// Forgets a connection without telling anybody.
    fn drop_peer(&mut self, peer: PeerId, now: Instant) -> Option<NodeId> {
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
        self.relay.forget(peer).map(|p| p.id)
    }

    fn gone(&mut self, peer: PeerId, why: &str, now: Instant) {
        if let Some(id) = self.dialing.remove(&peer) {
            self.book.failed(id, now);
        }
        if self.seed == Some(peer) {
            if !self.relay.peers.contains_key(&peer) {
                self.relay.tell(Event::Unreached(why.into()));
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
                self.book.failed(id, now);
            }
            if ready {
                let why = why.into();
                self.relay.tell(Event::PeerRemoved { id, why });
            }
        }
        self.seek_parents(now);
    }

    fn message(&mut self, peer: PeerId, message: Message, now: Instant) {
        let Some(state) = self.relay.peers.get_mut(&peer) else {
            return;
        };
        state.heard = now;
        let (ready, seed) = (state.ready, state.seed);
        match message {
            Message::Ping { id } => self.relay.send(peer, &Message::Pong { id, time: None }),
            Message::Pong { id, time } => {
                let Some(asked) = self.relay.ponged(peer, id, now) else {
                    return;
                };
                if let Some(time) = time.filter(|_| seed) {
                    let clock = self.fresh_clock.as_mut().unwrap_or(&mut self.clock);
                    clock.sample(asked, time, now);
                }
            }
            Message::Refuse(refusal) => self.refused_by(peer, seed, refusal, now),
            Message::Welcome(welcome) if seed => self.welcome(peer, welcome, now),
            Message::Start(start) if seed => self.start(peer, start, now),
            Message::Hello(hello) if !seed && !ready => self.hello(peer, hello, now),
            Message::Header(signed) => self.header(signed),
            Message::Beacon(signed) => self.beacon(&signed),
            _ if !ready => self.relay.nonsense(peer),
            Message::Candidates(list) if seed => self.candidates(list, now),
            Message::Subscribe { stripe, from, .. } => self.subscribe(peer, stripe, from, now),
            Message::Accept {
                stripe,
                path,
                lease,
            } => self.accept(peer, stripe, path, lease, now),
            Message::Reject { stripe, why } => {
                self.parents.rejected(peer, stripe, now);
                if why == NoStripe::Busy
                    && let Some(state) = self.relay.peers.get_mut(&peer)
                {
                    state.have.spare = 0;
                }
                self.seek_parents(now);
            }
            Message::Path { stripe, path } => self.path(peer, stripe, path, now),
            Message::Evict { stripe } => {
                self.parents.evicted(peer, stripe, now);
                self.path_lost(stripe);
                self.seek_parents(now);
            }
            Message::Invite { stripe } if seed => {
                let step = self.parents.invited(peer, stripe, now);
                self.walk(step, now);
            }
            Message::Root { stripe } if seed => self.parents.rooted(peer, stripe),
            Message::Nak(seqs) => {
                for seq in seqs {
                    self.rescue.refused(peer, seq, now);
                }
                self.pull(now);
            }
            message => {
                if !self.relay.shared(peer, &message, now) && !matches!(message, Message::Bye) {
                    self.relay.nonsense(peer);
                }
            }
        }
    }

    fn refused_by(&mut self, peer: PeerId, seed: bool, refusal: Refusal, now: Instant) {
        if seed {
            if let Refusal::Full { retry_s } = refusal {
                self.redial_at = Some(now + Duration::from_secs(u64::from(retry_s.clamp(1, 300))));
            } else {
                self.refused = true;
                self.redial_at = None;
                self.set_status(Status::Refused);
            }
            self.relay.tell(Event::Refused(refusal));
        }
        self.relay.close(peer, Close::Done);
    }

    fn welcome(&mut self, peer: PeerId, welcome: Welcome, now: Instant) {
        let Some(verifier) = &self.verifier else {
            return;
        };
        let ticket = welcome.ticket.open(&**verifier);
        if ticket.is_none_or(|t| t.node != self.relay.me) {
            self.relay.nonsense(peer);
            return;
        }
        self.ticket = Some(welcome.ticket);
        self.seed_welcomed = true;
        self.redial = REDIAL;
        if let Some(state) = self.relay.peers.get_mut(&peer) {
            state.ready = true;
        }
        self.beacon(&welcome.beacon);
        self.candidates(welcome.candidates, now);
        if self.started.is_none() {
            self.set_status(Status::Waiting);
        }
    }

    fn candidates(&mut self, mut list: Vec<crate::message::Candidate>, now: Instant) {
        list.truncate(MAX_CANDIDATES);
        self.book.named(&list, self.relay.me, now);
        self.meet(now);
    }

    fn start(&mut self, peer: PeerId, start: Start, now: Instant) {
        let Some(verifier) = &self.verifier else {
            return;
        };
        let Some(header) = start.header.open(&**verifier) else {
            self.relay.nonsense(peer);
            return;
        };
        if header.epoch < self.relay.epoch {
            return;
        }
        let is_new = header.epoch > self.relay.epoch;
        let format = header.format();
        if is_new {
            self.relay.reset(header.epoch, format);
            self.parents.reset(format.stripes, format.round(), now);
            self.orphans.clear();
            self.rescue.clear();
            self.playout.start(start.from, start.head, now);
            self.started = Some((now, start.head));
            self.beacon = None;
            self.end_told = false;
            let mut clock = self.fresh_clock.take().unwrap_or(ClockMap::new(now));
            clock.settle();
            self.clock = clock;
            self.relay.tell(Event::Epoch(header.epoch));
        } else {
            self.fresh_clock = None;
        }
        self.relay.learn_header(start.header, header);
        self.relay.resize(self.settings.relay);
        for k in 0..format.stripes.min(64) {
            let orphan = self
                .parents
                .feed(StripeId(k))
                .is_some_and(|f| f.parent().is_none());
            if start.leased & (1 << k) == 0 {
                continue;
            }
            if orphan {
                self.parents.lent(peer, StripeId(k), now);
                self.path_told(StripeId(k));
            } else {
                let from = self.first_missing(Some(StripeId(k))).unwrap_or_default();
                let stripe = StripeId(k);
                self.relay
                    .send(peer, &Message::Unsubscribe { stripe, from });
            }
        }
        self.last_piece = now;
        self.set_status(Status::Running);
        self.early_bytes = 0;
        for (from, bytes) in std::mem::take(&mut self.early) {
            self.piece(from, bytes, now);
        }
        self.meet(now);
        self.seek_parents(now);
    }

    /// Another viewer says hello.
    fn hello(&mut self, peer: PeerId, hello: Hello, now: Instant) {
        let id = self.relay.peers.get(&peer).map(|p| p.id);
        let ticket = hello
            .ticket
            .as_ref()
            .zip(self.verifier.as_ref())
            .and_then(|(ticket, verifier)| ticket.open(&**verifier));
        let good = hello.version == VERSION
            && ticket.is_some_and(|t| Some(t.node) == id && t.epoch >= self.relay.epoch);
        let Some(state) = self.relay.peers.get_mut(&peer) else {
            return;
        };
        if !good {
            self.relay.send(peer, &Message::Refuse(Refusal::Ticket));
            self.relay.close(peer, Close::Refused);
            return;
        }
        state.ready = true;
        state.relays = hello.relay;
        let (id, addr) = (state.id, state.addr);
        if peer.0 & PeerId::DIALED == 0 {
            self.greet(peer);
            self.relay.ping(peer, now);
        }
        let have = Message::Have(self.relay.have(now));
        self.relay.send(peer, &have);
        self.relay.tell(Event::PeerAdded { id, addr });
    }

    fn header(&mut self, signed: Signed<StreamHeader>) {
        let Some(verifier) = &self.verifier else {
            return;
        };
        let Some(header) = signed.open(&**verifier) else {
            return;
        };
        if header.epoch == self.relay.epoch {
            let version = header.version;
            if self.relay.learn_header(signed.clone(), header) && version > 0 {
                for child in self.relay.children.all() {
                    self.relay.send(child, &Message::Header(signed.clone()));
                }
            }
        }
    }

    fn beacon(&mut self, signed: &Signed<Beacon>) {
        let Some(verifier) = &self.verifier else {
            return;
        };
        let Some(beacon) = signed.open(&**verifier) else {
            return;
        };
        let newer = self
            .beacon
            .is_none_or(|b| (b.epoch, b.time) < (beacon.epoch, beacon.time));
        if beacon.epoch == self.relay.epoch && newer {
            self.beacon = Some(beacon);
            for child in self.relay.children.all() {
                self.relay.send(child, &Message::Beacon(signed.clone()));
            }
        }
    }

    fn own_path(&self, stripe: StripeId) -> Option<Vec<u64>> {
        let feed = self.parents.feed(stripe)?;
        feed.parent()?;
        let mut path = feed.path().to_vec();
        path.push(self.relay.me.short());
        Some(path)
    }

    fn subscribe(&mut self, peer: PeerId, stripe: StripeId, from: Seq, now: Instant) {
        let Some(short) = self.relay.peers.get(&peer).map(|p| p.id.short()) else {
            return;
        };
        let path = self.own_path(stripe);
        let verdict = self
            .relay
            .children
            .judge(peer, short, stripe, path.as_deref());
        if let Err(why) = verdict {
            self.relay.send(peer, &Message::Reject { stripe, why });
            return;
        }
        self.relay.children.add(peer, stripe, false, now);
        let accept = Message::Accept {
            stripe,
            path: path.unwrap_or_default(),
            lease: false,
        };
        self.relay.send(peer, &accept);
        let ttl = self.settings.latency;
        self.relay.backlog(peer, Some(stripe), from, ttl, now);
    }

    fn accept(
        &mut self,
        peer: PeerId,
        stripe: StripeId,
        path: Vec<u64>,
        lease: bool,
        now: Instant,
    ) {
        let expected = self.parents.is_pending(peer, stripe)
            || self
                .parents
                .feed(stripe)
                .is_some_and(|f| f.parent() == Some(peer));
        if !expected || path.contains(&self.relay.me.short()) {
            let from = Seq(0);
            self.relay
                .send(peer, &Message::Unsubscribe { stripe, from });
            self.parents.rejected(peer, stripe, now);
            return;
        }
        let before = self.parents.feed(stripe).map(|f| f.path().to_vec());
        let leave = self.parents.accepted(peer, stripe, path, lease, now);
        self.walk(leave, now);
        if let Some((from, since)) = self.orphans.remove(&stripe)
            && let Some(to) = self.relay.peers.get(&peer).map(|p| p.id)
        {
            self.failovers += 1;
            let gap = now.saturating_duration_since(since);
            self.relay.tell(Event::Failover {
                stripe,
                from,
                to,
                gap,
            });
        }
        if self.parents.feed(stripe).map(|f| f.path().to_vec()) != before {
            self.path_told(stripe);
        }
    }

    fn path(&mut self, peer: PeerId, stripe: StripeId, path: Vec<u64>, now: Instant) {
        let me = self.relay.me.short();
        match self.parents.path_changed(peer, stripe, path, me) {
            Path::Same => {}
            Path::Changed => self.path_told(stripe),
            Path::Loop => {
                let from = Seq(0);
                self.relay
                    .send(peer, &Message::Unsubscribe { stripe, from });
                self.parents.evicted(peer, stripe, now);
                self.path_lost(stripe);
                self.seek_parents(now);
            }
        }
    }

    /// Tells the children of a stripe the way it takes now.
    fn path_told(&mut self, stripe: StripeId) {
        let Some(path) = self.own_path(stripe) else {
            return;
        };
        let children: Vec<_> = self.relay.children.of(stripe).collect();
        for child in children {
            let path = path.clone();
            self.relay.send(child, &Message::Path { stripe, path });
        }
    }

    /// The stripe has no parent; the children keep this node, which looks for one.
    fn path_lost(&mut self, stripe: StripeId) {
        let now = self.ticked;
        self.orphans.entry(stripe).or_insert((None, now));
    }

    fn walk(&mut self, steps: impl IntoIterator<Item = Step>, now: Instant) {
        for step in steps {
            match step {
                Step::Subscribe {
                    peer,
                    stripe,
                    lease,
                } => {
                    let fed = self.parents.feed(stripe).filter(|f| f.parent().is_some());
                    let from = match fed.and_then(|f| f.last()) {
                        // Somebody still feeds it: the rest is on its way from there.
                        Some(last) => last.plus(1),
                        None if fed.is_some() => self
                            .started
                            .map(|(_, head)| head.plus(1))
                            .unwrap_or_default(),
                        None => self.first_missing(Some(stripe)).unwrap_or_default(),
                    };
                    let message = Message::Subscribe {
                        stripe,
                        from,
                        lease,
                    };
                    self.relay.send(peer, &message);
                }
                Step::Leave { peer, stripe } => {
                    let id = self.relay.peers.get(&peer).map(|p| p.id);
                    let feed = self.parents.feed(stripe);
                    if feed.is_some_and(|f| f.parent().is_none()) {
                        self.orphans.entry(stripe).or_insert((id, now));
                    }
                    let from = feed.and_then(|f| f.last()).map_or(Seq(0), |s| s.plus(1));
                    self.relay
                        .send(peer, &Message::Unsubscribe { stripe, from });
                }
                Step::Dead(peer) => {
                    if let Some(state) = self.relay.peers.get(&peer) {
                        self.book.failed(state.id, now);
                    }
                }
            }
        }
    }

    /// The uplink shrank: the youngest children go.
    fn shed(&mut self, _now: Instant) {
        let over = self
            .relay
            .children
            .used()
            .saturating_sub(self.relay.children.slots());
        let mut all: Vec<_> = (0..self.relay.stripes())
            .map(StripeId)
            .flat_map(|k| {
                self.relay
                    .children
                    .of(k)
                    .map(move |p| (k, p))
                    .collect::<Vec<_>>()
            })
            .collect();
        all.sort_by_key(|(k, p)| self.relay.children.get(*p, *k).map(|c| c.since));
        for (stripe, peer) in all.into_iter().rev().take(over) {
            self.relay.children.remove(peer, stripe);
            self.relay.send(peer, &Message::Evict { stripe });
        }
    }

    fn piece(&mut self, peer: PeerId, bytes: Bytes, now: Instant) {
        let Some(state) = self.relay.peers.get(&peer) else {
            return;
        };
        let (id, addr, seed) = (state.id, state.addr, state.seed);
        if self.relay.format.is_none() || (seed && self.fresh_clock.is_some()) {
            // A new life of the seed may outrun the message that announces it.
            if seed && self.early.len() < MAX_EARLY && self.early_bytes < EARLY_BYTES {
                self.early_bytes += bytes.len();
                self.early.push((peer, bytes));
            }
            return;
        }
        let size = bytes.len();
        let Some((hop, body)) = Hop::decode(bytes) else {
            self.relay.nonsense(peer);
            return;
        };
        if let Some((epoch, seq)) = claimed(&body) {
            if epoch != self.relay.epoch {
                return;
            }
            if self.relay.window.has(seq) {
                self.relay.duplicates += 1;
                self.relay.note_hop(peer, &hop, size, now);
                self.parents.arrived(seq, peer, now);
                return;
            }
        }
        let Some(verifier) = &self.verifier else {
            return;
        };
        let piece = match Piece::verify(body, &**verifier) {
            Ok(piece) => piece,
            Err(error) => {
                self.book.ban(id, addr, now);
                self.relay.close(peer, Close::Fault);
                self.drop_peer(peer, now);
                let what = error.to_string();
                self.relay.tell(Event::Fault { id, what });
                return;
            }
        };
        let info = *piece.info();
        self.relay.note_hop(peer, &hop, size, now);
        if seed {
            self.from_seed += size as u64;
        } else {
            self.from_peers += size as u64;
        }
        self.parents.arrived(info.seq, peer, now);
        if self.relay.store(piece, Some(peer), now) != Offered::New {
            return;
        }
        if hop.why == Why::Pull {
            self.rescued += 1;
        }
        if hop.why != Why::Backlog
            && let Some(map) = self.clock.mapping()
        {
            let lag = now.saturating_duration_since(map.local(info.time));
            self.lag.add(lag);
            self.recent_lag.add(lag);
        }
        self.last_piece = now;
        if self.status == Status::Starving {
            self.set_status(Status::Running);
        }
        if info.end {
            self.report(now);
        }
    }

    fn neighbours(&self) -> Vec<Neighbour> {
        self.relay
            .peers
            .iter()
            .filter(|(_, p)| p.ready)
            .map(|(peer, p)| Neighbour {
                peer: *peer,
                seed: p.seed,
                spare: if p.relays { p.have.spare } else { 0 },
                rtt: p.rtt,
                heads: p.have.heads.clone(),
            })
            .collect()
    }

    fn seek_parents(&mut self, now: Instant) {
        if self.started.is_none() || self.playout.ended() {
            return;
        }
        let neighbours = self.neighbours();
        let steps = self.parents.tick(&neighbours, &mut self.relay.rng, now);
        self.walk(steps, now);
    }

    /// Pulls what will not come otherwise.
    fn pull(&mut self, now: Instant) {
        let (Some(position), Some((since, start_head))) = (self.playout.position(), self.started)
        else {
            return;
        };
        let settled = now.saturating_duration_since(since) > SETTLE;
        let clock = self.clock.mapping();
        let head = self.relay.window.head().unwrap_or(position);
        let head = head.max(self.beacon.map_or(head, |b| b.head));
        let mut missing = Vec::new();
        let mut seq = position;
        while seq <= head && missing.len() < MAX_MISSING {
            if !self.relay.window.has(seq)
                && (settled || seq > start_head)
                && let Some(due) = self.playout.due(seq, &self.relay.window, clock)
            {
                missing.push(Missing {
                    seq,
                    slack: due.saturating_duration_since(now),
                    detached: self.parents.detached(seq),
                });
            }
            seq = seq.plus(1);
        }
        let stripes = self.relay.stripes();
        if missing.is_empty() || stripes == 0 {
            return;
        }
        let peers = &self.relay.peers;
        let sources: Vec<_> = peers
            .iter()
            .filter(|(_, p)| p.ready && now.saturating_duration_since(p.heard) < STARVING)
            .map(|(peer, p)| Source {
                peer: *peer,
                seed: p.seed,
                rtt: p.rtt,
                queue: Duration::from_millis(u64::from(p.have.queue_ms)),
            })
            .collect();
        // What neighbours say is up to half a second old: 25 pieces of 20 ms.
        let knows = |peer: PeerId, seq: Seq| {
            peers.get(&peer).is_some_and(|p| {
                let head = p
                    .have
                    .heads
                    .get(seq.stripe(stripes).index())
                    .copied()
                    .flatten();
                head.is_some_and(|head| head.0 + 25 >= seq.0)
            })
        };
        let plan = self
            .rescue
            .plan(&missing, &sources, self.settings.latency, knows, now);
        for (peer, seqs) in plan {
            self.relay.send(peer, &Message::Pull(seqs));
        }
    }

    /// Keeps some connections to other viewers warm.
    fn meet(&mut self, now: Instant) {
        if self.ticket.is_none() || self.started.is_none() {
            return;
        }
        let viewers = self.relay.peers.values().filter(|p| !p.seed).count() + self.dialing.len();
        let wanted = WARM.min(self.settings.max_peers).saturating_sub(viewers);
        if wanted == 0 {
            return;
        }
        let connected = |id: &NodeId| {
            self.relay.peers.values().any(|p| p.id == *id) || self.dialing.values().any(|d| d == id)
        };
        let list = self.book.to_dial(wanted, connected, now);
        let short = list.len() < wanted;
        for (id, addr) in list {
            let peer = self.new_dial();
            self.dialing.insert(peer, id);
            self.relay
                .act(Action::Dial(peer, Target::Viewer { id, addr }));
        }
        let due = self.find_at.is_none_or(|at| at <= now);
        if let Some(seed) = self.seed.filter(|_| short && due && self.seed_welcomed) {
            self.relay.send(seed, &Message::Find);
            self.find_at = Some(now + self.find);
            self.find = (self.find * 2).min(LONGEST_FIND);
        } else if !short {
            self.find = FIND;
        }
    }

    /// Without room at any neighbour, others are worth knowing.
    fn meet_others(&mut self, now: Instant) {
        let leased = self
            .parents
            .feeds()
            .any(|(_, f)| f.leased() || f.parent().is_none());
        let due = self.find_at.is_none_or(|at| at <= now);
        if !leased || !due || self.started.is_none() {
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
        self.relay.send(seed, &Message::Find);
        self.find_at = Some(now + self.find);
        self.find = (self.find * 2).min(LONGEST_FIND);
    }

    fn report(&mut self, now: Instant) {
        self.report_at = now;
        let Some(seed) = self.seed.filter(|_| self.seed_welcomed) else {
            return;
        };
        let fed = self
            .parents
            .feeds()
            .filter(|(_, f)| f.parent().is_some() && !f.leased())
            .fold(0, |bits, (k, _)| bits | 1u64 << (k.0 % 64));
        let complete = match self.playout.ended() {
            true => Seq(u64::MAX),
            false => self.first_missing(None).unwrap_or_default(),
        };
        let report = Report {
            slots: self.relay.children.slots().min(usize::from(u16::MAX)) as u16,
            spare: self.relay.children.spare().min(usize::from(u16::MAX)) as u16,
            fed,
            lag_ms: self.recent_lag.quantile(0.5).as_millis() as u16,
            complete,
            from_seed: self.from_seed,
            from_peers: self.from_peers,
            to_peers: self.relay.bytes_sent,
            lost: self.playout.lost(),
        };
        self.recent_lag = Histogram::default();
        self.relay.send(seed, &Message::Report(report));
    }

    fn find_seed(&mut self, now: Instant) {
        if let Some(seed) = self.seed {
            let Some(state) = self.relay.peers.get(&seed) else {
                return;
            };
            if now.saturating_duration_since(state.heard) > SEED_SILENCE {
                self.relay.close(seed, Close::Silent);
                self.gone(seed, "the seed is silent", now);
            } else if state
                .ping_sent
                .is_none_or(|at| now.saturating_duration_since(at) >= SEED_PING)
            {
                self.relay.ping(seed, now);
            }
        } else if self.redial_at.is_some_and(|at| at <= now) && !self.playout.ended() {
            self.redial_at = None;
            let peer = self.new_dial();
            self.seed = Some(peer);
            self.dialed_at = Some(now);
            self.relay.act(Action::Dial(peer, Target::Seed));
            if self.started.is_none() {
                self.set_status(Status::Connecting);
            }
        }
    }

    pub(super) fn tick(&mut self, now: Instant) {
        if now.saturating_duration_since(self.ticked) < TICK && now != self.ticked {
            return;
        }
        self.ticked = now;
        self.find_seed(now);
        self.seek_parents(now);
        self.pull(now);
        self.meet(now);
        self.meet_others(now);
        if now.saturating_duration_since(self.have_at) >= HAVE {
            self.have_at = now;
            self.relay.resize(self.settings.relay);
            self.shed(now);
            let have = Message::Have(self.relay.have(now));
            let peers: Vec<_> = self
                .relay
                .peers
                .iter()
                .filter(|(_, p)| p.ready && !p.seed)
                .map(|(peer, p)| (*peer, p.ping_sent))
                .collect();
            for (peer, pinged) in peers {
                let delay_ms = self.relay.peers.get(&peer).map_or(0, |p| p.owd_ms);
                let mut have = have.clone();
                if let Message::Have(have) = &mut have {
                    have.delay_ms = delay_ms;
                }
                self.relay.send(peer, &have);
                if pinged.is_none_or(|at| now.saturating_duration_since(at) >= PEER_PING) {
                    self.relay.ping(peer, now);
                }
                // A child that confirms nothing is frozen: its slots are worth more elsewhere.
                if self.relay.uplink.silence(peer, now) > Duration::from_millis(2500) {
                    self.relay.close(peer, Close::Silent);
                }
            }
        }
        if now.saturating_duration_since(self.report_at) >= REPORT {
            self.report(now);
        }
        if self.status == Status::Running
            && !self.playout.ended()
            && now.saturating_duration_since(self.last_piece) > STARVING
        {
            self.set_status(Status::Starving);
        }
    }

    pub(super) fn poll_timeout(&mut self, now: Instant) -> Instant {
        let mut at = self.ticked + TICK;
        at = self.wake_media.map_or(at, |t| at.min(t));
        self.relay
            .uplink
            .poll_timeout(now)
            .map_or(at, |t| at.min(t))
    }

    pub(super) fn poll_media(&mut self, now: Instant) -> Option<Media> {
        let clock = self.clock.mapping()?;
        self.wake_media = None;
        loop {
            match self.playout.next(&self.relay.window, Some(clock), now) {
                Next::Play { piece, discont } => {
                    return Some(Media::Payload {
                        bytes: piece.payload(),
                        first_item: piece.info().first_item,
                        discont,
                        clock,
                    });
                }
                Next::Header(version) => {
                    if let Some((_, header)) = self.relay.headers.get(&version) {
                        let media = Media::Header {
                            media: header.media.clone(),
                            epoch: header.epoch,
                            own_timeline: header.own_timeline,
                        };
                        self.playout.header_applied(version);
                        return Some(media);
                    }
                    if !self.need_header(version, now) {
                        return None;
                    }
                }
                Next::Wait(at) => {
                    self.wake_media = at;
                    return None;
                }
                Next::End => {
                    if std::mem::replace(&mut self.end_told, true) {
                        return None;
                    }
                    self.set_status(Status::Ended);
                    self.report(now);
                    return Some(Media::End);
                }
            }
        }
    }

    /// Asks around for a header; true if it is given up with the piece that needs it.
    fn need_header(&mut self, version: u32, now: Instant) -> bool {
        let position = self.playout.position().unwrap_or_default();
        let due = self
            .playout
            .due(position, &self.relay.window, self.clock.mapping());
        if due.is_some_and(|due| due + SETTLE <= now) {
            self.playout.skip();
            return true;
        }
        let again = Duration::from_millis(100);
        if self
            .asked_header
            .is_none_or(|at| now.saturating_duration_since(at) >= again)
        {
            self.asked_header = Some(now);
            let ready: Vec<_> = self
                .relay
                .peers
                .iter()
                .filter(|(_, p)| p.ready)
                .map(|(p, _)| *p)
                .collect();
            for peer in ready {
                self.relay.send(peer, &Message::NeedHeader { version });
            }
        }
        self.wake_media = Some(now + again);
        false
    }

    pub(super) fn stats(&self, _now: Instant) -> Stats {
        let relay = &self.relay;
        let from = |peer| {
            self.parents
                .feeds()
                .filter(|(_, f)| f.parent() == Some(peer))
                .map(|(k, _)| k.0)
                .collect()
        };
        Stats {
            status: self.status,
            epoch: relay.epoch,
            head: relay.window.head(),
            stripes: relay.stripes(),
            bytes_per_second: relay.window.rate().unwrap_or(0.0) as u64,
            members: relay.peers.values().filter(|p| p.ready).count() as u64,
            buffer_bytes: relay.window.bytes() as u64,
            bytes_from_seed: self.from_seed,
            bytes_from_peers: self.from_peers,
            bytes_sent: relay.bytes_sent,
            duplicates: relay.duplicates,
            rescued: self.rescued,
            lost: self.playout.lost(),
            failovers: self.failovers,
            expired: relay.uplink.expired,
            slots: relay.children.slots() as u64,
            slots_used: relay.children.used() as u64,
            lag: self.lag.clone(),
            clock_error: self.clock.error().unwrap_or_default(),
            peers: relay.peer_stats(from),
            ..Default::default()
        }
    }
}
