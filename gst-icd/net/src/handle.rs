//! Starting and stopping nodes, from threads that must not wait.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use icd_grid::trust::{Ed25519Signer, Ed25519Verifier, Verify};
use icd_grid::{Event, Input, Media, Node, NodeId, SeedSettings, StreamKey, ViewerSettings};
use quinn::{
    AckFrequencyConfig, AsyncUdpSocket, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    Runtime, TransportConfig, VarInt,
};

use crate::congestion::StripeCongestion;
use crate::connection::MAX_STREAMS;
use crate::driver::{Asks, Ends, Snapshot, Wires, now};
use crate::identity::Identity;
use crate::key::{Key, KeyError};
use crate::probes::Probes;
use crate::runtime::runtime;
use crate::socket::{BindError, bind, in_own_network};

/// Payloads between a node and its player; the rest waits in the window, which evicts.
pub(crate) const MAX_MEDIA: usize = 64;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
const STREAM_WINDOW: u32 = 512 * 1024;
const SEND_WINDOW: u64 = 4 * 1024 * 1024;
const IDLE: u32 = 10_000;
/// Packets for one acknowledgement, unless one is missing ...
const ACK_EVERY: u32 = 10;
/// ... or this time is over: that of the standard.
const ACK_DELAY: Duration = Duration::from_millis(25);
const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// More than half of what there is between the least packet and the largest that is looked for.
const MTU_STEP: u16 = 127;
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
    /// For the node; where it is in its own network is filled in.
    pub node: ViewerSettings,
}

#[derive(Debug)]
struct Running {
    ends: Ends,
    stopped: Mutex<std::sync::mpsc::Receiver<()>>,
    addr: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ends.stop();
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
        self.running.ends.offer(input)
    }

    /// Whether the node is gone, though nobody stopped it.
    pub fn is_over(&self) -> bool {
        self.running.ends.is_over()
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
        self.running.ends.snapshot()
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
        self.running.ends.offer(input)
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
        self.running.ends.snapshot()
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
        .mtu_discovery_config(Some(mtu_discovery()))
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

/// One probe where packets of 1,480 bytes pass, as they do almost everywhere: by the usual steps there
/// are four, 5.5 KB for every connection, and most connections of a viewer only exchange messages.
fn mtu_discovery() -> MtuDiscoveryConfig {
    let mut config = MtuDiscoveryConfig::default();
    config.minimum_change(MTU_STEP);
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

/// A socket, QUIC on it, and where it listens.
pub(crate) fn open(
    key: &Key,
    address: Option<IpAddr>,
    port: u16,
) -> Result<(Wires, SocketAddr), StartError> {
    let runtime = runtime().map_err(system)?;
    let socket = bind(address, port)?;
    let _guard = runtime.enter();
    let socket = quinn::TokioRuntime.wrap_udp_socket(socket);
    let wires = endpoint(key, socket.map_err(system)?)?;
    let addr = wires.endpoint.local_addr().map_err(system)?;
    Ok((wires, addr))
}

/// QUIC on a socket, on the runtime of the calling task.
pub(crate) fn endpoint(key: &Key, socket: Arc<dyn AsyncUdpSocket>) -> Result<Wires, StartError> {
    let identity = Arc::new(Identity::new(key).map_err(system)?);
    let tls = identity.server().map_err(system)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    // Strangers send no pieces; see `Action::LetIn`.
    server.transport_config(Arc::new(transport(0)));
    let probes = Arc::new(Probes::new(socket));
    let endpoint = Endpoint::new_with_abstract_socket(
        EndpointConfig::default(),
        Some(server),
        probes.clone(),
        Arc::new(quinn::TokioRuntime),
    );
    Ok(Wires {
        endpoint: endpoint.map_err(system)?,
        probes,
        identity,
        transport: Arc::new(transport(MAX_STREAMS)),
        watch: None,
    })
}

/// Frees the port at once, not when the last connection has drained.
fn free(endpoint: &Endpoint) {
    // quinn keeps the socket before the present one until a packet comes, so twice.
    for _ in 0..2 {
        if let Ok(socket) = std::net::UdpSocket::bind(("127.0.0.1", 0)) {
            let _ = endpoint.rebind(socket);
        }
    }
}

fn spawn(
    (wires, addr): (Wires, SocketAddr),
    node: Node,
    seed: Vec<(String, u16)>,
    media: Option<async_channel::Sender<Media>>,
    asks: Option<Asks>,
) -> Result<(Running, async_channel::Receiver<Event>), StartError> {
    let runtime = runtime().map_err(system)?;
    let socket = Arc::downgrade(&wires.probes);
    let (driver, ends, events) = wires.driver(node, seed, media, asks);
    // Nothing is ever sent: its end tells.
    let (done, stopped) = std::sync::mpsc::sync_channel(0);
    runtime.spawn(async move {
        let _done: std::sync::mpsc::SyncSender<()> = done;
        free(&driver.run().await);
        // Connections let go of it one after the other; who starts anew at once finds the port free.
        for _ in 0..40 {
            if socket.strong_count() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let running = Running {
        ends,
        stopped: Mutex::new(stopped),
        addr,
    };
    Ok((running, events))
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
    settings.lan = in_own_network(opened.1);
    let me = key.node_id();
    let node = Node::viewer(settings, me, make_verifier, random()?, now());
    let (sender, media) = async_channel::bounded(MAX_MEDIA);
    let (running, events) = spawn(opened, node, config.hosts, Some(sender), None)?;
    let handle = ViewerHandle { running, media, me };
    Ok((handle, events))
}
