//! What the sensor messages carry, borrowed from whichever edge received them (ROS 2 or a rosbag), so that
//! both edges share everything behind this point.

use std::fmt;

/// A time in nanoseconds since the epoch of the clock that made it (the robot's, or simulation time).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub i64);

impl Stamp {
    /// From the two fields of `builtin_interfaces/Time`.
    pub fn from_parts(sec: i32, nanosec: u32) -> Self {
        Self(i64::from(sec) * 1_000_000_000 + i64::from(nanosec))
    }

    /// The two fields of `builtin_interfaces/Time`. Seconds saturate at the ends of `i32`.
    pub fn to_parts(self) -> (i32, u32) {
        let sec = self.0.div_euclid(1_000_000_000).clamp(i64::from(i32::MIN), i64::from(i32::MAX));
        (sec as i32, self.0.rem_euclid(1_000_000_000) as u32)
    }

    /// Milliseconds from `earlier` to `self`; negative when `earlier` is later. Stamps come from outside: those that are
    /// further apart than 292 years count as that far apart.
    pub fn ms_since(self, earlier: Stamp) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1e6
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sec, nanosec) = self.to_parts();
        write!(f, "{sec}.{nanosec:09}")
    }
}

/// `sensor_msgs/Image`: rows of `step` bytes, top to bottom.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    pub stamp: Stamp,
    pub height: u32,
    pub width: u32,
    pub encoding: &'a str,
    /// Of the two bytes of a channel of 16 bits, whether the upper one comes first.
    pub is_bigendian: bool,
    pub step: u32,
    pub data: &'a [u8],
}

impl<'a> Image<'a> {
    /// Pixels of three bytes, rows without padding.
    pub fn rgb8(stamp: Stamp, (height, width): (u32, u32), data: &'a [u8]) -> Self {
        Self { stamp, height, width, encoding: "rgb8", is_bigendian: false, step: 3 * width, data }
    }
}

/// `sensor_msgs/CompressedImage`: a whole JPEG or PNG file.
#[derive(Clone, Copy, Debug)]
pub struct CompressedImage<'a> {
    pub stamp: Stamp,
    pub format: &'a str,
    pub data: &'a [u8],
}

/// `sensor_msgs/JointState`, positions only: radians for revolute joints, metres for prismatic ones.
#[derive(Clone, Copy, Debug)]
pub struct JointState<'a> {
    pub stamp: Stamp,
    pub names: &'a [String],
    pub positions: &'a [f64],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_survive_the_round_trip_through_ros_time() {
        for stamp in [Stamp(0), Stamp(1_700_000_000_123_456_789), Stamp(-1)] {
            let (sec, nanosec) = stamp.to_parts();
            assert_eq!(Stamp::from_parts(sec, nanosec), stamp);
        }
    }

    #[test]
    fn the_most_distant_stamps_can_be_compared() {
        assert_eq!(Stamp(i64::MAX).ms_since(Stamp(i64::MIN)), i64::MAX as f64 / 1e6);
        assert_eq!(Stamp(i64::MIN).ms_since(Stamp(1)), i64::MIN as f64 / 1e6);
    }
}
