//! What an uplink carries, found out by using it: never more than its children ask for.
//!
//! Every confirmed piece tells how much longer it took than the quickest to the same child. A rise at
//! most children is a queue in front of this node's own line; at one child it is that child's downlink.
//! While there is none and all slots are taken, the estimate doubles every second at first, and later
//! creeps; where there is one, it falls to what was delivered, by halves where a full line delivers much less than
//! it did (delay-based control as in LEDBAT, RFC
//! 6817, and BBR's start-up).

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::ids::{Bitrate, PeerId};

/// The estimate is looked at this often: a few pieces of each child.
const STEP: Duration = Duration::from_millis(200);
/// No queue: the jitter of lines and the delay of acknowledgements lie below.
const FLAT: Duration = Duration::from_millis(30);
/// A queue: pieces of a stripe are 160 ms apart, and one of them has to wait for another.
const QUEUE: Duration = Duration::from_millis(60);
/// What was delivered is counted over this time.
const OVER: Duration = Duration::from_secs(1);
/// So many children at least: of one or two a lost packet or a slow line looks like a queue here. With
/// fewer it takes so many looks, one after the other.
const SEVERAL: usize = 3;
const LOOKS: u32 = 4;
/// Where less than this share of it was used, a queue says little: no more than a step down.
const USED: f64 = 0.8;
const STEP_DOWN: f64 = 0.85;
/// After a fall it rests: the queue has to drain.
const REST: Duration = Duration::from_millis(1500);
/// Where less than this share of it is delivered, the line carries much less than it did: it falls so far, and
/// without a rest, as the queue grows all the while (the test `uplink`, where a line narrows to a fifth).
const NARROWED: f64 = 0.5;
/// What is delivered at present is counted over this time, a few pieces of each child.
const JUST: Duration = Duration::from_millis(400);
/// Such a queue is rarely a lost packet: of few children half as many looks will do.
const LONG_QUEUE: Duration = Duration::from_millis(240);
/// A line that is stuck takes nothing more, and is full all the same: what is on its way would take so long.
const FULL: Duration = Duration::from_millis(200);
/// A level at which a queue began is believed for so long; then more is tried, sooner.
const CEILING: Duration = Duration::from_secs(60);
/// Growth in a second: at first, back to where a queue began, beyond it, and when that is long ago. Every
/// time that it goes too far, children have to move.
const DOUBLE: f64 = 2.0;
const BACK: f64 = 1.15;
const CREEP: f64 = 1.001;
const AGAIN: f64 = 1.02;
/// Back means below this share of it.
const NEAR: f64 = 0.97;
/// Share of a first guess that is taken for granted: trains are short, and lines allow more at first.
const GUESS: f64 = 0.9;
/// It falls to this share of what was delivered; what is given away is less (see the children), so that
/// the queue drains.
const FALL: f64 = 0.985;
/// It never runs farther ahead of what is delivered.
const AHEAD: f64 = 2.0;
/// More is never found out: 1 Gbit/s.
const MOST: f64 = 125e6;

/// The quickest way to a child counts for so long, and as long again: routes change, clocks do not matter.
const BASE: Duration = Duration::from_secs(60);

/// The quickest that a piece was at a child, beside the time that its bytes take: in this minute, and in
/// the one before.
#[derive(Debug)]
struct Base {
    least: Duration,
    before: Duration,
    since: Instant,
}

impl Base {
    /// How much longer this one took.
    fn wait(&mut self, took: Duration, now: Instant) -> Duration {
        if now.saturating_duration_since(self.since) > BASE {
            self.before = std::mem::replace(&mut self.least, took);
            self.since = now;
        }
        self.least = self.least.min(took);
        took - self.least.min(self.before).min(took)
    }
}

fn long_ago(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) > CEILING
}

/// See the module.
#[derive(Debug)]
pub struct Capacity {
    /// Bytes per second.
    rate: f64,
    cap: f64,
    least: f64,
    /// Where a queue began, and when.
    ceiling: Option<(f64, Instant)>,
    looked: Instant,
    /// When it fell last.
    fell: Option<Instant>,
    bases: BTreeMap<PeerId, Base>,
    /// The least wait of each child since the last look.
    waits: BTreeMap<PeerId, Duration>,
    /// Looks in a row that saw a queue.
    queued: u32,
    sent: Flow,
    delivered: Flow,
}

/// Bytes of the last [`OVER`].
#[derive(Debug, Default)]
struct Flow {
    all: VecDeque<(Instant, usize)>,
    bytes: usize,
}

