//! Fuzz targets for all that comes off the wire, and for whole nodes.
//!
//! A target takes any bytes and panics if something that must hold does not. `./icd test` gives each its seeds
//! and some thousand changed forms of them; `./icd fuzz` gives them to libFuzzer, which sees by the code that
//! runs what to change next.
#![forbid(unsafe_code)]

mod enemy;
mod grid;
mod messages;
mod wire;

use std::alloc::System;

use cap::Cap;

/// What is allocated is counted, so that a target can say that nothing grows.
#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// Something that takes bytes from strangers.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// As `./icd fuzz` calls it.
    pub name: &'static str,
    /// Panics where something does not hold.
    pub run: fn(&[u8]),
    /// Inputs that get far, from which the others are made.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All there are.
pub const TARGETS: [Target; 8] = [
    Target {
        name: "message",
        run: wire::message,
        seeds: messages::seeds,
    },
    Target {
        name: "words",
        run: messages::survive,
        seeds: choices,
    },
    Target {
        name: "piece",
        run: wire::piece,
        seeds: wire::piece_seeds,
    },
    Target {
        name: "record",
        run: wire::record,
        seeds: wire::record_seeds,
    },
    Target {
        name: "media",
        run: gsticd::fuzzing::media,
        seeds: gsticd::fuzzing::media_seeds,
    },
    Target {
        name: "joins",
        run: gsticd::fuzzing::joins,
        seeds: gsticd::fuzzing::joins_seeds,
    },
    Target {
        name: "uri",
        run: gsticd::fuzzing::uri,
        seeds: gsticd::fuzzing::uri_seeds,
    },
    Target {
        name: "grid",
        run: grid::run,
        seeds: choices,
    },
];

/// The target of that name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// For targets that take bytes for choices, any will do: some long ones.
fn choices() -> Vec<Vec<u8>> {
    let byte = |seed: u64, n: u64| (seed + 1).wrapping_mul(n.wrapping_mul(n) + 0x9e37) >> 3;
    let bytes = |seed| (0..4096).map(|n| byte(seed, n) as u8).collect();
    (0..8).map(bytes).collect()
}
