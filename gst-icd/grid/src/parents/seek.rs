//! Whom to ask for a stripe that nobody feeds, or not as it should.

use super::*;

/// An orphan asks the seed after this time without finding a peer.
const ORPHAN: Duration = Duration::from_millis(150);
/// An orphan for so long asks the seed first: peers said no, or nothing, twice or more.
const LONG_ORPHAN: Duration = Duration::from_millis(350);
/// A stripe on loan stays with the seed until it is so many rounds behind the newest at most:
/// what is not here yet, another would have to begin with.
const CAUGHT_UP: u64 = 2;
/// But not for longer than this: a seed that lends more than it can send would keep it for ever.
const CATCH_UP: Duration = Duration::from_millis(600);
const SEED_RETRY: Duration = Duration::from_millis(400);
/// Taking another's place costs it a move: a free slot that is so much farther is as good.
const INSERTION: Duration = Duration::from_millis(100);
/// Each stripe from the same neighbour makes it worth so much less than one from another; more, as long as it has
/// sent nothing.
const SPREAD: Duration = Duration::from_millis(40);
const SPREAD_UNPROVEN: Duration = Duration::from_millis(200);
/// What a neighbour keeps for those that find no other parent is asked for last.
const RESERVE: Duration = Duration::from_secs(1);

