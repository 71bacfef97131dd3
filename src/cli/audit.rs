//! `pi0_node audit`: which implementation runs each component of the model, where, and what crosses between host and device,
//! read off the compiled program.

mod report;

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::builder::RangedU64ValueParser;

use self::report::{Audited, Report};
use super::checkpoint::Preset;
use super::progress::Bar;
use crate::device::cpu::Dtype;
use crate::device::tenstorrent::{
    self, Card, Precisions, Program, Residents, TenstorrentDevice, TenstorrentOptions,
};
use crate::device::{self, Account, Device, DeviceOptions, cuda};
use crate::files;
use crate::graph::{Graph, GraphError, Weights};
use crate::policy::checkpoint::random::RandomWeights;
use crate::policy::{Checkpoint, Intermediates, PolicyConfig, PolicyGraphs};

/// Say which implementation runs each component of the model, where, and what crosses between host and device.
///
/// The model is compiled, and the report read off the program. On a Tenstorrent card the programs also run once while the
/// library writes down what it does. Target: every operation on the device, and no transfer within the denoising loop.
#[derive(clap::Args)]
pub struct Options {
    /// Checkpoint folder; without it, the sizes of --preset with random weights.
    #[arg(long, value_name = "DIR", conflicts_with = "preset")]
    checkpoint: Option<PathBuf>,
    /// Sizes of the model, with random weights.
    #[arg(long, value_enum, default_value = "pi0")]
    preset: Preset,
    /// Cameras, 1 to 8.
    #[arg(long, default_value_t = 3, value_parser = RangedU64ValueParser::<usize>::new().range(1..=8))]
    cameras: usize,
    /// Denoising steps, 1 to 1000; without it, the model's own.
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    steps: Option<usize>,
    /// Device: cpu, cuda, cuda:1, tenstorrent, or tenstorrent:p150, :n150, :n300.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// The Tenstorrent card is a mock: the real library with a described card, which computes nothing.
    #[arg(long)]
    mock: bool,
    /// Only lower the model for the Tenstorrent card or the NVIDIA GPU: needs neither card nor library, and nothing runs.
    #[arg(long, conflicts_with = "mock")]
    without_card: bool,
    /// How the CPU or a GPU stores weights and what they are multiplied with: bf16 or f32.
    #[arg(long, default_value_t = Dtype::Auto)]
    dtype: Dtype,
    /// Also write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the report to this file, as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Also write the lowered programs to this folder: every call with its tensors, as text; those for Tenstorrent cards as JSON, too.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

pub fn run(options: Options) -> anyhow::Result<()> {
    options.json.iter().chain(&options.markdown).try_for_each(|path| files::try_file(path))?;
    options.programs.iter().try_for_each(|folder| files::try_folder(folder))?;
    let checkpoint = options.checkpoint.as_deref().map(Checkpoint::open).transpose()?;
    let mut config = checkpoint.as_ref().map_or(options.preset.config(), |checkpoint| *checkpoint.config());
    let weights: &dyn Weights = checkpoint.as_ref().map_or(&RandomWeights, |checkpoint| checkpoint);
    config.denoising_steps = options.steps.unwrap_or(config.denoising_steps);

    let (name, card) = options.device.split_once(':').unwrap_or((&options.device, ""));
    let audited = match name {
        "tenstorrent" if options.without_card => {
            lowered(&config, &options, device::card_named(card)?.unwrap_or(Card::P150))?
        }
        "tenstorrent" => on_card(&config, &options, device::card_named(card)?, weights)?,
        "cuda" if options.without_card => lowered_for_gpu(&config, &options)?,
        "cuda" if options.programs.is_some() => bail!("--programs with --device cuda needs --without-card"),
        "cuda" if !options.mock => on_device(&config, &options, weights, true)?,
        _ if options.mock || options.without_card || options.programs.is_some() => {
            bail!("--mock is for --device tenstorrent, --without-card and --programs are for it and for cuda")
        }
        _ => on_device(&config, &options, weights, false)?,
    };
    let report = Report::of(&audited, config.denoising_steps);
    print!("{report}");
    if let Some(path) = &options.json {
        files::write(path, &format!("{:#}\n", report.to_json()))?;
    }
    if let Some(path) = &options.markdown {
        files::write(path, &report.to_markdown())?;
    }
    match report.is_whole() {
        true => Ok(()),
        false => bail!("not everything runs on the device: see the lines above"),
    }
}

/// Both graphs, as the device likes them best.
fn graphs(
    config: &PolicyConfig,
    options: &Options,
    rewrite: impl Fn(Graph) -> Result<Graph, GraphError>,
) -> Result<PolicyGraphs, GraphError> {
    PolicyGraphs::rewritten(config, options.cameras, &Intermediates::None, rewrite)
}

/// Compiles for a device that needs no more than to be opened; with `run`, what a first run prepares is looked at, too.
fn on_device(
    config: &PolicyConfig,
    options: &Options,
    weights: &dyn Weights,
    run: bool,
) -> anyhow::Result<Audited> {
    let device_options = DeviceOptions::cpu(0, options.dtype.precision_on(&options.device)?);
    let mut device = device::open(&options.device, device_options)?;
    let graphs = graphs(config, options, |graph| device.simplify(graph))?;
    let accounts = compile(&mut *device, &graphs, weights, run)?;
    Ok(Audited { device: device.describe(), graphs, accounts })
}

fn compile(
    device: &mut dyn Device,
    graphs: &PolicyGraphs,
    weights: &dyn Weights,
    run: bool,
) -> anyhow::Result<[Account; 2]> {
    let progress = Bar::default();
    let perceive = device.compile(&graphs.perceive, weights, &progress)?;
    let act = device.compile(&graphs.act, weights, &progress)?;
    if run {
        device.run(perceive)?;
        device.run(act)?;
    }
    Ok([device.account(perceive)?, device.account(act)?])
}

fn on_card(
    config: &PolicyConfig,
    options: &Options,
    card: Option<Card>,
    weights: &dyn Weights,
) -> anyhow::Result<Audited> {
    let open =
        TenstorrentOptions { card, mock: options.mock, evidence: true, ..TenstorrentOptions::default() };
    let mut device = TenstorrentDevice::open(open)?;
    let graphs = graphs(config, options, |graph| device.simplify(graph))?;
    let progress = Bar::default();
    let perceive = device.compile(&graphs.perceive, weights, &progress)?;
    let act = device.compile(&graphs.act, weights, &progress)?;
    if let Some(folder) = &options.programs {
        write_programs(folder, [device.program(perceive)?, device.program(act)?])?;
    }
    let accounts = [device.account(perceive)?, device.account(act)?];
    Ok(Audited { device: device.describe(), graphs, accounts })
}

fn lowered(config: &PolicyConfig, options: &Options, card: Card) -> anyhow::Result<Audited> {
    let graphs = graphs(config, options, tenstorrent::simplify)?;
    let (precisions, mut residents) = (Precisions::default(), Residents::new());
    let perceive = tenstorrent::lower(&graphs.perceive, &card, precisions, &mut residents)?;
    let act = tenstorrent::lower(&graphs.act, &card, precisions, &mut residents)?;
    if let Some(folder) = &options.programs {
        write_programs(folder, [&perceive, &act])?;
    }
    let account = |program: &Program| program.account(card.name.into(), &[]);
    let accounts = [account(&perceive), account(&act)];
    Ok(Audited { device: format!("tenstorrent {} (lowered only, not run)", card.name), graphs, accounts })
}

fn lowered_for_gpu(config: &PolicyConfig, options: &Options) -> anyhow::Result<Audited> {
    let graphs = graphs(config, options, cuda::simplify)?;
    let factors = device::cuda_factors(options.dtype.precision_on(&options.device)?);
    let mut residents = cuda::Residents::new();
    let perceive = cuda::lower(&graphs.perceive, factors, &mut residents)?;
    let act = cuda::lower(&graphs.act, factors, &mut residents)?;
    if let Some(folder) = &options.programs {
        for program in [&perceive, &act] {
            files::write(&folder.join(format!("{}.txt", program.name)), &program.to_string())?;
        }
    }
    let account = |program: &cuda::Program| program.account("a GPU".into(), "the lowered program", factors);
    let accounts = [account(&perceive), account(&act)];
    Ok(Audited { device: "cuda (lowered only, not run)".into(), graphs, accounts })
}

fn write_programs(folder: &Path, programs: [&Program; 2]) -> anyhow::Result<()> {
    for program in programs {
        files::write(&folder.join(format!("{}.txt", program.name)), &program.to_string())?;
        files::write(&folder.join(format!("{}.json", program.name)), &format!("{:#}\n", program.to_json()))?;
    }
    Ok(())
}
