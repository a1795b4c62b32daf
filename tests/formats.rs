//! Whatever goes into icdsink comes out of icdsrc: bytes, boundaries, flags, times.

use gst::prelude::*;
use gst_icd_suite::{
    Record, assert_same, caps_of, end_of, init, launch, playing, stream_headers, until, viewers_uri,
};

/// As [`through_a_grid`], a stream whose caps hold headers.
fn with_headers(source: &str) {
    assert!(through_a_grid(source) > 0, "no header in the caps");
}

/// Runs `source` through a grid of one viewer, which is there from the start. How many headers its
/// caps hold.
fn through_a_grid(source: &str) -> usize {
    init();
    let seed = launch(&format!(
        "{source} ! identity name=in ! icdsink name=seed address=127.0.0.1 port=0"
    ));
    seed.set_state(gst::State::Ready).expect("READY");
    let sent = Record::at(&seed, "in", "src");
    seed.set_state(gst::State::Paused).expect("PAUSED");
    let uri = viewers_uri(&seed);
    let (viewer, got) = playing(&format!(
        "icdsrc name=src uri={uri} latency=1000 ! fakesink name=out sync=true"
    ));
    let sink = seed.by_name("seed").expect("the seed");
    until("the viewer is admitted", || {
        sink.property::<u32>("num-viewers") == 1
    });
    seed.set_state(gst::State::Playing).expect("PLAYING");
    end_of(&seed);
    end_of(&viewer);
    let headers = stream_headers(&seed, "in", "src");
    let caps = ["seed", "src"].map(|name| match name {
        "seed" => caps_of(&seed, "seed", "sink"),
        _ => caps_of(&viewer, "src", "src"),
    });
    // As they are, codec_data and streamheader included.
    assert_eq!(caps[0], caps[1]);
    let _ = viewer.set_state(gst::State::Null);
    let _ = seed.set_state(gst::State::Null);
    let got = got.seen();
    assert!(got.len() > headers.len(), "nothing came but headers");
    let (first, rest) = got.split_at(headers.len());
    assert!(
        first.iter().map(|b| &b.data).eq(&headers),
        "the headers of the caps come first"
    );
    let sent = sent.seen();
    let from = assert_same(&sent, rest);
    let header = |b: &gst_icd_suite::Seen| {
        headers.contains(&b.data) || b.flags.contains(gst::BufferFlags::HEADER)
    };
    assert!(
        sent[..from].iter().all(header),
        "{from} were lost at the start"
    );
    headers.len()
}

const VIDEO: &str =
    "videotestsrc num-buffers=100 ! video/x-raw,width=160,height=120,framerate=25/1";
const AUDIO: &str =
    "audiotestsrc num-buffers=150 samplesperbuffer=960 ! audio/x-raw,rate=48000,channels=2";

#[test]
fn mpeg_ts() {
    with_headers(&format!("{VIDEO} ! x264enc key-int-max=25 ! mpegtsmux"));
}

#[test]
fn mpeg_ts_seven_packets_a_buffer() {
    with_headers(&format!(
        "{VIDEO} ! x264enc key-int-max=25 ! mpegtsmux alignment=7"
    ));
}

#[test]
fn matroska() {
    with_headers(&format!(
        "{VIDEO} ! x264enc key-int-max=25 ! matroskamux streamable=true"
    ));
}

#[test]
fn h264_byte_stream_with_b_frames() {
    through_a_grid(&format!(
        "{VIDEO} ! x264enc key-int-max=25 bframes=2 ! video/x-h264,stream-format=byte-stream"
    ));
}

#[test]
fn h264_avc() {
    through_a_grid(&format!(
        "{VIDEO} ! x264enc key-int-max=25 ! h264parse ! video/x-h264,stream-format=avc"
    ));
}

#[test]
fn vp8() {
    through_a_grid(&format!("{VIDEO} ! vp8enc keyframe-max-dist=25 deadline=1"));
}

#[test]
fn jpeg() {
    through_a_grid(&format!("{VIDEO} ! jpegenc"));
}

#[test]
fn raw_video() {
    through_a_grid(VIDEO);
}

#[test]
fn raw_audio() {
    through_a_grid(AUDIO);
}

#[test]
fn opus() {
    with_headers(&format!("{AUDIO} ! opusenc"));
}

#[test]
fn mp3() {
    through_a_grid(&format!(
        "{AUDIO} ! lamemp3enc target=bitrate bitrate=128 ! mpegaudioparse"
    ));
}
