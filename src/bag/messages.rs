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
    /// The definition with all it refers to, as MCAP's `ros2msg` schemas want it.
    pub(super) const DEFINITION: &str = "\
std_msgs/Header header
string[] joint_names
trajectory_msgs/JointTrajectoryPoint[] points
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
================================================================================
MSG: trajectory_msgs/JointTrajectoryPoint
float64[] positions
float64[] velocities
float64[] accelerations
float64[] effort
builtin_interfaces/Duration time_from_start
================================================================================
MSG: builtin_interfaces/Duration
int32 sec
uint32 nanosec
";

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

/// `std_msgs/String`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    pub data: String,
}

impl Text {
    pub const TYPE: &str = "std_msgs/msg/String";
}
