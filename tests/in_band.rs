//! What travels beside the buffers, in its place among them; and who joins in the middle.

use std::sync::{Arc, Mutex};

use gst::prelude::*;
use gst_icd_suite::{
    Feed, Record, Seen, assert_same, end_of, init, launch, playing, until, viewers_uri,
};

/// What passed a pad, of the kinds that travel.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Passed {
    Buffer(Vec<u8>),
    Caps(String),
    Tags(String),
    /// Its duration.
    Gap(Option<gst::ClockTime>),
    /// Where a gap lies against the buffer that came last.
    Since(i64),
    Custom(String),
    Sticky(String),
}

impl Passed {
    fn of(event: &gst::EventRef) -> Option<Self> {
        let structure = || event.structure().map(|s| s.to_string());
        Some(match event.view() {
            gst::EventView::Caps(caps) => Self::Caps(caps.caps().to_string()),
            gst::EventView::Tag(tag) => {
                Self::Tags(format!("{:?} {}", tag.tag().scope(), tag.tag()))
            }
            gst::EventView::Gap(gap) => Self::Gap(gap.get().1),
            gst::EventView::CustomDownstream(_) => Self::Custom(structure()?),
            gst::EventView::CustomDownstreamSticky(_) => Self::Sticky(structure()?),
            _ => return None,
        })
    }

    fn is_buffer(&self) -> bool {
        matches!(self, Self::Buffer(_))
    }
}

fn record(pad: &gst::Pad) -> Arc<Mutex<Vec<Passed>>> {
    let record: Arc<Mutex<Vec<Passed>>> = Arc::default();
    let list = record.clone();
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
    let last = Mutex::new(None);
    pad.add_probe(kinds, move |_, info| {
        let mut last = last.lock().expect("no panic elsewhere");
        let mut passed = Vec::new();
        match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                let data = buffer.map_readable().expect("system memory").to_vec();
                passed.push(Passed::Buffer(data));
                *last = buffer.pts();
            }
            Some(gst::PadProbeData::Event(event)) => {
                if let (gst::EventView::Gap(gap), Some(last)) = (event.view(), *last) {
                    let since = gap.get().0.nseconds() as i64 - last.nseconds() as i64;
                    passed.push(Passed::Since(since));
                }
                passed.extend(Passed::of(event));
            }
            _ => {}
        }
        list.lock().expect("no panic elsewhere").extend(passed);
        gst::PadProbeReturn::Ok
    });
    record
}

fn pad(pipeline: &gst::Pipeline, element: &str, name: &str) -> gst::Pad {
    let element = pipeline.by_name(element).expect("the element");
    element.static_pad(name).expect("the pad")
}

/// What is pushed before the n-th buffer.
fn extra(n: u32, caps: Option<gst::Caps>, at: Option<gst::ClockTime>) -> Vec<gst::Event> {
    let structure = |name: &str| {
        gst::Structure::builder(name)
            .field("number", n)
            .field("text", "with \"quotes\" and \u{fc}ml\u{e4}ut")
            .build()
    };
    let tags = |scope, title: &str| {
        let mut list = gst::TagList::new();
        let tags = list.make_mut();
        tags.set_scope(scope);
        tags.add::<gst::tags::Title>(&title, gst::TagMergeMode::Replace);
        gst::event::Tag::new(list)
    };
    let changed = |par: i32| {
        let mut caps = caps.clone().expect("there are caps");
        caps.make_mut()
            .set("pixel-aspect-ratio", gst::Fraction::new(par, 1));
        gst::event::Caps::new(&caps)
    };
    match n {
        // As long as the format of the stream is not known yet.
        3 => vec![changed(5), tags(gst::TagScope::Stream, "the first moments")],
        20 => vec![
            tags(gst::TagScope::Stream, "the stream"),
            tags(gst::TagScope::Global, "the film"),
        ],
        30 => vec![gst::event::CustomDownstream::new(structure("icd-test"))],
        31 => vec![gst::event::CustomDownstream::new(structure("icd-test"))],
        40 => vec![changed(2)],
        50 => vec![
            gst::event::Gap::builder(at.expect("a time"))
                .duration(gst::ClockTime::from_mseconds(5))
                .build(),
        ],
        60 => vec![gst::event::CustomDownstreamSticky::new(structure(
            "icd-sticky",
        ))],
        70 => vec![changed(3), tags(gst::TagScope::Stream, "another title")],
        75 => vec![gst::event::CustomDownstreamSticky::new(structure(
            "icd-sticky",
        ))],
        _ => Vec::new(),
    }
}

