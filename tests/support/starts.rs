//! How long a viewer waits for its picture, beside one of `tcpserversink`.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use gst::prelude::*;

use crate::{free_port, launch, until, viewers_uri};

/// 4 Mbit/s with a key frame every two seconds, sent in three ways at once.
#[derive(Debug)]
pub struct Broadcast {
    pipeline: gst::Pipeline,
    plain: String,
    transport: String,
    tcp: u16,
}

/// How a viewer comes to the stream, and what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// H.264 by `icdsrc`: the first buffer that a decoder can start with.
    Grid,
    /// The same by `tcpclientsrc`.
    Tcp,
    /// H.264 by `icdsrc`: the first picture at a sink that keeps time.
    GridPicture,
    /// The same by `tcpclientsrc`.
    TcpPicture,
    /// MPEG-TS by `icdsrc`: the first picture, behind `tsdemux`.
    GridTransportPicture,
}

impl Drop for Broadcast {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Broadcast {
    /// Starts, and runs for three key frames.
    pub fn start() -> Self {
        let tcp = free_port();
        let grid = "icdsink address=127.0.0.1 port=0";
        let pipeline = launch(&format!(
            "videotestsrc is-live=true pattern=snow ! video/x-raw,width=320,height=240,framerate=30/1
             ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=4000 key-int-max=60 option-string=scenecut=0
             ! video/x-h264,stream-format=byte-stream,alignment=au ! h264parse config-interval=-1 ! tee name=t
             t. ! queue ! {grid} name=seed
             t. ! queue ! mpegtsmux ! {grid} name=ts
             t. ! queue ! tcpserversink host=127.0.0.1 port={tcp}"
        ));
        pipeline.set_state(gst::State::Playing).expect("PLAYING");
        let ts = pipeline.by_name("ts").expect("the second seed");
        let this = Self {
            plain: viewers_uri(&pipeline),
            transport: ts.property::<Option<String>>("uri").expect("it is started"),
            tcp,
            pipeline,
        };
        until("key frames came by", || {
            this.pipeline.query_position::<gst::ClockTime>() > Some(gst::ClockTime::from_seconds(6))
        });
        this
    }

    fn pipeline(&self, way: Way) -> String {
        let decoded = "! h264parse ! avdec_h264 max-threads=1";
        let grid = format!("icdsrc latency=2000 uri={}", self.plain);
        let tcp = format!(
            "tcpclientsrc host=127.0.0.1 port={} do-timestamp=true ! h264parse",
            self.tcp
        );
        match way {
            Way::Grid => grid,
            Way::Tcp => tcp,
            Way::GridPicture => format!("{grid} {decoded}"),
            Way::TcpPicture => format!("{tcp} {decoded}"),
            Way::GridTransportPicture => {
                format!(
                    "icdsrc latency=2000 uri={} ! tsdemux {decoded}",
                    self.transport
                )
            }
        }
    }

    /// Viewers that come one by one, at all distances from a key frame, and stay. What each
    /// waited, from the call for PLAYING, the shortest first.
    pub fn waits(&self, way: Way, viewers: usize) -> Vec<Duration> {
        /// No divisor of the two seconds between key frames.
        const APART: Duration = Duration::from_millis(130);
        let viewers: Vec<_> = (0..viewers)
            .map(|_| {
                let viewer = Viewer::start(&self.pipeline(way), way);
                std::thread::sleep(APART);
                viewer
            })
            .collect();
        until("every viewer has its picture", || {
            viewers.iter().all(|v| v.waited.get().is_some())
        });
        let mut waits: Vec<_> = viewers
            .iter()
            .filter_map(|v| v.waited.get().copied())
            .collect();
        waits.sort_unstable();
        waits
    }
}

struct Viewer {
    pipeline: gst::Pipeline,
    waited: Arc<OnceLock<Duration>>,
}

impl Viewer {
    fn start(description: &str, way: Way) -> Self {
        let sync = !matches!(way, Way::Grid | Way::Tcp);
        let pipeline = launch(&format!(
            "{description} ! fakesink name=out signal-handoffs=true sync={sync}"
        ));
        let waited = Arc::new(OnceLock::new());
        let first = waited.clone();
        let began = Instant::now();
        let out = pipeline.by_name("out").expect("the sink");
        out.connect("handoff", false, move |values| {
            let buffer = values[1].get::<gst::Buffer>().expect("a buffer");
            // The headers are in the key frame's buffer.
            if sync || !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT) {
                first.get_or_init(|| began.elapsed());
            }
            None
        });
        pipeline.set_state(gst::State::Playing).expect("PLAYING");
        Self { pipeline, waited }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// The wait that this share of the viewers did not exceed (nearest rank).
///
/// # Panics
///
/// Without viewers.
pub fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}
