//! GObject to grid: settings, life cycle, what goes to the application.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::time::{Duration, Instant};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use icd_grid::{Epoch, Input, MediaState, NodeId, Policy, SeedSettings, StreamKey};
use icd_net::{Key, SeedConfig, SeedHandle, start_seed};

use super::preroll::preroll;
use super::properties::{properties, signals};
use super::settings::{PARAMETERS, Settings};
use crate::addresses::SHOW_ADDRESSES;
use crate::application::{Faults, listen, lock, not_started};
use crate::media::caps;
use crate::media::item::MAX_ITEM_BYTES;
use crate::media::pack::{Packed, Packer, running};
use crate::uri::{IcdUri, host_alone};

pub(super) static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "icdsink",
        gst::DebugColorFlags::empty(),
        Some("seeds an icd grid"),
    )
});

/// How long EOS waits for the viewers to get the end.
const DRAIN: Duration = Duration::from_secs(1);
/// Buffers may come this much before they are due.
const AHEAD: i64 = 1_000_000_000;
/// A longer name is cut; it travels with every change of caps.
const MAX_NAME: usize = 1000;

#[derive(Debug)]
pub(super) struct Started {
    pub(super) seed: Arc<SeedHandle>,
    packer: Packer,
    uri: String,
    told_unpaced: bool,
    dropped: u64,
    /// The last item was dropped.
    behind: bool,
    /// Whom the application was told of.
    pub(super) viewers: BTreeSet<NodeId>,
    /// Since when `max-upload-bitrate` carries less than the stream, and whether that was told.
    pub(super) narrow: Option<(Instant, bool)>,
    /// A buffer came.
    pub(super) any: bool,
    pub(super) format_told: bool,
}

/// Whether EOS still waits.
#[derive(Debug, Default)]
pub(super) struct Drain {
    pub(super) drained: bool,
    flushing: bool,
}

/// Lock order: `settings`, then `state`, then `drain`; none is held over a call into GStreamer
/// that can call back.
#[derive(Debug, Default)]
pub struct IcdSink {
    pub(super) settings: Mutex<Settings>,
    pub(super) state: Mutex<Option<Started>>,
    pub(super) drain: Mutex<Drain>,
    pub(super) wake: Condvar,
    pub(super) faults: Mutex<Faults>,
}

