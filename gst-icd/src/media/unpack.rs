//! The receiver's side: what the grid plays to caps, events and buffers.

use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gst::prelude::*;
use icd_grid::clock::Mapping;
use icd_grid::{Epoch, Media};

use crate::media::caps;
use crate::media::item::{Head, NO_OFFSET, Reader, State, TRAVELLING};
use crate::media::timeline::{DueTimes, Moment, segment_start};

/// What goes downstream, in this order.
#[derive(Debug)]
pub(crate) enum Out {
    Caps(gst::Caps),
    /// Where the segment starts from now on.
    Segment(gst::ClockTime),
    Event(gst::Event),
    Buffer(gst::Buffer),
    /// The reported latency changed.
    Latency,
    /// The container can't follow a new timeline; what made it new.
    Stuck(gst::Caps, &'static str),
    Eos,
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
    stream_headers: Vec<gst::Buffer>,
    own_timeline: bool,
    segment: Option<gst::ClockTime>,
    /// The headers in the caps were sent in this epoch.
    began: bool,
    /// Its first buffer with a time tells the latency; headers may come before it without one.
    unreported: bool,
    /// A container with its own timeline plays an earlier epoch.
    followed: bool,
    discont: bool,
    out: VecDeque<Out>,
}

/// The pipeline's running time now; none while it has no clock.
pub(crate) type Here<'a> = &'a dyn Fn() -> Option<Moment>;

impl Unpacker {
    pub(crate) fn new(latency: Duration) -> Self {
        Self {
            latency,
            ..Self::default()
        }
    }

    /// The pipeline's base time; another one (after a pause, a flush) makes new due times.
    pub(crate) fn base_time(&mut self, base: Option<gst::ClockTime>) {
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
        self.out.retain(|out| !matches!(out, Out::Buffer(_)));
        self.reader.reset();
        self.resuming = true;
        self.stuck("this viewer was paused");
        true
    }

    /// There is no mark to wait for after all.
    pub(crate) fn keep_on(&mut self) {
        self.resuming = false;
        self.discont = true;
    }

    fn stuck(&mut self, why: &'static str) {
        if self.own_timeline
            && let Some(caps) = self.state.as_ref().and_then(|s| s.caps.parse().ok())
        {
            self.out.push_back(Out::Stuck(caps, why));
        }
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

    /// Takes the next thing from the grid. False: the broadcaster sends what this version does
    /// not understand.
    pub(crate) fn take(&mut self, media: Media, here: Here<'_>) -> bool {
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
                let segment = segment_start(own_timeline);
                if self.segment.replace(segment) != Some(segment) {
                    self.due = None;
                    self.out.push_back(Out::Segment(segment));
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
                let (Some(state), Some(here)) = (self.state.clone(), here()) else {
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
        let segment = self.segment.unwrap_or_default();
        let mut due = DueTimes::new(clock, anchor, self.latency, segment, here);
        if let Some(before) = self.due {
            due.reported = before.reported;
            if before.timeline != state.timeline {
                self.discont = true;
                self.stuck("the broadcaster paused");
            }
        }
        self.due = Some(due);
    }

    fn apply(&mut self, state: State) -> bool {
        let before = self.state.as_ref();
        // A stream may have none, as that of srtsrc: then typefind finds them at this end.
        let caps = !state.caps.is_empty();
        if caps && before.is_none_or(|b| b.caps != state.caps) {
            let Ok(caps) = gst::Caps::from_str(&state.caps) else {
                return false;
            };
            if !caps.is_fixed() {
                return false;
            }
            self.stream_headers = caps::stream_headers(&caps);
            self.out.push_back(Out::Caps(caps));
        }
        for (n, tags) in state.tags.iter().enumerate() {
            let same = before.is_some_and(|b| b.tags.get(n) == Some(tags));
            if same || tags.is_empty() {
                continue;
            }
            let list = gst::glib::Value::deserialize(tags, gst::TagList::static_type());
            if let Some(mut list) = list.ok().and_then(|v| v.get::<gst::TagList>().ok()) {
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
            if let Ok(structure) = gst::Structure::from_str(sticky) {
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
                        let duration = duration.map(gst::ClockTime::from_nseconds);
                        let gap = gst::event::Gap::builder(at).duration(duration).build();
                        self.out.push_back(Out::Event(gap));
                    }
                }
                Head::Event { structure } => {
                    if let Ok(structure) = gst::Structure::from_str(&structure) {
                        let event = gst::event::CustomDownstream::new(structure);
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
        if !self.began {
            discont &= !self.begin(time);
        }
        if self.unreported && time.is_some() {
            self.report_latency(time);
        }
        let stamp = |time: Option<i64>| self.due.as_ref()?.stamp(time?);
        let mut buffer = gst::Buffer::from_slice(data);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(stamp(*pts));
            buffer.set_dts(stamp(*dts));
            buffer.set_duration(duration.map(gst::ClockTime::from_nseconds));
            buffer.set_offset(offset.unwrap_or(NO_OFFSET));
            buffer.set_offset_end(offset_end.unwrap_or(NO_OFFSET));
            buffer.set_flags(gst::BufferFlags::from_bits_truncate(*flags) & TRAVELLING);
            if discont {
                buffer.set_flags(gst::BufferFlags::DISCONT);
            }
        }
        self.out.push_back(Out::Buffer(buffer));
    }

    /// The first buffer of an epoch: the headers in the caps come before it, and a container
    /// that makes its own timeline is told when that begins. True if there are headers: they
    /// bear the DISCONT then, since tsdemux throws away what it holds when one comes after them.
    fn begin(&mut self, first: Option<i64>) -> bool {
        self.began = true;
        self.unreported = true;
        self.report_latency(first);
        let stamp = first.and_then(|first| self.due.as_ref()?.stamp(first));
        let mut flags = gst::BufferFlags::HEADER | gst::BufferFlags::DISCONT;
        for header in &self.stream_headers {
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

    fn report_latency(&mut self, first: Option<i64>) {
        if !self.own_timeline {
            return;
        }
        if let (Some(due), Some(first)) = (self.due.as_mut(), first) {
            self.unreported = false;
            due.reported = due.due(first).max(0);
            self.out.push_back(Out::Latency);
            if std::mem::replace(&mut self.followed, true) {
                self.stuck("the broadcaster restarted");
            }
        }
    }
}
