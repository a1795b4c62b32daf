//! Real viewers behind NATs: they live from each other, not from the seed.
#![cfg(target_os = "linux")]

use std::time::Duration;

use gst_icd_suite::lab::{self, Lab, Line};
use gst_icd_suite::nat::Kind;
use gst_icd_suite::processes::{Film, GST_LAUNCH, Launched, Scratch};
use gst_icd_suite::{init, until};

/// What the seed may send, in copies of the stream. There are six viewers.
const SEED: f64 = 3.0;
/// Ten seconds of the stream, when all have begun.
const WATCHED: u64 = 10;

#[test]
fn behind_nats_of_all_kinds_they_relay_to_each_other() {
    if lab::outside("behind_nats_of_all_kinds_they_relay_to_each_other") {
        return;
    }
    init();
    let scratch = Scratch::new("nats");
    let film = Film::make(&scratch.0, 90);
    let line = Line {
        up: film.rate * 4,
        delay: Duration::from_millis(10),
        loss: 0.0,
    };
    // The seed; two at home, each alone; two in one home; one at a carrier; one that looks different to each.
    let homes = [None, Some(0), Some(1), Some(2), Some(2), Some(3), Some(4)];
    let lines = homes.map(|home| (line, home));
    let kinds = [
        Kind::HOME,
        Kind::HOME,
        Kind::HOME,
        Kind::CARRIER,
        Kind::SYMMETRIC,
    ];
    let lab = Lab::with_homes(&lines, &kinds);
    let settings = format!(
        "address={} max-upload-bitrate={}",
        lab::address(0),
        (film.rate as f64 * SEED) as u64
    );
    let launch = |host| lab::command(host, GST_LAUNCH);
    let seed = Launched::seed(launch(0), &film, &settings, &scratch.path("sent.ts"));
    let viewers: Vec<_> = (1..homes.len())
        .map(|host| {
            let settings = format!(
                "uri=icd://{} max-upload-bitrate={}",
                lab::address(0),
                film.rate * 3
            );
            let file = scratch.path(&format!("viewer-{host}.ts"));
            let viewer = Launched::viewer(launch(host), &settings, &file);
            until("it plays", || viewer.written() > film.rate / 8);
            viewer
        })
        .collect();
    let at = seed.written();
    until("they have settled", || {
        seed.written() > at + film.rate / 8 * 5
    });
    let (sent, at) = (lab.sent(0).0, seed.written());
    until("ten seconds of the stream", || {
        seed.written() > at + film.rate / 8 * WATCHED
    });
    let copies = (lab.sent(0).0 - sent) as f64 / (seed.written() - at) as f64;
    println!("the seed sent {copies:.2} copies");
    for (n, viewer) in viewers.iter().enumerate() {
        let account = viewer.account(&seed, film.rate / 8 * 3);
        println!(
            "viewer {n}: {account:?}, sent {:?}, {}",
            lab.sent(n + 1),
            viewer.said()
        );
        assert!(account.first.is_some(), "viewer {n} began");
        assert_eq!((account.lost, account.foreign), (0, 0), "viewer {n}");
    }
    // A copy for all, and one for the one that only the carrier's viewer can reach.
    assert!(copies < 2.4, "{copies}");
}
