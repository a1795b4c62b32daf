//! What to pull, when, from whom. Late only: eager pulling causes collapse.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::ids::{PeerId, Seq};
use crate::message::MAX_PULL;

/// Pulls begin at this share of the play-out delay before a piece is due ...
pub const PEERS_FROM: f64 = 0.4;
/// ... and go to the seed at this one (notes on the algorithm, section 2: r1 and r2).
pub const SEED_FROM: f64 = 0.2;
/// What no push will bring may be asked for sooner, though not at once: the stripe's next parent
/// sends it as backlog.
const DETACHED: f64 = 1.5;
/// What the parent left out, at this share already, of those that have more to give than is asked of them: a cut
/// that follows shall not find a hole in the buffer.
const EASY_FROM: f64 = 0.85;
/// And so much later for each node that the stripe passes: what the first of them mends, it passes on.
const EASY_STEP: f64 = 0.05;
/// But not where more than so many are missing, or a stripe has no parent: then others have the same trouble.
const FEW: usize = 2;
const MAX_TRIES: usize = 16;
/// The seed is asked this much before a piece is due, beyond two and a half round trips to it:
/// its uplink's queue, and one retransmission.
const SEED_NEEDS: Duration = Duration::from_millis(200);
/// When every neighbour was asked in vain, they are asked again after this time.
const AGAIN: Duration = Duration::from_millis(100);
/// The seed, when it was busy, after this one. One that said nothing at all is narrow (see
/// [`crate::node`]'s words): nothing is asked of it meanwhile, whatever is missing.
const SEED_AGAIN: Duration = Duration::from_millis(40);
/// Beyond a round trip. A peer that has said nothing for [`SPOKE`] gets no more.
const LEAST_PATIENCE: Duration = Duration::from_millis(40);
/// Who spoke within this time surely lives.
pub const SPOKE: Duration = Duration::from_millis(400);
const MAX_OUTSTANDING_PER_PEER: usize = 16;
/// Who has sent pieces and did not answer so many times in a row, or with something else, is not asked for so long.
const DEAF: u32 = 4;
const DEAF_FOR: Duration = Duration::from_secs(20);

/// A neighbour that may have what is missing.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Which.
    pub peer: PeerId,
    /// It is the seed: asked last.
    pub seed: bool,
    /// Round trip to it.
    pub rtt: Duration,
    /// Queueing delay of its uplink, as it says.
    pub queue: Duration,
    /// When it said or sent anything last.
    pub heard: Instant,
    /// It has sent a piece that was wanted.
    pub proven: bool,
    /// It has slots free and no queue: what is asked of it is taken from nobody.
    pub easy: bool,
}

/// What may bring a piece that is not here, other than a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hope {
    /// The parent of its stripe.
    Push,
    /// The next parent, as the stripe has none.
    Parent,
    /// Nothing: the parent has sent later ones.
    LeftOut {
        /// So many nodes the stripe passes on its way here.
        nodes: usize,
    },
}

/// A piece that is not here.
#[derive(Debug, Clone, Copy)]
pub struct Missing {
    /// Its number.
    pub seq: Seq,
    /// Time until it is due.
    pub slack: Duration,
    /// What else may bring it.
    pub hope: Hope,
}

impl Missing {
    /// Whether it is so early that only those are asked for it who have enough.
    pub fn early(&self, latency: Duration) -> bool {
        let from = match self.hope {
            Hope::Push => PEERS_FROM,
            Hope::Parent | Hope::LeftOut { .. } => PEERS_FROM * DETACHED,
        };
        self.slack > latency.mul_f64(from)
    }

    /// Whether the parent left it out, and those above would have passed it on by now.
    fn is_hole(&self, latency: Duration) -> bool {
        let Hope::LeftOut { nodes } = self.hope else {
            return false;
        };
        let from = EASY_FROM - EASY_STEP * nodes.min(10) as f64;
        self.slack <= latency.mul_f64(from)
    }
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    peer: PeerId,
    seed: bool,
    at: Instant,
    until: Instant,
}

