//! GObject to grid: settings, life cycle, what goes downstream and to the application.

use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_src::CreateSuccess;
use gst_base::subclass::prelude::*;
use icd_grid::{Input, Media};
use icd_net::{Snapshot, ViewerHandle, runtime, start_viewer};

use super::IcdSrcStatus;
use super::downstream::downstream;
use super::losses::Losses;
use super::properties::properties;
use super::settings::{PARAMETERS, Settings};
use crate::addresses::SHOW_ADDRESSES;
use crate::application::{Faults, listen, lock, not_started};
use crate::media::timeline::Moment;
use crate::media::unpack::{Out, Unpacker};

pub(super) static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "icdsrc",
        gst::DebugColorFlags::empty(),
        Some("views and relays an icd grid"),
    )
});

#[derive(Debug)]
pub(super) struct Started {
    pub(super) viewer: ViewerHandle,
    /// Gone with this run of the element, whose events must not speak in the next.
    _run: Arc<()>,
    pub(super) status: IcdSrcStatus,
    /// When the stream last came, for `timeout`; none once that was reported.
    pub(super) alive: Option<Instant>,
    pub(super) progress_done: bool,
    pub(super) began: Instant,
    /// What was last warned of, until the stream comes again.
    pub(super) told: Option<String>,
    pub(super) losses: Losses,
    /// The broadcaster's stream was not understood, and that was said.
    pub(super) not_understood: bool,
}

/// How long an application may take to ask for the latency that it was told of: what follows is due
/// much later.
const MOMENT: Duration = Duration::from_millis(50);

/// Lock order: `settings`, then `state`, then `unpacker`; none is held over a call into
/// GStreamer that can call back.
#[derive(Debug)]
pub struct IcdSrc {
    pub(super) settings: Mutex<Settings>,
    pub(super) state: Mutex<Option<Started>>,
    /// Of the streaming thread, but for the LATENCY query.
    unpacker: Mutex<Unpacker>,
    flushing: tokio::sync::watch::Sender<bool>,
    pub(super) faults: Mutex<Faults>,
}

impl Default for IcdSrc {
    fn default() -> Self {
        Self {
            settings: Mutex::default(),
            state: Mutex::default(),
            unpacker: Mutex::default(),
            flushing: tokio::sync::watch::channel(false).0,
            faults: Mutex::default(),
        }
    }
}

impl IcdSrc {
    fn started(&self) -> bool {
        lock(&self.state).is_some()
    }

    /// A setting changed while it plays.
    fn tell_viewer(&self, input: Input) {
        if let Some(started) = lock(&self.state).as_ref() {
            started.viewer.offer(input);
        }
    }

    fn snapshot(&self) -> Snapshot {
        lock(&self.state)
            .as_ref()
            .map(|s| s.viewer.snapshot())
            .unwrap_or_default()
    }

    fn status_now(&self) -> IcdSrcStatus {
        lock(&self.state)
            .as_ref()
            .map_or(IcdSrcStatus::Stopped, |s| s.status)
    }

    /// The pipeline's running time, with the instant of the system's clock that belongs to it.
    fn running_now(&self) -> Option<Moment> {
        let obj = self.obj();
        let clock = obj.clock()?;
        let base = obj.base_time()?;
        // Of a few readings the quickest: nothing came between the two clocks.
        (0..5)
            .map(|_| {
                let before = Instant::now();
                let time = clock.time();
                let took = before.elapsed();
                (took, time, before + took / 2)
            })
            .min_by_key(|(took, ..)| *took)
            .map(|(_, time, at)| Moment {
                running: time.nseconds() as i64 - base.nseconds() as i64,
                at,
            })
    }

    /// Waits for the grid, or for `unlock()`.
    fn next_media(&self) -> Result<Media, gst::FlowError> {
        let media = match lock(&self.state).as_ref() {
            Some(started) => started.viewer.media(),
            None => return Err(gst::FlowError::Flushing),
        };
        self.unless_flushing(async { media.recv().await.map_err(|_| gst::FlowError::Error) })
        .inspect_err(|flow| {
            if *flow == gst::FlowError::Error {
                gst::element_imp_error!(
                    self,
                    gst::ResourceError::Failed,
                    ("the grid has stopped inside; restart the pipeline, and report what GST_DEBUG=icdsrc:6 says")
                );
            }
        })
    }

