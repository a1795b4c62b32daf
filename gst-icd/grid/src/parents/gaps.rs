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
    /// A piece had to be pulled: whether its parent brings too little of the stripe, so that another is looked for.
    pub fn pulled(&mut self, seq: Seq, from: PeerId, now: Instant) {
        let stripe = seq.stripe(self.feeds.len().max(1) as u8);
        let Some(feed) = self.feeds.get_mut(stripe.index()) else {
            return;
        };
        let had = now.saturating_duration_since(feed.since) >= KNOWN;
        if !had || feed.lease || feed.parent.is_none_or(|parent| parent == from) {
            return;
        }
        let elapsed = now.saturating_duration_since(feed.gap_at).as_secs_f64();
        feed.gaps = feed.gaps * (-elapsed / GAPS_OVER).exp() + 1.0;
        feed.gap_at = now;
        let comes = GAPS_OVER / self.round.as_secs_f64().max(0.001);
        feed.poor |= feed.gaps >= (comes * GAPS).max(FEW_GAPS);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MS, WEAK, fed, neighbour};
    use super::*;

    /// Of a stripe that comes every 160 ms, each so manieth piece is pulled, for ten seconds; whether another
    /// parent was asked meanwhile, and which one feeds it.
    fn after(each: u64, by: u64, from: u64) -> (bool, Option<PeerId>) {
        let (mut parents, start) = fed(&[2, 3, 3, 3]);
        let stripe = StripeId(0);
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
                let parent = PeerId(if k == 0 { by } else { 3 });
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
        assert_eq!(after(2, 2, 3), (true, kept));
        assert_eq!(after(10, 2, 3), (false, kept), "a piece now and then");
        assert_eq!(after(2, 2, 2), (false, kept), "it answered itself");
    }
}
