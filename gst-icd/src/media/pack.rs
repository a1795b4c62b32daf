//! The sender's side: buffers and events to items, caps and tags to the stream's state.

use std::time::Duration;

use bytes::Bytes;
use gst::prelude::*;
use icd_grid::Entry;

use crate::media::caps;
use crate::media::item::{Head, NO_OFFSET, State, TRAVELLING, encode};
use crate::media::join::JoinPoints;
use crate::media::timeline::{Anchor, Observed};

/// Tags and events that are longer (pictures) do not travel. With the caps, two lists of tags and
/// the sticky events together stay below what a header holds
/// ([`icd_grid::record::StreamHeader::MAX_MEDIA_BYTES`]).
const MAX_EVENT: usize = 20 * 1024;
const MAX_STICKY: usize = 16;

/// A packed item.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) data: Bytes,
    /// What it is to a decoder that starts.
    pub(crate) entry: Entry,
    /// What holds from this item on, if it is not what held before.
    pub(crate) state: Option<State>,
    /// Running time in nanoseconds, of a buffer that has one.
    pub(crate) running: Option<i64>,
}

#[derive(Debug, Default)]
pub(crate) struct Packer {
    state: State,
    changed: bool,
    /// Newcomers get a better anchor, and they come at join points.
    refined: bool,
    anchor: Anchor,
    joins: JoinPoints,
    headers: Vec<Vec<u8>>,
    own_timeline: bool,
    stream_id: Option<String>,
    /// An item was lost on its way to the grid.
    discont: bool,
}

impl Packer {
    pub(crate) fn new(stream_name: &str) -> Self {
        Self {
            state: State {
                stream_name: stream_name.into(),
                ..State::default()
            },
            // A stream may have neither caps nor tags nor times; it begins all the same.
            changed: true,
            ..Self::default()
        }
    }

    pub(crate) fn set_caps(&mut self, new: &gst::Caps) {
        let text = new.to_string();
        if text == self.state.caps {
            return;
        }
        let kind = caps::join_kind(new);
        self.own_timeline = caps::own_timeline(new);
        self.headers = caps::stream_headers(new)
            .iter()
            .filter_map(|b| b.map_readable().ok().map(|map| map.to_vec()))
            .collect();
        self.joins = JoinPoints::new(kind, !self.headers.is_empty());
        self.state.caps = text;
        self.changed = true;
    }

    pub(crate) fn own_timeline(&self) -> bool {
        self.own_timeline
    }

    /// Takes tags, without their pictures. False if they are too long to travel all the same; those
    /// before them do not hold any more.
    pub(crate) fn set_tags(&mut self, tags: &gst::event::Tag) -> bool {
        let mut tags = tags.tag_owned();
        let slot = match tags.scope() {
            gst::TagScope::Global => 1,
            _ => 0,
        };
        let list = tags.make_mut();
        list.remove::<gst::tags::Image>();
        list.remove::<gst::tags::PreviewImage>();
        list.remove::<gst::tags::Attachment>();
        let text = tags
            .to_value()
            .serialize()
            .ok()
            .map(|text| text.to_string());
        let text = text.filter(|text| text.len() <= MAX_EVENT);
        let fits = text.is_some();
        self.put_tags(slot, text.unwrap_or_default());
        fits
    }

    fn put_tags(&mut self, slot: usize, text: String) {
        self.state.tags.resize(2, String::new());
        if self.state.tags[slot] != text {
            self.state.tags[slot] = text;
            self.changed = true;
        }
    }

    /// A stream begins: tags of another no longer hold, as on any pad.
    pub(crate) fn stream_start(&mut self, id: &str) {
        if self.stream_id.as_deref().is_some_and(|before| before != id) {
            self.put_tags(0, String::new());
            self.put_tags(1, String::new());
        }
        self.stream_id = Some(id.into());
    }

    /// An item was lost: what changed with it is said again, and the next buffer tells.
    pub(crate) fn lost(&mut self) {
        self.changed = true;
        self.discont = true;
    }

