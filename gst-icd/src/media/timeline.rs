//! Time on both sides: the sender's anchor, the receiver's due times.

use std::time::{Duration, Instant};

use icd_grid::SenderTime;
use icd_grid::clock::Mapping;

/// Running time and sender time may part this much before the timeline counts as new: a pause,
/// a flush, a jump.
const NEW_TIMELINE: i64 = 1_000_000_000;
/// A better anchor is announced only if it is better by so much; viewers that play keep theirs.
const BETTER: i64 = 20_000_000;

/// What a buffer says about the sender's timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Observed {
    Same,
    /// Newcomers get a better estimate.
    Refined,
    /// A new timeline began.
    New,
    /// The upstream runs ahead of the clock: it is not paced.
    Unpaced,
}

/// The least of sender time minus running time: what a buffer's running time says about when it
/// should have been rendered.
#[derive(Debug, Default)]
pub(crate) struct Anchor {
    value: Option<i64>,
    timeline: u32,
}

impl Anchor {
    pub(crate) fn value(&self) -> i64 {
        self.value.unwrap_or(0)
    }

    pub(crate) fn timeline(&self) -> u32 {
        self.timeline
    }

    /// The next buffer begins a new timeline: a flush, a new segment.
    pub(crate) fn reset(&mut self) {
        self.value = None;
    }

    pub(crate) fn observe(&mut self, running: i64, sender: i64) -> Observed {
        let found = sender - running;
        let Some(value) = self.value else {
            self.value = Some(found);
            self.timeline += 1;
            return Observed::New;
        };
        if found - value > NEW_TIMELINE {
            self.value = Some(found);
            self.timeline += 1;
            Observed::New
        } else if value - found > NEW_TIMELINE {
            Observed::Unpaced
        } else if value - found > BETTER {
            self.value = Some(found);
            Observed::Refined
        } else {
            Observed::Same
        }
    }
}

/// The receiver: from the sender's running time to the pipeline's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DueTimes {
    /// Add to a running time of the sender.
    offset: i64,
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
    /// `running_now` is the pipeline's running time at `now`.
    pub(crate) fn new(
        clock: &Mapping,
        anchor: i64,
        timeline: u32,
        latency: Duration,
        segment: gst::ClockTime,
        running_now: i64,
        now: Instant,
    ) -> Self {
        // Running time of the pipeline at sender time zero, without leaving integers.
        let sender_now = clock.sender(now);
        let zero = running_now - signed(sender_now);
        Self {
            offset: zero + anchor + latency.as_nanos() as i64,
            reported: 0,
            segment: segment.nseconds() as i64,
            timeline,
            stale: false,
        }
    }

    /// When an item is due in the pipeline's running time.
    pub(crate) fn due(&self, running: i64) -> i64 {
        running + self.offset
    }

    /// The time stamp of an item; none before the beginning of time.
    pub(crate) fn stamp(&self, running: i64) -> Option<gst::ClockTime> {
        u64::try_from(self.due(running) - self.reported + self.segment)
            .ok()
            .map(gst::ClockTime::from_nseconds)
    }
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
    fn a_pause_begins_a_new_timeline_and_a_race_ahead_is_called_unpaced() {
        let mut anchor = Anchor::default();
        anchor.observe(0, S);
        assert_eq!(anchor.observe(S, 10 * S), Observed::New);
        assert_eq!(anchor.timeline(), 2);
        assert_eq!(anchor.observe(20 * S, 11 * S), Observed::Unpaced);
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
        let due = DueTimes::new(&clock, 93 * S, 1, latency, segment, 3 * S, now);
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
}
