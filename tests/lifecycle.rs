//! Starting, stopping, ending: quick from every state, whatever the network does.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst_icd_suite::processes::{Launched, Scratch, memory};
use gst_icd_suite::{Record, assert_same, complaint, end_of, init, launch, until, viewers_uri};

/// A thread that is scheduled late is no reason to fail; the promise is 500 ms.
const NULL_WITHIN: Duration = Duration::from_secs(3);

fn null_is_quick(pipeline: &gst::Pipeline) {
    let start = Instant::now();
    pipeline.set_state(gst::State::Null).expect("NULL");
    assert!(
        start.elapsed() < NULL_WITHIN,
        "NULL took {:?}",
        start.elapsed()
    );
}

/// A UDP port where somebody listens and says nothing.
fn silent_port() -> (std::net::UdpSocket, u16) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let port = socket.local_addr().expect("an address").port();
    (socket, port)
}

#[test]
fn null_is_reached_from_every_state_without_a_seed() {
    init();
    let (_socket, port) = silent_port();
    for state in [gst::State::Ready, gst::State::Paused, gst::State::Playing] {
        for sink in ["fakesink", "decodebin ! fakesink"] {
            let viewer = launch(&format!("icdsrc uri=icd://127.0.0.1:{port} ! {sink}"));
            let _ = viewer.set_state(state);
            std::thread::sleep(Duration::from_millis(100));
            null_is_quick(&viewer);
        }
    }
}

#[test]
fn many_cycles_leave_nothing_behind() {
    init();
    let count = |what: &str| {
        std::fs::read_dir(format!("/proc/self/{what}"))
            .expect("proc")
            .count()
    };
    let cycle = |n: u32| {
        let pipeline = launch(
            "videotestsrc is-live=true ! video/x-raw,width=16,height=16 ! icdsink address=127.0.0.1 port=0 name=seed",
        );
        pipeline.set_state(gst::State::Playing).expect("PLAYING");
        let viewer = launch(&format!("icdsrc uri={} ! fakesink", viewers_uri(&pipeline)));
        viewer.set_state(gst::State::Playing).expect("PLAYING");
        if n.is_multiple_of(10) {
            let seed = pipeline.by_name("seed").expect("the seed");
            until("the viewer is admitted", || {
                seed.property::<u32>("num-viewers") == 1
            });
        }
        null_is_quick(&viewer);
        null_is_quick(&pipeline);
    };
    let me = std::process::id();
    // The allocator's arenas are as large as they get.
    (0..50).for_each(cycle);
    let (threads, files, before) = (count("task"), count("fd"), memory(me));
    (0..200).for_each(cycle);
    let after = memory(me);
    println!("{before} bytes, then {after}");
    // Forty kilobytes a cycle.
    assert!(after < before + (8 << 20), "{before} bytes, then {after}");
    until("no more threads and descriptors than before", || {
        count("task") <= threads + 2 && count("fd") <= files + 2
    });
}

/// The promise is 1.5 s beyond the base class's own wait, which here is one frame.
const END_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn the_end_comes_promptly_with_viewers_that_are_frozen_or_paused() {
    init();
    let seed = launch(
        "videotestsrc num-buffers=75 is-live=true ! video/x-raw,width=16,height=16,framerate=25/1 ! icdsink name=seed address=127.0.0.1 port=0",
    );
    let came = Arc::new(OnceLock::new());
    let seen = came.clone();
    let pad = seed.by_name("seed").and_then(|s| s.static_pad("sink"));
    let pad = pad.expect("a pad");
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(gst::PadProbeData::Event(event)) = &info.data
            && event.type_() == gst::EventType::Eos
        {
            seen.get_or_init(Instant::now);
        }
        gst::PadProbeReturn::Ok
    });
    seed.set_state(gst::State::Playing).expect("PLAYING");
    let uri = viewers_uri(&seed);
    let scratch = Scratch::new("end");
    let file = scratch.path("frozen.raw");
    let frozen = Launched::run(
        &format!(
            "icdsrc uri={uri} latency=200 ! filesink buffer-mode=unbuffered location={}",
            file.display()
        ),
        &file,
    );
    until("it plays", || frozen.written() > 0);
    frozen.signal("STOP");
    let paused = launch(&format!("icdsrc uri={uri} ! fakesink sync=true"));
    paused.set_state(gst::State::Paused).expect("PAUSED");
    end_of(&seed);
    let took = came.get().expect("the event came before").elapsed();
    println!("the end took {took:?}");
    assert!(took < END_WITHIN, "the end took {took:?}");
    null_is_quick(&paused);
    null_is_quick(&seed);
}

