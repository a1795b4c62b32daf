//! What a run of people needs of the grid that they come to and go from: nodes, a network, and an
//! account of both.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use icd_grid::trust::{Ed25519Signer, Ed25519Verifier, Sign, Verify};
use icd_grid::{
    Bitrate, Epoch, Event, Media, Node, NodeId, Policy, SeedSettings, Stats, StreamKey,
    ViewerSettings,
};

use crate::lies::Lie;
use crate::measure::{Measure, Spread};
use crate::network::{Link, Nat};
use crate::seal::Seal;
use crate::traffic::Stream;

/// The seed's life; there is one.
pub(crate) const EPOCH: Epoch = Epoch(2);

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
    /// It is not told what its line carries.
    pub measure: bool,
    /// Whether it relays.
    pub relay: bool,
    /// How it is reached.
    pub nat: Nat,
    /// It says that only the seed can feed it.
    pub seed_only: bool,
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
    /// Pieces that viewers say that they passed over.
    pub skipped: u64,
    /// Viewers that were told that there is no room.
    pub refused: u64,
    /// From a death to what its child noticed of it.
    pub detect: Spread,
    /// From a viewer's wish to reach another to the connection.
    pub meet: Spread,
    /// Viewers that were not reached.
    pub unmet: u64,
    /// Pieces that came twice.
    pub duplicates: u64,
    /// Pieces that came because they were pulled.
    pub rescued: u64,
    /// Piece bytes from the seed.
    pub from_seed: u64,
    /// Piece bytes from viewers.
    pub from_peers: u64,
    /// Pieces that an honest viewer passed on, or played, although the broadcaster did not make them so.
    pub forged: u64,
    /// Places that liars invented, to which honest viewers sent probes.
    pub misled: u64,
}

impl Counts {
    /// Takes what a node told its application. `died` says when another vanished.
    pub fn happened(
        &mut self,
        event: &Event,
        died: impl Fn(&NodeId) -> Option<Instant>,
        now: Instant,
    ) {
        match event {
            Event::Refused(_) => self.refused += 1,
            Event::Skipped { count, .. } => self.skipped += count,
            Event::Failover {
                from: Some(from),
                gap,
                ..
            } => {
                let noticed = now - *gap;
                let took = died(from).and_then(|died| noticed.checked_duration_since(died));
                self.detect.extend(took.map(|t| t.as_millis() as u32));
            }
            _ => {}
        }
    }

    /// Adds what viewers count themselves.
    pub fn add(&mut self, stats: &Stats) {
        self.duplicates += stats.duplicates;
        self.rescued += stats.rescued;
        self.from_seed += stats.bytes_from_seed;
        self.from_peers += stats.bytes_from_peers;
    }
}

/// What plays at a viewer.
#[derive(Debug, Clone, Default)]
pub struct Player {
    /// Payloads.
    pub played: u64,
    /// Marks of discontinuity after the first.
    pub discontinuities: u64,
    /// When the first frame was complete.
    pub first: Option<Instant>,
    /// The end came.
    pub ended: bool,
    plays: bool,
}

impl Player {
    /// Takes what the node hands on. When play begins, if it does with this: what is overdue is
    /// decoded and shown late; play begins with what is not, when that is due. `origin` is the
    /// zero of sender times.
    pub fn take(
        &mut self,
        media: &Media,
        latency: Duration,
        origin: Instant,
        now: Instant,
    ) -> Option<Duration> {
        match media {
            Media::Payload {
                discont,
                time,
                first_item,
                ..
            } => {
                self.discontinuities += u64::from(*discont && self.played > 0);
                // Where the next frame begins, the first is complete.
                if self.played > 0 && first_item.is_some() {
                    self.first.get_or_insert(now);
                }
                self.played += 1;
                let due = Duration::from_nanos(time.0) + latency;
                if !self.plays && origin + due >= now {
                    self.plays = true;
                    return Some(due);
                }
            }
            Media::End => self.ended = true,
            Media::Header { .. } => {}
        }
        None
    }
}

fn real(key: StreamKey) -> Option<Box<dyn Verify>> {
    let verifier = Ed25519Verifier::new(key).ok()?;
    Some(Box::new(verifier))
}

fn sealed(key: StreamKey) -> Option<Box<dyn Verify>> {
    Some(Box::new(Seal(key)))
}

impl Scenario {
    fn make(&self) -> fn(StreamKey) -> Option<Box<dyn Verify>> {
        match self.real_signatures {
            true => real,
            false => sealed,
        }
    }

    /// Verifies what that stream's seed signed.
    pub(crate) fn verifier(&self, key: StreamKey) -> Option<Box<dyn Verify>> {
        self.make()(key)
    }

    /// The seed that streams, and its key. `signing` counts where signatures are real.
    pub fn seed_node(&self, signing: SigningKey, now: Instant) -> (Node, StreamKey) {
        let (signer, key): (Box<dyn Sign>, _) = if self.real_signatures {
            let signer = Ed25519Signer::new(signing);
            let key = signer.key();
            (Box::new(signer), key)
        } else {
            let key = StreamKey([9; 32]);
            (Box::new(Seal(key)), key)
        };
        let settings = SeedSettings {
            buffer: Duration::from_secs(10),
            buffer_bytes: 256 << 20,
            upload: self.seed_upload,
            max_viewers: None,
            per_address: None,
            token: None,
            epoch: EPOCH,
            policy: self.policy,
        };
        let verifier = self.make()(key).expect("a made key is good");
        (Node::seed(settings, signer, verifier, self.seed, now), key)
    }

    /// A viewer with this name, that knows the stream's key.
    pub fn viewer_node(
        &self,
        newcomer: Newcomer,
        (me, lan): (NodeId, Option<SocketAddr>),
        stream: StreamKey,
        random: u64,
        now: Instant,
    ) -> Node {
        let settings = ViewerSettings {
            latency: self.latency,
            upload: newcomer.upload,
            measure: newcomer.measure,
            volume: None,
            relay: newcomer.relay,
            seed_only: newcomer.seed_only,
            max_peers: 100,
            lan,
            stream: Some(stream),
            token: None,
            policy: self.policy,
        };
        Node::viewer(settings, me, self.make(), random, now)
    }
}

/// See the module. Hosts are numbered as they come, the seed being zero.
pub trait Stage: std::fmt::Debug {
    /// A viewer joins.
    fn join_as(&mut self, newcomer: Newcomer) -> usize;

    /// A viewer vanishes and its machine answers no more.
    fn kill(&mut self, host: usize);

    /// A viewer ends, and the others are told.
    fn leave(&mut self, host: usize);

    /// A viewer stops, or goes on: as by SIGSTOP over the model, as by its cable over QUIC.
    fn freeze(&mut self, host: usize, frozen: bool);

    /// From now on a viewer misbehaves.
    fn lie(&mut self, host: usize, lie: Lie);

    /// Lets virtual time pass.
    fn run(&mut self, time: Duration);

    /// Virtual time since the start.
    fn elapsed(&self) -> Duration;

    /// The viewers, in their order.
    fn viewers(&self) -> Vec<Viewer>;

    /// The host with this key.
    fn number(&self, id: &NodeId) -> Option<usize>;

    /// What all did together until now.
    fn counts(&self) -> Counts;

    /// What became of the pieces.
    fn measure(&self) -> &Measure;

    /// Wire bytes that the seed has sent.
    fn seed_sent(&self) -> f64;

    /// Seconds in which a line carried more than it can: a fault of the network's model.
    fn over_capacity(&self) -> u64;
}
