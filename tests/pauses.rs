//! Pause, resume and flush, on either side: the picture goes on, in time.

use std::time::Duration;

use gst::prelude::*;
use gst_icd_suite::{Record, init, launch, playing, until, viewers_uri};

const BALL: &str = "videotestsrc name=test is-live=true pattern=ball ! video/x-raw,format=GRAY8,width=64,height=64,framerate=25/1";
const DISCONT: gst::BufferFlags = gst::BufferFlags::DISCONT;

fn seed() -> (gst::Pipeline, Record) {
    let seed = launch(&format!(
        "{BALL} ! icdsink name=seed address=127.0.0.1 port=0"
    ));
    let sent = Record::at(&seed, "seed", "sink");
    seed.set_state(gst::State::Playing).expect("PLAYING");
    (seed, sent)
}

/// What a viewer got; it drops nothing that is less than a second late: join points are half a
/// second apart, and the machine may be slow.
fn viewer(uri: &str, name: &str) -> (gst::Pipeline, Record) {
    let (viewer, got) = playing(&format!(
        "icdsrc name=src latency=600 uri={uri} ! {name}fakesink name=out sync=true max-lateness=1000000000"
    ));
    (viewer, got)
}

fn rendered(viewer: &gst::Pipeline) -> u64 {
    let sink = viewer.by_name("out").expect("a sink");
    let stats = sink.property::<gst::Structure>("stats");
    stats.get::<u64>("rendered").expect("a count")
}

fn no_complaint(pipeline: &gst::Pipeline) {
    let bus = pipeline.bus().expect("a bus");
    let kinds = [gst::MessageType::Error, gst::MessageType::Warning];
    if let Some(message) = bus.pop_filtered(&kinds) {
        panic!("{message:?}");
    }
}

/// Where in what was sent the n-th that was received is.
fn place(sent: &Record, got: &Record, n: usize) -> usize {
    let data = &got.seen()[n].data;
    let sent = sent.seen();
    // The ball comes by the same place again, but not soon.
    let all: Vec<_> = (0..sent.len()).filter(|m| sent[*m].data == *data).collect();
    assert!(!all.is_empty(), "buffer {n} was never sent");
    *all.last().expect("one")
}

#[test]
fn a_paused_viewer_goes_on_with_what_is_due_now() {
    init();
    let (seed, sent) = seed();
    until("the stream runs", || sent.len() > 30);
    let (viewer, got) = viewer(&viewers_uri(&seed), "");
    until("it plays", || rendered(&viewer) > 25);
    viewer.set_state(gst::State::Paused).expect("PAUSED");
    let _ = viewer.state(gst::ClockTime::from_seconds(10));
    let (before, paused_at) = (got.len(), sent.len());
    until("the broadcaster is four seconds on", || {
        sent.len() > paused_at + 100
    });
    assert_eq!(got.len(), before, "a paused source gives nothing");
    let shown = rendered(&viewer);
    let resumed_at = sent.len();
    viewer.set_state(gst::State::Playing).expect("PLAYING");
    until("it plays again", || rendered(&viewer) > shown + 40);
    let seen = got.seen();
    let mark = (before..seen.len()).find(|n| seen[*n].flags.contains(DISCONT));
    let mark = mark.expect("a mark of discontinuity");
    // At most the one that was on its way into the sink comes before it.
    assert!(mark <= before + 1, "{} of the past", mark - before);
    let went_on = place(&sent, &got, mark);
    assert!(
        went_on + 50 > resumed_at,
        "it went on at {went_on} of {resumed_at}, paused at {paused_at}"
    );
    // Whole from there on.
    let sent = sent.seen();
    for (s, g) in sent[went_on..].iter().zip(&seen[mark..]) {
        assert!(s.data == g.data);
    }
    no_complaint(&viewer);
    viewer.set_state(gst::State::Null).expect("NULL");
    seed.set_state(gst::State::Null).expect("NULL");
}

/// What waits downstream for its time was taken before the pause: shown first, it would make late
/// what is live.
#[test]
fn a_paused_viewer_with_a_long_queue_jumps_to_live_too() {
    init();
    let (seed, sent) = seed();
    until("the stream runs", || sent.len() > 30);
    let viewer = launch(&format!(
        "icdsrc name=src latency=2500 uri={} ! queue max-size-time=10000000000 max-size-buffers=0 max-size-bytes=0 ! fakesink name=out sync=true max-lateness=200000000",
        viewers_uri(&seed)
    ));
    let shown = Record::at(&viewer, "out", "sink");
    viewer.set_state(gst::State::Playing).expect("PLAYING");
    until("it plays", || rendered(&viewer) > 100);
    viewer.set_state(gst::State::Paused).expect("PAUSED");
    let _ = viewer.state(gst::ClockTime::from_seconds(10));
    let paused_at = sent.len();
    until("the broadcaster is six seconds on", || {
        sent.len() > paused_at + 150
    });
    let before = (rendered(&viewer), shown.len());
    viewer.set_state(gst::State::Playing).expect("PLAYING");
    until("it plays again", || rendered(&viewer) > before.0 + 60);
    // The one that was held in the pause, and what a slow machine makes late.
    let dropped = (shown.len() - before.1) as u64 - (rendered(&viewer) - before.0);
    assert!(dropped < 10, "{dropped} were late");
    assert!(
        place(&sent, &shown, before.1 + 10) > paused_at,
        "it shows what was there before the pause"
    );
    no_complaint(&viewer);
    viewer.set_state(gst::State::Null).expect("NULL");
    seed.set_state(gst::State::Null).expect("NULL");
}

