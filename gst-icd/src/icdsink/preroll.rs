//! Waiting for PLAYING as BaseSink does.

use gst::glib::translate::{ToGlibPtr, try_from_glib};
use gst::prelude::*;

/// Prerolls with a serialised event, then waits for PLAYING, inside BaseSink's `event()`.
///
/// `BaseSinkExt::wait()` would wait there too, but it does not commit the state, and a sink that
/// came to PLAYING before anything reached it would wait for ever.
///
/// # Errors
/// `Flushing` if a flush or a stop came meanwhile; it wakes one wait only, so the event must not go
/// on to BaseSink then.
// The bindings leave the function out, because it takes any mini object.
#[allow(unsafe_code)]
pub(super) fn preroll(
    sink: &impl IsA<gst_base::BaseSink>,
    event: &gst::Event,
) -> Result<gst::FlowSuccess, gst::FlowError> {
    let sink = sink.upcast_ref::<gst_base::BaseSink>();
    // SAFETY: both live through the call, which borrows them; an event is a mini object; and the
    // preroll lock, which it needs, is held whenever `event()` has a serialised event.
    unsafe {
        try_from_glib(gst_base::ffi::gst_base_sink_do_preroll(
            sink.to_glib_none().0,
            event.as_mut_ptr().cast(),
        ))
    }
}
