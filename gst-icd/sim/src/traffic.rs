//! What the broadcaster sends: frames of some sizes at some times.

use std::str::FromStr;
use std::time::{Duration, Instant};

use icd_grid::{Bitrate, Entry, Input, MediaState};

/// A kind of stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stream {
    /// Frames of equal size; each fiftieth is a key frame all the same.
    Constant,
    /// The sizes of a real film's frames, scaled to the rate.
    Film,
    /// Key frames of eight times the mean, every two seconds.
    #[default]
    Peaks,
    /// Frames of sound, each of which is a join point.
    Audio,
}

impl FromStr for Stream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "constant" => Ok(Self::Constant),
            "film" => Ok(Self::Film),
            "peaks" => Ok(Self::Peaks),
            "audio" => Ok(Self::Audio),
            _ => Err("constant, film, peaks or audio is expected".into()),
        }
    }
}

const FRAME: Duration = Duration::from_millis(40);
/// AAC: 1,024 samples at 48 kHz.
const SOUND: Duration = Duration::from_micros(21_333);
/// Frames from one join point to the next, in half a second and a little more.
const SOUND_JOINS: u64 = 24;
const GOP: u64 = 50;
const PEAK: f64 = 8.0;
/// Sizes in bytes of frames in their order; a `k` marks key frames. See the file's head.
const FILM: &str = include_str!("film.txt");

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Its size.
    pub bytes: usize,
    /// A decoder can start at it.
    pub join: bool,
}

/// Frame after frame.
#[derive(Debug)]
pub struct Traffic {
    stream: Stream,
    /// Bytes in a frame's time, in the mean.
    mean: f64,
    film: Vec<(f64, bool)>,
    next: u64,
}

impl Traffic {
    /// A stream of this mean rate.
    pub fn new(stream: Stream, rate: Bitrate) -> Self {
        let mut film: Vec<_> = FILM
            .lines()
            .filter(|line| !line.starts_with('#'))
            .flat_map(str::split_whitespace)
            .filter_map(|word| {
                let key = word.strip_prefix('k');
                let size: f64 = key.unwrap_or(word).parse().ok()?;
                Some((size, key.is_some()))
            })
            .collect();
        let sum: f64 = film.iter().map(|(size, _)| size).sum();
        let mean = sum / film.len().max(1) as f64;
        film.iter_mut().for_each(|(size, _)| *size /= mean);
        let mut traffic = Self {
            stream,
            mean: 0.0,
            film,
            next: 0,
        };
        traffic.mean = rate.bytes_per_second() * traffic.interval().as_secs_f64();
        traffic
    }

    /// From one frame to the next.
    pub fn interval(&self) -> Duration {
        match self.stream {
            Stream::Audio => SOUND,
            _ => FRAME,
        }
    }

    /// The next frame, as it enters the seed then.
    pub fn item(&mut self, at: Instant, state: Option<MediaState>) -> Input {
        let fill = self.next as u8;
        let frame = self.frame();
        Input::Item {
            data: vec![fill; frame.bytes].into(),
            entry: if frame.join { Entry::Join } else { Entry::None },
            at,
            state,
        }
    }

    /// The next frame.
    pub fn frame(&mut self) -> Frame {
        let n = self.next;
        self.next += 1;
        let key = n.is_multiple_of(GOP);
        let (share, join) = match self.stream {
            Stream::Constant => (1.0, key),
            // Every frame is one, and the sink takes those that are far enough apart.
            Stream::Audio => (1.0, n.is_multiple_of(SOUND_JOINS)),
            Stream::Peaks => {
                let delta = GOP as f64 / (GOP as f64 + PEAK - 1.0);
                (if key { delta * PEAK } else { delta }, key)
            }
            Stream::Film => self.film[n as usize % self.film.len()],
        };
        Frame {
            bytes: (self.mean * share) as usize,
            join,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_the_rate_that_it_is_told() {
        for stream in [Stream::Constant, Stream::Film, Stream::Peaks, Stream::Audio] {
            let mut traffic = Traffic::new(stream, Bitrate(1_000_000));
            let frames = (60.0 / traffic.interval().as_secs_f64()) as usize;
            let bytes: usize = (0..frames).map(|_| traffic.frame().bytes).sum();
            let rate = bytes as f64 * 8.0 / 60.0;
            assert!(
                (950_000.0..1_050_000.0).contains(&rate),
                "{stream:?}: {rate}"
            );
        }
    }

    #[test]
    fn a_film_has_key_frames_of_five_to_twenty_times_the_mean() {
        let mut traffic = Traffic::new(Stream::Film, Bitrate(1_000_000));
        let frames: Vec<_> = (0..traffic.film.len()).map(|_| traffic.frame()).collect();
        let keys: Vec<_> = frames.iter().filter(|f| f.join).collect();
        let mean = keys.iter().map(|f| f.bytes).sum::<usize>() / keys.len();
        assert!((5..=20).contains(&(mean / 5000)), "{mean}");
    }
}
