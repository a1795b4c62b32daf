//! Time on both sides: the sender's anchor, the receiver's due times.

use std::time::{Duration, Instant};

use icd_grid::SenderTime;
use icd_grid::clock::Mapping;

/// Running time and sender time may part this much before the timeline counts as new: a pause,
/// a flush, a jump.
const NEW_TIMELINE: i64 = 1_000_000_000;
/// A better anchor is announced only if it is better by so much.
const BETTER: i64 = 20_000_000;
/// The least is taken over this much time and as much again before it, so that it follows a
/// pipeline's clock that is slower than the system's.
const LOW_SPAN: i64 = 30_000_000_000;

/// What a buffer says about the sender's timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Observed {
    Same,
    /// Newcomers get a better estimate, and those that play follow it slowly.
    Refined,
    /// A new timeline began.
    New,
}

/// The least of sender time minus running time: what a buffer's running time says about when it
/// should have been rendered.
#[derive(Debug, Default)]
pub(crate) struct Anchor {
    value: Option<i64>,
    timeline: u32,
    /// What those started with that play this timeline.
    began: i64,
    /// The least of the present span and of the one before.
    low: i64,
    low_before: Option<i64>,
    span_began: i64,
}

impl Anchor {
    pub(crate) fn value(&self) -> i64 {
        self.value.unwrap_or(0)
    }

    /// Whether a buffer of this timeline came.
    pub(crate) fn is_known(&self) -> bool {
        self.value.is_some()
    }

    /// A better value is told. Those that play would follow a much better one for many minutes:
    /// it begins a timeline. Its number.
    pub(crate) fn told(&mut self) -> u32 {
        let value = self.value();
        if self.began - value > NEW_TIMELINE {
            self.timeline += 1;
            self.began = value;
        }
        self.timeline
    }

    pub(crate) fn timeline(&self) -> u32 {
        self.timeline
    }

    /// The next buffer begins a new timeline: a flush, a pause.
    pub(crate) fn reset(&mut self) {
        self.value = None;
    }

    pub(crate) fn observe(&mut self, running: i64, sender: i64) -> Observed {
        let found = sender - running;
        let Some(value) = self.value.filter(|v| found - v <= NEW_TIMELINE) else {
            self.value = Some(found);
            self.began = found;
            self.low = found;
            self.low_before = None;
            self.span_began = sender;
            self.timeline += 1;
            return Observed::New;
        };
        let mut least = None;
        if sender - self.span_began >= LOW_SPAN {
            least = self.low_before.map(|before| before.min(self.low));
            self.low_before = Some(self.low);
            self.low = found;
            self.span_began = sender;
        }
        self.low = self.low.min(found);
        // Downwards at once, upwards when all of two spans says so.
        let better = match least {
            Some(least) if least - value > BETTER => least,
            _ if value - found > BETTER => found,
            _ => return Observed::Same,
        };
        self.value = Some(better);
        Observed::Refined
    }
}

/// Due times follow a drift of clocks by at most this much a second, which nobody hears ...
const SLEW: i64 = 500_000;
const SECOND: i64 = 1_000_000_000;
/// ... and not before it has become so large, or this share of the play-out delay: until then
/// time stamps stay equal to the sender's up to one constant.
const TOO_SOON: i64 = 50_000_000;
const TOO_SOON_SHARE: i64 = 20;
/// What is due later than need be harms nobody for long: the first buffer may have been late.
const TOO_LATE: i64 = 500_000_000;

/// One moment in the pipeline's running time and on the system's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) running: i64,
    pub(crate) at: Instant,
}

/// The receiver: from the sender's running time to the pipeline's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DueTimes {
    /// Add to a running time of the sender.
    offset: i64,
    followed: Instant,
    /// What LATENCY answers, in nanoseconds, and what is taken off every due time.
    pub(crate) reported: i64,
    /// Where the segment starts: time stamps of what is overdue lie before it.
    segment: i64,
    pub(crate) timeline: u32,
    /// The pipeline's running time is another by now.
    pub(crate) stale: bool,
}

/// Where the segment starts. What is overdue at the start of a viewer has a running time before
/// zero, and time stamps can't be negative; encoders leave the same room before their first
/// picture (GstVideoEncoder's min_pts). Demuxers that make their own timeline ignore time stamps,
/// but take over the segment.
pub(crate) fn segment_start(own_timeline: bool) -> gst::ClockTime {
    match own_timeline {
        true => gst::ClockTime::ZERO,
        false => gst::ClockTime::from_seconds(3600),
    }
}

impl DueTimes {
    /// `anchor` is the sender's, of this `timeline`.
    pub(crate) fn new(
        clock: &Mapping,
        (anchor, timeline): (i64, u32),
        latency: Duration,
        segment: gst::ClockTime,
        here: Moment,
    ) -> Self {
        Self {
            offset: offset(clock, anchor, latency, here),
            followed: here.at,
            reported: 0,
            segment: segment.nseconds() as i64,
            timeline,
            stale: false,
        }
    }

