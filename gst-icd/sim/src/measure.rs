//! What became of every piece at every viewer.
//!
//! Pieces are due from a viewer's play start on, at their sender time plus the play-out delay. Play
//! starts with the first that was not overdue when it came, when that is due: a viewer that begins
//! with the newest picture starts late, and what is older was never due there. A
//! piece is on time if its verified first copy was there by then. A viewer that dies or freezes
//! counts until that moment. Lag is taken at the arrival of pieces that were made after the
//! viewer came.

use std::time::Duration;

/// Milliseconds since the start of a run, plus one; zero is never.
type Stamp = u32;

/// Counts of milliseconds up to 20 s.
#[derive(Debug, Clone)]
pub struct Spread {
    buckets: Vec<u64>,
    count: u64,
    most: u32,
}

impl Default for Spread {
    fn default() -> Self {
        Self {
            buckets: vec![0; 20_000],
            count: 0,
            most: 0,
        }
    }
}

impl Spread {
    /// Takes one value.
    pub fn add(&mut self, ms: u32) {
        let at = (ms as usize).min(self.buckets.len() - 1);
        self.buckets[at] += 1;
        self.count += 1;
        self.most = self.most.max(ms);
    }

    /// Takes some.
    pub fn extend(&mut self, all: impl IntoIterator<Item = u32>) {
        all.into_iter().for_each(|ms| self.add(ms));
    }

    /// The value that this share does not exceed, in milliseconds.
    pub fn quantile(&self, share: f64) -> u32 {
        let mut left = (self.count as f64 * share).ceil() as u64;
        for (ms, count) in self.buckets.iter().enumerate() {
            left = left.saturating_sub(*count);
            if left == 0 {
                return (ms as u32).min(self.most);
            }
        }
        self.most
    }

    /// The largest value, in milliseconds.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// How many values were taken.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Values below each of some bounds, as shares.
    pub fn shares(&self, step_ms: usize, steps: usize) -> Vec<f64> {
        let of = |n: usize| {
            self.buckets[n * step_ms..(n + 1) * step_ms]
                .iter()
                .sum::<u64>()
        };
        (0..steps)
            .map(|n| of(n) as f64 / self.count.max(1) as f64)
            .collect()
    }
}

/// Lag of the pieces that came within one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// Of the run.
    pub second: u64,
    /// The median, in milliseconds.
    pub p50_ms: u32,
    /// What one of a hundred exceeds.
    pub p99_ms: u32,
}

/// Pieces of which a share was on time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// That were due.
    pub due: u64,
    /// That were there.
    pub good: u64,
}

impl Tally {
    /// The share; one if nothing was due.
    pub fn share(&self) -> f64 {
        if self.due == 0 {
            return 1.0;
        }
        self.good as f64 / self.due as f64
    }

    fn add(&mut self, good: bool) {
        self.due += 1;
        self.good += u64::from(good);
    }
}

/// One viewer's arrivals.
#[derive(Debug, Default)]
pub struct Track {
    first: u64,
    at: Vec<Stamp>,
    joined: Stamp,
    playing: Option<Stamp>,
    until: Option<Stamp>,
    cursor: u64,
    /// Of the measured window.
    pub tally: Tally,
    /// Seconds of it in which a tenth and more was late.
    pub stalls: u64,
    second: Tally,
}

/// See the module.
#[derive(Debug)]
pub struct Measure {
    latency: Duration,
    made: Vec<Stamp>,
    tracks: Vec<Track>,
    from: Stamp,
    /// Of the measured window.
    pub lag: Spread,
    /// Lag of the second that is not over, and of those before it.
    second: (u64, Spread),
    lags: Vec<Lag>,
    /// Of each second of the run.
    pub seconds: Vec<Tally>,
}

fn stamp(at: Duration) -> Stamp {
    at.as_millis().min(u128::from(u32::MAX - 1)) as u32 + 1
}

impl Measure {
    /// Everything is measured from `from` on.
    pub fn new(latency: Duration, from: Duration) -> Self {
        Self {
            latency,
            made: Vec::new(),
            tracks: Vec::new(),
            from: stamp(from),
            lag: Spread::default(),
            second: (0, Spread::default()),
            lags: Vec::new(),
            seconds: Vec::new(),
        }
    }

    /// The broadcaster made a piece.
    pub fn made(&mut self, seq: u64, at: Duration) {
        let n = seq as usize;
        if self.made.len() <= n {
            self.made.resize(n + 1, 0);
        }
        // What came before it was made before, though the seed may have sent it to nobody.
        for made in self.made[..=n].iter_mut().rev().take_while(|m| **m == 0) {
            *made = stamp(at);
        }
    }

