//! The lowering to Tenstorrent cards against the reference implementation, without a card: lowered programs are run op by
//! op through Tenstorrent's own definitions of the operations (tests/tenstorrent/golden.py) on the golden models.
//!
//! In f32 a program must give the reference's values to 1e-5: every transposition, head split, mask, rotary table, padded
//! row and folded constant is right, and so is how a chunk continues another. Rounded as on a card (bfloat16 between operations,
//! bfloat8_b weights, keys and values) each value must correlate with the reference to 0.999, a guided velocity to 0.998, since guidance
//! makes small differences of chunks large. It needs PyTorch, so `cargo xtask test --tt-golden` asks for it by a variable.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/model.rs"]
mod model;

#[path = "support/lowered.rs"]
mod lowered;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use golden::{Golden, Tensor};
use model::Difference;
use pi0_node::device::cpu::{Isa, Precision};
use pi0_node::device::tenstorrent::{Card, DataType, Program};
use pi0_node::graph::Graph;
use pi0_node::policy::Intermediates;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

/// A Python with PyTorch, ttnn and safetensors.
const PYTHON: &str = "PI0_TTNN_GOLDEN_PYTHON";
const F32_RELATIVE_RMS: f64 = 1e-5;
const GUIDED_VELOCITY_CORRELATION: f64 = 0.998;
/// As golden.py computes, and how well every value must correlate with the reference: as on a card, with weights, keys and values in
/// bfloat16 too, with activations in bfloat8_b too.
const PRECISIONS: [(&str, f64); 4] =
    [("f32", 0.999), ("card", 0.999), ("weights", 0.9999), ("activations", 0.99)];

/// Every output of both programs in the golden layout.
fn run(
    golden: &Golden,
    programs: &[(Graph, Program); 2],
    precision: &str,
    python: &Path,
) -> BTreeMap<String, Tensor> {
    let folder = tempfile::tempdir().unwrap();
    let mut all = BTreeMap::new();
    for (graph, program) in programs {
        let path = folder.path().join(format!("{}.json", program.name));
        std::fs::write(path, program.to_json().to_string()).unwrap();
        let uploads = lowered::uploads(golden, graph, program);
        for ((id, tensor), values) in
            program.ids().filter_map(|found| Some((found, uploads.get(&found.0.0)?)))
        {
            let whole = tensor.dtype == DataType::Uint32;
            let (dtype, bytes): (_, Vec<u8>) = match whole {
                true => (Dtype::I64, values.iter().flat_map(|&x| (x as i64).to_le_bytes()).collect()),
                false => (Dtype::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            };
            all.insert(format!("{}.{}", program.name, id.0), (dtype, tensor.shape.clone(), bytes));
        }
    }
    let views = all.iter().map(|(name, (dtype, shape, bytes))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.path().join("tensors.safetensors")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tenstorrent/golden.py");
    let output = Command::new(python).arg(script).arg(folder.path()).arg(precision).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let bytes = std::fs::read(folder.path().join("results.safetensors")).unwrap();
    let results = SafeTensors::deserialize(&bytes).unwrap();
    let mut found = BTreeMap::new();
    for both in programs {
        let physical: BTreeMap<u32, Vec<f32>> = both
            .1
            .outputs
            .iter()
            .map(|output| {
                let view = results.tensor(&format!("{}.{}", both.1.name, output.tensor.0)).unwrap();
                let words = view.data().as_chunks::<4>().0.iter();
                (output.tensor.0, words.map(|&bytes| f32::from_le_bytes(bytes)).collect())
            })
            .collect();
        found.append(&mut lowered::outputs(golden, both, |id| &physical[&id]));
    }
    found
}

fn python() -> Option<std::path::PathBuf> {
    let found = std::env::var_os(PYTHON).map(Into::into);
    if found.is_none() {
        println!("skipped: {PYTHON} is not set; `cargo xtask test --tt-golden` sets it");
    }
    found
}

/// Guided as the reference does it, step by step, and with given points as the CPU device does it: of these the reference has
/// chunks of pi0.5 alone.
#[test]
fn chunks_that_continue_another_do_too() {
    let Some(python) = python() else { return };
    let mut wrong = Vec::new();
    for file in golden::CONTINUED {
        let mut golden = Golden::load(file);
        let reference = golden.outputs.clone();
        let guided = lowered::lowered(&golden, &Card::P150, &Intermediates::All);
        let found = ["f32", "card"].map(|precision| run(&golden, &guided, precision, &python));
        let compared =
            |name: &String| name.starts_with("x_t_") || name.starts_with("v_t_") || name == "actions";
        for name in reference.keys().filter(|name| compared(name)) {
            let both =
                [0, 1].map(|which| model::difference(&golden, name, &found[which][name], &reference[name]));
            check(&mut wrong, &format!("{file} {name}"), both);
        }

        golden.give_points(4);
        let graphs = model::graphs(&golden, &Intermediates::None);
        let expected = &model::run(&golden, &graphs, Isa::Portable, Precision::F32)["actions"];
        let given = lowered::lowered(&golden, &Card::P150, &Intermediates::None);
        let both = ["f32", "card"].map(|precision| {
            model::difference(
                &golden,
                "actions",
                &run(&golden, &given, precision, &python)["actions"],
                expected,
            )
        });
        check(&mut wrong, &format!("{file} with given points, actions"), both);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Of a chunk that continues another: in f32, and rounded as on a card.
fn check(wrong: &mut Vec<String>, what: &str, [exact, rounded]: [Difference; 2]) {
    let line = format!(
        "{what}: relative rms in f32 {:.1e}, correlation on a card {:.6}",
        exact.relative_rms, rounded.correlation
    );
    println!("{line}");
    let least = if what.contains(" v_t_") { GUIDED_VELOCITY_CORRELATION } else { PRECISIONS[1].1 };
    if exact.relative_rms > F32_RELATIVE_RMS || rounded.correlation < least {
        wrong.push(line);
    }
}

#[test]
fn lowered_programs_compute_what_the_reference_does() {
    let Some(python) = python() else { return };
    let mut wrong = Vec::new();
    for file in golden::FILES {
        let golden = Golden::load(file);
        let programs = lowered::lowered(&golden, &Card::P150, &Intermediates::All);
        for (precision, correlated) in PRECISIONS {
            let found = run(&golden, &programs, precision, &python);
            for (name, expected) in &golden.outputs {
                if name.starts_with("time_") || name.starts_with("adarms_cond_") {
                    continue; // Known when the graph is built; no card computes it.
                }
                let found =
                    found.get(name).unwrap_or_else(|| panic!("{file}: '{name}' is not among our values"));
                let Difference { relative_rms, correlation, .. } =
                    model::difference(&golden, name, found, expected);
                println!(
                    "{file} {precision} {name}: relative rms {relative_rms:.1e}, correlation {correlation:.6}"
                );
                let right = match precision {
                    "f32" => relative_rms <= F32_RELATIVE_RMS,
                    _ => correlation >= correlated,
                };
                if !right {
                    wrong.push(format!("{file} {precision} {name}: {relative_rms:.1e}, {correlation:.6}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
