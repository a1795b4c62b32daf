//! The whole grid in virtual time: what the first form of the algorithm must hold.

use std::time::Duration;

use icd_grid::{Bitrate, Status};
use icd_sim::lies::Lie;
use icd_sim::network::Nat;
use icd_sim::{Link, Newcomer, Scenario, Stage, Viewer, World};

const RATE: u64 = 4_000_000;

fn scenario(seed: u64, seed_share: Option<f64>) -> Scenario {
    Scenario {
        seed,
        rate: Bitrate(RATE),
        latency: Duration::from_secs(2),
        seed_upload: seed_share.map(|x| Bitrate((RATE as f64 * x) as u64)),
        link: Link {
            least: Duration::from_millis(2),
            most: Duration::from_millis(30),
            loss: 0.0,
        },
        ..Scenario::default()
    }
}

fn share(x: f64) -> Bitrate {
    Bitrate((RATE as f64 * x) as u64)
}

fn seed_x(world: &World, before: u64, over: Duration) -> f64 {
    let sent = world.seed().bytes_sent - before;
    sent as f64 * 8.0 / over.as_secs_f64() / RATE as f64
}

fn report(world: &World) {
    for (n, v) in world.viewers().into_iter().enumerate() {
        println!(
            "{n}: down {} played {} lost {} disc {} lag {:?}/{:?} seed {} peers {} sent {} dup {} rescued {} failovers {} slots {}/{} start {:?}",
            v.down,
            v.played,
            v.stats.lost,
            v.discontinuities,
            v.stats.lag.quantile(0.5),
            v.stats.lag.quantile(0.99),
            v.stats.bytes_from_seed / 1000,
            v.stats.bytes_from_peers / 1000,
            v.stats.bytes_sent / 1000,
            v.stats.duplicates,
            v.stats.rescued,
            v.stats.failovers,
            v.stats.slots_used,
            v.stats.slots,
            v.start
        );
    }
}

/// Viewers that are there and played nothing, lost pieces or stumbled.
fn losers(world: &World) -> Vec<usize> {
    let loses = |v: &Viewer| v.played == 0 || v.stats.lost > 0 || v.discontinuities > 0;
    let viewers = world.viewers().into_iter().enumerate();
    let losers = viewers.filter(|(_, v)| !v.down && loses(v));
    losers.map(|(n, _)| n).collect()
}

fn nobody_lost(world: &World) {
    let losers = losers(world);
    assert!(losers.is_empty(), "{losers:?} lost pieces or stumbled");
}

#[test]
fn the_seed_sends_little_more_than_one_copy_to_twelve() {
    let mut world = World::new(scenario(1, None));
    world.run(Duration::from_secs(3));
    for _ in 0..12 {
        world.join(share(1.5), true);
        world.run(Duration::from_millis(200));
    }
    world.run(Duration::from_secs(10));
    let before = world.seed().bytes_sent;
    world.run(Duration::from_secs(20));
    report(&world);
    nobody_lost(&world);
    let x = seed_x(&world, before, Duration::from_secs(20));
    assert!(x < 1.2, "the seed sent {x} times the stream");
}

/// Round trips of 50 to 150 ms, one in a hundred packets lost.
fn far(mut scenario: Scenario) -> Scenario {
    scenario.link = Link {
        least: Duration::from_millis(25),
        most: Duration::from_millis(75),
        loss: 0.01,
    };
    scenario
}

/// Uplinks of twelve, in copies of the stream.
const EQUAL: [f64; 12] = [1.5; 12];
const MIXED: [f64; 12] = [3.0, 1.0, 1.5, 0.5, 2.0, 0.75, 2.5, 1.0, 0.5, 1.5, 2.0, 1.25];

/// Who is killed, or freezes, two at a time.
#[derive(Debug, Clone, Copy)]
enum Whom {
    /// These, by the order in which they came.
    These([usize; 2]),
    /// Of those that are there, the two that pass on most after so many others.
    BusiestAfter(usize),
}

impl Whom {
    fn hosts(self, world: &World) -> [usize; 2] {
        match self {
            Self::These(viewers) => viewers.map(|n| n + 1),
            Self::BusiestAfter(others) => {
                let viewers = world
                    .viewers()
                    .into_iter()
                    .enumerate()
                    .filter(|(_, v)| !v.down);
                let mut sent: Vec<_> = viewers.map(|(n, v)| (v.stats.bytes_sent, n + 1)).collect();
                sent.sort_unstable_by(|a, b| b.cmp(a));
                assert!(sent[others + 1].0 > 0, "they relay");
                [sent[others].1, sent[others + 1].1]
            }
        }
    }
}

