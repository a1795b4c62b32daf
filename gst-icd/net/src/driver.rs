//! The task that owns a node: feeds it facts, carries out its decisions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use icd_grid::bucket::Sources;
use icd_grid::{Action, Close, Event, Input, Lost, Media, Node, NodeId, PeerId, Stats, Target};
use quinn::Endpoint;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::connection::{Inbox, Line, code};
use crate::dial::dial;
use crate::embed::Watch;
use crate::events::Events;
use crate::identity::{Identity, peer_of};
use crate::probes::Probes;

/// Items between an element and its node, and their bytes. When it is full the item is dropped
/// and counted. A key frame of a transport stream may be thousands of items of one packet each.
const MAX_INPUT: usize = 32 * 1024;
/// Of these, kept free of the stream: settings, answers and the end are few, and not to be lost.
const RESERVED: usize = 1024;
const MAX_INPUT_BYTES: usize = 64 * 1024 * 1024;
/// Events for the application. When it is full, some wait and others are lost.
const MAX_EVENTS: usize = 256;
/// Facts from connections that wait for the driver; beyond it the connections wait.
const MAX_INBOX: usize = 1024;
/// Handshakes of strangers at a time; what comes beyond is left unanswered ...
const MAX_HANDSHAKES: usize = 256;
/// ... and beyond this it must show first that it is where it says (RFC 9000, section 8.1.2).
const UNPROVEN_HANDSHAKES: usize = 64;
/// Handshakes from one address, at once and each second; beyond it must show that it is there, and of
/// those that do, no more are answered either. Others can't use up what is another's.
const MAX_FROM_ONE: u32 = 64;
const FROM_ONE: f64 = 8.0;
const SNAPSHOT: Duration = Duration::from_millis(100);
/// Bytes before a packet's payload: IPv4, UDP.
const HEADERS: u64 = 20 + 8;
/// Facts taken in one go before decisions are carried out.
const BATCH: usize = 64;

/// What a node looks like from outside, a tenth of a second old at most.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The node's own figures.
    pub stats: Stats,
    /// UDP payload bytes sent, retransmissions and acknowledgements included.
    pub udp_bytes_sent: u64,
    /// UDP payload bytes received.
    pub udp_bytes_received: u64,
}

/// Says, at any moment and without waiting, whether viewers are to be asked about.
pub(crate) type Asks = Box<dyn Fn() -> bool + Send + Sync>;

/// What a node reaches others by.
pub(crate) struct Wires {
    pub(crate) endpoint: Endpoint,
    /// Beside QUIC on its socket.
    pub(crate) probes: Arc<Probes>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) transport: Arc<quinn::TransportConfig>,
    /// Who looks on.
    pub(crate) watch: Option<Arc<dyn Watch>>,
}

pub(crate) struct Driver {
    node: Node,
    wires: Wires,
    /// Where the seed is.
    seed: Vec<(String, u16)>,
    /// From the element.
    input: mpsc::Receiver<Input>,
    /// Bytes in there.
    waiting: Arc<AtomicUsize>,
    /// Seed: whether somebody wants to be asked for admission.
    asks: Option<Asks>,
    /// To the element's application.
    events: Events,
    /// To the player; none at a seed.
    media: Option<async_channel::Sender<Media>>,
    snapshot: Arc<Mutex<Snapshot>>,
    /// Closed when the element stops.
    stop: oneshot::Receiver<()>,
}

/// The other ends of a driver's wires: what its element holds. It ends when they are dropped.
#[derive(Debug)]
pub(crate) struct Ends {
    input: mpsc::Sender<Input>,
    waiting: Arc<AtomicUsize>,
    snapshot: Arc<Mutex<Snapshot>>,
    stop: Option<oneshot::Sender<()>>,
}

