//! Wires the rooms of the grid together; no policy of its own.

mod bans;
mod headers;
mod introduce;
mod past;
mod peer;
mod relay;
mod seed;
mod stats;
mod viewer;
mod words;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::clock::Mapping;
use crate::cutter::Entry;
use crate::ids::{Bitrate, Epoch, Meeting, NodeId, PeerId, SenderTime, Seq, StreamKey, StripeId};
use crate::message::Refusal;
use crate::piece::Hop;
use crate::policy::Policy;
use crate::token::{Binding, Token};
use crate::trust::{Sign, Verify};

pub use stats::{Histogram, PeerStats, Stats};

/// What an `icdsink` is told.
#[derive(Debug, Clone)]
pub struct SeedSettings {
    /// Stream kept in memory, at most.
    pub buffer: Duration,
    /// Bytes kept in memory, at most.
    pub buffer_bytes: usize,
    /// Upload, at most; none is unlimited.
    pub upload: Option<Bitrate>,
    /// Viewers, at most; none is unlimited.
    pub max_viewers: Option<usize>,
    /// Viewers from one address, or one network of IPv6, at most; none is unlimited. The own machine is no
    /// stranger.
    pub per_address: Option<usize>,
    /// What viewers have to prove that they know; none admits all.
    pub token: Option<Token>,
    /// The life that begins: UTC in milliseconds.
    pub epoch: Epoch,
    /// What is otherwise than usual.
    pub policy: Policy,
}

/// What an `icdsrc` is told.
#[derive(Debug, Clone)]
pub struct ViewerSettings {
    /// Play-out delay.
    pub latency: Duration,
    /// Upload, at most.
    pub upload: Bitrate,
    /// What the line carries below that is found out.
    pub measure: bool,
    /// Bytes that it sends to anybody, at most, headers included: then it relays no more. None is unlimited.
    pub volume: Option<u64>,
    /// Whether to relay at all.
    pub relay: bool,
    /// No other viewer is reached, or shall be.
    pub seed_only: bool,
    /// Connections to other viewers that this one dials or accepts, at most.
    pub max_peers: usize,
    /// Where the own endpoint is in its network, for other viewers in the same one; none where that is not
    /// known, or is what all see.
    pub lan: Option<SocketAddr>,
    /// The stream's key from the URI; none trusts the seed's.
    pub stream: Option<StreamKey>,
    /// What the seed of a private stream asks for. It is proven only where `stream` was known before.
    pub token: Option<Token>,
    /// What is otherwise than usual.
    pub policy: Policy,
}

/// Makes a verifier for a stream's key; none if the key is unusable.
pub type MakeVerifier = fn(StreamKey) -> Option<Box<dyn Verify>>;

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A connection stands, dialed or taken. `id` is proven.
    Connected {
        /// The connection.
        peer: PeerId,
        /// Who is at the other end.
        id: NodeId,
        /// Where.
        addr: SocketAddr,
        /// What both ends derived from the handshake.
        binding: Binding,
    },
    /// The other end of a connection is seen at another address from now on.
    Moved {
        /// The connection.
        peer: PeerId,
        /// Where.
        addr: SocketAddr,
    },
    /// A connection ended, or never came to be.
    Disconnected {
        /// The connection.
        peer: PeerId,
        /// Why.
        why: Lost,
    },
    /// A control message came, without its length.
    Message {
        /// From this connection.
        peer: PeerId,
        /// The bytes.
        bytes: Bytes,
    },
    /// A piece came.
    Piece {
        /// From this connection.
        peer: PeerId,
        /// First on the stream: see [`Hop`].
        hop: [u8; Hop::BYTES],
        /// The rest.
        body: Bytes,
    },
    /// Bytes that the transport has sent since it began, packet headers included.
    WentOut(u64),
    /// The other end confirmed a piece, or it was given up.
    Sent {
        /// To this connection.
        peer: PeerId,
        /// The piece.
        seq: Seq,
        /// Confirmed.
        delivered: bool,
    },
    /// Seed: the next item of the stream. After [`Input::End`] it begins a new epoch.
    Item {
        /// Its bytes.
        data: Bytes,
        /// What it is to a decoder that starts.
        entry: Entry,
        /// When it entered.
        at: Instant,
        /// What holds from it on, if it is not what held before. They come together, so that
        /// neither is lost alone.
        state: Option<MediaState>,
    },
    /// Seed: the broadcaster ended the stream.
    End,
    /// Seed: whether each viewer that comes from now on is put before
    /// [`Event::AskAdmission`].
    AskAdmission(bool),
    /// Seed: nobody serves this viewer any more, until the seed is stopped.
    Ban(NodeId),
    /// Seed: the application's answer to [`Event::AskAdmission`].
    Verdict {
        /// The connection.
        peer: PeerId,
        /// Let it in.
        allow: bool,
    },
    /// Viewer: the player was paused and threw away what it held; go on with what is due now.
    /// The next [`Media::Payload`] bears the mark of discontinuity.
    Live,
    /// The cap of the upload changed. None: a seed's has none, and a viewer finds out what its line carries.
    Upload(Option<Bitrate>),
    /// What a viewer may send in all changed, what it sent before included; none is unlimited.
    Volume(Option<u64>),
    /// Seed: the most viewers changed.
    MaxViewers(Option<usize>),
}

