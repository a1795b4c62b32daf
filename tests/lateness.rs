//! At a synchronised sink nothing is late, whatever the container makes of time.

use std::time::Duration;

use gst::prelude::*;
use gst_icd_suite::{complaint, free_port, init, launch, until, viewers_uri};

const RAW: &str = "videotestsrc is-live=true ! video/x-raw,width=160,height=120,framerate=25/1";

fn ogg() -> Vec<(&'static str, String)> {
    // oggdemux 1.22 prints a CRITICAL for every source with a TIME segment, udpsrc included.
    gst::glib::log_set_always_fatal(gst::glib::LogLevels::LEVEL_ERROR);
    let theora = "theoraenc keyframe-freq=25 keyframe-force=25 ! oggmux";
    vec![("Ogg", format!("{RAW} ! {theora}"))]
}

/// Name and the broadcaster's pipeline up to icdsink.
fn containers() -> Vec<(&'static str, String)> {
    let raw = RAW;
    let h264 = format!("{raw} ! x264enc tune=zerolatency key-int-max=25 ! h264parse");
    let sound = "audiotestsrc is-live=true ! audio/x-raw,rate=44100 ! voaacenc ! aacparse";
    vec![
        ("MPEG-TS", format!("{h264} ! mpegtsmux")),
        ("Matroska", format!("{h264} ! matroskamux streamable=true")),
        // With sound: flvdemux waits six seconds for a second stream, whatever its source.
        (
            "FLV",
            format!("{h264} ! flvmux name=m streamable=true {sound} ! m. m."),
        ),
    ]
}

fn seed(container: &str, port: u16) -> gst::Pipeline {
    launch(&format!(
        "{container} ! icdsink name=seed address=127.0.0.1 port={port}"
    ))
}

/// A viewer that decodes, and drops what is more than 20 ms late.
fn viewer(uri: &str) -> gst::Pipeline {
    launch(&format!(
        "icdsrc uri={uri} ! decodebin name=d ! video/x-raw ! fakesink name=out sync=true max-lateness=20000000"
    ))
}

/// Frames shown and dropped.
fn counts(viewer: &gst::Pipeline) -> (u64, u64) {
    // A player has none at first.
    let Some(sink) = viewer.by_name("out") else {
        return (0, 0);
    };
    let stats = sink.property::<gst::Structure>("stats");
    let count = |name| stats.get::<u64>(name).unwrap_or_default();
    (count("rendered"), count("dropped"))
}

/// Three seconds of frames are shown, and none is late.
fn none_is_late(viewers: &[(&str, gst::Pipeline)]) {
    for (name, viewer) in viewers {
        until(&format!("{name} is shown"), || {
            let (shown, late) = counts(viewer);
            shown + late >= 75
        });
        let (shown, late) = counts(viewer);
        assert_eq!(late, 0, "{name}: {late} late, {shown} shown");
    }
}

fn stop(pipelines: impl IntoIterator<Item = gst::Pipeline>) {
    for pipeline in pipelines {
        let _ = pipeline.set_state(gst::State::Null);
    }
}

#[test]
fn a_viewer_that_joins_is_in_time() {
    init();
    joins_in_time(&containers());
}

#[test]
fn a_viewer_that_joins_an_ogg_stream_is_in_time() {
    init();
    joins_in_time(&ogg());
}

fn joins_in_time(containers: &[(&str, String)]) {
    let seeds: Vec<_> = containers
        .iter()
        .map(|(name, container)| (*name, seed(container, 0)))
        .collect();
    for (_, seed) in &seeds {
        seed.set_state(gst::State::Playing).expect("PLAYING");
    }
    std::thread::sleep(Duration::from_secs(3));
    let viewers: Vec<_> = seeds
        .iter()
        .map(|(name, seed)| (*name, viewer(&viewers_uri(seed))))
        .collect();
    for (_, viewer) in &viewers {
        viewer.set_state(gst::State::Playing).expect("PLAYING");
    }
    none_is_late(&viewers);
    stop(viewers.into_iter().chain(seeds).map(|(_, p)| p));
}

#[test]
fn a_viewer_that_is_there_ten_seconds_before_the_seed_is_in_time() {
    init();
    waits_and_is_in_time(&containers());
}

#[test]
fn a_viewer_that_is_there_ten_seconds_before_an_ogg_stream_is_in_time() {
    init();
    waits_and_is_in_time(&ogg());
}

fn waits_and_is_in_time(containers: &[(&str, String)]) {
    let ports: Vec<_> = containers.iter().map(|_| free_port()).collect();
    let viewers: Vec<_> = containers
        .iter()
        .zip(&ports)
        .map(|((name, _), port)| (*name, viewer(&format!("icd://127.0.0.1:{port}"))))
        .collect();
    for (_, viewer) in &viewers {
        viewer.set_state(gst::State::Playing).expect("PLAYING");
    }
    std::thread::sleep(Duration::from_secs(10));
    let seeds: Vec<_> = containers
        .iter()
        .zip(&ports)
        .map(|((name, container), port)| (*name, seed(container, *port)))
        .collect();
    for (_, seed) in &seeds {
        seed.set_state(gst::State::Playing).expect("PLAYING");
    }
    none_is_late(&viewers);
    stop(viewers.into_iter().chain(seeds).map(|(_, p)| p));
}