#[derive(Debug, Default)]
struct Pull {
    asked: BTreeSet<PeerId>,
    /// Of these: who has not said no.
    waited_for: BTreeSet<PeerId>,
    outstanding: Option<Asked>,
    not_before: Option<Instant>,
    tries: usize,
    asked_seed: bool,
    /// Every neighbour that has it was asked, and is busy or silent.
    in_vain: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Rescue {
    pulls: BTreeMap<Seq, Pull>,
    /// Who did not answer in time, and when it was asked: a dead one shall cost that time once, not
    /// once for each piece.
    silent: BTreeMap<PeerId, Instant>,
    /// Who did not answer so many times in a row, though it may talk of other things, and when last.
    deaf: BTreeMap<PeerId, (u32, Instant)>,
    /// Until when the seed is left in peace.
    seed_rests: Option<Instant>,
}

impl Rescue {
    /// What is due later than this is not pulled.
    pub fn horizon(latency: Duration) -> Duration {
        latency.mul_f64(EASY_FROM)
    }

    /// Forgets what came, and what nobody answered in time. Of what is missing: what somebody may
    /// be asked for now.
    pub fn due(&mut self, missing: &[Missing], latency: Duration, now: Instant) -> Vec<Missing> {
        let wanted: BTreeSet<Seq> = missing.iter().map(|m| m.seq).collect();
        let mut answers = false;
        self.pulls.retain(|seq, pull| {
            let came = !wanted.contains(seq);
            answers |= came && pull.outstanding.is_some_and(|asked| asked.seed);
            !came
        });
        if answers {
            self.seed_rests = None;
        }
        for pull in self.pulls.values_mut() {
            let Some(asked) = pull.outstanding.take_if(|asked| asked.until <= now) else {
                continue;
            };
            match asked.seed {
                true => self.seed_rests = Some(now + SEED_AGAIN),
                false => {
                    self.silent.insert(asked.peer, asked.at);
                    let (times, at) = self.deaf.entry(asked.peer).or_insert((0, now));
                    *times = times.saturating_add(1);
                    *at = now;
                }
            }
        }
        let few = missing.iter().filter(|m| m.hope != Hope::Push).count() <= FEW
            && missing.iter().all(|m| m.hope != Hope::Parent);
        let is_due = |item: &&Missing| {
            let easy = few && item.is_hole(latency);
            let waits = self.pulls.get(&item.seq).is_some_and(|pull| {
                pull.outstanding.is_some() || pull.not_before.is_some_and(|at| at > now)
            });
            (easy || !item.early(latency)) && !waits
        };
        missing.iter().filter(is_due).copied().collect()
    }

