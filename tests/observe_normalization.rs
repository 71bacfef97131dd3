//! Normalisation and delta actions against openpi's and lerobot's (tests/data/observe/generate.py).

use std::fs;
use std::path::{Path, PathBuf};

use pi0_node::observe::{DeltaMask, JointUnits, Normalizer, Trained};
use pi0_node::settings::{NODE_NAME, Normalization, Settings, Value as Parameter, read_parameters};
use serde_json::Value;

const JOINTS: usize = 7;
const MODEL_DIM: usize = 32;
const PI0: Trained = Trained { state_dim: MODEL_DIM, action_dim: MODEL_DIM, quantiles: false };
const PI05: Trained = Trained { quantiles: true, ..PI0 };

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/observe").join(name)
}

fn recorded() -> Value {
    serde_json::from_slice(&fs::read(data("numbers.json")).unwrap()).unwrap()
}

/// All numbers of nested lists.
fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn assert_close(name: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let tolerance = 2e-6 * expected.abs().max(1.0);
        assert!((found - expected).abs() <= tolerance, "{name}, value {index}: {found}, expected {expected}");
    }
}

fn compare(name: &str, folder: &Path, source: &Normalization) {
    compare_for(PI0, name, folder, source);
}

fn compare_for(trained: Trained, name: &str, folder: &Path, source: &Normalization) {
    let recorded = recorded();
    let case = &recorded["cases"][name];
    let normalizer = Normalizer::load(folder, source, JOINTS, trained).unwrap();

    let mut state = [f32::NAN; MODEL_DIM];
    normalizer.normalize_state(&numbers(&recorded["state"]), &mut state);
    assert_close(name, &state.map(f64::from), &numbers(&case["state"]));

    let actions: Vec<f32> = numbers(&recorded["actions"]).iter().map(|&x| x as f32).collect();
    let mut positions = vec![f64::NAN; actions.len() / MODEL_DIM * JOINTS];
    normalizer.unnormalize_actions(&actions, &mut positions);
    assert_close(name, &positions, &numbers(&case["actions"]));
}

#[test]
fn openpis_mean_and_deviation() {
    compare("openpi_mean_std", &data("openpi"), &Normalization::Checkpoint);
}

#[test]
fn openpis_statistics_may_be_padded_to_the_models_dimension() {
    compare("openpi_padded_mean_std", &data("openpi_padded"), &Normalization::Checkpoint);
}

#[test]
fn statistics_may_lie_outside_the_checkpoint() {
    let file = data("openpi/assets/robot/norm_stats.json");
    let folder = file.parent().unwrap().to_owned();
    for source in [file, folder] {
        compare("openpi_mean_std", Path::new("/nowhere"), &Normalization::File(source));
    }
}

#[test]
fn openpi_uses_quantiles_for_pi05() {
    for folder in ["openpi", "openpi_padded"] {
        let file = data(folder).join("assets/robot/norm_stats.json");
        let name = format!("{folder}_quantiles");
        compare_for(PI05, &name, Path::new("/nowhere"), &Normalization::File(file));
    }
}

#[test]
fn lerobots_mean_and_deviation() {
    compare("lerobot_mean_std", &data("lerobot_mean_std"), &Normalization::Checkpoint);
}

#[test]
fn lerobots_quantiles() {
    compare("lerobot_quantiles", &data("lerobot_quantiles"), &Normalization::Checkpoint);
}

#[test]
fn lerobots_minimum_and_maximum() {
    compare("lerobot_min_max", &data("lerobot_min_max"), &Normalization::Checkpoint);
}

#[test]
fn delta_actions_become_absolute_as_in_openpi() {
    let recorded = recorded();
    let runs: Vec<i64> = numbers(&recorded["delta"]["runs"]).iter().map(|&x| x as i64).collect();
    let actions = numbers(&recorded["actions"]);
    let mut positions: Vec<f64> =
        actions.chunks(MODEL_DIM).flat_map(|point| point[..JOINTS].to_vec()).collect();
    let mask = DeltaMask::from_openpi(&runs, JOINTS).unwrap();
    mask.add_state(&numbers(&recorded["state"]), &mut positions);
    assert_close("delta", &positions, &numbers(&recorded["delta"]["absolute"]));
}

