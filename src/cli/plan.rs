//! `pi0_node plan`: what a Tenstorrent card cannot be faster than, stage by stage, against the latency budget: whether it is
//! worth buying for so many cameras and denoising steps. Needs no card.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use serde_json::{Value, json};

use super::checkpoint::Preset;
use crate::device::tenstorrent::roofline::{CallCost, cost};
use crate::device::tenstorrent::{self, Card, Precisions, Program, Residents};
use crate::policy::{Checkpoint, Component, Intermediates, PolicyConfig, PolicyGraphs};

/// Say what a Tenstorrent card cannot be faster than: arithmetic and DRAM traffic of the lowered programs against the
/// vendor's peaks, stage by stage, and whether that leaves room in the latency budget.
///
/// These are bounds, not predictions: a card reaches a part of its peaks, and starting a program costs microseconds, which
/// --program-us puts in. `bench --device tenstorrent` measures.
#[derive(clap::Args)]
pub struct Options {
    /// Card: p150, n150 or n300; without it, all.
    #[arg(long, value_name = "CARD", value_parser = card)]
    device: Option<Card>,
    /// Checkpoint folder, for its sizes.
    #[arg(long, value_name = "DIR", conflicts_with = "preset")]
    checkpoint: Option<PathBuf>,
    /// Sizes of the model.
    #[arg(long, value_enum, default_value = "pi0")]
    preset: Preset,
    /// Cameras, 1 to 8; without it, 1, 2 and 3.
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..=8))]
    cameras: Option<usize>,
    /// Denoising steps, 1 to 1000; without it, the model's own.
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1000))]
    steps: Option<usize>,
    /// The latency budget.
    #[arg(long, value_name = "MS", default_value_t = 50.0)]
    budget_ms: f64,
    /// What a card reaches of its peaks, percent. 100 gives the bound itself.
    #[arg(long, value_name = "PERCENT", default_value_t = 100.0, value_parser = percent)]
    efficiency: f64,
    /// Time between the programs of a trace, microseconds. Nobody measured it here; 0 leaves it out.
    #[arg(long, value_name = "US", default_value_t = 0.0, value_parser = not_negative)]
    program_us: f64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn card(name: &str) -> Result<Card, String> {
    let name = name.trim_start_matches("tenstorrent:");
    Card::find(name).ok_or_else(|| format!("there is no card '{name}'; known are p150, n150 and n300"))
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value > 0.0 && value <= 100.0 => Ok(value),
        _ => Err("must be above 0 and at most 100".into()),
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..1e6).contains(&value) => Ok(value),
        _ => Err("must be a number that is not negative".into()),
    }
}

pub fn run(options: Options) -> anyhow::Result<()> {
    let mut config = match &options.checkpoint {
        Some(folder) => *Checkpoint::open(folder)?.config(),
        None => options.preset.config(),
    };
    config.denoising_steps = options.steps.unwrap_or(config.denoising_steps);
    let cards = options.device.map_or(vec![Card::P150, Card::N150], |card| vec![card]);
    let cameras = options.cameras.map_or(vec![1, 2, 3], |cameras| vec![cameras]);
    let mut plans = Vec::new();
    for card in &cards {
        for &cameras in &cameras {
            plans.push(Plan::of(&config, *card, cameras, &options)?);
        }
    }
    if options.json {
        println!("{:#}", plans.iter().map(Plan::to_json).collect::<Value>());
        return Ok(());
    }
    println!(
        "What these cards cannot be faster than (vendor's peaks, {:.0} % of them reached):\n",
        options.efficiency
    );
    println!(
        "{:<6}{:>8}{:>7}  {:<14}{:>9}{:>11}{:>11}{:>13}{:>11}",
        "card", "cameras", "steps", "stage", "programs", "GFLOP", "DRAM, MB", "bound by", "bound, ms"
    );
    plans.iter().for_each(Plan::print);
    Ok(())
}

/// The stages in which people think of an inference.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Siglip,
    Prefix,
    Steps,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Siglip, Self::Prefix, Self::Steps];

    fn of(component: Component) -> Self {
        match component {
            Component::PatchEmbedding | Component::SiglipBlocks | Component::Projector => Self::Siglip,
            Component::LanguageEmbedding | Component::PrefixMask | Component::PrefixLayers => Self::Prefix,
            _ => Self::Steps,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Siglip => "SigLIP",
            Self::Prefix => "prefix",
            Self::Steps => "denoising",
        }
    }
}