#[test]
fn after_a_restart_of_the_seed_nothing_is_late() {
    init();
    for (name, container) in containers() {
        restarts_in_time(name, &container, viewer);
    }
}

#[test]
fn after_a_restart_of_the_seed_an_ogg_stream_is_in_time() {
    init();
    // The new chain comes on a new pad, which a player links and a fixed pipeline does not.
    for (name, container) in ogg() {
        restarts_in_time(name, &container, |uri| {
            let sink = "fakesink name=out sync=true max-lateness=20000000";
            launch(&format!(
                "playbin uri={uri} video-sink=\"{sink}\" audio-sink=\"fakesink sync=true\""
            ))
        });
    }
}

/// What was counted since; a flush begins anew.
fn since(viewer: &gst::Pipeline, before: (u64, u64)) -> (u64, u64) {
    let now = counts(viewer);
    if now.0 < before.0 {
        return now;
    }
    (now.0 - before.0, now.1 - before.1)
}

fn restarts_in_time(name: &str, container: &str, viewer: impl Fn(&str) -> gst::Pipeline) {
    let port = free_port();
    let dir = gst_icd_suite::processes::Scratch::new("lateness");
    let key = dir.path("key.pem");
    let start = || {
        let seed = launch(&format!(
            "{container} ! icdsink name=seed address=127.0.0.1 port={port} key-file={}",
            key.display()
        ));
        seed.set_state(gst::State::Playing).expect("PLAYING");
        seed
    };
    let first = start();
    std::thread::sleep(Duration::from_secs(3));
    let viewers = [(name, viewer(&viewers_uri(&first)))];
    let watched = &viewers[0].1;
    watched.set_state(gst::State::Playing).expect("PLAYING");
    none_is_late(&viewers);
    stop([first]);
    std::thread::sleep(Duration::from_secs(5));
    let before = counts(watched);
    assert_eq!(before.1, 0);
    let second = start();
    let shown = |n: u64| {
        until(&format!("{name} is shown again"), || {
            since(watched, before).0 >= n
        })
    };
    shown(25);
    // Demuxer and parser hold the last frames of the first life until the next one comes.
    let (_, held) = since(watched, before);
    assert!(held <= 3, "{name}: {held} late");
    shown(125);
    assert_eq!(
        since(watched, before).1,
        held,
        "{name}: late after the restart"
    );
    // Nor is it shown much too late: what comes after the end was on its way.
    stop([second]);
    let (then, _) = counts(watched);
    std::thread::sleep(Duration::from_secs(5));
    let (last, _) = counts(watched);
    assert!(
        last - then <= 90,
        "{name}: {} frames after the end",
        last - then
    );
    stop(viewers.map(|(_, v)| v));
}

#[test]
fn a_paused_viewer_of_an_ogg_stream_is_warned() {
    init();
    for (_, container) in ogg() {
        let seed = seed(&container, 0);
        seed.set_state(gst::State::Playing).expect("PLAYING");
        let viewer = viewer(&viewers_uri(&seed));
        viewer.set_state(gst::State::Playing).expect("PLAYING");
        until("it is shown", || counts(&viewer).0 > 25);
        viewer.set_state(gst::State::Paused).expect("PAUSED");
        std::thread::sleep(Duration::from_secs(4));
        viewer.set_state(gst::State::Playing).expect("PLAYING");
        until("the old timeline is warned of", || {
            complaint(&viewer).contains("keep the old timeline")
        });
        stop([viewer, seed]);
    }
}

#[test]
fn a_muxer_that_begins_at_zero_late_is_followed_too() {
    init();
    // flvmux takes its first time off all others.
    let late = "identity ts-offset=5000000000 !";
    let h264 = format!("{RAW} ! {late} x264enc tune=zerolatency key-int-max=25 ! h264parse");
    let sound =
        format!("audiotestsrc is-live=true ! audio/x-raw,rate=44100 ! {late} voaacenc ! aacparse");
    let flv = format!("{h264} ! flvmux name=m streamable=true {sound} ! m. m.");
    restarts_in_time("FLV from five seconds on", &flv, viewer);
    restarts_in_time(
        "Matroska from five seconds on",
        &format!("{h264} ! matroskamux streamable=true offset-to-zero=true"),
        viewer,
    );
}

#[test]
fn a_paused_viewer_of_a_container_with_its_own_timeline_goes_on_in_time() {
    init();
    for (name, container) in &containers()[1..] {
        let seed = seed(container, 0);
        seed.set_state(gst::State::Playing).expect("PLAYING");
        let viewers = [(*name, viewer(&viewers_uri(&seed)))];
        let watched = &viewers[0].1;
        watched.set_state(gst::State::Playing).expect("PLAYING");
        none_is_late(&viewers);
        watched.set_state(gst::State::Paused).expect("PAUSED");
        std::thread::sleep(Duration::from_secs(4));
        let before = counts(watched);
        watched.set_state(gst::State::Playing).expect("PLAYING");
        until(&format!("{name} goes on"), || {
            since(watched, before).0 >= 75
        });
        // One may have been on its way when it was paused.
        let (_, late) = since(watched, before);
        assert!(late <= 1, "{name}: {late} late");
        stop(viewers.map(|(_, v)| v).into_iter().chain([seed]));
    }
}
