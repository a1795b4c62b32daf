//! Starting and stopping nodes, from threads that must not wait.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use icd_grid::trust::{Ed25519Signer, Ed25519Verifier, Verify};
use icd_grid::{Event, Input, Media, Node, NodeId, SeedSettings, StreamKey, ViewerSettings};
use quinn::{AckFrequencyConfig, Endpoint, EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use tokio::sync::{mpsc, oneshot};

use crate::congestion::StripeCongestion;
use crate::connection::MAX_STREAMS;
use crate::driver::{Asks, Driver, Snapshot, now};
use crate::events::Events;
use crate::identity::Identity;
use crate::key::{Key, KeyError};
use crate::runtime::runtime;
use crate::socket::{BindError, bind};

/// Items between an element and its node, and their bytes. When it is full the item is dropped
/// and counted. A key frame of a transport stream may be thousands of items of one packet each.
const MAX_INPUT: usize = 32 * 1024;
/// Of these, kept free of the stream: settings, answers and the end are few, and not to be lost.
const RESERVED: usize = 1024;
const MAX_INPUT_BYTES: usize = 64 * 1024 * 1024;
/// Payloads between a node and its player; the rest waits in the window, which evicts.
const MAX_MEDIA: usize = 64;
/// Events for the application. When it is full, some wait and others are lost.
const MAX_EVENTS: usize = 256;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
const STREAM_WINDOW: u32 = 512 * 1024;
const SEND_WINDOW: u64 = 4 * 1024 * 1024;
const IDLE: u32 = 10_000;
/// Packets for one acknowledgement, unless one is missing ...
const ACK_EVERY: u32 = 10;
/// ... or this time is over: that of the standard.
const ACK_DELAY: Duration = Duration::from_millis(25);
const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// How long a stop waits for the port to be free again.
const STOP: Duration = Duration::from_millis(300);

/// A node can't be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// See [`BindError`].
    #[error(transparent)]
    Bind(#[from] BindError),
    /// See [`KeyError`].
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key of the stream is unusable.
    #[error(transparent)]
    StreamKey(#[from] icd_grid::trust::NotAKey),
    /// Threads, sockets or TLS are not to be had.
    #[error("cannot start the network: {0}")]
    System(String),
}

/// What a seed's endpoint needs.
#[derive(Debug, Clone)]
pub struct SeedConfig {
    /// The stream's key, which is the seed's identity.
    pub key: Key,
    /// Address to bind; none is all, dual stack.
    pub address: Option<IpAddr>,
    /// Port to bind; zero picks one.
    pub port: u16,
    /// For the node.
    pub node: SeedSettings,
}

/// What a viewer's endpoint needs.
#[derive(Debug, Clone)]
pub struct ViewerConfig {
    /// Where the seed is.
    pub hosts: Vec<(String, u16)>,
    /// Address to bind; none is all, dual stack.
    pub address: Option<IpAddr>,
    /// Port to bind; zero picks one.
    pub port: u16,
    /// For the node; its port is filled in.
    pub node: ViewerSettings,
}

#[derive(Debug)]
struct Running {
    input: mpsc::Sender<Input>,
    /// Bytes in there.
    waiting: Arc<AtomicUsize>,
    snapshot: Arc<Mutex<Snapshot>>,
    stop: Option<oneshot::Sender<()>>,
    stopped: Mutex<std::sync::mpsc::Receiver<()>>,
    addr: SocketAddr,
}

impl Running {
    /// Never waits; false if the node is so far behind that an item of the stream is dropped, or
    /// if it is over.
    fn offer(&self, input: Input) -> bool {
        let bytes = match &input {
            Input::Item { data, .. } => data.len(),
            _ => return self.input.try_send(input).is_ok(),
        };
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        // One item of any size always fits.
        let fits = before == 0 || before + bytes <= MAX_INPUT_BYTES;
        let room = self.input.capacity() > RESERVED;
        let taken = fits && room && self.input.try_send(input).is_ok();
        if !taken {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
        taken
    }

    fn snapshot(&self) -> Snapshot {
        self.snapshot
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        let stopped = self
            .stopped
            .get_mut()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // The task sends nothing: the end of its channel says that it is over.
        let _ = stopped.recv_timeout(STOP);
    }
}

/// A running seed. Dropping it stops it, within 300 ms.
#[derive(Debug)]
pub struct SeedHandle {
    running: Running,
    origin: std::time::Instant,
}

impl SeedHandle {
    /// Gives the node a fact. Never waits; false if it was dropped because the node is behind.
    pub fn offer(&self, input: Input) -> bool {
        self.running.offer(input)
    }

    /// Whether the node is gone, though nobody stopped it.
    pub fn is_over(&self) -> bool {
        self.running.input.is_closed()
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.running.addr
    }

    /// Zero of the sender time of this seed.
    pub fn origin(&self) -> std::time::Instant {
        self.origin
    }

    /// How it is.
    pub fn snapshot(&self) -> Snapshot {
        self.running.snapshot()
    }
}

/// A running viewer. Dropping it stops it, within 300 ms.
#[derive(Debug)]
pub struct ViewerHandle {
    running: Running,
    media: async_channel::Receiver<Media>,
    me: NodeId,
}

impl ViewerHandle {
    /// Gives the node a fact. Never waits.
    pub fn offer(&self, input: Input) -> bool {
        self.running.offer(input)
    }

    /// What is to be played.
    pub fn media(&self) -> async_channel::Receiver<Media> {
        self.media.clone()
    }

    /// Its own name.
    pub fn id(&self) -> NodeId {
        self.me
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.running.addr
    }

    /// How it is.
    pub fn snapshot(&self) -> Snapshot {
        self.running.snapshot()
    }
}

fn transport(streams: u32) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(streams))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .send_fairness(false)
        .initial_rtt(Duration::from_millis(100))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .datagram_receive_buffer_size(None)
        .ack_frequency_config(Some(ack_frequency()))
        .congestion_controller_factory(Arc::new(StripeCongestion));
    config
}

/// Acknowledgements cost the uplink of every viewer: for every tenth packet instead of every second
/// they take a quarter (QUIC Acknowledgement Frequency, draft-ietf-quic-ack-frequency).
fn ack_frequency() -> AckFrequencyConfig {
    let mut config = AckFrequencyConfig::default();
    config
        .ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY - 1))
        .max_ack_delay(Some(ACK_DELAY));
    config
}

