//! The scripts in `pipelines/`, as processes that play to each other.

use std::path::Path;
use std::process::Command;

use gst::prelude::*;
use gst_icd_suite::processes::{Film, Launched, Scratch};
use gst_icd_suite::{free_port, init, launch, until, viewers_uri};

fn script(name: &str, arguments: &[&str], file: &Path) -> Launched {
    let path = format!("{}/pipelines/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(path);
    command.args(arguments);
    Launched::command(command, file)
}

/// The URI of a key file that a script will use, made by starting once with it.
fn uri_of(key: &str, port: &str) -> String {
    let once = launch(&format!(
        "appsrc ! icdsink name=seed address=127.0.0.1 port={port} key-file={key}"
    ));
    once.set_state(gst::State::Paused).expect("PAUSED");
    let uri = viewers_uri(&once);
    once.set_state(gst::State::Null).expect("NULL");
    uri
}

/// Pictures decode from what was recorded.
fn plays(file: &Path) {
    let player = launch(&format!(
        "filesrc location={} ! tsdemux ! h264parse ! avdec_h264 ! fakesink name=out",
        file.display()
    ));
    player.set_state(gst::State::Playing).expect("PLAYING");
    gst_icd_suite::end_of(&player);
    let sink = player.by_name("out").expect("a sink");
    let stats = sink.property::<gst::Structure>("stats");
    assert!(stats.get::<u64>("rendered").expect("a count") > 10);
    player.set_state(gst::State::Null).expect("NULL");
}

fn recorded(uri: &str, scratch: &Scratch, name: &str) {
    let relay = script(
        "grid-relay",
        &[uri, "9000000"],
        &scratch.path(&format!("{name}-relay")),
    );
    let file = scratch.path(&format!("{name}.ts"));
    let location = file.display().to_string();
    let recorder = script("grid-to-file", &[uri, &location], &file);
    until("two seconds are recorded", || recorded_enough(&recorder));
    recorder.signal("INT");
    until("the recorder ends", || !recorder.runs());
    plays(&file);
    assert!(relay.runs(), "{}", relay.said());
}

fn recorded_enough(recorder: &Launched) -> bool {
    assert!(recorder.runs(), "{}", recorder.said());
    recorder.written() > 250_000
}

#[test]
fn a_film_goes_into_the_grid_through_a_relay_and_onto_a_disk() {
    init();
    let scratch = Scratch::new("pipelines-film");
    let film = scratch.path("film.mkv");
    let made = launch(&format!(
        "matroskamux name=m ! filesink location={}  videotestsrc num-buffers=750 pattern=snow ! video/x-raw,width=160,height=120,framerate=25/1 ! x264enc speed-preset=ultrafast ! m.  audiotestsrc num-buffers=1300 ! avenc_aac ! m.",
        film.display()
    ));
    made.set_state(gst::State::Playing).expect("PLAYING");
    gst_icd_suite::end_of(&made);
    made.set_state(gst::State::Null).expect("NULL");
    let key = scratch.path("key.pem").display().to_string();
    let port = free_port().to_string();
    let uri = uri_of(&key, &port);
    let film = film.display().to_string();
    let seed = script("file-to-grid", &[&film, &key, &port], &scratch.path("seed"));
    recorded(&uri, &scratch, "film");
    assert!(seed.runs(), "{}", seed.said());
}

#[test]
fn what_an_encoder_sends_by_srt_goes_into_the_grid() {
    init();
    let scratch = Scratch::new("pipelines-srt");
    let key = scratch.path("key.pem").display().to_string();
    let (port, srt) = (free_port().to_string(), free_port().to_string());
    let uri = uri_of(&key, &port);
    let seed = script("srt-to-grid", &[&srt, &key, &port], &scratch.path("seed"));
    let film = Film::make(&scratch.0, 60);
    let encoder = Launched::run(
        &format!(
            "filesrc location={} ! tsparse set-timestamps=true alignment=7 ! srtsink sync=true uri=srt://127.0.0.1:{srt}?mode=caller wait-for-connection=true",
            film.path.display()
        ),
        &scratch.path("encoder"),
    );
    recorded(&uri, &scratch, "srt");
    assert!(
        seed.runs() && encoder.runs(),
        "{} {}",
        seed.said(),
        encoder.said()
    );
}

#[test]
fn scripts_without_what_they_need_say_what_that_is() {
    for name in [
        "file-to-grid",
        "grid-to-window",
        "grid-relay",
        "grid-to-file",
    ] {
        let path = format!("{}/pipelines/{name}", env!("CARGO_MANIFEST_DIR"));
        let output = Command::new(path).output().expect("it runs");
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("usage: "), "{name}: {said}");
    }
    let scratch = Scratch::new("pipelines-wrong");
    let text = scratch.path("film.txt");
    std::fs::write(&text, "no film").expect("a file");
    for (name, argument, expected) in [
        (
            "file-to-grid",
            text.to_str().expect("a path"),
            "neither picture nor sound",
        ),
        ("srt-to-grid", "obs", "usage: "),
    ] {
        let path = format!("{}/pipelines/{name}", env!("CARGO_MANIFEST_DIR"));
        let output = Command::new(path).arg(argument).output().expect("it runs");
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(expected), "{name}: {said}");
    }
}

/// The README's seed, as its shell line; Ctrl-C ends it for the viewers.
#[test]
fn the_seed_of_the_readme_prints_its_uri_and_ends_the_stream_at_ctrl_c() {
    init();
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let readme = readme.expect("the README");
    let line = readme
        .lines()
        .find(|l| l.starts_with("gst-launch-1.0") && l.contains("! icdsink"));
    let line = line
        .expect("a seed")
        .replace("gst-launch-1.0", "exec gst-launch-1.0 -e");
    let scratch = Scratch::new("readme");
    let said = scratch.path("said");
    let mut shell = Command::new("sh");
    shell.current_dir(&scratch.0).args([
        "-c",
        &format!("{line} address=127.0.0.1 port=0 > {}", said.display()),
    ]);
    let seed = Launched::command(shell, &said);
    let uri = || {
        let said = std::fs::read_to_string(&said).ok()?;
        let at = said.find("icd://")?;
        said[at..]
            .split_whitespace()
            .next()
            .map(|uri| uri.trim_end_matches('.').to_string())
    };
    until("it prints the URI", || uri().is_some());
    assert!(scratch.path("stream.pem").exists(), "key-file");
    let viewer = launch(&format!(
        "icdsrc name=src uri={} ! fakesink",
        uri().expect("a URI")
    ));
    let got = gst_icd_suite::Record::at(&viewer, "src", "src");
    viewer.set_state(gst::State::Playing).expect("PLAYING");
    until("it plays", || got.len() > 20);
    seed.signal("INT");
    gst_icd_suite::end_of(&viewer);
    until("the seed has ended", || !seed.runs());
    viewer.set_state(gst::State::Null).expect("NULL");
}
