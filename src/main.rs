//! The `pi0_node` binary: everything is in the library, so that tests and benches see it too.

fn main() -> std::process::ExitCode {
    pi0_node::cli::main()
}
