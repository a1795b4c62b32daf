//! What `gst-inspect-1.0` shows: units, defaults, ranges, when changeable.

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

use super::settings::{BUFFER_BYTES, BUFFER_TIME_MS, Settings};
use crate::access::file_property;
use crate::addresses::show_addresses_property;

/// The properties; their defaults are those of [`Settings`].
pub(super) fn properties() -> Vec<glib::ParamSpec> {
    let d = Settings::default();
    vec![
        glib::ParamSpecString::builder("address")
            .nick("Address")
            .blurb("IP address to listen on (:: = all, IPv4 and IPv6)")
            .default_value(Some(d.address.as_str()))
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt::builder("port")
            .nick("Port")
            .blurb("UDP port to listen on (0 = a free one, shown here once the element is PAUSED)")
            .maximum(u32::from(u16::MAX))
            .default_value(u32::from(d.port))
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("uri")
            .nick("URI")
            .blurb("Set: icd://ADDRESS:PORT?property=value&…, each of which may be left out. Read once started: the URI that viewers open, with the stream's key")
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("key-file")
            .nick("Key file")
            .blurb("File with the stream's private key (PEM, PKCS #8), made with mode 0600 if absent; without it the key, and so the URI, is new each time")
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("access-token")
            .nick("Access token")
            .blurb("Makes the stream private: viewers have to prove that they know this (write-only; 1 to 256 bytes; token-file keeps it out of the process list)")
            .write_only()
            .mutable_ready()
            .build(),
        file_property(),
        show_addresses_property(),
        glib::ParamSpecString::builder("announce-address")
            .nick("Announce address")
            .blurb("Host name or address that the URI for viewers names (default: the first address that is routable)")
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("stream-name")
            .nick("Stream name")
            .blurb("Name of the stream, shown to viewers")
            .default_value(Some(d.stream_name.as_str()))
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt::builder("buffer-time")
            .nick("Buffer time")
            .blurb("Stream kept in memory, in milliseconds: the largest latency among the viewers plus a group of pictures")
            .minimum(*BUFFER_TIME_MS.start() as u32)
            .maximum(*BUFFER_TIME_MS.end() as u32)
            .default_value(d.buffer_time.as_millis() as u32)
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt64::builder("max-buffer-bytes")
            .nick("Maximum buffer bytes")
            .blurb("Stream kept in memory, in bytes; whichever of this and buffer-time is reached first")
            .minimum(*BUFFER_BYTES.start())
            .default_value(d.max_buffer_bytes)
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt64::builder("max-upload-bitrate")
            .nick("Maximum upload bitrate")
            .blurb("Upload to all viewers together, in bits per second (0 = unlimited); never delays the pipeline, unlike max-bitrate")
            .default_value(d.max_upload)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("max-viewers")
            .nick("Maximum viewers")
            .blurb("Viewers that are admitted (0 = unlimited)")
            .default_value(d.max_viewers)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("max-viewers-per-address")
            .nick("Maximum viewers per address")
            .blurb("Viewers that are admitted from one IPv4 address or one /64 of IPv6, which a carrier's or a school's NAT makes many (0 = unlimited); this machine's own are not counted")
            .default_value(d.per_address)
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt::builder("num-viewers")
            .nick("Number of viewers")
            .blurb("Viewers that are admitted now, whoever feeds them")
            .read_only()
            .build(),
        glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
            .nick("Statistics")
            .blurb("application/x-icd-sink-stats: counters since the start, one structure per connection in peers")
            .read_only()
            .build(),
    ]
}

/// What an application may be asked and told.
pub(super) fn signals() -> Vec<glib::subclass::Signal> {
    vec![
        // A viewer was admitted: its key in base32, its address. From a thread of the
        // element's own, like the others.
        glib::subclass::Signal::builder("peer-added")
            .param_types([String::static_type(), String::static_type()])
            .build(),
        // A viewer left: its key, the reason.
        glib::subclass::Signal::builder("peer-removed")
            .param_types([String::static_type(), String::static_type()])
            .build(),
        // May this viewer (its key, its address) come in? The first FALSE refuses, and
        // so do five seconds without an answer.
        glib::subclass::Signal::builder("peer-connecting")
            .param_types([String::static_type(), String::static_type()])
            .return_type::<bool>()
            .accumulator(|_, _, value| match value.get::<bool>() {
                Ok(false) => std::ops::ControlFlow::Break(value.clone()),
                _ => std::ops::ControlFlow::Continue(value.clone()),
            })
            .build(),
        // Excludes a viewer by its key, as peer-added told it; TRUE if it is one and the element is
        // started. Nobody serves it any more, within seconds, until the element stops.
        glib::subclass::Signal::builder("ban")
            .param_types([String::static_type()])
            .return_type::<bool>()
            .action()
            .class_handler(|values| {
                let sink = values[0].get::<super::IcdSink>();
                let sink = sink.expect("emitted on its own type");
                let id = values[1].get::<Option<String>>();
                let id = id.expect("type checked upstream").unwrap_or_default();
                Some(sink.imp().ban(&id).to_value())
            })
            .build(),
    ]
}