impl Parents {
    /// Looks for silence, and for parents where they lack, are only lent, or end.
    pub fn tick(
        &mut self,
        neighbours: &[Neighbour<'_>],
        standing: Standing,
        rng: &mut fastrand::Rng,
        now: Instant,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        self.dead.retain(|_, until| *until > now);
        self.find_silence(neighbours, rng, &mut steps, now);
        self.marks.forget(now);
        self.forgive(now);
        for feed in &mut self.feeds {
            if feed.ends.is_some_and(|at| at <= now) {
                feed.detach(now);
            }
            feed.climb.take_if(|(_, until)| *until <= now);
        }
        if !self.feeds.iter().any(Feed::wants) {
            return steps;
        }
        let mut load: BTreeMap<PeerId, usize> = BTreeMap::new();
        for feed in &self.feeds {
            for peer in feed
                .parent
                .iter()
                .chain(feed.pending.iter().map(|p| &p.peer))
            {
                *load.entry(*peer).or_default() += 1;
            }
        }
        let newest = self.feeds.iter().filter_map(|f| f.last).max();
        let stripes = self.feeds.len();
        // Not always in the same order, so that a lack is not always the last stripe's.
        let first = rng.usize(..stripes.max(1));
        for k in (0..stripes).map(|k| (k + first) % stripes) {
            let feed = &mut self.feeds[k];
            if !feed.wants() {
                continue;
            }
            if let Some(pending) = &feed.pending {
                if pending.until > now {
                    continue;
                }
                feed.refused.insert(pending.peer, now + REFUSED);
                feed.pending = None;
            }
            feed.refused.retain(|_, until| *until > now);
            // The seed still sends the past on loan; another would have to begin with it anew.
            let rounds = CAUGHT_UP * stripes as u64;
            let past = newest.max(self.start_head);
            let caught_up = |last: Seq| past.is_some_and(|n| last.plus(rounds) >= n);
            let patient = now.saturating_duration_since(feed.since) < CATCH_UP;
            if feed.leased() && patient && !feed.last.is_some_and(caught_up) {
                continue;
            }
            let stripe = StripeId(k as u8);
            let fresh = |n: &Neighbour<'_>| {
                let head = n.heads.get(k).copied().flatten();
                match (head, newest) {
                    (_, None) => true,
                    (None, _) => false,
                    (Some(head), Some(newest)) => {
                        head.plus(6 * stripes as u64 + 20 + n.since) >= newest
                    }
                }
            };
            let usable = |n: &&Neighbour<'_>| {
                !n.seed
                    && !self.dead.contains_key(&n.peer)
                    && !feed.refused.contains_key(&n.peer)
                    && feed.parent != Some(n.peer)
                    && fresh(n)
            };
            let climbs = feed.climb.filter(|_| feed.parent.is_some() && !feed.lease);
            let suggested = climbs.or(feed.suggested).filter(|(_, until)| *until > now);
            let named = suggested.and_then(|(id, _)| neighbours.iter().find(|n| n.id == id));
            if climbs.is_some() && feed.ends.is_none() && !named.is_some_and(|n| usable(&n)) {
                continue;
            }
            if suggested.is_some() && named.is_none() && feed.parent.is_some() {
                // It is being dialed, and the stripe comes meanwhile.
                continue;
            }
            // The strong go up: there is a place where a child is weaker.
            let weaker = |n: &Neighbour<'_>| {
                let weakest = n.weakest.get(k).copied().flatten();
                weakest.is_some_and(|w| outweighs(standing.strength, w))
            };
            let needy = feed.needy(now);
            let marks = |n: &Neighbour<'_>| match n.proven {
                true => self.marks.of(&n.id, now),
                // One that did nothing else is not tried again as long as there is another.
                false => self.marks.ever(&n.id),
            };
            let good = |n: &&Neighbour<'_>| marks(n) == 0;
            let best = named.filter(usable).filter(good).or_else(|| {
                neighbours
                    .iter()
                    .filter(usable)
                    .filter(|n| n.spare > 0 || weaker(n) || (needy && n.reserve > 0))
                    .min_by_key(|n| {
                        let load = load.get(&n.peer).copied().unwrap_or(0) as u32;
                        let spread = if n.proven { SPREAD } else { SPREAD_UNPROVEN };
                        let jitter = Duration::from_millis(rng.u64(0..50));
                        let pushes = if n.spare > 0 {
                            Duration::ZERO
                        } else if weaker(n) {
                            INSERTION
                        } else {
                            RESERVE
                        };
                        (
                            marks(n),
                            n.lag + n.rtt / 2 + spread * load + jitter + pushes,
                            n.peer,
                        )
                    })
            });
            let orphan = match (feed.parent, feed.orphan_since) {
                (None, Some(at)) => now.saturating_duration_since(at),
                _ => Duration::ZERO,
            };
            let rested = |at: Instant| now.saturating_duration_since(at) >= SEED_RETRY;
            // A root is gone: all that it fed are without the stripe, and cannot help each other.
            // The strong first: those send it to all others.
            let strong = standing.strength >= stripes as u16;
            let lost = feed.parent.is_none() && feed.at_the_top;
            let top = lost && (strong || orphan >= ORPHAN);
            let seed = neighbours.iter().find(|n| {
                n.seed && (top || orphan >= ORPHAN) && feed.asked_seed.is_none_or(rested)
            });
            let choice = match (best, seed) {
                (_, Some(seed)) if top || orphan >= LONG_ORPHAN => Some((seed, true)),
                (Some(best), _) => Some((best, false)),
                (None, seed) => seed.map(|seed| (seed, true)),
            };
            let Some((neighbour, lease)) = choice else {
                continue;
            };
            if lease {
                feed.asked_seed = Some(now);
            }
            *load.entry(neighbour.peer).or_default() += 1;
            feed.pending = Some(Pending {
                peer: neighbour.peer,
                until: now + neighbour.rtt * 3 / 2 + Duration::from_millis(120),
            });
            steps.push(Step::Subscribe {
                peer: neighbour.peer,
                stripe,
                lease,
            });
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::super::feed::LONG_LENT;
    use super::super::tests::{MS, SEED, WEAK, fed, neighbour};
    use super::*;

    #[test]
    fn who_became_a_root_does_not_follow_whom_it_asked_before() {
        let (mut parents, now) = fed(&[1]);
        let stripe = StripeId(0);
        parents.set_lease(stripe, true);
        parents.arrived(Seq(1000), SEED, now);
        let mut rng = fastrand::Rng::with_seed(1);
        let around = [neighbour(1, 0), neighbour(2, 5)];
        parents.tick(&around, WEAK, &mut rng, now + CATCH_UP);
        assert!(parents.is_pending(PeerId(2), stripe));
        parents.rooted(SEED, stripe);
        assert!(!parents.is_pending(PeerId(2), stripe));
    }

    #[test]
    fn what_a_neighbour_keeps_in_reserve_is_asked_for_by_who_finds_nothing_else() {
        let (mut parents, now) = fed(&[1]);
        let stripe = StripeId(0);
        parents.set_lease(stripe, true);
        parents.arrived(Seq(1000), SEED, now);
        let mut rng = fastrand::Rng::with_seed(1);
        let kept = Neighbour {
            reserve: 1,
            ..neighbour(2, 0)
        };
        let around = [neighbour(1, 0), kept];
        let early = now + LONG_LENT - MS;
        parents.tick(&around, WEAK, &mut rng, early);
        assert!(!parents.is_pending(PeerId(2), stripe));
        parents.tick(&around, WEAK, &mut rng, now + LONG_LENT);
        assert!(parents.is_pending(PeerId(2), stripe));
    }

    #[test]
    fn who_finds_nobody_asks_the_seed_for_a_loan() {
        let now = Instant::now();
        let mut parents = Parents::default();
        parents.reset(1, 160 * MS, now);
        let mut rng = fastrand::Rng::with_seed(1);
        let around = [neighbour(1, 0), neighbour(2, 0)];
        assert!(parents.tick(&around, WEAK, &mut rng, now).is_empty());
        let steps = parents.tick(&around, WEAK, &mut rng, now + ORPHAN);
        let loan = Step::Subscribe {
            peer: SEED,
            stripe: StripeId(0),
            lease: true,
        };
        assert_eq!(steps, [loan]);
    }

    #[test]
    fn who_loses_a_parent_asks_the_one_above_it() {
        let (mut parents, now) = fed(&[2]);
        let stripe = StripeId(0);
        let above = Candidate {
            node: NodeId([4; 32]),
            addr: "10.0.0.4:7423".parse().unwrap(),
            spare: 0,
        };
        parents.fed_by(stripe, Some(above));
        let mut rng = fastrand::Rng::with_seed(1);
        // It has no slot free but that of the lost one; the other has, and is nearer.
        let far = Neighbour {
            rtt: 200 * MS,
            ..neighbour(4, 0)
        };
        let around = [neighbour(3, 5), far];
        assert!(parents.evicted(PeerId(2), stripe, None, now));
        let steps = parents.tick(&around, WEAK, &mut rng, now);
        let asked = Step::Subscribe {
            peer: PeerId(4),
            stripe,
            lease: false,
        };
        assert!(steps.contains(&asked), "{steps:?}");
    }

    #[test]
    fn whose_parent_was_a_root_asks_the_seed_first_and_the_strong_at_once() {
        let (stripe, copy) = (StripeId(0), Standing { strength: 4 });
        let mut rng = fastrand::Rng::with_seed(1);
        let around = [neighbour(1, 0), neighbour(3, 5)];
        let mut asked = |standing, path: &[u64], ms: u32| {
            let (mut parents, now) = fed(&[2]);
            parents.path_changed(PeerId(2), stripe, path.to_vec(), 7);
            parents.evicted(PeerId(2), stripe, None, now);
            let steps = parents.tick(&around, standing, &mut rng, now + ms * MS);
            let of = |step: &Step| match step {
                Step::Subscribe { peer, stripe, .. } if stripe.0 == 0 => Some(*peer),
                _ => None,
            };
            steps.iter().find_map(of)
        };
        assert_eq!(asked(copy, &[2], 0), Some(SEED));
        assert_eq!(asked(copy, &[8, 2], 0), Some(PeerId(3)));
        assert_eq!(asked(WEAK, &[2], 0), Some(PeerId(3)));
        assert_eq!(asked(WEAK, &[2], 150), Some(SEED));
        assert_eq!(asked(WEAK, &[8, 2], 150), Some(PeerId(3)));
    }

    #[test]
    fn whom_the_seed_names_instead_of_a_loan_is_asked() {
        let (mut parents, now) = fed(&[2]);
        let stripe = StripeId(0);
        parents.evicted(PeerId(2), stripe, None, now);
        let mut rng = fastrand::Rng::with_seed(1);
        let far = Neighbour {
            rtt: 200 * MS,
            ..neighbour(4, 0)
        };
        let around = [neighbour(1, 0), neighbour(3, 5), far];
        let strong = Standing { strength: 4 };
        parents.tick(&around, strong, &mut rng, now);
        assert!(parents.is_pending(SEED, stripe));
        parents.rejected(SEED, stripe, Some(NodeId([4; 32])), now);
        parents.tick(&around, strong, &mut rng, now);
        assert!(parents.is_pending(PeerId(4), stripe));
    }

    #[test]
    fn who_takes_a_stripe_and_sends_nothing_does_not_end_the_want_of_it() {
        let stripe = StripeId(0);
        let mut rng = fastrand::Rng::with_seed(1);
        let around = [neighbour(1, 0), neighbour(3, 5)];
        let mut asked = |brings: bool| {
            let (mut parents, now) = fed(&[2]);
            parents.evicted(PeerId(2), stripe, None, now);
            parents.accepted(PeerId(4), stripe, vec![8, 4], false, now);
            if brings {
                parents.arrived(Seq(1000), PeerId(4), now);
            }
            let later = now + LONG_ORPHAN;
            parents.evicted(PeerId(4), stripe, None, later);
            parents.tick(&around, WEAK, &mut rng, later);
            [SEED, PeerId(3)].map(|peer| parents.is_pending(peer, stripe))
        };
        assert_eq!(asked(false), [true, false]);
        assert_eq!(asked(true), [false, true]);
    }

    #[test]
    fn one_that_failed_and_did_nothing_else_is_not_tried_again() {
        let stripe = StripeId(0);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut asked = |proven| {
            let (mut parents, now) = fed(&[2]);
            parents.marks.add(NodeId([3; 32]), now);
            let later = now + 20_000 * MS;
            parents.evicted(PeerId(2), stripe, None, later);
            let near = Neighbour {
                proven,
                ..neighbour(3, 5)
            };
            let far = Neighbour {
                rtt: 300 * MS,
                ..neighbour(4, 1)
            };
            parents.tick(&[near, far], WEAK, &mut rng, later);
            parents.is_pending(PeerId(3), stripe)
        };
        assert_eq!([true, false].map(&mut asked), [true, false]);
    }

    #[test]
    fn others_are_greeted_before_the_seed_is_asked() {
        let now = Instant::now();
        let mut parents = Parents::default();
        parents.reset(1, 160 * MS, now);
        parents.meets(now + 300 * MS);
        let mut rng = fastrand::Rng::with_seed(1);
        let around = [neighbour(1, 0)];
        let mut asks = |at| !parents.tick(&around, WEAK, &mut rng, at).is_empty();
        assert!(!asks(now + 299 * MS));
        assert!(!asks(now + 300 * MS + ORPHAN - MS));
        assert!(asks(now + 300 * MS + ORPHAN));
    }

    #[test]
    fn a_loan_is_given_back_when_a_peer_has_room() {
        let now = Instant::now();
        let mut parents = Parents::default();
        parents.reset(1, 160 * MS, now);
        parents.lent(SEED, StripeId(0), now);
        let mut rng = fastrand::Rng::with_seed(1);
        let around = [neighbour(1, 0), neighbour(2, 1)];
        let early = parents.tick(&around, WEAK, &mut rng, now);
        assert_eq!(early, [], "the seed sends the past first");
        parents.arrived(Seq(1000), SEED, now);
        let steps = parents.tick(&around, WEAK, &mut rng, now);
        assert!(matches!(
            steps[..],
            [Step::Subscribe {
                peer: PeerId(2),
                lease: false,
                ..
            }]
        ));
        let leave = parents.accepted(PeerId(2), StripeId(0), vec![2], false, now);
        assert_eq!(
            leave,
            Some(Step::Leave {
                peer: SEED,
                stripe: StripeId(0)
            })
        );
    }
}
