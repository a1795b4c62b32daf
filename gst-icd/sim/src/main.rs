//! `./icd sim`: a grid of real nodes in virtual time.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;
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

fn run(settings: &Settings) -> Results {
    let start = Instant::now();
    let mut people = People::new(settings);
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
    results
}

/// Runs all scenarios and prints a table; whether all hold.
fn all(beside: &[String]) -> Result<bool, String> {
    println!("| scenario | what | must show | worst seen | |\n|---|---|---|---|---|");
    let mut good = true;
    for name in scenario::all()? {
        let Run { settings, file } = run_of(&name, beside)?;
        let mut worst: Vec<Option<f64>> = vec![None; file.bounds.len()];
        let mut held = vec![true; file.bounds.len()];
        for seed in 0..file.seeds {
            let settings = Settings {
                seed: settings.seed + seed,
                json: true,
                ..settings.clone()
            };
            let results = serde_json::to_value(run(&settings)).map_err(|e| e.to_string())?;
            for (n, bound) in file.bounds.iter().enumerate() {
                held[n] &= bound.holds(&results);
                let found = bound.found(&results);
                worst[n] = match (worst[n], found) {
                    (Some(one), Some(other)) => Some(bound.worse(one, other)),
                    (one, other) => one.or(other),
                };
            }
        }
        for (n, bound) in file.bounds.iter().enumerate() {
            let (title, about) = match n {
                0 => (name.display().to_string(), file.about.as_str()),
                _ => (String::new(), ""),
            };
            let seen = worst[n].map_or("none".into(), |seen| format!("{seen:.5}"));
            let mark = if held[n] { "holds" } else { "**missed**" };
            println!("| {title} | {about} | {bound} | {seen} | {mark} |");
            good &= held[n];
        }
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
        let beside: Vec<_> = args.into_iter().filter(|arg| arg != "--all").collect();
        return match all(&beside) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(why) => wrong(&why),
        };
    }
    let Run { settings, file } = match settings() {
        Ok(run) => run,
        Err(why) => return wrong(&why),
    };
    let results = run(&settings);
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
