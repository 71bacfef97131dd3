//! `pi0_node bench`: how long the model takes on this machine, stage by stage, beside what the machine can do. The peers
//! in `benches/peers` write the same report.

mod measure;
mod report;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::bail;
use clap::ValueEnum;
use clap::builder::RangedU64ValueParser;

use self::measure::{Bench, matmul};
use self::report::Report;
use super::checkpoint::Preset;
use super::progress::Bar;
use crate::control::padded_prompt;
use crate::device::cpu::Dtype;
use crate::device::{self, DeviceOptions};
use crate::files;
use crate::graph::Weights;
use crate::policy::checkpoint::random::RandomWeights;
use crate::policy::{Checkpoint, PolicyConfig};

/// Products that are measured by themselves, rows x depth x columns: full-size pi0's largest, with three cameras.
const MATMULS: [[usize; 3]; 2] = [[816, 2048, 16384], [816, 16384, 2048]];

/// Measure how long the model takes, stage by stage.
///
/// Stages: `siglip` is the vision tower and its projector for all cameras, `prefix` the language model up to the KV cache,
/// `step` one denoising step, `act` all of them, `total` all that the device does, `cycle` the same with images and all else written
/// to it and the actions read. Times of the first three come from runs in which every kernel is timed; the others from runs without
/// that.
#[derive(clap::Args)]
pub struct Options {
    /// Sizes of the model, with random weights.
    #[arg(long, value_enum, default_value = "mini", conflicts_with = "checkpoint")]
    preset: Preset,
    /// Checkpoint folder, instead of random weights.
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    /// Cameras, 1 to 8.
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=8))]
    cameras: usize,
    /// How the CPU or a GPU stores weights: bf16, f32, or auto, which is what it multiplies fast.
    #[arg(long, default_value_t = Dtype::Auto)]
    dtype: Dtype,
    /// Denoising steps, 1 to 1000; without it, the model's own.
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    steps: Option<usize>,
    /// Real tokens of the prompt, which is padded as in the node; without it, as many as it can have.
    #[arg(long, value_name = "TOKENS")]
    prompt_tokens: Option<usize>,
    /// Runs to measure, 1 to 100000, after one to warm up.
    #[arg(long, default_value_t = 10, value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    runs: usize,
    /// Also list this many of the operations that take most time, equal ones of all layers and steps together.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    nodes: usize,
    /// Also measure two large products by themselves.
    #[arg(long)]
    products: bool,
    /// Also write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Device that runs the model: what the parameter `device` takes.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// The Tenstorrent card is a mock, which computes nothing: times are those of the host's library.
    #[arg(long)]
    mock: bool,
    /// Threads of the CPU device, at most 1024; 0 means one per core.
    #[arg(long, default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new().range(0..=1024))]
    threads: usize,
}

pub fn run(options: Options) -> anyhow::Result<()> {
    options.json.iter().try_for_each(|path| files::try_file(path))?;
    let checkpoint = options.checkpoint.as_deref().map(Checkpoint::open).transpose()?;
    let mut config = checkpoint.as_ref().map_or(options.preset.config(), |checkpoint| *checkpoint.config());
    let weights: &dyn Weights = checkpoint.as_ref().map_or(&RandomWeights, |checkpoint| checkpoint);
    config.denoising_steps = options.steps.unwrap_or(config.denoising_steps);
    let tokens = prompt_tokens(options.prompt_tokens, &config)?;
    let model = model_name(&options, &config);
    config.prompt_tokens = padded_prompt(&config, options.cameras, tokens);

    let precision = options.dtype.precision_on(&options.device)?;
    let device_options =
        DeviceOptions { mock: options.mock, ..DeviceOptions::cpu(options.threads, precision) };
    let mut device = device::open(&options.device, device_options)?;
    let start = Instant::now();
    let mut bench = Bench::compile(&mut *device, &config, options.cameras, weights, &Bar::default())?;
    let compile_s = start.elapsed().as_secs_f64();
    bench.make_inputs(tokens);
    let times = bench.measure(options.runs)?;
    // Before products are measured by themselves, which takes memory of its own.
    let peak_rss_bytes = peak_rss_bytes();
    let sizes = if options.products { &MATMULS[..] } else { &[] };
    let matmuls = sizes
        .iter()
        .map(|&size| Ok((size, matmul(&mut *device, size)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;

    let report = Report {
        model,
        cameras: options.cameras,
        precision,
        device: device.describe(),
        threads: match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        },
        peak: device.peak(),
        steps: config.denoising_steps,
        prompt_tokens: tokens,
        padded_prompt: config.prompt_tokens,
        compile_s,
        times,
        matmuls,
        peak_rss_bytes,
    };
    report.print(options.nodes);
    if options.mock {
        println!("\na mock card computes nothing: these are the times of the host's library alone");
    }
    if let Some(path) = &options.json {
        files::write(path, &format!("{:#}\n", report.to_json()))?;
    }
    Ok(())
}

/// The preset that has these sizes, by which reports are compared; else the checkpoint's folder.
fn model_name(options: &Options, config: &PolicyConfig) -> String {
    let same = |preset: &&Preset| {
        let steps = config.denoising_steps;
        PolicyConfig { denoising_steps: steps, ..preset.config() } == *config
    };
    let preset = Preset::value_variants().iter().find(same);
    match (preset, &options.checkpoint) {
        (None, Some(folder)) => folder.display().to_string(),
        (preset, _) => preset.unwrap_or(&options.preset).name().into(),
    }
}

fn prompt_tokens(asked: Option<usize>, config: &PolicyConfig) -> anyhow::Result<usize> {
    match asked {
        None => Ok(config.prompt_tokens),
        Some(tokens) if (1..=config.prompt_tokens).contains(&tokens) => Ok(tokens),
        Some(tokens) => bail!("--prompt-tokens is {tokens}; this model takes 1 to {}", config.prompt_tokens),
    }
}

/// The most memory that this process has had so far; `None` where the system does not say.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
