//! What a new child gets of the past, and in which order beside what all wait for.

use std::time::{Duration, Instant};

/// Backlog yields to pushes and pulls: it is queued as if it came this much later.
pub(super) const BEHIND: Duration = Duration::from_secs(3600);
/// What a new root of a stripe may have missed: longer than it takes to find one.
pub(super) const FILL: Duration = Duration::from_secs(4);
/// Pieces of a stripe that come at once with a subscription; more is a start.
const MOVED: usize = 4;
/// To one that feeds many, so many: a second and more passes from the death of a node to the next
/// feed, and what comes late is late for all below.
const MOVED_STRONG: usize = 8;
/// More of it than that is queued as if it came in steps of this (notes on the algorithm, section 2,
/// have 20 ms; simulated, those cost the others pieces at load 0.95, and behind all pushes what a
/// newcomer begins with comes too late).
const PACED: Duration = Duration::from_millis(60);
/// But behind all else where the uplink's queue is as long as this: in a crowd.
const CALM_QUEUE: Duration = Duration::from_millis(60);

/// How urgent the past is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// As what follows: a child moved, and missed little.
    Now,
    /// Beside what follows, in steps.
    Paced,
    /// After all that others wait for; among those that start, what is due first goes first.
    Behind,
}

impl Turn {
    /// For so many pieces: of one stripe, or of all; to a child that feeds many, or not; with so long a
    /// queue, or from the seed, where a start must not delay the grid.
    pub(super) fn of(pieces: usize, one: bool, strong: bool, queue: Option<Duration>) -> Self {
        let most = if strong { MOVED_STRONG } else { MOVED };
        match queue {
            _ if one && pieces <= most => Self::Now,
            Some(queue) if queue < CALM_QUEUE => Self::Paced,
            _ => Self::Behind,
        }
    }

    /// Where the n-th piece, which is so old, stands in the uplink's queue.
    pub(super) fn order(self, n: u32, age: Duration, now: Instant) -> Instant {
        match self {
            Self::Now => now,
            Self::Paced => now + PACED * n,
            Self::Behind => now + BEHIND.saturating_sub(age),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn who_moved_is_served_at_once_and_who_starts_beside_the_others() {
        let calm = Some(20 * MS);
        assert_eq!(Turn::of(MOVED, true, false, calm), Turn::Now);
        assert_eq!(Turn::of(MOVED + 1, true, false, calm), Turn::Paced);
        assert_eq!(Turn::of(MOVED + 1, true, true, calm), Turn::Now);
        assert_eq!(Turn::of(MOVED_STRONG + 1, true, true, calm), Turn::Paced);
    }

    #[test]
    fn a_start_delays_nobody_in_a_crowd_and_never_at_the_seed() {
        assert_eq!(Turn::of(20, true, false, Some(CALM_QUEUE)), Turn::Behind);
        assert_eq!(Turn::of(20, true, false, None), Turn::Behind);
        assert_eq!(Turn::of(1, false, false, None), Turn::Behind);
    }

    #[test]
    fn steps_let_pushes_through_and_the_oldest_goes_first_behind_them() {
        let now = Instant::now();
        let paced = |n| Turn::Paced.order(n, 900 * MS, now);
        assert_eq!([0, 1, 3].map(paced), [now, now + PACED, now + PACED * 3]);
        let behind = |age| Turn::Behind.order(0, age * MS, now);
        assert!(behind(900) < behind(300) && behind(900) > now + 3000 * MS);
    }
}
