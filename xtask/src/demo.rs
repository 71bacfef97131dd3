//! `cargo xtask demo`: recorded cameras and joints go through a live node and come out as action chunks. With `--sim` they
//! are a simulated robot's, which follows the chunks and does what the shipped policy was trained for.
//!
//! The player or simulator and the node are processes of their own that meet over DDS, as a robot's drivers and the node
//! would. The node's status goes to the terminal as it is; its last table, on standard output, says how many chunks there
//! were.

use std::collections::VecDeque;
use std::env;
use std::fs::{File, TryLockError};
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::command::{command, run as run_command};
use crate::process::{Process, asked_to_stop};
use crate::root;
use crate::simulator::{self, Readiness};

/// How long a process may take to stop when asked to.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of the node's output is kept: more than its last table.
const KEPT: usize = 1 << 16;
/// Between two looks at the processes and the clock.
const POLL: Duration = Duration::from_millis(50);

#[derive(clap::Args)]
pub struct Options {
    /// Stop after so many seconds; without it, Ctrl-C stops.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Checkpoint folder [default: policies/aloha_cube, which takes the simulated robot's cube and hands it over].
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// A simulated ALOHA in the place of recorded topics; installs MuJoCo into .sim first.
    #[arg(long, conflicts_with = "bag")]
    sim: bool,
    /// Let the simulator invent its images: for machines that have no GL to draw with.
    #[arg(long, requires = "sim")]
    synthetic_images: bool,
    /// Recorded topics to play [default: tests/data/aloha_transfer_cube].
    #[arg(long, value_name = "BAG")]
    bag: Option<PathBuf>,
    /// Node parameters [default: config/aloha_cube.yaml; with --checkpoint, config/aloha.yaml].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// ROS domain, away from a robot's; to look in from another terminal, set ROS_DOMAIN_ID to it.
    #[arg(long, value_name = "ID", default_value_t = 83, value_parser = clap::value_parser!(u8).range(..=101))]
    domain: u8,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    let bag = given_or(&options.bag, "tests/data/aloha_transfer_cube")?;
    let usual = if options.checkpoint.is_some() { "config/aloha.yaml" } else { "config/aloha_cube.yaml" };
    let config = given_or(&options.config, usual)?;
    if options.sim
        && let Readiness::Missing(reason) = simulator::prepare()?
    {
        bail!("the simulator cannot run here: {reason}");
    }
    let checkpoint = given_or(&options.checkpoint, "policies/aloha_cube")?;
    let _alone = alone(options.domain)?;

    let stopped = asked_to_stop()?;

    eprintln!("demo: building pi0_node (release; the first time takes minutes)");
    run_command(&mut command("cargo", &["build", "--release", "--package", "pi0_node"]))?;
    let binary = Binary::new(options.domain)?;

    // The node's output passes through here, so it cannot see for itself whether there is a terminal.
    let status = if std::io::stdout().is_terminal() { "--status=screen" } else { "--status=lines" };
    let mut node = Process::start(
        "node",
        binary
            .command(&["run", status, "--ros-args", "--params-file"])
            .arg(&config)
            .args(["-p", &format!("checkpoint:={}", checkpoint.display())])
            .stdout(Stdio::piped()),
    )?;
    let output = node.stdout().context("the node has no standard output")?;
    let printed = thread::spawn(move || pass_through(output, std::io::stdout()));
    let mut robot = if options.sim {
        let images = options.synthetic_images.then_some("--synthetic-images");
        let mut simulator = simulator::simulator(&images.into_iter().collect::<Vec<_>>())?;
        // It says only what went wrong: everything else is the node's status.
        simulator.args(["--ros-args", "--log-level", "warn"]);
        Process::start("simulator", binary.meet(&mut simulator).stdout(Stdio::null()))?
    } else {
        let mut player = binary.command(&["play"]);
        Process::start("player", player.arg(&bag).args(["--loop", "--stamp", "now"]).stdout(Stdio::null()))?
    };

    let end = options.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let watched = watch(&mut [&mut node, &mut robot], &stopped, end);
    // Both are stopped whatever happened before, the node with its last words.
    let robot_stopped = robot.stop(PATIENCE);
    let node_stopped = node.stop(PATIENCE);
    let printed = printed.join().map_err(|_| anyhow::anyhow!("reading the node's output failed"))??;
    watched.and(robot_stopped).and(node_stopped)?;