impl Flow {
    fn add(&mut self, bytes: usize, now: Instant) {
        self.all.push_back((now, bytes));
        self.bytes += bytes;
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        while let Some((at, bytes)) = self.all.front().copied()
            && now.saturating_duration_since(at) > OVER
        {
            self.bytes -= bytes;
            self.all.pop_front();
        }
    }

    /// Of the last [`JUST`].
    fn just(&self, now: Instant) -> f64 {
        let all = self.all.iter().rev();
        let just = all.take_while(|(at, _)| now.saturating_duration_since(*at) <= JUST);
        just.map(|(_, bytes)| *bytes).sum::<usize>() as f64 / JUST.as_secs_f64()
    }

    fn per_second(&mut self, now: Instant) -> f64 {
        self.forget(now);
        self.bytes as f64 / OVER.as_secs_f64()
    }
}

impl Capacity {
    /// Nothing is known yet. `cap`: what the user allows.
    pub fn new(cap: Bitrate, now: Instant) -> Self {
        Self {
            rate: 0.0,
            cap: cap.bytes_per_second().min(MOST),
            least: 0.0,
            ceiling: None,
            looked: now,
            fell: None,
            bases: BTreeMap::new(),
            waits: BTreeMap::new(),
            queued: 0,
            sent: Flow::default(),
            delivered: Flow::default(),
        }
    }

    /// The user said so much until now.
    pub fn told(rate: Bitrate, now: Instant) -> Self {
        Self {
            rate: rate.bytes_per_second().min(MOST),
            ..Self::new(Bitrate(u64::MAX), now)
        }
    }

    /// A line is taken to carry so many bytes per second until a queue shows, and again when that is
    /// long ago: one that lost all its children would never learn that it carries more.
    pub fn set_least(&mut self, least: f64, now: Instant) {
        self.least = match self.ceiling {
            Some((_, at)) if !long_ago(at, now) => 0.0,
            _ => least.min(self.cap),
        };
        self.rate = self.rate.max(self.least);
    }

    /// A first guess, in bytes per second.
    pub fn found(&mut self, guess: f64) {
        self.rate = self.rate.max((guess * GUESS).min(self.cap));
    }

    /// What it is thought to carry.
    pub fn rate(&self) -> Bitrate {
        Bitrate((self.rate * 8.0) as u64)
    }

    /// A child confirmed so many wire bytes, so long after they were sent.
    pub fn delivered(&mut self, peer: PeerId, bytes: usize, took: Duration, now: Instant) {
        // That they take on the line is no queue; small pieces are quicker.
        let line = Duration::from_secs_f64(bytes as f64 / self.rate.max(bytes as f64));
        let took = took.saturating_sub(line);
        let base = self.bases.entry(peer).or_insert(Base {
            least: took,
            before: took,
            since: now,
        });
        let wait = base.wait(took, now);
        let least = self.waits.entry(peer).or_insert(wait);
        *least = (*least).min(wait);
        self.delivered.add(bytes, now);
    }

    /// So many wire bytes of pieces go out.
    pub fn sent(&mut self, bytes: usize, now: Instant) {
        self.sent.add(bytes, now);
    }

    /// A child is gone.
    pub fn gone(&mut self, peer: PeerId) {
        self.bases.remove(&peer);
        self.waits.remove(&peer);
    }

    /// The wait at the median child: half of them and more saw as much.
    fn wait(&self) -> Option<Duration> {
        let mut waits: Vec<_> = self.waits.values().copied().collect();
        waits.sort_unstable();
        waits.get(waits.len().checked_sub(1)? / 2).copied()
    }

