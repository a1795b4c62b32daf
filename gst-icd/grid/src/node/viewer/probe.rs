//! What the own line carries, before anybody is fed: padding goes to the seed in one train between two
//! pings, and the seed's clock in its answers tells how far apart the two came (packet trains: Jain and
//! Dovrolis, 2002). It is a first guess; what follows shows at the children (see [`crate::capacity`]).

use super::*;

/// Messages of padding in a train, and bytes in each: 20 ms of 10 Mbit/s.
const TRAIN: usize = 22;
const PAD: usize = 1100;
/// A message travels with so much around it.
const AROUND: usize = 60;
/// So many trains; the least that one found counts.
const TRAINS: usize = 2;
/// Who plays at once does not let its start wait behind a train.
const AFTER_START: Duration = Duration::from_millis(500);
/// A train that is not answered by then found that a line carries less than that.
const PATIENCE: Duration = Duration::from_secs(2);

/// Trains, and what they found.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// The pings around the one that is on its way, and when it left.
    away: Option<(u32, u32, Instant)>,
    /// When the first of them came to the seed, by its clock.
    began: Option<SenderTime>,
    /// Bytes per second that trains found.
    found: Vec<f64>,
}

impl Probe {
    fn is_done(&self) -> bool {
        self.found.len() >= TRAINS
    }
}

impl Viewer {
    /// Sends a train, if it is time for one.
    pub(super) fn probe(&mut self, now: Instant) {
        let wanted = self.settings.measure && self.relay.gives && !self.probe.is_done();
        let Some(seed) = self.seed.filter(|_| wanted && self.seed_welcomed) else {
            return;
        };
        let early = self
            .started
            .is_some_and(|(at, _)| now.saturating_duration_since(at) < AFTER_START);
        if early {
            return;
        }
        if let Some((_, _, at)) = self.probe.away {
            if now.saturating_duration_since(at) > PATIENCE {
                self.probe.away = None;
                self.train_took(PATIENCE, now);
            }
            return;
        }
        let first = self.relay.ping(seed, now);
        let pad = Message::Pad(Bytes::from_static(&[0; PAD]));
        for _ in 0..TRAIN {
            self.relay.send(seed, &pad);
        }
        let last = self.relay.ping(seed, now);
        self.probe.away = Some((first, last, now));
        self.probe.began = None;
    }

    /// The seed says when a ping came.
    pub(super) fn probed(&mut self, id: u32, time: SenderTime, now: Instant) {
        let Some((first, last, _)) = self.probe.away else {
            return;
        };
        if id == first {
            self.probe.began = Some(time);
        }
        let Some(began) = self.probe.began.filter(|_| id == last) else {
            return;
        };
        self.probe.away = None;
        self.train_took(time.since(began), now);
    }

    fn train_took(&mut self, took: Duration, now: Instant) {
        let took = took.max(Duration::from_micros(100));
        let bytes = (TRAIN * (PAD + AROUND)) as f64;
        self.probe.found.push(bytes / took.as_secs_f64());
        if self.probe.is_done() {
            let least = self.probe.found.iter().copied().fold(f64::MAX, f64::min);
            self.relay.uplink.found(least);
            self.relay.measure(now);
            // Newcomers may be sent here, and this one need not wait if it brings more than it takes.
            self.report(now);
        }
    }
}
