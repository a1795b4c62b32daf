//! L: the viewer's map from sender time to its own clock.
//!
//! Made of ping exchanges with the seed alone (Cristian 1989: the sample of least round trip is
//! the best), never of media arrivals, whose delay changes with the tree. Each exchange bounds
//! the offset to an interval; the map moves only when an interval proves it wrong, so that it
//! stands still on clocks that do not drift, and time stamps stay equal up to one constant.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::ids::SenderTime;

/// Exchanges are forgotten after this time, by which a drift of 100 ppm moves 6 ms.
const MEMORY: Duration = Duration::from_secs(60);
const MAX_SAMPLES: usize = 64;
/// Two clocks may drift apart by this share (crystal oscillators: within 100 ppm each).
const DRIFT: f64 = 200e-6;

#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Local time, in seconds since `origin`, at which the seed's clock showed zero.
    offset: f64,
    error: f64,
    rtt: Duration,
    at: Instant,
}

/// One instant on both clocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mapping {
    /// On the own clock.
    pub local: Instant,
    /// On the seed's.
    pub sender: SenderTime,
}

impl Mapping {
    /// When the own clock shows what the seed's clock calls `time`.
    pub fn local(&self, time: SenderTime) -> Instant {
        if time >= self.sender {
            self.local + time.since(self.sender)
        } else {
            let back = self.sender.since(time);
            self.local.checked_sub(back).unwrap_or(self.local)
        }
    }

    /// What the seed's clock shows at `local`.
    pub fn sender(&self, local: Instant) -> SenderTime {
        if local >= self.local {
            let ahead = local.duration_since(self.local).as_nanos();
            SenderTime(self.sender.0.saturating_add(ahead as u64))
        } else {
            let back = self.local.duration_since(local).as_nanos();
            SenderTime(self.sender.0.saturating_sub(back as u64))
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct ClockMap {
    origin: Instant,
    samples: VecDeque<Sample>,
    offset: Option<f64>,
}

impl ClockMap {
    /// A map that knows nothing yet. `origin` is any instant before all others given to it.
    pub fn new(origin: Instant) -> Self {
        Self {
            origin,
            samples: VecDeque::new(),
            offset: None,
        }
    }

    /// Takes one exchange: asked at `asked`, answered with `time`, received at `now`.
    pub fn sample(&mut self, asked: Instant, time: SenderTime, now: Instant) {
        let rtt = now.saturating_duration_since(asked);
        let middle = asked.saturating_duration_since(self.origin) + rtt / 2;
        let sample = Sample {
            offset: middle.as_secs_f64() - time.0 as f64 / 1e9,
            error: rtt.as_secs_f64() / 2.0,
            rtt,
            at: now,
        };
        while self
            .samples
            .front()
            .is_some_and(|s| now.saturating_duration_since(s.at) > MEMORY)
            || self.samples.len() >= MAX_SAMPLES
        {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        let Some(offset) = self.offset else {
            self.offset = Some(sample.offset);
            return;
        };
        let (mut low, mut high) = (f64::MIN, f64::MAX);
        for s in &self.samples {
            let age = now.saturating_duration_since(s.at).as_secs_f64();
            let error = s.error + age * DRIFT;
            low = low.max(s.offset - error);
            high = high.min(s.offset + error);
        }
        // Intervals that contradict each other (a clock stepped, a suspend): believe the newest.
        self.offset = Some(if low > high {
            self.samples.clear();
            self.samples.push_back(sample);
            sample.offset
        } else {
            offset.clamp(low, high)
        });
    }

    /// The best estimate while nothing has been played: that of the exchange of least round trip.
    pub fn settle(&mut self) {
        if let Some(best) = self.samples.iter().min_by_key(|s| s.rtt) {
            self.offset = Some(best.offset);
        }
    }

    /// Half of the least round trip: how wrong the map may be.
    pub fn error(&self) -> Option<Duration> {
        self.samples.iter().map(|s| s.rtt / 2).min()
    }

    /// The map, once there was an exchange.
    pub fn mapping(&self) -> Option<Mapping> {
        let offset = self.offset?;
        // Sender time at the origin may be negative, so the map is anchored where both are not.
        Some(if offset >= 0.0 {
            Mapping {
                local: self.origin + Duration::from_secs_f64(offset),
                sender: SenderTime(0),
            }
        } else {
            Mapping {
                local: self.origin,
                sender: SenderTime((-offset * 1e9) as u64),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_map_stands_still_while_exchanges_agree() {
        let origin = Instant::now();
        let mut clock = ClockMap::new(origin);
        // The seed's clock is 5 s ahead; delays differ per direction.
        clock.sample(
            origin + 10 * MS,
            SenderTime(5_015_000_000),
            origin + 20 * MS,
        );
        let first = clock.mapping().unwrap();
        for i in 1..50 {
            let at = origin + i * 100 * MS;
            let time = SenderTime((5000 + 100 * u64::from(i) + 4) * 1_000_000);
            clock.sample(at, time, at + (8 + i % 7) * MS);
        }
        assert_eq!(clock.mapping().unwrap(), first);
    }

    #[test]
    fn a_clock_that_steps_is_followed() {
        let origin = Instant::now();
        let mut clock = ClockMap::new(origin);
        clock.sample(origin, SenderTime(0), origin + 2 * MS);
        clock.sample(origin + 1000 * MS, SenderTime(0), origin + 1002 * MS);
        let local = clock.mapping().unwrap().local(SenderTime(0));
        assert!(local.duration_since(origin) >= 1000 * MS);
    }

    #[test]
    fn there_and_back_is_the_same_instant() {
        let origin = Instant::now();
        let mut clock = ClockMap::new(origin);
        clock.sample(origin, SenderTime(7_000_000_000), origin + 10 * MS);
        let map = clock.mapping().unwrap();
        for s in [6, 7, 8, 100] {
            let t = SenderTime(s * 1_000_000_000);
            let back = map.sender(map.local(t));
            assert!(back.since(t).max(t.since(back)) < Duration::from_micros(1) || s == 6);
        }
    }
}
