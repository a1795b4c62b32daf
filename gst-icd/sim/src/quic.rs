//! The same grid over real QUIC: `icd-net` over sockets in memory, in virtual time.
//!
//! tokio's clock stands still while anything can be done, and goes on to the next timer when
//! nothing can, in steps of a millisecond. Keys and the order of tasks are not those of chance
//! alone, so that runs of the same seed resemble each other and are not equal.

mod sockets;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use icd_grid::piece::{PREFIX_BYTES, claimed};
use icd_grid::{Action, Input, Media, MediaState, NodeId, PeerId, StreamKey, Target};
use icd_net::{Embedded, Key, Watch};
use tokio::runtime::Runtime;

use crate::lies::Lie;
use crate::measure::Measure;
use crate::nat::Kind;
use crate::network::{Line, wire};
use crate::stage::{Counts, Newcomer, Player, Scenario, Stage, Viewer};
use crate::traffic::Traffic;
use sockets::{Network, Socket, State};

/// What is seen of all nodes.
#[derive(Debug)]
struct Seen {
    counts: Counts,
    measure: Measure,
    players: Vec<Player>,
    /// Hosts by their keys, and when they vanished.
    hosts: HashMap<NodeId, usize>,
    died: Vec<Option<Instant>>,
    /// Who tries to reach another viewer, since when.
    reaching: HashMap<(usize, PeerId), Instant>,
    latency: Duration,
    origin: Instant,
}

type Shared = Arc<Mutex<Seen>>;

