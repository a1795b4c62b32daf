//! A grid of real elements in processes of their own, under people who come, vanish and freeze:
//! `./icd bench grid`.
//!
//! Uplinks are capped as in the simulator's mix. Every ten seconds one viewer, any, is killed or
//! stopped, and another with the same uplink joins. Every buffer of every viewer is laid against what
//! was sent. The table goes into `docs/results.md`, between the two marks that name this command.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst_icd_suite::crowd::{self, Sent, Totals, VIEWER, Viewer};
use gst_icd_suite::{init, results};

const VIEWERS: usize = 30;
/// What the seed may send, in copies of the stream.
const SEED: f64 = 3.0;
/// Uplinks in copies of the stream, and how many viewers have them (the notes' mix: 30 % none, 20 % 0.5,
/// 30 % 1, 15 % 3, 5 % 10).
const MIX: [(f64, usize); 5] = [(0.0, 9), (0.5, 6), (1.0, 9), (3.0, 4), (10.0, 2)];
/// So many seconds make a run whose table is kept.
const WHOLE: u64 = 600;
/// One is taken this often.
const EVERY: Duration = Duration::from_secs(10);
/// Who was stopped hangs for so long, and is gone.
const HANGS: Duration = Duration::from_secs(30);
/// From one joining to the next, at the start.
const APART: Duration = Duration::from_millis(500);
/// After them, before the first is taken.
const SETTLE: Duration = Duration::from_secs(10);
const BITRATE: u32 = 2400;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(VIEWER) {
        return crowd::viewer();
    }
    let seconds = match seconds() {
        Ok(seconds) => seconds,
        Err(why) => {
            eprintln!("bench grid: {why}\nusage: ./icd bench grid [--seconds N]");
            return ExitCode::from(2);
        }
    };
    match run(seconds).and_then(|table| show(&table, seconds)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bench grid: {why}");
            ExitCode::FAILURE
        }
    }
}

/// How long people come and go.
fn seconds() -> Result<u64, String> {
    // cargo adds a flag of its own.
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let seconds = match args.next().as_deref() {
        None => return Ok(WHOLE),
        Some("--seconds") => args.next().ok_or("--seconds wants a number")?,
        Some(other) => return Err(format!("unknown option {other}")),
    };
    if let Some(more) = args.next() {
        return Err(format!("unknown option {more}"));
    }
    let number = seconds.parse().ok().filter(|n| *n > 0);
    number.ok_or(format!(
        "--seconds wants a number above zero, not {seconds:?}"
    ))
}

/// What is sent: noise, so that the rate is even.
fn broadcaster(upload: u64) -> Result<gst::Pipeline, String> {
    let description = format!(
        "videotestsrc is-live=true pattern=snow ! video/x-raw,width=160,height=120,framerate=25/1
         ! x264enc tune=zerolatency speed-preset=ultrafast bitrate={BITRATE} key-int-max=50 ! h264parse
         ! mpegtsmux alignment=7 ! identity name=in
         ! icdsink name=seed address=127.0.0.1 port=0 max-upload-bitrate={upload}"
    );
    let pipeline = gst::parse::launch(&description).map_err(|e| e.to_string())?;
    let pipeline = pipeline.downcast();
    pipeline.map_err(|_| "not a pipeline".into())
}

/// The rate of what is sent, headers and acknowledgements included, in bits per second.
fn copy() -> f64 {
    f64::from(BITRATE) * 1000.0 * 1.15
}

struct Grid {
    uri: String,
    sent: Sent,
    viewers: Vec<(Viewer, f64)>,
    hanging: Vec<(Viewer, Instant)>,
    totals: Totals,
    names: usize,
    killed: usize,
    stopped: usize,
}

impl Grid {
    fn join(&mut self, copies: f64) -> Result<(), String> {
        let upload = (copies * copy()) as u64;
        let settings = match upload {
            0 => "relay=false".into(),
            upload => format!("max-upload-bitrate={upload}"),
        };
        let viewer = Viewer::start(self.names, &self.uri, &settings, false)?;
        self.viewers.push((viewer, copies));
        self.names += 1;
        Ok(())
    }

    fn close(&mut self, viewer: &Viewer) {
        self.totals.close(viewer, &self.sent);
        for complaint in self.totals.complaints.drain(..) {
            println!("{complaint}");
        }
    }

    /// Takes any of them; another comes with as much.
    fn take(&mut self, rng: &mut fastrand::Rng) -> Result<(), String> {
        let (viewer, copies) = self.viewers.swap_remove(rng.usize(..self.viewers.len()));
        let stop = rng.bool();
        if stop {
            viewer.freeze()?;
        }
        self.close(&viewer);
        let how = if stop { "stopped" } else { "killed" };
        println!(
            "viewer {} {how}, whose uplink is {copies} copies",
            viewer.name
        );
        if stop {
            self.stopped += 1;
            self.hanging.push((viewer, Instant::now() + HANGS));
        } else {
            self.killed += 1;
        }
        self.join(copies)
    }
}

