//! What the player gets and when: pieces in order, as soon as they are in order.
//!
//! Sinks do the waiting. A missing piece is waited for until it is due; then it is given up, and
//! what follows comes with a mark of discontinuity.

use std::time::{Duration, Instant};

use crate::clock::Mapping;
use crate::ids::Seq;
use crate::piece::Piece;
use crate::window::Window;

/// Nothing is handed on before this much of what is still to be shown is here in one piece, or all
/// that there was at the start, unless what follows is not due before half of the play-out delay: a
/// late start, never a stutter. Half of the play-out delay, if that is less.
const FIRST: Duration = Duration::from_millis(500);

/// What the play-out says about the next piece.
#[derive(Debug)]
pub enum Next {
    /// Hand this piece to the player now.
    Play {
        /// It.
        piece: Piece,
        /// Something before it was given up, or it is the first.
        discont: bool,
    },
    /// This version of the stream header is needed before the next piece.
    Header(u32),
    /// Nothing can be handed on; ask again at this instant, or when a piece arrives.
    Wait(Option<Instant>),
    /// The stream has ended, with the broadcaster's signature.
    End,
}

/// See the module.
#[derive(Debug)]
pub struct Playout {
    latency: Duration,
    next: Option<Seq>,
    discont: bool,
    header: u32,
    ended: bool,
    lost: u64,
    /// Pieces up to this one are on their way since the start, and are waited for until then
    /// even if they are overdue: a late start, never a stutter.
    grace: Option<(Seq, Instant)>,
    /// A piece was handed on since the start.
    begun: bool,
}

impl Playout {
    /// A play-out that has no stream yet.
    pub fn new(latency: Duration) -> Self {
        Self {
            latency,
            next: None,
            discont: true,
            header: 0,
            ended: false,
            lost: 0,
            grace: None,
            begun: false,
        }
    }

    /// Begins at `from`, in a new epoch or for the first time. What came before `head` was sent
    /// at once and may be overdue.
    pub fn start(&mut self, from: Seq, head: Seq, now: Instant) {
        self.grace = Some((head, now + self.latency));
        self.begun = false;
        self.next = Some(from);
        self.discont = true;
        self.header = 0;
        self.ended = false;
    }

    /// The piece that is played next.
    pub fn position(&self) -> Option<Seq> {
        self.next
    }

    /// Whether the player has got anything since the start.
    pub fn begun(&self) -> bool {
        self.begun
    }

    /// Pieces that were given up.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether the signed end was reached.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// The player has been told of this header version.
    pub fn header_applied(&mut self, version: u32) {
        self.header = version;
    }

    /// The first piece from `from` on that is not here.
    fn run_end(&self, from: Seq, window: &Window) -> Seq {
        let run = window
            .from(from)
            .zip(from.0..)
            .take_while(|(stored, seq)| stored.info().seq.0 == *seq);
        from.plus(run.count() as u64)
    }

    /// Where to begin, if enough is here. What would certainly stumble is passed over for the
    /// next join point.
    fn beginning(
        &self,
        next: Seq,
        window: &Window,
        clock: Option<Mapping>,
        now: Instant,
    ) -> Option<Seq> {
        let head = self.grace.map_or(next, |(head, _)| head);
        let mut from = next;
        loop {
            let end = self.run_end(from, window);
            if end > from {
                let (first, last) = (window.get(from)?, window.get(Seq(end.0 - 1))?);
                let (first, last) = (first.info(), last.info());
                // What is overdue gives no time for the rest to come.
                let held = clock.map_or(last.time.since(first.time), |map| {
                    let shown = (map.local(first.time) + self.latency).max(now);
                    (map.local(last.time) + self.latency).saturating_duration_since(shown)
                });
                if end > head || last.end || held >= FIRST.min(self.latency / 2) {
                    return Some(from);
                }
            }
            let due = self.raw_due(end, window, clock);
            // The rest has time enough to come.
            let ample = due.is_some_and(|due| due >= now + self.latency / 2);
            if end > from && ample {
                return Some(from);
            }
            if due.is_none_or(|due| due > now) {
                return None;
            }
            from = window.join_after(end.plus(1))?;
        }
    }

    fn raw_due(&self, seq: Seq, window: &Window, clock: Option<Mapping>) -> Option<Instant> {
        Some(clock?.local(window.time_of(seq)?) + self.latency)
    }

    /// When a piece is due at the player, so that nobody waits for it longer.
    pub fn due(&self, seq: Seq, window: &Window, clock: Option<Mapping>) -> Option<Instant> {
        let due = self.raw_due(seq, window, clock)?;
        Some(match self.grace {
            Some((head, until)) if seq <= head => due.max(until),
            _ => due,
        })
    }

