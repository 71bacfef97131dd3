"""The simulated robot's ROS 2 side: what its drivers publish, and its controllers' subscriptions. Used by the simulator."""

import io
import math

from builtin_interfaces.msg import Time
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import SetBool
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


def nanoseconds(time):
    """Of a stamp or a duration."""
    return time.sec * 10**9 + time.nanosec


class Edge:
    """Publishes under the names of config/aloha.yaml and hands commands to the controllers."""

    def __init__(self, node, controllers, now_ns, options):
        self.node = node
        self.now_ns = now_ns
        self.newest_chunk_ns = 0
        """Stamp of the newest chunk that came, accepted or not."""
        self.trajectories = {}
        """How many messages came for each controller of trajectories, accepted or not."""
        self.streams = {}
        """The same for each controller of streams."""
        self.joint_states = node.create_publisher(JointState, "/joint_states", QOS)
        self.outcomes = node.create_publisher(String, "/pi0_node/task_outcome", QOS)
        self.enabling = node.create_client(SetBool, "/pi0_node/enable")
        self.clock = node.create_publisher(Clock, "/clock", QOS) if options.sim_time else None
        self.cameras = {camera: CameraTopics(node, camera) for camera in CAMERAS}
        self.chunk_topic = options.chunk_topic
        self.subscriptions = [node.create_subscription(JointTrajectory, options.chunk_topic, self._note, QOS)]
        for topic, kind, controller in controllers.all:
            self._listen(topic, kind, controller)
        if Picture is None:
            node.get_logger().warning("Pillow is not installed: there are no compressed images")

    def publish_clock(self, time_ns):
        self.clock.publish(Clock(clock=stamp(time_ns)))

    def publish_joints(self, time_ns, positions, velocities):
        message = JointState(name=JOINTS, position=positions, velocity=velocities)
        message.header.stamp = stamp(time_ns)
        self.joint_states.publish(message)

    def is_watched(self, camera):
        """Whether anybody wants its images: drawing for nobody would cost as much as drawing for somebody."""
        return self.cameras[camera].is_watched()

    def publish_image(self, camera, time_ns, pixels, fovy_degrees):
        self.cameras[camera].publish(time_ns, pixels, fovy_degrees)

    def publish_outcome(self, outcome):
        """How the task goes, in words."""
        self.outcomes.publish(String(data=outcome))

    def enable(self, on):
        """Has the node send chunks, or not; without waiting, and for nothing where there is no node."""
        if self.enabling.service_is_ready():
            self.enabling.call_async(SetBool.Request(data=on))

    def node_is_there(self):
        """Whether somebody sends trajectories and looks at a camera."""
        return self.node.count_publishers(self.chunk_topic) > 0 and any(
            topics.is_watched() for topics in self.cameras.values()
        )

    def _note(self, message):
        """A chunk: in lockstep, time may go on."""
        self.newest_chunk_ns = max(self.newest_chunk_ns, nanoseconds(message.header.stamp))

    def _listen(self, topic, kind, controller):
        takes = {
            "trajectory": (JointTrajectory, self.trajectories, self._take_trajectory),
            "positions": (Float64MultiArray, self.streams, lambda taker, message: taker.put(list(message.data))),
            "joint_state": (
                JointState,
                self.streams,
                lambda taker, message: taker.put(list(message.name), list(message.position)),
            ),
        }
        message_type, counts, take = takes[kind]
        counts[topic] = 0

        def on_message(message):
            try:
                take(controller, message)
            except Rejected as reason:
                self.node.get_logger().warning(f"rejected a message on {topic}: {reason}", throttle_duration_sec=2.0)
            counts[topic] += 1

        self.subscriptions.append(self.node.create_subscription(message_type, topic, on_message, QOS))

    def _take_trajectory(self, controller, message):
        points = [
            (nanoseconds(point.time_from_start), list(point.positions), list(point.velocities))
            for point in message.points
        ]
        controller.put(list(message.joint_names), nanoseconds(message.header.stamp), points, self.now_ns())


class CameraTopics:
    """One camera's image, raw and compressed, and its calibration."""

    def __init__(self, node, camera):
        self.frame = f"{camera}_optical"
        self.raw = node.create_publisher(Image, f"/{camera}/image_raw", QOS)
        self.compressed = node.create_publisher(CompressedImage, f"/{camera}/image_raw/compressed", QOS)
        self.info = node.create_publisher(CameraInfo, f"/{camera}/camera_info", QOS)

    def is_watched(self):
        return any(topic.get_subscription_count() for topic in (self.raw, self.compressed, self.info))

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
