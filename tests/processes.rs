//! A grid of real processes that are killed and stopped: nobody else loses a byte.

use std::time::Duration;

use gst_icd_suite::processes::{Film, Launched, Scratch};
use gst_icd_suite::{free_port, init};

/// What the seed may send, in copies of the stream.
const SEED: f64 = 2.5;

fn pause(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

/// Lets twelve viewers join, kills two, stops two others; nobody else may lose a packet.
/// `uploads` is what they may send, as a share of the stream.
fn grid(uploads: &[f64]) {
    init();
    let scratch = Scratch::new("processes");
    let film = Film::make(&scratch.0, 120);
    let cap = |share: f64| (film.rate as f64 * share) as u64;
    let port = free_port();
    let settings = format!(
        "address=127.0.0.1 port={port} max-upload-bitrate={}",
        cap(SEED)
    );
    let seed = Launched::seed(&film, &settings, &scratch.path("sent.ts"));
    pause(2.0);
    let mut viewers = Vec::new();
    for (n, upload) in uploads.iter().enumerate() {
        let settings = format!(
            "uri=icd://127.0.0.1:{port} max-upload-bitrate={}",
            cap(*upload)
        );
        let file = scratch.path(&format!("viewer-{n}.ts"));
        viewers.push((n, Launched::viewer(&settings, &file)));
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
}

#[test]
fn kills_and_stops_are_not_seen_by_the_others_at_a_narrow_seed() {
    let mut uploads = [1.5; 12];
    // One of them is told to give less.
    uploads[6] = 0.5;
    grid(&uploads);
}