    /// Looks at what came in since the last look. `wanted`: all slots are taken; `beside`: bytes per
    /// second that went out beside pieces; `in_flight`: bytes that are not confirmed.
    pub fn look(&mut self, wanted: bool, beside: f64, in_flight: usize, now: Instant) {
        let elapsed = now.saturating_duration_since(self.looked);
        if elapsed < STEP {
            return;
        }
        self.looked = now;
        let wait = self.wait();
        let several = self.waits.len() >= SEVERAL;
        self.waits.clear();
        let delivered = self.delivered.per_second(now) + beside;
        let sent = self.sent.per_second(now) + beside;
        let full = in_flight as f64 >= self.rate * FULL.as_secs_f64();
        let used = sent >= self.rate * USED || full;
        let Some(wait) = wait else { return };
        self.queued = match wait > QUEUE {
            true => self.queued + 1,
            false => 0,
        };
        let looks = match (several, used && wait > LONG_QUEUE) {
            (true, _) => 1,
            (false, true) => LOOKS / 2,
            (false, false) => LOOKS,
        };
        let queues = self.queued >= looks;
        let just = self.delivered.just(now) + beside;
        let narrowed = queues && used && just < self.rate * NARROWED;
        let rests = match narrowed {
            true => JUST,
            false => REST,
        };
        if self
            .fell
            .is_some_and(|at| now.saturating_duration_since(at) < rests)
        {
            return;
        }
        if queues {
            self.queued = 0;
            self.fell = Some(now);
            let carries = match used {
                _ if narrowed => self.rate * NARROWED,
                true => delivered.min(self.rate),
                false => self.rate * STEP_DOWN,
            };
            self.ceiling = Some((carries, now));
            self.rate = carries * FALL;
        } else if wait < FLAT && wanted {
            let growth = match self.ceiling {
                None => DOUBLE,
                Some((ceiling, _)) if self.rate < ceiling * NEAR => BACK,
                Some((_, at)) if long_ago(at, now) => AGAIN,
                Some(_) => CREEP,
            };
            let seconds = elapsed.min(STEP * 2).as_secs_f64();
            let grown = self.rate * growth.powf(seconds);
            let most = (delivered * AHEAD).max(self.least).max(self.rate);
            self.rate = grown.min(most).min(self.cap);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    /// Of a piece.
    const BYTES: usize = 6_500;

    /// A line that carries `line` bytes per second and is offered what the estimate allows, for so
    /// many seconds; the estimate's course.
    fn course(capacity: &mut Capacity, line: f64, seconds: u64, from: Instant) -> Vec<f64> {
        let mut queue = 0.0_f64;
        let mut due = 0.0;
        let mut rates = Vec::new();
        for step in 0..seconds * 50 {
            let now = from + 20 * MS * step as u32;
            let offered = capacity.rate / 50.0;
            capacity.sent(offered as usize, now);
            queue = (queue + offered - line / 50.0).max(0.0);
            let took = Duration::from_secs_f64((queue + BYTES as f64) / line);
            due += offered.min(line / 50.0);
            let mut child = 0;
            while due >= BYTES as f64 {
                due -= BYTES as f64;
                child = (child + 1) % 8;
                capacity.delivered(PeerId(child), BYTES, took, now);
            }
            capacity.look(true, 0.0, queue as usize, now);
            rates.push(capacity.rate);
        }
        rates
    }

    /// One that has found out that its line carries four copies, and when.
    fn four_copies() -> (Capacity, Instant) {
        let now = Instant::now();
        let mut capacity = Capacity::new(Bitrate(u64::MAX), now);
        capacity.set_least(at(0.25), now);
        course(&mut capacity, at(4.0), 30, now);
        (capacity, now + Duration::from_secs(30))
    }

    fn at(copies: f64) -> f64 {
        copies * 312_500.0
    }

    #[test]
    fn it_finds_what_the_line_carries_and_stays_there() {
        for copies in [0.5, 1.0, 3.0, 10.0] {
            let now = Instant::now();
            let mut capacity = Capacity::new(Bitrate(u64::MAX), now);
            capacity.set_least(at(0.25), now);
            let rates = course(&mut capacity, at(copies), 60, now);
            let found = rates.iter().position(|r| *r >= at(copies) * 0.85);
            assert!(found.is_some_and(|step| step < 20 * 50), "within 20 s");
            let late = &rates[30 * 50..];
            let mean = late.iter().sum::<f64>() / late.len() as f64;
            let share = mean / at(copies);
            assert!((0.9..1.02).contains(&share), "{copies}: {share}");
        }
    }

    #[test]
    fn it_follows_a_line_that_narrows_within_three_seconds() {
        let (mut capacity, later) = four_copies();
        let rates = course(&mut capacity, at(0.8), 3, later);
        assert!(rates.last().is_some_and(|r| *r <= at(0.85)), "{rates:?}");
    }

    #[test]
    fn a_line_that_carries_a_fifth_is_seen_soon() {
        let (mut capacity, later) = four_copies();
        let rates = course(&mut capacity, at(0.8), 20, later);
        assert!(rates[74] <= at(1.0), "{}", rates[74] / at(1.0));
        let least = rates.iter().copied().fold(f64::MAX, f64::min);
        assert!(least > at(0.5), "{}", least / at(1.0));
    }

    #[test]
    fn one_child_with_a_slow_line_of_its_own_says_nothing_of_ours() {
        let now = Instant::now();
        let mut capacity = Capacity::new(Bitrate(u64::MAX), now);
        capacity.set_least(at(1.0), now);
        for step in 0..50 {
            let now = now + 100 * MS * step;
            for child in 0..6 {
                let wait = if child == 0 { 400 * MS } else { 5 * MS };
                capacity.delivered(PeerId(child), BYTES, wait, now);
            }
            capacity.look(true, 0.0, 0, now);
        }
        assert!(capacity.rate > at(1.0));
    }

    #[test]
    fn a_way_that_became_longer_is_no_queue_for_ever() {
        let now = Instant::now();
        let mut base = Base {
            least: 50 * MS,
            before: 50 * MS,
            since: now,
        };
        let wait = |base: &mut Base, s: u64| base.wait(150 * MS, now + Duration::from_secs(s));
        assert_eq!(wait(&mut base, 1), 100 * MS);
        assert_eq!(wait(&mut base, 61), 100 * MS);
        assert_eq!(wait(&mut base, 122), Duration::ZERO);
    }

    #[test]
    fn nobody_asks_and_it_stays() {
        let now = Instant::now();
        let mut capacity = Capacity::new(Bitrate(u64::MAX), now);
        capacity.set_least(at(1.0), now);
        for step in 0..50 {
            let now = now + 100 * MS * step;
            capacity.delivered(PeerId(1), BYTES, MS, now);
            capacity.look(false, 0.0, 0, now);
        }
        assert_eq!(capacity.rate, at(1.0));
    }

    #[test]
    fn it_never_goes_beyond_what_the_user_allows() {
        let now = Instant::now();
        let mut capacity = Capacity::new(Bitrate(4_000_000), now);
        capacity.set_least(at(0.25), now);
        let rates = course(&mut capacity, at(10.0), 30, now);
        assert!(rates.iter().all(|r| *r <= 500_000.0));
    }

    #[test]
    fn a_line_that_is_hardly_used_is_not_taken_for_a_narrow_one() {
        let now = Instant::now();
        let mut capacity = Capacity::told(Bitrate(10_000_000), now);
        for step in 0..100 {
            let now = now + 100 * MS * step;
            for child in 0..4 {
                capacity.sent(BYTES, now);
                // Packets were lost on the way to all, twice.
                let wait = if (50..54).contains(&step) {
                    400 * MS
                } else {
                    5 * MS
                };
                capacity.delivered(PeerId(child), BYTES, wait, now);
            }
            capacity.look(false, 0.0, 0, now);
        }
        assert!(capacity.rate > 1_000_000.0, "{}", capacity.rate);
    }

    #[test]
    fn one_child_that_waits_for_a_lost_packet_says_nothing() {
        let now = Instant::now();
        let mut capacity = Capacity::new(Bitrate(u64::MAX), now);
        capacity.set_least(at(0.25), now);
        capacity.found(at(10.0));
        let before = capacity.rate;
        for step in 0..100 {
            let now = now + 100 * MS * step;
            let wait = if step % 20 == 7 { 200 * MS } else { 5 * MS };
            capacity.delivered(PeerId(1), BYTES, wait, now);
            capacity.look(false, 0.0, 0, now);
        }
        assert_eq!(capacity.rate, before);
    }

    #[test]
    fn a_line_that_carries_less_than_anybody_thought_is_left_in_peace() {
        let now = Instant::now();
        let mut capacity = Capacity::new(Bitrate(u64::MAX), now);
        capacity.set_least(at(0.5), now);
        for round in 0..10 {
            let from = now + Duration::from_secs(round * 2);
            course(&mut capacity, at(0.3), 2, from);
            capacity.set_least(at(0.5), now);
        }
        assert!(capacity.rate < at(0.32), "{}", capacity.rate / at(1.0));
    }

    #[test]
    fn who_lost_all_children_to_a_narrow_line_tries_again_in_a_minute() {
        let now = Instant::now();
        let mut capacity = Capacity::new(Bitrate(u64::MAX), now);
        capacity.set_least(at(0.25), now);
        course(&mut capacity, at(0.02), 20, now);
        let narrow = now + Duration::from_secs(20);
        capacity.set_least(at(0.25), narrow);
        assert!(capacity.rate < at(0.1), "no child fits in");
        capacity.set_least(at(0.25), narrow + CEILING + MS);
        assert_eq!(capacity.rate, at(0.25));
    }
}