/// An address at which viewers elsewhere may reach this machine: no packet is sent.
fn routable() -> Option<std::net::IpAddr> {
    // Documentation prefixes: only the route is looked up.
    let ask = |bind: &str, to: &str| {
        let socket = std::net::UdpSocket::bind((bind, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
    };
    ask("0.0.0.0", "192.0.2.1").or_else(|| ask("::", "2001:db8::1"))
}

impl IcdSink {
    fn settable(&self, name: &str) -> bool {
        if lock(&self.state).is_some() {
            gst::element_imp_warning!(
                self,
                gst::ResourceError::Settings,
                ("{name} is changeable in NULL or READY state only; the old value stays")
            );
            return false;
        }
        true
    }

    /// A URI sets other properties, too.
    fn notify_settings(&self) {
        let obj = self.obj();
        for name in ["uri", "address", "port"].into_iter().chain(PARAMETERS) {
            obj.notify(name);
        }
    }

    /// The viewers' URI; before there is one, what was set.
    fn uri_now(&self) -> Option<String> {
        let viewers = lock(&self.state).as_ref().map(|s| s.uri.clone());
        viewers.or_else(|| lock(&self.settings).uri.clone())
    }

    /// Whether a handler of `peer-connecting` is there.
    fn asks(&self) -> bool {
        glib::subclass::SignalId::lookup("peer-connecting", super::IcdSink::static_type())
            .is_some_and(|id| {
                glib::signal::signal_has_handler_pending(&*self.obj(), id, None, false)
            })
    }

    /// A buffer that comes long before it is due: nothing paces the stream.
    fn is_early(&self, running: Option<i64>) -> bool {
        let now = self.obj().current_running_time();
        running
            .zip(now)
            .is_some_and(|(running, now)| running.saturating_sub(now.nseconds() as i64) > AHEAD)
    }

    pub(super) fn seed(&self) -> Option<Arc<SeedHandle>> {
        lock(&self.state).as_ref().map(|s| s.seed.clone())
    }

    fn viewers_uri(settings: &Settings, key: &Key, seed: &SeedHandle) -> String {
        let addr = seed.local_addr();
        let host = match &settings.announce_address {
            Some(host) => host.trim_matches(['[', ']']).to_string(),
            None if !addr.ip().is_unspecified() => addr.ip().to_string(),
            None => routable().map_or_else(|| "127.0.0.1".into(), |ip| ip.to_string()),
        };
        IcdUri::for_viewers(key.stream_key(), &host, addr.port())
    }

    /// Gives the node an item. False if it did not take it and the one before it was taken: then
    /// the application is to be told.
    fn offer(started: &mut Started, packed: Packed) -> bool {
        let input = Input::Item {
            data: packed.data,
            entry: packed.entry,
            at: Instant::now(),
            state: packed.state.map(|state| MediaState {
                media: state.encode(),
                own_timeline: started.packer.own_timeline(),
            }),
        };
        if started.seed.offer(input) {
            started.behind = false;
            return true;
        }
        started.packer.lost();
        started.dropped += 1;
        std::mem::replace(&mut started.behind, true)
    }

    /// Waits until the viewers have the end, at most a second, or until `unlock()`.
    fn drain(&self) {
        lock(&self.drain).drained = false;
        // Not held while it waits: a stop from elsewhere stops the seed at once.
        if self.seed().is_some_and(|seed| seed.offer(Input::End)) {
            let waits = |drain: &mut Drain| !drain.drained && !drain.flushing;
            let _ = self
                .wake
                .wait_timeout_while(lock(&self.drain), DRAIN, waits);
        }
    }

    /// Excludes a viewer; false if this is nobody's key, or nothing is broadcast.
    pub(super) fn ban(&self, id: &str) -> bool {
        let Ok(key) = id.parse::<StreamKey>() else {
            gst::warning!(
                CAT,
                imp = self,
                "{id:?} is no viewer's key: 52 letters, as peer-added tells it"
            );
            return false;
        };
        let Some((seed, uri)) = lock(&self.state)
            .as_ref()
            .map(|s| (s.seed.clone(), s.uri.clone()))
        else {
            return false;
        };
        // Its own key is in the URI, and in no viewer's hands.
        !uri.contains(&key.to_string()) && seed.offer(Input::Ban(NodeId(key.0)))
    }

    /// Opens the grid, on the way to PAUSED: in READY everything can still be set.
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = lock(&self.settings).clone();
        let wrong = |why: String| gst::error_msg!(gst::ResourceError::Settings, ("{why}"));
        if let Some(why) = settings.wrong {
            return Err(wrong(why));
        }
        let key = match &settings.key_file {
            Some(path) => Key::load_or_make(path),
            None => Key::random(),
        }
        .map_err(|e| wrong(e.to_string()))?;
        if settings
            .expected_key
            .is_some_and(|expected| expected != key.stream_key())
        {
            let found = match settings.key_file {
                Some(_) => "the URI names another key than the one in key-file",
                None => "the URI names a key, and without key-file every start makes another key",
            };
            return Err(wrong(format!(
                "{found}; leave the key out of icdsink's URI, or name the file that holds it"
            )));
        }
        if let Some(host) = &settings.announce_address {
            host_alone("announce-address", host).map_err(wrong)?;
        }
        let epoch = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(1, |t| t.as_millis() as u64);
        let config = SeedConfig {
            key: key.clone(),
            address: settings.bind().map_err(wrong)?,
            port: settings.port,
            node: SeedSettings {
                buffer: settings.buffer_time,
                buffer_bytes: usize::try_from(settings.max_buffer_bytes).unwrap_or(usize::MAX),
                upload: settings.upload(),
                max_viewers: settings.viewers(),
                per_address: settings.viewers_per_address(),
                token: settings.access.token().map_err(wrong)?,
                epoch: Epoch(epoch),
                policy: Policy::default(),
            },
        };
        let weak = self.obj().downgrade();
        let asks = move || weak.upgrade().is_some_and(|obj| obj.imp().asks());
        let (seed, events) = start_seed(config, asks)
            .map_err(|e| not_started(&e, "address, port"))
            .map_err(|why| gst::error_msg!(gst::ResourceError::OpenWrite, ("{why}")))?;
        let seed = Arc::new(seed);
        let weak_seed = Arc::downgrade(&seed);
        let uri = Self::viewers_uri(&settings, &key, &seed);
        let mut name = settings.stream_name;
        name.truncate(name.floor_char_boundary(MAX_NAME));
        *lock(&self.drain) = Drain::default();
        *lock(&self.state) = Some(Started {
            seed,
            packer: Packer::new(&name),
            uri: uri.clone(),
            told_unpaced: false,
            dropped: 0,
            behind: false,
            viewers: BTreeSet::new(),
            narrow: None,
            any: false,
            format_told: false,
        });
        let weak = self.obj().downgrade();
        // The handle would keep the seed running after a stop.
        listen("icdsink", events, move |event| {
            let Some(obj) = weak.upgrade().filter(|_| weak_seed.strong_count() > 0) else {
                return glib::ControlFlow::Break;
            };
            match event {
                Some(event) => obj.imp().happened(&weak_seed, &event),
                None => obj.imp().look_around(),
            }
            glib::ControlFlow::Continue
        })
        .map_err(|e| {
            let _started = lock(&self.state).take();
            gst::error_msg!(gst::ResourceError::OpenWrite, ("no thread to be had: {e}"))
        })?;
        gst::info!(CAT, imp = self, "listening, viewers join with {uri}");
        self.announce(&uri);
        Ok(())
    }

    fn stop(&self) {
        let started = lock(&self.state).take();
        if let Some(started) = &started {
            let snapshot = started.seed.snapshot();
            gst::info!(
                CAT,
                imp = self,
                "stopped after {:.1} s: {} bytes in, {} bytes sent by UDP",
                started.seed.origin().elapsed().as_secs_f64(),
                snapshot.stats.bytes_in,
                snapshot.udp_bytes_sent
            );
        }
        let viewers = started.as_ref().map(|s| s.viewers.clone());
        // Outside the lock: it waits for the port to be free, shortly.
        drop(started);
        for id in viewers.unwrap_or_default() {
            self.removed(&id, "icdsink was stopped");
        }
    }
}

#[glib::object_subclass]
impl ObjectSubclass for IcdSink {
    const NAME: &'static str = "GstIcdSink";
    type Type = super::IcdSink;
    type ParentType = gst_base::BaseSink;
    type Interfaces = (gst::URIHandler,);
}

impl ObjectImpl for IcdSink {
    fn constructed(&self) {
        self.parent_constructed();
        // A preview branch beside it that never gets data must not hold the broadcast.
        self.obj().set_async(false);
        // What a decoder needs before the segment (an edit list, a seek) travels, too.
        self.obj().set_drop_out_of_segment(false);
        // Nothing is shown here: upstream need not buffer for it.
        self.obj().set_processing_deadline(gst::ClockTime::ZERO);
    }

    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(properties);
        PROPERTIES.as_ref()
    }

    fn signals() -> &'static [glib::subclass::Signal] {
        static SIGNALS: LazyLock<Vec<glib::subclass::Signal>> = LazyLock::new(signals);
        SIGNALS.as_ref()
    }

    fn set_property(&self, _: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let name = pspec.name();
        let get_string = || {
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
                if let Some(seed) = self.seed() {
                    seed.offer(Input::Upload(upload));
                }
                return;
            }
            SHOW_ADDRESSES => {
                lock(&self.settings).show_addresses = value.get().expect("type checked upstream");
                return;
            }
            "max-viewers" => {
                let mut settings = lock(&self.settings);
                settings.max_viewers = value.get().expect("type checked upstream");
                let viewers = settings.viewers();
                drop(settings);
                if let Some(seed) = self.seed() {
                    seed.offer(Input::MaxViewers(viewers));
                }
                return;
            }
            _ => {}
        }
        if !self.settable(name) {
            return;
        }
        let mut settings = lock(&self.settings);
        match name {
            "max-viewers-per-address" => {
                settings.per_address = value.get().expect("type checked upstream");
            }
            "address" => {
                settings.address = get_string().unwrap_or_default();
                settings.uri = None;
            }
            "port" => {
                settings.uri = None;
                settings.port = value.get::<u32>().expect("type checked upstream") as u16;
            }
            "uri" => {
                let result = match get_string() {
                    Some(uri) => settings.apply(&uri),
                    None => {
                        settings.uri = None;
                        settings.expected_key = None;
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
            "key-file" => settings.key_file = get_string().map(Into::into),
            "access-token" => settings.access.set(get_string()),
            "token-file" => settings.access.file = get_string().map(Into::into),
            "announce-address" => settings.announce_address = get_string(),
            "stream-name" => settings.stream_name = get_string().unwrap_or_default(),
            "buffer-time" => {
                let ms: u32 = value.get().expect("type checked upstream");
                settings.buffer_time = Duration::from_millis(u64::from(ms));
            }
            "max-buffer-bytes" => {
                settings.max_buffer_bytes = value.get().expect("type checked upstream");
            }
            _ => unimplemented!(),
        }
    }

    fn property(&self, _: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "port" => match self.seed() {
                Some(seed) => u32::from(seed.local_addr().port()).to_value(),
                None => u32::from(lock(&self.settings).port).to_value(),
            },
            "uri" => self.uri_now().to_value(),
            "num-viewers" => {
                let count = self.seed().map_or(0, |s| s.snapshot().stats.members);
                (count as u32).to_value()
            }
            "stats" => {
                let snapshot = self.seed().map(|s| s.snapshot()).unwrap_or_default();
                // With those of the base class: average-rate, dropped, rendered.
                let base = self.obj().upcast_ref::<gst_base::BaseSink>().stats();
                let dropped = lock(&self.state).as_ref().map_or(0, |s| s.dropped);
                let addresses = lock(&self.settings).show_addresses;
                crate::stats::sink(&base, &snapshot, dropped, addresses).to_value()
            }
            name => {
                let s = lock(&self.settings);
                match name {
                    "address" => s.address.to_value(),
                    "key-file" => s
                        .key_file
                        .as_ref()
                        .map(|p| p.display().to_string())
                        .to_value(),
                    "token-file" => s.access.file_name().to_value(),
                    "announce-address" => s.announce_address.to_value(),
                    "stream-name" => s.stream_name.to_value(),
                    "buffer-time" => (s.buffer_time.as_millis() as u32).to_value(),
                    "max-buffer-bytes" => s.max_buffer_bytes.to_value(),
                    "max-upload-bitrate" => s.max_upload.to_value(),
                    "max-viewers" => s.max_viewers.to_value(),
                    SHOW_ADDRESSES => s.show_addresses.to_value(),
                    "max-viewers-per-address" => s.per_address.to_value(),
                    _ => unimplemented!(),
                }
            }
        }
    }
}

