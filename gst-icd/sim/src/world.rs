//! A seed, viewers, and the network between them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use icd_grid::trust::{Ed25519Signer, Ed25519Verifier, Sign, Verify};
use icd_grid::{
    Action, Bitrate, Entry, Epoch, Event, Input, Media, MediaState, Node, NodeId, PeerId,
    SeedSettings, Seq, Stats, StreamKey, Target, ViewerSettings,
};

/// What every pair of nodes has between it.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Shortest one-way delay.
    pub least: Duration,
    /// Longest one-way delay; each pair has its own in between.
    pub most: Duration,
    /// Share of pieces that need a retransmission.
    pub loss: f64,
}

/// One run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// For all chance in the run.
    pub seed: u64,
    /// Payload rate.
    pub rate: Bitrate,
    /// Play-out delay.
    pub latency: Duration,
    /// The seed's uplink; none is unlimited.
    pub seed_upload: Option<Bitrate>,
    /// The network.
    pub link: Link,
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
    /// From its start to its first payload.
    pub start: Option<Duration>,
    /// Killed or frozen.
    pub down: bool,
}

#[derive(Debug)]
struct Host {
    node: Node,
    id: NodeId,
    born: Instant,
    alive: bool,
    frozen: bool,
    liar: bool,
    links: BTreeMap<PeerId, (usize, PeerId)>,
    next_incoming: u64,
    played: u64,
    discontinuities: u64,
    first: Option<Instant>,
    held: Vec<Input>,
    busy_until: Instant,
    ended: bool,
}

#[derive(Debug)]
enum What {
    Deliver(Input),
    Frame,
    Tick,
}

#[derive(Debug)]
struct Due {
    at: Instant,
    order: u64,
    host: usize,
    what: What,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// See the module.
#[derive(Debug)]
pub struct World {
    scenario: Scenario,
    origin: Instant,
    now: Instant,
    hosts: Vec<Host>,
    queue: BinaryHeap<Reverse<Due>>,
    order: u64,
    rng: fastrand::Rng,
    frames: u64,
    key: SigningKey,
    faults: Vec<(usize, NodeId)>,
    /// What holds from the next frame on, if it changes.
    state: Option<MediaState>,
}

fn verifier(key: StreamKey) -> Option<Box<dyn Verify>> {
    Ed25519Verifier::new(key)
        .ok()
        .map(|v| Box::new(v) as Box<dyn Verify>)
}

const FRAME: Duration = Duration::from_millis(40);
const GOP: u64 = 50;

impl World {
    /// A seed that streams and nobody else.
    pub fn new(scenario: Scenario) -> Self {
        let origin = Instant::now();
        let key = SigningKey::from_bytes(&[9; 32]);
        let signer = Ed25519Signer::new(key.clone());
        let settings = SeedSettings {
            buffer: Duration::from_secs(10),
            buffer_bytes: 256 << 20,
            upload: scenario.seed_upload,
            max_viewers: None,
            epoch: Epoch(1),
        };
        let id = NodeId(signer.key().0);
        let verifier = Ed25519Verifier::new(signer.key()).expect("a made key is good");
        let node = Node::seed(
            settings,
            Box::new(signer),
            Box::new(verifier),
            scenario.seed,
            origin,
        );
        let mut world = Self {
            rng: fastrand::Rng::with_seed(scenario.seed),
            scenario,
            origin,
            now: origin,
            hosts: Vec::new(),
            queue: BinaryHeap::new(),
            order: 0,
            frames: 0,
            key,
            faults: Vec::new(),
            state: None,
        };
        world.add_host(node, id);
        world.change();
        world.at(origin, 0, What::Frame);
        world
    }

    fn add_host(&mut self, node: Node, id: NodeId) -> usize {
        self.hosts.push(Host {
            node,
            id,
            born: self.now,
            alive: true,
            frozen: false,
            liar: false,
            links: BTreeMap::new(),
            next_incoming: 0,
            played: 0,
            discontinuities: 0,
            first: None,
            held: Vec::new(),
            busy_until: self.now,
            ended: false,
        });
        let host = self.hosts.len() - 1;
        self.at(self.now, host, What::Tick);
        host
    }

