//! Whom this viewer could ask: nodes that the seed named, and how trying them went.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::ids::NodeId;
use crate::message::Candidate;

/// Nodes remembered; the least recently named go first.
const MAX_KNOWN: usize = 64;
/// Forgers remembered. Each had a ticket of the seed, so that there are not many.
const MAX_BANNED: usize = 256;
/// How old a hint is against what the seed names.
const HINTED: Duration = Duration::from_secs(3600);
/// Slots beyond which more make no difference.
const ROOMY: u16 = 8;
/// A node that could not be reached or fell silent is left alone for this long, doubled at
/// every repetition.
const REST: Duration = Duration::from_secs(5);
const LONGEST_REST: Duration = Duration::from_secs(300);
/// Where this node itself may have been cut off.
const SHORT_REST: Duration = Duration::from_millis(500);
/// Who can't be reached at all, twice, is left alone as if it had failed so often: for 160 s. Once it may be
/// that nobody told it.
const FAR: u32 = 5;

#[derive(Debug, Clone)]
struct Known {
    addr: SocketAddr,
    spare: u16,
    named: Instant,
    rest_until: Option<Instant>,
    failures: u32,
}

impl Known {
    /// Elsewhere it may be reached.
    fn is_at(&mut self, addr: SocketAddr) {
        if std::mem::replace(&mut self.addr, addr) != addr {
            self.rest_until = None;
            self.failures = 0;
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Candidates {
    known: BTreeMap<NodeId, Known>,
    /// Who forged, the latest last.
    banned: VecDeque<NodeId>,
}

impl Candidates {
    /// The seed named these.
    pub fn named(&mut self, list: &[Candidate], me: NodeId, now: Instant) {
        let usable = |c: &&Candidate| c.node != me && !self.banned.contains(&c.node);
        let usable: Vec<_> = list.iter().filter(usable).collect();
        for candidate in usable {
            let known = self.known.entry(candidate.node).or_insert(Known {
                addr: candidate.addr,
                spare: 0,
                named: now,
                rest_until: None,
                failures: 0,
            });
            known.is_at(candidate.addr);
            known.spare = candidate.spare;
            known.named = now;
        }
        self.trim();
    }

    /// A neighbour named one. False if it rests: it was tried in vain. Who is only hinted at goes
    /// first where there are too many, so that no neighbour can push out whom the seed named; nor does it
    /// say where that one is.
    pub fn hinted(&mut self, candidate: &Candidate, now: Instant) -> bool {
        let known = self.known.entry(candidate.node).or_insert(Known {
            addr: candidate.addr,
            spare: 0,
            named: now.checked_sub(HINTED).unwrap_or(now),
            rest_until: None,
            failures: 0,
        });
        let rests = known.rest_until.is_some_and(|at| at > now);
        self.trim();
        !rests
    }

    fn trim(&mut self) {
        while self.known.len() > MAX_KNOWN {
            let oldest = self.known.iter().min_by_key(|(_, k)| k.named);
            let Some(oldest) = oldest.map(|(id, _)| *id) else {
                break;
            };
            self.known.remove(&oldest);
        }
    }

    /// The next ones to dial, those with room first, and not the same to everybody.
    pub fn to_dial(
        &self,
        count: usize,
        connected: impl Fn(&NodeId) -> bool,
        rng: &mut fastrand::Rng,
        now: Instant,
    ) -> Vec<(NodeId, SocketAddr)> {
        let mut list: Vec<_> = self
            .known
            .iter()
            .filter(|(id, k)| k.rest_until.is_none_or(|at| at <= now) && !connected(id))
            .collect();
        rng.shuffle(&mut list);
        // Beyond a few it is only a claim.
        list.sort_by_key(|(_, k)| std::cmp::Reverse(k.spare.min(ROOMY)));
        list.iter()
            .take(count)
            .map(|(id, k)| (**id, k.addr))
            .collect()
    }

    /// It could not be reached, or fell silent.
    pub fn failed(&mut self, node: NodeId, now: Instant) {
        if let Some(known) = self.known.get_mut(&node) {
            let rest = REST * 2u32.saturating_pow(known.failures.min(6));
            known.rest_until = Some(now + rest.min(LONGEST_REST));
            known.failures += 1;
        }
    }

    /// It is not dialed again at once, but that counts for nothing.
    pub fn rests(&mut self, node: NodeId, now: Instant) {
        if let Some(known) = self.known.get_mut(&node) {
            known.rest_until = known.rest_until.max(Some(now + SHORT_REST));
        }
    }

    /// No way to it was found: its NAT and the own may never let each other in.
    pub fn unmet(&mut self, node: NodeId, now: Instant) {
        let again = self.known.get_mut(&node).filter(|known| known.failures > 0);
        if let Some(known) = again {
            known.failures = known.failures.max(FAR);
        }
        self.failed(node, now);
    }

    /// It was reached.
    pub fn reached(&mut self, node: NodeId) {
        if let Some(known) = self.known.get_mut(&node) {
            known.failures = 0;
        }
    }

    /// It forged: never again in this stream.
    pub fn ban(&mut self, node: NodeId) {
        self.known.remove(&node);
        if !self.banned.contains(&node) {
            self.banned.push_back(node);
        }
        if self.banned.len() > MAX_BANNED {
            self.banned.pop_front();
        }
    }

    /// Whether it forged.
    pub fn banned(&self, node: &NodeId) -> bool {
        self.banned.contains(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(n: u8, spare: u16) -> Candidate {
        Candidate {
            node: NodeId([n; 32]),
            addr: ([127, 0, 0, 1], 1000 + u16::from(n)).into(),
            spare,
        }
    }

    #[test]
    fn the_roomy_come_first_and_the_failed_rest() {
        let now = Instant::now();
        let mut book = Candidates::default();
        book.named(
            &[candidate(1, 1), candidate(2, 9), candidate(3, 5)],
            NodeId([3; 32]),
            now,
        );
        let order = |b: &Candidates, at| {
            b.to_dial(5, |_| false, &mut fastrand::Rng::with_seed(1), at)
                .iter()
                .map(|(id, _)| id.0[0])
                .collect::<Vec<_>>()
        };
        assert_eq!(order(&book, now), [2, 1], "never oneself");
        book.failed(NodeId([2; 32]), now);
        assert_eq!(order(&book, now), [1]);
        assert_eq!(order(&book, now + REST), [2, 1]);
        book.unmet(NodeId([2; 32]), now);
        assert_eq!(
            order(&book, now + Duration::from_secs(120)),
            [1],
            "for long"
        );
        let elsewhere = Candidate {
            addr: ([127, 0, 0, 2], 7).into(),
            ..candidate(2, 9)
        };
        assert!(!book.hinted(&elsewhere, now), "the seed knows where it is");
        book.named(&[elsewhere], NodeId([3; 32]), now);
        assert_eq!(order(&book, now), [2, 1], "there it may be reached");
        book.ban(NodeId([2; 32]));
        book.named(&[candidate(2, 9)], NodeId([3; 32]), now);
        assert!(book.banned(&NodeId([2; 32])));
        assert_eq!(order(&book, now + LONGEST_REST), [1]);
    }

    #[test]
    fn the_book_stays_small() {
        let now = Instant::now();
        let mut book = Candidates::default();
        for n in 0..=255 {
            book.named(&[candidate(n, 1)], NodeId([0; 32]), now);
        }
        for n in 0..1000_u16 {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&n.to_le_bytes());
            book.ban(NodeId(id));
        }
        book.named(&[candidate(200, 1)], NodeId([0; 32]), now);
        assert!(book.known.len() <= MAX_KNOWN && book.banned.len() <= MAX_BANNED);
        assert!(
            book.known.contains_key(&NodeId([200; 32])),
            "honest ones stay"
        );
    }
}
