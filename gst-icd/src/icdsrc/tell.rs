//! What the application is told while a viewer works, and what it is warned of.

use std::time::{Duration, Instant};

use gst::prelude::*;
use gst::subclass::prelude::*;
use icd_grid::message::Refusal;
use icd_grid::node::STARVING;
use icd_grid::{Event, Lost, Status};

use super::IcdSrcStatus;
use super::imp::{CAT, IcdSrc};
use crate::addresses::{address, at};
use crate::application::{Faults, first, lock, post};
use crate::uri::bracketed;

/// The progress is over after so long, whether the grid was joined or not.
const PROGRESS: Duration = Duration::from_secs(1);

/// Without any stream for so long the application is told.
const SILENCE: Duration = Duration::from_secs(8);

/// Why nothing comes from a broadcaster that was reached.
fn nothing_comes(status: IcdSrcStatus) -> Option<&'static str> {
    match status {
        IcdSrcStatus::Waiting => Some(
            "the broadcaster is there, its stream has not begun; check its pipeline and its uplink",
        ),
        IcdSrcStatus::Starving => Some(
            "the stream stopped coming; check that the broadcaster runs, its pipeline and its uplink",
        ),
        _ => None,
    }
}

impl IcdSrc {
    fn element_message(&self, structure: gst::Structure) {
        post(&*self.obj(), structure);
    }

    pub(super) fn progress(&self, kind: gst::ProgressType, text: &str) {
        let obj = self.obj();
        let message = gst::message::Progress::builder(kind, "connect", text)
            .src(&*obj)
            .build();
        let _ = obj.post_message(message);
    }

    /// The last progress message, once: gst-launch waits for it before PLAYING.
    fn progress_done(&self, text: &str) {
        if first(&self.state, |started| &mut started.progress_done) {
            self.progress(gst::ProgressType::Complete, text);
        }
    }

    pub(super) fn not_understood(&self) {
        if first(&self.state, |started| &mut started.not_understood) {
            gst::element_imp_warning!(
                self,
                gst::StreamError::Decode,
                ("the broadcaster sends what this version does not understand; update gst-icd")
            );
        }
    }

    /// What no event tells of.
    pub(super) fn look_around(&self) {
        self.check_progress();
        self.check_silence();
        self.check_losses();
        self.check_timeout();
    }

    /// gst-launch holds the pipeline in PAUSED until the progress is over, and a live source that
    /// is not fed yet has nothing to hold it for.
    fn check_progress(&self) {
        let long = lock(&self.state)
            .as_ref()
            .is_some_and(|s| !s.progress_done && s.began.elapsed() >= PROGRESS);
        if long {
            self.progress_done("Trying to reach the broadcaster");
        }
    }

    /// Survivable: the same reason is not said twice in a row.
    fn warn_once(&self, reason: &str, next: &str) {
        let again = match lock(&self.state).as_mut() {
            Some(started) => started.told.replace(reason.into()).as_deref() == Some(reason),
            None => true,
        };
        if !again {
            gst::element_imp_warning!(self, gst::ResourceError::OpenRead, ("{reason}{next}"));
        }
    }

    /// A broadcaster that is there and sends nothing.
    fn check_silence(&self) {
        let reason = match lock(&self.state).as_ref() {
            Some(started) if started.told.is_none() => {
                let since = started.alive.unwrap_or(started.began);
                (since.elapsed() >= SILENCE)
                    .then(|| nothing_comes(started.status))
                    .flatten()
            }
            _ => None,
        };
        if let Some(reason) = reason {
            self.warn_once(reason, ". Waiting for it");
        }
    }

    /// Whoever sees a broken picture should know where to look.
    fn check_losses(&self) {
        let now = Instant::now();
        let share = match lock(&self.state).as_mut() {
            Some(started) if started.losses.are_due(now) => {
                let stats = started.viewer.snapshot().stats;
                started.losses.count(now, stats.lost, stats.lag.count())
            }
            _ => None,
        };
        if let Some(share) = share {
            gst::element_imp_warning!(
                self,
                gst::ResourceError::Read,
                ("{share} % of the stream did not come in time: the uplinks of broadcaster and viewers, or this downlink, carry less than it takes, or this pipeline stood still. Broadcast at a lower bitrate, raise max-upload-bitrate where it is set, or raise latency here")
            );
        }
    }