/// What holds for the items that follow.
#[derive(Debug, Clone)]
pub struct MediaState {
    /// See [`crate::record::StreamHeader::media`]; at most
    /// [`crate::record::StreamHeader::MAX_MEDIA_BYTES`].
    pub media: Bytes,
    /// See [`crate::record::StreamHeader::own_timeline`].
    pub own_timeline: bool,
}

/// Whom to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The seed, at the addresses that the user named; with its key if that is known, from the
    /// URI or from the first contact.
    Seed(Option<StreamKey>),
    /// Another viewer.
    Viewer {
        /// Its endpoint key, to be proven.
        id: NodeId,
        /// Where.
        addr: SocketAddr,
        /// It is dialed where its probe comes from; without one it is not there.
        meeting: Meeting,
    },
}

/// Why a connection is closed by this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Close {
    /// No longer needed.
    Done = 0,
    /// Not admitted, or not served; the last message says why.
    Refused = 1,
    /// It sent what the broadcaster did not sign, or nonsense.
    Fault = 2,
    /// Two connections between the same two nodes.
    Twin = 3,
    /// It was silent for too long.
    Silent = 4,
}

/// What to do.
#[derive(Debug)]
pub enum Action {
    /// Who dialed this node was let in: take pieces from that connection from now on, which until
    /// then are not welcome. From nodes that this one dials they always are.
    LetIn(PeerId),
    /// Open a connection under this name.
    Dial(PeerId, Target),
    /// Send probes to these places, until one comes with the name of this meeting: somebody dials then. For a
    /// meeting that this node dials for, these are more places.
    Probe {
        /// The nearest first.
        addrs: Vec<SocketAddr>,
        /// To be shown.
        meeting: Meeting,
    },
    /// Close a connection, after what was sent before.
    Close(PeerId, Close),
    /// Send a control message; with its length.
    Send(PeerId, Bytes),
    /// Send a piece on a stream of its own; give it up after a while.
    SendPiece {
        /// To this connection.
        peer: PeerId,
        /// Its number, for [`Input::Sent`].
        seq: Seq,
        /// First on the stream.
        hop: [u8; Hop::BYTES],
        /// Then this.
        body: Bytes,
        /// Reset the stream if it is not confirmed by then.
        give_up: Duration,
    },
    /// Tell the application.
    Event(Event),
}

/// Without a piece for this long, a viewer starves.
pub const STARVING: Duration = Duration::from_secs(1);

/// How a viewer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Status {
    /// Looking for the seed.
    #[default]
    Connecting,
    /// Admitted; the stream has not begun.
    Waiting,
    /// Pieces come.
    Running,
    /// No piece has come for [`STARVING`].
    Starving,
    /// The broadcaster ended the stream.
    Ended,
    /// The seed said no for good.
    Refused,
}

/// Why a connection ended, or never came to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Somebody else is there.
    #[error("the key differs from the one that was expected")]
    WrongKey,
    /// The name says nothing, as the resolver puts it.
    #[error("cannot find the host {0}")]
    NoHost(String),
    /// Only addresses of the other kind are known, IPv4 or IPv6.
    #[error("the socket is bound to {0} and reaches no address of the other kind, IPv4 or IPv6")]
    Bound(IpAddr),
    /// Anything else, as the transport puts it.
    #[error("{0}")]
    Other(String),
}

impl From<&str> for Lost {
    fn from(why: &str) -> Self {
        Self::Other(why.into())
    }
}

