//! Viewers as processes of their own that tell what they play, and an account of it against what was
//! sent.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use gst::prelude::*;

use crate::account::{account, fingerprint};

/// What makes a program a viewer: its first argument.
pub const VIEWER: &str = "--viewer";
/// What was sent this long before a viewer's end should have reached it.
const DUE: Duration = Duration::from_secs(3);
/// A viewer that lived this long should have begun.
const BEGUN: Duration = Duration::from_secs(8);

/// Nanoseconds of a clock that all processes of a machine share.
pub fn clock() -> u64 {
    gst::get_timestamp().nseconds()
}

/// Calls `each` with the fingerprint and the size of every buffer that passes a pad.
fn watch(pad: &gst::Pad, each: impl Fn(u64, usize) + Send + Sync + 'static) {
    let print = move |buffer: &gst::BufferRef| {
        if let Ok(map) = buffer.map_readable() {
            each(fingerprint(&map), map.len());
        }
    };
    let kind = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    pad.add_probe(kind, move |_, info| {
        match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => print(buffer),
            Some(gst::PadProbeData::BufferList(list)) => list.iter().for_each(&print),
            _ => {}
        }
        gst::PadProbeReturn::Ok
    });
}

/// Prints `b FINGERPRINT TIME` for each buffer that passes a pad.
pub fn tell(pad: &gst::Pad) {
    watch(pad, |print, _| {
        // Nobody listens: who started it was killed.
        if writeln!(std::io::stdout(), "b {print:x} {}", clock()).is_err() {
            std::process::exit(1);
        }
    });
}

/// A viewer's pipeline, and its icdsrc. `settings` as in `max-upload-bitrate=1000 relay=true`.
fn viewing(uri: &str, settings: &str, window: bool) -> Option<(gst::Pipeline, gst::Element)> {
    if !window {
        // With a queue, so that what came is seen when it came and not when it is shown.
        let pipeline = gst::parse::launch(&format!(
            "icdsrc name=src {settings} uri={uri}
             ! queue max-size-buffers=0 max-size-bytes=0 max-size-time=5000000000 ! fakesink sync=true"
        ));
        let pipeline = pipeline.ok()?.downcast::<gst::Pipeline>().ok()?;
        let src = pipeline.by_name("src")?;
        return Some((pipeline, src));
    }
    // It copes with films without sound.
    let player = gst::ElementFactory::make("playbin3")
        .property("uri", format!("{uri}?{}", settings.replace(' ', "&")))
        .build();
    let player = player.ok()?.downcast::<gst::Pipeline>().ok()?;
    let (to, sources) = mpsc::sync_channel(1);
    player.connect("source-setup", false, move |values| {
        let _ = to.try_send(values[1].get::<gst::Element>().ok()?);
        None
    });
    player.set_state(gst::State::Paused).ok()?;
    let src = sources.recv_timeout(Duration::from_secs(10)).ok()?;
    Some((player, src))
}

/// A viewer process: prints `b FINGERPRINT TIME` for each buffer and `s …` for its figures, until the
/// stream ends or nobody listens. What comes behind [`VIEWER`] is what [`Viewer::start`] gave it.
pub fn viewer() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let [uri, settings, window] = &args[..] else {
        return ExitCode::from(2);
    };
    if gst::init().is_err() {
        return ExitCode::FAILURE;
    }
    let Some((pipeline, src)) = viewing(uri, settings, window == "window") else {
        return ExitCode::FAILURE;
    };
    if let Some(pad) = src.static_pad("src") {
        tell(&pad);
    }
    if pipeline.set_state(gst::State::Playing).is_err() {
        return ExitCode::FAILURE;
    }
    let Some(bus) = pipeline.bus() else {
        return ExitCode::FAILURE;
    };
    loop {
        let message = bus.timed_pop(gst::ClockTime::from_seconds(1));
        match message.as_ref().map(|m| m.view()) {
            Some(gst::MessageView::Error(e)) => {
                let _ = writeln!(std::io::stdout(), "e {}", e.error());
                break;
            }
            // The broadcaster may come again.
            Some(gst::MessageView::Eos(_)) if window == "again" => {
                let again = [gst::State::Null, gst::State::Playing];
                if again
                    .iter()
                    .any(|state| pipeline.set_state(*state).is_err())
                {
                    return ExitCode::FAILURE;
                }
            }
            Some(gst::MessageView::Eos(_)) => break,
            Some(gst::MessageView::Latency(_)) => {
                let _ = pipeline.recalculate_latency();
            }
            _ => {}
        }
        let stats = src.property::<gst::Structure>("stats");
        let figure = |name: &str| stats.get::<u64>(name).unwrap_or_default();
        let parents: Vec<String> = stats
            .get::<gst::Array>("peers")
            .map(|peers| {
                let peers = peers.iter().filter_map(|p| p.get::<gst::Structure>().ok());
                peers.filter_map(parent).collect()
            })
            .unwrap_or_default();
        let _ = writeln!(
            std::io::stdout(),
            "s {} {} {} {} {} {} {} {}",
            figure("bytes-from-seed"),
            figure("bytes-from-peers"),
            figure("lag-p50-ms"),
            figure("lag-p99-ms"),
            figure("pieces-lost"),
            figure("bytes-sent"),
            short(&stats).unwrap_or_default(),
            parents.join(",")
        );
    }
    let _ = pipeline.set_state(gst::State::Null);
    ExitCode::SUCCESS
}