    /// Follows what the clocks and the anchor say by now: the sender's pipeline clock, its
    /// system's, this system's and this pipeline's each go at their own rate.
    pub(crate) fn follow(&mut self, clock: &Mapping, anchor: i64, latency: Duration, here: Moment) {
        let elapsed = here.at.saturating_duration_since(self.followed);
        self.followed = here.at;
        let off = offset(clock, anchor, latency, here).saturating_sub(self.offset);
        let too_soon = TOO_SOON.min(latency.as_nanos() as i64 / TOO_SOON_SHARE);
        if off > too_soon || off < -TOO_LATE {
            let step = (elapsed.as_nanos() as i64).min(SECOND) * SLEW / SECOND;
            self.offset += off.clamp(-step, step);
        }
    }

    /// The segment starts elsewhere from now on.
    pub(crate) fn begin_at(&mut self, start: gst::ClockTime) {
        self.segment = start.nseconds() as i64;
    }

    /// When an item is due in the pipeline's running time.
    pub(crate) fn due(&self, running: i64) -> i64 {
        running.saturating_add(self.offset)
    }

    /// The time stamp of an item; none before the beginning of time.
    pub(crate) fn stamp(&self, running: i64) -> Option<gst::ClockTime> {
        let shift = self.segment - self.reported;
        u64::try_from(self.due(running).saturating_add(shift))
            .ok()
            .map(gst::ClockTime::from_nseconds)
    }
}

/// Running time here minus running time there, of an item that is due when its age reaches the
/// latency.
fn offset(clock: &Mapping, anchor: i64, latency: Duration, here: Moment) -> i64 {
    // Running time of the pipeline at sender time zero, without leaving integers.
    let zero = here.running.saturating_sub(signed(clock.sender(here.at)));
    zero.saturating_add(anchor)
        .saturating_add(latency.as_nanos() as i64)
}

fn signed(time: SenderTime) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn jitter_of_rendering_does_not_move_the_anchor() {
        let mut anchor = Anchor::default();
        assert_eq!(anchor.observe(3_600_000 * S, 5 * S), Observed::New);
        assert_eq!(
            anchor.observe(3_600_001 * S, 6 * S + 3_000_000),
            Observed::Same
        );
        assert_eq!(anchor.value(), 5 * S - 3_600_000 * S);
        assert_eq!(anchor.timeline(), 1);
    }

    #[test]
    fn a_long_pause_begins_a_new_timeline() {
        let mut anchor = Anchor::default();
        anchor.observe(0, S);
        assert_eq!(anchor.observe(S, 10 * S), Observed::New);
        assert_eq!(anchor.timeline(), 2);
        assert_eq!(
            anchor.observe(2 * S, 11 * S - 50_000_000),
            Observed::Refined
        );
    }

    #[test]
    fn an_item_is_due_when_its_age_reaches_the_latency() {
        let now = Instant::now();
        let clock = Mapping {
            local: now,
            sender: SenderTime(100 * S as u64),
        };
        // Rendered now (sender time 100 s) with running time 7 s; the viewer's pipeline is at 3 s.
        let latency = Duration::from_secs(2);
        let segment = gst::ClockTime::from_seconds(10);
        let here = Moment {
            running: 3 * S,
            at: now,
        };
        let due = DueTimes::new(&clock, (93 * S, 1), latency, segment, here);
        assert_eq!(due.due(7 * S), 5 * S);
        let seconds = gst::ClockTime::from_seconds;
        assert_eq!(due.stamp(7 * S), Some(seconds(15)));
        assert_eq!(
            due.stamp(0),
            Some(seconds(8)),
            "overdue, before the segment"
        );
        assert_eq!(due.stamp(-9 * S), None);
    }

    #[test]
    fn a_pipeline_clock_that_is_slow_moves_the_anchor_after_a_while() {
        let mut anchor = Anchor::default();
        // 200 ppm slow, rendered up to 3 ms late.
        let observed = |anchor: &mut Anchor, ms: i64| {
            let sender = ms * 1_000_000;
            let late = (ms % 4) * 1_000_000;
            anchor.observe(sender - sender / 5000 - late, sender)
        };
        let times: Vec<_> = (0..600_000)
            .step_by(20)
            .filter(|ms| observed(&mut anchor, *ms) == Observed::Refined)
            .collect();
        let off = 600 * S / 5000 - anchor.value();
        assert_eq!(anchor.timeline(), 1);
        assert!((2..8).contains(&times.len()), "{times:?}");
        assert!((0..50_000_000).contains(&off), "{off}");
    }

    #[test]
    fn a_drift_is_followed_slowly_and_a_small_error_not_at_all() {
        let start = Instant::now();
        let clock = Mapping {
            local: start,
            sender: SenderTime(0),
        };
        let latency = Duration::from_secs(2);
        let zero = gst::ClockTime::ZERO;
        // This pipeline's clock is 100 ppm fast.
        let here = |ms: u64| Moment {
            running: (ms as i64 * 1_000_000) + ms as i64 * 100,
            at: start + Duration::from_millis(ms),
        };
        let mut due = DueTimes::new(&clock, (0, 1), latency, zero, here(0));
        let first = due.due(0);
        let mut before = first;
        for ms in (0..3_600_000).step_by(20) {
            due.follow(&clock, 0, latency, here(ms));
            let moved = due.due(0) - before;
            assert!((0..=10_000).contains(&moved), "{moved} ns in 20 ms");
            before = due.due(0);
            if ms < 490_000 {
                assert_eq!(before, first);
            }
        }
        // 360 ms in an hour, 50 ms of which are borne.
        let followed = (before - first) / 1_000_000;
        assert!((305..=315).contains(&followed), "{followed}");
    }
}