    /// Until when a piece has to be here to be shown in time, as long as it can be: what a player that has begun
    /// still waits for out of grace is late for it.
    pub fn wanted(
        &self,
        seq: Seq,
        window: &Window,
        clock: Option<Mapping>,
        now: Instant,
    ) -> Option<Instant> {
        let shown = self.raw_due(seq, window, clock);
        shown
            .filter(|at| self.begun && *at > now)
            .or_else(|| self.due(seq, window, clock))
    }

    /// The player was paused and threw away what it held: goes on with the picture that is due
    /// now, from the join point before it, as for a newcomer; or, where `own_timeline` says that
    /// what is overdue would be shown late, with the newest. The next piece bears the mark.
    pub fn go_live(
        &mut self,
        window: &Window,
        own_timeline: bool,
        clock: Option<Mapping>,
        now: Instant,
    ) {
        let Some(next) = self.next else { return };
        let join = match own_timeline {
            true => window.newest_join(),
            false => clock.and_then(|map| window.join_of_age(self.latency, map.sender(now))),
        };
        self.next = Some(join.unwrap_or(next).max(window.floor()));
        self.discont = true;
    }

    /// The player fell behind what the window holds (paused, or too slow): continue at the live
    /// end.
    fn catch_up(&mut self, from: Seq, window: &Window) {
        let floor = window.floor();
        let target = window.newest_join().filter(|j| *j > from).unwrap_or(floor);
        if self.begun {
            self.lost += target.0.saturating_sub(from.0);
        }
        self.next = Some(target);
        self.discont = true;
    }

    /// What to hand on.
    pub fn next(&mut self, window: &Window, clock: Option<Mapping>, now: Instant) -> Next {
        if self.ended {
            return Next::End;
        }
        let Some(mut next) = self.next else {
            return Next::Wait(None);
        };
        if next < window.floor() {
            self.catch_up(next, window);
            next = self.next.unwrap_or(next);
        }
        if !self.begun {
            match self.beginning(next, window, clock, now) {
                Some(at) => next = at,
                None => {
                    let due = self.raw_due(self.run_end(next, window), window, clock);
                    return Next::Wait(due.filter(|due| *due > now));
                }
            }
            self.next = Some(next);
        }
        if let Some(stored) = window.get(next) {
            let info = stored.info();
            if info.header != self.header && info.first_item.is_some() {
                return Next::Header(info.header);
            }
            self.next = Some(next.plus(1));
            if info.end {
                self.ended = true;
                return Next::End;
            }
            self.begun = true;
            let discont = std::mem::take(&mut self.discont);
            return Next::Play {
                piece: stored.clone(),
                discont,
            };
        }
        // Nothing newer: the stream stands still, and nothing is lost by waiting.
        let Some(newer) = window.from(next).next() else {
            return Next::Wait(None);
        };
        let Some(due) = self.due(next, window, clock) else {
            return Next::Wait(None);
        };
        if due > now {
            return Next::Wait(Some(due));
        }
        let resume = newer.info().seq;
        self.lost += resume.0 - next.0;
        self.next = Some(resume);
        self.discont = true;
        self.next(window, clock, now)
    }

