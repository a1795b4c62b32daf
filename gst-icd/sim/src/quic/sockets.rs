//! UDP sockets in memory, and what lies between them.
//!
//! A packet goes through its host's uplink, a queue that drains at the line's rate and drops what
//! would wait for too long; it may be lost; it takes the time of the distance and a little more,
//! and passes the other's downlink. Packets between two hosts keep their order.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::Notify;

use super::now;
use crate::network::{JITTER, Line, Link};

/// IP and UDP headers of a packet.
const HEADERS: f64 = 28.0;
/// A packet that would wait longer in an uplink is dropped, as in a modem.
const QUEUE: Duration = Duration::from_millis(250);
/// The kernel's buffer of a process that reads nothing holds so many packets.
const HELD: usize = 400;
const PORT: u16 = 7423;

#[derive(Debug)]
struct Packet {
    from: SocketAddr,
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
    state: State,
    arrived: VecDeque<Packet>,
    reader: Option<Waker>,
}

#[derive(Debug)]
struct Air {
    ports: Vec<Port>,
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

/// Where a host is.
pub(super) fn address(host: usize) -> SocketAddr {
    let [_, a, b, c] = (host as u32 + 1).to_be_bytes();
    SocketAddr::new(Ipv4Addr::new(10, a, b, c).into(), PORT)
}

fn host_at(addr: SocketAddr) -> Option<usize> {
    let IpAddr::V4(ip) = addr.ip().to_canonical() else {
        return None;
    };
    let [ten, a, b, c] = ip.octets();
    let host = (u32::from_be_bytes([0, a, b, c]) as usize).checked_sub(1)?;
    (ten == 10 && addr.port() == PORT).then_some(host)
}

impl Network {
    /// Nobody is there yet. Runs on the runtime of the calling task.
    pub(super) fn new(link: Link, seed: u64) -> Self {
        let network = Self {
            air: Arc::new(Mutex::new(Air {
                ports: Vec::new(),
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

    /// A host with this line.
    pub(super) fn plug(&self, line: Line) -> Arc<Socket> {
        let mut air = self.lock();
        air.ports.push(Port {
            line,
            state: State::Up,
            arrived: VecDeque::new(),
            reader: None,
        });
        Arc::new(Socket {
            host: air.ports.len() - 1,
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
    fn send(&mut self, from: usize, to: usize, packet: Packet, now: Instant) {
        let size = packet.bytes.len() as f64 + HEADERS;
        let port = &mut self.ports[from];
        if port.state != State::Up || port.line.backlog(now) > QUEUE {
            return;
        }
        let nat = port.line.nat;
        if from > 0 && to > 0 && nat.round_trips(self.ports[to].line.nat).is_none() {
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
        let to = host_at(transmit.destination).filter(|to| *to < air.ports.len());
        let Some(to) = to else { return Ok(()) };
        let at = now();
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        for segment in transmit.contents.chunks(size.max(1)) {
            let packet = Packet {
                from: address(self.host),
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
        Ok(address(self.host))
    }

    fn may_fragment(&self) -> bool {
        false
    }
}
