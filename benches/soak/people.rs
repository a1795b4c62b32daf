//! Who is there, and what happens to them.

use std::io::BufRead;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gst_icd_suite::account::lay;
use gst_icd_suite::crowd::{self, VIEWER, Viewer, clock};
use gst_icd_suite::lab::{Lab, Line, address, command};
use gst_icd_suite::processes::{Scratch, descriptors, memory, threads};
use gst_icd_suite::{init, results};

/// What makes this program the broadcaster: its first argument.
pub(crate) const BROADCASTER: &str = "--broadcaster";

const VIEWERS: usize = 8;
/// Of these nobody is killed: their memory is watched.
const STAY: usize = 3;
const BITRATE: u64 = 1000;
/// The play-out delay of all, in milliseconds.
const LATENCY: u64 = 3000;
/// What was sent so long before a viewer's end should have reached it.
const DUE: Duration = Duration::from_secs(4);
/// From one event to the next.
const BETWEEN: std::ops::Range<u64> = 4000..12_000;
/// A cut, or a stop, that the buffer covers, and one that it does not, in milliseconds.
const SHORT: std::ops::Range<u64> = 300..1200;
const LONG: std::ops::Range<u64> = 5000..15_000;
/// After one that it does not cover, a viewer has all again after so long.
const RECOVERED: Duration = Duration::from_secs(6);
/// After the broadcast began anew, everybody.
const FOLLOWED: Duration = Duration::from_secs(10);
/// How often memory and the like are looked at.
const SAMPLE: Duration = Duration::from_secs(10);
/// Parts into which a run is cut; the first is for all to find their place.
const PARTS: usize = 6;
/// So many minutes make a run whose table is kept.
const WHOLE: u64 = 60;
const KEEP: &str = "./icd soak";

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    minutes: u64,
    seed: u64,
}

impl Plan {
    /// From the command line.
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let mut plan = Self {
            minutes: WHOLE,
            seed: 1,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let value = || args.clone().next().ok_or(format!("{arg} wants a number"));
            let number = |text: &String| text.parse().ok().filter(|n| *n > 0);
            let number = number(value()?).ok_or(format!("{arg} wants a number above zero"))?;
            match arg.as_str() {
                "--minutes" => plan.minutes = number,
                "--seed" => plan.seed = number,
                _ => return Err(format!("unknown option {arg}")),
            }
            args.next();
        }
        Ok(plan)
    }
}

/// The broadcaster: tells what it sends; at each line of its input the picture changes its size, or the
/// broadcast ends and begins again.
pub(crate) fn broadcaster() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(2).collect();
    let [settings] = &args[..] else {
        return ExitCode::from(2);
    };
    match broadcast(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("e {why}");
            ExitCode::FAILURE
        }
    }
}

fn broadcast(settings: &str) -> Result<(), String> {
    init();
    let size = |wide: i32| {
        gst::Caps::builder("video/x-raw")
            .field("width", wide)
            .field("height", 120)
            .field("framerate", gst::Fraction::new(25, 1))
            .build()
    };
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc is-live=true pattern=snow ! capsfilter name=size
         ! x264enc tune=zerolatency speed-preset=ultrafast bitrate={BITRATE} key-int-max=25
         ! video/x-h264,stream-format=byte-stream,alignment=au ! identity name=in ! icdsink {settings}"
    ));
    let pipeline = pipeline.map_err(|e| e.to_string())?;
    let pipeline = pipeline
        .downcast::<gst::Pipeline>()
        .map_err(|_| "not a pipeline")?;
    let named = |name: &str| pipeline.by_name(name).ok_or("an element is missing");
    crowd::tell(&named("in")?.static_pad("src").ok_or("no pad")?);
    let filter = named("size")?;
    filter.set_property("caps", size(160));
    let bus = pipeline.bus().ok_or("no bus")?;
    let to = |state: gst::State| {
        pipeline
            .set_state(state)
            .map_err(|_| format!("no {state:?}"))
    };
    to(gst::State::Playing)?;
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match line.as_str() {
            "size" => {
                let wide = filter.property::<gst::Caps>("caps");
                let wide = wide.structure(0).and_then(|s| s.get::<i32>("width").ok());
                filter.set_property("caps", size(if wide == Some(160) { 176 } else { 160 }));
            }
            "again" => {
                pipeline.send_event(gst::event::Eos::new());
                let ended = [gst::MessageType::Eos, gst::MessageType::Error];
                let ended = bus.timed_pop_filtered(gst::ClockTime::from_seconds(10), &ended);
                match ended.as_ref().map(|message| message.view()) {
                    Some(gst::MessageView::Eos(_)) => {}
                    Some(gst::MessageView::Error(error)) => return Err(error.error().to_string()),
                    _ => return Err("the end does not come".into()),
                }
                to(gst::State::Null)?;
                to(gst::State::Playing)?;
            }
            other => return Err(format!("what is {other}?")),
        }
    }
    to(gst::State::Null).map(drop)
}

