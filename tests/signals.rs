//! What an application is asked and told, and what it may do meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use gst::prelude::*;
use gst_icd_suite::processes::Scratch;
use gst_icd_suite::{Record, complaint, init, launch, until, viewers_uri};

const SOURCE: &str = "videotestsrc is-live=true ! video/x-raw,format=GRAY8,width=32,height=32";

fn broadcast(settings: &str) -> (gst::Pipeline, gst::Element) {
    let pipeline = launch(&format!(
        "{SOURCE} ! icdsink name=seed address=127.0.0.1 port=0 {settings}"
    ));
    let sink = pipeline.by_name("seed").expect("the sink");
    (pipeline, sink)
}

fn play(pipeline: &gst::Pipeline) {
    pipeline.set_state(gst::State::Playing).expect("PLAYING");
}

fn stop(pipeline: &gst::Pipeline) {
    pipeline.set_state(gst::State::Null).expect("NULL");
}

fn viewer(uri: &str) -> (gst::Pipeline, Record) {
    let pipeline = launch(&format!("icdsrc name=src uri={uri} ! fakesink name=out"));
    let got = Record::at(&pipeline, "src", "src");
    play(&pipeline);
    (pipeline, got)
}

fn plays(got: &Record) {
    let before = got.len();
    until("it plays", || got.len() > before + 10);
}

#[test]
fn the_application_decides_who_comes_in_from_the_moment_it_says_so() {
    init();
    let (pipeline, sink) = broadcast("");
    play(&pipeline);
    let uri = viewers_uri(&pipeline);
    let (first, got) = viewer(&uri);
    plays(&got);
    // Connected while it broadcasts.
    let asked = Arc::new(Mutex::new(Vec::new()));
    let allow = Arc::new(AtomicBool::new(false));
    let (list, answer) = (asked.clone(), allow.clone());
    sink.connect("peer-connecting", false, move |values| {
        let text = |n: usize| values[n].get::<String>().expect("a text");
        list.lock().expect("no panic").push((text(1), text(2)));
        Some(answer.load(Ordering::SeqCst).to_value())
    });
    let (second, none) = viewer(&uri);
    assert!(complaint(&second).contains("does not admit this viewer"));
    assert!(none.is_empty());
    allow.store(true, Ordering::SeqCst);
    let (third, got_too) = viewer(&uri);
    plays(&got_too);
    plays(&got);
    let asked = asked.lock().expect("no panic").clone();
    assert_eq!(asked.len(), 2);
    for (key, address) in asked {
        assert_eq!(key.len(), 52, "the whole key");
        assert!(address.parse::<std::net::SocketAddr>().is_ok(), "{address}");
    }
    for pipeline in [first, second, third, pipeline] {
        stop(&pipeline);
    }
}

#[test]
fn an_application_that_does_not_answer_refuses_and_holds_up_nobody() {
    init();
    let (pipeline, sink) = broadcast("");
    play(&pipeline);
    let uri = viewers_uri(&pipeline);
    let (first, got) = viewer(&uri);
    plays(&got);
    let (answer, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    sink.connect("peer-connecting", false, move |_| {
        let _ = wait.lock().expect("no panic").recv();
        Some(true.to_value())
    });
    let (second, none) = viewer(&uri);
    plays(&got);
    assert!(complaint(&second).contains("does not admit this viewer"));
    assert!(none.is_empty());
    plays(&got);
    drop(answer);
    for pipeline in [first, second, pipeline] {
        stop(&pipeline);
    }
}

/// Of a signal whose handlers may answer, and here say yes.
fn stops_and_starts_again(signal: &str, answers: bool) {
    init();
    let folder = Scratch::new(signal);
    let key = folder.path("key.pem");
    let (pipeline, sink) = broadcast(&format!("key-file={}", key.display()));
    let restarted = Arc::new(AtomicU32::new(0));
    let (count, weak) = (restarted.clone(), pipeline.downgrade());
    sink.connect(signal, false, move |_| {
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            let pipeline = weak.upgrade().expect("it lives");
            pipeline.set_state(gst::State::Null).expect("NULL");
            pipeline.set_state(gst::State::Playing).expect("PLAYING");
            count.fetch_add(100, Ordering::SeqCst);
        }
        answers.then(|| true.to_value())
    });
    play(&pipeline);
    let (first, _) = viewer(&viewers_uri(&pipeline));
    until("the handler is done", || {
        restarted.load(Ordering::SeqCst) > 100
    });
    stop(&first);
    let (second, got) = viewer(&viewers_uri(&pipeline));
    plays(&got);
    assert!(restarted.load(Ordering::SeqCst) > 101, "it is told anew");
    stop(&second);
    stop(&pipeline);
}

#[test]
fn a_handler_may_stop_the_element_and_start_it_again() {
    stops_and_starts_again("peer-added", false);
}

