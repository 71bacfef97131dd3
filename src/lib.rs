//! pi0_node: camera frames, joint states and a prompt come in over ROS 2 or from a rosbag; two programs,
//! compiled once and replayed for ever on a device, turn them into action chunks.
//!
//! The rooms, from the edges down. Arrows of knowledge point down only; `docs/architecture.md` is the map.

pub mod bag;
pub mod check;
pub mod cli;
pub mod control;
pub mod dashboard;
pub mod device;
pub mod graph;
#[cfg(feature = "ros")]
pub mod node;
pub mod files;
pub mod observe;
pub mod json;
pub mod policy;
pub mod settings;
pub mod telemetry;
pub mod verify;
pub mod wording;
