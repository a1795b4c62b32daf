//! How often something may happen: so many times at once, so many a second.

use std::time::Instant;

/// A token bucket, full at first.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// One that holds `burst`.
    pub fn new(burst: u32, now: Instant) -> Self {
        Self {
            left: f64::from(burst),
            at: now,
        }
    }

    /// Takes one, if there is one; it fills by `rate` a second, to `burst` at most.
    pub fn take(&mut self, rate: f64, burst: u32, now: Instant) -> bool {
        self.spend(1.0, rate, f64::from(burst), now)
    }

    /// Takes so much, if it holds as much; it fills by `rate` a second, to `burst` at most.
    pub fn spend(&mut self, amount: f64, rate: f64, burst: f64, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + since * rate).min(burst);
        if self.left < amount {
            return false;
        }
        self.left -= amount;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let now = Instant::now();
        let mut bucket = Bucket::new(3, now);
        let mut take = |ms| bucket.take(2.0, 3, now + Duration::from_millis(ms));
        assert!(take(0) && take(0) && take(0) && !take(0));
        assert!(!take(400) && take(600));
        assert!(take(60_000) && take(60_000) && take(60_000) && !take(60_000));
    }
}
