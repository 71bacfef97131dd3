//! `pi0_node audit`: which implementation runs each component of the model, where, and what crosses between host and device,
//! read off the compiled program.

mod report;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::builder::RangedU64ValueParser;

use self::report::{Audited, Report};
use super::checkpoint::Preset;
use super::progress::Bar;
use crate::device::cpu::Dtype;
use crate::device::tenstorrent::{
    self, Card, Precisions, Program, Residents, TenstorrentDevice, TenstorrentOptions,
};
use crate::device::{self, Account, Device, DeviceOptions};
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
    /// Device: cpu, tenstorrent, or tenstorrent:p150, :n150, :n300.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// The Tenstorrent card is a mock: the real library with a described card, which computes nothing.
    #[arg(long)]
    mock: bool,
    /// Only lower the model for the Tenstorrent card: needs neither card nor library, and nothing runs.
    #[arg(long, conflicts_with = "mock")]
    without_card: bool,
    /// How the CPU device stores weights and what they are multiplied with: bf16 or f32.
    #[arg(long, default_value_t = Dtype::Auto)]
    dtype: Dtype,
    /// Also write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the report to this file, as Markdown.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Also write the lowered Tenstorrent programs to this folder: every call with its tensors, as text and as JSON.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

pub fn run(options: Options) -> anyhow::Result<()> {
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
        _ if options.mock || options.without_card || options.programs.is_some() => {
            bail!("--mock, --without-card and --programs are for --device tenstorrent")
        }
        _ => on_cpu(&config, &options, weights)?,
    };
    let report = Report::of(&audited, config.denoising_steps);
    print!("{report}");
    if let Some(path) = &options.json {
        write(path, &format!("{:#}\n", report.to_json()))?;
    }
    if let Some(path) = &options.markdown {
        write(path, &report.to_markdown())?;
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

fn on_cpu(config: &PolicyConfig, options: &Options, weights: &dyn Weights) -> anyhow::Result<Audited> {
    let device_options = DeviceOptions::cpu(0, options.dtype.precision()?);
    let mut device = device::open(&options.device, device_options)?;
    let graphs = graphs(config, options, |graph| device.simplify(graph))?;
    let accounts = compile(&mut *device, &graphs, weights)?;
    Ok(Audited { device: device.describe(), graphs, accounts })
}

fn compile(
    device: &mut dyn Device,
    graphs: &PolicyGraphs,
    weights: &dyn Weights,
) -> anyhow::Result<[Account; 2]> {
    let progress = Bar::default();
    let perceive = device.compile(&graphs.perceive, weights, &progress)?;
    let act = device.compile(&graphs.act, weights, &progress)?;
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
    let account = |program: &Program| program.account(card.name.into(), &[], precisions.weights);
    let accounts = [account(&perceive), account(&act)];
    Ok(Audited { device: format!("tenstorrent {} (lowered only, not run)", card.name), graphs, accounts })
}

fn write_programs(folder: &Path, programs: [&Program; 2]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for program in programs {
        write(&folder.join(format!("{}.txt", program.name)), &program.to_string())?;
        write(&folder.join(format!("{}.json", program.name)), &format!("{:#}\n", program.to_json()))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
