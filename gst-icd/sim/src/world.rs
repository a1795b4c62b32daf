//! A seed, viewers, and the network between them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use icd_grid::piece::{Hop, PREFIX_BYTES, claimed};
use icd_grid::trust::{Ed25519Signer, Ed25519Verifier, Sign, Verify};
use icd_grid::{
    Action, Bitrate, Entry, Epoch, Event, Input, Media, MediaState, Node, NodeId, PeerId, Policy,
    SeedSettings, Seq, Stats, StreamKey, Target, ViewerSettings,
};

use crate::measure::{Measure, Spread};
use crate::network::{Line, Link, Nat, mishaps, wire};
use crate::seal::{Seal, VERIFY};
use crate::traffic::{Stream, Traffic};

/// One run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// For all chance in the run.
    pub seed: u64,
    /// Payload rate.
    pub rate: Bitrate,
    /// What the broadcaster sends.
    pub stream: Stream,
    /// Play-out delay.
    pub latency: Duration,
    /// The seed's uplink; none is unlimited.
    pub seed_upload: Option<Bitrate>,
    /// The network.
    pub link: Link,
    /// Downlink of each viewer; none is unlimited.
    pub downlink: Option<Bitrate>,
    /// Ed25519, and not only its size and time.
    pub real_signatures: bool,
    /// What the grid does without.
    pub policy: Policy,
    /// What comes before is not measured.
    pub from: Duration,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seed: 1,
            rate: Bitrate(2_500_000),
            stream: Stream::default(),
            latency: Duration::from_secs(2),
            seed_upload: None,
            link: Link {
                least: Duration::from_millis(5),
                most: Duration::from_millis(75),
                loss: 0.0,
            },
            downlink: None,
            real_signatures: false,
            policy: Policy::default(),
            from: Duration::ZERO,
        }
    }
}

/// A viewer that comes.
#[derive(Debug, Clone, Copy)]
pub struct Newcomer {
    /// What its line carries; none is unlimited.
    pub line: Option<Bitrate>,
    /// What it is told that it may send.
    pub upload: Bitrate,
    /// Whether it relays.
    pub relay: bool,
    /// How it is reached.
    pub nat: Nat,
}

/// What became of a viewer.
#[derive(Debug)]
pub struct Viewer {
    /// Its figures now.
    pub stats: Stats,
    /// Payloads that it played.
    pub played: u64,
    /// Marks of discontinuity after the first.
    pub discontinuities: u64,
    /// From its start to the first frame, when it is complete.
    pub start: Option<Duration>,
    /// When it came, since the start of the run.
    pub born: Duration,
    /// Killed or frozen.
    pub down: bool,
}

#[derive(Debug, Clone, Copy)]
struct Far {
    host: usize,
    peer: PeerId,
    delay: Duration,
    /// Messages keep their order.
    last: Instant,
}

#[derive(Debug)]
struct Host {
    node: Node,
    id: NodeId,
    line: Line,
    born: Instant,
    died: Option<Instant>,
    alive: bool,
    frozen: bool,
    liar: bool,
    links: BTreeMap<PeerId, Far>,
    next_incoming: u64,
    played: u64,
    discontinuities: u64,
    first: Option<Instant>,
    plays: bool,
    held: Vec<Input>,
    wakes: Instant,
    ended: bool,
}

#[derive(Debug)]
enum What {
    Deliver(Input),
    Frame,
    Tick,
}

/// When, in which order among those of one moment, at which host, where in the list of what
/// happens then.
type Due = (Instant, u64, usize, usize);

/// What was counted of all nodes together, since the start.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Wire bytes of pieces, with headers and what was sent again.
    pub piece_bytes: f64,
    /// Wire bytes of messages.
    pub message_bytes: f64,
    /// Wire bytes of acknowledgements of pieces.
    pub ack_bytes: f64,
    /// Of pieces: their payloads.
    pub payload_bytes: f64,
    /// Pieces that arrived.
    pub pieces: u64,
    /// Viewers that were told that there is no room.
    pub refused: u64,
    /// From a death to what its child noticed of it.
    pub detect: Spread,
    /// Pieces that came twice.
    pub duplicates: u64,
    /// Pieces that came because they were pulled.
    pub rescued: u64,
    /// Piece bytes from the seed.
    pub from_seed: u64,
    /// Piece bytes from viewers.
    pub from_peers: u64,
}

