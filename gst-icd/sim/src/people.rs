//! Who comes and goes: arrivals, sessions, failures, all by one generator.

use std::time::Duration;

use icd_grid::{Bitrate, Policy};

use crate::lies::Lie;
use crate::network::{Link, Nat, overhead};
use crate::quic::Quic;
use crate::settings::{Mix, Settings, Uplinks};
use crate::stage::{Counts, Newcomer, Scenario, Stage};
use crate::world::World;

/// A line that carries a copy down carries at least this much of one up.
const LEAST_LINE: f64 = 0.5;
/// Frozen viewers come back after so long.
const STALL: Duration = Duration::from_secs(3);
/// Departures are looked for this often.
const STEP: Duration = Duration::from_millis(100);
/// What a liar says that its uplink carries, in copies of the stream.
const BOAST: f64 = 10.0;
/// Pieces are 20 ms and not less than this; see the cutter.
const LEAST_PIECE: f64 = 1000.0;

#[derive(Debug, Clone, Copy)]
struct There {
    host: usize,
    /// When it goes.
    until: Duration,
    /// Its uplink, in copies of the stream.
    copies: f64,
}

/// A run of people.
#[derive(Debug)]
pub struct People<'a> {
    settings: &'a Settings,
    world: Box<dyn Stage>,
    rng: fastrand::Rng,
    /// What a copy of the stream takes on the wire, in bits per second.
    copy: f64,
    /// What the mix is multiplied with.
    scale: f64,
    /// Uplinks, in copies of the stream, of those that come next.
    hands: Vec<f64>,
    /// Who is there.
    there: Vec<There>,
    stalled: Vec<(usize, Duration)>,
    /// Who came after the first.
    pub late: Vec<usize>,
    /// Who misbehaves.
    pub liars: Vec<usize>,
    /// Of these: who does so later.
    betrayers: Vec<usize>,
    /// The failure has come.
    struck: bool,
    seed_bytes: Vec<f64>,
    /// What all had done when the measured time began.
    pub before: Counts,
    /// When the measured time begins.
    pub from: Duration,
}

impl<'a> People<'a> {
    /// Nobody is there yet.
    ///
    /// Fails where real QUIC is asked for and its runtime is not to be had.
    pub fn new(settings: &'a Settings) -> std::io::Result<Self> {
        let rate = settings.rate as f64;
        let body = (rate / 8.0 * 0.02).max(LEAST_PIECE);
        let copy = rate * overhead(body, body + 110.0);
        let from =
            Duration::from_secs_f64(settings.arrive_s) + Duration::from_secs(settings.settle_s);
        let bits = |copies: f64| (copies > 0.0).then_some(Bitrate((copies * copy) as u64));
        let half = |ms: f64| Duration::from_secs_f64(ms / 2000.0);
        let scenario = Scenario {
            seed: settings.seed,
            rate: Bitrate(settings.rate),
            stream: settings.stream,
            latency: Duration::from_millis(settings.delay_ms),
            seed_upload: bits(settings.seed_upload),
            link: Link {
                least: half(settings.rtt_ms.0),
                most: half(settings.rtt_ms.1),
                loss: settings.loss,
            },
            downlink: bits(settings.downlink),
            real_signatures: settings.real_signatures,
            policy: Policy {
                insertion: !settings.no_insertion,
                expiry: !settings.no_expiry,
                roots: settings.root_slots,
                stripes: (settings.k > 0).then_some(settings.k),
                piece: (settings.piece_ms > 0).then_some(Duration::from_millis(settings.piece_ms)),
            },
            from,
        };
        // Load: what all take against what all can send.
        let scale = settings.load.map_or(1.0, |load| {
            let viewers = settings.n as f64 / load - settings.seed_upload;
            let mean = settings.mean_upload() * settings.n as f64 * settings.relaying();
            (viewers / mean.max(1e-9)).max(0.0)
        });
        let world: Box<dyn Stage> = match settings.quic {
            true => Box::new(Quic::new(scenario)?),
            false => Box::new(World::new(scenario)),
        };
        Ok(Self {
            settings,
            world,
            rng: fastrand::Rng::with_seed(settings.seed ^ 0x5eed),
            copy,
            scale,
            hands: Vec::new(),
            there: Vec::new(),
            stalled: Vec::new(),
            late: Vec::new(),
            liars: Vec::new(),
            betrayers: Vec::new(),
            struck: false,
            seed_bytes: Vec::new(),
            before: Counts::default(),
            from,
        })
    }

