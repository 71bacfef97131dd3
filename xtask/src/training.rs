//! `cargo xtask train`: makes the policy of `policies/aloha_cube` again: demonstrations, training, checkpoint. And `cargo xtask
//! evaluate`: how often a policy does its task. Called by `main`.
//!
//! Training has a Python of its own in the git-ignored `.training`, with PyTorch, which nothing else needs.

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::command::{command, describe, run as run_command};
use crate::simulator::{self, Readiness};
use crate::{python, root, wheels};

const REQUIREMENTS: &str = include_str!("../../training/requirements.txt");
/// Git-ignored: Python, demonstrations, runs.
const FOLDER: &str = ".training";

#[derive(clap::Args)]
pub struct TrainOptions {
    /// Demonstrations, each with a cube at a place of its own: 1.4 MB each.
    #[arg(long, default_value_t = 6500, value_parser = clap::value_parser!(u32).range(1..))]
    episodes: u32,
    /// Steps of training.
    #[arg(long, default_value_t = 6000, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Of the demonstrations, the weights to begin with and the batches.
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// Folder for the run; its `checkpoint` is the policy [default: .training/run].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct EvaluateOptions {
    /// What `pi0_node evaluate` takes: `cargo xtask evaluate -- --help` lists it. Without any: 50 attempts of the shipped policy.
    #[arg(last = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

/// Demonstrations, unless they are there, then training.
pub fn train(options: &TrainOptions) -> anyhow::Result<()> {
    let folder = root().join(FOLDER);
    let environment = environment(&folder)?;
    let demonstrations = folder.join(format!("demonstrations_{}_{}", options.episodes, options.seed));
    let (episodes, steps, seed) =
        (options.episodes.to_string(), options.steps.to_string(), options.seed.to_string());
    // Written last.
    if !demonstrations.join("moments.npy").is_file() {
        let path = demonstrations.to_string_lossy();
        script(&environment, "demonstrate.py", &[&path, "--episodes", &episodes, "--seed", &seed])?;
    }
    let out = match &options.out {
        Some(out) => std::path::absolute(out).with_context(|| format!("cannot resolve {}", out.display()))?,
        None => folder.join("run"),
    };
    let (from, to) = (demonstrations.to_string_lossy(), out.to_string_lossy());
    script(&environment, "train.py", &[&from, &to, "--steps", &steps, "--seed", &seed])?;
    println!(
        "the policy is in {0}; try it: cargo xtask evaluate -- --checkpoint {0}",
        out.join("checkpoint").display()
    );
    Ok(())
}

fn script(environment: &Path, name: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let python = environment.join("bin/python");
    let script = format!("training/{name}");
    run_command(&mut command(&python.to_string_lossy(), &[&["-u", &script], arguments].concat()))
}

/// The Python with what training needs, made unless it is there.
fn environment(folder: &Path) -> anyhow::Result<PathBuf> {
    let environment = folder.join("python");
    let stamp = environment.join(".complete");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == REQUIREMENTS) {
        return Ok(environment);
    }
    if environment.exists() {
        fs::remove_dir_all(&environment).context("cannot remove .training/python")?;
    }
    eprintln!(
        "set-up: installing PyTorch and MuJoCo into {FOLDER} (7 GB on disk: PyTorch brings CUDA's libraries)"
    );
    python::make_environment(&python::find()?, &environment)?;
    wheels::pip_install_with_needs(&environment, &wheels::requirements(REQUIREMENTS).collect::<Vec<_>>())?;
    fs::write(&stamp, REQUIREMENTS).context("cannot write .training/python/.complete")?;
    Ok(environment)
}

/// The node's own loop in lockstep with the simulator.
pub fn evaluate(options: &EvaluateOptions) -> anyhow::Result<()> {
    if let Readiness::Missing(reason) = simulator::prepare()? {
        bail!("the simulator cannot run here: {reason}");
    }
    eprintln!("evaluate: building pi0_node (release; the first time takes minutes)");
    run_command(&mut command("cargo", &["build", "--release", "--package", "pi0_node"]))?;
    let own = env::current_exe().context("cannot find this program")?;
    // target/debug/xtask
    let target = own.ancestors().nth(2).context("this program is not in cargo's target folder")?;
    // In the place of this program, so that signals and the exit code are its own.
    let mut evaluate = simulator::evaluate(&target.join("release/pi0_node"), &options.options)?;
    Err(evaluate.exec()).with_context(|| format!("cannot start {}", describe(&evaluate)))
}