/// Sums over the calls of a stage.
#[derive(Clone, Copy, Default)]
struct Sums {
    cost: CallCost,
    programs: usize,
    bound_ms: f64,
    compute_bound_ms: f64,
}

/// One card with so many cameras.
struct Plan {
    card: Card,
    cameras: usize,
    steps: usize,
    stages: [Sums; 3],
    dram_bytes: usize,
    budget_ms: f64,
}

impl Plan {
    fn of(config: &PolicyConfig, card: Card, cameras: usize, options: &Options) -> anyhow::Result<Self> {
        let graphs = PolicyGraphs::rewritten(config, cameras, &Intermediates::None, tenstorrent::simplify)?;
        let mut residents = Residents::new();
        let mut plan = Self {
            card,
            cameras,
            steps: config.denoising_steps,
            stages: [Sums::default(); 3],
            dram_bytes: 0,
            budget_ms: options.budget_ms,
        };
        for graph in [graphs.perceive, graphs.act] {
            let program = tenstorrent::lower(&graph, &card, Precisions::default(), &mut residents)?;
            plan.dram_bytes += program.fixed_bytes();
            plan.add(&program, options);
        }
        Ok(plan)
    }

    fn add(&mut self, program: &Program, options: &Options) {
        for call in &program.calls {
            let stage = Stage::of(Component::of(&program.name, &call.node));
            let sums = &mut self.stages[stage as usize];
            let cost = cost(program, call);
            let programs = usize::from(call.operation != "ttnn.reshape");
            let (compute, bandwidth) = (cost.compute_ms(&self.card), cost.bandwidth_ms(&self.card));
            let reached = 100.0 / options.efficiency;
            sums.cost += cost;
            sums.programs += programs;
            sums.bound_ms += cost.bound_ms(&self.card) * reached + programs as f64 * options.program_us / 1e3;
            sums.compute_bound_ms += if compute > bandwidth { compute * reached } else { 0.0 };
        }
    }

    fn total_ms(&self) -> f64 {
        self.stages.iter().map(|sums| sums.bound_ms).sum()
    }

    fn verdict(&self) -> String {
        let (total, budget) = (self.total_ms(), self.budget_ms);
        let memory = match self.dram_bytes > self.card.dram_bytes {
            true => "; does not fit its DRAM",
            false => "",
        };
        if total > budget {
            format!("cannot meet {budget} ms{memory}")
        } else {
            format!("{budget} ms needs {:.0} % of this{memory}", 100.0 * total / budget)
        }
    }

    fn print(&self) {
        let name = self.card.name;
        for stage in Stage::ALL {
            let Sums { cost, programs, bound_ms, compute_bound_ms } = self.stages[stage as usize];
            let by = if compute_bound_ms > bound_ms / 2.0 { "arithmetic" } else { "DRAM" };
            println!(
                "{name:<6}{:>8}{:>7}  {:<14}{programs:>9}{:>11.1}{:>11.1}{by:>13}{bound_ms:>11.2}",
                self.cameras,
                self.steps,
                stage.name(),
                cost.flops / 1e9,
                cost.dram_bytes / 1e6
            );
        }
        println!(
            "{name:<6}{:>8}{:>7}  {:<14}{:>55.2}   {}\n",
            self.cameras,
            self.steps,
            "total",
            self.total_ms(),
            self.verdict()
        );
    }

    fn to_json(&self) -> Value {
        let stage = |stage: Stage| {
            let Sums { cost, programs, bound_ms, .. } = self.stages[stage as usize];
            json!({
                "stage": stage.name(),
                "programs": programs,
                "flops": cost.flops,
                "dram_bytes": cost.dram_bytes,
                "weight_bytes": cost.weight_bytes,
                "bound_ms": bound_ms,
            })
        };
        json!({
            "card": self.card.name,
            "cameras": self.cameras,
            "denoising_steps": self.steps,
            "stages": Stage::ALL.map(stage),
            "bound_ms": self.total_ms(),
            "budget_ms": self.budget_ms,
            "feasible": self.total_ms() <= self.budget_ms && self.dram_bytes <= self.card.dram_bytes,
            "resident_dram_bytes": self.dram_bytes,
        })
    }
}
