//! The command line: one file per subcommand. Called by `main`.

mod audit;
mod bench;
mod check;
mod checkpoint;
mod evaluate;
mod infer;
mod plan;
#[cfg(feature = "ros")]
mod play;
pub mod progress;
mod rate;
#[cfg(feature = "ros")]
mod record;
mod replay;
mod ros_arguments;
#[cfg(feature = "ros")]
mod run;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs the vision-language-action model pi0 as a real-time ROS 2 node.
#[derive(Parser)]
#[command(name = "pi0_node", version, max_term_width = 110)]
#[cfg_attr(not(feature = "ros"), command(arg_required_else_help = true, subcommand_required = true))]
struct Cli {
    /// `run` if there is none.
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "ros")]
    Run(run::Options),
    #[cfg(feature = "ros")]
    Record(record::Options),
    #[cfg(feature = "ros")]
    Play(play::Options),
    Check(check::Options),
    Infer(infer::Options),
    Replay(replay::Options),
    Evaluate(evaluate::Options),
    Bench(bench::Options),
    Audit(audit::Options),
    Plan(plan::Options),
    Verify(verify::Options),
    #[command(subcommand)]
    Checkpoint(checkpoint::Command),
}

impl Command {
    /// Whether its results are what it prints: no robot depends on it.
    fn only_tells(&self) -> bool {
        match self {
            #[cfg(feature = "ros")]
            Self::Run(_) | Self::Record(_) | Self::Play(_) => false,
            // It writes to a simulator, which may have ended.
            Self::Evaluate(_) => false,
            Self::Replay(_) | Self::Check(_) | Self::Infer(_) | Self::Bench(_) => true,
            Self::Audit(_) | Self::Plan(_) | Self::Verify(_) | Self::Checkpoint(_) => true,
        }
    }
}

/// Whoever reads the output may stop reading (`| head`): then the process ends as any other does, without a word.
fn end_with_the_reader() {
    // SAFETY: only sets what a signal does, before there are other threads.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Reads the command line, runs the command, and says what went wrong if it did.
pub fn main() -> ExitCode {
    let cli = Cli::parse_from(ros_arguments::without_ros(std::env::args_os()));
    if cli.command.as_ref().is_some_and(Command::only_tells) {
        end_with_the_reader();
    }
    say_what_cannot_be_printed();
    let result = match cli.command {
        #[cfg(feature = "ros")]
        None => run::run(run::Options::default()),
        #[cfg(feature = "ros")]
        Some(Command::Run(options)) => run::run(options),
        #[cfg(feature = "ros")]
        Some(Command::Record(options)) => record::run(options),
        #[cfg(feature = "ros")]
        Some(Command::Play(options)) => play::run(options),
        Some(Command::Check(options)) => check::run(options),
        Some(Command::Infer(options)) => infer::run(options),
        Some(Command::Replay(options)) => replay::run(options),
        Some(Command::Evaluate(options)) => evaluate::run(options),
        Some(Command::Bench(options)) => bench::run(options),
        Some(Command::Audit(options)) => audit::run(options),
        Some(Command::Plan(options)) => plan::run(options),
        Some(Command::Verify(options)) => verify::run(options),
        Some(Command::Checkpoint(command)) => checkpoint::run(command),
        #[cfg(not(feature = "ros"))]
        None => unreachable!("the parser requires a command"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Printing panics where nothing more can be written, as on a full disk: that is an error like any other. The node's own status does
/// without.
fn say_what_cannot_be_printed() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match panic.payload_as_str() {
        Some(message) if message.starts_with("failed printing to stdout") => {
            eprintln!("error: {message}");
            std::process::exit(1)
        }
        _ => usual(panic),
    }));
}
