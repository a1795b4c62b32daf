//! Where the stream begins for a newcomer, and who sends it the first pieces.
//!
//! A picture at once needs the newest join point that is due; sending its follow-up costs several
//! copies of the stream for a moment. Where the seed has less to give, a newcomer begins at the
//! newest join point; where it has little, viewers with room to spare send it; where nobody has,
//! it waits: a late start, never a stutter (design: distribution, 9).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

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
/// And for each of them: some have just gone, and what is free is free here and there.
const BEYOND_EACH: f64 = 0.005;
/// Both together, if they have this much more than that: who asks whom is not foreseen.
const TOGETHER: f64 = 1.0;
/// Who can push so many copies itself never waits: it takes the place of weaker ones, which live
/// from it.
const BRINGS: f64 = 2.0;
/// The next join point is waited for if it comes within this time, and the last one is so old that
/// more has to come before play begins than the seed sends.
const SOON: Duration = Duration::from_millis(600);

/// But only where viewers have so much to spare for each of them: who waited together would all want
/// the same in one moment.
const ROOMY: f64 = 0.05;

/// Whether to wait for the next join point: groups of pictures are so long, and the newest is so old.
pub fn next_soon(group: Duration, age: Duration, latency: Duration) -> bool {
    let old = age > latency / 2 + FIRST;
    old && group.checked_sub(age).is_some_and(|left| left <= SOON)
}

/// Whoever sends the past, the seed sends so much of it, with which there is a picture (notes on
/// the algorithm, section 2: start-up burst; a key frame of some ten times the mean), and time until
/// the viewers send the rest.
pub const FIRST: Duration = Duration::from_millis(560);
/// Tables of a transport stream are repeated more often than this; older ones lead nowhere.
const LEAD: Duration = Duration::from_secs(1);
/// Join points whose lead is known; the window holds fewer.
const MAX_LEADS: usize = 4096;

/// What a seed with a limited uplink may spend on what newcomers begin with, in seconds of the
/// stream. Where many come, a picture at once for each would cost more than the grid saves.
#[derive(Debug)]
pub struct Purse {
    share: f64,
    most: f64,
    holds: f64,
    filled: Instant,
}

impl Purse {
    /// For the past that it sends whole: half a copy of the stream in the mean, and twelve seconds
    /// as long as few come.
    pub fn for_past(now: Instant) -> Self {
        Self::new(0.5, 12.0, now)
    }

    /// For the [`FIRST`] pieces: as much as the live stream itself in the mean.
    pub fn for_first(now: Instant) -> Self {
        Self::new(1.0, 4.0, now)
    }

    fn new(share: f64, most: f64, now: Instant) -> Self {
        Self {
            share,
            most,
            holds: most,
            filled: now,
        }
    }

    /// Whether it holds enough for so much of the past.
    pub fn affords(&mut self, past: Duration, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.holds = (self.holds + since * self.share).min(self.most);
        past.as_secs_f64() <= self.holds
    }

    /// So much of the past is sent.
    pub fn pay(&mut self, past: Duration) {
        self.holds -= past.as_secs_f64();
    }
}

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
    /// Other viewers push it; the seed says where it begins, and sends the first pieces.
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
    /// And beyond, for a while, or to those that find no other.
    pub reserve: f64,
    /// The seed lends little: who is there finds parents.
    pub calm: bool,
    /// Copies of the live stream that it takes from the others.
    pub live: f64,
    /// Copies that the past takes, if it is to be there within a play-out delay.
    pub past: f64,
    /// The seed can spend that much past on one newcomer.
    pub affords: bool,
    /// Viewers that are there.
    pub viewers: usize,
    /// Copies that it can push.
    pub brings: f64,
    /// The next join point comes so soon that waiting for it costs less than the past, of which the
    /// seed can send nothing now.
    pub next_soon: bool,
}

