//! Where a decoder can start.
//!
//! A buffer without DELTA_UNIT that is not a header which the caps hold already. For MPEG-TS the
//! random-access indicator of the picture instead: with `alignment=7`, muxer and parser mark
//! every buffer as a key frame, and ffmpeg's muxer (OBS) puts an indicator on every packet of
//! sound. Streams in which every buffer is one (audio, JPEG, raw) get a join point every half
//! second.

use std::time::Duration;

use icd_grid::Entry;

const APART: Duration = Duration::from_millis(500);
/// A transport stream without any random-access indicator for so long is joined anywhere.
const NO_INDICATOR: Duration = Duration::from_secs(5);
/// A transport stream without any picture for so long has only sound.
const NO_VIDEO: Duration = Duration::from_secs(1);
/// Sizes of a packet: plain, with a time code before it (M2TS), with error correction after it.
const TS_PACKETS: [usize; 4] = [188, 192, 204, 208];
/// Of these bytes.
const TS_PACKET: usize = 188;
const TS_SYNC: u8 = 0x47;

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    /// There are no caps: transport streams are known by their bytes.
    #[default]
    Unknown,
    Flags,
    MpegTs,
}

#[derive(Debug, Default)]
pub(crate) struct JoinPoints {
    kind: Kind,
    began: Option<Duration>,
    last: Option<Duration>,
    last_indicator: Option<Duration>,
    /// A picture was seen in a transport stream.
    video: bool,
    /// The caps hold the tables.
    tables_known: bool,
    after_delta: bool,
}

impl JoinPoints {
    /// `tables_known`: the caps hold what a decoder needs beforehand.
    pub(crate) fn new(kind: Kind, tables_known: bool) -> Self {
        Self {
            kind,
            tables_known,
            ..Self::default()
        }
    }

    /// What this buffer is to a decoder that starts. `at`: any clock that goes on.
    pub(crate) fn judge(
        &mut self,
        data: &[u8],
        delta: bool,
        known_header: bool,
        at: Duration,
    ) -> Entry {
        if self.kind == Kind::Unknown {
            let known = packets(data).next().is_some();
            self.kind = if known { Kind::MpegTs } else { Kind::Flags };
        }
        let mut lead = false;
        let began = *self.began.get_or_insert(at);
        let apart = self
            .last
            .is_none_or(|last| at.saturating_sub(last) >= APART);
        let join = match self.kind {
            Kind::MpegTs => {
                let shown = Shown::by(data);
                self.video |= shown.video;
                lead = shown.tables && !self.tables_known;
                if shown.key {
                    self.last_indicator = Some(at);
                    true
                } else {
                    let since = self.last_indicator.unwrap_or(began);
                    let patience = if self.video { NO_INDICATOR } else { NO_VIDEO };
                    at.saturating_sub(since) >= patience && apart && shown.unit
                }
            }
            Kind::Flags | Kind::Unknown => {
                let join = !delta && !known_header && (apart || self.after_delta);
                if !known_header {
                    self.after_delta = delta;
                }
                join
            }
        };
        if join {
            self.last = Some(at);
            return Entry::Join;
        }
        if lead { Entry::Lead } else { Entry::None }
    }
}

/// What the transport packets of a buffer show.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shown {
    /// A picture begins that needs no other.
    key: bool,
    /// A picture begins.
    video: bool,
    /// Anything begins.
    unit: bool,
    /// The program association table begins, which the map follows.
    tables: bool,
}

impl Shown {
    fn by(data: &[u8]) -> Self {
        let mut shown = Self::default();
        for packet in packets(data) {
            let unit = packet[1] & 0x40 != 0;
            shown.unit |= unit;
            shown.tables |= unit && packet[1] & 0x1f == 0 && packet[2] == 0;
            let adaptation = packet[3] & 0x20 != 0;
            let rest = if adaptation {
                5 + usize::from(packet[4])
            } else {
                4
            };
            // ISO/IEC 13818-1, 2.4.3.7: a PES packet of a picture has a stream_id of 0xE0 to
            // 0xEF, or the extended one.
            let video = unit
                && packet.get(rest..rest + 4).is_some_and(|pes| {
                    pes[..3] == [0, 0, 1] && matches!(pes[3], 0xe0..=0xef | 0xfd)
                });
            shown.video |= video;
            // 2.4.3.4: the adaptation field's random_access_indicator.
            shown.key |= video && adaptation && packet[4] > 0 && packet[5] & 0x40 != 0;
        }
        shown
    }
}