impl Wires {
    /// A driver for a node, its ends, and what it tells the application.
    pub(crate) fn driver(
        self,
        node: Node,
        seed: Vec<(String, u16)>,
        media: Option<async_channel::Sender<Media>>,
        asks: Option<Asks>,
    ) -> (Driver, Ends, async_channel::Receiver<Event>) {
        let (input, receiver) = mpsc::channel(MAX_INPUT);
        let (events, events_out) = async_channel::bounded(MAX_EVENTS);
        let (stop, stop_out) = oneshot::channel();
        let snapshot = Arc::new(Mutex::new(Snapshot::default()));
        let waiting = Arc::new(AtomicUsize::new(0));
        let driver = Driver {
            node,
            wires: self,
            seed,
            input: receiver,
            waiting: waiting.clone(),
            asks,
            events: Events::new(events),
            media,
            snapshot: snapshot.clone(),
            stop: stop_out,
        };
        let ends = Ends {
            input,
            waiting,
            snapshot,
            stop: Some(stop),
        };
        (driver, ends, events_out)
    }
}

impl Ends {
    /// Never waits; false if the node is so far behind that an item of the stream is dropped, or
    /// if it is over.
    pub(crate) fn offer(&self, input: Input) -> bool {
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

    /// Whether the node is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.input.is_closed()
    }

    /// How it is.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.snapshot
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// Tells the driver to end.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }
}

struct Carry {
    lines: HashMap<PeerId, Line>,
    inbox: Inbox,
    next_incoming: u64,
    closed_sent: Sent,
    closed_received: u64,
}

/// What went out over connections.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    /// Of UDP's payload.
    bytes: u64,
    packets: u64,
}

impl Sent {
    fn add(&mut self, stats: &quinn::UdpStats) {
        self.bytes += stats.bytes;
        self.packets += stats.datagrams;
    }

    /// With the headers of IP and UDP.
    fn on_wire(self) -> u64 {
        self.bytes + self.packets * HEADERS
    }
}

pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Driver {
    /// Until its ends are dropped. The endpoint is closed then, and keeps its port for a while.
    pub(crate) async fn run(mut self) -> Endpoint {
        let (inbox, mut facts) = mpsc::channel(MAX_INBOX);
        let (arrived, mut arrivals) = mpsc::channel(64);
        // Ends with this task, however that ends.
        let mut strangers = JoinSet::new();
        strangers.spawn(accept(self.wires.endpoint.clone(), arrived.clone()));
        let mut carry = Carry {
            lines: HashMap::new(),
            inbox,
            next_incoming: 0,
            closed_sent: Sent::default(),
            closed_received: 0,
        };
        let mut pending: Option<Media> = None;
        let mut shown = now();
        let mut input_open = true;
        loop {
            self.events.give();
            self.carry_out(&mut carry, &arrived);
            if pending.is_none() && self.media.is_some() {
                pending = self.play();
                self.carry_out(&mut carry, &arrived);
            }
            let at = now();
            if at.saturating_duration_since(shown) >= SNAPSHOT {
                shown = at;
                let sent = self.show(&carry, at);
                self.node.handle(Input::WentOut(sent.on_wire()), at);
                self.look_for_moves(&mut carry);
            }
            let wake = self.node.poll_timeout(at).min(shown + SNAPSHOT);
            let full = async {
                match (&self.media, &pending) {
                    // Room is awaited, not taken: the item is sent below, where it is owned.
                    (Some(media), Some(_)) => room(media).await,
                    _ => std::future::pending().await,
                }
            };
            // Not biased: neither a flood from peers nor the own stream shuts out the other.
            tokio::select! {
                _ = &mut self.stop => break,
                Some((connection, peer)) = arrivals.recv() => self.arrive(connection, peer, &mut carry),
                Some(input) = facts.recv() => {
                    self.take(input, &mut carry);
                    for _ in 0..BATCH {
                        let Ok(input) = facts.try_recv() else { break };
                        self.take(input, &mut carry);
                    }
                }
                input = self.input.recv(), if input_open => match input {
                    Some(input) => {
                        self.take_own(input, &mut carry);
                        for _ in 0..BATCH {
                            let Ok(input) = self.input.try_recv() else { break };
                            self.take_own(input, &mut carry);
                        }
                    }
                    None => input_open = false,
                },
                () = full => {
                    if let (Some(media), Some(item)) = (&self.media, pending.take())
                        && let Err(error) = media.try_send(item) {
                            pending = Some(error.into_inner());
                        }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            self.node.tick(now());
        }
        drop(strangers);
        self.shut(&carry).await
    }

    /// Moves what is playable to the player, as far as it has room.
    fn play(&mut self) -> Option<Media> {
        loop {
            let item = self.node.poll_media(now())?;
            let media = self.media.as_ref()?;
            if let Err(error) = media.try_send(item) {
                return Some(error.into_inner());
            }
        }
    }

    fn take_own(&mut self, input: Input, carry: &mut Carry) {
        if let Input::Item { data, .. } = &input {
            self.waiting.fetch_sub(data.len(), Ordering::Relaxed);
        }
        self.take(input, carry);
    }

    fn take(&mut self, input: Input, carry: &mut Carry) {
        if let Input::Disconnected { peer, .. } = &input
            && let Some(line) = carry.lines.remove(peer)
        {
            let stats = line.connection().stats();
            carry.closed_sent.add(&stats.udp_tx);
            carry.closed_received += stats.udp_rx.bytes;
        }
        if let Some(watch) = &self.wires.watch {
            watch.input(&input);
        }
        self.node.handle(input, now());
    }

    fn arrive(&mut self, connection: Arrival, peer: Option<PeerId>, carry: &mut Carry) {
        let peer = peer.unwrap_or_else(|| {
            carry.next_incoming += 1;
            PeerId(carry.next_incoming)
        });
        match connection {
            Ok(connection) => match peer_of(&connection) {
                Some(id) => {
                    if let Some(asks) = &self.asks {
                        let ask = Input::AskAdmission(asks());
                        self.node.handle(ask, now());
                    }
                    let line = Line::open(connection, peer, id, carry.inbox.clone());
                    carry.lines.insert(peer, line);
                }
                None => {
                    connection.close(code(Close::Fault), b"no key");
                    let why = "it shows no key".into();
                    self.take(Input::Disconnected { peer, why }, carry);
                }
            },
            Err(why) => self.take(Input::Disconnected { peer, why }, carry),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Snapshot> {
        self.snapshot
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn carry_out(&mut self, carry: &mut Carry, arrived: &mpsc::Sender<(Arrival, Option<PeerId>)>) {
        while let Some(action) = self.node.poll(now()) {
            if let Some(watch) = &self.wires.watch {
                watch.action(&action);
            }
            match action {
                Action::LetIn(peer) => {
                    if let Some(line) = carry.lines.get(&peer) {
                        line.let_in();
                    }
                }
                Action::Dial(peer, target) => self.dial(peer, target, arrived.clone()),
                Action::Probe { addrs, meeting } => self.wires.probes.answer(meeting, addrs),
                Action::Close(peer, why) => {
                    if let Some(line) = carry.lines.get(&peer) {
                        line.close(why);
                    }
                }
                Action::Send(peer, bytes) => {
                    if let Some(line) = carry.lines.get(&peer) {
                        line.send(bytes);
                    }
                }
                Action::SendPiece {
                    peer,
                    seq,
                    hop,
                    body,
                    give_up,
                } => match carry.lines.get(&peer) {
                    Some(line) => {
                        line.send_piece(peer, seq, hop, body, give_up, carry.inbox.clone());
                    }
                    None => {
                        let delivered = false;
                        let sent = Input::Sent {
                            peer,
                            seq,
                            delivered,
                        };
                        self.node.handle(sent, now());
                    }
                },
                Action::Event(event) => {
                    if matches!(event, Event::PeerAdded { .. } | Event::PeerRemoved { .. }) {
                        // Whoever is told of the change sees it.
                        self.lock().stats.members = self.node.members();
                    }
                    self.events.tell(event);
                }
            }
        }
    }

    fn dial(&self, peer: PeerId, target: Target, arrived: mpsc::Sender<(Arrival, Option<PeerId>)>) {
        let wires = &self.wires;
        let (endpoint, identity) = (wires.endpoint.clone(), wires.identity.clone());
        let transport = wires.transport.clone();
        let (hosts, expected, reached) = match target {
            Target::Seed(key) => (self.seed.clone(), key.map(|key| NodeId(key.0)), None),
            Target::Viewer { id, addr, meeting } => (
                Vec::new(),
                Some(id),
                Some(wires.probes.reach(meeting, addr)),
            ),
        };
        tokio::spawn(async move {
            let hosts = match reached {
                None => Ok(hosts),
                Some(reached) => match reached.await {
                    Ok(addr) => Ok(vec![(addr.ip().to_string(), addr.port())]),
                    Err(_) => Err("no way to it was found".into()),
                },
            };
            let arrival = match hosts {
                Ok(hosts) => dial(endpoint, identity, transport, hosts, expected).await,
                Err(why) => Err(why),
            };
            let _ = arrived.send((arrival, Some(peer))).await;
        });
    }

    /// What it is now; and what it sent.
    fn show(&self, carry: &Carry, at: Instant) -> Sent {
        let stats = self.node.stats(at);
        let (mut sent, mut received) = (carry.closed_sent, carry.closed_received);
        for line in carry.lines.values() {
            let stats = line.connection().stats();
            sent.add(&stats.udp_tx);
            received += stats.udp_rx.bytes;
        }
        let mut snapshot = self.lock();
        snapshot.stats = stats;
        snapshot.udp_bytes_sent = sent.bytes;
        snapshot.udp_bytes_received = received;
        sent
    }

    /// The transport follows a peer whose NAT or network changed; the node is told.
    fn look_for_moves(&mut self, carry: &mut Carry) {
        let moved = carry.lines.iter_mut();
        let moved: Vec<_> = moved
            .filter_map(|(peer, line)| Some((*peer, line.moved()?)))
            .collect();
        for (peer, addr) in moved {
            self.take(Input::Moved { peer, addr }, carry);
        }
    }

    /// Says goodbye.
    async fn shut(self, carry: &Carry) -> Endpoint {
        self.show(carry, now());
        let endpoint = self.wires.endpoint;
        endpoint.close(code(Close::Done), b"");
        let _ = tokio::time::timeout(Duration::from_millis(20), endpoint.wait_idle()).await;
        endpoint
    }
}

type Arrival = Result<quinn::Connection, Lost>;

async fn room(media: &async_channel::Sender<Media>) {
    // async-channel has no `reserve`; the player takes items one by one, so a short nap is what
    // it costs, and only when the player is behind.
    while media.is_full() && !media.is_closed() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn accept(endpoint: Endpoint, arrived: mpsc::Sender<(Arrival, Option<PeerId>)>) {
    let room = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let [mut claimed, mut proven] = [(); 2].map(|()| Sources::new(MAX_FROM_ONE, FROM_ONE, now()));
    while let Some(incoming) = endpoint.accept().await {
        let from = incoming.remote_address().ip();
        let is_proven = incoming.remote_address_validated();
        let sources = if is_proven { &mut proven } else { &mut claimed };
        let few = sources.take(from, now());
        let many = MAX_HANDSHAKES - room.available_permits() >= UNPROVEN_HANDSHAKES;
        if (many || !few) && incoming.may_retry() {
            let _ = incoming.retry();
            continue;
        }
        if !few {
            incoming.ignore();
            continue;
        }
        let Ok(permit) = room.clone().try_acquire_owned() else {
            // An honest dialer says it again in a moment.
            incoming.ignore();
            continue;
        };
        let Ok(connecting) = incoming.accept() else {
            continue;
        };
        let arrived = arrived.clone();
        tokio::spawn(async move {
            if let Ok(Ok(connection)) =
                tokio::time::timeout(Duration::from_secs(5), connecting).await
            {
                let _ = arrived.send((Ok(connection), None)).await;
            }
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_behind_loses_items_and_no_setting_and_no_end() {
        let (input, mut taken) = mpsc::channel(MAX_INPUT);
        let ends = Ends {
            input,
            waiting: Arc::default(),
            snapshot: Arc::default(),
            stop: None,
        };
        let item = || Input::Item {
            data: bytes::Bytes::new(),
            entry: icd_grid::Entry::None,
            at: now(),
            state: None,
        };
        let fed = (0..2 * MAX_INPUT).filter(|_| ends.offer(item())).count();
        assert_eq!(fed, MAX_INPUT - RESERVED);
        assert!(ends.offer(Input::Upload(None)) && ends.offer(Input::End));
        assert!(!ends.offer(item()));
        let read = std::iter::from_fn(|| taken.try_recv().ok());
        assert!(matches!(read.last(), Some(Input::End)));
        drop(taken);
        assert!(!ends.offer(Input::End), "nobody is there any more");
    }
}