fn system(error: impl std::fmt::Display) -> StartError {
    StartError::System(error.to_string())
}

fn make_verifier(key: StreamKey) -> Option<Box<dyn Verify>> {
    Ed25519Verifier::new(key)
        .ok()
        .map(|v| Box::new(v) as Box<dyn Verify>)
}

fn random() -> Result<u64, StartError> {
    getrandom::u64().map_err(|e| KeyError::Random(e).into())
}

pub(crate) struct Opened {
    pub(crate) endpoint: Endpoint,
    pub(crate) identity: Arc<Identity>,
    pub(crate) transport: Arc<TransportConfig>,
    pub(crate) addr: SocketAddr,
}

/// A socket, and QUIC on it.
pub(crate) fn open(key: &Key, address: Option<IpAddr>, port: u16) -> Result<Opened, StartError> {
    let runtime = runtime().map_err(system)?;
    let socket = bind(address, port)?;
    let identity = Arc::new(Identity::new(key).map_err(system)?);
    let tls = identity.server().map_err(system)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    // Strangers send no pieces; see `Action::LetIn`.
    server.transport_config(Arc::new(transport(0)));
    let transport = Arc::new(transport(MAX_STREAMS));
    let _guard = runtime.enter();
    let endpoint = Endpoint::new(
        EndpointConfig::default(),
        Some(server),
        socket,
        Arc::new(quinn::TokioRuntime),
    )
    .map_err(system)?;
    let addr = endpoint.local_addr().map_err(system)?;
    Ok(Opened {
        endpoint,
        identity,
        transport,
        addr,
    })
}

