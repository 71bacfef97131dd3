//! `pi0_node plan`: how long a Tenstorrent card will take, stage by stage, against the latency budget: what it cannot be faster
//! than, what is predicted from published measurements with their error, what that is made of and what would change it. Needs
//! no card. The report itself is in `plan/report`; what a card's profiler measured stands beside it by `plan/measured`.

mod measured;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::bail;
use clap::builder::RangedU64ValueParser;
use serde_json::{Value, json};

use self::measured::Measured;
use self::report::{print_fit, print_heading};
use super::checkpoint::Preset;
use crate::device::tenstorrent::planner::measured::Expected;
use crate::device::tenstorrent::planner::work::Part;
use crate::device::tenstorrent::planner::{CallCost, Fit, Work, cost};
use crate::device::tenstorrent::program::{Call, TensorId};
use crate::device::tenstorrent::{self, Card, Precisions, Program, Residents, WeightTypes};
use crate::policy::{Checkpoint, Component, Intermediates, PolicyConfig, PolicyGraphs};

/// Predict how long a Tenstorrent card takes: the lowered programs by constants that are fitted to published measurements,
/// with the error that these make of runs they have not seen; beside that, what the card cannot be faster than.
///
/// Nobody measured these programs: `bench --device tenstorrent` does. --fit shows the measurements, the constants and their
/// errors; the prediction for another kind of card than the measured P150 is scaled by clock and bandwidth alone.
#[derive(clap::Args)]
pub struct Options {
    /// Card: p150, n150 or n300, which is planned as an n150; without it, p150 and n150.
    #[arg(long, value_name = "CARD", value_parser = card)]
    device: Option<Card>,
    /// Columns and rows of cores, if fewer than the card's kind has: 11x10.
    #[arg(long, value_name = "XxY", value_parser = grid)]
    grid: Option<[usize; 2]>,
    /// Checkpoint folder, for its sizes.
    #[arg(long, value_name = "DIR", conflicts_with = "preset")]
    checkpoint: Option<PathBuf>,
    /// Sizes of the model.
    #[arg(long, value_enum, default_value = "pi0")]
    preset: Preset,
    /// Cameras, 1 to 8; without it, 1, 2 and 3.
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..=8))]
    cameras: Option<usize>,
    /// Denoising steps, 1 to 50; without it, the model's own.
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..=50))]
    steps: Option<usize>,
    /// Types of large weights: bfloat8_b, mixed or bfloat16.
    #[arg(long, value_name = "TYPES", default_value = WeightTypes::default().name())]
    weights: WeightTypes,
    /// The latency budget.
    #[arg(long, value_name = "MS", default_value_t = 50.0, value_parser = milliseconds)]
    budget_ms: f64,
    /// Show what the constants are fitted to, and how well.
    #[arg(long)]
    fit: bool,
    /// Show the prediction for every kind of operation and shape, to lay beside what a profiler measured.
    #[arg(long)]
    operations: bool,
    /// What a card's profiler measured, to lay beside the prediction: the ops_perf_results_*.csv that tt-metal's profiler
    /// wrote of a run of the same model with as many cameras and steps.
    #[arg(long, value_name = "CSV", requires_all = ["device", "cameras"])]
    measured: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, conflicts_with_all = ["fit", "operations"])]
    json: bool,
}

fn card(name: &str) -> Result<Card, String> {
    let name = name.trim_start_matches("tenstorrent:");
    Card::find(name).ok_or_else(|| format!("there is no card '{name}'; known are p150, n150 and n300"))
}

fn grid(text: &str) -> Result<[usize; 2], String> {
    let sides = text.split_once('x').and_then(|(x, y)| Some([x.parse().ok()?, y.parse().ok()?]));
    match sides {
        // Norms of few rows take four rows of eight cores.
        Some([x, y]) if (8..=32).contains(&x) && (4..=32).contains(&y) => Ok([x, y]),
        _ => Err("must be columns x rows of cores, at least 8x4: 11x10".into()),
    }
}

