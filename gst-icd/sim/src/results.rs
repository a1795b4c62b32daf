//! The figures of a run.

use std::time::Duration;

use serde::Serialize;

use crate::measure::{Measure, Tally};
use crate::people::People;
use crate::settings::Settings;
use crate::stage::{Counts, Viewer};
use crate::trees::Trees;

/// Quantiles of the lag, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Lag {
    /// Half of the pieces came sooner.
    pub p50: u32,
    /// 99 %.
    pub p99: u32,
    /// 99.9 %.
    pub p999: u32,
    /// The last.
    pub max: u32,
}

/// Two quantiles, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Times {
    /// Half of them.
    pub p50: u32,
    /// 99 %.
    pub p99: u32,
}

/// How many nodes a stripe passes until it is at a viewer.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Depth {
    /// In the mean.
    pub mean: f64,
    /// At most.
    pub max: u32,
}

/// One second of the measured time.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Second {
    /// Pieces that were due in it, at all viewers.
    pub due: u64,
    /// Share of the pieces due in it that were there.
    pub on_time: f64,
    /// What the seed sent in it, in copies of the stream.
    pub seed_x: f64,
}

/// What `--json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    /// Share of the pieces due at all viewers that were there when they were due.
    pub on_time: f64,
    /// Share of the viewers with 99.9 % of theirs on time.
    pub viewers_at_999: f64,
    /// The worst second's share of pieces on time.
    pub worst_second: f64,
    /// From a piece's making to its verified arrival.
    pub lag_ms: Lag,
    /// What the seed sent, in copies of the stream, headers included in both.
    pub seed_x: f64,
    /// Share of the viewers' bytes that viewers sent.
    pub offload: f64,
    /// From a viewer's first packet to its first frame, when that is complete; of those that came
    /// in the measured time, if any did.
    pub start_ms: Times,
    /// Share of the pieces that came twice.
    pub duplicate: f64,
    /// Share of the wire bytes that are messages, with their packets.
    pub control: f64,
    /// Share of the pieces that were pulled.
    pub pulled: f64,
    /// From a death to its noticing.
    pub detect_ms: Times,
    /// From a viewer's wish to reach another to the connection.
    pub meet_ms: Times,
    /// Viewers that others wanted to reach and did not: they were gone, or no way to them was found.
    pub unmet: u64,
    /// Refusals.
    pub refused: u64,
    /// Viewers that came in.
    pub admitted: usize,
    /// As `on_time`, of the viewers that were there from the beginning.
    pub on_time_old: f64,
    /// As `on_time`, of those that came later.
    pub on_time_new: f64,
    /// As `on_time`, of those that do not misbehave.
    pub on_time_honest: f64,
    /// Pieces that honest viewers passed on or played although the broadcaster did not make them so.
    pub forged: u64,
    /// Places that liars invented, to which honest viewers sent probes.
    pub misled: u64,
    /// Each second.
    pub per_second: Vec<Second>,
    /// From the disaster to the first of five seconds with 99.9 % on time; none if never.
    pub recovered_s: Option<u64>,
    /// Viewers with a second in which a tenth and more of their pieces was late.
    pub stalled_viewers: usize,
    /// Seconds in which a line carried more than it can: a fault of the simulator.
    pub over_capacity: u64,
    /// What the payloads alone take of all uplinks.
    pub payload_load: f64,
    /// Wire bytes of pieces and messages for each byte of payload.
    pub wire_overhead: f64,
    /// Of the trees at the end.
    pub depth: Depth,
    /// Resident memory of the simulator at the end.
    pub rss_bytes: u64,
    /// What the run took.
    pub wall_s: f64,
    /// Measured from this second of the run ...
    pub from_s: f64,
    /// ... to this one.
    pub to_s: f64,
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn sum(measure: &Measure, which: impl Fn(usize) -> bool) -> f64 {
    let mut all = Tally::default();
    for (n, track) in measure.tracks().iter().enumerate() {
        if which(n + 1) {
            all.due += track.tally.due;
            all.good += track.tally.good;
        }
    }
    all.share()
}

impl Depth {
    fn of(trees: &Trees) -> Self {
        let depths: Vec<_> = trees.depths().collect();
        Self {
            mean: depths.iter().sum::<u32>() as f64 / depths.len().max(1) as f64,
            max: depths.iter().copied().max().unwrap_or(0),
        }
    }
}

