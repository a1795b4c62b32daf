//! Two nodes that have a common acquaintance meet.
//!
//! A NAT lets in only what comes from where its host sent to (RFC 4787, section 5), so both have to send, at
//! the same time. Who wants to reach another asks who named it; that one tells the other where the asker is.
//! Both send small probes from the sockets of their endpoints, and who asked dials as soon as a probe of the
//! other has come ("hole punching", RFC 5128, section 3.3). Nothing but probes is sent to an address because a
//! neighbour named it: to that of somebody who knows nothing of it, at most twenty of 32 bytes each.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::relay::Relay;
use crate::bucket::Bucket;
use crate::ids::{Meeting, NodeId, PeerId};
use crate::message::{MAX_PLACES, Message};
use crate::node::Action;

/// Introductions that one peer may ask for, at once and each second: all stripes at once, and the warm ones.
const MAX_ASKED: u32 = 32;
const ASKED: f64 = 4.0;
/// To which one peer is named, at once and each second: a crowd comes to the strong.
const MAX_NAMED: u32 = 64;
const NAMED: f64 = 16.0;
/// That are taken of one neighbour, at once and each second. The seed may name more.
const MAX_TAKEN: u32 = 16;
const TAKEN: f64 = 4.0;

/// Lists of viewers that one neighbour is given, at once and each second.
const MAX_FOUND: u32 = 4;
const FOUND: f64 = 0.5;

/// What one peer has to do with introductions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meets {
    asked: Bucket,
    named: Bucket,
    taken: Bucket,
    found: Bucket,
}

impl Meets {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            asked: Bucket::new(MAX_ASKED, now),
            named: Bucket::new(MAX_NAMED, now),
            taken: Bucket::new(MAX_TAKEN, now),
            found: Bucket::new(MAX_FOUND, now),
        }
    }
}

/// Who is connected, by the short of its key; and names for meetings.
#[derive(Debug)]
pub(super) struct Acquaintances {
    known: BTreeMap<u64, PeerId>,
    /// Names that nobody guesses are made of it.
    secret: [u8; 32],
    meetings: u64,
}

impl Acquaintances {
    pub(super) fn new(random: u64) -> Self {
        Self {
            known: BTreeMap::new(),
            secret: blake3::derive_key("icd/1 meetings", &random.to_le_bytes()),
            meetings: 0,
        }
    }

    pub(super) fn add(&mut self, id: NodeId, peer: PeerId) {
        self.known.insert(id.short(), peer);
    }

    pub(super) fn remove(&mut self, id: NodeId, peer: PeerId) {
        if self.known.get(&id.short()) == Some(&peer) {
            self.known.remove(&id.short());
        }
    }

    /// A name for another meeting.
    pub(super) fn meeting(&mut self) -> Meeting {
        self.meetings += 1;
        let hash = blake3::keyed_hash(&self.secret, &self.meetings.to_le_bytes());
        let mut name = [0; 8];
        name.copy_from_slice(&hash.as_bytes()[..8]);
        Meeting(name)
    }
}

/// Whether an address is one within a network, or of the machine itself.
fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unique_local(),
    }
}

/// Whether a neighbour may name an address to a viewer that the seed sees at another: one that can be
/// somebody's, and of a private network only within one.
pub(super) fn may_name(addr: SocketAddr, seen_at: Option<SocketAddr>) -> bool {
    let ip = addr.ip();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    let nobody = ip.is_unspecified() || ip.is_multicast() || broadcast || addr.port() == 0;
    let own = seen_at.is_some_and(|own| is_local(own.ip()));
    !nobody && (own || !is_local(ip))
}

/// Whether a viewer may say that it is there in its own network: its neighbours are sent there by the seed.
pub(super) fn may_be_home(addr: &SocketAddr) -> bool {
    is_local(addr.ip()) && !addr.ip().is_loopback() && addr.port() != 0
}

impl Relay {
    /// The connection to the node with this short.
    pub(super) fn acquainted(&self, short: u64) -> Option<PeerId> {
        self.acquaintances.known.get(&short).copied()
    }

