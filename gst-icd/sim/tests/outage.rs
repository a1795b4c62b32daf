//! Viewers whose own line fails, over real QUIC in virtual time: they blame nobody else for it.

use std::time::Duration;

use icd_grid::Bitrate;
use icd_sim::network::Nat;
use icd_sim::{Link, Newcomer, Quic, Scenario, Stage};

const RATE: u64 = 1_000_000;

/// Eight whose lines carry two copies, at a seed of two and a half.
fn eight(seed: u64) -> Quic {
    let mut world = Quic::new(Scenario {
        seed,
        rate: Bitrate(RATE),
        latency: Duration::from_secs(3),
        seed_upload: Some(Bitrate(RATE * 5 / 2)),
        link: Link {
            least: Duration::from_millis(5),
            most: Duration::from_millis(35),
            loss: 0.002,
        },
        ..Default::default()
    })
    .expect("a runtime");
    world.run(Duration::from_secs(3));
    for _ in 0..8 {
        world.join_as(Newcomer {
            line: Some(Bitrate(RATE * 3)),
            upload: Bitrate(RATE * 2),
            measure: false,
            relay: true,
            nat: Nat::Open,
            seed_only: false,
        });
        world.run(Duration::from_millis(500));
    }
    world.run(Duration::from_secs(8));
    world
}

/// While its line is cut it hears nobody, and all seem to be gone.
#[test]
fn who_is_cut_off_twice_finds_the_others_again() {
    let mut bad = Vec::new();
    for seed in 1..=4 {
        let mut world = eight(seed);
        for (cut, then) in [(9_700, 2_200), (8_300, 6_000)] {
            world.freeze(1, true);
            world.run(Duration::from_millis(cut));
            world.freeze(1, false);
            world.run(Duration::from_millis(then));
        }
        let of = |world: &Quic| world.viewers()[0].stats.clone();
        let before = of(&world);
        world.run(Duration::from_secs(15));
        let after = of(&world);
        let lost = after.lost - before.lost;
        let peers = after.bytes_from_peers - before.bytes_from_peers;
        let seed_s = after.bytes_from_seed - before.bytes_from_seed;
        println!("{seed}: {lost} lost, {peers} bytes from peers, {seed_s} from the seed");
        if lost > 0 || peers < seed_s {
            bad.push(seed);
        }
    }
    assert!(bad.is_empty(), "{bad:?} of 4");
}