    /// A viewer joins.
    pub fn join(&mut self, upload: Bitrate, relay: bool) -> usize {
        let n = self.hosts.len() as u64;
        let mut id = [0; 32];
        id[..8].copy_from_slice(&self.rng.u64(..).to_le_bytes());
        id[8..16].copy_from_slice(&n.to_le_bytes());
        let settings = ViewerSettings {
            latency: self.scenario.latency,
            upload,
            relay,
            max_peers: 24,
            port: 0,
            stream: Some(StreamKey(self.key.verifying_key().to_bytes())),
        };
        let random = self.rng.u64(..);
        let node = Node::viewer(settings, NodeId(id), verifier, random, self.now);
        self.add_host(node, NodeId(id))
    }

    /// A viewer vanishes and its machine answers no more.
    pub fn kill(&mut self, host: usize) {
        self.hosts[host].alive = false;
    }

    /// A viewer stops, as by SIGSTOP, or goes on.
    pub fn freeze(&mut self, host: usize, frozen: bool) {
        self.hosts[host].frozen = frozen;
        if !frozen {
            for input in std::mem::take(&mut self.hosts[host].held) {
                self.at(self.now, host, What::Deliver(input));
            }
            self.at(self.now, host, What::Tick);
        }
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
        self.kill(host);
        let links = std::mem::take(&mut self.hosts[host].links);
        for (other, peer) in links.into_values() {
            let why = "closed".into();
            let at = self.now + self.delay(host, other);
            self.at(at, other, What::Deliver(Input::Disconnected { peer, why }));
        }
    }

    /// The broadcaster ends the stream.
    pub fn end(&mut self) {
        self.frames = u64::MAX;
        self.hosts[0].node.handle(Input::End, self.now);
        self.pump(0);
    }

    fn at(&mut self, at: Instant, host: usize, what: What) {
        self.order += 1;
        self.queue.push(Reverse(Due {
            at,
            order: self.order,
            host,
            what,
        }));
    }

    fn delay(&self, a: usize, b: usize) -> Duration {
        let (low, high) = (a.min(b) as u64, a.max(b) as u64);
        let mut rng = fastrand::Rng::with_seed(self.scenario.seed ^ (low << 32 | high));
        rng.f64();
        let span = self.scenario.link.most - self.scenario.link.least;
        self.scenario.link.least + span.mul_f64(rng.f64())
    }

    /// Lets virtual time pass.
    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(Reverse(due)) = self.queue.peek() {
            if due.at > until {
                break;
            }
            let Some(Reverse(due)) = self.queue.pop() else {
                break;
            };
            self.now = self.now.max(due.at);
            self.step(due.host, due.what);
        }
        self.now = until;
    }

    fn step(&mut self, host: usize, what: What) {
        let now = self.now;
        if !self.hosts[host].alive {
            return;
        }
        if self.hosts[host].frozen {
            if let What::Deliver(input) = what {
                // The kernel's buffers hold little.
                if self.hosts[host].held.len() < 200 {
                    self.hosts[host].held.push(input);
                }
            }
            return;
        }
        match what {
            What::Deliver(input) => self.hosts[host].node.handle(input, now),
            What::Tick => {}
            What::Frame => self.frame(),
        }
        self.hosts[host].node.tick(now);
        self.pump(host);
        let at = self.hosts[host]
            .node
            .poll_timeout(now)
            .max(now + Duration::from_micros(500));
        if self.hosts[host].busy_until <= now || at < self.hosts[host].busy_until {
            self.hosts[host].busy_until = at;
            self.at(at, host, What::Tick);
        }
    }

    fn frame(&mut self) {
        if self.frames == u64::MAX {
            return;
        }
        // Key frames of eight times the mean.
        let join = self.frames.is_multiple_of(GOP);
        let mean = self.scenario.rate.bytes_per_second() * FRAME.as_secs_f64();
        let delta = mean * GOP as f64 / (GOP as f64 + 7.0);
        let size = if join { delta * 8.0 } else { delta };
        let data = vec![self.frames as u8; size as usize].into();
        let at = self.now;
        let state = self.state.take();
        let item = Input::Item {
            data,
            entry: if join { Entry::Join } else { Entry::None },
            at,
            state,
        };
        self.hosts[0].node.handle(item, at);
        self.frames += 1;
        self.at(at + FRAME, 0, What::Frame);
    }

