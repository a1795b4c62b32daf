//! A parent that brings too little of a stripe: one that took more children than its uplink carries, or that sends
//! what is of no use.
//!
//! It is not left at once, as its own parent may be to blame and another need not be better: it is kept until
//! another has been found.

use super::*;

/// A parent is judged by what it brings after so long ...
const KNOWN: Duration = Duration::from_secs(2);
/// ... and another is looked for where such a share had to be pulled, over so many seconds, and more than a few.
const GAPS: f64 = 0.2;
const GAPS_OVER: f64 = 4.0;
const FEW_GAPS: f64 = 4.0;

impl Parents {
    /// A piece had to be pulled from another: whether the parent brings too little, so that one is looked for.
    /// Above the seed there is nobody.
    pub fn pulled(&mut self, seq: Seq, from: PeerId, now: Instant) {
        let stripe = seq.stripe(self.feeds.len().max(1) as u8);
        let most = self.most_gaps();
        let Some(feed) = self.feeds.get_mut(stripe.index()) else {
            return;
        };
        let known = now.saturating_duration_since(feed.since) >= KNOWN;
        let of_seed = feed.lease || feed.path.is_empty();
        if !known || of_seed || feed.parent.is_none_or(|parent| parent == from) {
            return;
        }
        feed.gaps = feed.gaps_left(now) + 1.0;
        feed.gap_at = now;
        feed.poor |= feed.gaps >= most;
    }

    /// What was a bad moment of the parent is over.
    pub(super) fn forgive(&mut self, now: Instant) {
        let most = self.most_gaps();
        for feed in self.feeds.iter_mut().filter(|feed| feed.poor) {
            feed.poor = feed.gaps_left(now) > most / 2.0;
        }
    }

    fn most_gaps(&self) -> f64 {
        let comes = GAPS_OVER / self.round.as_secs_f64().max(0.001);
        (comes * GAPS).max(FEW_GAPS)
    }
}

impl Feed {
    fn gaps_left(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.gap_at).as_secs_f64();
        self.gaps * (-elapsed / GAPS_OVER).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MS, WEAK, fed, neighbour};
    use super::*;

    /// Of a stripe that comes every 160 ms, each so manieth piece is pulled, for ten seconds; whether another
    /// parent was asked meanwhile, and which one feeds it.
    fn after(each: u64, path: &[u64], from: u64) -> (bool, Option<PeerId>) {
        let (mut parents, start) = fed(&[2, 3, 3, 3]);
        let stripe = StripeId(0);
        parents.path_changed(PeerId(2), stripe, path.to_vec(), 7);
        let around = [1, 2, 3].map(|peer| Neighbour {
            since: 1000,
            ..neighbour(peer, 5)
        });
        let mut rng = fastrand::Rng::with_seed(1);
        let mut asked = false;
        for n in 0..62 {
            let now = start + 160 * MS * n as u32;
            for k in 0..4 {
                let seq = Seq(1000 + 4 * n + k);
                let pulled = k == 0 && n % each == 0;
                let parent = PeerId(if k == 0 { 2 } else { 3 });
                let whom = if pulled { PeerId(from) } else { parent };
                parents.arrived(seq, whom, now);
                if pulled {
                    parents.pulled(seq, whom, now);
                }
            }
            parents.tick(&around, WEAK, &mut rng, now);
            asked |= parents.is_pending(PeerId(3), stripe);
        }
        (asked, parents.feed(stripe).and_then(|f| f.parent()))
    }

    #[test]
    fn where_much_has_to_be_pulled_another_parent_is_asked_and_this_one_kept_meanwhile() {
        let kept = Some(PeerId(2));
        let path = &[2];
        assert_eq!(after(2, path, 3), (true, kept));
        assert_eq!(after(10, path, 3), (false, kept), "a piece now and then");
        assert_eq!(after(2, path, 2), (false, kept), "it answered itself");
        assert_eq!(after(2, &[], 3), (false, kept), "it is the seed");
    }

    #[test]
    fn a_bad_moment_is_forgiven() {
        let (mut parents, start) = fed(&[2]);
        let known = start + KNOWN;
        (0..8).for_each(|n| parents.pulled(Seq(4 * n), PeerId(3), known));
        let mut poor = |after: Duration| {
            parents.forgive(known + after);
            parents.feeds[0].poor
        };
        assert!(poor(Duration::ZERO) && !poor(Duration::from_secs(10)));
    }
}
