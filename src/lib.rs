//! pi0_node: camera frames, joint states and a prompt come in over ROS 2 or from a rosbag; two programs,
//! compiled once and replayed for ever on a device, turn them into action chunks.
//!
//! The rooms, from the edges down. Arrows of knowledge point down only; `docs/architecture.md` is the map.

// What comes from outside makes an error, and what cannot be otherwise says why.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod bag;
pub mod check;
pub mod cli;
pub mod control;
pub mod dashboard;
pub mod device;
pub mod files;
pub mod graph;
pub mod json;
#[cfg(feature = "ros")]
pub mod node;
pub mod observe;
pub mod policy;
pub mod settings;
pub mod telemetry;
pub mod verify;
pub mod wording;
