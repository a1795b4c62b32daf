//! What seeds and viewers share: connections, the window, children, the uplink.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::children::{Asker, BASE, Child, Children, feeds_many, slots};
use crate::cutter::Format;
use crate::ids::{Epoch, NodeId, PeerId, SenderTime, Seq, StripeId};
use crate::message::{BadMessage, Candidate, Have, MAX_HOLES, MAX_PULL, Message};
use crate::node::bans::Banned;
use crate::node::headers::Headers;
use crate::node::introduce::Acquaintances;
use crate::node::past::{BEHIND, FILL, Turn};
use crate::node::peer::{
    FORGIVEN, GIVEN, MAX_GIVEN, MAX_MESSAGES, MAX_NAKS, MAX_NONSENSE, MAX_PULLED, MESSAGES, NAKS,
    PULLED, Peer, SPARE,
};
use crate::node::words::{Word, Words, names};
use crate::node::{Action, Close, Event, PeerStats};
use crate::piece::{Hop, Piece, Why};
use crate::policy::Policy;
use crate::record::{Beacon, Signed, StreamHeader};
use crate::token::Binding;
use crate::uplink::{LAST_SHARE, PULL_SHARE, Uplink};
use crate::window::{Bounds, Offered, Window};

/// A push may wait so long beyond a round of all stripes (notes on the algorithm, section 2:
/// push TTL = K·d + 40 ms).
const PUSH_TTL: Duration = Duration::from_millis(40);
/// Children are served in the order of their strength: for each copy of the stream that one can
/// push on, it is as if it had waited so much longer (notes on the algorithm, section 2).
const STRONGER: Duration = Duration::from_millis(15);
const MOST_COPIES: u16 = 16;
/// The whole grid lives from what the seed sends to its roots: all else that it sends waits.
const ROOT_FIRST: Duration = Duration::from_secs(1);
/// And then what is pulled from it.
const LAST_RESORT: Duration = Duration::from_millis(500);
/// Pulls are answered only by short queues.
const PULL_QUEUE: Duration = Duration::from_millis(120);
/// The same header is given to the same peer at most this often: it may be large.
const HEADER_AGAIN: Duration = Duration::from_secs(1);
/// Pings that wait for their answer, on a long way.
const MAX_PINGS: usize = 4;
/// A piece that is not confirmed for this long is given up by the transport.
const GIVE_UP: Duration = Duration::from_secs(2);
/// Clocks of two machines drift apart by at most so much (quartz: 50 ppm each).
const DRIFT_US_PER_S: f64 = 100.0;
/// An uplink that is not known yet is taken to carry so many stripes (design: distribution, 7), each with
/// so much for headers, and what is given to none (see the children).
const LEAST_SLOTS: f64 = 2.0;
const SLOT_OVERHEAD: f64 = 1.1;
/// A child that confirms nothing for so long gives its place to one that lost its parent.
const SILENT_CHILD: Duration = Duration::from_millis(250);
/// A connection that says no hello for so long is closed.
const HELLO: Duration = Duration::from_secs(5);

/// What a subscription tells of the asker.
#[derive(Debug)]
pub(super) struct Asks {
    pub(super) strength: u16,
    pub(super) free: bool,
    pub(super) orphan: bool,
    pub(super) old: Option<Candidate>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) me: NodeId,
    pub(super) origin: Instant,
    pub(super) epoch: Epoch,
    pub(super) format: Option<Format>,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    pub(super) window: Window,
    pub(super) children: Children,
    pub(super) uplink: Uplink,
    pub(super) headers: Headers,
    pub(super) banned: Banned,
    pub(super) rng: fastrand::Rng,
    pub(super) policy: Policy,
    /// Whether this node sends pieces at all.
    pub(super) gives: bool,
    /// Children without a lease are roots: this is the seed.
    pub(super) lends: bool,
    words: Words,
    pub(super) acquaintances: Acquaintances,
    pub(super) duplicates: u64,
    pub(super) bytes_sent: u64,
    actions: VecDeque<Action>,
    next_ping: u32,
}

