//! Viewers behind NATs find a way to each other, over real QUIC in virtual time.

use std::time::Duration;

use icd_grid::Bitrate;
use icd_sim::nat::{Filter, Kind, Mapping};
use icd_sim::network::Nat;
use icd_sim::{Link, Newcomer, Quic, Scenario, Stage};

/// One way, between any two.
const DELAY: Duration = Duration::from_millis(40);

/// Anybody may send to it, once it has sent anything.
const FULL_CONE: Kind = Kind {
    filter: Filter::Any,
    ..Kind::HOME
};
/// As a home's, at a carrier that shifts ports.
const SHIFTING: Kind = Kind {
    keeps_ports: false,
    ..Kind::HOME
};
const KINDS: [(&str, Option<Kind>); 6] = [
    ("none", None),
    ("full cone", Some(FULL_CONE)),
    ("carrier", Some(Kind::CARRIER)),
    ("home", Some(Kind::HOME)),
    ("shifting", Some(SHIFTING)),
    ("symmetric", Some(Kind::SYMMETRIC)),
];

fn world(seed: u64) -> Quic {
    Quic::new(Scenario {
        seed,
        seed_upload: Some(Bitrate(10_000_000)),
        link: Link {
            least: DELAY,
            most: DELAY,
            loss: 0.0,
        },
        ..Default::default()
    })
    .expect("a runtime")
}

fn newcomer() -> Newcomer {
    Newcomer {
        line: Some(Bitrate(10_000_000)),
        upload: Bitrate(9_000_000),
        measure: false,
        relay: true,
        nat: Nat::Open,
        seed_only: false,
    }
}

/// Whether two ends find a way by RFC 4787: one of them is known to the other as it will look, or lets in what
/// comes from another port of a known address.
fn should_meet(one: Option<Kind>, two: Option<Kind>) -> bool {
    let dependent = |kind: Option<Kind>| kind.is_some_and(|k| k.mapping == Mapping::Dependent);
    let by_port = |kind: Option<Kind>| kind.is_some_and(|k| k.filter == Filter::Port);
    let bars = |looks: Option<Kind>, lets: Option<Kind>| dependent(looks) && by_port(lets);
    !bars(one, two) && !bars(two, one)
}

#[test]
fn those_that_can_reach_each_other_do_and_soon() {
    for (one, first) in KINDS {
        for (two, second) in KINDS {
            let mut world = world(1);
            for kind in [first, second] {
                let home = kind.map(|kind| world.home(kind));
                world.join_in(newcomer(), home);
                world.run(Duration::from_secs(2));
            }
            world.run(Duration::from_secs(4));
            let what = format!("{one} and {two}");
            let met = world.viewers().iter().all(|v| v.stats.peers.len() == 2);
            assert_eq!(met, should_meet(first, second), "{what}");
            let counts = world.counts();
            if met {
                // Three round trips and a tenth of a second; of two that try, one stays.
                let took = counts.meet.quantile(1.0);
                assert!(
                    took <= 6 * DELAY.as_millis() as u32 + 100,
                    "{what}: {took} ms"
                );
                assert_eq!(counts.unmet, 0, "{what}");
                let from_peers = world.viewers()[1].stats.bytes_from_peers;
                assert!(from_peers > 500_000, "{what}: {from_peers}");
            } else {
                // Tried once by each, and then left alone.
                assert!((1..=2).contains(&counts.unmet), "{what}: {}", counts.unmet);
            }
            // All play whatever comes.
            for viewer in world.viewers() {
                assert!(viewer.played > 150, "{what}: {}", viewer.played);
                assert_eq!(
                    (viewer.stats.lost, viewer.discontinuities),
                    (0, 0),
                    "{what}"
                );
            }
        }
    }
}

#[test]
fn two_in_one_home_meet_within_it_whether_the_nat_takes_hairpins_or_not() {
    for hairpin in [false, true] {
        let kind = Kind {
            hairpin,
            ..Kind::HOME
        };
        let mut world = world(1);
        let home = world.home(kind);
        for _ in 0..2 {
            world.join_in(newcomer(), Some(home));
            world.run(Duration::from_secs(2));
        }
        world.run(Duration::from_secs(4));
        for viewer in world.viewers() {
            let mut peers = viewer.stats.peers.iter().filter(|p| !p.seed);
            let peer = peers.next().expect("the other");
            let inside = peer.addr.to_string().starts_with("192.168.1.");
            assert!(inside, "hairpin {hairpin}: by {}", peer.addr);
        }
    }
}

#[test]
fn a_nat_that_forgets_all_is_not_seen() {
    let mut world = world(1);
    let homes: Vec<_> = (0..3).map(|_| world.home(Kind::HOME)).collect();
    for home in &homes {
        world.join_in(newcomer(), Some(*home));
        world.run(Duration::from_secs(2));
    }
    world.run(Duration::from_secs(5));
    world.forget(homes[1]);
    world.run(Duration::from_secs(25));
    for viewer in world.viewers() {
        assert_eq!((viewer.stats.lost, viewer.discontinuities), (0, 0));
        let neighbours = viewer.stats.peers.iter().filter(|p| !p.seed).count();
        assert_eq!(neighbours, 2, "all have found each other again");
    }
}