    fn status(&self, status: Status) {
        let mut missed = None;
        if let Some(started) = lock(&self.state).as_mut() {
            started.status = status.into();
            if status == Status::Starving {
                // For so long nothing has come.
                let now = Instant::now();
                started.alive = Some(now.checked_sub(STARVING).unwrap_or(now));
            }
            if status == Status::Running {
                started.alive = Some(Instant::now());
                missed = started.told.take();
            }
        }
        if let Some(missed) = missed {
            // gst-launch prints the debug text only.
            gst::element_imp_info!(
                self,
                gst::ResourceError::OpenRead,
                ("The broadcaster is there, the stream comes"),
                ["the stream comes (what was wrong: {missed})"]
            );
        }
        match status {
            Status::Waiting | Status::Running => self.progress_done("Connected"),
            _ => {}
        }
        gst::info!(CAT, imp = self, "{status:?}");
        self.obj().notify("status");
    }

    pub(super) fn happened(&self, event: Event) {
        match event {
            Event::Status(status) => self.status(status),
            Event::Refused(refusal) => self.refused(&refusal),
            Event::Trusted(key) => {
                gst::element_imp_warning!(
                    self,
                    gst::ResourceError::OpenRead,
                    ("the URI names no key, so whoever answers is believed; icd://{key}@… makes sure")
                );
            }
            Event::Unreached(why) => {
                self.progress_done("Trying to reach the broadcaster");
                let (reason, next) = self.explain(&why);
                self.warn_once(&reason, next);
            }
            Event::PeerAdded { id, addr } => {
                let shown = lock(&self.settings).show_addresses;
                gst::info!(CAT, imp = self, "peer {id} added{}", at(addr, shown));
                let structure = gst::Structure::builder("icd-peer-added")
                    .field("id", id.whole())
                    .field_if_some("address", address(addr, shown));
                self.element_message(structure.build());
            }
            Event::PeerRemoved { id, why } => {
                gst::info!(CAT, imp = self, "peer {id} removed: {why}");
                let structure = gst::Structure::builder("icd-peer-removed")
                    .field("id", id.whole())
                    .field("reason", why);
                self.element_message(structure.build());
            }
            Event::Failover {
                stripe,
                from,
                to,
                gap,
            } => {
                gst::info!(CAT, imp = self, "stripe {} comes from {to} now", stripe.0);
                let structure = gst::Structure::builder("icd-failover")
                    .field("stripe", u32::from(stripe.0))
                    .field("from", from.map(|id| id.whole()).unwrap_or_default())
                    .field("to", to.whole())
                    .field("gap-ms", gap.as_millis() as u64);
                self.element_message(structure.build());
            }
            Event::Skipped {
                seq,
                count,
                parent,
                came,
                asked,
                seed,
            } => {
                let parent = parent.map_or("nobody".into(), |id| id.to_string());
                let came = came.map_or("nothing".into(), |seq| seq.0.to_string());
                let also = if seed { " and the broadcaster" } else { "" };
                gst::warning!(
                    CAT,
                    imp = self,
                    "lost {count} pieces from {} on: fed by {parent}, newest from there {came}; asked for it: {asked}{also}",
                    seq.0
                );
            }
            Event::Fault { id, what } => {
                gst::warning!(CAT, imp = self, "peer {id} dropped: {what}");
                Faults::tell(&self.faults, &*self.obj(), &id.whole(), &what);
            }
            Event::Epoch(epoch) => gst::info!(CAT, imp = self, "epoch {}", epoch.0),
            Event::AskAdmission { .. } | Event::TurnedAway { .. } | Event::Drained => {}
        }
    }

    /// Where the URI says that the broadcaster is.
    fn hosts(&self) -> String {
        let settings = lock(&self.settings);
        let hosts = settings.uri.iter().flat_map(|(_, uri)| &uri.hosts);
        let written = hosts.map(|(host, port)| format!("{}:{port}", bracketed(host)));
        written.collect::<Vec<_>>().join(", ")
    }