    /// Waits until the running time is that much, a play-out delay at most, or for `unlock()`.
    fn wait_until(&self, running: Option<i64>) -> Result<(), gst::FlowError> {
        let (Some(at), Some(now)) = (running, self.running_now()) else {
            return Ok(());
        };
        let left = u64::try_from(at.saturating_sub(now.running)).unwrap_or(0);
        let left = Duration::from_nanos(left).min(lock(&self.settings).latency);
        self.unless_flushing(async {
            tokio::time::sleep(left).await;
            Ok(())
        })
    }

    /// Waits for something in the streaming thread, or for `unlock()`.
    fn unless_flushing<T>(
        &self,
        what: impl Future<Output = Result<T, gst::FlowError>>,
    ) -> Result<T, gst::FlowError> {
        let mut flushing = self.flushing.subscribe();
        let runtime = runtime().map_err(|_| gst::FlowError::Error)?;
        runtime.block_on(async {
            tokio::select! {
                biased;
                _ = flushing.wait_for(|flushing| *flushing) => Err(gst::FlowError::Flushing),
                got = what => got,
            }
        })
    }

    /// Leaves out what came during a pause. The grid's first pieces have no past to leave out.
    fn resume(&self) {
        let media = match lock(&self.state).as_ref() {
            Some(started) => started.viewer.media(),
            None => return,
        };
        if !lock(&self.unpacker).resume() {
            return;
        }
        // Caps and the end hold on.
        while let Ok(item) = media.try_recv() {
            if !matches!(item, Media::Payload { .. }) {
                lock(&self.unpacker).take(item, None);
            }
        }
        if let Some(started) = lock(&self.state).as_ref() {
            started.viewer.offer(Input::Live);
        }
    }

    /// A URI sets other properties, too.
    fn notify_settings(&self) {
        let obj = self.obj();
        for name in std::iter::once("uri").chain(PARAMETERS) {
            obj.notify(name);
        }
    }
}

#[glib::object_subclass]
impl ObjectSubclass for IcdSrc {
    const NAME: &'static str = "GstIcdSrc";
    type Type = super::IcdSrc;
    type ParentType = gst_base::PushSrc;
    type Interfaces = (gst::URIHandler,);
}

impl ObjectImpl for IcdSrc {
    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        obj.set_live(true);
        obj.set_format(gst::Format::Time);
        obj.set_do_timestamp(false);
        obj.set_element_flags(gst::ElementFlags::REQUIRE_CLOCK);
    }

    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(properties);
        PROPERTIES.as_ref()
    }

    fn set_property(&self, _: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let name = pspec.name();
        let number = || value.get::<u32>().expect("type checked upstream");
        let text = || {
            value
                .get::<Option<String>>()
                .expect("type checked upstream")
        };
        match name {
            "max-upload-bitrate" => {
                let mut settings = lock(&self.settings);
                settings.max_upload = value.get().expect("type checked upstream");
                let upload = settings.upload();
                drop(settings);
                self.tell_viewer(Input::Upload(upload));
                return;
            }
            "max-upload-volume" => {
                let mut settings = lock(&self.settings);
                settings.max_volume = value.get().expect("type checked upstream");
                let volume = settings.volume();
                drop(settings);
                self.tell_viewer(Input::Volume(volume));
                return;
            }
            SHOW_ADDRESSES => {
                lock(&self.settings).show_addresses = value.get().expect("type checked upstream");
                return;
            }
            "timeout" => {
                lock(&self.settings).timeout = Duration::from_millis(u64::from(number()));
                return;
            }
            _ => {}
        }
        if self.started() {
            gst::element_imp_warning!(
                self,
                gst::ResourceError::Settings,
                ("{name} is changeable in NULL or READY state only; the old value stays")
            );
            return;
        }
        let mut settings = lock(&self.settings);
        match name {
            "uri" => {
                let result = match text() {
                    Some(uri) => settings.apply(&uri),
                    None => {
                        settings.uri = None;
                        Ok(())
                    }
                };
                // Nobody may be listening yet: it is said again, as an error, at the start.
                settings.wrong = result.err();
                let why = settings.wrong.clone();
                drop(settings);
                match why {
                    Some(why) => {
                        gst::element_imp_warning!(self, gst::ResourceError::Settings, ("{why}"));
                    }
                    None => self.notify_settings(),
                }
            }
            "latency" => settings.latency = Duration::from_millis(u64::from(number())),
            "seed-only" => settings.seed_only = value.get().expect("type checked upstream"),
            "access-token" => settings.access.set(text()),
            "token-file" => settings.access.file = text().map(Into::into),
            "relay" => settings.relay = value.get().expect("type checked upstream"),
            "max-peers" => settings.max_peers = number(),
            "bind-address" => settings.bind_address = text().unwrap_or_default(),
            "bind-port" => settings.bind_port = number() as u16,
            _ => unimplemented!(),
        }
    }

    fn property(&self, _: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "status" => self.status_now().to_value(),
            "stats" => {
                let name = lock(&self.unpacker).stream_name().to_string();
                let id = lock(&self.state).as_ref().map(|s| s.viewer.id().whole());
                let status = self.status_now().nick();
                let addresses = lock(&self.settings).show_addresses;
                crate::stats::src(&self.snapshot(), id, &status, &name, addresses).to_value()
            }
            name => {
                let s = lock(&self.settings);
                match name {
                    "uri" => s.uri.as_ref().map(|(text, _)| text.clone()).to_value(),
                    "latency" => (s.latency.as_millis() as u32).to_value(),
                    "seed-only" => s.seed_only.to_value(),
                    SHOW_ADDRESSES => s.show_addresses.to_value(),
                    "token-file" => s.access.file_name().to_value(),
                    "relay" => s.relay.to_value(),
                    "max-upload-bitrate" => s.max_upload.to_value(),
                    "max-upload-volume" => s.max_volume.to_value(),
                    "max-peers" => s.max_peers.to_value(),
                    "bind-address" => s.bind_address.to_value(),
                    "bind-port" => u32::from(s.bind_port).to_value(),
                    "timeout" => (s.timeout.as_millis() as u32).to_value(),
                    _ => unimplemented!(),
                }
            }
        }
    }
}

