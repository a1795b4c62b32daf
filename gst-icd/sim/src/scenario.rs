//! Scenario files: the flags of a run, and what it must show.
//!
//! A file holds flags, remarks after `#` (the first says what it is), and lines such as
//! `expect lag_ms.p50 <= 350`, whose left side names a figure of the results. `seeds 5` runs it
//! under that many seeds of chance, of which the worst counts.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Where the scenarios of the project are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

/// A figure and what it must be.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// Of the results; points lead inside.
    pub figure: String,
    /// At most that, or at least.
    pub at_most: bool,
    /// That.
    pub value: f64,
}

impl Bound {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?}: FIGURE <= VALUE or FIGURE >= VALUE is expected");
        let (figure, sign, value) = match text.split_whitespace().collect::<Vec<_>>()[..] {
            [figure, sign, value] => (figure, sign, value),
            _ => return Err(wrong()),
        };
        Ok(Self {
            figure: figure.into(),
            at_most: match sign {
                "<=" => true,
                ">=" => false,
                _ => return Err(wrong()),
            },
            value: value.parse().map_err(|_| wrong())?,
        })
    }

    /// The figure in these results; none if they have none of that name, or it is no number.
    pub fn found(&self, results: &Value) -> Option<f64> {
        let mut path = self.figure.split('.');
        path.try_fold(results, |at, name| at.get(name))?.as_f64()
    }

    /// Whether these results hold it.
    pub fn holds(&self, results: &Value) -> bool {
        let found = self.found(results);
        found.is_some_and(|found| match self.at_most {
            true => found <= self.value,
            false => found >= self.value,
        })
    }

    /// The worse of two figures.
    pub fn worse(&self, one: f64, other: f64) -> f64 {
        if self.at_most {
            one.max(other)
        } else {
            one.min(other)
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.at_most { "≤" } else { "≥" };
        write!(f, "{} {sign} {}", self.figure, self.value)
    }
}

/// A scenario.
#[derive(Debug, Clone, Default)]
pub struct File {
    /// What it is.
    pub about: String,
    /// Its flags, as words.
    pub flags: Vec<String>,
    /// Seeds of chance to run it under.
    pub seeds: u64,
    /// What must hold.
    pub bounds: Vec<Bound>,
}

impl File {
    /// Reads one, by its name or path.
    pub fn read(name: &Path) -> Result<Self, String> {
        let beside = folder().join(name);
        let path = if beside.is_file() { &beside } else { name };
        let text = std::fs::read_to_string(path).map_err(|e| {
            format!(
                "scenario {}: {e}; {} has those of the project",
                path.display(),
                folder().display()
            )
        })?;
        Self::parse(&text).map_err(|e| format!("scenario {}: {e}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut file = Self {
            seeds: 1,
            ..Self::default()
        };
        for line in text.lines() {
            let (line, remark) = line.split_once('#').unwrap_or((line, ""));
            if file.about.is_empty() {
                file.about = remark.trim().into();
            }
            if let Some(bound) = line.trim().strip_prefix("expect ") {
                file.bounds.push(Bound::parse(bound)?);
            } else if let Some(seeds) = line.trim().strip_prefix("seeds ") {
                let seeds = seeds.trim().parse();
                file.seeds = seeds.map_err(|_| format!("{line:?}: a number is expected"))?;
            } else {
                file.flags.extend(line.split_whitespace().map(String::from));
            }
        }
        Ok(file)
    }
}

/// The names of all scenarios of the project, in order.
pub fn all() -> Result<Vec<PathBuf>, String> {
    let entries =
        std::fs::read_dir(folder()).map_err(|e| format!("{}: {e}", folder().display()))?;
    let mut names: Vec<_> = entries
        .flatten()
        .map(|entry| PathBuf::from(entry.file_name()))
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_flags_remarks_and_bounds() {
        let text = "# A crowd.\n--n 300 --load 0.9 # tight\nseeds 3\nexpect lag_ms.p50 <= 350\nexpect on_time >= 0.999\n";
        let file = File::parse(text).expect("a scenario");
        assert_eq!(file.about, "A crowd.");
        assert_eq!(file.flags, ["--n", "300", "--load", "0.9"]);
        assert_eq!((file.seeds, file.bounds.len()), (3, 2));
        let results = serde_json::json!({"lag_ms": {"p50": 351}, "on_time": 0.9995});
        assert!(!file.bounds[0].holds(&results));
        assert!(file.bounds[1].holds(&results));
        assert!(File::parse("expect lag_ms.p50 == 3").is_err());
        // A figure that is not there holds nothing.
        let other = Bound::parse("nothing <= 3").expect("a bound");
        assert!(!other.holds(&results));
    }

    #[test]
    fn every_scenario_of_the_project_can_be_read_and_says_what_it_is() {
        let names = all().expect("the folder");
        assert!(names.len() > 10, "{names:?}");
        for name in names {
            let file = File::read(&name).expect("a scenario");
            assert!(
                !file.about.is_empty() && !file.bounds.is_empty(),
                "{name:?}"
            );
        }
    }
}
