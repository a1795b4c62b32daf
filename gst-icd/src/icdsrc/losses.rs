//! Whether so much of the stream is missing that people should hear why.

use std::time::{Duration, Instant};

/// Losses are counted over so long ...
const WINDOW: Duration = Duration::from_secs(10);
/// ... are told if they are this share of all pieces, in percent ...
const SHARE: u64 = 5;
/// ... and at most this often.
const AGAIN: Duration = Duration::from_secs(60);

/// Counters of pieces at the beginning of a window.
#[derive(Debug)]
pub(super) struct Losses {
    since: Instant,
    lost: u64,
    came: u64,
    told: Option<Instant>,
}

impl Losses {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            lost: 0,
            came: 0,
            told: None,
        }
    }

    /// Whether a window is over.
    pub(super) fn are_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= WINDOW
    }

    /// Ends a window with the counters of now. The share that was lost in it, in percent, if that
    /// is to be told.
    pub(super) fn count(&mut self, now: Instant, lost: u64, came: u64) -> Option<u64> {
        let new = lost.saturating_sub(self.lost);
        let all = new.saturating_add(came.saturating_sub(self.came));
        (self.since, self.lost, self.came) = (now, lost, came);
        let share = new.saturating_mul(100).checked_div(all)?;
        let lately = |at: Instant| now.saturating_duration_since(at) < AGAIN;
        if share < SHARE || self.told.is_some_and(lately) {
            return None;
        }
        self.told = Some(now);
        Some(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_is_told_now_and_then_and_little_is_not() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut losses = Losses::new(start);
        assert!(!losses.are_due(at(9)) && losses.are_due(at(10)));
        assert_eq!(losses.count(at(10), 0, 0), None, "nothing came yet");
        assert_eq!(losses.count(at(20), 4, 96), None, "little is missing");
        assert_eq!(losses.count(at(30), 44, 156), Some(40));
        assert_eq!(losses.count(at(40), 94, 206), None, "it was told");
        assert_eq!(losses.count(at(90), 144, 206), Some(100));
        assert_eq!(losses.count(at(200), 144, 306), None, "it is over");
    }
}