/// The whole packets of a buffer, wherever the first begins.
fn packets(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let begin =
        |(size, at): &(usize, usize)| data[*at..].iter().step_by(*size).all(|b| *b == TS_SYNC);
    let found = TS_PACKETS
        .into_iter()
        .flat_map(|size| (0..size.min(data.len())).map(move |at| (size, at)))
        .find(begin);
    let (size, at) = found.unwrap_or((TS_PACKET, data.len()));
    data[at..].chunks(size).filter_map(|p| p.get(..TS_PACKET))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIDEO: u8 = 0xe0;
    const AUDIO: u8 = 0xc0;

    /// A packet with an adaptation field, and the start of a PES packet of some stream.
    fn packet(stream: Option<u8>, random_access: bool) -> Vec<u8> {
        let mut p = vec![0xff; TS_PACKET];
        p[0] = 0x47;
        p[1] = if stream.is_some() { 0x41 } else { 0x01 };
        p[3] = 0x30;
        p[4] = 7;
        p[5] = if random_access { 0x50 } else { 0x10 };
        if let Some(stream) = stream {
            p[12..16].copy_from_slice(&[0, 0, 1, stream]);
        }
        p
    }

    fn tables() -> Vec<u8> {
        let mut p = packet(None, false);
        p[1..4].copy_from_slice(&[0x40, 0, 0x10]);
        p
    }

    fn is_key(data: &[u8]) -> bool {
        Shown::by(data).key
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_transport_stream_is_joined_where_the_indicator_says_whatever_the_flags() {
        let mut points = JoinPoints::new(Kind::MpegTs, true);
        let plain = [packet(Some(VIDEO), false), packet(None, false)].concat();
        let key = [packet(None, false), packet(Some(VIDEO), true)].concat();
        let mut judge = |data: &[u8], delta, at| points.judge(data, delta, false, ms(at));
        assert_eq!(judge(&tables(), false, 0), Entry::None);
        assert_eq!(judge(&plain, false, 0), Entry::None);
        assert_eq!(judge(&key, true, 10), Entry::Join);
        assert_eq!(judge(&key, true, 20), Entry::Join, "every key frame counts");
    }

    #[test]
    fn sound_with_an_indicator_is_no_place_to_join_a_film() {
        let mut points = JoinPoints::new(Kind::MpegTs, false);
        let joins: Vec<u64> = (0..4000)
            .step_by(20)
            .filter(|at| {
                let picture = packet(Some(VIDEO), at % 2000 == 40);
                let sound = packet(Some(AUDIO), true);
                let data = if at % 40 == 0 { picture } else { sound };
                points.judge(&data, false, false, ms(*at)) == Entry::Join
            })
            .collect();
        assert_eq!(joins, [40, 2040]);
    }

    #[test]
    fn without_caps_a_transport_stream_is_known_by_its_bytes_and_led_in_by_its_tables() {
        let mut points = JoinPoints::new(Kind::Unknown, false);
        let mut judge = |data: &[u8], at| points.judge(data, false, false, ms(at));
        assert_eq!(judge(&tables(), 0), Entry::Lead);
        assert_eq!(judge(&packet(Some(VIDEO), false), 20), Entry::None);
        assert_eq!(judge(&packet(Some(VIDEO), true), 40), Entry::Join);
        let mut points = JoinPoints::new(Kind::Unknown, false);
        assert_eq!(points.judge(&[1; 500], false, false, ms(0)), Entry::Join);
        assert_eq!(points.judge(&[1; 500], true, false, ms(20)), Entry::None);
    }

    #[test]
    fn packets_are_found_in_any_wrapping_and_anywhere() {
        let key = packet(Some(VIDEO), true);
        let plain = packet(None, false);
        let m2ts = [&[9; 4], &plain[..], &[9; 4], &key[..]].concat();
        assert!(is_key(&m2ts));
        let corrected = [&plain[..], &[9; 16], &key[..], &[9; 16]].concat();
        assert!(is_key(&corrected));
        let three = [&plain[..], &key[..], &plain[..]].concat();
        assert!(is_key(&three[100..]));
        assert!(!is_key(&three[..200]) && !is_key(&[0; 500]));
        let mut short = plain;
        short[4] = 255;
        assert_eq!(Shown::by(&short), Shown::default(), "a field that lies");
    }

    #[test]
    fn a_transport_stream_without_video_or_without_indicators_is_joined_by_time() {
        for (stream, first) in [(AUDIO, 1000), (VIDEO, 5000)] {
            let mut points = JoinPoints::new(Kind::MpegTs, true);
            let data = packet(Some(stream), stream == AUDIO);
            let joins: Vec<u64> = (0..8000)
                .step_by(20)
                .filter(|at| points.judge(&data, false, false, ms(*at)) == Entry::Join)
                .collect();
            assert_eq!(joins[..2], [first, first + 500]);
        }
    }

    #[test]
    fn key_frames_are_join_points_and_known_headers_are_not() {
        let mut points = JoinPoints::new(Kind::Flags, true);
        let mut judge = |delta, known, at| points.judge(&[], delta, known, ms(at));
        assert_eq!(judge(false, true, 0), Entry::None);
        assert_eq!(judge(false, false, 0), Entry::Join);
        assert_eq!(judge(true, false, 40), Entry::None);
        assert_eq!(
            judge(false, false, 80),
            Entry::Join,
            "a short group of pictures"
        );
    }

    #[test]
    fn where_every_buffer_is_a_key_frame_they_are_half_a_second_apart() {
        let mut points = JoinPoints::new(Kind::Flags, false);
        let joins = (0..2000)
            .step_by(20)
            .filter(|at| points.judge(&[], false, false, ms(*at)) == Entry::Join)
            .count();
        assert_eq!(joins, 4);
    }
}
