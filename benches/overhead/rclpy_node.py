#!/usr/bin/env python3
"""The node's work as one would write it with rclpy, for comparison: images to [3, 224, 224] in [-1, 1] with
resize-with-pad, frame sets by stamp, joints in the model's order and normalised, a JointTrajectory out. In place of the
model it sleeps as long as it is told. Started by run.py.

Decoding is done in the callbacks, the policy has a thread of its own. It keeps the same times under the same names as
pi0_node and writes them on SIGINT.
"""
import argparse
import json
import pathlib
import signal
import threading
import time

import numpy as np
import rclpy
from builtin_interfaces.msg import Duration, Time
from processes import CONTROL_HZ, JOINT_TOPIC, JOINTS, PEER_CHUNKS, TOPICS, summary
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

try:
    import cv2
except ImportError:
    cv2 = None

SIDE = 224
HORIZON, DIM = 50, 32
TOLERANCE_NS = 20_000_000
SENSOR_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
BLACK = -1.0


def nanoseconds(stamp):
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def fit(width, height):
    """Size of the picture within the square, and its place."""
    ratio = max(width, height) / SIDE
    new_width, new_height = int(width / ratio), int(height / ratio)
    return new_width, new_height, (SIDE - new_width) // 2, (SIDE - new_height) // 2


