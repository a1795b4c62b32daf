//! Messages of every kind, made of choices.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use arbitrary::{Arbitrary, Result, Unstructured};
use bytes::Bytes;
use icd_grid::message::{
    Candidate, Have, Hello, Message, NoStripe, Refusal, Report, Start, Welcome,
};
use icd_grid::record::{Bans, Beacon, Record, Signed, StreamHeader};
use icd_grid::{Bitrate, Epoch, Meeting, NodeId, SenderTime, Seq, StreamKey, StripeId};
use icd_sim::seal::Seal;

use crate::wire::{self, KEY};

/// Who speaks signs with the broadcaster's key, or with another one.
pub(crate) const OTHER: StreamKey = StreamKey([10; 32]);
/// Kinds of messages.
const KINDS: u8 = 31;

/// What is said of things that are there: a message that names others is soon put away.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// Nodes, and where they are.
    pub(crate) nodes: Vec<(NodeId, SocketAddr)>,
    /// The newest piece.
    pub(crate) head: Seq,
    pub(crate) epoch: Epoch,
    /// The speaker is in league with the broadcaster: what it signs holds.
    pub(crate) signs: bool,
}

/// Makes parts of messages.
struct Maker<'f, 'u, 'b> {
    facts: &'f Facts,
    u: &'u mut Unstructured<'b>,
}

/// A message of any kind.
pub(crate) fn any(facts: &Facts, u: &mut Unstructured<'_>) -> Result<Message> {
    let kind = u.int_in_range(0..=KINDS - 1)?;
    Maker { facts, u }.message(kind)
}

