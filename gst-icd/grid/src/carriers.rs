//! Who carries the stream, as those say whom it feeds.
//!
//! What a node says of its own uplink is only a claim; a root that takes a stripe and keeps it would leave
//! the whole grid without it. So the seed counts, for each node and stripe, the viewers that are fed well
//! by it (design: distribution, 7: the strength of a node is what its children report).

use std::collections::{BTreeMap, HashMap};

use crate::message::DEEPEST;

/// Everybody is trusted with so many times what it carries, and with one copy of the stream.
const GROWTH: usize = 2;

/// See the module.
#[derive(Debug, Default)]
pub struct Carriers {
    /// Children of a node on a stripe; of whom there are none are not here.
    children: BTreeMap<(u64, u8), u32>,
    /// Viewers that a stripe comes to by a node, when they were last counted.
    below: HashMap<(u64, u8), u32>,
}

impl Carriers {
    /// A viewer says by whom each stripe is brought, instead of what it said before.
    pub fn said(&mut self, before: &[Option<u64>], now: &[Option<u64>]) {
        for key in named(before) {
            if let Some(children) = self.children.get_mut(&key) {
                *children -= 1;
                if *children == 0 {
                    self.children.remove(&key);
                }
            }
        }
        for key in named(now) {
            *self.children.entry(key).or_default() += 1;
        }
    }

    /// Counts who lives from whom, by all that viewers said last: their names, and who brings them each
    /// stripe.
    pub fn weigh(&mut self, all: &[(u64, &[Option<u64>])]) {
        self.below.clear();
        let parents: HashMap<u64, &[Option<u64>]> = all.iter().copied().collect();
        for (node, fed_by) in all {
            for (_, stripe) in named(fed_by) {
                let mut at = *node;
                for _ in 0..DEEPEST {
                    let parent = parents.get(&at).and_then(|p| p.get(usize::from(stripe)));
                    let Some(parent) = parent.copied().flatten() else {
                        break;
                    };
                    *self.below.entry((parent, stripe)).or_default() += 1;
                    at = parent;
                }
            }
        }
    }

    /// Viewers that one stripe comes to by a node, as they were counted last.
    pub fn below(&self, node: u64, stripe: u8) -> u32 {
        self.below.get(&(node, stripe)).copied().unwrap_or(0)
    }

    /// Viewers that a node feeds one stripe.
    pub fn on(&self, node: u64, stripe: u8) -> u32 {
        self.children.get(&(node, stripe)).copied().unwrap_or(0)
    }

    /// Stripes that it brings to others, all together.
    pub fn carried(&self, node: u64) -> usize {
        let all = self.children.range((node, 0)..=(node, u8::MAX));
        all.map(|(_, children)| *children as usize).sum()
    }

    /// Of the stripes that a node says it can push, those that it is trusted with.
    pub fn trusted(&self, node: u64, claimed: u16, stripes: u8) -> u16 {
        let proven = (self.carried(node) * GROWTH).max(usize::from(stripes));
        claimed.min(proven.min(usize::from(u16::MAX)) as u16)
    }
}

fn named(by: &[Option<u64>]) -> impl Iterator<Item = (u64, u8)> {
    let stripes = by.iter().take(usize::from(u8::MAX)).zip(0..);
    stripes.filter_map(|(node, stripe)| Some(((*node)?, stripe)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_live_from_a_node_are_counted_and_a_circle_ends() {
        let mut carriers = Carriers::default();
        let by = |node: u64| [Some(node), None];
        let (one, two, nobody) = (by(1), by(2), [None, None]);
        carriers.weigh(&[(1, &nobody), (2, &one), (3, &two), (4, &two)]);
        let below = |c: &Carriers| [1, 2, 3].map(|node| c.below(node, 0));
        assert_eq!((below(&carriers), carriers.below(1, 1)), ([3, 2, 0], 0));
        carriers.weigh(&[(1, &two), (2, &one)]);
        assert!(below(&carriers)[0] <= 2 * DEEPEST as u32);
    }

    #[test]
    fn a_node_is_trusted_with_twice_what_others_say_it_carries() {
        let mut carriers = Carriers::default();
        let claims = u16::MAX;
        assert_eq!(
            carriers.trusted(7, claims, 8),
            8,
            "it never carried anything"
        );
        assert_eq!(carriers.trusted(7, 3, 8), 3);
        let by_seven = [Some(7), None, Some(7)];
        for _ in 0..10 {
            carriers.said(&[], &by_seven);
        }
        assert_eq!((carriers.on(7, 0), carriers.on(7, 1)), (10, 0));
        assert_eq!(carriers.trusted(7, claims, 8), 40);
        carriers.said(&by_seven, &[Some(5)]);
        assert_eq!((carriers.carried(7), carriers.carried(5)), (18, 1));
        for _ in 0..9 {
            carriers.said(&by_seven, &[]);
        }
        carriers.said(&[Some(5)], &[]);
        assert!(carriers.children.is_empty());
        // Somebody says that it took back what it never said.
        carriers.said(&by_seven, &[]);
        assert_eq!(carriers.carried(7), 0);
    }
}
