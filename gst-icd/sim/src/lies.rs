//! Viewers that misbehave: a real node, of which what goes out or comes in is changed on its way.

use std::collections::VecDeque;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use icd_grid::message::{Candidate, Message};
use icd_grid::piece::{PREFIX_BYTES, Piece, Why, claimed};
use icd_grid::{Epoch, NodeId, Seq, StreamKey};

use crate::seal::Seal;
use crate::stage::EPOCH;

/// What a liar does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lie {
    /// Changes a byte of each payload.
    Forge,
    /// Changes when each piece was made.
    Alter,
    /// Leaves out each piece's last byte.
    Truncate,
    /// Adds a byte to each piece.
    Extend,
    /// Sends what another broadcaster signed.
    Stream,
    /// Sends what this one signed for another epoch.
    Epoch,
    /// Sends, in the place of each piece, one of five seconds ago.
    Replay,
    /// Sends every other piece later than the one after it.
    Reorder,
    /// Says that its uplink carries ten copies, and is taken at its word.
    Boast,
    /// Takes children and sends them nothing.
    Swallow,
    /// The same, from the moment of the failure on; honest before.
    Betray,
    /// Sends all pieces a second and a half late.
    Late,
    /// Leaves out every tenth piece.
    Tenth,
    /// Says that it has all pieces and room for everybody, and answers no pull.
    Advertise,
    /// Asks all its neighbours for all recent pieces, all the time.
    Greedy,
    /// Names viewers that do not exist, at the address of somebody who has nothing to do with this.
    Invent,
    /// Says that nobody but the seed can feed it.
    Squat,
    /// Hears neither that it is refused nor who is excluded.
    Stubborn,
    /// Says that it has everything and room for everybody, names none but others of its kind, and sends nothing.
    Eclipse,
    /// Says that it has everything and that others of its kind bring it all stripes, and sends nothing itself.
    Vouch,
}

/// By their names.
const ALL: [(&str, Lie); 20] = [
    ("forge", Lie::Forge),
    ("alter", Lie::Alter),
    ("truncate", Lie::Truncate),
    ("extend", Lie::Extend),
    ("stream", Lie::Stream),
    ("epoch", Lie::Epoch),
    ("replay", Lie::Replay),
    ("reorder", Lie::Reorder),
    ("boast", Lie::Boast),
    ("swallow", Lie::Swallow),
    ("betray", Lie::Betray),
    ("late", Lie::Late),
    ("tenth", Lie::Tenth),
    ("advertise", Lie::Advertise),
    ("greedy", Lie::Greedy),
    ("invent", Lie::Invent),
    ("squat", Lie::Squat),
    ("stubborn", Lie::Stubborn),
    ("eclipse", Lie::Eclipse),
    ("vouch", Lie::Vouch),
];

impl FromStr for Lie {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = ALL.iter().find(|(name, _)| *name == text);
        known.map(|(_, lie)| *lie).ok_or_else(|| {
            let names: Vec<_> = ALL.iter().map(|(name, _)| *name).collect();
            format!("{text:?} is no kind of liar: {} are", names.join(", "))
        })
    }
}

/// Who sends late, sends so much later.
const LATE: Duration = Duration::from_millis(1500);
/// Who changes the order, by so much.
const SWAPPED: Duration = Duration::from_millis(300);
/// Pieces of each stripe that who replays is behind: five seconds of the stream.
const OLD: usize = 250;
/// The greedy ask for so many pieces at a time, of each neighbour ...
const GREED: u64 = 32;
/// ... this often.
pub(crate) const ASKS: Duration = Duration::from_millis(100);
/// Of those that do not exist.
pub(crate) const NOBODY: [u8; 4] = [192, 0, 2, 1];

/// What a liar does, and what it needs to remember.
#[derive(Debug)]
pub(crate) struct Liar {
    pub(crate) lie: Lie,
    key: StreamKey,
    sent: u64,
    past: VecDeque<Bytes>,
    newest: Seq,
}

impl Liar {
    pub(crate) fn new(lie: Lie, key: StreamKey) -> Self {
        Self {
            lie,
            key,
            sent: 0,
            past: VecDeque::new(),
            newest: Seq(0),
        }
    }

    /// What goes out instead of a piece, and how much later; none where nothing does.
    pub(crate) fn piece(&mut self, why: Why, body: Bytes) -> Option<(Bytes, Duration)> {
        self.sent += 1;
        let at_once = |body| Some((body, Duration::ZERO));
        let changed = |at: usize| {
            let mut bytes = body.to_vec();
            bytes.get_mut(at).into_iter().for_each(|b| *b ^= 1);
            bytes.into()
        };
        match self.lie {
            Lie::Forge => at_once(changed(body.len() - 1)),
            // The time stands before header version, first item and flags.
            Lie::Alter => at_once(changed(PREFIX_BYTES - 12)),
            Lie::Truncate => at_once(body.slice(..body.len() - 1)),
            Lie::Extend => at_once([&body[..], &[0]].concat().into()),
            Lie::Stream => at_once(signed_anew(&body, StreamKey([1; 32]), |epoch| epoch)?),
            Lie::Epoch => {
                let former = |epoch: Epoch| Epoch(epoch.0.saturating_sub(1));
                at_once(signed_anew(&body, self.key, former)?)
            }
            Lie::Replay => {
                self.past.push_back(body);
                let old = self.past.len() > OLD;
                let piece = old.then(|| self.past.pop_front()).flatten();
                piece.and_then(at_once)
            }
            Lie::Swallow | Lie::Eclipse | Lie::Vouch => None,
            Lie::Advertise if why == Why::Pull => None,
            Lie::Tenth if self.sent.is_multiple_of(10) => None,
            Lie::Late => Some((body, LATE)),
            Lie::Reorder if self.sent.is_multiple_of(2) => Some((body, SWAPPED)),
            _ => at_once(body),
        }
    }

