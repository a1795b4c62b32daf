//! Viewers that the application excludes.
//!
//! The seed lets them in no more, and tells the grid by a signed list, as long as their tickets may hold.

use std::collections::VecDeque;

use super::*;
use crate::record::{Bans, MAX_BANS};

/// Remembered; of more, the first may come again.
const MAX_REMEMBERED: usize = 1024;
/// The grid is told at most this often: who excludes many at once excludes them by one list.
const TELL: Duration = BEACON;

/// See the module.
#[derive(Debug)]
pub(super) struct Excluded {
    /// And until when a ticket of theirs may hold; the latest last.
    all: VecDeque<(NodeId, SenderTime)>,
    version: u32,
    told: Option<Instant>,
    /// Somebody is new on the list, or the epoch is.
    untold: bool,
}

impl Excluded {
    pub(super) fn new() -> Self {
        Self {
            all: VecDeque::new(),
            version: 0,
            told: None,
            untold: false,
        }
    }

    pub(super) fn has(&self, node: NodeId) -> bool {
        self.all.iter().any(|(banned, _)| *banned == node)
    }
}

impl Seed {
    /// Excludes a viewer, whether it is there or not. Again: its time begins anew.
    pub(super) fn ban(&mut self, node: NodeId, now: Instant) {
        if node == self.relay.me {
            return;
        }
        let until = self.ticket_expiry(now);
        let bans = &mut self.excluded;
        bans.all.retain(|(banned, _)| *banned != node);
        bans.all.push_back((node, until));
        if bans.all.len() > MAX_REMEMBERED {
            bans.all.pop_front();
        }
        bans.untold = true;
        let there = self.relay.peers.iter().filter(|(_, p)| p.id == node);
        let there: Vec<_> = there.map(|(peer, _)| *peer).collect();
        for peer in there {
            self.refuse(peer, Refusal::Denied);
            self.gone(peer, "it was excluded");
        }
        self.tell_excluded(now);
    }

    /// Tells the grid, if there is anything to tell and the last time is long enough ago.
    pub(super) fn tell_excluded(&mut self, now: Instant) {
        let rests = |at: Instant| now.saturating_duration_since(at) < TELL;
        if !self.excluded.untold || self.excluded.told.is_some_and(rests) {
            return;
        }
        self.excluded.untold = false;
        self.excluded.told = Some(now);
        self.sign_excluded(now);
    }

    /// A new epoch began: the lists of the former one no longer count. Who starts in it hears of this
    /// one; those that are told of a new start soon feed each other, and then it goes down the trees.
    pub(super) fn excluded_in_new_epoch(&mut self, now: Instant) {
        if !self.excluded.all.is_empty() {
            self.sign_excluded(now);
            self.excluded.untold = true;
        }
    }

    fn sign_excluded(&mut self, now: Instant) {
        let time = self.time(now);
        self.excluded.version = self.excluded.version.saturating_add(1);
        let latest = self.excluded.all.iter().rev();
        let hold = latest.filter(|(_, until)| *until >= time);
        let bans = Bans {
            epoch: self.epoch,
            version: self.excluded.version,
            nodes: hold.take(MAX_BANS).map(|(node, _)| *node).collect(),
        };
        let signed = Signed::sign(&bans, &*self.signer);
        self.relay.learn_bans(signed, bans);
    }
}
