//! `cargo xtask demo`: recorded cameras and joints go through a live node and come out as action chunks.
//!
//! The player and the node are processes of their own that meet over DDS, as a robot's drivers and the node would.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::command::{command, run as run_command};
use crate::root;

/// How long a process may take to stop when asked to.
const PATIENCE: Duration = Duration::from_secs(10);
/// DDS domain of the demo, so that it does not mix with a robot's.
const DOMAIN: &str = "83";

#[derive(clap::Args)]
pub struct Options {
    /// Stop after so many seconds; without it, Ctrl-C stops.
    #[arg(long)]
    seconds: Option<u64>,
    /// Checkpoint folder; without it, a random model of the mini size is made in target/demo.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Recorded topics to play.
    #[arg(long, value_name = "BAG", default_value = "tests/data/aloha_transfer_cube")]
    bag: PathBuf,
    /// Node parameters.
    #[arg(long, value_name = "FILE", default_value = "config/aloha.yaml")]
    config: PathBuf,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let stopped = Box::leak(Box::new(AtomicBool::new(false)));
    let stopped: &'static AtomicBool = stopped;
    ctrlc::set_handler(|| stopped.store(true, Ordering::Relaxed)).context("cannot listen to Ctrl-C")?;

    eprintln!("demo: building pi0_node (release; the first time takes minutes)");
    run_command(&mut command(
        "cargo",
        &["build", "--release", "--bin", "pi0_node"],
    ))?;
    let checkpoint = match &options.checkpoint {
        Some(folder) => folder.clone(),
        None => random_checkpoint()?,
    };

    let mut node = Process::start(
        "node",
        pi0_node(&["run", "--status", "--ros-args", "--params-file"])
            .arg(&options.config)
            .args(["-p", &format!("checkpoint:={}", checkpoint.display())]),
    )?;
    let mut player = Process::start(
        "player",
        pi0_node(&["play"])
            .arg(&options.bag)
            .args(["--loop", "--stamp", "now", "--quiet"]),
    )?;
    let end = options
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    while !stopped.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
        for process in [&mut node, &mut player] {
            if let Some(status) = process.child.try_wait()? {
                bail!("the {} ended before its time ({status})", process.name);
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
    player.stop()?;
    let status = node.stop()?;
    if !status.success() {
        bail!("the node failed ({status})");
    }
    Ok(())
}

/// A model of the mini size with random weights, made once.
fn random_checkpoint() -> anyhow::Result<PathBuf> {
    let folder = Path::new("target/demo/mini");
    if !root().join(folder).join("config.json").exists() {
        eprintln!("demo: making a random checkpoint in {}", folder.display());
        let arguments = ["checkpoint", "init", "--preset", "mini", "--seed", "1"];
        run_command(pi0_node(&arguments).arg(folder))?;
    }
    Ok(folder.to_owned())
}

/// The release binary in the repository's root, on the demo's DDS domain.
fn pi0_node(arguments: &[&str]) -> Command {
    let mut command = command("target/release/pi0_node", arguments);
    command
        .env("ROS_DOMAIN_ID", DOMAIN)
        .env("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST");
    command
}

/// A process that never outlives the demo.
struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    fn start(name: &'static str, command: &mut Command) -> anyhow::Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("cannot start the {name}"))?;
        Ok(Self { name, child })
    }

    /// Asks the process to stop, as Ctrl-C would, and waits for it.
    fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        let pid = self.child.id().to_string();
        // Both processes also hear a Ctrl-C of the terminal; one that has gone already needs no signal.
        let _ = Command::new("kill").args(["-INT", &pid]).status();
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("the {} did not stop within {} s", self.name, PATIENCE.as_secs())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