impl GstObjectImpl for IcdSink {}

impl ElementImpl for IcdSink {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "ICD grid sink",
                "Sink/Network",
                "Broadcasts a stream to viewers that relay it to each other",
                "The gst-icd developers",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            gst::PadTemplate::new(
                "sink",
                gst::PadDirection::Sink,
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
        match transition {
            gst::StateChange::ReadyToPaused => {
                if let Err(error) = self.start() {
                    self.post_error_message(error);
                    return Err(gst::StateChangeError);
                }
            }
            gst::StateChange::PausedToPlaying => {
                if let Some(started) = lock(&self.state).as_mut() {
                    // Running time stood still, the viewers' clocks did not.
                    started.packer.new_timeline();
                }
            }
            _ => {}
        }
        let changed = self.parent_change_state(transition);
        let failed = transition == gst::StateChange::ReadyToPaused && changed.is_err();
        if transition == gst::StateChange::PausedToReady || failed {
            self.stop();
        }
        changed
    }
}

impl BaseSinkImpl for IcdSink {
    fn set_caps(&self, caps: &gst::Caps) -> Result<(), gst::LoggableError> {
        if let Some(why) = caps::refuse(caps) {
            gst::element_imp_error!(self, gst::StreamError::Format, ("{why}"));
            return Err(gst::loggable_error!(CAT, "{why}"));
        }
        if let Some(started) = lock(&self.state).as_mut() {
            started.packer.set_caps(caps);
        }
        Ok(())
    }

