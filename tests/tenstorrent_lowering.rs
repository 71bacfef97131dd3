//! The lowering to Tenstorrent cards against the reference implementation, on every machine: lowered programs of the golden
//! models run through plain definitions of TTNN's operations in f32 (tests/support/ttnn.rs).
//!
//! Tolerance: relative rms 1e-5, as for the CPU device; sums come in other orders. A wrong transposition, head split, mask,
//! rotary table, padded row or folded constant is far above that.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/lowered.rs"]
mod lowered;
#[path = "support/model.rs"]
mod model;
#[path = "support/ttnn.rs"]
mod ttnn;

use std::collections::{BTreeMap, HashMap};

use golden::{Golden, Tensor};
use model::Difference;
use pi0_node::device::cpu::{Isa, Precision};
use pi0_node::device::tenstorrent::{Card, Precisions, Program, Residents, lower, simplify};
use pi0_node::graph::{Graph, HostTensor};
use pi0_node::policy::{Continuation, Intermediates, PolicyConfig, PolicyGraphs};

const RELATIVE_RMS: f64 = 1e-5;

fn run(golden: &Golden, programs: &[(Graph, Program); 2]) -> BTreeMap<String, Tensor> {
    let (mut residents, mut found) = (HashMap::new(), BTreeMap::new());
    for both in programs {
        let (graph, program) = both;
        let arrays = ttnn::run(program, lowered::uploads(golden, graph, program), &mut residents);
        found.append(&mut lowered::outputs(golden, both, |id| &arrays[&id].data));
    }
    found
}

