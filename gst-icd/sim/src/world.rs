//! A seed, viewers, and a model of the network between them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use icd_grid::message::Candidate;
use icd_grid::piece::{Hop, PREFIX_BYTES, Piece, claimed};
use icd_grid::token::BINDING_BYTES;
use icd_grid::trust::Verify;
use icd_grid::{
    Action, Bitrate, Event, Input, Media, MediaState, Meeting, Node, NodeId, PeerId, Seq, Stats,
    StreamKey, Target,
};

use crate::lies::{ASKS, Liar, Lie, NOBODY};
use crate::measure::Measure;
use crate::network::{Line, Nat, mishaps, wire};
use crate::seal::VERIFY;
use crate::stage::{Counts, EPOCH, Newcomer, Player, Scenario, Stage, Viewer};
use crate::traffic::Traffic;

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
    liar: Option<Liar>,
    links: BTreeMap<PeerId, Far>,
    next_incoming: u64,
    player: Player,
    held: Vec<Input>,
    wakes: Instant,
}

#[derive(Debug)]
enum What {
    Deliver(Input),
    Frame,
    Tick,
    /// A liar sends what its node does not.
    Ask,
    /// No probe came.
    Unmet(Meeting),
}

/// Who tries to reach somebody, and since when.
#[derive(Debug, Clone, Copy)]
struct Tried {
    host: usize,
    peer: PeerId,
    since: Instant,
}

/// When, in which order among those of one moment, at which host, where in the list of what
/// happens then.
type Due = (Instant, u64, usize, usize);

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
    /// Where anybody lies, the broadcaster's own pieces are kept, by their times, and looked for.
    verifier: Option<Box<dyn Verify>>,
    made: HashMap<u64, Vec<Bytes>>,
    /// From when on, in sender time.
    lied: Option<u64>,
    /// Those of each kind of liar.
    rings: HashMap<Lie, Vec<Candidate>>,
    faults: Vec<(usize, NodeId)>,
    meetings: HashMap<Meeting, Tried>,
    /// What holds from the next frame on, if it changes.
    state: Option<MediaState>,
    counts: Counts,
    measure: Measure,
}

/// A process that ends at once or is cut off is noticed by its peers' transport after this.
const IDLE: Duration = Duration::from_secs(10);
/// A dial that nobody answers; a meeting to which nobody comes.
const UNANSWERED: Duration = Duration::from_secs(1);
/// One probe in so much time, of so many bytes.
const PROBING: Duration = Duration::from_millis(50);
const PROBE_BYTES: usize = 32;
const MOST_PROBES: u32 = 20;
/// The kernel's buffers of a stopped process hold so many packets.
const HELD: usize = 200;
const LEAST_STEP: Duration = Duration::from_micros(500);

/// Where a host is.
fn address(host: usize) -> SocketAddr {
    let [a, b, c] = [host >> 16, host >> 8, host].map(|n| n as u8);
    ([10, a, b, c], 1).into()
}

