//! Whether this node itself was cut off or stood still: then all seem to be gone, and nobody is to blame.
//!
//! Blamed for it, all others would be left alone for seconds, and after two such troubles for minutes, while
//! the seed has to feed this node alone.

use super::*;

/// Nobody was heard for so long, nor did this node look at anything: one is silent, but hardly all at once.
/// As long as it takes to miss a parent.
const ALONE: Duration = Duration::from_millis(300);
/// Who gave this node up meanwhile says so, and what was dialed fails, within this time.
const AFTER: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug)]
pub(super) struct Own {
    heard: Instant,
    looked: Instant,
    /// When it was alone last.
    alone: Option<Instant>,
}

impl Own {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard: now,
            looked: now,
            alone: None,
        }
    }

    /// Somebody said or sent something.
    pub(super) fn hears(&mut self, now: Instant) {
        self.notes(now);
        self.heard = now;
    }

    /// It is awake.
    pub(super) fn looks(&mut self, now: Instant) {
        self.notes(now);
        self.looked = now;
    }

    fn notes(&mut self, now: Instant) {
        let long = |at| now.saturating_duration_since(at) >= ALONE;
        if long(self.heard) || long(self.looked) {
            self.alone = Some(now);
        }
    }

    /// Whether what seems to be wrong with others may be its own trouble.
    pub(super) fn is_to_blame(&self, now: Instant) -> bool {
        let lately = |at| now.saturating_duration_since(at) < AFTER;
        self.alone.is_some_and(lately) || now.saturating_duration_since(self.heard) >= ALONE
    }
}

impl Viewer {
    /// Another could not be reached, or fell silent.
    pub(super) fn failed(&mut self, node: NodeId, now: Instant) {
        match self.own.is_to_blame(now) {
            true => self.book.rests(node, now),
            false => self.book.failed(node, now),
        }
    }

    /// No way to another was found.
    pub(super) fn unmet(&mut self, node: NodeId, now: Instant) {
        match self.own.is_to_blame(now) {
            true => self.book.rests(node, now),
            false => self.book.unmet(node, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn who_hears_nobody_or_stood_still_blames_nobody_for_a_while() {
        let now = Instant::now();
        let mut own = Own::new(now);
        let ticks = |own: &mut Own, from: u32, to: u32, hears: bool| {
            for ms in (from..to).step_by(20) {
                if hears {
                    own.hears(now + ms * MS);
                }
                own.looks(now + ms * MS);
            }
        };
        ticks(&mut own, 0, 1000, true);
        assert!(!own.is_to_blame(now + 1000 * MS), "one fell silent");
        ticks(&mut own, 1000, 2000, false);
        assert!(own.is_to_blame(now + 2000 * MS), "all did");
        ticks(&mut own, 2000, 4900, true);
        assert!(own.is_to_blame(now + 4900 * MS));
        ticks(&mut own, 4900, 6000, true);
        assert!(!own.is_to_blame(now + 6000 * MS), "long ago");
        // What came while it stood still is read first.
        own.hears(now + 9000 * MS);
        assert!(own.is_to_blame(now + 9000 * MS));
    }
}