/// lerobot's folder, with `change` made to one of its files.
fn refused(file: &str, change: impl Fn(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(data("lerobot_mean_std")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    change(&folder.path().join(file));
    Normalizer::load(folder.path(), &Normalization::Checkpoint, JOINTS, PI0).unwrap_err().to_string()
}

const STATE_FILE: &str = "policy_preprocessor_step_6_normalizer_processor.safetensors";

#[test]
fn a_missing_file_of_lerobots_is_named() {
    for file in ["policy_postprocessor.json", STATE_FILE] {
        let error = refused(file, |path| fs::remove_file(path).unwrap());
        assert!(error.contains(file), "{error}");
    }
}

#[test]
fn a_truncated_file_of_lerobots_is_named() {
    for file in ["policy_preprocessor.json", "policy_postprocessor.json", STATE_FILE] {
        let error = refused(file, |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        });
        assert!(error.contains(file), "{error}");
    }
}

#[test]
fn statistics_that_are_no_numbers_are_refused() {
    let error = refused(STATE_FILE, |path| {
        let mut bytes = fs::read(path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8 + length..].fill(0xff);
        fs::write(path, bytes).unwrap();
    });
    assert!(error.contains(STATE_FILE) && error.contains("state, dimension 0: mean is NaN"), "{error}");
}

#[test]
fn a_state_file_elsewhere_is_refused() {
    let error = refused("policy_preprocessor.json", |path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, text.replace(STATE_FILE, "../../secret")).unwrap();
    });
    assert!(error.contains("'../../secret'"), "{error}");
}

#[test]
fn a_checkpoint_that_says_so_has_actions_relative_to_the_state() {
    let load = |folder: &Path| Normalizer::load(folder, &Normalization::Checkpoint, JOINTS, PI0).unwrap();
    assert!(load(&data("lerobot_mean_std")).relative().is_none_or(|step| !step.enabled));
    assert!(load(&data("openpi")).relative().is_none());

    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(data("lerobot_mean_std")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let pipeline = folder.path().join("policy_preprocessor.json");
    let text = fs::read_to_string(&pipeline).unwrap();
    let enabled = text.replace(r#""enabled": false"#, r#""enabled": true"#);
    assert_ne!(enabled, text);
    fs::write(&pipeline, enabled).unwrap();
    assert!(load(folder.path()).relative().is_some_and(|step| step.enabled));
}

/// openpi's `adapt_to_pi` is what config/aloha.yaml says of the joints.
#[test]
fn the_aloha_configuration_converts_as_openpi_does() {
    let recorded: Value = serde_json::from_slice(&fs::read(data("aloha.json")).unwrap()).unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/aloha.yaml");
    let mut values = read_parameters(&config, NODE_NAME).unwrap();
    values.insert("checkpoint".into(), Parameter::Text("model".into()));
    let Settings { joints, joint_scale, joint_offset, joint_conversion, .. } =
        Settings::from_values(&values).unwrap();
    let units = JointUnits::new(&joint_scale, &joint_offset, &joint_conversion, joints.len()).unwrap();
    // Both are f64; the order of a few operations differs.
    let close = |found: &[f64], expected: &[f64]| {
        assert_eq!(found.len(), expected.len());
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((found - expected).abs() < 1e-12, "value {index}: {found}, expected {expected}");
        }
    };
    let states = recorded["states"].as_array().unwrap();
    assert_eq!(states.len(), 20);
    for (state, adapted) in states.iter().zip(recorded["adapted"].as_array().unwrap()) {
        let mut model = vec![0.0; joints.len()];
        units.to_model(&numbers(state), &mut model);
        close(&model, &numbers(adapted));
    }
    let mut actions = numbers(&recorded["actions"]);
    units.to_robot(&mut actions);
    close(&actions, &numbers(&recorded["encoded"]));
}