class NumpyResize:
    """Bilinear, corners not aligned, no smoothing: rows first, then columns, as pi0_node has it."""

    def __init__(self, width, height):
        self.size = width, height
        self.fit = fit(width, height)
        self.columns = self.taps(width, self.fit[0])
        self.rows = self.taps(height, self.fit[1])

    @staticmethod
    def taps(length, resized):
        scale = np.float32(length / resized)
        position = np.maximum(scale * (np.arange(resized, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
        low = np.minimum(position.astype(np.int64), length - 1)
        return low, np.minimum(low + 1, length - 1), np.minimum(position - low, 1).astype(np.float32)

    def __call__(self, pixels, out):
        low, high, weight = self.rows
        below = pixels[low].astype(np.float32)
        mixed = below + weight[:, None, None] * (pixels[high].astype(np.float32) - below)
        low, high, weight = self.columns
        left = mixed[:, low]
        level = left + weight[None, :, None] * (mixed[:, high] - left)
        place(level, self.fit, out)


class OpencvResize:
    """The same by OpenCV, rounded to whole levels: the faster way that most would take."""

    def __init__(self, width, height):
        self.size = width, height
        self.fit = fit(width, height)

    def __call__(self, pixels, out):
        level = cv2.resize(pixels, self.fit[:2], interpolation=cv2.INTER_LINEAR)
        place(level, self.fit, out)


def place(level, fitted, out):
    """Levels `[height, width, 3]` into the square `[3, SIDE, SIDE]`; what lies around stays black."""
    width, height, left, top = fitted
    inner = out[:, top:top + height, left:left + width]
    np.multiply(level.transpose(2, 0, 1), np.float32(2 / 255), out=inner)
    inner -= np.float32(1)


RESIZES = {"numpy": NumpyResize} | ({"opencv": OpencvResize} if cv2 else {})


class Frame:
    """A decoded image."""

    def __init__(self, stamp, arrived, start, end, pixels):
        self.stamp, self.arrived, self.start, self.end, self.pixels = stamp, arrived, start, end, pixels


class Node:
    def __init__(self, options):
        self.device_s = options.device_ms / 1e3
        self.resize_type = RESIZES[options.resize]
        self.node = rclpy.create_node("rclpy_node")
        self.changed = threading.Condition()
        self.frames = [None] * options.cameras
        self.resizes = [None] * options.cameras
        self.used = [0] * options.cameras
        self.joints = None
        self.stopping = False
        self.order, self.order_names = None, None
        self.mean, self.std = np.zeros(len(JOINTS)), np.ones(len(JOINTS))
        self.device_images = np.empty((options.cameras, 3, SIDE, SIDE), np.float32)
        self.state = np.zeros(DIM, np.float32)
        self.device_actions = np.random.default_rng(1).normal(0, 0.1, (HORIZON, DIM)).astype(np.float32)
        self.times = {name: [] for name in (
            "transport", "decode", "sync_wait", "write", "device", "readback", "decode_actions", "publish",
            "before_device", "after_device", "overhead", "observation_to_chunk")}
        for camera, topic in enumerate(TOPICS[:options.cameras]):
            self.node.create_subscription(
                Image, topic, lambda message, camera=camera: self.on_image(camera, message), SENSOR_QOS)
        self.node.create_subscription(JointState, JOINT_TOPIC, self.on_joints, SENSOR_QOS)
        self.publisher = self.node.create_publisher(JointTrajectory, PEER_CHUNKS, 10)

    def on_image(self, camera, message):
        arrived, start = time.time_ns(), time.perf_counter()
        if message.encoding != "rgb8":
            raise ValueError(f"encoding {message.encoding}")
        size = message.width, message.height
        resize = self.resizes[camera]
        if resize is None or resize.size != size:
            resize = self.resizes[camera] = self.resize_type(*size)
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        pixels = rows[:, :3 * message.width].reshape(message.height, message.width, 3)
        out = np.full((3, SIDE, SIDE), BLACK, np.float32)
        resize(pixels, out)
        frame = Frame(nanoseconds(message.header.stamp), arrived, start, time.perf_counter(), out)
        with self.changed:
            self.frames[camera] = frame
            self.changed.notify()

    def on_joints(self, message):
        if message.name != self.order_names:
            self.order_names = list(message.name)
            self.order = [self.order_names.index(name) for name in JOINTS]
        positions = np.asarray(message.position)[self.order]
        with self.changed:
            self.joints = positions

    def frame_set(self):
        """Waits for a frame of each camera, newer than those before and close to each other; none at the end."""
        with self.changed:
            while not self.stopping:
                frames = self.frames
                new = all(frame and frame.stamp > used for frame, used in zip(frames, self.used))
                if new and self.joints is not None:
                    stamps = [frame.stamp for frame in frames]
                    if max(stamps) - min(stamps) <= TOLERANCE_NS:
                        self.used = stamps
                        return list(frames)
                self.changed.wait()
        return None

    def run(self):
        """The policy's thread."""
        while (frames := self.frame_set()) is not None:
            self.cycle(frames)

    def cycle(self, frames):
        began_ns, began = time.time_ns(), time.perf_counter()
        arrived = max(frame.arrived for frame in frames)
        waited = (began_ns - arrived) / 1e9
        observation = max(frame.stamp for frame in frames)
        for camera, frame in enumerate(frames):
            self.device_images[camera] = frame.pixels
        written = time.perf_counter()
        with self.changed:
            joints = self.joints
        self.state[:len(JOINTS)] = (joints - self.mean) / (self.std + 1e-6)
        noise = np.random.default_rng(observation).standard_normal((HORIZON, DIM), np.float32)
        device_start = time.perf_counter()
        time.sleep(self.device_s)
        device_end = time.perf_counter()
        actions = self.device_actions.copy()
        read = time.perf_counter()
        if not np.isfinite(actions).all() or noise.shape != actions.shape:
            return
        positions = actions[:, :len(JOINTS)].astype(np.float64) * (self.std + 1e-6) + self.mean
        decoded = time.perf_counter()
        self.publish(observation, positions)
        end = time.perf_counter()

        device = device_end - device_start
        for name, seconds in (
                ("transport", max((frame.arrived - frame.stamp) / 1e9 for frame in frames)),
                ("decode", max(frame.end - frame.start for frame in frames)),
                ("sync_wait", max(began - frame.end for frame in frames)),
                ("write", written - began), ("device", device), ("readback", read - device_end),
                ("decode_actions", decoded - read), ("publish", end - decoded),
                ("before_device", waited + device_start - began), ("after_device", end - device_end),
                ("overhead", waited + end - began - device),
                ("observation_to_chunk", (began_ns - observation) / 1e9 + end - began)):
            self.times[name].append(seconds * 1e3)

    def publish(self, observation, positions):
        past = int(np.ceil(max(0.0, (time.time_ns() - observation) / 1e9 * CONTROL_HZ)))
        message = JointTrajectory(joint_names=JOINTS)
        message.header.stamp = Time(sec=observation // 1_000_000_000, nanosec=observation % 1_000_000_000)
        for index in range(past, HORIZON):
            after = round(index / CONTROL_HZ * 1e9)
            message.points.append(JointTrajectoryPoint(
                positions=positions[index].tolist(),
                time_from_start=Duration(sec=after // 1_000_000_000, nanosec=after % 1_000_000_000)))
        self.publisher.publish(message)

    def stop(self):
        with self.changed:
            self.stopping = True
            self.changed.notify()


def check_resizes():
    """Both ways give the same picture, but for rounding to whole levels."""
    pixels = np.random.default_rng(2).integers(0, 256, (480, 640, 3), np.uint8)
    found = []
    for resize in RESIZES.values():
        found.append(np.full((3, SIDE, SIDE), BLACK, np.float32))
        resize(640, 480)(pixels, found[-1])
    apart = max(float(np.abs(other - found[0]).max()) for other in found)
    assert apart <= 2 * 2 / 255, f"the resizes are {apart} apart"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cameras", type=int, required=True)
    parser.add_argument("--device-ms", type=float, required=True, help="how long the dummy device takes")
    parser.add_argument("--resize", choices=RESIZES, required=True)
    parser.add_argument("--json", type=pathlib.Path, required=True, help="where to write the latencies")
    options = parser.parse_args()
    check_resizes()

    rclpy.init(signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
    node = Node(options)

    # A handler runs in the middle of anything, so it takes no lock.
    signals = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(number))
    policy = threading.Thread(target=node.run, name="policy")
    policy.start()
    executor = SingleThreadedExecutor()
    executor.add_node(node.node)
    print("rclpy_node is running", flush=True)
    while not signals:
        executor.spin_once(timeout_sec=0.1)
    node.stop()
    policy.join()
    report = {"chunks": len(node.times["device"]),
              "latencies": {name: summary(samples) for name, samples in node.times.items()}}
    options.json.write_text(json.dumps(report))


if __name__ == "__main__":
    main()