/// Uplinks, who is killed, who freezes then.
type Case = ([f64; 12], Whom, Whom);
const CASES: [Case; 3] = [
    (EQUAL, Whom::BusiestAfter(0), Whom::BusiestAfter(0)),
    // The strongest and a weak one, then two weak ones.
    (MIXED, Whom::These([0, 5]), Whom::These([3, 8])),
    (MIXED, Whom::BusiestAfter(2), Whom::BusiestAfter(2)),
];

/// Twelve viewers come to a seed that carries two and a half copies, two are killed, two freeze.
fn trouble(scenario: Scenario, (uplinks, killed, frozen): Case) -> World {
    println!("seed {}", scenario.seed);
    let mut world = World::new(scenario);
    world.run(Duration::from_secs(3));
    for uplink in uplinks {
        world.join(share(uplink), true);
        world.run(Duration::from_millis(750));
    }
    world.run(Duration::from_secs(10));
    for host in killed.hosts(&world) {
        world.kill(host);
    }
    world.run(Duration::from_secs(10));
    for host in frozen.hosts(&world) {
        world.freeze(host, true);
    }
    world.run(Duration::from_secs(10));
    report(&world);
    world
}

#[test]
fn joins_kills_and_freezes_are_not_seen_by_the_others() {
    for seed in 1..=20 {
        for case in CASES {
            nobody_lost(&trouble(scenario(seed, Some(2.5)), case));
        }
    }
}

#[test]
fn far_apart_and_with_loss_they_are_not_seen_either() {
    // ICD_RUNS=600 looks at more.
    let runs = std::env::var("ICD_RUNS").map_or(40, |n| n.parse().expect("a number"));
    let bad = CASES.map(|case| {
        let bad = |seed: &u64| !losers(&trouble(far(scenario(*seed, Some(2.5))), case)).is_empty();
        (1..=runs).filter(bad).collect::<Vec<_>>()
    });
    assert!(
        bad.iter().all(Vec::is_empty),
        "of {runs} runs of each case these lose pieces: {bad:?}"
    );
}

#[test]
fn who_stood_still_for_longer_than_its_buffer_lasts_says_what_it_passed_over() {
    let mut world = World::new(scenario(1, None));
    world.run(Duration::from_secs(3));
    let host = world.join(share(1.0), true);
    world.join(share(1.0), true);
    world.run(Duration::from_secs(10));
    assert_eq!(world.counts().skipped, 0);
    world.freeze(host, true);
    world.run(Duration::from_secs(4));
    world.freeze(host, false);
    world.run(Duration::from_secs(5));
    let lost: Vec<_> = world.viewers().iter().map(|v| v.stats.lost).collect();
    assert!(lost[0] > 50 && lost[1] == 0, "{lost:?}");
    assert_eq!(world.counts().skipped, lost[0]);
}

#[test]
fn viewers_that_relay_nothing_live_from_the_seed() {
    let mut world = World::new(scenario(1, None));
    world.run(Duration::from_secs(3));
    for _ in 0..4 {
        world.join(share(0.0), false);
    }
    world.run(Duration::from_secs(10));
    nobody_lost(&world);
}

