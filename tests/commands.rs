//! The commands of the README do what it says; its pipelines are tried in `documents.rs`.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gst_icd_suite::processes::{GST_LAUNCH, Scratch};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The lines of the README's shell blocks, without remarks.
fn commands() -> Vec<String> {
    let readme = std::fs::read_to_string(format!("{ROOT}/README.md")).expect("the README");
    let mut inside = false;
    let mut lines = Vec::new();
    for line in readme.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            line if inside => {
                lines.push(
                    line.split('#')
                        .next()
                        .unwrap_or_default()
                        .trim()
                        .to_string(),
                );
            }
            _ => {}
        }
    }
    lines
}

/// Runs a line as a newcomer's shell would: nothing of this test's GStreamer is in its way.
fn shell(line: &str, registry: &Path) -> String {
    let output = Command::new("sh")
        .args(["-c", line])
        .current_dir(ROOT)
        .env_remove("GST_PLUGIN_PATH")
        .env_remove("G_DEBUG")
        .env("GST_REGISTRY", registry)
        .output()
        .expect("a shell");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (said(&output.stdout), said(&output.stderr));
    assert!(output.status.success(), "{line}\n{out}\n{err}");
    out
}

/// The numbers of the demo's last line, in the order that is promised.
fn figures(said: &str) -> Vec<f64> {
    let last = said.lines().last().unwrap_or_default();
    let names = [
        "viewers",
        "killed",
        "frames_lost",
        "offload",
        "lag_p50_ms",
        "lag_p99_ms",
    ];
    let fields: Vec<_> = last.split(' ').filter_map(|f| f.split_once('=')).collect();
    assert_eq!(
        fields.iter().map(|f| f.0).collect::<Vec<_>>(),
        names,
        "{last}"
    );
    let number = |(_, value): &(&str, &str)| value.trim_end_matches('%').parse().expect("a number");
    fields.iter().map(number).collect()
}

/// The table: each row says by whom that viewer is fed.
fn relays_were_killed_and_rows_name_rows(said: &str) {
    let sent = |line: &str| {
        let (_, sent) = line.split_once("killed, which had sent ")?;
        sent.strip_suffix(" kB")?.parse::<u64>().ok()
    };
    let sent: Vec<_> = said.lines().filter_map(sent).collect();
    assert!(
        !sent.is_empty() && sent.iter().all(|kb| *kb > 0),
        "{sent:?}"
    );
    let fed = |line: &str| {
        let (viewer, rest) = line.strip_prefix("viewer ")?.trim_start().split_once(' ')?;
        let (_, from) = rest.split_once(" from ")?;
        Some((viewer.to_string(), from.to_string()))
    };
    let fed: Vec<_> = said.lines().filter_map(fed).collect();
    let by_viewers = fed.iter().flat_map(|(_, from)| from.split(' '));
    let by_viewers: Vec<_> = by_viewers
        .filter(|f| !f.is_empty() && !f.starts_with("seed:"))
        .collect();
    assert!(by_viewers.len() > 20, "viewers feed viewers: {fed:?}");
    let known = |f: &&&str| {
        let name = f.split(':').next().unwrap_or_default();
        fed.iter().any(|(viewer, _)| viewer == name)
    };
    let known = by_viewers.iter().filter(known).count();
    // Some name one that was just killed by its key.
    assert!(
        known * 10 > by_viewers.len() * 8,
        "{known} of {by_viewers:?}"
    );
}

/// Runs the demo, and may send it a signal after some seconds. How it ended, and what it said.
fn demo(arguments: &str, interrupt: Option<u64>) -> (bool, String) {
    let child = Command::new(format!("{ROOT}/icd"))
        .arg("demo")
        .args(arguments.split_whitespace())
        .current_dir(ROOT)
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("the demo");
    if let Some(seconds) = interrupt {
        std::thread::sleep(Duration::from_secs(seconds));
        // As a terminal does: to all of the foreground.
        let group = format!("-{}", child.id());
        let sent = Command::new("kill").args(["-INT", "--", &group]).status();
        assert!(sent.is_ok_and(|s| s.success()));
    }
    let output = child.wait_with_output().expect("its end");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = format!("{}{}", said(&output.stderr), said(&output.stdout));
    println!("{arguments}: {:?}\n{said}", output.status);
    (output.status.success(), said)
}

