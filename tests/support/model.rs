//! Runs both programs of a golden model on the CPU, and measures how far values are apart. Used by the tests that compare
//! with the reference.

#![allow(dead_code, reason = "every test file uses a part of this")]

use std::collections::BTreeMap;

use pi0_node::device::cpu::{CpuDevice, Isa, Precision};
use pi0_node::device::{Device, DeviceOptions, ProgramId, Silent};
use pi0_node::graph::{Binding, Graph, HostTensor};
use pi0_node::policy::intermediates::in_golden_layout;
use pi0_node::policy::{Intermediates, PolicyGraphs};
pub use pi0_node::verify::Difference;

use super::golden::{Golden, Tensor};

pub fn cameras(golden: &Golden) -> usize {
    (0..).take_while(|camera| golden.inputs.contains_key(&format!("image_{camera}"))).count()
}

pub fn graphs(golden: &Golden, intermediates: &Intermediates) -> PolicyGraphs {
    PolicyGraphs::build(&golden.config, cameras(golden), intermediates).unwrap()
}

/// Both programs on the golden inputs; every output in the golden layout.
pub fn run(
    golden: &Golden,
    graphs: &PolicyGraphs,
    isa: Isa,
    precision: Precision,
) -> BTreeMap<String, Tensor> {
    let mut device = CpuDevice::with_isa(DeviceOptions::cpu(2, precision), isa).unwrap();
    let programs =
        [&graphs.perceive, &graphs.act].map(|graph| (device.compile(graph, golden, &Silent).unwrap(), graph));
    let mut found = BTreeMap::new();
    // Twice, because the second run finds buffers as the first one left them.
    for _ in 0..2 {
        for (program, graph) in programs {
            for (_, value) in graph.inputs() {
                device.write(program, &value.name, golden.inputs[&value.name].data.view()).unwrap();
            }
            device.run(program).unwrap();
            for binding in &graph.outputs {
                found.insert(binding.name.clone(), read(&mut device, program, graph, binding, golden));
            }
        }
    }
    found
}

fn read(
    device: &mut CpuDevice,
    program: ProgramId,
    graph: &Graph,
    binding: &Binding,
    golden: &Golden,
) -> Tensor {
    let ty = &graph.value(binding.value).ty;
    let mut data = HostTensor::zeros(ty);
    device.read(program, &binding.name, &mut data).unwrap();
    match data {
        HostTensor::F32(values) => {
            let (shape, values) = in_golden_layout(&golden.config, &binding.name, &ty.shape, values);
            Tensor { shape, data: HostTensor::F32(values) }
        }
        data => Tensor { shape: [&[1], &ty.shape[..]].concat(), data },
    }
}

/// How far a value `name` is from what is expected of it, on the tokens that count: what masked ones hold is nobody's
/// business, since no valid token sees them.
pub fn difference(golden: &Golden, name: &str, found: &Tensor, expected: &Tensor) -> Difference {
    assert_eq!(found.shape, expected.shape, "shape of {name}");
    let rows = valid_rows(golden, name, expected);
    let width = *expected.shape.last().unwrap();
    let pairs: Vec<(f64, f64)> = found
        .numbers()
        .into_iter()
        .zip(expected.numbers())
        .enumerate()
        .filter(|(index, _)| rows.as_ref().is_none_or(|rows| rows[index / width % rows.len()]))
        .map(|(_, pair)| pair)
        .collect();
    Difference::of(&pairs)
}

/// Which values of a chunk that continues another are compared: the flow, step by step, and what comes of it.
fn is_of_flow(name: &str) -> bool {
    name.starts_with("x_t_") || name.starts_with("v_t_") || name == "actions"
}

/// The flow of such a chunk must be the reference's, to a relative rms of `allowed`.
pub fn assert_flow(golden: &Golden, file: &str, found: &BTreeMap<String, Tensor>, allowed: f64) {
    for (name, expected) in golden.outputs.iter().filter(|(name, _)| is_of_flow(name)) {
        let Difference { relative_rms, .. } = difference(golden, name, &found[name], expected);
        assert!(relative_rms <= allowed, "{file} {name}: {relative_rms:e}");
    }
}

/// A golden model whose first points are given, and what the CPU makes of it: the reference has such chunks of pi0.5 alone.
pub fn with_given_points(file: &str) -> (Golden, BTreeMap<String, Tensor>) {
    let mut golden = Golden::load(file);
    golden.give_points(4);
    let graphs = graphs(&golden, &Intermediates::None);
    let expected = run(&golden, &graphs, Isa::Portable, Precision::F32);
    (golden, expected)
}

/// Which tokens of a prefix value count; `None` for values that have no masked tokens.
fn valid_rows(golden: &Golden, name: &str, expected: &Tensor) -> Option<Vec<bool>> {
    let masked = name.starts_with("cache_") || name == "prefix_out";
    if !masked {
        return None;
    }
    let HostTensor::Bool(mask) = &golden.outputs["prefix_pad_mask"].data else { panic!("the mask is bool") };
    assert!(expected.shape[expected.shape.len() - 2] == mask.len());
    Some(mask.clone())
}
