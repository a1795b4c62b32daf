//! What an application reads and hears of the elements while they work.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use gst::prelude::*;
use gst_icd_suite::{Record, init, launch, playing, until, viewers_uri};

const SOURCE: &str = "videotestsrc is-live=true ! video/x-raw,format=GRAY8,width=32,height=32";

/// The names of the properties that changed, as they are told.
fn notified(element: &gst::Element) -> Arc<Mutex<BTreeSet<String>>> {
    let names: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let list = names.clone();
    element.connect_notify(None, move |_, property| {
        let mut list = list.lock().expect("no panic elsewhere");
        list.insert(property.name().to_string());
    });
    names
}

fn told(names: &Arc<Mutex<BTreeSet<String>>>, name: &str) -> bool {
    names.lock().expect("no panic elsewhere").contains(name)
}

fn status(source: &gst::Element) -> String {
    let value = source.property_value("status");
    let value = gst::glib::EnumValue::from_value(&value);
    value.map_or(String::new(), |(_, value)| value.nick().into())
}

/// The messages of a kind that an element posted, until `last`.
fn messages(pipeline: &gst::Pipeline, kind: gst::MessageType, last: &str) -> Vec<String> {
    let bus = pipeline.bus().expect("a bus");
    let mut said = Vec::new();
    let timeout = gst::ClockTime::from_seconds(gst_icd_suite::DEADLINE.as_secs());
    while !said.iter().any(|text: &String| text.contains(last)) {
        let message = bus.timed_pop_filtered(timeout, &[kind]);
        let message = message.expect("it is said");
        said.push(match message.view() {
            gst::MessageView::Progress(p) => format!("{:?} {}", p.get().0, p.get().2),
            gst::MessageView::Info(i) => format!("{} {:?}", i.error(), i.debug()),
            gst::MessageView::Element(e) => {
                let structure = e.structure().expect("a structure");
                let uri = structure.get::<String>("uri").unwrap_or_default();
                format!("{} {uri}", structure.name())
            }
            other => format!("{other:?}"),
        });
    }
    said
}

#[test]
fn a_seed_says_where_viewers_find_it() {
    init();
    let seed = launch(&format!(
        "{SOURCE} ! icdsink name=seed address=127.0.0.1 port=0 announce-address=live.example.org"
    ));
    let sink = seed.by_name("seed").expect("the sink");
    let names = notified(&sink);
    assert_eq!(sink.property::<Option<String>>("uri"), None);
    seed.set_state(gst::State::Paused).expect("PAUSED");
    assert!(told(&names, "port") && told(&names, "uri"));
    let port = sink.property::<u32>("port");
    assert_ne!(port, 0);
    let uri = viewers_uri(&seed);
    assert!(uri.ends_with(&format!("@live.example.org:{port}")), "{uri}");
    let element = messages(&seed, gst::MessageType::Element, "icd-uri");
    assert!(element.iter().any(|m| m.contains(&uri)), "{element:?}");
    seed.set_state(gst::State::Null).expect("NULL");
    // NULL empties the bus.
    seed.set_state(gst::State::Paused).expect("PAUSED");
    let uri = viewers_uri(&seed);
    // gst-launch-1.0 prints the text, and the debug text below it.
    let info = messages(&seed, gst::MessageType::Info, "Viewers join");
    assert!(info[0].matches(&uri).count() == 2, "{info:?}");
    seed.set_state(gst::State::Null).expect("NULL");
}

#[test]
fn the_default_port_is_left_out_and_no_address_is_unspecified() {
    init();
    let seed = launch(&format!("{SOURCE} ! icdsink name=seed"));
    // Somebody else may have it.
    if seed.set_state(gst::State::Paused).is_ok() {
        let uri = viewers_uri(&seed);
        let (_, host) = uri.split_once('@').expect("a key");
        assert!(!host.contains("[::]") && !host.contains("0.0.0.0"), "{uri}");
        assert!(!host.ends_with(":7423"), "{uri}");
    }
    seed.set_state(gst::State::Null).expect("NULL");
}