    /// Whom to ask for what is [`Rescue::due`]. `knows` says whether a source, by its place in the
    /// list, is likely to have a piece;
    /// `salt` is this node's own: what none of its neighbours has, the nodes around it lack as
    /// well, and not all of them shall ask the seed in the same moment. The first to have it
    /// serve the others.
    pub fn plan(
        &mut self,
        due: &[Missing],
        sources: &[Source],
        latency: Duration,
        knows: impl Fn(usize, Seq) -> bool,
        salt: u64,
        now: Instant,
    ) -> BTreeMap<PeerId, Vec<Seq>> {
        let mut load: BTreeMap<PeerId, usize> = BTreeMap::new();
        for asked in self.pulls.values().filter_map(|pull| pull.outstanding) {
            *load.entry(asked.peer).or_default() += 1;
        }
        let silent = |s: &Source, at: Instant| !s.seed && s.heard <= at;
        self.silent.retain(|peer, at| {
            let source = sources.iter().find(|s| s.peer == *peer);
            source.is_some_and(|s| silent(s, *at))
        });
        let peers_from = latency.mul_f64(PEERS_FROM);
        let seed = sources.iter().find(|s| s.seed);
        let needs = seed.map_or(Duration::ZERO, |s| s.rtt * 5 / 2 + SEED_NEEDS);
        let seed_from = latency.mul_f64(SEED_FROM).max(needs).min(peers_from);
        let mut plan: BTreeMap<PeerId, Vec<Seq>> = BTreeMap::new();
        let asked = sources.iter().enumerate();
        self.deaf
            .retain(|peer, _| sources.iter().any(|s| s.peer == *peer));
        let deaf = |s: &Source| {
            let most = if s.proven { DEAF } else { 1 };
            let deaf = self.deaf.get(&s.peer).filter(|(times, _)| *times >= most);
            deaf.is_some_and(|(_, at)| now.saturating_duration_since(*at) < DEAF_FOR)
        };
        let asked =
            asked.filter(|(_, s)| !s.seed && !self.silent.contains_key(&s.peer) && !deaf(s));
        let asked: Vec<_> = asked.collect();
        let mut knowing = Vec::new();
        let spared = self.seed_rests.is_some_and(|from| from > now);
        for item in due {
            let early = item.early(latency);
            let pull = self.pulls.entry(item.seq).or_default();
            knowing.clear();
            knowing.extend(
                asked
                    .iter()
                    .filter(|(n, _)| knows(*n, item.seq))
                    .map(|(_, s)| *s),
            );
            let somebody = !pull.in_vain && !knowing.is_empty();
            let seed_from = match somebody {
                true => seed_from,
                false => {
                    let luck = fastrand::Rng::with_seed(salt ^ item.seq.0).f64();
                    seed_from + (peers_from.saturating_sub(seed_from)).mul_f64(luck)
                }
            };
            let usable = |s: &&Source| {
                load.get(&s.peer).copied().unwrap_or(0) < MAX_OUTSTANDING_PER_PEER
                    && plan.get(&s.peer).map_or(0, Vec::len) < MAX_PULL
                    && (s.seed || (pull.tries < MAX_TRIES && !pull.asked.contains(&s.peer)))
                    && s.rtt < item.slack
                    && (s.easy || !early)
            };
            let from_peer = knowing
                .iter()
                .copied()
                .filter(usable)
                .min_by_key(|s| (s.queue + s.rtt, s.peer));
            // A refusal that comes after the seed is to be asked comes too late.
            let answered = from_peer.map_or(Duration::ZERO, |s| s.rtt);
            let to_seed = item.slack <= seed_from + answered && !spared;
            let from_seed = sources.iter().filter(|s| s.seed && to_seed).find(usable);
            let Some(source) = (if to_seed {
                from_seed.or(from_peer)
            } else {
                from_peer
            }) else {
                if early {
                    // There is time enough to ask the others.
                    continue;
                }
                pull.in_vain = true;
                pull.asked.clear();
                pull.not_before = Some(now + AGAIN);
                continue;
            };
            pull.asked.insert(source.peer);
            pull.waited_for.insert(source.peer);
            pull.tries += usize::from(!source.seed);
            pull.asked_seed |= source.seed;
            let mut patience = Duration::from_millis(150).min(item.slack / 2);
            if !source.seed {
                // No longer than until the seed is to be asked.
                let left = item.slack.saturating_sub(seed_from + source.rtt);
                patience = patience.min(left.max(LEAST_PATIENCE));
                if now.saturating_duration_since(source.heard) > SPOKE {
                    patience = LEAST_PATIENCE;
                }
            }
            pull.outstanding = Some(Asked {
                peer: source.peer,
                seed: source.seed,
                at: now,
                until: now + source.rtt + patience,
            });
            *load.entry(source.peer).or_default() += 1;
            plan.entry(source.peer).or_default().push(item.seq);
        }
        plan
    }

    /// A piece came from somebody: whether that one was asked for it, and who else was and may still send it.
    pub fn came(&mut self, seq: Seq, from: PeerId) -> (bool, BTreeSet<PeerId>) {
        let pull = self.pulls.get_mut(&seq);
        let mut others = pull.map_or_else(BTreeSet::new, |p| std::mem::take(&mut p.waited_for));
        (others.remove(&from), others)
    }

    /// How often neighbours were asked for a piece, and whether the seed was.
    pub fn asked(&self, seq: Seq) -> (usize, bool) {
        let pull = self.pulls.get(&seq);
        pull.map_or((0, false), |pull| (pull.tries, pull.asked_seed))
    }

    /// A neighbour sent what it was asked for, or said that it can't.
    pub fn answered(&mut self, peer: PeerId) {
        self.deaf.remove(&peer);
    }

    /// A neighbour does not have it, or is busy: another is asked at once, but behind the seed
    /// there is none.
    /// Whether it is to be asked for.
    pub fn refused(&mut self, peer: PeerId, seed: bool, seq: Seq, now: Instant) -> bool {
        self.answered(peer);
        let Some(pull) = self.pulls.get_mut(&seq) else {
            return false;
        };
        pull.waited_for.remove(&peer);
        if pull
            .outstanding
            .take_if(|asked| asked.peer == peer)
            .is_none()
        {
            return false;
        }
        pull.not_before = seed.then_some(now + SEED_AGAIN);
        !seed
    }

