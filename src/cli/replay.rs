//! `pi0_node replay`: a rosbag through the same control loop as the live node.

/// Feed a rosbag through the control loop and write the action chunks.
#[derive(clap::Args)]
pub struct Options {}

pub fn run(_: Options) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