#[test]
fn the_end_reaches_everybody() {
    let mut world = World::new(scenario(1, None));
    world.run(Duration::from_secs(3));
    for _ in 0..6 {
        world.join(share(1.5), true);
    }
    world.run(Duration::from_secs(5));
    world.end();
    world.run(Duration::from_secs(3));
    assert_eq!(world.ended(), 6);
    nobody_lost(&world);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut world = World::new(scenario(7, Some(3.0)));
        for _ in 0..8 {
            world.join(share(1.5), true);
            world.run(Duration::from_millis(500));
        }
        world.run(Duration::from_secs(5));
        let bytes: Vec<_> = world
            .viewers()
            .into_iter()
            .map(|v| v.stats.bytes_from_peers)
            .collect();
        (world.seed().bytes_sent, bytes)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_viewer_that_changes_pieces_is_dropped_and_nobody_plays_or_passes_on_what_it_sent() {
    let mut world = World::new(scenario(3, None));
    world.run(Duration::from_secs(3));
    let hosts: Vec<_> = (0..10)
        .map(|_| {
            let host = world.join(share(1.5), true);
            world.run(Duration::from_millis(500));
            host
        })
        .collect();
    world.run(Duration::from_secs(10));
    let liar = *hosts
        .iter()
        .max_by_key(|h| {
            world
                .viewers()
                .into_iter()
                .nth(**h - 1)
                .map(|v| v.stats.slots_used)
        })
        .expect("somebody");
    assert!(world.faults().is_empty());
    world.lie(liar, Lie::Forge);
    world.run(Duration::from_secs(15));
    report(&world);
    nobody_lost(&world);
    let faults = world.faults();
    assert!(!faults.is_empty(), "nobody noticed");
    for (by, whom) in &faults {
        assert_eq!(*whom, Some(liar), "{by} blames another than the liar");
    }
    // Dropped and remembered: each that was lied to was so once.
    let mut by: Vec<_> = faults.iter().map(|(by, _)| *by).collect();
    by.sort_unstable();
    let before = by.len();
    by.dedup();
    assert_eq!(by.len(), before, "a liar was believed again");
}

#[test]
fn a_broadcaster_whose_tags_change_with_every_buffer_loses_nothing() {
    let mut world = World::new(scenario(4, None));
    for n in 0..500 {
        if n > 50 && n % 100 == 0 {
            world.join(share(1.5), true);
        }
        world.change();
        world.run(Duration::from_millis(40));
    }
    report(&world);
    nobody_lost(&world);
}

/// Before the rate is known, the format is not, and no header can be signed.
#[test]
fn what_changes_in_the_first_moments_delays_nobody() {
    let mut world = World::new(scenario(6, None));
    world.join(share(1.5), true);
    for _ in 0..5 {
        world.run(Duration::from_millis(40));
        world.change();
    }
    world.run(Duration::from_secs(1));
    world.join(share(1.5), true);
    world.run(Duration::from_secs(5));
    report(&world);
    nobody_lost(&world);
    // The second is given the first moments, too: nothing older is due.
    let starts: Vec<_> = world.viewers().into_iter().map(|v| v.start).collect();
    assert!(
        starts.iter().all(|s| *s < Some(Duration::from_millis(700))),
        "{starts:?}"
    );
}

#[test]
fn who_does_not_relay_sends_no_piece() {
    let mut world = World::new(scenario(5, Some(3.0)));
    world.run(Duration::from_secs(1));
    let mute = world.join(share(3.0), false);
    for _ in 0..6 {
        world.join(share(2.0), true);
        world.run(Duration::from_millis(700));
    }
    let victim = world.join(share(2.0), true);
    world.run(Duration::from_secs(3));
    world.kill(victim);
    world.run(Duration::from_secs(5));
    let mute = world
        .viewers()
        .into_iter()
        .nth(mute - 1)
        .expect("it joined");
    assert!(mute.played > 0);
    assert_eq!(mute.stats.bytes_sent, 0);
}

/// Eight whose lines carry two copies each, at a seed that carries two and a half; and the first of them.
fn eight_of_two_copies(seed: u64) -> (World, usize) {
    let mut world = World::new(scenario(seed, Some(2.5)));
    world.run(Duration::from_secs(3));
    let hosts = [(); 8].map(|()| {
        let host = world.join(share(2.0), true);
        world.run(Duration::from_secs(1));
        host
    });
    world.run(Duration::from_secs(5));
    (world, hosts[0])
}

/// Bytes of pieces that the first viewer has sent.
fn sent(world: &World) -> u64 {
    world.viewers()[0].stats.bytes_sent
}

#[test]
fn a_viewer_that_is_told_to_send_less_does_and_nobody_sees_it() {
    for seed in 0..3 {
        let (mut world, first) = eight_of_two_copies(seed);
        world.cap(first, share(0.25));
        world.run(Duration::from_secs(2));
        let before = sent(&world);
        world.run(Duration::from_secs(10));
        report(&world);
        nobody_lost(&world);
        let x = (sent(&world) - before) as f64 * 8.0 / 10.0 / RATE as f64;
        assert!(x < 0.26, "it sent {x} copies");
    }
}

#[test]
fn a_viewer_that_has_sent_all_that_it_may_goes_on_alone_and_nobody_sees_it() {
    for seed in 0..3 {
        let (mut world, first) = eight_of_two_copies(seed);
        // What it sends in a second more at its cap, and while its children look for others.
        let (second, most) = (share(2.0).0 / 8, sent(&world) + share(1.0).0 / 8);
        world.allow(first, most);
        world.run(Duration::from_secs(15));
        report(&world);
        nobody_lost(&world);
        let beyond = sent(&world).saturating_sub(most);
        assert!(
            sent(&world) >= most && beyond <= 2 * second,
            "{beyond} beyond"
        );
        assert_eq!(world.viewers()[0].stats.slots, 0);
        // It may send more, and does.
        world.allow(first, u64::MAX);
        world.run(Duration::from_secs(2));
        assert!(world.viewers()[0].stats.slots > 0);
    }
}

#[test]
fn who_is_told_nothing_of_its_line_guesses_what_it_carries() {
    for copies in [0.5, 2.0, 6.0] {
        let mut world = World::new(scenario(8, None));
        world.run(Duration::from_secs(3));
        let host = world.join_as(Newcomer {
            line: Some(share(copies)),
            upload: Bitrate(u64::MAX),
            measure: true,
            relay: true,
            nat: Nat::Open,
            seed_only: false,
        });
        world.run(Duration::from_secs(4));
        let viewers = world.viewers();
        let stats = &viewers[host - 1].stats;
        let found = stats.slots as f64 / f64::from(stats.stripes);
        let share = found / copies;
        assert!((0.4..1.1).contains(&share), "{copies}: {found}");
    }
}

#[test]
fn lines_of_all_kinds_carry_a_grid_that_was_told_nothing() {
    let mut world = World::new(scenario(9, Some(4.0)));
    world.run(Duration::from_secs(3));
    for (n, copies) in MIXED.into_iter().enumerate() {
        world.join_as(Newcomer {
            line: Some(share(copies.max(0.7) * 1.2)),
            upload: Bitrate(u64::MAX),
            measure: true,
            relay: n != 3,
            nat: Nat::Open,
            seed_only: false,
        });
        world.run(Duration::from_secs(1));
    }
    world.run(Duration::from_secs(20));
    report(&world);
    nobody_lost(&world);
}

/// Whoever is excluded gets nothing from anybody within five seconds, however stubborn it is, and those
/// that it fed miss nothing.
#[test]
fn who_is_excluded_is_served_by_nobody() {
    for seed in 0..10 {
        let mut world = World::new(scenario(seed, Some(3.0)));
        for n in 0..30 {
            world.join(share([0.0, 1.0, 3.0][n % 3]), true);
            world.run(Duration::from_millis(300));
        }
        world.run(Duration::from_secs(5));
        // Two that feed many, and one that feeds nobody; two of them go on as if nothing was.
        let banned = [3, 13, 30];
        for host in [3, 30] {
            world.lie(host, Lie::Stubborn);
        }
        for host in banned {
            world.ban(host);
        }
        world.run(Duration::from_secs(5));
        let got = |world: &World| {
            let viewers = world.viewers();
            banned.map(|host| {
                let stats = &viewers[host - 1].stats;
                stats.bytes_from_peers + stats.bytes_from_seed
            })
        };
        let before = got(&world);
        assert!(before.iter().all(|bytes| *bytes > 0));
        // Who takes it as it is has parted from everybody, and plays no more.
        let told = |world: &World| {
            let viewer = &world.viewers()[banned[1] - 1];
            assert_eq!(viewer.stats.status, Status::Refused);
            assert!(viewer.stats.peers.is_empty());
            viewer.played
        };
        let played = told(&world);
        // Those that come later know of it, too, and so does everybody that they ask.
        for _ in 0..5 {
            let newcomer = world.join(share(3.0), true);
            world.run(Duration::from_millis(500));
            for other in [newcomer, 1, 2, 6] {
                world.approach(30, other);
            }
        }
        world.run(Duration::from_secs(10));
        assert_eq!(got(&world), before, "seed of chance {seed}");
        assert_eq!(told(&world), played);
        let others = losers(&world).into_iter();
        let others: Vec<_> = others.filter(|n| !banned.contains(&(n + 1))).collect();
        assert!(others.is_empty(), "{seed}: {others:?}");
    }
}
