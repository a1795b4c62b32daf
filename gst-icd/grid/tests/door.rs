//! Who knocks at a seed's door, from where, and how often.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use icd_grid::message::{Hello, Message, Refusal, VERSION};
use icd_grid::token::Token;
use icd_grid::trust::{Ed25519Signer, Ed25519Verifier, Sign};
use icd_grid::{
    Action, Bitrate, Epoch, Input, Node, NodeId, PeerId, Policy, SeedSettings, StreamKey,
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