#[test]
fn a_handler_that_is_asked_may_do_so_too() {
    stops_and_starts_again("peer-connecting", true);
}

#[test]
fn who_comes_and_goes_is_told_with_the_number_that_is_there_then() {
    init();
    let (pipeline, sink) = broadcast("max-viewers=1 stream-name=Meadow");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let numbers = seen.clone();
    sink.connect_notify(Some("num-viewers"), move |sink, _| {
        let number = sink.property::<u32>("num-viewers");
        numbers.lock().expect("no panic").push(number);
    });
    let removed = Arc::new(AtomicU32::new(0));
    let count = removed.clone();
    sink.connect("peer-removed", false, move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        None
    });
    play(&pipeline);
    let uri = viewers_uri(&pipeline);
    let (first, got) = viewer(&uri);
    plays(&got);
    let source = first.by_name("src").expect("the source");
    let stats = source.property::<gst::Structure>("stats");
    assert_eq!(stats.get::<String>("stream-name").as_deref(), Ok("Meadow"));
    let (second, none) = viewer(&uri);
    assert!(complaint(&second).contains("the grid is full; trying again"));
    assert!(none.is_empty());
    let third = launch(&format!("icdsrc timeout=1000 uri={uri} ! fakesink"));
    play(&third);
    until("the reason is in the error", || {
        complaint(&third).contains("no stream for 1000 ms: the grid is full; timeout=0")
    });
    stop(&third);
    let stats = sink.property::<gst::Structure>("stats");
    assert!(stats.get::<u64>("viewers-refused").expect("a count") >= 2);
    let bus = pipeline.bus().expect("a bus");
    let refused = bus
        .iter_filtered(&[gst::MessageType::Element])
        .any(|message| {
            let name = message.structure().map(|s| s.name().to_string());
            name.as_deref() == Some("icd-peer-refused")
        });
    assert!(refused, "the broadcaster is told");
    stop(&first);
    until("the second gets the place", || none.len() > 10);
    until("it was told", || removed.load(Ordering::SeqCst) == 1);
    assert_eq!(*seen.lock().expect("no panic"), [1, 0, 1]);
    // Nobody is left when it has stopped.
    stop(&pipeline);
    assert_eq!(removed.load(Ordering::SeqCst), 2);
    assert_eq!(*seen.lock().expect("no panic"), [1, 0, 1, 0]);
    stop(&second);
}

#[test]
fn a_latency_beyond_the_broadcasters_buffer_is_refused_with_the_longest() {
    init();
    let (pipeline, _) = broadcast("buffer-time=3000");
    let sent = Record::at(&pipeline, "seed", "sink");
    play(&pipeline);
    until("two groups of pictures", || sent.len() > 60);
    let uri = viewers_uri(&pipeline);
    let refused = launch(&format!("icdsrc latency=3000 uri={uri} ! fakesink"));
    play(&refused);
    let said = complaint(&refused);
    // The buffer holds a group of pictures beside it, here half a second.
    let (_, most) = said
        .split_once("set at most latency=")
        .expect("the longest");
    let most: u32 = most
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number");
    assert!((2000..=2500).contains(&most), "{said}");
    let (viewer, got) = viewer(&format!("{uri}?latency={most}"));
    plays(&got);
    stop(&viewer);
    stop(&refused);
    stop(&pipeline);
}

#[test]
fn a_stream_that_nothing_paces_is_warned_about() {
    init();
    let pipeline = launch(
        "videotestsrc ! video/x-raw,width=16,height=16,framerate=25/1 ! icdsink sync=false address=127.0.0.1 port=0",
    );
    play(&pipeline);
    assert!(complaint(&pipeline).contains("set sync=true"));
    stop(&pipeline);
    let paced = launch(&format!(
        "{SOURCE} ! icdsink name=seed address=127.0.0.1 port=0"
    ));
    let sent = Record::at(&paced, "seed", "sink");
    play(&paced);
    until("two seconds of it", || sent.len() > 60);
    let bus = paced.bus().expect("a bus");
    let warning = bus.timed_pop_filtered(gst::ClockTime::ZERO, &[gst::MessageType::Warning]);
    assert!(warning.is_none(), "{warning:?}");
    stop(&paced);
}

#[test]
fn a_seed_that_carries_less_than_the_stream_is_warned_about_at_both_ends() {
    init();
    // 32 x 32 at 30 frames a second: 250 kbit/s.
    let (pipeline, _) = broadcast("max-upload-bitrate=100000");
    play(&pipeline);
    let said = complaint(&pipeline);
    assert!(
        said.contains("max-upload-bitrate=100000 carries less than one copy"),
        "{said}"
    );
    let (viewer, _) = viewer(&format!("{}?latency=300", viewers_uri(&pipeline)));
    let said = complaint(&viewer);
    assert!(
        said.contains("% of the stream did not come in time"),
        "{said}"
    );
    stop(&viewer);
    stop(&pipeline);
}
