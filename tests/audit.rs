//! `pi0_node audit` as a user runs it, without a Tenstorrent card; with one, or a mock one, see tests/tenstorrent_mock.rs.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn audit(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pi0_node"));
    command.args(["audit", "--preset", "tiny"]).args(arguments).output().unwrap()
}

fn report(arguments: &[&str], folder: &Path) -> Value {
    let path = folder.join("audit.json");
    let output = audit(&[arguments, &["--json", path.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn every_component_is_accounted_for_on_every_device() {
    let folder = tempfile::tempdir().unwrap();
    let cpu = report(&["--device", "cpu", "--cameras", "2"], folder.path());
    let card = report(&["--device", "tenstorrent:n150", "--without-card", "--cameras", "2"], folder.path());
    let gpu = report(&["--device", "cuda", "--without-card", "--cameras", "2"], folder.path());
    for (device, report) in [("cpu", &cpu), ("card", &card), ("gpu", &gpu)] {
        let components = report["components"].as_array().unwrap();
        assert_eq!(components.len(), 11);
        for component in components {
            assert!(component["operations"].as_u64().unwrap() > 0, "{device}: {component}");
            assert_eq!(component["coverage_percent"], 100.0, "{device}: {component}");
        }
        assert_eq!(report["transfers_per_step"], Value::from(vec![0; 10]));
        let written: Vec<&str> = report["written_per_inference"]
            .as_array()
            .unwrap()
            .iter()
            .map(|input| input["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            written,
            ["image_0", "image_1", "image_masks", "tokens", "token_mask", "state", "noise"],
            "{device}"
        );
        assert_eq!(report["read_per_inference"][0]["name"], "actions");
    }
    // The same model: what differs is how often the state's row is computed.
    let flops = |report: &Value| report["total"]["flops"].as_f64().unwrap();
    assert!((flops(&cpu) / flops(&card) - 1.0).abs() < 0.05);
    assert_eq!(card["source"], "the lowered program");
    assert!(card["programs_per_step"][5].as_u64() < card["programs_per_step"][0].as_u64());
}

#[test]
fn the_calls_for_a_gpu_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let output =
        audit(&["--device", "cuda", "--without-card", "--programs", folder.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(folder.path().join("act.txt")).unwrap();
    for part in [
        "steps.0.expert.layers.0.attn.q+k+v: ",
        "attention_tensor_HEAD_DIM_16<<<",
        "attention_join",
        "euler_step",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn the_lowered_programs_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let (programs, markdown) = (folder.path().join("programs"), folder.path().join("audit.md"));
    let output = audit(&[
        "--device",
        "tenstorrent",
        "--without-card",
        "--programs",
        programs.to_str().unwrap(),
        "--markdown",
        markdown.to_str().unwrap(),
    ]);
    assert!(output.status.success());
    let text = std::fs::read_to_string(programs.join("act.txt")).unwrap();
    assert!(text.contains("ttnn.transformer.paged_scaled_dot_product_attention_decode("), "{text}");
    let json: Value =
        serde_json::from_str(&std::fs::read_to_string(programs.join("perceive.json")).unwrap()).unwrap();
    assert_eq!(json["calls"].as_array().unwrap().len(), text_calls(&programs.join("perceive.txt")));
    assert!(std::fs::read_to_string(markdown).unwrap().contains("| expert layers |"));
}

fn text_calls(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap().lines().count()
}

#[test]
fn options_of_another_device_and_unknown_cards_are_refused() {
    for (arguments, expected) in [
        (&["--mock"][..], "--mock is for --device tenstorrent"),
        (&["--device", "tenstorrent:p9000", "--without-card"], "there is no card 'p9000'"),
        (&["--device", "gpu"], "there is no device 'gpu'"),
        (&["--device", "cuda:h100"], "there is no GPU 'h100'"),
        (&["--device", "cuda", "--programs", "out"], "needs --without-card"),
    ] {
        let output = audit(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(expected), "{text}");
    }
}
