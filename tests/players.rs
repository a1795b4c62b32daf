//! By URI alone: the players and decoding bins that people have.

use std::path::Path;
use std::process::Command;

use gst::prelude::*;
use gst_icd_suite::processes::{Launched, Scratch};
use gst_icd_suite::{init, launch, until, viewers_uri};

/// Pictures of 64 × 64 in I420, and of these a second.
const ENOUGH: u64 = 64 * 64 * 3 / 2 * 25;

/// A broadcaster with sound, under a name that says what it sends.
fn seeds() -> Vec<(&'static str, gst::Pipeline)> {
    let video = "videotestsrc is-live=true ! video/x-raw,format=I420,width=64,height=64,framerate=25/1 ! x264enc tune=zerolatency key-int-max=25 ! video/x-h264,profile=main ! h264parse ! m.";
    let audio = "audiotestsrc is-live=true ! audio/x-raw,rate=44100 ! voaacenc ! aacparse ! m.";
    ["mpegtsmux", "matroskamux streamable=true"]
        .map(|mux| {
            let seed = launch(&format!(
                "{mux} name=m ! icdsink name=seed address=127.0.0.1 port=0 {video} {audio}"
            ));
            seed.set_state(gst::State::Playing).expect("PLAYING");
            (mux, seed)
        })
        .into()
}

/// Plays every broadcaster by `run`, which starts a player that writes raw pictures to a file.
fn plays(name: &str, run: impl Fn(&str, &Path) -> Launched) {
    init();
    let scratch = Scratch::new(name);
    for (n, (mux, seed)) in seeds().into_iter().enumerate() {
        let file = scratch.path(&format!("{n}.yuv"));
        let player = run(&viewers_uri(&seed), &file);
        until(&format!("{name} shows {mux}"), || player.written() > ENOUGH);
        let said = player.said();
        assert!(!said.contains("ERROR"), "{name}, {mux}: {said}");
        drop(player);
        seed.set_state(gst::State::Null).expect("NULL");
    }
}

fn sink(file: &Path) -> String {
    format!(
        "filesink sync=true buffer-mode=unbuffered location={}",
        file.display()
    )
}

#[test]
fn gst_play() {
    plays("gst-play", |uri, file| {
        let mut command = Command::new("gst-play-1.0");
        command
            .args(["--no-interactive", "--audiosink=fakesink sync=true"])
            .arg(format!("--videosink={}", sink(file)))
            .arg(uri);
        Launched::command(command, file)
    });
}

#[test]
fn playbin_of_both_generations() {
    for playbin in ["playbin", "playbin3"] {
        plays(playbin, |uri, file| {
            let mut command = Command::new("gst-launch-1.0");
            command
                .args(["-q", playbin, &format!("uri={uri}")])
                .arg(format!("video-sink={}", sink(file)))
                .arg("audio-sink=fakesink sync=true");
            Launched::command(command, file)
        });
    }
}

#[test]
fn uridecodebin_of_both_generations() {
    for bin in ["uridecodebin", "uridecodebin3"] {
        plays(bin, |uri, file| {
            Launched::run(
                &format!(
                    "{bin} uri={uri} name=d d. ! queue ! video/x-raw ! {} d. ! queue ! audio/x-raw ! fakesink sync=true",
                    sink(file)
                ),
                file,
            )
        });
    }
}
