//! A congestion controller for connections that carry stripes.
//!
//! Each carries a share of a stream that the node's own uplink queue paces, so it is
//! application-limited: Cubic never grows there and shrinks with each random loss (at 1 % and
//! 150 ms to less than one stream). This one keeps a wide window and yields only when loss is
//! heavy, which says that the pacer's cap is above what the line carries.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory};

/// Bytes in flight that a fresh connection may have: 40 ms of 100 Mbit/s.
const INITIAL: u64 = 512 * 1024;
const MOST: u64 = 4 * 1024 * 1024;
const LEAST: u64 = 32 * 1024;
/// Loss beyond this share of what was sent since the last look is congestion.
const HEAVY_LOSS: f64 = 0.10;
/// Loss is judged over at least this much.
const JUDGE_BYTES: u64 = 128 * 1024;

#[derive(Debug, Clone, Default)]
pub(crate) struct StripeCongestion;

impl ControllerFactory for StripeCongestion {
    fn build(self: Arc<Self>, _: Instant, _: u16) -> Box<dyn Controller> {
        Box::new(State {
            window: INITIAL,
            acked: 0,
            lost: 0,
        })
    }
}

#[derive(Debug, Clone)]
struct State {
    window: u64,
    acked: u64,
    lost: u64,
}

impl State {
    fn judge(&mut self) {
        let seen = self.acked + self.lost;
        if seen < JUDGE_BYTES {
            return;
        }
        self.window = if self.lost as f64 > seen as f64 * HEAVY_LOSS {
            (self.window * 7 / 10).max(LEAST)
        } else {
            (self.window * 5 / 4).min(MOST)
        };
        (self.acked, self.lost) = (0, 0);
    }
}

impl Controller for State {
    fn on_ack(
        &mut self,
        _: Instant,
        _: Instant,
        bytes: u64,
        _: bool,
        _: &quinn_proto::RttEstimator,
    ) {
        self.acked += bytes;
        self.judge();
    }

    fn on_congestion_event(&mut self, _: Instant, _: Instant, persistent: bool, lost_bytes: u64) {
        self.lost += lost_bytes;
        if persistent {
            self.window = (self.window / 2).max(LEAST);
        }
        self.judge();
    }

    fn on_mtu_update(&mut self, _: u16) {}

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_loss_is_borne_and_heavy_loss_is_not() {
        let mut state = State {
            window: INITIAL,
            acked: 0,
            lost: 0,
        };
        let now = Instant::now();
        for _ in 0..1000 {
            state.acked += 98_000;
            state.on_congestion_event(now, now, false, 2_000);
        }
        assert_eq!(state.window(), MOST);
        for _ in 0..1000 {
            state.acked += 70_000;
            state.on_congestion_event(now, now, false, 30_000);
        }
        assert_eq!(state.window(), LEAST);
    }
}
