//! `pi0_node play`: a bag's topics over ROS 2, in place of a robot.

use std::path::PathBuf;
use std::time::Duration;

use super::rate::rate;
use crate::node::{self, PlayOptions, StampFrom};

/// Publish a bag's topics over ROS 2 with its timing, in place of a robot's cameras and joints.
///
/// For camera images, FASTRTPS_DEFAULT_PROFILES_FILE must name config/fastdds_shared_memory.xml here and at the node.
/// ROS 2 arguments follow --ros-args; -r from:=to renames topics.
#[derive(clap::Args)]
pub struct Options {
    /// Folder with metadata.yaml, or a bare .mcap or .db3 file.
    #[arg(value_name = "BAG")]
    bag: PathBuf,
    /// How fast, from 0.001 to 1000: 2.0 is twice as fast as recorded.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = rate)]
    rate: f64,
    /// Start again at the end, until SIGINT (Ctrl-C) or SIGTERM.
    #[arg(long = "loop")]
    looped: bool,
    /// Seconds to wait before the first message.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = not_negative)]
    delay: f64,
    /// Stamp in the messages' headers.
    #[arg(long, value_enum, default_value = "now")]
    stamp: StampFrom,
    /// Publish the bag's time on /clock too, for nodes with use_sim_time; goes with --stamp bag.
    #[arg(long)]
    clock: bool,
    /// Wait until N of the bag's topics have a subscriber.
    #[arg(long, value_name = "N", default_value_t = 0)]
    wait_for_subscribers: usize,
}

fn not_negative(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..1e9).contains(number));
    number.ok_or_else(|| "must be a number of seconds, 0 or more".into())
}

pub fn run(options: Options) -> anyhow::Result<()> {
    node::play(&PlayOptions {
        bag: options.bag,
        rate: options.rate,
        looped: options.looped,
        delay: Duration::from_secs_f64(options.delay),
        stamp: options.stamp,
        clock: options.clock,
        wait_for_subscribers: options.wait_for_subscribers,
    })
}
