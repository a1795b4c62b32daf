//! The wire types of the control stream.
//!
//! Each message is a little-endian u32 length and that many bytes of postcard. Later versions may
//! add messages, which are ignored here, and fields at the end of a message; what is neither is
//! counted against who sent it.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::ids::{Bitrate, Epoch, Meeting, NodeId, SenderTime, Seq, StreamKey, StripeId};
use crate::record::{Bans, Beacon, Signed, StreamHeader, Ticket};

/// Version of the protocol; the ALPN says the same.
pub const VERSION: u16 = 1;
/// ALPN of the protocol.
pub const ALPN: &[u8] = b"icd/1";
/// Largest message, a stream header with much in it.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;
/// Most candidates in one answer.
pub const MAX_CANDIDATES: usize = 16;
/// Most pieces in one pull.
pub const MAX_PULL: usize = 32;
/// Most missing pieces in a buffer map.
pub const MAX_HOLES: usize = 64;
/// Most places that a node may be at.
pub const MAX_PLACES: usize = 2;
/// Longest proof of a token.
pub const MAX_PROOF_BYTES: usize = 64;
/// Longest path that a stripe may take.
pub const MAX_DEPTH: usize = 16;
/// No stripe comes by more nodes than this, however it came about.
pub const DEEPEST: usize = 2 * MAX_DEPTH;

/// The first message in both directions between viewers, and of a viewer to the seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u16,
    /// Bits of optional abilities: [`Hello::SEED_ONLY`].
    pub features: u64,
    /// The stream that is wanted; none if the viewer trusts the seed's key.
    pub stream: Option<StreamKey>,
    /// The seed's admission, where there is one.
    pub ticket: Option<Signed<Ticket>>,
    /// Highest epoch that the viewer knows a signature of.
    pub epoch: Epoch,
    /// First piece of that epoch that the viewer still lacks, when it comes back.
    pub resume: Option<Seq>,
    /// Play-out delay, in milliseconds.
    pub latency_ms: u32,
    /// Whether it relays.
    pub relay: bool,
    /// What it may send; a claim, by which only its start is chosen.
    pub upload: Bitrate,
    /// Where it is in its own network, for others in the same one. It is told to the seed alone.
    pub lan: Option<SocketAddr>,
    /// The token of a private stream, proven by HMAC over the TLS exporter; empty without.
    pub proof: Bytes,
}

impl Hello {
    /// Among the features: no other viewer is reached, or shall be.
    pub const SEED_ONLY: u64 = 1;

    /// Whether the seed alone can feed this viewer.
    pub fn seed_only(&self) -> bool {
        self.features & Self::SEED_ONLY != 0
    }
}

/// The seed's answer to a viewer that it admits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`VERSION`].
    pub version: u16,
    /// Bits of optional abilities; none is defined yet.
    pub features: u64,
    /// The address that the seed sees the viewer at.
    pub observed: SocketAddr,
    /// Second port of the seed, which shows the viewer its kind of NAT; zero for none.
    pub second_port: u16,
    /// To show to other viewers.
    pub ticket: Signed<Ticket>,
    /// The seed's sign of life.
    pub beacon: Signed<Beacon>,
}

/// Where the stream begins for a viewer; sent after [`Welcome`] and candidates, when there is room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// First piece to play; it and those up to `head` are on their way.
    pub from: Seq,
    /// The seed's newest piece.
    pub head: Seq,
    /// The header that holds at `from`.
    pub header: Signed<StreamHeader>,
    /// Stripes that the seed pushes from now on, until the viewer finds a parent.
    pub leased: u64,
}

/// A viewer that may serve others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its endpoint key.
    pub node: NodeId,
    /// Where the seed sees it.
    pub addr: SocketAddr,
    /// Stripes that it could push beside what it does.
    pub spare: u16,
}

