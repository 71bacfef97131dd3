//! The shipped policy does its task: the node's own loop in lockstep with the simulated ALOHA, a few cubes that it never saw. Needs
//! what `cargo xtask simulator` installs and a way to draw without a screen; says so where they are missing.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const SIMULATOR: &str = "launch/sim/attempts.py";
/// Of these, at least so many of a hundred must succeed: far below what docs/policy.md measured on fifty, so that it fails when
/// something is broken and not by chance.
const ATTEMPTS: &str = "6";
const AT_LEAST: &str = "50";

fn evaluate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pi0_node"));
    command.current_dir(ROOT).arg("evaluate").args(arguments);
    command
}

fn error_of(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A Python with the simulator's packages that can draw a picture, or why there is none.
fn python() -> Result<(PathBuf, PathBuf), String> {
    let packages = Path::new(ROOT).join(".sim/lib");
    let packages = std::fs::read_dir(&packages).map_err(|error| format!("no .sim: {error}"))?;
    let packages = packages.flatten().map(|version| version.path().join("site-packages")).next();
    let packages = packages.ok_or(".sim is empty")?;
    let mut reasons = String::new();
    for python in [Path::new(ROOT).join(".ros/bin/python"), "python3".into()] {
        let started = Command::new(&python)
            .arg(SIMULATOR)
            .current_dir(ROOT)
            .env("PYTHONPATH", &packages)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = started else { continue };
        let _ = child.stdin.take().unwrap().write_all(b"{\"draw\": [\"top\"]}\n");
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            return Ok((python, packages));
        }
        reasons += &String::from_utf8_lossy(&output.stderr);
    }
    Err(reasons)
}

#[test]
fn the_shipped_policy_hands_the_cube_over() {
    let (python, packages) = match python() {
        Ok(found) => found,
        Err(reason) => return eprintln!("skipped: the simulator cannot draw here: {reason}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let (report, python) = (report.to_str().unwrap(), python.to_str().unwrap().to_owned());
    let arguments =
        ["--attempts", ATTEMPTS, "--at-least", AT_LEAST, "--json", report, "--", &python, SIMULATOR];
    let output = evaluate(&arguments).env("PYTHONPATH", packages).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let attempts = told["variants"][0]["attempts"].as_array().unwrap();
    assert_eq!(attempts.len().to_string(), ATTEMPTS);
    for attempt in attempts {
        // It looks ten times a second.
        assert!(attempt["chunks"].as_u64().unwrap() > 20, "{attempt}");
        assert_eq!(attempt["stage"] == 4, attempt["done_s"].is_number(), "{attempt}");
    }
}

#[test]
fn a_simulator_that_is_none_is_said() {
    let error = error_of(&evaluate(&["--", "no-such-simulator"]).output().unwrap());
    assert!(error.contains("cannot start the simulator `no-such-simulator`"), "{error}");
    let error = error_of(&evaluate(&["--", "true"]).output().unwrap());
    assert!(error.contains("the simulator has ended (exit status: 0); what it said stands above"), "{error}");
    // It neither answers nor heeds the end of its input.
    let error = error_of(&evaluate(&["--", "yes"]).output().unwrap());
    assert!(error.contains("the simulator answered y"), "{error}");
    let error = error_of(&evaluate(&["--", "sh", "-c", "exec >&-; exec sleep 600"]).output().unwrap());
    assert!(error.contains("the simulator has closed its output, and goes on"), "{error}");
    // It answers with the question.
    let error = error_of(&evaluate(&["--attempts", "1", "--", "cat"]).output().unwrap());
    assert!(error.contains("the simulator answered {\"begin\":1000000}"), "{error}");
}

#[test]
fn settings_that_do_not_fit_are_refused_before_anything_starts() {
    let error = error_of(&evaluate(&["--join", "welded", "--", "no-such-simulator"]).output().unwrap());
    assert!(error.contains("chunk_join"), "{error}");
    let error = error_of(&evaluate(&["--checkpoint", "no/such/folder", "--", "cat"]).output().unwrap());
    assert!(error.contains("no/such/folder"), "{error}");
    // Images of the parameter file are half a second old at most.
    let error = error_of(&evaluate(&["--latency-ms", "50,500", "--", "no-such-simulator"]).output().unwrap());
    assert!(error.contains("500 ms: no chunk would leave") && error.contains("max_image_age_ms"), "{error}");
    let error = error_of(&evaluate(&["--json", "no/such/folder/rates.json", "--", "cat"]).output().unwrap());
    assert!(error.contains("cannot write no/such/folder/rates.json"), "{error}");
}
