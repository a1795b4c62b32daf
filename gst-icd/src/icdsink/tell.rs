//! What the application is told while a seed works, and what it is warned of.

use std::sync::Weak;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst::subclass::prelude::*;
use icd_grid::{Event, Input, NodeId};
use icd_net::SeedHandle;

use super::imp::{CAT, IcdSink};
use crate::addresses::{address, at};
use crate::application::{Faults, first, lock, post};

/// An uplink that carries no whole copy is told of after so long: rates vary.
const NARROW: Duration = Duration::from_secs(3);

impl IcdSink {
    /// The node does not take what the pipeline brings.
    pub(super) fn tell_behind(&self) {
        if self.seed().is_some_and(|seed| seed.is_over()) {
            gst::element_imp_error!(
                self,
                gst::ResourceError::Failed,
                ("the grid has stopped inside; restart the pipeline, and report what GST_DEBUG=icdsink:6 says")
            );
            return;
        }
        gst::element_imp_warning!(
            self,
            gst::ResourceError::Busy,
            ("this machine is too slow for the stream: parts of it are dropped (items-dropped in stats counts them)")
        );
    }

    /// An uplink that does not carry the stream once leaves every viewer without a part of it.
    fn check_uplink(&self) {
        let stats = match self.seed() {
            Some(seed) => seed.snapshot().stats,
            None => return,
        };
        let mut state = lock(&self.state);
        let Some(started) = state.as_mut() else {
            return;
        };
        if stats.stripes == 0 || stats.slots >= u64::from(stats.stripes) {
            started.narrow = None;
            return;
        }
        let (since, told) = started.narrow.get_or_insert((Instant::now(), false));
        if *told || since.elapsed() < NARROW {
            return;
        }
        *told = true;
        drop(state);
        gst::element_imp_warning!(
            self,
            gst::ResourceError::Settings,
            (
                "max-upload-bitrate={} carries less than one copy of the stream ({} bit/s, and a tenth for headers): viewers get it in part; raise it, or encode at a lower bitrate",
                lock(&self.settings).max_upload,
                stats.bytes_per_second * 8
            )
        );
    }

    /// What the grid tells. The handle is not held meanwhile: a handler may stop the element.
    pub(super) fn happened(&self, seed: &Weak<SeedHandle>, event: &Event) {
        let obj = self.obj();
        match event {
            Event::AskAdmission { peer, id, addr } => {
                let allow: bool =
                    obj.emit_by_name("peer-connecting", &[&id.whole(), &addr.to_string()]);
                if let Some(seed) = seed.upgrade() {
                    seed.offer(Input::Verdict { peer: *peer, allow });
                }
            }
            Event::PeerAdded { id, addr } => {
                let shown = lock(&self.settings).show_addresses;
                gst::info!(CAT, imp = self, "viewer {id} added{}", at(*addr, shown));
                // Who is there is told of once, and after a stop nobody.
                let Some(true) = lock(&self.state).as_mut().map(|s| s.viewers.insert(*id)) else {
                    return;
                };
                obj.emit_by_name::<()>("peer-added", &[&id.whole(), &addr.to_string()]);
                let structure = gst::Structure::builder("icd-peer-added")
                    .field("id", id.whole())
                    .field_if_some("address", address(*addr, shown))
                    .build();
                post(&*obj, structure);
                obj.notify("num-viewers");
            }
            Event::PeerRemoved { id, why } => {
                // A stop tells of those that are there then.
                let there = lock(&self.state).as_mut().map(|s| s.viewers.remove(id));
                if there == Some(true) {
                    self.removed(id, why);
                }
            }
            Event::TurnedAway { id, addr, why } => {
                let shown = lock(&self.settings).show_addresses;
                gst::info!(
                    CAT,
                    imp = self,
                    "viewer {id} refused{}: {why}",
                    at(*addr, shown)
                );
                let structure = gst::Structure::builder("icd-peer-refused")
                    .field("id", id.whole())
                    .field_if_some("address", address(*addr, shown))
                    .field("reason", why.to_string())
                    .build();
                post(&*obj, structure);
            }
            Event::Fault { id, what } => {
                gst::warning!(CAT, imp = self, "viewer {id} dropped: {what}");
                Faults::tell(&self.faults, &*obj, &id.whole(), what);
            }
            Event::Drained => {
                lock(&self.drain).drained = true;
                self.wake.notify_all();
            }
            _ => {}
        }
    }

    pub(super) fn removed(&self, id: &NodeId, why: &str) {
        gst::info!(CAT, imp = self, "viewer {id} removed: {why}");
        let obj = self.obj();
        obj.emit_by_name::<()>("peer-removed", &[&id.whole(), &why]);
        let structure = gst::Structure::builder("icd-peer-removed")
            .field("id", id.whole())
            .field("reason", why)
            .build();
        post(&*obj, structure);
        obj.notify("num-viewers");
    }

    pub(super) fn announce(&self, uri: &str) {
        let obj = self.obj();
        obj.notify("port");
        obj.notify("uri");
        let structure = gst::Structure::builder("icd-uri").field("uri", uri).build();
        post(&*obj, structure);
        gst::element_imp_info!(
            self,
            gst::ResourceError::OpenWrite,
            ("Viewers join with {uri}"),
            ["gst-launch-1.0 playbin3 uri={uri}"]
        );
    }

    /// The stream ends, and nothing was in it.
    pub(super) fn check_empty(&self) {
        let empty = lock(&self.state).as_ref().is_some_and(|s| !s.any);
        if empty {
            gst::element_imp_warning!(
                self,
                gst::StreamError::Failed,
                ("nothing was broadcast: the stream ended before its first buffer; check what is in front of icdsink")
            );
        }
    }

    /// Says once what can't be broadcast; it comes again with every buffer.
    pub(super) fn tell_format(&self, format: gst::Format) {
        if first(&self.state, |started| &mut started.format_told) {
            gst::element_imp_error!(
                self,
                gst::StreamError::Format,
                ("a stream without time stamps ({format:?} segment) can't be broadcast: put a parser in front of icdsink, tsparse set-timestamps=true for MPEG-TS, parsebin for the rest (MP4 does not stream: mux it anew, mpegtsmux)")
            );
        }
    }

    /// What no event tells of.
    pub(super) fn look_around(&self) {
        self.check_uplink();
    }
}
