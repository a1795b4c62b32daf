//! The node inside `icdsrc`.

mod maps;
mod meeting;
mod own;
mod pieces;
mod play;
mod probe;
mod stripes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::candidates::Candidates;
use crate::children::{CHILD_SILENCE, LEAVING, Taken, feeds_many, outweighs};
use crate::clock::ClockMap;
use crate::cutter::Format;
use crate::ids::{Bitrate, Epoch, Meeting, NodeId, PeerId, SenderTime, Seq, StreamKey, StripeId};
use crate::message::{
    Candidate, Have, Hello, MAX_CANDIDATES, MAX_DEPTH, MAX_PULL, Message, NoStripe, Refusal,
    Report, Start, VERSION, Welcome,
};
use crate::node::peer::Peer;
use crate::node::relay::{Asks, Relay};
use crate::node::viewer::meeting::Dial;
use crate::node::{
    Close, Event, Histogram, Input, Lost, MakeVerifier, Media, STARVING, Stats, Status, Target,
    ViewerSettings,
};
use crate::parents::{Neighbour, Parents, Path, Standing, Step};
use crate::piece::{Hop, Piece, PieceInfo, Why, claimed};
use crate::playout::{Next, Playout};
use crate::record::{Beacon, Signed, StreamHeader, Ticket, contact};
use crate::rescue::{Missing, Rescue, SPOKE, Source};
use crate::trust::Verify;
use crate::uplink::Uplink;
use crate::window::{Bounds, Offered};

use crate::node::Action;

const TICK: Duration = Duration::from_millis(20);
/// This often uplink, children and buffer maps are looked after.
const HAVE: Duration = Duration::from_millis(100);
/// Who said nothing for so long is not asked for pieces.
const MUTE: Duration = Duration::from_secs(3);
/// Who has just refused a pull counts as having a queue of so many milliseconds.
const BUSY_MS: u16 = 250;
/// An uplink whose queue is so long takes no more children than its slots.
const FULL_QUEUE: Duration = Duration::from_millis(60);
/// Pulls go rather to one with free slots that is so much farther.
const FULL: Duration = Duration::from_millis(200);
/// What it can give changed: newcomers may wait for it.
const REPORT_SOON: Duration = Duration::from_millis(250);
/// Who waits for the stream to begin has no use for its clock yet, and a crowd that waits shall not be what the
/// seed is busy with.
const WAITING_PING: Duration = Duration::from_secs(4);
/// Where every stripe comes as it should, it is pinged as if the grid had so many times the viewers:
/// the clock has its samples, and the answers to all are a tenth of what a seed of one copy has.
const RESTED: usize = 2;
/// The seed is gone when it answers nothing for this long.
const SEED_SILENCE: Duration = Duration::from_secs(3);
const REDIAL: Duration = Duration::from_millis(100);
const LONGEST_REDIAL: Duration = Duration::from_secs(1);
/// Warm connections to other viewers (notes on transport: at most six).
const WARM: usize = 6;
/// Up to so many viewers a grid is a small one, and nobody far away for long.
const SMALL: usize = 50;
/// Others are closed when nobody has used them for so long ...
const IDLE: Duration = Duration::from_secs(10);
/// ... which is looked for this often.
const TIDY: Duration = Duration::from_secs(1);
/// A stripe goes up at most this often.
const CLIMB: Duration = Duration::from_millis(500);
/// Those of one that passes on several copies: as long as it stands below weaker ones, all below these are
/// farther from the seed than they need be.
const CLIMB_STRONG: Duration = Duration::from_millis(100);
/// Who pushes what another feeds is told again after so long.
const UNWANTED: Duration = Duration::from_millis(500);
/// Dials at the same time because a neighbour named somebody, at most.
const MAX_HINTED: usize = 4;
const FIND: Duration = Duration::from_millis(200);
const LONGEST_FIND: Duration = Duration::from_secs(3);
/// Round trips from a list of others to the first that has said hello.
const GREETED: u32 = 3;
/// Pieces that came before the seed said where the stream begins.
const MAX_EARLY: usize = 512;
const EARLY_BYTES: usize = 8 * 1024 * 1024;
/// The start's own pieces are on their way; nothing is pulled meanwhile, unless the player has begun.
const SETTLE: Duration = Duration::from_millis(600);
const MAX_MISSING: usize = 256;
/// Pieces that are looked at beyond the play-out: more than any window holds.
const MAX_AHEAD: u64 = 1 << 16;
const WINDOW_BYTES: usize = 256 * 1024 * 1024;
/// What the window holds beyond twice the play-out delay: the start may reach back a delay and
/// a group of pictures, and is waited for another delay; children pull from it, too.
const WINDOW_BEYOND: Duration = Duration::from_secs(4);

