//! Where the stream begins for a newcomer, and who sends it the first pieces.
//!
//! A picture at once needs the newest join point that is due; sending its follow-up costs several
//! copies of the stream for a moment. Where the seed has less to give, a newcomer begins at the
//! newest join point; where it has little, viewers with room to spare send it; where nobody has,
//! it waits: a late start, never a stutter (design: distribution, 9).

use std::time::Duration;

/// What is overdue at the first join point has to be made up for within this time.
const MAKE_UP: Duration = Duration::from_millis(500);
/// The seed sends the start itself if it has this many copies of the stream free ...
const PLENTY: f64 = 3.0;
/// ... or at least this many if no viewer can: the live stream, and some of the past beside it.
const ENOUGH: f64 = 1.1;
/// Viewers send it if they have this many copies to spare, beyond what was promised already:
/// the past takes one beside the live stream, and not every viewer can be reached.
const GRID_ENOUGH: f64 = 2.0;
/// With less the seed, if it can; with less than this, nobody.
const GRID_LEAST: f64 = 1.5;

/// Where the stream begins for a newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The newest join point that is due.
    Due,
    /// The newest join point.
    Newest,
}

/// How a newcomer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The seed pushes everything until it finds parents.
    Seed(From),
    /// Other viewers push it; the seed only says where it begins.
    Grid,
    /// Nobody has room now; it is asked again soon.
    Wait,
}

/// Decides. `free`: copies of the stream that the seed can still push; `spare`: those that
/// viewers can; `overdue`: by how much the newest join point that is due is overdue, none if the
/// container wants the newest in any case.
pub fn opening(free: f64, spare: f64, overdue: Option<Duration>) -> Opening {
    // One copy goes into the live stream.
    let past = (free - 1.0).max(0.0);
    if free >= PLENTY {
        return match overdue {
            Some(overdue) if overdue <= MAKE_UP.mul_f64(past.min(1000.0)) => {
                Opening::Seed(From::Due)
            }
            _ => Opening::Seed(From::Newest),
        };
    }
    if spare >= GRID_ENOUGH {
        Opening::Grid
    } else if free >= ENOUGH {
        Opening::Seed(From::Newest)
    } else if spare >= GRID_LEAST {
        Opening::Grid
    } else {
        Opening::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Option<Duration> = Some(Duration::from_millis(900));

    #[test]
    fn an_unlimited_seed_gives_a_picture_at_once() {
        assert_eq!(opening(4096.0, 0.0, NOW), Opening::Seed(From::Due));
        assert_eq!(opening(4096.0, 9.0, None), Opening::Seed(From::Newest));
    }

    #[test]
    fn what_cannot_be_made_up_for_is_not_begun() {
        let long_overdue = Some(Duration::from_secs(2));
        assert_eq!(opening(3.5, 0.0, long_overdue), Opening::Seed(From::Newest));
    }

    #[test]
    fn a_narrow_seed_leaves_it_to_the_grid_then_itself_then_waits() {
        assert_eq!(opening(2.2, 2.1, NOW), Opening::Grid);
        assert_eq!(opening(2.2, 1.5, NOW), Opening::Seed(From::Newest));
        assert_eq!(opening(0.4, 1.5, NOW), Opening::Grid);
        assert_eq!(opening(0.4, 0.5, NOW), Opening::Wait);
    }
}