#[test]
fn caps_tags_gaps_and_custom_events_come_in_their_place() {
    init();
    let seed = launch(
        "videotestsrc is-live=true pattern=ball num-buffers=90 ! video/x-raw,format=GRAY8,width=32,height=32,framerate=25/1,pixel-aspect-ratio=1/1 ! identity name=in ! icdsink name=seed address=127.0.0.1 port=0",
    );
    seed.set_state(gst::State::Ready).expect("READY");
    let sent = record(&pad(&seed, "seed", "sink"));
    let count = Mutex::new(0);
    pad(&seed, "in", "src").add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let mut count = count.lock().expect("no panic elsewhere");
        *count += 1;
        let at = match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => buffer.pts(),
            _ => None,
        };
        for event in extra(*count, pad.current_caps(), at) {
            pad.push_event(event);
        }
        gst::PadProbeReturn::Ok
    });
    seed.set_state(gst::State::Paused).expect("PAUSED");
    let viewer = launch(&format!(
        "icdsrc name=src uri={} latency=500 ! fakesink",
        viewers_uri(&seed)
    ));
    let got = record(&pad(&viewer, "src", "src"));
    viewer.set_state(gst::State::Playing).expect("PLAYING");
    let sink = seed.by_name("seed").expect("the seed");
    until("the viewer is admitted", || {
        sink.property::<u32>("num-viewers") == 1
    });
    seed.set_state(gst::State::Playing).expect("PLAYING");
    end_of(&viewer);
    viewer.set_state(gst::State::Null).expect("NULL");
    seed.set_state(gst::State::Null).expect("NULL");
    let all = |record: Arc<Mutex<Vec<Passed>>>| record.lock().expect("no panic").clone();
    let (sent, got) = (all(sent), all(got));
    assert!(sent.iter().filter(|p| p.is_buffer()).count() == 90);
    // Several between the same two buffers may change places: caps come before tags.
    let (sent, got) = (between(&sent), between(&got));
    let differs = sent.iter().zip(&got).position(|(s, g)| s != g);
    let around = differs.map(|n| (n, &sent[n].0, &got[n].0));
    assert!(around.is_none() && sent.len() == got.len(), "{around:?}");
}

#[test]
fn every_flag_that_travels_does() {
    init();
    let seed = launch(&format!(
        "{} ! icdsink name=seed address=127.0.0.1 port=0",
        Feed::SOURCE
    ));
    let sent = Record::at(&seed, "seed", "sink");
    seed.set_state(gst::State::Playing).expect("PLAYING");
    let (viewer, got) = playing(&format!(
        "icdsrc name=src latency=300 uri={} ! fakesink",
        viewers_uri(&seed)
    ));
    let feed = Feed::of(&seed);
    let flags = [
        gst::BufferFlags::empty(),
        gst::BufferFlags::DELTA_UNIT,
        gst::BufferFlags::MARKER | gst::BufferFlags::DROPPABLE,
        gst::BufferFlags::CORRUPTED | gst::BufferFlags::DELTA_UNIT,
        gst::BufferFlags::GAP,
        gst::BufferFlags::HEADER | gst::BufferFlags::DISCONT,
    ];
    // Fewer than reach to the next join point: a slow machine would begin another timeline there.
    for n in 0..20_u64 {
        feed.push(n, flags[n as usize % flags.len()]);
    }
    feed.end();
    end_of(&viewer);
    assert_same(&sent.seen(), &got.seen());
    let last = got.seen();
    let there = |flag| last.iter().any(|seen| seen.flags.contains(flag));
    assert!(flags[1..].iter().all(|flag| there(*flag)), "{last:?}");
    viewer.set_state(gst::State::Null).expect("NULL");
    seed.set_state(gst::State::Null).expect("NULL");
}

/// For each buffer, what came since the one before.
fn between(passed: &[Passed]) -> Vec<(Vec<String>, &Passed)> {
    let mut all = Vec::new();
    let mut events = Vec::new();
    for passed in passed {
        if passed.is_buffer() {
            events.sort_unstable();
            all.push((std::mem::take(&mut events), passed));
        } else {
            events.push(format!("{passed:?}"));
        }
    }
    all
}