/// Why a viewer is not admitted or not served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// `max-viewers` is reached, or the grid has no room; try again in so many seconds.
    #[error("the grid is full")]
    Full {
        /// Seconds.
        retry_s: u16,
    },
    /// The broadcaster's application said no.
    #[error("the application does not admit it")]
    Denied,
    /// This seed broadcasts another stream than the one asked for.
    #[error("it asks for another stream")]
    WrongStream,
    /// No common version.
    #[error("it speaks another version of the protocol")]
    Version,
    /// No ticket, or not a valid one.
    #[error("its ticket is not valid")]
    Ticket,
    /// The viewer's play-out delay is longer than what the seed keeps of the stream.
    #[error("its latency is longer than the {most_ms} ms that are kept for it")]
    Latency {
        /// The longest that it serves, in milliseconds.
        most_ms: u32,
    },
    /// The stream is private, and the token was not proven.
    #[error("it does not prove the access token")]
    Token,
    /// `max-viewers-per-address` is reached; try again in so many seconds.
    #[error("as many viewers as may come from one address are there")]
    Address {
        /// Seconds.
        retry_s: u16,
    },
}

impl Refusal {
    /// For one that may hold no longer in a moment: after how many seconds the viewer comes again.
    pub fn retry_s(&self) -> Option<u16> {
        match self {
            Self::Full { retry_s } | Self::Address { retry_s } => Some(*retry_s),
            _ => None,
        }
    }
}

/// Why a stripe is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoStripe {
    /// Every slot is taken.
    Busy,
    /// This node has no parent for it itself.
    Orphan,
    /// The asker is among this node's own ancestors.
    Loop,
    /// The path is long enough.
    Deep,
}

/// What neighbours tell each other a few times a second: the buffer map, and how they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Have {
    /// The life of the seed that the numbers belong to.
    pub epoch: Epoch,
    /// Newest piece of each stripe.
    pub heads: Vec<Option<Seq>>,
    /// Pieces before those that are not here, the newest [`MAX_HOLES`].
    pub holes: Vec<Seq>,
    /// Stripes that could be pushed beside those that are.
    pub spare: u16,
    /// Stripes that could be pushed in all.
    pub strength: u16,
    /// Median lag of the last second, in milliseconds.
    pub lag_ms: u16,
    /// The strength of the weakest child of each stripe; none where there is no child.
    pub weakest: Vec<Option<u16>>,
    /// Queueing delay of the own uplink, in milliseconds.
    pub queue_ms: u16,
    /// One-way delay of the receiver's pushes above the least seen, in milliseconds: a rise at
    /// most children is the sender's uplink, at one child its downlink.
    pub delay_ms: u16,
    /// Stripes that could be pushed beyond that to those that find no other parent.
    pub reserve: u16,
}

/// What a viewer tells the seed once a second.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Slots in all.
    pub slots: u16,
    /// Slots that are free.
    pub spare: u16,
    /// Stripes that have a parent other than by lease.
    pub fed: u64,
    /// Median lag of the last second, in milliseconds.
    pub lag_ms: u16,
    /// Every piece up to here has arrived or is given up.
    pub complete: Seq,
    /// Bytes from the seed since the start.
    pub from_seed: u64,
    /// Bytes from viewers since the start.
    pub from_peers: u64,
    /// Bytes to viewers since the start.
    pub to_peers: u64,
    /// Pieces that were not there when due, since the start.
    pub lost: u64,
    /// Queueing delay of the own uplink, in milliseconds.
    pub queue_ms: u16,
    /// As [`Have::delay_ms`], of the seed's pushes.
    pub delay_ms: u16,
    /// As [`Have::reserve`].
    pub reserve: u16,
    /// What the uplink carries, as far as it is known.
    pub upload: Bitrate,
    /// Who brings each stripe as it should, by the first eight bytes of its key; none: nobody, or the seed.
    pub parents: Vec<Option<u64>>,
}

