//! One queue over all children: what this node sends next, and what it no longer sends.
//!
//! Transport buffers stay shallow so that the order stays in our hands. Each queued piece has an
//! expiry; without one the grid is metastable: once late, always late (notes on the algorithm,
//! section 5).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::capacity::Capacity;
use crate::ids::{Bitrate, PeerId, Seq, StripeId};
use crate::piece::Why;

/// Bytes of packet headers and stream frames per piece, and as a share.
const OVERHEAD_BYTES: f64 = 60.0;
const OVERHEAD_SHARE: f64 = 1.05;
/// Pieces that wait for one child; more are not accepted.
const MAX_QUEUED: usize = 2048;
/// A control message travels in a packet of its own: IP, UDP and QUIC headers, the tag.
const MESSAGE_BYTES: usize = 60;
/// What is received is acknowledged: a packet of some 70 bytes for every ten of 1,200, but at least
/// for every piece, which may be the only one for a while.
const ACK_SHARE: f64 = 0.012;
/// Over this time the overhead is averaged.
const OVERHEAD_OVER: f64 = 2.0;
/// Overhead takes at most this share of the rate from the slots; a burst of messages is no
/// reason to drop all children.
const MOST_OVERHEAD: f64 = 0.4;
/// Late data must not delay fresh data: beyond this share of the rate, pulls are refused as long as
/// anything waits. Simulated (three strong ones of twelve killed at once, far apart):
/// at a tenth most runs lose pieces, since an uplink full of pushes answers no pull in time; at
/// a half few do, but those collapse.
pub const PULL_SHARE: f64 = 0.25;
/// The last resort has more to give: what it lends is worth less.
pub const LAST_SHARE: f64 = 0.5;
/// Backlog comes after the pushes, but for a few pieces of a child that moved.
const LOOKED_AT: usize = 8;
/// The queueing delay is looked at this often: it changes no faster, and there may be hundreds of
/// children.
const LOOK: Duration = Duration::from_millis(5);
/// Messages are sent at once and paid for afterwards, but never so much that pieces would wait for
/// longer than this.
const DEBT: Duration = Duration::from_millis(100);
/// What was not foreseen takes no more than this share of the rate from the pieces.
const SURPRISES: f64 = 0.25;
/// What was not foreseen and takes longer than this to pay for is forgotten.
const UNPAID: Duration = Duration::from_secs(1);
/// How far the pacer may run ahead of its rate.
const BURST: Duration = Duration::from_millis(10);
const MIN_BURST_BYTES: f64 = 4096.0;

/// What a piece of so many bytes takes, with its packets.
fn on_wire(bytes: usize) -> f64 {
    bytes as f64 * OVERHEAD_SHARE + OVERHEAD_BYTES
}

/// What to send now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    /// To whom.
    pub peer: PeerId,
    /// What.
    pub seq: Seq,
    /// Why.
    pub why: Why,
    /// How long it waited in this queue.
    pub waited: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Queued {
    seq: Seq,
    bytes: usize,
    why: Why,
    queued: Instant,
    expires: Instant,
}

/// When a piece goes, and by which ticket among those of one moment.
type Turn = (Instant, u64);

#[derive(Debug, Default)]
struct Lane {
    queue: BTreeMap<Turn, Queued>,
    /// Its first in the queue, as the table of all lanes has it; none while it may send nothing.
    turn: Option<Turn>,
    flight: BTreeMap<Seq, (Instant, usize)>,
    flight_bytes: usize,
    /// When the transport last reported a piece as arrived.
    progress: Option<Instant>,
    least_delay: Option<Duration>,
}

impl Lane {
    /// Asked for twice, a piece goes when the more urgent of the two would: a pull overtakes the
    /// backlog that holds the same piece.
    fn insert(&mut self, turn: Turn, queued: Queued) {
        let same = self.queue.iter().find(|(_, q)| q.seq == queued.seq);
        match same.map(|(turn, _)| *turn) {
            Some(there) if there.0 <= turn.0 => {
                // It was there before, but a push may give up sooner than what is pulled.
                if let Some(before) = self.queue.get_mut(&there) {
                    before.expires = before.expires.max(queued.expires);
                }
                return;
            }
            Some(there) => {
                self.queue.remove(&there);
            }
            None if self.queue.len() >= MAX_QUEUED => return,
            None => {}
        }
        self.queue.insert(turn, queued);
    }

