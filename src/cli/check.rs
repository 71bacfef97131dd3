//! `pi0_node check`: does a parameter file fit the table, a checkpoint, and the robot that is running?

use std::path::PathBuf;

use anyhow::bail;

use crate::check::{self, Level, Verdict};
use crate::settings::{NODE_NAME, Value, read_parameters};

/// Check a parameter file: by itself, with a checkpoint, and with --live against the robot's running topics.
///
/// One line for each finding: ok, warning or error, what it is about, and what to do. The exit status is 0 unless there
/// is an error.
#[derive(clap::Args)]
pub struct Options {
    /// ROS parameter file, as the node takes it.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Checkpoint folder; wins over the parameter file's. Without any, nothing about the checkpoint is checked.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Listen to the topics for a few seconds: types, rates, ages, encodings, joint names, and whether somebody listens to each
    /// output. The robot's drivers must run; the node need not. ROS 2 arguments follow --ros-args, such as -p use_sim_time:=true.
    #[cfg(feature = "ros")]
    #[arg(long)]
    live: bool,
    /// How long --live listens.
    #[cfg(feature = "ros")]
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
}

#[cfg(feature = "ros")]
fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.5..=600.0).contains(number));
    number.ok_or_else(|| "must be a number of seconds from 0.5 to 600".into())
}

pub fn run(options: Options) -> anyhow::Result<()> {
    let mut values = read_parameters(&options.config, NODE_NAME)?;
    if let Some(checkpoint) = &options.checkpoint {
        values.insert("checkpoint".into(), Value::Text(checkpoint.display().to_string()));
    }
    let has_checkpoint = matches!(values.get("checkpoint"), Some(Value::Text(path)) if !path.is_empty());
    let mut report = Report::default();
    if !has_checkpoint {
        // So that everything else can be checked.
        values.insert("checkpoint".into(), Value::Text("none".into()));
        report.add(Verdict::warning(
            "checkpoint",
            "none given: name one with --checkpoint DIR to check that it fits",
        ));
    }
    let (settings, verdicts) = check::parameters(&values);
    verdicts.into_iter().for_each(|verdict| report.add(verdict));
    if let Some(settings) = settings.as_ref().filter(|_| has_checkpoint) {
        check::checkpoint(settings).into_iter().for_each(|verdict| report.add(verdict));
    }
    #[cfg(feature = "ros")]
    if let Some(settings) = settings.as_ref().filter(|_| options.live) {
        eprintln!("listening for {} s", options.seconds);
        crate::node::check(settings, options.seconds)?.into_iter().for_each(|verdict| report.add(verdict));
    }
    report.finish()
}

#[derive(Default)]
struct Report {
    warnings: usize,
    errors: usize,
}

impl Report {
    fn add(&mut self, verdict: Verdict) {
        println!("{verdict}");
        match verdict.level {
            Level::Ok => {}
            Level::Warning => self.warnings += 1,
            Level::Error => self.errors += 1,
        }
    }

    fn finish(&self) -> anyhow::Result<()> {
        let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let said = format!("{}, {}", count(self.errors, "error"), count(self.warnings, "warning"));
        if self.errors > 0 {
            bail!("{said}");
        }
        println!("{said}");
        Ok(())
    }
}
