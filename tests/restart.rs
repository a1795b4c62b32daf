//! The broadcaster's process dies and comes back.

use std::time::Duration;

use gst::prelude::*;
use gst_icd_suite::processes::{Launched, Scratch};
use gst_icd_suite::{Record, complaint, free_port, init, launch, playing, until, viewers_uri};

const FILM: &str = "videotestsrc is-live=true ! video/x-raw,width=64,height=64,framerate=25/1 ! x264enc tune=zerolatency key-int-max=25 ! h264parse";

const CONTAINERS: [&str; 3] = [
    "mpegtsmux",
    "matroskamux streamable=true",
    "flvmux streamable=true",
];

struct Broadcast {
    settings: String,
    container: &'static str,
    log: std::path::PathBuf,
}

impl Broadcast {
    /// A process.
    fn run(&self) -> Launched {
        let pipeline = format!("{FILM} ! {} ! icdsink {}", self.container, self.settings);
        Launched::run(&pipeline, &self.log)
    }
}

/// Warnings so far; an error or an end is a failure.
fn warnings(pipeline: &gst::Pipeline) -> Vec<String> {
    let bus = pipeline.bus().expect("a bus");
    let mut said = Vec::new();
    while let Some(message) = bus.pop() {
        match message.view() {
            gst::MessageView::Warning(w) => said.push(w.error().to_string()),
            gst::MessageView::Error(e) => panic!("{}", e.error()),
            gst::MessageView::Eos(_) => panic!("an end that nobody signed"),
            _ => {}
        }
    }
    said
}

#[test]
fn a_killed_seed_that_comes_back_after_five_seconds_is_followed() {
    init();
    let scratch = Scratch::new("restart");
    let broadcasts: Vec<_> = CONTAINERS
        .iter()
        .enumerate()
        .map(|(n, container)| Broadcast {
            settings: format!(
                "address=127.0.0.1 port={} key-file={}",
                free_port(),
                scratch.path(&format!("key-{n}.pem")).display()
            ),
            container,
            log: scratch.path(&format!("seed-{n}")),
        })
        .collect();
    // Two each, which relay to each other.
    let viewers: Vec<_> = broadcasts
        .iter()
        .chain(&broadcasts)
        .map(|broadcast| {
            // Makes the key, and with it the URI.
            let once = launch(&format!(
                "appsrc ! icdsink name=seed {}",
                broadcast.settings
            ));
            once.set_state(gst::State::Paused).expect("PAUSED");
            let uri = viewers_uri(&once);
            once.set_state(gst::State::Null).expect("NULL");
            let viewer = launch(&format!("icdsrc name=src latency=500 uri={uri} ! fakesink"));
            let got = Record::at(&viewer, "src", "src");
            (viewer, got)
        })
        .collect();
    let first: Vec<_> = broadcasts.iter().map(Broadcast::run).collect();
    for (viewer, got) in &viewers {
        viewer.set_state(gst::State::Playing).expect("PLAYING");
        until("the stream comes", || got.len() > 20);
        // The seed may have been late.
        let _ = warnings(viewer);
    }
    first.iter().for_each(|seed| seed.signal("KILL"));
    std::thread::sleep(Duration::from_secs(5));
    let _second: Vec<_> = broadcasts.iter().map(Broadcast::run).collect();
    for (viewer, got) in &viewers {
        let before = got.len();
        until("the stream comes again", || got.len() > before + 40);
        // Nor is an error or an end said, nor a timeline warned of that nobody keeps here.
        let said = warnings(viewer);
        assert!(!said.iter().any(|w| w.contains("old timeline")), "{said:?}");
        viewer.set_state(gst::State::Null).expect("NULL");
    }
}

#[test]
fn a_seed_that_comes_back_with_another_key_is_refused() {
    init();
    comes_back_with_another_key(|uri, _| uri.into());
    // Who names no key trusts the first one that it sees, and holds it.
    comes_back_with_another_key(|_, port| format!("icd://127.0.0.1:{port}"));
}

fn comes_back_with_another_key(named: fn(&str, u32) -> String) {
    let scratch = Scratch::new("another-key");
    let start = |key: &str, port: u32, width: u32| {
        let seed = launch(&format!(
            "videotestsrc is-live=true ! video/x-raw,width={width},height=64,framerate=25/1 ! icdsink name=seed address=127.0.0.1 port={port} key-file={}",
            scratch.path(key).display()
        ));
        seed.set_state(gst::State::Playing).expect("PLAYING");
        seed
    };
    let first = start("a.pem", 0, 64);
    let sink = first.by_name("seed").expect("the seed");
    let (uri, port) = (viewers_uri(&first), sink.property::<u32>("port"));
    let uri = named(&uri, port);
    let (viewer, got) = playing(&format!("icdsrc name=src latency=300 uri={uri} ! fakesink"));
    until("the stream comes", || got.len() > 20);
    first.set_state(gst::State::Null).expect("NULL");
    let second = start("b.pem", port, 32);
    until("the other key is refused and called so", || {
        complaint(&viewer).contains("another key")
    });
    std::thread::sleep(Duration::from_secs(1));
    let size = got.seen()[0].data.len();
    let all_ours = got.seen().iter().all(|b| b.data.len() == size);
    assert!(all_ours, "nothing of the other stream is played");
    second.set_state(gst::State::Null).expect("NULL");
    viewer.set_state(gst::State::Null).expect("NULL");
}