    /// Drops what has expired at the front; how many that was.
    fn expire(&mut self, now: Instant) -> u64 {
        let mut expired = 0;
        while let Some(entry) = self.queue.first_entry() {
            if entry.get().expires > now {
                break;
            }
            entry.remove();
            expired += 1;
        }
        expired
    }
}

/// See the module.
#[derive(Debug)]
pub struct Uplink {
    rate: Option<Bitrate>,
    /// Where the rate is found out.
    capacity: Option<Capacity>,
    tokens: f64,
    filled: Instant,
    lanes: BTreeMap<PeerId, Lane>,
    /// The first of each lane that may send.
    turns: BTreeSet<(Turn, PeerId)>,
    flight_limit: usize,
    ticket: u64,
    pull_tokens: f64,
    pulls_filled: Instant,
    /// Bytes per second of all but pieces.
    overhead: f64,
    overheard: Instant,
    /// Bytes that were taken from the rate, and when the rest was looked at.
    paid: f64,
    paid_at: Instant,
    /// Bytes that the transport has sent, as it said last.
    total: u64,
    /// The queueing delay, and when it was looked at.
    looked: Option<(Instant, Duration)>,
    /// Pieces that expired in the queue.
    pub expired: u64,
}

impl Uplink {
    /// A queue that sends at most `rate`; none is unlimited.
    pub fn new(rate: Option<Bitrate>, now: Instant) -> Self {
        Self {
            rate,
            capacity: None,
            tokens: 0.0,
            filled: now,
            lanes: BTreeMap::new(),
            turns: BTreeSet::new(),
            flight_limit: 256 * 1024,
            ticket: 0,
            pull_tokens: 0.0,
            pulls_filled: now,
            overhead: 0.0,
            overheard: now,
            paid: 0.0,
            paid_at: now,
            total: 0,
            looked: None,
            expired: 0,
        }
    }

    /// A queue that finds out what it can send, and sends at most `cap`.
    pub fn measured(cap: Bitrate, now: Instant) -> Self {
        Self {
            capacity: Some(Capacity::new(cap, now)),
            ..Self::new(Some(Bitrate(0)), now)
        }
    }

    /// From now on, what it can send is found out, beginning with what it was told until now.
    pub fn find_out(&mut self, now: Instant) {
        if self.capacity.is_none() {
            let told = self.rate.unwrap_or(Bitrate(0));
            self.capacity = Some(Capacity::told(told, now));
        }
    }

    /// Looks anew at what it can send, where that is found out: no less than `least` bytes per second;
    /// more if all slots are taken, and as long as nothing waits on the way.
    pub fn measure(&mut self, least: f64, wanted: bool, now: Instant) {
        let beside = self.overhead;
        let in_flight = self.lanes.values().map(|lane| lane.flight_bytes).sum();
        self.learn(|capacity| {
            capacity.set_least(least, now);
            capacity.look(wanted, beside, in_flight, now);
        });
    }

    /// A first guess at what it carries, where that is found out, in bytes per second.
    pub fn found(&mut self, bytes_per_second: f64) {
        self.learn(|capacity| capacity.found(bytes_per_second));
    }

    /// Follows what is found out; false if nothing is.
    fn learn(&mut self, what: impl FnOnce(&mut Capacity)) -> bool {
        let Some(capacity) = &mut self.capacity else {
            return false;
        };
        what(capacity);
        self.rate = Some(capacity.rate());
        true
    }

    /// Changes the cap, which is what the line carries: nothing is found out any more.
    pub fn set_rate(&mut self, rate: Option<Bitrate>) {
        self.capacity = None;
        self.rate = rate;
    }

    /// The cap.
    pub fn rate(&self) -> Option<Bitrate> {
        self.rate
    }

    /// What is left of the cap for pieces, beside messages and acknowledgements.
    pub fn rate_for_pieces(&self) -> Option<Bitrate> {
        let rate = self.rate?;
        let overhead = (self.overhead * 8.0).min(rate.0 as f64 * MOST_OVERHEAD);
        Some(Bitrate(rate.0 - overhead as u64))
    }

    /// A control message of so many bytes is sent: at once, but what it takes is paid for.
    pub fn message(&mut self, bytes: usize, now: Instant) {
        self.charge((bytes + MESSAGE_BYTES) as f64, now);
    }

    /// So many bytes were received, and will be acknowledged.
    pub fn received(&mut self, bytes: usize, now: Instant) {
        self.charge(bytes as f64 * ACK_SHARE, now);
    }