/// Admissions of the former life of the seed hold for this long in the next (design: trust).
const FORMER_HOLDS: Duration = Duration::from_secs(30);

/// A [`Hop`] as it came.
type RawHop = [u8; Hop::BYTES];

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
    /// The life before this one, and when this one began here.
    former_epoch: Option<(Epoch, Instant)>,
    book: Candidates,
    dialing: BTreeMap<PeerId, Dial>,
    /// Who was asked for others, and has not answered.
    asked: Option<PeerId>,
    /// Where the seed sees this node.
    seen_at: Option<SocketAddr>,
    /// Of these: those that a neighbour named.
    hinted: BTreeSet<PeerId>,
    own: own::Own,
    probe: probe::Probe,
    next_dial: u64,
    find_at: Option<Instant>,
    find: Duration,
    parents: Parents,
    orphans: BTreeMap<StripeId, (Option<NodeId>, Instant)>,
    climbed: Instant,
    /// The parent whose root's place this node took last, and until when it may come as a child.
    changes: Option<(PeerId, StripeId, Instant)>,
    tidied: Instant,
    /// Who pushes a stripe that another feeds, since when.
    unwanted: BTreeMap<(PeerId, StripeId), Instant>,
    /// The stream's key, where it was known before anybody answered.
    pinned: Option<StreamKey>,
    rescue: Rescue,
    /// Whom to tell of which pieces that they need not be sent any more.
    elsewhere: BTreeMap<PeerId, Vec<Seq>>,
    playout: Playout,
    clock: ClockMap,
    fresh_clock: Option<ClockMap>,
    early: Vec<(PeerId, RawHop, Bytes)>,
    early_bytes: usize,
    started: Option<(Instant, Seq)>,
    asked_header: Option<Instant>,
    wake_media: Option<Instant>,
    status: Status,
    last_piece: Instant,
    ticked: Instant,
    have_at: Instant,
    report_at: Instant,
    reported_room: (usize, usize),
    /// A parent was left since the last report although it lives: the seed should know soon.
    blamed: bool,
    end_told: bool,
    from_seed: u64,
    from_peers: u64,
    rescued: u64,
    failovers: u64,
    lag: Histogram,
    recent_lag: Histogram,
    last_lag_ms: u16,
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
        // Who shall be seen by nobody can't serve anybody.
        let settings = ViewerSettings {
            relay: settings.relay && !settings.seed_only,
            ..settings
        };
        let pinned = settings.stream;
        let verifier = pinned.and_then(make_verifier);
        let uplink = match settings.measure {
            true => Uplink::measured(settings.upload, now),
            false => Uplink::new(Some(settings.upload), now),
        };
        let mut relay = Relay::new(me, bounds, uplink, random, now);
        relay.gives = settings.relay;
        relay.policy = settings.policy;
        relay.children.insertion = settings.policy.insertion;
        Self {
            relay,
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
            former_epoch: None,
            book: Candidates::default(),
            dialing: BTreeMap::new(),
            asked: None,
            seen_at: None,
            hinted: BTreeSet::new(),
            own: own::Own::new(now),
            probe: probe::Probe::default(),
            next_dial: 0,
            find_at: None,
            find: FIND,
            parents: Parents::default(),
            orphans: BTreeMap::new(),
            climbed: now,
            changes: None,
            tidied: now,
            unwanted: BTreeMap::new(),
            pinned,
            rescue: Rescue::default(),
            elsewhere: BTreeMap::new(),
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
            reported_room: (0, 0),
            blamed: false,
            end_told: false,
            from_seed: 0,
            from_peers: 0,
            rescued: 0,
            failovers: 0,
            lag: Histogram::default(),
            recent_lag: Histogram::default(),
            last_lag_ms: 0,
        }
    }

    fn set_status(&mut self, status: Status) {
        if self.status != status {
            self.status = status;
            self.relay.tell(Event::Status(status));
        }
    }

    pub(super) fn handle(&mut self, input: Input, now: Instant) {
        if self.refused {
            match input {
                Input::Connected { peer, .. } => self.relay.close(peer, Close::Done),
                Input::Disconnected { peer, why } => self.gone(peer, &why, now),
                _ => {}
            }
            return;
        }
        if matches!(
            input,
            Input::Connected { .. } | Input::Message { .. } | Input::Piece { .. }
        ) {
            self.own.hears(now);
        }
        match input {
            Input::Connected {
                peer,
                id,
                addr,
                binding,
            } => self.connected(peer, (id, addr, binding), now),
            Input::Moved { peer, addr } => {
                if let Some(state) = self.relay.peers.get_mut(&peer) {
                    state.addr = addr;
                }
            }
            Input::Disconnected { peer, why } => self.gone(peer, &why, now),
            Input::Message { peer, bytes } => {
                if let Some(message) = self.relay.decode(peer, &bytes, now) {
                    self.message(peer, message, now);
                }
            }
            Input::Piece { peer, hop, body } => self.piece(peer, hop, body, now),
            Input::Sent {
                peer,
                seq,
                delivered,
            } => self.relay.uplink.sent(peer, seq, delivered, now),
            Input::WentOut(total) => self.relay.uplink.went_out(total, now),
            Input::Volume(volume) => self.settings.volume = volume,
            Input::Upload(rate) => {
                match rate {
                    Some(rate) => self.relay.uplink.set_rate(Some(rate)),
                    None => self.relay.uplink.find_out(now),
                }
                self.relay.resize();
                self.shed(now);
            }
            Input::Live => {
                let clock = self.clock.mapping();
                let newest = self.relay.headers.newest();
                let own_timeline = newest.is_some_and(|(_, header)| header.own_timeline);
                let window = &self.relay.window;
                self.playout.go_live(window, own_timeline, clock, now);
            }
            Input::Item { .. }
            | Input::End
            | Input::AskAdmission(_)
            | Input::Ban(_)
            | Input::Verdict { .. }
            | Input::MaxViewers(_) => {}
        }
    }

    fn message(&mut self, peer: PeerId, message: Message, now: Instant) {
        let Some(state) = self.relay.peers.get_mut(&peer) else {
            return;
        };
        state.heard = now;
        let (ready, seed) = (state.ready, state.seed);
        self.parents.spoke(peer, now);
        match message {
            Message::Ping { id } => self.relay.send(peer, &Message::Pong { id, time: None }),
            Message::Pong { id, time } => {
                let Some(asked) = self.relay.ponged(peer, id, now) else {
                    return;
                };
                if let Some(time) = time.filter(|_| seed) {
                    let clock = self.fresh_clock.as_mut().unwrap_or(&mut self.clock);
                    clock.sample(asked, time, now);
                    self.probed(id, time, now);
                }
            }
            Message::Refuse(refusal) => self.refused_by(peer, seed, refusal, now),
            Message::Welcome(welcome) if seed => self.welcome(peer, welcome, now),
            Message::Start(start) if seed => self.start(peer, start, now),
            Message::Hello(hello) if !seed && !ready => self.hello(peer, hello, now),
            _ if !ready => self.relay.nonsense(peer, now),
            Message::Header(signed) => self.header(peer, signed, now),
            Message::Beacon(signed) => self.beacon(peer, &signed, now),
            Message::Bans(signed) => self.bans(peer, signed, now),
            Message::Candidates(list) if seed => self.candidates(list, now),
            Message::Candidates(list) => self.named_by(peer, list, now),
            Message::Find => self.name_neighbours(peer, now),
            Message::Ticket(ticket) if seed => {
                self.renew(peer, ticket, now);
            }
            Message::Subscribe {
                stripe,
                from,
                epoch,
                strength,
                free,
                orphan,
                old,
                lease: _,
            } => {
                let asks = Asks {
                    strength,
                    free,
                    orphan,
                    old,
                };
                self.subscribe(peer, stripe, (epoch, from), &asks, now);
            }
            Message::Accept {
                stripe,
                path,
                above,
                lease,
            } => self.accept(peer, stripe, (path, above), lease, now),
            Message::Reject {
                stripe,
                why,
                instead,
            } => {
                // Only who was asked may send this node elsewhere.
                let asked = self.parents.is_pending(peer, stripe);
                // The seed knows who has the stripe; another may name its like.
                let go_to = instead.as_ref().filter(|_| seed).map(|c| c.node);
                self.parents.rejected(peer, stripe, go_to, now);
                self.suggested(instead.filter(|_| asked), Some(peer), now);
                if why == NoStripe::Busy
                    && let Some(state) = self.relay.peers.get_mut(&peer)
                {
                    state.have.spare = 0;
                    state.have.reserve = 0;
                }
                self.seek_parents(now);
            }
            Message::Path {
                stripe,
                path,
                above,
            } => self.path(peer, stripe, (path, above), now),
            Message::Evict { stripe, go_to } => {
                let fed = self.parents.feed(stripe).and_then(|f| f.parent()) == Some(peer);
                let go_to = go_to.filter(|c| fed && c.node != self.relay.me);
                let node = go_to.as_ref().map(|c| c.node);
                self.suggested(go_to, Some(peer), now);
                if self.parents.evicted(peer, stripe, node, now) {
                    self.path_lost(stripe);
                }
                self.seek_parents(now);
            }
            Message::Meet { addrs, meeting } => self.met(peer, addrs, meeting, now),
            Message::Stranger { meeting } => self.not_introduced(peer, meeting),
            Message::Invite { stripe } if seed => {
                let step = self.parents.invited(peer, stripe, now);
                self.walk(step, now);
            }
            Message::Root { stripe } if seed => self.parents.rooted(peer, stripe),
            Message::Nak(seqs) => {
                // Others are asked before it, until it says better.
                if let Some(state) = self.relay.peers.get_mut(&peer) {
                    state.have.queue_ms = state.have.queue_ms.max(BUSY_MS);
                }
                self.pull_refused(peer, seed, &seqs, now);
            }
            message => {
                if !self.relay.shared(peer, &message, now) {
                    self.relay.nonsense(peer, now);
                }
            }
        }
    }

    fn welcome(&mut self, peer: PeerId, welcome: Welcome, now: Instant) {
        if !self.renew(peer, welcome.ticket, now) {
            return;
        }
        self.seed_welcomed = true;
        self.redial = REDIAL;
        if let Some(state) = self.relay.peers.get_mut(&peer)
            && !std::mem::replace(&mut state.ready, true)
        {
            let (id, addr) = (state.id, state.addr);
            self.relay.tell(Event::PeerAdded { id, addr });
        }
        self.beacon(peer, &welcome.beacon, now);
        if self.started.is_none() {
            self.set_status(Status::Waiting);
        }
    }

    /// Keeps the seed's admission. False if it is none.
    fn renew(&mut self, peer: PeerId, ticket: Signed<Ticket>, now: Instant) -> bool {
        let opened = self.verifier.as_ref().and_then(|v| ticket.open(&**v));
        let Some(opened) = opened.filter(|t| t.node == self.relay.me) else {
            self.relay.nonsense(peer, now);
            return false;
        };
        self.ticket = Some(ticket);
        self.seen_at = Some(opened.addr);
        true
    }

    fn start(&mut self, peer: PeerId, start: Start, now: Instant) {
        let Some(verifier) = &self.verifier else {
            return;
        };
        let Some(header) = start.header.open(&**verifier) else {
            self.relay.nonsense(peer, now);
            return;
        };
        // Pieces are counted from here on.
        if start.from > start.head.plus(1) || start.head.0 > u64::MAX / 2 {
            self.relay.nonsense(peer, now);
            return;
        }
        if header.epoch < self.relay.epoch {
            return;
        }
        let is_new = header.epoch > self.relay.epoch;
        let format = header.format();
        if is_new {
            let known = self.started.is_some();
            self.former_epoch = known.then_some((self.relay.epoch, now));
            self.relay.reset(header.epoch, format);
            self.parents.reset(format.stripes, format.round(), now);
            self.parents.begins(start.head);
            self.orphans.clear();
            self.unwanted.clear();
            self.rescue.clear();
            self.elsewhere.clear();
            self.playout.start(start.from, start.head, now);
            self.started = Some((now, start.head));
            self.beacon = None;
            self.end_told = false;
            // Without one the connection is the old one, and so is the seed's clock.
            if let Some(mut clock) = self.fresh_clock.take() {
                clock.settle();
                self.clock = clock;
            }
            self.relay.tell(Event::Epoch(header.epoch));
        } else {
            self.fresh_clock = None;
        }
        self.relay.learn_header(start.header, header);
        self.relay.resize();
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
        if is_new && self.former_epoch.is_none() && start.leased == 0 {
            // It is for the others to feed it: they are dialed and greeted first.
            let rtt = self.relay.peers.get(&peer).map(|p| p.rtt);
            self.parents.meets(now + rtt.unwrap_or_default() * GREETED);
        }
        self.last_piece = now;
        self.set_status(Status::Running);
        self.early_bytes = 0;
        for (from, hop, body) in std::mem::take(&mut self.early) {
            self.piece(from, hop, body, now);
        }
        self.meet(now);
        self.seek_parents(now);
        // The next newcomer may be sent here.
        self.report(now);
    }

    fn header(&mut self, peer: PeerId, signed: Signed<StreamHeader>, now: Instant) {
        let Some(verifier) = &self.verifier else {
            return;
        };
        let Some(header) = signed.open(&**verifier) else {
            self.relay.nonsense(peer, now);
            return;
        };
        if header.epoch == self.relay.epoch && self.relay.learn_header(signed.clone(), header) {
            for child in self.relay.children.all() {
                self.relay.send(child, &Message::Header(signed.clone()));
            }
        }
    }

    fn beacon(&mut self, peer: PeerId, signed: &Signed<Beacon>, now: Instant) {
        let Some(verifier) = &self.verifier else {
            return;
        };
        let Some(beacon) = signed.open(&**verifier) else {
            self.relay.nonsense(peer, now);
            return;
        };
        let newer = self
            .beacon
            .is_none_or(|b| (b.epoch, b.time) < (beacon.epoch, beacon.time));
        if beacon.epoch == self.relay.epoch && newer {
            self.beacon = Some(beacon);
            if beacon.bans > self.relay.banned.version(beacon.epoch) {
                self.relay.send(peer, &Message::NeedBans);
            }
            self.relay.spread(signed, beacon.time);
        }
    }

    /// From one report to the seed to the next.
    fn contact(&self) -> Duration {
        contact(self.grid())
    }

    /// Viewers in the grid, as the seed says.
    fn grid(&self) -> usize {
        self.beacon.map_or(0, |beacon| beacon.viewers as usize)
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
            queue_ms: self.relay.queue_ms(now),
            delay_ms: self.relay.peers.get(&seed).map_or(0, |p| p.owd_ms),
            reserve: self.relay.children.reserve().min(usize::from(u16::MAX)) as u16,
            upload: self.relay.uplink.rate().unwrap_or(Bitrate(u64::MAX)),
            parents: self.good_parents(now),
        };
        self.blamed = false;
        self.reported_room = (self.relay.children.slots(), self.relay.children.spare());
        self.last_lag_ms = report.lag_ms;
        self.recent_lag = Histogram::default();
        self.relay.send(seed, &Message::Report(report));
    }

    pub(super) fn tick(&mut self, now: Instant) {
        if now.saturating_duration_since(self.ticked) < TICK && now != self.ticked {
            return;
        }
        self.ticked = now;
        self.own.looks(now);
        if self.refused {
            return;
        }
        self.find_seed(now);
        self.seek_parents(now);
        self.tell_elsewhere();
        self.pull(now);
        self.climb(now);
        self.tell_alive(now);
        if now.saturating_duration_since(self.have_at) >= HAVE {
            self.have_at = now;
            self.meet(now);
            self.meet_others(now);
            self.tidy(now);
            self.relay.close_mute(|peer| self.seed == Some(peer), now);
            self.probe(now);
            // Who has sent all that it may gives its children time to find others, as one whose line shrinks.
            let sent = self.relay.bytes_sent.max(self.relay.uplink.total());
            let may = self.settings.volume.is_none_or(|most| sent < most);
            self.relay.gives = self.settings.relay && may;
            self.relay.measure(now);
            self.shed(now);
            self.tell_maps(now);
        }
        let children = &self.relay.children;
        let room = (children.slots(), children.spare());
        let news = self.blamed || self.reported_room != room;
        let again = if news { REPORT_SOON } else { self.contact() };
        if now.saturating_duration_since(self.report_at) >= again {
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

    pub(super) fn members(&self) -> u64 {
        self.relay.peers.values().filter(|p| p.ready).count() as u64
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
            members: self.members(),
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
