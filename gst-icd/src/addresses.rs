//! Addresses of viewers are personal data: shown only to who asks for them.

use std::net::SocketAddr;

use gst::glib;
use gst::prelude::*;

/// The property of both elements.
pub(crate) const SHOW_ADDRESSES: &str = "show-addresses";

/// Its description.
pub(crate) fn show_addresses_property() -> glib::ParamSpec {
    glib::ParamSpecBoolean::builder(SHOW_ADDRESSES)
        .nick("Show addresses")
        .blurb("Tell the addresses of viewers in stats, element messages and logs, where they are personal data; signals that ask the application have them always")
        .default_value(false)
        .mutable_playing()
        .build()
}

/// For a field that is there only if addresses are shown.
pub(crate) fn address(addr: SocketAddr, shown: bool) -> Option<String> {
    shown.then(|| addr.to_string())
}

/// For a log, behind who it is.
pub(crate) fn at(addr: SocketAddr, shown: bool) -> String {
    address(addr, shown).map_or_else(String::new, |addr| format!(", {addr}"))
}
