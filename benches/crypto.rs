//! What it costs to sign and to verify the stream: `./icd bench crypto`.
//!
//! Beside it, in turn with them, SHA-256 over the same bytes. The table goes into `docs/results.md`.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use gst_icd_suite::results;
use icd_grid::cutter::Format;
use icd_grid::piece::{Piece, PieceInfo};
use icd_grid::trust::{Ed25519Signer, Ed25519Verifier, Sign};
use icd_grid::{Epoch, SenderTime, Seq};
use sha2::{Digest, Sha256};

/// Streams, in bits per second.
const STREAMS: [(&str, f64); 4] = [
    ("audio, 128 kbit/s", 128e3),
    ("video, 2.5 Mbit/s", 2.5e6),
    ("video, 4 Mbit/s", 4e6),
    ("video, 20 Mbit/s", 20e6),
];
/// Of each, in turn; the median counts.
const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(60);

/// Seconds that one call takes.
fn time(mut call: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut calls = 0;
    while begin.elapsed() < ROUND {
        call();
        calls += 1;
    }
    begin.elapsed().as_secs_f64() / f64::from(calls)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn row(name: &str, rate: f64) -> String {
    let signer = Ed25519Signer::new(SigningKey::from_bytes(&[1; 32]));
    let verifier = Ed25519Verifier::new(signer.key()).expect("a made key is good");
    let bytes_per_second = rate / 8.0;
    let piece = Format::for_rate(bytes_per_second).piece;
    let size = (bytes_per_second * piece.as_secs_f64()) as usize;
    let payload: Vec<u8> = (0..size).map(|n| (n * 31) as u8).collect();
    let info = PieceInfo {
        epoch: Epoch(1),
        seq: Seq(1),
        time: SenderTime(1),
        header: 1,
        first_item: Some(0),
        join: false,
        end: false,
    };
    let signed = Piece::sign(info, &payload, &signer);
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        times[0].push(time(|| {
            black_box(Piece::sign(info, black_box(&payload), &signer));
        }));
        times[1].push(time(|| {
            let good = Piece::verify(black_box(signed.body().clone()), &verifier);
            assert!(good.is_ok());
        }));
        times[2].push(time(|| {
            black_box(Sha256::digest(black_box(&payload)));
        }));
    }
    let [sign, verify, sha] = times.map(median);
    let per_gb = |time: f64| time / size as f64 * 1e9;
    let of_core = |time: f64| time / piece.as_secs_f64() * 100.0;
    format!(
        "| {name} | {size} | {} | {:.2} | {:.2} | {:.2} | {:.2} % | {:.2} % | {:.2} |\n",
        piece.as_millis(),
        per_gb(sign),
        per_gb(verify),
        per_gb(sha),
        of_core(sign),
        of_core(verify),
        verify / sha
    )
}

fn main() -> ExitCode {
    let mut table = String::from(
        "| stream | bytes of a piece | ms of it | sign, s/GB | verify, s/GB | SHA-256, s/GB | sign, of a core | verify, of a core | verify to SHA-256 |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for (name, rate) in STREAMS {
        table += &row(name, rate);
    }
    println!("{table}");
    match results::keep("./icd bench crypto", &format!("{table}\n")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bench crypto: {why}");
            ExitCode::FAILURE
        }
    }
}
