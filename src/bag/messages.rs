//! The message types that bags are read and written with: fields as in the ROS 2 interface definitions, in order.

use serde::{Deserialize, Serialize};

use crate::observe::messages as observe;
use crate::observe::messages::Stamp;

/// `builtin_interfaces/Time`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    pub sec: i32,
    pub nanosec: u32,
}

impl From<Time> for Stamp {
    fn from(time: Time) -> Self {
        Stamp::from_parts(time.sec, time.nanosec)
    }
}

impl From<Stamp> for Time {
    fn from(stamp: Stamp) -> Self {
        let (sec, nanosec) = stamp.to_parts();
        Self { sec, nanosec }
    }
}

/// `std_msgs/Header`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub stamp: Time,
    pub frame_id: String,
}

/// `sensor_msgs/Image`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub header: Header,
    pub height: u32,
    pub width: u32,
    pub encoding: String,
    pub is_bigendian: u8,
    pub step: u32,
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
}

impl Image {
    pub const TYPE: &str = "sensor_msgs/msg/Image";

    pub fn view(&self) -> observe::Image<'_> {
        observe::Image {
            stamp: self.header.stamp.into(),
            height: self.height,
            width: self.width,
            encoding: &self.encoding,
            is_bigendian: self.is_bigendian != 0,
            step: self.step,
            data: &self.data,
        }
    }
}

/// `sensor_msgs/CompressedImage`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompressedImage {
    pub header: Header,
    pub format: String,
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
}

impl CompressedImage {
    pub const TYPE: &str = "sensor_msgs/msg/CompressedImage";

    pub fn view(&self) -> observe::CompressedImage<'_> {
        observe::CompressedImage { stamp: self.header.stamp.into(), format: &self.format, data: &self.data }
    }
}

/// `sensor_msgs/JointState`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JointState {
    pub header: Header,
    pub name: Vec<String>,
    pub position: Vec<f64>,
    pub velocity: Vec<f64>,
    pub effort: Vec<f64>,
}

impl JointState {
    pub const TYPE: &str = "sensor_msgs/msg/JointState";

    pub fn view(&self) -> observe::JointState<'_> {
        observe::JointState { stamp: self.header.stamp.into(), names: &self.name, positions: &self.position }
    }
}

/// `builtin_interfaces/Duration`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duration {
    pub sec: i32,
    pub nanosec: u32,
}

/// `trajectory_msgs/JointTrajectoryPoint`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JointTrajectoryPoint {
    pub positions: Vec<f64>,
    pub velocities: Vec<f64>,
    pub accelerations: Vec<f64>,
    pub effort: Vec<f64>,
    pub time_from_start: Duration,
}

/// `trajectory_msgs/JointTrajectory`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JointTrajectory {
    pub header: Header,
    pub joint_names: Vec<String>,
    pub points: Vec<JointTrajectoryPoint>,
}

impl JointTrajectory {
    pub const TYPE: &str = "trajectory_msgs/msg/JointTrajectory";

    /// A trajectory of points, each with the number that says its time: point i is at `stamp` + i / `rate_hz`.
    pub fn new<'a>(
        stamp: Stamp,
        joint_names: &[String],
        points: impl IntoIterator<Item = (usize, &'a [f64])>,
        rate_hz: f64,
    ) -> Self {
        let points = points.into_iter().map(|(index, positions)| {
            let (sec, nanosec) = Stamp((index as f64 / rate_hz * 1e9).round() as i64).to_parts();
            JointTrajectoryPoint {
                positions: positions.to_vec(),
                time_from_start: Duration { sec, nanosec },
                ..Default::default()
            }
        });
        Self {
            header: Header { stamp: stamp.into(), frame_id: String::new() },
            joint_names: joint_names.to_vec(),
            points: points.collect(),
        }
    }
}

/// `std_msgs/MultiArrayDimension`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MultiArrayDimension {
    pub label: String,
    pub size: u32,
    pub stride: u32,
}

/// `std_msgs/MultiArrayLayout`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MultiArrayLayout {
    pub dim: Vec<MultiArrayDimension>,
    pub data_offset: u32,
}

/// `std_msgs/Float64MultiArray`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Float64MultiArray {
    pub layout: MultiArrayLayout,
    pub data: Vec<f64>,
}

impl Float64MultiArray {
    pub const TYPE: &str = "std_msgs/msg/Float64MultiArray";
}

/// A tick of the streams: our own type, written by `record` and followed by `replay`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamTick {
    /// Its stamp is the moment that the positions are for.
    pub header: Header,
    /// The chunk that was followed.
    pub sequence: u64,
    /// first, following, holding or stalled.
    pub state: String,
}

impl StreamTick {
    pub const TYPE: &str = "pi0_node/msg/StreamTick";
}

/// `std_msgs/String`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    pub data: String,
}

impl Text {
    pub const TYPE: &str = "std_msgs/msg/String";
}

/// `std_msgs/Bool`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flag {
    pub data: bool,
}

impl Flag {
    pub const TYPE: &str = "std_msgs/msg/Bool";
}

/// What one cycle of the control loop used and did: our own type, written by `record` and followed by `replay`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cycle {
    /// Its stamp is the observation: the chunk's points count from here.
    pub header: Header,
    /// Counts chunks from 0; a gap is a chunk that nobody was told of.
    pub sequence: u64,
    /// When the cameras were looked at, when the joint state was taken, and when the chunk was to leave.
    pub looked: Time,
    pub acted: Time,
    pub left: Time,
    /// By camera with a topic: stamp and reception of the image used, both zero where the camera was missing.
    pub image_stamps: Vec<Time>,
    pub image_received: Vec<Time>,
    pub joint_stamp: Time,
    pub joint_received: Time,
    /// Radians or metres, in the order of the parameter `joints`.
    pub joint_positions: Vec<f64>,
    /// 1 is the parameter's prompt; every accepted one adds 1.
    pub prompt: u32,
    /// The parameters by which the chunk left: 0 are those of the start; every change of some of them adds 1.
    pub parameters: u32,
    pub denoising_steps: u32,
    /// Whether a message was sent.
    pub sent: bool,
    /// Why the cycle told the robot to hold instead of making a chunk; empty if it made one.
    pub hold: String,
    /// Why the chunk was not sent as it was; empty if it was.
    pub refused: String,
    /// Names of the stages, and how long each took.
    pub stages: Vec<String>,
    pub latencies_ms: Vec<f64>,
}

/// What led the chunk of a cycle, where something did: our own type, before the cycle's own message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guide {
    /// Its stamp is the observation, as the cycle's.
    pub header: Header,
    /// The cycle's.
    pub sequence: u64,
    /// Points that the robot was to have come to when the chunk left, and points that count.
    pub delay: u32,
    pub until: u32,
    /// How the points count between the two, as the parameter `rtc_schedule` has it.
    pub schedule: String,
    /// `[until, joints]`: where the joints were to be by what was sent, at the times of the chunk's points.
    pub positions: Vec<f64>,
}

impl Guide {
    pub const TYPE: &str = "pi0_node/msg/Guide";
}

impl Cycle {
    pub const TYPE: &str = "pi0_node/msg/Cycle";
}
