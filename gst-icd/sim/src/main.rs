//! `./icd sim`: a grid of real nodes in virtual time.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use icd_sim::people::People;
use icd_sim::results::Results;
use icd_sim::settings::Settings;

/// The file of a scenario, by its name or path.
fn file(name: &Path) -> PathBuf {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("scenarios")
        .join(name);
    if beside.is_file() {
        beside
    } else {
        name.into()
    }
}

/// The flags in a scenario's file, words of lines that are no remarks.
fn flags(name: &Path) -> Result<Vec<String>, String> {
    let path = file(name);
    let text =
        std::fs::read_to_string(&path).map_err(|e| format!("scenario {}: {e}", path.display()))?;
    let lines = text
        .lines()
        .map(|l| l.split('#').next().unwrap_or_default());
    Ok(lines
        .flat_map(str::split_whitespace)
        .map(String::from)
        .collect())
}

fn settings() -> Result<Settings, String> {
    let args: Vec<String> = std::env::args().collect();
    let given = Settings::parse_from(&args);
    let Some(name) = &given.scenario else {
        return Ok(given);
    };
    // Flags beside the scenario come after its own, and win.
    let rest = args[1..].iter().filter(|a| Path::new(a) != name).cloned();
    let all = std::iter::once(args[0].clone())
        .chain(flags(name)?)
        .chain(rest);
    Settings::try_parse_from(all).map_err(|e| e.to_string())
}

fn main() -> ExitCode {
    let settings = match settings() {
        Ok(settings) => settings,
        Err(why) => {
            eprintln!("icd sim: {why}");
            return ExitCode::from(2);
        }
    };
    let start = Instant::now();
    let mut people = People::new(&settings);
    people.run(|at| {
        if !settings.json && at.as_secs().is_multiple_of(10) {
            eprintln!(
                "{} s of stream in {:.1} s",
                at.as_secs(),
                start.elapsed().as_secs_f64()
            );
        }
    });
    let results = Results::of(&settings, &people, start.elapsed());
    match serde_json::to_string_pretty(&results) {
        Ok(text) => println!("{text}"),
        Err(error) => {
            eprintln!("icd sim: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
