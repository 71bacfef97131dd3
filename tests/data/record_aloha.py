#!/usr/bin/env python3
"""Records the bags of the tests and the demo: the bimanual ALOHA transfer-cube scene in simulation, with a scripted
motion (both arms reach for the cube, close their grippers and come back).

    pip install mujoco gym-aloha rosbags==0.11.9 numpy pillow      (Debian: apt install libosmesa6)
    MUJOCO_GL=osmesa python tests/data/record_aloha.py

Writes, beside itself:
    aloha_transfer_cube/   4 s: three cameras at 10 Hz (top raw, wrists as JPEG), 14 joints at 50 Hz; MCAP with zstd
    bags/{plain,zstd,sqlite3}/   the first half second with tiny images, the same messages in three storages

The cameras of one set are exposed 2 ms after each other, and every message is logged a little later than its stamp.
"""
import io
import pathlib
import shutil

import gym_aloha  # noqa: F401  registers the scene
import gymnasium
import numpy as np
from PIL import Image
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

HERE = pathlib.Path(__file__).parent
STORE = get_typestore(Stores.ROS2_JAZZY)
TYPES = STORE.types
START_NS = 1_700_000_000_000_000_000
SECONDS = 4.0
STEPS_PER_FRAME = 5
ARM = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"]
JOINTS = [f"{side}_{joint}" for side in ("left", "right") for joint in ARM]
CAMERAS = {"top": 0, "left_wrist": 2_000_000, "right_wrist": 4_000_000}
TRANSPORT_NS, JOINT_TRANSPORT_NS = 6_000_000, 500_000

# Joint targets of both arms (the gripper from 0, closed, to 1) at times in seconds.
HOME = [0.0, -0.96, 1.16, 0.0, -0.3, 0.0, 0.1]
WAYPOINTS = [
    (0.0, HOME, HOME),
    (1.2, [0.1, -0.35, 0.75, 0.0, 0.35, 0.0, 1.0], [-0.1, -0.25, 0.6, 0.0, 0.5, 0.0, 1.0]),
    (2.0, [0.1, -0.2, 0.7, 0.0, 0.4, 0.3, 1.0], [-0.1, -0.05, 0.5, 0.0, 0.6, 0.0, 1.0]),
    (2.6, [0.1, -0.2, 0.7, 0.0, 0.4, 0.3, 0.2], [-0.1, -0.05, 0.5, 0.0, 0.6, 0.0, 0.0]),
    (4.0, [0.3, -0.7, 1.0, 0.2, 0.0, 0.0, 0.4], [-0.3, -0.6, 0.9, -0.2, 0.1, 0.0, 0.0]),
]


def target(seconds):
    """Both arms' joints at a time: from waypoint to waypoint, starting and stopping softly."""
    for (begin, *before), (end, *after) in zip(WAYPOINTS, WAYPOINTS[1:]):
        if seconds <= end:
            x = (seconds - begin) / (end - begin)
            weight = x * x * (3 - 2 * x)
            return np.concatenate([(1 - weight) * np.array(a) + weight * np.array(b) for a, b in zip(before, after)])
    return np.concatenate([np.array(arm) for arm in WAYPOINTS[-1][1:]])


def header(stamp_ns, frame_id):
    time = TYPES["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return TYPES["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)


def raw_image(stamp_ns, camera, pixels):
    height, width, _ = pixels.shape
    return TYPES["sensor_msgs/msg/Image"](
        header=header(stamp_ns, camera), height=height, width=width, encoding="rgb8", is_bigendian=0,
        step=3 * width, data=pixels.reshape(-1))


def jpeg_image(stamp_ns, camera, pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg", quality=85)
    data = np.frombuffer(buffer.getvalue(), dtype=np.uint8)
    return TYPES["sensor_msgs/msg/CompressedImage"](header=header(stamp_ns, camera), format="jpeg", data=data)


def joint_state(stamp_ns, positions):
    empty = np.array([], dtype=np.float64)
    return TYPES["sensor_msgs/msg/JointState"](
        header=header(stamp_ns, ""), name=JOINTS, position=np.asarray(positions, dtype=np.float64), velocity=empty,
        effort=empty)


def simulate(width, height):
    """Messages in order of log time: (log time, topic, message)."""
    env = gymnasium.make("gym_aloha/AlohaTransferCube-v0", obs_type="pixels_agent_pos")
    observation, _ = env.reset(seed=3)
    physics = env.unwrapped._env.physics
    messages = []
    for step in range(round(SECONDS * 50)):
        stamp = START_NS + step * 20_000_000
        joints = joint_state(stamp, observation["agent_pos"])
        messages.append((stamp + JOINT_TRANSPORT_NS, "/joint_states", joints))
        if step % STEPS_PER_FRAME == 0:
            for camera, delay in CAMERAS.items():
                pixels = physics.render(height, width, camera_id=camera)
                exposed = stamp + delay
                if camera == "top":
                    image, topic = raw_image(exposed, camera, pixels), "/top/image_raw"
                else:
                    image, topic = jpeg_image(exposed, camera, pixels), f"/{camera}/image_raw/compressed"
                messages.append((exposed + TRANSPORT_NS, topic, image))
        observation, *_ = env.step(target((step + 1) / 50))
    return sorted(messages, key=lambda message: message[0])


def write(path, messages, storage, compressed):
    shutil.rmtree(path, ignore_errors=True)
    writer = Writer(path, version=9, storage_plugin=storage)
    if compressed:
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for log_time, topic, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=STORE)
            data = STORE.serialize_cdr(message, message.__msgtype__)
            writer.write(connections[topic], log_time, data)


def main():
    write(HERE / "aloha_transfer_cube", simulate(320, 240), StoragePlugin.MCAP, True)
    half = [message for message in simulate(32, 24) if message[0] < START_NS + 500_000_000]
    write(HERE / "bags/plain", half, StoragePlugin.MCAP, False)
    write(HERE / "bags/zstd", half, StoragePlugin.MCAP, True)
    write(HERE / "bags/sqlite3", half, StoragePlugin.SQLITE3, False)


if __name__ == "__main__":
    main()
