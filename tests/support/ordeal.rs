//! A grid of real processes that are killed and stopped: nobody else loses a byte.

use std::process::Command;
use std::time::{Duration, Instant};

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
    /// Bytes that the seed or a viewer has sent, if that can be seen from outside.
    fn sent(&self, _viewer: Option<usize>) -> Option<u64> {
        None
    }
}

/// Most that was sent in any second, in bits.
#[derive(Debug, Default)]
struct Peaks {
    seed: f64,
    viewers: Vec<f64>,
}

impl Peaks {
    /// Lets time pass, and looks at what is sent in each second of it.
    fn pause(&mut self, seconds: u32, place: &dyn Place, viewers: usize) {
        self.viewers.resize(viewers, 0.0);
        let sent = || {
            let all = std::iter::once(None).chain((0..viewers).map(Some));
            all.map(|who| place.sent(who)).collect::<Vec<_>>()
        };
        for _ in 0..seconds {
            let (before, began) = (sent(), Instant::now());
            std::thread::sleep(Duration::from_secs(1));
            let (after, took) = (sent(), began.elapsed().as_secs_f64());
            let rates = before.iter().zip(after);
            let rates =
                rates.map(|(before, after)| Some((after? - (*before)?) as f64 * 8.0 / took));
            let peaks = std::iter::once(&mut self.seed).chain(&mut self.viewers);
            for (peak, rate) in peaks.zip(rates) {
                *peak = peak.max(rate.unwrap_or_default());
            }
        }
    }
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
    let count = uploads.len();
    let mut peaks = Peaks::default();
    peaks.pause(2, place, count);
    let mut viewers = Vec::new();
    for (n, upload) in uploads.iter().enumerate() {
        let settings = format!("uri=icd://{address} max-upload-bitrate={}", cap(*upload));
        let file = scratch.path(&format!("viewer-{n}.ts"));
        let viewer = Launched::viewer(place.gst_launch(Some(n)), &settings, &file);
        viewers.push((n, viewer));
        peaks.pause(1, place, count);
    }
    peaks.pause(10, place, count);
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
            // Whether there is a hole, or the last of it is late, is seen by these.
            let (sent, got) = (seed.written(), viewer.written());
            let what = format!("of {sent} bytes it has {got}: {account:?}");
            assert_eq!(
                account.lost, 0,
                "packets lost by viewer {n}, {when}; {what}"
            );
        }
    };
    // The third and the fourth by what they send: the first two carry a third of all.
    let busy = |viewers: &[(usize, Launched)]| {
        let sent = |(n, _): &(usize, Launched)| Some((place.sent(Some(*n))?, *n));
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
    peaks.pause(8, place, count);
    fared(&seed, &viewers, "after the kills");
    for (_, viewer) in &killed {
        assert!(viewer.account(&seed, margin).lost > 0, "losses are seen");
    }
    let to_stop = busy(&viewers).unwrap_or(TAKEN[1]);
    let stopped = take(&mut viewers, to_stop, "STOP");
    peaks.pause(8, place, count);
    fared(&seed, &viewers, "after the stops");
    for (_, viewer) in &stopped {
        assert!(viewer.account(&seed, margin).lost > 0, "losses are seen");
    }
    let bytes = seed.written();
    let copies = seed.end_and_rate() / film.rate as f64;
    println!("the seed sent {copies:.2} copies of the stream");
    assert!(copies <= SEED, "the seed sent {copies} copies");
    println!("most in a second: {peaks:?}");
    let rate = film.rate as f64;
    // Retransmissions are not foreseen, and a second here is not one there.
    let over = |peak: f64, share: f64| peak > rate * share * 1.15;
    assert!(!over(peaks.seed, SEED), "the seed: {}", peaks.seed / rate);
    for (n, (peak, share)) in peaks.viewers.iter().zip(uploads).enumerate() {
        assert!(!over(*peak, *share), "viewer {n}: {}", peak / rate);
    }
    let taken = [to_kill, to_stop].concat();
    Broadcast { bytes, taken }
}