#[test]
fn the_demo_judges_and_takes_films_and_ends_at_ctrl_c() {
    gst_icd_suite::init();
    // One viewer lives from the seed alone.
    let (good, said) = demo("--headless --seconds 12 --viewers 1", None);
    assert!(!good && said.contains("FAILED") && said.contains("offload"));
    assert_eq!(figures(&said)[0], 1.0);
    let (good, said) = demo("--headless --seconds 5 no-such-film.mkv", None);
    assert!(!good && said.contains("no-such-film.mkv"));
    let scratch = Scratch::new("demo");
    let film = scratch.path("film.mkv");
    let made = Command::new(GST_LAUNCH)
        .arg("-q")
        .args(
            format!(
                "matroskamux name=mux ! filesink location={}
                 videotestsrc num-buffers=1000 ! video/x-raw,width=320,height=240,framerate=25/1 ! x264enc speed-preset=ultrafast key-int-max=50 ! mux.
                 audiotestsrc num-buffers=1720 ! avenc_aac ! mux.",
                film.display()
            )
            .split_whitespace(),
        )
        .status();
    assert!(made.is_ok_and(|s| s.success()));
    let (good, said) = demo(
        &format!("--headless --seconds 28 --viewers 6 {}", film.display()),
        None,
    );
    assert!(good && figures(&said)[2] == 0.0);
    // In a shell, with an address.
    let (good, said) = demo(&format!("--viewers 3 file://{}", film.display()), Some(12));
    let figures = figures(&said);
    assert!(good && figures[0] == 3.0, "{figures:?}");
}

#[test]
fn the_commands_of_the_readme_run() {
    let scratch = Scratch::new("commands");
    let registry = scratch.path("registry.bin");
    let mut before = String::new();
    for line in commands() {
        println!("{line}");
        match line.as_str() {
            "./icd demo" => {
                // It judges itself: an exit that is not 0 is a failure here.
                let said = shell("./icd demo --headless --seconds 25 --viewers 6", &registry);
                let figures = figures(&said);
                assert_eq!((figures[0], figures[2]), (6.0, 0.0), "{figures:?}");
                assert!(figures[1] >= 2.0, "killed: {figures:?}");
                relays_were_killed_and_rows_name_rows(&said);
            }
            // This runs by the one, and the other takes minutes.
            "./icd test" | "./icd bench" => {
                let known = shell("./icd --help", &registry);
                assert!(known.contains(&line["./icd ".len()..]));
            }
            "meson setup build && ninja -C build && meson install -C build" => {
                let build = scratch.path("build").display().to_string();
                let there = scratch.path("there");
                let line = line.replace("setup build", &format!("setup {build}"));
                let line = line.replace("-C build", &format!("-C {build}"));
                shell(
                    &format!("export DESTDIR={}; {line}", there.display()),
                    &registry,
                );
                let plugins = shell("pkg-config --variable=pluginsdir gstreamer-1.0", &registry);
                let plugin = format!("{}{}/libgsticd.so", there.display(), plugins.trim());
                assert!(shell(&format!("gst-inspect-1.0 {plugin}"), &registry).contains("icdsink"));
                let elsewhere = format!(
                    "meson configure -Dplugindir=/opt/plugins {build} && DESTDIR={} meson install -C {build}",
                    there.display()
                );
                shell(&elsewhere, &registry);
                assert!(there.join("opt/plugins/libgsticd.so").exists());
                let inside = format!("meson devenv -C {build} gst-inspect-1.0 icdsrc");
                assert!(shell(&inside, &registry).contains("relay"));
            }
            line if line.starts_with("cargo ") => {
                shell(line, &registry);
                before = line.to_string();
            }
            line if line.starts_with("export ") => {
                assert!(!before.is_empty(), "it shows what was built");
                let inspect = format!("{line}; gst-inspect-1.0 icdsink");
                assert!(shell(&inspect, &registry).contains("max-upload-bitrate"));
            }
            line if line.starts_with("gst-launch-1.0 ") => {}
            line => panic!("the README tells to run what is not tried: {line}"),
        }
    }
}
