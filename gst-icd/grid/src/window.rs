//! The recent stream in memory: verified pieces, join points, what is missing.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::ids::{SenderTime, Seq};
use crate::piece::Piece;

/// How much a window holds; whichever bound is met first evicts the oldest.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Sender time between the oldest and the newest piece.
    pub span: Duration,
    /// Bytes of payloads and prefixes.
    pub bytes: usize,
}

/// A number so far from the others has nothing to do with what is here: five hours of 20 ms
/// pieces.
const LEAP: u64 = 1 << 20;

/// What became of an offered piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is new and stored.
    New,
    /// It was there already.
    Duplicate,
    /// It is older than what the window holds.
    Stale,
}

/// See the module.
#[derive(Debug)]
pub struct Window {
    bounds: Bounds,
    /// One place for each number from `base` on; the first and the last are taken.
    places: VecDeque<Option<Piece>>,
    base: Seq,
    count: usize,
    joins: BTreeSet<Seq>,
    bytes: usize,
    floor: Seq,
}

impl Window {
    /// An empty window.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            places: VecDeque::new(),
            base: Seq(0),
            count: 0,
            joins: BTreeSet::new(),
            bytes: 0,
            floor: Seq(0),
        }
    }

    /// Forgets everything, for a new epoch.
    pub fn clear(&mut self) {
        *self = Self::new(self.bounds);
    }

    /// Stores a verified piece and evicts what exceeds the bounds.
    pub fn offer(&mut self, piece: Piece) -> Offered {
        let info = *piece.info();
        if info.seq < self.floor || self.too_old(info.time) {
            return Offered::Stale;
        }
        if self.has(info.seq) {
            return Offered::Duplicate;
        }
        if self.head().is_some_and(|head| info.seq > head.plus(LEAP)) {
            self.clear();
            self.floor = info.seq;
        }
        if self.base.0.saturating_sub(info.seq.0) > LEAP {
            return Offered::Stale;
        }
        self.bytes += piece.body().len();
        if info.join {
            self.joins.insert(info.seq);
        }
        self.put(info.seq, piece);
        self.evict();
        if self.floor > info.seq {
            return Offered::Stale;
        }
        Offered::New
    }

    fn put(&mut self, seq: Seq, piece: Piece) {
        if self.places.is_empty() {
            self.base = seq;
        }
        while seq < self.base {
            self.places.push_front(None);
            self.base.0 -= 1;
        }
        let at = (seq.0 - self.base.0) as usize;
        if self.places.len() <= at {
            self.places.resize_with(at + 1, || None);
        }
        self.places[at] = Some(piece);
        self.count += 1;
    }

    /// Whether what is here is that much newer.
    fn too_old(&self, time: SenderTime) -> bool {
        let newest = self.newest_time();
        newest.is_some_and(|newest| newest.since(time) > self.bounds.span)
    }

    fn evict(&mut self) {
        loop {
            let oldest = self.pieces().next().map(|piece| *piece.info());
            let Some(oldest) = oldest else { break };
            let too_much = self.bytes > self.bounds.bytes || self.too_old(oldest.time);
            if !too_much || self.count == 1 {
                break;
            }
            if let Some(oldest) = self.places.pop_front().flatten() {
                self.bytes -= oldest.body().len();
            }
            self.count -= 1;
            self.joins.remove(&oldest.seq);
            self.floor = oldest.seq.plus(1);
            self.base = self.floor;
            while let Some(None) = self.places.front() {
                self.places.pop_front();
                self.base = self.base.plus(1);
            }
        }
    }

    /// All that are here, the oldest first.
    fn pieces(&self) -> impl DoubleEndedIterator<Item = &Piece> {
        self.places.iter().flatten()
    }

    /// A piece, if it is here.
    pub fn get(&self, seq: Seq) -> Option<&Piece> {
        let at = seq.0.checked_sub(self.base.0)?;
        self.places.get(usize::try_from(at).ok()?)?.as_ref()
    }

    /// Whether a piece is here.
    pub fn has(&self, seq: Seq) -> bool {
        self.get(seq).is_some()
    }

    /// The newest piece.
    pub fn head(&self) -> Option<Seq> {
        self.newest().map(|piece| piece.info().seq)
    }

    fn newest(&self) -> Option<&Piece> {
        self.places.back()?.as_ref()
    }

    /// Sender time of the newest piece.
    pub fn newest_time(&self) -> Option<SenderTime> {
        self.newest().map(|piece| piece.info().time)
    }

    /// Whether the broadcaster's end is here.
    pub fn ended(&self) -> bool {
        self.newest().is_some_and(|piece| piece.info().end)
    }

    /// The oldest piece.
    pub fn first(&self) -> Option<Seq> {
        (self.count > 0).then_some(self.base)
    }

    /// Older pieces than this one are no longer accepted.
    pub fn floor(&self) -> Seq {
        self.floor
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The newest piece of each stripe; none where there is none.
    pub fn heads(&self, stripes: u8) -> Vec<Option<Seq>> {
        let mut heads = vec![None; usize::from(stripes)];
        let mut found = 0;
        for seq in self.pieces().rev().map(|piece| piece.info().seq) {
            let head = &mut heads[seq.stripe(stripes).index()];
            if head.is_none() {
                *head = Some(seq);
                found += 1;
                if found == heads.len() {
                    break;
                }
            }
        }
        heads
    }

    /// The newest pieces that are not here although later ones of their stripe are, at most
    /// `most` of them.
    pub fn holes(&self, heads: &[Option<Seq>], most: usize) -> Vec<Seq> {
        let count = self.count_holes(heads);
        let (stripes, first) = (heads.len() as u64, self.base.0);
        let newest = heads.iter().flatten().max().map_or(first, |seq| seq.0);
        let missing = |seq: &Seq| {
            let head = heads[(seq.0 % stripes) as usize];
            head.is_some_and(|head| *seq < head) && !self.has(*seq)
        };
        (first..newest)
            .rev()
            .map(Seq)
            .filter(missing)
            .take(most.min(count))
            .collect()
    }

    /// Whether pieces lack, or a whole stripe is behind the others.
    pub fn lacks(&self, heads: &[Option<Seq>]) -> bool {
        let newest = heads.iter().flatten().max();
        let behind = |head: &Option<Seq>| {
            let rounds = 3 * heads.len() as u64;
            newest.is_some_and(|n| head.is_none_or(|head| head.plus(rounds) < *n))
        };
        self.count_holes(heads) > 0 || heads.iter().any(behind)
    }

    /// How many holes there are: all that lack, but for those beyond the newest of their stripe.
    fn count_holes(&self, heads: &[Option<Seq>]) -> usize {
        let lack = self.places.len() - self.count;
        let (first, Some(newest)) = (self.base.0, self.head()) else {
            return 0;
        };
        if lack == 0 {
            return 0;
        }
        // Wider than a number of a piece, which may be the largest that there is.
        let stripes = heads.len().max(1) as u128;
        let of_stripe = |k: u128, below: u128| (below + stripes - 1 - k) / stripes;
        let not_yet = |(k, head): (usize, &Option<Seq>)| {
            let from = head.map_or(u128::from(first), |head| u128::from(head.0) + 1);
            of_stripe(k as u128, u128::from(newest.0) + 1) - of_stripe(k as u128, from)
        };
        let not_yet: u128 = heads.iter().enumerate().map(not_yet).sum();
        lack.saturating_sub(not_yet as usize)
    }

    /// The first number from `from` on that is not here.
    pub fn first_missing(&self, from: Seq) -> Seq {
        // Nothing lacks behind what is complete.
        if self.count == self.places.len() && self.has(from) {
            return self.head().unwrap_or(from).plus(1);
        }
        let mut seq = from;
        while self.has(seq) {
            seq = seq.plus(1);
        }
        seq
    }

    /// Pieces here from `from` on, in order.
    pub fn from(&self, from: Seq) -> impl Iterator<Item = &Piece> {
        let skipped = from.0.saturating_sub(self.base.0);
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        self.places
            .range(skipped.min(self.places.len())..)
            .flatten()
    }

    /// Sender time of a missing piece, as far as its neighbours tell: not later than the true
    /// one, so that nobody waits too long for it.
    pub fn time_of(&self, seq: Seq) -> Option<SenderTime> {
        let places = seq.0.saturating_add(1).saturating_sub(self.base.0);
        let places = usize::try_from(places).unwrap_or(usize::MAX);
        let before = self.places.range(..places.min(self.places.len()));
        let known = before.rev().flatten().next().or(self.pieces().next());
        known.map(|piece| piece.info().time)
    }

    /// The newest join point not younger than `age` at sender time `now`; else the oldest one.
    pub fn join_of_age(&self, age: Duration, now: SenderTime) -> Option<Seq> {
        let is_old = |seq: &&Seq| {
            self.get(**seq)
                .is_some_and(|s| now.since(s.info().time) >= age)
        };
        self.joins
            .iter()
            .rev()
            .find(is_old)
            .or(self.joins.first())
            .copied()
    }

    /// The newest join point.
    pub fn newest_join(&self) -> Option<Seq> {
        self.joins.last().copied()
    }

    /// The longest time from one join point to the next, among those here.
    pub fn longest_group(&self) -> Duration {
        let time = |seq: &Seq| self.get(*seq).map(|piece| piece.info().time);
        let times: Vec<_> = self.joins.iter().filter_map(time).collect();
        let spans = times.windows(2).map(|pair| pair[1].since(pair[0]));
        spans.max().unwrap_or_default()
    }

    /// The first join point at or after `from`.
    pub fn join_after(&self, from: Seq) -> Option<Seq> {
        self.joins.range(from..).next().copied()
    }

    /// The oldest stream header that pieces here refer to.
    pub fn oldest_header(&self) -> Option<u32> {
        self.pieces().next().map(|piece| piece.info().header)
    }

    /// Mean bytes per second on the wire, over what is here; none before it says anything.
    pub fn rate(&self) -> Option<f64> {
        let first = self.pieces().next()?.info();
        let last = self.newest()?.info();
        let span = last.time.since(first.time);
        let expected = last.seq.0 - first.seq.0 + 1;
        if span < Duration::from_millis(1500) || expected == 0 {
            return None;
        }
        // Missing pieces are taken to be of mean size.
        let share = self.count as f64 / expected as f64;
        Some(self.bytes as f64 / share / span.as_secs_f64())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ids::{Epoch, StreamKey};
    use crate::piece::PieceInfo;
    use crate::trust::{Context, SIGNATURE_BYTES, Sign};

    #[derive(Debug)]
    struct Nobody;

    impl Sign for Nobody {
        fn key(&self) -> StreamKey {
            StreamKey([0; 32])
        }
        fn sign(&self, _: Context, _: &[u8]) -> [u8; SIGNATURE_BYTES] {
            [0; SIGNATURE_BYTES]
        }
    }

    /// A piece every 20 ms, a join point every 50 pieces.
    pub(crate) fn piece(seq: u64) -> Piece {
        let info = PieceInfo {
            epoch: Epoch(1),
            seq: Seq(seq),
            time: SenderTime(seq * 20_000_000),
            header: 1,
            first_item: Some(0),
            join: seq.is_multiple_of(50),
            end: false,
        };
        Piece::sign(info, &[0; 1000], &Nobody)
    }

    fn window(span_ms: u64, bytes: usize) -> Window {
        Window::new(Bounds {
            span: Duration::from_millis(span_ms),
            bytes,
        })
    }

    #[test]
    fn the_oldest_go_first_by_age_and_by_bytes() {
        let mut by_age = window(1000, usize::MAX);
        let mut by_bytes = window(u64::MAX / 2, 11_000);
        for seq in 0..200 {
            assert_eq!(by_age.offer(piece(seq)), Offered::New);
            by_bytes.offer(piece(seq));
        }
        assert_eq!(by_age.first(), Some(Seq(149)));
        assert!(by_bytes.bytes() <= 11_000);
        assert_eq!(by_age.offer(piece(3)), Offered::Stale);
        assert_eq!(by_age.offer(piece(180)), Offered::Duplicate);
    }

    #[test]
    fn a_joiner_gets_a_picture_that_is_due_or_the_oldest_there_is() {
        let mut w = window(10_000, usize::MAX);
        for seq in 0..=240 {
            w.offer(piece(seq));
        }
        let present = SenderTime(240 * 20_000_000);
        assert_eq!(
            w.join_of_age(Duration::from_millis(2000), present),
            Some(Seq(100))
        );
        assert_eq!(
            w.join_of_age(Duration::from_millis(9000), present),
            Some(Seq(0))
        );
        assert_eq!(w.newest_join(), Some(Seq(200)));
        assert_eq!(w.longest_group(), Duration::from_secs(1));
    }

    #[test]
    fn a_missing_piece_is_given_its_neighbours_time() {
        let mut w = window(10_000, usize::MAX);
        w.offer(piece(10));
        w.offer(piece(14));
        assert_eq!(w.time_of(Seq(12)), Some(SenderTime(200_000_000)));
        assert_eq!(w.time_of(Seq(5)), Some(SenderTime(200_000_000)));
        assert_eq!(w.heads(4), vec![None, None, Some(Seq(14)), None]);
        assert_eq!(w.first_missing(Seq(10)), Seq(11));
    }

    #[test]
    fn a_hole_is_what_later_pieces_of_its_stripe_have_passed() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let mut w = window(10_000, usize::MAX);
            let first = rng.u64(..100);
            for n in first..first + 40 {
                if rng.f64() < 0.8 {
                    w.offer(piece(n));
                }
            }
            let heads = w.heads(4);
            let lacks = |n: &u64| {
                let head = heads[(*n % 4) as usize];
                !w.has(Seq(*n)) && head.is_some_and(|head| head > Seq(*n))
            };
            let base = w.first().map_or(0, |seq| seq.0);
            let expected: Vec<_> = (base..first + 40).rev().filter(lacks).map(Seq).collect();
            assert_eq!(w.count_holes(&heads), expected.len());
            assert_eq!(w.holes(&heads, usize::MAX), expected);
            assert_eq!(w.holes(&heads, 2), expected[..expected.len().min(2)]);
        }
    }

    #[test]
    fn pieces_may_come_in_any_order_and_all_that_are_here_are_found() {
        let mut w = window(10_000, usize::MAX);
        let order = [50, 53, 48, 51, 52, 49];
        assert!(order.iter().all(|n| w.offer(piece(*n)) == Offered::New));
        assert_eq!((w.first(), w.head()), (Some(Seq(48)), Some(Seq(53))));
        assert_eq!(w.first_missing(Seq(50)), Seq(54));
        let all: Vec<_> = w.from(Seq(0)).map(|p| p.info().seq.0).collect();
        assert_eq!(all, [48, 49, 50, 51, 52, 53]);
        assert_eq!(w.from(Seq(52)).count(), 2);
        assert_eq!(w.from(Seq(99)).count(), 0);
        // An hour later nothing of that is left, and none of it comes back.
        assert_eq!(w.offer(piece(180_000)), Offered::New);
        assert_eq!(
            (w.first(), w.bytes()),
            (Some(Seq(180_000)), piece(0).body().len())
        );
        assert_eq!(w.offer(piece(54)), Offered::Stale);
        assert!(!w.has(Seq(54)) && !w.has(Seq(180_001)));
    }
}