fn milliseconds(text: &str) -> Result<f64, String> {
    let found = text.parse().ok().filter(|ms: &f64| ms.is_finite() && *ms > 0.0);
    found.ok_or_else(|| "must be milliseconds, more than 0".into())
}

pub fn run(options: Options) -> anyhow::Result<()> {
    let mut config = match &options.checkpoint {
        Some(folder) => *Checkpoint::open(folder)?.config(),
        None => options.preset.config(),
    };
    config.denoising_steps = options.steps.unwrap_or(config.denoising_steps);
    let cards = options.device.map_or(vec![Card::P150, Card::N150], |card| vec![card]);
    if let Some([x, y]) = options.grid
        && let Some(card) = cards.iter().find(|card| x > card.grid[0] || y > card.grid[1])
    {
        let [most_x, most_y] = card.grid;
        bail!("--grid {x}x{y}: a {} has {most_x}x{most_y} cores; name the card with --device", card.name);
    }
    let cameras = options.cameras.map_or(vec![1, 2, 3], |cameras| vec![cameras]);
    let fit = Fit::kept()?;
    let mut plans = Vec::new();
    for card in &cards {
        let card = Card { grid: options.grid.unwrap_or(card.grid), ..*card };
        for &cameras in &cameras {
            plans.push(Plan::of(&config, card, cameras, options.weights, &fit, options.budget_ms)?);
        }
    }
    // One card and one number of cameras, so one plan.
    let table = options.measured.as_deref().zip(plans.first());
    let measured = table.map(|(path, plan)| Measured::of(plan, path)).transpose()?;
    if options.json {
        let mut json = plans.iter().map(Plan::to_json).collect::<Value>();
        if let Some(measured) = &measured {
            json[0]["measured"] = measured.to_json();
        }
        println!("{json:#}");
        return Ok(());
    }
    print_heading(&fit);
    if options.fit {
        print_fit(&fit);
    }
    for plan in &plans {
        plan.print();
        plan.print_changes(&config, options.weights, &fit)?;
        if options.operations {
            plan.print_operations();
        }
    }
    if let Some(measured) = &measured {
        measured.print();
    }
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
#[derive(Clone, Default)]
struct Sums {
    cost: CallCost,
    work: Work,
    programs: usize,
    bound_ms: f64,
}

/// One card with so many cameras.
struct Plan {
    card: Card,
    cameras: usize,
    weights: WeightTypes,
    steps: usize,
    stages: [Sums; 3],
    dram_bytes: usize,
    budget_ms: f64,
    /// Microseconds of each part of the work.
    parts_us: [f64; Part::ALL.len()],
    predicted_ms: [f64; 3],
    /// Relative, up and down.
    margin: f64,
    /// Both programs by name, with what the card starts for them, in order.
    programs: Vec<(String, Vec<Planned>)>,
    /// Microseconds between two programs.
    gap_us: f64,
}

/// A call for which the card starts a program.
struct Planned {
    kind: Kind,
    expected: Expected,
    /// Microseconds, its start among them.
    us: f64,
}

/// Stage, operation and what it reads: calls of one kind cost about the same.
type Kind = (&'static str, &'static str, String);

impl Plan {
    fn of(
        config: &PolicyConfig,
        card: Card,
        cameras: usize,
        weights: WeightTypes,
        fit: &Fit,
        budget_ms: f64,
    ) -> anyhow::Result<Self> {
        let graphs = PolicyGraphs::rewritten(config, cameras, &Intermediates::None, tenstorrent::simplify)?;
        let mut residents = Residents::new();
        let (mut stages, mut dram_bytes) = (std::array::from_fn(|_| Sums::default()), 0);
        let mut programs = Vec::new();
        for graph in [graphs.perceive, graphs.act] {
            let program = tenstorrent::lower(&graph, &card, Precisions { weights }, &mut residents)?;
            dram_bytes += program.fixed_bytes();
            programs.push((program.name.clone(), add(&mut stages, &program, &card, fit)));
        }
        let mut work = Work::default();
        stages.iter().for_each(|sums| work += sums.work.clone());
        let predicted_ms = stages.each_ref().map(|sums| fit.time_us(&sums.work) / 1e3);
        Ok(Self {
            card,
            cameras,
            weights,
            steps: config.denoising_steps,
            stages,
            dram_bytes,
            budget_ms,
            parts_us: fit.parts_us(&work),
            predicted_ms,
            margin: fit.margin(),
            programs,
            gap_us: fit.constants[Part::Gaps as usize],
        })
    }

    /// How many calls of each kind there are, and microseconds for all of them.
    fn operations(&self) -> BTreeMap<&Kind, (usize, f64)> {
        let mut found = BTreeMap::new();
        for planned in self.programs.iter().flat_map(|(_, program)| program) {
            let (calls, us) = found.entry(&planned.kind).or_insert((0, 0.0));
            *calls += 1;
            *us += planned.us;
        }
        found
    }

    fn bound_ms(&self) -> f64 {
        self.stages.iter().map(|sums| sums.bound_ms).sum()
    }

    fn predicted(&self) -> f64 {
        self.predicted_ms.iter().sum()
    }

    /// From and to.
    fn range(&self) -> [f64; 2] {
        [self.predicted() * (1.0 - self.margin), self.predicted() * (1.0 + self.margin)]
    }

    fn verdict(&self) -> String {
        let ([low, high], budget) = (self.range(), self.budget_ms);
        let memory = match self.dram_bytes > self.card.dram_bytes {
            true => "; does not fit its DRAM",
            false => "",
        };
        let verdict = match () {
            () if self.bound_ms() > budget => "cannot meet",
            () if low > budget => "will hardly meet",
            () if high > budget => "may or may not meet",
            () => "should meet",
        };
        format!("{verdict} {budget} ms{memory}")
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
                "predicted_ms": self.predicted_ms[stage as usize],
            })
        };
        let parts = Part::ALL
            .iter()
            .map(|&part| json!({ "part": part.name(), "predicted_ms": self.parts_us[part as usize] / 1e3 }));
        json!({
            "card": self.card.name,
            "grid": self.card.grid,
            "cameras": self.cameras,
            "weights": self.weights.name(),
            "denoising_steps": self.steps,
            "stages": Stage::ALL.map(stage),
            "bound_ms": self.bound_ms(),
            "predicted_ms": self.predicted(),
            "predicted_range_ms": self.range(),
            "parts": parts.collect::<Value>(),
            "budget_ms": self.budget_ms,
            "feasible": self.bound_ms() <= self.budget_ms && self.dram_bytes <= self.card.dram_bytes,
            "resident_dram_bytes": self.dram_bytes,
        })
    }
}