    fn render(&self, buffer: &gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let segment = self.obj().segment();
        let Ok(segment) = segment.downcast::<gst::ClockTime>() else {
            return Err(gst::FlowError::Error);
        };
        let mut state = lock(&self.state);
        let Some(started) = state.as_mut() else {
            return Err(gst::FlowError::Flushing);
        };
        let sender = started.seed.origin().elapsed();
        let packed = match started.packer.buffer(buffer, &segment, sender) {
            Ok(packed) if packed.data.len() > MAX_ITEM_BYTES => {
                drop(state);
                gst::element_imp_error!(
                    self,
                    gst::StreamError::Format,
                    (
                        "a buffer of {} bytes is too large to travel: encode in front of icdsink",
                        buffer.size()
                    )
                );
                return Err(gst::FlowError::Error);
            }
            Ok(packed) => packed,
            Err(error) => {
                drop(state);
                gst::element_imp_error!(
                    self,
                    gst::StreamError::Failed,
                    ("cannot read a buffer: {error}; its memory must be system memory")
                );
                return Err(gst::FlowError::Error);
            }
        };
        started.any = true;
        let early = self.is_early(packed.running);
        let tell = early && !std::mem::replace(&mut started.told_unpaced, early);
        let behind = !Self::offer(started, packed);
        drop(state);
        if behind {
            self.tell_behind();
        }
        if tell {
            gst::element_imp_warning!(
                self,
                gst::StreamError::Failed,
                ("the stream comes faster than real time: set sync=true on icdsink, or pace it upstream")
            );
        }
        Ok(gst::FlowSuccess::Ok)
    }

