//! The node inside `icdsink`.

mod bans;
mod meeting;
mod places;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::bucket::Sources;
use crate::children::{Asker, BASE, Taken, outweighs, slots};
use crate::cutter::{Cut, Cutter, Entry, Format};
use crate::ids::{Epoch, NodeId, PeerId, SenderTime, Seq, StripeId};
use crate::message::{
    Candidate, Hello, MAX_PROOF_BYTES, Message, NoStripe, Refusal, Start, VERSION, Welcome,
};
use crate::node::headers::MAX_HEADERS;
use crate::node::peer::Peer;
use crate::node::relay::{Asks, Relay};
use crate::node::words::Word;
use crate::node::{Close, Event, Input, MediaState, SeedSettings, Stats};
use crate::opening::{FIRST, From, Leads, Opening, Purse, Room, next_soon, opening};
use crate::piece::{Piece, PieceInfo};
use crate::record::{Beacon, Signed, StreamHeader, Ticket, contact};
use crate::release::Release;
use crate::seat::{Member, Place, Pulse, Seat};
use crate::trust::{Sign, Verify};
use crate::uplink::Uplink;
use crate::window::Bounds;

/// The rate is announced anew, at a join point, when it differs by more than this share.
const RATE_SAID: f64 = 0.2;
const TEND: Duration = Duration::from_millis(100);
const BEACON: Duration = Duration::from_secs(1);
/// A viewer that it does not feed is pinged each so many times that it reports.
const SELDOM: u32 = 5;
/// A ticket holds for this much of the stream, and is renewed three times as often.
const TICKET: Duration = Duration::from_secs(600);
/// Connections that have not been admitted yet; more are closed at once.
const MAX_UNREADY: usize = 1024;
/// More backlog than this in the uplink's queue makes newcomers wait for their start, unless
/// viewers send it.
const START_BACKLOG: Duration = Duration::from_millis(100);
/// More than this, and who asks for a loan is sent to one that has the stripe, and room for it.
const LENT_BACKLOG: Duration = Duration::from_millis(100);
/// Who confirms nothing for so long is not named.
const LIVES: Duration = Duration::from_millis(175);
/// As long as so much of the seed's slots is free, the viewers find parents among themselves.
const CALM: f64 = 0.5;
/// A copy of the past costs so many of the present: it has to come from those that happen to feed
/// the newcomer.
const DEAR: f64 = 3.0;
/// Share of the seed's slots that viewers may have that reach nobody else.
const DEPENDANTS: f64 = 0.5;
/// In a grid of so many viewers, one that relays soon gives what it takes.
const MANY: usize = 16;
/// What is lent to one from which so many live, on the stripe, is not given to a stronger one.
const LIVE_FROM: u32 = 8;
/// A child that asks anew within this time is not sent the past again.
const GIVEN_PAST: Duration = Duration::from_millis(200);
/// Those that wait for a start are looked at this often; each look weighs what the grid can give.
const STARTS: Duration = Duration::from_millis(10);
/// Hellos that are refused for good, from one address, at once and each second: tokens are guessed so.
const MAX_IN_VAIN: u32 = 16;
const IN_VAIN: f64 = 0.25;
/// An answer of the application that does not come is a no.
const VERDICT: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(super) struct Seed {
    pub(super) relay: Relay,
    settings: SeedSettings,
    signer: Box<dyn Sign>,
    verifier: Box<dyn Verify>,
    epoch: Epoch,
    cutter: Cutter,
    release: Release,
    leads: Leads,
    purse: Purse,
    first: Purse,
    seat: Seat,
    /// Those connections.
    unready: BTreeSet<PeerId>,
    excluded: bans::Excluded,
    in_vain: Sources,
    ask_admission: bool,
    asking: Vec<(PeerId, Hello, Instant)>,
    state: Option<MediaState>,
    version: u32,
    /// States that the first pieces of this life name, as long as its format is not known.
    early: Vec<(u32, MediaState)>,
    next_seq: Seq,
    tended: Instant,
    starts_at: Instant,
    beaconed: Instant,
    said_rate: f64,
    renewed: Instant,
    ended: bool,
    drained: bool,
    bytes_in: u64,
    refusals: u64,
}

