//! A grid of real processes that are killed and stopped: nobody else loses a byte.

use std::time::{Duration, Instant};

use gst_icd_suite::init;
use gst_icd_suite::namespaces::Lan;
use gst_icd_suite::processes::{Film, Launched, Scratch};

/// What the seed may send, in copies of the stream.
const SEED: f64 = 2.5;

/// A port that is free now.
fn free_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0")
        .and_then(|s| s.local_addr())
        .expect("a free port")
        .port()
}

fn pause(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

/// Lets twelve viewers join, kills two, stops two others; nobody else may lose a packet.
/// `host` says what goes before the program of the seed (0) and of each viewer, and `uploads`
/// what they may send, as a share of the stream.
fn grid(
    name: &str,
    host: impl Fn(usize) -> Vec<String>,
    uploads: &[f64],
    address: &str,
) -> (Film, Scratch, f64) {
    init();
    let scratch = Scratch::new(name);
    let film = Film::make(&scratch.0, 120);
    let cap = |share: f64| (film.rate as f64 * share) as u64;
    let port = free_port();
    let settings = format!(
        "address={address} port={port} max-upload-bitrate={}",
        cap(SEED)
    );
    let began = Instant::now();
    let seed = Launched::seed(&host(0), &film, &settings, &scratch.path("sent.ts"));
    pause(2.0);
    let mut viewers = Vec::new();
    for (n, upload) in uploads.iter().enumerate() {
        let settings = format!(
            "uri=icd://{address}:{port} max-upload-bitrate={}",
            cap(*upload)
        );
        let file = scratch.path(&format!("viewer-{n}.ts"));
        viewers.push((n, Launched::viewer(&host(n + 1), &settings, &file)));
        pause(1.0);
    }
    pause(10.0);
    // Three seconds of stream may be on their way.
    let margin = film.rate / 8 * 3;
    let fared = |viewers: &[(usize, Launched)], when: &str| {
        for (n, viewer) in viewers {
            let account = viewer.account(&seed, margin);
            println!("{when}: viewer {n} {account:?} {}", viewer.said());
        }
        for (n, viewer) in viewers {
            let account = viewer.account(&seed, margin);
            assert!(account.first.is_some(), "viewer {n} began, {when}");
            let bad = (account.lost, account.foreign);
            assert_eq!(bad, (0, 0), "viewer {n}, {when}");
        }
    };
    let take = |viewers: &mut Vec<(usize, Launched)>, which: [usize; 2], signal: &str| {
        let taken: Vec<_> = viewers.extract_if(.., |(n, _)| which.contains(n)).collect();
        taken.iter().for_each(|(_, viewer)| viewer.signal(signal));
        taken
    };
    fared(&viewers, "after the joins");
    let killed = take(&mut viewers, [2, 7], "KILL");
    pause(8.0);
    fared(&viewers, "after the kills");
    for (_, viewer) in &killed {
        assert!(viewer.account(&seed, margin).lost > 0, "losses are seen");
    }
    let _stopped = take(&mut viewers, [3, 9], "STOP");
    pause(8.0);
    fared(&viewers, "after the stops");
    (film, scratch, began.elapsed().as_secs_f64())
}

#[test]
fn kills_and_stops_are_not_seen_by_the_others_at_a_narrow_seed() {
    let mut uploads = [1.5; 12];
    // One of them is told to give less.
    uploads[6] = 0.5;
    grid("processes", |_| Vec::new(), &uploads, "127.0.0.1");
}

#[test]
fn nor_far_apart_with_loss_and_uneven_uplinks() {
    let Some(lan) = Lan::new(13) else { return };
    let uploads = [1.5, 3.0, 0.5, 2.0, 1.0, 1.5, 3.0, 0.5, 2.0, 1.0, 1.5, 2.0];
    for n in 0..13 {
        // Round trips of 50 to 150 ms, one packet in a hundred lost.
        let delay_ms = 25 + 50 * (n as u32 * 5 % 13) / 12;
        lan.shape(n, delay_ms, 1.0);
    }
    let (film, _scratch, seconds) = grid("far", |n| lan.prefix(n), &uploads, &lan.address(0));
    let rate = lan.sent(0) as f64 * 8.0 / seconds;
    println!("the seed sent {:.2} copies", rate / film.rate as f64);
    assert!(rate <= film.rate as f64 * SEED * 1.02, "the cap holds");
}