impl Relay {
    pub(super) fn new(
        me: NodeId,
        bounds: Bounds,
        uplink: Uplink,
        random: u64,
        now: Instant,
    ) -> Self {
        Self {
            me,
            origin: now,
            epoch: Epoch(0),
            format: None,
            peers: BTreeMap::new(),
            window: Window::new(bounds),
            children: Children::default(),
            uplink,
            headers: Headers::default(),
            banned: Banned::default(),
            rng: fastrand::Rng::with_seed(random),
            policy: Policy::default(),
            gives: true,
            lends: false,
            words: Words::new(now),
            acquaintances: Acquaintances::new(random),
            duplicates: 0,
            bytes_sent: 0,
            actions: VecDeque::new(),
            next_ping: 0,
        }
    }

    /// A new life of the seed, or the first.
    pub(super) fn reset(&mut self, epoch: Epoch, format: Format) {
        self.epoch = epoch;
        self.format = Some(format);
        self.window.clear();
        self.headers.clear();
        self.uplink.clear();
        self.children.reset(format.stripes);
        for peer in self.peers.values_mut() {
            peer.have = Have::default();
            peer.needs_all();
            peer.given_header = None;
        }
    }

    pub(super) fn stripes(&self) -> u8 {
        self.format.map_or(0, |f| f.stripes)
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.actions.push_back(Action::Event(event));
    }

    pub(super) fn send(&mut self, peer: PeerId, message: &Message) {
        self.actions.push_back(Action::Send(peer, message.encode()));
    }