    /// The world as it is now.
    pub fn world(&self) -> &dyn Stage {
        &*self.world
    }

    /// What a copy of the stream takes on the wire, in bits per second.
    pub fn copy(&self) -> f64 {
        self.copy
    }

    /// What the seed had sent at each second.
    pub fn seed_bytes(&self) -> &[f64] {
        &self.seed_bytes
    }

    /// What all uplinks that relay carry together, in bits per second.
    pub fn capacity(&self) -> f64 {
        let s = self.settings;
        let viewers = s.mean_upload() * self.scale * s.n as f64 * s.relaying();
        (viewers + s.seed_upload) * self.copy
    }

    fn draw<T: Copy>(&mut self, shares: &[(T, f64)]) -> Option<T> {
        let mut at = self.rng.f64();
        for (value, share) in shares {
            at -= share;
            if at < 0.0 {
                return Some(*value);
            }
        }
        shares.last().map(|(value, _)| *value)
    }

    /// The uplink of the next one. They are dealt, not diced: of so few viewers as a strong one
    /// counts among, every run would have another load, and none the one that it names.
    fn deal(&mut self) -> f64 {
        if self.hands.is_empty() {
            let mut rest = 0.0;
            for (copies, share) in &self.settings.mix.0 {
                rest += share * self.settings.n as f64;
                let count = rest.round();
                rest -= count;
                self.hands
                    .extend(std::iter::repeat_n(copies * self.scale, count as usize));
            }
            self.rng.shuffle(&mut self.hands);
        }
        self.hands.pop().unwrap_or_default()
    }

    fn come(&mut self) -> usize {
        let copies = self.deal();
        self.come_with(copies)
    }

    fn come_with(&mut self, copies: f64) -> usize {
        let kinds = [
            (Nat::Open, self.settings.nat.of("open")),
            (Nat::Cone, self.settings.nat.of("cone")),
            (Nat::Symmetric, self.settings.nat.of("symmetric")),
            (Nat::TcpOnly, self.settings.nat.of("tcp-only")),
        ];
        let nat = self.draw(&kinds).unwrap_or_default();
        let rides = self.rng.f64() < self.settings.freeride;
        let upload = Bitrate((copies * self.copy) as u64);
        // Acknowledgements and messages of those without an uplink go out all the same.
        let line = Bitrate(upload.0.max((self.copy * LEAST_LINE) as u64));
        let measure = self.settings.uplink == Uplinks::Measured;
        let liars = &self.settings.liars;
        let mut lies = vec![(None, 1.0 - liars.all())];
        lies.extend(liars.0.iter().map(|(lie, share)| (Some(*lie), *share)));
        let lie = self.draw(&lies).flatten();
        let upload = match lie {
            Some(Lie::Boast) => Bitrate((BOAST * self.copy) as u64),
            _ => upload,
        };
        let host = self.world.join_as(Newcomer {
            line: Some(line),
            upload: if measure { Bitrate(u64::MAX) } else { upload },
            measure,
            relay: copies > 0.0 && !rides && nat != Nat::TcpOnly,
            nat,
            // It is the only one that it reaches, or so it says.
            seed_only: nat == Nat::TcpOnly || lie == Some(Lie::Squat),
        });
        if let Some(lie) = lie {
            self.liars.push(host);
            match lie {
                Lie::Betray if self.struck => self.world.lie(host, Lie::Swallow),
                Lie::Betray => self.betrayers.push(host),
                _ => self.world.lie(host, lie),
            }
        }
        let stay = match self.settings.session_s {
            mean if mean > 0.0 => Duration::from_secs_f64(-self.rng.f64().max(1e-12).ln() * mean),
            _ => Duration::MAX,
        };
        let until = self.world.elapsed().saturating_add(stay);
        self.there.push(There {
            host,
            until,
            copies,
        });
        host
    }