impl Results {
    /// Of a run that is over.
    pub fn of(settings: &Settings, people: &People<'_>, wall: Duration) -> Self {
        let world = people.world();
        let measure = world.measure();
        let counts = world.counts();
        let before = &people.before;
        let since = |f: fn(&Counts) -> f64| f(&counts) - f(before);
        let copy = people.copy() / 8.0;
        let from = people.from.as_secs() as usize;
        let to = world.elapsed().as_secs() as usize;
        let sent = people.seed_bytes();
        let at = |second: usize| match second {
            0 => 0.0,
            n => sent.get(n - 1).copied().unwrap_or(0.0),
        };
        let per_second: Vec<_> = (from..to)
            .map(|second| Second {
                due: measure.seconds.get(second).map_or(0, |tally| tally.due),
                on_time: measure.seconds.get(second).map_or(1.0, Tally::share),
                seed_x: (at(second + 1) - at(second)) / copy,
            })
            .collect();
        let viewers = world.viewers();
        // Of those that came in the measured time, if any did.
        let late = |host: usize| people.late.binary_search(&host).is_ok();
        let began = viewers.iter().enumerate();
        let newer = |n: usize, v: &Viewer| late(n + 1) && v.born >= people.from;
        let began = began.filter_map(|(n, v)| Some((newer(n, v), v.start?.as_millis() as u32)));
        let (newer, mut starts): (Vec<_>, Vec<_>) = began.partition(|(newer, _)| *newer);
        let admitted = newer.len() + starts.len();
        if !newer.is_empty() {
            starts = newer;
        }
        let mut starts: Vec<u32> = starts.into_iter().map(|(_, ms)| ms).collect();
        starts.sort_unstable();
        let start = |share: f64| match starts.len() {
            0 => 0,
            n => starts[((n as f64 * share) as usize).min(n - 1)],
        };
        let by_seed = since(|c| c.from_seed as f64);
        let by_peers = since(|c| c.from_peers as f64);
        let pieces = since(|c| c.pieces as f64).max(1.0);
        let messages = since(|c| c.message_bytes);
        let all = messages + since(|c| c.piece_bytes);
        let tracks = measure.tracks();
        let seen: Vec<_> = tracks.iter().filter(|t| t.tally.due > 0).collect();
        let at_999 = seen.iter().filter(|t| t.tally.share() >= 0.999).count();
        let struck = settings.fail_at_s as usize;
        let after = per_second.get(struck..).unwrap_or_default();
        let recovered = after
            .windows(5)
            .position(|five| five.iter().all(|s| s.on_time >= 0.999));
        let liar = |host: usize| people.liars.contains(&host);
        let payload = since(|c| c.payload_bytes).max(1.0);
        let lag = |share| measure.lag.quantile(share);
        Self {
            // Where nobody plays, nothing is good.
            on_time: match seen.is_empty() {
                true => 0.0,
                false => sum(measure, |_| true),
            },
            viewers_at_999: at_999 as f64 / seen.len().max(1) as f64,
            worst_second: per_second.iter().map(|s| s.on_time).fold(1.0, f64::min),
            lag_ms: Lag {
                p50: lag(0.5),
                p99: lag(0.99),
                p999: lag(0.999),
                max: measure.lag.most(),
            },
            seed_x: (at(to) - at(from)) / copy / (to - from).max(1) as f64,
            offload: by_peers / (by_seed + by_peers).max(1.0),
            start_ms: Times {
                p50: start(0.5),
                p99: start(0.99),
            },
            duplicate: since(|c| c.duplicates as f64) / pieces,
            control: messages / all.max(1.0),
            pulled: since(|c| c.rescued as f64) / pieces,
            meet_ms: Times {
                p50: counts.meet.quantile(0.5),
                p99: counts.meet.quantile(0.99),
            },
            unmet: counts.unmet,
            detect_ms: Times {
                p50: counts.detect.quantile(0.5),
                p99: counts.detect.quantile(0.99),
            },
            refused: counts.refused,
            admitted,
            on_time_old: sum(measure, |host| !late(host)),
            on_time_new: sum(measure, late),
            on_time_honest: sum(measure, |host| !liar(host)),
            forged: counts.forged,
            misled: counts.misled,
            recovered_s: recovered.map(|s| s as u64),
            per_second,
            stalled_viewers: tracks.iter().filter(|t| t.stalls > 0).count(),
            over_capacity: world.over_capacity(),
            payload_load: settings.n as f64 * settings.rate as f64 / people.capacity().max(1.0),
            wire_overhead: (all + since(|c| c.ack_bytes)) / payload,
            depth: Depth::of(&Trees::of(people)),
            rss_bytes: resident(),
            wall_s: wall.as_secs_f64(),
            from_s: people.from.as_secs_f64(),
            to_s: world.elapsed().as_secs_f64(),
        }
    }
}
