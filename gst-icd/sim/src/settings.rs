//! Everything that can be set about a run, as flags; scenario files hold the same flags.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;

use crate::lies::Lie;
use crate::traffic::Stream;

/// Drives real grid nodes in virtual time and says how they fared.
#[derive(Debug, Clone, Parser)]
#[command(name = "icd sim", version, args_override_self = true)]
pub struct Settings {
    /// A scenario by name, or the path of a file with flags; flags beside it win
    pub scenario: Option<PathBuf>,
    /// Viewers at the start
    #[arg(long, default_value_t = 1000)]
    pub n: usize,
    /// Share of all uplinks that relay, in wire bytes, that serving everybody takes; scales the mix
    #[arg(long)]
    pub load: Option<f64>,
    /// Payload of the stream, in bits per second
    #[arg(long, default_value_t = 2_500_000)]
    pub rate: u64,
    /// Play-out delay, in milliseconds
    #[arg(long, default_value_t = 2000)]
    pub delay_ms: u64,
    /// Mean time that a viewer stays, in seconds, when another takes its place (0 = for ever)
    #[arg(long, default_value_t = 300.0)]
    pub session_s: f64,
    /// Share of the leavers that vanish silently
    #[arg(long, default_value_t = 0.3)]
    pub silent: f64,
    /// Uplinks in copies of the stream, and the share of viewers that have them
    #[arg(long, default_value = "0:0.30,0.5:0.20,1:0.30,3:0.15,10:0.05")]
    pub mix: Mix,
    /// Whether viewers are told what their lines carry, or find out: known, measured
    #[arg(long, value_enum, default_value_t = Uplinks::Known)]
    pub uplink: Uplinks,
    /// The seed's uplink, in copies of the stream
    #[arg(long, default_value_t = 10.0)]
    pub seed_upload: f64,
    /// Measured time, in seconds
    #[arg(long, default_value_t = 60)]
    pub duration_s: u64,
    /// Time in which the first viewers come, in seconds
    #[arg(long, default_value_t = 10.0)]
    pub arrive_s: f64,
    /// Time after that which is not measured, in seconds
    #[arg(long, default_value_t = 20)]
    pub settle_s: u64,
    /// Share of the viewers that vanish silently at once
    #[arg(long, default_value_t = 0.0)]
    pub fail: f64,
    /// When, in seconds of measured time
    #[arg(long, default_value_t = 30)]
    pub fail_at_s: u64,
    /// Share of the viewers that leave at once, and say so
    #[arg(long, default_value_t = 0.0)]
    pub leave_at_once: f64,
    /// Share of the viewers that freeze at once
    #[arg(long, default_value_t = 0.0)]
    pub freeze: f64,
    /// Share of the viewers that freeze at once and come back after three seconds
    #[arg(long, default_value_t = 0.0)]
    pub stall: f64,
    /// The mix of those that join later, if it is another
    #[arg(long)]
    pub join_mix: Option<Mix>,

    /// Viewers that join later
    #[arg(long, default_value_t = 0)]
    pub join: usize,
    /// When, in seconds of measured time
    #[arg(long, default_value_t = 30)]
    pub join_at_s: u64,
    /// In so many seconds
    #[arg(long, default_value_t = 10.0)]
    pub join_over_s: f64,
    /// Share of the viewers with an uplink that relay nothing
    #[arg(long, default_value_t = 0.0)]
    pub freeride: f64,
    /// How viewers are reached, and the share of each kind: open, cone, symmetric, tcp-only
    #[arg(long, default_value = "open:1")]
    pub nat: Shares,
    /// Downlink of each viewer, in copies of the stream (0 = unlimited)
    #[arg(long, default_value_t = 0.0)]
    pub downlink: f64,
    /// Share of packets that are lost
    #[arg(long, default_value_t = 0.0)]
    pub loss: f64,
    /// Round trips between viewers, least and most, in milliseconds
    #[arg(long, default_value = "10:150")]
    pub rtt_ms: Range,
    /// Misbehaving viewers and the share of each kind: forge, alter, truncate, extend, stream, epoch, replay,
    /// reorder, boast, swallow, betray, late, tenth, advertise, greedy, invent, squat, stubborn,
    /// eclipse, vouch
    #[arg(long, default_value = "forge:0")]
    pub liars: Liars,
    /// constant, film, peaks or audio
    #[arg(long, default_value = "constant")]
    pub stream: Stream,
    /// Real QUIC over sockets in memory instead of the model of the network: for some fifty viewers
    #[arg(long, conflicts_with = "liars")]
    pub quic: bool,
    /// Real Ed25519 signatures
    #[arg(long)]
    pub real_signatures: bool,
    /// The strong do not take the places of the weak
    #[arg(long)]
    pub no_insertion: bool,
    /// Pushes that waited for too long are sent all the same
    #[arg(long)]
    pub no_expiry: bool,
    /// Viewers that the seed feeds each stripe
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub root_slots: u8,
    /// Stripes (0 = by the stream's rate)
    #[arg(long, default_value_t = 0)]
    pub k: u8,
    /// How much of the stream a piece holds, in milliseconds (0 = by the stream's rate)
    #[arg(long, default_value_t = 0)]
    pub piece_ms: u64,
    /// For all chance
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Run all scenarios of the project, or those whose names begin as the one that is given, and
    /// print what each must show and showed
    #[arg(long)]
    pub all: bool,
    /// With --all: seeds of chance for each (0 = as many as it says)
    #[arg(long, default_value_t = 0)]
    pub seeds: u64,
    /// Draw lag, seed upload and a tree into this folder, as SVG
    #[arg(long)]
    pub pictures: Option<PathBuf>,
    /// Only JSON on standard output
    #[arg(long)]
    pub json: bool,
}

