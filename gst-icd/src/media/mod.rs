//! GStreamer buffers, caps and events to bytes of the stream, and back.

pub(crate) mod caps;
pub(crate) mod item;
pub(crate) mod join;
pub(crate) mod pack;
pub(crate) mod text;
pub(crate) mod timeline;
pub(crate) mod unpack;
