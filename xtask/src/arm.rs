//! Tests on 64-bit ARM without such a machine: cross-built without ROS, run under user-mode emulation. Called by `test`.
//!
//! Emulation shows that the kernels' ARM code is right, and nothing about how fast it is.

use std::process::Command;

use anyhow::{Context, ensure};

use crate::command::{command, output};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const COMPILER: &str = "aarch64-linux-gnu-gcc";
/// The emulator, and where Debian's cross compiler has ARM's libraries.
const RUNNER: &str = "qemu-aarch64 -L /usr/aarch64-linux-gnu";

/// What runs there: the CPU device's unit tests, kernels first of all; the model against golden data; and bags through the
/// node's program. Everything else is the same code on every machine, and waits for a clock that emulation is too slow for.
const UNIT_TESTS: [&str; 3] = ["--lib", "--", "device::cpu"];
const TESTS: [&str; 8] =
    ["--test", "golden", "--test", "golden_bf16", "--test", "passes", "--test", "replay"];

/// # Errors
/// Says what has to be installed.
pub fn tests() -> anyhow::Result<[Command; 2]> {
    for (program, package) in [(COMPILER, "gcc-aarch64-linux-gnu"), ("qemu-aarch64", "qemu-user")] {
        output(&mut command(program, &["--version"]))
            .with_context(|| format!("no {program}: on Debian and Ubuntu, apt install {package}"))?;
    }
    let targets = output(&mut command("rustup", &["target", "list", "--installed"]))?;
    ensure!(targets.lines().any(|line| line == TARGET), "no Rust for ARM: rustup target add {TARGET}");

    Ok([cargo_test(&UNIT_TESTS), cargo_test(&TESTS)])
}

fn cargo_test(tests: &[&str]) -> Command {
    let mut cargo =
        command("cargo", &["test", "--package", "pi0_node", "--no-default-features", "--target", TARGET]);
    cargo
        .args(tests)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", COMPILER)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", RUNNER)
        // For tests that start the node's program themselves.
        .env("PI0_TEST_RUNNER", RUNNER)
        // Those of this machine's compiler, which .cargo/config.toml names.
        .env("C_INCLUDE_PATH", "");
    cargo
}
