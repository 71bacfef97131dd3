//! `cargo xtask`: set-up, demo and test of this repository, each one command.

fn main() {}
