//! What is recorded stays, whatever becomes of the broadcaster.

use gst::prelude::*;
use gst_icd_suite::processes::Scratch;
use gst_icd_suite::{complaint, free_port, init, launch, until, viewers_uri};

const FILM: &str = "videotestsrc is-live=true ! video/x-raw,width=64,height=64,framerate=25/1 ! x264enc tune=zerolatency key-int-max=25 ! h264parse";

/// A broadcaster that comes back under the same key and port.
fn seed(container: &str, scratch: &Scratch, port: u16) -> gst::Pipeline {
    let seed = launch(&format!(
        "{FILM} ! {container} ! icdsink name=seed address=127.0.0.1 port={port} key-file={}",
        scratch.path("key.pem").display()
    ));
    seed.set_state(gst::State::Playing).expect("PLAYING");
    seed
}

/// The recording of `recorder`, at a broadcaster that stops and comes back, holds all that it held
/// before, and more.
fn survives(container: &str, recorder: impl Fn(&str, &str) -> String, warns: bool) {
    let scratch = Scratch::new("recording");
    let port = free_port();
    let file = scratch.path("film");
    let first = seed(container, &scratch, port);
    let viewer = launch(&recorder(&viewers_uri(&first), &file.display().to_string()));
    viewer.set_state(gst::State::Playing).expect("PLAYING");
    let bytes = || std::fs::read(&file).unwrap_or_default();
    until("something is recorded", || bytes().len() > 20_000);
    first.set_state(gst::State::Null).expect("NULL");
    let before = bytes();
    let second = seed(container, &scratch, port);
    until("more is recorded", || bytes().len() > before.len() + 20_000);
    assert!(
        bytes().starts_with(&before),
        "{container}: what was recorded is gone"
    );
    if warns {
        until("the timeline is warned of", || {
            complaint(&viewer).contains("keep the old timeline")
        });
    }
    viewer.set_state(gst::State::Null).expect("NULL");
    second.set_state(gst::State::Null).expect("NULL");
}

const CONTAINERS: [&str; 3] = [
    "matroskamux streamable=true",
    // With sound: decodebin waits for it for six seconds, and a tee beside it waits as well.
    "flvmux name=m streamable=true audiotestsrc is-live=true ! audio/x-raw,rate=44100 ! voaacenc ! aacparse ! m. m.",
    "mpegtsmux",
];

#[test]
fn bytes_in_a_file_stay_when_the_broadcaster_comes_back() {
    init();
    for container in CONTAINERS {
        let recorder = |uri: &str, file: &str| {
            format!("icdsrc latency=500 uri={uri} ! filesink location={file}")
        };
        survives(container, recorder, false);
    }
}

#[test]
fn a_file_beside_a_picture_stays_and_the_picture_is_warned_of() {
    init();
    for container in &CONTAINERS[..2] {
        let recorder = |uri: &str, file: &str| {
            format!(
                "icdsrc latency=500 uri={uri} ! tee name=t t. ! queue ! decodebin ! fakesink sync=true
                 t. ! queue ! filesink location={file}"
            )
        };
        survives(container, recorder, true);
    }
}

#[test]
fn what_is_demuxed_and_muxed_again_stays() {
    init();
    let recorder = |uri: &str, file: &str| {
        format!(
            "icdsrc latency=500 uri={uri} ! matroskademux ! h264parse ! mpegtsmux ! filesink location={file}"
        )
    };
    survives(CONTAINERS[0], recorder, true);
}
