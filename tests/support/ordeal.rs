//! A grid of real processes that are killed and stopped: nobody else loses a byte.

use std::process::Command;
use std::time::Duration;

use crate::processes::{Film, Launched, Scratch};

/// Copies of the stream that the seed may send.
pub const SEED: f64 = 2.5;
/// Viewers that are killed, and stopped, where it cannot be seen what they relay.
const TAKEN: [[usize; 2]; 2] = [[4, 2], [1, 7]];

/// What was broadcast, and who was taken.
#[derive(Debug, Clone)]
pub struct Broadcast {
    /// Bytes of the stream until the end.
    pub bytes: u64,
    /// Viewers that were killed and stopped.
    pub taken: Vec<usize>,
}

/// Where the processes run.
pub trait Place {
    /// The seed's address.
    fn seed(&self) -> String;
    /// Runs gst-launch-1.0 at the seed, or at the n-th viewer.
    fn gst_launch(&self, viewer: Option<usize>) -> Command;
    /// The rates are known now.
    fn ready(&mut self, _stream: u64) {}
    /// Bytes that a viewer has sent, if that can be seen from outside.
    fn sent(&self, _viewer: usize) -> Option<u64> {
        None
    }
}

fn pause(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

/// Lets viewers join, kills two that relay, stops two others; nobody else may lose anything, and the seed may
/// send no more than it is told. `uploads` is what the viewers may send, in copies of the stream.
///
/// # Panics
///
/// When somebody loses something.
pub fn ordeal(name: &str, uploads: &[f64], place: &mut dyn Place) -> Broadcast {
    let scratch = Scratch::new(name);
    let film = Film::make(&scratch.0, 120);
    place.ready(film.rate);
    let cap = |share: f64| (film.rate as f64 * share) as u64;
    let address = place.seed();
    let settings = format!(
        "address={} port={} max-upload-bitrate={}",
        address.split(':').next().unwrap_or_default(),
        address.split(':').next_back().unwrap_or_default(),
        cap(SEED)
    );
    let mut seed = Launched::seed(
        place.gst_launch(None),
        &film,
        &settings,
        &scratch.path("sent.ts"),
    );
    pause(2.0);
    let mut viewers = Vec::new();
    for (n, upload) in uploads.iter().enumerate() {
        let settings = format!("uri=icd://{address} max-upload-bitrate={}", cap(*upload));
        let file = scratch.path(&format!("viewer-{n}.ts"));
        let viewer = Launched::viewer(place.gst_launch(Some(n)), &settings, &file);
        viewers.push((n, viewer));
        pause(1.0);
    }
    pause(10.0);
    // Three seconds of stream may be on their way.
    let margin = film.rate / 8 * 3;
    let fared = |seed: &Launched, viewers: &[(usize, Launched)], when: &str| {
        for (n, viewer) in viewers {
            let account = viewer.account(seed, margin);
            println!("{when}: viewer {n} {account:?} {}", viewer.said());
        }
        for (n, viewer) in viewers {
            let account = viewer.account(seed, margin);
            assert!(account.first.is_some(), "viewer {n} began, {when}");
            assert_eq!(account.foreign, 0, "viewer {n}, {when}");
            assert_eq!(account.lost, 0, "packets lost by viewer {n}, {when}");
        }
    };
    // The third and the fourth by what they send: the first two carry a third of all.
    let busy = |viewers: &[(usize, Launched)]| {
        let sent = |(n, _): &(usize, Launched)| Some((place.sent(*n)?, *n));
        let mut sent: Vec<_> = viewers.iter().map(sent).collect::<Option<_>>()?;
        sent.sort_unstable_by(|a, b| b.cmp(a));
        Some([sent[2].1, sent[3].1])
    };
    let take = |viewers: &mut Vec<(usize, Launched)>, which: [usize; 2], signal: &str| {
        println!("{signal} to {which:?}");
        let taken: Vec<_> = viewers.extract_if(.., |(n, _)| which.contains(n)).collect();
        taken.iter().for_each(|(_, viewer)| viewer.signal(signal));
        taken
    };
    fared(&seed, &viewers, "after the joins");
    let to_kill = busy(&viewers).unwrap_or(TAKEN[0]);
    let killed = take(&mut viewers, to_kill, "KILL");
    pause(8.0);
    fared(&seed, &viewers, "after the kills");
    for (_, viewer) in &killed {
        assert!(viewer.account(&seed, margin).lost > 0, "losses are seen");
    }
    let to_stop = busy(&viewers).unwrap_or(TAKEN[1]);
    let _stopped = take(&mut viewers, to_stop, "STOP");
    pause(8.0);
    fared(&seed, &viewers, "after the stops");
    let bytes = seed.written();
    let copies = seed.end_and_rate() / film.rate as f64;
    println!("the seed sent {copies:.2} copies of the stream");
    assert!(copies <= SEED, "the seed sent {copies} copies");
    let taken = [to_kill, to_stop].concat();
    Broadcast { bytes, taken }
}