impl GstObjectImpl for IcdSrc {}

impl ElementImpl for IcdSrc {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "ICD grid source",
                "Source/Network",
                "Plays a stream from a grid of viewers and relays it to others",
                "The gst-icd developers",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            gst::PadTemplate::new(
                "src",
                gst::PadDirection::Src,
                gst::PadPresence::Always,
                &gst::Caps::new_any(),
            )
            .into_iter()
            .collect()
        });
        TEMPLATES.as_ref()
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        // The streaming thread is let go in the parent's part; a create() that was under way when
        // the pause began may still end, with a buffer of the past.
        if transition == gst::StateChange::PausedToPlaying {
            self.resume();
        }
        self.parent_change_state(transition)
    }
}

impl BaseSrcImpl for IcdSrc {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = lock(&self.settings).clone();
        let config = settings
            .config()
            .map_err(|why| gst::error_msg!(gst::ResourceError::Settings, ("{why}")))?;
        let (viewer, events) = start_viewer(config).map_err(|e| {
            let why = not_started(&e, "bind-address, bind-port");
            gst::error_msg!(gst::ResourceError::OpenRead, ("{why}"))
        })?;
        let run = Arc::new(());
        let now = Instant::now();
        let weak = self.obj().downgrade();
        let weak_run = Arc::downgrade(&run);
        *lock(&self.unpacker) = Unpacker::new(settings.latency);
        *lock(&self.state) = Some(Started {
            viewer,
            _run: run,
            status: IcdSrcStatus::Connecting,
            alive: Some(now),
            progress_done: false,
            began: now,
            told: None,
            losses: Losses::new(now),
            not_understood: false,
        });
        self.obj().notify("status");
        self.progress(gst::ProgressType::Start, "Connecting to the grid");
        listen("icdsrc", events, move |event| {
            let Some(obj) = weak.upgrade().filter(|_| weak_run.strong_count() > 0) else {
                return glib::ControlFlow::Break;
            };
            match event {
                Some(event) => obj.imp().happened(event),
                None => obj.imp().look_around(),
            }
            glib::ControlFlow::Continue
        })
        .map_err(|e| {
            lock(&self.state).take();
            gst::error_msg!(gst::ResourceError::OpenRead, ("no thread to be had: {e}"))
        })?;
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        let started = lock(&self.state).take();
        let pending = started.as_ref().is_some_and(|s| !s.progress_done);
        if pending {
            self.progress(gst::ProgressType::Canceled, "Stopped");
        }
        // Outside the lock: it waits for the port to be free, shortly.
        drop(started);
        *lock(&self.unpacker) = Unpacker::default();
        self.obj().notify("status");
        Ok(())
    }

    fn is_seekable(&self) -> bool {
        false
    }

    fn negotiate(&self) -> Result<(), gst::LoggableError> {
        // The caps are the stream's and come with it.
        Ok(())
    }

    fn query(&self, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Latency(latency) => {
                latency.set(true, lock(&self.unpacker).reported(), gst::ClockTime::NONE);
                true
            }
            gst::QueryViewMut::Scheduling(scheduling) => {
                scheduling.set(gst::SchedulingFlags::SEQUENTIAL, 1, -1, 0);
                scheduling.add_scheduling_modes([gst::PadMode::Push]);
                true
            }
            _ => BaseSrcImplExt::parent_query(self, query),
        }
    }

    fn unlock(&self) -> Result<(), gst::ErrorMessage> {
        self.flushing.send_replace(true);
        Ok(())
    }

    fn unlock_stop(&self) -> Result<(), gst::ErrorMessage> {
        self.flushing.send_replace(false);
        Ok(())
    }
}

