//! Real sockets on loopback: a seed and viewers in one process.

use std::time::{Duration, Instant};

use bytes::Bytes;
use icd_grid::{
    Bitrate, Entry, Epoch, Input, Media, MediaState, Policy, SeedSettings, ViewerSettings,
};
use icd_net::{
    BindError, Key, SeedConfig, SeedHandle, StartError, ViewerConfig, ViewerHandle, start_seed,
    start_viewer,
};

const DEADLINE: Duration = Duration::from_secs(60);

fn seed(key: &Key, port: u16) -> SeedHandle {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    seed_of(key, port, Epoch(since.unwrap().as_millis() as u64))
}

fn seed_of(key: &Key, port: u16, epoch: Epoch) -> SeedHandle {
    let config = || SeedConfig {
        key: key.clone(),
        address: Some([127, 0, 0, 1].into()),
        port,
        node: SeedSettings {
            buffer: Duration::from_secs(10),
            buffer_bytes: 64 << 20,
            upload: None,
            max_viewers: None,
            per_address: None,
            token: None,
            epoch,
            policy: Policy::default(),
        },
    };
    // The one before it is stopped within 300 ms, but for its port a busy machine may need longer.
    let until = Instant::now() + DEADLINE;
    loop {
        match start_seed(config(), || false) {
            Ok((seed, _events)) => return seed,
            Err(StartError::Bind(BindError::InUse(_))) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn viewer(key: &Key, port: u16) -> ViewerHandle {
    let config = ViewerConfig {
        hosts: vec![("127.0.0.1".into(), port)],
        address: None,
        port: 0,
        node: ViewerSettings {
            latency: Duration::from_secs(1),
            upload: Bitrate(20_000_000),
            relay: true,
            measure: false,
            volume: None,
            seed_only: false,
            max_peers: 24,
            lan: None,
            stream: Some(key.stream_key()),
            token: None,
            policy: Policy::default(),
        },
    };
    start_viewer(config).unwrap().0
}

/// 250 kB/s, a join point a second; each item is numbered.
fn feed(seed: &SeedHandle, items: std::ops::Range<u32>) {
    let first = items.start;
    for n in items {
        let mut data = n.to_le_bytes().to_vec();
        data.resize(10_000, n as u8);
        let (join, at) = (n % 25 == 0, Instant::now());
        let state = (n == first).then(|| MediaState {
            media: Bytes::from_static(b"caps"),
            own_timeline: false,
        });
        assert!(seed.offer(Input::Item {
            data: data.into(),
            entry: if join { Entry::Join } else { Entry::None },
            at,
            state
        }));
        std::thread::sleep(Duration::from_millis(40));
    }
}

/// All bytes up to the end, from the first item on.
fn collect(viewer: &ViewerHandle) -> Vec<u8> {
    let media = viewer.media();
    let until = Instant::now() + DEADLINE;
    let mut bytes = Vec::new();
    while Instant::now() < until {
        match media.try_recv() {
            Ok(Media::Payload {
                bytes: more,
                discont,
                ..
            }) => {
                assert!(!discont || bytes.is_empty(), "something was lost");
                bytes.extend_from_slice(&more);
            }
            Ok(Media::End) => return bytes,
            Ok(Media::Header { .. }) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    panic!("the end did not come");
}

#[test]
fn four_viewers_get_the_same_bytes_to_the_end_and_feed_each_other() {
    let key = Key::random().unwrap();
    let seed = seed(&key, 0);
    let port = seed.local_addr().port();
    let viewers: Vec<_> = (0..4).map(|_| viewer(&key, port)).collect();
    let got: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = viewers.iter().map(|v| scope.spawn(|| collect(v))).collect();
        feed(&seed, 0..150);
        seed.offer(Input::End);
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for (bytes, viewer) in got.iter().zip(&viewers) {
        assert_eq!(bytes.len() % 10_000, 0);
        let last = u32::from_le_bytes(bytes[bytes.len() - 10_000..][..4].try_into().unwrap());
        assert_eq!(last, 149);
        let first = u32::from_le_bytes(bytes[..4].try_into().unwrap());
        assert_eq!(first % 25, 0, "a viewer starts at a join point");
        let stats = viewer.snapshot().stats;
        println!(
            "{first} seed {} peers {} lag {:?}",
            stats.bytes_from_seed,
            stats.bytes_from_peers,
            stats.lag.quantile(0.5)
        );
    }
    let from_peers: u64 = viewers
        .iter()
        .map(|v| v.snapshot().stats.bytes_from_peers)
        .sum();
    assert!(from_peers > 0, "nobody relayed");
}

#[test]
fn stopping_is_quick_and_frees_the_port() {
    let key = Key::random().unwrap();
    let first = seed(&key, 0);
    let port = first.local_addr().port();
    let viewer = viewer(&key, port);
    feed(&first, 0..30);
    assert!(viewer.snapshot().stats.bytes_from_seed > 0);
    drop(first);
    let second = seed(&key, port);
    feed(&second, 0..30);
    drop(viewer);
    drop(second);
}

fn pieces_of(viewer: &ViewerHandle, epoch: impl Fn(Epoch) -> bool) -> bool {
    let media = viewer.media();
    let until = Instant::now() + DEADLINE;
    let mut now = Epoch(0);
    while Instant::now() < until {
        match media.try_recv() {
            Ok(Media::Header { epoch, .. }) => now = epoch,
            Ok(Media::Payload { bytes, .. }) if epoch(now) && !bytes.is_empty() => return true,
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    false
}

#[test]
fn a_seed_whose_machine_was_set_back_in_time_is_followed_too() {
    let key = Key::random().unwrap();
    let first = seed_of(&key, 0, Epoch(1000));
    let port = first.local_addr().port();
    let old = viewer(&key, port);
    feed(&first, 0..30);
    assert!(pieces_of(&old, |epoch| epoch == Epoch(1000)));
    drop(first);
    let second = seed_of(&key, port, Epoch(5));
    let new = viewer(&key, port);
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                feed(&second, n..n + 1);
                n += 1;
            }
        });
        // The new one may have begun before the old one told the seed of the later life.
        let both = pieces_of(&old, |epoch| epoch > Epoch(1000))
            && pieces_of(&new, |epoch| epoch > Epoch(1000));
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(both);
    });
}

#[test]
fn a_stream_that_goes_on_after_its_end_is_another_life() {
    let key = Key::random().unwrap();
    let seed = seed_of(&key, 0, Epoch(1));
    let port = seed.local_addr().port();
    let first = viewer(&key, port);
    feed(&seed, 0..30);
    seed.offer(Input::End);
    collect(&first);
    drop(first);
    let second = viewer(&key, port);
    feed(&seed, 0..30);
    assert!(pieces_of(&second, |epoch| epoch == Epoch(2)));
}