impl Maker<'_, '_, '_> {
    fn of<T: for<'a> Arbitrary<'a>>(&mut self) -> Result<T> {
        self.u.arbitrary()
    }

    /// Short, most often.
    fn many<T>(&mut self, mut make: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let n = match self.u.ratio(1, 16)? {
            true => self.u.int_in_range(0..=400)?,
            false => self.u.int_in_range(0..=9)?,
        };
        // Where the choices end, so does the list.
        let n = n.min(self.u.len());
        (0..n).map(|_| make(self)).collect()
    }

    fn bytes(&mut self) -> Result<Bytes> {
        Ok(self.many(Self::of::<u8>)?.into())
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        self.of::<bool>()?.then(|| make(self)).transpose()
    }

    /// Near the newest piece, most often.
    fn seq(&mut self) -> Result<Seq> {
        Ok(match self.u.ratio(1, 16)? {
            true => Seq(self.of()?),
            false => Seq((self.facts.head.0 + 32).saturating_sub(self.u.int_in_range(0..=800)?)),
        })
    }

    fn seqs(&mut self) -> Result<Vec<Seq>> {
        self.many(Self::seq)
    }

    fn stripe(&mut self) -> Result<StripeId> {
        Ok(StripeId(match self.u.ratio(1, 16)? {
            true => self.of()?,
            false => self.u.int_in_range(0..=9)?,
        }))
    }

    fn epoch(&mut self) -> Result<Epoch> {
        Ok(match self.u.ratio(1, 8)? {
            true => Epoch(self.of()?),
            false => self.facts.epoch,
        })
    }

    fn known(&mut self) -> Result<(NodeId, SocketAddr)> {
        match self.facts.nodes.is_empty() || self.u.ratio(1, 8)? {
            true => Ok((NodeId(self.of()?), self.place()?)),
            false => Ok(*self.u.choose(&self.facts.nodes)?),
        }
    }

    fn short(&mut self) -> Result<u64> {
        Ok(self.known()?.0.short())
    }

    fn place(&mut self) -> Result<SocketAddr> {
        let port = self.of()?;
        Ok(match self.of::<bool>()? {
            true => (Ipv4Addr::from_bits(self.of()?), port).into(),
            false => (Ipv6Addr::from_bits(self.of()?), port).into(),
        })
    }

    fn candidate(&mut self) -> Result<Candidate> {
        let (node, addr) = self.known()?;
        let addr = match self.u.ratio(1, 4)? {
            true => self.place()?,
            false => addr,
        };
        let spare = self.of()?;
        Ok(Candidate { node, addr, spare })
    }

    fn meeting(&mut self) -> Result<Meeting> {
        Ok(Meeting(self.of()?))
    }

    fn time(&mut self) -> Result<SenderTime> {
        Ok(SenderTime(self.of()?))
    }

    fn signed<T: Record>(&mut self, record: &T) -> Signed<T> {
        let key = if self.facts.signs { KEY } else { OTHER };
        Signed::sign(record, &Seal(key))
    }

    fn ticket(&mut self) -> Result<Signed<icd_grid::record::Ticket>> {
        let node = self.known()?.0;
        let mut ticket = wire::ticket(node, self.time()?);
        ticket.epoch = self.epoch()?;
        Ok(self.signed(&ticket))
    }

    fn beacon(&mut self) -> Result<Signed<Beacon>> {
        let beacon = Beacon {
            epoch: self.epoch()?,
            head: self.seq()?,
            time: self.time()?,
            bytes_per_second: self.of()?,
            viewers: self.of()?,
            bans: self.of()?,
        };
        Ok(self.signed(&beacon))
    }

    fn header(&mut self) -> Result<Signed<StreamHeader>> {
        let header = StreamHeader {
            epoch: self.epoch()?,
            version: self.of()?,
            stripes: self.of()?,
            piece_us: self.of()?,
            bytes_per_second: self.of()?,
            own_timeline: self.of()?,
            media: self.bytes()?,
        };
        Ok(self.signed(&header))
    }

    fn have(&mut self) -> Result<Have> {
        Ok(Have {
            epoch: self.epoch()?,
            heads: self.many(|m| m.maybe(Self::seq))?,
            holes: self.seqs()?,
            spare: self.of()?,
            strength: self.of()?,
            lag_ms: self.of()?,
            weakest: self.many(|m| m.maybe(Self::of))?,
            queue_ms: self.of()?,
            delay_ms: self.of()?,
            reserve: self.of()?,
        })
    }

    fn report(&mut self) -> Result<Report> {
        Ok(Report {
            slots: self.of()?,
            spare: self.of()?,
            fed: self.of()?,
            lag_ms: self.of()?,
            complete: self.seq()?,
            from_seed: self.of()?,
            from_peers: self.of()?,
            to_peers: self.of()?,
            lost: self.of()?,
            queue_ms: self.of()?,
            delay_ms: self.of()?,
            reserve: self.of()?,
            upload: Bitrate(self.of()?),
            parents: self.many(|m| m.maybe(Self::short))?,
        })
    }

    fn hello(&mut self) -> Result<Hello> {
        Ok(Hello {
            version: match self.u.ratio(1, 16)? {
                true => self.of()?,
                false => icd_grid::message::VERSION,
            },
            features: self.of::<u8>()?.into(),
            stream: self.maybe(|m| Ok(if m.of()? { KEY } else { StreamKey(m.of()?) }))?,
            ticket: self.maybe(Self::ticket)?,
            epoch: self.epoch()?,
            resume: self.maybe(Self::seq)?,
            latency_ms: match self.u.ratio(1, 8)? {
                true => self.of()?,
                false => 2000,
            },
            relay: self.of()?,
            upload: Bitrate(self.of()?),
            lan: self.maybe(Self::place)?,
            proof: self.bytes()?,
        })
    }

    fn refusal(&mut self) -> Result<Refusal> {
        Ok(match self.u.int_in_range(0..=7)? {
            0 => Refusal::Denied,
            1 => Refusal::WrongStream,
            2 => Refusal::Version,
            3 => Refusal::Ticket,
            4 => Refusal::Latency {
                most_ms: self.of()?,
            },
            5 => Refusal::Token,
            6 => Refusal::Address {
                retry_s: self.of()?,
            },
            _ => Refusal::Full {
                retry_s: self.of()?,
            },
        })
    }

    fn no_stripe(&mut self) -> Result<NoStripe> {
        let all = [
            NoStripe::Busy,
            NoStripe::Orphan,
            NoStripe::Loop,
            NoStripe::Deep,
        ];
        Ok(*self.u.choose(&all)?)
    }

    fn message(&mut self, kind: u8) -> Result<Message> {
        Ok(match kind {
            0 => Message::Hello(self.hello()?),
            1 => Message::Welcome(Welcome {
                version: icd_grid::message::VERSION,
                features: self.of()?,
                observed: self.place()?,
                second_port: self.of()?,
                ticket: self.ticket()?,
                beacon: self.beacon()?,
            }),
            2 => Message::Refuse(self.refusal()?),
            3 => Message::Start(Start {
                from: self.seq()?,
                head: self.seq()?,
                header: self.header()?,
                leased: self.of()?,
            }),
            4 => Message::Ping { id: self.of()? },
            5 => Message::Pong {
                id: self.of::<u8>()?.into(),
                time: self.maybe(Self::time)?,
            },
            6 => Message::Header(self.header()?),
            7 => Message::NeedHeader {
                version: self.of()?,
            },
            8 => Message::Beacon(self.beacon()?),
            9 => Message::Subscribe {
                stripe: self.stripe()?,
                from: self.seq()?,
                lease: self.of()?,
                epoch: self.epoch()?,
                strength: self.of()?,
                free: self.of()?,
                orphan: self.of()?,
                old: self.maybe(Self::candidate)?,
            },
            10 => Message::Accept {
                stripe: self.stripe()?,
                path: self.many(Self::short)?,
                above: self.maybe(Self::candidate)?,
                lease: self.of()?,
            },
            11 => Message::Reject {
                stripe: self.stripe()?,
                why: self.no_stripe()?,
                instead: self.maybe(Self::candidate)?,
            },
            12 => Message::Unsubscribe {
                stripe: self.stripe()?,
                from: self.seq()?,
            },
            13 => Message::Path {
                stripe: self.stripe()?,
                path: self.many(Self::short)?,
                above: self.maybe(Self::candidate)?,
            },
            14 => Message::Evict {
                stripe: self.stripe()?,
                go_to: self.maybe(Self::candidate)?,
            },
            15 => Message::Invite {
                stripe: self.stripe()?,
            },
            16 => Message::Root {
                stripe: self.stripe()?,
            },
            17 => Message::Pull {
                epoch: self.epoch()?,
                seqs: self.seqs()?,
            },
            18 => Message::Cancel(self.seqs()?),
            19 => Message::Nak(self.seqs()?),
            20 => Message::Have(self.have()?),
            21 => Message::Report(self.report()?),
            22 => Message::Find,
            23 => Message::Candidates(self.many(Self::candidate)?),
            24 => Message::Ticket(self.ticket()?),
            25 => Message::Pad(self.bytes()?),
            26 => {
                let bans = Bans {
                    epoch: self.epoch()?,
                    version: self.of()?,
                    nodes: self.many(|m| Ok(m.known()?.0))?,
                };
                Message::Bans(self.signed(&bans))
            }
            27 => Message::NeedBans,
            28 => Message::Introduce {
                node: self.short()?,
                meeting: self.meeting()?,
            },
            29 => Message::Meet {
                addrs: self.many(Self::place)?,
                meeting: self.meeting()?,
            },
            _ => Message::Stranger {
                meeting: self.meeting()?,
            },
        })
    }
}

/// A message of every kind, as it travels.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let choices: Vec<u8> = (0..8192_u32).map(|n| ((n * n) >> 5) as u8).collect();
    let facts = Facts::default();
    (0..KINDS)
        .filter_map(|kind| {
            let u = &mut Unstructured::new(&choices[usize::from(kind) * 7..]);
            let message = Maker { facts: &facts, u }.message(kind).ok()?;
            Some(message.encode()[4..].to_vec())
        })
        .collect()
}

/// Whatever can be said is understood as it was meant.
pub(crate) fn survive(bytes: &[u8]) {
    let u = &mut Unstructured::new(bytes);
    while !u.is_empty() {
        let Ok(message) = any(&Facts::default(), u) else {
            return;
        };
        let wire = message.encode();
        assert_eq!(wire[..4], (wire.len() as u32 - 4).to_le_bytes());
        // What a later version adds is passed over.
        let longer = [&wire[4..], &[1, 2, 3]].concat();
        assert_eq!(Message::decode(&wire[4..]).as_ref(), Ok(&message));
        assert_eq!(Message::decode(&longer), Ok(message));
    }
}