#[test]
fn every_value_of_every_component_is_the_reference_s() {
    let mut wrong = Vec::new();
    for file in golden::FILES {
        let golden = Golden::load(file);
        let found = run(&golden, &lowered::lowered(&golden, &Card::P150, &Intermediates::All));
        for (name, expected) in &golden.outputs {
            if name.starts_with("time_") || name.starts_with("adarms_cond_") {
                continue; // Known when the graph is built; no card computes it.
            }
            let found = found.get(name).unwrap_or_else(|| panic!("{file}: no '{name}'"));
            let Difference { relative_rms, .. } = model::difference(&golden, name, found, expected);
            println!("{file} {name}: relative rms {relative_rms:.1e}");
            if relative_rms > RELATIVE_RMS {
                wrong.push(format!("{file} {name}: {relative_rms:e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Without further outputs, more is folded and freed; memory choices differ between cards.
#[test]
fn actions_alone_are_the_reference_s_on_every_card() {
    for file in golden::FILES {
        let golden = Golden::load(file);
        for card in Card::ALL {
            let found = run(&golden, &lowered::lowered(&golden, &card, &Intermediates::None));
            assert_eq!(found.len(), 1);
            let expected = &golden.outputs["actions"];
            let Difference { relative_rms, .. } =
                model::difference(&golden, "actions", &found["actions"], expected);
            assert!(relative_rms <= RELATIVE_RMS, "{file} on {}: {relative_rms:e}", card.name);
        }
    }
}

#[test]
fn chunks_that_continue_another_are_the_reference_s() {
    for file in golden::CONTINUED {
        let golden = Golden::load(file);
        let found = run(&golden, &lowered::lowered(&golden, &Card::P150, &Intermediates::All));
        model::assert_flow(&golden, file, &found, RELATIVE_RMS);
    }
}

/// Against the CPU device: the reference's are among those above.
#[test]
fn chunks_with_given_points_are_those_of_the_cpu() {
    for file in golden::CONTINUED {
        let (golden, expected) = model::with_given_points(file);
        for card in Card::ALL {
            let found = run(&golden, &lowered::lowered(&golden, &card, &Intermediates::None));
            let Difference { relative_rms, .. } =
                model::difference(&golden, "actions", &found["actions"], &expected["actions"]);
            assert!(relative_rms <= RELATIVE_RMS, "{file} on {}: {relative_rms:e}", card.name);
        }
    }
}

/// The state's token lies in the padding of the action tokens; a chunk of whole tiles has none of its own.
#[test]
fn chunks_of_whole_tiles_have_room_for_the_state() {
    let mut golden = Golden::load(golden::FILES[0]);
    let points = 32;
    let noise = golden.inputs.get_mut("noise").unwrap();
    let HostTensor::F32(values) = &mut noise.data else { panic!("the noise is f32") };
    *values = values.iter().cycle().take(points * golden.config.action_dim).copied().collect();
    noise.shape = vec![1, points, golden.config.action_dim];
    golden.config.action_horizon = points;
    let expected = &model::run(
        &golden,
        &model::graphs(&golden, &Intermediates::None),
        Isa::Portable,
        Precision::F32,
    )["actions"];
    for card in Card::ALL {
        let found = run(&golden, &lowered::lowered(&golden, &card, &Intermediates::None));
        let Difference { relative_rms, .. } =
            model::difference(&golden, "actions", &found["actions"], expected);
        assert!(relative_rms <= RELATIVE_RMS, "{}: {relative_rms:e}", card.name);
    }
}

/// A test of the test.
#[test]
fn another_state_gives_other_actions() {
    let mut golden = Golden::load(golden::FILES[0]);
    let programs = lowered::lowered(&golden, &Card::P150, &Intermediates::None);
    let HostTensor::F32(state) = &mut golden.inputs.get_mut("state").unwrap().data else { panic!() };
    state[0] += 0.5;
    let found = run(&golden, &programs);
    let expected = &golden.outputs["actions"];
    assert!(model::difference(&golden, "actions", &found["actions"], expected).relative_rms > 1e-3);
}

#[test]
fn full_size_programs_are_as_small_as_documented() {
    let graphs = PolicyGraphs::rewritten(&PolicyConfig::PI0, 3, &Intermediates::None, simplify).unwrap();
    let mut residents = Residents::new();
    let perceive = lower(&graphs.perceive, &Card::P150, Precisions::default(), &mut residents).unwrap();
    let act = lower(&graphs.act, &Card::P150, Precisions::default(), &mut residents).unwrap();
    let programs = |program: &Program, prefix: &str| {
        let starts = |call: &&pi0_node::device::tenstorrent::program::Call| {
            call.viewed().is_none() && call.node.starts_with(prefix)
        };
        program.calls.iter().filter(starts).count()
    };
    // docs/tenstorrent.md says so, and counts as ttnn does.
    assert_eq!([programs(&perceive, ""), programs(&act, "steps.5."), programs(&act, "")], [571, 296, 2975]);
    assert_eq!(residents.len(), 2 * 18 + 1, "a key and a value per layer, and the mask");

    // Mixed types: SigLIP's weights take two bytes each, those of the prefix's MLP one and a sixteenth, as a step's.
    let weights = |program: &Program, prefix: &str, part: &str| -> usize {
        let steps = program.account("p150".into(), &[]).steps;
        let of_part = steps.iter().filter(|step| step.node.starts_with(prefix) && step.node.contains(part));
        of_part.filter_map(|step| step.weight_bytes).sum()
    };
    let (head, mlp) = (96, 4304_usize.next_multiple_of(32));
    let siglip = 27 * 1152 * (3 * 16 * head + 16 * head + 2 * mlp);
    assert_eq!(weights(&perceive, "vision.layers", ""), 2 * siglip);
    let block_float = |elements: usize| elements + elements / 16;
    assert_eq!(weights(&perceive, "vlm.layers", ".mlp"), block_float(17 * 3 * 2048 * 16384));
    assert_eq!(weights(&act, "steps.5.", ".mlp"), block_float(18 * 3 * 1024 * 4096));

    // What continuing a chunk costs: three programs in each step where it is guided, four where points are given; with adaRMS each
    // norm is computed for both times.
    let found = [
        (PolicyConfig::PI0, Continuation::Guided { most: 10.0 }),
        (PolicyConfig::PI05, Continuation::Free),
        (PolicyConfig::PI05, Continuation::Guided { most: 10.0 }),
        (PolicyConfig::PI0, Continuation::Given { most: 10 }),
        (PolicyConfig::PI05, Continuation::Given { most: 10 }),
    ]
    .map(|(config, continuation)| {
        let config = PolicyConfig { continuation, ..config };
        let graphs = PolicyGraphs::rewritten(&config, 3, &Intermediates::None, simplify).unwrap();
        let mut residents = Residents::new();
        lower(&graphs.perceive, &Card::P150, Precisions::default(), &mut residents).unwrap();
        let act = lower(&graphs.act, &Card::P150, Precisions::default(), &mut residents).unwrap();
        programs(&act, "steps.5.")
    });
    assert_eq!(found, [299, 293, 296, 300, 369]);
}
