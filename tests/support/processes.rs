//! Broadcasters and viewers as processes of their own, killed and stopped like real ones.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::account::{Account, account, packets};
use crate::until;

/// The program that most of them are.
pub const GST_LAUNCH: &str = "gst-launch-1.0";

/// A film as an MPEG transport stream of known length, noise so that its rate is even.
#[derive(Debug)]
pub struct Film {
    /// Where.
    pub path: PathBuf,
    /// Bits per second.
    pub rate: u64,
}

impl Film {
    /// Encodes one with a key frame every two seconds.
    pub fn make(dir: &Path, seconds: u64) -> Self {
        let path = dir.join("film.ts");
        let made = Command::new(GST_LAUNCH)
            .arg("-q")
            .args(
                format!(
                    "videotestsrc num-buffers={} pattern=snow ! video/x-raw,width=160,height=120,framerate=25/1 ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=1500 key-int-max=50 ! h264parse ! mpegtsmux alignment=7 ! filesink location={}",
                    seconds * 25,
                    path.display()
                )
                .split_whitespace(),
            )
            .status()
            .expect("gst-launch-1.0 runs");
        assert!(made.success(), "the film is made");
        let bytes = std::fs::metadata(&path).expect("the film").len();
        Self {
            path,
            rate: bytes * 8 / seconds,
        }
    }
}

/// A program, mostly `gst-launch-1.0`, that is killed when this goes.
#[derive(Debug)]
pub struct Launched {
    child: Child,
    file: PathBuf,
}

impl Launched {
    /// Runs a pipeline. `file` is what the pipeline writes.
    pub fn run(pipeline: &str, file: &Path) -> Self {
        Self::pipeline(Command::new(GST_LAUNCH), pipeline, file)
    }

    fn pipeline(mut gst_launch: Command, pipeline: &str, file: &Path) -> Self {
        gst_launch.arg("-q").args(pipeline.split_whitespace());
        Self::command(gst_launch, file)
    }

    /// Runs a program. `file` is what it writes.
    pub fn command(mut command: Command, file: &Path) -> Self {
        let log = std::fs::File::create(file.with_extension("log")).expect("a log");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program runs");
        Self {
            child,
            file: file.into(),
        }
    }

    /// A broadcaster of a film in real time, that writes down what it sends.
    pub fn seed(gst_launch: Command, film: &Film, settings: &str, file: &Path) -> Self {
        let pipeline = format!(
            "filesrc location={} ! tsparse set-timestamps=true alignment=7 ! tee name=t ! queue ! icdsink {settings} t. ! queue ! filesink sync=true buffer-mode=unbuffered location={}",
            film.path.display(),
            file.display()
        );
        // At its end it logs what it sent.
        let mut gst_launch = gst_launch;
        gst_launch
            .env("GST_DEBUG", "icdsink:4")
            .env("GST_DEBUG_NO_COLOR", "1");
        let seed = Self::pipeline(gst_launch, &pipeline, file);
        until("the seed sends", || seed.written() > 0);
        seed
    }

    /// A viewer that writes what it receives.
    pub fn viewer(gst_launch: Command, settings: &str, file: &Path) -> Self {
        let pipeline = format!(
            "icdsrc {settings} ! filesink sync=false buffer-mode=unbuffered location={}",
            file.display()
        );
        Self::pipeline(gst_launch, &pipeline, file)
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        std::fs::metadata(&self.file).map_or(0, |m| m.len())
    }

    /// Resident memory, in bytes.
    ///
    /// # Panics
    ///
    /// If the program is gone.
    pub fn memory(&self) -> u64 {
        memory(self.child.id())
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status();
        assert!(sent.is_ok_and(|s| s.success()), "a signal is sent");
    }

    /// How a viewer fared against what the seed sent: all but the last `margin` bytes of it
    /// should be here.
    pub fn account(&self, seed: &Self, margin: u64) -> Account {
        let sent = packets(&std::fs::read(&seed.file).unwrap_or_default());
        let got = packets(&std::fs::read(&self.file).unwrap_or_default());
        let due = sent.len().saturating_sub((margin / 188) as usize);
        account(&sent, &got, due)
    }

    /// Ends a seed by Ctrl-C; what it sent to viewers by its own account, in bits per second.
    pub fn end_and_rate(&mut self) -> f64 {
        self.signal("INT");
        until("it has ended", || {
            self.child.try_wait().is_ok_and(|ended| ended.is_some())
        });
        let said = self.said();
        let line = said.lines().find_map(|l| l.split_once("stopped after "));
        let (_, line) = line.expect("it says what it sent");
        let numbers: Vec<f64> = line.split(' ').filter_map(|w| w.parse().ok()).collect();
        let [seconds, _, sent] = numbers[..] else {
            panic!("{line}");
        };
        sent * 8.0 / seconds
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        // Its state stands behind its name: Z for one that has ended.
        stat.is_ok_and(|s| !s.rsplit(')').next().is_some_and(|s| s.starts_with(" Z")))
    }

    /// What it said on standard error.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.file.with_extension("log")).unwrap_or_default()
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let said = self.said();
        let fatal = said.contains("WARNING **") || said.contains("CRITICAL **");
        if !std::thread::panicking() {
            assert!(!fatal, "it was ended by a warning: {said}");
        }
    }
}

/// A directory that goes with the test.
#[derive(Debug)]
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// Makes one; `name` tells it from those of other tests.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("icd-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a scratch directory");
        Self(path)
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Resident memory of a process, in bytes.
///
/// # Panics
///
/// If the process is gone.
pub fn memory(process: u32) -> u64 {
    status(process, "VmRSS:") * 1024
}

/// Threads of a process.
///
/// # Panics
///
/// If the process is gone.
pub fn threads(process: u32) -> u64 {
    status(process, "Threads:")
}

/// Open files of a process.
///
/// # Panics
///
/// If the process is gone.
pub fn descriptors(process: u32) -> u64 {
    let open = std::fs::read_dir(format!("/proc/{process}/fd"));
    open.expect("the process runs").count() as u64
}

fn status(process: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"));
    let status = status.expect("the process runs");
    let line = status.lines().find_map(|l| l.strip_prefix(field));
    let number = line.and_then(|l| l.trim().split(' ').next()?.parse().ok());
    number.expect("a number")
}
