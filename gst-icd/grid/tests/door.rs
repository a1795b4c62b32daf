//! Who knocks at a seed's door, from where, and how often; and how much one that is in may ask for.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use icd_grid::message::{Hello, Message, Refusal, VERSION};
use icd_grid::token::Token;
use icd_grid::trust::{Ed25519Signer, Ed25519Verifier, Sign};
use icd_grid::{
    Action, Bitrate, Entry, Epoch, Input, MediaState, Node, NodeId, PeerId, Policy, SeedSettings,
    Seq, StreamKey,
};

const BINDING: [u8; 32] = [7; 32];

struct Door {
    seed: Node,
    stream: StreamKey,
    now: Instant,
    next: u64,
}

impl Door {
    fn new(token: Option<&Token>, per_address: Option<usize>) -> Self {
        let now = Instant::now();
        let signer = Ed25519Signer::new(SigningKey::from_bytes(&[1; 32]));
        let stream = signer.key();
        let verifier = Ed25519Verifier::new(stream).expect("a good key");
        let settings = SeedSettings {
            buffer: Duration::from_secs(10),
            buffer_bytes: 1 << 20,
            upload: None,
            max_viewers: None,
            per_address,
            token: token.cloned(),
            epoch: Epoch(1),
            policy: Policy::default(),
        };
        let seed = Node::seed(settings, Box::new(signer), Box::new(verifier), 1, now);
        Self {
            seed,
            stream,
            now,
            next: 1,
        }
    }

    /// Somebody comes from an address; what the seed says first.
    fn knock(&mut self, from: &str, token: Option<&Token>) -> Message {
        let peer = PeerId(self.next);
        let mut id = [0; 32];
        id[..8].copy_from_slice(&self.next.to_le_bytes());
        self.next += 1;
        let proof = token.map(|token| token.prove(self.stream, &BINDING));
        let hello = Hello {
            version: VERSION,
            features: 0,
            stream: Some(self.stream),
            ticket: None,
            epoch: Epoch(0),
            resume: None,
            latency_ms: 2000,
            relay: true,
            upload: Bitrate(1_000_000),
            lan: None,
            proof: proof.map_or_else(Bytes::new, |proof| Bytes::copy_from_slice(&proof)),
        };
        let addr: SocketAddr = from.parse().expect("an address");
        let connected = Input::Connected {
            peer,
            id: NodeId(id),
            addr,
            binding: BINDING,
        };
        let bytes = Message::Hello(hello).encode().slice(4..);
        self.seed.handle(connected, self.now);
        self.seed.handle(Input::Message { peer, bytes }, self.now);
        let mut said = None;
        while let Some(action) = self.seed.poll(self.now) {
            if let Action::Send(to, bytes) = action
                && to == peer
            {
                let message = Message::decode(&bytes[4..]).expect("a message");
                said.get_or_insert(message);
            }
        }
        said.expect("it answers")
    }

    /// Six seconds of a stream.
    fn stream(&mut self) {
        for n in 0..300 {
            self.now += Duration::from_millis(20);
            let state = (n == 0).then(|| MediaState {
                media: Bytes::from_static(b"caps"),
                own_timeline: false,
            });
            let item = Input::Item {
                data: Bytes::from_static(&[7; 500]),
                entry: if n % 50 == 0 {
                    Entry::Join
                } else {
                    Entry::None
                },
                at: self.now,
                state,
            };
            self.seed.handle(item, self.now);
        }
        while self.seed.poll(self.now).is_some() {}
    }

    /// The last that came in pulls so many pieces; how many it gets, and of how many it is told that it does not.
    fn pull(&mut self, from: u64, count: u64) -> (usize, usize) {
        let peer = PeerId(self.next - 1);
        let all: Vec<_> = (from..from + count).map(Seq).collect();
        let (mut got, mut told) = (0, 0);
        for seqs in all.chunks(32) {
            let epoch = self.seed.stats(self.now).epoch;
            let seqs = seqs.to_vec();
            let bytes = Message::Pull { epoch, seqs }.encode().slice(4..);
            self.seed.handle(Input::Message { peer, bytes }, self.now);
            while let Some(action) = self.seed.poll(self.now) {
                match action {
                    Action::SendPiece { peer: to, seq, .. } if to == peer => {
                        got += 1;
                        let delivered = true;
                        let sent = Input::Sent {
                            peer,
                            seq,
                            delivered,
                        };
                        self.seed.handle(sent, self.now);
                    }
                    Action::Send(to, bytes) if to == peer => {
                        if let Ok(Message::Nak(seqs)) = Message::decode(&bytes[4..]) {
                            told += seqs.len();
                        }
                    }
                    _ => {}
                }
            }
        }
        (got, told)
    }
}

fn token(text: &str) -> Token {
    Token::new(text).expect("a token")
}

#[test]
fn tokens_are_guessed_slowly_and_only_at_the_guesser_s_own_cost() {
    let right = token("right");
    let mut door = Door::new(Some(&right), None);
    let wrong = token("wrong");
    for _ in 0..16 {
        let said = door.knock("192.0.2.1:1", Some(&wrong));
        assert_eq!(said, Message::Refuse(Refusal::Token));
    }
    // From here on nothing is looked at, whatever it is and wherever it comes from there.
    let later = Message::Refuse(Refusal::Full { retry_s: 30 });
    assert_eq!(door.knock("192.0.2.1:2", Some(&wrong)), later);
    assert_eq!(door.knock("192.0.2.1:3", Some(&right)), later);
    let welcome = |said| matches!(said, Message::Welcome(_));
    assert!(welcome(door.knock("192.0.2.2:1", Some(&right))));
    door.now += Duration::from_secs(30);
    assert!(welcome(door.knock("192.0.2.1:4", Some(&right))));
}

#[test]
fn so_many_come_from_one_address_and_the_own_machine_is_no_stranger() {
    let mut door = Door::new(None, Some(2));
    let mut come = |from| match door.knock(from, None) {
        Message::Welcome(_) => None,
        Message::Refuse(refusal) => Some(refusal),
        other => panic!("{other:?}"),
    };
    let crowded = Some(Refusal::Address { retry_s: 30 });
    assert_eq!([come("192.0.2.1:1"), come("192.0.2.1:2")], [None, None]);
    assert_eq!(come("192.0.2.1:3"), crowded);
    // A network of IPv6 is one house.
    assert_eq!(
        [come("[2001:db8::1]:1"), come("[2001:db8::2]:1")],
        [None, None]
    );
    assert_eq!(come("[2001:db8::3]:1"), crowded);
    assert_eq!(come("[2001:db8:0:1::1]:1"), None);
    assert!((0..9).all(|_| come("127.0.0.1:9").is_none()));
}

#[test]
fn who_pulls_more_than_its_share_is_told_so_and_not_for_ever() {
    let mut door = Door::new(None, None);
    door.stream();
    assert!(matches!(
        door.knock("192.0.2.1:1", None),
        Message::Welcome(_)
    ));
    let pulled: Vec<_> = (0..4).map(|_| door.pull(0, 60)).collect();
    let got: usize = pulled.iter().map(|(got, _)| got).sum();
    let told: usize = pulled.iter().map(|(_, told)| told).sum();
    assert_eq!((got, told), (192, 48), "slots are free");
    // Of what is not there, no more than a little.
    assert_eq!(door.pull(1 << 40, 200), (0, 96 - told));
    door.now += Duration::from_secs(1);
    assert_eq!(door.pull(1 << 40, 200), (0, 24));
    assert_eq!(door.pull(0, 8).0, 4, "four a second");
}