/// What the application may want to know.
#[derive(Debug, Clone)]
pub enum Event {
    /// Seed: may this viewer come in? Answer with [`Input::Verdict`].
    AskAdmission {
        /// The connection.
        peer: PeerId,
        /// Its key.
        id: NodeId,
        /// Where the seed sees it.
        addr: SocketAddr,
    },
    /// A viewer was admitted (at the seed), or connected (at a viewer).
    PeerAdded {
        /// Its key.
        id: NodeId,
        /// Where.
        addr: SocketAddr,
    },
    /// Seed: a viewer was refused.
    TurnedAway {
        /// Its key.
        id: NodeId,
        /// Where the seed sees it.
        addr: SocketAddr,
        /// Why.
        why: Refusal,
    },
    /// It left.
    PeerRemoved {
        /// Its key.
        id: NodeId,
        /// Why.
        why: String,
    },
    /// Viewer: see [`Status`].
    Status(Status),
    /// Viewer: the seed refused it.
    Refused(Refusal),
    /// Viewer: the seed was not reached; it is tried again.
    Unreached(Lost),
    /// Viewer: the URI names no key; this one was trusted.
    Trusted(StreamKey),
    /// Viewer: a new life of the seed began.
    Epoch(Epoch),
    /// Viewer: a stripe has a new parent after its former one failed.
    Failover {
        /// Which.
        stripe: StripeId,
        /// The parent that failed.
        from: Option<NodeId>,
        /// The new one.
        to: NodeId,
        /// How long the stripe was without one.
        gap: Duration,
    },
    /// Viewer: pieces were not here when they were due, and are passed over.
    Skipped {
        /// The first.
        seq: Seq,
        /// How many.
        count: u64,
        /// Who was to push the first of them.
        parent: Option<NodeId>,
        /// How far that one has come.
        came: Option<Seq>,
        /// How often neighbours were asked for it.
        asked: usize,
        /// The seed was asked, too.
        seed: bool,
    },
    /// A peer sent what the broadcaster did not sign, or nonsense; it was dropped.
    Fault {
        /// Its key.
        id: NodeId,
        /// What.
        what: String,
    },
    /// Seed: the end reached every viewer.
    Drained,
}

/// What the player gets.
#[derive(Debug)]
pub enum Media {
    /// What holds from the next payload on: [`crate::record::StreamHeader::media`].
    Header {
        /// The bytes.
        media: Bytes,
        /// A new epoch: nothing of the old holds.
        epoch: Epoch,
        /// Demuxers of this container make their own timeline.
        own_timeline: bool,
    },
    /// A slice of the stream of items.
    Payload {
        /// The bytes.
        bytes: Bytes,
        /// Offset of the first item that begins here.
        first_item: Option<u32>,
        /// When its first byte entered the seed.
        time: SenderTime,
        /// Something before it is missing; parsing starts anew at `first_item`.
        discont: bool,
        /// The map from sender time to local time.
        clock: Mapping,
    },
    /// The broadcaster ended the stream.
    End,
}

/// A node of a grid: a seed or a viewer.
#[derive(Debug)]
pub struct Node(Part);

#[derive(Debug)]
enum Part {
    Seed(Box<seed::Seed>),
    Viewer(Box<viewer::Viewer>),
}

impl Node {
    /// A seed. `random` is the only source of chance.
    pub fn seed(
        settings: SeedSettings,
        signer: Box<dyn Sign>,
        verifier: Box<dyn Verify>,
        random: u64,
        now: Instant,
    ) -> Self {
        let seed = seed::Seed::new(settings, signer, verifier, random, now);
        Self(Part::Seed(Box::new(seed)))
    }

    /// A viewer. `me` is its endpoint key; `random` the only source of chance.
    pub fn viewer(
        settings: ViewerSettings,
        me: NodeId,
        make_verifier: MakeVerifier,
        random: u64,
        now: Instant,
    ) -> Self {
        let viewer = viewer::Viewer::new(settings, me, make_verifier, random, now);
        Self(Part::Viewer(Box::new(viewer)))
    }

    /// Takes a fact.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match &mut self.0 {
            Part::Seed(seed) => seed.handle(input, now),
            Part::Viewer(viewer) => viewer.handle(input, now),
        }
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Instant) {
        match &mut self.0 {
            Part::Seed(seed) => seed.tick(now),
            Part::Viewer(viewer) => viewer.tick(now),
        }
    }

    /// The next decision. Call until it is none, after every fact.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        match &mut self.0 {
            Part::Seed(seed) => seed.relay.poll(now),
            Part::Viewer(viewer) => viewer.relay.poll(now),
        }
    }

    /// When to let time pass.
    pub fn poll_timeout(&mut self, now: Instant) -> Instant {
        match &mut self.0 {
            Part::Seed(seed) => seed.poll_timeout(now),
            Part::Viewer(viewer) => viewer.poll_timeout(now),
        }
    }

    /// Viewer: the next thing for the player. Call until it is none, after every fact, as long
    /// as the player takes more.
    pub fn poll_media(&mut self, now: Instant) -> Option<Media> {
        match &mut self.0 {
            Part::Seed(_) => None,
            Part::Viewer(viewer) => viewer.poll_media(now),
        }
    }

    /// As in [`Stats::members`].
    pub fn members(&self) -> u64 {
        match &self.0 {
            Part::Seed(seed) => seed.members(),
            Part::Viewer(viewer) => viewer.members(),
        }
    }

    /// Figures of this moment.
    pub fn stats(&self, now: Instant) -> Stats {
        match &self.0 {
            Part::Seed(seed) => seed.stats(now),
            Part::Viewer(viewer) => viewer.stats(now),
        }
    }
}