/// A preview that gets nothing, as a capture device that is not there, holds its own sink back
/// and not the broadcast; one that stands still holds its queue back.
#[test]
fn a_preview_branch_that_stalls_does_not_hold_up_the_broadcast() {
    init();
    for preview in [
        "appsrc ! fakesink",
        "t. ! queue leaky=downstream ! fakesink async=false sync=true ts-offset=3600000000000",
    ] {
        let seed = launch(&format!(
            "videotestsrc num-buffers=60 is-live=true ! video/x-raw,width=16,height=16,framerate=25/1 ! tee name=t ! queue ! icdsink name=seed address=127.0.0.1 port=0 {preview}"
        ));
        let sent = Record::at(&seed, "seed", "sink");
        seed.set_state(gst::State::Playing).expect("PLAYING");
        let viewer = launch(&format!(
            "icdsrc name=src uri={} ! fakesink",
            viewers_uri(&seed)
        ));
        let got = Record::at(&viewer, "src", "src");
        viewer.set_state(gst::State::Playing).expect("PLAYING");
        end_of(&viewer);
        assert_eq!(sent.len(), 60, "beside {preview}");
        assert_same(&sent.seen(), &got.seen());
        null_is_quick(&viewer);
        null_is_quick(&seed);
    }
}

#[test]
fn both_elements_live_in_one_pipeline() {
    init();
    let pipeline = launch(
        "videotestsrc num-buffers=50 is-live=true ! video/x-raw,width=16,height=16,framerate=25/1 ! icdsink name=seed address=127.0.0.1 port=0  icdsrc uri=icd://127.0.0.1:9 ! fakesink async=false",
    );
    pipeline.set_state(gst::State::Playing).expect("PLAYING");
    let seed = pipeline.by_name("seed").expect("the seed");
    until("the sink plays although the source has nothing", || {
        seed.property::<gst::Structure>("stats")
            .get::<u64>("bytes-in")
            .expect("a field")
            > 0
    });
    null_is_quick(&pipeline);
}

#[test]
fn a_restarted_seed_with_the_same_key_is_followed_and_another_key_is_refused() {
    init();
    let folder = std::env::temp_dir().join(format!("icd-restart-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let start = |key: &str, port: u32, width: u32| {
        let key = folder.join(key);
        let seed = launch(&format!(
            "videotestsrc is-live=true ! video/x-raw,width={width},height=64,framerate=25/1 ! icdsink name=seed address=127.0.0.1 port={port} key-file={}",
            key.display()
        ));
        seed.set_state(gst::State::Playing).expect("PLAYING");
        seed
    };
    let first = start("a.pem", 0, 64);
    let uri = viewers_uri(&first);
    let port = first
        .by_name("seed")
        .expect("the seed")
        .property::<u32>("port");
    let viewer = launch(&format!(
        "icdsrc name=src latency=300 uri={uri} ! fakesink name=out sync=true"
    ));
    let got = gst_icd_suite::Record::at(&viewer, "src", "src");
    viewer.set_state(gst::State::Playing).expect("PLAYING");
    until("the stream comes", || got.len() > 20);
    first.set_state(gst::State::Null).expect("NULL");
    let second = start("a.pem", port, 64);
    let before = got.len();
    until("the stream comes again", || got.len() > before + 40);
    second.set_state(gst::State::Null).expect("NULL");
    let bus = viewer.bus().expect("a bus");
    let error = bus.pop_filtered(&[gst::MessageType::Error, gst::MessageType::Eos]);
    assert!(error.is_none(), "neither an error nor an end: {error:?}");
    while bus.pop().is_some() {}
    let third = start("b.pem", port, 32);
    until("the other key is refused and called so", || {
        complaint(&viewer).contains("another key")
    });
    std::thread::sleep(Duration::from_secs(1));
    let size = got.seen()[0].data.len();
    let all_ours = got.seen().iter().all(|b| b.data.len() == size);
    assert!(all_ours, "nothing of the other stream is played");
    third.set_state(gst::State::Null).expect("NULL");
    viewer.set_state(gst::State::Null).expect("NULL");
}
