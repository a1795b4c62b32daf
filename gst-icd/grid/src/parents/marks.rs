//! Nodes that fed a stripe badly: they are asked after all others, for a while.
//!
//! A parent that takes a child and keeps the stripe back, or parts of it, lives and says so; nothing but
//! what comes from it tells. It may be honest and starved itself: so it is not shut out, and the first
//! time is soon forgotten.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::ids::NodeId;

/// The first mark lasts so long, each further one twice as long as the one before.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);
/// Nodes with a mark; of more, those go whose marks end first.
const MOST: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Mark {
    count: u32,
    until: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Marks(BTreeMap<NodeId, Mark>);

impl Marks {
    pub(super) fn add(&mut self, node: NodeId, now: Instant) {
        let count = self.0.get(&node).map_or(0, |mark| mark.count);
        let lasts = FIRST * 2u32.saturating_pow(count.min(16));
        let until = now + lasts.min(LONGEST);
        let count = count.saturating_add(1);
        self.0.insert(node, Mark { count, until });
        if self.0.len() > MOST {
            let first = self.0.iter().min_by_key(|(_, mark)| mark.until);
            if let Some(first) = first.map(|(node, _)| *node) {
                self.0.remove(&first);
            }
        }
    }

    /// How often it did so, as long as that counts. How often is remembered for as long again.
    pub(super) fn of(&self, node: &NodeId, now: Instant) -> u32 {
        let mark = self.0.get(node).filter(|mark| mark.until > now);
        mark.map_or(0, |mark| mark.count)
    }

    /// How often it did so, as long as that is remembered.
    pub(super) fn ever(&self, node: &NodeId) -> u32 {
        self.0.get(node).map_or(0, |mark| mark.count)
    }

    pub(super) fn forget(&mut self, now: Instant) {
        self.0.retain(|_, mark| mark.until + LONGEST > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_lasts_twice_as_long_each_time() {
        let now = Instant::now();
        let mut marks = Marks::default();
        let node = NodeId([1; 32]);
        marks.add(node, now);
        assert_eq!((marks.of(&node, now), marks.of(&node, now + FIRST)), (1, 0));
        let later = now + FIRST;
        marks.add(node, later);
        assert_eq!(marks.of(&node, later + FIRST), 2);
        assert_eq!(marks.of(&node, later + 2 * FIRST), 0);
        marks.forget(later + 2 * FIRST + LONGEST);
        marks.add(node, later + 2 * FIRST + LONGEST);
        assert_eq!(marks.of(&node, later + 3 * FIRST + LONGEST), 0, "long ago");
    }

    #[test]
    fn they_stay_few() {
        let now = Instant::now();
        let mut marks = Marks::default();
        for n in 0..200 {
            marks.add(NodeId([n; 32]), now);
        }
        assert_eq!(marks.0.len(), MOST);
    }
}
