//! The trees of a run at its end: who feeds whom which stripe.

use crate::people::People;

/// A way longer than this is a circle.
const DEEPEST: u32 = 64;

/// See the module.
#[derive(Debug)]
pub struct Trees {
    /// For each stripe and each viewer, as they came: who feeds it, zero being the seed.
    parents: Vec<Vec<Option<usize>>>,
    /// Whether a viewer counts.
    alive: Vec<bool>,
    /// Stripes that each can push.
    slots: Vec<u64>,
}

impl Trees {
    /// As they are now.
    pub fn of(people: &People<'_>) -> Self {
        let world = people.world();
        let viewers = world.viewers();
        let stripes = viewers.iter().map(|v| v.stats.stripes).max().unwrap_or(0);
        let parent = |stripe: u8| {
            let of = viewers.iter().map(|v| {
                let mut peers = v.stats.peers.iter();
                let feeds = peers.find(|p| p.stripes_from.contains(&stripe))?;
                world.number(&feeds.id)
            });
            of.collect()
        };
        Self {
            parents: (0..stripes).map(parent).collect(),
            alive: viewers.iter().map(|v| !v.down).collect(),
            slots: viewers.iter().map(|v| v.stats.slots).collect(),
        }
    }

    /// Viewers, as they came, whether alive or not.
    pub fn viewers(&self) -> usize {
        self.alive.len()
    }

    /// Stripes that the viewer with this number, from one on, can push.
    pub fn slots(&self, viewer: usize) -> u64 {
        self.slots[viewer - 1]
    }

    /// Who feeds a living viewer a stripe.
    pub fn parent(&self, stripe: usize, viewer: usize) -> Option<usize> {
        let parents = self.parents.get(stripe)?;
        parents[viewer - 1].filter(|_| self.alive[viewer - 1])
    }

    /// How many nodes a stripe passes to a viewer, itself included; none if it does not come.
    pub fn depth(&self, stripe: usize, viewer: usize) -> Option<u32> {
        let (mut at, mut depth) = (viewer, 0);
        while at != 0 && depth < DEEPEST {
            at = self.parent(stripe, at)?;
            depth += 1;
        }
        (at == 0).then_some(depth)
    }

    /// Of all stripes at all viewers.
    pub fn depths(&self) -> impl Iterator<Item = u32> {
        let all = (0..self.parents.len()).flat_map(|k| (1..=self.viewers()).map(move |v| (k, v)));
        all.filter_map(|(k, v)| self.depth(k, v))
    }
}
