//! Cuts the stream of items into pieces of one target size.
//!
//! The first moments of a stream are held back until its rate is known, since the number of
//! stripes and the piece duration follow from it and stay for the epoch.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::ids::SenderTime;
use crate::piece::MAX_PAYLOAD_BYTES;
use crate::policy::Policy;

/// How long the start of a stream is watched before its format is chosen.
pub const WARM_UP: Duration = Duration::from_millis(250);
/// A piece is closed when it is this old, however small, unless pieces are longer anyhow
/// (design: silence means failure, so even an idle stream sends).
pub const MAX_OPEN: Duration = Duration::from_millis(40);
/// Smallest target: below it the signature would weigh more than 10 %.
const MIN_TARGET_BYTES: f64 = 1000.0;
/// Longest piece, of low rates.
const MAX_PIECE: Duration = Duration::from_millis(80);
const PIECE: Duration = Duration::from_millis(20);
/// K times the piece duration stays near this (notes on the algorithm: 100 to 200 ms work,
/// 400 ms fail at load 0.9).
const ROUND: Duration = Duration::from_millis(160);
/// How far back the mean rate looks.
const RATE_WINDOW: Duration = Duration::from_secs(4);
/// Reports and starts tell of so many.
const MAX_STRIPES: u8 = 64;

/// What is chosen once per epoch, from the stream's rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Number of stripes, K.
    pub stripes: u8,
    /// Nominal duration of a piece.
    pub piece: Duration,
}

impl Format {
    /// The format for a mean rate in bytes per second.
    pub fn for_rate(bytes_per_second: f64) -> Self {
        let at_least = MIN_TARGET_BYTES / bytes_per_second.max(1.0);
        let piece =
            Duration::from_secs_f64(at_least.clamp(PIECE.as_secs_f64(), MAX_PIECE.as_secs_f64()));
        let stripes = (ROUND.as_secs_f64() / piece.as_secs_f64()).round();
        Self {
            stripes: stripes.clamp(2.0, 8.0) as u8,
            piece,
        }
    }

    /// The same, but for what is set otherwise.
    pub fn with(self, policy: Policy) -> Self {
        Self {
            stripes: policy.stripes.unwrap_or(self.stripes).clamp(1, MAX_STRIPES),
            piece: policy.piece.unwrap_or(self.piece),
        }
    }

    /// How long a piece stays open.
    pub fn max_open(&self) -> Duration {
        self.piece.max(MAX_OPEN)
    }

    /// Time in which every stripe carries one piece.
    pub fn round(&self) -> Duration {
        self.piece * u32::from(self.stripes)
    }
}

/// What an item is to a decoder that starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Entry {
    /// Nothing.
    #[default]
    None,
    /// What the next join point needs begins here: the tables of a transport stream.
    Lead,
    /// It can start here.
    Join,
}

/// A finished payload, not yet numbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The bytes.
    pub payload: Bytes,
    /// Offset of the first item that begins here.
    pub first_item: Option<u32>,
    /// When the first byte entered.
    pub time: SenderTime,
    /// Version of the stream header at the first item.
    pub header: u32,
    /// A decoder can start here.
    pub join: bool,
    /// What it needs before begins in this piece.
    pub lead: bool,
}

#[derive(Debug, Clone)]
struct Item {
    data: Bytes,
    entry: Entry,
    header: u32,
    time: SenderTime,
}

