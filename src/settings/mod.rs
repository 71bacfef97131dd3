//! Everything a user can set, as one value: read from ROS parameters by `node`, from the same YAML file by `replay`.
//! `control` is assembled from it.
//!
//! `parameters` is the one table of names, types, defaults, units and ranges; `value` checks raw
//! values by it, `read` makes [`Settings`] of them, `yaml` gets raw values from a parameter file.

mod parameters;
mod read;
mod value;
mod yaml;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::device::cpu::Precision;

pub use parameters::{Allowed, DefaultValue, PARAMETERS, Parameter, reference};
pub use read::SettingsError;
pub use value::{Problem, Value, complete};
pub use yaml::{NODE_NAME, ParameterFileError, read_parameters};

/// The settings of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Checkpoint folder.
    pub checkpoint: PathBuf,
    /// Device name, as [`crate::device::open`] takes it.
    pub device: String,
    /// How the CPU device stores the factors of its products.
    pub precision: Precision,
    /// Threads of the CPU device; 0 means one per core.
    pub threads: usize,
    /// Seed of the noise that each chunk starts from.
    pub seed: u64,
    /// Cameras in the model's order. One without a topic is absent: the model is told so.
    pub cameras: Vec<Camera>,
    pub joint_states_topic: String,
    /// Joint names in the model's order.
    pub joints: Vec<String>,
    /// The task until a prompt arrives on `~/prompt`.
    pub prompt: String,
    /// Tokenizer file; without one, the checkpoint's folder is searched.
    pub tokenizer: Option<PathBuf>,
    /// Where normalisation statistics come from.
    pub normalization: Normalization,
    /// openpi's delta mask, such as `[6, -1, 6, -1]`: 6 joints as deltas, 1 absolute, and again. Empty: none.
    pub delta_actions: Vec<i64>,
    /// Rate at which a chunk's points follow each other.
    pub control_hz: f64,
    /// Largest difference between the stamps of one frame set.
    pub sync_tolerance_ms: f64,
    /// Denoising steps; without it, the checkpoint's.
    pub num_inference_steps: Option<usize>,
    /// A camera or joint topic silent for longer is reported as stale, and no chunk is made from stale joints.
    pub sensor_timeout_ms: f64,
    /// Rate of `/diagnostics`.
    pub diagnostics_hz: f64,
    /// From the observation's stamp until its chunk is published.
    pub latency_budget_ms: f64,
    /// Where the dashboard answers; none where there is none.
    pub dashboard: Option<SocketAddr>,
    /// Where files with latencies are written when the node stops and on `~/dump_latency`; none where they are not.
    pub latency_folder: Option<PathBuf>,
}

/// One camera of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Camera {
    /// The model's name for it, such as `base_0_rgb`.
    pub name: String,
    /// Topic, or none where the robot has no such camera.
    pub topic: Option<String>,
    pub transport: Transport,
}

/// Message type of a camera topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `sensor_msgs/Image`
    Raw,
    /// `sensor_msgs/CompressedImage`
    Compressed,
}

/// Where normalisation statistics come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Normalization {
    /// The checkpoint's folder.
    Checkpoint,
    /// This file or folder.
    File(PathBuf),
    /// No normalisation, on the user's explicit word.
    None,
}