    fn event(&self, event: gst::Event) -> bool {
        let mut behind = false;
        match event.view() {
            gst::EventView::Segment(segment) if segment.segment().format() != gst::Format::Time => {
                self.tell_format(segment.segment().format());
                return false;
            }
            gst::EventView::Tag(tags) => {
                if let Some(started) = lock(&self.state).as_mut()
                    && !started.packer.set_tags(tags)
                {
                    gst::info!(CAT, imp = self, "tags are too long to travel");
                }
            }
            gst::EventView::Gap(gap) => {
                let (at, duration) = gap.get();
                let segment = self.obj().segment();
                if let Ok(segment) = segment.downcast::<gst::ClockTime>()
                    && let (Some(at), Some(started)) =
                        (running(&segment, Some(at)), lock(&self.state).as_mut())
                {
                    let packed = started.packer.gap(at, duration);
                    behind = packed.is_some_and(|packed| !Self::offer(started, packed));
                }
            }
            gst::EventView::StreamStart(start) => {
                if let Some(started) = lock(&self.state).as_mut() {
                    started.packer.stream_start(start.stream_id());
                }
            }
            gst::EventView::CustomDownstream(_)
            | gst::EventView::CustomDownstreamSticky(_)
            | gst::EventView::CustomBoth(_) => {
                if let Some(started) = lock(&self.state).as_mut()
                    && let Some(packed) = started.packer.event(&event)
                {
                    behind = !Self::offer(started, packed);
                }
            }
            gst::EventView::FlushStop(_) => {
                if let Some(started) = lock(&self.state).as_mut() {
                    started.packer.new_timeline();
                }
            }
            gst::EventView::Eos(_) => {
                // In PAUSED the end waits, as buffers do.
                if preroll(&*self.obj(), &event).is_err() {
                    return false;
                }
                self.check_empty();
                self.drain();
            }
            _ => {}
        }
        if behind {
            self.tell_behind();
        }
        self.parent_event(event)
    }

    fn unlock(&self) -> Result<(), gst::ErrorMessage> {
        lock(&self.drain).flushing = true;
        self.wake.notify_all();
        Ok(())
    }

    fn unlock_stop(&self) -> Result<(), gst::ErrorMessage> {
        lock(&self.drain).flushing = false;
        Ok(())
    }
}

impl URIHandlerImpl for IcdSink {
    const URI_TYPE: gst::URIType = gst::URIType::Sink;

    fn protocols() -> &'static [&'static str] {
        &["icd"]
    }

    fn uri(&self) -> Option<String> {
        self.uri_now()
    }

    fn set_uri(&self, uri: &str) -> Result<(), glib::Error> {
        if lock(&self.state).is_some() {
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