    /// The time of what follows has nothing to do with what came before.
    pub(crate) fn new_timeline(&mut self) {
        self.anchor.reset();
    }

    /// A custom event, if it travels.
    pub(crate) fn event(&mut self, event: &gst::EventRef) -> Option<Packed> {
        let structure = event.structure()?.to_string();
        if !event.is_serialized() || structure.len() > MAX_EVENT {
            return None;
        }
        if event.is_sticky() {
            let name = event.structure()?.name().as_str();
            let other = |text: &String| text.split([',', ';']).next() != Some(name);
            self.state.sticky.retain(other);
            self.state.sticky.push(structure);
            // The oldest make room.
            let bytes = |list: &[String]| list.iter().map(String::len).sum::<usize>();
            while self.state.sticky.len() > MAX_STICKY || bytes(&self.state.sticky) > MAX_EVENT {
                self.state.sticky.remove(0);
            }
            self.changed = true;
            return None;
        }
        let both = event.type_() == gst::EventType::CustomBoth;
        Some(self.pack(&Head::Event { structure, both }, &[], Entry::None))
    }

    /// None before the first buffer of a timeline: its place in time is not known yet.
    pub(crate) fn gap(&mut self, running: i64, duration: Option<gst::ClockTime>) -> Option<Packed> {
        if !self.anchor.is_known() {
            return None;
        }
        let head = Head::Gap {
            pts: running,
            duration: duration.map(gst::ClockTime::nseconds),
        };
        Some(self.pack(&head, &[], Entry::None))
    }

    /// A buffer whose time stamps are `segment`'s. `sender`: sender time now.
    pub(crate) fn buffer(
        &mut self,
        buffer: &gst::BufferRef,
        segment: &gst::FormattedSegment<gst::ClockTime>,
        sender: Duration,
    ) -> Result<Packed, gst::glib::BoolError> {
        let map = buffer.map_readable()?;
        let pts = running(segment, buffer.pts());
        let dts = running(segment, buffer.dts());
        let running = dts.or(pts);
        if let Some(time) = running {
            match self.anchor.observe(time, sender.as_nanos() as i64) {
                Observed::Same => {}
                Observed::New => self.changed = true,
                Observed::Refined => self.refined = true,
            }
        }
        let mut flags = buffer.flags();
        if std::mem::take(&mut self.discont) {
            flags |= gst::BufferFlags::DISCONT;
        }
        let header = flags.contains(gst::BufferFlags::HEADER);
        let known = header && self.headers.iter().any(|h| h[..] == map[..]);
        let delta = flags.contains(gst::BufferFlags::DELTA_UNIT);
        let entry = self.joins.judge(&map, delta, known, sender);
        let head = Head::Buffer {
            pts,
            dts,
            duration: buffer.duration().map(gst::ClockTime::nseconds),
            offset: Some(buffer.offset()).filter(|o| *o != NO_OFFSET),
            offset_end: Some(buffer.offset_end()).filter(|o| *o != NO_OFFSET),
            flags: (flags & TRAVELLING).bits(),
        };
        let packed = self.pack(&head, &map, entry);
        Ok(Packed { running, ..packed })
    }

    fn pack(&mut self, head: &Head, data: &[u8], entry: Entry) -> Packed {
        self.state.anchor = self.anchor.value();
        self.state.timeline = self.anchor.timeline();
        if entry == Entry::Join && std::mem::take(&mut self.refined) {
            self.changed = true;
            self.state.timeline = self.anchor.told();
        }
        let state = std::mem::take(&mut self.changed).then(|| self.state.clone());
        Packed {
            data: encode(head, data),
            entry,
            state,
            running: None,
        }
    }
}

