//! Full-size pi0 and pi0.5 on mock Tenstorrent cards: the real library creates every program, captures both traces and replays them,
//! and refuses what a card would refuse. Nothing is computed; what the programs compute is tests/tenstorrent_golden.rs.
//!
//! `cargo xtask test` runs this once per card with the environment that `cargo xtask tenstorrent` prints; without it every
//! test says that it is skipped.

use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use pi0_node::device::tenstorrent::planner::measured::is_of;
use pi0_node::device::tenstorrent::{
    CallEvidence, Card, Precisions, Program, TenstorrentDevice, TenstorrentError, TenstorrentOptions, Tuning,
};
use pi0_node::device::{Device, DeviceError, ProgramId, Silent};
use pi0_node::graph::{HostTensor, HostView, TensorType};
use pi0_node::policy::checkpoint::random::RandomWeights;
use pi0_node::policy::{
    ACTIONS, Component, Continuation, IMAGE_MASKS, Intermediates, NOISE, PREFIX_WEIGHTS, PREVIOUS_CHUNK,
    PolicyConfig, PolicyGraphs, STATE, StateInput, TOKEN_MASK, TOKENS, image_input,
};

/// Most programs in a denoising step of pi0, the first, which makes masks and pages for all (the others: 296); the sketch that this
/// lowering is measured against had 334.
const PI0_PROGRAMS_PER_STEP: usize = 301;
/// Of pi0.5, whose modulations are constants and which has no state token.
const PI05_PROGRAMS_PER_STEP: usize = 298;
/// For the trace region: both traces of a P150 take 49 MiB at most.
const TRACES_BYTES: u64 = 52 << 20;
const CAMERAS: usize = 3;

/// One card in a process at a time.
static CARD: Mutex<()> = Mutex::new(());