    /// Gives up on a header that never came: its pieces can't be played.
    pub fn skip(&mut self) {
        if let Some(next) = self.next {
            self.next = Some(next.plus(1));
            self.discont = true;
            self.lost += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SenderTime;
    use crate::window::Bounds;
    use crate::window::tests::piece;

    const MS: Duration = Duration::from_millis(1);

    fn scene() -> (Playout, Window, Mapping, Instant) {
        let start = Instant::now();
        let window = Window::new(Bounds {
            span: Duration::from_secs(4),
            bytes: usize::MAX,
        });
        let mut playout = Playout::new(500 * MS);
        playout.start(Seq(0), Seq(0), start);
        playout.header_applied(1);
        let clock = Mapping {
            local: start,
            sender: SenderTime(0),
        };
        (playout, window, clock, start)
    }

    fn played(next: Next) -> Option<(u64, bool)> {
        match next {
            Next::Play { piece, discont } => Some((piece.info().seq.0, discont)),
            _ => None,
        }
    }

    #[test]
    fn after_a_pause_it_goes_on_with_what_is_due_now() {
        let (mut playout, mut window, clock, now) = scene();
        let at = |seq: u64| now + Duration::from_millis(20 * seq);
        for seq in 0..150 {
            window.offer(piece(seq));
        }
        // Join points are a hundred pieces, two seconds, apart; the play-out delay is half a
        // second. What was handed on before counts for nothing: the player threw it away.
        for _ in 0..3 {
            played(playout.next(&window, Some(clock), at(3)));
        }
        playout.go_live(&window, false, Some(clock), at(150));
        let next = |playout: &mut Playout| played(playout.next(&window, Some(clock), at(150)));
        assert_eq!(next(&mut playout), Some((100, true)));
        assert_eq!(next(&mut playout), Some((101, false)));
        playout.go_live(&window, false, Some(clock), at(150));
        assert_eq!(next(&mut playout), Some((100, true)));
        for seq in 150..210 {
            window.offer(piece(seq));
        }
        playout.go_live(&window, true, Some(clock), at(210));
        let newest = playout.next(&window, Some(clock), at(210));
        assert_eq!(played(newest), Some((200, true)), "nothing overdue");
        assert_eq!(playout.lost(), 0);
    }

    #[test]
    fn pieces_leave_as_soon_as_they_are_in_order() {
        let (mut playout, mut window, clock, now) = scene();
        window.offer(piece(1));
        window.offer(piece(0));
        assert_eq!(
            played(playout.next(&window, Some(clock), now)),
            Some((0, true))
        );
        assert_eq!(
            played(playout.next(&window, Some(clock), now)),
            Some((1, false))
        );
        assert!(matches!(
            playout.next(&window, Some(clock), now),
            Next::Wait(None)
        ));
    }

    #[test]
    fn a_missing_piece_is_waited_for_until_it_is_due_and_not_longer() {
        let (mut playout, mut window, clock, start) = scene();
        window.offer(piece(0));
        window.offer(piece(2));
        playout.next(&window, Some(clock), start);
        let Next::Wait(Some(due)) = playout.next(&window, Some(clock), start) else {
            panic!("it should wait");
        };
        assert_eq!(due, start + 500 * MS);
        assert_eq!(
            played(playout.next(&window, Some(clock), due)),
            Some((2, true))
        );
        assert_eq!(playout.lost(), 1);
    }

    #[test]
    fn a_start_whose_first_pieces_never_come_begins_at_the_next_join_point() {
        let (mut playout, mut window, clock, start) = scene();
        for seq in 1..60 {
            window.offer(piece(seq));
        }
        let late = start + 600 * MS;
        let next = playout.next(&window, Some(clock), late);
        assert_eq!(played(next), Some((50, true)));
        assert_eq!(playout.lost(), 0, "a late start is no loss");
    }

    #[test]
    fn a_start_waits_for_what_is_still_to_be_shown() {
        let (_, mut window, clock, start) = scene();
        let mut playout = Playout::new(2000 * MS);
        // The newest picture began 1.9 s ago, and the backlog comes from its beginning on.
        let now = start + 1900 * MS;
        playout.start(Seq(0), Seq(95), now);
        playout.header_applied(1);
        for seq in 0..30 {
            window.offer(piece(seq));
        }
        let mut next = |n: u32| played(playout.next(&window, Some(clock), now + n * MS));
        assert_eq!(
            next(0),
            Some((0, true)),
            "half a second, none of it overdue"
        );
        let due = |seq| playout.due(Seq(seq), &window, Some(clock)).unwrap();
        let wanted = |seq| playout.wanted(Seq(seq), &window, Some(clock), now).unwrap();
        assert_eq!(due(30) - now, 2000 * MS, "a late start is waited for");
        assert_eq!(
            wanted(30) - now,
            680 * MS,
            "but what follows a start is shown at its time"
        );
        let late = now + 700 * MS;
        let wanted = playout.wanted(Seq(30), &window, Some(clock), late);
        assert_eq!(wanted, Some(due(30)), "it is late for that, and waited for");
        let mut playout = Playout::new(2000 * MS);
        playout.start(Seq(0), Seq(95), now);
        playout.header_applied(1);
        let mut next = |window: &Window| played(playout.next(window, Some(clock), now + 400 * MS));
        assert_eq!(next(&window), None, "the last is due in 280 ms");
        for seq in 30..50 {
            window.offer(piece(seq));
        }
        assert_eq!(next(&window), Some((0, true)));
    }

    #[test]
    fn a_player_that_slept_jumps_to_the_newest_join_point() {
        let (mut playout, mut window, clock, start) = scene();
        window.offer(piece(0));
        playout.next(&window, Some(clock), start);
        for seq in 1..=400 {
            window.offer(piece(seq));
        }
        let now = start + 8000 * MS;
        assert_eq!(
            played(playout.next(&window, Some(clock), now)),
            Some((400, true))
        );
    }

    #[test]
    fn the_header_comes_before_the_first_piece_that_needs_it() {
        let (mut playout, mut window, clock, now) = scene();
        playout.start(Seq(0), Seq(0), now);
        window.offer(piece(0));
        assert!(matches!(
            playout.next(&window, Some(clock), now),
            Next::Header(1)
        ));
        playout.header_applied(1);
        assert_eq!(
            played(playout.next(&window, Some(clock), now)),
            Some((0, true))
        );
    }
}
