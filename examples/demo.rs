//! `./icd demo`: a broadcaster and viewers that relay to each other, all on this machine; one
//! viewer is killed without warning every few seconds and another starts.
//!
//! Every process is a real one: `gst-launch-1.0` for the broadcaster, this program again
//! (`--viewer`) for each viewer, so that a kill is a kill.

use std::collections::HashMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst_icd_suite::account::Verdict;
use gst_icd_suite::crowd::{self, Sent, Totals, VIEWER, Viewer};

const HELP: &str =
    "usage: ./icd demo [--headless] [--seconds N] [--viewers N] [--kill-every N] [FILE|URI]

  --headless      open no window, and judge at the end: exit 0 only if nothing was lost, the
                  seed sent at most 2.5 times the stream, and offload is at least 60 %
                  (which takes five viewers and some 20 s: the first ones live from the seed)
  --seconds N     end after N seconds (default: at Ctrl-C; headless: 60)
  --viewers N     viewers at a time (default 8)
  --kill-every N  seconds between kills (default 5)
  FILE|URI        a film; without one, a generated one with sound and a running clock

Once a second a line per viewer, as in
  viewer  4  lag   60/ 180 ms  lost   0  seed 412 kB  peers 903 kB  sent 777 kB  from 2:6 seed:2
says how long half of the pieces took from the broadcaster, and all but one in a hundred; how many
pieces it missed; what it received from the seed and from other viewers, and sent to viewers; and
who feeds it by how many stripes of the stream (viewer 2 by six, the seed by two). The last line
sums up: frames_lost is what viewers did not get of what was sent while they watched, offload the
share of their bytes that came from viewers.";

/// Prints a line; who reads no more (`| head`) ends the demo.
macro_rules! say {
    ($($text:tt)*) => {
        if writeln!(std::io::stdout(), $($text)*).is_err() {
            std::process::exit(1);
        }
    };
}

/// What a viewer may send, in bits per second.
const UPLOAD: u64 = 12_000_000;

struct Options {
    headless: bool,
    seconds: Option<u64>,
    viewers: usize,
    kill_every: u64,
    film: Option<String>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        headless: false,
        seconds: None,
        viewers: 8,
        kill_every: 5,
        film: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = |name: &str| {
            let value = args.next().ok_or(format!("{name} wants a number"))?;
            value
                .parse::<u64>()
                .ok()
                .filter(|n| *n > 0)
                .ok_or(format!("{name} wants a number above zero, not {value:?}"))
        };
        match arg.as_str() {
            "--headless" => options.headless = true,
            "--seconds" => options.seconds = Some(number("--seconds")?),
            "--viewers" => options.viewers = number("--viewers")? as usize,
            "--kill-every" => options.kill_every = number("--kill-every")?,
            "--help" | "-h" => return Err(String::new()),
            flag if flag.starts_with("--") => return Err(format!("unknown option {flag}")),
            "" => return Err("a film has a name".into()),
            film if options.film.is_some() => {
                return Err(format!("one film at a time, not {film} as well"));
            }
            film => options.film = Some(film.into()),
        }
    }
    if options.headless && options.seconds.is_none() {
        options.seconds = Some(60);
    }
    Ok(options)
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(VIEWER) {
        return crowd::viewer();
    }
    let options = match options() {
        Ok(options) => options,
        Err(why) => {
            if !why.is_empty() {
                eprintln!("demo: {why}\n");
            }
            eprintln!("{HELP}");
            return ExitCode::from(if why.is_empty() { 0 } else { 2 });
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("demo: {why}");
            ExitCode::FAILURE
        }
    }
}

fn broadcaster(film: Option<&str>) -> Result<gst::Pipeline, String> {
    let encode = "x264enc tune=zerolatency speed-preset=ultrafast bitrate=2000 key-int-max=48";
    let tail = "mpegtsmux alignment=7 name=mux ! identity name=in ! icdsink name=seed address=127.0.0.1 port=0";
    let description = match film {
        None => format!(
            "{tail}  videotestsrc is-live=true pattern=ball ! video/x-raw,width=640,height=360,framerate=24/1 ! clockoverlay ! timeoverlay valignment=bottom ! {encode} ! h264parse ! queue ! mux.  audiotestsrc is-live=true wave=ticks ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! aacparse ! queue ! mux."
        ),
        Some(_) => tail.to_string(),
    };
    let pipeline: gst::Pipeline = gst::parse::launch(&description)
        .map_err(|e| e.to_string())?
        .downcast()
        .map_err(|_| "not a pipeline".to_string())?;
    if let Some(film) = film {
        play_film(&pipeline, film, encode).map_err(|e| format!("{film}: {e}"))?;
    }
    Ok(pipeline)
}