/// See the module.
#[derive(Debug)]
pub struct World {
    scenario: Scenario,
    origin: Instant,
    now: Instant,
    hosts: Vec<Host>,
    known: HashMap<NodeId, usize>,
    queue: BinaryHeap<Reverse<Due>>,
    /// What the queue speaks of, and the places that are free in it.
    happens: Vec<Option<What>>,
    free: Vec<usize>,
    order: u64,
    rng: fastrand::Rng,
    traffic: Traffic,
    frames: u64,
    over: bool,
    key: StreamKey,
    faults: Vec<(usize, NodeId)>,
    /// What holds from the next frame on, if it changes.
    state: Option<MediaState>,
    counts: Counts,
    measure: Measure,
}

fn real(key: StreamKey) -> Option<Box<dyn Verify>> {
    let verifier = Ed25519Verifier::new(key).ok()?;
    Some(Box::new(verifier))
}

fn sealed(key: StreamKey) -> Option<Box<dyn Verify>> {
    Some(Box::new(Seal(key)))
}

/// A process that ends at once or is cut off is noticed by its peers' transport after this.
const IDLE: Duration = Duration::from_secs(10);
/// A dial that nobody answers.
const UNANSWERED: Duration = Duration::from_secs(1);
/// The kernel's buffers of a stopped process hold so many packets.
const HELD: usize = 200;
const LEAST_STEP: Duration = Duration::from_micros(500);

impl World {
    /// A seed that streams and nobody else.
    pub fn new(scenario: Scenario) -> Self {
        let origin = Instant::now();
        let mut rng = fastrand::Rng::with_seed(scenario.seed);
        let signing = SigningKey::from_bytes(&[9; 32]);
        let (signer, key): (Box<dyn Sign>, _) = if scenario.real_signatures {
            let signer = Ed25519Signer::new(signing);
            let key = signer.key();
            (Box::new(signer), key)
        } else {
            let key = StreamKey([9; 32]);
            (Box::new(Seal(key)), key)
        };
        let make = if scenario.real_signatures {
            real
        } else {
            sealed
        };
        let settings = SeedSettings {
            buffer: Duration::from_secs(10),
            buffer_bytes: 256 << 20,
            upload: scenario.seed_upload,
            max_viewers: None,
            epoch: Epoch(1),
            policy: scenario.policy,
        };
        let id = NodeId(key.0);
        let verifier = make(key).expect("a made key is good");
        let node = Node::seed(settings, signer, verifier, scenario.seed, origin);
        let line = Line::new(scenario.seed_upload, None, &mut rng, origin);
        let mut world = Self {
            rng,
            traffic: Traffic::new(scenario.stream, scenario.rate),
            measure: Measure::new(scenario.latency, scenario.from),
            scenario,
            origin,
            now: origin,
            hosts: Vec::new(),
            known: HashMap::new(),
            queue: BinaryHeap::new(),
            happens: Vec::new(),
            free: Vec::new(),
            order: 0,
            frames: 0,
            over: false,
            key,
            faults: Vec::new(),
            state: None,
            counts: Counts::default(),
        };
        world.add_host(node, id, line);
        world.change();
        world.at(origin, 0, What::Frame);
        world
    }

    fn add_host(&mut self, node: Node, id: NodeId, line: Line) -> usize {
        self.hosts.push(Host {
            node,
            id,
            line,
            born: self.now,
            died: None,
            alive: true,
            frozen: false,
            liar: false,
            links: BTreeMap::new(),
            next_incoming: 0,
            played: 0,
            discontinuities: 0,
            first: None,
            plays: false,
            held: Vec::new(),
            wakes: self.now,
            ended: false,
        });
        let host = self.hosts.len() - 1;
        self.known.insert(id, host);
        self.at(self.now, host, What::Tick);
        host
    }

