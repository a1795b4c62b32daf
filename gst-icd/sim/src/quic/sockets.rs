//! UDP sockets in memory, and what lies between them.
//!
//! A packet goes through its host's uplink, a queue that drains at the line's rate and drops what
//! would wait for too long; it may be lost; it takes the time of the distance and a little more,
//! and passes the other's downlink. Packets between two hosts keep their order.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::Notify;

use super::now;
use crate::nat::{Filter, Kind, Nat};
use crate::network::{self, JITTER, Line, Link};

/// IP and UDP headers of a packet.
const HEADERS: f64 = 28.0;
/// A packet that would wait longer in an uplink is dropped, as in a modem.
const QUEUE: Duration = Duration::from_millis(250);
/// The kernel's buffer of a process that reads nothing holds so many packets.
const HELD: usize = 400;
const PORT: u16 = 7423;

/// A NAT, and one of its outer ports.
type Door = (usize, u16);

#[derive(Debug)]
struct Packet {
    from: SocketAddr,
    /// The NAT and its outer port that it has to pass at the end.
    door: Option<Door>,
    ecn: Option<EcnCodepoint>,
    bytes: Vec<u8>,
}

/// How a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It sends and receives.
    Up,
    /// Nothing goes out, and what comes in waits.
    Frozen,
    /// For good.
    Gone,
}

#[derive(Debug)]
struct Port {
    line: Line,
    addr: SocketAddr,
    home: Option<usize>,
    state: State,
    arrived: VecDeque<Packet>,
    reader: Option<Waker>,
}

#[derive(Debug)]
struct Air {
    ports: Vec<Port>,
    homes: Vec<Nat>,
    /// Hosts by their own addresses, each within its home.
    hosts: HashMap<(Option<usize>, SocketAddr), usize>,
    link: Link,
    rng: fastrand::Rng,
    /// When, in which order, at which host.
    flying: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    packets: HashMap<u64, Packet>,
    order: u64,
    /// When the last packet from one host to another arrives.
    last: HashMap<(usize, usize), Instant>,
}

/// The network.
#[derive(Debug, Clone)]
pub(super) struct Network {
    air: Arc<Mutex<Air>>,
    more: Arc<Notify>,
}

/// Where the n-th of something is; the first byte says of what.
fn address(kind: u8, n: usize) -> Ipv4Addr {
    let [_, a, b, c] = (n as u32 + 1).to_be_bytes();
    Ipv4Addr::new(kind, a, b, c)
}

/// The first bytes of the addresses of hosts that all reach, and of NATs. Those behind a NAT are in 192.168.1.0/24,
/// as in everybody's home.
const HOSTS: u8 = 60;
const NATS: u8 = 70;

fn translates(nat: network::Nat) -> Option<Kind> {
    match nat {
        network::Nat::Open | network::Nat::TcpOnly => None,
        network::Nat::Cone => Some(Kind {
            filter: Filter::Address,
            ..Kind::HOME
        }),
        network::Nat::Symmetric => Some(Kind::SYMMETRIC),
    }
}

impl Network {
    /// Nobody is there yet. Runs on the runtime of the calling task.
    pub(super) fn new(link: Link, seed: u64) -> Self {
        let network = Self {
            air: Arc::new(Mutex::new(Air {
                ports: Vec::new(),
                homes: Vec::new(),
                hosts: HashMap::new(),
                link,
                rng: fastrand::Rng::with_seed(seed),
                flying: BinaryHeap::new(),
                packets: HashMap::new(),
                order: 0,
                last: HashMap::new(),
            })),
            more: Arc::new(Notify::new()),
        };
        tokio::spawn(network.clone().carry());
        network
    }

    fn lock(&self) -> MutexGuard<'_, Air> {
        self.air.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A network behind a NAT.
    pub(super) fn home(&self, kind: Kind) -> usize {
        let mut air = self.lock();
        let outside = address(NATS, air.homes.len());
        air.homes.push(Nat::new(kind, outside.into()));
        air.homes.len() - 1
    }

    /// A NAT forgets all.
    pub(super) fn forget(&self, home: usize) {
        self.lock().homes[home].forget();
    }

    /// A host with this line, in this home; or in one of its own, if its line says so.
    pub(super) fn plug(&self, line: Line, home: Option<usize>) -> Arc<Socket> {
        let home = home.or_else(|| translates(line.nat).map(|kind| self.home(kind)));
        let mut air = self.lock();
        let host = air.ports.len();
        let ip = match home {
            Some(home) => {
                let neighbours = air.ports.iter().filter(|port| port.home == Some(home));
                Ipv4Addr::new(192, 168, 1, 2 + neighbours.count() as u8)
            }
            None => address(HOSTS, host),
        };
        let addr = SocketAddr::new(ip.into(), PORT);
        air.ports.push(Port {
            line,
            addr,
            home,
            state: State::Up,
            arrived: VecDeque::new(),
            reader: None,
        });
        air.hosts.insert((home, addr), host);
        Arc::new(Socket {
            host,
            addr,
            network: self.clone(),
        })
    }

