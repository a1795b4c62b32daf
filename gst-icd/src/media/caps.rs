//! What the caps say about a stream.

use crate::media::join::Kind;

/// Caps that travel are at most this long as a string.
pub(crate) const MAX_CAPS: usize = 128 * 1024;

/// What decides on join points.
pub(crate) fn join_kind(caps: &gst::Caps) -> Kind {
    match name(caps) {
        "video/mpegts" => Kind::MpegTs,
        _ => Kind::Flags,
    }
}

fn name(caps: &gst::Caps) -> &str {
    caps.structure(0).map_or("", |s| s.name().as_str())
}

/// Demuxers of these make their own timeline and ignore the buffers' time stamps.
pub(crate) fn own_timeline(caps: &gst::Caps) -> bool {
    matches!(
        name(caps),
        "video/x-matroska"
            | "audio/x-matroska"
            | "video/x-matroska-3d"
            | "video/webm"
            | "audio/webm"
            | "video/x-flv"
            | "application/ogg"
            | "audio/ogg"
            | "video/ogg"
    )
}

/// The buffers of the `streamheader` field.
pub(crate) fn stream_headers(caps: &gst::Caps) -> Vec<gst::Buffer> {
    let Some(structure) = caps.structure(0) else {
        return Vec::new();
    };
    if let Ok(array) = structure.get::<gst::Array>("streamheader") {
        return array
            .iter()
            .filter_map(|value| value.get::<gst::Buffer>().ok())
            .collect();
    }
    structure
        .get::<gst::Buffer>("streamheader")
        .into_iter()
        .collect()
}

/// Why caps can't travel.
pub(crate) fn refuse(caps: &gst::Caps) -> Option<String> {
    let features = caps.features(0)?;
    let other = |feature: &&str| {
        feature.starts_with("memory:")
            && *feature != gst::CAPS_FEATURE_MEMORY_SYSTEM_MEMORY.as_str()
    };
    if features.iter().map(|f| f.as_str()).any(|f| other(&f)) {
        return Some(format!(
            "{features} can't be sent: put a download element (gldownload, vapostproc, \
             cudadownload …) or an encoder in front of icdsink"
        ));
    }
    if features.iter().any(|f| f.as_str().starts_with("meta:")) {
        return Some(format!(
            "{features} can't be sent, since metas do not travel: draw what they hold \
             (overlaycomposition) or encode in front of icdsink"
        ));
    }
    if caps.to_string().len() > MAX_CAPS {
        return Some(format!(
            "the caps are longer than {MAX_CAPS} bytes: use a container with smaller headers"
        ));
    }
    None
}