/// The right to open the mock card, if there is one.
fn mock() -> Option<MutexGuard<'static, ()>> {
    if std::env::var_os("TT_METAL_MOCK_CLUSTER_DESC_PATH").is_none() {
        println!("skipped: no mock card; `cargo xtask tenstorrent` prints its environment");
        return None;
    }
    Some(CARD.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

fn open(options: TenstorrentOptions) -> TenstorrentDevice {
    TenstorrentDevice::open(TenstorrentOptions { mock: true, ..options }).unwrap()
}

/// The programs of `config` on `device`: perceive and act.
fn compile(device: &mut TenstorrentDevice, config: &PolicyConfig) -> Result<[ProgramId; 2], DeviceError> {
    compile_for(device, config, CAMERAS)
}

fn compile_for(
    device: &mut TenstorrentDevice,
    config: &PolicyConfig,
    cameras: usize,
) -> Result<[ProgramId; 2], DeviceError> {
    let PolicyGraphs { perceive, act } =
        PolicyGraphs::as_written(config, cameras, &Intermediates::None).unwrap();
    let perceive = device.compile(&device.simplify(perceive).unwrap(), &RandomWeights, &Silent)?;
    let act = device.compile(&device.simplify(act).unwrap(), &RandomWeights, &Silent)?;
    Ok([perceive, act])
}

fn write_all(
    device: &mut TenstorrentDevice,
    [perceive, act]: [ProgramId; 2],
    config: &PolicyConfig,
    value: f32,
) {
    let side = config.vision.image;
    for camera in 0..CAMERAS {
        let image = vec![value; 3 * side * side];
        device.write(perceive, &image_input(camera), HostView::F32(&image)).unwrap();
    }
    device.write(perceive, IMAGE_MASKS, HostView::Bool(&[true; CAMERAS])).unwrap();
    device.write(perceive, TOKENS, HostView::I32(&vec![1; config.prompt_tokens])).unwrap();
    device.write(perceive, TOKEN_MASK, HostView::Bool(&vec![true; config.prompt_tokens])).unwrap();
    if config.variant.state == StateInput::Token {
        device.write(act, STATE, HostView::F32(&vec![value; config.state_dim])).unwrap();
    }
    let noise = vec![value; config.action_horizon * config.action_dim];
    device.write(act, NOISE, HostView::F32(&noise)).unwrap();
    if config.continuation != Continuation::Free {
        device.write(act, PREVIOUS_CHUNK, HostView::F32(&noise)).unwrap();
        device.write(act, PREFIX_WEIGHTS, HostView::F32(&vec![1.0; config.action_horizon])).unwrap();
    }
}

/// Programs of the calls whose node is in denoising step `step`.
fn programs_of_step(program: &Program, evidence: &[CallEvidence], step: usize) -> usize {
    let of_step =
        program.calls.iter().zip(evidence).filter(|(call, _)| Component::step(&call.node) == Some(step));
    of_step.map(|(_, evidence)| evidence.programs.len()).sum()
}

#[test]
fn full_size_pi0_runs_as_two_traces_without_the_host() {
    runs_as_two_traces(PolicyConfig::PI0, PI0_PROGRAMS_PER_STEP);
}

#[test]
fn full_size_pi05_runs_as_two_traces_without_the_host() {
    runs_as_two_traces(PolicyConfig::PI05, PI05_PROGRAMS_PER_STEP);
}

#[test]
fn chunks_that_continue_another_run_too() {
    let Some(_guard) = mock() else { return };
    for config in [PolicyConfig::TINY, PolicyConfig::PI05_TINY] {
        for continuation in [Continuation::Guided { most: 10.0 }, Continuation::Given { most: 8 }] {
            let config = PolicyConfig { continuation, ..config };
            let mut device = open(TenstorrentOptions::default());
            let ids = compile(&mut device, &config).unwrap();
            write_all(&mut device, ids, &config, 0.5);
            for id in ids {
                device
                    .run(id)
                    .unwrap_or_else(|error| panic!("{} {continuation:?}: {error}", config.variant.name));
            }
        }
    }
}

fn runs_as_two_traces(config: PolicyConfig, programs_per_step: usize) {
    let Some(_guard) = mock() else { return };
    let mut device = open(TenstorrentOptions { evidence: true, ..TenstorrentOptions::default() });
    let ids = compile(&mut device, &config).unwrap();

    for id in ids {
        let (program, evidence) = (device.program(id).unwrap(), device.evidence(id).unwrap());
        assert_eq!(evidence.len(), program.calls.len());
        for (call, evidence) in program.calls.iter().zip(evidence) {
            assert_eq!(evidence.crossings, 0, "{} of {} leaves the card", call.operation, call.node);
            // One program per call; a view has none.
            assert!(evidence.programs.len() <= 1, "{} of {}: {evidence:?}", call.operation, call.node);
            // `plan --measured` knows the calls by these names.
            for name in evidence.programs.iter().filter(|_| call.viewed().is_none()) {
                assert!(is_of(name, call.operation), "{name} is none of {}", call.operation);
            }
        }
    }
    let (act, evidence) = (device.program(ids[1]).unwrap(), device.evidence(ids[1]).unwrap());
    for step in 0..config.denoising_steps {
        let programs = programs_of_step(act, evidence, step);
        println!("step {step}: {programs} programs");
        assert!(programs <= programs_per_step, "step {step}: {programs} programs");
    }

    let [weights, no_trace] = device.memory_in_use().unwrap();
    assert_eq!(no_trace, 0);
    // Captures both traces; an error there would be a program that the warm-up had not compiled.
    device.run(ids[0]).unwrap();
    let [dram, traces] = device.memory_in_use().unwrap();
    println!("{}: {weights} bytes of DRAM, {dram} with traces; traces {traces}", device.describe());
    assert!(dram < device.card().dram_bytes as u64);
    assert!(traces < TRACES_BYTES, "{traces}");

    let mut actions = HostTensor::zeros(&TensorType::f32([config.action_horizon, config.action_dim]));
    for cycle in 0..3 {
        write_all(&mut device, ids, &config, cycle as f32 / 4.0);
        for id in ids {
            device.start(id).unwrap();
        }
        device.wait().unwrap();
        device.read(ids[1], ACTIONS, &mut actions).unwrap();
    }
    assert_eq!(device.memory_in_use().unwrap(), [dram, traces], "a cycle leaves nothing behind");
    let times = device.profile(ids[1]).unwrap();
    assert_eq!(times.len(), device.program(ids[1]).unwrap().calls.len());
}

/// What the stand-in for a card's queues has counted in this process: traces replayed, waits of one queue for the other, tensors
/// written.
fn queues() -> [u64; 3] {
    let this = libloading::os::unix::Library::this();
    ["mock_card_replays", "mock_card_waits", "mock_card_writes"].map(|name| {
        // SAFETY: as tests/tenstorrent/mock_trace_shim.cpp declares it, which is preloaded into this process.
        unsafe { this.get::<unsafe extern "C" fn() -> u64>(name.as_bytes()).unwrap()() }
    })
}

#[test]
fn a_cycle_is_waited_for_once_and_the_next_images_come_in_while_it_runs() {
    let Some(_guard) = mock() else { return };
    let mut device = open(TenstorrentOptions::default());
    let config = PolicyConfig::TINY;
    let ids = compile(&mut device, &config).unwrap();
    let [perceive, act] = ids;
    device.run(perceive).unwrap();
    assert!(device.time(perceive) > Duration::ZERO && device.time(act) == Duration::ZERO);
    let mut last = queues();
    let mut counted = || {
        let now = queues();
        let counted = [0, 1, 2].map(|index| now[index] - last[index]);
        last = now;
        counted
    };

    // Each trace waits for what was written before it: two waits of the queues, and none of the host between.
    write_all(&mut device, ids, &config, 0.25);
    let written = counted()[2];
    assert!(written > 0);
    for id in ids {
        device.start(id).unwrap();
    }
    assert_eq!(counted(), [2, 2, 0]);
    // The next images while both run: each waits for the end of perceive, on the queue of the writes.
    let pixels = vec![0.5; 3 * config.vision.image * config.vision.image];
    for camera in 0..CAMERAS {
        device.write(perceive, &image_input(camera), HostView::F32(&pixels)).unwrap();
    }
    let [_, waits, images] = counted();
    assert_eq!(waits, CAMERAS as u64);
    assert!(images >= waits && images < written, "{images} of {written}");
    device.wait().unwrap();
    assert!(ids.iter().all(|&id| device.time(id) > Duration::ZERO));
    // Now that nothing runs, nothing is waited for.
    device.write(perceive, &image_input(0), HostView::F32(&pixels)).unwrap();
    assert_eq!(counted()[..2], [0, 0]);
    // The same program twice, as nobody does: one after the other.
    for id in [act, act] {
        device.start(id).unwrap();
    }
    device.wait().unwrap();
    assert_eq!(counted(), [2, 2, 0]);
}

#[test]
fn programs_of_other_lengths_share_the_weights() {
    let Some(_guard) = mock() else { return };
    let mut device = open(TenstorrentOptions::default());
    let ids = compile(&mut device, &PolicyConfig::MINI).unwrap();
    device.run(ids[0]).unwrap();
    let [before, one_set] = device.memory_in_use().unwrap();

    // After traces were captured: they are captured anew.
    let shorter = PolicyConfig { prompt_tokens: 16, denoising_steps: 5, ..PolicyConfig::MINI };
    let more = compile(&mut device, &shorter).unwrap();
    for id in ids.into_iter().chain(more) {
        device.run(id).unwrap();
    }
    let [after, two_sets] = device.memory_in_use().unwrap();
    let weights = device.program(ids[0]).unwrap().fixed_bytes() as u64;
    println!("{before} then {after} bytes; {weights} of them fixed; traces {one_set} then {two_sets}");
    // Masks and tables of each length are large beside a small model's weights.
    assert!(after - before < weights * 3 / 4, "the second set takes {} bytes more", after - before);
    assert!(two_sets > one_set);
}

#[test]
fn inputs_that_do_not_fit_are_refused_by_name() {
    let Some(_guard) = mock() else { return };
    let mut device = open(TenstorrentOptions::default());
    let config = PolicyConfig::MINI;
    let [perceive, act] = compile(&mut device, &config).unwrap();
    let unknown = device.write(perceive, "image_9", HostView::F32(&[])).unwrap_err();
    assert_eq!(unknown, DeviceError::NoSlot { kind: "input", name: "image_9".into() });
    let short = device.write(act, STATE, HostView::F32(&[0.0; 3])).unwrap_err();
    assert!(short.to_string().starts_with("'state' has 32 elements of f32, but 3 of f32"), "{short}");
    let mut tokens = vec![0; config.prompt_tokens];
    tokens[7] = config.vocabulary as i32;
    let outside = device.write(perceive, TOKENS, HostView::I32(&tokens)).unwrap_err();
    assert_eq!(outside.to_string(), "'tokens'[7] is 2048; it must be 0 to 2047");
}

#[test]
fn a_full_memory_is_told_with_operation_and_node() {
    let Some(_guard) = mock() else { return };
    // Far more weights than any card has room for.
    let mut huge = PolicyConfig { denoising_steps: 1, ..PolicyConfig::PI0 };
    (huge.vlm.mlp, huge.vlm.layers, huge.expert.layers) = (1 << 19, 18, 18);
    let error = compile(&mut open(TenstorrentOptions::default()), &huge).unwrap_err();
    let DeviceError::Tenstorrent(TenstorrentError::Memory { memory, .. }) = &error else { panic!("{error}") };
    assert_eq!(*memory, "DRAM", "{error}");

    // Activations may take all of L1, and are larger than that.
    let tuning = Tuning { l1_activation_bytes: Some(1 << 22), ..Tuning::default() };
    let options = TenstorrentOptions { tuning, ..TenstorrentOptions::default() };
    let mut wide = PolicyConfig { denoising_steps: 1, ..PolicyConfig::PI0 };
    (wide.vlm.mlp, wide.vlm.layers, wide.expert.layers) = (1 << 16, 2, 2);
    let error = compile(&mut open(options), &wide).unwrap_err();
    let DeviceError::Tenstorrent(TenstorrentError::Memory { memory, operation, node, .. }) = &error else {
        panic!("{error}")
    };
    assert_eq!(*memory, "L1", "{error}");
    assert!(operation.starts_with("ttnn.") && node.contains('.'), "{error}");
}

/// How rows lie, and what a core's L1 must hold for them, depends on how many there are.
#[test]
fn full_size_models_fit_with_fewer_cameras_too() {
    let Some(_guard) = mock() else { return };
    for config in [PolicyConfig::PI0, PolicyConfig::PI05] {
        for cameras in [1, 2] {
            let config = PolicyConfig { denoising_steps: 1, ..config };
            let mut device = open(TenstorrentOptions::default());
            compile_for(&mut device, &config, cameras).unwrap();
        }
    }
}

#[test]
fn a_trace_that_does_not_fit_names_the_program_and_the_parameter() {
    let Some(_guard) = mock() else { return };
    let tuning = Tuning { trace_region_bytes: 1 << 20, ..Tuning::default() };
    let mut device = open(TenstorrentOptions { tuning, ..TenstorrentOptions::default() });
    let ids = compile(&mut device, &PolicyConfig::MINI).unwrap();
    let error = device.run(ids[0]).unwrap_err();
    let DeviceError::Tenstorrent(TenstorrentError::TraceRegion { program, .. }) = &error else {
        panic!("{error}")
    };
    assert!(["perceive", "act"].contains(&program.as_str()), "{error}");
    assert!(error.to_string().contains("tenstorrent_trace_region_mb"), "{error}");
    drop(device);
    // The card is usable again.
    let mut device = open(TenstorrentOptions::default());
    let ids = compile(&mut device, &PolicyConfig::MINI).unwrap();
    device.run(ids[1]).unwrap();
}

#[test]
fn weights_in_bfloat16_take_nearly_twice_the_memory() {
    let Some(_guard) = mock() else { return };
    let fixed = |weights: &str| {
        let precisions = Precisions { weights: weights.parse().unwrap() };
        let tuning = Tuning { precisions, ..Tuning::default() };
        let mut device = open(TenstorrentOptions { tuning, ..TenstorrentOptions::default() });
        let [_, act] = compile(&mut device, &PolicyConfig::PI0).unwrap();
        device.program(act).unwrap().fixed_bytes()
    };
    let ratio = fixed("bfloat16") as f64 / fixed("bfloat8_b") as f64;
    assert!((1.7..2.0).contains(&ratio), "{ratio}");
}

/// What a script of tests/tenstorrent says of itself; it must succeed.
fn says(script: &str) -> String {
    let python = std::env::var_os("PI0_TTNN_PYTHON").expect("the environment of a mock card has one");
    let script = format!("{}/tests/tenstorrent/{script}", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(python).arg(script).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

/// The rounding that tests/tenstorrent_golden.rs and tests/tenstorrent_accuracy.rs compute with.
#[test]
fn block_floats_are_rounded_as_the_library_does() {
    let Some(_guard) = mock() else { return };
    let text = says("block_float.py");
    assert!(text.contains("ties: 0 of"), "{text}");
}

/// Needs no card, but numpy.
#[test]
fn the_multiplier_s_passes_add_up() {
    let Some(_guard) = mock() else { return };
    let text = says("fidelity.py");
    assert!(text.contains("four passes are exact for bfloat16"), "{text}");
}

/// Nothing that a mock computes is right: `verify` says so before it compares anything.
#[test]
fn a_mock_is_not_verified() {
    let Some(_guard) = mock() else { return };
    let output = Command::new(env!("CARGO_BIN_EXE_pi0_node"))
        .args(["verify", "--device", "tenstorrent", "--preset", "tiny"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("error: ") && text.contains("a mock card") && text.contains("nothing to verify"),
        "{text}"
    );
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// The command, in processes of their own: what it needs is read before anything else runs.
fn audit(arguments: &[&str], environment: &[(&str, Option<&str>)]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pi0_node"));
    command.args(["audit", "--preset", "tiny"]).args(arguments);
    for (name, value) in environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn the_audit_reports_what_the_library_wrote_down() {
    let Some(_guard) = mock() else { return };
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("audit.json");
    let (passed, text) = audit(&["--device", "tenstorrent", "--mock", "--json", json.to_str().unwrap()], &[]);
    assert!(passed, "{text}");
    assert!(text.contains("from: ttnn's own record of a run"), "{text}");
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(report["total"]["coverage_percent"], 100.0);
    assert_eq!(report["transfers_within_programs"], 0);
    let per_step = report["transfers_per_step"].as_array().unwrap();
    assert!(per_step.len() == 10 && per_step.iter().all(|count| count == 0), "{per_step:?}");
    assert_eq!(report["components"].as_array().unwrap().len(), Component::ALL.len());
}

#[test]
fn what_is_missing_is_said() {
    let Some(_guard) = mock() else { return };
    let card = std::env::var("TT_METAL_MOCK_CLUSTER_DESC_PATH").unwrap();
    let other = if card.contains("p150") { "tenstorrent:n150" } else { "tenstorrent:p150" };
    let (_, text) = audit(&["--device", other, "--mock"], &[]);
    assert!(text.contains("error: asked for "), "{text}");

    let (_, text) = audit(&["--device", "tenstorrent"], &[]);
    assert!(text.contains("no robot may follow it"), "{text}");

    let no_card = [("TT_METAL_MOCK_CLUSTER_DESC_PATH", None), ("LD_PRELOAD", None)];
    let (_, text) = audit(&["--device", "tenstorrent", "--mock"], &no_card);
    assert!(text.contains("--mock needs the environment of a mock card"), "{text}");
    let (_, text) = audit(&["--device", "tenstorrent"], &no_card);
    assert!(text.contains("error: cannot open a Tenstorrent card: "), "{text}");

    // Nothing there, and so no compiler either.
    let empty = tempfile::tempdir().unwrap();
    let no_root = [("TT_METAL_RUNTIME_ROOT", empty.path().to_str())];
    let (_, text) = audit(&["--device", "tenstorrent", "--mock"], &no_root);
    assert!(text.contains("error: cannot open a Tenstorrent card: "), "{text}");

    let (_, text) =
        audit(&["--device", "tenstorrent", "--mock"], &[("PI0_TTNN_PYTHON", Some("/no/such/python"))]);
    assert!(text.contains("no Python interpreter: /no/such/python"), "{text}");
}

/// No card needed for this one.
#[test]
fn every_card_can_be_planned_for_without_one() {
    for card in Card::ALL {
        let output = Command::new(env!("CARGO_BIN_EXE_pi0_node"))
            .args(["plan", "--device", card.name, "--json"])
            .output()
            .unwrap();
        let plans: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for plan in plans.as_array().unwrap() {
            assert_eq!(plan["card"], card.name);
            let bound = plan["bound_ms"].as_f64().unwrap();
            let stages: f64 = plan["stages"]
                .as_array()
                .unwrap()
                .iter()
                .map(|stage| stage["bound_ms"].as_f64().unwrap())
                .sum();
            assert!((bound - stages).abs() < 1e-9);
            // The ten steps read the expert's 0.3 GB ten times: no card is faster than that.
            let steps = plan["stages"][2]["bound_ms"].as_f64().unwrap();
            assert!(steps > 3.0e9 / card.dram_bytes_per_s * 1e3, "{steps}");
            assert_eq!(plan["feasible"], bound <= 50.0);
            // A prediction is above the bound, and the sum of its parts.
            let predicted = plan["predicted_ms"].as_f64().unwrap();
            let parts = plan["parts"].as_array().unwrap().iter();
            let parts: f64 = parts.map(|part| part["predicted_ms"].as_f64().unwrap()).sum();
            assert!(predicted > bound && (predicted - parts).abs() < 1e-6, "{predicted} {parts}");
            let (low, high) = (&plan["predicted_range_ms"][0], &plan["predicted_range_ms"][1]);
            assert!(low.as_f64().unwrap() < predicted && predicted < high.as_f64().unwrap());
        }
    }
}