    /// The transport has sent so many bytes in all. What was not foreseen is paid for: handshakes, packets
    /// that were lost and said again.
    pub fn went_out(&mut self, total: u64, now: Instant) {
        self.total = total;
        let total = total as f64;
        let waits: usize = self.lanes.values().map(|lane| lane.flight_bytes).sum();
        // What is handed over may go later; beyond it, more was paid for than it took.
        self.paid = self.paid.min(total + on_wire(waits));
        let elapsed = now.saturating_duration_since(self.paid_at).as_secs_f64();
        self.paid_at = now;
        let Some(rate) = self.rate.map(Bitrate::bytes_per_second) else {
            self.paid = total;
            return;
        };
        // A burst is paid for over a while, and pieces go on; but not for ever. Slots stay: it is over
        // before others would be found for the children, and comes most where peers just vanished.
        self.paid = self.paid.max(total - rate * UNPAID.as_secs_f64());
        let share = rate * SURPRISES * elapsed.min(UNPAID.as_secs_f64());
        self.pay((total - self.paid).clamp(0.0, share));
    }

    /// Bytes that the transport has sent in all, as it said last.
    pub fn total(&self) -> u64 {
        self.total
    }

    fn charge(&mut self, bytes: f64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.overheard).as_secs_f64();
        self.overhead *= (-elapsed / OVERHEAD_OVER).exp();
        self.overhead += bytes / OVERHEAD_OVER;
        self.overheard = now;
        self.pay(bytes);
    }

    fn pay(&mut self, bytes: f64) {
        if let Some(rate) = self.rate {
            let most = (rate.bytes_per_second() * DEBT.as_secs_f64()).max(MIN_BURST_BYTES);
            // What a piece took may be below it.
            let bytes = bytes.min((self.tokens + most).max(0.0));
            self.tokens -= bytes;
            self.paid += bytes;
        }
    }

    /// Bytes that one child may have outstanding, from the stream's rate in bytes per second:
    /// half a second of it, but at least 256 KiB and at most 4 MiB, so that a frozen child costs
    /// no more.
    pub fn size_for(&mut self, bytes_per_second: f64) {
        let limit = ((bytes_per_second / 2.0) as usize).clamp(256 * 1024, 4 * 1024 * 1024);
        if std::mem::replace(&mut self.flight_limit, limit) != limit {
            let peers: Vec<_> = self.lanes.keys().copied().collect();
            for peer in peers {
                self.line_up(peer);
            }
        }
    }

    /// Queues a piece. `order`: earlier goes first.
    #[expect(
        clippy::too_many_arguments,
        reason = "one fact each, all of them needed"
    )]
    pub fn push(
        &mut self,
        peer: PeerId,
        seq: Seq,
        bytes: usize,
        why: Why,
        order: Instant,
        expires: Instant,
        now: Instant,
    ) {
        let lane = self.lanes.entry(peer).or_default();
        if lane.flight.contains_key(&seq) {
            return;
        }
        // A lane that may send nothing shall not keep what has expired.
        self.expired += lane.expire(now);
        let queued = Queued {
            seq,
            bytes,
            why,
            queued: now,
            expires,
        };
        self.ticket += 1;
        lane.insert((order, self.ticket), queued);
        self.line_up(peer);
    }

    /// Puts a lane where it belongs among the others.
    fn line_up(&mut self, peer: PeerId) {
        let Some(lane) = self.lanes.get_mut(&peer) else {
            return;
        };
        let may = lane.flight_bytes < self.flight_limit;
        let first = lane.queue.first_key_value().map(|(turn, _)| *turn);
        let turn = first.filter(|_| may);
        if lane.turn == turn {
            return;
        }
        if let Some(former) = std::mem::replace(&mut lane.turn, turn) {
            self.turns.remove(&(former, peer));
        }
        self.turns.extend(turn.map(|turn| (turn, peer)));
    }

    fn refill(&mut self, now: Instant) {
        if let Some(rate) = self.rate {
            let rate = rate.bytes_per_second();
            let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
            let most = (rate * BURST.as_secs_f64()).max(MIN_BURST_BYTES);
            self.tokens = (self.tokens + rate * elapsed).min(most);
        }
        self.filled = now;
    }

    /// The order of a pull of so many bytes: with the pushes as long as pulls take no more than
    /// this share; beyond, none: behind the pushes it would come too late, and others may have
    /// more room.
    pub fn pull_order(&mut self, bytes: usize, share: f64, now: Instant) -> Option<Instant> {
        let Some(rate) = self.rate else {
            return Some(now);
        };
        let share = rate.bytes_per_second() * share;
        let elapsed = now
            .saturating_duration_since(self.pulls_filled)
            .as_secs_f64();
        self.pulls_filled = now;
        self.pull_tokens = (self.pull_tokens + share * elapsed).min(share);
        if self.pull_tokens <= 0.0 {
            return self.turns.is_empty().then_some(now);
        }
        self.pull_tokens -= bytes as f64;
        Some(now)
    }

    /// What goes out now, if anything may.
    pub fn next(&mut self, now: Instant) -> Option<Transmit> {
        self.refill(now);
        if self.rate.is_some() && self.tokens <= 0.0 {
            return None;
        }
        let (peer, queued) = loop {
            let (_, peer) = *self.turns.first()?;
            let lane = self.lanes.get_mut(&peer)?;
            let expired = lane.expire(now);
            self.expired += expired;
            let queued = match expired {
                0 => lane.queue.pop_first(),
                _ => None,
            };
            self.line_up(peer);
            if let Some((_, queued)) = queued {
                break (peer, queued);
            }
        };
        let lane = self.lanes.get_mut(&peer)?;
        lane.progress.get_or_insert(now);
        if lane.flight.is_empty() {
            lane.progress = Some(now);
        }
        lane.flight.insert(queued.seq, (now, queued.bytes));
        lane.flight_bytes += queued.bytes;
        self.line_up(peer);
        if self.rate.is_some() {
            self.tokens -= on_wire(queued.bytes);
        }
        self.paid += on_wire(queued.bytes);
        if let Some(capacity) = &mut self.capacity {
            capacity.sent(on_wire(queued.bytes) as usize, now);
        }
        Some(Transmit {
            peer,
            seq: queued.seq,
            why: queued.why,
            waited: now.saturating_duration_since(queued.queued),
        })
    }

    /// When [`Uplink::next`] is next of use, if anything waits.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        if self.turns.is_empty() {
            return None;
        }
        let rate = self.rate?.bytes_per_second();
        if self.tokens > 0.0 {
            return Some(now);
        }
        if rate <= 0.0 {
            return None;
        }
        Some(self.filled + Duration::from_secs_f64((1.0 - self.tokens) / rate))
    }

    /// The transport delivered a piece, or gave it up.
    pub fn sent(&mut self, peer: PeerId, seq: Seq, delivered: bool, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&peer) else {
            return;
        };
        if let Some((at, bytes)) = lane.flight.remove(&seq) {
            lane.flight_bytes -= bytes;
            if delivered {
                lane.progress = Some(now);
                let delay = now.saturating_duration_since(at);
                lane.least_delay = Some(lane.least_delay.map_or(delay, |d| d.min(delay)));
                if let Some(capacity) = &mut self.capacity {
                    capacity.delivered(peer, on_wire(bytes) as usize, delay, now);
                }
            }
            self.line_up(peer);
        }
    }

    /// How long a child has confirmed nothing although something is on its way to it, beyond
    /// the least delay that was seen.
    pub fn silence(&self, peer: PeerId, now: Instant) -> Duration {
        let Some(lane) = self.lanes.get(&peer).filter(|lane| !lane.flight.is_empty()) else {
            return Duration::ZERO;
        };
        let since = lane.progress.unwrap_or(now);
        now.saturating_duration_since(since)
            .saturating_sub(lane.least_delay.unwrap_or_default())
    }

    /// How long the first queued piece that could go has waited: the queueing delay. Backlog
    /// waits by design and does not count.
    pub fn delay(&mut self, now: Instant) -> Duration {
        if let Some((at, delay)) = self.looked
            && now.saturating_duration_since(at) < LOOK
        {
            return delay;
        }
        let waits = self.turns.iter().filter_map(|(_, peer)| {
            let first = self.lanes.get(peer)?.queue.values().take(LOOKED_AT);
            let push = first.into_iter().find(|q| q.why != Why::Backlog)?;
            Some(now.saturating_duration_since(push.queued))
        });
        let delay = waits.max().unwrap_or_default();
        self.looked = Some((now, delay));
        delay
    }

    /// Pieces that wait.
    pub fn waiting(&self) -> usize {
        self.lanes.values().map(|lane| lane.queue.len()).sum()
    }

    /// When the last of the backlog of one stripe that still waits for `peer` expires; none if
    /// it has caught up.
    pub fn behind(&self, peer: PeerId, stripe: StripeId, stripes: u8) -> Option<Instant> {
        let lane = self.lanes.get(&peer)?;
        let of_stripe = |q: &&Queued| q.why == Why::Backlog && q.seq.stripe(stripes) == stripe;
        lane.queue.values().rev().find(of_stripe).map(|q| q.expires)
    }

    /// How long it would take to send all the backlog that waits, were there nothing else.
    pub fn backlog(&self) -> Duration {
        let Some(rate) = self.rate else {
            return Duration::ZERO;
        };
        let waiting = self.lanes.values().flat_map(|lane| lane.queue.values());
        let bytes: usize = waiting
            .filter(|q| q.why == Why::Backlog)
            .map(|q| q.bytes)
            .sum();
        Duration::from_secs_f64((bytes as f64 / rate.bytes_per_second().max(1.0)).min(3600.0))
    }

    /// Drops queued pieces for `peer` that `unwanted` names.
    pub fn cancel(&mut self, peer: PeerId, unwanted: impl Fn(Seq) -> bool) {
        if let Some(lane) = self.lanes.get_mut(&peer) {
            lane.queue.retain(|_, queued| !unwanted(queued.seq));
            self.line_up(peer);
        }
    }

    /// The connection is gone.
    pub fn forget(&mut self, peer: PeerId) {
        if let Some(turn) = self.lanes.remove(&peer).and_then(|lane| lane.turn) {
            self.turns.remove(&(turn, peer));
        }
        if let Some(capacity) = &mut self.capacity {
            capacity.gone(peer);
        }
    }

    /// Drops everything that waits, for a new epoch.
    pub fn clear(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.queue.clear();
            // The numbers begin anew: what is still on its way is another piece.
            lane.flight.clear();
            lane.flight_bytes = 0;
            lane.turn = None;
        }
        self.turns.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const A: PeerId = PeerId(1);
    const B: PeerId = PeerId(2);

    fn push(uplink: &mut Uplink, peer: PeerId, seq: u64, order: Instant, now: Instant) {
        uplink.push(
            peer,
            Seq(seq),
            10_000,
            Why::Push,
            order,
            now + 200 * MS,
            now,
        );
    }

    #[test]
    fn finding_out_begins_with_what_was_told_and_ends_when_it_is_told_again() {
        let now = Instant::now();
        let (told, less) = (Some(Bitrate(4_000_000)), Some(Bitrate(1_000_000)));
        let mut uplink = Uplink::new(told, now);
        uplink.find_out(now);
        assert_eq!(uplink.rate(), told);
        uplink.measure(1e6, true, now);
        assert_eq!(uplink.rate(), Some(Bitrate(8_000_000)), "no less than this");
        uplink.set_rate(less);
        uplink.measure(1e6, true, now);
        assert_eq!(uplink.rate(), less);
    }

    #[test]
    fn pulls_go_with_the_pushes_up_to_a_quarter_of_the_rate() {
        let now = Instant::now();
        let mut uplink = Uplink::new(Some(Bitrate(8_000_000)), now);
        let later = now + Duration::from_secs(1);
        push(&mut uplink, A, 1, later, later);
        let pulls =
            (0..100).filter(|_| uplink.pull_order(10_000, PULL_SHARE, later) == Some(later));
        assert_eq!(pulls.count(), 25);
        assert_eq!(uplink.pull_order(1, PULL_SHARE, later), None);
        let much_later = later + Duration::from_secs(1);
        assert_eq!(
            uplink.pull_order(1, PULL_SHARE, much_later),
            Some(much_later)
        );
    }

    #[test]
    fn the_cap_holds_over_any_second() {
        let start = Instant::now();
        let mut uplink = Uplink::new(Some(Bitrate(4_000_000)), start);
        let mut bytes = 0.0;
        for ms in 0..2000u32 {
            let now = start + ms * MS;
            if ms % 10 == 0 {
                push(&mut uplink, A, u64::from(ms), now, now);
            }
            while let Some(sent) = uplink.next(now) {
                bytes += 10_000.0 * OVERHEAD_SHARE + OVERHEAD_BYTES;
                uplink.sent(sent.peer, sent.seq, true, now);
            }
        }
        assert!((900_000.0..=1_020_000.0).contains(&bytes), "{bytes}");
        assert!(uplink.expired > 50, "what does not fit expires");
        assert!(uplink.waiting() < 30, "and does not pile up");
    }

    #[test]
    fn what_the_transport_sends_beside_is_paid_for() {
        let start = Instant::now();
        let rate = |beside: u64| {
            let mut uplink = Uplink::new(Some(Bitrate(4_000_000)), start);
            let (mut pieces, mut total) = (0.0, 0);
            for ms in 0..2000u32 {
                let now = start + ms * MS;
                if ms % 10 == 0 {
                    push(&mut uplink, A, u64::from(ms), now, now);
                }
                while let Some(sent) = uplink.next(now) {
                    pieces += on_wire(10_000);
                    total += on_wire(10_000) as u64;
                    uplink.sent(sent.peer, sent.seq, true, now);
                }
                if ms % 100 == 99 {
                    total += beside / 10;
                    uplink.went_out(total, now);
                }
            }
            pieces / 2.0
        };
        let (alone, beside) = (rate(0), rate(100_000));
        assert!((480_000.0..=510_000.0).contains(&alone), "{alone}");
        assert!((380_000.0..=420_000.0).contains(&beside), "{beside}");
    }

    #[test]
    fn a_frozen_child_holds_up_no_other_and_costs_a_bounded_amount() {
        let start = Instant::now();
        let mut uplink = Uplink::new(None, start);
        let (mut to_a, mut to_b) = (0, 0);
        for i in 0..1000u32 {
            let now = start + i * 20 * MS;
            push(&mut uplink, A, u64::from(i), now, now);
            push(&mut uplink, B, u64::from(i), now, now);
            while let Some(sent) = uplink.next(now) {
                if sent.peer == B {
                    to_b += 1;
                    uplink.sent(B, sent.seq, true, now);
                } else {
                    to_a += 1;
                }
            }
        }
        assert_eq!(to_b, 1000);
        assert!(to_a <= 27, "{to_a}");
        assert!(uplink.waiting() <= 11);
        assert!(uplink.silence(A, start + 20_000 * MS) > 19_000 * MS);
        assert_eq!(uplink.silence(B, start + 20_000 * MS), Duration::ZERO);
    }

    #[test]
    fn the_earlier_order_goes_first_whoever_it_is_for() {
        let now = Instant::now();
        let mut uplink = Uplink::new(None, now);
        push(&mut uplink, A, 1, now + 30 * MS, now);
        push(&mut uplink, B, 1, now, now);
        push(&mut uplink, A, 2, now + 10 * MS, now);
        let order: Vec<_> = std::iter::from_fn(|| uplink.next(now))
            .map(|t| (t.peer, t.seq.0))
            .collect();
        assert_eq!(order, [(B, 1), (A, 2), (A, 1)]);
    }

    #[test]
    fn a_pull_overtakes_the_backlog_that_holds_the_same_piece() {
        let now = Instant::now();
        let mut uplink = Uplink::new(None, now);
        push(&mut uplink, A, 1, now + 5000 * MS, now);
        push(&mut uplink, A, 2, now + 100 * MS, now);
        push(&mut uplink, A, 1, now, now);
        let order: Vec<_> = std::iter::from_fn(|| uplink.next(now))
            .map(|t| t.seq.0)
            .collect();
        assert_eq!(order, [1, 2]);
    }

    #[test]
    fn a_pull_of_what_waits_as_a_push_keeps_it_longer() {
        let now = Instant::now();
        let mut uplink = Uplink::new(None, now);
        push(&mut uplink, A, 1, now, now);
        let (pulled, expires) = (now + 100 * MS, now + 500 * MS);
        uplink.push(A, Seq(1), 10_000, Why::Pull, pulled, expires, pulled);
        assert_eq!(uplink.next(now + 400 * MS).map(|t| t.seq), Some(Seq(1)));
    }

    #[test]
    fn nothing_is_queued_twice_and_cancelled_pieces_stay_home() {
        let now = Instant::now();
        let mut uplink = Uplink::new(None, now);
        push(&mut uplink, A, 1, now, now);
        push(&mut uplink, A, 1, now, now);
        push(&mut uplink, A, 2, now, now);
        assert_eq!(uplink.waiting(), 2);
        uplink.cancel(A, |seq| seq == Seq(2));
        assert_eq!(uplink.next(now).map(|t| t.seq), Some(Seq(1)));
        assert_eq!(uplink.next(now), None);
    }
}