impl Seed {
    pub(super) fn new(
        settings: SeedSettings,
        signer: Box<dyn Sign>,
        verifier: Box<dyn Verify>,
        random: u64,
        now: Instant,
    ) -> Self {
        let bounds = Bounds {
            span: settings.buffer,
            bytes: settings.buffer_bytes,
        };
        let me = NodeId(signer.key().0);
        let uplink = Uplink::new(settings.upload, now);
        let mut relay = Relay::new(me, bounds, uplink, random, now);
        relay.policy = settings.policy;
        relay.children.insertion = settings.policy.insertion;
        relay.lends = true;
        Self {
            relay,
            epoch: settings.epoch,
            seat: Seat::new(settings.max_viewers, settings.per_address, now),
            unready: BTreeSet::new(),
            in_vain: Sources::new(MAX_IN_VAIN, IN_VAIN, now),
            cutter: Cutter::new(settings.policy),
            settings,
            signer,
            verifier,
            release: Release::new(now),
            leads: Leads::default(),
            purse: Purse::for_past(now),
            first: Purse::for_first(now),
            excluded: bans::Excluded::new(),
            ask_admission: false,
            asking: Vec::new(),
            state: None,
            version: 0,
            early: Vec::new(),
            next_seq: Seq(0),
            tended: now,
            starts_at: now,
            beaconed: now,
            said_rate: 0.0,
            renewed: now,
            ended: false,
            drained: false,
            bytes_in: 0,
            refusals: 0,
        }
    }

    fn time(&self, at: Instant) -> SenderTime {
        SenderTime(at.saturating_duration_since(self.relay.origin).as_nanos() as u64)
    }

