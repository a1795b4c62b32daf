//! Gives a target to libFuzzer, built by `./icd fuzz`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod fuzzer {
    use std::sync::OnceLock;

    static TARGET: OnceLock<icd_fuzz::Target> = OnceLock::new();

    libfuzzer_sys::fuzz_target!(
        init: {
            let name = std::env::var("ICD_FUZZ").unwrap_or_default();
            let target = icd_fuzz::target(&name).expect("ICD_FUZZ names no target");
            TARGET.set(target).expect("begun twice");
        },
        |data: &[u8]| {
            TARGET.get().map(|target| (target.run)(data));
        }
    );
}

/// Without a fuzzer: names the targets, or writes the seeds of one into a folder.
#[cfg(not(fuzzing))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(name), Some(folder)) = (args.next(), args.next()) else {
        println!("{}", icd_fuzz::TARGETS.map(|target| target.name).join(" "));
        return Ok(());
    };
    let name = name.to_string_lossy();
    let target = icd_fuzz::target(&name).ok_or_else(|| format!("there is no target {name}"))?;
    let folder = std::path::PathBuf::from(folder);
    std::fs::create_dir_all(&folder)?;
    for (n, seed) in (target.seeds)().into_iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{n:02}")), seed)?;
    }
    Ok(())
}
