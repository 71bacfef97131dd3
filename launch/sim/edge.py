"""The simulated robot's ROS 2 side: what its drivers publish, and its controller's subscription. Used by the simulator."""

import io
import math

from builtin_interfaces.msg import Time
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory

from robots import CAMERAS, JOINTS
from trajectory import Rejected

try:
    from PIL import Image as Picture
except ImportError:
    Picture = None

# As drivers offer them: whoever asks for best effort gets it too.
QOS = QoSProfile(depth=5)


def stamp(time_ns):
    return Time(sec=time_ns // 10**9, nanosec=time_ns % 10**9)


class Edge:
    """Publishes under the names of config/aloha.yaml and hands trajectories to the controller."""

    def __init__(self, node, follower, now_ns, options):
        self.node = node
        self.follower = follower
        self.now_ns = now_ns
        self.newest_chunk_ns = 0
        """Stamp of the newest trajectory that came, accepted or not."""
        self.joint_states = node.create_publisher(JointState, "/joint_states", QOS)
        self.clock = node.create_publisher(Clock, "/clock", QOS) if options.sim_time else None
        self.cameras = {camera: CameraTopics(node, camera) for camera in CAMERAS}
        self.chunk_topic = options.chunk_topic
        self.subscription = node.create_subscription(JointTrajectory, options.chunk_topic, self._take, QOS)
        if Picture is None:
            node.get_logger().warning("Pillow is not installed: there are no compressed images")

    def publish_clock(self, time_ns):
        self.clock.publish(Clock(clock=stamp(time_ns)))

    def publish_joints(self, time_ns, positions, velocities):
        message = JointState(name=JOINTS, position=positions, velocity=velocities)
        message.header.stamp = stamp(time_ns)
        self.joint_states.publish(message)

    def publish_image(self, camera, time_ns, pixels, fovy_degrees):
        self.cameras[camera].publish(time_ns, pixels, fovy_degrees)

    def node_is_there(self):
        """Whether somebody sends trajectories and looks at a camera."""
        return self.node.count_publishers(self.chunk_topic) > 0 and any(
            topics.is_watched() for topics in self.cameras.values()
        )

    def _take(self, message):
        header, now_ns = message.header.stamp, self.now_ns()
        stamp_ns = header.sec * 10**9 + header.nanosec
        points = [
            (point.time_from_start.sec * 10**9 + point.time_from_start.nanosec, list(point.positions))
            for point in message.points
        ]
        try:
            self.follower.put(list(message.joint_names), stamp_ns, points, now_ns)
        except Rejected as reason:
            self.node.get_logger().error(f"rejected a trajectory: {reason}", throttle_duration_sec=1.0)
        self.newest_chunk_ns = max(self.newest_chunk_ns, stamp_ns)


class CameraTopics:
    """One camera's image, raw and compressed, and its calibration."""

    def __init__(self, node, camera):
        self.frame = f"{camera}_optical"
        self.raw = node.create_publisher(Image, f"/{camera}/image_raw", QOS)
        self.compressed = node.create_publisher(CompressedImage, f"/{camera}/image_raw/compressed", QOS)
        self.info = node.create_publisher(CameraInfo, f"/{camera}/camera_info", QOS)

    def is_watched(self):
        return self.raw.get_subscription_count() + self.compressed.get_subscription_count() > 0

    def publish(self, time_ns, pixels, fovy_degrees):
        height, width, _ = pixels.shape
        self.info.publish(self._with_header(calibration(width, height, fovy_degrees), time_ns))
        # Encoding for nobody would cost as much as encoding for somebody.
        if Picture and self.compressed.get_subscription_count() > 0:
            file = io.BytesIO()
            Picture.fromarray(pixels).save(file, "jpeg", quality=85)
            message = CompressedImage(format="jpeg")
            message.data.frombytes(file.getvalue())
            self.compressed.publish(self._with_header(message, time_ns))
        if self.raw.get_subscription_count() > 0:
            message = Image(height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width)
            message.data.frombytes(pixels.tobytes())
            self.raw.publish(self._with_header(message, time_ns))

    def _with_header(self, message, time_ns):
        message.header.stamp = stamp(time_ns)
        message.header.frame_id = self.frame
        return message


def calibration(width, height, fovy_degrees):
    """A pinhole without distortion that sees `fovy_degrees` from top to bottom."""
    focal = height / 2 / math.tan(math.radians(fovy_degrees) / 2)
    x, y = (width - 1) / 2, (height - 1) / 2
    message = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
    message.k = [focal, 0.0, x, 0.0, focal, y, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [focal, 0.0, x, 0.0, 0.0, focal, y, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message
