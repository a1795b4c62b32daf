//! The same far apart, over lines that lose packets and carry little.
#![cfg(target_os = "linux")]

use std::process::Command;
use std::time::Duration;

use gst_icd_suite::lab::{self, Lab, Line};
use gst_icd_suite::ordeal::{Place, SEED, ordeal};
use gst_icd_suite::processes::{GST_LAUNCH, Launched, Scratch};
use gst_icd_suite::{init, until};

/// What viewers may send, in copies of the stream.
const UPLOADS: [f64; 12] = [3.0, 1.0, 1.5, 0.5, 2.0, 0.75, 2.5, 1.0, 0.5, 1.5, 2.0, 1.25];
/// A line carries this much more than its user says.
const SLACK: f64 = 1.1;
/// One way, to the middle: round trips take 50 to 150 ms.
const NEAR: f64 = 0.0125;
const FAR: f64 = 0.0375;
const GIGABIT: u64 = 1_000_000_000;

/// Hosts that are far apart, or near, where a line carries what it is given.
struct Hosts {
    uploads: [f64; 12],
    far: bool,
    lab: Option<Lab>,
}

impl Place for Hosts {
    fn seed(&self) -> String {
        format!("{}:7423", lab::address(0))
    }

    fn gst_launch(&self, viewer: Option<usize>) -> Command {
        lab::command(viewer.map_or(0, |n| n + 1), GST_LAUNCH)
    }

    fn ready(&mut self, stream: u64) {
        let lines: Vec<_> = [SEED]
            .iter()
            .chain(&self.uploads)
            .enumerate()
            .map(|(n, upload)| match self.far {
                true => Line {
                    up: (stream as f64 * upload * SLACK) as u64,
                    delay: Duration::from_secs_f64(
                        NEAR + (FAR - NEAR) * (n * 5 % 13) as f64 / 12.0,
                    ),
                    loss: 0.01,
                },
                false => Line {
                    up: GIGABIT,
                    delay: Duration::ZERO,
                    loss: 0.0,
                },
            })
            .collect();
        self.lab = Some(Lab::new(&lines));
    }

    fn sent(&self, viewer: Option<usize>) -> Option<u64> {
        Some(self.lab.as_ref()?.sent(viewer.map_or(0, |n| n + 1)).0)
    }
}

#[test]
fn kills_and_stops_are_not_seen_by_the_others_far_apart() {
    if lab::outside("kills_and_stops_are_not_seen_by_the_others_far_apart") {
        return;
    }
    stands(UPLOADS, true);
}

/// One of twelve is told to give less; what each sends is seen from outside, second by second.
#[test]
fn who_is_told_to_give_less_does_and_the_others_lose_nothing() {
    if lab::outside("who_is_told_to_give_less_does_and_the_others_lose_nothing") {
        return;
    }
    let mut uploads = [1.5; 12];
    uploads[6] = 0.5;
    stands(uploads, false);
}

/// A viewer that does not relay sends what it acknowledges, and a few messages. Over a line that
/// paces them, packets come one by one, and by the standard every second would be acknowledged:
/// 2.5 % of what is received.
#[test]
fn acknowledgements_take_little_of_an_uplink() {
    if lab::outside("acknowledgements_take_little_of_an_uplink") {
        return;
    }
    init();
    let line = Line {
        up: 4_000_000,
        delay: Duration::from_millis(20),
        loss: 0.0,
    };
    let lab = Lab::new(&[line; 2]);
    let scratch = Scratch::new("acknowledgements");
    let run = |host, pipeline: &str, name| {
        let mut command = lab::command(host, GST_LAUNCH);
        command.args(pipeline.split(' '));
        Launched::command(command, &scratch.path(name))
    };
    let _seed = run(
        0,
        "videotestsrc is-live=true pattern=snow ! video/x-raw,width=320,height=240,framerate=25/1 ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=2500 key-int-max=25 ! h264parse ! icdsink",
        "seed",
    );
    let uri = format!("icd://{}", lab::address(0));
    let viewer = run(
        1,
        &format!("icdsrc relay=false uri={uri} ! fakesink"),
        "viewer",
    );
    let sent = || (lab.sent(0).0, lab.sent(1).0);
    until("the start is over", || sent().0 > 1_500_000);
    let before = sent();
    until("ten seconds of the stream", || {
        sent().0 > before.0 + 3_000_000
    });
    let (received, back) = (sent().0 - before.0, sent().1 - before.1);
    let share = back as f64 / received as f64;
    println!("{back} bytes for {received}: {:.2} %", share * 100.0);
    assert!(share < 0.012, "{share}: {}", viewer.said());
}

fn stands(uploads: [f64; 12], far: bool) {
    init();
    let mut place = Hosts {
        uploads,
        far,
        lab: None,
    };
    let film = ordeal("distance", &uploads, &mut place);
    let lab = place.lab.expect("it was built");
    for host in 0..=uploads.len() {
        println!("host {host}: {:?}", lab.sent(host));
    }
    // What its line carried, by the switch's count. Those that were killed and stopped did relay.
    let copies = |host: usize| lab.sent(host).0 as f64 / film.bytes as f64;
    assert!(copies(0) <= SEED, "the seed sent {} copies", copies(0));
    for host in film.taken.iter().map(|viewer| viewer + 1) {
        assert!(copies(host) > 0.2, "host {host} sent {}", copies(host));
    }
}