/// Adds a program's calls to the stages; gives those for which the card starts a program.
fn add(stages: &mut [Sums; 3], program: &Program, card: &Card, fit: &Fit) -> Vec<Planned> {
    let mut started = Vec::new();
    for call in &program.calls {
        let stage = Stage::of(Component::of(&program.name, &call.node));
        let sums = &mut stages[stage as usize];
        let (cost, work) = (cost(program, call), Work::of_call(program, call, card).in_a_trace());
        if call.viewed().is_none() {
            let us = fit.time_us(&work);
            let kind = (stage.name(), call.operation, shapes(program, call));
            started.push(Planned { kind, expected: expected(program, call), us });
        }
        sums.cost += cost;
        sums.work += work;
        sums.programs += usize::from(call.viewed().is_none());
        sums.bound_ms += cost.bound_ms(card);
    }
    started
}

/// Of the first two things that a call reads.
fn shapes(program: &Program, call: &Call) -> String {
    let read = call.reads().into_iter().map(|id| format!("{:?}", program.tensor(id).shape));
    read.take(2).collect::<Vec<_>>().join(" ")
}

/// What a profiler's row of this call would say.
fn expected(program: &Program, call: &Call) -> Expected {
    let is_product = call.operation.contains("matmul") || call.operation == "ttnn.linear";
    let sides = |id: TensorId| match program.tensor(id).shape[..] {
        [.., rows, columns] => Some([rows, columns]),
        _ => None,
    };
    let input = call.reads().first().copied().filter(|_| is_product).and_then(sides);
    Expected { operation: call.operation, input }
}
