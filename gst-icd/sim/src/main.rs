//! `./icd sim`: a grid of real nodes in virtual time.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use clap::Parser;
use icd_sim::people::People;
use icd_sim::pictures;
use icd_sim::results::Results;
use icd_sim::scenario::{self, File};
use icd_sim::settings::Settings;

/// A run's settings, and what it must show.
struct Run {
    settings: Settings,
    file: File,
}

/// Flags of a scenario, with those of the command line behind them, which win.
fn run_of(name: &Path, beside: &[String]) -> Result<Run, String> {
    let file = File::read(name)?;
    let words = std::iter::once("icd sim").chain(file.flags.iter().map(String::as_str));
    let words = words.chain(beside.iter().map(String::as_str));
    let settings = Settings::try_parse_from(words).map_err(|e| e.to_string())?;
    Ok(Run { settings, file })
}

fn run(settings: &Settings) -> std::io::Result<Results> {
    let start = Instant::now();
    let mut people = People::new(settings)?;
    people.run(|at| {
        if !settings.json && at.as_secs().is_multiple_of(10) {
            let took = start.elapsed().as_secs_f64();
            eprintln!("{} s of stream in {took:.1} s", at.as_secs());
        }
    });
    let results = Results::of(settings, &people, start.elapsed());
    if let Some(folder) = &settings.pictures
        && let Err(error) = pictures::draw(&people, &results, folder)
    {
        eprintln!("icd sim: {}: {error}", folder.display());
    }
    Ok(results)
}

/// One scenario of the project, and the worst that was seen of each of its bounds.
struct Entry {
    name: PathBuf,
    run: Run,
    /// None: no such figure.
    worst: Mutex<Vec<Option<f64>>>,
    held: Mutex<Vec<bool>>,
}

impl Entry {
    fn new(name: PathBuf, beside: &[String]) -> Result<Self, String> {
        let run = run_of(&name, beside)?;
        let bounds = run.file.bounds.len();
        Ok(Self {
            name,
            worst: Mutex::new(vec![None; bounds]),
            held: Mutex::new(vec![true; bounds]),
            run,
        })
    }

    fn seeds(&self) -> u64 {
        match self.run.settings.seeds {
            0 => self.run.file.seeds,
            seeds => seeds,
        }
    }

    fn try_out(&self, seed: u64) -> Result<(), String> {
        let settings = Settings {
            seed: self.run.settings.seed + seed,
            json: true,
            ..self.run.settings.clone()
        };
        let results = run(&settings).map_err(|e| e.to_string())?;
        let results = serde_json::to_value(results).map_err(|e| e.to_string())?;
        let mut worst = self.worst.lock().map_err(|e| e.to_string())?;
        let mut held = self.held.lock().map_err(|e| e.to_string())?;
        for (n, bound) in self.run.file.bounds.iter().enumerate() {
            held[n] &= bound.holds(&results);
            let found = bound.found(&results);
            worst[n] = match (worst[n], found) {
                (Some(one), Some(other)) => Some(bound.worse(one, other)),
                (one, other) => one.or(other),
            };
        }
        Ok(())
    }

    /// Its rows; whether all hold.
    fn print(self) -> Result<bool, String> {
        let worst = self.worst.into_inner().map_err(|e| e.to_string())?;
        let held = self.held.into_inner().map_err(|e| e.to_string())?;
        for (n, bound) in self.run.file.bounds.iter().enumerate() {
            let (title, about) = match n {
                0 => (
                    self.name.display().to_string(),
                    self.run.file.about.as_str(),
                ),
                _ => (String::new(), ""),
            };
            let seen = worst[n].map_or("none".into(), |seen| format!("{seen:.5}"));
            let mark = if held[n] { "holds" } else { "**missed**" };
            println!("| {title} | {about} | {bound} | {seen} | {mark} |");
        }
        Ok(held.into_iter().all(|held| held))
    }
}

/// Runs all scenarios whose names begin so, on all cores, and prints a table; whether all hold.
fn all(begin: &str, beside: &[String]) -> Result<bool, String> {
    let names = scenario::all()?.into_iter();
    let names = names.filter(|name| name.to_string_lossy().starts_with(begin));
    let entries = names.map(|name| Entry::new(name, beside));
    let entries = entries.collect::<Result<Vec<_>, _>>()?;
    if entries.is_empty() {
        return Err(format!("no scenario begins with {begin:?}"));
    }
    let each = |entry| (0..Entry::seeds(entry)).map(move |seed| (entry, seed));
    let runs: Vec<_> = entries.iter().flat_map(each).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((entry, seed)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            entry.try_out(*seed)?;
        }
        Ok(())
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let done = workers
            .into_iter()
            .map(|w| w.join().map_err(|_| "a run failed".to_string())?);
        done.collect::<Result<Vec<()>, String>>()
    })?;
    drop(runs);
    println!("| scenario | what | must show | worst seen | |\n|---|---|---|---|---|");
    let mut good = true;
    for entry in entries {
        good &= entry.print()?;
    }
    Ok(good)
}

fn settings() -> Result<Run, String> {
    let args: Vec<String> = std::env::args().collect();
    let given = Settings::parse_from(&args);
    let Some(name) = &given.scenario else {
        return Ok(Run {
            settings: given,
            file: File::default(),
        });
    };
    let beside = args[1..].iter().filter(|a| Path::new(a) != name);
    run_of(name, &beside.cloned().collect::<Vec<_>>())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--all") {
        let given = match Settings::try_parse_from(std::env::args()) {
            Ok(given) => given,
            Err(error) => error.exit(),
        };
        let begin = given.scenario.unwrap_or_default();
        let beside = args
            .into_iter()
            .filter(|arg| arg != "--all" && Path::new(arg) != begin);
        let beside: Vec<_> = beside.collect();
        return match all(&begin.to_string_lossy(), &beside) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(why) => wrong(&why),
        };
    }
    let Run { settings, file } = match settings() {
        Ok(run) => run,
        Err(why) => return wrong(&why),
    };
    let results = match run(&settings) {
        Ok(results) => results,
        Err(error) => return wrong(&error.to_string()),
    };
    let value = match serde_json::to_value(&results) {
        Ok(value) => value,
        Err(error) => return wrong(&error.to_string()),
    };
    match serde_json::to_string_pretty(&results) {
        Ok(text) => println!("{text}"),
        Err(error) => return wrong(&error.to_string()),
    }
    let missed: Vec<_> = file.bounds.iter().filter(|b| !b.holds(&value)).collect();
    for bound in &missed {
        eprintln!("icd sim: {bound} is missed: {:?}", bound.found(&value));
    }
    if missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn wrong(why: &str) -> ExitCode {
    eprintln!("icd sim: {why}");
    ExitCode::from(2)
}