impl World {
    /// A seed that streams and nobody else.
    pub fn new(scenario: Scenario) -> Self {
        let origin = Instant::now();
        let mut rng = fastrand::Rng::with_seed(scenario.seed);
        let (node, key) = scenario.seed_node(SigningKey::from_bytes(&[9; 32]), origin);
        let id = NodeId(key.0);
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
            verifier: None,
            made: HashMap::new(),
            lied: None,
            rings: HashMap::new(),
            faults: Vec::new(),
            meetings: HashMap::new(),
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
            liar: None,
            links: BTreeMap::new(),
            next_incoming: 0,
            player: Player::default(),
            held: Vec::new(),
            wakes: self.now,
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
            measure: false,
            relay,
            nat: Nat::Open,
            seed_only: false,
        })
    }

    fn hang_up(&mut self, far: Far, at: Instant) {
        let why = "closed".into();
        let gone = Input::Disconnected {
            peer: far.peer,
            why,
        };
        self.at(at, far.host, What::Deliver(gone));
    }

    /// The broadcaster excludes a viewer.
    pub fn ban(&mut self, host: usize) {
        let id = self.hosts[host].id;
        self.hosts[0].node.handle(Input::Ban(id), self.now);
        self.pump(0);
    }

    /// A viewer connects to another, whoever told it of that one.
    pub fn approach(&mut self, host: usize, other: usize) {
        self.order += 1;
        let peer = PeerId(self.order | PeerId::DIALED);
        self.connect((host, peer), other, self.now);
    }

    /// A viewer is told what it may send from now on.
    pub fn cap(&mut self, host: usize, upload: Bitrate) {
        let input = Input::Upload(Some(upload));
        self.hosts[host].node.handle(input, self.now);
        self.pump(host);
    }

    /// And so much in all, what it sent before included.
    pub fn allow(&mut self, host: usize, bytes: u64) {
        let input = Input::Volume(Some(bytes));
        self.hosts[host].node.handle(input, self.now);
        self.pump(host);
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
                        && self.genuine(body)
                    {
                        let at = now - self.origin;
                        self.measure.arrived(host - 1, info.seq.0, at);
                        let liar = self.hosts[host].liar.as_mut();
                        liar.into_iter().for_each(|liar| liar.came(info.seq));
                    }
                }
                if let Input::Message { bytes, .. } = &input
                    && self.hosts[host]
                        .liar
                        .as_ref()
                        .is_some_and(|l| !l.hears(bytes))
                {
                    return;
                }
                self.hosts[host].node.handle(input, now);
            }
            What::Tick => {}
            What::Ask => {
                let ask = self.hosts[host].liar.as_ref().and_then(Liar::asks);
                let peers: Vec<_> = self.hosts[host].links.keys().copied().collect();
                for (peer, ask) in peers.iter().zip(std::iter::repeat(ask)) {
                    ask.into_iter().for_each(|ask| self.send(host, *peer, ask));
                }
                self.at(now + ASKS, host, What::Ask);
            }
            What::Frame => self.frame(),
            What::Unmet(meeting) => {
                if let Some(tried) = self.meetings.remove(&meeting) {
                    self.probes(tried.host, tried.since);
                    self.counts.unmet += 1;
                    self.unreached(tried.host, tried.peer, now);
                }
            }
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

    /// Whether the broadcaster made a piece so, in this epoch. It is looked at where anybody lies.
    fn genuine(&self, body: &Bytes) -> bool {
        let Some(verifier) = &self.verifier else {
            return true;
        };
        let piece = Piece::verify(body.clone(), &**verifier);
        piece.is_ok_and(|piece| piece.info().epoch == EPOCH)
    }

    fn frame(&mut self) {
        if self.over {
            return;
        }
        let at = self.now;
        let item = self.traffic.item(at, self.state.take());
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
            let (latency, origin) = (self.scenario.latency, self.origin);
            if let Media::Payload { bytes, time, .. } = &media
                && self.hosts[host].liar.is_none()
                && self
                    .made
                    .get(&time.0)
                    .is_some_and(|made| !made.contains(bytes))
            {
                self.counts.forged += 1;
            }
            let player = &mut self.hosts[host].player;
            if let Some(due) = player.take(&media, latency, origin, now) {
                self.measure.playing(host - 1, due);
            }
        }
        while let Some(action) = self.hosts[host].node.poll(now) {
            self.act(host, action);
        }
    }

    fn act(&mut self, host: usize, action: Action) {
        match action {
            Action::Dial(peer, Target::Seed(_)) => {
                match self.hosts[0].alive && !self.hosts[0].frozen {
                    true => self.connect((host, peer), 0, self.now),
                    false => self.unreached(host, peer, self.now + UNANSWERED),
                }
            }
            Action::Dial(peer, Target::Viewer { addr, meeting, .. }) => {
                self.reach(host, peer, addr, meeting);
            }
            Action::Probe { meeting, .. } => self.probe(host, meeting),
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
        let died = |id: &NodeId| self.known.get(id).and_then(|h| self.hosts[*h].died);
        self.counts.happened(&event, died, self.now);
        if let Event::Fault { id, .. } = event {
            self.faults.push((host, id));
        }
    }

    fn unreached(&mut self, host: usize, peer: PeerId, at: Instant) {
        let why = "nobody answers".into();
        let gone = Input::Disconnected { peer, why };
        self.at(at, host, What::Deliver(gone));
    }

    /// A host wants to reach another, and sends probes until one comes from there.
    fn reach(&mut self, host: usize, peer: PeerId, addr: SocketAddr, meeting: Meeting) {
        if addr.ip() == IpAddr::from(NOBODY) && self.hosts[host].liar.is_none() {
            self.counts.misled += 1;
        }
        let since = self.now;
        self.meetings.insert(meeting, Tried { host, peer, since });
        self.at(since + UNANSWERED, host, What::Unmet(meeting));
    }

    /// A host heard of a meeting, and sends probes, too: if they find a way, who wanted it dials.
    fn probe(&mut self, host: usize, meeting: Meeting) {
        let Some(tried) = self.meetings.get(&meeting).copied() else {
            return;
        };
        let there = &self.hosts[tried.host];
        let way = there.line.nat.reaches(self.hosts[host].line.nat);
        if tried.host == host || !way || !there.alive || there.frozen {
            return;
        }
        self.meetings.remove(&meeting);
        self.probes(tried.host, tried.since);
        self.probes(host, self.now);
        let delay = self.distance(host, tried.host);
        let took = self.now + delay * 3 - tried.since;
        self.counts.meet.extend([took.as_millis() as u32]);
        self.connect((tried.host, tried.peer), host, self.now + delay);
    }

    /// Probes that a host has sent since then take their part of its line.
    fn probes(&mut self, host: usize, since: Instant) {
        let time = self.now.saturating_duration_since(since);
        let count = (time.as_millis() / PROBING.as_millis()) as u32 + 1;
        let size = wire(PROBE_BYTES).0 * f64::from(count.min(MOST_PROBES));
        self.counts.message_bytes += size;
        self.hosts[host].line.upload(size, self.now);
    }

    fn distance(&self, host: usize, other: usize) -> Duration {
        let there = &self.hosts[other].line;
        self.hosts[host].line.delay(there, &self.scenario.link)
    }

    /// A host dials another then, and a round trip later they are connected.
    fn connect(&mut self, (host, peer): (usize, PeerId), other: usize, then: Instant) {
        let delay = self.distance(host, other);
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
            addr: address(n),
            // No stream is private here.
            binding: [0; BINDING_BYTES],
        };
        let to_host = connected(peer, &self.hosts[other], other);
        let to_other = connected(theirs, &self.hosts[host], host);
        let at = then + delay * 2;
        self.at(at, host, What::Deliver(to_host));
        self.at(at, other, What::Deliver(to_other));
    }

    fn send(&mut self, host: usize, peer: PeerId, mut bytes: Bytes) {
        let Some(far) = self.hosts[host].links.get(&peer).copied() else {
            return;
        };
        if let Some(liar) = &self.hosts[host].liar {
            let ring = self.rings.get(&liar.lie).map_or(&[][..], Vec::as_slice);
            bytes = liar.says(bytes, ring, &mut self.rng);
        }
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
            if self.lied.is_some_and(|since| info.time.0 > since) {
                let payload = body.slice(PREFIX_BYTES..);
                let made = self.made.entry(info.time.0).or_default();
                if !made.contains(&payload) {
                    made.push(payload);
                }
            }
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
        let mut later = Duration::ZERO;
        if let Some(liar) = &mut self.hosts[host].liar {
            match liar.piece(Hop::decode(&hop).why, body) {
                Some(sent) => (body, later) = sent,
                None => {
                    // Its own node believes that it was sent.
                    let delivered = true;
                    let sent = Input::Sent {
                        peer,
                        seq,
                        delivered,
                    };
                    self.at(self.now + far.delay * 2, host, What::Deliver(sent));
                    return;
                }
            }
        } else if host > 0 && !self.genuine(&body) {
            self.counts.forged += 1;
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
        let at = left + far.delay + late + later;
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

    /// Who dropped whom for what it sent: each as in the order of joining, the seed being zero.
    pub fn faults(&self) -> Vec<(usize, Option<usize>)> {
        let faults = self.faults.iter();
        faults
            .map(|(host, id)| (*host, self.known.get(id).copied()))
            .collect()
    }

    /// Its key.
    pub fn id(&self, host: usize) -> NodeId {
        self.hosts[host].id
    }

    /// Viewers that were told of the end.
    pub fn ended(&self) -> usize {
        self.hosts[1..].iter().filter(|h| h.player.ended).count()
    }
}

impl Stage for World {
    fn join_as(&mut self, newcomer: Newcomer) -> usize {
        let n = self.hosts.len() as u64;
        let mut id = [0; 32];
        id[..8].copy_from_slice(&self.rng.u64(..).to_le_bytes());
        id[8..16].copy_from_slice(&n.to_le_bytes());
        let (id, random) = (NodeId(id), self.rng.u64(..));
        let scenario = &self.scenario;
        let node = scenario.viewer_node(newcomer, (id, None), self.key, random, self.now);
        let down = self.scenario.downlink;
        let mut line = Line::new(newcomer.line, down, &mut self.rng, self.now);
        line.nat = newcomer.nat;
        self.measure.joined(self.now - self.origin);
        self.add_host(node, id, line)
    }

    fn kill(&mut self, host: usize) {
        self.hosts[host].alive = false;
        self.hosts[host].died = Some(self.now);
        self.measure.gone(host - 1, self.now - self.origin);
        let links = std::mem::take(&mut self.hosts[host].links);
        for far in links.into_values() {
            self.hang_up(far, self.now + IDLE);
        }
    }

    fn freeze(&mut self, host: usize, frozen: bool) {
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

    fn lie(&mut self, host: usize, lie: Lie) {
        self.verifier = self.scenario.verifier(self.key);
        // From here on it is known what was made; of this moment, only a part.
        let now = (self.now - self.origin).as_nanos() as u64;
        self.lied.get_or_insert(now);
        self.hosts[host].liar = Some(Liar::new(lie, self.key));
        self.rings.entry(lie).or_default().push(Candidate {
            node: self.hosts[host].id,
            addr: address(host),
            spare: u16::MAX,
        });
        if lie == Lie::Greedy {
            self.at(self.now, host, What::Ask);
        }
    }

    fn leave(&mut self, host: usize) {
        self.hosts[host].alive = false;
        self.hosts[host].died = Some(self.now);
        self.measure.gone(host - 1, self.now - self.origin);
        let links = std::mem::take(&mut self.hosts[host].links);
        for far in links.into_values() {
            self.hang_up(far, self.now + far.delay);
        }
    }

    fn run(&mut self, time: Duration) {
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

    fn viewers(&self) -> Vec<Viewer> {
        let viewer = |h: &Host| Viewer {
            stats: h.node.stats(self.now),
            played: h.player.played,
            discontinuities: h.player.discontinuities,
            start: h.player.first.map(|at| at - h.born),
            born: h.born - self.origin,
            down: !h.alive || h.frozen,
        };
        self.hosts[1..].iter().map(viewer).collect()
    }

    fn number(&self, id: &NodeId) -> Option<usize> {
        self.known.get(id).copied()
    }

    fn seed_sent(&self) -> f64 {
        self.hosts[0].line.sent
    }

    fn over_capacity(&self) -> u64 {
        self.hosts.iter().map(|h| h.line.over_capacity).sum()
    }

    fn counts(&self) -> Counts {
        let mut counts = self.counts.clone();
        for stats in self.hosts[1..].iter().map(|h| h.node.stats(self.now)) {
            counts.add(&stats);
        }
        counts
    }

    fn measure(&self) -> &Measure {
        &self.measure
    }

    fn elapsed(&self) -> Duration {
        self.now - self.origin
    }
}