fn lock(shared: &Shared) -> MutexGuard<'_, Seen> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks at one of them.
#[derive(Debug)]
struct Eye {
    host: usize,
    shared: Shared,
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Watch for Eye {
    fn input(&self, input: &Input) {
        let mut seen = lock(&self.shared);
        if let Input::Connected { peer, .. } | Input::Disconnected { peer, .. } = input
            && let Some(since) = seen.reaching.remove(&(self.host, *peer))
        {
            match input {
                Input::Connected { .. } => {
                    let took = now().saturating_duration_since(since);
                    seen.counts.meet.extend([took.as_millis() as u32]);
                }
                _ => seen.counts.unmet += 1,
            }
        }
        let Input::Piece { body, .. } = input else {
            return;
        };
        if seen.died[self.host].is_some() || self.host == 0 {
            return;
        }
        seen.counts.pieces += 1;
        let at = now() - seen.origin;
        if let Some(info) = claimed(body) {
            seen.measure.arrived(self.host - 1, info.seq.0, at);
        }
    }

    fn action(&self, action: &Action) {
        let mut seen = lock(&self.shared);
        // What a host that is cut off sends goes nowhere.
        let gone = seen.died[self.host].is_some();
        match action {
            Action::Send(..) | Action::SendPiece { .. } if gone => {}
            Action::Send(_, bytes) => seen.counts.message_bytes += wire(bytes.len()).0,
            Action::SendPiece { seq, body, .. } => {
                seen.counts.payload_bytes += (body.len() - PREFIX_BYTES) as f64;
                if let Some(info) = claimed(body).filter(|_| self.host == 0) {
                    seen.measure.made(seq.0, Duration::from_nanos(info.time.0));
                }
            }
            Action::Dial(peer, Target::Viewer { .. }) => {
                seen.reaching.insert((self.host, *peer), now());
            }
            Action::Event(event) => {
                let Seen {
                    counts,
                    hosts,
                    died,
                    ..
                } = &mut *seen;
                counts.happened(event, |id| hosts.get(id).and_then(|h| died[*h]), now());
            }
            _ => {}
        }
    }

    fn media(&self, media: Media) {
        let mut seen = lock(&self.shared);
        let (latency, origin) = (seen.latency, seen.origin);
        let player = &mut seen.players[self.host];
        if let Some(due) = player.take(&media, latency, origin, now()) {
            seen.measure.playing(self.host - 1, due);
        }
    }
}

#[derive(Debug)]
struct Host {
    node: Option<Embedded>,
    /// Its figures, when it is gone.
    last: icd_net::Snapshot,
    born: Instant,
    down: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Quic {
    scenario: Scenario,
    runtime: Runtime,
    network: Network,
    seed_at: Option<SocketAddr>,
    shared: Shared,
    origin: Instant,
    hosts: Vec<Host>,
    rng: fastrand::Rng,
    traffic: Traffic,
    key: StreamKey,
    /// What holds from the first frame on, until that is sent.
    state: Option<MediaState>,
    next_frame: Duration,
    /// Lent to those that see as long as time passes.
    measure: Measure,
}

impl Quic {
    /// A seed that streams and nobody else.
    ///
    /// Fails where a runtime is not to be had.
    pub fn new(scenario: Scenario) -> std::io::Result<Self> {
        // What is verified is real.
        let scenario = Scenario {
            real_signatures: true,
            ..scenario
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()?;
        let guard = runtime.enter();
        let mut rng = fastrand::Rng::with_seed(scenario.seed);
        let origin = now();
        let network = Network::new(scenario.link, rng.u64(..));
        let signing = SigningKey::from_bytes(&[9; 32]);
        let (node, key) = scenario.seed_node(signing.clone(), origin);
        let shared = Arc::new(Mutex::new(Seen {
            counts: Counts::default(),
            measure: Measure::new(scenario.latency, scenario.from),
            players: Vec::new(),
            hosts: HashMap::new(),
            died: Vec::new(),
            reaching: HashMap::new(),
            latency: scenario.latency,
            origin,
        }));
        drop(guard);
        let line = Line::new(scenario.seed_upload, None, &mut rng, origin);
        let mut this = Self {
            traffic: Traffic::new(scenario.stream, scenario.rate),
            measure: Measure::new(scenario.latency, scenario.from),
            scenario,
            runtime,
            network,
            seed_at: None,
            shared,
            origin,
            hosts: Vec::new(),
            rng,
            key,
            state: Some(MediaState {
                media: b"film".to_vec().into(),
                own_timeline: false,
            }),
            next_frame: Duration::ZERO,
        };
        let socket = this.network.plug(line, None);
        this.plug(node, &Key::from(signing), socket);
        Ok(this)
    }

    fn now(&self) -> Instant {
        let _guard = self.runtime.enter();
        now()
    }

    /// Lets the others work until then.
    fn sleep(&self, until: Duration) {
        let at = (self.origin + until).into();
        self.runtime
            .block_on(async move { tokio::time::sleep_until(at).await });
    }

    fn plug(&mut self, node: icd_grid::Node, key: &Key, socket: Arc<Socket>) -> usize {
        let _guard = self.runtime.enter();
        let host = self.hosts.len();
        {
            let mut seen = lock(&self.shared);
            seen.players.push(Player::default());
            seen.died.push(None);
            seen.hosts.insert(key.node_id(), host);
        }
        let seed = self.seed_at.get_or_insert(socket.addr);
        let seed = vec![(seed.ip().to_string(), seed.port())];
        let eye = Arc::new(Eye {
            host,
            shared: self.shared.clone(),
        });
        let node = Embedded::start(node, key, socket, seed, eye);
        self.hosts.push(Host {
            node: Some(node.expect("TLS and memory are all that it takes")),
            last: icd_net::Snapshot::default(),
            born: now(),
            down: false,
        });
        host
    }

    fn frame(&mut self) {
        let item = self.traffic.item(self.now(), self.state.take());
        if let Some(seed) = &self.hosts[0].node {
            seed.offer(item);
        }
        self.next_frame += self.traffic.interval();
    }

    /// It counts no longer.
    fn down(&mut self, host: usize) {
        let now = self.now();
        self.hosts[host].down = true;
        let mut seen = lock(&self.shared);
        seen.died[host] = Some(now);
        drop(seen);
        self.measure.gone(host - 1, now - self.origin);
    }

    /// A network behind a NAT of this kind.
    pub fn home(&mut self, kind: Kind) -> usize {
        self.network.home(kind)
    }

    /// The NAT of a home forgets all.
    pub fn forget(&mut self, home: usize) {
        self.network.forget(home);
    }

    /// A viewer joins, in this home if in any.
    pub fn join_in(&mut self, newcomer: Newcomer, home: Option<usize>) -> usize {
        let mut secret = [0; 32];
        self.rng.fill(&mut secret);
        let key = Key::from(SigningKey::from_bytes(&secret));
        let (random, now) = (self.rng.u64(..), self.now());
        let id = key.node_id();
        let mut line = Line::new(newcomer.line, self.scenario.downlink, &mut self.rng, now);
        line.nat = newcomer.nat;
        let socket = self.network.plug(line, home);
        let lan = home.map(|_| socket.addr);
        let node = self
            .scenario
            .viewer_node(newcomer, (id, lan), self.key, random, now);
        self.measure.joined(now - self.origin);
        self.plug(node, &key, socket)
    }

    fn end(&mut self, host: usize) -> Option<Embedded> {
        self.down(host);
        let node = self.hosts[host].node.take()?;
        self.hosts[host].last = node.snapshot();
        Some(node)
    }
}

impl Stage for Quic {
    fn join_as(&mut self, newcomer: Newcomer) -> usize {
        self.join_in(newcomer, None)
    }

