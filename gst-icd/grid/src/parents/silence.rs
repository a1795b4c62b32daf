//! When a parent counts as gone, and when as only waiting itself.
//!
//! Failure is silence: a broken connection is the quick case, a frozen peer the one that counts.
//! A stripe that falls behind the others is suspect, its parent is replaced, the other stripes
//! keep flowing, and the player's buffer hides it.

use super::*;

/// Beyond a round of all stripes, an expected piece may be this late (the notes on the algorithm, section
/// 2, have 60 ms; its parent has to be silent besides, which takes longer).
const PATIENCE: Duration = Duration::from_millis(20);
/// A parent that sends other stripes but not this one has trouble upstream and may mend it.
const UPSTREAM_PATIENCE: Duration = Duration::from_millis(700);
/// One that talks and has sent nothing at all since it is known: whoever can feed a stripe has a piece to begin
/// with. With it go all stripes that it took.
const FIRST_PATIENCE: Duration = Duration::from_millis(400);
/// Who said nothing at all for this long is taken for dead; neighbours speak more often (the
/// buffer maps of [`crate::node`]).
const DEAD: Duration = Duration::from_millis(300);
/// A parent that fell silent is left alone for this long, or until it speaks.
const SILENT: Duration = Duration::from_secs(10);
/// Where nothing comes on other stripes either, a piece may be this late.
const IDLE_PATIENCE: Duration = Duration::from_millis(120);
/// An idle stream sends a piece this often; see the cutter.
const IDLE: Duration = crate::cutter::MAX_OPEN;

impl Parents {
    /// Whether every stripe comes as it should, so that [`Parents::tick`] would do nothing.
    pub fn at_rest(&self, now: Instant) -> bool {
        let calm = |feed: &Feed| !feed.wants() && !self.behind(feed, now) && !self.quiet(feed, now);
        self.feeds.iter().all(calm)
    }

    /// Whether other stripes have passed this one for too long.
    fn behind(&self, feed: &Feed, now: Instant) -> bool {
        let most = self.round + PATIENCE + feed.lateness;
        feed.passed
            .is_some_and(|at| now.saturating_duration_since(at) > most)
    }