    pub(super) fn close(&mut self, peer: PeerId, why: Close) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.closing = true;
        }
        self.actions.push_back(Action::Close(peer, why));
    }

    /// A connection stands. False if it doubles another and was closed: of two, the one stays
    /// that the node with the smaller key dialed, so that both ends choose alike.
    pub(super) fn connected(
        &mut self,
        peer: PeerId,
        (id, addr, binding): (NodeId, SocketAddr, Binding),
        now: Instant,
    ) -> (bool, Option<PeerId>) {
        let twin = self.acquainted(id.short()).filter(|twin| {
            let state = self.peers.get(twin);
            state.is_some_and(|p| p.id == id)
        });
        let mut replaced = None;
        if let Some(twin) = twin {
            let dialed_by_me = |p: PeerId| p.0 & PeerId::DIALED != 0;
            let mine_stays = self.me < id;
            let same_side = dialed_by_me(twin) == dialed_by_me(peer);
            // From the same side, the newer one: the older is dead if the other end dials again.
            if !same_side && dialed_by_me(peer) != mine_stays {
                self.close(peer, Close::Twin);
                return (false, None);
            }
            self.close(twin, Close::Twin);
            replaced = Some(twin);
        }
        let state = Peer::new((id, addr, binding), now);
        self.acquaintances.add(id, peer);
        self.peers.insert(peer, state);
        (true, replaced)
    }

    pub(super) fn forget(&mut self, peer: PeerId) -> Option<Peer> {
        self.children.forget(peer);
        self.uplink.forget(peer);
        let state = self.peers.remove(&peer)?;
        self.acquaintances.remove(state.id, peer);
        Some(state)
    }

    /// Closes connections that say no hello, but for those that wait for an answer to it.
    pub(super) fn close_mute(&mut self, waits: impl Fn(PeerId) -> bool, now: Instant) {
        let mute = |(peer, p): &(&PeerId, &Peer)| {
            !p.ready && !waits(**peer) && now.saturating_duration_since(p.since) > HELLO
        };
        let mute: Vec<_> = self.peers.iter().filter(mute).map(|(p, _)| *p).collect();
        for peer in mute {
            self.close(peer, Close::Silent);
        }
    }

    /// Asks for a sign of life; by which number.
    pub(super) fn ping(&mut self, peer: PeerId, now: Instant) -> u32 {
        self.next_ping = self.next_ping.wrapping_add(1);
        let id = self.next_ping;
        if let Some(state) = self.peers.get_mut(&peer) {
            state.pinged.push_back((id, now));
            if state.pinged.len() > MAX_PINGS {
                state.pinged.pop_front();
            }
            state.ping_sent = Some(now);
        }
        self.send(peer, &Message::Ping { id });
        id
    }

    /// Sends a beacon to the children on one stripe: one copy for each viewer is enough, and each
    /// time it goes down another tree.
    pub(super) fn spread(&mut self, beacon: &Signed<Beacon>, time: SenderTime) {
        let stripes = u64::from(self.stripes().max(1));
        let stripe = StripeId((time.0 / 1_000_000_000 % stripes) as u8);
        let children: Vec<_> = self.children.of(stripe).collect();
        for child in children {
            self.send(child, &Message::Beacon(beacon.clone()));
        }
    }

    /// The answer to a ping: when it was asked.
    pub(super) fn ponged(&mut self, peer: PeerId, id: u32, now: Instant) -> Option<Instant> {
        let state = self.peers.get_mut(&peer)?;
        let at = state.pinged.iter().position(|(sent, _)| *sent == id)?;
        // Answers come in order.
        let (_, asked) = state.pinged.drain(..=at).next_back()?;
        let rtt = now.saturating_duration_since(asked);
        // The least of the last few: queueing is not distance.
        state.rtt = rtt.min(state.rtt * 9 / 8 + Duration::from_millis(1));
        Some(asked)
    }

    /// Understands a message; what is none counts against who sent it.
    pub(super) fn decode(&mut self, peer: PeerId, bytes: &[u8], now: Instant) -> Option<Message> {
        let state = self.peers.get_mut(&peer).filter(|p| !p.closing)?;
        if !state.messages.take(MESSAGES, MAX_MESSAGES, now) {
            self.fault(peer, "it sends too many messages");
            return None;
        }
        match Message::decode(bytes) {
            Ok(message) => Some(message),
            Err(BadMessage::Unknown) => None,
            Err(BadMessage::Malformed) => {
                self.nonsense(peer, now);
                None
            }
        }
    }

    pub(super) fn nonsense(&mut self, peer: PeerId, now: Instant) {
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        if !state.nonsense.take(FORGIVEN, MAX_NONSENSE, now) {
            self.fault(peer, "it sends messages that make no sense");
        }
    }

    /// Drops who breaks the rules, and says so once.
    fn fault(&mut self, peer: PeerId, what: &str) {
        let Some(state) = self.peers.get(&peer).filter(|p| !p.closing) else {
            return;
        };
        let (id, what) = (state.id, what.into());
        self.close(peer, Close::Fault);
        self.tell(Event::Fault { id, what });
    }

    /// Bytes per second of the stream's pieces, once they are known.
    fn stream_rate(&self) -> Option<f64> {
        let newest = self.headers.newest().map(|(_, header)| header);
        let told = newest.map(|h| f64::from(h.bytes_per_second) * 1.03);
        self.window.rate().or(told)
    }

    /// Looks anew at what the uplink carries, where that is found out, and recounts the slots.
    pub(super) fn measure(&mut self, now: Instant) {
        if let (Some(format), Some(rate)) = (self.format, self.stream_rate()) {
            let least = LEAST_SLOTS * rate / f64::from(format.stripes.max(1)) * SLOT_OVERHEAD;
            let wanted = self.gives && self.children.spare() == 0;
            self.uplink.measure(least, wanted, now);
        }
        self.resize();
    }

    /// Recounts the slots from the stream's rate.
    pub(super) fn resize(&mut self) {
        let (Some(format), Some(rate)) = (self.format, self.stream_rate()) else {
            return;
        };
        self.uplink.size_for(rate);
        let count = |uplink, share| match self.gives {
            true => slots(uplink, share, rate, format.stripes),
            false => 0,
        };
        let (most, free) = (self.uplink.rate(), self.uplink.rate_for_pieces());
        self.children.set_slots(count(free, BASE), count(most, 1.0));
    }

    /// Stores a piece and pushes it on at once.
    pub(super) fn store(&mut self, piece: Piece, from: Option<PeerId>, now: Instant) -> Offered {
        let (seq, bytes) = (piece.info().seq, piece.body().len());
        let offered = self.window.offer(piece);
        if offered == Offered::Duplicate {
            self.duplicates += 1;
        }
        let Some(format) = self.format.filter(|_| offered == Offered::New) else {
            return offered;
        };
        let expires = match self.policy.expiry {
            true => now + format.round() + PUSH_TTL,
            false => now + BEHIND,
        };
        let stripe = seq.stripe(format.stripes);
        for child in self.children.of(stripe).filter(|c| Some(*c) != from) {
            let state = self.peers.get_mut(&child);
            if state.is_some_and(|p| p.has_elsewhere(seq)) {
                continue;
            }
            let Some(Child {
                lease, strength, ..
            }) = self.children.get(child, stripe)
            else {
                continue;
            };
            // The strong first: the leaves wait, and not each level of the tree.
            let copies = strength / u16::from(format.stripes.max(1));
            let lead = match self.lends && !lease {
                true => ROOT_FIRST,
                false => STRONGER * u32::from(copies.min(MOST_COPIES)),
            };
            let first = now.checked_sub(lead).unwrap_or(now);
            // A newcomer on loan that still gets the past gets the present after it: its deadlines
            // come in this order, and nobody waits for what it passes on.
            let behind = self.uplink.behind(child, stripe, format.stripes);
            let (why, order, expires) = match behind.filter(|_| lease) {
                Some(last) => (Why::Backlog, now + BEHIND, last + format.round()),
                None => (Why::Push, first, expires),
            };
            self.uplink
                .push(child, seq, bytes, why, order, expires, now);
        }
        offered
    }

    /// Who asks for a stripe. One that does not relay has no strength, whatever it says.
    pub(super) fn asker(&self, peer: PeerId, asks: &Asks) -> Option<Asker> {
        let state = self.peers.get(&peer)?;
        Some(Asker {
            peer,
            short: state.id.short(),
            strength: if state.relays { asks.strength } else { 0 },
            orphan: asks.orphan,
        })
    }

    /// Somebody lost the parent of a stripe, which may be a child here: one that confirms nothing
    /// gives up its place at once.
    pub(super) fn drop_silent(&mut self, stripe: StripeId, now: Instant) {
        let silent = |p: &PeerId| self.uplink.silence(*p, now) > SILENT_CHILD;
        let silent: Vec<_> = self.children.of(stripe).filter(silent).collect();
        for child in silent {
            self.stop_feeding(child, stripe, Seq(0));
            // It may live and hear this.
            let go_to = None;
            self.send(child, &Message::Evict { stripe, go_to });
        }
    }

    /// Pieces of a stripe from one on no longer go to a former child.
    fn stop_feeding(&mut self, child: PeerId, stripe: StripeId, from: Seq) {
        self.children.remove(child, stripe);
        let stripes = self.stripes();
        self.uplink
            .cancel(child, |seq| seq >= from && seq.stripe(stripes) == stripe);
    }

    /// A child makes place, and is told where to go. It is fed for a moment more, so that it moves
    /// without a gap.
    pub(super) fn displace(
        &mut self,
        child: PeerId,
        stripe: StripeId,
        go_to: Option<Candidate>,
        now: Instant,
    ) {
        self.children.displace(child, stripe, now);
        self.send(child, &Message::Evict { stripe, go_to });
    }

    /// Where a child goes whose place a stronger one takes: to that one; who is displaced by its
    /// own child changes places with it.
    pub(super) fn instead(
        &self,
        weaker: PeerId,
        stronger: PeerId,
        asks: &Asks,
    ) -> Option<Candidate> {
        let whom = self.peers.get(&weaker).map(|p| p.id);
        match &asks.old {
            Some(old) if !asks.free && Some(old.node) != whom => Some(old.clone()),
            _ => self.candidate(stronger),
        }
    }

    /// A neighbour, for another to dial.
    pub(super) fn candidate(&self, peer: PeerId) -> Option<Candidate> {
        let state = self.peers.get(&peer).filter(|p| p.ready && !p.seed)?;
        Some(Candidate {
            node: state.id,
            addr: state.seen_at,
            spare: state.have.spare,
        })
    }

    /// Sends at once what a new root missed: all that take the stripe from it wait for this.
    pub(super) fn fill(&mut self, peer: PeerId, stripe: StripeId, from: Seq, now: Instant) {
        let expires = now + GIVE_UP;
        let piece = self.format.map_or(FILL, |f| f.piece);
        let most = (FILL.as_secs_f64() / piece.as_secs_f64()) as u64;
        let head = self.window.head().unwrap_or(from);
        let from = from.max(Seq(head.0.saturating_sub(most)));
        // Nor shall it wait for what is pulled: that is the same.
        let first = now.checked_sub(ROOT_FIRST).unwrap_or(now);
        for (seq, bytes) in self.since(from, Some(stripe)) {
            self.uplink
                .push(peer, seq, bytes, Why::Backlog, first, expires, now);
        }
    }

    /// Whether a seed may say it: see [`Words`].
    pub(super) fn affords(&mut self, word: Word, now: Instant) -> bool {
        let copy = self.copy();
        self.words.affords(word, self.uplink.rate(), copy, now)
    }

    /// How many viewers a seed names at a time.
    pub(super) fn names(&self) -> usize {
        names(self.uplink.rate(), self.copy())
    }

    /// What a copy of the stream takes, in bytes per second: a tenth for headers.
    fn copy(&self) -> f64 {
        self.stream_rate().unwrap_or_default() * 1.1
    }

    fn since(&self, from: Seq, stripe: Option<StripeId>) -> Vec<(Seq, usize)> {
        let stripes = self.stripes();
        self.window
            .from(from)
            .map(|s| (s.info().seq, s.body().len()))
            .filter(|(seq, _)| stripe.is_none_or(|k| seq.stripe(stripes) == k))
            .collect()
    }

    /// How much of the stream a piece holds.
    pub(super) fn piece(&self) -> Duration {
        let piece = self.format.map_or(Duration::ZERO, |format| format.piece);
        piece.max(Duration::from_millis(1))
    }

    /// Queues the recent past of a stripe (or of all) up to some piece for a new child.
    pub(super) fn backlog(
        &mut self,
        peer: PeerId,
        stripe: Option<StripeId>,
        from: Seq,
        last: Seq,
        ttl: Duration,
        now: Instant,
    ) {
        let Some(format) = self.format else { return };
        let head = self.window.head().unwrap_or(from);
        let mut pieces = self.since(from, stripe);
        pieces.retain(|(seq, _)| *seq <= last);
        let strong = stripe
            .and_then(|stripe| self.children.get(peer, stripe))
            .is_some_and(|child| feeds_many(child.strength, format.stripes));
        let queue = (!self.lends).then(|| self.uplink.delay(now));
        let turn = Turn::of(pieces.len(), stripe.is_some(), strong, queue);
        for (n, (seq, bytes)) in (0..).zip(pieces) {
            let age = format.piece * head.0.saturating_sub(seq.0).min(100_000) as u32;
            let order = turn.order(n, age, now);
            self.uplink
                .push(peer, seq, bytes, Why::Backlog, order, now + ttl, now);
        }
    }

    /// Answers what seeds and viewers answer alike. True if that was all.
    pub(super) fn shared(&mut self, peer: PeerId, message: &Message, now: Instant) -> bool {
        match message {
            Message::Unsubscribe { stripe, from } => {
                self.stop_feeding(peer, *stripe, *from);
            }
            Message::NeedHeader { version } => self.give_header(peer, *version, now),
            Message::Introduce { node, meeting } => self.introduce(peer, *node, *meeting, now),
            Message::NeedBans => {
                if let Some(state) = self.peers.get_mut(&peer)
                    && state.headers.take(GIVEN, MAX_GIVEN, now)
                {
                    self.tell_bans(peer);
                }
            }
            Message::Pad(_) => {}
            Message::Have(have) => {
                let have = have.trimmed(self.stripes());
                let known = have.epoch == self.epoch;
                if let Some(state) = self.peers.get_mut(&peer).filter(|_| known) {
                    let strength = if state.relays { have.strength } else { 0 };
                    state.have = have;
                    state.have_at = now;
                    self.children.set_strength(peer, strength);
                }
            }
            Message::Cancel(seqs) => {
                let seqs = &seqs[..seqs.len().min(MAX_PULL)];
                self.uplink.cancel(peer, |seq| seqs.contains(&seq));
                if let Some(state) = self.peers.get_mut(&peer) {
                    let to_come = seqs.iter().filter(|seq| !self.window.has(**seq));
                    to_come.for_each(|seq| state.gets_elsewhere(*seq));
                }
            }
            Message::Pull { epoch, seqs } => self.pulled(peer, *epoch, seqs, now),
            _ => return false,
        }
        true
    }

    fn give_header(&mut self, peer: PeerId, version: u32, now: Instant) {
        let Some((signed, header)) = self.headers.get(version) else {
            return;
        };
        let (message, version) = (Message::Header(signed.clone()), header.version);
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        let again = state.given_header.is_some_and(|(given, at)| {
            given == version && now.saturating_duration_since(at) < HEADER_AGAIN
        });
        if !again && state.headers.take(GIVEN, MAX_GIVEN, now) {
            state.given_header = Some((version, now));
            self.send(peer, &message);
        }
    }

    fn pulled(&mut self, peer: PeerId, epoch: Epoch, seqs: &[Seq], now: Instant) {
        // The seed is the last that is asked: what it lends waits, and not this.
        let (patience, lead, share) = match self.lends {
            true => (PULL_QUEUE * 4, LAST_RESORT, LAST_SHARE),
            false => (PULL_QUEUE, Duration::ZERO, PULL_SHARE),
        };
        let busy = !self.gives || epoch != self.epoch || self.uplink.delay(now) > patience;
        let mut nak = Vec::new();
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        // What a root misses, all miss; and what nobody else wants is given away more freely.
        let root = self.lends && self.children.is_root(peer);
        let price = if self.children.spare() > 0 {
            SPARE
        } else {
            1.0
        };
        let mut may = || root || state.pulls.spend(price, PULLED, f64::from(MAX_PULLED), now);
        for seq in seqs.iter().take(MAX_PULL).copied() {
            let stored = self.window.get(seq).filter(|_| !busy);
            let Some(bytes) = stored.map(|s| s.body().len()).filter(|_| may()) else {
                nak.push(seq);
                continue;
            };
            let Some(order) = self.uplink.pull_order(bytes, share, now) else {
                nak.push(seq);
                continue;
            };
            let order = order.checked_sub(lead).unwrap_or(order);
            let expires = now + PULL_QUEUE * 4;
            self.uplink
                .push(peer, seq, bytes, Why::Pull, order, expires, now);
        }
        for seq in seqs.iter().take(MAX_PULL) {
            state.has_elsewhere(*seq);
        }
        nak.retain(|_| state.naks.take(NAKS, MAX_NAKS, now));
        if !nak.is_empty() && (!self.lends || self.affords(Word::Nak(nak.len()), now)) {
            self.send(peer, &Message::Nak(nak));
        }
    }

    /// True if the others want it, too: see [`Headers::learn`].
    pub(super) fn learn_header(
        &mut self,
        signed: Signed<StreamHeader>,
        header: StreamHeader,
    ) -> bool {
        let oldest = self.window.oldest_header().unwrap_or(0);
        self.headers.learn((signed, header), oldest)
    }

    pub(super) fn have(&mut self, now: Instant) -> Have {
        let heads = self.window.heads(self.stripes());
        Have {
            epoch: self.epoch,
            holes: self.window.holes(&heads, MAX_HOLES),
            heads,
            spare: self.children.spare().min(usize::from(u16::MAX)) as u16,
            strength: self.children.slots().min(usize::from(u16::MAX)) as u16,
            lag_ms: 0,
            weakest: (0..self.stripes())
                .filter(|_| self.policy.insertion)
                .map(|k| self.children.weakest(StripeId(k)).map(|(_, c)| c.strength))
                .collect(),
            queue_ms: self.queue_ms(now),
            delay_ms: 0,
            reserve: self.children.reserve().min(usize::from(u16::MAX)) as u16,
        }
    }

    pub(super) fn queue_ms(&mut self, now: Instant) -> u16 {
        self.uplink.delay(now).as_millis().min(60_000) as u16
    }

    /// Notes the one-way delay of a hop against the least seen.
    pub(super) fn note_hop(&mut self, peer: PeerId, hop: &Hop, bytes: usize, now: Instant) {
        self.uplink.received(bytes, now);
        let here = now.saturating_duration_since(self.origin).as_micros() as i64;
        if let Some(state) = self.peers.get_mut(&peer) {
            state.bytes_in += bytes as u64;
            state.heard = now;
            let owd = here.wrapping_sub(hop.sent_us as i64);
            // Clocks drift apart, so the least is not for ever.
            let owd = owd as f64;
            let (least, at) = state.least_owd_us.unwrap_or((owd, now));
            let drift = now.saturating_duration_since(at).as_secs_f64() * DRIFT_US_PER_S;
            let least = (least + drift).min(owd);
            state.least_owd_us = Some((least, now));
            state.owd_ms = ((owd - least) / 1000.0).clamp(0.0, 60_000.0) as u16;
        }
    }

    pub(super) fn poll(&mut self, now: Instant) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            if let Action::Send(peer, bytes) = &action {
                self.uplink.message(bytes.len(), now);
                if let Some(state) = self.peers.get_mut(peer) {
                    state.told = now;
                }
            }
            return Some(action);
        }
        while let Some(transmit) = self.uplink.next(now) {
            let Some(stored) = self.window.get(transmit.seq) else {
                self.uplink.sent(transmit.peer, transmit.seq, false, now);
                continue;
            };
            let body = stored.body().clone();
            let hop = Hop {
                sent_us: now.saturating_duration_since(self.origin).as_micros() as u64,
                queued_us: transmit.waited.as_micros().min(u128::from(u32::MAX)) as u32,
                why: transmit.why,
            };
            self.bytes_sent += body.len() as u64;
            if let Some(state) = self.peers.get_mut(&transmit.peer) {
                state.bytes_out += body.len() as u64;
                state.told = now;
            }
            return Some(Action::SendPiece {
                peer: transmit.peer,
                seq: transmit.seq,
                hop: hop.encode(),
                body,
                give_up: GIVE_UP,
            });
        }
        None
    }

    pub(super) fn peer_stats(&self, from: impl Fn(PeerId) -> Vec<u8>) -> Vec<PeerStats> {
        self.peers
            .iter()
            .map(|(peer, state)| PeerStats {
                id: state.id,
                addr: state.addr,
                seed: state.seed,
                rtt: state.rtt,
                bytes_received: state.bytes_in,
                bytes_sent: state.bytes_out,
                stripes_from: from(*peer),
                stripes_to: self.children.stripes_of(*peer).map(|k| k.0).collect(),
            })
            .collect()
    }
}
