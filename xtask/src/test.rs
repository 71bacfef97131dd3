//! `cargo xtask test`: everything a change must pass, cheap things first, stopping at the first failure.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::arm;
use crate::command::{command, describe, run as run_command};
use crate::cuda;
use crate::simulator;
use crate::tenstorrent::{self, Readiness};

#[derive(clap::Args)]
pub struct Options {
    /// Only compare programs lowered for Tenstorrent cards with the reference, op by op through the library's own
    /// definitions. Installs PyTorch for that: 7 GB in .tenstorrent/golden.
    #[arg(long)]
    tt_golden: bool,
    /// Only say what element types and fidelity do to a model on a Tenstorrent card, in a table: sizes (tiny, mini, pi0, pi05, ..)
    /// with weights like trained ones, or checkpoint folders, separated by commas. `-sharp` behind a size: with
    /// attention that looks at few tokens. Seconds for mini; for full size about ten minutes each and 14 GB of disk. Installs PyTorch as --tt-golden does.
    #[arg(long, value_name = "MODELS", conflicts_with = "tt_golden")]
    tt_accuracy: Option<String>,
    /// Only build for 64-bit ARM, without ROS, and run kernels, golden data and replays under emulation. Needs Debian's
    /// gcc-aarch64-linux-gnu and qemu-user.
    #[arg(long, conflicts_with_all = ["tt_golden", "tt_accuracy"])]
    arm: bool,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    if options.tt_golden {
        return run_command(&mut tt_golden("tenstorrent_golden")?);
    }
    if let Some(models) = &options.tt_accuracy {
        return run_command(tt_golden("tenstorrent_accuracy")?.env("PI0_TTNN_ACCURACY", models));
    }
    if options.arm {
        return arm::tests()?.iter_mut().try_for_each(run_command);
    }
    let mut steps = steps();
    if let simulator::Readiness::Missing(reason) = simulator::prepare()? {
        eprintln!("\nskipped: the closed loop with MuJoCo: {reason}");
    }
    match cuda::prepare()? {
        Ok(libraries) => steps.push(with_nvrtc(&libraries)),
        Err(reason) => eprintln!("\nskipped: compiling the kernels for NVIDIA GPUs: {reason}"),
    }
    match tenstorrent::prepare()? {
        Readiness::Ready => steps.extend(CARDS.map(on_mock_card)),
        Readiness::Missing(reason) => eprintln!("\nskipped: tests on mock Tenstorrent cards: {reason}"),
    }
    let total = steps.len();
    let mut times = Vec::new();
    let mut result = Ok(());
    for (number, step) in steps.iter_mut().enumerate() {
        let name = describe(step);
        eprintln!("\n== {} of {total}: {name}", number + 1);
        let start = Instant::now();
        result = run_command(step);
        times.push((name, start.elapsed()));
        if result.is_err() {
            break;
        }
    }
    eprint!("\n{}", summary(&times, total, result.is_ok()));
    result
}

/// Without ROS first, because that needs no bindings and shows that no ROS is needed. Then everything, the live tests
/// included.
fn steps() -> Vec<Command> {
    let mut without_ros = cargo(&["test", "--package", "pi0_node", "--no-default-features"]);
    without_ros.env("AMENT_PREFIX_PATH", "");
    let mut with_ros = cargo(&["test", "--workspace"]);
    with_ros.env("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST");
    let mut documentation = cargo(&["doc", "--workspace", "--no-deps"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    vec![
        cargo(&["fmt", "--all", "--check"]),
        clippy(&["--no-default-features"]),
        without_ros,
        clippy(&[]),
        with_ros,
        documentation,
    ]
}

/// Cards that programs are made for, one of them with fewer cores than its kind has.
const CARDS: [&str; 4] = ["p150", "p150_11x10", "n150", "n300"];

/// Everything that needs a card, with a mock one. Tests of one process share it, so they wait for each other.
fn on_mock_card(card: &str) -> Command {
    let mut tests = cargo(&[
        "test",
        "--workspace",
        "--no-default-features",
        "--test",
        "tenstorrent_mock",
        "--test",
        "mock",
    ]);
    tests.envs(tenstorrent::environment(card));
    tests
}

/// Every kernel for every kind of GPU, by NVIDIA's compiler.
fn with_nvrtc(libraries: &Path) -> Command {
    let mut tests =
        cargo(&["test", "--package", "pi0_node", "--no-default-features", "--test", "cuda_nvrtc"]);
    tests.env(cuda::VARIABLE, libraries);
    tests
}

/// Comparisons that need PyTorch.
fn tt_golden(test: &str) -> anyhow::Result<Command> {
    let mut tests = cargo(&["test", "--no-default-features", "--test", test, "--", "--nocapture"]);
    tests.env("PI0_TTNN_GOLDEN_PYTHON", tenstorrent::prepare_golden()?);
    Ok(tests)
}

fn clippy(features: &[&str]) -> Command {
    let mut clippy = cargo(&["clippy", "--workspace", "--all-targets"]);
    clippy.args(features).args(["--", "-D", "warnings"]);
    clippy
}

fn cargo(arguments: &[&str]) -> Command {
    command("cargo", arguments)
}

/// What ran for how long; the last step is the one that failed, if any did.
fn summary(times: &[(String, Duration)], steps: usize, passed: bool) -> String {
    let mut table = String::new();
    for (number, (name, time)) in times.iter().enumerate() {
        let outcome = if passed || number + 1 < times.len() { "passed" } else { "FAILED" };
        table += &format!("{outcome} {:>5} s  {name}\n", time.as_secs());
    }
    if times.len() < steps {
        table += &format!("not run: {} further steps\n", steps - times.len());
    }
    let total: Duration = times.iter().map(|(_, time)| *time).sum();
    table + &format!("in all {:>5} s\n", total.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_shows_which_step_failed_and_what_did_not_run() {
        let times =
            [("fmt".to_owned(), Duration::from_secs(1)), ("clippy".to_owned(), Duration::from_secs(75))];
        assert_eq!(
            summary(&times, 6, false),
            "passed     1 s  fmt\nFAILED    75 s  clippy\nnot run: 4 further steps\nin all    76 s\n"
        );
        assert!(!summary(&times, 2, true).contains("FAILED"));
    }

    #[test]
    fn both_feature_sets_are_linted_and_tested() {
        for task in ["clippy", "test"] {
            let lines = steps().iter().map(describe).filter(|line| line.contains(task)).collect::<Vec<_>>();
            assert_eq!(lines.len(), 2, "{lines:?}");
            assert!(
                lines[0].contains("--no-default-features") && !lines[1].contains("--no-default-features")
            );
        }
    }
}
