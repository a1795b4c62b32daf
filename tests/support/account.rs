//! What a viewer lost: what it received, laid against what was sent, in order.

use std::hash::{DefaultHasher, Hash, Hasher};

/// What a slice of the stream is known by.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// The fingerprints of the packets of an MPEG transport stream; a torn last one is left out.
pub fn packets(stream: &[u8]) -> Vec<u64> {
    stream.chunks_exact(188).map(fingerprint).collect()
}

/// How a viewer fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Sent between the first and the last that came, and not received; and everything that
    /// should have come after the last.
    pub lost: usize,
    /// Received, but not sent there: doubled, out of order, or never sent.
    pub foreign: usize,
    /// Where in what was sent the viewer began; none if it received nothing of it.
    pub first: Option<usize>,
}

/// How a whole grid fared.
#[derive(Debug, Clone, Copy)]
pub struct Verdict {
    /// Buffers that viewers lost.
    pub frames_lost: usize,
    /// Viewers that got nothing, or what was not sent, or failed.
    pub failed: usize,
    /// What the seed sent, as UDP, in copies of the stream.
    pub copies: f64,
    /// Share of the viewers' bytes that came from viewers.
    pub offload: f64,
}

impl Verdict {
    /// Nothing was lost, and the viewers carried most of it.
    pub fn is_good(&self) -> bool {
        self.faults().is_empty()
    }

    /// What is wrong.
    pub fn faults(&self) -> Vec<String> {
        let faults = [
            (
                self.frames_lost > 0,
                format!("{} frames were lost", self.frames_lost),
            ),
            (self.failed > 0, format!("{} viewers failed", self.failed)),
            (
                self.copies > 2.5,
                format!(
                    "the seed sent {:.2} times the stream, over 2.5",
                    self.copies
                ),
            ),
            (
                self.offload < 0.6,
                format!("offload is {:.1} %, below 60 %", self.offload * 100.0),
            ),
        ];
        let is = faults.into_iter().filter(|(is, _)| *is);
        is.map(|(_, what)| what).collect()
    }
}

/// So many in a row tell where a viewer began: single ones may be alike.
const RUN: usize = 8;

/// Headers that the caps hold come first, and were sent long ago.
const HEADERS: usize = 4;

/// Which of `sent` did not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laid {
    /// Where in what was sent it began.
    pub first: usize,
    /// Behind the last that came.
    pub end: usize,
    /// Between the two, and not received.
    pub lost: Vec<usize>,
    /// See [`Account::foreign`].
    pub foreign: usize,
}

/// Lays `got` against `sent`; none if it has nothing of it.
pub fn lay(sent: &[u64], got: &[u64]) -> Option<Laid> {
    let begins = |got: &[u64]| {
        let run = got
            .get(..RUN.min(got.len()))
            .filter(|run| !run.is_empty())?;
        // The newest place, should there be several.
        sent.windows(run.len()).rposition(|here| here == run)
    };
    let begin = (0..=HEADERS.min(got.len())).find_map(|n| Some((n, begins(&got[n..])?)));
    let (headers, first) = begin?;
    let mut laid = Laid {
        first,
        end: first,
        lost: Vec::new(),
        foreign: 0,
    };
    for print in &got[headers..] {
        match sent[laid.end..].iter().position(|s| s == print) {
            Some(skipped) => {
                laid.lost.extend(laid.end..laid.end + skipped);
                laid.end += skipped + 1;
            }
            None => laid.foreign += 1,
        }
    }
    Some(laid)
}

/// Lays `got` against `sent`. Whatever of `sent` comes before `due` should have arrived.
pub fn account(sent: &[u64], got: &[u64], due: usize) -> Account {
    match lay(sent, got) {
        Some(laid) => Account {
            lost: laid.lost.len() + due.saturating_sub(laid.end),
            foreign: laid.foreign,
            first: Some(laid.first),
        },
        None => Account {
            lost: 0,
            foreign: got.len(),
            first: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent() -> Vec<u64> {
        (0..100).collect()
    }

    fn of(got: &[u64], due: usize) -> (usize, usize) {
        let account = account(&sent(), got, due);
        (account.lost, account.foreign)
    }

    #[test]
    fn a_whole_slice_is_no_loss() {
        let got: Vec<u64> = (20..90).collect();
        assert_eq!(of(&got, 90), (0, 0));
        assert_eq!(account(&sent(), &got, 90).first, Some(20));
    }

    #[test]
    fn a_hole_and_a_stall_are_losses() {
        let holed: Vec<u64> = (20..50).chain(53..90).collect();
        assert_eq!(of(&holed, 90), (3, 0));
        let stalled: Vec<u64> = (20..50).collect();
        assert_eq!(of(&stalled, 90), (40, 0));
    }

    #[test]
    fn a_repetition_and_what_was_never_sent_are_foreign() {
        let twice: Vec<u64> = (20..50).chain(40..50).collect();
        assert_eq!(of(&twice, 50), (0, 10));
        let forged: Vec<u64> = (20..50).chain([1000]).collect();
        assert_eq!(of(&forged, 50), (0, 1));
    }

    #[test]
    fn an_equal_one_does_not_stand_for_another() {
        let sent: Vec<u64> = (0..40).map(|n| if n % 10 == 9 { 7 } else { n }).collect();
        let got: Vec<u64> = sent[..19].iter().chain(&sent[20..]).copied().collect();
        assert_eq!(account(&sent, &got, 40).lost, 1);
    }

    #[test]
    fn headers_of_the_caps_come_before() {
        let got: Vec<u64> = [0, 1].into_iter().chain(20..90).collect();
        assert_eq!(of(&got, 90), (0, 0));
        assert_eq!(account(&sent(), &got, 90).first, Some(20));
    }

    #[test]
    fn each_fault_alone_spoils_the_verdict() {
        let good = Verdict {
            frames_lost: 0,
            failed: 0,
            copies: 2.5,
            offload: 0.6,
        };
        assert!(good.is_good());
        let bad = [
            Verdict {
                frames_lost: 1,
                ..good
            },
            Verdict { failed: 1, ..good },
            Verdict {
                copies: 2.51,
                ..good
            },
            Verdict {
                offload: 0.59,
                ..good
            },
        ];
        assert!(bad.iter().all(|verdict| !verdict.is_good()));
    }

    #[test]
    fn nothing_of_it_is_all_foreign() {
        assert_eq!(account(&sent(), &[5000, 5001], 0).first, None);
    }
}