/// A viewer, its host, and when it could not have everything, by [`clock`].
#[derive(Debug)]
struct Person {
    viewer: Viewer,
    host: usize,
    excused: Vec<(u64, u64)>,
    troubled: bool,
}

/// What to do later.
#[derive(Debug, Clone, Copy)]
enum Later {
    Mend(usize),
    Thaw(usize),
}

/// What a process takes.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    memory: u64,
    threads: u64,
    files: u64,
}

impl Taken {
    fn by(process: u32) -> Self {
        Self {
            memory: memory(process),
            threads: threads(process),
            files: descriptors(process),
        }
    }

    /// The most of each.
    fn most(self, other: Self) -> Self {
        Self {
            memory: self.memory.max(other.memory),
            threads: self.threads.max(other.threads),
            files: self.files.max(other.files),
        }
    }
}

/// A part of a run.
#[derive(Debug, Clone, Default)]
struct Part {
    seed: Taken,
    viewers: Taken,
    lags: Vec<u32>,
}

impl Part {
    /// In milliseconds, what this share of the buffers had at most.
    fn lag(&self, share: f64) -> u32 {
        let mut lags = self.lags.clone();
        lags.sort_unstable();
        let at = (lags.len() as f64 * share) as usize;
        lags.get(at.min(lags.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }
}

#[derive(Debug)]
struct Soak {
    lab: Lab,
    rng: fastrand::Rng,
    seed: Viewer,
    people: Vec<Person>,
    later: Vec<(Instant, Later)>,
    uri: String,
    names: usize,
    begun: (Instant, u64),
    length: Duration,
    parts: Vec<Part>,
    counts: [usize; KINDS.len()],
    got: usize,
    lost: usize,
    foreign: usize,
    failed: Vec<String>,
}

const KINDS: [&str; 7] = [
    "viewers killed",
    "viewers stopped for a moment",
    "viewers stopped for long",
    "lines cut for a moment, the seed's among them",
    "viewers' lines cut for long",
    "changes of the caps",
    "ends and new beginnings",
];

fn lines() -> Vec<Line> {
    let line = |n: usize| Line {
        up: BITRATE * 1000 * if n == 0 { 4 } else { 3 },
        delay: Duration::from_millis(5 + 4 * n as u64),
        loss: 0.002,
    };
    (0..=VIEWERS).map(line).collect()
}

/// The whole of it. False if something did not hold.
pub(crate) fn run(plan: &Plan) -> Result<bool, String> {
    init();
    let scratch = Scratch::new("soak");
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let me = me.to_str().ok_or("the program's path is no text")?;
    let lab = Lab::new(&lines());
    let settings = format!(
        "address={} port=7423 key-file={} buffer-time=8000 max-upload-bitrate={}",
        address(0),
        scratch.path("key.pem").display(),
        BITRATE * 2500
    );
    let mut broadcaster = command(0, me);
    broadcaster.args([BROADCASTER, &settings]);
    let seed = Viewer::run(0, broadcaster, false)?;
    std::thread::sleep(Duration::from_secs(3));
    let mut soak = Soak {
        lab,
        rng: fastrand::Rng::with_seed(plan.seed),
        seed,
        people: Vec::new(),
        later: Vec::new(),
        uri: format!("icd://{}", address(0)),
        names: 1,
        begun: (Instant::now(), clock()),
        length: Duration::from_secs(plan.minutes * 60),
        parts: vec![Part::default(); PARTS],
        counts: [0; KINDS.len()],
        got: 0,
        lost: 0,
        foreign: 0,
        failed: Vec::new(),
    };
    for host in 1..=VIEWERS {
        soak.join(host, me)?;
        std::thread::sleep(Duration::from_millis(500));
    }
    std::thread::sleep(Duration::from_secs(5));
    soak.live(me)?;
    Ok(soak.end(plan))
}

impl Soak {
    fn join(&mut self, host: usize, me: &str) -> Result<(), String> {
        let settings = format!("latency={LATENCY} max-upload-bitrate={}", BITRATE * 2000);
        let mut viewer = command(host, me);
        viewer.args([VIEWER, &self.uri, &settings, "again"]);
        let viewer = Viewer::run(self.names, viewer, false)?;
        self.names += 1;
        let person = Person {
            viewer,
            host,
            excused: Vec::new(),
            troubled: false,
        };
        self.people.push(person);
        Ok(())
    }

    fn live(&mut self, me: &str) -> Result<(), String> {
        let end = self.begun.0 + self.length;
        let (mut next, mut sample) = (Instant::now(), Instant::now());
        while Instant::now() < end {
            let now = Instant::now();
            let (due, later) = self.later.iter().partition(|(at, _)| *at <= now);
            self.later = later;
            let due: Vec<(Instant, Later)> = due;
            for (_, what) in due {
                self.mend(what)?;
            }
            if now >= sample {
                sample = now + SAMPLE;
                self.sample();
            }
            // What is under way at the end could not be judged.
            if now >= next && now + Duration::from_secs(40) < end {
                next = now + Duration::from_millis(self.rng.u64(BETWEEN));
                self.event(me)?;
            }
            self.seed.log(|log| log.error.clone()).map_or(Ok(()), Err)?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn say(&self, what: &str) {
        println!("{:.1} s: {what}", self.begun.0.elapsed().as_secs_f64());
    }

    fn part(&self) -> usize {
        let share = self.begun.0.elapsed().div_duration_f64(self.length);
        ((share * PARTS as f64) as usize).min(PARTS - 1)
    }

    /// Looks at what the processes take.
    fn sample(&mut self) {
        let at = self.part();
        let stay = self.people.iter().filter(|p| p.viewer.name <= STAY);
        let viewers = stay
            .map(|p| Taken::by(p.viewer.process()))
            .fold(Taken::default(), Taken::most);
        let part = &mut self.parts[at];
        part.seed = part.seed.most(Taken::by(self.seed.process()));
        part.viewers = part.viewers.most(viewers);
    }

    /// Somebody who is well.
    fn someone(&mut self, may_go: bool) -> Option<usize> {
        let well = self.people.iter().enumerate();
        let well = well.filter(|(_, p)| !p.troubled && (!may_go || p.viewer.name > STAY));
        let well: Vec<_> = well.map(|(n, _)| n).collect();
        self.rng.choice(&well).copied()
    }

    fn event(&mut self, me: &str) -> Result<(), String> {
        let kind = self.rng.usize(..KINDS.len());
        let short = Duration::from_millis(self.rng.u64(SHORT));
        let long = Duration::from_millis(self.rng.u64(LONG));
        match kind {
            0 => {
                let Some(n) = self.someone(true) else {
                    return Ok(());
                };
                let person = self.people.swap_remove(n);
                let host = person.host;
                self.say(&format!("viewer {} is killed", person.viewer.name));
                self.judge(&person, clock());
                drop(person);
                self.join(host, me)?;
            }
            1 | 2 => {
                let Some(n) = self.someone(false) else {
                    return Ok(());
                };
                let time = if kind == 1 { short } else { long };
                let person = &mut self.people[n];
                person.viewer.freeze()?;
                person.trouble(time, kind == 2);
                let name = person.viewer.name;
                self.say(&format!("viewer {name} is stopped for {time:?}"));
                self.later.push((Instant::now() + time, Later::Thaw(name)));
            }
            3 => {
                let host = self.rng.usize(0..=VIEWERS);
                self.say(&format!("the line of host {host} is cut for {short:?}"));
                self.lab.cut(host, true);
                self.later.push((Instant::now() + short, Later::Mend(host)));
            }
            4 => {
                let Some(n) = self.someone(false) else {
                    return Ok(());
                };
                let person = &mut self.people[n];
                person.trouble(long, true);
                let (host, name) = (person.host, person.viewer.name);
                self.lab.cut(host, true);
                self.say(&format!("the line of viewer {name} is cut for {long:?}"));
                self.later.push((Instant::now() + long, Later::Mend(host)));
            }
            5 => {
                self.say("the caps change");
                self.seed.say("size")?;
            }
            _ => {
                // Rarely: it takes all for a while.
                if self.rng.usize(..3) > 0 {
                    return Ok(());
                }
                self.say("the broadcast ends and begins again");
                self.seed.say("again")?;
                for person in &mut self.people {
                    person.excuse(FOLLOWED);
                }
            }
        }
        self.counts[kind] += 1;
        Ok(())
    }

    fn mend(&mut self, what: Later) -> Result<(), String> {
        let host = match what {
            Later::Mend(host) => {
                self.lab.cut(host, false);
                host
            }
            Later::Thaw(name) => {
                let person = self.people.iter().find(|p| p.viewer.name == name);
                let person = person.ok_or("who was stopped is gone")?;
                person.viewer.thaw()?;
                person.host
            }
        };
        let mended = self.people.iter_mut().filter(|p| p.host == host);
        mended.for_each(|person| person.troubled = false);
        Ok(())
    }

    /// Lays what somebody played until now against what was sent.
    fn judge(&mut self, person: &Person, now: u64) {
        let sent = self
            .seed
            .log(|log| (log.buffers.clone(), log.times.clone()));
        let (prints, times) = sent;
        let (got, came) = person
            .viewer
            .log(|log| (log.buffers.clone(), log.times.clone()));
        let name = person.viewer.name;
        if let Some(error) = person.viewer.log(|log| log.error.clone()) {
            self.failed.push(format!("viewer {name}: {error}"));
        }
        let Some(laid) = lay(&prints, &got) else {
            if now - person.viewer.born_at() > FOLLOWED.as_nanos() as u64 {
                self.failed.push(format!("viewer {name} received nothing"));
            }
            return;
        };
        let due = times.partition_point(|at| at + (DUE.as_nanos() as u64) < now);
        let excused = |n: usize| {
            let at = times[n];
            person
                .excused
                .iter()
                .any(|(from, to)| (*from..*to).contains(&at))
        };
        let lost = laid.lost.iter().copied().chain(laid.end..due.max(laid.end));
        let lost: Vec<_> = lost.filter(|n| !excused(*n)).collect();
        if let (Some(first), Some(last)) = (lost.first(), lost.last()) {
            let since = |n: &usize| times[*n].saturating_sub(self.begun.1) / 1_000_000;
            println!(
                "viewer {name} lost {} buffers, sent from {} to {} ms",
                lost.len(),
                since(first),
                since(last)
            );
        }
        self.got += got.len();
        self.lost += lost.len();
        self.foreign += laid.foreign;
        let mut at = laid.first;
        for (print, came) in got.iter().zip(&came) {
            let Some(skipped) = prints[at..].iter().position(|p| p == print) else {
                continue;
            };
            at += skipped + 1;
            let left = times[at - 1];
            // What a viewer gets of the past when it begins is no lag.
            if left > person.viewer.born_at() && !excused(at - 1) {
                let share =
                    left.saturating_sub(self.begun.1) as f64 / self.length.as_nanos() as f64;
                let part = ((share * PARTS as f64) as usize).min(PARTS - 1);
                self.parts[part]
                    .lags
                    .push((came.saturating_sub(left) / 1_000_000) as u32);
            }
        }
    }

    fn end(&mut self, plan: &Plan) -> bool {
        let now = clock();
        for person in std::mem::take(&mut self.people) {
            self.judge(&person, now);
        }
        let table = self.table(plan);
        println!("\n{table}");
        let whole = plan.minutes >= WHOLE;
        let kept = if whole {
            results::keep(KEEP, &table)
        } else {
            Ok(())
        };
        if let Err(why) = kept {
            self.failed.push(why);
        }
        for why in &self.failed {
            println!("{why}");
        }
        self.faults().is_empty()
    }

    /// What did not hold.
    fn faults(&self) -> Vec<String> {
        // The first part is for all to find their place.
        let (early, late) = (&self.parts[1], &self.parts[PARTS - 1]);
        let grew = |was: u64, is: u64, by: u64| is > was + was / 8 + by;
        let mut faults = Vec::new();
        let mut fault = |is: bool, what: &str| {
            if is {
                faults.push(what.to_string());
            }
        };
        fault(self.lost > 0, "buffers were lost");
        fault(self.foreign > 0, "something came that was not sent there");
        fault(!self.failed.is_empty(), "somebody failed");
        for (who, was, is) in [
            ("the seed", early.seed, late.seed),
            ("a viewer", early.viewers, late.viewers),
        ] {
            fault(grew(was.memory, is.memory, 4 << 20), &format!("{who} grew"));
            fault(
                is.threads > was.threads + 2,
                &format!("{who} has more threads"),
            );
            fault(
                is.files > was.files + 4,
                &format!("{who} has more open files"),
            );
        }
        let lag = |part: &Part| u64::from(part.lag(0.95));
        fault(grew(lag(early), lag(late), 100), "the lag grew");
        faults
    }

    fn table(&self, plan: &Plan) -> String {
        let happened = KINDS.iter().zip(self.counts);
        let happened: Vec<_> = happened.map(|(what, n)| format!("{n} {what}")).collect();
        let mut table = format!(
            "{VIEWERS} viewers for {} minutes, chance {}: {}. Buffers lost, but while a viewer could not be reached: \
             {} of {}; {} came that were not sent there.\n\n\
             | part | seed MB | threads | files | viewer MB | threads | files | lag p50 | p95 ms |\n\
             |---|---|---|---|---|---|---|---|---|\n",
            plan.minutes,
            plan.seed,
            happened.join(", "),
            self.lost,
            self.got,
            self.foreign
        );
        for (n, part) in self.parts.iter().enumerate() {
            let taken = |t: Taken| format!("{} | {} | {}", t.memory >> 20, t.threads, t.files);
            table += &format!(
                "| {} | {} | {} | {} | {} |\n",
                n + 1,
                taken(part.seed),
                taken(part.viewers),
                part.lag(0.5),
                part.lag(0.95)
            );
        }
        let faults = self.faults();
        let verdict = if faults.is_empty() {
            "holds".into()
        } else {
            format!("**{}**", faults.join("; "))
        };
        table + &format!("\n{verdict}\n")
    }
}

impl Person {
    /// It is cut off from now on.
    fn trouble(&mut self, time: Duration, long: bool) {
        self.troubled = true;
        if long {
            self.excuse(time + RECOVERED);
        }
    }

    /// What was still to be shown, and what is sent from now on for so long, may be missing to it.
    fn excuse(&mut self, time: Duration) {
        let now = clock();
        let before = Duration::from_millis(LATENCY).as_nanos() as u64;
        self.excused
            .push((now - before, now + time.as_nanos() as u64));
    }
}
