//! `verify`: it passes what is right, and of a device that is wrong on purpose it names the operation that is.

#[path = "support/program.rs"]
mod program;

use std::time::Duration;

use pi0_node::device::cpu::{CpuDevice, Precision};
use pi0_node::device::{Account, Device, DeviceError, DeviceOptions, ProgramId, Progress, Silent, StepTime};
use pi0_node::graph::{Graph, HostTensor, HostView, Op, WeightData, WeightError, Weights};
use pi0_node::policy::checkpoint::random::RandomWeights;
use pi0_node::policy::{Continuation, PolicyConfig};
use pi0_node::verify::{Model, Report, verify};

/// The CPU with a fault in the graphs that it compiles.
struct Wrong<F> {
    cpu: CpuDevice,
    /// Changes what is computed.
    fault: F,
}

impl<F: Fn(&mut Graph) + Send> Device for Wrong<F> {
    fn describe(&self) -> String {
        "wrong on purpose".into()
    }

    fn compile(
        &mut self,
        graph: &Graph,
        weights: &dyn Weights,
        progress: &dyn Progress,
    ) -> Result<ProgramId, DeviceError> {
        let mut graph = graph.clone();
        (self.fault)(&mut graph);
        self.cpu.compile(&graph, weights, progress)
    }

    fn write(&mut self, program: ProgramId, input: &str, data: HostView) -> Result<(), DeviceError> {
        self.cpu.write(program, input, data)
    }

    fn start(&mut self, program: ProgramId) -> Result<(), DeviceError> {
        self.cpu.start(program)
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        self.cpu.wait()
    }

    fn time(&self, program: ProgramId) -> Duration {
        self.cpu.time(program)
    }

    fn profile(&mut self, program: ProgramId) -> Result<Vec<StepTime>, DeviceError> {
        self.cpu.profile(program)
    }

    fn account(&self, program: ProgramId) -> Result<Account, DeviceError> {
        self.cpu.account(program)
    }

    fn read(&mut self, program: ProgramId, output: &str, out: &mut HostTensor) -> Result<(), DeviceError> {
        self.cpu.read(program, output, out)
    }
}

fn cpu(precision: Precision) -> CpuDevice {
    CpuDevice::new(DeviceOptions::cpu(2, precision)).unwrap()
}

fn report_of(config: PolicyConfig, device: &mut dyn Device) -> Report {
    let config = PolicyConfig { denoising_steps: 4, ..config };
    let model = Model { config, cameras: 2, weights: &RandomWeights };
    verify(&mut cpu(Precision::F32), device, &model, None, &Silent).unwrap()
}

fn report(config: PolicyConfig, precision: Precision, fault: impl Fn(&mut Graph) + Send) -> Report {
    report_of(config, &mut Wrong { cpu: cpu(precision), fault })
}

#[test]
fn the_cpu_in_bf16_and_in_f32_is_right() {
    for config in [PolicyConfig::TINY, PolicyConfig::PI05_TINY] {
        for continuation in [Continuation::Free, Continuation::Guided { most: 10.0 }] {
            for precision in [Precision::Bf16, Precision::F32] {
                let report = report_of(PolicyConfig { continuation, ..config }, &mut cpu(precision));
                assert!(report.passes(), "{report}");
                assert!(report.to_string().contains("PASS"), "{report}");
                let worst = report.lines.iter().map(|line| line.difference.relative_rms).fold(0.0, f64::max);
                assert!(precision == Precision::F32 || worst > 1e-4, "bf16 was used: {worst:e}");
            }
        }
    }
}

/// Weights of which one is so large that what it makes overflows.
struct Overflowing(&'static str);

impl Weights for Overflowing {
    fn weight(&self, key: &str, shape: &[usize]) -> Result<WeightData, WeightError> {
        match key == self.0 {
            true => Ok(WeightData::from_f32(&vec![f32::MAX; shape.iter().product()])),
            false => RandomWeights.weight(key, shape),
        }
    }
}

#[test]
fn what_overflows_on_the_reference_too_is_the_checkpoints_fault() {
    for (key, component) in [
        ("action_out_proj.weight", "output projection"),
        ("paligemma_with_expert.paligemma.model.multi_modal_projector.linear.weight", "projector"),
    ] {
        let model = Model { config: PolicyConfig::TINY, cameras: 1, weights: &Overflowing(key) };
        let mut device = cpu(Precision::F32);
        let error = verify(&mut cpu(Precision::F32), &mut device, &model, None, &Silent).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("the reference itself") && error.contains("`pi0_node check`"), "{error}");
        assert!(error.to_lowercase().contains(component), "{component}: {error}");
    }
}