    /// Why the broadcaster is not reached, and what comes next.
    fn explain(&self, why: &Lost) -> (String, &'static str) {
        const AGAIN: &str = ". Trying again";
        let host = self.hosts();
        let settings = lock(&self.settings);
        let named = settings.uri.as_ref().and_then(|(_, uri)| uri.key);
        match why {
            Lost::WrongKey if named.is_some() => (
                format!(
                    "{host} broadcasts under another key than the URI names: it is refused. Ask the broadcaster for the present URI (and to use key-file, which keeps it)"
                ),
                "",
            ),
            Lost::WrongKey => (
                format!(
                    "{host} broadcasts under another key than when this viewer came: the URI names none, and the first that answered is believed. Start the viewer again to believe the new one"
                ),
                "",
            ),
            Lost::NoHost(_) => (format!("{why}; check the URI"), AGAIN),
            Lost::Bound(_) => (
                format!("{host} is out of reach: {why}; check bind-address"),
                AGAIN,
            ),
            Lost::Other(_) => (
                format!("nobody broadcasts at {host} ({why}); check host, port and firewall (UDP)"),
                AGAIN,
            ),
        }
    }

    fn refused(&self, refusal: &Refusal) {
        let text = match refusal {
            Refusal::Full { retry_s } => {
                self.progress_done("The grid is full");
                let next = format!("; trying again in {retry_s} s");
                self.warn_once("the grid is full", &next);
                return;
            }
            Refusal::Address { retry_s } => {
                self.progress_done("Too many from here");
                let next = format!("; trying again in {retry_s} s");
                self.warn_once(
                    "as many viewers as the broadcaster admits from one address (max-viewers-per-address) are there from this one",
                    &next,
                );
                return;
            }
            Refusal::Denied => "the broadcaster does not admit this viewer; ask there to be let in",
            Refusal::WrongStream => {
                "another stream, with another key, is broadcast there now; ask for the present URI"
            }
            Refusal::Latency { most_ms } => &format!(
                "latency={} is more than the broadcaster keeps of the stream; set at most latency={most_ms} (or a larger buffer-time on icdsink)",
                lock(&self.settings).latency.as_millis()
            ),
            Refusal::Version => {
                "the broadcaster speaks another version of the protocol; update gst-icd"
            }
            Refusal::Token if lock(&self.settings).access.is_set() => {
                "the stream is private, and the access token is not the broadcaster's; ask there for the present one"
            }
            Refusal::Token => {
                "the stream is private; set access-token, token-file, or token=… in the URI to what the broadcaster gives to viewers"
            }
            Refusal::Ticket => "the admission is not valid; start the viewer again",
        };
        let structure = gst::Structure::builder("icd-refused").field("reason", text);
        self.element_message(structure.build());
        if lock(&self.state).as_ref().is_some_and(|s| !s.progress_done) {
            self.progress(gst::ProgressType::Error, text);
        }
        gst::element_imp_error!(self, gst::ResourceError::NotAuthorized, ("{text}"));
    }

    /// An error when no stream has come for `timeout`.
    fn check_timeout(&self) {
        let timeout = lock(&self.settings).timeout;
        if timeout.is_zero() {
            return;
        }
        let mut reason = None;
        let mut status = IcdSrcStatus::Connecting;
        let over = match lock(&self.state).as_mut() {
            Some(started) => {
                reason.clone_from(&started.told);
                status = started.status;
                let flows = matches!(started.status, IcdSrcStatus::Running | IcdSrcStatus::Ended);
                if flows {
                    started.alive = Some(Instant::now());
                }
                // Said once: the error ends the pipeline, unless the application thinks otherwise.
                let over = |alive: &mut Instant| alive.elapsed() >= timeout;
                started.alive.take_if(over).is_some()
            }
            None => false,
        };
        if over {
            let reason = reason.unwrap_or_else(|| match nothing_comes(status) {
                Some(reason) => reason.into(),
                None => format!("check that the broadcaster runs at {}", self.hosts()),
            });
            gst::element_imp_error!(
                self,
                gst::ResourceError::Read,
                (
                    "no stream for {} ms: {}; timeout=0 keeps trying",
                    timeout.as_millis(),
                    reason
                )
            );
        }
    }
}
