//! The CPU's bf16 path against the reference in f32, next to the reference's own bf16: every value, on every instruction
//! set.
//!
//! `pi0_bf16_all` and `pi05_bf16_all` are PyTorch with SigLIP, Gemma and the expert in bf16 and RoPE in f32; the robot's own projections
//! (state, actions, time; pi0.5's modulations of norms) are f32 there and here. Ours may be 1.5 times as far from f32 as that, or within the rounding
//! of f32 where PyTorch computes in f32 as well, and must correlate with f32 to 0.9995.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/model.rs"]
mod model;

use golden::Golden;
use model::{graphs, run};
use pi0_node::device::cpu::{Isa, Precision};
use pi0_node::policy::Intermediates;

const TIMES_TORCH: f64 = 1.5;
const F32_ROUNDING: f64 = 1e-5;
const CORRELATION: f64 = 0.9995;

#[test]
fn every_value_of_pi0_is_as_close_to_f32_as_torch_in_bf16() {
    as_close_as_torch("pi0");
}

#[test]
fn every_value_of_pi05_is_as_close_to_f32_as_torch_in_bf16() {
    as_close_as_torch("pi05");
}

fn as_close_as_torch(model: &str) {
    let load = |what: &str| Golden::load(&format!("{model}_bf16_{what}"));
    let (exact, torch) = (load("f32ref"), load("all"));
    let graphs = graphs(&exact, &Intermediates::All);
    for isa in Isa::available() {
        let found = run(&exact, &graphs, isa, Precision::Bf16);
        for (name, expected) in &exact.outputs {
            let from_exact = |tensor| model::difference(&exact, name, tensor, expected);
            let (ours, theirs) = (from_exact(&found[name]), from_exact(&torch.outputs[name]));
            println!("{isa} {name}: {:.1e}, torch {:.1e}", ours.relative_rms, theirs.relative_rms);
            let allowed = (TIMES_TORCH * theirs.relative_rms).max(F32_ROUNDING);
            assert!(ours.relative_rms <= allowed, "{isa} {name}: {:.2e} > {allowed:.2e}", ours.relative_rms);
            assert!(ours.correlation >= CORRELATION, "{isa} {name}: {}", ours.correlation);
        }
    }
}

/// A test of the test: bf16 was really used.
#[test]
fn bf16_is_not_f32() {
    let exact = Golden::load("pi0_bf16_f32ref");
    let graphs = graphs(&exact, &Intermediates::None);
    let error = |precision| {
        let found = run(&exact, &graphs, Isa::Portable, precision);
        model::difference(&exact, "actions", &found["actions"], &exact.outputs["actions"]).relative_rms
    };
    assert!(error(Precision::F32) < 1e-5);
    assert!(error(Precision::Bf16) > 1e-4);
}
