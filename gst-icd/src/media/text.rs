//! Texts that a broadcaster signed, to the types of GStreamer.
//!
//! GStreamer and its bindings take much for a mistake of the program: a NUL makes the bindings panic, a name that
//! is none a CRITICAL on the console, which ends a program under `G_DEBUG=fatal-criticals`. Such texts are none.

use std::str::FromStr;

use gst::glib;
use gst::prelude::*;

/// Whether GLib takes it: no NUL.
pub(crate) fn is_plain(text: &str) -> bool {
    !text.contains('\0')
}

/// As `gst_structure_validate_name` has it.
fn has_name(text: &str) -> bool {
    // Caps have features in brackets behind the name.
    let name = text.split([',', ';', '(']).next().unwrap_or_default();
    let may = |c: char| c.is_ascii_alphanumeric() || "/-_.:+".contains(c);
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.trim_end().chars().all(may)
}

/// Fixed caps.
pub(crate) fn caps(text: &str) -> Option<gst::Caps> {
    let caps = Some(text).filter(|text| is_plain(text) && has_name(text));
    let caps = gst::Caps::from_str(caps?).ok()?;
    caps.is_fixed().then_some(caps)
}

/// Tags, as a value of this type is serialised: in quotes where anything in them needs it.
pub(crate) fn tags(text: &str) -> Option<gst::TagList> {
    let named = text.strip_prefix('"').unwrap_or(text);
    let text = Some(text).filter(|text| is_plain(text) && named.starts_with("taglist"))?;
    let value = glib::Value::deserialize(text, gst::TagList::static_type());
    value.ok()?.get::<gst::TagList>().ok()
}

/// A structure, as of an event.
pub(crate) fn structure(text: &str) -> Option<gst::Structure> {
    let text = Some(text).filter(|text| is_plain(text) && has_name(text))?;
    gst::Structure::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gstreamer_would_complain_of_is_nothing() {
        gst::init().expect("GStreamer starts");
        let caps_of = |text| caps(text).map(|caps| caps.to_string());
        assert!(caps_of("video/mpegts, systemstream=(boolean)true").is_some());
        let features = "video/x-raw(format:Interlaced), interlace-mode=(string)alternate";
        assert!(caps_of(features).is_some());
        assert!(
            caps_of("audio/x-raw, rate=(int)[1, 5]").is_none(),
            "not fixed"
        );
        assert!(tags("taglist, title=(string)a;").is_some());
        let mut list = gst::TagList::new();
        let title = &"a \"film\", and its name";
        let replace = gst::TagMergeMode::Replace;
        list.make_mut().add::<gst::tags::Title>(title, replace);
        let serialised = list.to_value().serialize().expect("it can be");
        assert_eq!(tags(&serialised), Some(list), "{serialised}");
        assert!(structure("a-name, n=(int)1;").is_some_and(|s| s.get::<i32>("n") == Ok(1)));
        for text in [
            "",
            " ",
            "\0",
            "a\0",
            "1a",
            "tag",
            "ä",
            "<a>, b=1",
            ";",
            "taglist\0",
            "\"",
            "\"\"",
            "\"a, taglist\"",
        ] {
            let nothing = caps(text).is_none() || text == "tag";
            assert!(nothing && tags(text).is_none(), "{text:?}");
            assert!(structure(text).is_none() || text == "tag", "{text:?}");
        }
    }
}
