//! `pi0_node play`: a bag's topics over ROS 2, in place of a robot.

use std::path::PathBuf;
use std::time::Duration;

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
    /// How fast: 2.0 is twice as fast as recorded.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = positive)]
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
    /// Wait until N of the bag's topics have a subscriber.
    #[arg(long, value_name = "N", default_value_t = 0)]
    wait_for_subscribers: usize,
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, |number| number > 0.0).ok_or_else(|| "must be a number above 0".into())
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, |number| (0.0..1e9).contains(&number))
        .ok_or_else(|| "must be a number of seconds, 0 or more".into())
}

fn number(text: &str, valid: impl Fn(f64) -> bool) -> Option<f64> {
    text.parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && valid(*number))
}

pub fn run(options: Options) -> anyhow::Result<()> {
    node::play(&PlayOptions {
        bag: options.bag,
        rate: options.rate,
        looped: options.looped,
        delay: Duration::from_secs_f64(options.delay),
        stamp: options.stamp,
        wait_for_subscribers: options.wait_for_subscribers,
    })
}