/// The beginning of a viewer's name.
fn short(stats: &gst::StructureRef) -> Option<String> {
    let id = stats.get::<Option<String>>("id").ok()??;
    Some(id.chars().take(8).collect())
}

/// `name:stripes` of a peer that pushes something.
fn parent(peer: gst::Structure) -> Option<String> {
    let stripes = peer.get::<gst::Array>("stripes-from").ok()?.len();
    let name: String = match peer.get::<bool>("seed") {
        Ok(true) => "seed".into(),
        _ => short(&peer)?,
    };
    (stripes > 0).then(|| format!("{name}:{stripes}"))
}

/// What a viewer says of itself every second.
#[derive(Debug, Default, Clone)]
pub struct Figures {
    /// Bytes that the seed sent it.
    pub from_seed: u64,
    /// Bytes that viewers sent it.
    pub from_peers: u64,
    /// Lag that half of its pieces had at most, in milliseconds.
    pub lag_p50: u64,
    /// And 99 of 100.
    pub lag_p99: u64,
    /// Pieces that it missed.
    pub lost: u64,
    /// Bytes that it sent.
    pub sent: u64,
    /// The name by which others know it.
    pub id: String,
    /// Who feeds it, and by how many stripes, as `name:stripes,name:stripes`.
    pub parents: String,
}

/// What a viewer said.
#[derive(Debug, Default)]
pub struct Log {
    /// Fingerprints of the buffers that it played.
    pub buffers: Vec<u64>,
    /// When they came, by [`clock`].
    pub times: Vec<u64>,
    /// What it said last of itself.
    pub figures: Figures,
    /// Why it failed.
    pub error: Option<String>,
}

impl Log {
    fn hear(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("b", rest)) => {
                let (print, time) = rest.split_once(' ').unwrap_or((rest, ""));
                if let (Ok(print), Ok(time)) = (u64::from_str_radix(print, 16), time.parse()) {
                    self.buffers.push(print);
                    self.times.push(time);
                }
            }
            Some(("s", rest)) => {
                let mut parts = rest.split(' ');
                let mut number = || parts.next().and_then(|p| p.parse().ok()).unwrap_or(0);
                let (from_seed, from_peers) = (number(), number());
                let (lag_p50, lag_p99) = (number(), number());
                let (lost, sent) = (number(), number());
                let mut word = || parts.next().unwrap_or_default().to_string();
                let (id, parents) = (word(), word());
                self.figures = Figures {
                    from_seed,
                    from_peers,
                    lag_p50,
                    lag_p99,
                    lost,
                    sent,
                    id,
                    parents,
                };
            }
            Some(("e", error)) => self.error = Some(error.into()),
            _ => {}
        }
    }
}

/// One viewer, that is killed when this goes.
#[derive(Debug)]
pub struct Viewer {
    /// Its number.
    pub name: usize,
    /// Whether it has a window.
    pub window: bool,
    born: Instant,
    born_at: u64,
    child: Child,
    log: Arc<Mutex<Log>>,
}

impl Viewer {
    /// This program again, as a viewer of `uri` with these settings.
    ///
    /// Fails if it can't be run.
    pub fn start(name: usize, uri: &str, settings: &str, window: bool) -> Result<Self, String> {
        let me = std::env::current_exe().map_err(|e| e.to_string())?;
        let shown = if window { "window" } else { "headless" };
        let mut command = Command::new(me);
        command.args([VIEWER, uri, settings, shown]);
        Self::run(name, command, window)
    }

