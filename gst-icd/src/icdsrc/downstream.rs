//! Who takes the stream from icdsrc: whether a flush would help, or destroy what is recorded.

use gst::prelude::*;

use crate::media::unpack::Downstream;

/// More pads than any pipeline has on the way; loops end here.
const MOST: usize = 4096;

/// What lies downstream of a source pad, as it is linked now.
pub(crate) fn downstream(pad: &gst::Pad) -> Downstream {
    let mut seen = Vec::new();
    let mut found = Found::default();
    walk(pad, false, &mut seen, &mut found);
    match found {
        Found {
            demuxer: false,
            unshown: true,
            ..
        } => Downstream::Bytes,
        Found { demuxer: false, .. } => Downstream::Plain,
        Found {
            unshown: false,
            bytes: false,
            ..
        } => Downstream::Shown,
        Found { .. } => Downstream::Kept,
    }
}

#[derive(Default)]
struct Found {
    demuxer: bool,
    /// Some end does not synchronise.
    unshown: bool,
    /// Some end is reached without a demuxer.
    bytes: bool,
}

/// Follows a source pad. `demuxed`: a demuxer lies behind.
fn walk(source: &gst::Pad, demuxed: bool, seen: &mut Vec<gst::Pad>, found: &mut Found) {
    // Out of bins, and into them.
    let Some(peer) = outer(source.clone()).peer().map(inner) else {
        return;
    };
    if seen.len() > MOST || seen.contains(&peer) {
        return;
    }
    seen.push(peer.clone());
    let Some(element) = peer.parent_element() else {
        return;
    };
    let demuxer = is_demuxer(&element);
    found.demuxer |= demuxer;
    let demuxed = demuxed || demuxer;
    if element.element_flags().contains(gst::ElementFlags::SINK) {
        found.unshown |= !shows(&element);
        found.bytes |= !demuxed;
    }
    for pad in inside(&peer) {
        walk(&pad, demuxed, seen, found);
    }
}

/// The pad inside of a bin that a ghost pad of the bin leads to.
fn inner(mut pad: gst::Pad) -> gst::Pad {
    while let Some(target) = pad.downcast_ref::<gst::GhostPad>().and_then(|g| g.target()) {
        pad = target;
    }
    pad
}

/// The ghost pad of the bin around, if this pad is shown by one.
fn outer(mut pad: gst::Pad) -> gst::Pad {
    while let Some(ghost) = pad
        .peer()
        .and_then(|peer| peer.downcast::<gst::ProxyPad>().ok())
        .and_then(|proxy| proxy.internal())
    {
        pad = ghost.upcast();
    }
    pad
}

/// Source pads of the same element to which data from a sink pad may go.
fn inside(pad: &gst::Pad) -> Vec<gst::Pad> {
    let mut pads = Vec::new();
    let mut links = pad.iterate_internal_links();
    loop {
        match links.next() {
            Ok(Some(next)) => pads.push(next),
            Err(gst::IteratorError::Resync) => {
                pads.clear();
                links.resync();
            }
            Ok(None) | Err(_) => return pads,
        }
    }
}

fn is_demuxer(element: &gst::Element) -> bool {
    let class = element.metadata(gst::ELEMENT_METADATA_KLASS);
    class.is_some_and(|class| class.contains("Demux"))
}

/// Whether an end synchronises to the clock; one that says nothing of it does not.
fn shows(element: &gst::Element) -> bool {
    let knows = element.find_property("sync");
    knows.is_some_and(|p| p.value_type() == gst::glib::Type::BOOL)
        && element.property::<bool>("sync")
}
