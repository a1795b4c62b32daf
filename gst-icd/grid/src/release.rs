//! Evens out peaks: a key frame is many pieces at once, and an uplink that carries the mean rate
//! would have to hold them so long that they expire.
//!
//! Pieces leave at no more than 1.25 times the mean rate, and none waits longer than a bound
//! that follows from the shortest play-out delay among the viewers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::cutter::Cut;

/// Over the mean of the stream; see `design: media`.
const HEADROOM: f64 = 1.25;
/// No piece waits longer, whatever the viewers' delays ...
const LONGEST: Duration = Duration::from_millis(500);
/// ... nor is a peak not evened out at all because one of many wants everything at once.
const SHORTEST_LATENCY: Duration = Duration::from_millis(200);

/// See the module.
#[derive(Debug)]
pub struct Release {
    waiting: VecDeque<(Cut, Instant)>,
    longest: Duration,
    free_at: Instant,
}

impl Release {
    /// Nothing waits.
    pub fn new(now: Instant) -> Self {
        Self {
            waiting: VecDeque::new(),
            longest: Duration::ZERO,
            free_at: now,
        }
    }

    /// The shortest play-out delay among the viewers; none: peaks are not evened out at all.
    pub fn set_latency(&mut self, shortest: Option<Duration>) {
        let wait = |latency: Duration| (latency.max(SHORTEST_LATENCY) / 4).min(LONGEST);
        self.longest = shortest.map_or(Duration::ZERO, wait);
    }

    /// Takes what was cut.
    pub fn offer(&mut self, cut: Cut, now: Instant) {
        self.waiting.push_back((cut, now));
    }

    /// The next that may go, at a mean rate in bytes per second.
    pub fn poll(&mut self, rate: f64, now: Instant) -> Option<Cut> {
        let (_, since) = self.waiting.front()?;
        let held = now.saturating_duration_since(*since);
        if self.free_at > now && held < self.longest {
            return None;
        }
        let (cut, _) = self.waiting.pop_front()?;
        let takes = cut.payload.len() as f64 / (rate * HEADROOM).max(1.0);
        self.free_at = self.free_at.max(now) + Duration::from_secs_f64(takes.min(1.0));
        Some(cut)
    }

    /// When [`Release::poll`] is next of use.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (_, since) = self.waiting.front()?;
        Some(self.free_at.min(*since + self.longest))
    }

    /// Lets everything go, at the end.
    pub fn flush(&mut self) -> impl Iterator<Item = Cut> {
        self.waiting.drain(..).map(|(cut, _)| cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SenderTime;

    fn cut(bytes: usize) -> Cut {
        Cut {
            payload: vec![0; bytes].into(),
            first_item: None,
            time: SenderTime(0),
            header: 1,
            join: false,
            lead: false,
        }
    }

    fn times(latency: Option<Duration>, pieces: usize) -> Vec<u64> {
        let start = Instant::now();
        let mut release = Release::new(start);
        release.set_latency(latency);
        for _ in 0..pieces {
            release.offer(cut(10_000), start);
        }
        let mut times = Vec::new();
        for ms in 0..3000 {
            let now = start + Duration::from_millis(ms);
            while release.poll(500_000.0, now).is_some() {
                times.push(ms);
            }
        }
        times
    }

    #[test]
    fn a_peak_leaves_at_a_little_more_than_the_mean_rate() {
        // 16 pieces of 20 ms: at 1.25 times the rate one in 16 ms.
        let times = times(Some(Duration::from_secs(2)), 16);
        assert_eq!((times[0], times[1], times[15]), (0, 16, 240));
    }

    #[test]
    fn nothing_waits_longer_than_a_quarter_of_the_shortest_delay() {
        assert_eq!(
            times(Some(Duration::from_millis(200)), 100).last(),
            Some(&50)
        );
        assert_eq!(times(Some(Duration::from_secs(60)), 100).last(), Some(&500));
        assert_eq!(times(Some(Duration::ZERO), 100).last(), Some(&50));
        assert_eq!(times(None, 100).last(), Some(&0));
    }
}
