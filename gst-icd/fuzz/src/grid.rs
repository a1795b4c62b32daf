//! A small grid whose every step the fuzzer chooses, with an enemy in it.
//!
//! Whatever happens: nothing panics, nodes ask for no time that has passed, nothing grows, what is played and
//! passed on is what the seed signed, and nobody is blamed but the enemy.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use icd_grid::message::Message;
use icd_grid::piece::{Hop, Piece};
use icd_grid::trust::Verify;
use icd_grid::{
    Action, Bitrate, Entry, Epoch, Event, Input, Media, MediaState, Node, NodeId, PeerId, Policy,
    SeedSettings, Seq, StreamKey, Target, ViewerSettings,
};
use icd_sim::seal::Seal;

use crate::HEAP;
use crate::enemy::Enemy;
use crate::messages::Facts;
use crate::wire::KEY;

/// The seed and the viewers; the enemy comes after them.
const NODES: usize = 5;
pub(crate) const ENEMY: usize = NODES;
/// Decisions after one fact: a seed that names viewers to all, and pieces to each, stays far below.
const MOST_ACTIONS: usize = 20_000;
/// Times that a node may ask to be woken without letting time pass.
const MOST_WAKES: usize = 100;
/// Of pieces on their way on one connection the oldest are lost; of messages none are, and a connection on which
/// so many wait ends, as over QUIC.
const MAIL: usize = 512;
/// What all may hold: of the stream 1 MiB at each node, and what is on its way.
const HELD: usize = 48 << 20;
/// Steps of one run.
const STEPS: usize = 3000;
const BUFFER: usize = 1 << 20;

/// One end of a connection.
#[derive(Debug)]
struct End {
    far: (usize, PeerId),
    messages: VecDeque<Input>,
    pieces: VecDeque<Input>,
}

pub(crate) struct Grid<'u, 'b> {
    u: &'u mut Unstructured<'b>,
    now: Instant,
    nodes: Vec<Node>,
    ids: Vec<NodeId>,
    ends: BTreeMap<(usize, PeerId), End>,
    next_peer: u64,
    /// Payloads of the stream: what may be played.
    made: HashSet<Bytes>,
    head: Seq,
    epoch: Epoch,
    enemy: Enemy,
    before: usize,
}

fn sealed(key: StreamKey) -> Option<Box<dyn Verify>> {
    Some(Box::new(Seal(key)))
}

pub(crate) fn addr(host: usize) -> SocketAddr {
    ([192, 0, 2, host as u8 + 1], 7423).into()
}

/// The whole of a run.
pub(crate) fn run(bytes: &[u8]) {
    let before = HEAP.allocated();
    let u = &mut Unstructured::new(bytes);
    if let Ok(mut grid) = Grid::new(u, before) {
        // It ends where the choices end.
        let _ = grid.live();
    }
}

impl<'u, 'b> Grid<'u, 'b> {
    fn new(u: &'u mut Unstructured<'b>, before: usize) -> Result<Self> {
        let now = Instant::now();
        let policy = Policy::default();
        let epoch = Epoch(2);
        let settings = SeedSettings {
            buffer: Duration::from_secs(4),
            buffer_bytes: BUFFER,
            upload: u
                .ratio(1, 2)?
                .then_some(Bitrate(u.int_in_range(0..=20_000_000)?)),
            max_viewers: u.ratio(1, 8)?.then_some(u.int_in_range(0..=4)?),
            per_address: None,
            token: None,
            epoch,
            policy,
        };
        let seal = || Box::new(Seal(KEY));
        let mut nodes = vec![Node::seed(settings, seal(), seal(), u.arbitrary()?, now)];
        let ids: Vec<_> = (0..=NODES).map(|n| NodeId([n as u8 + 1; 32])).collect();
        for id in &ids[1..NODES] {
            let settings = ViewerSettings {
                latency: Duration::from_millis(u.int_in_range(100..=3000)?),
                upload: Bitrate(u.int_in_range(0..=10_000_000)?),
                measure: u.arbitrary()?,
                volume: u.arbitrary()?,
                relay: u.ratio(7, 8)?,
                seed_only: u.ratio(1, 8)?,
                max_peers: u.int_in_range(0..=20)?,
                lan: None,
                stream: u.ratio(7, 8)?.then_some(KEY),
                token: None,
                policy,
            };
            nodes.push(Node::viewer(settings, *id, sealed, u.arbitrary()?, now));
        }
        Ok(Self {
            u,
            now,
            nodes,
            ids,
            ends: BTreeMap::new(),
            next_peer: 1,
            made: HashSet::new(),
            head: Seq(0),
            epoch,
            enemy: Enemy::default(),
            before,
        })
    }