/// From the middle of the stream on, and of a group of pictures that is older than the play-out
/// delay: even what is overdue has its time.
#[test]
fn who_joins_in_the_middle_gets_everything_from_a_key_frame_on() {
    init();
    let x264 = "x264enc tune=zerolatency key-int-max=50";
    let video = |media: &str| {
        format!(
            "videotestsrc is-live=true num-buffers=220 ! video/x-raw,width=64,height=64,framerate=25/1 ! {media}"
        )
    };
    // 8.8 s, too.
    let audio = |media: &str| {
        format!(
            "audiotestsrc wave=white-noise is-live=true num-buffers=440 samplesperbuffer=960 ! audio/x-raw,rate=48000,channels=2 ! {media}"
        )
    };
    let streams = [
        (video(&format!("{x264} ! h264parse")), 200),
        (
            video(&format!(
                "{x264} ! h264parse ! video/x-h264,stream-format=avc"
            )),
            200,
        ),
        (video("x264enc bframes=2 key-int-max=50 ! h264parse"), 300),
        (video("vp8enc deadline=1 keyframe-max-dist=50"), 200),
        (video("jpegenc"), 200),
        (video("identity"), 200),
        (video(&format!("{x264} ! mpegtsmux")), 200),
        (video(&format!("{x264} ! mpegtsmux alignment=7")), 200),
        (
            video(&format!("{x264} ! h264parse ! matroskamux streamable=true")),
            200,
        ),
        (audio("opusenc"), 200),
        (audio("lamemp3enc ! mpegaudioparse"), 200),
        (audio("identity"), 200),
    ];
    let seeds = streams.map(|(media, latency)| {
        let seed = launch(&format!(
            "{media} ! icdsink name=seed address=127.0.0.1 port=0"
        ));
        let sent = Record::at(&seed, "seed", "sink");
        seed.set_state(gst::State::Playing).expect("PLAYING");
        (media, latency, seed, sent)
    });
    let viewers = seeds.map(|(media, latency, seed, sent)| {
        until("three groups of pictures", || {
            seed.query_position::<gst::ClockTime>() > Some(gst::ClockTime::from_mseconds(6600))
        });
        let (viewer, got) = playing(&format!(
            "icdsrc name=src uri={} latency={latency} ! fakesink",
            viewers_uri(&seed)
        ));
        (media, seed, sent, viewer, got)
    });
    for (media, seed, sent, viewer, got) in viewers {
        end_of(&viewer);
        let headers = gst_icd_suite::stream_headers(&seed, "seed", "sink");
        let _ = viewer.set_state(gst::State::Null);
        let _ = seed.set_state(gst::State::Null);
        let (sent, mut got) = (sent.seen(), got.seen());
        assert!(got.len() > headers.len(), "{media}: nothing but headers");
        let first: Vec<_> = got.drain(..headers.len()).map(|b| b.data).collect();
        assert_eq!(
            first, headers,
            "{media}: the headers of the caps come first"
        );
        println!("{media}: {} sent, {} received", sent.len(), got.len());
        assert!(got.len() < sent.len(), "it was there from the start");
        // Demuxers with a timeline of their own ignore time stamps, and begin at zero: what is
        // overdue there has none.
        let overdue = match media.contains("matroskamux") {
            true => got.iter().take_while(|b| b.pts.is_none()).count(),
            false => 0,
        };
        // Both have the end.
        let sent = &sent[sent.len() - got.len()..];
        assert_eq!(
            gst_icd_suite::assert_same(&sent[overdue..], &got[overdue..]),
            0
        );
        let bytes = |list: &[Seen]| list.iter().map(|b| b.data.clone()).collect::<Vec<_>>();
        assert_eq!(bytes(&sent[..overdue]), bytes(&got[..overdue]));
        let key = match media.contains("mpegtsmux") {
            // ISO/IEC 13818-1: an adaptation field, and in it the indicator.
            true => got[0]
                .data
                .chunks(188)
                .any(|p| p[3] & 0x20 != 0 && p[4] > 0 && p[5] & 0x40 != 0),
            false => !got[0].flags.contains(gst::BufferFlags::DELTA_UNIT),
        };
        assert!(key, "{media}: no key frame");
    }
}

/// After a seek or an edit list a decoder needs what lies before the segment.
#[test]
fn what_lies_before_the_segment_travels() {
    init();
    let seed = launch(
        "videotestsrc is-live=true num-buffers=75 ! video/x-raw,width=64,height=64,framerate=25/1 ! vp8enc deadline=1 keyframe-max-dist=25 ! icdsink name=seed address=127.0.0.1 port=0",
    );
    let sent = Record::at(&seed, "seed", "sink");
    let later = |_: &gst::Pad, info: &mut gst::PadProbeInfo<'_>| {
        if let Some(gst::PadProbeData::Event(event)) = &mut info.data
            && let gst::EventView::Segment(segment) = event.view()
        {
            let mut segment = segment.segment().clone();
            let start = gst::ClockTime::from_mseconds(500);
            let time = segment.downcast_mut::<gst::ClockTime>().expect("of time");
            time.set_start(start);
            *event = gst::event::Segment::new(&segment);
        }
        gst::PadProbeReturn::Ok
    };
    pad(&seed, "seed", "sink").add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, later);
    seed.set_state(gst::State::Paused).expect("PAUSED");
    let (viewer, got) = playing(&format!(
        "icdsrc name=src uri={} ! fakesink",
        viewers_uri(&seed)
    ));
    let sink = seed.by_name("seed").expect("the seed");
    until("the viewer is admitted", || {
        sink.property::<u32>("num-viewers") == 1
    });
    seed.set_state(gst::State::Playing).expect("PLAYING");
    end_of(&viewer);
    let headers = gst_icd_suite::stream_headers(&seed, "seed", "sink");
    let _ = viewer.set_state(gst::State::Null);
    let _ = seed.set_state(gst::State::Null);
    let got = got.seen().split_off(headers.len());
    assert_eq!((sent.len(), got.len()), (75, 75));
    gst_icd_suite::assert_same(&sent.seen(), &got);
}
