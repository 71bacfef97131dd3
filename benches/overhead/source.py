#!/usr/bin/env python3
"""A robot's drivers for benchmarks: cameras of 640x480 rgb8 and joint states at 100 Hz, over DDS. It also notes when
the chunks come back, so that every node is measured by the same watch. Started by run.py and ../sustained.py.

Messages are serialised once; later only their stamps change, so that the source takes little of the machine.
"""
import argparse
import json
import math
import pathlib
import signal
import struct
import time

import rclpy
from processes import JOINT_TOPIC, JOINTS, TOPICS, summary
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

WIDTH, HEIGHT = 640, 480
JOINT_HZ = 100.0
# In a serialised message with a header: seconds and nanoseconds, after four bytes that say how it is encoded.
STAMP = struct.Struct("<iI")
STAMP_AT = 4


class Stamped:
    """A message that is sent again and again with another stamp."""

    def __init__(self, node, topic, message):
        self.publisher = node.create_publisher(type(message), topic, qos_profile_sensor_data)
        self.data = bytearray(serialize_message(message))

    def publish(self, stamp_ns):
        STAMP.pack_into(self.data, STAMP_AT, *divmod(stamp_ns, 1_000_000_000))
        self.publisher.publish(bytes(self.data))


def image(camera):
    """A picture with some structure; its content matters to nobody."""
    message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
    row = bytes((camera * 80 + x // 3) % 256 for x in range(3 * WIDTH))
    message.data = b"".join(row[3 * y % len(row):] + row[:3 * y % len(row)] for y in range(HEIGHT))
    return message


def joint_state():
    # As drivers do it, in an order that is not the model's.
    names = sorted(JOINTS)
    return JointState(name=names, position=[0.1 * math.sin(index) for index in range(len(names))])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="images a second from each camera")
    parser.add_argument("--chunks", required=True, help="topic on which chunks come back")
    parser.add_argument("--json", type=pathlib.Path, required=True, help="where to write what was measured")
    options = parser.parse_args()

    rclpy.init(signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    node = rclpy.create_node("source")
    cameras = [Stamped(node, topic, image(camera)) for camera, topic in enumerate(TOPICS[:options.cameras])]
    joints = Stamped(node, JOINT_TOPIC, joint_state())
    chunk_ms, publish_ms = [], []

    def chunk(data, info):
        seconds, nanoseconds = STAMP.unpack_from(data, STAMP_AT)
        stamp_ns = seconds * 1_000_000_000 + nanoseconds
        chunk_ms.append((info["received_timestamp"] - stamp_ns) / 1e6)
    node.create_subscription(JointTrajectory, options.chunks, chunk, 10, raw=True)

    stopped = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.append(True))
    next_image = next_joints = time.monotonic()
    sets = 0
    while not stopped:
        now = time.monotonic()
        if now >= next_joints:
            joints.publish(time.time_ns())
            next_joints += 1 / JOINT_HZ
        if now >= next_image:
            # Cameras that are triggered together have one stamp.
            stamp_ns = time.time_ns()
            for camera in cameras:
                camera.publish(stamp_ns)
            publish_ms.append((time.time_ns() - stamp_ns) / 1e6)
            next_image += 1 / options.rate
            sets += 1
        wait = min(next_image, next_joints) - time.monotonic()
        if wait > 0:
            rclpy.spin_once(node, timeout_sec=wait)
    report = {"sets": sets, "chunks": len(chunk_ms), "sending_a_set": summary(publish_ms),
              "stamp_to_chunk": summary(chunk_ms)}
    options.json.write_text(json.dumps(report))


if __name__ == "__main__":
    main()
