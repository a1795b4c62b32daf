//! Viewers that the application excludes.
//!
//! The seed lets them in no more, and tells the grid by a signed record, which goes down two trees at once
//! and others in the next seconds: who was fed by the one that is excluded hears of it when others feed it.
//! Newcomers get it with their welcome.

use super::*;

/// Remembered; of more, the oldest may come again.
const MAX_BANS: usize = 256;
/// A newcomer is told of so many, the latest.
const MAX_TOLD: usize = 64;
/// Told so many times, a second apart.
const TIMES: u8 = 5;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Bans {
    all: std::collections::VecDeque<(Ban, Signed<Ban>)>,
    /// Those that are still to be told, and how often.
    fresh: Vec<(Signed<Ban>, u8)>,
}

impl Bans {
    pub(super) fn has(&self, node: NodeId) -> bool {
        self.all.iter().any(|(ban, _)| ban.node == node)
    }
}

impl Seed {
    /// Excludes a viewer, whether it is there or not.
    pub(super) fn ban(&mut self, node: NodeId, now: Instant) {
        if self.bans.has(node) {
            return;
        }
        let ban = Ban {
            node,
            until: self.ticket_expiry(now),
        };
        let signed = Signed::sign(&ban, &*self.signer);
        self.bans.all.push_back((ban, signed.clone()));
        if self.bans.all.len() > MAX_BANS {
            self.bans.all.pop_front();
        }
        let there = self.relay.peers.iter().filter(|(_, p)| p.id == node);
        let there: Vec<_> = there.map(|(peer, _)| *peer).collect();
        for peer in there {
            self.refuse(peer, Refusal::Denied);
            self.gone(peer, "it was excluded");
        }
        let mut fresh = (signed, TIMES);
        self.tell_ban(&mut fresh);
        self.bans.fresh.push(fresh);
    }

    fn tell_ban(&mut self, (ban, left): &mut (Signed<Ban>, u8)) {
        let stripes = self.relay.stripes().max(1);
        *left -= 1;
        for stripe in [*left, *left + stripes / 2] {
            self.relay.spread_ban(StripeId(stripe % stripes), ban);
        }
    }

    /// Once a second, as long as there is any.
    pub(super) fn tell_bans(&mut self) {
        let mut fresh = std::mem::take(&mut self.bans.fresh);
        for ban in &mut fresh {
            self.tell_ban(ban);
        }
        fresh.retain(|(_, left)| *left > 0);
        self.bans.fresh = fresh;
    }

    /// Tells a newcomer, as long as tickets of those that are excluded may hold.
    pub(super) fn tell_newcomer(&mut self, peer: PeerId, now: Instant) {
        let time = self.time(now);
        let bans = self.bans.all.iter().rev().take(MAX_TOLD);
        let hold = bans.filter(|(ban, _)| ban.until >= time);
        let bans: Vec<_> = hold.map(|(_, signed)| signed.clone()).collect();
        for ban in bans {
            let stripe = StripeId(0);
            self.relay.send(peer, &Message::Ban { stripe, ban });
        }
    }
}
