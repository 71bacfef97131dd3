//! `pi0_node bench` through the program: every stage is there, in the table and in the JSON that the peers' script reads.

#[path = "support/program.rs"]
mod program;

use std::process::Command;

use pi0_node::device::cpu::Isa;
use serde_json::Value;

#[test]
fn a_bench_reports_every_stage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.json");
    for dtype in ["f32", "bf16"] {
        let file = path.to_str().unwrap();
        let arguments = ["bench", "--preset", "tiny", "--cameras", "2", "--runs", "2", "--dtype", dtype];
        let text = program::succeeds(&[&arguments[..], &["--json", file, "--nodes", "3"]].concat());
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(report["dtype"], dtype);
        let stages = report["stages"].as_array().unwrap();
        let names: Vec<&str> = stages.iter().map(|stage| stage["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["siglip", "prefix", "step", "act", "total", "cycle"]);
        for stage in stages {
            assert!(text.contains(stage["name"].as_str().unwrap()), "{text}");
            let (best, median) = (stage["best_ms"].as_f64().unwrap(), stage["median_ms"].as_f64().unwrap());
            let p99 = stage["p99_ms"].as_f64().unwrap();
            assert!(0.0 < best && best <= median && median <= p99, "{stage}");
            assert!(stage["gflop"].as_f64().unwrap() > 0.0, "{stage}");
        }
        assert!(text.contains("Attend"), "the operations that took longest: {text}");
    }
}

#[test]
fn options_out_of_range_say_what_is_allowed() {
    for (arguments, said) in [
        (&["--preset", "tiny", "--cameras", "0"][..], "1..=8"),
        (&["--preset", "tiny", "--prompt-tokens", "49"], "takes 1 to 48"),
        (&["--preset", "tiny", "--dtype", "int8"], "auto, bf16 or f32"),
        (&["--preset", "tiny", "--checkpoint", "here"], "cannot be used with"),
    ] {
        let output = program::pi0_node(&[&["bench"][..], arguments].concat());
        let error = program::text(&output.stderr);
        assert!(!output.status.success() && error.contains(said), "{arguments:?}: {error}");
    }
}

#[test]
fn a_report_that_cannot_be_written_is_refused_before_anything_is_measured() {
    for command in ["bench", "verify", "audit"] {
        let output =
            program::pi0_node(&[command, "--preset", "tiny", "--json", "no/such/folder/report.json"]);
        let error = program::text(&output.stderr);
        let said = "error: cannot write no/such/folder/report.json: ";
        assert!(!output.status.success() && error.starts_with(said), "{command}: {error}");
        assert!(output.stdout.is_empty(), "{command}: {}", program::text(&output.stdout));
    }
    let lowered = ["audit", "--preset", "tiny", "--device", "tenstorrent", "--without-card"];
    for option in ["--markdown", "--programs"] {
        let error = program::fails(&[&lowered[..], &[option, "Cargo.toml/below"]].concat());
        assert!(error.contains("Cargo.toml/below") && error.contains("written to"), "{option}: {error}");
    }
}

#[test]
fn kernels_are_those_that_the_environment_asks_for() {
    let bench = |kernels: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pi0_node"));
        command.args(["bench", "--preset", "tiny", "--runs", "1"]).env("PI0_CPU_KERNELS", kernels);
        command.output().unwrap()
    };
    for isa in Isa::available() {
        let text = program::text(&bench(&isa.to_string()).stdout);
        assert!(text.contains(&format!("{isa} kernels")), "{text}");
    }
    // Empty, as a script unsets it, it asks for nothing.
    let text = program::text(&bench("").stdout);
    assert!(Isa::available().iter().any(|isa| text.contains(&format!("{isa} kernels"))), "{text}");
    let refused = bench("abacus");
    let error = program::text(&refused.stderr);
    assert!(!refused.status.success() && error.contains("'abacus'") && error.contains("portable"), "{error}");
}
