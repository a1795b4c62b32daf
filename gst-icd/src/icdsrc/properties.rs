//! What `gst-inspect-1.0` shows: units, defaults, ranges, when changeable.

use gst::glib;
use gst::prelude::*;

use super::IcdSrcStatus;
use super::settings::{LATENCY_MS, PEERS, Settings};
use crate::access::file_property;
use crate::addresses::show_addresses_property;

/// The properties; their defaults are those of [`Settings`].
pub(super) fn properties() -> Vec<glib::ParamSpec> {
    let d = Settings::default();
    vec![
        glib::ParamSpecString::builder("uri")
            .nick("URI")
            .blurb("icd://KEY@host:port[,host:port…][?property=value&…], as the broadcaster's icdsink shows it")
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt::builder("latency")
            .nick("Latency")
            .blurb("Play-out delay, in milliseconds: from the broadcaster's sending to the picture's being due; what is downstream adds to it")
            .maximum(*LATENCY_MS.end() as u32)
            .default_value(d.latency.as_millis() as u32)
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("access-token")
            .nick("Access token")
            .blurb("What the broadcaster of a private stream asks for (write-only; in the URI: token=…, which is not read back). Proven, not sent, and only where the URI names the stream's KEY")
            .write_only()
            .mutable_ready()
            .build(),
        file_property(),
        show_addresses_property(),
        glib::ParamSpecBoolean::builder("relay")
            .nick("Relay")
            .blurb("Relay the stream to other viewers; false for metered links")
            .default_value(d.relay)
            .mutable_ready()
            .build(),
        glib::ParamSpecBoolean::builder("seed-only")
            .nick("Seed only")
            .blurb("Take everything from the broadcaster, so that no other viewer learns this address; relays nothing, and the broadcaster serves only so many of those")
            .default_value(d.seed_only)
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt64::builder("max-upload-bitrate")
            .nick("Maximum upload bitrate")
            .blurb("Upload to other viewers together, in bits per second (0 = what the line carries, found out by using it)")
            .default_value(d.max_upload)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt64::builder("max-upload-volume")
            .nick("Maximum upload volume")
            .blurb("Upload in all, in bytes (0 = unlimited): when it is used up, other viewers find other parents, and this one relays no more")
            .default_value(d.max_volume)
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt::builder("max-peers")
            .nick("Maximum peers")
            .blurb("Connections to other viewers, at most")
            .minimum(*PEERS.start() as u32)
            .maximum(*PEERS.end() as u32)
            .default_value(d.max_peers)
            .mutable_ready()
            .build(),
        glib::ParamSpecString::builder("bind-address")
            .nick("Bind address")
            .blurb("Local IP address to use (:: = any, IPv4 and IPv6)")
            .default_value(Some(d.bind_address.as_str()))
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt::builder("bind-port")
            .nick("Bind port")
            .blurb("Local UDP port to use (0 = a free one)")
            .maximum(u32::from(u16::MAX))
            .default_value(u32::from(d.bind_port))
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt::builder("timeout")
            .nick("Timeout")
            .blurb("Error after this time without any stream, in milliseconds (0 = keep trying for ever)")
            .default_value(d.timeout.as_millis() as u32)
            .mutable_playing()
            .build(),
        glib::ParamSpecEnum::builder::<IcdSrcStatus>("status")
            .nick("Status")
            .blurb("How this viewer is doing; notifies")
            .read_only()
            .build(),
        glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
            .nick("Statistics")
            .blurb("application/x-icd-src-stats: counters since the start, one structure per connection in peers")
            .read_only()
            .build(),
    ]
}