    fn pump(&mut self, host: usize) {
        let now = self.now;
        while let Some(action) = self.hosts[host].node.poll(now) {
            self.act(host, action);
        }
        while let Some(media) = self.hosts[host].node.poll_media(now) {
            let host = &mut self.hosts[host];
            match media {
                Media::Payload { discont, .. } => {
                    host.discontinuities += u64::from(discont && host.first.is_some());
                    host.first.get_or_insert(now);
                    host.played += 1;
                }
                Media::End => host.ended = true,
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
            Action::Send(peer, bytes) => {
                let bytes = bytes.slice(4..);
                self.deliver(host, peer, 0.0, |peer| Input::Message { peer, bytes });
            }
            Action::SendPiece {
                peer,
                seq,
                hop,
                body,
                ..
            } => self.send_piece(host, peer, seq, &hop, &body),
            Action::Close(peer, _) => {
                let why = || "closed".to_string();
                self.deliver(host, peer, 0.0, |peer| Input::Disconnected {
                    peer,
                    why: why(),
                });
                if let Some((other, theirs)) = self.hosts[host].links.remove(&peer) {
                    self.hosts[other].links.remove(&theirs);
                }
                let gone = Input::Disconnected { peer, why: why() };
                self.at(self.now, host, What::Deliver(gone));
            }
            Action::Event(Event::Fault { id, .. }) => self.faults.push((host, id)),
            Action::Event(_) => {}
        }
    }

    fn dial(&mut self, host: usize, peer: PeerId, target: &Target) {
        let other = match target {
            Target::Seed(_) => Some(0),
            Target::Viewer { id, .. } => self.hosts.iter().position(|h| h.id == *id),
        };
        let rtt = other.map_or(Duration::ZERO, |other| self.delay(host, other) * 2);
        let reached = other.filter(|o| self.hosts[*o].alive && !self.hosts[*o].frozen);
        let Some(other) = reached else {
            let why = "nobody answers".into();
            let at = self.now + Duration::from_secs(3);
            self.at(at, host, What::Deliver(Input::Disconnected { peer, why }));
            return;
        };
        self.hosts[other].next_incoming += 1;
        let theirs = PeerId(self.hosts[other].next_incoming);
        self.hosts[host].links.insert(peer, (other, theirs));
        self.hosts[other].links.insert(theirs, (host, peer));
        let addr = |n: usize| ([10, 0, (n >> 8) as u8, n as u8], 1).into();
        let (here, there) = (self.hosts[host].id, self.hosts[other].id);
        let connected = Input::Connected {
            peer,
            id: there,
            addr: addr(other),
        };
        self.at(self.now + rtt, host, What::Deliver(connected));
        let connected = Input::Connected {
            peer: theirs,
            id: here,
            addr: addr(host),
        };
        self.at(self.now + rtt, other, What::Deliver(connected));
    }

    fn deliver(
        &mut self,
        host: usize,
        peer: PeerId,
        late: f64,
        input: impl FnOnce(PeerId) -> Input,
    ) {
        let Some((other, theirs)) = self.hosts[host].links.get(&peer).copied() else {
            return;
        };
        let at = self.now + self.delay(host, other).mul_f64(1.0 + late);
        self.at(at, other, What::Deliver(input(theirs)));
    }

    fn send_piece(&mut self, host: usize, peer: PeerId, seq: Seq, hop: &[u8], body: &Bytes) {
        let lost = self.rng.f64() < self.scenario.link.loss;
        let late = if lost { 3.0 } else { 0.0 };
        let mut bytes = [hop, &body[..]].concat();
        if self.hosts[host].liar
            && let Some(last) = bytes.last_mut()
        {
            *last ^= 1;
        }
        let bytes = Bytes::from(bytes);
        let Some((other, _)) = self.hosts[host].links.get(&peer).copied() else {
            return;
        };
        let dead = !self.hosts[other].alive || self.hosts[other].frozen;
        self.deliver(host, peer, late, |peer| Input::Piece { peer, bytes });
        let rtt = self.delay(host, other).mul_f64(2.0 + late);
        let after = if dead { Duration::from_secs(2) } else { rtt };
        let sent = Input::Sent {
            peer,
            seq,
            delivered: !dead,
        };
        self.at(self.now + after, host, What::Deliver(sent));
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
            down: !h.alive || h.frozen,
        })
    }

    /// Who dropped whom for what it sent: each as in the order of joining, the seed being zero.
    pub fn faults(&self) -> Vec<(usize, Option<usize>)> {
        let number = |id: &NodeId| self.hosts.iter().position(|h| h.id == *id);
        let faults = self.faults.iter();
        faults.map(|(host, id)| (*host, number(id))).collect()
    }

    /// Viewers that were told of the end.
    pub fn ended(&self) -> usize {
        self.hosts[1..].iter().filter(|h| h.ended).count()
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.now - self.origin
    }
}