fn run(seconds: u64) -> Result<String, String> {
    init();
    let mut rng = fastrand::Rng::with_seed(1);
    let seed = broadcaster((SEED * copy()) as u64)?;
    let pad = seed.by_name("in").and_then(|e| e.static_pad("src"));
    let sent = Sent::at(&pad.ok_or("no pad")?);
    let playing = seed.set_state(gst::State::Playing);
    playing.map_err(|_| "the broadcaster does not start")?;
    let sink = seed.by_name("seed").ok_or("no seed")?;
    let uri = sink.property::<Option<String>>("uri");
    let mut grid = Grid {
        uri: uri.ok_or("the seed has no URI")?,
        sent,
        viewers: Vec::new(),
        hanging: Vec::new(),
        totals: Totals::default(),
        names: 0,
        killed: 0,
        stopped: 0,
    };
    std::thread::sleep(Duration::from_secs(3));
    let mut uplinks: Vec<f64> = MIX
        .iter()
        .flat_map(|(copies, count)| std::iter::repeat_n(*copies, *count))
        .collect();
    rng.shuffle(&mut uplinks);
    assert_eq!(uplinks.len(), VIEWERS);
    for copies in uplinks {
        grid.join(copies)?;
        std::thread::sleep(APART);
    }
    std::thread::sleep(SETTLE);
    let figure = |name: &str| {
        let stats = sink.property::<gst::Structure>("stats");
        stats.get::<u64>(name).unwrap_or_default() as f64
    };
    let before = (figure("udp-bytes-sent"), grid.sent.bytes());
    let copies = |grid: &Grid| {
        let bytes = (grid.sent.bytes() - before.1).max(1) as f64;
        (figure("udp-bytes-sent") - before.0) / bytes
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut next = Instant::now();
    while Instant::now() < end {
        if Instant::now() >= next {
            next += EVERY;
            grid.take(&mut rng)?;
            let copies = copies(&grid);
            println!("  {} viewers, the seed at {copies:.2}", grid.viewers.len());
        }
        grid.hanging.retain(|(_, until)| *until > Instant::now());
        std::thread::sleep(Duration::from_millis(100));
    }
    let copies = copies(&grid);
    for (viewer, _) in std::mem::take(&mut grid.viewers) {
        grid.close(&viewer);
    }
    let _ = seed.set_state(gst::State::Null);
    Ok(table(&mut grid, seconds, copies))
}

fn table(grid: &mut Grid, seconds: u64, copies: f64) -> String {
    let totals = &mut grid.totals;
    let bytes = (totals.from_seed + totals.from_peers).max(1) as f64;
    let offload = totals.from_peers as f64 / bytes;
    let (p50, p95) = (totals.lag(0.5), totals.lag(0.95));
    let mark = |held: bool| if held { "holds" } else { "**missed**" };
    let rows = [
        (
            "buffers lost",
            "0",
            format!("{} of {}", totals.lost, totals.got),
            totals.lost == 0,
        ),
        (
            "viewers that failed",
            "0",
            totals.bad.to_string(),
            totals.bad == 0,
        ),
        (
            "sent by the seed, in copies of the stream",
            "≤ 2",
            format!("{copies:.2}"),
            copies <= 2.0,
        ),
        (
            "share of the viewers' bytes that came from viewers",
            "≥ 93 %",
            format!("{:.1} %", offload * 100.0),
            offload >= 0.93,
        ),
        (
            "lag that half of the buffers had at most",
            "≤ 150 ms",
            format!("{p50} ms"),
            p50 <= 150,
        ),
        (
            "lag that 95 of 100 had at most",
            "≤ 400 ms",
            format!("{p95} ms"),
            p95 <= 400,
        ),
    ];
    let mut table = format!(
        "{VIEWERS} viewers for {seconds} s; {} were killed, {} stopped, one every {} s.\n\n| | must be | seen | |\n|---|---|---|---|\n",
        grid.killed,
        grid.stopped,
        EVERY.as_secs()
    );
    for (what, must, seen, held) in rows {
        table += &format!("| {what} | {must} | {seen} | {} |\n", mark(held));
    }
    table
}

/// Puts the table where it belongs, if it is of a whole run.
fn show(table: &str, seconds: u64) -> Result<(), String> {
    println!("\n{table}");
    if seconds < WHOLE {
        return Ok(());
    }
    results::keep("./icd bench grid", table)
}