fn spawn(
    opened: Opened,
    node: Node,
    seed: Vec<(String, u16)>,
    media: Option<async_channel::Sender<Media>>,
    asks: Option<Asks>,
) -> Result<(Running, async_channel::Receiver<Event>), StartError> {
    let runtime = runtime().map_err(system)?;
    let (input, receiver) = mpsc::channel(MAX_INPUT);
    let (events, events_out) = async_channel::bounded(MAX_EVENTS);
    let (stop, stop_out) = oneshot::channel();
    // Nothing is ever sent: its end tells.
    let (done, stopped) = std::sync::mpsc::sync_channel(0);
    let snapshot = Arc::new(Mutex::new(Snapshot::default()));
    let waiting = Arc::new(AtomicUsize::new(0));
    let driver = Driver {
        node,
        endpoint: opened.endpoint,
        identity: opened.identity,
        transport: opened.transport,
        seed,
        input: receiver,
        waiting: waiting.clone(),
        asks,
        events: Events::new(events),
        media,
        snapshot: snapshot.clone(),
        stop: stop_out,
    };
    runtime.spawn(async move {
        let _done: std::sync::mpsc::SyncSender<()> = done;
        driver.run().await;
    });
    let running = Running {
        input,
        waiting,
        snapshot,
        stop: Some(stop),
        stopped: Mutex::new(stopped),
        addr: opened.addr,
    };
    Ok((running, events_out))
}

/// Starts a seed. Returns at once; fails only for local reasons. `asks` is called for each
/// viewer that connects, from the runtime, and must not wait: whether [`Event::AskAdmission`] is
/// to be answered for it.
pub fn start_seed(
    config: SeedConfig,
    asks: impl Fn() -> bool + Send + Sync + 'static,
) -> Result<(SeedHandle, async_channel::Receiver<Event>), StartError> {
    let opened = open(&config.key, config.address, config.port)?;
    let verifier = Ed25519Verifier::new(config.key.stream_key())?;
    let signer = Ed25519Signer::new(config.key.signing());
    let origin = now();
    let node = Node::seed(
        config.node,
        Box::new(signer),
        Box::new(verifier),
        random()?,
        origin,
    );
    let (running, events) = spawn(opened, node, Vec::new(), None, Some(Box::new(asks)))?;
    Ok((SeedHandle { running, origin }, events))
}

/// Starts a viewer. Returns at once; fails only for local reasons.
pub fn start_viewer(
    config: ViewerConfig,
) -> Result<(ViewerHandle, async_channel::Receiver<Event>), StartError> {
    if let Some(key) = config.node.stream {
        Ed25519Verifier::new(key)?;
    }
    let key = Key::random()?;
    let opened = open(&key, config.address, config.port)?;
    let mut settings = config.node;
    settings.port = opened.addr.port();
    let me = key.node_id();
    let node = Node::viewer(settings, me, make_verifier, random()?, now());
    let (sender, media) = async_channel::bounded(MAX_MEDIA);
    let (running, events) = spawn(opened, node, config.hosts, Some(sender), None)?;
    let handle = ViewerHandle { running, media, me };
    Ok((handle, events))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_behind_loses_items_and_no_setting_and_no_end() {
        let (input, mut taken) = mpsc::channel(MAX_INPUT);
        let (_done, stopped) = std::sync::mpsc::sync_channel(0);
        let running = Running {
            input,
            waiting: Arc::default(),
            snapshot: Arc::default(),
            stop: None,
            stopped: Mutex::new(stopped),
            addr: ([127, 0, 0, 1], 0).into(),
        };
        let item = || Input::Item {
            data: bytes::Bytes::new(),
            entry: icd_grid::Entry::None,
            at: now(),
            state: None,
        };
        let fed = (0..2 * MAX_INPUT).filter(|_| running.offer(item())).count();
        assert_eq!(fed, MAX_INPUT - RESERVED);
        assert!(running.offer(Input::Upload(None)) && running.offer(Input::End));
        assert!(!running.offer(item()));
        let read = std::iter::from_fn(|| taken.try_recv().ok());
        assert!(matches!(read.last(), Some(Input::End)));
        drop(taken);
        assert!(!running.offer(Input::End), "nobody is there any more");
    }
}
