//! The lowering to NVIDIA GPUs against the reference implementation, on every machine with a C++ compiler: programs of the golden
//! models run on the CPU, our kernels from the same source as on a GPU (tests/cuda/machine.h, tests/support/cuda_machine.rs).
//!
//! Tolerance in f32: relative rms 1e-5, as for the CPU device; sums come in other orders. In bf16: 1.5 times as far from f32 as
//! PyTorch's bf16 is, as for the CPU device (tests/golden_bf16.rs), and correlation 0.9995.

#[path = "support/cuda_machine.rs"]
mod cuda_machine;
#[path = "support/golden.rs"]
mod golden;
#[path = "support/model.rs"]
mod model;

use std::collections::BTreeMap;

use cuda_machine::{Machine, Memory, Run};
use golden::{Golden, Tensor};
use model::Difference;
use pi0_node::device::cuda::content::{self, Computed};
use pi0_node::device::cuda::kernels::Kernel;
use pi0_node::device::cuda::program::{Origin, OutputSource, Work};
use pi0_node::device::cuda::{Element, Program, Residents, lower, simplify};
use pi0_node::graph::{Graph, HostTensor};
use pi0_node::policy::intermediates::in_golden_layout;
use pi0_node::policy::{Intermediates, PolicyConfig, PolicyGraphs};

const RELATIVE_RMS: f64 = 1e-5;

/// Both programs with the graphs they were lowered from.
fn lowered(golden: &Golden, factors: Element, intermediates: &Intermediates) -> [(Graph, Program); 2] {
    let cameras = model::cameras(golden);
    let graphs = PolicyGraphs::rewritten(&golden.config, cameras, intermediates, simplify).unwrap();
    let mut residents = Residents::new();
    [graphs.perceive, graphs.act].map(|graph| {
        let program = lower(&graph, factors, &mut residents).unwrap();
        (graph, program)
    })
}

fn machine(programs: &[(Graph, Program); 2]) -> Option<Machine> {
    Machine::new(&kernels(programs), |source| source)
}

fn kernels(programs: &[(Graph, Program); 2]) -> Vec<Kernel> {
    let mut kernels = [programs[0].1.kernels(), programs[1].1.kernels()].concat();
    kernels.sort_unstable();
    kernels.dedup();
    kernels
}

/// Every output in the golden layout.
fn run(
    golden: &Golden,
    programs: &[(Graph, Program); 2],
    machine: &Machine,
    placed: bool,
) -> Result<BTreeMap<String, Tensor>, String> {
    let (mut memory, mut found) = (Memory::new(placed), BTreeMap::new());
    for (graph, program) in programs {
        let computed = computed(golden, graph, program);
        let input = |name: &str| golden.inputs[name].data.clone();
        let mut run = Run::new(program, &mut memory, graph, &computed, golden, input);
        run.run(machine)?;
        for output in &program.outputs {
            let OutputSource::Buffer(id) = output.source else { continue };
            let tensor = match run.read(id) {
                HostTensor::F32(values) => {
                    let (shape, values) =
                        in_golden_layout(&golden.config, &output.name, &output.ty.shape, values);
                    Tensor { shape, data: HostTensor::F32(values) }
                }
                data => Tensor { shape: [&[1], &output.ty.shape[..]].concat(), data },
            };
            found.insert(output.name.clone(), tensor);
        }
    }
    Ok(found)
}

fn computed(golden: &Golden, graph: &Graph, program: &Program) -> Computed {
    let contents = program.buffers.iter().filter_map(|buffer| match &buffer.origin {
        Origin::Content(content) => Some(content),
        _ => None,
    });
    content::compute(graph, contents, [], golden).unwrap()
}

fn is_computed(name: &str) -> bool {
    // Known when the graph is built; no GPU computes it.
    !(name.starts_with("time_") || name.starts_with("adarms_cond_"))
}

