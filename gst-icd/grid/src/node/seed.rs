//! The node inside `icdsink`.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::cutter::{Cut, Cutter, Entry, Format};
use crate::ids::{Epoch, NodeId, PeerId, SenderTime, Seq, StripeId};
use crate::message::{Hello, MAX_PROOF_BYTES, Message, NoStripe, Refusal, Start, VERSION, Welcome};
use crate::node::relay::Relay;
use crate::node::{Close, Event, Input, MediaState, SeedSettings, Stats};
use crate::opening::{From, Leads, Opening, opening};
use crate::piece::{Piece, PieceInfo};
use crate::record::{Beacon, Signed, StreamHeader, Ticket};
use crate::release::Release;
use crate::seat::{Member, Place, Pulse, Seat};
use crate::trust::{Sign, Verify};
use crate::window::Bounds;

/// The rate is announced anew, at a join point, when it differs by more than this share.
const RATE_SAID: f64 = 0.2;
const TEND: Duration = Duration::from_millis(100);
const BEACON: Duration = Duration::from_secs(1);
/// A ticket holds for this much of the stream, and is renewed three times as often.
const TICKET: Duration = Duration::from_secs(600);
/// Connections that have not been admitted yet; more are closed at once.
const MAX_UNREADY: usize = 1024;
/// More backlog than this in the uplink's queue makes newcomers wait for their start, unless
/// viewers send it.
const START_BACKLOG: Duration = Duration::from_millis(100);
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
    seat: Seat,
    ask_admission: bool,
    asking: Vec<(PeerId, Hello, Instant)>,
    state: Option<MediaState>,
    version: u32,
    next_seq: Seq,
    tended: Instant,
    beaconed: Instant,
    renewed: Instant,
    ended: bool,
    drained: bool,
    bytes_in: u64,
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
        Self {
            relay: Relay::new(me, bounds, settings.upload, random, now),
            epoch: settings.epoch,
            seat: Seat::new(settings.max_viewers, now),
            settings,
            signer,
            verifier,
            cutter: Cutter::new(),
            release: Release::new(now),
            leads: Leads::default(),
            ask_admission: false,
            asking: Vec::new(),
            state: None,
            version: 0,
            next_seq: Seq(0),
            tended: now,
            beaconed: now,
            renewed: now,
            ended: false,
            drained: false,
            bytes_in: 0,
        }
    }

    fn time(&self, at: Instant) -> SenderTime {
        SenderTime(at.saturating_duration_since(self.relay.origin).as_nanos() as u64)
    }

    pub(super) fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Connected { peer, id, addr } => {
                let (_, twin) = self.relay.connected(peer, id, addr, now);
                if let Some(twin) = twin {
                    self.gone(twin, "it connected anew");
                }
                if self.relay.peers.values().filter(|p| !p.ready).count() > MAX_UNREADY {
                    self.relay.close(peer, Close::Refused);
                }
            }
            Input::Disconnected { peer, why } => self.gone(peer, &why),
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
                    self.new_header();
                }
                self.bytes_in += data.len() as u64;
                let time = self.time(at);
                self.cutter.offer(data, entry, self.version, time, now);
                self.publish(now);
            }
            Input::End => self.end(now),
            Input::Verdict { peer, allow } => self.verdict(peer, allow, now),
            Input::Upload(rate) => {
                self.relay.uplink.set_rate(rate);
                self.relay.resize();
            }
            Input::MaxViewers(max) => self.seat.max_viewers = max,
            Input::AskAdmission(ask) => self.ask_admission = ask,
            Input::Live => {}
        }
    }

    fn gone(&mut self, peer: PeerId, why: &str) {
        self.asking.retain(|(p, ..)| *p != peer);
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
        self.start_waiting(now);
    }

    /// What the header says of the rate no longer holds.
    fn rate_changed(&self) -> bool {
        let said = self.relay.headers.last_key_value();
        let said = said.map_or(0.0, |(_, (_, h))| f64::from(h.bytes_per_second));
        let rate = self.cutter.rate();
        said > 0.0 && (rate - said).abs() > said * RATE_SAID
    }

    fn new_header(&mut self) {
        self.version += 1;
        if self.relay.format.is_some() {
            self.make_header();
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
        self.seat.reset(format.stripes);
        if self.state.is_some() {
            self.make_header();
        }
    }

    /// Begins another life, as a restart would: every viewer is told anew where it begins.
    fn begin_anew(&mut self, epoch: Epoch, now: Instant) {
        self.epoch = epoch;
        self.relay.format = None;
        self.relay.window.clear();
        self.leads = Leads::default();
        self.cutter = Cutter::new();
        self.release = Release::new(now);
        self.next_seq = Seq(0);
        self.ended = false;
        self.drained = false;
        self.seat.forget_starts();
        self.renew_tickets(now);
    }

    fn renew_tickets(&mut self, now: Instant) {
        self.renewed = now;
        let members: Vec<_> = self.seat.members().map(|(p, m)| (p, m.id)).collect();
        for (peer, id) in members {
            let ticket = self.ticket(id, now);
            self.relay.send(peer, &Message::Ticket(ticket));
        }
    }

    fn ticket(&self, node: NodeId, now: Instant) -> Signed<Ticket> {
        let ticket = Ticket {
            epoch: self.epoch,
            node,
            expires: SenderTime(self.time(now).0 + TICKET.as_nanos() as u64),
        };
        Signed::sign(&ticket, &*self.signer)
    }

    fn make_header(&mut self) {
        let (Some(state), Some(format)) = (self.state.clone(), self.relay.format) else {
            return;
        };
        let header = StreamHeader {
            epoch: self.epoch,
            version: self.version,
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
            } => {
                // Of an earlier life there is nothing left to begin with.
                let from = if epoch == self.epoch {
                    from
                } else {
                    Seq(u64::MAX)
                };
                self.subscribe(peer, stripe, from, lease, now);
            }
            Message::Report(report) => {
                if let Some(member) = self.seat.member_mut(peer) {
                    member.report = report;
                    member.reported = Some(now);
                }
                self.check_drained();
            }
            Message::Find => {
                let list = self.seat.candidates(peer, &mut self.relay.rng);
                self.relay.send(peer, &Message::Candidates(list));
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

    fn hello(&mut self, peer: PeerId, hello: Hello, now: Instant) {
        if self.asking.iter().any(|(p, ..)| *p == peer) {
            return;
        }
        if hello.proof.len() > MAX_PROOF_BYTES {
            self.relay.nonsense(peer, now);
            return;
        }
        let most = self.longest_latency();
        let refusal = if hello.version != VERSION {
            Some(Refusal::Version)
        } else if hello.stream.is_some_and(|key| key != self.signer.key()) {
            Some(Refusal::WrongStream)
        } else if Duration::from_millis(u64::from(hello.latency_ms)) > most {
            let most_ms = most.as_millis().min(u128::from(u32::MAX)) as u32;
            Some(Refusal::Latency { most_ms })
        } else {
            self.seat.has_room().err()
        };
        if let Some(refusal) = refusal {
            self.refuse(peer, refusal);
            return;
        }
        if !self.ask_admission {
            self.admit(peer, hello, now);
            return;
        }
        let Some(state) = self.relay.peers.get(&peer) else {
            return;
        };
        let (id, addr) = (state.id, state.addr);
        self.asking.push((peer, hello, now + VERDICT));
        self.relay.tell(Event::AskAdmission { peer, id, addr });
    }

    /// A viewer's play-out delay and a group of pictures before it are kept. Where groups are
    /// longer than half of the buffer, viewers begin with what there is, a little later.
    fn longest_latency(&self) -> Duration {
        let buffer = self.settings.buffer;
        buffer - self.relay.window.longest_group().min(buffer / 2)
    }

    fn refuse(&mut self, peer: PeerId, refusal: Refusal) {
        self.relay.send(peer, &Message::Refuse(refusal));
        self.relay.close(peer, Close::Refused);
    }

    fn verdict(&mut self, peer: PeerId, allow: bool, now: Instant) {
        let Some(at) = self.asking.iter().position(|(p, ..)| *p == peer) else {
            return;
        };
        let (_, hello, _) = self.asking.swap_remove(at);
        match self.seat.has_room() {
            Ok(()) if allow => self.admit(peer, hello, now),
            Err(full) if allow => self.refuse(peer, full),
            _ => self.refuse(peer, Refusal::Denied),
        }
    }

    fn admit(&mut self, peer: PeerId, hello: Hello, now: Instant) {
        if !self.relay.peers.contains_key(&peer) {
            return;
        }
        // A viewer that knows a later life under this key never goes back: the clock of this
        // machine was set back since. This life is made the later one.
        let known = hello.ticket.as_ref().and_then(|t| t.open(&*self.verifier));
        if let Some(ticket) = known.filter(|t| t.epoch > self.epoch) {
            self.begin_anew(Epoch(ticket.epoch.0.saturating_add(1)), now);
        }
        // What was read is not kept for as long as the viewer stays.
        let hello = Hello {
            ticket: None,
            proof: Bytes::new(),
            ..hello
        };
        let Some(state) = self.relay.peers.get_mut(&peer) else {
            return;
        };
        state.ready = true;
        state.relays = hello.relay;
        let (id, addr) = (state.id, state.addr);
        let welcome = Welcome {
            version: VERSION,
            features: 0,
            observed: addr,
            second_port: 0,
            ticket: self.ticket(id, now),
            beacon: self.beacon(now),
            candidates: self.seat.candidates(peer, &mut self.relay.rng),
        };
        self.relay.send(peer, &Message::Welcome(welcome));
        let member = Member {
            id,
            addr,
            hello,
            report: Default::default(),
            reported: None,
            since: now,
            started: false,
        };
        self.seat.admit(peer, member);
        self.relay.tell(Event::PeerAdded { id, addr });
        self.start(peer, now);
    }

    fn start_waiting(&mut self, now: Instant) {
        let waiting: Vec<_> = self
            .seat
            .members()
            .filter(|(_, m)| !m.started)
            .map(|(peer, _)| peer)
            .collect();
        for peer in waiting {
            self.start(peer, now);
        }
    }

    /// Tells a viewer where the stream begins for it, and pushes everything until it finds
    /// parents.
    fn start(&mut self, peer: PeerId, now: Instant) {
        let (Some(head), Some(member)) = (self.relay.window.head(), self.seat.member(peer)) else {
            return;
        };
        let hello = member.hello.clone();
        let own_timeline = self.state.as_ref().is_some_and(|s| s.own_timeline);
        let latency = Duration::from_millis(u64::from(hello.latency_ms));
        let window = &self.relay.window;
        let resume = hello
            .resume
            .filter(|seq| hello.epoch == self.epoch && window.first().is_some_and(|f| *seq >= f));
        let due = window.join_of_age(latency, self.time(now));
        let overdue = due
            .filter(|_| !own_timeline)
            .and_then(|seq| window.get(seq))
            .map(|s| self.time(now).since(s.info().time))
            .map(|age| age.saturating_sub(latency));
        let stripes = self.relay.stripes();
        let copy = f64::from(stripes.max(1));
        let free = self.relay.children.spare() as f64 / copy;
        let spare = self.seat.spare(peer, now) as f64 / copy;
        let opening = opening(free, spare, overdue);
        let by_seed = match opening {
            // Who comes back is told at once that this is the life it knows; it has parents.
            Opening::Wait | Opening::Grid if resume.is_some() => false,
            Opening::Wait => return,
            Opening::Grid => false,
            // One start after the other where the uplink is narrow.
            Opening::Seed(_) if self.relay.uplink.backlog() > START_BACKLOG => {
                if resume.is_none() {
                    return;
                }
                false
            }
            Opening::Seed(_) => true,
        };
        let join = match opening {
            Opening::Seed(From::Due) => due,
            _ => window.newest_join(),
        };
        let join = join.map(|join| {
            self.leads
                .before(join)
                .filter(|s| window.has(*s))
                .unwrap_or(join)
        });
        let Some(from) = resume.or(join) else { return };
        let from = from.min(head.plus(1));
        let version = match window.get(from) {
            Some(stored) => stored.info().header,
            None => self.version,
        };
        let Some((header, version)) = self
            .relay
            .header(version)
            .map(|(signed, header)| (signed.clone(), header.version))
        else {
            return;
        };
        let mut leased = 0;
        for k in (0..stripes).filter(|_| by_seed) {
            if self.relay.children.spare() > 0 {
                leased |= 1 << k;
                self.relay.children.add(peer, StripeId(k), true, now);
            }
        }
        let start = Start {
            from,
            head,
            header,
            leased,
        };
        self.relay.send(peer, &Message::Start(start));
        let newer: Vec<_> = self
            .relay
            .headers
            .range(version + 1..)
            .map(|(_, h)| h.0.clone())
            .collect();
        for header in newer {
            self.relay.send(peer, &Message::Header(header));
        }
        if by_seed {
            let ttl = latency + Duration::from_secs(1);
            self.relay.backlog(peer, None, from, ttl, now);
        } else {
            self.seat.promise(usize::from(stripes), now);
        }
        if let Some(member) = self.seat.member_mut(peer) {
            member.started = true;
        }
        self.tend(now);
    }

    fn subscribe(&mut self, peer: PeerId, stripe: StripeId, from: Seq, lease: bool, now: Instant) {
        let short = match self.relay.peers.get(&peer) {
            Some(state) => state.id.short(),
            None => return,
        };
        let path = self.relay.format.is_some().then_some(&[][..]);
        let place = if lease {
            None
        } else {
            self.seat.take_place(peer, stripe)
        };
        if place.is_none() && !lease {
            // Its invitation lapsed; it keeps the parent that it has.
            let why = NoStripe::Busy;
            self.relay.send(peer, &Message::Reject { stripe, why });
            return;
        }
        // A root's place is always free: it is what the rest of the stripe lives from.
        let verdict = match self.relay.children.judge(peer, short, stripe, path) {
            Err(NoStripe::Busy) if !lease => Ok(()),
            other => other,
        };
        if let Err(why) = verdict {
            self.relay.send(peer, &Message::Reject { stripe, why });
            return;
        }
        self.relay.children.add(peer, stripe, lease, now);
        let path = Vec::new();
        self.relay.send(
            peer,
            &Message::Accept {
                stripe,
                path,
                lease,
            },
        );
        if lease {
            let ttl = Duration::from_secs(1);
            self.relay.backlog(peer, Some(stripe), from, ttl, now);
        } else {
            self.relay.fill(peer, stripe, from, now);
        }
        self.place(place.flatten());
    }

    fn place(&mut self, places: impl IntoIterator<Item = Place>) {
        for place in places {
            match place {
                Place::Root(peer, stripe) => {
                    self.relay.children.set_lease(peer, stripe, false);
                    self.relay.send(peer, &Message::Root { stripe });
                }
                Place::Lease(peer, stripe) => {
                    if self.relay.children.get(peer, stripe).is_some() {
                        self.relay.children.set_lease(peer, stripe, true);
                        let path = Vec::new();
                        let lease = true;
                        self.relay.send(
                            peer,
                            &Message::Accept {
                                stripe,
                                path,
                                lease,
                            },
                        );
                    }
                }
                Place::Invite(peer, stripe) => self.relay.send(peer, &Message::Invite { stripe }),
                Place::Dead(peer) => self.relay.close(peer, Close::Silent),
            }
        }
    }

    fn tend(&mut self, now: Instant) {
        self.tended = now;
        let relay = &self.relay;
        let pulse = |peer| {
            let state = relay.peers.get(&peer);
            Pulse {
                silence: relay.uplink.silence(peer, now),
                heard: state.map_or(Duration::MAX, |p| now.saturating_duration_since(p.heard)),
                rtt: state.map_or(Duration::ZERO, |p| p.rtt),
            }
        };
        let places = self.seat.tend(&relay.children, pulse, now);
        self.place(places);
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
            let message = Message::Beacon(self.beacon(now));
            let members: Vec<_> = self.seat.members().map(|(peer, _)| peer).collect();
            for peer in members {
                self.relay.send(peer, &message);
                self.relay.ping(peer, now);
            }
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
        let sum = |f: fn(&Member) -> u64| self.seat.members().map(|(_, m)| f(m)).sum();
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
            viewers_from_seed: sum(|m| m.report.from_seed),
            viewers_from_peers: sum(|m| m.report.from_peers),
            viewers_lost: sum(|m| m.report.lost),
            peers: relay.peer_stats(|_| Vec::new()),
            ..Default::default()
        }
    }
}
