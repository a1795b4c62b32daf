//! The receiver's side: what the grid plays to caps, events and buffers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use icd_grid::clock::Mapping;
use icd_grid::{Epoch, Media};

use crate::media::caps;
use crate::media::item::{Head, NO_OFFSET, Reader, State, TRAVELLING};
use crate::media::text;
use crate::media::timeline::{DueTimes, Moment, segment_start};

/// What goes downstream, in this order.
#[derive(Debug)]
pub(crate) enum Out {
    Caps(gst::Caps),
    /// What is downstream is thrown away at this running time, when all of it was due, or now:
    /// the demuxer begins anew.
    Flush(Option<i64>),
    /// Where the segment starts from now on.
    Segment(gst::ClockTime),
    Event(gst::Event),
    Buffer(gst::Buffer),
    /// The reported latency changed.
    Latency,
    /// The application is given a moment to ask for it: with what comes next a new chain takes the
    /// place of the old one, and as long as its pads are being linked nobody there hears of it.
    Moment,
    /// The container can't follow a new timeline; what made it new.
    Stuck(gst::Caps, &'static str),
    Eos,
}

/// What lies downstream of a container's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Downstream {
    /// No demuxer, and nobody who would keep a timeline: the bytes go to a file, or on to others.
    #[default]
    Bytes,
    /// No demuxer, and all sinks synchronise.
    Plain,
    /// A demuxer before each sink, and all sinks synchronise: they show, and keep nothing.
    Shown,
    /// A demuxer, but not all of it is shown: a flush makes filesink begin its file anew.
    Kept,
}

/// Time stamps of containers are coarser than ours, and their first may lie before the others: a
/// new segment begins so much earlier.
const EARLIER: i64 = 1_000_000_000;
/// So long after a timeline began, in the stream, the latency is told again, to those that did not
/// ask in time.
const TOLD_AGAIN: [i64; 3] = [250_000_000, 1_000_000_000, 3_000_000_000];

/// A time that came off the wire; the highest number means none to GStreamer.
fn clock_time(nseconds: u64) -> Option<gst::ClockTime> {
    (nseconds != u64::MAX).then(|| gst::ClockTime::from_nseconds(nseconds))
}

#[derive(Debug, Default)]
pub(crate) struct Unpacker {
    latency: Duration,
    reader: Reader,
    state: Option<Arc<State>>,
    epoch: Epoch,
    due: Option<DueTimes>,
    /// Of the pipeline; another one makes another running time.
    base_time: Option<gst::ClockTime>,
    /// The player was paused: what comes before a mark of discontinuity is of the past.
    resuming: bool,
    /// So is what was taken before the pause and is not shown yet: it goes with the next buffer.
    past_below: bool,
    stream_headers: Vec<gst::Buffer>,
    own_timeline: bool,
    /// Whether it was set for a container with its own timeline, and where it starts.
    segment: Option<(bool, gst::ClockTime)>,
    /// The headers in the caps were sent in this epoch.
    began: bool,
    /// The next buffer with a time tells the latency; headers may come before it without one.
    unreported: bool,
    /// Where the own timeline of a container's demuxer is zero, in the sender's running time of
    /// this epoch; none before it has one.
    zero: Option<i64>,
    /// The newest time that went downstream, in the sender's running time.
    last: Option<i64>,
    /// When what went downstream is shown; none after a pause, when it is of the past.
    shown: Option<i64>,
    downstream: Downstream,
    /// It begins anew with the next buffer that has a time.
    anew: bool,
    /// What the demuxer had played of earlier epochs when this one began.
    ahead: i64,
    /// When the timeline began, and how often the latency was told again since.
    told_again: Option<(i64, usize)>,
    discont: bool,
    out: VecDeque<Out>,
}

impl Unpacker {
    pub(crate) fn new(latency: Duration) -> Self {
        Self {
            latency,
            ..Self::default()
        }
    }

    /// The pipeline's base time; another one (after a pause, a flush) makes new due times.
    fn base_time(&mut self, base: Option<gst::ClockTime>) {
        if std::mem::replace(&mut self.base_time, base) != base
            && let Some(due) = self.due.as_mut()
        {
            due.stale = true;
        }
    }

