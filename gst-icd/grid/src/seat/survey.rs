//! What is asked about all viewers together: by each that comes, and by each that looks for others.
//!
//! Ten thousand that come at once must not make the seed look through ten thousand ten thousand times, so in
//! a large grid the answer is a moment old.

use super::*;

/// So old is an answer at most ...
const HOLDS: Duration = Duration::from_millis(20);
/// ... and in a grid of so few, anew each time.
const FEW: usize = 64;
/// Room beyond this counts no more: not all shall go to the one that has most.
const ROOMY: u16 = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Survey {
    at: Option<Instant>,
    spare: f64,
    reserve: f64,
    dependants: usize,
    /// Who relays, by its room.
    by_room: [Vec<PeerId>; ROOMY as usize + 1],
}

impl Survey {
    /// So many more depend on the seed from now on: those that wait are looked at in one moment.
    pub(super) fn depend(&mut self, more: usize) {
        self.dependants += more;
    }
}

impl Seat {
    fn survey(&mut self, now: Instant) -> &mut Survey {
        let holds = |at: Instant| now.saturating_duration_since(at) < HOLDS;
        if self.members.len() <= FEW || !self.survey.at.is_some_and(holds) {
            let mut survey = std::mem::take(&mut self.survey);
            self.look(&mut survey, now);
            self.survey = survey;
        }
        &mut self.survey
    }

    fn look(&self, survey: &mut Survey, now: Instant) {
        survey.at = Some(now);
        (survey.spare, survey.reserve, survey.dependants) = (0.0, 0.0, 0);
        survey.by_room.iter_mut().for_each(Vec::clear);
        for (peer, member) in &self.members {
            let (spare, reserve) = self.gives(member, now);
            survey.spare += spare;
            survey.reserve += reserve;
            survey.dependants += usize::from(member.started && member.hello.seed_only());
            if member.hello.relay && member.report.slots > 0 {
                let room = member.report.spare.min(ROOMY);
                survey.by_room[usize::from(room)].push(*peer);
            }
        }
    }

    /// Stripes that a viewer can still feed, as it says, and those that it could beyond.
    fn gives(&self, member: &Member, now: Instant) -> (f64, f64) {
        let holds = contact(self.members.len()).mul_f64(REPORT_HOLDS);
        let fresh = |at: Instant| now.saturating_duration_since(at) < holds;
        if !member.hello.relay || !member.reported.is_some_and(fresh) {
            return (0.0, 0.0);
        }
        let report = &member.report;
        // What it has no parent for it gives to nobody.
        let fed = f64::from(report.fed.count_ones()) / f64::from(self.stripes.max(1));
        let fed = fed.min(1.0);
        let (more, beyond) = (f64::from(report.spare), f64::from(report.reserve));
        (more * fed, beyond * fed)
    }

    /// Viewers that only the seed can feed, among those that it feeds.
    pub fn dependants(&mut self, now: Instant) -> usize {
        self.survey(now).dependants
    }

    /// Stripes that the other viewers can still feed, as they say, and those that they could beyond.
    pub fn spare(&mut self, asker: PeerId, now: Instant) -> (f64, f64) {
        let asker = self.members.get(&asker);
        let own = asker.map_or((0.0, 0.0), |member| self.gives(member, now));
        let promised = self.promised.iter().filter(|(_, until)| *until > now);
        let promised: f64 = promised.map(|(n, _)| n).sum();
        let all = self.survey(now);
        (all.spare - own.0 - promised, all.reserve - own.1)
    }

    /// Viewers for one that looks for parents: those with most to spare, in some random order.
    pub fn candidates(
        &mut self,
        asker: PeerId,
        most: usize,
        rng: &mut fastrand::Rng,
        now: Instant,
    ) -> Vec<Candidate> {
        // The roomy first, but not the same to everybody.
        let mut named = Vec::new();
        for room in self.survey(now).by_room.iter_mut().rev() {
            for n in 0..room.len() {
                if named.len() == most {
                    break;
                }
                let other = rng.usize(n..room.len());
                room.swap(n, other);
                named.extend(Some(room[n]).filter(|peer| *peer != asker));
            }
        }
        let members = named.iter().filter_map(|peer| self.members.get(peer));
        let candidates = members.map(|m| Candidate {
            node: m.id,
            addr: m.addr,
            spare: m.report.spare,
        });
        candidates.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scene;
    use super::*;

    #[test]
    fn the_roomy_are_named_first_and_not_the_same_to_everybody() {
        let (mut seat, _, now) = scene(&[1, 9, 0, 30, 8, 2]);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut named = |asker, most| {
            let list = seat.candidates(PeerId(asker), most, &mut rng, now);
            list.iter().map(|c| c.node.0[0]).collect::<Vec<_>>()
        };
        let first: Vec<_> = (0..50).map(|_| named(9, 1)[0]).collect();
        assert!([1, 3, 4].iter().all(|n| first.contains(n)) && !first.contains(&5));
        let all = named(3, 9);
        assert_eq!((all.len(), &all[2..]), (4, &[5, 0][..]));
    }

    #[test]
    fn in_a_large_grid_an_answer_is_a_moment_old() {
        let (mut seat, _, now) = scene(&[8; 100]);
        for member in seat.members.values_mut() {
            member.reported = Some(now);
            member.report.fed = 0b1111;
        }
        let spare =
            |seat: &mut Seat, ms| seat.spare(PeerId(0), now + ms * Duration::from_millis(1)).0;
        assert_eq!(spare(&mut seat, 0), 99.0 * 8.0);
        seat.members.get_mut(&PeerId(9)).expect("one").started = false;
        let hello = &mut seat.members.get_mut(&PeerId(9)).expect("one").hello;
        hello.features = Hello::SEED_ONLY;
        assert_eq!(seat.dependants(now), 0);
        seat.started(PeerId(9));
        assert_eq!(seat.dependants(now), 1, "at once");
        seat.forget(PeerId(7));
        assert_eq!([19, 20].map(|ms| spare(&mut seat, ms)), [792.0, 784.0]);
        // Who has gone meanwhile is not named.
        seat.forget(PeerId(8));
        let mut rng = fastrand::Rng::with_seed(1);
        assert_eq!(seat.candidates(PeerId(0), 100, &mut rng, now).len(), 97);
    }
}
