//! The documents are true: what gst-inspect shows is kept, and the README's pipelines play.

use std::process::Command;

use gst::prelude::*;
use gst_icd_suite::processes::Scratch;
use gst_icd_suite::{init, launch};

/// What `gst-inspect-1.0` says of an element, without what differs per build.
fn inspected(element: &str) -> String {
    let output = Command::new("gst-inspect-1.0")
        .arg(element)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .expect("gst-inspect-1.0 runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let from = text.find("Factory Details").expect("the factory");
    let lines = text[from..].lines().map(str::trim_end);
    let name = format!("{element}0");
    // The base class counts its buffers here; and pads have addresses.
    let differs = |line: &&str| {
        let versions = ["  Version", "  Source release date", "  Filename"];
        line.contains("0x") || line.contains(&name) || versions.iter().any(|v| line.starts_with(v))
    };
    let kept = lines.filter(|line| !differs(line));
    kept.collect::<Vec<_>>().join("\n") + "\n"
}

/// `ICD_BLESS=1 ./icd test inspect` writes the files anew.
#[test]
fn what_gst_inspect_shows_is_what_is_kept() {
    for element in ["icdsink", "icdsrc"] {
        let path = format!("{}/docs/inspect/{element}.txt", env!("CARGO_MANIFEST_DIR"));
        let now = inspected(element);
        if std::env::var_os("ICD_BLESS").is_some() {
            std::fs::write(&path, &now).expect("the file is written");
        }
        let kept = std::fs::read_to_string(&path).expect("the file is there");
        assert!(
            kept == now,
            "{element} changed; look at the difference, then ICD_BLESS=1\n{now}"
        );
    }
}

#[test]
fn the_pipelines_of_the_readme_are_pipelines() {
    init();
    let path = format!("{}/README.md", env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(path).expect("the README");
    let lines: Vec<_> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("gst-launch-1.0 "))
        .collect();
    assert_eq!(lines.len(), 3);
    let folder = Scratch::new("readme");
    let file = folder.path("stream.pem");
    let seed = launch(&format!(
        "{} name=seed address=127.0.0.1 port=0",
        lines[0].replace("stream.pem", &file.display().to_string())
    ));
    seed.set_state(gst::State::Playing).expect("PLAYING");
    let uri = gst_icd_suite::viewers_uri(&seed);
    for line in &lines[1..] {
        let line = line
            .replace("icd://KEY@HOST", &uri)
            .replace("autovideosink", "fakesink sync=true");
        let viewer = launch_any(&line);
        viewer.set_state(gst::State::Playing).expect("PLAYING");
        gst_icd_suite::until("a picture plays", || {
            viewer.query_position::<gst::ClockTime>() > Some(gst::ClockTime::from_mseconds(200))
        });
        viewer.set_state(gst::State::Null).expect("NULL");
    }
    seed.set_state(gst::State::Null).expect("NULL");
}

/// A pipeline, or playbin3, headless.
fn launch_any(description: &str) -> gst::Element {
    let element = gst::parse::launch(description).expect("a pipeline");
    for name in ["video-sink", "audio-sink"] {
        if element.has_property(name) {
            let sink = gst::ElementFactory::make("fakesink").property("sync", true);
            element.set_property(name, sink.build().expect("fakesink"));
        }
    }
    element
}