    /// The player was paused. What it had not taken yet is of the past, but for what holds on;
    /// the grid goes on with what is due now, under a mark of discontinuity. False if nothing of
    /// the stream went downstream yet.
    pub(crate) fn resume(&mut self) -> bool {
        if !self.began {
            return false;
        }
        // A flush that waits goes with its segment and the headers, and all come again.
        let pending = self.out.iter().any(|out| matches!(out, Out::Flush(_)));
        self.anew |= pending && self.own_timeline;
        self.unreported |= pending && self.own_timeline;
        self.out.retain(|out| match out {
            Out::Buffer(_) => false,
            Out::Flush(_) | Out::Segment(_) => !pending,
            _ => true,
        });
        self.reader.reset();
        self.resuming = true;
        self.past_below = !self.own_timeline;
        self.shown = None;
        true
    }

    /// What LATENCY answers, once it is known.
    pub(crate) fn reported(&self) -> gst::ClockTime {
        let reported = self.due.map_or(0, |due| due.reported);
        gst::ClockTime::from_nseconds(reported.max(0) as u64)
    }

    pub(crate) fn poll(&mut self) -> Option<Out> {
        self.out.pop_front()
    }

    /// Could not go downstream now; it is the next again.
    pub(crate) fn put_back(&mut self, out: Out) {
        self.out.push_front(out);
    }

    /// The broadcaster's name of the stream.
    pub(crate) fn stream_name(&self) -> &str {
        self.state.as_ref().map_or("", |s| &s.stream_name)
    }

    /// Before the next thing is taken, the pipeline's base time. Whether something may be flushed
    /// before it, so that it matters what lies downstream.
    pub(crate) fn asks_downstream(&mut self, base: Option<gst::ClockTime>) -> bool {
        self.base_time(base);
        let stands = |due: &DueTimes| {
            !due.stale && self.state.as_ref().map(|s| s.timeline) == Some(due.timeline)
        };
        let anew =
            self.own_timeline && self.zero.is_some() && !self.due.as_ref().is_some_and(stands);
        anew || self.past_below
    }

    /// What lies downstream now.
    pub(crate) fn downstream(&mut self, downstream: Downstream) {
        self.downstream = downstream;
    }

    /// Takes the next thing from the grid. `here` is the pipeline's running time now; none while it
    /// has no clock. False: the broadcaster sends what this version does not understand.
    pub(crate) fn take(&mut self, media: Media, here: Option<Moment>) -> bool {
        match media {
            Media::Header {
                media,
                epoch,
                own_timeline,
            } => {
                let Some(state) = State::decode(&media) else {
                    return false;
                };
                if epoch != self.epoch {
                    self.epoch = epoch;
                    self.reader.reset();
                    self.began = false;
                    self.due = None;
                }
                self.own_timeline = own_timeline;
                let understood = self.apply(state);
                if self.segment.is_none_or(|(own, _)| own != own_timeline) {
                    let start = segment_start(own_timeline);
                    self.segment = Some((own_timeline, start));
                    self.due = None;
                    self.out.push_back(Out::Segment(start));
                }
                understood
            }
            Media::Payload {
                bytes,
                first_item,
                time: _,
                discont,
                clock,
            } => {
                if discont {
                    self.reader.reset();
                    self.resuming = false;
                }
                if self.resuming {
                    return true;
                }
                let (Some(state), Some(here)) = (self.state.clone(), here) else {
                    // It can't be timed; what follows begins with the next whole item.
                    self.reader.reset();
                    return true;
                };
                self.follow(&clock, &state, here);
                self.payload(bytes, first_item, discont)
            }
            Media::End => {
                self.out.push_back(Out::Eos);
                true
            }
        }
    }

    /// Keeps the due times true.
    fn follow(&mut self, clock: &Mapping, state: &State, here: Moment) {
        if let Some(due) = self.due.as_mut()
            && !due.stale
            && due.timeline == state.timeline
        {
            due.follow(clock, state.anchor, self.latency, here);
            return;
        }
        let anchor = (state.anchor, state.timeline);
        let segment = self
            .segment
            .map_or(gst::ClockTime::ZERO, |(_, start)| start);
        let mut due = DueTimes::new(clock, anchor, self.latency, segment, here);
        if let Some(before) = self.due {
            due.reported = before.reported;
            if before.timeline != state.timeline {
                self.discont = true;
            }
            self.unreported = true;
        }
        self.due = Some(due);
    }

