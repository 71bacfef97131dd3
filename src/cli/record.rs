//! `pi0_node record`: the live node, and all that it sees and does in a bag.

use std::path::PathBuf;

use anyhow::bail;

use super::run;

/// Run the ROS 2 node as `run` does, and record what it sees and does.
///
/// The folder becomes a rosbag2 bag (MCAP, compressed): the images that were decoded, the joint states, the prompts,
/// changes of parameters and calls of ~/enable, the chunks that were sent, and on /pi0_node/cycle, cycle by cycle, which
/// of them were used, when, and the latency of each stage. parameters.yaml has the node's parameters. `pi0_node replay DIR`
/// makes the same chunks of it, bit for bit.
/// Recording never holds the node up: what the disk cannot take is dropped and counted.
#[derive(clap::Args)]
// Its name would be the same as that of the options of `run` within it.
#[group(skip)]
pub struct Options {
    /// Folder to make; must not be there yet. A node that is configured again goes on in DIR_2, DIR_3 and so on.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    run: run::Options,
}

pub fn run(options: Options) -> anyhow::Result<()> {
    if options.output.exists() {
        bail!("{} is there already; name a new folder", options.output.display());
    }
    run::run_node(options.run, Some(options.output))
}
