//! The `pi0_node` binary: everything is in the library, so that tests and benches see it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::SUCCESS
}
