//! The scenarios that take little time, with what they must show. The others: `./icd sim --all`.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use icd_sim::people::People;
use icd_sim::results::Results;
use icd_sim::scenario::{Bound, File};
use icd_sim::settings::Settings;

fn read(name: &str) -> File {
    File::read(Path::new(name)).expect("a scenario")
}

fn holds(name: &str) {
    holds_by(name, 1..=read(name).seeds);
}

/// Under these seeds of chance.
fn holds_by(name: &str, seeds: RangeInclusive<u64>) {
    holds_with(name, seeds, &[]);
}

/// The same over real QUIC, under one seed of chance. Runs are not equal there: what is near its bound is
/// left to `./icd sim --all`.
fn holds_over_quic(name: &str) {
    holds_with(name, 1..=1, &["--quic"]);
}

fn holds_with(name: &str, seeds: RangeInclusive<u64>, beside: &[&str]) {
    let file = read(name);
    let words = std::iter::once("icd sim").chain(file.flags.iter().map(String::as_str));
    let words = words.chain(beside.iter().copied());
    let settings = Settings::try_parse_from(words).expect("flags");
    for seed in seeds {
        let settings = Settings {
            seed,
            ..settings.clone()
        };
        let mut people = People::new(&settings).expect("a runtime");
        people.run(|_| {});
        let results = Results::of(&settings, &people, Duration::ZERO);
        assert!(results.per_second.iter().all(|second| second.due > 0));
        let value = serde_json::to_value(&results).expect("figures");
        let near = ["lag_ms.p99", "wire_overhead"];
        let certain = |b: &&Bound| !settings.quic || !near.contains(&&*b.figure);
        for bound in file.bounds.iter().filter(certain) {
            let found = bound.found(&value);
            assert!(
                bound.holds(&value),
                "{name}, seed {seed}: {bound}, {found:?} seen"
            );
        }
    }
}

#[test]
fn one_viewer() {
    holds("01-one");
}

#[test]
fn two_viewers() {
    holds("02-two");
}

#[test]
fn five_viewers() {
    holds("03-five");
}

#[test]
fn a_hundred_who_come_and_go() {
    holds("05-hundred");
}

// It takes long: the machine's cores share it.
#[test]
fn three_hundred() {
    holds_by("06-three-hundred", 1..=1);
}

#[test]
fn three_hundred_by_other_chance() {
    holds_by("06-three-hundred", 2..=2);
}

#[test]
fn three_hundred_by_all_other_chance() {
    holds_by("06-three-hundred", 3..=read("06-three-hundred").seeds);
}

#[test]
fn a_seed_that_carries_little() {
    holds("07-narrow-seed");
}

#[test]
fn a_crowd_at_a_seed_that_carries_hardly_more_than_one_copy() {
    holds("14-narrower-seed");
}

#[test]
fn a_fifth_that_vanishes() {
    holds("08-silent");
}

#[test]
fn more_than_the_grid_can_feed() {
    holds("10-overload");
}

#[test]
fn some_who_reach_nobody_but_the_seed() {
    holds("11-nat");
}

#[test]
fn a_film() {
    holds("09-film");
}

#[test]
fn thirty_over_the_model_of_the_network() {
    for name in ["80-thirty", "81-thirty-film-loss", "82-thirty-silent"] {
        holds(name);
    }
}

#[test]
fn thirty_over_quic() {
    holds_over_quic("80-thirty");
}

#[test]
fn a_film_over_quic_that_loses_packets() {
    holds_over_quic("81-thirty-film-loss");
}

#[test]
fn a_fifth_that_vanishes_over_quic() {
    holds_over_quic("82-thirty-silent");
}

#[test]
fn some_that_stand_still_over_quic() {
    holds_over_quic("84-thirty-stall");
}

#[test]
fn who_finds_out_what_their_lines_carry() {
    holds("12-measured");
}

#[test]
fn two_roots_cost_two_copies() {
    holds("13-two-roots");
}

#[test]
fn a_tenth_that_misbehaves() {
    holds("15-liars");
}
