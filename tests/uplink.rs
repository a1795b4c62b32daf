//! Viewers that are told nothing of their lines find out what these carry.
#![cfg(target_os = "linux")]

use std::time::Duration;

use gst_icd_suite::lab::{self, Lab, Line};
use gst_icd_suite::processes::{Film, GST_LAUNCH, Launched, Scratch};
use gst_icd_suite::{init, until};

/// What the lines carry, in copies of the stream: the seed's, which is told so, and the viewers'.
const SEED: f64 = 2.5;
const LINES: [f64; 8] = [3.0, 0.5, 2.0, 1.0, 3.0, 0.5, 1.5, 1.0];
const WATCHED: u64 = 10;
/// What a line that carried more carries later.
const NARROW: f64 = 0.6;
/// It is seen, and children have gone, within so many seconds; those on their way last are sent again meanwhile.
const FOLLOWED: u64 = 4;
/// So long a piece of 20 ms takes on the narrow line.
const PIECE: Duration = Duration::from_millis(40);
/// A ping beside the stream waits no longer.
const POLITE: Duration = Duration::from_millis(50);

#[test]
fn viewers_find_out_what_their_lines_carry_and_do_not_fill_them() {
    if lab::outside("viewers_find_out_what_their_lines_carry_and_do_not_fill_them") {
        return;
    }
    init();
    let scratch = Scratch::new("uplink");
    let film = Film::make(&scratch.0, 120);
    let line = |copies: f64| Line {
        up: (film.rate as f64 * copies) as u64,
        delay: Duration::from_millis(15),
        loss: 0.0,
    };
    let lines: Vec<_> = [SEED * 1.2]
        .iter()
        .chain(&LINES)
        .copied()
        .map(line)
        .collect();
    let lab = Lab::new(&lines);
    let launch = |host| lab::command(host, GST_LAUNCH);
    let rate = (film.rate as f64 * SEED) as u64;
    let settings = format!("address={} max-upload-bitrate={rate}", lab::address(0));
    let seed = Launched::seed(launch(0), &film, &settings, &scratch.path("sent.ts"));
    let uri = format!("uri=icd://{}", lab::address(0));
    let viewers: Vec<_> = (1..lines.len())
        .map(|host| {
            let file = scratch.path(&format!("viewer-{host}.ts"));
            let viewer = Launched::viewer(launch(host), &uri, &file);
            until("it plays", || viewer.written() > film.rate / 8);
            viewer
        })
        .collect();
    let passes = |seconds: u64| {
        let at = seed.written();
        until("some of the stream", || {
            seed.written() > at + film.rate / 8 * seconds
        });
    };
    passes(10);
    let all = || {
        (0..lines.len())
            .map(|host| lab.sent(host).0)
            .collect::<Vec<_>>()
    };
    let (sent, at) = (all(), seed.written());
    (0..lines.len()).for_each(|host| drop(lab.waited(host)));
    passes(WATCHED);
    let stream = (seed.written() - at) as f64;
    let copies: Vec<_> = sent
        .iter()
        .zip(all())
        .map(|(was, is)| (is - was) as f64 / stream)
        .collect();
    println!("the seed sent {:.2} copies", copies[0]);
    for (n, line) in LINES.iter().enumerate() {
        let waited = lab.waited(n + 1);
        println!(
            "viewer {n}: sent {:.2} of {line} copies, {}",
            copies[n + 1],
            said(&waited)
        );
        assert!(most(&waited) <= POLITE, "viewer {n} fills its line");
    }
    assert!(copies[0] < 2.0, "{}", copies[0]);
    // The one that gives most.
    let giver = (1..lines.len())
        .max_by(|a, b| copies[*a].total_cmp(&copies[*b]))
        .expect("eight");
    assert!(copies[giver] > NARROW * 2.0, "{}", copies[giver]);
    lab.carry(giver, (film.rate as f64 * NARROW) as u64);
    passes(FOLLOWED);
    drop(lab.waited(giver));
    passes(8);
    let waited = lab.waited(giver);
    println!(
        "then viewer {} carries {NARROW}: {}",
        giver - 1,
        said(&waited)
    );
    assert!(!waited.is_empty());
    assert!(most(&waited) <= POLITE + PIECE, "it fills its line");
    for (n, viewer) in viewers.iter().enumerate() {
        let account = viewer.account(&seed, film.rate / 8 * 3);
        println!("viewer {n}: {account:?}, {}", viewer.said());
        assert!(account.first.is_some(), "viewer {n} began");
        assert_eq!((account.lost, account.foreign), (0, 0), "viewer {n}");
    }
}

fn of(waited: &[Duration], share: f64) -> Duration {
    let at = (waited.len() as f64 * share) as usize;
    waited.get(at).copied().unwrap_or_default()
}

/// What nineteen of twenty packets waited at most.
fn most(waited: &[Duration]) -> Duration {
    of(waited, 0.95)
}

fn said(waited: &[Duration]) -> String {
    let last = waited.last();
    format!(
        "packets waited {:?}, {:?}, {last:?}",
        of(waited, 0.5),
        most(waited)
    )
}