    fn live(&mut self) -> Result<()> {
        for host in 0..NODES {
            self.settle(host);
        }
        for _ in 0..STEPS {
            match self.u.int_in_range(0..=15)? {
                0..=3 => self.ordinary()?,
                4 => self.deliver()?,
                5 => self.item()?,
                6 => {
                    let ms = self.u.int_in_range(1..=60)?;
                    self.pass(Duration::from_millis(ms));
                }
                7 => {
                    let ms = self.u.int_in_range(1..=12_000)?;
                    self.pass(Duration::from_millis(ms));
                }
                8 => self.enemy_comes()?,
                9..=12 => self.enemy_speaks()?,
                13 => self.enemy_sends()?,
                14 => self.application()?,
                _ => self.accident()?,
            }
            let held = HEAP.allocated().saturating_sub(self.before);
            assert!(held < HELD, "{held} bytes are held");
        }
        Ok(())
    }

    /// All is well for a while: items come, everything arrives.
    fn ordinary(&mut self) -> Result<()> {
        for _ in 0..self.u.int_in_range(1..=25)? {
            self.item()?;
            self.pass(Duration::from_millis(20));
            let ends: Vec<_> = self.ends.keys().copied().collect();
            for end in ends {
                for _ in 0..MAIL {
                    if !self.arrive(end, true) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn any_end(&mut self) -> Result<Option<(usize, PeerId)>> {
        let ends: Vec<_> = self.ends.keys().copied().collect();
        match ends.is_empty() {
            true => Ok(None),
            false => Ok(Some(*self.u.choose(&ends)?)),
        }
    }

    fn deliver(&mut self) -> Result<()> {
        if let Some(end) = self.any_end()? {
            let messages_first = self.u.arbitrary()?;
            self.arrive(end, messages_first);
        }
        Ok(())
    }

    fn item(&mut self) -> Result<()> {
        let len = match self.u.ratio(1, 64)? {
            true => self.u.int_in_range(0..=600_000)?,
            false => self.u.int_in_range(0..=3000)?,
        };
        let entry = [Entry::Join, Entry::Lead, Entry::None, Entry::None];
        let entry = *self.u.choose(&entry)?;
        let data = Bytes::from(vec![self.u.arbitrary()?; len]);
        let state = self.u.ratio(1, 64)?.then(|| MediaState {
            media: Bytes::from_static(b"media"),
            own_timeline: false,
        });
        let at = self.now;
        self.give(
            0,
            Input::Item {
                data,
                entry,
                at,
                state,
            },
        );
        Ok(())
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for host in 0..NODES {
            for wakes in 0.. {
                assert!(wakes < MOST_WAKES, "host {host} is never content");
                if self.nodes[host].poll_timeout(self.now) > self.now {
                    break;
                }
                self.nodes[host].tick(self.now);
                self.settle(host);
                // What is due now may be done when that is past.
                self.now += Duration::from_micros(1);
            }
        }
    }

    fn give(&mut self, host: usize, input: Input) {
        if host == ENEMY {
            self.enemy.hears(&input);
            return;
        }
        self.nodes[host].handle(input, self.now);
        self.settle(host);
    }

    /// One thing that is on its way arrives; false if there is none.
    fn arrive(&mut self, end: (usize, PeerId), messages_first: bool) -> bool {
        let Some(line) = self.ends.get_mut(&end) else {
            return false;
        };
        let far = line.far;
        let input = match messages_first || line.pieces.is_empty() {
            true => line
                .messages
                .pop_front()
                .or_else(|| line.pieces.pop_front()),
            false => line.pieces.pop_front(),
        };
        let Some(input) = input else {
            return false;
        };
        match &input {
            Input::Piece { body, .. } => {
                let seq = icd_grid::piece::claimed(body).map(|info| info.seq);
                seq.into_iter().for_each(|seq| self.sent(far, seq, true));
            }
            Input::Disconnected { .. } => drop(self.ends.remove(&end)),
            _ => {}
        }
        self.give(end.0, input);
        true
    }

    fn sent(&mut self, (host, peer): (usize, PeerId), seq: Seq, delivered: bool) {
        let sent = Input::Sent {
            peer,
            seq,
            delivered,
        };
        if let Some(end) = self.ends.get_mut(&(host, peer)) {
            end.messages.push_back(sent);
        }
    }

    fn connect(&mut self, from: (usize, PeerId), to: usize) {
        let far = (to, PeerId(self.next_peer));
        self.next_peer += 1;
        let binding = [7; 32];
        for ((host, peer), other) in [(from, far), (far, from)] {
            let connected = Input::Connected {
                peer,
                id: self.ids[other.0],
                addr: addr(other.0),
                binding,
            };
            let end = End {
                far: other,
                messages: [connected].into(),
                pieces: VecDeque::new(),
            };
            self.ends.insert((host, peer), end);
        }
        self.enemy.connected(from, far);
    }

    /// Both ends hear of it after what was said before.
    fn hang_up(&mut self, near: (usize, PeerId)) {
        let Some(end) = self.ends.get_mut(&near) else {
            return;
        };
        end.messages.clear();
        end.pieces.clear();
        let far = end.far;
        for (host, peer) in [near, far] {
            let why = "closed".into();
            if let Some(end) = self.ends.get_mut(&(host, peer)) {
                end.messages.push_back(Input::Disconnected { peer, why });
            }
        }
    }

    /// Sends on a connection, towards its other end.
    fn say(&mut self, near: (usize, PeerId), input: impl FnOnce(PeerId) -> Input) {
        let Some(far) = self.ends.get(&near).map(|end| end.far) else {
            return;
        };
        let Some(end) = self.ends.get_mut(&far) else {
            return;
        };
        match input(far.1) {
            piece @ Input::Piece { .. } => end.pieces.push_back(piece),
            message => end.messages.push_back(message),
        }
        if end.messages.len() > MAIL {
            self.hang_up(near);
        } else if end.pieces.len() > MAIL
            && let Some(Input::Piece { body, .. }) = end.pieces.pop_front()
            && let Some(info) = icd_grid::piece::claimed(&body)
        {
            self.sent(near, info.seq, false);
        }
    }

    /// Everything that a node decided.
    fn settle(&mut self, host: usize) {
        for actions in 0.. {
            assert!(actions < MOST_ACTIONS, "host {host} never ends");
            if let Some(media) = self.nodes[host].poll_media(self.now) {
                self.plays(host, &media);
                continue;
            }
            match self.nodes[host].poll(self.now) {
                Some(action) => self.act(host, action),
                None => break,
            }
        }
    }

    fn plays(&mut self, host: usize, media: &Media) {
        if let Media::Payload { bytes, .. } = media {
            // A viewer without a key trusts whom it meets.
            assert!(
                self.made.contains(bytes),
                "host {host} plays what nobody made"
            );
        }
    }

    fn act(&mut self, host: usize, action: Action) {
        match action {
            Action::Dial(peer, target) => {
                let to = match target {
                    Target::Seed(_) => Some(0),
                    Target::Viewer { id, .. } => self.ids.iter().position(|known| *known == id),
                };
                // Sometimes nobody answers.
                let reached = !self.u.ratio(1, 8).unwrap_or(true);
                match to.filter(|to| *to != host && reached) {
                    Some(to) => self.connect((host, peer), to),
                    None => {
                        let why = "nobody answers".into();
                        let end = End {
                            far: (ENEMY, PeerId(0)),
                            messages: [Input::Disconnected { peer, why }].into(),
                            pieces: VecDeque::new(),
                        };
                        self.ends.insert((host, peer), end);
                    }
                }
            }
            Action::Close(peer, _) => self.hang_up((host, peer)),
            Action::Send(peer, bytes) => {
                let message = Message::decode(&bytes[4..]);
                assert!(message.is_ok(), "host {host} sends {message:?}");
                self.say((host, peer), |peer| Input::Message {
                    peer,
                    bytes: bytes.slice(4..),
                });
            }
            Action::SendPiece {
                peer,
                seq,
                hop,
                body,
                ..
            } => {
                let piece = Piece::verify(body.clone(), &Seal(KEY));
                let piece = piece.unwrap_or_else(|e| panic!("host {host} relays a piece: {e}"));
                assert_eq!(piece.info().seq, seq);
                if host == 0 {
                    self.made(&piece);
                }
                if !self.ends.contains_key(&(host, peer)) {
                    let delivered = false;
                    self.give(
                        host,
                        Input::Sent {
                            peer,
                            seq,
                            delivered,
                        },
                    );
                }
                self.say((host, peer), |peer| Input::Piece { peer, hop, body });
            }
            Action::Event(Event::Fault { id, what }) => {
                assert!(id == self.ids[ENEMY], "host {host} blames {id}: {what}");
            }
            Action::Event(Event::AskAdmission { peer, .. }) => {
                if let Ok(allow) = self.u.arbitrary() {
                    self.nodes[host].handle(Input::Verdict { peer, allow }, self.now);
                }
            }
            Action::Event(_) | Action::LetIn(_) | Action::Probe { .. } => {}
        }
    }

    fn made(&mut self, piece: &Piece) {
        self.head = self.head.max(piece.info().seq);
        if piece.info().epoch > self.epoch {
            self.epoch = piece.info().epoch;
            self.head = piece.info().seq;
        }
        self.made.insert(piece.payload());
    }

    fn facts(&self) -> Facts {
        Facts {
            nodes: self.ids.iter().copied().zip((0..).map(addr)).collect(),
            head: self.head,
            epoch: self.epoch,
            signs: false,
        }
    }

    fn enemy_comes(&mut self) -> Result<()> {
        let to = self.u.int_in_range(0..=NODES - 1)?;
        let peer = PeerId(PeerId::DIALED | self.next_peer);
        if self.enemy.lines() < 16 {
            self.connect((ENEMY, peer), to);
            let hello = self.enemy.hello(self.u)?;
            self.enemy_says((ENEMY, peer), hello.encode().slice(4..));
        }
        Ok(())
    }

    fn enemy_line(&mut self) -> Result<Option<(usize, PeerId)>> {
        let ends = self.ends.range((ENEMY, PeerId(0))..);
        let ends: Vec<_> = ends.map(|(end, _)| *end).collect();
        match ends.is_empty() {
            true => Ok(None),
            false => Ok(Some(*self.u.choose(&ends)?)),
        }
    }

    fn enemy_says(&mut self, line: (usize, PeerId), bytes: Bytes) {
        self.say(line, |peer| Input::Message { peer, bytes });
    }

    fn enemy_speaks(&mut self) -> Result<()> {
        if let Some(line) = self.enemy_line()? {
            for _ in 0..self.u.int_in_range(1..=6)? {
                let bytes = self.enemy.message(&self.facts(), self.u)?;
                self.enemy_says(line, bytes);
            }
            // Without it, most would wait for a turn that never comes.
            if let Some(end) = self.ends.get(&line) {
                let far = end.far;
                while self.arrive(far, true) {}
            }
        }
        Ok(())
    }

    fn enemy_sends(&mut self) -> Result<()> {
        if let Some(line) = self.enemy_line()? {
            let hop: [u8; Hop::BYTES] = self.u.arbitrary()?;
            let body = self.enemy.piece(self.u)?;
            self.say(line, |peer| Input::Piece { peer, hop, body });
        }
        Ok(())
    }

    /// What an application may ask for.
    fn application(&mut self) -> Result<()> {
        let host = self.u.int_in_range(0..=NODES - 1)?;
        let input = match self.u.int_in_range(0..=8)? {
            0 => Input::Upload(
                self.u
                    .ratio(1, 2)?
                    .then_some(Bitrate(self.u.int_in_range(0..=20_000_000)?)),
            ),
            1 => Input::Live,
            2 => Input::MaxViewers(self.u.ratio(1, 2)?.then_some(self.u.int_in_range(0..=6)?)),
            3 => Input::AskAdmission(self.u.arbitrary()?),
            4 => Input::Ban(self.ids[ENEMY]),
            5 if self.u.ratio(1, 4)? => {
                let who = self.u.int_in_range(1..=NODES - 1)?;
                Input::Ban(self.ids[who])
            }
            6 if self.u.ratio(1, 8)? => Input::End,
            7 => Input::Volume(self.u.arbitrary()?),
            _ => return Ok(()),
        };
        self.give(host, input);
        Ok(())
    }

    /// What happens to connections.
    fn accident(&mut self) -> Result<()> {
        let Some(end) = self.any_end()? else {
            return Ok(());
        };
        match self.u.int_in_range(0..=3)? {
            0 => self.hang_up(end),
            1 => {
                let addr = addr(self.u.int_in_range(0..=200)?);
                let peer = end.1;
                if let Some(line) = self.ends.get_mut(&end) {
                    line.messages.push_back(Input::Moved { peer, addr });
                }
            }
            _ => {
                let lost = self.ends.get_mut(&end);
                let lost = lost.and_then(|line| Some((line.far, line.pieces.pop_front()?)));
                if let Some((far, Input::Piece { body, .. })) = lost
                    && let Some(info) = icd_grid::piece::claimed(&body)
                {
                    self.sent(far, info.seq, false);
                }
            }
        }
        Ok(())
    }
}
