//! Fuzz targets of what this crate reads of the wire, for the crate that has all of them.
//!
//! Each takes any bytes, and panics if something that must hold does not.

use std::time::{Duration, Instant};

use bytes::Bytes;
use icd_grid::clock::Mapping;
use icd_grid::{Epoch, Media, SenderTime, StreamKey};

use crate::media::item::{Head, Reader, State, encode};
use crate::media::join::{JoinPoints, Kind};
use crate::media::timeline::Moment;
use crate::media::unpack::{Downstream, Out, Unpacker};
use crate::uri::IcdUri;

/// A chunk of a script: its first byte says what comes, then a length and so many bytes.
fn next<'a>(script: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (head, rest) = script.split_first_chunk::<3>()?;
    let len = usize::from(u16::from_le_bytes([head[1], head[2]])).min(rest.len());
    let (chunk, rest) = rest.split_at(len);
    *script = rest;
    Some((head[0], chunk))
}

fn chunk(what: u8, bytes: &[u8]) -> Vec<u8> {
    let len = (bytes.len() as u16).to_le_bytes();
    [&[what][..], &len, bytes].concat()
}

/// What a broadcaster signed, as headers and payloads, to what goes downstream.
pub fn media(mut script: &[u8]) {
    gst::init().expect("GStreamer starts");
    let begin = Instant::now();
    let mut unpacker = Unpacker::new(Duration::from_secs(2));
    let mut taken = 0;
    while let Some((what, bytes)) = next(&mut script) {
        taken += bytes.len();
        let epoch = Epoch(u64::from(what >> 6));
        let running = taken as i64 * 1_000_000;
        let here = Moment {
            running,
            at: begin + Duration::from_nanos(running as u64),
        };
        let here = (what & 8 == 0).then_some(here);
        unpacker.asks_downstream(Some(gst::ClockTime::from_seconds(u64::from(what & 16))));
        let (bytes, what) = (Bytes::copy_from_slice(bytes), what & 7);
        let media = match what {
            0 | 1 => Media::Header {
                media: bytes,
                epoch,
                own_timeline: what == 1,
            },
            2 => Media::End,
            3 => {
                unpacker.resume();
                continue;
            }
            4 => {
                unpacker.downstream(Downstream::Shown);
                continue;
            }
            _ => Media::Payload {
                first_item: (what != 5).then(|| bytes.first().map_or(0, |b| u32::from(*b))),
                bytes,
                time: SenderTime(running as u64),
                discont: what == 7,
                clock: Mapping {
                    local: begin,
                    sender: SenderTime(u64::from(what) << 56),
                },
            },
        };
        unpacker.take(media, here);
        while let Some(out) = unpacker.poll() {
            if let Out::Buffer(buffer) = out {
                assert!(buffer.size() <= taken, "more comes out than went in");
            }
        }
    }
}

/// Streams of items after their caps.
pub fn media_seeds() -> Vec<Vec<u8>> {
    let state = |caps: &str, timeline| State {
        caps: caps.into(),
        tags: vec!["taglist, title=(string)a;".into()],
        sticky: vec!["a-name, a=(int)1;".into()],
        anchor: 5_000_000,
        timeline,
        stream_name: "name".into(),
    };
    let buffer = |n: i64| Head::Buffer {
        pts: Some(n * 40_000_000),
        dts: Some((n - 1) * 40_000_000),
        duration: Some(40_000_000),
        offset: None,
        offset_end: Some(n as u64),
        flags: n as u32,
    };
    let gap = Head::Gap {
        pts: 9_000_000,
        duration: Some(1),
    };
    let event = Head::Event {
        structure: "custom, a=(int)1;".into(),
        both: true,
    };
    let items = || {
        let buffers = (0..4).map(|n| encode(&buffer(n), &vec![n as u8; n as usize * 30]));
        let others = [encode(&gap, &[]), encode(&event, &[])];
        buffers.chain(others).flatten().collect::<Vec<_>>()
    };
    let captions = "video/x-flv, streamheader=(buffer)< 464c56 >";
    let all = ["video/mpegts, systemstream=(boolean)true", captions, ""];
    let mut seeds: Vec<_> = all
        .map(|caps| {
            let [header, again] = [1, 2].map(|n| state(caps, n).encode());
            let own = u8::from(caps == captions);
            // The first item begins where the first byte says; these begin with a length below 256.
            let head = items();
            let first = head[0];
            let whole = [vec![first; usize::from(first)], head].concat();
            [
                chunk(own, &header),
                chunk(7, &whole),
                chunk(5, &items()[..50]),
                chunk(5, &items()[50..]),
                chunk(3, &[]),
                chunk(own, &again),
                chunk(7, &whole),
                chunk(2, &[]),
            ]
            .concat()
        })
        .into();
    seeds.push(items());
    seeds
}

/// Bytes of a transport stream, or of anything, to join points; and items cut at any place.
pub fn joins(mut script: &[u8]) {
    let mut points = JoinPoints::new(Kind::Unknown, false);
    let mut reader = Reader::default();
    let (mut at, mut taken, mut given) = (Duration::ZERO, 0, 0);
    while let Some((what, bytes)) = next(&mut script) {
        at += Duration::from_millis(u64::from(what));
        points.judge(bytes, what & 1 == 0, what & 2 == 0, at);
        taken += bytes.len();
        let bytes = Bytes::copy_from_slice(bytes);
        let first = (what & 4 == 0).then(|| u32::from(what >> 3));
        let read = reader.read(bytes, first, |_, data| given += data.len());
        assert!(given <= taken, "more comes out than went in");
        if read.is_err() && what & 8 == 0 {
            reader.reset();
        }
    }
}

/// Two packets of a transport stream: a table, a picture that can be shown alone.
pub fn joins_seeds() -> Vec<Vec<u8>> {
    let packet = |start: &[u8]| {
        let mut packet = start.to_vec();
        packet.resize(188, 0xff);
        packet
    };
    let table = packet(&[0x47, 0x40, 0, 0x10, 0, 0, 0xb0, 13, 0, 1, 0xc1, 0, 0]);
    let picture = packet(&[
        0x47, 0x41, 0, 0x30, 7, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xe0,
    ]);
    let both = [table, picture].concat();
    vec![
        [chunk(20, &both), chunk(21, &both)].concat(),
        [chunk(0, &[9, 0, 0, 0, 1, 9]), chunk(4, b"12345678")].concat(),
    ]
}

/// What users paste.
pub fn uri(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(uri) = IcdUri::parse(text) else {
        // It says what is wrong, and the secret of a private stream is no part of that.
        return;
    };
    assert!(!uri.hosts.is_empty());
    if let (Some(key), Some((host, port))) = (uri.key, uri.hosts.first()) {
        let again = IcdUri::parse(&IcdUri::for_viewers(key, host, *port));
        let again = again.expect("what is shown is understood");
        assert_eq!(again.hosts, [(host.clone(), *port)]);
        assert_eq!(again.key, uri.key);
    }
    let without = crate::uri::without(text, "token");
    if let Ok(without) = IcdUri::parse(&without) {
        assert!(without.parameters.iter().all(|(name, _)| name != "token"));
    }
}

/// Addresses of all kinds.
pub fn uri_seeds() -> Vec<Vec<u8>> {
    let key = StreamKey([5; 32]);
    [
        format!("icd://{key}@example.org:7423?latency=2000&token=a%20b#c"),
        format!("ICD://{key}@[2001:db8::1]:80,192.0.2.1,[::1]/"),
        "icd://example.org,example.net:1?token=a&b=%zz".into(),
    ]
    .map(String::into_bytes)
    .into()
}
