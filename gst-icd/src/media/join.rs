//! Where a decoder can start.
//!
//! A buffer without DELTA_UNIT that is not a header which the caps hold already. For MPEG-TS the
//! random-access indicator instead: with `alignment=7`, muxer and parser mark every buffer as a
//! key frame. Streams in which every buffer is one (audio, JPEG, raw) get a join point every
//! half second.

use std::time::Duration;

const APART: Duration = Duration::from_millis(500);
/// A transport stream without any random-access indicator for so long has only audio.
const NO_INDICATOR: Duration = Duration::from_secs(5);
/// Sizes of a packet: plain, with a time code before it (M2TS), with error correction after it.
const TS_PACKETS: [usize; 4] = [188, 192, 204, 208];
/// Of these bytes.
const TS_PACKET: usize = 188;
const TS_SYNC: u8 = 0x47;

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    #[default]
    Flags,
    MpegTs,
}

#[derive(Debug, Default)]
pub(crate) struct JoinPoints {
    kind: Kind,
    began: Option<Duration>,
    last: Option<Duration>,
    last_indicator: Option<Duration>,
    after_delta: bool,
}

impl JoinPoints {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            ..Self::default()
        }
    }

    /// Whether a decoder can start at this buffer. `at`: any clock that goes on.
    pub(crate) fn judge(
        &mut self,
        data: &[u8],
        delta: bool,
        known_header: bool,
        at: Duration,
    ) -> bool {
        let began = *self.began.get_or_insert(at);
        let apart = self
            .last
            .is_none_or(|last| at.saturating_sub(last) >= APART);
        let join = match self.kind {
            Kind::MpegTs => {
                if random_access(data) {
                    self.last_indicator = Some(at);
                    true
                } else {
                    let since = self.last_indicator.unwrap_or(began);
                    at.saturating_sub(since) >= NO_INDICATOR && apart && unit_start(data)
                }
            }
            Kind::Flags => {
                let join = !delta && !known_header && (apart || self.after_delta);
                if !known_header {
                    self.after_delta = delta;
                }
                join
            }
        };
        if join {
            self.last = Some(at);
        }
        join
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

/// ISO/IEC 13818-1, 2.4.3.4: the adaptation field's random_access_indicator.
fn random_access(data: &[u8]) -> bool {
    packets(data).any(|p| p[3] & 0x20 != 0 && p[4] > 0 && p[5] & 0x40 != 0)
}

fn unit_start(data: &[u8]) -> bool {
    packets(data).any(|p| p[1] & 0x40 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(unit_start: bool, random_access: bool) -> Vec<u8> {
        let mut p = vec![0xff; TS_PACKET];
        p[0] = 0x47;
        p[1] = if unit_start { 0x41 } else { 0x01 };
        p[3] = if random_access { 0x30 } else { 0x10 };
        p[4] = 7;
        p[5] = if random_access { 0x50 } else { 0x10 };
        p
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_transport_stream_is_joined_where_the_indicator_says_whatever_the_flags() {
        let mut points = JoinPoints::new(Kind::MpegTs);
        let plain = [packet(true, false), packet(false, false)].concat();
        let key = [packet(false, false), packet(true, true)].concat();
        assert!(!points.judge(&plain, false, false, ms(0)));
        assert!(points.judge(&key, true, false, ms(10)));
        assert!(
            points.judge(&key, true, false, ms(20)),
            "every key frame counts"
        );
    }

    #[test]
    fn packets_are_found_in_any_wrapping_and_anywhere() {
        let key = packet(true, true);
        let plain = packet(false, false);
        let m2ts = [&[9; 4], &plain[..], &[9; 4], &key[..]].concat();
        assert!(random_access(&m2ts));
        let corrected = [&plain[..], &[9; 16], &key[..], &[9; 16]].concat();
        assert!(random_access(&corrected));
        let three = [&plain[..], &key[..], &plain[..]].concat();
        assert!(random_access(&three[100..]));
        assert!(!random_access(&three[..200]) && !random_access(&[0; 500]));
    }

    #[test]
    fn a_transport_stream_without_video_is_joined_by_time() {
        let mut points = JoinPoints::new(Kind::MpegTs);
        let audio = packet(true, false);
        let joins: Vec<u64> = (0..8000)
            .step_by(20)
            .filter(|at| points.judge(&audio, false, false, ms(*at)))
            .collect();
        assert_eq!(joins[..2], [5000, 5500]);
    }

    #[test]
    fn key_frames_are_join_points_and_known_headers_are_not() {
        let mut points = JoinPoints::new(Kind::Flags);
        assert!(!points.judge(&[], false, true, ms(0)));
        assert!(points.judge(&[], false, false, ms(0)));
        assert!(!points.judge(&[], true, false, ms(40)));
        assert!(
            points.judge(&[], false, false, ms(80)),
            "a short group of pictures"
        );
    }

    #[test]
    fn where_every_buffer_is_a_key_frame_they_are_half_a_second_apart() {
        let mut points = JoinPoints::new(Kind::Flags);
        let joins = (0..2000)
            .step_by(20)
            .filter(|at| points.judge(&[], false, false, ms(*at)))
            .count();
        assert_eq!(joins, 4);
    }
}