#[test]
fn every_value_of_every_component_is_the_reference_s_in_f32() {
    for file in golden::FILES {
        let golden = Golden::load(file);
        let programs = lowered(&golden, Element::F32, &Intermediates::All);
        let Some(machine) = machine(&programs) else { return };
        let found = run(&golden, &programs, &machine, false).unwrap();
        for (name, expected) in golden.outputs.iter().filter(|(name, _)| is_computed(name)) {
            let found = found.get(name).unwrap_or_else(|| panic!("{file}: no '{name}'"));
            let Difference { relative_rms, .. } = model::difference(&golden, name, found, expected);
            println!("{file} {name}: relative rms {relative_rms:.1e}");
            assert!(relative_rms <= RELATIVE_RMS, "{file} {name}: {relative_rms:e}");
        }
    }
}

#[test]
fn every_value_in_bf16_is_as_close_to_f32_as_torch() {
    for model in ["pi0", "pi05"] {
        let load = |what: &str| Golden::load(&format!("{model}_bf16_{what}"));
        let (exact, torch) = (load("f32ref"), load("all"));
        let programs = lowered(&exact, Element::Bf16, &Intermediates::All);
        let Some(machine) = machine(&programs) else { return };
        let found = run(&exact, &programs, &machine, false).unwrap();
        for (name, expected) in exact.outputs.iter().filter(|(name, _)| is_computed(name)) {
            let from_exact = |tensor| model::difference(&exact, name, tensor, expected);
            let (ours, theirs) = (from_exact(&found[name]), from_exact(&torch.outputs[name]));
            println!("{model} {name}: {:.1e}, torch {:.1e}", ours.relative_rms, theirs.relative_rms);
            let allowed = (1.5 * theirs.relative_rms).max(1e-5);
            assert!(ours.relative_rms <= allowed, "{name}: {:.2e} > {allowed:.2e}", ours.relative_rms);
            assert!(ours.correlation >= 0.9995, "{name}: {}", ours.correlation);
        }
    }
}

/// Other head widths and head groups in bf16, and buffers where the program places them: nothing lies on what is still read.
#[test]
fn actions_alone_are_the_reference_s_with_buffers_in_their_places() {
    for file in golden::FILES {
        let golden = Golden::load(file);
        for (factors, allowed) in [(Element::F32, RELATIVE_RMS), (Element::Bf16, 3e-2)] {
            let programs = lowered(&golden, factors, &Intermediates::None);
            let Some(machine) = machine(&programs) else { return };
            let found = run(&golden, &programs, &machine, true).unwrap();
            assert_eq!(found.len(), 1);
            let expected = &golden.outputs["actions"];
            let Difference { relative_rms, .. } =
                model::difference(&golden, "actions", &found["actions"], expected);
            println!("{file} {factors:?}: relative rms {relative_rms:.1e}");
            assert!(relative_rms <= allowed, "{file} {factors:?}: {relative_rms:e}");
        }
    }
}

#[test]
fn chunks_that_continue_another_are_the_reference_s() {
    for file in golden::CONTINUED {
        let golden = Golden::load(file);
        let programs = lowered(&golden, Element::F32, &Intermediates::All);
        let Some(machine) = machine(&programs) else { return };
        let found = run(&golden, &programs, &machine, false).unwrap();
        model::assert_flow(&golden, file, &found, RELATIVE_RMS);
    }
}

/// Against the CPU device: the reference's are among those above.
#[test]
fn chunks_with_given_points_are_those_of_the_cpu() {
    for file in golden::CONTINUED {
        let (golden, expected) = model::with_given_points(file);
        let programs = lowered(&golden, Element::F32, &Intermediates::None);
        let Some(machine) = machine(&programs) else { return };
        let found = run(&golden, &programs, &machine, true).unwrap();
        let Difference { relative_rms, .. } =
            model::difference(&golden, "actions", &found["actions"], &expected["actions"]);
        assert!(relative_rms <= RELATIVE_RMS, "{file}: {relative_rms:e}");
    }
}