    fn apply(&mut self, state: State) -> bool {
        let before = self.state.as_ref();
        // A stream may have none, as that of srtsrc: then typefind finds them at this end.
        let caps = !state.caps.is_empty();
        if caps && before.is_none_or(|b| b.caps != state.caps) {
            let Some(caps) = text::caps(&state.caps) else {
                return false;
            };
            self.stream_headers = caps::stream_headers(&caps);
            self.out.push_back(Out::Caps(caps));
        }
        for (n, tags) in state.tags.iter().enumerate() {
            let same = before.is_some_and(|b| b.tags.get(n) == Some(tags));
            if same || tags.is_empty() {
                continue;
            }
            if let Some(mut list) = text::tags(tags) {
                let scope = if n == 1 {
                    gst::TagScope::Global
                } else {
                    gst::TagScope::Stream
                };
                list.make_mut().set_scope(scope);
                self.out.push_back(Out::Event(gst::event::Tag::new(list)));
            }
        }
        for sticky in &state.sticky {
            if before.is_some_and(|b| b.sticky.contains(sticky)) {
                continue;
            }
            if let Some(structure) = text::structure(sticky) {
                let event = gst::event::CustomDownstreamSticky::new(structure);
                self.out.push_back(Out::Event(event));
            }
        }
        self.state = Some(Arc::new(state));
        true
    }

    fn payload(&mut self, bytes: Bytes, first_item: Option<u32>, mut discont: bool) -> bool {
        let mut items = Vec::new();
        let read = self
            .reader
            .read(bytes, first_item, |head, data| items.push((head, data)));
        for (head, data) in items {
            match head {
                Head::Buffer { .. } => self.buffer(&head, data, std::mem::take(&mut discont)),
                Head::Gap { pts, duration } => {
                    if let Some(at) = self.due.and_then(|due| due.stamp(pts)) {
                        let duration = duration.and_then(clock_time);
                        let gap = gst::event::Gap::builder(at).duration(duration).build();
                        self.out.push_back(Out::Event(gap));
                    }
                }
                Head::Event { structure, both } => {
                    if let Some(structure) = text::structure(&structure) {
                        let event = match both {
                            true => gst::event::CustomBoth::new(structure),
                            false => gst::event::CustomDownstream::new(structure),
                        };
                        self.out.push_back(Out::Event(event));
                    }
                }
            }
        }
        // The mark belongs to the next buffer, which a later payload may complete. So does that
        // of bytes which made no sense.
        self.discont |= discont || read.is_err();
        read.is_ok()
    }

