//! The ROS 2 definitions of the messages that this program writes, as MCAP's `ros2msg` schemas want them: each with all
//! it refers to, so that Foxglove and others can read a file by itself. Called by the writers.

use super::messages::{
    CompressedImage, Cycle, Flag, Float64MultiArray, Guide, Image, JointState, JointTrajectory, StreamTick,
    Text,
};
use super::parameters::ParameterEvent;

const HEADER: &str = "\
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
";

const TIME: &str = "\
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
";

const PARAMETER_EVENT: &str = "\
builtin_interfaces/Time stamp
string node
rcl_interfaces/Parameter[] new_parameters
rcl_interfaces/Parameter[] changed_parameters
rcl_interfaces/Parameter[] deleted_parameters
================================================================================
MSG: rcl_interfaces/Parameter
string name
rcl_interfaces/ParameterValue value
================================================================================
MSG: rcl_interfaces/ParameterValue
uint8 type
bool bool_value
int64 integer_value
float64 double_value
string string_value
byte[] byte_array_value
bool[] bool_array_value
int64[] integer_array_value
float64[] double_array_value
string[] string_array_value
";

const FLOAT64_MULTI_ARRAY: &str = "\
std_msgs/MultiArrayLayout layout
float64[] data
================================================================================
MSG: std_msgs/MultiArrayLayout
std_msgs/MultiArrayDimension[] dim
uint32 data_offset
================================================================================
MSG: std_msgs/MultiArrayDimension
string label
uint32 size
uint32 stride
";

/// The definition of a type of [`super::messages`]; empty for any other.
pub(super) fn of(type_name: &str) -> String {
    let (own, more) = match type_name {
        Image::TYPE => (
            "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\nuint8[] data\n",
            "",
        ),
        CompressedImage::TYPE => ("std_msgs/Header header\nstring format\nuint8[] data\n", ""),
        JointState::TYPE => (
            "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort\n",
            "",
        ),
        Text::TYPE => return "string data\n".to_owned(),
        Float64MultiArray::TYPE => return FLOAT64_MULTI_ARRAY.to_owned(),
        StreamTick::TYPE => ("std_msgs/Header header\nuint64 sequence\nstring state\n", ""),
        Flag::TYPE => return "bool data\n".to_owned(),
        ParameterEvent::TYPE => return [PARAMETER_EVENT, TIME].concat(),
        JointTrajectory::TYPE => (
            "std_msgs/Header header\nstring[] joint_names\ntrajectory_msgs/JointTrajectoryPoint[] points\n",
            "\
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
",
        ),
        Cycle::TYPE => (
            "\
std_msgs/Header header
uint64 sequence
builtin_interfaces/Time looked
builtin_interfaces/Time acted
builtin_interfaces/Time left
builtin_interfaces/Time[] image_stamps
builtin_interfaces/Time[] image_received
builtin_interfaces/Time joint_stamp
builtin_interfaces/Time joint_received
float64[] joint_positions
uint32 prompt
uint32 parameters
uint32 denoising_steps
bool sent
string hold
string refused
string[] stages
float64[] latencies_ms
",
            "",
        ),
        Guide::TYPE => (
            "\
std_msgs/Header header
uint64 sequence
uint32 delay
uint32 until
string schedule
float64[] positions
",
            "",
        ),
        _ => return String::new(),
    };
    [own, HEADER, TIME, more].concat()
}