#[derive(Debug)]
struct Open {
    payload: BytesMut,
    first_item: Option<u32>,
    time: SenderTime,
    header: u32,
    join: bool,
    lead: bool,
    since: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Cutter {
    policy: Policy,
    format: Option<Format>,
    held: Vec<Item>,
    held_since: Option<Instant>,
    open: Option<Open>,
    last_closed: Option<Instant>,
    target: usize,
    recent: VecDeque<(SenderTime, usize)>,
    recent_bytes: usize,
    out: VecDeque<Cut>,
    header: u32,
}

impl Default for Cutter {
    fn default() -> Self {
        Self::new(Policy::default())
    }
}

impl Cutter {
    /// A cutter at the start of an epoch.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            format: None,
            held: Vec::new(),
            held_since: None,
            open: None,
            last_closed: None,
            target: MIN_TARGET_BYTES as usize,
            recent: VecDeque::new(),
            recent_bytes: 0,
            out: VecDeque::new(),
            header: 0,
        }
    }

    /// The format, once the stream has shown its rate.
    pub fn format(&self) -> Option<Format> {
        self.format
    }

    /// Mean rate of the last seconds, in bytes per second.
    pub fn rate(&self) -> f64 {
        let (Some(first), Some(last)) = (self.recent.front(), self.recent.back()) else {
            return 0.0;
        };
        let span = last.0.since(first.0).max(Duration::from_millis(200));
        self.recent_bytes as f64 / span.as_secs_f64()
    }

    /// Takes the next item of the stream.
    pub fn offer(
        &mut self,
        data: Bytes,
        entry: Entry,
        header: u32,
        time: SenderTime,
        now: Instant,
    ) {
        self.recent.push_back((time, data.len()));
        self.recent_bytes += data.len();
        while let Some((at, size)) = self.recent.front().copied() {
            if time.since(at) <= RATE_WINDOW {
                break;
            }
            self.recent.pop_front();
            self.recent_bytes -= size;
        }
        let item = Item {
            data,
            entry,
            header,
            time,
        };
        if self.format.is_none() {
            self.held.push(item);
            let since = *self.held_since.get_or_insert(now);
            // A faster stream than this is known to be fast.
            if now.saturating_duration_since(since) >= WARM_UP || self.recent_bytes > 256 * 1024 {
                self.warm(now);
            }
            return;
        }
        self.append(item, now);
    }

    fn warm(&mut self, now: Instant) {
        let since = self.held_since.unwrap_or(now);
        let span = now
            .saturating_duration_since(since)
            .max(Duration::from_millis(50));
        let rate = self.recent_bytes as f64 / span.as_secs_f64();
        self.format = Some(Format::for_rate(rate).with(self.policy));
        self.retarget(rate);
        for item in std::mem::take(&mut self.held) {
            self.append(item, now);
        }
    }

    fn retarget(&mut self, rate: f64) {
        let Some(format) = self.format else { return };
        let target = (rate * format.piece.as_secs_f64()).max(MIN_TARGET_BYTES);
        self.target = (target as usize).min(MAX_PAYLOAD_BYTES);
    }

    fn append(&mut self, item: Item, now: Instant) {
        let join = item.entry == Entry::Join;
        if join || item.header != self.header {
            self.close(now);
            if join && self.recent.len() > 1 && self.rate() > 0.0 {
                self.retarget(self.rate());
            }
        }
        self.header = item.header;
        let mut rest = &item.data[..];
        let mut first = true;
        while first || !rest.is_empty() {
            let target = self.target;
            let open = self.open.get_or_insert_with(|| Open {
                payload: BytesMut::with_capacity(target),
                first_item: None,
                time: item.time,
                header: item.header,
                join: first && join,
                lead: false,
                since: now,
            });
            if first {
                open.lead |= item.entry == Entry::Lead;
                open.first_item.get_or_insert(open.payload.len() as u32);
                first = false;
            }
            let take = rest.len().min(target.saturating_sub(open.payload.len()));
            open.payload.extend_from_slice(&rest[..take]);
            rest = &rest[take..];
            if open.payload.len() >= target {
                self.close(now);
            }
        }
    }

    fn close(&mut self, now: Instant) {
        if let Some(open) = self.open.take() {
            self.last_closed = Some(now);
            self.out.push_back(Cut {
                payload: open.payload.freeze(),
                first_item: open.first_item,
                time: open.time,
                header: open.header,
                join: open.join,
                lead: open.lead,
            });
        }
    }

    /// Closes what is open, at the end of the stream.
    pub fn finish(&mut self, now: Instant) {
        if self.format.is_none() && !self.held.is_empty() {
            self.warm(now);
        }
        self.close(now);
    }

    /// Lets time pass. An idle stream yields an empty piece every [`MAX_OPEN`], so that silence
    /// always means failure; `time` is the sender's present time.
    pub fn tick(&mut self, time: SenderTime, now: Instant) {
        if self.format.is_none() {
            if self
                .held_since
                .is_some_and(|at| now.saturating_duration_since(at) >= WARM_UP)
            {
                self.warm(now);
            }
            return;
        }
        let max_open = self.format.map_or(MAX_OPEN, |f| f.max_open());
        match &self.open {
            Some(open) => {
                if now.saturating_duration_since(open.since) >= max_open {
                    self.close(now);
                }
            }
            None => {
                let idle = self.last_closed.map(|at| now.saturating_duration_since(at));
                if idle.is_none_or(|idle| idle >= max_open) {
                    self.last_closed = Some(now);
                    self.out.push_back(Cut {
                        payload: Bytes::new(),
                        first_item: None,
                        time,
                        header: self.header,
                        join: false,
                        lead: false,
                    });
                }
            }
        }
    }

    /// When [`Cutter::tick`] is next of use.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let Some(format) = self.format else {
            return self.held_since.map(|at| at + WARM_UP);
        };
        match &self.open {
            Some(open) => Some(open.since + format.max_open()),
            None => self.last_closed.map(|at| at + format.max_open()),
        }
    }

    /// The next finished payload.
    pub fn poll(&mut self) -> Option<Cut> {
        self.out.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(base: Instant, ms: u64) -> (SenderTime, Instant) {
        (SenderTime(ms * 1_000_000), base + Duration::from_millis(ms))
    }

    /// 500 kB/s in 10 kB items of 20 ms, a join point every 500 ms.
    fn run(ms: u64) -> (Cutter, Vec<Cut>, Vec<u8>) {
        let base = Instant::now();
        let mut cutter = Cutter::new(Policy::default());
        let mut cuts = Vec::new();
        let mut bytes = Vec::new();
        for step in 0..ms / 20 {
            let (time, now) = at(base, step * 20);
            let data = vec![step as u8; 10_000];
            bytes.extend_from_slice(&data);
            cutter.tick(time, now);
            let entry = match step % 25 {
                0 => Entry::Join,
                24 => Entry::Lead,
                _ => Entry::None,
            };
            cutter.offer(data.into(), entry, 1, time, now);
            cuts.extend(std::iter::from_fn(|| cutter.poll()));
        }
        let (_, now) = at(base, ms);
        cutter.finish(now);
        cuts.extend(std::iter::from_fn(|| cutter.poll()));
        (cutter, cuts, bytes)
    }

    #[test]
    fn no_byte_is_lost_or_moved() {
        let (_, cuts, bytes) = run(3000);
        let joined: Vec<u8> = cuts.iter().flat_map(|cut| cut.payload.to_vec()).collect();
        assert!(joined == bytes);
    }

    #[test]
    fn a_piece_starts_at_every_join_point_and_holds_about_20_ms() {
        let (cutter, cuts, _) = run(3000);
        assert_eq!(cutter.format().unwrap().stripes, 8);
        let joins: Vec<_> = cuts.iter().filter(|cut| cut.join).collect();
        assert_eq!(joins.len(), 6);
        assert!(
            joins
                .iter()
                .all(|cut| cut.first_item == Some(0) && !cut.lead)
        );
        let leads = cuts.iter().filter(|cut| cut.lead).count();
        assert_eq!(leads, 6);
        let mean = cuts.iter().map(|cut| cut.payload.len()).sum::<usize>() / cuts.len();
        assert!((7_000..12_500).contains(&mean), "{mean}");
    }

    #[test]
    fn audio_gets_longer_pieces_and_fewer_stripes() {
        assert_eq!(
            Format::for_rate(16_000.0),
            Format {
                stripes: 3,
                piece: Duration::from_secs_f64(1000.0 / 16_000.0)
            }
        );
        assert_eq!(Format::for_rate(500.0).stripes, 2);
        assert_eq!(Format::for_rate(1e9).stripes, 8);
    }

    #[test]
    fn an_idle_stream_still_sends() {
        let base = Instant::now();
        let (mut cutter, _, _) = run(1000);
        let mut cuts = 0;
        for ms in (1000..2000).step_by(10) {
            let (time, now) = at(base, ms + 100);
            cutter.tick(time, now);
            while let Some(cut) = cutter.poll() {
                assert!(cut.payload.is_empty() && !cut.join);
                cuts += 1;
            }
        }
        assert!((20..=26).contains(&cuts), "{cuts}");
    }

    #[test]
    fn a_change_of_header_closes_the_piece() {
        let base = Instant::now();
        let mut cutter = Cutter::new(Policy::default());
        let (time, now) = at(base, 0);
        cutter.offer(Bytes::from_static(b"a"), Entry::Join, 1, time, now);
        cutter.offer(Bytes::from_static(b"b"), Entry::None, 2, time, now);
        cutter.finish(now);
        let cuts: Vec<_> = std::iter::from_fn(|| cutter.poll()).collect();
        assert_eq!(cuts.len(), 2);
        assert_eq!((cuts[0].header, cuts[1].header), (1, 2));
        assert_eq!(cuts[1].first_item, Some(0));
    }
}