#[test]
fn a_paused_viewer_relays_on() {
    init();
    let seed = launch(&format!(
        "{BALL} ! icdsink name=seed address=127.0.0.1 port=0"
    ));
    seed.set_state(gst::State::Playing).expect("PLAYING");
    let uri = viewers_uri(&seed);
    let (relay, got) = viewer(&uri, "");
    until("the first plays", || got.len() > 10);
    let (second, got) = viewer(&uri, "");
    until("the second plays", || got.len() > 10);
    let sent = || {
        let source = relay.by_name("src").expect("the source");
        let stats = source.property::<gst::Structure>("stats");
        stats.get::<u64>("bytes-sent").expect("a count")
    };
    until("the first relays", || sent() > 0);
    relay.set_state(gst::State::Paused).expect("PAUSED");
    let (before, had) = (sent(), got.len());
    until("it relays while it is paused", || sent() > before + 50_000);
    until("the second plays on", || got.len() > had + 25);
    for pipeline in [relay, second, seed] {
        no_complaint(&pipeline);
        pipeline.set_state(gst::State::Null).expect("NULL");
    }
}

#[test]
fn a_paused_broadcaster_is_waited_for_and_followed() {
    init();
    let (seed, sent) = seed();
    let (viewer, got) = viewer(&viewers_uri(&seed), "");
    until("it plays", || rendered(&viewer) > 25);
    seed.set_state(gst::State::Paused).expect("PAUSED");
    std::thread::sleep(Duration::from_secs(3));
    let (before, had) = (rendered(&viewer), got.len());
    assert!(had <= sent.len());
    seed.set_state(gst::State::Playing).expect("PLAYING");
    // Were it late by the pause, the sink would drop it.
    until("it goes on", || rendered(&viewer) > before + 50);
    no_complaint(&viewer);
    let (sent, got) = (sent.seen(), got.seen());
    let first = sent.iter().position(|s| s.data == got[0].data);
    let first = first.expect("it was sent");
    assert!(
        sent[first..]
            .iter()
            .zip(&got)
            .all(|(s, g)| s.data == g.data)
    );
    viewer.set_state(gst::State::Null).expect("NULL");
    seed.set_state(gst::State::Null).expect("NULL");
}

#[test]
fn a_short_pause_of_the_broadcaster_is_a_new_timeline_too() {
    init();
    let (seed, _) = seed();
    let (viewer, got) = viewer(&viewers_uri(&seed), "");
    until("it plays", || rendered(&viewer) > 25);
    seed.set_state(gst::State::Paused).expect("PAUSED");
    std::thread::sleep(Duration::from_millis(700));
    let (before, had) = (rendered(&viewer), got.len());
    seed.set_state(gst::State::Playing).expect("PLAYING");
    until("it goes on", || rendered(&viewer) > before + 30);
    no_complaint(&viewer);
    let seen = got.seen();
    let mark = (had.saturating_sub(2)..seen.len()).find(|n| seen[*n].flags.contains(DISCONT));
    let mark = mark.expect("a mark of discontinuity");
    let (last, next) = (seen[mark - 1].pts, seen[mark].pts);
    let gap = next.expect("a time stamp") - last.expect("a time stamp");
    assert!(gap >= gst::ClockTime::from_mseconds(500), "{gap}");
    viewer.set_state(gst::State::Null).expect("NULL");
    seed.set_state(gst::State::Null).expect("NULL");
}

#[test]
fn a_flush_on_either_side_is_followed() {
    init();
    let (seed, sent) = seed();
    let (viewer, got) = viewer(&viewers_uri(&seed), "identity name=mid ! ");
    until("it plays", || rendered(&viewer) > 25);
    let flush = |element: &gst::Element| {
        assert!(element.send_event(gst::event::FlushStart::new()));
        assert!(element.send_event(gst::event::FlushStop::new(false)));
    };
    flush(&viewer.by_name("src").expect("the source"));
    let (before, had) = (rendered(&viewer), got.len());
    until("it goes on after its own flush", || {
        rendered(&viewer) > before + 25 && got.len() > had + 25
    });
    flush(&seed.by_name("test").expect("the broadcaster's source"));
    let (at, before) = (sent.len(), rendered(&viewer));
    until("it goes on after the broadcaster's flush", || {
        sent.len() > at + 25 && rendered(&viewer) > before + 25
    });
    no_complaint(&viewer);
    viewer.set_state(gst::State::Null).expect("NULL");
    seed.set_state(gst::State::Null).expect("NULL");
}