/// What viewers know of their lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Uplinks {
    /// All.
    Known,
    /// Nothing: they find out.
    Measured,
}

/// Values and the share of each.
#[derive(Debug, Clone, PartialEq)]
pub struct Mix(pub Vec<(f64, f64)>);

/// Names and the share of each.
#[derive(Debug, Clone, PartialEq)]
pub struct Shares(pub Vec<(String, f64)>);

/// Kinds of liars and the share of each.
#[derive(Debug, Clone, PartialEq)]
pub struct Liars(pub Vec<(Lie, f64)>);

/// From and to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range(pub f64, pub f64);

fn pair(text: &str) -> Result<(&str, f64), String> {
    let wrong = || format!("{text:?}: NAME:SHARE is expected");
    let (name, share) = text.split_once(':').ok_or_else(wrong)?;
    let share = share.parse().map_err(|_| wrong())?;
    if !(0.0..=1.0).contains(&share) {
        return Err(format!("{text:?}: a share lies between 0 and 1"));
    }
    Ok((name, share))
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut mix = Vec::new();
        for part in text.split(',') {
            let (copies, share) = pair(part)?;
            let copies = copies
                .parse::<f64>()
                .ok()
                .filter(|c| *c >= 0.0 && c.is_finite());
            mix.push((
                copies.ok_or(format!("{part:?}: copies of the stream are expected"))?,
                share,
            ));
        }
        let sum: f64 = mix.iter().map(|(_, share)| share).sum();
        if (sum - 1.0).abs() > 0.001 {
            return Err(format!("the shares make {sum}, not 1"));
        }
        Ok(Self(mix))
    }
}

impl FromStr for Shares {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pairs = text.split(',').map(pair).collect::<Result<Vec<_>, _>>()?;
        let own = |(name, share): (&str, f64)| (name.to_string(), share);
        Ok(Self(pairs.into_iter().map(own).collect()))
    }
}

impl FromStr for Liars {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pairs = text.split(',').map(pair).collect::<Result<Vec<_>, _>>()?;
        let sum: f64 = pairs.iter().map(|(_, share)| share).sum();
        if sum > 1.0 {
            return Err(format!("the shares make {sum}, more than 1"));
        }
        let known = |(name, share): (&str, f64)| Ok((name.parse()?, share));
        pairs
            .into_iter()
            .map(known)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl Shares {
    /// The share of a name.
    pub fn of(&self, name: &str) -> f64 {
        let of_name = self.0.iter().filter(|(n, _)| n == name);
        of_name.map(|(_, share)| share).sum()
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<f64>().ok().filter(|n| *n >= 0.0);
        let ends = text.split_once(':');
        let ends = ends.and_then(|(a, b)| Some((number(a)?, number(b)?)));
        let (least, most) = ends.ok_or("LEAST:MOST is expected")?;
        if least > most {
            return Err(format!("{least} is more than {most}"));
        }
        Ok(Self(least, most))
    }
}

impl Liars {
    /// The share of all kinds together.
    pub fn all(&self) -> f64 {
        self.0.iter().map(|(_, share)| share).sum()
    }
}

impl Settings {
    /// The share of the viewers with an uplink that relay with it, as they should.
    pub fn relaying(&self) -> f64 {
        (1.0 - self.freeride) * (1.0 - self.liars.all())
    }

    /// The mean uplink of the mix, in copies of the stream.
    pub fn mean_upload(&self) -> f64 {
        self.mix
            .0
            .iter()
            .map(|(copies, share)| copies * share)
            .sum()
    }
}
