//! The names under which things are counted and timed: stages, and reasons why there is no chunk. Whoever shows them goes
//! through `ALL`, so that a new one shows everywhere by itself.

use std::fmt;

/// A part of a cycle that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From an image's stamp until the edge received it, by the node's clock.
    Transport,
    /// Images to the model's input, on the edge's thread: the slowest camera of a set.
    Decode,
    /// From the first decoded frame of a set until the cycle starts on it.
    SyncWait,
    /// Images to the device.
    Write,
    /// Images and prompt to the KV cache.
    Perceive,
    /// The part of it that looks at the images.
    Siglip,
    /// The rest of it: the language model's prefix.
    Prefix,
    /// State and noise to the device, and all denoising steps.
    Act,
    /// One denoising step.
    DenoiseStep,
    /// Actions back from the device.
    Readback,
    /// Normalised actions to joint positions.
    DecodeActions,
    /// From the images' way to the device to the chunk's way out.
    Cycle,
    /// From the arrival of a set's last image until the device starts on it, with the images written to it.
    BeforeDevice,
    /// From the device's last work on a chunk until the chunk is published.
    AfterDevice,
    /// From the arrival of a set's last image until its chunk is published, less the device's programs.
    Overhead,
    /// From the chunk's way out until it is published.
    Publish,
    /// From the observation's stamp until the chunk is published, by the clock that made the stamp.
    Age,
    /// How much longer or shorter it is from cycle to cycle than from observation to observation.
    Jitter,
    /// From the moment at which a stream's positions are due until they are sent.
    StreamLateness,
    /// How much longer or shorter it is from tick to tick of a stream than it should be.
    StreamJitter,
}

impl Stage {
    pub const ALL: [Stage; 20] = [
        Stage::Transport,
        Stage::Decode,
        Stage::SyncWait,
        Stage::Write,
        Stage::Perceive,
        Stage::Siglip,
        Stage::Prefix,
        Stage::Act,
        Stage::DenoiseStep,
        Stage::Readback,
        Stage::DecodeActions,
        Stage::Cycle,
        Stage::BeforeDevice,
        Stage::AfterDevice,
        Stage::Overhead,
        Stage::Publish,
        Stage::Age,
        Stage::Jitter,
        Stage::StreamLateness,
        Stage::StreamJitter,
    ];

    /// What the latency budget bounds.
    pub const END_TO_END: Stage = Stage::Age;

    /// The name in tables and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Transport => "transport",
            Stage::Decode => "decode",
            Stage::SyncWait => "sync_wait",
            Stage::Write => "write",
            Stage::Perceive => "perceive",
            Stage::Siglip => "siglip",
            Stage::Prefix => "prefix",
            Stage::Act => "act",
            Stage::DenoiseStep => "denoise_step",
            Stage::Readback => "readback",
            Stage::DecodeActions => "decode_actions",
            Stage::Cycle => "cycle",
            Stage::BeforeDevice => "before_device",
            Stage::AfterDevice => "after_device",
            Stage::Overhead => "overhead",
            Stage::Publish => "publish",
            Stage::Age => "observation_to_chunk",
            Stage::Jitter => "cycle_jitter",
            Stage::StreamLateness => "stream_lateness",
            Stage::StreamJitter => "stream_jitter",
        }
    }

    /// Whether it is one of those that follow each other from the observation to the chunk and so add up to its age, rather
    /// than a part of one or a sum of some.
    pub fn adds_up(self) -> bool {
        match self {
            Stage::Transport
            | Stage::Decode
            | Stage::SyncWait
            | Stage::Write
            | Stage::Perceive
            | Stage::Act
            | Stage::Readback
            | Stage::DecodeActions
            | Stage::Publish => true,
            Stage::Siglip
            | Stage::Prefix
            | Stage::DenoiseStep
            | Stage::Cycle
            | Stage::BeforeDevice
            | Stage::AfterDevice
            | Stage::Overhead
            | Stage::Age
            | Stage::Jitter
            | Stage::StreamLateness
            | Stage::StreamJitter => false,
        }
    }
}

/// Why a frame set led to no chunk, or a chunk was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// No joint state has arrived yet.
    JointsMissing,
    /// The newest joint state is older than `max_joint_age_ms`.
    JointsStale,
    /// A joint is somewhere else than it can have moved to: publishers disagree, and nobody knows where it is.
    JointsDisagree,
    /// The images are older than `max_image_age_ms`.
    ImagesStale,
    /// Images or joint state have stamps that the node's clock has not reached: clocks disagree, or one was set back.
    StampsAhead,
    /// The model's actions are not all finite numbers.
    NotFinite,
    /// The device refused; the snapshot's last error says why.
    Device,
    /// A newer chunk came before anybody took this one.
    Overwritten,
    /// The chunk came later than `latency_budget_ms`, and `on_deadline_miss` says not to send it.
    Late,
    /// The times of all its points were past.
    Past,
    /// A joint would leave its position limits.
    PositionLimit,
    /// A joint would move faster than it may.
    VelocityLimit,
    /// A joint would make a larger step than it may.
    StepLimit,
    /// Nobody has enabled the node.
    Disabled,
    /// The loop showed no sign of life for longer than `watchdog_ms`.
    Stalled,
    /// ROS 2 refused to send it.
    Unsent,
}

impl DropReason {
    pub const ALL: [DropReason; 16] = [
        DropReason::JointsMissing,
        DropReason::JointsStale,
        DropReason::JointsDisagree,
        DropReason::ImagesStale,
        DropReason::StampsAhead,
        DropReason::NotFinite,
        DropReason::Device,
        DropReason::Overwritten,
        DropReason::Late,
        DropReason::Past,
        DropReason::PositionLimit,
        DropReason::VelocityLimit,
        DropReason::StepLimit,
        DropReason::Disabled,
        DropReason::Stalled,
        DropReason::Unsent,
    ];

    /// The name in tables and metrics.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::JointsMissing => "joints_missing",
            DropReason::JointsStale => "joints_stale",
            DropReason::JointsDisagree => "joints_disagree",
            DropReason::ImagesStale => "images_stale",
            DropReason::StampsAhead => "stamps_ahead_of_clock",
            DropReason::NotFinite => "actions_not_finite",
            DropReason::Device => "device_error",
            DropReason::Overwritten => "not_taken_in_time",
            DropReason::Late => "deadline_missed",
            DropReason::Past => "all_points_past",
            DropReason::PositionLimit => "position_limit",
            DropReason::VelocityLimit => "velocity_limit",
            DropReason::StepLimit => "step_limit",
            DropReason::Disabled => "not_enabled",
            DropReason::Stalled => "loop_stalled",
            DropReason::Unsent => "not_sent",
        }
    }
}

/// What a latency is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LatencyName {
    Stage(Stage),
    /// From a sensor's message to the model's input.
    Decode(String),
}

/// As in the tables: `perceive`, `decode base_0_rgb`.
impl fmt::Display for LatencyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LatencyName::Stage(stage) => f.write_str(stage.name()),
            LatencyName::Decode(sensor) => write!(f, "decode {sensor}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_and_reasons_stand_where_their_number_says() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index);
        }
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