    fn kill(&mut self, host: usize) {
        self.network.set(host, State::Gone);
        if let Some(node) = self.end(host) {
            node.vanish();
        }
    }

    fn leave(&mut self, host: usize) {
        // It says goodbye when it is dropped.
        drop(self.end(host));
    }

    fn freeze(&mut self, host: usize, frozen: bool) {
        if frozen {
            self.down(host);
            self.network.set(host, State::Frozen);
        } else {
            self.hosts[host].down = false;
            lock(&self.shared).died[host] = None;
            self.network.set(host, State::Up);
        }
    }

    fn lie(&mut self, _: usize, _: Lie) {}

    fn run(&mut self, time: Duration) {
        std::mem::swap(&mut lock(&self.shared).measure, &mut self.measure);
        let until = self.elapsed() + time;
        while self.next_frame <= until {
            self.sleep(self.next_frame);
            self.frame();
        }
        self.sleep(until);
        std::mem::swap(&mut lock(&self.shared).measure, &mut self.measure);
        self.measure.judge(self.elapsed());
    }

    fn elapsed(&self) -> Duration {
        self.now() - self.origin
    }

    fn viewers(&self) -> Vec<Viewer> {
        let seen = lock(&self.shared);
        let viewer = |(host, h): (&Host, &Player)| Viewer {
            stats: host.figures(),
            played: h.played,
            discontinuities: h.discontinuities,
            start: h.first.map(|at| at - host.born),
            born: host.born - self.origin,
            down: host.down,
        };
        let hosts = self.hosts.iter().zip(&seen.players).skip(1);
        hosts.map(viewer).collect()
    }

    fn number(&self, id: &NodeId) -> Option<usize> {
        lock(&self.shared).hosts.get(id).copied()
    }

    fn counts(&self) -> Counts {
        let mut counts = lock(&self.shared).counts.clone();
        self.hosts[1..]
            .iter()
            .for_each(|h| counts.add(&h.figures()));
        // Of a packet it cannot be told what it carries.
        counts.piece_bytes = self.network.all_sent() - counts.message_bytes;
        counts
    }

    fn measure(&self) -> &Measure {
        &self.measure
    }

    fn seed_sent(&self) -> f64 {
        self.network.sent(0)
    }

    fn over_capacity(&self) -> u64 {
        self.network.over_capacity()
    }
}

impl Host {
    fn figures(&self) -> icd_grid::Stats {
        match &self.node {
            Some(node) => node.snapshot().stats,
            None => self.last.stats.clone(),
        }
    }
}