impl PushSrcImpl for IcdSrc {
    fn create(&self, _: Option<&mut gst::BufferRef>) -> Result<CreateSuccess, gst::FlowError> {
        let obj = self.obj();
        loop {
            let out = lock(&self.unpacker).poll();
            let Some(out) = out else {
                let media = self.next_media()?;
                let here = self.running_now();
                if here.is_none() && obj.current_state() == gst::State::Playing {
                    gst::element_imp_error!(
                        self,
                        gst::CoreError::Clock,
                        ("the pipeline has no clock, and nothing can be played in time without one: do not set it to none")
                    );
                    return Err(gst::FlowError::Error);
                }
                // The lock is not held while the pipeline is looked at.
                let asks = lock(&self.unpacker).asks_downstream(obj.base_time());
                let downstream = asks.then(|| downstream(obj.src_pad()));
                let understood = {
                    let mut unpacker = lock(&self.unpacker);
                    if let Some(downstream) = downstream {
                        unpacker.downstream(downstream);
                    }
                    unpacker.take(media, here)
                };
                if !understood {
                    self.not_understood();
                }
                continue;
            };
            match out {
                Out::Caps(caps) => {
                    gst::info!(CAT, imp = self, "caps {caps}");
                    if obj.set_caps(&caps).is_err() {
                        if *self.flushing.borrow() {
                            lock(&self.unpacker).put_back(Out::Caps(caps));
                            return Err(gst::FlowError::Flushing);
                        }
                        return Err(gst::FlowError::NotNegotiated);
                    }
                }
                Out::Flush(at) => {
                    if let Err(flow) = self.wait_until(at) {
                        lock(&self.unpacker).put_back(Out::Flush(at));
                        return Err(flow);
                    }
                    // The running time goes on.
                    let pad = obj.src_pad();
                    gst::info!(CAT, imp = self, "what waits downstream is thrown away");
                    pad.push_event(gst::event::FlushStart::new());
                    pad.push_event(gst::event::FlushStop::new(false));
                }
                Out::Segment(start) => {
                    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
                    segment.set_start(start);
                    if let Err(error) = obj.new_segment(segment.upcast_ref()) {
                        gst::warning!(CAT, imp = self, "{error}");
                    }
                }
                Out::Event(event) => {
                    let pushed = obj.src_pad().push_event(event.clone());
                    if !pushed && *self.flushing.borrow() {
                        lock(&self.unpacker).put_back(Out::Event(event));
                        return Err(gst::FlowError::Flushing);
                    }
                }
                Out::Latency => {
                    let _ = obj.post_message(gst::message::Latency::builder().src(&*obj).build());
                }
                Out::Moment => self.unless_flushing(async {
                    tokio::time::sleep(MOMENT).await;
                    Ok(())
                })?,
                Out::Stuck(caps, why) => {
                    let name = caps
                        .structure(0)
                        .map(|s| s.name().to_string())
                        .unwrap_or_default();
                    gst::element_imp_warning!(
                        self,
                        gst::StreamError::Demux,
                        ("{why}, and demuxers of {name} keep the old timeline: pictures may come late. mpegtsmux is the container that follows")
                    );
                }
                Out::Eos => return Err(gst::FlowError::Eos),
                Out::Buffer(buffer) => return Ok(CreateSuccess::NewBuffer(buffer)),
            }
        }
    }
}

impl URIHandlerImpl for IcdSrc {
    const URI_TYPE: gst::URIType = gst::URIType::Src;

    fn protocols() -> &'static [&'static str] {
        &["icd"]
    }

    fn uri(&self) -> Option<String> {
        lock(&self.settings)
            .uri
            .as_ref()
            .map(|(text, _)| text.clone())
    }

    fn set_uri(&self, uri: &str) -> Result<(), glib::Error> {
        if self.started() {
            return Err(glib::Error::new(
                gst::URIError::BadState,
                "the URI is changeable in NULL or READY state only",
            ));
        }
        lock(&self.settings)
            .apply(uri)
            .map_err(|why| glib::Error::new(gst::URIError::BadUri, &why))?;
        self.notify_settings();
        Ok(())
    }
}
