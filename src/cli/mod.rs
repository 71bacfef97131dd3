//! The command line: one file per subcommand. Called by `main`.

mod checkpoint;
mod infer;
pub mod progress;
mod replay;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs the vision-language-action model pi0 as a real-time ROS 2 node.
#[derive(Parser)]
#[command(name = "pi0_node", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Infer(infer::Options),
    Replay(replay::Options),
    #[command(subcommand)]
    Checkpoint(checkpoint::Command),
}

/// Reads the command line, runs the command, and says what went wrong if it did.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Infer(options) => infer::run(options),
        Command::Replay(options) => replay::run(options),
        Command::Checkpoint(command) => checkpoint::run(command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
