"""Writes the small bags of tests/data/bags again as rosbag2 compresses them, by file and by message, in both storages.

Needs rosbags 0.11:

    python compress_bags.py
"""

import shutil
from pathlib import Path

from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

BAGS = Path(__file__).resolve().parent / "bags"
TYPES = get_typestore(Stores.ROS2_JAZZY)


def write(name: str, storage: StoragePlugin, mode: CompressionMode) -> None:
    folder = BAGS / name
    shutil.rmtree(folder, ignore_errors=True)
    writer = Writer(folder, version=9, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with Reader(BAGS / "plain") as reader, writer:
        connections = {}
        for connection, time, data in reader.messages():
            if connection.topic not in connections:
                connections[connection.topic] = writer.add_connection(connection.topic, connection.msgtype, typestore=TYPES)
            writer.write(connections[connection.topic], time, data)


write("sqlite3_by_file", StoragePlugin.SQLITE3, CompressionMode.FILE)
write("sqlite3_by_message", StoragePlugin.SQLITE3, CompressionMode.MESSAGE)
write("mcap_by_file", StoragePlugin.MCAP, CompressionMode.FILE)
write("mcap_by_message", StoragePlugin.MCAP, CompressionMode.MESSAGE)
