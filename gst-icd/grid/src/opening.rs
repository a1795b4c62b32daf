//! Where the stream begins for a newcomer, and who sends it the first pieces.
//!
//! A picture at once needs the newest join point that is due; sending its follow-up costs several
//! copies of the stream for a moment. Where the seed has less to give, a newcomer begins at the
//! newest join point; where it has little, viewers with room to spare send it; where nobody has,
//! it waits: a late start, never a stutter (design: distribution, 9).

use std::collections::VecDeque;
use std::time::Duration;

use crate::cutter::Cut;
use crate::ids::{SenderTime, Seq};

/// What is overdue at the first join point has to be made up for within this time.
const MAKE_UP: Duration = Duration::from_millis(500);
/// The seed sends the start itself if it has this many copies of the stream free ...
const PLENTY: f64 = 3.0;
/// ... or at least this many beside those for the past, if no viewer can: the live stream.
const ENOUGH: f64 = 1.1;
/// Viewers send it if they have this much to spare beyond the live stream and the past: not every
/// viewer can be reached.
const GRID_BEYOND: f64 = 0.25;
/// Tables of a transport stream are repeated more often than this; older ones lead nowhere.
const LEAD: Duration = Duration::from_secs(1);
/// Join points whose lead is known; the window holds fewer.
const MAX_LEADS: usize = 4096;

/// Where the lead of each join point begins: what a decoder needs before it.
#[derive(Debug, Default)]
pub struct Leads {
    newest: Option<(Seq, SenderTime)>,
    joins: VecDeque<(Seq, Seq)>,
}

impl Leads {
    /// The next piece has this number.
    pub fn numbered(&mut self, seq: Seq, cut: &Cut) {
        if let Some((lead, at)) = self.newest.filter(|_| cut.join)
            && cut.time.since(at) <= LEAD
        {
            self.joins.push_back((seq, lead));
            if self.joins.len() > MAX_LEADS {
                self.joins.pop_front();
            }
        }
        // In a piece that begins with a key frame the tables come after it.
        if cut.lead {
            self.newest = Some((seq, cut.time));
        }
    }

    /// The piece in which the lead of a join point begins, if it has one.
    pub fn before(&self, join: Seq) -> Option<Seq> {
        let at = self.joins.binary_search_by_key(&join, |(join, _)| *join);
        at.ok().map(|at| self.joins[at].1)
    }
}

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

/// What there is to give.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Copies of the stream that the seed can still push.
    pub free: f64,
    /// Others still get their start from the seed, over an uplink that carries no more.
    pub busy: bool,
    /// Copies that viewers can still push.
    pub spare: f64,
    /// Copies of the live stream that it takes from the others.
    pub live: f64,
    /// Copies that the past takes, if it is to be there within a play-out delay.
    pub past: f64,
}

/// Decides. `overdue`: by how much the newest join point that is due is overdue, none if the
/// container wants the newest in any case.
pub fn opening(room: Room, overdue: Option<Duration>) -> Opening {
    // One copy goes into the live stream.
    let past = (room.free - 1.0).max(0.0);
    if room.free >= PLENTY && !room.busy {
        return match overdue {
            Some(overdue) if overdue <= MAKE_UP.mul_f64(past.min(1000.0)) => {
                Opening::Seed(From::Due)
            }
            _ => Opening::Seed(From::Newest),
        };
    }
    if room.spare >= room.live + room.past + GRID_BEYOND {
        Opening::Grid
    } else if room.free >= ENOUGH + room.past && !room.busy {
        Opening::Seed(From::Newest)
    } else {
        Opening::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Option<Duration> = Some(Duration::from_millis(900));

    /// The seed's room, the viewers', and what the past takes.
    fn room(free: f64, spare: f64, past: f64) -> Room {
        Room {
            free,
            busy: false,
            spare,
            live: 1.0,
            past,
        }
    }

    #[test]
    fn an_unlimited_seed_gives_a_picture_at_once() {
        let plenty = room(4096.0, 0.0, 1.0);
        assert_eq!(opening(plenty, NOW), Opening::Seed(From::Due));
        assert_eq!(opening(plenty, None), Opening::Seed(From::Newest));
    }

    #[test]
    fn a_start_reaches_back_to_the_tables_unless_they_are_old() {
        let mut leads = Leads::default();
        let mut numbered = |seq, ms: u64, join, lead| {
            let cut = Cut {
                payload: Default::default(),
                first_item: Some(0),
                time: SenderTime(ms * 1_000_000),
                header: 1,
                join,
                lead,
            };
            leads.numbered(Seq(seq), &cut);
        };
        numbered(0, 0, true, false);
        numbered(7, 140, false, true);
        numbered(9, 180, true, false);
        numbered(90, 1800, true, false);
        numbered(91, 1820, true, true);
        numbered(92, 1840, true, false);
        let before = |seq| leads.before(Seq(seq)).map(|s| s.0);
        let found = [0, 9, 90, 91, 92].map(before);
        assert_eq!(found, [None, Some(7), None, None, Some(91)]);
    }

    #[test]
    fn what_cannot_be_made_up_for_is_not_begun() {
        let long_overdue = Some(Duration::from_secs(2));
        let opening = opening(room(3.5, 0.0, 1.0), long_overdue);
        assert_eq!(opening, Opening::Seed(From::Newest));
    }

    #[test]
    fn a_narrow_seed_leaves_it_to_the_grid_then_itself_then_waits() {
        let opening = |room| opening(room, NOW);
        assert_eq!(opening(room(2.2, 2.1, 0.5)), Opening::Grid);
        assert_eq!(opening(room(2.2, 1.5, 0.5)), Opening::Seed(From::Newest));
        assert_eq!(opening(room(0.4, 1.8, 0.5)), Opening::Grid);
        assert_eq!(opening(room(0.4, 1.5, 0.5)), Opening::Wait);
        assert_eq!(
            opening(room(1.3, 0.0, 0.5)),
            Opening::Wait,
            "a key frame is near"
        );
        assert_eq!(opening(room(1.3, 0.0, 0.1)), Opening::Seed(From::Newest));
        let busy = Room {
            busy: true,
            ..room(9.0, 0.5, 0.5)
        };
        assert_eq!(opening(busy), Opening::Wait, "one start after the other");
    }
}