    /// A viewer came; they are numbered as they come.
    pub fn joined(&mut self, at: Duration) {
        let newest = self.made.len() as u64;
        self.tracks.push(Track {
            first: newest.saturating_sub(2000),
            joined: stamp(at),
            cursor: newest.saturating_sub(2000),
            ..Track::default()
        });
    }

    /// It plays.
    pub fn playing(&mut self, viewer: usize, at: Duration) {
        self.tracks[viewer].playing.get_or_insert(stamp(at));
    }

    /// It counts no longer.
    pub fn gone(&mut self, viewer: usize, at: Duration) {
        self.tracks[viewer].until.get_or_insert(stamp(at));
    }

    /// A verified piece arrived at a viewer.
    pub fn arrived(&mut self, viewer: usize, seq: u64, at: Duration) {
        let now = stamp(at);
        let track = &mut self.tracks[viewer];
        let Some(n) = seq.checked_sub(track.first) else {
            return;
        };
        let n = n as usize;
        if track.at.len() <= n {
            track.at.resize(n + 1, 0);
        }
        if track.at[n] != 0 {
            return;
        }
        track.at[n] = now;
        let made = self.made.get(seq as usize).copied().unwrap_or(0);
        if made >= track.joined && now >= self.from {
            let lag = now.saturating_sub(made);
            self.lag.add(lag);
            if self.second.0 != at.as_secs() {
                self.end_second();
                self.second.0 = at.as_secs();
            }
            self.second.1.add(lag);
        }
    }

    /// Judges what was due until now; to be called once a second.
    pub fn judge(&mut self, at: Duration) {
        let now = stamp(at);
        let latency = self.latency.as_millis() as u32;
        for track in &mut self.tracks {
            let Some(playing) = track.playing else {
                continue;
            };
            while let Some(made) = self.made.get(track.cursor as usize).copied() {
                let due = made + latency;
                if made == 0 || due > now || track.until.is_some_and(|until| due > until) {
                    break;
                }
                let seq = track.cursor;
                track.cursor += 1;
                if due < playing {
                    continue;
                }
                let n = (seq - track.first) as usize;
                let good = track.at.get(n).is_some_and(|at| *at != 0 && *at <= due);
                let second = (due / 1000) as usize;
                if self.seconds.len() <= second {
                    self.seconds.resize(second + 1, Tally::default());
                }
                self.seconds[second].add(good);
                if due >= self.from {
                    track.tally.add(good);
                    track.second.add(good);
                }
            }
            let second = std::mem::take(&mut track.second);
            track.stalls += u64::from(second.share() < 0.9);
        }
    }

    fn end_second(&mut self) {
        let (second, lag) = std::mem::take(&mut self.second);
        if lag.count() > 0 {
            self.lags.push(Lag {
                second,
                p50_ms: lag.quantile(0.5),
                p99_ms: lag.quantile(0.99),
            });
        }
    }

    /// The lag of each second in which anything came, but the one that is not over.
    pub fn lags(&self) -> &[Lag] {
        &self.lags
    }

    /// The viewers, in their order.
    pub fn tracks(&self) -> &[Track] {
        &self.tracks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn what_the_seed_sends_to_nobody_is_due_and_lost() {
        let mut measure = Measure::new(ms(1000), ms(0));
        measure.joined(ms(0));
        measure.playing(0, ms(1000));
        for seq in (0..100).filter(|seq| seq % 4 != 1) {
            measure.made(seq, ms(seq * 20));
            measure.arrived(0, seq, ms(seq * 20 + 100));
        }
        measure.judge(ms(5000));
        let tally = measure.tracks()[0].tally;
        assert_eq!((tally.due, tally.good), (100, 75));
    }

    #[test]
    fn pieces_count_from_the_play_start_until_the_death() {
        let mut measure = Measure::new(ms(1000), ms(0));
        measure.joined(ms(0));
        for seq in 0..100 {
            measure.made(seq, ms(seq * 20));
            // One in ten is late, two never come.
            let late = if seq % 10 == 3 { 1001 } else { 300 };
            if seq != 50 && seq != 51 {
                measure.arrived(0, seq, ms(seq * 20 + late));
            }
        }
        measure.playing(0, ms(1200));
        measure.gone(0, ms(2500));
        for second in 1..5 {
            measure.judge(ms(second * 1000));
        }
        // Due from 1200 to 2500: pieces 10 to 75.
        let tally = measure.tracks()[0].tally;
        assert_eq!((tally.due, tally.due - tally.good), (66, 7 + 2));
        assert_eq!(measure.lag.quantile(0.5), 300);
        assert_eq!(measure.lag.most(), 1001);
    }
}