/// Everything that travels on a control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Welcome`].
    Welcome(Welcome),
    /// The connection is closed after this.
    Refuse(Refusal),
    /// See [`Start`].
    Start(Start),
    /// Asks for a [`Message::Pong`].
    Ping {
        /// Given back.
        id: u32,
    },
    /// Answers a ping.
    Pong {
        /// That of the ping.
        id: u32,
        /// The seed's clock; viewers have none.
        time: Option<SenderTime>,
    },
    /// What holds for the pieces that name this version.
    Header(Signed<StreamHeader>),
    /// Asks for a header.
    NeedHeader {
        /// Its version.
        version: u32,
    },
    /// See [`Beacon`]; passed on to children.
    Beacon(Signed<Beacon>),
    /// Push this stripe to me.
    Subscribe {
        /// Which.
        stripe: StripeId,
        /// First piece that is wanted.
        from: Seq,
        /// To the seed: no peer was found.
        lease: bool,
        /// The life of the seed that `from` belongs to.
        epoch: Epoch,
        /// Stripes that the asker can push in all: the strong go up.
        strength: u16,
        /// It can push one more: who makes place for it may come to it.
        free: bool,
        /// It has nobody for this stripe.
        orphan: bool,
        /// Who feeds it now: who makes place for it may go there.
        old: Option<Candidate>,
    },
    /// The stripe comes.
    Accept {
        /// Which.
        stripe: StripeId,
        /// The nodes that it passes, from the seed's child to the sender.
        path: Vec<u64>,
        /// Who feeds the sender; none if that is the seed. A stronger child goes up to it.
        above: Option<Candidate>,
        /// Only until another parent is found.
        lease: bool,
    },
    /// The stripe does not come.
    Reject {
        /// Which.
        stripe: StripeId,
        /// Why.
        why: NoStripe,
        /// Who may have room.
        instead: Option<Candidate>,
    },
    /// Stop pushing.
    Unsubscribe {
        /// Which.
        stripe: StripeId,
        /// Pieces from here on come from elsewhere.
        from: Seq,
    },
    /// The path of a stripe changed.
    Path {
        /// Which.
        stripe: StripeId,
        /// As in [`Message::Accept`].
        path: Vec<u64>,
        /// As in [`Message::Accept`].
        above: Option<Candidate>,
    },
    /// The parent pushes this stripe no longer than it takes to find another.
    Evict {
        /// Which.
        stripe: StripeId,
        /// Who feeds it from now on: a stronger one took the place, or left one.
        go_to: Option<Candidate>,
    },
    /// The seed asks a viewer to take a stripe from it and feed the others.
    Invite {
        /// Which.
        stripe: StripeId,
    },
    /// A lease of the seed became a root's place: keep it.
    Root {
        /// Which.
        stripe: StripeId,
    },
    /// Send these pieces, once.
    Pull {
        /// The life of the seed that they belong to.
        epoch: Epoch,
        /// Which.
        seqs: Vec<Seq>,
    },
    /// These came from elsewhere: do not push them, those that are yet to come there included.
    Cancel(Vec<Seq>),
    /// These are not here, or the uplink is busy.
    Nak(Vec<Seq>),
    /// See [`Have`].
    Have(Have),
    /// See [`Report`].
    Report(Report),
    /// Asks the seed for viewers.
    Find,
    /// Answers it.
    Candidates(Vec<Candidate>),
    /// The seed renews a viewer's admission before it expires.
    Ticket(Signed<Ticket>),
    /// Means nothing: it takes time on the sender's line, which is measured.
    Pad(Bytes),
    /// See [`Bans`]; passed on to the children of two stripes.
    Bans(Signed<Bans>),
    /// Asks for [`Message::Bans`].
    NeedBans,
    /// Asks a common acquaintance for a meeting: it tells the other where the asker is.
    Introduce {
        /// The other, by the first eight bytes of its key.
        node: u64,
        /// How the asker calls it.
        meeting: Meeting,
    },
    /// Somebody wants to be reached from here, and tries to reach this node.
    Meet {
        /// Where it may be; the nearest first, at most [`MAX_PLACES`].
        addrs: Vec<SocketAddr>,
        /// To be shown in the probes.
        meeting: Meeting,
    },
    /// Answers [`Message::Introduce`]: the other is not known here, or has been named too often.
    Stranger {
        /// That of the question.
        meeting: Meeting,
    },
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// A later version may know it.
    #[error("not a message of this version")]
    Unknown,
    /// No version can read it.
    #[error("not a message")]
    Malformed,
}

/// Kinds of [`Message`]; the bytes begin with which it is.
const KINDS: u32 = 31;

impl Message {
    /// With its length in front.
    pub fn encode(&self) -> Bytes {
        let body = postcard::to_stdvec(self).unwrap_or_default();
        let mut bytes = BytesMut::with_capacity(4 + body.len());
        bytes.put_u32_le(body.len() as u32);
        bytes.put_slice(&body);
        bytes.freeze()
    }

    /// Without its length.
    ///
    /// # Errors
    ///
    /// See [`BadMessage`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BadMessage> {
        // What follows the fields that this version knows is a later version's.
        postcard::take_from_bytes(bytes)
            .map(|(message, _)| message)
            .map_err(|_| match postcard::take_from_bytes::<u32>(bytes) {
                Ok((kind, _)) if kind >= KINDS => BadMessage::Unknown,
                _ => BadMessage::Malformed,
            })
    }
}

