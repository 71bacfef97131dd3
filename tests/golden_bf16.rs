//! The CPU's bf16 path against the reference in f32, next to the reference's own bf16 (PyTorch, RoPE in f32).

#[path = "support/golden.rs"]
mod golden;
#[path = "support/model.rs"]
mod model;

use golden::Golden;
use model::{Difference, graphs, run};
use pi0_node::device::cpu::{Isa, Precision};
use pi0_node::policy::Intermediates;

#[test]
fn every_component_is_as_close_to_f32_as_torch_in_bf16() {
    let (f32_golden, torch) = (Golden::load("pi0_bf16_f32ref"), Golden::load("pi0_bf16_ropef32"));
    let graphs = graphs(&f32_golden, &Intermediates::All);
    for isa in Isa::available() {
        let found = run(&f32_golden, &graphs, isa, Precision::Bf16);
        for (name, expected) in &f32_golden.outputs {
            let of = |tensor| Difference::of(&f32_golden, name, tensor, expected);
            let (ours, theirs) = (of(&found[name]), of(&torch.outputs[name]));
            println!(
                "{isa} {name}: {:.2e} {:.6}, torch {:.2e}",
                ours.relative_rms, ours.correlation, theirs.relative_rms
            );
        }
    }
}
