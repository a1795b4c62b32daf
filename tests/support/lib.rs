//! What the tests of the plugin share: finding it, feeding it, recording what comes out.

pub mod account;
#[cfg(unix)]
pub mod crowd;
#[cfg(target_os = "linux")]
pub mod lab;
/// The simulator's: itself, so that who builds the demo builds no simulator.
#[cfg(target_os = "linux")]
#[path = "../../gst-icd/sim/src/nat.rs"]
pub mod nat;
pub mod ordeal;
#[cfg(target_os = "linux")]
pub mod packet;
pub mod processes;
pub mod results;
pub mod starts;

use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use gst::prelude::*;

/// Generous: machines are slow and noisy.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Starts GStreamer with the plugin that `./icd test` built.
///
/// # Panics
///
/// Without `ICD_PLUGIN`, or if the plugin is not loaded from there; if warnings of GLib and
/// GStreamer would not end it.
pub fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let path = std::env::var("ICD_PLUGIN").expect("run this by ./icd");
        let debug = std::env::var("G_DEBUG").unwrap_or_default();
        assert!(debug.contains("fatal_warnings"), "run this by ./icd");
        gst::init().expect("GStreamer starts");
        let plugin = gst::Plugin::load_file(&path).expect("the plugin loads");
        assert_eq!(plugin.plugin_name(), "icd");
        assert!(gst::ElementFactory::find("icdsink").is_some());
    });
}

/// A buffer as it passed a pad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The bytes.
    pub data: Vec<u8>,
    /// Flags that travel.
    pub flags: gst::BufferFlags,
    /// Presentation time stamp.
    pub pts: Option<gst::ClockTime>,
    /// Decoding time stamp.
    pub dts: Option<gst::ClockTime>,
    /// Duration.
    pub duration: Option<gst::ClockTime>,
    /// Offsets.
    pub offsets: (u64, u64),
}

/// What passed a pad.
#[derive(Debug, Clone, Default)]
pub struct Record(Arc<Mutex<Vec<Seen>>>);

impl Record {
    /// Records at a pad of an element of a pipeline.
    pub fn at(pipeline: &gst::Pipeline, element: &str, pad: &str) -> Self {
        let record = Self::default();
        let seen = record.0.clone();
        let pad = pipeline
            .by_name(element)
            .and_then(|e| e.static_pad(pad))
            .expect("the pad is there");
        let kind = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
        pad.add_probe(kind, move |_, info| {
            let mut seen = seen.lock().expect("no panic elsewhere");
            match &info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => seen.push(Seen::of(buffer)),
                Some(gst::PadProbeData::BufferList(list)) => seen.extend(list.iter().map(Seen::of)),
                _ => {}
            }
            gst::PadProbeReturn::Ok
        });
        record
    }

    /// What passed so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.0.lock().expect("no panic elsewhere").clone()
    }

    /// How many passed so far.
    pub fn len(&self) -> usize {
        self.0.lock().expect("no panic elsewhere").len()
    }

    /// Whether none passed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Seen {
    fn of(buffer: &gst::BufferRef) -> Self {
        let travelling = gst::BufferFlags::DISCONT
            | gst::BufferFlags::DELTA_UNIT
            | gst::BufferFlags::HEADER
            | gst::BufferFlags::MARKER
            | gst::BufferFlags::GAP
            | gst::BufferFlags::DROPPABLE
            | gst::BufferFlags::CORRUPTED;
        Self {
            data: buffer.map_readable().expect("system memory").to_vec(),
            flags: buffer.flags() & travelling,
            pts: buffer.pts(),
            dts: buffer.dts(),
            duration: buffer.duration(),
            offsets: (buffer.offset(), buffer.offset_end()),
        }
    }
}

/// What a pad of an element has as caps.
pub fn caps_of(pipeline: &gst::Pipeline, element: &str, pad: &str) -> gst::Caps {
    let pad = pipeline
        .by_name(element)
        .and_then(|e| e.static_pad(pad))
        .expect("the pad is there");
    pad.current_caps().expect("caps")
}

/// The buffers in the streamheader field of a pad's caps.
pub fn stream_headers(pipeline: &gst::Pipeline, element: &str, pad: &str) -> Vec<Vec<u8>> {
    let caps = caps_of(pipeline, element, pad);
    let structure = caps.structure(0).expect("a structure");
    let Ok(array) = structure.get::<gst::Array>("streamheader") else {
        return Vec::new();
    };
    let buffer = |value: &gst::glib::SendValue| {
        let buffer = value.get::<gst::Buffer>().expect("a buffer");
        buffer.map_readable().expect("system memory").to_vec()
    };
    array.iter().map(buffer).collect()
}

/// A pipeline from a description. It does about latency what `gst-launch-1.0` does.
pub fn launch(description: &str) -> gst::Pipeline {
    let pipeline = gst::parse::launch(description).expect("a pipeline");
    let pipeline: gst::Pipeline = pipeline.downcast().expect("a pipeline");
    let weak = pipeline.downgrade();
    let bus = pipeline.bus().expect("a bus");
    bus.set_sync_handler(move |_, message| {
        if let (gst::MessageView::Latency(_), Some(pipeline)) = (message.view(), weak.upgrade()) {
            pipeline.call_async(|pipeline| {
                let _ = pipeline.recalculate_latency();
            });
        }
        gst::BusSyncReply::Pass
    });
    pipeline
}