    /// A program that tells as [`viewer`] does, and may be told things.
    ///
    /// Fails if it can't be run.
    pub fn run(name: usize, mut command: Command, window: bool) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(match std::env::var_os("GST_DEBUG") {
                Some(_) => Stdio::inherit(),
                None => Stdio::null(),
            })
            // Ctrl-C is for who started it, and ends it.
            .process_group(0)
            .spawn()
            .map_err(|e| format!("cannot start a viewer: {e}"))?;
        let out = child.stdout.take().ok_or("no output of a viewer")?;
        let log = Arc::new(Mutex::new(Log::default()));
        let to = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                lock(&to).hear(&line);
            }
        });
        Ok(Self {
            name,
            window,
            born: Instant::now(),
            born_at: clock(),
            child,
            log,
        })
    }

    /// Reads what it said until now.
    pub fn log<T>(&self, read: impl FnOnce(&Log) -> T) -> T {
        read(&lock(&self.log))
    }

    /// Stops it, as a machine that hangs.
    ///
    /// Fails if it is gone.
    pub fn freeze(&self) -> Result<(), String> {
        self.signal("-STOP")
    }

    /// Lets it go on.
    ///
    /// Fails if it is gone.
    pub fn thaw(&self) -> Result<(), String> {
        self.signal("-CONT")
    }

    fn signal(&self, signal: &str) -> Result<(), String> {
        let kill = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status();
        match kill {
            Ok(status) if status.success() => Ok(()),
            _ => Err(format!("viewer {} takes no {signal}", self.name)),
        }
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// When it was started, by [`clock`].
    pub fn born_at(&self) -> u64 {
        self.born_at
    }

    /// Writes a line to its standard input.
    ///
    /// Fails if it is gone.
    pub fn say(&mut self, line: &str) -> Result<(), String> {
        let to = self.child.stdin.as_mut().ok_or("no input")?;
        writeln!(to, "{line}").map_err(|e| format!("viewer {}: {e}", self.name))
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default, Clone)]
struct Sending {
    prints: Vec<u64>,
    times: Vec<u64>,
    bytes: u64,
}

/// What was sent, and when.
#[derive(Debug, Default, Clone)]
pub struct Sent(Arc<Mutex<Sending>>);

impl Sent {
    /// Notes what passes a pad from now on.
    pub fn at(pad: &gst::Pad) -> Self {
        let sent = Self::default();
        let to = sent.clone();
        watch(pad, move |print, bytes| {
            let mut sending = lock(&to.0);
            sending.prints.push(print);
            sending.times.push(clock());
            sending.bytes += bytes as u64;
        });
        sent
    }

    /// Bytes until now.
    pub fn bytes(&self) -> u64 {
        lock(&self.0).bytes
    }
}

/// What the viewers make together.
#[derive(Debug, Default)]
pub struct Totals {
    /// Bytes that the seed sent them.
    pub from_seed: u64,
    /// Bytes that they sent each other.
    pub from_peers: u64,
    /// Buffers that they lost.
    pub lost: usize,
    /// Buffers that they got.
    pub got: usize,
    /// Viewers that got nothing, or what was not sent, or failed.
    pub bad: usize,
    /// From the seed's pad to the viewer's, in milliseconds, of what was sent while it was there.
    pub lags: Vec<u32>,
    /// What is to be said of those that were not well.
    pub complaints: Vec<String>,
}

impl Totals {
    /// Closes the account of a viewer whose life ends now.
    pub fn close(&mut self, viewer: &Viewer, sent: &Sent) {
        // A copy: the broadcaster must not wait.
        let sent = lock(&sent.0).clone();
        let due = clock().saturating_sub(DUE.as_nanos() as u64);
        let due = sent.times.partition_point(|at| *at <= due);
        let log = lock(&viewer.log);
        let account = account(&sent.prints, &log.buffers, due);
        let old = viewer.born.elapsed() > BEGUN;
        let bad = (account.first.is_none() && old) || account.foreign > 0;
        // The start is looked for among what was sent; too little of it tells nothing.
        let young = account.first.is_none() && !old;
        let (lost, foreign) = match young {
            true => (0, 0),
            false => (account.lost, account.foreign),
        };
        let error = log.error.as_deref();
        if old && log.buffers.is_empty() {
            self.complaints
                .push(format!("viewer {} received nothing", viewer.name));
        }
        if lost > 0 || foreign > 0 || error.is_some() {
            self.complaints.push(format!(
                "viewer {}: {lost} lost and {foreign} not as sent, of {}; {}",
                viewer.name,
                log.buffers.len(),
                error.unwrap_or("no error")
            ));
        }
        self.lost += lost;
        self.got += log.buffers.len();
        self.bad += usize::from((bad && !young) || error.is_some());
        self.from_seed += log.figures.from_seed;
        self.from_peers += log.figures.from_peers;
        // In order: each is looked for behind the one before.
        let mut at = account.first.unwrap_or_default();
        for (print, came) in log.buffers.iter().zip(&log.times) {
            let Some(skipped) = sent.prints[at..].iter().position(|p| p == print) else {
                continue;
            };
            at += skipped + 1;
            let left = sent.times[at - 1];
            if left >= viewer.born_at {
                self.lags
                    .push((came.saturating_sub(left) / 1_000_000) as u32);
            }
        }
    }

    /// The lag that this share of the buffers did not exceed, in milliseconds (nearest rank).
    pub fn lag(&mut self, share: f64) -> u32 {
        self.lags.sort_unstable();
        let rank = (self.lags.len() as f64 * share).ceil() as usize;
        let at = rank.clamp(1, self.lags.len().max(1)) - 1;
        self.lags.get(at).copied().unwrap_or_default()
    }
}
