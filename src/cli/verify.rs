//! `pi0_node verify`: whether a device computes the model rightly, component by component, against f32 on the CPU.

use std::path::PathBuf;

use anyhow::bail;
use clap::builder::RangedU64ValueParser;

use super::checkpoint::Preset;
use super::progress::Bar;
use crate::device::cpu::{Dtype, Precision};
use crate::device::{self, DeviceOptions};
use crate::files;
use crate::graph::Weights;
use crate::policy::checkpoint::random::RandomWeights;
use crate::policy::{Checkpoint, Continuation};
use crate::verify::{Model, Tolerance, verify};

/// Say whether a device computes the model rightly: every component and every denoising step on it beside f32 on the CPU.
///
/// For each: the lowest correlation (PCC), the largest relative rms and the largest error of its values. Where a value is off by
/// more than the tolerance, the values before it are asked for one by one until the first operation that goes wrong is found.
/// The exit code says whether all of it passed. Full size takes 13 GB of memory and minutes: the reference is in f32.
#[derive(clap::Args)]
pub struct Options {
    /// Device: what the parameter `device` takes.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Checkpoint folder; without it, the sizes of --preset with random weights.
    #[arg(long, value_name = "DIR", conflicts_with = "preset")]
    checkpoint: Option<PathBuf>,
    /// Sizes of the model, with random weights.
    #[arg(long, value_enum, default_value = "mini")]
    preset: Preset,
    /// Cameras, 1 to 8.
    #[arg(long, default_value_t = 3, value_parser = RangedU64ValueParser::<usize>::new().range(1..=8))]
    cameras: usize,
    /// Denoising steps, 1 to 1000; without it, the model's own.
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    steps: Option<usize>,
    /// The chunk continues another, towards which it is drawn (real-time chunking).
    #[arg(long)]
    guided: bool,
    /// How the device stores weights where it has a choice: bf16 or f32.
    #[arg(long, default_value_t = Dtype::Is(Precision::Bf16))]
    dtype: Dtype,
    /// Least correlation of a value [default: 0.99; for weights in f32 0.99999].
    #[arg(long, value_name = "PCC", value_parser = fraction)]
    pcc: Option<f64>,
    /// Most relative rms of a value [default: 0.1; for weights in f32 1e-4].
    #[arg(long, value_name = "RMS", value_parser = fraction)]
    relative_rms: Option<f64>,
    /// Also write the report, every value in it, to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Threads of the CPU device, at most 1024; 0 means one per core.
    #[arg(long, default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new().range(0..=1024))]
    threads: usize,
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("must be a number from 0 to 1".into()),
    }
}

pub fn run(options: Options) -> anyhow::Result<()> {
    options.json.iter().try_for_each(|path| files::try_file(path))?;
    let checkpoint = options.checkpoint.as_deref().map(Checkpoint::open).transpose()?;
    let mut config = checkpoint.as_ref().map_or(options.preset.config(), |checkpoint| *checkpoint.config());
    let weights: &dyn Weights = checkpoint.as_ref().map_or(&RandomWeights, |checkpoint| checkpoint);
    config.denoising_steps = options.steps.unwrap_or(config.denoising_steps);
    if options.guided {
        config.continuation = Continuation::Guided { most: Continuation::MOST_GUIDANCE };
    }
    let precision = options.dtype.precision_on(&options.device)?;
    let mut device = device::open(&options.device, DeviceOptions::cpu(options.threads, precision))?;
    let mut reference = device::open("cpu", DeviceOptions::cpu(options.threads, Precision::F32))?;
    let tolerance = match (options.pcc, options.relative_rms) {
        (None, None) => None,
        (correlation, rms) => Some(Tolerance {
            correlation: correlation.unwrap_or(Tolerance::ROUNDED.correlation),
            relative_rms: rms.unwrap_or(Tolerance::ROUNDED.relative_rms),
        }),
    };
    let model = Model { config, cameras: options.cameras, weights };
    let report = verify(&mut *reference, &mut *device, &model, tolerance, &Bar::default())?;
    print!("{report}");
    if let Some(path) = &options.json {
        files::write(path, &format!("{:#}\n", report.to_json()))?;
    }
    match report.passes() {
        true => Ok(()),
        false => bail!("{} does not compute what the reference does: see the lines above", options.device),
    }
}