/// A pipeline in PLAYING, and what the icdsrc in it that is called `src` gives.
pub fn playing(description: &str) -> (gst::Pipeline, Record) {
    let pipeline = launch(description);
    let got = Record::at(&pipeline, "src", "src");
    pipeline.set_state(gst::State::Playing).expect("PLAYING");
    (pipeline, got)
}

/// A broadcaster's source, for buffers that a test makes.
#[derive(Debug)]
pub struct Feed(gst::Element);

impl Feed {
    /// Its description.
    pub const SOURCE: &str = "appsrc name=app format=time caps=audio/x-raw,format=S16LE,rate=8000,channels=1,layout=interleaved";

    /// The one in this pipeline.
    pub fn of(pipeline: &gst::Pipeline) -> Self {
        Self(pipeline.by_name("app").expect("the source"))
    }

    /// The n-th buffer: 20 ms of sound.
    pub fn push(&self, n: u64, flags: gst::BufferFlags) {
        let mut buffer = gst::Buffer::from_slice([n as u8; 320]);
        let fields = buffer.make_mut();
        fields.set_pts(gst::ClockTime::from_mseconds(20 * n));
        fields.set_duration(gst::ClockTime::from_mseconds(20));
        fields.set_flags(flags);
        let pushed = self
            .0
            .emit_by_name::<gst::FlowReturn>("push-buffer", &[&buffer]);
        assert_eq!(pushed, gst::FlowReturn::Ok);
    }

    /// No more of them.
    pub fn end(&self) {
        let ended = self.0.emit_by_name::<gst::FlowReturn>("end-of-stream", &[]);
        assert_eq!(ended, gst::FlowReturn::Ok);
    }
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A UDP port of loopback that is free now.
pub fn free_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0")
        .and_then(|s| s.local_addr())
        .expect("a free port")
        .port()
}

/// The URI of the icdsink called `seed`, at loopback.
pub fn viewers_uri(pipeline: &gst::Pipeline) -> String {
    let seed = pipeline.by_name("seed").expect("an element called seed");
    seed.property::<Option<String>>("uri")
        .expect("it is started")
}

/// The next error or warning on the bus, as its text.
pub fn complaint(pipeline: &gst::Pipeline) -> String {
    let bus = pipeline.bus().expect("a bus");
    let kinds = [gst::MessageType::Error, gst::MessageType::Warning];
    let timeout = gst::ClockTime::from_seconds(DEADLINE.as_secs());
    let message = bus
        .timed_pop_filtered(timeout, &kinds)
        .expect("an error or a warning");
    match message.view() {
        gst::MessageView::Error(e) => e.error().to_string(),
        gst::MessageView::Warning(w) => w.error().to_string(),
        _ => unreachable!("filtered"),
    }
}

/// Waits for the end; an error is a failure.
pub fn end_of(pipeline: &gst::Pipeline) {
    let bus = pipeline.bus().expect("a bus");
    let kinds = [gst::MessageType::Error, gst::MessageType::Eos];
    let timeout = gst::ClockTime::from_seconds(DEADLINE.as_secs());
    let message = bus
        .timed_pop_filtered(timeout, &kinds)
        .expect("the end or an error");
    if let gst::MessageView::Error(e) = message.view() {
        panic!("{} {:?}", e.error(), e.debug());
    }
}

/// Compares what came out with what went in: from some buffer on the same buffers, with time
/// stamps equal up to one constant. The number of that buffer.
///
/// # Panics
///
/// At the first difference.
pub fn assert_same(sent: &[Seen], got: &[Seen]) -> usize {
    let first = got[0].pts.or(got[0].dts);
    let from = sent
        .iter()
        .position(|s| {
            s.data == got[0].data && (s.pts.is_some() || s.dts.is_some()) == first.is_some()
        })
        .expect("the first buffer was sent");
    let shift = |a: Option<gst::ClockTime>, b: Option<gst::ClockTime>| {
        Some(a?.nseconds() as i64 - b?.nseconds() as i64)
    };
    let mut constant = None;
    for (n, (s, g)) in sent[from..].iter().zip(got).enumerate() {
        assert!(s.data == g.data, "bytes of buffer {n}");
        let ignored = match n {
            0 => gst::BufferFlags::DISCONT,
            _ => gst::BufferFlags::empty(),
        };
        assert_eq!(s.flags - ignored, g.flags - ignored, "flags of buffer {n}");
        assert_eq!(s.duration, g.duration, "duration of buffer {n}");
        assert_eq!(s.offsets, g.offsets, "offsets of buffer {n}");
        assert_eq!(s.pts.is_some(), g.pts.is_some(), "PTS of buffer {n}");
        assert_eq!(s.dts.is_some(), g.dts.is_some(), "DTS of buffer {n}");
        for found in [shift(g.pts, s.pts), shift(g.dts, s.dts)]
            .into_iter()
            .flatten()
        {
            assert_eq!(found, *constant.get_or_insert(found), "time of buffer {n}");
        }
    }
    assert_eq!(sent.len() - from, got.len(), "as many as were sent");
    from
}
