//! The protocol of gst-icd, pure: no sockets, no clock, no threads, no GStreamer.
//!
//! A [`Node`] is driven like quinn-proto and str0m are: facts go in with the time at which they
//! became known ([`Node::handle`]), decisions come out ([`Node::poll`]), and
//! [`Node::poll_timeout`] says when to let time pass ([`Node::tick`]) if nothing else happens.
//! The same code runs over QUIC in the plugin and in virtual time in the simulator.
//!
//! Every module decides one thing; [`node`] wires them together.
#![forbid(unsafe_code)]

pub mod bucket;
pub mod candidates;
pub mod capacity;
pub mod carriers;
pub mod children;
pub mod clock;
pub mod cutter;
pub mod ids;
pub mod message;
pub mod node;
pub mod opening;
pub mod parents;
pub mod piece;
pub mod playout;
pub mod policy;
pub mod record;
pub mod release;
pub mod rescue;
pub mod seat;
pub mod token;
pub mod trust;
pub mod uplink;
pub mod window;

pub use cutter::Entry;
pub use ids::{Bitrate, Epoch, Meeting, NodeId, PeerId, SenderTime, Seq, StreamKey, StripeId};
pub use node::{
    Action, Close, Event, Input, Lost, Media, MediaState, Node, SeedSettings, Stats, Status,
    Target, ViewerSettings,
};
pub use policy::Policy;
