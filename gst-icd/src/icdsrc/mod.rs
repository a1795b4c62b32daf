//! The element that starts a viewer's pipeline.

use gst::glib;
use gst::prelude::*;

mod downstream;
mod imp;
mod losses;
mod properties;
mod settings;
mod tell;

/// How a viewer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[repr(u32)]
#[enum_type(name = "GstIcdSrcStatus")]
pub enum IcdSrcStatus {
    /// The element is stopped.
    #[default]
    #[enum_value(name = "Stopped: the element is stopped", nick = "stopped")]
    Stopped,
    /// Looking for the seed.
    #[enum_value(name = "Connecting: looking for the seed", nick = "connecting")]
    Connecting,
    /// Admitted; the stream has not begun.
    #[enum_value(name = "Waiting: admitted, the stream has not begun", nick = "waiting")]
    Waiting,
    /// Pieces come.
    #[enum_value(name = "Running: the stream comes", nick = "running")]
    Running,
    /// Nothing has come for a second.
    #[enum_value(name = "Starving: nothing has come for a second", nick = "starving")]
    Starving,
    /// The broadcaster ended the stream.
    #[enum_value(name = "Ended: the broadcaster ended the stream", nick = "ended")]
    Ended,
    /// The seed said no.
    #[enum_value(name = "Refused: the seed said no", nick = "refused")]
    Refused,
}

impl IcdSrcStatus {
    /// Its short name.
    fn nick(self) -> String {
        let value = self.to_value();
        let value = glib::EnumValue::from_value(&value);
        value.map_or(String::new(), |(_, value)| value.nick().into())
    }
}

impl From<icd_grid::Status> for IcdSrcStatus {
    fn from(status: icd_grid::Status) -> Self {
        match status {
            icd_grid::Status::Connecting => Self::Connecting,
            icd_grid::Status::Waiting => Self::Waiting,
            icd_grid::Status::Running => Self::Running,
            icd_grid::Status::Starving => Self::Starving,
            icd_grid::Status::Ended => Self::Ended,
            icd_grid::Status::Refused => Self::Refused,
        }
    }
}

glib::wrapper! {
    /// See the element's own documentation, `gst-inspect-1.0 icdsrc`.
    pub struct IcdSrc(ObjectSubclass<imp::IcdSrc>)
        @extends gst_base::PushSrc, gst_base::BaseSrc, gst::Element, gst::Object,
        @implements gst::URIHandler;
}

/// Registers `icdsrc`.
pub fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(
        Some(plugin),
        "icdsrc",
        gst::Rank::PRIMARY,
        IcdSrc::static_type(),
    )
}
