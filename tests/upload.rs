//! What a viewer sends, and what it is told to send.

use std::time::{Duration, Instant};

use gst::prelude::*;
use gst_icd_suite::{Record, assert_same, end_of, init, launch, playing, until, viewers_uri};

/// Noise, as byte-stream: 1.5 Mbit/s.
const STREAM: &str = "videotestsrc is-live=true pattern=snow ! video/x-raw,width=160,height=120,framerate=25/1 ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=1500 key-int-max=25 ! h264parse";
const COPY: u64 = 1_500_000;

fn stat(pipeline: &gst::Pipeline, name: &str) -> u64 {
    let source = pipeline.by_name("src").expect("the source");
    let stats = source.property::<gst::Structure>("stats");
    stats.get::<u64>(name).expect("a count")
}

/// Two viewers that relay and two that don't, at a seed that carries one and a half. The one that
/// sends most is told to give less: it does, the other takes over, and nobody loses anything.
fn one_gives_less(tell: impl Fn(&gst::Pipeline), gives_less: impl Fn(&gst::Pipeline)) {
    init();
    let seed = launch(&format!(
        "{STREAM} ! icdsink name=seed address=127.0.0.1 port=0 max-upload-bitrate={}",
        COPY * 2
    ));
    let sent = Record::at(&seed, "seed", "sink");
    seed.set_state(gst::State::Playing).expect("PLAYING");
    let uri = viewers_uri(&seed);
    let viewers = [true, true, false, false].map(|relay| {
        let (viewer, got) = playing(&format!(
            "icdsrc name=src uri={uri} relay={relay} max-upload-bitrate={} ! fakesink",
            COPY * 5
        ));
        until("it plays", || got.len() > 50);
        (viewer, got)
    });
    std::thread::sleep(Duration::from_secs(4));
    let (told, _) = viewers
        .iter()
        .max_by_key(|(v, _)| stat(v, "bytes-sent"))
        .expect("viewers");
    assert!(stat(told, "bytes-sent") > COPY / 8, "it relays");
    tell(told);
    // What was on its way, and the moment in which its children move.
    std::thread::sleep(Duration::from_secs(3));
    gives_less(told);
    for (viewer, _) in &viewers[2..] {
        assert_eq!(stat(viewer, "bytes-sent"), 0, "relay=false");
    }
    assert!(seed.send_event(gst::event::Eos::new()));
    for (viewer, got) in &viewers {
        end_of(viewer);
        assert_same(&sent.seen(), &got.seen());
        viewer.set_state(gst::State::Null).expect("NULL");
    }
    seed.set_state(gst::State::Null).expect("NULL");
}

fn set(pipeline: &gst::Pipeline, property: &str, value: u64) {
    let source = pipeline.by_name("src").expect("the source");
    source.set_property(property, value);
}

#[test]
fn a_playing_viewer_that_is_told_to_give_less_does_and_nobody_sees_it() {
    let tell = |told: &gst::Pipeline| set(told, "max-upload-bitrate", COPY / 4);
    one_gives_less(tell, |told| {
        let (before, began) = (stat(told, "udp-bytes-sent"), Instant::now());
        std::thread::sleep(Duration::from_secs(5));
        let sends = (stat(told, "udp-bytes-sent") - before) as f64 * 8.0;
        let sends = sends / began.elapsed().as_secs_f64();
        println!("told {} bit/s, it sends {sends}", COPY / 4);
        assert!(sends <= COPY as f64 / 4.0 * 1.1, "{sends}");
    });
}

#[test]
fn a_playing_viewer_that_has_sent_all_that_it_may_relays_no_more_and_nobody_sees_it() {
    let tell = |told: &gst::Pipeline| {
        // Headers and messages count, too.
        let sent = stat(told, "udp-bytes-sent");
        assert!(sent > stat(told, "bytes-sent"));
        set(told, "max-upload-volume", sent + 1000);
    };
    one_gives_less(tell, |told| {
        let before = stat(told, "bytes-sent");
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(stat(told, "bytes-sent"), before);
    });
}

/// A stream that nobody pays for by memory: `max-buffer-bytes` holds whatever `buffer-time` says.
#[test]
fn the_bytes_that_are_kept_are_bounded() {
    init();
    let seed = launch(
        "videotestsrc is-live=true ! video/x-raw,format=GRAY8,width=320,height=240,framerate=25/1 ! icdsink name=src address=127.0.0.1 port=0 max-buffer-bytes=2000000",
    );
    let sent = Record::at(&seed, "src", "sink");
    seed.set_state(gst::State::Playing).expect("PLAYING");
    until("three times as much", || sent.len() > 80);
    let kept = stat(&seed, "buffer-bytes");
    assert!((1_000_000..=2_100_000).contains(&kept), "{kept} bytes");
    seed.set_state(gst::State::Null).expect("NULL");
}
