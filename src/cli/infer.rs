//! `pi0_node infer`: one shot, files in, files out. It works on normalised values, so it needs neither normalisation
//! statistics nor a tokenizer; it is how this implementation is compared with any other.

mod inputs;
mod outputs;
mod rtc;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::builder::RangedU64ValueParser;

use self::inputs::Inputs;
use self::outputs::{Output, make_room, save};
use super::progress::Bar;
use crate::device::cpu::{Dtype, Precision};
use crate::device::{self, Device, DeviceOptions, ProgramId};
use crate::graph::{Graph, HostTensor};
use crate::policy::{ACTIONS, Checkpoint, Intermediates, PolicyConfig, PolicyGraphs};

/// Run the model once on normalised values from a safetensors file.
///
/// Input tensors (a leading batch axis of 1 is allowed): image_0, image_1, .. f32 [3,H,W] in [-1,1]; image_masks
/// bool [images]; tokens i32 or i64 [L]; token_mask bool [L]; state f32 [S] (pi0.5 has it in the tokens, and none here is
/// needed); noise f32 [H,A]; and, for a chunk that continues another (real-time chunking), previous_chunk f32 of at most [H,A], its first
/// point that of the new chunk. The output file holds
/// actions f32 [1,H,A] in normalised units, and the intermediate values asked for.
#[derive(clap::Args)]
pub struct Options {
    /// Checkpoint folder: config.json and safetensors files.
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// Safetensors file with the inputs.
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
    /// Safetensors file to write. One that is there is removed first: after an error there is none.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Intermediate values to write as well: `all`, or names such as prefix_embs,cache_k_0,v_t_3.
    #[arg(long, value_name = "NAMES", default_value = "")]
    values: String,
    /// Device that runs the model: what the parameter `device` takes.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// How the CPU or a GPU stores weights and what they are multiplied with: f32, the reference, or bf16.
    #[arg(long, default_value_t = Dtype::Is(Precision::F32))]
    dtype: Dtype,
    /// Threads of the CPU device, at most 1024; 0 means one per core.
    #[arg(long, default_value_t = 0, value_parser = RangedU64ValueParser::<usize>::new().range(0..=1024))]
    threads: usize,
    #[command(flatten)]
    rtc: rtc::RtcOptions,
}

pub fn run(options: Options) -> anyhow::Result<()> {
    make_room(&options.output, &options.inputs, &options.checkpoint)?;
    let checkpoint = Checkpoint::open(&options.checkpoint)?;
    let inputs = Inputs::load(&options.inputs, checkpoint.config(), &options.rtc)?;
    let config = &PolicyConfig { continuation: inputs.continuation(), ..*checkpoint.config() };
    let wanted = Intermediates::parse(&options.values);
    check_names(&wanted, &PolicyGraphs::as_written(config, inputs.cameras(), &wanted)?)?;
    let mut device = device::open(
        &options.device,
        DeviceOptions::cpu(options.threads, options.dtype.precision_on(&options.device)?),
    )?;
    let graphs = PolicyGraphs::rewritten(config, inputs.cameras(), &wanted, |graph| device.simplify(graph))?;
    let progress = Bar::default();
    let perceive = device.compile(&graphs.perceive, &checkpoint, &progress)?;
    let act = device.compile(&graphs.act, &checkpoint, &progress)?;
    let mut outputs = Vec::new();
    for (program, graph) in [(perceive, &graphs.perceive), (act, &graphs.act)] {
        outputs.extend(run_one(&mut *device, program, graph, &inputs)?);
    }
    outputs.iter_mut().for_each(|output| output.make_golden(config));
    check_finite(&outputs)?;
    save(&options.output, &outputs, &device.describe())
        .with_context(|| format!("cannot write {}", options.output.display()))?;
    eprintln!("{} tensors written to {}", outputs.len(), options.output.display());
    Ok(())
}

/// Refuses names that no intermediate value has.
fn check_names(wanted: &Intermediates, graphs: &PolicyGraphs) -> anyhow::Result<()> {
    let Intermediates::Named(names) = wanted else {
        return Ok(());
    };
    let outputs = || graphs.perceive.outputs.iter().chain(&graphs.act.outputs);
    let unknown: Vec<&str> = names
        .iter()
        .filter(|&name| outputs().all(|output| output.name != *name))
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        bail!(
            "--values: the model has no {}; `--values all` writes every value there is",
            unknown.join(", ")
        );
    }
    Ok(())
}

/// Writes a program's inputs, runs it, reads its outputs.
fn run_one(
    device: &mut dyn Device,
    program: ProgramId,
    graph: &Graph,
    inputs: &Inputs,
) -> anyhow::Result<Vec<Output>> {
    for (_, value) in graph.inputs() {
        device.write(program, &value.name, inputs.get(&value.name)?)?;
    }
    device.run(program)?;
    graph
        .outputs
        .iter()
        .map(|binding| {
            let ty = &graph.value(binding.value).ty;
            let mut data = HostTensor::zeros(ty);
            device.read(program, &binding.name, &mut data)?;
            Ok(Output { name: binding.name.clone(), shape: ty.shape.clone(), data })
        })
        .collect()
}

/// A checkpoint with wild weights may overflow; such actions must not look like a result.
fn check_finite(outputs: &[Output]) -> anyhow::Result<()> {
    for output in outputs.iter().filter(|output| output.name == ACTIONS) {
        if let HostTensor::F32(values) = &output.data
            && let Some(index) = values.iter().position(|value| !value.is_finite())
        {
            bail!("the model's actions are not finite (element {index}); check the checkpoint's weights");
        }
    }
    Ok(())
}
