//! Runs the `pi0_node` binary as a user would. Used by the tests of its commands.

#![allow(dead_code, reason = "every test file uses a part of this")]

use std::process::{Command, Output};

/// The node's program, in the emulator that tests for another machine run in.
fn program() -> Command {
    let node = env!("CARGO_BIN_EXE_pi0_node");
    let runner = std::env::var("PI0_TEST_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(emulator) = words.next() else { return Command::new(node) };
    let mut command = Command::new(emulator);
    command.args(words).arg(node);
    command
}

/// Runs a command line to its end.
pub fn pi0_node<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Output {
    program()
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the binary was built for this test")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command printed; it must succeed.
pub fn succeeds<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> String {
    let output = pi0_node(arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The error message of a command, which must fail in an orderly way: an exit code of its own, no panic.
pub fn fails<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> String {
    let output = pi0_node(arguments);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("error: ") && !message.contains("panicked"), "{message}");
    message
}