    /// Whether a neighbour says that it has a stripe two rounds farther than it came here.
    fn is_passed(&self, k: usize, neighbours: &[Neighbour<'_>]) -> bool {
        let feed = &self.feeds[k];
        let rounds = 2 * self.feeds.len() as u64;
        let mut others = neighbours.iter().filter(|n| feed.parent != Some(n.peer));
        others.any(|n| {
            let head = n.heads.get(k).copied().flatten();
            head.is_some_and(|head| feed.last.is_none_or(|last| head >= last.plus(rounds)))
        })
    }

    /// For how long nothing has come on a stripe beyond what its parent may leave it idle.
    fn mute(&self, k: usize, now: Instant) -> Duration {
        let idle = self.round.max(IDLE * self.feeds.len() as u32);
        let silent = now.saturating_duration_since(self.feeds[k].heard);
        silent.saturating_sub(idle)
    }

    /// Whether nothing came on it for longer than the parent may leave it idle.
    fn quiet(&self, feed: &Feed, now: Instant) -> bool {
        let most = self.round.max(IDLE * self.feeds.len() as u32) + IDLE_PATIENCE;
        now.saturating_duration_since(feed.heard) > most
    }

    pub(super) fn find_silence(
        &mut self,
        neighbours: &[Neighbour<'_>],
        rng: &mut fastrand::Rng,
        steps: &mut Vec<Step>,
        now: Instant,
    ) {
        for k in 0..self.feeds.len() {
            let feed = &self.feeds[k];
            let Some(parent) = feed.parent else { continue };
            if !self.behind(feed, now) && !self.quiet(feed, now) {
                continue;
            }
            let rtt = neighbours
                .iter()
                .find(|n| n.peer == parent)
                .map(|n| n.rtt)
                .unwrap_or_default();
            let late = feed.passed.map(|at| now.saturating_duration_since(at));
            // All stripes may come from this one, and none passes another: then a neighbour has more.
            let late = late.or_else(|| self.is_passed(k, neighbours).then(|| self.mute(k, now)));
            let before = now.checked_sub(rtt).unwrap_or(now);
            if !self.behind(feed, now) && !self.quiet(feed, before) {
                continue;
            }
            let heard = self.heard.get(&parent).copied();
            let alive = heard.is_some_and(|at| now.saturating_duration_since(at) < DEAD + rtt / 2);
            let proven = neighbours.iter().any(|n| n.peer == parent && n.proven);
            if alive {
                let patience = match proven {
                    true => UPSTREAM_PATIENCE + Duration::from_millis(rng.u64(0..500)),
                    false => FIRST_PATIENCE + rtt + Duration::from_millis(rng.u64(0..150)),
                };
                if late.is_none_or(|late| late < patience) {
                    continue;
                }
            }
            let is_seed = neighbours.iter().any(|n| n.peer == parent && n.seed);
            if is_seed {
                // There is nobody above it; its connection's end is what tells.
                continue;
            }
            let stripe = StripeId(k as u8);
            steps.push(Step::Leave {
                peer: parent,
                stripe,
            });
            if alive && let Some(n) = neighbours.iter().find(|n| n.peer == parent) {
                self.marks.add(n.id, now);
            }
            let feed = &mut self.feeds[k];
            feed.detach(now);
            feed.refused.insert(parent, now + REFUSED);
            if !alive || !proven {
                for (other, feed) in self.feeds.iter_mut().enumerate() {
                    feed.pending.take_if(|pending| pending.peer == parent);
                    if feed.parent == Some(parent) {
                        feed.detach(now);
                        feed.refused.insert(parent, now + REFUSED);
                        let stripe = StripeId(other as u8);
                        steps.push(Step::Leave {
                            peer: parent,
                            stripe,
                        });
                    }
                }
            }
            if !alive {
                self.dead.insert(parent, now + SILENT);
                steps.push(Step::Dead(parent));
            }
        }
    }

    /// Who feeds a stripe as it should: another viewer, for good.
    pub fn good(&self, stripe: StripeId, now: Instant) -> Option<PeerId> {
        let feed = self.feed(stripe)?;
        let good = !feed.lease && !self.behind(feed, now);
        feed.parent.filter(|_| good)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MS, WEAK, fed, neighbour};
    use super::*;

    /// Lets pieces arrive every 40 ms except from `mute`, until something happens.
    fn until_a_step(
        parents: &mut Parents,
        from: Instant,
        mute: u64,
        around: &[Neighbour<'_>],
    ) -> (Duration, Vec<Step>) {
        let mut rng = fastrand::Rng::with_seed(1);
        for ms in 0..3000u32 {
            let now = from + ms * MS;
            if ms % 40 == 0 {
                let seq = Seq(1000 + u64::from(ms / 40));
                let parent = parents.feed(seq.stripe(4)).and_then(Feed::parent);
                if let Some(parent) = parent.filter(|p| ms < 400 || p.0 != mute) {
                    parents.arrived(seq, parent, now);
                }
            }
            let steps = parents.tick(around, WEAK, &mut rng, now);
            if !steps.is_empty() {
                return (now - from, steps);
            }
        }
        (Duration::MAX, Vec::new())
    }

    #[test]
    fn a_frozen_parent_is_replaced_within_half_a_second_and_by_another() {
        let (mut parents, start) = fed(&[2, 2, 3, 3]);
        let around = [neighbour(1, 0), neighbour(2, 5), neighbour(3, 5)];
        let (at, steps) = until_a_step(&mut parents, start, 2, &around);
        assert!(at >= 500 * MS && at <= 900 * MS, "{at:?}");
        assert!(steps.contains(&Step::Dead(PeerId(2))));
        let asked: Vec<_> = steps
            .iter()
            .filter_map(|s| match s {
                Step::Subscribe { peer, stripe, .. } => Some((peer.0, stripe.0)),
                _ => None,
            })
            .collect();
        assert!(asked.contains(&(3, 0)) && asked.contains(&(3, 1)) && asked.len() == 2);
    }

    #[test]
    fn one_far_away_is_missed_as_soon_as_its_pieces_are() {
        let (mut parents, start) = fed(&[2, 2, 3, 3]);
        let far = |n| Neighbour {
            rtt: 150 * MS,
            ..neighbour(n, 5)
        };
        let (at, steps) = until_a_step(&mut parents, start, 2, &[far(2), far(3)]);
        assert!(steps.contains(&Step::Dead(PeerId(2))), "{steps:?}");
        // It was heard last at 360 ms, and 300 ms and half a round trip are over; its first stripe was
        // passed by another at 560 ms, and is a round of 160 ms and 20 ms behind.
        assert!(at <= 745 * MS, "{at:?}");
    }

    #[test]
    fn one_that_talks_and_never_sent_anything_is_left_sooner_and_on_all_stripes() {
        let left = |proven: bool| {
            let (mut parents, start) = fed(&[2, 2, 3, 3]);
            let mute = Neighbour {
                proven,
                ..neighbour(2, 5)
            };
            let around = [mute, neighbour(3, 5)];
            let mut rng = fastrand::Rng::with_seed(1);
            for ms in 0..3000u32 {
                let now = start + ms * MS;
                let seq = Seq(1000 + u64::from(ms / 40));
                let parent = parents.feed(seq.stripe(4)).and_then(Feed::parent);
                if let Some(parent) = parent.filter(|p| p.0 == 3 && ms % 40 == 0) {
                    parents.arrived(seq, parent, now);
                }
                parents.spoke(PeerId(2), now);
                let steps = parents.tick(&around, WEAK, &mut rng, now);
                let leaves = |k: u8| {
                    let (peer, stripe) = (PeerId(2), StripeId(k));
                    steps.contains(&Step::Leave { peer, stripe })
                };
                if leaves(0) || leaves(1) {
                    return (ms, leaves(0) && leaves(1));
                }
            }
            panic!("it was not left");
        };
        let (never, before) = (left(false), left(true));
        assert!(never.0 < 650 && before.0 > 700, "{never:?}, {before:?}");
        assert!(never.1 && !before.1);
    }

    #[test]
    fn a_single_parent_that_is_starved_itself_is_left_when_a_neighbour_has_more() {
        let left = |head: u64| {
            let (mut parents, start) = fed(&[2, 2, 2, 2]);
            let heads = [Some(Seq(head)); 4];
            let other = Neighbour {
                heads: &heads,
                ..neighbour(3, 5)
            };
            let around = [neighbour(2, 5), other];
            let mut rng = fastrand::Rng::with_seed(1);
            (0..4).for_each(|k| parents.arrived(Seq(1000 + k), PeerId(2), start));
            let leaves = |step: &Step| matches!(step, Step::Leave { .. });
            (0..4000u32).step_by(20).find(|ms| {
                let now = start + *ms * MS;
                parents.spoke(PeerId(2), now);
                let steps = parents.tick(&around, WEAK, &mut rng, now);
                steps.iter().any(leaves)
            })
        };
        assert!(left(1020).is_some_and(|ms| ms < 2000), "{:?}", left(1020));
        assert_eq!(left(1003), None, "the stream stands still");
    }

    #[test]
    fn when_all_flows_nothing_is_done() {
        let (mut parents, start) = fed(&[2, 2, 3, 3]);
        let around = [neighbour(2, 5), neighbour(3, 5)];
        let (at, steps) = until_a_step(&mut parents, start, 99, &around);
        assert_eq!(at, Duration::MAX, "{steps:?}");
    }

    #[test]
    fn a_single_parent_of_all_stripes_is_missed_too() {
        let (mut parents, start) = fed(&[2, 2, 2, 2]);
        let around = [neighbour(1, 0), neighbour(2, 5)];
        let (at, steps) = until_a_step(&mut parents, start, 2, &around);
        assert!(at <= 1000 * MS, "{at:?}");
        assert!(steps.contains(&Step::Dead(PeerId(2))));
    }
}