/// The epsilon of one norm, one mask, one scale, one step's size: each is found where it stands, in bf16 as in f32.
#[test]
fn the_operation_that_is_wrong_is_named() {
    type Change = fn(&mut Op) -> bool;
    let epsilon: Change = |op| match op {
        Op::RmsNorm { epsilon } | Op::LayerNorm { epsilon } => std::mem::replace(epsilon, 30.0) >= 0.0,
        _ => false,
    };
    let scale: Change = |op| match op {
        Op::Attention(attention) => {
            attention.scale *= 40.0;
            true
        }
        _ => false,
    };
    let step: Change = |op| match op {
        Op::EulerStep { dt } => {
            *dt *= -2.0;
            true
        }
        _ => false,
    };
    for (config, node, operation, change) in [
        (PolicyConfig::TINY, "vision.layers.1.mlp.norm", "layer_norm", epsilon),
        (PolicyConfig::TINY, "vlm.layers.0.mlp.norm", "rms_norm", epsilon),
        (PolicyConfig::TINY, "vlm.layers.0.attn.softmax", "attention", scale),
        (PolicyConfig::TINY, "steps.2.expert.layers.1.attn.norm", "rms_norm", epsilon),
        (PolicyConfig::PI05_TINY, "steps.1.expert.layers.0.mlp.norm", "rms_norm", epsilon),
        (PolicyConfig::TINY, "steps.1.euler_step", "euler_step", step),
    ] {
        for precision in [Precision::Bf16, Precision::F32] {
            let report = report(config, precision, |graph| {
                let found = graph.nodes.iter_mut().find(|found| found.name == node);
                // A probe's graph need not have the node.
                assert!(found.is_none_or(|node| change(&mut node.op)));
            });
            let first = report.first_off.as_ref().unwrap_or_else(|| panic!("{node}: {report}"));
            assert_eq!((first.node.as_str(), first.operation), (node, operation), "{report}");
            assert!(!report.passes() && report.to_string().contains("FAIL"), "{report}");
            assert_eq!(report.to_json()["first_off"]["node"], node);
        }
    }
}

#[test]
fn a_fault_in_what_runs_alone_is_a_failure_too() {
    let report = report(PolicyConfig::TINY, Precision::F32, |graph| {
        let alone = graph.outputs.len() == 1 && graph.name == "act";
        let step = graph.nodes.iter_mut().rev().find_map(|node| match &mut node.op {
            Op::EulerStep { dt } => Some(dt),
            _ => None,
        });
        if let (true, Some(dt)) = (alone, step) {
            *dt = 0.0;
        }
    });
    assert!(report.lines.iter().all(|line| line.passes) && !report.passes(), "{report}");
    assert!(report.to_string().contains("as they run are not"), "{report}");
}

#[test]
fn the_command_says_pass_or_fail_by_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("verify.json");
    let tiny = ["verify", "--device", "cpu", "--preset", "tiny", "--cameras", "2", "--steps", "3"];
    let file = ["--json", json.to_str().unwrap()];
    let text = program::succeeds(&[&tiny[..], &file].concat());
    for line in ["SigLIP blocks", "expert layers", "denoising step 2", "actions, as it runs", "PASS"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!((&report["passes"], &report["first_off"]), (&true.into(), &serde_json::Value::Null));
    assert_eq!(report["components"].as_array().unwrap().len(), 11);
    assert!(report["values"].as_array().unwrap().iter().all(|value| value["pcc"].as_f64().unwrap() > 0.99));

    // What no device in bf16 can meet.
    let message = program::fails(&[&tiny[..], &["--relative-rms", "1e-7"]].concat());
    assert!(message.contains("does not compute what the reference does"), "{message}");
    let message = program::fails(&["verify", "--device", "abacus", "--preset", "tiny"]);
    assert!(message.contains("there is no device 'abacus'"), "{message}");
}
