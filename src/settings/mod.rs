//! Everything a user can set, as one value: read from ROS parameters by `node`, from the same YAML file by `replay`.
//! `control` is assembled from it.
//!
//! `table` is the one table of names, types, defaults, units and ranges, `parameter` what stands in it; `value` checks raw
//! values by it, `read`, `robot` and `outputs` make [`Settings`] of them, `yaml` gets raw values from a parameter file.

mod current;
mod outputs;
mod parameter;
mod read;
mod robot;
mod table;
mod value;
mod yaml;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::device::cpu::Precision;
use crate::device::tenstorrent::Tuning;
use crate::observe::JointConversion;
use crate::policy::Schedule;

pub use current::CurrentSettings;
pub use outputs::{Output, OutputKind, TrajectoryStamp};
pub use parameter::{Allowed, DefaultValue, Parameter, markdown_reference, reference};
pub use read::SettingsError;
pub use table::{CHANGEABLE, PARAMETERS};
pub use value::{Problem, Value, complete};
pub use yaml::{NODE_NAME, PARAMETERS_FILE, ParameterFileError, read_parameters, write_parameters};

/// The settings of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Checkpoint folder.
    pub checkpoint: PathBuf,
    /// Device name, as [`crate::device::open`] takes it.
    pub device: String,
    /// How the CPU or a GPU stores the factors of its products.
    pub precision: Precision,
    /// Threads of the CPU device; 0 means one per core.
    pub threads: usize,
    /// Folder with NVIDIA's libraries, for a GPU.
    pub cuda_libraries: Option<PathBuf>,
    /// How a Tenstorrent card is used.
    pub tenstorrent: Tuning,
    /// Seed of the noise that each chunk starts from.
    pub seed: u64,
    /// Cameras in the model's order. One without a topic is absent: the model is told so.
    pub cameras: Vec<Camera>,
    /// Topics of the joint states, which are joined by name.
    pub joint_states_topics: Vec<String>,
    pub joint_stamps: StampSource,
    /// Joint names in the model's order.
    pub joints: Vec<String>,
    /// The model's units of each joint are `conversion(scale * position + offset)`; empty lists: the robot's own.
    pub joint_scale: Vec<f64>,
    pub joint_offset: Vec<f64>,
    pub joint_conversion: Vec<JointConversion>,
    /// The task until a prompt arrives on `~/prompt`.
    pub prompt: String,
    /// Tokenizer file; without one, the checkpoint's folder is searched.
    pub tokenizer: Option<PathBuf>,
    /// Where normalisation statistics come from.
    pub normalization: Normalization,
    /// openpi's delta mask, such as `[6, -1, 6, -1]`: 6 joints as deltas, 1 absolute, and again. Empty: none.
    pub delta_actions: Vec<i64>,
    /// What an action of 1 moves each joint by between two points, in the model's units; 0: its actions are positions.
    pub velocity_step: Vec<f64>,
    /// Rate at which a chunk's points follow each other.
    pub control_hz: f64,
    /// Largest difference between the stamps of one frame set.
    pub sync_tolerance_ms: f64,
    /// Numbers of denoising steps to choose from, the largest first; empty: the checkpoint's.
    pub denoise_steps: Vec<usize>,
    /// A camera or joint topic silent for longer is reported.
    pub sensor_timeout_ms: f64,
    /// No chunk leaves that was made from older images.
    pub max_image_age_ms: f64,
    /// No chunk leaves that was made from an older joint state.
    pub max_joint_age_ms: f64,
    /// From the observation's stamp until its chunk is published.
    pub latency_budget_ms: f64,
    pub on_deadline_miss: OnDeadlineMiss,
    /// Rate of chunks from newer joint states between frame sets; 0: none.
    pub act_rate_hz: f64,
    pub chunk_join: ChunkJoin,
    /// How chunks are guided by the one before.
    pub rtc: Rtc,
    pub interpolation: Interpolation,
    /// Where chunks go, beside `~/action_chunk`.
    pub outputs: Vec<Output>,
    /// Rate of the outputs that are streams.
    pub stream_hz: f64,
    pub limits: LimitSettings,
    /// Nothing is sent until somebody enables it.
    pub require_enable: bool,
    /// A loop that shows no sign of life for longer has stalled.
    pub watchdog_ms: f64,
    pub real_time: RealTimeSettings,
    /// Rate of `/diagnostics`.
    pub diagnostics_hz: f64,
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
    pub missing: MissingCamera,
    pub stamps: StampSource,
}

/// By what a message counts as taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StampSource {
    /// The stamp in its header.
    #[default]
    Header,
    /// When it arrived: for drivers that leave the stamp out or have another clock.
    Arrival,
}

/// What happens while a camera gives no images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingCamera {
    /// There are no frame sets without it.
    #[default]
    Wait,
    /// Frame sets go without it: the model's image mask says so.
    Mask,
}

/// What happens to a chunk that is later than the budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDeadlineMiss {
    /// It is sent, without the points that are past.
    #[default]
    Publish,
    /// It is not sent; the one before goes on.
    Drop,
    /// The robot holds its position.
    Hold,
}

/// How a chunk follows the one before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ChunkJoin {
    /// As the checkpoint was trained: with given points if it was, else it is guided.
    Auto {
        blend_ms: f64,
    },
    Replace,
    /// Leads over to the new one along a cosine.
    Blend {
        blend_ms: f64,
    },
    /// It is drawn towards what was sent while it is made (real-time chunking); what is left between them is led over.
    Guided {
        blend_ms: f64,
    },
    /// Its first points are given: those that are sent already. For checkpoints that were trained for that. What is left between
    /// them is led over.
    Trained {
        blend_ms: f64,
    },
}

impl ChunkJoin {
    /// As the parameter `chunk_join` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto { .. } => "auto",
            Self::Replace => "replace",
            Self::Blend { .. } => "blend",
            Self::Guided { .. } => "guided",
            Self::Trained { .. } => "trained",
        }
    }
}

/// How chunks are led by what was sent (real-time chunking).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rtc {
    /// Points that count.
    pub horizon: usize,
    pub schedule: Schedule,
    /// The guidance is never stronger.
    pub most_guidance: f64,
    /// From observation to leaving; none: as measured.
    pub delay_ms: Option<f64>,
}

/// How joints move between the points of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interpolation {
    #[default]
    Linear,
    /// Along a cubic spline, which starts with the velocity that the joint has and ends at rest.
    Spline,
}

/// What a chunk must keep to. Lists have one number per joint, or are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LimitSettings {
    /// Position and velocity limits where the lists are empty.
    pub urdf: Option<PathBuf>,
    /// Radians or metres.
    pub position_min: Vec<f64>,
    pub position_max: Vec<f64>,
    /// Radians or metres per second.
    pub velocity_max: Vec<f64>,
    /// Radians or metres.
    pub step_max: Vec<f64>,
}

/// How the control thread runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RealTimeSettings {
    /// The core it stays on.
    pub core: Option<usize>,
    /// SCHED_FIFO priority, 1 to 99; none: ordinary scheduling.
    pub priority: Option<u8>,
}

/// Message type of a camera topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// The checkpoint's folder, which has those of several data sets: this one's.
    DataSet(String),
    /// This file or folder.
    File(PathBuf),
    /// No normalisation, on the user's explicit word.
    None,
}
