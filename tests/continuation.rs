//! Chunks that continue the one before (real-time chunking): every denoising step against lerobot's, on every instruction set.
//!
//! Tolerances as in tests/golden.rs: both compute in f32.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/model.rs"]
mod model;

use golden::{CONTINUED, Golden, Tensor};
use model::{Difference, graphs, run};
use pi0_node::device::cpu::{Isa, Precision};
use pi0_node::graph::HostTensor;
use pi0_node::policy::{Continuation, Intermediates, PREFIX_WEIGHTS, PREVIOUS_CHUNK};

const RELATIVE_RMS: f64 = 1e-5;
const LARGEST_ACTION_DIFFERENCE: f64 = 1e-4;

fn numbers(values: &Tensor) -> Vec<f64> {
    values.numbers()
}

#[test]
fn weights_are_the_references() {
    for name in CONTINUED {
        let golden = Golden::load(name);
        let found = numbers(&golden.inputs[PREFIX_WEIGHTS]);
        let expected = numbers(&golden.outputs["prefix_weights"]);
        let largest = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(found.len() == expected.len() && largest < 1e-6, "{name}: {found:?} {expected:?}");
    }
}

#[test]
fn every_step_is_drawn_towards_the_chunk_before_as_in_the_reference() {
    for (name, isa) in
        CONTINUED.into_iter().flat_map(|name| Isa::available().into_iter().map(move |isa| (name, isa)))
    {
        let golden = Golden::load(name);
        let found = run(&golden, &graphs(&golden, &Intermediates::All), isa, Precision::F32);
        let mut steps = 0;
        for (value, expected) in &golden.outputs {
            if !(value.starts_with("x_t_") || value.starts_with("v_t_") || value == "actions") {
                continue;
            }
            let Difference { relative_rms, largest, .. } =
                model::difference(&golden, value, &found[value], expected);
            println!("{name} ({isa}) {value}: relative rms {relative_rms:.1e}, largest {largest:.1e}");
            assert!(relative_rms <= RELATIVE_RMS, "{name} ({isa}) {value}: relative rms {relative_rms:e}");
            assert!(
                value != "actions" || largest <= LARGEST_ACTION_DIFFERENCE,
                "{name} ({isa}): {largest:e}"
            );
            steps += 1;
        }
        assert_eq!(steps, 2 * golden.config.denoising_steps + 1, "{name}");
    }
}

#[test]
fn guidance_changes_what_it_should() {
    for name in CONTINUED {
        let golden = Golden::load(name);
        let apart = |a: &str, b: &str| model::difference(&golden, a, &golden.outputs[a], &golden.outputs[b]);
        let changed = apart("actions", "actions_without_guidance").relative_rms;
        assert!(
            changed > 1e-2,
            "{name}: the reference's chunk hardly differs, so nothing is tested: {changed}"
        );
    }
}

/// The model of a golden file, with another continuation and other weights.
fn actions(name: &str, continuation: Continuation, weights: &[f32], isa: Isa) -> Vec<f32> {
    let mut golden = Golden::load(name);
    golden.config.continuation = continuation;
    let shape = vec![golden.config.action_horizon, 1];
    golden
        .inputs
        .insert(PREFIX_WEIGHTS.to_owned(), Tensor { shape, data: HostTensor::F32(weights.to_vec()) });
    let graphs = graphs(&golden, &Intermediates::None);
    let HostTensor::F32(actions) = run(&golden, &graphs, isa, Precision::F32).remove("actions").unwrap().data
    else {
        panic!("actions are f32")
    };
    actions
}

#[test]
fn without_weights_the_bits_are_those_of_a_free_chunk() {
    for (name, isa) in
        CONTINUED.into_iter().flat_map(|name| Isa::available().into_iter().map(move |isa| (name, isa)))
    {
        let none = vec![0.0; Golden::load(name).config.action_horizon];
        let free = actions(name, Continuation::Free, &none, isa);
        for continuation in [Continuation::Guided { most: 10.0 }, Continuation::Given { most: 5 }] {
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            let found = actions(name, continuation, &none, isa);
            match continuation {
                Continuation::Guided { .. } => assert_eq!(bits(&found), bits(&free), "{name} ({isa})"),
                // The same sums in another order: the time's part of the bias is added for itself.
                _ => assert!(found.iter().zip(&free).all(|(a, b)| (a - b).abs() < 1e-5), "{name} ({isa})"),
            }
        }
    }
}

#[test]
fn given_points_come_out_as_they_were_given() {
    for (name, isa) in
        CONTINUED.into_iter().flat_map(|name| Isa::available().into_iter().map(move |isa| (name, isa)))
    {
        let golden = Golden::load(name);
        let (horizon, width) = (golden.config.action_horizon, golden.config.action_dim);
        let weights: Vec<f32> = (0..horizon).map(|point| f32::from(u8::from(point < 4))).collect();
        let found = actions(name, Continuation::Given { most: 5 }, &weights, isa);
        let HostTensor::F32(previous) = &golden.inputs[PREVIOUS_CHUNK].data else { panic!("f32") };
        assert_eq!(found[..4 * width], previous[..4 * width], "{name} ({isa})");
        let free = actions(name, Continuation::Free, &weights, isa);
        assert!(found[4 * width..].iter().zip(&free[4 * width..]).all(|(a, b)| a != b), "{name} ({isa})");
    }
}
