//! Small probes from the socket of an endpoint, by which two nodes behind NATs open the way to each other.
//!
//! They pass beside QUIC, on its socket: a NAT knows a host by the port that it sends from. Only what bears the
//! name of a meeting that is under way counts, and is answered; see `docs/protocol.md`.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use icd_grid::Meeting;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::oneshot;

use crate::connection::canonical;

/// All of one probe.
const PROBE_BYTES: usize = 32;
/// What it begins with; the first byte is none that QUIC begins with (RFC 9000, section 17).
const MAGIC: &[u8; 8] = b"\0icd/1mt";
/// Probes of one meeting that a node sends, in all: to an address that knows nothing of it they are a nuisance.
const MOST: u32 = 20;
/// A round goes to each place. First they come quickly, since the other's first may be lost at its own NAT.
const QUICK: Duration = Duration::from_millis(50);
const QUICK_ROUNDS: u32 = 8;
const SLOW: Duration = Duration::from_millis(100);
const ROUNDS: u32 = 14;
/// Meetings at a time; of more, nothing comes.
const MAX_MEETINGS: usize = 64;
/// Places that one may be at: what it was named by, and what the seed adds.
const MAX_PLACES: usize = 4;

#[derive(Debug)]
struct Tried {
    places: Vec<SocketAddr>,
    left: u32,
    /// The other's probe has come.
    heard: bool,
    /// This node dials then.
    dials: Option<oneshot::Sender<SocketAddr>>,
}

/// A socket that QUIC shares with probes.
#[derive(Debug)]
pub(crate) struct Probes {
    socket: Arc<dyn AsyncUdpSocket>,
    meetings: Mutex<HashMap<Meeting, Tried>>,
}

