//! The random model that the demo drives: the largest that this machine runs in time. Called by `demo`.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;

use crate::command::{output, run};
use crate::demo::Binary;

/// From large to small.
const PRESETS: [&str; 3] = ["mini", "small", "tiny"];
/// Cameras of the demo's robots.
const CAMERAS: &str = "3";
/// The node's latency budget, `latency_budget_ms` in config/aloha.yaml.
const BUDGET_MS: f64 = 50.0;
/// What the model may take of it. The rest is for images' way through DDS and their decoding, on cores that also play the
/// bag or simulate the robot.
const MODELS_SHARE: f64 = 0.6;

/// A checkpoint of random weights in the largest size that fits; says in one line which that is and why.
pub fn fitting_checkpoint(binary: &Binary) -> anyhow::Result<PathBuf> {
    let mut measured = Vec::new();
    for preset in PRESETS {
        let ms = milliseconds(binary, preset)?;
        measured.push((preset, ms));
        if ms <= MODELS_SHARE * BUDGET_MS {
            break;
        }
    }
    eprintln!("demo: {}", explain(&measured));
    let (preset, _) = measured.last().context("there is no preset")?;
    random_checkpoint(binary, preset)
}

/// What the last of the measured presets is taken for.
fn explain(measured: &[(&str, f64)]) -> String {
    let cycles: Vec<String> = measured.iter().map(|(preset, ms)| format!("{preset} {ms:.0} ms")).collect();
    let least = MODELS_SHARE * BUDGET_MS;
    let fits = measured.last().is_some_and(|(_, ms)| *ms <= least);
    let taken = measured.last().map_or("none", |(preset, _)| preset);
    let why = if fits { "fits" } else { "is the smallest, and chunks will be late" };
    format!(
        "from images to actions this machine takes {}; {least:.0} of the budget's {BUDGET_MS:.0} ms are the model's: {taken} {why}",
        cycles.join(", ")
    )
}

/// Median time from three images to actions.
fn milliseconds(binary: &Binary, preset: &str) -> anyhow::Result<f64> {
    let arguments = ["bench", "--preset", preset, "--cameras", CAMERAS, "--runs", "15"];
    let table = output(&mut binary.command(&arguments))?;
    total(&table).with_context(|| format!("'{}' printed no total", arguments.join(" ")))
}

/// The median of the line `total   12.34 ...`.
fn total(table: &str) -> Option<f64> {
    let line = table.lines().find_map(|line| line.strip_prefix("total "))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A model with random weights, made once. A half-made one has no place under the final name.
fn random_checkpoint(binary: &Binary, preset: &str) -> anyhow::Result<PathBuf> {
    let folder = binary.target.join("demo").join(preset);
    if !folder.exists() {
        eprintln!("demo: making a random checkpoint in {}", folder.display());
        let unfinished = folder.with_extension("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).context("cannot remove an unfinished checkpoint")?;
        }
        let arguments = ["checkpoint", "init", "--preset", preset, "--seed", "1"];
        run(binary.command(&arguments).arg(&unfinished))?;
        fs::rename(&unfinished, &folder).context("cannot name the finished checkpoint")?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_from_the_benchmarks_table() {
        let table =
            "stage        median ms     best ms\nact    16.18  15.20\ntotal         39.68       36.93\n";
        assert_eq!(total(table), Some(39.68));
        assert_eq!(total("no table"), None);
    }

    #[test]
    fn one_line_says_what_is_taken_and_why() {
        assert_eq!(
            explain(&[("mini", 88.4), ("small", 21.0)]),
            "from images to actions this machine takes mini 88 ms, small 21 ms; 30 of the budget's 50 ms are the model's: \
             small fits"
        );
        assert!(
            explain(&[("mini", 900.0), ("small", 300.0), ("tiny", 60.0)]).ends_with("chunks will be late")
        );
    }
}
