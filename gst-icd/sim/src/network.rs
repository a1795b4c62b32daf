//! The network between the nodes: places, uplinks as queues, downlinks, loss, who can reach whom.

use std::time::{Duration, Instant};

use icd_grid::Bitrate;

/// Payload of a packet, and the headers around it: IP, UDP, QUIC, the tag, a stream frame.
const PACKET: f64 = 1200.0;
const PACKET_HEADERS: f64 = 60.0;
/// An acknowledgement: one for every ten packets, or after 25 ms, when a piece is through (the
/// acknowledgement frequency that `icd-net` asks for).
const ACK: f64 = 70.0;
const PACKETS_PER_ACK: f64 = 10.0;
/// A lost packet is sent again after a round trip and this.
const PROBE: Duration = Duration::from_millis(15);
/// Of one piece, with all that goes around it.
const LARGEST: f64 = 300_000.0;
/// Delays vary by so much from one packet to the next.
pub(crate) const JITTER: Duration = Duration::from_millis(4);

/// What lies between two nodes.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Shortest one-way delay.
    pub least: Duration,
    /// Longest one-way delay: each pair has its own in between, by the places of the two.
    pub most: Duration,
    /// Share of packets that are lost.
    pub loss: f64,
}

/// How a node is reached from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Nat {
    /// By everybody.
    #[default]
    Open,
    /// After both sides sent a packet.
    Cone,
    /// As a cone, but not by another such: its address differs for each peer.
    Symmetric,
    /// Only it can connect, and only to the seed.
    TcpOnly,
}

impl Nat {
    /// Whether two find a way to each other, when both send.
    pub fn reaches(self, other: Self) -> bool {
        let neither = |nat| self != nat && other != nat;
        neither(Self::TcpOnly) && (self, other) != (Self::Symmetric, Self::Symmetric)
    }
}

/// The line of a node.
#[derive(Debug, Clone)]
pub struct Line {
    /// Where it is, in a square of side one.
    place: (f64, f64),
    /// How it is reached.
    pub nat: Nat,
    up: Option<f64>,
    down: Option<f64>,
    up_free: Instant,
    down_free: Instant,
    /// Bytes that went out, headers included.
    pub sent: f64,
    origin: Instant,
    second: (u64, f64),
    /// Seconds in which it carried more than it can; a fault of this model if there are any.
    pub over_capacity: u64,
}

/// Bytes on the wire for so many of payload, and the packets that they take.
pub fn wire(bytes: usize) -> (f64, f64) {
    let packets = (bytes as f64 / PACKET).ceil().max(1.0);
    (bytes as f64 + packets * PACKET_HEADERS, packets)
}

/// Wire bytes of a stream with pieces of so many bytes for each of its payload, acknowledgements
/// at the other end included.
pub fn overhead(payload: f64, body: f64) -> f64 {
    let (bytes, packets) = wire(body as usize);
    (bytes + acknowledged(packets)) / payload
}

fn acknowledged(packets: f64) -> f64 {
    (packets / PACKETS_PER_ACK).ceil() * ACK
}

impl Line {
    /// A line at some place. None: no limit.
    pub fn new(
        up: Option<Bitrate>,
        down: Option<Bitrate>,
        rng: &mut fastrand::Rng,
        now: Instant,
    ) -> Self {
        Self {
            place: (rng.f64(), rng.f64()),
            nat: Nat::Open,
            up: up.map(Bitrate::bytes_per_second),
            down: down.map(Bitrate::bytes_per_second),
            up_free: now,
            down_free: now,
            sent: 0.0,
            origin: now,
            second: (0, 0.0),
            over_capacity: 0,
        }
    }

    /// One-way delay to another.
    pub fn delay(&self, other: &Self, link: &Link) -> Duration {
        let (x, y) = (self.place.0 - other.place.0, self.place.1 - other.place.1);
        let far = (x * x + y * y).sqrt() / std::f64::consts::SQRT_2;
        link.least + (link.most - link.least).mul_f64(far)
    }