/// Signed running time: with B-frames a DTS lies before the segment.
pub(crate) fn running(
    segment: &gst::FormattedSegment<gst::ClockTime>,
    time: Option<gst::ClockTime>,
) -> Option<i64> {
    let signed = segment.to_running_time_full(time?)?;
    let nseconds = |t: gst::ClockTime| i64::try_from(t.nseconds()).unwrap_or(i64::MAX);
    Some(match signed {
        gst::Signed::Positive(t) => nseconds(t),
        gst::Signed::Negative(t) => -nseconds(t),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_better_anchors_makes_one_state_at_the_next_join_point() {
        gst::init().unwrap();
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        let mut packer = Packer::new("");
        packer.set_caps(&gst::Caps::new_empty_simple("video/x-h264"));
        let mut states = Vec::new();
        for n in 0..100_u64 {
            let mut buffer = gst::Buffer::with_size(10).unwrap();
            let fields = buffer.make_mut();
            fields.set_pts(gst::ClockTime::from_mseconds(40 * n));
            if n % 50 != 0 {
                fields.set_flags(gst::BufferFlags::DELTA_UNIT);
            }
            // An encoder that gives out at once what it held.
            let sender = Duration::from_millis(40 * n.min(30));
            let packed = packer.buffer(&buffer, &segment, sender).unwrap();
            if let Some(state) = packed.state {
                states.push((n, state.anchor));
            }
        }
        assert_eq!(states, [(0, 0), (50, -800_000_000)]);
    }

    /// Running times and when they came, in seconds; the timelines that were told.
    fn timelines(came: &[(i64, i64)]) -> Vec<u32> {
        gst::init().unwrap();
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        let mut packer = Packer::new("");
        let mut told = Vec::new();
        for (running, sender) in came {
            let mut buffer = gst::Buffer::with_size(10).unwrap();
            let pts = gst::ClockTime::from_seconds(*running as u64);
            buffer.make_mut().set_pts(pts);
            let sender = Duration::from_secs(*sender as u64);
            let packed = packer.buffer(&buffer, &segment, sender).unwrap();
            told.extend(packed.state.map(|state| state.timeline));
        }
        told
    }

    #[test]
    fn a_first_buffer_that_was_three_seconds_late_makes_nobody_late_for_long() {
        // The rest comes at once.
        assert_eq!(timelines(&[(0, 3), (3, 3), (4, 4), (5, 5)]), [1, 2]);
        assert_eq!(timelines(&[(0, 1), (1, 1), (2, 2)]), [1, 1]);
    }

    #[test]
    fn tags_travel_without_their_pictures_and_end_with_their_stream() {
        gst::init().unwrap();
        let mut packer = Packer::new("");
        packer.stream_start("one");
        let with_cover = |title: &str, bytes: usize| {
            let mut tags = gst::TagList::new();
            let list = tags.make_mut();
            list.add::<gst::tags::Title>(&title, gst::TagMergeMode::Replace);
            let caps = gst::Caps::new_empty_simple("image/jpeg");
            let cover = gst::Buffer::with_size(bytes).unwrap();
            let sample = gst::Sample::builder().buffer(&cover).caps(&caps).build();
            list.add::<gst::tags::Image>(&sample, gst::TagMergeMode::Replace);
            gst::event::Tag::new(tags)
        };
        let event = with_cover("Meadow", 100_000);
        let gst::EventView::Tag(tag) = event.view() else {
            panic!("a tag event")
        };
        assert!(packer.set_tags(tag));
        let told = packer.state.tags[0].clone();
        assert!(told.contains("Meadow") && !told.contains("image"), "{told}");
        let event = with_cover(&"long ".repeat(MAX_EVENT), 1);
        let gst::EventView::Tag(tag) = event.view() else {
            panic!("a tag event")
        };
        assert!(!packer.set_tags(tag));
        assert_eq!(packer.state.tags[0], "", "the former title does not stay");
        packer.put_tags(0, told);
        packer.stream_start("one");
        assert_ne!(packer.state.tags[0], "");
        packer.stream_start("two");
        assert_eq!(packer.state.tags[0], "");
    }
}