/// What comes on its way while a buffer map is on its own.
const UNSAID: u64 = 10;
/// A hole is mended, or will never be, by the time that so many more pieces were made.
const FILLED: u64 = 50;

impl Have {
    /// Whether the sender of this has a piece, as far as can be told: since it said this, so many
    /// pieces were made.
    pub fn likely(&self, seq: Seq, since: u64) -> bool {
        let stripes = self.heads.len();
        if stripes == 0 {
            return false;
        }
        let head = self.heads[(seq.0 % stripes as u64) as usize];
        let newest = self.heads.iter().flatten().max();
        match (head, newest) {
            // Every stripe was past it.
            (Some(head), Some(newest)) if seq.plus(stripes as u64) <= *newest => {
                seq <= head && (since > FILLED || !self.holes.contains(&seq))
            }
            // It may have come since.
            (Some(head), _) => head.plus(since.max(UNSAID)) >= seq,
            (None, _) => false,
        }
    }

    /// What is kept of it, at a node whose stream has so many stripes.
    pub fn trimmed(&self, stripes: u8) -> Self {
        Self {
            heads: self
                .heads
                .iter()
                .copied()
                .take(usize::from(stripes))
                .collect(),
            holes: self.holes.iter().copied().take(MAX_HOLES).collect(),
            weakest: self
                .weakest
                .iter()
                .copied()
                .take(usize::from(stripes))
                .collect(),
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire_and_garbage_does_not() {
        let message = Message::Subscribe {
            stripe: StripeId(3),
            from: Seq(1 << 40),
            lease: true,
            epoch: Epoch(7),
            strength: 9,
            free: true,
            orphan: false,
            old: None,
        };
        let bytes = message.encode();
        assert_eq!(bytes.len(), 4 + bytes[0] as usize);
        let body = &bytes[4..];
        assert_eq!(Message::decode(body), Ok(message.clone()));
        let malformed = Err(BadMessage::Malformed);
        assert_eq!(Message::decode(&body[..body.len() - 1]), malformed);
        assert_eq!(Message::decode(&[]), malformed);
        assert_eq!(Message::decode(&[0, 1]), malformed);
        let longer = [body, &[1, 2, 3]].concat();
        assert_eq!(Message::decode(&longer), Ok(message), "a later field");
    }

    #[test]
    fn what_a_later_version_says_is_unknown_and_not_malformed() {
        let meeting = Meeting([7; 8]);
        let last = Message::Stranger { meeting }.encode();
        assert_eq!(u32::from(last[4]) + 1, KINDS, "the last kind there is");
        assert_eq!(
            Message::decode(&[KINDS as u8, 1, 2]),
            Err(BadMessage::Unknown)
        );
        assert_eq!(Message::decode(&[250, 1, 2]), Err(BadMessage::Unknown));
    }

    #[test]
    fn a_buffer_map_tells_what_is_here_and_what_may_have_come_since() {
        let have = Have {
            heads: vec![Some(Seq(100)), Some(Seq(101)), Some(Seq(62)), None],
            holes: vec![Seq(96)],
            ..Default::default()
        };
        let likely = |seq| have.likely(Seq(seq), 0);
        assert!(likely(92) && !likely(96) && likely(97));
        assert!(likely(58) && !likely(66), "its third stripe stands still");
        assert!(likely(104) && !likely(132), "a moment has passed");
        assert!(!likely(3) && !Have::default().likely(Seq(0), 0));
    }

    #[test]
    fn a_buffer_map_that_lies_is_no_reason_to_panic() {
        let have = Have {
            heads: vec![Some(Seq(u64::MAX)); 300],
            holes: vec![Seq(u64::MAX); 300],
            ..Default::default()
        };
        assert!(have.likely(Seq(3), 0) && have.likely(Seq(u64::MAX - 1), 0));
        let kept = have.trimmed(8);
        assert_eq!((kept.heads.len(), kept.holes.len()), (8, MAX_HOLES));
        assert!(kept.heads.capacity() < 300);
    }

    #[test]
    fn a_length_that_lies_allocates_nothing() {
        // A Pull that claims 2^60 entries.
        let mut bytes = vec![17, 1];
        bytes.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert_eq!(Message::decode(&bytes), Err(BadMessage::Malformed));
    }
}