    /// A host goes, stops, or goes on.
    pub(super) fn set(&self, host: usize, state: State) {
        let port = &mut self.lock().ports[host];
        if port.state != State::Gone {
            port.state = state;
        }
        port.reader.take().into_iter().for_each(Waker::wake);
    }

    /// What a host's line has carried, in bytes of IP packets.
    pub(super) fn sent(&self, host: usize) -> f64 {
        self.lock().ports[host].line.sent
    }

    /// The same of all.
    pub(super) fn all_sent(&self) -> f64 {
        self.lock().ports.iter().map(|port| port.line.sent).sum()
    }

    /// Seconds in which a line carried more than it can.
    pub(super) fn over_capacity(&self) -> u64 {
        let air = self.lock();
        air.ports.iter().map(|port| port.line.over_capacity).sum()
    }

    /// Brings packets to where they go, when they are due there.
    async fn carry(self) {
        loop {
            let next = self.lock().land(now());
            match next {
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => {}
                    () = self.more.notified() => {}
                },
                None => self.more.notified().await,
            }
        }
    }
}

impl Air {
    /// To which host a packet goes, as it looks there, and what it still has to pass.
    fn route(&mut self, from: usize, to: SocketAddr) -> Option<(usize, SocketAddr, Option<Door>)> {
        let Port { addr, home, .. } = self.ports[from];
        if let Some(host) = self.hosts.get(&(home, to)) {
            return Some((*host, addr, None));
        }
        let from = home.map_or(addr, |home| self.homes[home].out(addr, to));
        if let Some(host) = self.hosts.get(&(None, to)) {
            return Some((*host, from, None));
        }
        let door = self.homes.iter().position(|nat| nat.outside() == to.ip())?;
        if home == Some(door) && !self.homes[door].hairpins() {
            return None;
        }
        let inner = self.homes[door].whose(to.port())?;
        let host = self.hosts.get(&(Some(door), inner))?;
        Some((*host, from, Some((door, to.port()))))
    }

    fn send(&mut self, from: usize, to: usize, packet: Packet, now: Instant) {
        let size = packet.bytes.len() as f64 + HEADERS;
        let port = &mut self.ports[from];
        if port.state != State::Up || port.line.backlog(now) > QUEUE {
            return;
        }
        let tcp_only = |host: usize| self.ports[host].line.nat == network::Nat::TcpOnly;
        if from > 0 && to > 0 && (tcp_only(from) || tcp_only(to)) {
            return;
        }
        let port = &mut self.ports[from];
        let left = port.line.upload(size, now);
        if self.rng.f64() < self.link.loss {
            return;
        }
        let delay = self.ports[from]
            .line
            .delay(&self.ports[to].line, &self.link);
        let at = left + delay + JITTER.mul_f64(self.rng.f64());
        let at = self.ports[to].line.through(size, at);
        let last = self.last.entry((from, to)).or_insert(at);
        *last = at.max(*last);
        self.order += 1;
        self.flying.push(Reverse((*last, self.order, to)));
        self.packets.insert(self.order, packet);
    }

    /// What is due arrives. When the next is, if there is any.
    fn land(&mut self, now: Instant) -> Option<Instant> {
        while let Some(Reverse((at, order, to))) = self.flying.peek().copied() {
            if at > now {
                return Some(at);
            }
            self.flying.pop();
            let port = &mut self.ports[to];
            let Some(packet) = self.packets.remove(&order) else {
                continue;
            };
            let passes = |(home, port): Door| self.homes[home].lets_in(port, packet.from);
            if !packet.door.is_none_or(passes) {
                continue;
            }
            let room = port.state == State::Up || port.arrived.len() < HELD;
            if port.state != State::Gone && room {
                port.arrived.push_back(packet);
                port.reader.take().into_iter().for_each(Waker::wake);
            }
        }
        None
    }
}

/// The socket of a host.
#[derive(Debug)]
pub(super) struct Socket {
    host: usize,
    /// Its own, in its own network.
    pub(super) addr: SocketAddr,
    network: Network,
}

/// There is always room: the uplink's queue drops what is too much.
#[derive(Debug)]
struct Always;

impl UdpPoller for Always {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Always)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut air = self.network.lock();
        let to = transmit.destination;
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        let Some((to, from, door)) = air.route(self.host, to) else {
            return Ok(());
        };
        let at = now();
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        for segment in transmit.contents.chunks(size.max(1)) {
            let packet = Packet {
                from,
                door,
                ecn: transmit.ecn,
                bytes: segment.to_vec(),
            };
            air.send(self.host, to, packet, at);
        }
        self.network.more.notify_one();
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [io::IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut air = self.network.lock();
        let port = &mut air.ports[self.host];
        let mut count = 0;
        if port.state == State::Up {
            for (buffer, meta) in buffers.iter_mut().zip(meta) {
                let Some(packet) = port.arrived.pop_front() else {
                    break;
                };
                let len = packet.bytes.len().min(buffer.len());
                buffer[..len].copy_from_slice(&packet.bytes[..len]);
                *meta = RecvMeta {
                    addr: packet.from,
                    len,
                    stride: len,
                    ecn: packet.ecn,
                    dst_ip: None,
                };
                count += 1;
            }
        }
        if count == 0 {
            port.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}