    /// A peer wants to meet somebody.
    pub(super) fn introduce(&mut self, asker: PeerId, node: u64, meeting: Meeting, now: Instant) {
        let other = self.acquainted(node).filter(|other| *other != asker);
        if !other.is_some_and(|other| self.name(asker, other, meeting, now)) {
            self.send(asker, &Message::Stranger { meeting });
        }
    }

    /// Names a peer to another, if that one is there for others and neither too often.
    fn name(&mut self, asker: PeerId, other: PeerId, meeting: Meeting, now: Instant) -> bool {
        let Some(from) = self.peers.get_mut(&asker) else {
            return false;
        };
        let asks = from.meets.asked.take(ASKED, MAX_ASKED, now);
        let (seen_at, lan) = (from.seen_at, from.lan);
        let Some(to) = self.peers.get_mut(&other) else {
            return false;
        };
        let there = to.ready && to.relays && !to.seed;
        if !asks || !there || !to.meets.named.take(NAMED, MAX_NAMED, now) {
            return false;
        }
        // Behind the same NAT they may be neighbours.
        let at_home = to.seen_at.ip() == seen_at.ip();
        let (lan, others) = (lan.filter(|_| at_home), to.lan.filter(|_| at_home));
        let addrs = lan.into_iter().chain([seen_at]).collect();
        self.send(other, &Message::Meet { addrs, meeting });
        if let Some(addr) = others {
            let addrs = vec![addr];
            self.send(asker, &Message::Meet { addrs, meeting });
        }
        true
    }

    /// Whether a neighbour may be told of others once more.
    pub(super) fn may_find(&mut self, peer: PeerId, now: Instant) -> bool {
        let state = self.peers.get_mut(&peer);
        state.is_some_and(|p| p.meets.found.take(FOUND, MAX_FOUND, now))
    }

    /// Somebody wants to be reached, a peer says. The seed, which is trusted, names places in the own network,
    /// and as many as it likes.
    pub(super) fn meet(
        &mut self,
        peer: PeerId,
        mut addrs: Vec<SocketAddr>,
        meeting: Meeting,
        seen_at: Option<SocketAddr>,
        now: Instant,
    ) {
        let Some(from) = self.peers.get_mut(&peer) else {
            return;
        };
        if !from.seed && !from.meets.taken.take(TAKEN, MAX_TAKEN, now) {
            return;
        }
        if !from.seed {
            addrs.retain(|addr| may_name(*addr, seen_at));
        }
        addrs.truncate(MAX_PLACES);
        if !addrs.is_empty() {
            self.act(Action::Probe { addrs, meeting });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_names_no_place_in_a_network_that_is_not_its_own() {
        let may =
            |addr: &str, own: &str| may_name(addr.parse().unwrap(), Some(own.parse().unwrap()));
        assert!(may("198.51.100.7:7423", "203.0.113.5:1"));
        assert!(may("[2001:db8::7]:7423", "203.0.113.5:1"));
        for addr in ["192.168.1.1:53", "127.0.0.1:80", "[fd00::1]:1", "[::1]:1"] {
            assert!(!may(addr, "203.0.113.5:1"), "{addr}");
            assert!(may(addr, "10.0.0.5:1"), "{addr}");
        }
        for addr in [
            "0.0.0.0:1",
            "224.0.0.251:5353",
            "255.255.255.255:9",
            "198.51.100.7:0",
        ] {
            assert!(!may(addr, "10.0.0.5:1"), "{addr}");
        }
        assert!(!may_name("10.0.0.1:1".parse().unwrap(), None));
    }

    #[test]
    fn nobody_is_at_home_at_a_public_address_or_on_the_others_machine() {
        let may = |addr: &str| may_be_home(&addr.parse().unwrap());
        assert!(may("192.168.1.7:7423") && may("[fd00::7]:7423"));
        assert!(!may("198.51.100.7:443") && !may("127.0.0.1:80") && !may("10.0.0.1:0"));
    }

    #[test]
    fn names_of_meetings_are_all_others() {
        let mut one = Acquaintances::new(1);
        let mut two = Acquaintances::new(2);
        let mut names: Vec<_> = (0..100).map(|_| one.meeting().0).collect();
        names.extend((0..100).map(|_| two.meeting().0));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 200);
    }
}