/// Tests of the test: what is wrong in a kernel or in how it is started does not pass.
#[test]
fn what_is_wrong_fails() {
    let golden = Golden::load(golden::FILES[0]);
    let programs = lowered(&golden, Element::Bf16, &Intermediates::None);
    let damaged = |from: &str, to: &str| {
        let change = |source: String| {
            assert!(source.contains(from), "{from}");
            source.replace(from, to)
        };
        let machine = Machine::new(&kernels(&programs), change)?;
        Some(run(&golden, &programs, &machine, false))
    };
    for (from, to, said) in [
        // A barrier less: a norm's sum, an attention's tile.
        ("    __syncthreads();\n    float sum = 0.0f;", "    float sum = 0.0f;", "race"),
        ("        __syncthreads();\n\n        // scores", "        // scores", "race"),
        // One element too many.
        (
            "gates[j] = ACTIVATION(gates[j]) * ups[j];\n        store<VECTOR>(out + row * out_stride + i",
            "gates[j] = 0.0f;\n        store<VECTOR>(out + row * out_stride + i + width",
            "no buffer",
        ),
        // A lane that does not come.
        ("    x = warp_sum(x);", "    if (threadIdx.x != 3) x = warp_sum(x);", "some lanes"),
        // Shared memory beyond its end.
        ("query_tile + ROWS * STRIDE;", "query_tile + (ROWS + 64) * STRIDE;", "no buffer"),
    ] {
        let Some(found) = damaged(from, to) else { return };
        let message = found.err().unwrap_or_else(|| panic!("{to} passed"));
        assert!(message.contains(said), "{to}: {message}");
    }
    // A block less.
    let mut fewer = programs.clone();
    let launch = fewer[0].1.calls.iter_mut().find_map(|call| match &mut call.work {
        Work::Kernel(launch) if launch.kernel.file == "norm" => Some(launch),
        _ => None,
    });
    launch.unwrap().grid[0] -= 1;
    let Some(machine) = machine(&fewer) else { return };
    let found = run(&golden, &fewer, &machine, false).unwrap();
    assert!(
        found["actions"].numbers().iter().any(|value| value.is_nan()),
        "rows that nobody wrote are no numbers"
    );
}

/// Another state must give other actions.
#[test]
fn inputs_are_read() {
    let mut golden = Golden::load(golden::FILES[0]);
    let programs = lowered(&golden, Element::F32, &Intermediates::None);
    let Some(machine) = machine(&programs) else { return };
    let HostTensor::F32(state) = &mut golden.inputs.get_mut("state").unwrap().data else { panic!() };
    state[0] += 0.5;
    let found = run(&golden, &programs, &machine, false).unwrap();
    let difference = model::difference(&golden, "actions", &found["actions"], &golden.outputs["actions"]);
    assert!(difference.relative_rms > 1e-3);
}

#[test]
fn full_size_programs_are_as_small_as_documented() {
    // docs/cuda.md says so: what perceive starts, one denoising step, and all of act.
    for (config, expected) in [(PolicyConfig::PI0, [374, 188, 1884]), (PolicyConfig::PI05, [374, 220, 2203])]
    {
        let graphs = PolicyGraphs::rewritten(&config, 3, &Intermediates::None, simplify).unwrap();
        let mut residents = Residents::new();
        let perceive = lower(&graphs.perceive, Element::Bf16, &mut residents).unwrap();
        let act = lower(&graphs.act, Element::Bf16, &mut residents).unwrap();
        let of_step = act.calls.iter().filter(|call| call.node.starts_with("steps.5.")).count();
        assert_eq!([perceive.calls.len(), of_step, act.calls.len()], expected, "{}", config.variant.name);
        // The KV cache is in bf16, every layer of it.
        let cache = residents.iter().filter(|(name, _)| !name.ends_with("mask"));
        assert!(
            cache.clone().count() == 36
                && cache.into_iter().all(|(_, (_, element))| *element == Element::Bf16)
        );
        // Weights and all else fit a GPU of 8 GB.
        let work = perceive.work_bytes.max(act.work_bytes);
        println!("{}: {} MB of working memory", config.variant.name, work >> 20);
        assert!(work < 200 << 20, "{work}");
    }
}
