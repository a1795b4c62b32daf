//! Peers that mean harm, over real connections: what they send costs the others nothing. And one that comes again.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use icd_grid::message::{Hello, Message, VERSION, Welcome};
use icd_grid::piece::{Hop, PREFIX_BYTES, Why};
use icd_grid::{
    Bitrate, Entry, Epoch, Event, Input, Media, MediaState, Meeting, NodeId, Policy, SeedSettings,
    ViewerSettings,
};
use quinn::{Connection, RecvStream, SendStream};

use crate::dial::dial;
use crate::driver::Wires;
use crate::handle::open;
use crate::{
    Key, SeedConfig, SeedHandle, ViewerConfig, ViewerHandle, runtime, start_seed, start_viewer,
};

const DEADLINE: Duration = Duration::from_secs(60);
const ITEM: usize = 5_000;

fn settings() -> SeedSettings {
    SeedSettings {
        buffer: Duration::from_secs(10),
        buffer_bytes: 64 << 20,
        upload: None,
        max_viewers: None,
        per_address: None,
        token: None,
        epoch: Epoch(1),
        policy: Policy::default(),
    }
}

type Events = async_channel::Receiver<Event>;

/// A seed whose stream runs until the sender goes.
fn seed(key: &Key) -> (SeedHandle, Events) {
    let config = SeedConfig {
        key: key.clone(),
        address: Some([127, 0, 0, 1].into()),
        port: 0,
        node: settings(),
    };
    start_seed(config, || false).unwrap()
}

fn viewer(key: &Key, seed: &SeedHandle) -> (ViewerHandle, Events) {
    viewer_who(key, seed, false)
}

fn viewer_who(key: &Key, seed: &SeedHandle, seed_only: bool) -> (ViewerHandle, Events) {
    start_viewer(ViewerConfig {
        hosts: vec![("127.0.0.1".into(), seed.local_addr().port())],
        address: Some([127, 0, 0, 1].into()),
        port: 0,
        node: ViewerSettings {
            latency: Duration::from_secs(1),
            upload: Bitrate(20_000_000),
            relay: true,
            measure: false,
            volume: None,
            seed_only,
            max_peers: 24,
            lan: None,
            stream: Some(key.stream_key()),
            token: None,
            policy: Policy::default(),
        },
    })
    .unwrap()
}

/// A connection and its control stream.
type Line = (Connection, SendStream, RecvStream);

/// A peer with an endpoint and a key of its own that keeps no rule.
struct Mallory {
    wires: Wires,
    key: Key,
}

impl Mallory {
    fn new() -> Self {
        let key = Key::random().unwrap();
        let (wires, _) = open(&key, Some([127, 0, 0, 1].into()), 0).unwrap();
        Self { wires, key }
    }

    async fn connect(&self, port: u16, whom: NodeId) -> Line {
        let connection = dial(
            self.wires.endpoint.clone(),
            self.wires.identity.clone(),
            self.wires.transport.clone(),
            vec![("127.0.0.1".into(), port)],
            Some(whom),
        )
        .await
        .unwrap();
        let (send, recv) = connection.open_bi().await.unwrap();
        (connection, send, recv)
    }

    /// Is admitted by the seed like everybody.
    async fn enter(&self, seed: &SeedHandle, key: &Key) -> (Line, Welcome) {
        let (connection, mut send, mut recv) =
            self.connect(seed.local_addr().port(), key.node_id()).await;
        send.write_all(&self.hello(None)).await.unwrap();
        let welcome = loop {
            if let Message::Welcome(welcome) = read(&mut recv).await {
                break welcome;
            }
        };
        ((connection, send, recv), welcome)
    }

    /// Shows another viewer its ticket, and is greeted.
    async fn meet(&self, whom: &ViewerHandle, welcome: &Welcome) -> Line {
        let (connection, mut send, mut recv) =
            self.connect(whom.local_addr().port(), whom.id()).await;
        send.write_all(&self.hello(Some(welcome))).await.unwrap();
        while !matches!(read(&mut recv).await, Message::Hello(_)) {}
        (connection, send, recv)
    }

    fn hello(&self, welcome: Option<&Welcome>) -> Bytes {
        Message::Hello(Hello {
            version: VERSION,
            features: u64::MAX,
            stream: None,
            ticket: welcome.map(|w| w.ticket.clone()),
            epoch: Epoch(0),
            resume: None,
            latency_ms: 0,
            relay: true,
            upload: Bitrate(u64::MAX),
            lan: None,
            proof: Bytes::new(),
        })
        .encode()
    }
}

