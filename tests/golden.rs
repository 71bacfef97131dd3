//! Every component of pi0 and pi0.5 on the CPU device against the reference implementation: one test per component, so that a
//! failure says where. Each test covers every golden file and every instruction set of this machine.
//!
//! Tolerances: relative rms 1e-5 for values and 1e-4 (largest difference) for actions. Both sides compute in f32 with
//! sums in different orders; rounding grows with the depth of the model and stays well below these bounds, whereas the
//! smallest real mistakes seen so far (a wrong epsilon, a shifted position) are above 1e-3.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/model.rs"]
mod model;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use golden::{Golden, Tensor};
use model::{Difference, graphs, run};
use pi0_node::device::cpu::{Isa, Precision};
use pi0_node::graph::HostTensor;
use pi0_node::policy::Intermediates;

const RELATIVE_RMS: f64 = 1e-5;
const LARGEST_ACTION_DIFFERENCE: f64 = 1e-4;

/// A golden file and what this implementation makes of it, on one instruction set.
struct Case {
    name: String,
    golden: Golden,
    found: BTreeMap<String, Tensor>,
}

fn cases() -> &'static [Case] {
    static CASES: OnceLock<Vec<Case>> = OnceLock::new();
    CASES.get_or_init(|| {
        let combinations =
            golden::FILES.iter().flat_map(|file| Isa::available().into_iter().map(move |isa| (file, isa)));
        combinations
            .map(|(file, isa)| {
                let golden = Golden::load(file);
                let found = run(&golden, &graphs(&golden, &Intermediates::All), isa, Precision::F32);
                Case { name: format!("{file} ({isa})"), golden, found }
            })
            .collect()
    })
}

/// Compares every golden value whose name starts with one of `prefixes`; at least one per file must be there.
fn compare(prefixes: &[&str]) {
    compare_of(cases().iter(), prefixes);
}

fn compare_of(cases: impl Iterator<Item = &'static Case>, prefixes: &[&str]) {
    for case in cases {
        let mut compared = 0;
        for (name, expected) in &case.golden.outputs {
            if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                compare_one(case, name, expected);
                compared += 1;
            }
        }
        assert!(compared > 0, "{}: no golden value {prefixes:?}", case.name);
    }
}

fn compare_one(case: &Case, name: &str, expected: &Tensor) {
    let found =
        case.found.get(name).unwrap_or_else(|| panic!("{}: '{name}' is not among our values", case.name));
    let Difference { relative_rms, largest, .. } = model::difference(&case.golden, name, found, expected);
    println!("{} {name}: relative rms {relative_rms:.1e}, largest difference {largest:.1e}", case.name);
    assert!(relative_rms <= RELATIVE_RMS, "{} {name}: relative rms {relative_rms:e}", case.name);
    if name == "actions" {
        assert!(largest <= LARGEST_ACTION_DIFFERENCE, "{} {name}: largest difference {largest:e}", case.name);
    }
}

#[test]
fn vision_patch_embedding() {
    compare(&["patch_"]);
}

#[test]
fn vision_position_embedding() {
    compare(&["vis_embed_"]);
}

#[test]
fn vision_layers() {
    compare(&["vis_layer_"]);
}

#[test]
fn vision_output() {
    compare(&["vis_out_"]);
}

#[test]
fn projected_image_tokens() {
    compare(&["proj_"]);
}

#[test]
fn language_embedding() {
    compare(&["lang_embs"]);
}

#[test]
fn prefix_embedding() {
    compare(&["prefix_embs"]);
}

#[test]
fn prefix_mask_and_positions() {
    compare(&["prefix_pad_mask", "prefix_position_ids"]);
}

#[test]
fn kv_cache_of_every_layer() {
    compare(&["cache_k_", "cache_v_"]);
}

#[test]
fn prefix_output() {
    compare(&["prefix_out"]);
}

#[test]
fn suffix_embedding() {
    compare(&["suffix_embs_"]);
}

#[test]
fn condition_of_the_experts_norms() {
    compare_of(cases().iter().filter(|case| case.name.starts_with("pi05")), &["adarms_cond_"]);
}

#[test]
fn expert_output() {
    compare(&["expert_out_"]);
}

#[test]
fn denoising_times() {
    compare(&["time_"]);
}

#[test]
fn noisy_actions_of_every_step() {
    compare(&["x_t_"]);
}

#[test]
fn velocity_of_every_step() {
    compare(&["v_t_"]);
}

#[test]
fn actions() {
    compare(&["actions"]);
}

#[test]
fn every_golden_value_is_compared() {
    let prefixes = [
        "patch_",
        "vis_embed_",
        "vis_layer_",
        "vis_out_",
        "proj_",
        "lang_embs",
        "prefix_",
        "cache_",
        "suffix_embs_",
        "adarms_cond_",
        "expert_out_",
        "time_",
        "x_t_",
        "v_t_",
        "actions",
    ];
    for case in cases() {
        for name in case.golden.outputs.keys() {
            assert!(prefixes.iter().any(|prefix| name.starts_with(prefix)), "{}: {name}", case.name);
        }
    }
}

#[test]
fn actions_are_the_same_without_intermediate_values() {
    for case in cases().iter().filter(|case| case.name.contains("portable")) {
        let plain =
            run(&case.golden, &graphs(&case.golden, &Intermediates::None), Isa::Portable, Precision::F32);
        assert_eq!(plain.len(), 1);
        assert_eq!(plain["actions"].data, case.found["actions"].data, "{}", case.name);
    }
}

/// The control loop leaves absent cameras out instead of masking black images.
#[test]
fn leaving_an_absent_camera_out_gives_the_reference_s_actions() {
    let mut golden = Golden::load("pi0_cam_absent_mid");
    let expected = golden.outputs["actions"].numbers();
    let last = golden.inputs.remove("image_2").unwrap();
    golden.inputs.insert("image_1".into(), last);
    let mask = Tensor { shape: vec![1, 2], data: HostTensor::Bool(vec![true; 2]) };
    golden.inputs.insert("image_masks".into(), mask);
    let found = run(&golden, &graphs(&golden, &Intermediates::None), Isa::Portable, Precision::F32);
    let largest =
        found["actions"].numbers().iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(largest <= LARGEST_ACTION_DIFFERENCE, "{largest:e}");
}