    /// What it says instead of a message, without the length; `ring`: all of its kind.
    pub(crate) fn says(&self, bytes: Bytes, ring: &[Candidate], rng: &mut fastrand::Rng) -> Bytes {
        let boasts = matches!(self.lie, Lie::Advertise | Lie::Eclipse | Lie::Vouch);
        let names = matches!(self.lie, Lie::Invent | Lie::Eclipse);
        if !boasts && !names {
            return bytes;
        }
        let mut message = match Message::decode(&bytes) {
            Ok(message) => message,
            Err(_) => return bytes,
        };
        let mut another = || match self.lie {
            Lie::Invent => invented(rng),
            _ => rng.choice(ring).cloned().unwrap_or_else(|| invented(rng)),
        };
        match &mut message {
            Message::Have(have) if boasts => {
                let newest = have.heads.iter().flatten().max().copied();
                have.heads.fill(newest);
                have.holes.clear();
                have.weakest.fill(Some(0));
                have.spare = 100;
                have.reserve = 100;
                have.queue_ms = 0;
                have.lag_ms = 0;
            }
            Message::Report(report) if boasts => {
                report.slots = 100;
                report.spare = 100;
                report.fed = u64::MAX;
                if self.lie != Lie::Advertise {
                    report.parents.fill_with(|| Some(another().node.short()));
                }
            }
            Message::Accept { above: named, .. }
            | Message::Path { above: named, .. }
            | Message::Reject { instead: named, .. }
            | Message::Evict { go_to: named, .. }
                if names =>
            {
                *named = Some(another());
            }
            Message::Candidates(list) if names => list.fill_with(another),
            _ => return bytes,
        }
        message.encode().slice(4..)
    }

    /// Whether it takes notice of a message.
    pub(crate) fn hears(&self, bytes: &[u8]) -> bool {
        let unwelcome = |m: &Message| matches!(m, Message::Refuse(_) | Message::Bans(_));
        self.lie != Lie::Stubborn || !Message::decode(bytes).is_ok_and(|m| unwelcome(&m))
    }

    /// A piece came to it.
    pub(crate) fn came(&mut self, seq: Seq) {
        self.newest = self.newest.max(seq);
    }

    /// What it asks each of its neighbours for, without the length; none where it is content.
    pub(crate) fn asks(&self) -> Option<Bytes> {
        (self.lie == Lie::Greedy && self.newest.0 > GREED).then(|| {
            let seqs = (self.newest.0 - GREED..self.newest.0).map(Seq).collect();
            let epoch = EPOCH;
            Message::Pull { epoch, seqs }.encode().slice(4..)
        })
    }
}

/// A viewer that does not exist.
fn invented(rng: &mut fastrand::Rng) -> Candidate {
    let mut node = [0; 32];
    rng.fill(&mut node);
    Candidate {
        node: NodeId(node),
        addr: (NOBODY, 443).into(),
        spare: u16::MAX,
    }
}

/// A piece with the same payload that somebody else signed, or for another epoch.
fn signed_anew(body: &Bytes, key: StreamKey, epoch: fn(Epoch) -> Epoch) -> Option<Bytes> {
    let mut info = claimed(body)?;
    info.epoch = epoch(info.epoch);
    let payload = body.get(PREFIX_BYTES..)?;
    Some(Piece::sign(info, payload, &Seal(key)).body().clone())
}

#[cfg(test)]
mod tests {
    use icd_grid::SenderTime;
    use icd_grid::piece::PieceInfo;

    use super::*;

    const KEY: StreamKey = StreamKey([9; 32]);

    fn piece(seq: u64) -> Bytes {
        let info = PieceInfo {
            epoch: Epoch(2),
            seq: Seq(seq),
            time: SenderTime(seq),
            header: 1,
            first_item: Some(0),
            join: false,
            end: false,
        };
        Piece::sign(info, &[7; 100], &Seal(KEY)).body().clone()
    }

    #[test]
    fn what_is_forged_does_not_verify_and_what_is_only_old_or_late_does() {
        let good = |body: &Bytes| Piece::verify(body.clone(), &Seal(KEY)).is_ok();
        for (name, lie) in ALL {
            let mut liar = Liar::new(lie, KEY);
            let sent = (0..300).filter_map(|n| liar.piece(Why::Push, piece(n)));
            let sent: Vec<_> = sent.map(|(body, _)| body).collect();
            let forges = matches!(
                lie,
                Lie::Forge | Lie::Alter | Lie::Truncate | Lie::Extend | Lie::Stream
            );
            assert!(sent.iter().all(|body| good(body) != forges), "{name}");
            let expected = match lie {
                Lie::Swallow | Lie::Eclipse | Lie::Vouch => 0,
                Lie::Replay => 300 - OLD,
                Lie::Tenth => 270,
                _ => 300,
            };
            assert_eq!(sent.len(), expected, "{name}");
        }
        assert!(
            "forgery"
                .parse::<Lie>()
                .is_err_and(|e| e.contains("forge, alter"))
        );
    }
}
