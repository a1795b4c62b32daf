//! A stopped or slow viewer costs the others no memory beyond a bound.

use std::time::Duration;

use gst_icd_suite::processes::{Launched, Scratch};
use gst_icd_suite::{free_port, init, until};

/// Every picture is 320 × 240 bytes, fifty a second: 30 Mbit/s.
const STREAM: &str = "videotestsrc is-live=true pattern=snow ! video/x-raw,format=GRAY8,width=320,height=240,framerate=50/1";
/// How much more the reference must hold before the comparison: 16 s of the stream.
const MUCH: u64 = 60 << 20;
/// Three children that take nothing have half a second of the stream on its way each, 1.9 MB;
/// as much again for the allocator and for retransmissions.
const BOUND: u64 = 12 << 20;

/// Four viewers of a seed that carries one of them and a half: the first runs and relays to the others, the second stands still, the third
/// comes to itself for a tenth of each second, the fourth plays at a fifth of the speed.
/// Beside it a `tcpserversink` with one client that stands still, which shows that this test
/// would see growth.
#[test]
fn viewers_that_stand_still_or_are_slow_cost_a_bounded_amount() {
    init();
    let scratch = Scratch::new("memory");
    let launch = |name: &str, pipeline: String| {
        Launched::run(&pipeline, &scratch.path(&format!("{name}.x")))
    };
    let port = free_port();
    let seed = launch(
        "seed",
        format!(
            "{STREAM} ! icdsink address=127.0.0.1 port={port} buffer-time=3000 max-upload-bitrate=50000000"
        ),
    );
    let tcp = free_port();
    let reference = launch(
        "reference",
        format!("{STREAM} ! tcpserversink host=127.0.0.1 port={tcp}"),
    );
    // Both listen before anyone connects.
    std::thread::sleep(Duration::from_secs(2));
    let client = launch(
        "client",
        format!("tcpclientsrc host=127.0.0.1 port={tcp} ! fakesink"),
    );
    let viewer = |name: &str, rest: &str| {
        let relay = name == "running";
        let source =
            format!("icdsrc uri=icd://127.0.0.1:{port} max-upload-bitrate=150000000 relay={relay}");
        let file = scratch.path(&format!("{name}.raw"));
        let pipeline = format!("{source} ! {rest} location={}", file.display());
        let viewer = Launched::run(&pipeline, &file);
        until("a viewer plays", || viewer.written() > 0);
        viewer
    };
    // A file of one picture.
    let plain = "multifilesink max-files=1";
    let running = viewer("running", plain);
    let still = viewer("still", plain);
    let slow = viewer("slow", plain);
    let player = viewer("player", &format!("identity sleep-time=100000 ! {plain}"));
    // Windows (twice the play-out delay and four seconds) and pools are full.
    std::thread::sleep(Duration::from_secs(10));
    let watched = [
        ("seed", &seed),
        ("a parent", &running),
        ("a slow player", &player),
    ];
    let before = watched.map(|(_, process)| process.memory());
    let reference_before = reference.memory();
    client.signal("STOP");
    still.signal("STOP");
    let mut most = before;
    until("the reference grows", || {
        slow.signal("STOP");
        std::thread::sleep(Duration::from_millis(900));
        slow.signal("CONT");
        std::thread::sleep(Duration::from_millis(100));
        for (most, (_, process)) in most.iter_mut().zip(&watched) {
            *most = process.memory().max(*most);
        }
        reference.memory() > reference_before + MUCH
    });
    for ((name, process), (before, most)) in watched.iter().zip(before.into_iter().zip(most)) {
        println!("{name}: {before} bytes, then at most {most}");
        assert!(
            most < before + BOUND,
            "{name}: {before}, then {most} {}",
            process.said()
        );
    }
}