    /// A viewer joins whose line carries more than it is told to send.
    pub fn join(&mut self, upload: Bitrate, relay: bool) -> usize {
        self.join_as(Newcomer {
            line: None,
            upload,
            relay,
            nat: Nat::Open,
        })
    }

    /// A viewer joins.
    pub fn join_as(&mut self, newcomer: Newcomer) -> usize {
        let n = self.hosts.len() as u64;
        let mut id = [0; 32];
        id[..8].copy_from_slice(&self.rng.u64(..).to_le_bytes());
        id[8..16].copy_from_slice(&n.to_le_bytes());
        let settings = ViewerSettings {
            latency: self.scenario.latency,
            upload: newcomer.upload,
            relay: newcomer.relay,
            // It is the only one that it reaches.
            seed_only: newcomer.nat == Nat::TcpOnly,
            max_peers: 100,
            port: 0,
            stream: Some(self.key),
            policy: self.scenario.policy,
        };
        let random = self.rng.u64(..);
        let make = if self.scenario.real_signatures {
            real
        } else {
            sealed
        };
        let node = Node::viewer(settings, NodeId(id), make, random, self.now);
        let down = self.scenario.downlink;
        let mut line = Line::new(newcomer.line, down, &mut self.rng, self.now);
        line.nat = newcomer.nat;
        self.measure.joined(self.now - self.origin);
        self.add_host(node, NodeId(id), line)
    }

    /// A viewer vanishes and its machine answers no more.
    pub fn kill(&mut self, host: usize) {
        self.hosts[host].alive = false;
        self.hosts[host].died = Some(self.now);
        self.measure.gone(host - 1, self.now - self.origin);
        let links = std::mem::take(&mut self.hosts[host].links);
        for far in links.into_values() {
            self.hang_up(far, self.now + IDLE);
        }
    }

    fn hang_up(&mut self, far: Far, at: Instant) {
        let why = "closed".into();
        let gone = Input::Disconnected {
            peer: far.peer,
            why,
        };
        self.at(at, far.host, What::Deliver(gone));
    }

    /// A viewer stops, as by SIGSTOP, or goes on.
    pub fn freeze(&mut self, host: usize, frozen: bool) {
        self.hosts[host].frozen = frozen;
        if frozen {
            self.hosts[host].died = Some(self.now);
            self.measure.gone(host - 1, self.now - self.origin);
            return;
        }
        self.hosts[host].died = None;
        for input in std::mem::take(&mut self.hosts[host].held) {
            self.at(self.now, host, What::Deliver(input));
        }
        self.hosts[host].wakes = self.now;
        self.at(self.now, host, What::Tick);
    }

    /// A viewer is told what it may send from now on.
    pub fn cap(&mut self, host: usize, upload: Bitrate) {
        let input = Input::Upload(Some(upload));
        self.hosts[host].node.handle(input, self.now);
        self.pump(host);
    }

    /// From now on a viewer changes every piece that it passes on.
    pub fn lie(&mut self, host: usize) {
        self.hosts[host].liar = true;
    }

    /// The broadcaster's caps or tags change.
    pub fn change(&mut self) {
        let media = self.frames.to_le_bytes().to_vec().into();
        self.state = Some(MediaState {
            media,
            own_timeline: false,
        });
        self.pump(0);
    }

    /// The process ends; its kernel tells the others.
    pub fn leave(&mut self, host: usize) {
        self.hosts[host].alive = false;
        self.hosts[host].died = Some(self.now);
        self.measure.gone(host - 1, self.now - self.origin);
        let links = std::mem::take(&mut self.hosts[host].links);
        for far in links.into_values() {
            self.hang_up(far, self.now + far.delay);
        }
    }