#[test]
fn a_viewer_tells_how_far_it_is() {
    init();
    let seed = launch(&format!(
        "{SOURCE} ! icdsink name=seed address=127.0.0.1 port=0"
    ));
    seed.set_state(gst::State::Playing).expect("PLAYING");
    let viewer = launch(&format!(
        "icdsrc name=src relay=false uri={}?latency=300 ! fakesink",
        viewers_uri(&seed)
    ));
    let source = viewer.by_name("src").expect("the source");
    assert_eq!(source.property::<u32>("latency"), 300);
    assert_eq!(status(&source), "stopped");
    let names = notified(&source);
    let got = Record::at(&viewer, "src", "src");
    viewer.set_state(gst::State::Playing).expect("PLAYING");
    let progress = messages(&viewer, gst::MessageType::Progress, "Complete");
    assert!(progress[0].starts_with("Start"), "{progress:?}");
    until("the stream comes", || got.len() > 10);
    assert_eq!(status(&source), "running");
    assert!(told(&names, "status"));
    seed.set_state(gst::State::Null).expect("NULL");
    until("the stream is missed", || status(&source) == "starving");
    viewer.set_state(gst::State::Null).expect("NULL");
    assert_eq!(status(&source), "stopped");
}

/// Plain `gst-launch-1.0` prints the debug text of an INFO message, and not the text.
#[test]
fn a_viewer_that_waited_for_the_broadcaster_says_when_the_stream_comes() {
    init();
    let port = gst_icd_suite::free_port();
    let viewer = launch(&format!("icdsrc uri=icd://127.0.0.1:{port} ! fakesink"));
    viewer.set_state(gst::State::Playing).expect("PLAYING");
    let progress = messages(&viewer, gst::MessageType::Progress, "Complete");
    assert!(progress[1].contains("Trying to reach"), "{progress:?}");
    assert!(gst_icd_suite::complaint(&viewer).contains("nobody broadcasts"));
    let seed = launch(&format!("{SOURCE} ! icdsink address=127.0.0.1 port={port}"));
    seed.set_state(gst::State::Playing).expect("PLAYING");
    let info = messages(&viewer, gst::MessageType::Info, "the stream comes");
    let told = "what was wrong: nobody broadcasts at 127.0.0.1";
    assert!(info.iter().any(|i| i.contains(told)), "{info:?}");
    viewer.set_state(gst::State::Null).expect("NULL");
    seed.set_state(gst::State::Null).expect("NULL");
}

#[test]
fn a_uri_tells_of_all_that_it_sets() {
    init();
    let make = |name: &str| gst::ElementFactory::make(name).build().expect(name);
    let source = make("icdsrc");
    let names = notified(&source);
    source.set_property("uri", "icd://127.0.0.1?latency=700&max-peers=3");
    assert!(told(&names, "latency") && told(&names, "max-peers"));
    assert_eq!(source.property::<u32>("max-peers"), 3);
    let sink = make("icdsink");
    let names = notified(&sink);
    sink.set_property("uri", "icd://127.0.0.1:5000?max-buffer-bytes=2000000");
    assert!(told(&names, "port") && told(&names, "max-buffer-bytes"));
    assert_eq!(sink.property::<u64>("max-buffer-bytes"), 2_000_000);
    let set = sink.property::<Option<String>>("uri");
    assert!(
        set.is_some_and(|uri| uri.starts_with("icd://127.0.0.1:5000")),
        "what was set, as long as viewers have none"
    );
}

/// What udpsrc and srtsrc bring has no caps.
#[test]
fn a_stream_without_caps_travels_and_is_found_out_at_the_other_end() {
    init();
    let udp = gst_icd_suite::free_port();
    let seed = launch(&format!(
        "udpsrc address=127.0.0.1 port={udp} ! icdsink name=seed address=127.0.0.1 port=0"
    ));
    seed.set_state(gst::State::Playing).expect("PLAYING");
    let encoder = launch(&format!(
        "videotestsrc is-live=true ! video/x-raw,width=64,height=64,framerate=25/1 ! x264enc tune=zerolatency key-int-max=25 ! mpegtsmux alignment=7 ! udpsink host=127.0.0.1 port={udp}"
    ));
    encoder.set_state(gst::State::Playing).expect("PLAYING");
    let sent = Record::at(&seed, "seed", "sink");
    until("it is sent", || sent.len() > 100);
    let (viewer, got) = playing(&format!(
        "icdsrc name=src uri={} latency=300 ! decodebin ! fakesink name=out sync=true",
        viewers_uri(&seed)
    ));
    let sink = viewer.by_name("out").expect("a sink");
    until("pictures are shown", || {
        let stats = sink.property::<gst::Structure>("stats");
        stats.get::<u64>("rendered").expect("a count") > 10
    });
    // It begins with the tables: a PAT in the first buffer.
    let first = &got.seen()[0].data;
    let table = |p: &[u8]| p[1] & 0x5f == 0x40 && p[2] == 0;
    assert!(first.chunks(188).any(table), "no tables at the start");
    encoder.set_state(gst::State::Null).expect("NULL");
    viewer.set_state(gst::State::Null).expect("NULL");
    seed.set_state(gst::State::Null).expect("NULL");
}