    pub(super) fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Connected {
                peer,
                id,
                addr,
                binding,
            } => {
                let (stays, twin) = self.relay.connected(peer, (id, addr, binding), now);
                if let Some(twin) = twin {
                    self.gone(twin, "it connected anew");
                }
                if stays {
                    self.unready.insert(peer);
                }
                if self.unready.len() > MAX_UNREADY {
                    self.relay.close(peer, Close::Refused);
                }
            }
            Input::Moved { peer, addr } => self.moved(peer, addr, now),
            Input::Disconnected { peer, why } => self.gone(peer, &why.to_string()),
            Input::Message { peer, bytes } => {
                if let Some(message) = self.relay.decode(peer, &bytes, now) {
                    self.message(peer, message, now);
                }
            }
            // A seed asks nobody for pieces.
            Input::Piece { peer, .. } => self.relay.nonsense(peer, now),
            Input::Sent {
                peer,
                seq,
                delivered,
            } => self.relay.uplink.sent(peer, seq, delivered, now),
            Input::Item {
                data,
                entry,
                at,
                state,
            } => {
                if self.ended {
                    // A flush took the end back.
                    self.begin_anew(Epoch(self.epoch.0 + 1), now);
                }
                let fits = |s: &MediaState| s.media.len() <= StreamHeader::MAX_MEDIA_BYTES;
                if let Some(state) = state.filter(fits) {
                    self.state = Some(state);
                    self.new_header();
                } else if entry == Entry::Join && self.rate_changed() {
                    // Said at once, in the next beacon.
                    self.beaconed = now.checked_sub(BEACON).unwrap_or(now);
                }
                self.bytes_in += data.len() as u64;
                let time = self.time(at);
                self.cutter.offer(data, entry, self.version, time, now);
                self.publish(now);
            }
            Input::End => self.end(now),
            Input::Verdict { peer, allow } => self.answered(peer, allow, now),
            Input::WentOut(total) => self.relay.uplink.went_out(total, now),
            Input::Upload(rate) => {
                self.relay.uplink.set_rate(rate);
                self.relay.resize();
            }
            Input::MaxViewers(max) => self.seat.max_viewers = max,
            Input::Ban(node) => self.ban(node, now),
            Input::AskAdmission(ask) => self.ask_admission = ask,
            Input::Live | Input::Volume(_) => {}
        }
    }

    fn gone(&mut self, peer: PeerId, why: &str) {
        self.asking.retain(|(p, ..)| *p != peer);
        self.unready.remove(&peer);
        self.relay.forget(peer);
        if let Some(member) = self.seat.forget(peer) {
            self.relay.tell(Event::PeerRemoved {
                id: member.id,
                why: why.into(),
            });
        }
    }

    /// Numbers, signs and pushes what was cut.
    fn publish(&mut self, now: Instant) {
        if self.relay.format.is_none() {
            let Some(format) = self.cutter.format() else {
                return;
            };
            self.begin(format);
        }
        while let Some(cut) = self.cutter.poll() {
            self.release.offer(cut, now);
        }
        let rate = self.cutter.rate();
        while let Some(cut) = self.release.poll(rate, now) {
            self.number(cut, now);
        }
        if now.saturating_duration_since(self.starts_at) >= STARTS {
            self.starts_at = now;
            self.start_waiting(now);
        }
    }

    /// What was said of the rate no longer holds.
    fn rate_changed(&self) -> bool {
        let (said, rate) = (self.said_rate, self.cutter.rate());
        (rate - said).abs() > said * RATE_SAID
    }

    fn new_header(&mut self) {
        self.version += 1;
        if self.relay.format.is_some() {
            self.make_header();
            return;
        }
        self.early
            .extend(self.state.clone().map(|state| (self.version, state)));
        // Of more, those of the latest count.
        if self.early.len() > MAX_HEADERS {
            self.early.remove(0);
        }
    }

    fn number(&mut self, cut: Cut, now: Instant) {
        self.leads.numbered(self.next_seq, &cut);
        let info = PieceInfo {
            epoch: self.epoch,
            seq: self.next_seq,
            time: cut.time,
            header: cut.header,
            first_item: cut.first_item,
            join: cut.join,
            end: false,
        };
        self.put(info, &cut.payload, now);
    }

    fn put(&mut self, info: PieceInfo, payload: &[u8], now: Instant) {
        let piece = Piece::sign(info, payload, &*self.signer);
        self.next_seq = info.seq.plus(1);
        self.relay.store(piece, None, now);
    }

    fn begin(&mut self, format: Format) {
        self.relay.reset(self.epoch, format);
        self.seat.reset(format.stripes, self.settings.policy.roots);
        for (version, state) in std::mem::take(&mut self.early) {
            self.make(version, state);
        }
    }

    /// Begins another life, as a restart would: every viewer is told anew where it begins.
    fn begin_anew(&mut self, epoch: Epoch, now: Instant) {
        self.epoch = epoch;
        self.relay.format = None;
        self.relay.window.clear();
        self.leads = Leads::default();
        self.cutter = Cutter::new(self.settings.policy);
        self.release = Release::new(now);
        self.next_seq = Seq(0);
        self.early.clear();
        self.early
            .extend(self.state.clone().map(|state| (self.version, state)));
        self.ended = false;
        self.drained = false;
        self.seat.forget_starts();
        self.renew_tickets(now);
        self.excluded_in_new_epoch(now);
    }

    fn make_header(&mut self) {
        if let Some(state) = self.state.clone() {
            self.make(self.version, state);
        }
    }

    fn make(&mut self, version: u32, state: MediaState) {
        let Some(format) = self.relay.format else {
            return;
        };
        let header = StreamHeader {
            epoch: self.epoch,
            version,
            stripes: format.stripes,
            piece_us: format.piece.as_micros() as u32,
            bytes_per_second: self.cutter.rate() as u32,
            own_timeline: state.own_timeline,
            media: state.media,
        };
        let signed = Signed::sign(&header, &*self.signer);
        self.relay.learn_header(signed.clone(), header);
        self.relay.resize();
        let message = Message::Header(signed);
        let members: Vec<_> = self.seat.members().map(|(peer, _)| peer).collect();
        for peer in members {
            self.relay.send(peer, &message);
        }
    }

    fn end(&mut self, now: Instant) {
        if self.ended {
            return;
        }
        self.cutter.finish(now);
        self.publish(now);
        let rest: Vec<_> = self.release.flush().collect();
        for cut in rest {
            self.number(cut, now);
        }
        self.ended = true;
        if self.relay.format.is_none() {
            // Nothing was ever sent; the end still has to be told.
            self.begin(Format::for_rate(0.0));
        }
        let info = PieceInfo {
            epoch: self.epoch,
            seq: self.next_seq,
            time: self.time(now),
            header: self.version,
            first_item: None,
            join: false,
            end: true,
        };
        self.put(info, &[], now);
        self.check_drained();
    }

    /// The end has arrived at everybody, or there is nobody.
    fn check_drained(&mut self) {
        if !self.ended || self.drained {
            return;
        }
        let end = self.next_seq;
        let done = self
            .seat
            .members()
            .all(|(_, m)| !m.started || m.report.complete >= end);
        if done {
            self.drained = true;
            self.relay.tell(Event::Drained);
        }
    }

    fn beacon(&self, now: Instant) -> Signed<Beacon> {
        let beacon = Beacon {
            epoch: self.epoch,
            head: Seq(self.next_seq.0.saturating_sub(1)),
            time: self.time(now),
            bytes_per_second: self.cutter.rate() as u32,
            viewers: self.seat.len().min(u32::MAX as usize) as u32,
            bans: self.relay.banned.version(self.epoch),
        };
        Signed::sign(&beacon, &*self.signer)
    }

    fn message(&mut self, peer: PeerId, message: Message, now: Instant) {
        let Some(state) = self.relay.peers.get_mut(&peer) else {
            return;
        };
        state.heard = now;
        let ready = state.ready;
        match message {
            Message::Ping { id } => {
                let time = Some(self.time(now));
                self.relay.send(peer, &Message::Pong { id, time });
            }
            Message::Hello(hello) if !ready => self.hello(peer, hello, now),
            _ if !ready => self.relay.nonsense(peer, now),
            Message::Pong { id, .. } => {
                self.relay.ponged(peer, id, now);
            }
            Message::Subscribe {
                stripe,
                from,
                lease,
                epoch,
                strength,
                free,
                orphan,
                old,
            } => {
                let asks = Asks {
                    strength,
                    free,
                    orphan,
                    old,
                };
                // Of an earlier life there is nothing left to begin with.
                let from = if epoch == self.epoch {
                    from
                } else {
                    Seq(u64::MAX)
                };
                self.subscribe(peer, stripe, from, lease, &asks, now);
            }
            Message::Report(report) => {
                self.seat.reported(peer, report, now);
                let strength = self.seat.strength(peer);
                self.relay.children.set_strength(peer, strength);
                self.check_drained();
            }
            Message::Find => {
                if self.relay.affords(Word::Candidates, now) {
                    self.name_candidates(peer, now);
                }
            }
            message => {
                if let Message::Unsubscribe { stripe, .. } = message {
                    self.seat.left(peer, stripe);
                }
                if !self.relay.shared(peer, &message, now) {
                    self.relay.nonsense(peer, now);
                }
            }
        }
    }

    pub(super) fn tick(&mut self, now: Instant) {
        if !self.ended {
            let time = self.time(now);
            self.cutter.tick(time, now);
            self.publish(now);
        }
        if now.saturating_duration_since(self.tended) >= TEND {
            self.relay.resize();
            self.tend(now);
            self.check_drained();
            // Peaks hurt where an uplink is narrow: the own one, or those of viewers that relay.
            let narrow = self.relay.uplink.rate().is_some() || self.seat.len() > 2;
            let shortest = self.seat.shortest_latency().filter(|_| narrow);
            self.release.set_latency(shortest);
            let late: Vec<_> = self
                .asking
                .iter()
                .filter(|(.., until)| *until <= now)
                .map(|(peer, ..)| *peer)
                .collect();
            for peer in late {
                self.verdict(peer, false, now);
            }
            let asking: Vec<_> = self.asking.iter().map(|(peer, ..)| *peer).collect();
            self.relay.close_mute(|peer| asking.contains(&peer), now);
        }
        if now.saturating_duration_since(self.renewed) >= TICKET / 3 {
            self.renew_tickets(now);
        }
        if now.saturating_duration_since(self.beaconed) >= BEACON {
            self.beaconed = now;
            self.tell_excluded(now);
            self.said_rate = self.cutter.rate();
            let beacon = self.beacon(now);
            self.relay.spread(&beacon, self.time(now));
            self.ping_members(now);
        }
    }

    /// Those that it feeds it pings every second, the others seldom: they ping it.
    fn ping_members(&mut self, now: Instant) {
        let seldom = contact(self.seat.len()) * SELDOM;
        let due = |(peer, p): &(&PeerId, &Peer)| {
            let since = p.ping_sent.map(|at| now.saturating_duration_since(at));
            let fed = self.relay.children.stripes_of(**peer).next().is_some();
            p.ready && (fed || since.is_none_or(|since| since >= seldom))
        };
        let due: Vec<_> = self
            .relay
            .peers
            .iter()
            .filter(due)
            .map(|(p, _)| *p)
            .collect();
        for peer in due {
            self.relay.ping(peer, now);
        }
    }

    pub(super) fn poll_timeout(&mut self, now: Instant) -> Instant {
        let mut at = (self.tended + TEND).min(self.beaconed + BEACON);
        if !self.ended {
            at = self.cutter.poll_timeout().map_or(at, |t| at.min(t));
            at = self.release.poll_timeout().map_or(at, |t| at.min(t));
        }
        self.relay
            .uplink
            .poll_timeout(now)
            .map_or(at, |t| at.min(t))
    }

    pub(super) fn members(&self) -> u64 {
        self.seat.len() as u64
    }

    pub(super) fn stats(&self, _now: Instant) -> Stats {
        let relay = &self.relay;
        // What viewers say may be anything.
        let sum = |f: fn(&Member) -> u64| {
            let said = self.seat.members().map(|(_, m)| f(m));
            said.fold(0, u64::saturating_add)
        };
        Stats {
            epoch: self.epoch,
            head: relay.window.head(),
            stripes: relay.stripes(),
            bytes_per_second: self.cutter.rate() as u64,
            members: self.members(),
            buffer_bytes: relay.window.bytes() as u64,
            bytes_sent: relay.bytes_sent,
            bytes_in: self.bytes_in,
            expired: relay.uplink.expired,
            slots: relay.children.slots() as u64,
            slots_used: relay.children.used() as u64,
            refused: self.refusals,
            viewers_from_seed: sum(|m| m.report.from_seed),
            viewers_from_peers: sum(|m| m.report.from_peers),
            viewers_lost: sum(|m| m.report.lost),
            peers: relay.peer_stats(|_| Vec::new()),
            ..Default::default()
        }
    }
}
