//! The element that ends a broadcaster's pipeline.

use gst::glib;
use gst::prelude::*;

mod imp;
mod preroll;
mod properties;
mod settings;
mod tell;

glib::wrapper! {
    /// See the element's own documentation, `gst-inspect-1.0 icdsink`.
    pub struct IcdSink(ObjectSubclass<imp::IcdSink>)
        @extends gst_base::BaseSink, gst::Element, gst::Object,
        @implements gst::URIHandler;
}

/// Registers `icdsink`.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(
        Some(plugin),
        "icdsink",
        gst::Rank::NONE,
        IcdSink::static_type(),
    )
}
