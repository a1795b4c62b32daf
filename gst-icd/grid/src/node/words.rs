//! What a seed with a narrow uplink may say to those that ask.
//!
//! Messages go before pieces. Of a seed that carries little more than one copy of the stream, the answers
//! to a crowd, or to all that miss one piece, would take what the roots live from; they would miss more
//! and ask more, and the grid would not come back. So each kind of answer has a share of what the uplink
//! carries beyond one copy. A wide one is not held up by that: a crowd is served the sooner the more it is
//! told (of a thousand at ten copies, simulated with a twentieth and less of all for each kind, some are late
//! for eight seconds longer).
//! Simulated with 1.2 copies and three hundred that come in ten seconds: without, one piece of a hundred
//! is in time, for ever; with it, all or nearly all.
//!
//! Introductions have no share: who hears of a viewer meets it or asks again, and a seed that gave a tenth of
//! it to them lost more by what was asked again. They are counted where viewers are named.

use std::time::Instant;

use crate::bucket::Bucket;
use crate::ids::Bitrate;
use crate::message::MAX_CANDIDATES;

/// A message's own bytes in a packet of its own.
const PACKET: f64 = 60.0;
/// Of a candidate and of its introduction; of a piece's number; of the first words with a newcomer, beside the
/// stream's header.
const CANDIDATE: f64 = 45.0;
const MEET: f64 = 25.0;
const NUMBER: f64 = 8.0;
const START: f64 = 400.0;
/// An uplink of less copies is narrow, and so few viewers are named then.
const NARROW: f64 = 2.0;
const FEW: usize = 5;
/// At once, where a share is less: so many of a kind.
const AT_ONCE: f64 = 16.0;
/// An uplink that carries hardly a copy has this share of it for all shares.
const LEAST: f64 = 0.1;

/// An answer that may have to wait, or is not given.
#[derive(Debug, Clone, Copy)]
pub(super) enum Word {
    /// Where the stream begins, whom to ask and whom not: headers and lists have so many bytes. The newcomer
    /// waits.
    Start(usize),
    /// More viewers to ask. Who hears none asks again, after a longer time.
    Candidates,
    /// It has not this many pieces, or is busy. Who hears nothing asks again, after a longer time.
    Nak(usize),
}

impl Word {
    /// About so many bytes, and the share that all of the kind get.
    fn costs(self, names: usize) -> (f64, f64) {
        // Who hears of them wants to meet them all.
        let candidates = PACKET + (CANDIDATE + PACKET + MEET) * names as f64;
        match self {
            Self::Start(bytes) => (START + bytes as f64 + candidates, 0.45),
            Self::Candidates => (candidates, 0.18),
            Self::Nak(pieces) => (PACKET + NUMBER * pieces as f64, 0.18),
        }
    }
}

/// How many viewers are named at a time beside a copy of the stream, which takes so many bytes per second. Each
/// of them costs an introduction, too: a narrow seed names few, and those know others.
pub(super) fn names(uplink: Option<Bitrate>, copy: f64) -> usize {
    let narrow = uplink.is_some_and(|rate| rate.bytes_per_second() < copy * NARROW);
    if narrow { FEW } else { MAX_CANDIDATES }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Words {
    starts: Bucket,
    candidates: Bucket,
    naks: Bucket,
}

impl Words {
    pub(super) fn new(now: Instant) -> Self {
        let full = Bucket::new(u32::MAX, now);
        Self {
            starts: full,
            candidates: full,
            naks: full,
        }
    }

    /// Whether an uplink has room for it beside a copy of the stream, which takes so many bytes per
    /// second; one without a limit always has.
    pub(super) fn affords(
        &mut self,
        word: Word,
        uplink: Option<Bitrate>,
        copy: f64,
        now: Instant,
    ) -> bool {
        let Some(uplink) = uplink else {
            return true;
        };
        let (bytes, share) = word.costs(names(Some(uplink), copy));
        let bucket = match word {
            Word::Start(_) => &mut self.starts,
            Word::Candidates => &mut self.candidates,
            Word::Nak(_) => &mut self.naks,
        };
        let uplink = uplink.bytes_per_second();
        let rate = (uplink - copy).max(uplink * LEAST) * share;
        bucket.spend(bytes, rate, rate.max(bytes * AT_ONCE), now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Of a stream of 2.5 Mbit/s.
    const COPY: f64 = 344_000.0;

    /// Of so many that ask in ten seconds, how many are answered.
    fn answered(word: Word, uplink: Option<Bitrate>, asked: u32) -> u32 {
        let now = Instant::now();
        let mut words = Words::new(now);
        let step = Duration::from_secs(10) / asked;
        let affords = |n: &u32| words.affords(word, uplink, COPY, now + step * *n);
        (0..asked).filter(affords).count() as u32
    }

    #[test]
    fn a_narrow_uplink_answers_a_share_and_a_wide_one_all() {
        let narrow = Some(Bitrate(3_300_000));
        for word in [Word::Start(100), Word::Candidates, Word::Nak(1)] {
            let (bytes, share) = word.costs(names(narrow, COPY));
            let beyond = narrow.map_or(0.0, Bitrate::bytes_per_second) - COPY;
            let least = 10.0 * beyond * share / bytes;
            let many = answered(word, narrow, 10_000);
            assert!((least..least * 1.2 + AT_ONCE).contains(&f64::from(many)));
            assert_eq!(answered(word, None, 10_000), 10_000);
            assert_eq!(answered(word, Some(Bitrate(1_000_000_000)), 10_000), 10_000);
        }
    }

    #[test]
    fn a_few_are_answered_at_once_however_narrow_it_is() {
        let mut words = Words::new(Instant::now());
        let now = Instant::now();
        let mut affords = || words.affords(Word::Start(100), Some(Bitrate(100_000)), COPY, now);
        assert!((0..16).all(|_| affords()) && !affords());
    }

    #[test]
    fn a_narrow_uplink_names_few() {
        assert_eq!(names(None, COPY), MAX_CANDIDATES);
        assert_eq!(names(Some(Bitrate(25_000_000)), COPY), MAX_CANDIDATES);
        assert_eq!(names(Some(Bitrate(3_300_000)), COPY), FEW);
    }

    #[test]
    fn one_kind_does_not_take_the_share_of_another() {
        let now = Instant::now();
        let mut words = Words::new(now);
        let narrow = Some(Bitrate(3_300_000));
        while words.affords(Word::Nak(8), narrow, COPY, now) {}
        assert!(words.affords(Word::Candidates, narrow, COPY, now));
        assert!(words.affords(Word::Start(100), narrow, COPY, now));
    }
}