/// Decodes a film of one's own; what it has of picture and sound goes to the muxer.
fn play_film(pipeline: &gst::Pipeline, film: &str, encode: &'static str) -> Result<(), String> {
    let uri = match film.contains("://") {
        true => film.to_string(),
        false => {
            let path = std::fs::canonicalize(film).map_err(|e| e.to_string())?;
            let uri = gst::glib::filename_to_uri(path, None).map_err(|e| e.to_string())?;
            uri.to_string()
        }
    };
    let decode = gst::ElementFactory::make("uridecodebin").property("uri", uri);
    let decode = decode.build().map_err(|e| e.to_string())?;
    pipeline.add(&decode).map_err(|e| e.to_string())?;
    let weak = pipeline.downgrade();
    decode.connect_pad_added(move |_, pad| {
        let Some(pipeline) = weak.upgrade() else {
            return;
        };
        if let Err(why) = take_pad(&pipeline, pad, encode) {
            eprintln!("demo: a part of the film is left out: {why}");
        }
    });
    Ok(())
}

fn take_pad(pipeline: &gst::Pipeline, pad: &gst::Pad, encode: &str) -> Result<(), String> {
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    let media = caps.structure(0).map_or("", |s| s.name().as_str());
    let branch = match media.split('/').next() {
        Some("video") => {
            format!("queue ! videoconvert ! videoscale ! {encode} ! h264parse ! queue")
        }
        Some("audio") => {
            "queue ! audioconvert ! audioresample ! avenc_aac ! aacparse ! queue".into()
        }
        _ => return Err(format!("it is {media}")),
    };
    let whole = || -> Result<(), gst::glib::BoolError> {
        let branch = gst::parse::bin_from_description(&branch, true)
            .map_err(|e| gst::glib::bool_error!("{e}"))?;
        pipeline.add(&branch)?;
        let mux = pipeline.by_name("mux");
        let mux = mux.ok_or_else(|| gst::glib::bool_error!("no muxer"))?;
        branch.link(&mux)?;
        branch.sync_state_with_parent()?;
        let sink = branch.static_pad("sink");
        let sink = sink.ok_or_else(|| gst::glib::bool_error!("no pad"))?;
        let linked = pad.link(&sink);
        linked.map_err(|e| gst::glib::bool_error!("{e}")).map(drop)
    };
    whole().map_err(|e| e.to_string())
}

/// The one that relays most: who is missed. The one in the window is spared.
fn victim(viewers: &[Viewer]) -> Option<usize> {
    let all = viewers.iter().enumerate().filter(|(_, v)| !v.window);
    all.max_by_key(|(_, v)| v.log(|log| log.figures.sent))
        .map(|(n, _)| n)
}

/// Hears of Ctrl-C, so that the summary is still printed.
fn on_interrupt() -> Result<mpsc::Receiver<()>, String> {
    let (stop, stopped) = mpsc::sync_channel(1);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    std::thread::spawn(move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            let _ = stop.send(());
        }
    });
    Ok(stopped)
}

/// A pipeline that is stopped when it goes, also where something fails.
struct Stopped(gst::Pipeline);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

impl std::ops::Deref for Stopped {
    type Target = gst::Pipeline;

    fn deref(&self) -> &gst::Pipeline {
        &self.0
    }
}

/// What a pipeline says of its failure.
fn failure(pipeline: &gst::Pipeline) -> String {
    let bus = pipeline.bus();
    let message = bus.and_then(|bus| bus.pop_filtered(&[gst::MessageType::Error]));
    match message.as_ref().map(|m| m.view()) {
        Some(gst::MessageView::Error(e)) => e.error().to_string(),
        _ => "the broadcaster does not start".into(),
    }
}

