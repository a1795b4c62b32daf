//! Endurance: a seed and eight viewers, each on a host of its own, and everything that can happen to them:
//! `./icd soak --minutes N`.
//!
//! Viewers are killed, stopped and cut off, the seed's line is cut, the picture changes its size, the
//! broadcast ends and begins again, at random by seed. What a viewer plays is laid against what was sent; only
//! what was sent while a viewer could not be reached, for longer than its buffer lasts, may be missing to it.
//! Memory, threads, open files and lag have to stay as they are after the first sixth.

#[cfg(target_os = "linux")]
mod people;

use std::process::ExitCode;

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("soak: it needs the network namespaces of Linux");
    ExitCode::FAILURE
}

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    use gst_icd_suite::crowd::{self, VIEWER};
    use gst_icd_suite::lab;

    match std::env::args().nth(1).as_deref() {
        Some(VIEWER) => return crowd::viewer(),
        Some(people::BROADCASTER) => return people::broadcaster(),
        _ => {}
    }
    // cargo adds a flag of its own.
    let args: Vec<_> = std::env::args()
        .skip(1)
        .filter(|arg| arg != "--bench")
        .collect();
    let plan = match people::Plan::parse(&args) {
        Ok(plan) => plan,
        Err(why) => {
            eprintln!("soak: {why}\nusage: ./icd soak [--minutes N] [--seed N]");
            return ExitCode::from(2);
        }
    };
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if let Some(mut inside) = lab::unshared(&args) {
        let good = inside.status().is_ok_and(|status| status.success());
        return if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    match people::run(&plan) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("soak: {why}");
            ExitCode::FAILURE
        }
    }
}
