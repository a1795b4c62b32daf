//! Each target with its seeds, with what once made it fail, and with some thousand changed forms of both.

use std::path::Path;

use icd_fuzz::{TARGETS, Target};

/// Of each seed, in a target that takes this many bytes a second.
const CHANGED: usize = 300;
/// Runs of whole grids.
const GRIDS: usize = 60;

/// Makes another input of one, and of a piece of a second.
fn changed(bytes: &[u8], other: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.usize(1..4) {
        let at = random.usize(0..=bytes.len());
        match random.u8(0..6) {
            0 if at < bytes.len() => bytes[at] = random.u8(..),
            1 if at < bytes.len() => bytes[at] ^= 1 << random.u8(0..8),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, *random.choice(&[0, 1, 0x7f, 0x80, 0xff]).unwrap_or(&0)),
            4 => {
                let from = random.usize(0..=other.len());
                let piece = &other[from..(from + random.usize(0..64)).min(other.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            _ => {
                let to = random.usize(at..=bytes.len()).min(at + 16);
                bytes.drain(at..to);
            }
        }
    }
    bytes
}

/// Inputs that a fuzzer found, in a folder of the target's name.
fn found(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("found")
        .join(target.name);
    let Ok(files) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let read = |file: std::io::Result<std::fs::DirEntry>| std::fs::read(file?.path());
    files
        .map(|file| read(file).expect("a file that can be read"))
        .collect()
}

fn short(name: &str) {
    let target = icd_fuzz::target(name).expect("a target");
    let mut random = fastrand::Rng::with_seed(7);
    let inputs = [(target.seeds)(), found(&target)].concat();
    assert!(!inputs.is_empty());
    for input in &inputs {
        (target.run)(input);
        for _ in 0..CHANGED {
            let other = &inputs[random.usize(0..inputs.len())];
            (target.run)(&changed(input, other, &mut random));
        }
    }
}

#[test]
fn messages() {
    short("message");
}

#[test]
fn messages_of_all_kinds_survive_the_wire() {
    short("words");
}

#[test]
fn pieces() {
    short("piece");
}

#[test]
fn records() {
    short("record");
}

#[test]
fn media() {
    short("media");
}

#[test]
fn join_points() {
    short("joins");
}

#[test]
fn uris() {
    short("uri");
}

/// Choices are random, and as many as a run takes.
#[test]
fn whole_grids() {
    let target = icd_fuzz::target("grid").expect("a target");
    for input in found(&target) {
        (target.run)(&input);
    }
    let runs = std::env::var("ICD_RUNS").map_or(GRIDS, |n| n.parse().expect("a number"));
    for seed in 0..runs {
        let mut random = fastrand::Rng::with_seed(seed as u64);
        let mut choices = vec![0; random.usize(1000..40_000)];
        random.fill(&mut choices);
        println!("seed {seed}");
        (target.run)(&choices);
    }
}

/// A target without a test here, or the other way round, is a mistake.
#[test]
fn all_targets_are_tried() {
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(
        names,
        [
            "message", "words", "piece", "record", "media", "joins", "uri", "grid"
        ]
    );
}
