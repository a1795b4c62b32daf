//! Whom this viewer could ask: nodes that the seed named, and how trying them went.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::ids::NodeId;
use crate::message::Candidate;

/// Nodes remembered; the least recently named go first.
const MAX_KNOWN: usize = 64;
/// A node that could not be reached or fell silent is left alone for this long, doubled at
/// every repetition.
const REST: Duration = Duration::from_secs(5);
const LONGEST_REST: Duration = Duration::from_secs(300);

#[derive(Debug, Clone)]
struct Known {
    addr: SocketAddr,
    spare: u16,
    named: Instant,
    rest_until: Option<Instant>,
    failures: u32,
    banned: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Candidates {
    known: BTreeMap<NodeId, Known>,
}

impl Candidates {
    /// The seed named these.
    pub fn named(&mut self, list: &[Candidate], me: NodeId, now: Instant) {
        for candidate in list.iter().filter(|c| c.node != me) {
            let known = self.known.entry(candidate.node).or_insert(Known {
                addr: candidate.addr,
                spare: 0,
                named: now,
                rest_until: None,
                failures: 0,
                banned: false,
            });
            known.addr = candidate.addr;
            known.spare = candidate.spare;
            known.named = now;
        }
        while self.known.len() > MAX_KNOWN {
            let Some(oldest) = self
                .known
                .iter()
                .filter(|(_, k)| !k.banned)
                .min_by_key(|(_, k)| k.named)
                .map(|(id, _)| *id)
            else {
                break;
            };
            self.known.remove(&oldest);
        }
    }

    /// The next ones to dial, those with room first.
    pub fn to_dial(
        &self,
        count: usize,
        connected: impl Fn(&NodeId) -> bool,
        now: Instant,
    ) -> Vec<(NodeId, SocketAddr)> {
        let mut list: Vec<_> = self
            .known
            .iter()
            .filter(|(id, k)| {
                !k.banned && k.rest_until.is_none_or(|at| at <= now) && !connected(id)
            })
            .collect();
        list.sort_by_key(|(_, k)| std::cmp::Reverse(k.spare));
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

    /// It was reached.
    pub fn reached(&mut self, node: NodeId) {
        if let Some(known) = self.known.get_mut(&node) {
            known.failures = 0;
        }
    }

    /// It forged: never again in this stream.
    pub fn ban(&mut self, node: NodeId, addr: SocketAddr, now: Instant) {
        self.known
            .entry(node)
            .or_insert(Known {
                addr,
                spare: 0,
                named: now,
                rest_until: None,
                failures: 0,
                banned: true,
            })
            .banned = true;
    }

    /// Whether it forged.
    pub fn banned(&self, node: &NodeId) -> bool {
        self.known.get(node).is_some_and(|k| k.banned)
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
            b.to_dial(5, |_| false, at)
                .iter()
                .map(|(id, _)| id.0[0])
                .collect::<Vec<_>>()
        };
        assert_eq!(order(&book, now), [2, 1], "never oneself");
        book.failed(NodeId([2; 32]), now);
        assert_eq!(order(&book, now), [1]);
        assert_eq!(order(&book, now + REST), [2, 1]);
        book.ban(NodeId([2; 32]), candidate(2, 0).addr, now);
        assert_eq!(order(&book, now + LONGEST_REST), [1]);
    }

    #[test]
    fn the_book_stays_small() {
        let now = Instant::now();
        let mut book = Candidates::default();
        for n in 0..=255 {
            book.named(&[candidate(n, 1)], NodeId([0; 32]), now);
        }
        assert!(book.known.len() <= MAX_KNOWN);
    }
}
