//! `pi0_node evaluate`: how often a policy does its task, in lockstep with the simulated robot. The node's own loop, from the
//! cameras' messages to the joined chunks, runs in this process by a clock that stands still while it computes; so the rates depend on
//! the checkpoint and the settings, never on how fast this machine is, and any latency can be had.
//!
//! `attempt` is one try, `simulator` the robot behind a pipe, `variant` what is tried, `report` what came of it.

mod attempt;
mod report;
mod simulator;
mod variant;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::builder::RangedU64ValueParser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::attempt::{Attempt, Attempted, Pace};
use self::report::Report;
use self::simulator::Simulator;
use self::variant::{Lists, Variant};
use crate::device::cpu::Dtype;
use crate::files;
use crate::settings::{NODE_NAME, Settings, Value, read_parameters};

/// Attempts from a line to the next where there is no terminal for a bar.
const LINE_EACH: usize = 10;

/// Count how often a policy does the simulated robot's task, with other latencies, denoising steps, dtypes and joins.
///
/// The first of every list is the usual case. The joins are tried at every latency, everything else by itself. `cargo xtask evaluate`
/// installs the simulator and calls this.
#[derive(clap::Args)]
pub struct Options {
    /// ROS parameter file, as the node takes it.
    #[arg(long, value_name = "FILE", default_value = "config/aloha_cube.yaml")]
    config: PathBuf,
    /// Checkpoint folder; wins over the parameter file's.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Attempts of each variant, 1 to 100000: with a cube at a place of its own each, the same places for all variants.
    #[arg(long, default_value_t = 50, value_parser = RangedU64ValueParser::<u64>::new().range(1..=100_000))]
    attempts: u64,
    /// Seed of the first attempt's cube; the others' follow. The shipped policy never saw those from 1000000 on.
    #[arg(long, default_value_t = 1_000_000)]
    seed: u64,
    /// From an observation to its chunk's leaving, ms, each from 0 to 1000.
    #[arg(long, value_name = "MS", value_delimiter = ',', default_value = "50",
          value_parser = RangedU64ValueParser::<u64>::new().range(0..=1000))]
    latency_ms: Vec<u64>,
    /// How chunks are joined: replace, blend, guided, trained, auto; without it, as the parameter file says.
    #[arg(long, value_name = "JOIN", value_delimiter = ',')]
    join: Vec<String>,
    /// Denoising steps; without it, the checkpoint's.
    #[arg(long, value_name = "STEPS", value_delimiter = ',',
          value_parser = RangedU64ValueParser::<u32>::new().range(1..=1000))]
    steps: Vec<u32>,
    /// How the CPU device stores weights; without it, as the parameter file says.
    #[arg(long, value_delimiter = ',')]
    dtype: Vec<Dtype>,
    /// An attempt ends after so many seconds, 1 to 600.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = RangedU64ValueParser::<u32>::new().range(1..=600))]
    seconds: u32,
    /// Images a second, at most; a new one is looked at when the chunk of the one before has left.
    #[arg(long, value_name = "HZ", default_value_t = 10, value_parser = RangedU64ValueParser::<u32>::new().range(1..=50))]
    camera_hz: u32,
    /// Fail if fewer of a hundred attempts succeed, in any variant.
    #[arg(long, value_name = "PERCENT", value_parser = RangedU64ValueParser::<u32>::new().range(0..=100))]
    at_least: Option<u32>,
    /// Write everything to this file, as JSON; after each variant what is known by then.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw success over latency, a line for each join, into this SVG file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// The simulator: a program and its arguments [default: python3 launch/sim/attempts.py].
    #[arg(last = true, value_name = "COMMAND")]
    simulator: Vec<String>,
}

pub fn run(options: Options) -> anyhow::Result<()> {
    options.json.iter().chain(&options.plot).try_for_each(|path| files::try_file(path))?;
    let mut values = read_parameters(&options.config, NODE_NAME)?;
    if let Some(folder) = &options.checkpoint {
        values.insert("checkpoint".into(), Value::Text(folder.display().to_string()));
    }
    let lists = Lists {
        latency_ms: &options.latency_ms,
        join: &options.join,
        steps: &options.steps,
        dtype: &options.dtype,
    };
    let variants = lists.variants();
    let settings = variants.iter().map(|variant| variant.settings(&values)).collect::<Result<Vec<_>, _>>()?;
    for (variant, settings) in variants.iter().zip(&settings) {
        variant.check(settings, options.seconds)?;
    }
    let mut report = Report::new(&options.config, &settings[0].checkpoint, options.attempts, options.seed);
    let mut simulator = Simulator::start(&options.simulator)?;
    let progress = progress(variants.len() as u64 * options.attempts);
    let mut measured = Ok(());
    for (variant, settings) in variants.into_iter().zip(&settings) {
        let mut results = Vec::new();
        measured = options.attempt(&variant, settings, &mut simulator, &progress, &mut results);
        if measured.is_err() {
            break;
        }
        let row = report.add(variant, results);
        progress.suspend(|| eprintln!("{row}"));
        // What was measured stays, whatever becomes of the rest.
        options.write(&report)?;
    }
    progress.finish_and_clear();
    print(&report)?;
    measured?;
    if let Some(percent) = options.at_least
        && let Some(row) = report.rows().iter().find(|row| 100.0 * row.rate() < f64::from(percent))
    {
        bail!("{row}: fewer than {percent} %");
    }
    Ok(())
}

impl Options {
    /// All attempts of a variant.
    fn attempt(
        &self,
        variant: &Variant,
        settings: &Settings,
        simulator: &mut Simulator,
        progress: &ProgressBar,
        results: &mut Vec<Attempted>,
    ) -> anyhow::Result<()> {
        let pace = Pace { camera_hz: self.camera_hz, seconds: self.seconds };
        for number in 0..self.attempts {
            progress.set_message(variant.to_string());
            let seed = self.seed.saturating_add(number);
            let mut attempt = Attempt::new(settings, number)?;
            let result = attempt
                .run(simulator, settings, seed, variant.latency_ms, pace)
                .with_context(|| format!("{variant}, the cube of seed {seed}"))?;
            results.push(result);
            progress.inc(1);
            if progress.is_hidden()
                && results.len().is_multiple_of(LINE_EACH)
                && results.len() as u64 != self.attempts
            {
                eprintln!("{variant}: {} of {} attempts made", results.len(), self.attempts);
            }
        }
        Ok(())
    }

    /// The files that were asked for, with what is known up to now.
    fn write(&self, report: &Report) -> anyhow::Result<()> {
        self.json.iter().try_for_each(|path| report.write_json(path))?;
        self.plot.iter().try_for_each(|path| report.write_plot(path))
    }
}

/// The table; whoever reads it may stop reading.
fn print(report: &Report) -> anyhow::Result<()> {
    match write!(std::io::stdout(), "{report}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write the table"),
        _ => Ok(()),
    }
}

fn progress(attempts: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} attempts {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(attempts), ProgressDrawTarget::stderr()).with_style(style)
}