    /// Forgets everything, for a new epoch.
    pub fn clear(&mut self) {
        self.pulls.clear();
        self.silent.clear();
        self.deaf.clear();
        self.seed_rests = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LATENCY: Duration = Duration::from_secs(2);

    fn source(peer: u64, seed: bool, heard: Instant) -> Source {
        Source {
            peer: PeerId(peer),
            seed,
            rtt: 20 * MS,
            queue: Duration::ZERO,
            heard,
            proven: true,
            easy: false,
        }
    }

    fn missing(slack_ms: u32) -> Vec<Missing> {
        vec![Missing {
            seq: Seq(9),
            slack: slack_ms * MS,
            hope: Hope::Push,
        }]
    }

    fn ask(
        rescue: &mut Rescue,
        missing: &[Missing],
        sources: &[Source],
        knows: impl Fn(usize, Seq) -> bool,
        salt: u64,
        now: Instant,
    ) -> BTreeMap<PeerId, Vec<Seq>> {
        let due = rescue.due(missing, LATENCY, now);
        rescue.plan(&due, sources, LATENCY, knows, salt, now)
    }

    #[test]
    fn nothing_is_pulled_early_and_the_seed_is_asked_last() {
        let now = Instant::now();
        let sources = [source(1, true, now), source(2, false, now)];
        let mut rescue = Rescue::default();
        let plan =
            |r: &mut Rescue, slack, at| ask(r, &missing(slack), &sources, |_, _| true, 1, at);
        assert!(plan(&mut rescue, 1500, now).is_empty());
        let first = plan(&mut rescue, 790, now);
        assert_eq!(first.keys().collect::<Vec<_>>(), [&PeerId(2)]);
        assert!(
            plan(&mut rescue, 780, now + 10 * MS).is_empty(),
            "one at a time"
        );
        rescue.refused(PeerId(2), false, Seq(9), now + 20 * MS);
        assert!(
            plan(&mut rescue, 700, now + 90 * MS).is_empty(),
            "no other peer, too early for the seed"
        );
        let last = plan(&mut rescue, 390, now + 400 * MS);
        assert_eq!(last.keys().collect::<Vec<_>>(), [&PeerId(1)]);
    }

    #[test]
    fn the_seed_is_asked_where_a_refusal_would_come_too_late() {
        let now = Instant::now();
        let peer = Source {
            rtt: 100 * MS,
            ..source(2, false, now)
        };
        let asked = |slack| {
            let sources = [source(1, true, now), peer];
            let mut rescue = Rescue::default();
            let plan = ask(&mut rescue, &missing(slack), &sources, |_, _| true, 1, now);
            plan.keys().copied().collect::<Vec<_>>()
        };
        assert_eq!(asked(501), [PeerId(2)]);
        assert_eq!(asked(500), [PeerId(1)]);
    }

    #[test]
    fn a_refusal_is_followed_by_the_next_source_at_once() {
        let now = Instant::now();
        let sources = [source(2, false, now), source(3, false, now)];
        let mut rescue = Rescue::default();
        let plan = |r: &mut Rescue, at| ask(r, &missing(700), &sources, |_, _| true, 1, at);
        assert!(plan(&mut rescue, now).contains_key(&PeerId(2)));
        rescue.refused(PeerId(2), false, Seq(9), now);
        assert!(plan(&mut rescue, now).contains_key(&PeerId(3)));
    }

    #[test]
    fn the_seed_is_asked_however_many_others_refused() {
        let now = Instant::now();
        let mut sources: Vec<_> = (2..8).map(|peer| source(peer, false, now)).collect();
        sources.push(source(1, true, now));
        let mut rescue = Rescue::default();
        let asked = (0..1200).rev().find(|slack| {
            let now = now + (1200 - slack) * MS;
            let plan = ask(&mut rescue, &missing(*slack), &sources, |_, _| true, 1, now);
            for peer in plan.keys().filter(|p| **p != PeerId(1)) {
                rescue.refused(*peer, false, Seq(9), now);
            }
            plan.contains_key(&PeerId(1))
        });
        assert!(asked.is_some_and(|slack| slack >= 300), "{asked:?}");
    }

    #[test]
    fn who_may_still_send_what_came_from_another_is_known_and_not_who_said_no() {
        let now = Instant::now();
        let sources = [2, 3, 4].map(|peer| source(peer, false, now));
        let mut rescue = Rescue::default();
        let plan = |r: &mut Rescue, slack, ms| {
            let plan = ask(r, &missing(slack), &sources, |_, _| true, 1, now + ms * MS);
            plan.keys().next().copied()
        };
        assert_eq!(plan(&mut rescue, 700, 0), Some(PeerId(2)));
        assert_eq!(plan(&mut rescue, 529, 171), Some(PeerId(3)), "2 is late");
        rescue.refused(PeerId(3), false, Seq(9), now + 180 * MS);
        assert_eq!(plan(&mut rescue, 520, 180), Some(PeerId(4)));
        let late = BTreeSet::from([PeerId(2)]);
        assert_eq!(rescue.came(Seq(9), PeerId(4)), (true, late));
        let nobody = (false, BTreeSet::new());
        assert_eq!(rescue.came(Seq(9), PeerId(4)), nobody, "said once");
        assert_eq!(rescue.came(Seq(8), PeerId(4)), nobody, "a push");
    }

    #[test]
    fn what_the_parent_left_out_is_asked_early_of_who_has_enough() {
        let now = Instant::now();
        let [full, mut free] = [2, 3].map(|peer| source(peer, false, now));
        (free.easy, free.rtt) = (true, 90 * MS);
        let asked = |hope, slack_ms, sources: &[Source]| {
            let item = [Missing {
                hope,
                ..missing(slack_ms)[0]
            }];
            let mut rescue = Rescue::default();
            let plan = ask(&mut rescue, &item, sources, |_, _| true, 1, now);
            plan.keys().next().copied()
        };
        let both = [full, free];
        assert_eq!(
            asked(Hope::LeftOut { nodes: 0 }, 1700, &both),
            Some(PeerId(3))
        );
        assert_eq!(asked(Hope::LeftOut { nodes: 0 }, 1701, &both), None);
        assert_eq!(
            asked(Hope::LeftOut { nodes: 2 }, 1501, &both),
            None,
            "one above may"
        );
        assert_eq!(
            asked(Hope::LeftOut { nodes: 2 }, 1500, &both),
            Some(PeerId(3))
        );
        assert_eq!(
            asked(Hope::LeftOut { nodes: 0 }, 1700, &[full]),
            None,
            "it costs others"
        );
        assert_eq!(
            asked(Hope::LeftOut { nodes: 0 }, 1200, &both),
            Some(PeerId(2)),
            "nearer"
        );
        let holes = |count: u64| {
            let hole = |seq| Missing {
                seq: Seq(seq),
                hope: Hope::LeftOut { nodes: 0 },
                ..missing(1500)[0]
            };
            let holes: Vec<_> = (0..count).map(hole).collect();
            let mut rescue = Rescue::default();
            ask(&mut rescue, &holes, &both, |_, _| true, 1, now).len()
        };
        assert_eq!([FEW, FEW + 1].map(|n| holes(n as u64)), [1, 0], "a crisis");
        for (hope, from) in [(Hope::Parent, 1200), (Hope::Push, 800)] {
            assert_eq!(asked(hope, from + 1, &both), None);
            assert_eq!(asked(hope, from, &both), Some(PeerId(2)));
        }
    }

    #[test]
    fn a_silent_source_is_replaced_by_another() {
        let now = Instant::now();
        let sources = [source(2, false, now), source(3, false, now)];
        let mut rescue = Rescue::default();
        let first = ask(&mut rescue, &missing(700), &sources, |_, _| true, 1, now);
        assert!(first.contains_key(&PeerId(2)));
        let later = now + 171 * MS;
        let second = ask(&mut rescue, &missing(529), &sources, |_, _| true, 1, later);
        assert!(second.contains_key(&PeerId(3)));
    }

    #[test]
    fn who_did_not_answer_is_asked_for_nothing_until_it_speaks() {
        let now = Instant::now();
        let mut sources = [source(2, false, now), source(3, false, now)];
        sources[1].queue = 500 * MS;
        let missing = |slack: u32| {
            [9, 10].map(|seq| Missing {
                seq: Seq(seq),
                slack: slack * MS,
                hope: Hope::Push,
            })
        };
        let mut rescue = Rescue::default();
        let mut plan = |missing: &[Missing], sources: &[Source], at| {
            let plan = ask(&mut rescue, missing, sources, |_, _| true, 1, at);
            plan.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(
            plan(&missing(700)[..1], &sources, now),
            [(PeerId(2), vec![Seq(9)])]
        );
        // It lets one piece wait, and is not asked for the other.
        let later = now + 171 * MS;
        let both = (PeerId(3), vec![Seq(9), Seq(10)]);
        assert_eq!(plan(&missing(529), &sources, later), [both]);
        sources[0].heard = later;
        let third = [Missing {
            seq: Seq(11),
            ..missing(529)[0]
        }];
        let third: Vec<_> = missing(529).into_iter().chain(third).collect();
        let now = later + MS;
        assert_eq!(plan(&third, &sources, now), [(PeerId(2), vec![Seq(11)])]);
    }

    #[test]
    fn who_has_said_nothing_for_long_is_not_waited_for() {
        let now = Instant::now();
        let old = now - 2 * SPOKE;
        let sources = [source(2, false, old), source(3, false, old)];
        let mut rescue = Rescue::default();
        let first = ask(&mut rescue, &missing(700), &sources, |_, _| true, 1, now);
        assert!(first.contains_key(&PeerId(2)));
        let later = now + 61 * MS;
        let second = ask(&mut rescue, &missing(639), &sources, |_, _| true, 1, later);
        assert!(second.contains_key(&PeerId(3)));
    }

    #[test]
    fn what_no_neighbour_has_the_seed_is_asked_for_by_one_after_the_other() {
        let now = Instant::now();
        let sources = [source(1, true, now), source(2, false, now)];
        let asked_at = |salt: u64| {
            let mut rescue = Rescue::default();
            (0..2000).rev().find(|slack| {
                let now = now + (2000 - slack) * MS;
                let plan = ask(
                    &mut rescue,
                    &missing(*slack),
                    &sources,
                    |_, _| false,
                    salt,
                    now,
                );
                plan.contains_key(&PeerId(1))
            })
        };
        let mut times: Vec<_> = (0..20).filter_map(asked_at).collect();
        times.sort_unstable();
        assert_eq!(times.len(), 20);
        assert!(times[0] >= 400 && times[19] <= 800, "{times:?}");
        assert!(times[19] - times[0] > 200, "{times:?}");
    }

    #[test]
    fn who_never_sends_what_it_was_asked_for_is_left_out_however_much_it_talks() {
        let now = Instant::now();
        let mut rescue = Rescue::default();
        let asks = |rescue: &mut Rescue, seq: u64, at: Instant| {
            let item = Missing {
                seq: Seq(seq),
                slack: 600 * MS,
                hope: Hope::Push,
            };
            // It speaks all the time.
            let talks = Source {
                peer: PeerId(7),
                seed: false,
                rtt: 10 * MS,
                queue: Duration::ZERO,
                heard: at,
                proven: true,
                easy: false,
            };
            let due = rescue.due(&[item], LATENCY, at);
            let plan = rescue.plan(&due, &[talks], LATENCY, |_, _| true, 1, at);
            plan.contains_key(&PeerId(7))
        };
        for n in 0..DEAF {
            assert!(asks(&mut rescue, u64::from(n), now + n * 1000 * MS));
            rescue.due(
                &[Missing {
                    seq: Seq(u64::from(n)),
                    slack: 100 * MS,
                    hope: Hope::Push,
                }],
                LATENCY,
                now + n * 1000 * MS + 500 * MS,
            );
        }
        let last = now + (DEAF - 1) * 1000 * MS + 500 * MS;
        assert!(!asks(&mut rescue, 100, last + MS));
        let mut other = last + DEAF_FOR;
        assert!(asks(&mut rescue, 101, other), "it gets another chance");
        other += MS;
        rescue.answered(PeerId(7));
        assert!(asks(&mut rescue, 102, other));
    }

    #[test]
    fn one_that_never_sent_anything_is_left_out_the_first_time() {
        let now = Instant::now();
        let asked_again = |proven| {
            let mut rescue = Rescue::default();
            let at = now + 500 * MS;
            let talks = |heard| Source {
                proven,
                ..source(2, false, heard)
            };
            ask(
                &mut rescue,
                &missing(700),
                &[talks(now)],
                |_, _| true,
                1,
                now,
            );
            // It says something, but not what it was asked for.
            ask(&mut rescue, &missing(200), &[talks(at)], |_, _| true, 1, at);
            let other = [Missing {
                seq: Seq(10),
                ..missing(600)[0]
            }];
            let plan = ask(&mut rescue, &other, &[talks(at)], |_, _| true, 1, at);
            plan.contains_key(&PeerId(2))
        };
        assert_eq!([true, false].map(asked_again), [true, false]);
    }

    #[test]
    fn a_far_seed_is_asked_sooner() {
        let now = Instant::now();
        let sources = [Source {
            rtt: 250 * MS,
            ..source(1, true, now)
        }];
        let mut rescue = Rescue::default();
        let plan = ask(&mut rescue, &missing(570), &sources, |_, _| true, 1, now);
        assert!(plan.contains_key(&PeerId(1)));
    }
}