/// Decides. `overdue`: by how much the newest join point that is due is overdue, none if the
/// container wants the newest in any case.
pub fn opening(room: Room, overdue: Option<Duration>) -> Opening {
    // One copy goes into the live stream.
    let past = (room.free - 1.0).max(0.0);
    let plenty = room.free >= PLENTY && !room.busy;
    let together = room.free + room.spare >= room.live + room.past + TOGETHER;
    let takes = room.live + room.past + GRID_BEYOND + room.viewers as f64 * BEYOND_EACH;
    let grid = room.spare >= takes || (room.calm && room.spare + room.reserve >= takes);
    let made_up = |overdue| overdue <= MAKE_UP.mul_f64(past.min(1000.0));
    if plenty && overdue.is_some_and(made_up) {
        Opening::Seed(From::Due)
    } else if room.next_soon && room.spare >= room.viewers as f64 * ROOMY {
        Opening::Wait
    } else if plenty && room.affords {
        Opening::Seed(From::Newest)
    } else if grid {
        Opening::Grid
    } else if plenty || (room.free >= ENOUGH + room.past && !room.busy) {
        Opening::Seed(From::Newest)
    } else if room.brings >= BRINGS || (together && !room.busy) {
        // What no viewer has room for, the seed lends.
        Opening::Grid
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
            reserve: 0.0,
            calm: true,
            live: 1.0,
            past,
            affords: true,
            viewers: 0,
            brings: 0.0,
            next_soon: false,
        }
    }

    #[test]
    fn who_brings_more_than_it_takes_never_waits() {
        let full = room(0.0, 0.0, 1.0);
        assert_eq!(opening(full, NOW), Opening::Wait);
        let strong = Room {
            brings: 2.0,
            busy: true,
            ..full
        };
        assert_eq!(opening(strong, NOW), Opening::Grid);
    }

    #[test]
    fn the_reserve_is_for_newcomers_as_long_as_the_seed_lends_little() {
        let reserve = Room {
            reserve: 2.0,
            ..room(0.4, 0.0, 0.5)
        };
        assert_eq!(opening(reserve, NOW), Opening::Grid);
        let lends = Room {
            calm: false,
            ..reserve
        };
        assert_eq!(opening(lends, NOW), Opening::Wait);
    }

    #[test]
    fn a_join_point_that_comes_soon_is_waited_for_unless_one_is_due() {
        let ms = Duration::from_millis;
        let soon = |group, age| next_soon(ms(group), ms(age), ms(2000));
        assert!(soon(2000, 1600) && soon(2000, 1990));
        assert!(!soon(2000, 1300), "it is young enough");
        assert!(!soon(8000, 1500) && !soon(2000, 2100), "it is not soon");
        let room = |free| Room {
            next_soon: true,
            ..room(free, 20.0, 0.9)
        };
        assert_eq!(opening(room(9.0), NOW), Opening::Seed(From::Due));
        assert_eq!(opening(room(2.0), NOW), Opening::Wait);
    }

    #[test]
    fn an_unlimited_seed_gives_a_picture_at_once() {
        let plenty = room(4096.0, 0.0, 1.0);
        assert_eq!(opening(plenty, NOW), Opening::Seed(From::Due));
        assert_eq!(opening(plenty, None), Opening::Seed(From::Newest));
    }

    #[test]
    fn the_past_is_spent_as_it_comes_in() {
        let now = Instant::now();
        let mut purse = Purse::for_past(now);
        let past = Duration::from_secs(3);
        let mut starts = 0;
        while purse.affords(past, now) {
            purse.pay(past);
            starts += 1;
        }
        assert_eq!(starts, 4);
        assert!(!purse.affords(past, now + Duration::from_secs(2)));
        assert!(purse.affords(past, now + Duration::from_secs(8)));
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
        let spent = |spare| Room {
            affords: false,
            ..room(9.0, spare, 0.5)
        };
        assert_eq!(super::opening(spent(2.0), None), Opening::Grid);
        let alone = super::opening(spent(1.0), None);
        assert_eq!(alone, Opening::Seed(From::Newest));
    }
}
