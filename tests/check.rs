//! `pi0_node check` on parameter files and checkpoints: what fits, what does not, and the exit status.

#[path = "support/program.rs"]
mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use program::{pi0_node, succeeds, text};

const CONFIG: &str = "config/aloha.yaml";

fn tiny_checkpoint(folder: &Path) -> PathBuf {
    let path = folder.join("tiny");
    succeeds(&["checkpoint", "init", "--preset", "tiny", path.to_str().unwrap()]);
    path
}

/// The committed configuration with `from` replaced by `to`.
fn changed(folder: &Path, from: &str, to: &str) -> PathBuf {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(CONFIG)).unwrap();
    assert!(text.contains(from), "{from}");
    let path = folder.join("changed.yaml");
    fs::write(&path, text.replace(from, to)).unwrap();
    path
}

/// What is said of a configuration with a checkpoint, which must have an error.
fn refused(config: &Path, checkpoint: &Path) -> String {
    let ran =
        pi0_node(&[Path::new("check"), Path::new("--config"), config, Path::new("--checkpoint"), checkpoint]);
    let said = text(&ran.stdout);
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(text(&ran.stderr).contains("error: 1 error, "), "{said}{}", text(&ran.stderr));
    said
}

#[test]
fn every_committed_robot_passes_with_a_checkpoint_that_fits() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny_checkpoint(folder.path());
    for robot in
        ["aloha", "aloha_controllers", "droid_franka", "isaac_franka", "libero_panda", "so101", "ur5e"]
    {
        let config = format!("config/{robot}.yaml");
        let said = succeeds(&["check", "--config", &config, "--checkpoint", checkpoint.to_str().unwrap()]);
        assert!(said.contains("every tensor there") && said.contains("0 errors"), "{robot}: {said}");
        assert!(said.contains("tokenizer"), "{said}");
        let said = succeeds(&["check", "--config", &config]);
        assert!(said.contains("warning  checkpoint               none given"), "{robot}: {said}");
    }
}

#[test]
fn the_shipped_policy_fits_its_parameter_file() {
    let said = succeeds(&["check", "--config", "config/aloha_cube.yaml"]);
    assert!(said.contains("every tensor there") && said.contains("0 errors"), "{said}");
}

#[test]
fn what_does_not_fit_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = tiny_checkpoint(folder.path());
    let with = |from: &str, to: &str| refused(&changed(folder.path(), from, to), &checkpoint);

    let said = with("sync_tolerance_ms", "sync_tolerence_ms");
    assert!(said.contains("did you mean 'sync_tolerance_ms'?"), "{said}");
    let said = with("normalization: checkpoint", "delta_actions: [7, -1]");
    assert!(said.contains("error    delta_actions") && said.contains("covers 8 joints"), "{said}");
    let said = with("prompt: Transfer cube", &format!("prompt: {}", "cube ".repeat(60)));
    assert!(said.contains("error    tokenizer") && said.contains("shorten it"), "{said}");
    let said = with("chunk_join: replace", "chunk_join: trained");
    assert!(said.contains("error    chunk_join") && said.contains("has no rtc_training_max_delay"), "{said}");
    let said = with("joint_states_topic:", "urdf: no/such.urdf\n    joint_states_topic:");
    assert!(said.contains("error    limits") && said.contains("cannot read the URDF no/such.urdf"), "{said}");
    let said = with("control_hz: 50.0", "control_hz: 1000.0");
    assert!(said.contains("error    control_hz"), "{said}");

    // Statistics of 8 dimensions, and 14 joints.
    let stats = checkpoint.join("assets/pi0_node/norm_stats.json");
    let list = |value: f64| format!("{:?}", [value; 8]);
    let feature = format!("{{\"mean\": {}, \"std\": {}}}", list(0.0), list(1.0));
    fs::write(&stats, format!("{{\"norm_stats\": {{\"state\": {feature}, \"actions\": {feature}}}}}"))
        .unwrap();
    let said = refused(Path::new(CONFIG), &checkpoint);
    assert!(said.contains("error    normalization") && said.contains("has 8 values; expected 14"), "{said}");
    // The same, padded to the model's dimensions: the node would start.
    let padded =
        |value: f64| format!("{:?}", (0..32).map(|i| if i < 8 { value } else { 0.0 }).collect::<Vec<_>>());
    let feature = format!("{{\"mean\": {}, \"std\": {}}}", padded(0.5), padded(1.0));
    fs::write(&stats, format!("{{\"norm_stats\": {{\"state\": {feature}, \"actions\": {feature}}}}}"))
        .unwrap();
    let said = succeeds(&["check", "--config", CONFIG, "--checkpoint", checkpoint.to_str().unwrap()]);
    assert!(
        said.contains("warning  normalization") && said.contains("of 8 dimensions that move, but 14"),
        "{said}"
    );

    // Another robot's, with more joints, and a mean that is none.
    let feature = |mean: f64| {
        let deviations: Vec<f64> = (0..32).map(|dimension| 1.0 + f64::from(dimension)).collect();
        format!("{{\"mean\": {:?}, \"std\": {deviations:?}}}", [mean; 32])
    };
    let both =
        format!("{{\"norm_stats\": {{\"state\": {}, \"actions\": {}}}}}", feature(0.0), feature(1e300));
    fs::write(&stats, both).unwrap();
    let said = succeeds(&["check", "--config", CONFIG, "--checkpoint", checkpoint.to_str().unwrap()]);
    assert!(said.contains("of 32 dimensions that move, but 14") && said.contains("by 1e300"), "{said}");

    fs::remove_dir_all(checkpoint.join("assets")).unwrap();
    let said = refused(Path::new(CONFIG), &checkpoint);
    assert!(said.contains("normalization: none"), "{said}");
    let said = refused(Path::new(CONFIG), Path::new("no/such/folder"));
    assert!(said.contains("error    checkpoint"), "{said}");
}

#[test]
fn what_cannot_be_printed_is_an_error_in_words() {
    for arguments in [&["check", "--config", CONFIG][..], &["plan"], &["audit", "--preset", "tiny"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let ran = Command::new(env!("CARGO_BIN_EXE_pi0_node")).args(arguments).stdout(full).output().unwrap();
        let said = text(&ran.stderr);
        assert_eq!(ran.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("error: failed printing to stdout") && !said.contains("panicked"), "{said}");
    }
}