    /// The broadcaster ends the stream.
    pub fn end(&mut self) {
        self.over = true;
        self.hosts[0].node.handle(Input::End, self.now);
        self.pump(0);
    }

    fn at(&mut self, at: Instant, host: usize, what: What) {
        self.order += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.happens.push(None);
            self.happens.len() - 1
        });
        self.happens[place] = Some(what);
        self.queue.push(Reverse((at, self.order, host, place)));
    }

    /// Lets virtual time pass.
    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(Reverse((at, _, host, place))) = self.queue.peek().copied() {
            if at > until {
                break;
            }
            self.queue.pop();
            self.free.push(place);
            self.now = self.now.max(at);
            if let Some(what) = self.happens[place].take() {
                self.step(host, what);
            }
        }
        self.now = until;
        self.measure.judge(self.now - self.origin);
    }

    fn step(&mut self, host: usize, what: What) {
        let now = self.now;
        if !self.hosts[host].alive {
            return;
        }
        if self.hosts[host].frozen {
            if let What::Deliver(input) = what
                && self.hosts[host].held.len() < HELD
            {
                self.hosts[host].held.push(input);
            }
            return;
        }
        match what {
            What::Deliver(input) => {
                if let Input::Piece { body, .. } = &input {
                    self.counts.pieces += 1;
                    // Forged ones are no arrivals.
                    if let Some(info) = claimed(body).filter(|_| host > 0)
                        && !self.forged(host, &input)
                    {
                        let at = now - self.origin;
                        self.measure.arrived(host - 1, info.seq.0, at);
                    }
                }
                self.hosts[host].node.handle(input, now);
            }
            What::Tick => {}
            What::Frame => self.frame(),
        }
        self.hosts[host].node.tick(now);
        self.pump(host);
        let wants = self.hosts[host].node.poll_timeout(now);
        let at = wants.max(now + LEAST_STEP);
        let wakes = self.hosts[host].wakes;
        if wakes <= now || at < wakes {
            self.hosts[host].wakes = at;
            self.at(at, host, What::Tick);
        }
    }

    /// Whether a liar sent it.
    fn forged(&self, host: usize, input: &Input) -> bool {
        let Input::Piece { peer, .. } = input else {
            return false;
        };
        let from = self.hosts[host].links.get(peer);
        from.is_some_and(|far| self.hosts[far.host].liar)
    }

    fn frame(&mut self) {
        if self.over {
            return;
        }
        let frame = self.traffic.frame();
        let at = self.now;
        let item = Input::Item {
            data: vec![self.frames as u8; frame.bytes].into(),
            entry: if frame.join { Entry::Join } else { Entry::None },
            at,
            state: self.state.take(),
        };
        self.hosts[0].node.handle(item, at);
        self.frames += 1;
        self.at(at + self.traffic.interval(), 0, What::Frame);
    }

    fn pump(&mut self, host: usize) {
        let now = self.now;
        while let Some(action) = self.hosts[host].node.poll(now) {
            self.act(host, action);
        }
        while let Some(media) = self.hosts[host].node.poll_media(now) {
            let origin = self.origin;
            let host_state = &mut self.hosts[host];
            match media {
                Media::Payload {
                    discont,
                    time,
                    first_item,
                    ..
                } => {
                    host_state.discontinuities += u64::from(discont && host_state.played > 0);
                    // Where the next frame begins, the first is complete.
                    if host_state.played > 0 && first_item.is_some() {
                        host_state.first.get_or_insert(now);
                    }
                    // What is overdue is decoded and shown late; play begins with what is not,
                    // when that is due.
                    let due = origin + Duration::from_nanos(time.0) + self.scenario.latency;
                    if !host_state.plays && due >= now {
                        host_state.plays = true;
                        self.measure.playing(host - 1, due - origin);
                    }
                    host_state.played += 1;
                }
                Media::End => host_state.ended = true,
                Media::Header { .. } => {}
            }
        }
        while let Some(action) = self.hosts[host].node.poll(now) {
            self.act(host, action);
        }
    }

    fn act(&mut self, host: usize, action: Action) {
        match action {
            Action::Dial(peer, target) => self.dial(host, peer, &target),
            // Here nobody sends unasked.
            Action::LetIn(_) => {}
            Action::Send(peer, bytes) => self.send(host, peer, bytes.slice(4..)),
            Action::SendPiece {
                peer,
                seq,
                hop,
                body,
                give_up,
            } => self.send_piece(host, peer, seq, hop, body, give_up),
            Action::Close(peer, _) => {
                if let Some(far) = self.hosts[host].links.remove(&peer) {
                    self.hosts[far.host].links.remove(&far.peer);
                    // What was said before comes first.
                    self.hang_up(far, far.last.max(self.now + far.delay));
                }
                let why = "closed".into();
                let gone = Input::Disconnected { peer, why };
                self.at(self.now, host, What::Deliver(gone));
            }
            Action::Event(event) => self.happened(host, event),
        }
    }

    fn happened(&mut self, host: usize, event: Event) {
        match event {
            Event::Fault { id, .. } => self.faults.push((host, id)),
            Event::Refused(_) => self.counts.refused += 1,
            Event::Failover {
                from: Some(from),
                gap,
                ..
            } => {
                let died = self.known.get(&from).and_then(|h| self.hosts[*h].died);
                let noticed = self.now - gap;
                if let Some(took) = died.and_then(|died| noticed.checked_duration_since(died)) {
                    self.counts.detect.add(took.as_millis() as u32);
                }
            }
            _ => {}
        }
    }

    fn dial(&mut self, host: usize, peer: PeerId, target: &Target) {
        let other = match target {
            Target::Seed(_) => Some(0),
            Target::Viewer { id, .. } => self.known.get(id).copied(),
        };
        let reached = other
            .filter(|o| self.hosts[*o].alive && !self.hosts[*o].frozen)
            .and_then(|other| {
                let nats = (self.hosts[host].line.nat, self.hosts[other].line.nat);
                let trips = match other {
                    0 => Some(1),
                    _ => nats.0.round_trips(nats.1),
                };
                Some((other, trips?))
            });
        let Some((other, trips)) = reached else {
            let why = "nobody answers".into();
            let gone = Input::Disconnected { peer, why };
            self.at(self.now + UNANSWERED, host, What::Deliver(gone));
            return;
        };
        let delay = self.hosts[host]
            .line
            .delay(&self.hosts[other].line, &self.scenario.link);
        self.hosts[other].next_incoming += 1;
        let theirs = PeerId(self.hosts[other].next_incoming);
        let far = |host, peer| Far {
            host,
            peer,
            delay,
            last: self.now,
        };
        let (there, here) = (far(other, theirs), far(host, peer));
        self.hosts[host].links.insert(peer, there);
        self.hosts[other].links.insert(theirs, here);
        let connected = |peer, whose: &Host, n: usize| Input::Connected {
            peer,
            id: whose.id,
            addr: ([10, (n >> 16) as u8, (n >> 8) as u8, n as u8], 1).into(),
        };
        let to_host = connected(peer, &self.hosts[other], other);
        let to_other = connected(theirs, &self.hosts[host], host);
        let at = self.now + delay * 2 * trips;
        self.at(at, host, What::Deliver(to_host));
        self.at(at, other, What::Deliver(to_other));
    }

    fn send(&mut self, host: usize, peer: PeerId, bytes: Bytes) {
        let Some(far) = self.hosts[host].links.get(&peer).copied() else {
            return;
        };
        let (size, packets) = wire(bytes.len() + 4);
        let loss = self.scenario.link.loss;
        let (late, again) = mishaps(packets, far.delay, loss, &mut self.rng);
        let size = size * (1.0 + again / packets);
        self.counts.message_bytes += size;
        let left = self.hosts[host].line.upload(size, self.now);
        let at = (left + far.delay + late).max(far.last + Duration::from_nanos(1));
        if let Some(far) = self.hosts[host].links.get_mut(&peer) {
            far.last = at;
        }
        let message = Input::Message {
            peer: far.peer,
            bytes,
        };
        self.at(at, far.host, What::Deliver(message));
    }

    fn send_piece(
        &mut self,
        host: usize,
        peer: PeerId,
        seq: Seq,
        hop: [u8; Hop::BYTES],
        mut body: Bytes,
        give_up: Duration,
    ) {
        if host == 0
            && let Some(info) = claimed(&body)
        {
            self.measure.made(seq.0, Duration::from_nanos(info.time.0));
        }
        let Some(far) = self.hosts[host].links.get(&peer).copied() else {
            let sent = Input::Sent {
                peer,
                seq,
                delivered: false,
            };
            self.at(self.now, host, What::Deliver(sent));
            return;
        };
        if self.hosts[host].liar {
            let mut forged = body.to_vec();
            forged.iter_mut().last().into_iter().for_each(|b| *b ^= 1);
            body = forged.into();
        }
        self.counts.payload_bytes += (body.len() - PREFIX_BYTES) as f64;
        let (size, packets) = wire(hop.len() + body.len());
        let loss = self.scenario.link.loss;
        let (late, again) = mishaps(packets, far.delay, loss, &mut self.rng);
        let size = size * (1.0 + again / packets);
        self.counts.piece_bytes += size;
        let left = self.hosts[host].line.upload(size, self.now);
        let there = &mut self.hosts[far.host];
        let dead = !there.alive || there.frozen;
        let at = left + far.delay + late;
        let (whole, acks) = there.line.download(size, packets, at, self.now);
        self.counts.ack_bytes += acks;
        let arrives = whole + VERIFY;
        let piece = Input::Piece {
            peer: far.peer,
            hop,
            body,
        };
        self.at(arrives, far.host, What::Deliver(piece));
        let sent = Input::Sent {
            peer,
            seq,
            delivered: !dead,
        };
        let confirmed = if dead {
            self.now + give_up
        } else {
            arrives + far.delay
        };
        self.at(confirmed, host, What::Deliver(sent));
    }

    /// The seed's figures.
    pub fn seed(&self) -> Stats {
        self.hosts[0].node.stats(self.now)
    }

    /// Everybody else.
    pub fn viewers(&self) -> impl Iterator<Item = Viewer> {
        self.hosts[1..].iter().map(|h| Viewer {
            stats: h.node.stats(self.now),
            played: h.played,
            discontinuities: h.discontinuities,
            start: h.first.map(|at| at - h.born),
            born: h.born - self.origin,
            down: !h.alive || h.frozen,
        })
    }

    /// Who dropped whom for what it sent: each as in the order of joining, the seed being zero.
    pub fn faults(&self) -> Vec<(usize, Option<usize>)> {
        let faults = self.faults.iter();
        faults
            .map(|(host, id)| (*host, self.known.get(id).copied()))
            .collect()
    }

    /// The viewer with this key, or the seed, as in the order of joining.
    pub fn number(&self, id: &NodeId) -> Option<usize> {
        self.known.get(id).copied()
    }

    /// Its key.
    pub fn id(&self, host: usize) -> NodeId {
        self.hosts[host].id
    }

    /// Viewers that were told of the end.
    pub fn ended(&self) -> usize {
        self.hosts[1..].iter().filter(|h| h.ended).count()
    }

    /// The lines, the seed's first.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.hosts.iter().map(|h| &h.line)
    }

    /// What all did together until now.
    pub fn counts(&self) -> Counts {
        let mut counts = self.counts.clone();
        for stats in self.hosts[1..].iter().map(|h| h.node.stats(self.now)) {
            counts.duplicates += stats.duplicates;
            counts.rescued += stats.rescued;
            counts.from_seed += stats.bytes_from_seed;
            counts.from_peers += stats.bytes_from_peers;
        }
        counts
    }

    /// What became of the pieces.
    pub fn measure(&self) -> &Measure {
        &self.measure
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.now - self.origin
    }
}