fn run(options: &Options) -> Result<bool, String> {
    gst::init().map_err(|e| e.to_string())?;
    let display = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|v| std::env::var_os(v).is_some());
    if !display && !options.headless {
        say!("no display: no window is opened");
    }
    let seed = Stopped(broadcaster(options.film.as_deref())?);
    let pad = seed
        .by_name("in")
        .and_then(|e| e.static_pad("src"))
        .ok_or("no pad")?;
    let sent = Sent::at(&pad);
    seed.set_state(gst::State::Playing)
        .map_err(|_| failure(&seed))?;
    let sink = seed.by_name("seed").ok_or("no seed")?;
    let uri = sink
        .property::<Option<String>>("uri")
        .ok_or("the seed has no URI")?;
    say!("viewers join with {uri}");
    let stopped = on_interrupt()?;
    if options.seconds.is_none() {
        say!("Ctrl-C to end");
    }
    let start = Instant::now();
    let mut names = 0;
    let mut viewers = Vec::new();
    let mut killed = 0;
    let mut totals = Totals::default();
    let mut next_kill = start + Duration::from_secs(options.kill_every + 5);
    let end = options.seconds.map(|s| start + Duration::from_secs(s));
    loop {
        if viewers.len() < options.viewers {
            viewers.push(Viewer::start(
                names,
                &uri,
                &format!("max-upload-bitrate={UPLOAD}"),
                names == 0 && display && !options.headless,
            )?);
            names += 1;
        }
        if stopped.recv_timeout(Duration::from_secs(1)).is_ok()
            || end.is_some_and(|end| Instant::now() >= end)
        {
            break;
        }
        if Instant::now() >= next_kill && viewers.len() == options.viewers {
            next_kill += Duration::from_secs(options.kill_every);
            if let Some(victim) = victim(&viewers) {
                let victim = viewers.remove(victim);
                close(&mut totals, &victim, &sent);
                killed += 1;
                let sent = victim.log(|log| log.figures.sent) / 1000;
                say!("viewer {} killed, which had sent {sent} kB", victim.name);
            }
        }
        table(&viewers, start);
        let kinds = [gst::MessageType::Error, gst::MessageType::Eos];
        let message = seed.bus().and_then(|bus| bus.pop_filtered(&kinds));
        match message.as_ref().map(|m| m.view()) {
            Some(gst::MessageView::Error(e)) => {
                return Err(format!("the broadcaster failed: {}", e.error()));
            }
            Some(_) => {
                say!("the film is over");
                break;
            }
            None => {}
        }
    }
    let elapsed = start.elapsed();
    let stats = sink.property::<gst::Structure>("stats");
    let figure = |name: &str| stats.get::<u64>(name).unwrap_or_default();
    let mut lags = Vec::new();
    for viewer in &viewers {
        close(&mut totals, viewer, &sent);
        lags.push(viewer.log(|log| (log.figures.lag_p50, log.figures.lag_p99)));
    }
    let verdict = Verdict {
        frames_lost: totals.lost,
        failed: totals.bad,
        copies: figure("udp-bytes-sent") as f64 / sent.bytes().max(1) as f64,
        offload: totals.from_peers as f64 / (totals.from_seed + totals.from_peers).max(1) as f64,
    };
    lags.sort_unstable();
    let p50 = lags.get(lags.len() / 2).map_or(0, |l| l.0);
    let p99 = lags.iter().map(|l| l.1).max().unwrap_or(0);
    say!(
        "the seed sent {:.2} times the stream in {:.0} s",
        verdict.copies,
        elapsed.as_secs_f64()
    );
    drop(seed);
    for fault in verdict.faults() {
        say!(
            "{}: {fault}",
            if options.headless { "FAILED" } else { "note" }
        );
    }
    say!(
        "viewers={} killed={killed} frames_lost={} offload={:.1}% lag_p50_ms={p50} lag_p99_ms={p99}",
        viewers.len(),
        verdict.frames_lost,
        verdict.offload * 100.0
    );
    Ok(verdict.is_good() || !options.headless)
}

/// Closes the account of a viewer, and says what was wrong with it.
fn close(totals: &mut Totals, viewer: &Viewer, sent: &Sent) {
    totals.close(viewer, sent);
    for complaint in totals.complaints.drain(..) {
        say!("{complaint}");
    }
}

/// Who feeds whom by how many stripes (`3:2`: viewer 3 by two), lag (half of the pieces, and all but
/// one in a hundred), bytes from the seed and from viewers.
fn table(viewers: &[Viewer], start: Instant) {
    say!("-- {:.0} s", start.elapsed().as_secs_f64());
    let ids = viewers
        .iter()
        .map(|v| (v.log(|log| log.figures.id.clone()), v.name));
    let names: HashMap<String, usize> = ids.collect();
    let named = |parent: &str| {
        let (id, stripes) = parent.split_once(':')?;
        let name = names.get(id)?;
        Some(format!("{name}:{stripes}"))
    };
    for viewer in viewers {
        viewer.log(|log| {
            let f = &log.figures;
            say!(
                "viewer {:2}  lag {:4}/{:4} ms  lost {:3}  seed {:6} kB  peers {:6} kB  sent {:6} kB  from {}",
                viewer.name,
                f.lag_p50,
                f.lag_p99,
                f.lost,
                f.from_seed / 1000,
                f.from_peers / 1000,
                f.sent / 1000,
                // One that was just killed has no row any more.
                f.parents
                    .split(',')
                    .map(|p| named(p).unwrap_or_else(|| p.into()))
                    .collect::<Vec<_>>()
                    .join(" ")
            );
        });
    }
}
