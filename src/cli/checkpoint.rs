//! `pi0_node checkpoint`: look into a checkpoint, or make a random one.

/// Look into a checkpoint, or make a random one.
#[derive(clap::Subcommand)]
pub enum Command {}

pub fn run(command: Command) -> anyhow::Result<()> {
    match command {}
}
