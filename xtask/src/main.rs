//! `cargo xtask`: set-up, demo and test of this repository, each one command.

mod arm;
mod bindgen;
mod command;
mod cuda;
mod demo;
mod patch;
mod process;
mod progress;
mod python;
mod setup;
mod simulator;
mod sourced;
mod tenstorrent;
mod test;
mod training;
mod wheels;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set-up, demo and test of pi0_node. Each command sets up what it needs first.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Make plain `cargo build`, `cargo test` and `cargo run` work: installs ROS 2 into .ros unless one is sourced.
    Setup,
    /// Recorded or, with --sim, simulated cameras and joints through a live ROS 2 node: starts both, shows its status.
    Demo(demo::Options),
    /// The simulated ALOHA: installs MuJoCo and its scene into .sim, prints how to start it by hand.
    Simulator,
    /// How often the shipped policy, or another one, does the simulated ALOHA's task: the node's own loop in lockstep with it.
    Evaluate(training::EvaluateOptions),
    /// Make the shipped policy again: demonstrations of a scripted expert, then training, both on the CPU.
    Train(training::TrainOptions),
    /// Tenstorrent's real library on a mock card: sets it up in .tenstorrent, prints the environment that programs need.
    Tenstorrent(tenstorrent::Options),
    /// NVIDIA's compiler for kernels, which needs no GPU: sets it up in .cuda, prints the variable that names it to tests.
    Cuda,
    /// Everything a change must pass: formatting, lints, all tests, documentation.
    Test(test::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup => setup::run(),
        Task::Demo(options) => setup::run().and_then(|()| demo::run(&options)),
        Task::Simulator => setup::run().and_then(|()| simulator::run()),
        Task::Evaluate(options) => setup::run().and_then(|()| training::evaluate(&options)),
        Task::Train(options) => training::train(&options),
        Task::Tenstorrent(options) => tenstorrent::run(&options),
        Task::Cuda => cuda::run(),
        Task::Test(options) => setup::run().and_then(|()| test::run(&options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's root.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