    /// Sends so many wire bytes: when the last has left.
    pub fn upload(&mut self, bytes: f64, now: Instant) -> Instant {
        self.sent += bytes;
        let Some(rate) = self.up else { return now };
        self.up_free =
            self.up_free.max(now) + Duration::from_secs_f64((bytes / rate.max(1.0)).min(3600.0));
        self.left(bytes, rate);
        self.up_free
    }

    /// How long what is sent now would wait.
    pub fn backlog(&self, now: Instant) -> Duration {
        self.up_free.saturating_duration_since(now)
    }

    /// Counts what leaves in each second, whatever the queue thinks of it.
    fn left(&mut self, bytes: f64, rate: f64) {
        let second = self
            .up_free
            .saturating_duration_since(self.origin)
            .as_secs();
        if self.second.0 != second {
            self.second = (second, 0.0);
        }
        let before = self.second.1;
        self.second.1 += bytes;
        // What began in the second before counts here as a whole.
        let most = rate + LARGEST;
        self.over_capacity += u64::from(before <= most && self.second.1 > most);
    }

    /// Takes so many wire bytes that arrive then: when the last is here, and the bytes that go
    /// out to acknowledge them. Those are charged at once, or what is sent meanwhile would wait
    /// behind them.
    pub fn download(
        &mut self,
        bytes: f64,
        packets: f64,
        then: Instant,
        now: Instant,
    ) -> (Instant, f64) {
        let acks = acknowledged(packets);
        self.sent += acks;
        if let Some(rate) = self.up {
            self.up_free = self.up_free.max(now) + Duration::from_secs_f64(acks / rate.max(1.0));
            self.left(acks, rate);
        }
        (self.through(bytes, then), acks)
    }

    /// So many wire bytes that arrive then pass the downlink: when the last is here.
    pub fn through(&mut self, bytes: f64, then: Instant) -> Instant {
        let Some(rate) = self.down else {
            return then;
        };
        self.down_free = self.down_free.max(then) + Duration::from_secs_f64(bytes / rate.max(1.0));
        self.down_free
    }
}

/// How much later than by the distance something arrives, and the packets that went twice.
pub fn mishaps(
    packets: f64,
    delay: Duration,
    loss: f64,
    rng: &mut fastrand::Rng,
) -> (Duration, f64) {
    let mut late = JITTER.mul_f64(rng.f64());
    let mut again = 0.0;
    let mut outstanding = packets;
    while loss > 0.0 && outstanding > 0.0 {
        let lost = (0..outstanding as usize)
            .filter(|_| rng.f64() < loss)
            .count() as f64;
        if lost > 0.0 {
            late += delay * 2 + PROBE;
        }
        again += lost;
        outstanding = lost;
    }
    (late, again)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uplink_carries_what_it_can_and_no_more() {
        let now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut line = Line::new(Some(Bitrate(800_000)), None, &mut rng, now);
        let last = (0..30).map(|_| line.upload(10_000.0, now)).last();
        assert_eq!(last, Some(now + Duration::from_secs(3)));
        assert_eq!(line.over_capacity, 0);
        // A queue that forgets to wait would be seen.
        line.up_free = now;
        line.second = (0, 0.0);
        for _ in 0..80 {
            line.up_free = now;
            line.upload(10_000.0, now);
        }
        assert_eq!(line.over_capacity, 1);
    }

    #[test]
    fn two_nats_that_map_each_peer_anew_never_meet() {
        assert!(!Nat::Symmetric.reaches(Nat::Symmetric));
        assert!(Nat::Symmetric.reaches(Nat::Cone) && Nat::Cone.reaches(Nat::Open));
        assert!(!Nat::TcpOnly.reaches(Nat::Open) && !Nat::Open.reaches(Nat::TcpOnly));
    }

    #[test]
    fn lost_packets_cost_time_and_bytes() {
        let mut rng = fastrand::Rng::with_seed(1);
        let far = Duration::from_millis(50);
        let all: Vec<_> = (0..1000)
            .map(|_| mishaps(6.0, far, 0.01, &mut rng))
            .collect();
        let late = all.iter().filter(|(late, _)| *late > far * 2).count();
        assert!((40..80).contains(&late), "{late} of 1000");
        assert!(all.iter().map(|(_, again)| again).sum::<f64>() >= late as f64);
    }
}
