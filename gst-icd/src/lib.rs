//! Peer-to-peer live streaming as a stage of any GStreamer pipeline.
//!
//! `icdsink` ends a broadcaster's pipeline and seeds a grid; `icdsrc` starts a viewer's pipeline,
//! plays from the grid and relays to other viewers.
// The macro that defines the plugin makes public items without documentation.
#![allow(missing_docs)]

mod access;
mod addresses;
mod application;
#[doc(hidden)]
pub mod fuzzing;
pub mod icdsink;
pub mod icdsrc;
mod media;
mod stats;
mod uri;

use gst::glib;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    icdsink::register(plugin)?;
    icdsrc::register(plugin)?;
    Ok(())
}

gst::plugin_define!(
    icd,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
    "MPL",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_REPOSITORY"),
    env!("BUILD_REL_DATE")
);