async fn read(recv: &mut RecvStream) -> Message {
    let mut len = [0; 4];
    recv.read_exact(&mut len).await.unwrap();
    let mut bytes = vec![0; u32::from_le_bytes(len) as usize];
    recv.read_exact(&mut bytes).await.unwrap();
    Message::decode(&bytes).unwrap()
}

fn noise(rng: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}

/// Sends nonsense in every place where something is read, until it is thrown out.
async fn rave(connection: &Connection, mut send: SendStream) {
    let mut rng = fastrand::Rng::with_seed(7);
    for n in 0..500_usize {
        if connection.close_reason().is_some() {
            return;
        }
        let len = rng.usize(0..2000);
        let mut body = noise(&mut rng, len);
        // Of every kind that there is, and some that there are not.
        if let Some(kind) = body.first_mut() {
            *kind = (n % 30) as u8;
        }
        let mut message = BytesMut::new();
        message.put_u32_le(body.len() as u32);
        message.put_slice(&body);
        let _ = send.write_all(&message).await;
        // Strangers may open none.
        let opened = tokio::time::timeout(Duration::from_millis(5), connection.open_uni()).await;
        if let Ok(Ok(mut stream)) = opened {
            let _ = stream.write_all(&body[..body.len().min(n)]).await;
            let _ = stream.finish();
        }
    }
    // A message longer than any.
    let _ = send.write_all(&[0xff; 64]).await;
    let _ = tokio::time::timeout(DEADLINE, connection.closed()).await;
}

fn feed(seed: &SeedHandle, n: u32) {
    let mut data = n.to_le_bytes().to_vec();
    data.resize(ITEM, n as u8);
    let (join, at) = (n.is_multiple_of(25), Instant::now());
    let data = data.into();
    let state = (n == 0).then(|| MediaState {
        media: Bytes::from_static(b"caps"),
        own_timeline: false,
    });
    assert!(seed.offer(Input::Item {
        data,
        entry: if join { Entry::Join } else { Entry::None },
        at,
        state
    }));
}

