//! `cargo xtask test`: everything a change must pass, cheap things first, stopping at the first failure.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::command::{command, describe, run as run_command};

pub fn run() -> anyhow::Result<()> {
    let mut times = Vec::new();
    for mut step in steps() {
        let name = describe(&step);
        eprintln!("\n== {name}");
        let start = Instant::now();
        run_command(&mut step)?;
        times.push((name, start.elapsed()));
    }
    eprintln!("\nall green:");
    for (name, time) in &times {
        eprintln!("{:>5} s  {name}", time.as_secs());
    }
    let total: Duration = times.iter().map(|(_, time)| *time).sum();
    eprintln!("{:>5} s  in all", total.as_secs());
    Ok(())
}

/// Tests run without ROS first, because they need no bindings; with it, everything runs, live tests included.
fn steps() -> Vec<Command> {
    let mut documentation = command("cargo", &["doc", "--workspace", "--no-deps"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    vec![
        command("cargo", &["fmt", "--all", "--check"]),
        clippy(&["--no-default-features"]),
        command(
            "cargo",
            &["test", "--package", "pi0_node", "--no-default-features"],
        ),
        clippy(&[]),
        command("cargo", &["test", "--workspace"]),
        documentation,
    ]
}

fn clippy(features: &[&str]) -> Command {
    let mut clippy = command("cargo", &["clippy", "--workspace", "--all-targets"]);
    clippy.args(features).args(["--", "-D", "warnings"]);
    clippy
}
