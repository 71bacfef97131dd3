//! `pi0_node run`: the live ROS 2 node; also what runs when no command is given, as `ros2 run` and launch files do.

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use super::progress::Bar;
use super::ros_arguments::{Misplaced, log_level};
use crate::node::{self, Logs, StatusStyle};
use crate::settings::reference;
use crate::telemetry::Repeats;

/// Run the ROS 2 node: cameras, joint states and a prompt in, action chunks out. The default command.
///
/// Subscribes to the camera topics, the joint states and ~/prompt (std_msgs/String); publishes ~/action_chunk
/// (trajectory_msgs/JointTrajectory; its stamp is the observation's, point i is for i/control_hz later) and /diagnostics.
/// ROS 2 arguments follow --ros-args: --params-file FILE, -p name:=value, -r from:=to, --log-level LEVEL.
/// SIGINT (Ctrl-C) and SIGTERM stop it; it prints what came in and went out, and the latency of each stage.
#[derive(Default, clap::Args)]
#[command(after_long_help = reference())]
pub struct Options {
    /// Show rates, latencies and the last chunk: as a screen on a terminal, as a line a second elsewhere, or as chosen.
    #[arg(long, value_name = "STYLE", num_args = 0..=1, require_equals = true, default_missing_value = "auto")]
    status: Option<StatusStyle>,
    #[command(flatten)]
    _misplaced: Misplaced,
}

pub fn run(options: Options) -> anyhow::Result<()> {
    run_node(options, None)
}

/// Runs the node, and records it into a folder if there is one.
pub fn run_node(options: Options, record: Option<PathBuf>) -> anyhow::Result<()> {
    let level = log_level(std::env::args()).unwrap_or("info");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let terminal = fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal()).with_target(false);
    let repeats = Repeats::default();
    let (rosout, lines) = node::rosout_queue();
    tracing_subscriber::registry().with(filter).with(repeats.clone()).with(terminal).with(rosout).init();
    let options = node::Options { status: options.status, record };
    node::run(options, Logs { lines, repeats }, &Bar::default())
}
