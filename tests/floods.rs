//! A seed that is flooded with packets goes on: its viewers lose nothing, and it does not grow.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gst_icd_suite::processes::{Film, GST_LAUNCH, Launched, Scratch};
use gst_icd_suite::{free_port, init, until};

const VIEWERS: usize = 8;
/// Packets of one flooder in a burst, and bursts: some 10,000 a second.
const BURST: usize = 10;
const PAUSE: Duration = Duration::from_millis(1);
const FLOOD: Duration = Duration::from_secs(10);
/// What a seed may hold for strangers: 256 handshakes that do not go on, and what the allocator keeps of them.
const BOUND: u64 = 24 << 20;

/// A packet that means no good.
fn packet(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = vec![0; if rng.bool() { 1200 } else { rng.usize(1..1200) }];
    rng.fill(&mut bytes);
    match rng.u8(0..4) {
        // The beginning of a handshake that leads nowhere (RFC 9000, section 17.2.2).
        0 | 1 => {
            bytes.resize(1200, 0);
            bytes[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
            // The source's name and the token are empty; the length is that of the rest.
            bytes[14..18].copy_from_slice(&[0, 0, 0x44, 0x9e]);
        }
        // A packet of a connection that is not there.
        2 => bytes[0] = 0x40 | (bytes[0] & 0x3f),
        // A probe of a meeting that is not.
        _ => {
            bytes.resize(32, 0);
            bytes[..8].copy_from_slice(b"\0icd/1mt");
        }
    }
    bytes
}

#[test]
fn a_seed_under_a_flood_of_packets_feeds_its_viewers_and_does_not_grow() {
    init();
    let scratch = Scratch::new("floods");
    let film = Film::make(&scratch.0, 60);
    let port = free_port();
    let gst_launch = || std::process::Command::new(GST_LAUNCH);
    let settings = format!("address=127.0.0.1 port={port} buffer-time=4000");
    let seed = Launched::seed(gst_launch(), &film, &settings, &scratch.path("sent.ts"));
    let viewers: Vec<_> = (0..VIEWERS)
        .map(|n| {
            let settings = format!("uri=icd://127.0.0.1:{port}");
            let file = scratch.path(&format!("viewer-{n}.ts"));
            Launched::viewer(gst_launch(), &settings, &file)
        })
        .collect();
    for viewer in &viewers {
        until("a viewer plays", || viewer.written() > 0);
    }
    // The window is full then.
    std::thread::sleep(Duration::from_secs(5));
    let before = seed.memory();
    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut most = before;
    std::thread::scope(|scope| {
        for n in 0..2 {
            let (over, sent) = (&over, &sent);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(n);
                while !over.load(Ordering::Relaxed) {
                    // From a new port each time: strangers.
                    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
                    for _ in 0..BURST {
                        let packet = packet(&mut rng);
                        let to = socket.send_to(&packet, ("127.0.0.1", port));
                        sent.fetch_add(u64::from(to.is_ok()), Ordering::Relaxed);
                    }
                    std::thread::sleep(PAUSE);
                }
            });
        }
        let begun = Instant::now();
        while begun.elapsed() < FLOOD {
            std::thread::sleep(Duration::from_millis(200));
            most = most.max(seed.memory());
        }
        over.store(true, Ordering::Relaxed);
    });
    // Three seconds of the stream may be on their way.
    let margin = film.rate / 8 * 3;
    println!(
        "{} packets; the seed held {before} bytes, then at most {most}",
        sent.load(Ordering::Relaxed)
    );
    assert!(sent.load(Ordering::Relaxed) > 10_000, "it was a flood");
    for (n, viewer) in viewers.iter().enumerate() {
        let account = viewer.account(&seed, margin);
        assert!(account.first.is_some(), "viewer {n}: {}", viewer.said());
        assert_eq!((account.lost, account.foreign), (0, 0), "viewer {n}");
    }
    assert!(most < before + BOUND, "{before}, then {most}");
}