/// Streams while `harm` runs and a little longer, then checks what the viewers got: every byte
/// of every item, in order, to the end.
fn unharmed(seed: &SeedHandle, viewers: &[&ViewerHandle], harm: impl Future<Output = ()> + Send) {
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let players: Vec<_> = viewers.iter().map(|v| scope.spawn(|| played(v))).collect();
        scope.spawn(|| {
            let mut n = 0;
            let mut rest = 50;
            while rest > 0 {
                feed(seed, n);
                n += 1;
                if over.load(std::sync::atomic::Ordering::Relaxed) {
                    rest -= 1;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            seed.offer(Input::End);
        });
        for viewer in viewers {
            let until = Instant::now() + DEADLINE;
            while viewer.snapshot().stats.bytes_from_seed == 0 {
                assert!(Instant::now() < until, "a viewer is not served");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let runtime = runtime().unwrap();
        let harmed = runtime.block_on(async { tokio::time::timeout(DEADLINE, harm).await });
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(harmed.is_ok(), "it was not thrown out");
        for player in players {
            let items = player.join().unwrap();
            assert!(items.len() > 50, "{} items", items.len());
            let first = items[0];
            assert!(items.iter().zip(first..).all(|(a, b)| *a == b));
        }
    });
}

/// The numbers of the items that a viewer played; their bytes are checked.
fn played(viewer: &ViewerHandle) -> Vec<u32> {
    let media = viewer.media();
    let until = Instant::now() + DEADLINE;
    let mut bytes = Vec::new();
    loop {
        assert!(Instant::now() < until, "the end did not come");
        match media.try_recv() {
            Ok(Media::Payload {
                bytes: more,
                discont,
                ..
            }) => {
                assert!(!discont || bytes.is_empty(), "something was lost");
                bytes.extend_from_slice(&more);
            }
            Ok(Media::End) => break,
            Ok(Media::Header { .. }) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    bytes
        .chunks(ITEM)
        .map(|item| {
            let n = u32::from_le_bytes(item[..4].try_into().unwrap());
            assert!(item.len() == ITEM && item[4..].iter().all(|b| *b == n as u8));
            n
        })
        .collect()
}

fn blamed(events: &Events, whom: NodeId) -> Option<String> {
    std::iter::from_fn(|| events.try_recv().ok()).find_map(|event| match event {
        Event::Fault { id, what } if id == whom => Some(what),
        _ => None,
    })
}

#[test]
fn nonsense_from_a_peer_gets_it_thrown_out_and_harms_nobody() {
    let key = Key::random().unwrap();
    let (seed, seed_events) = seed(&key);
    let (first, first_events) = viewer(&key, &seed);
    let (second, _events) = viewer(&key, &seed);
    let mallory = Mallory::new();
    let me = mallory.key.node_id();
    let places = [
        (seed.local_addr().port(), key.node_id()),
        (first.local_addr().port(), first.id()),
    ];
    let harm = async {
        for (port, whom) in places {
            // Before it says hello, and as one that was let in.
            let (connection, send, _recv) = mallory.connect(port, whom).await;
            rave(&connection, send).await;
            assert!(connection.close_reason().is_some());
        }
        let ((connection, send, _recv), _) = mallory.enter(&seed, &key).await;
        rave(&connection, send).await;
        assert!(connection.close_reason().is_some());
    };
    unharmed(&seed, &[&first, &second], harm);
    assert!(
        blamed(&seed_events, me).is_some(),
        "the seed says who it was"
    );
    assert!(
        blamed(&first_events, me).is_some(),
        "the viewer says who it was"
    );
}

/// The sizes of what comes to a socket, until nothing has come for three seconds.
fn all_that_comes(victim: &UdpSocket) -> Vec<usize> {
    let mut patience = DEADLINE;
    let mut buffer = [0; 2048];
    let next = || {
        victim.set_read_timeout(Some(patience)).unwrap();
        patience = Duration::from_secs(3);
        victim.recv(&mut buffer).ok()
    };
    std::iter::from_fn(next).collect()
}

#[test]
fn who_names_an_address_brings_it_few_and_small_packets() {
    let key = Key::random().unwrap();
    let (seed, _events) = seed(&key);
    let (first, _events) = viewer(&key, &seed);
    let (second, _events) = viewer(&key, &seed);
    let mallory = Mallory::new();
    let victim = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let at = victim.local_addr().unwrap();
    let counted = std::thread::spawn(move || all_that_comes(&victim));
    const NAMED: u64 = 100;
    let mut took = Duration::ZERO;
    let harm = async {
        let (_seed, welcome) = mallory.enter(&seed, &key).await;
        let (_first, mut send, _recv) = mallory.meet(&first, &welcome).await;
        let began = Instant::now();
        for n in 0..NAMED {
            let meeting = Meeting(n.to_le_bytes());
            let addrs = vec![at; 100];
            let meet = Message::Meet { addrs, meeting }.encode();
            send.write_all(&meet).await.unwrap();
            // Nor is anybody told anything of one that is not there.
            let node = n;
            let asks = Message::Introduce { node, meeting }.encode();
            send.write_all(&asks).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        took = began.elapsed();
    };
    unharmed(&seed, &[&first, &second], harm);
    let came = counted.join().unwrap();
    assert!(came.iter().all(|bytes| *bytes == 32), "{came:?}");
    // Sixteen at once and four a second, of twenty probes each.
    let most = (16 + 4 * (took.as_secs() as usize + 1)) * 20;
    assert!(
        (20..=most).contains(&came.len()),
        "{} of {most}",
        came.len()
    );
}

#[test]
fn forged_pieces_from_an_admitted_peer_are_neither_played_nor_passed_on() {
    let key = Key::random().unwrap();
    let (seed, _events) = seed(&key);
    let (first, first_events) = viewer(&key, &seed);
    let (second, second_events) = viewer(&key, &seed);
    let mallory = Mallory::new();
    let me = mallory.key.node_id();
    let harm = async {
        let (_seed, welcome) = mallory.enter(&seed, &key).await;
        // One is sent a number that is to come, the other one that it has.
        let has = second.snapshot().stats.head.map_or(0, |head| head.0);
        for (whom, number) in [(&first, 1_000_000), (&second, has)] {
            let (connection, ..) = mallory.meet(whom, &welcome).await;
            let hop = Hop {
                sent_us: 0,
                queued_us: 0,
                why: Why::Push,
            };
            // Of the epoch that runs, the number, and whatever follows.
            let mut body = vec![0; PREFIX_BYTES + 3000];
            body[64..72].copy_from_slice(&1_u64.to_le_bytes());
            body[72..80].copy_from_slice(&u64::to_le_bytes(number));
            let mut stream = connection.open_uni().await.unwrap();
            stream.write_all(&hop.encode()).await.unwrap();
            stream.write_all(&body).await.unwrap();
            let _ = stream.finish();
            connection.closed().await;
            // Remembered: it is not let in again.
            let (again, ..) = mallory.connect(whom.local_addr().port(), whom.id()).await;
            again.closed().await;
        }
    };
    unharmed(&seed, &[&first, &second], harm);
    for events in [first_events, second_events] {
        let what = blamed(&events, me).expect("each that got one says whose it was");
        assert!(what.contains("did not sign"), "{what}");
    }
}

#[test]
fn a_viewer_that_takes_all_from_the_seed_lets_nobody_in() {
    let key = Key::random().unwrap();
    let (seed, _events) = seed(&key);
    let (hidden, _events) = viewer_who(&key, &seed, true);
    let (open, _events) = viewer(&key, &seed);
    let mallory = Mallory::new();
    let harm = async {
        let (_seed, welcome) = mallory.enter(&seed, &key).await;
        let (_open, ..) = mallory.meet(&open, &welcome).await;
        let at = (hidden.local_addr().port(), hidden.id());
        let (connection, mut send, mut recv) = mallory.connect(at.0, at.1).await;
        let hello = mallory.hello(Some(&welcome));
        send.write_all(&hello).await.unwrap();
        let said = read(&mut recv).await;
        assert!(matches!(said, Message::Refuse(_)), "{said:?}");
        connection.closed().await;
        assert_eq!(hidden.snapshot().stats.members, 1, "the seed");
    };
    unharmed(&seed, &[&hidden, &open], harm);
}

/// Comes a dozen times, each time as another, and is of no use.
async fn storm(port: u16, whom: NodeId) {
    for n in 0..12 {
        let mallory = Mallory::new();
        let (connection, mut send, mut recv) = mallory.connect(port, whom).await;
        let hello = mallory.hello(None);
        match n % 4 {
            // Says nothing, and goes.
            0 => {}
            // Does not wait for the answer.
            1 => send.write_all(&hello).await.unwrap(),
            // Says it again and again.
            2 => {
                for _ in 0..100 {
                    let _ = send.write_all(&hello).await;
                }
            }
            // Is let in, and hangs up.
            _ => {
                send.write_all(&hello).await.unwrap();
                // Or thrown out before it is.
                let _ = recv.read(&mut [0]).await;
                connection.close(0_u32.into(), b"");
            }
        }
    }
}

#[test]
fn a_storm_of_connections_harms_nobody_and_leaves_nothing() {
    const AT_ONCE: usize = 16;
    let key = Key::random().unwrap();
    let (seed, _events) = seed(&key);
    let (first, _events) = viewer(&key, &seed);
    let (second, _events) = viewer(&key, &seed);
    let harm = async {
        let mut storms = tokio::task::JoinSet::new();
        for _ in 0..AT_ONCE {
            storms.spawn(storm(seed.local_addr().port(), key.node_id()));
        }
        while let Some(over) = storms.join_next().await {
            over.unwrap();
        }
        while seed.snapshot().stats.members > 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    unharmed(&seed, &[&first, &second], harm);
}

#[test]
fn who_stops_and_starts_anew_finds_its_port_free() {
    let key = Key::random().unwrap();
    let (first, _events) = seed(&key);
    let port = first.local_addr().port();
    let viewers = [(); 6].map(|()| viewer(&key, &first));
    drop(first);
    for _ in 0..5 {
        let config = SeedConfig {
            key: key.clone(),
            address: Some([127, 0, 0, 1].into()),
            port,
            node: settings(),
        };
        let (again, _events) = start_seed(config, || false).expect("the port is free");
        let until = Instant::now() + DEADLINE;
        while again.snapshot().stats.members < viewers.len() as u64 {
            assert!(Instant::now() < until, "they come back");
            std::thread::sleep(Duration::from_millis(20));
        }
        let stops = Instant::now();
        drop(again);
        println!("stopped in {:?}", stops.elapsed());
    }
}