    fn go(&mut self, host: usize) {
        if self.rng.f64() < self.settings.silent {
            self.world.kill(host);
        } else {
            self.world.leave(host);
        }
    }

    /// Takes a share of those that are there, at once.
    fn take(&mut self, share: f64) -> Vec<usize> {
        let count = (self.there.len() as f64 * share).round() as usize;
        self.rng.shuffle(&mut self.there);
        let rest = self.there.len() - count;
        self.there
            .split_off(rest)
            .into_iter()
            .map(|there| there.host)
            .collect()
    }

    fn disaster(&mut self) {
        for host in std::mem::take(&mut self.betrayers) {
            self.world.lie(host, Lie::Swallow);
        }
        for host in self.take(self.settings.fail) {
            self.world.kill(host);
        }
        for host in self.take(self.settings.leave_at_once) {
            self.world.leave(host);
        }
        for host in self.take(self.settings.freeze) {
            self.world.freeze(host, true);
        }
        let until = self.world.elapsed() + STALL;
        for host in self.take(self.settings.stall) {
            self.world.freeze(host, true);
            self.stalled.push((host, until));
        }
    }

    /// Runs until the end. `each` is called every second of the run.
    pub fn run(&mut self, mut each: impl FnMut(Duration)) {
        let s = self.settings;
        let end = self.from + Duration::from_secs(s.duration_s);
        let fails = self.from + Duration::from_secs(s.fail_at_s);
        let joins = self.from + Duration::from_secs(s.join_at_s);
        let mut first = 0;
        let mut joined = 0;
        // The stream runs before anybody comes.
        let begin = Duration::from_secs(2).min(self.from / 2);
        while self.world.elapsed() < end {
            let now = self.world.elapsed();
            let wanted = |since: Duration, over: f64, count: usize| {
                let share = now.saturating_sub(since).as_secs_f64() / over.max(0.001);
                (share * count as f64).min(count as f64) as usize
            };
            if now >= begin {
                while first < wanted(begin, s.arrive_s - begin.as_secs_f64(), s.n) {
                    self.come();
                    first += 1;
                }
            }
            while now >= joins && joined < wanted(joins, s.join_over_s, s.join) {
                let host = match &s.join_mix {
                    Some(Mix(mix)) => {
                        let copies = self.draw(mix).unwrap_or_default() * self.scale;
                        self.come_with(copies)
                    }
                    None => self.come(),
                };
                self.late.push(host);
                joined += 1;
            }
            let gone: Vec<_> = self
                .there
                .extract_if(.., |there| there.until <= now)
                .collect();
            for There { host, copies, .. } in gone {
                self.go(host);
                // Another takes its place, with as much to give.
                let host = self.come_with(copies);
                self.late.push(host);
            }
            let back: Vec<_> = self
                .stalled
                .extract_if(.., |(_, until)| *until <= now)
                .collect();
            for (host, _) in back {
                self.world.freeze(host, false);
            }
            if now >= fails && !std::mem::replace(&mut self.struck, now >= fails) {
                self.disaster();
            }
            if now <= self.from {
                self.before = self.world.counts();
            }
            let second = now.as_secs();
            self.world.run(STEP);
            if self.world.elapsed().as_secs() > second {
                self.seed_bytes.push(self.world.seed_sent());
                each(self.world.elapsed());
            }
        }
    }
}