fn encode(meeting: Meeting) -> [u8; PROBE_BYTES] {
    let mut bytes = [0; PROBE_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&meeting.0);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Meeting> {
    let bytes: &[u8; PROBE_BYTES] = bytes.try_into().ok()?;
    let name = bytes.strip_prefix(MAGIC)?.first_chunk()?;
    Some(Meeting(*name))
}

impl Probes {
    /// Beside QUIC on this socket.
    pub(crate) fn new(socket: Arc<dyn AsyncUdpSocket>) -> Self {
        Self {
            socket,
            meetings: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Meeting, Tried>> {
        self.meetings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the other is, as soon as a probe of it comes from there; an error after a second without.
    pub(crate) fn reach(
        self: &Arc<Self>,
        meeting: Meeting,
        addr: SocketAddr,
    ) -> oneshot::Receiver<SocketAddr> {
        let (heard, hears) = oneshot::channel();
        self.begin(meeting, vec![addr], Some(heard));
        hears
    }

    /// Somebody wants to reach this node from one of these places, or they are more for a meeting that is
    /// under way.
    pub(crate) fn answer(self: &Arc<Self>, meeting: Meeting, addrs: Vec<SocketAddr>) {
        self.begin(meeting, addrs, None);
    }

    fn begin(
        self: &Arc<Self>,
        meeting: Meeting,
        places: Vec<SocketAddr>,
        dials: Option<oneshot::Sender<SocketAddr>>,
    ) {
        let mut meetings = self.lock();
        if let Some(tried) = meetings.get_mut(&meeting) {
            // The nearest first.
            tried.places.splice(0..0, places);
            tried.places.truncate(MAX_PLACES);
            return;
        }
        if meetings.len() >= MAX_MEETINGS {
            return;
        }
        let tried = Tried {
            places,
            left: MOST,
            heard: false,
            dials,
        };
        meetings.insert(meeting, tried);
        tokio::spawn(probe(Arc::downgrade(self), meeting));
    }

    /// To each place, unless that is over.
    fn round(&self, meeting: Meeting) {
        let mut meetings = self.lock();
        let Some(tried) = meetings.get_mut(&meeting).filter(|t| !t.heard) else {
            return;
        };
        for place in &tried.places {
            if tried.left > 0 {
                tried.left -= 1;
                self.send(meeting, *place);
            }
        }
    }

    /// A probe came: its sender is there, and is told that it was heard.
    fn came(&self, meeting: Meeting, from: SocketAddr) {
        let mut meetings = self.lock();
        let Some(tried) = meetings.get_mut(&meeting) else {
            return;
        };
        tried.heard = true;
        if tried.left > 0 {
            tried.left -= 1;
            self.send(meeting, from);
        }
        if let Some(dials) = tried.dials.take() {
            let _ = dials.send(from);
        }
    }

    /// What the socket has no room for is lost, as on the way.
    fn send(&self, meeting: Meeting, to: SocketAddr) {
        let six = self.socket.local_addr().is_ok_and(|own| own.is_ipv6());
        let destination = match to {
            SocketAddr::V4(four) if six => {
                SocketAddrV6::new(four.ip().to_ipv6_mapped(), four.port(), 0, 0).into()
            }
            _ => to,
        };
        let _ = self.socket.try_send(&Transmit {
            destination,
            ecn: None,
            contents: &encode(meeting),
            segment_size: None,
            src_ip: None,
        });
    }
}

/// The course of one meeting.
async fn probe(probes: Weak<Probes>, meeting: Meeting) {
    for round in 0..ROUNDS {
        // The endpoint may be gone meanwhile, and its port shall be free then.
        match probes.upgrade() {
            Some(probes) => probes.round(meeting),
            None => return,
        }
        let quick = round < QUICK_ROUNDS;
        tokio::time::sleep(if quick { QUICK } else { SLOW }).await;
    }
    if let Some(probes) = probes.upgrade() {
        probes.lock().remove(&meeting);
    }
}

impl AsyncUdpSocket for Probes {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [io::IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.socket.poll_recv(context, buffers, meta))?;
        for (buffer, meta) in buffers.iter().zip(meta).take(count) {
            // The system may hand over several of one length at once.
            if meta.stride.min(meta.len) != PROBE_BYTES {
                continue;
            }
            let packets = buffer[..meta.len].chunks(PROBE_BYTES);
            let probes: Option<Vec<_>> = packets.map(decode).collect();
            for meeting in probes.iter().flatten() {
                self.came(*meeting, canonical(meta.addr));
            }
            if probes.is_some() {
                // QUIC sees none of it.
                meta.len = 0;
            }
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use quinn::Runtime;

    use super::*;

    /// A socket on loopback, and the endpoint on it that reads it.
    fn endpoint() -> (Arc<Probes>, quinn::Endpoint, SocketAddr) {
        let socket = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let socket = quinn::TokioRuntime.wrap_udp_socket(socket).unwrap();
        let probes = Arc::new(Probes::new(socket));
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            quinn::EndpointConfig::default(),
            None,
            probes.clone(),
            Arc::new(quinn::TokioRuntime),
        );
        let endpoint = endpoint.unwrap();
        let addr = endpoint.local_addr().unwrap();
        (probes, endpoint, addr)
    }

    #[tokio::test]
    async fn two_that_know_the_name_find_each_other_and_others_get_no_answer() {
        let (one, _one, first) = endpoint();
        let (two, _two, second) = endpoint();
        let meeting = Meeting(*b"abcdefgh");
        // The place that is named is wrong: the other's own probe shows the right one.
        let nobody = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let reached = one.reach(meeting, nobody.local_addr().unwrap());
        two.answer(meeting, vec![first]);
        assert_eq!(reached.await, Ok(second));
        // A stranger guesses.
        let stranger = std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let guess = encode(Meeting([0; 8]));
        stranger.send_to(&guess, first).unwrap();
        stranger
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        assert!(stranger.recv_from(&mut [0; 64]).is_err(), "no answer");
    }

    #[tokio::test(start_paused = true)]
    async fn who_knows_nothing_of_it_gets_few_and_small_packets_and_then_none() {
        #[derive(Debug, Default)]
        struct Counts(AtomicUsize, AtomicUsize);
        impl AsyncUdpSocket for Counts {
            fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
                unreachable!("nobody waits for it")
            }
            fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
                self.0.fetch_add(1, Ordering::Relaxed);
                self.1.fetch_add(transmit.contents.len(), Ordering::Relaxed);
                Ok(())
            }
            fn poll_recv(
                &self,
                _: &mut Context<'_>,
                _: &mut [io::IoSliceMut<'_>],
                _: &mut [RecvMeta],
            ) -> Poll<io::Result<usize>> {
                Poll::Pending
            }
            fn local_addr(&self) -> io::Result<SocketAddr> {
                Ok(([127, 0, 0, 1], 1).into())
            }
        }
        let counts = Arc::new(Counts::default());
        let probes = Arc::new(Probes::new(counts.clone()));
        let place = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let reached = probes.reach(Meeting([1; 8]), place(1));
        probes.answer(Meeting([1; 8]), vec![place(2), place(3)]);
        assert!(reached.await.is_err(), "nobody is there");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let sent = counts.0.load(Ordering::Relaxed);
        assert_eq!(sent, MOST as usize);
        assert_eq!(counts.1.load(Ordering::Relaxed), sent * PROBE_BYTES);
        assert!(probes.lock().is_empty());
        for n in 0..1000_u64 {
            probes.answer(Meeting(n.to_le_bytes()), vec![place(4)]);
        }
        assert_eq!(probes.lock().len(), MAX_MEETINGS);
    }
}
