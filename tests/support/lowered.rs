//! Golden models lowered for a Tenstorrent card: programs, what the host puts into their tensors, and what their outputs
//! are in the golden files' layout. Used by the tests that run lowered programs, by Tenstorrent's definitions or by ours.

#![allow(dead_code, reason = "every test file uses a part of this")]

use std::collections::{BTreeMap, HashMap};

use pi0_node::device::tenstorrent::program::{Origin, Result as Placed};
use pi0_node::device::tenstorrent::{Card, Precisions, Program, Residents, WeightTypes, lower, simplify};
use pi0_node::graph::{DType, Graph, HostTensor};
use pi0_node::policy::intermediates::in_golden_layout;
use pi0_node::policy::{Intermediates, PolicyGraphs};

use super::golden::{Golden, Tensor};
use super::model::cameras;

/// Both programs with the graphs they were lowered from.
pub fn lowered(golden: &Golden, card: &Card, intermediates: &Intermediates) -> [(Graph, Program); 2] {
    let graphs = PolicyGraphs::rewritten(&golden.config, cameras(golden), intermediates, simplify).unwrap();
    let mut residents = Residents::new();
    [graphs.perceive, graphs.act].map(|graph| {
        // The coarsest: what is kept better only comes closer.
        let precisions = Precisions { weights: WeightTypes::Bfloat8B };
        let program = lower(&graph, card, precisions, &mut residents).unwrap();
        (graph, program)
    })
}

/// What the host has put into each tensor before a run, by its number: contents and golden inputs.
pub fn uploads(golden: &Golden, graph: &Graph, program: &Program) -> BTreeMap<u32, Vec<f32>> {
    let mut all = BTreeMap::new();
    for (id, tensor) in program.ids() {
        let values = match &tensor.origin {
            Origin::Content(content) => content.f32(graph, golden).unwrap(),
            Origin::Input(name) => input(program, name, &golden.inputs[name].numbers()),
            Origin::Resident(_) | Origin::Call => continue,
        };
        assert_eq!(values.len(), tensor.shape.iter().product::<usize>(), "{}", tensor.name);
        all.insert(id.0, values);
    }
    all
}

/// What an input's tensor holds when its values are `numbers`.
pub fn input(program: &Program, name: &str, numbers: &[f64]) -> Vec<f32> {
    let placed = program.inputs.iter().find(|input| input.name == name).unwrap();
    let mut physical = vec![0.0; placed.rows.physical * placed.columns.physical];
    each_place(placed, |index, place| physical[place] = numbers[index] as f32);
    physical
}

/// Every output of a program in the golden layout; `physical` gives a tensor's elements.
pub fn outputs<'a>(
    golden: &Golden,
    (graph, program): &(Graph, Program),
    physical: impl Fn(u32) -> &'a [f32],
) -> BTreeMap<String, Tensor> {
    let types: HashMap<&str, _> =
        graph.outputs.iter().map(|output| (output.name.as_str(), &graph.value(output.value).ty)).collect();
    let mut found = BTreeMap::new();
    for output in &program.outputs {
        let (ty, physical) = (types[output.name.as_str()], physical(output.tensor.0));
        let mut values = vec![0.0; ty.elements()];
        each_place(output, |index, place| values[index] = physical[place]);
        let batched = [&[1], &ty.shape[..]].concat();
        let tensor = match ty.dtype {
            DType::F32 => {
                let (shape, values) = in_golden_layout(&golden.config, &output.name, &ty.shape, values);
                Tensor { shape, data: HostTensor::F32(values) }
            }
            DType::I32 => Tensor {
                shape: batched,
                data: HostTensor::I32(values.iter().map(|&value| value as i32).collect()),
            },
            DType::Bool => Tensor {
                shape: batched,
                data: HostTensor::Bool(values.iter().map(|&value| value != 0.0).collect()),
            },
        };
        found.insert(output.name.clone(), tensor);
    }
    found
}

fn each_place(placed: &Placed, mut with: impl FnMut(usize, usize)) {
    for (line, row) in placed.rows.places().enumerate() {
        for (column, at) in placed.columns.places().enumerate() {
            with(line * placed.columns.logical + column, row * placed.columns.physical + at);
        }
    }
}
