//! The commands of the README do what it says; its pipelines are tried in `documents.rs`.

use std::path::Path;
use std::process::Command;

use gst_icd_suite::processes::Scratch;

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
                let last = said.lines().last().unwrap_or_default().to_string();
                let fields = [
                    "viewers=",
                    "killed=",
                    "frames_lost=",
                    "offload=",
                    "lag_p50_ms=",
                    "lag_p99_ms=",
                ];
                assert!(fields.iter().all(|f| last.contains(f)), "{last}");
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