    fn buffer(&mut self, head: &Head, data: Bytes, discont: bool) {
        let Head::Buffer {
            pts,
            dts,
            duration,
            offset,
            offset_end,
            flags,
        } = head
        else {
            return;
        };
        let mut discont = discont | std::mem::take(&mut self.discont);
        let time = dts.or(*pts);
        // Before what must not be thrown away with it.
        if std::mem::take(&mut self.past_below)
            && matches!(self.downstream, Downstream::Plain | Downstream::Shown)
        {
            let start = segment_start(self.own_timeline);
            self.out.push_back(Out::Flush(None));
            self.out.push_back(Out::Segment(start));
        }
        if !self.began {
            discont &= !self.begin(time);
        }
        if self.unreported && time.is_some() && self.report_latency(time) {
            discont &= !self.headers(time, true);
        }
        if let (Some(due), Some(time)) = (self.due, time) {
            self.last = Some(time);
            self.shown = Some(due.due(time).max(self.shown.unwrap_or(i64::MIN)));
        }
        let stamp = |time: Option<i64>| self.due.as_ref()?.stamp(time?);
        let mut buffer = gst::Buffer::from_slice(data);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(stamp(*pts));
            buffer.set_dts(stamp(*dts));
            buffer.set_duration(duration.and_then(clock_time));
            buffer.set_offset(offset.unwrap_or(NO_OFFSET));
            buffer.set_offset_end(offset_end.unwrap_or(NO_OFFSET));
            buffer.set_flags(gst::BufferFlags::from_bits_truncate(*flags) & TRAVELLING);
            if discont {
                buffer.set_flags(gst::BufferFlags::DISCONT);
            }
        }
        self.out.push_back(Out::Buffer(buffer));
        self.tell_again(time);
    }

    /// After a buffer of that time the latency may be told again.
    fn tell_again(&mut self, time: Option<i64>) {
        let (Some(time), Some((began, count))) = (time, self.told_again) else {
            return;
        };
        let passed = TOLD_AGAIN
            .iter()
            .take_while(|at| began.saturating_add(**at) <= time);
        let passed = passed.count();
        if passed > count {
            self.out.push_back(Out::Latency);
            self.told_again = (passed < TOLD_AGAIN.len()).then_some((began, passed));
        }
    }

    /// The first buffer of an epoch: the headers in the caps come before it. True if there are
    /// any.
    fn begin(&mut self, first: Option<i64>) -> bool {
        self.began = true;
        self.unreported = true;
        if let Some(zero) = self.zero.take() {
            match self.chains() {
                true => self.ahead = self.last.map_or(0, |time| time.saturating_sub(zero)),
                false => self.anew = true,
            }
        }
        let flushed = self.report_latency(first);
        if self.anew && self.downstream == Downstream::Shown {
            // They come with the flush, which waits for a time.
            return false;
        }
        self.headers(first, flushed)
    }

    /// The headers in the caps go before what comes next. True if there are any: they bear the
    /// DISCONT then, since tsdemux throws away what it holds when one comes after them.
    fn headers(&mut self, next: Option<i64>, flushed: bool) -> bool {
        let stamp = next.and_then(|next| self.due.as_ref()?.stamp(next));
        let mut flags = gst::BufferFlags::HEADER | gst::BufferFlags::DISCONT;
        for header in &self.stream_headers {
            // After a flush flvdemux expects the next tag, and no head of a file.
            let flv = header.map_readable().is_ok_and(|h| h.starts_with(b"FLV"));
            if flv && flushed {
                continue;
            }
            let mut header = header.copy();
            if let Some(header) = header.get_mut() {
                header.set_flags(flags);
                header.set_pts(stamp);
                header.set_dts(stamp);
            }
            flags = gst::BufferFlags::HEADER;
            self.out.push_back(Out::Buffer(header));
        }
        !self.stream_headers.is_empty()
    }

    /// Whether the container chains one stream to the next in one timeline, as Ogg does.
    fn chains(&self) -> bool {
        let caps = self.state.as_ref().map_or("", |s| &s.caps);
        ["application/ogg", "audio/ogg", "video/ogg"]
            .iter()
            .any(|ogg| caps.starts_with(ogg))
    }

    /// The demuxer begins a new timeline, once what it has given was due. Muxers stamp by the
    /// running time, and demuxers in mid-stream take this segment over: it starts where the new
    /// timeline is zero, which is returned.
    fn flush(&mut self, due: &mut DueTimes, next: i64) -> i64 {
        let zero = next.saturating_sub(EARLIER.min(due.due(next)).min(next).max(0));
        let start = gst::ClockTime::from_nseconds(zero.max(0) as u64);
        self.segment = Some((true, start));
        due.begin_at(start);
        self.out.push_back(Out::Flush(self.shown.take()));
        self.out.push_back(Out::Segment(start));
        zero
    }

    /// Tells downstream by how much later than on the demuxer's timeline everything is due, for
    /// an item of that time that goes there next. True if the demuxer begins anew with it.
    fn report_latency(&mut self, next: Option<i64>) -> bool {
        let (true, Some(mut due), Some(next)) = (self.own_timeline, self.due, next) else {
            return false;
        };
        self.unreported = false;
        let mut zero = *self.zero.get_or_insert(next.saturating_sub(self.ahead));
        // A timeline that stands so that all would be late: this viewer was paused.
        let late = due.due(zero) < 0 && zero != next;
        let anew = std::mem::take(&mut self.anew);
        let why = if anew {
            "the broadcaster restarted"
        } else {
            "this viewer was paused"
        };
        let can = !self.chains() && self.downstream == Downstream::Shown;
        let flushed = (anew || late) && can;
        if flushed {
            zero = self.flush(&mut due, next);
        } else if anew || late {
            let caps = self.state.as_ref().and_then(|s| s.caps.parse().ok());
            let demuxer = matches!(self.downstream, Downstream::Shown | Downstream::Kept);
            let stuck = caps.filter(|_| demuxer);
            self.out.extend(stuck.map(|caps| Out::Stuck(caps, why)));
        }
        self.zero = Some(zero);
        due.reported = due.due(zero).max(0);
        self.due = Some(due);
        self.out.push_back(Out::Latency);
        if self.chains() && self.ahead > 0 {
            self.out.push_back(Out::Moment);
        }
        self.told_again = Some((next, 0));
        flushed
    }
}
