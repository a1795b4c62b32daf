//! Viewers that the broadcaster excludes, as every node of the grid knows them.
//!
//! The newest list that the seed signed holds. A node passes it on once, down two trees; one that heard
//! nothing, as who was excluded kept it back, sees in a beacon that there is one, and asks whoever sent
//! that.

use std::collections::BTreeSet;

use crate::ids::{Epoch, NodeId, PeerId, StripeId};
use crate::message::Message;
use crate::node::relay::Relay;
use crate::record::{Bans, MAX_BANS, Signed};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Banned {
    signed: Option<Signed<Bans>>,
    epoch: Epoch,
    version: u32,
    nodes: BTreeSet<NodeId>,
}

impl Banned {
    /// Keeps a verified list. False if it is not newer than the one that is known.
    fn learn(&mut self, signed: Signed<Bans>, bans: Bans) -> bool {
        if (bans.epoch, bans.version) <= (self.epoch, self.version) {
            return false;
        }
        *self = Self {
            signed: Some(signed),
            epoch: bans.epoch,
            version: bans.version,
            nodes: bans.nodes.into_iter().take(MAX_BANS).collect(),
        };
        true
    }

    pub(super) fn has(&self, node: &NodeId) -> bool {
        self.nodes.contains(node)
    }

    /// Which list of this life of the seed is known; zero for none.
    pub(super) fn version(&self, epoch: Epoch) -> u32 {
        if self.epoch == epoch { self.version } else { 0 }
    }

    /// Its bytes on the wire.
    pub(super) fn bytes(&self) -> usize {
        self.signed.as_ref().map_or(0, Signed::bytes)
    }

    pub(super) fn message(&self) -> Option<Message> {
        self.signed.clone().map(Message::Bans)
    }
}

impl Relay {
    /// Keeps a verified list and passes it on. False if it is no news. Connections to those on it are
    /// for the caller to end.
    pub(super) fn learn_bans(&mut self, signed: Signed<Bans>, bans: Bans) -> bool {
        let version = u64::from(bans.version);
        if !self.banned.learn(signed, bans) {
            return false;
        }
        let stripes = u64::from(self.stripes().max(1));
        let trees = [version, version + stripes / 2].map(|k| StripeId((k % stripes) as u8));
        let children = trees.iter().flat_map(|k| self.children.of(*k));
        let children: BTreeSet<_> = children.collect();
        for child in children {
            self.tell_bans(child);
        }
        true
    }

    /// Tells one node who is excluded, if anybody is.
    pub(super) fn tell_bans(&mut self, peer: PeerId) {
        if let Some(message) = self.banned.message() {
            self.send(peer, &message);
        }
    }

    /// Connections to those that are excluded.
    pub(super) fn excluded(&self) -> Vec<PeerId> {
        let all = self.peers.iter();
        let excluded = all.filter(|(_, p)| !p.seed && self.banned.has(&p.id));
        excluded.map(|(peer, _)| *peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::trust::Ed25519Signer;

    #[test]
    fn the_newest_list_holds_and_no_older_one_takes_its_place() {
        let signer = Ed25519Signer::new(SigningKey::from_bytes(&[1; 32]));
        let mut banned = Banned::default();
        let mut learns = |epoch, version, node: u8| {
            let bans = Bans {
                epoch: Epoch(epoch),
                version,
                nodes: vec![NodeId([node; 32])],
            };
            let news = banned.learn(Signed::sign(&bans, &signer), bans);
            (news, banned.has(&NodeId([node; 32])))
        };
        assert_eq!(learns(5, 2, 1), (true, true));
        assert_eq!(learns(5, 2, 2), (false, false));
        assert_eq!(learns(5, 1, 3), (false, false));
        assert_eq!(learns(4, 9, 4), (false, false), "of an earlier life");
        assert_eq!(learns(6, 1, 5), (true, true));
        assert_eq!(banned.version(Epoch(6)), 1);
        assert_eq!(banned.version(Epoch(7)), 0);
        assert!(!banned.has(&NodeId([1; 32])), "it is no longer excluded");
    }
}
