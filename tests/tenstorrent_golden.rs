//! The lowering to Tenstorrent cards against the reference implementation, without a card: lowered programs are run op by
//! op through Tenstorrent's own definitions of the operations (tests/tenstorrent/golden.py) on the golden models.
//!
//! In f32 a program must give the reference's values to 1e-5: every transposition, head split, mask, rotary table, padded
//! row and folded constant is right. Rounded as on a card (bfloat16 between operations, bfloat8_b weights) each value must
//! correlate with the reference to 0.999. It needs PyTorch, so `cargo xtask test --tt-golden` asks for it by a variable.

#[path = "support/golden.rs"]
mod golden;
#[path = "support/model.rs"]
mod model;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::Command;

use golden::{Golden, Tensor};
use model::{Difference, cameras};
use pi0_node::device::tenstorrent::program::{Origin, Result as Placed};
use pi0_node::device::tenstorrent::{Card, Precisions, Program, Residents, lower, simplify};
use pi0_node::graph::{DType, Graph, HostTensor};
use pi0_node::policy::intermediates::in_golden_layout;
use pi0_node::policy::{Intermediates, PolicyGraphs};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

/// A Python with PyTorch, ttnn and safetensors.
const PYTHON: &str = "PI0_TTNN_GOLDEN_PYTHON";
const F32_RELATIVE_RMS: f64 = 1e-5;
const CARD_CORRELATION: f64 = 0.999;

/// Both programs with the graphs they were lowered from.
fn lowered(golden: &Golden, intermediates: &Intermediates) -> [(Graph, Program); 2] {
    let graphs = PolicyGraphs::as_written(&golden.config, cameras(golden), intermediates).unwrap();
    let mut residents = Residents::new();
    [graphs.perceive, graphs.act].map(|graph| {
        let graph = simplify(graph).unwrap();
        let program = lower(&graph, &Card::P150, Precisions::default(), &mut residents).unwrap();
        (graph, program)
    })
}

/// What the host uploads and writes, by program and tensor.
fn uploads(
    golden: &Golden,
    graph: &Graph,
    program: &Program,
) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let f32_bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let mut all = BTreeMap::new();
    for (id, tensor) in program.ids() {
        let (dtype, bytes) = match &tensor.origin {
            Origin::Content(content) => (Dtype::F32, f32_bytes(&content.f32(graph, golden).unwrap())),
            Origin::Input(name) => {
                let placed = program.inputs.iter().find(|input| input.name == *name).unwrap();
                let numbers = golden.inputs[name].numbers();
                let mut physical = vec![0.0; placed.rows.physical * placed.columns.physical];
                each_place(placed, |index, place| physical[place] = numbers[index]);
                let whole = matches!(golden.inputs[name].data, HostTensor::I32(_));
                match whole {
                    true => (Dtype::I64, physical.iter().flat_map(|&x| (x as i64).to_le_bytes()).collect()),
                    false => (Dtype::F32, f32_bytes(&physical.iter().map(|&x| x as f32).collect::<Vec<_>>())),
                }
            }
            Origin::Resident(_) | Origin::Call => continue,
        };
        all.insert(format!("{}.{}", program.name, id.0), (dtype, tensor.shape.clone(), bytes));
    }
    all
}

fn each_place(placed: &Placed, mut with: impl FnMut(usize, usize)) {
    for (line, row) in placed.rows.places().enumerate() {
        for (column, at) in placed.columns.places().enumerate() {
            with(line * placed.columns.logical + column, row * placed.columns.physical + at);
        }
    }
}

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
        all.append(&mut uploads(golden, graph, program));
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
    for (graph, program) in programs {
        let types: HashMap<&str, _> = graph
            .outputs
            .iter()
            .map(|output| (output.name.as_str(), &graph.value(output.value).ty))
            .collect();
        for output in &program.outputs {
            let view = results.tensor(&format!("{}.{}", program.name, output.tensor.0)).unwrap();
            let physical: Vec<f32> =
                view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
            let ty = types[output.name.as_str()];
            let mut values = vec![0.0; ty.elements()];
            each_place(output, |index, place| values[index] = physical[place]);
            let tensor = match ty.dtype {
                DType::F32 => {
                    let (shape, values) = in_golden_layout(&golden.config, &output.name, &ty.shape, values);
                    Tensor { shape, data: HostTensor::F32(values) }
                }
                DType::I32 => Tensor {
                    shape: [&[1], &ty.shape[..]].concat(),
                    data: HostTensor::I32(values.iter().map(|&value| value as i32).collect()),
                },
                DType::Bool => Tensor {
                    shape: [&[1], &ty.shape[..]].concat(),
                    data: HostTensor::Bool(values.iter().map(|&value| value != 0.0).collect()),
                },
            };
            found.insert(output.name.clone(), tensor);
        }
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

#[test]
fn lowered_programs_compute_what_the_reference_does() {
    let Some(python) = python() else { return };
    let mut wrong = Vec::new();
    for file in golden::FILES {
        let golden = Golden::load(file);
        let programs = lowered(&golden, &Intermediates::All);
        for precision in ["f32", "card"] {
            let found = run(&golden, &programs, precision, &python);
            for (name, expected) in &golden.outputs {
                if name.starts_with("time_") {
                    continue; // Known when the graph is built; no card computes it.
                }
                let found =
                    found.get(name).unwrap_or_else(|| panic!("{file}: '{name}' is not among our values"));
                let Difference { relative_rms, correlation, .. } =
                    Difference::of(&golden, name, found, expected);
                println!(
                    "{file} {precision} {name}: relative rms {relative_rms:.1e}, correlation {correlation:.6}"
                );
                let right = match precision {
                    "f32" => relative_rms <= F32_RELATIVE_RMS,
                    _ => correlation >= CARD_CORRELATION,
                };
                if !right {
                    wrong.push(format!("{file} {precision} {name}: {relative_rms:.1e}, {correlation:.6}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