    match chunks(&printed) {
        None => bail!("the node ended without its table"),
        Some(0) => bail!("the node published no chunks; its table says what it dropped and why"),
        Some(_) => Ok(()),
    }
}

/// Waits for the end, Ctrl-C, or a process that ends too early.
fn watch(processes: &mut [&mut Process], stopped: &AtomicBool, end: Option<Instant>) -> anyhow::Result<()> {
    while !stopped.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
        for process in processes.iter_mut() {
            process.check_running()?;
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Two demos in one ROS domain would move each other's robot: held as long as this one runs. A machine that lets nobody write there, or
/// not into another user's file, has none.
fn alone(domain: u8) -> anyhow::Result<Option<File>> {
    let path = env::temp_dir().join(format!("pi0_node_demo_{domain}.lock"));
    let Ok(file) = File::options().create(true).truncate(false).write(true).open(path) else {
        return Ok(None);
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            bail!(
                "another demo runs in ROS domain {domain}: give this one a domain of its own, such as --domain {}",
                (domain + 1) % 102
            )
        }
        _ => Ok(Some(file)),
    }
}

/// The user's path, relative to where they are, or one in the repository.
fn given_or(given: &Option<PathBuf>, default: &str) -> anyhow::Result<PathBuf> {
    match given {
        Some(path) => existing(path),
        None => existing(&root().join(default)),
    }
}

fn existing(path: &Path) -> anyhow::Result<PathBuf> {
    ensure!(path.exists(), "{} does not exist", path.display());
    std::path::absolute(path).with_context(|| format!("cannot resolve {}", path.display()))
}

/// The release binary of the node, run from the repository's root on a DDS domain of this machine.
struct Binary {
    /// Cargo's target folder.
    target: PathBuf,
    domain: String,
}

impl Binary {
    fn new(domain: u8) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find this program")?;
        // target/debug/xtask
        let target = own.ancestors().nth(2).context("this program is not in cargo's target folder")?;
        Ok(Self { target: target.to_owned(), domain: domain.to_string() })
    }

    /// The node with arguments.
    fn command(&self, arguments: &[&str]) -> Command {
        let program = self.target.join("release/pi0_node");
        let mut command = command(&program.to_string_lossy(), arguments);
        self.meet(&mut command);
        command
    }

    /// Has a process meet the node's.
    fn meet<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("ROS_DOMAIN_ID", &self.domain).env("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    }
}

/// Copies everything at once, as a screen needs it, and gives back the end of the text.
fn pass_through(mut from: impl Read, mut to: impl Write) -> anyhow::Result<String> {
    let mut text = VecDeque::new();
    let mut buffer = [0; 4096];
    loop {
        let read = from.read(&mut buffer).context("cannot read the node's output")?;
        if read == 0 {
            return Ok(String::from_utf8_lossy(text.make_contiguous()).into_owned());
        }
        to.write_all(&buffer[..read])?;
        to.flush()?;
        text.extend(&buffer[..read]);
        text.drain(..text.len().saturating_sub(KEPT));
    }
}

/// The count of published chunks in the last of the node's tables, `chunks out   123`.
fn chunks(table: &str) -> Option<u64> {
    let (_, rest) = table.rsplit_once("chunks out")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_table_says_how_many_chunks_there_were() {
        let table =
            "frame sets   4\nchunks out   3\n\x1b[2Jframe sets   9\nchunks out   8\n\nlatency (ms)   count\n";
        assert_eq!(chunks(table), Some(8));
        assert_eq!(chunks("error: no checkpoint\n"), None);
    }

    #[test]
    fn the_nodes_output_is_passed_through_and_kept() {
        let mut screen = Vec::new();
        let text = pass_through("frame sets 1\n\u{1b}[H".as_bytes(), &mut screen).unwrap();
        assert_eq!(text.as_bytes(), screen);
        assert_eq!(text, "frame sets 1\n\u{1b}[H");
    }

    #[test]
    fn a_path_that_does_not_exist_is_named_before_anything_is_built() {
        let error = given_or(&Some("no/such/bag".into()), "README.md").unwrap_err().to_string();
        assert_eq!(error, "no/such/bag does not exist");
        assert!(given_or(&None, "Cargo.toml").unwrap().is_absolute());
    }
}
